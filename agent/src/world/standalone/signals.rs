//! Signals for the command: each process between the user and the command passes on what was sent to it alone.

use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitCode, ExitStatus};

use anyhow::{Context as _, Result};
use bailiff_kernel::spawn;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};

const PASSED_ON: [Signal; 6] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// How often it is asked whether a signal is still to be held back, in milliseconds.
const HELD: u16 = 10;

/// The calling process's signals, to be passed on instead of ending it.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
    before: SigSet,
}

impl Signals {
    /// Takes them from the calling thread, and so from all threads that it starts from now on.
    pub fn take() -> Result<Self> {
        spawn::hear_of_children()?;
        let mut mask = SigSet::empty();
        mask.extend(PASSED_ON);
        mask.add(Signal::SIGCHLD);
        let before = SigSet::thread_get_mask()?;
        mask.thread_block()?;
        let fd = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context("cannot take signals")?;
        Ok(Self { fd, before })
    }

    /// Starts a command that gets signals as this process did before.
    pub fn spawn(&self, command: &mut Command) -> std::io::Result<Child> {
        spawn::with_signal_mask(command, self.before);
        command.spawn()
    }

    /// Waits for a child and passes signals on to it.
    pub fn wait(&self, child: &mut Child) -> Result<ExitStatus> {
        self.wait_holding(child, |_| false)
    }

    /// The same, but SIGTERM isn't passed on as long as `hold` says so: it is called with `true` at each SIGTERM, and with `false`
    /// every now and then while one is held back.
    pub fn wait_holding(&self, child: &mut Child, hold: impl FnMut(bool) -> bool) -> Result<ExitStatus> {
        self.wait_with(child, |child| Ok(child.try_wait()?), hold)
    }

    /// The same for the first process of a PID namespace, whose children are also the orphans there.
    pub(super) fn wait_as_init(&self, child: &mut Child) -> Result<ExitStatus> {
        self.wait_with(
            child,
            |child| {
                let ours = i32::try_from(child.id()).unwrap_or(0);
                loop {
                    // nix's has no place for real-time signals in its answer.
                    match wait(WaitOptions::NOHANG) {
                        Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == ours => {
                            return Ok(Some(ExitStatus::from_raw(status.as_raw())));
                        }
                        Ok(Some(_)) | Err(Errno::INTR) => {}
                        Ok(None) => return Ok(None),
                        Err(error) => return Err(error.into()),
                    }
                }
            },
            |_| false,
        )
    }

    fn wait_with(
        &self,
        child: &mut Child,
        mut ended: impl FnMut(&mut Child) -> Result<Option<ExitStatus>>,
        mut hold: impl FnMut(bool) -> bool,
    ) -> Result<ExitStatus> {
        let mut held = false;
        loop {
            if let Some(status) = ended(child)? {
                return Ok(status);
            }
            let pass_on = |child: &Child, signal| -> Result<()> {
                let _ = kill(Pid::from_raw(i32::try_from(child.id())?), signal);
                Ok(())
            };
            if held && !hold(false) {
                held = false;
                pass_on(child, Signal::SIGTERM)?;
            }
            let timeout = if held {
                PollTimeout::from(HELD)
            } else {
                PollTimeout::NONE
            };
            match poll(&mut [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            while let Some(about) = self.fd.read_signal()? {
                let signal = i32::try_from(about.ssi_signo)
                    .ok()
                    .and_then(|number| Signal::try_from(number).ok());
                // What the terminal sends (a positive code), the command has got by itself.
                if let (Some(signal), true) = (signal, about.ssi_code <= 0)
                    && PASSED_ON.contains(&signal)
                {
                    if signal == Signal::SIGTERM && hold(true) {
                        held = true;
                    } else {
                        pass_on(child, signal)?;
                    }
                }
            }
        }
    }
}

/// How a shell tells of an end: the status, or 128 and the signal.
#[must_use]
pub fn code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code).unwrap_or(255))
}
