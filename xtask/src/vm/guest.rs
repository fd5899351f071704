//! What runs in the guest, and how it tells the host.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// Run the programs of a job, in a guest that `cargo xtask test --vm` started.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to run: a `Job`.
    job: PathBuf,
}

/// What a guest is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) programs: Vec<Program>,
    /// A program that prints nothing for so many seconds is ended. `None`: it may be silent.
    pub(crate) silence: Option<u64>,
}

/// A program, with the arguments, folder and environment that it would have on the host.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Program {
    pub(crate) executable: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) folder: PathBuf,
    pub(crate) environment: BTreeMap<String, String>,
}

/// A line of what the guest tells, as JSON.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Report {
    /// The guest is up.
    Ready {
        /// As `uname -r` says it.
        kernel: String,
        /// The controllers of its cgroups.
        controllers: String,
    },
    /// The next program of the job was started.
    Begun,
    /// It printed a line.
    Line(String),
    /// It ended.
    Ended {
        /// Its exit code; `None` for one that a signal ended.
        code: Option<i32>,
        /// It printed nothing for too long.
        hung: bool,
    },
    /// It can't be started.
    Failed(String),
    /// All of them have run.
    Done,
}

/// What the port is called to which the report goes.
pub(super) const PORT: &str = "bailiff.report";

pub(crate) fn run(args: &Args) -> Result<()> {
    let text = fs::read_to_string(&args.job).with_context(|| {
        format!(
            "{} can't be read; this is run by a guest alone",
            args.job.display()
        )
    })?;
    let job: Job = serde_json::from_str(&text).context("this isn't a job")?;
    let mut told = Told(port()?);
    furnish()?;
    told.tell(&Report::Ready {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
            .trim()
            .to_owned(),
        controllers: fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")?
            .trim()
            .to_owned(),
    })?;
    for program in &job.programs {
        if let Err(error) = run_one(program, patience(&job), &mut told) {
            told.tell(&Report::Failed(format!("{error:#}")))?;
        }
    }
    told.tell(&Report::Done)
}

/// For how long a program may be silent.
fn patience(job: &Job) -> Duration {
    job.silence.map_or(Duration::MAX, Duration::from_secs)
}

struct Told(File);

impl Told {
    fn tell(&mut self, report: &Report) -> Result<()> {
        let mut line = serde_json::to_vec(report)?;
        line.push(b'\n');
        self.0
            .write_all(&line)
            .context("the host doesn't take the report")
    }
}

/// The device of the port; there is no udev that would give it a name.
fn port() -> Result<File> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        for entry in fs::read_dir("/sys/class/virtio-ports")
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if name.trim() == PORT {
                let device = Path::new("/dev").join(entry.file_name());
                return File::options()
                    .write(true)
                    .open(&device)
                    .with_context(|| format!("{} can't be opened", device.display()));
            }
        }
        if Instant::now() > until {
            anyhow::bail!("there is no port {PORT}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The rest of what systemd makes of a node: mounts, the controllers of cgroups, limits, loopback.
fn furnish() -> Result<()> {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    for (kind, place, data) in [
        ("cgroup2", "/sys/fs/cgroup", None),
        ("bpf", "/sys/fs/bpf", Some("mode=700")),
        ("tracefs", "/sys/kernel/tracing", None),
        ("securityfs", "/sys/kernel/security", None),
        ("devpts", "/dev/pts", Some("mode=620,ptmxmode=666")),
        ("tmpfs", "/dev/shm", Some("mode=1777")),
        ("mqueue", "/dev/mqueue", None),
    ] {
        fs::create_dir_all(place).with_context(|| format!("{place} can't be made"))?;
        // Terminals are devices.
        let flags = if kind == "devpts" {
            MsFlags::MS_NOSUID
        } else {
            plain
        };
        mount(Some(kind), place, Some(kind), flags, data)
            .with_context(|| format!("{kind} can't be mounted on {place}"))?;
    }
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_SHARED | MsFlags::MS_REC,
        None::<&str>,
    )
    .context("mounts can't be shared")?;
    for controller in fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")?.split_whitespace() {
        // One that can't be had is one that nothing here uses.
        let _without = fs::write("/sys/fs/cgroup/cgroup.subtree_control", format!("+{controller}"));
    }
    for (link, leads_to) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        if !Path::new(link).exists() {
            std::os::unix::fs::symlink(leads_to, link).with_context(|| format!("{link} can't be made"))?;
        }
    }
    setrlimit(Resource::RLIMIT_NOFILE, 1024, 524_288).context("the limit of open files can't be set")?;
    let status = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .context("ip can't be started")?;
    anyhow::ensure!(status.success(), "loopback can't be set up");
    Ok(())
}

