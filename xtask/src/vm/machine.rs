//! A guest that runs.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::guest::{Job, PORT, Report};
use super::{Parts, initramfs};
use crate::shell;

/// An emulated machine that does a job and tells of it. Dropping it ends it.
pub(crate) struct Machine {
    child: Child,
    /// Open for as long as QEMU is to take the other side of the report for there.
    _input: Option<ChildStdin>,
    reports: Receiver<Result<Report>>,
    console: PathBuf,
    silence: Duration,
}

/// Emulated, a machine boots in half a minute, and in several while others compile.
const BOOT: Duration = Duration::from_secs(10 * 60);

impl Machine {
    /// Boots a kernel, which does a job. Its console is kept in `folder`. `link` is a tap device of this machine, whose other end is the guest's `eth0`.
    ///
    /// # Errors
    /// When QEMU can't be started.
    pub(crate) fn boot(parts: &Parts, job: &Job, folder: &Path, link: Option<&str>) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("{} can't be made", folder.display()))?;
        let file = |name: &str| folder.join(name);
        fs::write(file("job.json"), serde_json::to_vec(job)?)?;
        initramfs::write(
            &file("initramfs.gz"),
            &parts.kernel,
            &std::env::current_exe()?,
            &file("job.json"),
        )?;
        let console = file("console.log");
        fs::write(&console, "")?;

        let mut qemu = parts.qemu.command();
        for accelerator in accelerators() {
            qemu.args(["-accel", accelerator]);
        }
        qemu.args(["-cpu", "max", "-smp", "2", "-m", "4G"]);
        qemu.args(["-nodefaults", "-display", "none", "-no-reboot"]);
        qemu.arg("-kernel").arg(parts.kernel.image());
        qemu.arg("-initrd").arg(file("initramfs.gz"));
        qemu.args(["-append", COMMAND_LINE]);
        qemu.arg("-serial").arg(format!("file:{}", escaped(&console)));
        qemu.args(["-chardev", "stdio,id=report,signal=off"]);
        qemu.args(["-device", "virtio-serial-pci"]);
        qemu.args(["-device", &format!("virtserialport,chardev=report,name={PORT}")]);
        qemu.args([
            "-virtfs",
            "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
        ]);
        qemu.args(["-device", "virtio-rng-pci"]);

        if let Some(link) = link {
            qemu.args([
                "-netdev",
                &format!("tap,id=wire,ifname={link},script=no,downscript=no"),
            ]);
            // There is nothing to boot from by this.
            qemu.args(["-device", "virtio-net-pci,netdev=wire,romfile="]);
        }

        let mut command = with_this_process(&qemu)?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(file("qemu.log"))?);
        let mut child = command
            .spawn()
            .with_context(|| format!("{} can't be started", shell::describe(&command)))?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("standard output was asked for")?;
        let (sender, reports) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n') {
                let report = line.map_err(Into::into).and_then(|line| parse(&line));
                if sender.send(report).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            _input: input,
            reports,
            console,
            // The guest ends what hangs by itself; it is given time for that.
            silence: job.silence.map_or(Duration::MAX, |silence| {
                Duration::from_secs(silence).saturating_mul(2)
            }),
        })
    }

    /// Waits for the guest to be up; returns its kernel's version and its cgroups' controllers.
    ///
    /// # Errors
    /// When it doesn't come up. The error has the last of its console.
    pub(crate) fn ready(&mut self) -> Result<(String, String)> {
        match self.next_within(BOOT)? {
            Report::Ready { kernel, controllers } => Ok((kernel, controllers)),
            other => bail!("the guest began with {other:?}"),
        }
    }

    /// What it tells next.
    ///
    /// # Errors
    /// When it died or hangs, in which case it is ended. The error has the last of its console.
    pub(crate) fn next(&mut self) -> Result<Report> {
        self.next_within(self.silence)
    }

    fn next_within(&mut self, patience: Duration) -> Result<Report> {
        match self.reports.recv_timeout(patience) {
            Ok(report) => report,
            Err(mpsc::RecvTimeoutError::Disconnected) => self.gone(),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                self.end();
                bail!(
                    "the guest told nothing for {}, and was ended\n{}",
                    shell::human(patience),
                    self.last_words()
                )
            }
        }
    }

    /// What it has told meanwhile; `None` where that is nothing.
    ///
    /// # Errors
    /// When it died. The error has the last of its console.
    pub(crate) fn said(&mut self) -> Result<Option<Report>> {
        match self.reports.try_recv() {
            Ok(report) => report.map(Some),
            Err(mpsc::TryRecvError::Empty) => Ok(None),
            Err(mpsc::TryRecvError::Disconnected) => self.gone(),
        }
    }

    fn gone<T>(&mut self) -> Result<T> {
        let status = self.child.wait()?;
        let said = fs::read_to_string(self.console.with_file_name("qemu.log")).unwrap_or_default();
        bail!("the guest is gone ({status}) {said}\n{}", self.last_words())
    }

    /// Waits for it to turn itself off once its job is done, for a while.
    pub(crate) fn off(mut self) {
        let until = Instant::now() + Duration::from_secs(30);
        while Instant::now() < until && self.child.try_wait().is_ok_and(|status| status.is_none()) {
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The last of its console.
    pub(crate) fn last_words(&self) -> String {
        let text = String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned();
        let mut last: VecDeque<&str> = VecDeque::new();
        for line in text.lines() {
            if last.len() == LAST_LINES {
                last.pop_front();
            }
            last.push_back(line);
        }
        let lines: Vec<String> = last.iter().map(|line| format!("  | {line}")).collect();
        format!(
            "the last of its console, which is in {}:\n{}",
            self.console.display(),
            lines.join("\n")
        )
    }

    fn end(&mut self) {
        // Gone already is as good.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
    }
}

const LAST_LINES: usize = 40;

/// Emulated time stands still now and then, which the kernel would take for broken clocks.
const COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=4 panic=-1 no_timer_check tsc=reliable";

/// The processor's own virtualisation where it has one, and otherwise emulation, which QEMU turns to also by itself. A machine that is
/// a guest itself may have the device and no processor that goes with it.
fn accelerators() -> &'static [&'static str] {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let device = fs::File::options().read(true).write(true).open("/dev/kvm");
    if virtualises(&processor) && device.is_ok() {
        &["kvm", "tcg,thread=multi"]
    } else {
        &["tcg,thread=multi"]
    }
}

