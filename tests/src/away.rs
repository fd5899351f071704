//! A real API server that is stopped, killed and started again.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Cluster;

/// The API server's process, of a cluster that is this test's alone.
#[derive(Debug)]
pub struct ApiServer {
    pid: i32,
    arguments: Vec<String>,
    cgroup: PathBuf,
    again: Option<Child>,
}

impl ApiServer {
    /// That of a cluster, by the address that no other one has.
    pub fn of(cluster: &Cluster) -> Result<Self> {
        let bound = format!("--bind-address={}", cluster.api_server()?.ip());
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let Ok(line) = std::fs::read_to_string(entry.path().join("cmdline")) else {
                continue;
            };
            let arguments: Vec<String> = line.split_terminator('\0').map(str::to_owned).collect();
            let is_one = arguments
                .first()
                .is_some_and(|program| program.ends_with("/kube-apiserver"));
            if is_one && arguments.contains(&bound) {
                let text = std::fs::read_to_string(entry.path().join("cgroup"))?;
                let below = text
                    .lines()
                    .find_map(|line| line.strip_prefix("0::/"))
                    .context("it is in no cgroup")?;
                return Ok(Self {
                    pid,
                    arguments,
                    cgroup: bailiff_kernel::cgroup::mount()?.join(below),
                    again: None,
                });
            }
        }
        anyhow::bail!("no API server listens on {bound}")
    }

    /// Has it stand still: it takes connections and requests, and answers none.
    pub fn pause(&self) -> Result<()> {
        Ok(kill(Pid::from_raw(self.pid), Signal::SIGSTOP)?)
    }

    /// Kills it.
    pub fn kill(&self) -> Result<()> {
        kill(Pid::from_raw(self.pid), Signal::SIGKILL)?;
        let gone = || {
            let stat = std::fs::read_to_string(Path::new("/proc").join(self.pid.to_string()).join("stat"));
            stat.map_or(true, |stat| stat.contains(") Z "))
        };
        let until = Instant::now() + Duration::from_secs(30);
        while !gone() {
            ensure!(Instant::now() < until, "it doesn't end");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Starts it again as it was, and waits until it is ready.
    pub fn start(&mut self, cluster: &Cluster) -> Result<()> {
        // In the cluster's cgroup, so that it ends with it. A shell enters it: nothing can be done between fork and exec without unsafe code.
        let child = Command::new("sh")
            .args(["-c", "echo 0 >\"$1\" && shift && exec \"$@\"", "sh"])
            .arg(self.cgroup.join("cgroup.procs"))
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        self.pid = i32::try_from(child.id())?;
        self.again = Some(child);
        let until = Instant::now() + Duration::from_secs(90);
        while cluster.kubectl(&["get", "--raw", "/readyz"]).is_err() {
            ensure!(Instant::now() < until, "it isn't ready");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.again {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