fn run_one(program: &Program, silence: Duration, told: &mut Told) -> Result<()> {
    let (reader, writer) = std::io::pipe()?;
    let mut command = Command::new(&program.executable);
    command
        .args(&program.arguments)
        .current_dir(&program.folder)
        .env_clear()
        .envs(&program.environment)
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0);
    let mut child = command
        .spawn()
        .with_context(|| format!("{} can't be started", program.executable.display()))?;
    let group = Pid::from_raw(i32::try_from(child.id()).context("a process id beyond i32")?);
    drop(command);
    told.tell(&Report::Begun)?;

    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            if sender.send(text).is_err() {
                break;
            }
            line.clear();
        }
    });
    let mut hung = false;
    let mut last = Instant::now();
    loop {
        match lines.recv_timeout(Duration::from_millis(500)) {
            Ok(line) => {
                last = Instant::now();
                told.tell(&Report::Line(line))?;
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                // What it left behind may hold the pipe; its own end is what counts.
                if child.try_wait()?.is_some() && last.elapsed() > Duration::from_secs(5) {
                    break;
                }
                if last.elapsed() > silence && !hung {
                    hung = true;
                    last = Instant::now();
                    // Gone already is as good.
                    let _gone = killpg(group, Signal::SIGKILL);
                }
            }
        }
    }
    let status = child.wait()?;
    let _gone = killpg(group, Signal::SIGKILL);
    told.tell(&Report::Ended {
        code: status.code(),
        hung,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines that a program's run gives.
    fn reports(script: &str, silence: Duration) -> Vec<Report> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let program = Program {
            executable: "/bin/sh".into(),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            folder: "/".into(),
            environment: BTreeMap::from([("WORD".to_owned(), "said".to_owned())]),
        };
        run_one(&program, silence, &mut Told(file.reopen().unwrap())).unwrap();
        fs::read_to_string(file.path())
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn a_program_is_told_line_by_line() {
        let expected = [
            Report::Begun,
            Report::Line("said \"so\"".to_owned()),
            Report::Line("and to stderr".to_owned()),
            Report::Ended {
                code: Some(3),
                hung: false,
            },
        ];
        let script = "echo \"$WORD \\\"so\\\"\"; echo and to stderr >&2; exit 3";
        assert_eq!(reports(script, Duration::from_secs(60)), expected);
    }

    #[test]
    fn a_silent_program_is_ended_with_its_children() {
        let reports = reports("sleep 1000 & sleep 1000", Duration::from_millis(200));
        assert_eq!(
            reports.last(),
            Some(&Report::Ended {
                code: None,
                hung: true
            })
        );
    }

    #[test]
    fn a_job_survives_the_way_into_the_guest() {
        let job = Job {
            programs: vec![Program {
                executable: "/t/a b".into(),
                arguments: vec!["--exact".to_owned()],
                folder: "/t".into(),
                environment: BTreeMap::new(),
            }],
            silence: Some(600),
        };
        let back: Job = serde_json::from_str(&serde_json::to_string(&job).unwrap()).unwrap();
        assert_eq!(back.programs[0].executable, job.programs[0].executable);
        assert_eq!(patience(&back), Duration::from_secs(600));
    }
}
