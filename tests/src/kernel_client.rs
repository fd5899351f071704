//! Clients of a [`KernelLab`]: scripts that a test talks with, and the one in C.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command};
use std::sync::Mutex;

use anyhow::{Context as _, Result, ensure};
use bailiff_kernel::Origin;
use bailiff_model::OriginalDst;

use crate::{KernelLab, check};

/// A client that a test speaks with line by line. Dropping it ends it.
#[derive(Debug)]
pub struct Talk {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Talk {
    /// With a client whose both ends are pipes.
    pub fn with(mut child: Child) -> Result<Self> {
        let out = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Self { child, out })
    }

    /// The next line that it prints.
    pub fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(
            self.out.read_line(&mut line)? > 0,
            "the client has ended: {:?}",
            self.child.wait()?
        );
        Ok(line.trim_end().to_owned())
    }

    /// Says a line to it.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("no input")?;
        Ok(writeln!(stdin, "{line}")?)
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl KernelLab {
    /// `dial WAY ADDRESS 5432` of `clients/dial.c` in a cgroup.
    pub fn dial(&self, cgroup: &str, way: &str, address: &str) -> Result<Child> {
        self.spawn(cgroup, Command::new(dial()?).args([way, address, "5432"]))
    }

    /// Python in the pod to talk with: `say` prints a line at once, `hear` waits for one. It ends by itself after a minute.
    pub fn talk(&self, cgroup: &str, script: &str) -> Result<Talk> {
        let prelude = "
import signal
signal.alarm(60)
def say(*words): print(*words, flush=True)
def hear(): return sys.stdin.readline().strip()
";
        Talk::with(self.python(cgroup, &format!("{prelude}\n{script}"))?)
    }

    /// Checks that an origin tells of a process in `pods/a/main` and of nobody else. `PID` in its name stands for its number.
    pub fn told(&self, origin: Option<Origin>, tgid: u32, comm: &str, destination: &str) -> Result<()> {
        self.told_in("a", origin, tgid, comm, destination)
    }

    /// The same of another pod, `pods/NAME/main`.
    pub fn told_in(
        &self,
        pod: &str,
        origin: Option<Origin>,
        tgid: u32,
        comm: &str,
        destination: &str,
    ) -> Result<()> {
        let origin = origin.context("no origin")?;
        ensure!(origin.process.tgid == tgid, "not process {tgid}: {origin:?}");
        ensure!(
            origin.process.start_ns > 0,
            "when it began isn't known: {origin:?}"
        );
        // A kernel's own thread that works for a process has that process's number in its name.
        let named = comm.replace("PID", &tgid.to_string());
        ensure!(origin.comm == named, "not {named}: {origin:?}");
        ensure!(
            origin.pod_cgroup == self.cgroup_id(&format!("pods/{pod}"))?
                && origin.cgroup == self.cgroup_id(&format!("pods/{pod}/main"))?,
            "{origin:?}"
        );
        ensure!(
            origin.original == OriginalDst::new(destination.parse()?),
            "{origin:?}"
        );
        ensure!(origin.netns == self.netns().cookie(), "{origin:?}");
        Ok(())
    }

    /// Writes a setting of the pod's namespace, such as `net/ipv4/tcp_fastopen`.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.netns()
            .run_in(|| std::fs::write(format!("/proc/sys/{name}"), value))?
            .with_context(|| format!("cannot set {name}"))
    }

    /// Runs `ip` in the pod's namespace, the arguments divided by spaces.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        self.netns()
            .run_in(|| check(Command::new("ip").args(arguments.split_whitespace())))??;
        Ok(())
    }
}

/// The client of `clients/dial.c`, compiled once a run.
fn dial() -> Result<PathBuf> {
    static MADE: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut made = MADE
        .lock()
        .map_err(|_| anyhow::anyhow!("compiling the client failed before"))?;
    if let Some(path) = made.as_ref() {
        return Ok(path.clone());
    }
    let mut folder = std::env::current_exe()?;
    folder.pop();
    let (fresh, path) = (
        folder.join(format!("test-dial-{}", std::process::id())),
        folder.join("test-dial"),
    );
    check(
        Command::new("cc")
            .args(["-O1", "-Wall", "-pthread", "-o"])
            .arg(&fresh)
            .arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("clients/dial.c")),
    )?;
    // In one step, since another program of tests may use it.
    std::fs::rename(&fresh, &path)?;
    *made = Some(path.clone());
    Ok(path)
}