fn virtualises(processor: &str) -> bool {
    processor
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| line.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
}

/// The same command, which ends when this process does, however that ends.
fn with_this_process(command: &Command) -> Result<Command> {
    let setpriv = shell::which("setpriv").context("setpriv is missing: apt-get install util-linux")?;
    let mut bound = Command::new(setpriv);
    bound
        .args(["--pdeathsig", "KILL", "--"])
        .arg(command.get_program())
        .args(command.get_args());
    for (key, value) in command.get_envs() {
        bound.env(key, value.unwrap_or_default());
    }
    Ok(bound)
}

/// A path among QEMU's options, in which commas are doubled.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

fn parse(line: &[u8]) -> Result<Report> {
    serde_json::from_slice(line).with_context(|| {
        format!(
            "the guest told what isn't a report: {}",
            String::from_utf8_lossy(line)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read_and_other_words_are_errors() {
        let report = parse(br#"{"ended":{"code":101,"hung":false}}"#).unwrap();
        assert_eq!(
            report,
            Report::Ended {
                code: Some(101),
                hung: false
            }
        );
        assert_eq!(parse(br#""done""#).unwrap(), Report::Done);
        let error = parse(b"panic: attempted to kill init").unwrap_err().to_string();
        assert!(error.contains("kill init"), "{error}");
        assert!(parse(b"").is_err());
    }

    #[test]
    fn a_processor_says_whether_it_virtualises() {
        assert!(virtualises("processor : 0\nflags\t\t: fpu svm nx\n"));
        assert!(!virtualises("model name : svm\nflags\t\t: fpu vmmcall nx\n"));
    }

    #[test]
    fn a_command_that_is_bound_keeps_its_words_and_environment() {
        let mut command = Command::new("qemu");
        command.arg("-version").env("LD_LIBRARY_PATH", "/l");
        let bound = with_this_process(&command).unwrap();
        let words = shell::describe(&bound);
        assert!(words.starts_with("LD_LIBRARY_PATH=/l "), "{words}");
        assert!(words.ends_with("--pdeathsig KILL -- qemu -version"), "{words}");
    }

    #[test]
    fn a_guest_that_is_gone_leaves_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let console = folder.path().join("console.log");
        let lines: Vec<String> = (0..100).map(|number| format!("line {number}")).collect();
        fs::write(&console, lines.join("\n")).unwrap();
        let (_, reports) = mpsc::channel();
        let mut machine = Machine {
            child: Command::new("true").spawn().unwrap(),
            _input: None,
            reports,
            console,
            silence: Duration::from_secs(1),
        };
        let error = machine.ready().unwrap_err().to_string();
        assert!(
            error.contains("line 99") && error.contains("line 60\n") && !error.contains("line 59\n"),
            "{error}"
        );
    }

    #[test]
    fn a_guest_that_hangs_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let (_sender, reports) = mpsc::channel();
        let mut machine = Machine {
            child: Command::new("sleep").arg("1000").spawn().unwrap(),
            _input: None,
            reports,
            console: folder.path().join("console.log"),
            silence: Duration::from_millis(50),
        };
        let error = machine.next().unwrap_err().to_string();
        assert!(error.contains("told nothing"), "{error}");
        assert!(machine.child.try_wait().unwrap().is_some(), "it still runs");
    }
}
