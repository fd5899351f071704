//! What the demo and the bench put up for a while: servers, sandboxes, an address. Each goes with its guard, also after
//! Ctrl-C or a failure.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

pub(crate) mod network;
pub(crate) mod postgres;
pub(crate) mod session;

static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Turns Ctrl-C, SIGTERM and SIGHUP into an error at the next [`checkpoint`], so that guards run.
///
/// A handler that sets a flag, and no blocked signals: programs that are started would inherit those, and not hear when
/// they are asked to end.
///
/// # Errors
/// When a handler can't be installed.
pub(crate) fn catch_signals() -> Result<()> {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signal_hook::flag::register(signal as i32, Arc::clone(&INTERRUPTED))
            .with_context(|| format!("{signal} can't be handled"))?;
    }
    Ok(())
}

/// Fails once the user asked to stop.
///
/// # Errors
/// After SIGINT, SIGTERM or SIGHUP.
pub(crate) fn checkpoint() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted; everything that was started is ended");
    }
    Ok(())
}

/// Waits until `ready` says yes.
///
/// # Errors
/// When it doesn't within `limit`, the user interrupts, or `ready` fails.
pub(crate) fn wait_for(what: &str, limit: Duration, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !ready()? {
        checkpoint()?;
        if begun.elapsed() > limit {
            bail!("{what} did not happen within {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// A program that runs beside this one, in a process group of its own, so that Ctrl-C reaches it through its guard alone.
#[derive(Debug)]
pub(crate) struct Beside {
    child: Child,
    name: String,
    stop: Signal,
}

impl Beside {
    /// Starts it with its output in the file `log`; `stop` is the signal that asks it to end.
    ///
    /// # Errors
    /// When it or the log can't be started.
    pub(crate) fn start(name: &str, command: &mut Command, log: &Path, stop: Signal) -> Result<Self> {
        let file =
            std::fs::File::create(log).with_context(|| format!("{} can't be written", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0);
        let child = command
            .spawn()
            .with_context(|| format!("{name} can't be started"))?;
        Ok(Self {
            child,
            name: name.to_owned(),
            stop,
        })
    }

    /// The process's id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails if it has ended, with the end of its log.
    ///
    /// # Errors
    /// When it no longer runs.
    pub(crate) fn still_runs(&mut self, log: &Path) -> Result<()> {
        let Some(status) = self.child.try_wait()? else {
            return Ok(());
        };
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let tail: Vec<&str> = text.lines().rev().take(15).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        bail!("{} ended ({status}); it said:\n{}", self.name, tail.join("\n"))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        end(&mut self.child, self.stop);
    }
}

/// Asks a child's group to end, and makes it after ten seconds.
pub(crate) fn end(child: &mut Child, stop: Signal) {
    let Ok(id) = i32::try_from(child.id()) else { return };
    let pid = Pid::from_raw(id);
    // Only the program itself: it ends its own children in order. A program that is gone is as good.
    let _gone = kill(pid, stop);
    let begun = Instant::now();
    while child.try_wait().is_ok_and(|status| status.is_none()) && begun.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _gone = killpg(pid, Signal::SIGKILL);
    let _collected = child.wait();
}
