//! A node in an emulated machine: a distribution's kernel, unchanged, with cgroups of the second version alone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::configuration::{self, Kernel};
use super::{Options, is_ready, kubelet_user, wires};
use crate::cluster::components;
use crate::cluster::keys::Keys;
use crate::cluster::place::Site;
use crate::cluster::state::Files;
use crate::lab;
use crate::shell;
use crate::vm::{Choice, Job, Machine, Parts, Program, Report};

/// A node that is ready for pods, in a machine of its own. Dropping it ends the machine.
pub(crate) struct Emulated {
    site: Site,
    /// Of what runs in it: the name of its log, too.
    name: String,
    kernel: String,
    // Dropped in this order.
    machine: Machine,
    _link: wires::Link,
    log: File,
    log_path: PathBuf,
}

/// Emulated on processors that others use, a node is there after one to three minutes.
const LIMIT: Duration = Duration::from_secs(15 * 60);

impl Emulated {
    /// Boots the machine, which joins the cluster, and waits until the API server calls the node ready.
    ///
    /// # Errors
    /// When QEMU or the kernel can't be had, this machine has no tap devices, the guest dies, or the node isn't ready in time. The error has the last
    /// of what it said.
    pub(crate) fn start(
        choice: Choice,
        site: Site,
        files: &Files,
        keys: &Keys,
        options: &Options,
    ) -> Result<Self> {
        can_be_seen(files.folder())?;
        let parts = Parts::get(choice)?;
        let slot = site.slot();
        let name = format!("{}-machine", site.name());
        let folder = files.folder().join(site.name());
        fs::create_dir_all(&folder).with_context(|| format!("{} can't be made", folder.display()))?;
        configuration::write(site, &folder, keys, options, Kernel::Own)?;
        let kubeconfig = keys.kubeconfig(&kubelet_user(site), slot)?;
        let archives = options.archives(&folder)?;

        // From here on it goes away again, whatever fails.
        let link = wires::Link(site);
        wires::tap(site)?;
        let job = Job {
            programs: vec![program(site, &folder, &kubeconfig, &archives)],
            silence: None,
        };
        let machine = Machine::boot(&parts, &job, &folder, Some(&site.link()))?;
        let log_path = files.log(&name);
        let log =
            File::create(&log_path).with_context(|| format!("{} can't be written", log_path.display()))?;
        let mut this = Self {
            site,
            name,
            kernel: parts.version().to_owned(),
            machine,
            _link: link,
            log,
            log_path,
        };
        let until = Instant::now() + LIMIT;
        while !(this.still_runs().and_then(|()| is_ready(site, files))?) {
            lab::checkpoint()?;
            ensure!(
                Instant::now() < until,
                "the node isn't ready after {}; {}\n{}",
                shell::human(LIMIT),
                this.last_said(),
                this.machine.last_words()
            );
            // Each question costs this machine's processors, on which the other one is emulated.
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(this)
    }

    /// Where it is.
    pub(crate) fn site(&self) -> Site {
        self.site
    }

    /// Its kernel's version, such as `6.1.0-50-amd64`.
    pub(crate) fn kernel(&self) -> &str {
        &self.kernel
    }

    /// What runs in it, by the name of its log.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Takes down what it said meanwhile.
    ///
    /// # Errors
    /// When it no longer runs, or a node's program in it has ended.
    pub(crate) fn still_runs(&mut self) -> Result<()> {
        let gone = || format!("{} is gone", self.site.name());
        while let Some(report) = self.machine.said().with_context(gone)? {
            match report {
                Report::Line(line) => writeln!(self.log, "{line}")?,
                Report::Ready { kernel, controllers } => {
                    writeln!(
                        self.log,
                        "{kernel}, with the second version's controllers {controllers}"
                    )?;
                }
                Report::Begun => {}
                Report::Failed(why) => bail!("the node's programs can't be started in its machine: {why}"),
                Report::Ended { .. } | Report::Done => {
                    bail!(
                        "a program of {} has ended; {}",
                        self.site.name(),
                        self.last_said()
                    );
                }
            }
        }
        Ok(())
    }

    fn last_said(&self) -> String {
        let text = fs::read_to_string(&self.log_path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.get(lines.len().saturating_sub(15)..).unwrap_or_default();
        format!(
            "the last that it said, of which {} has all:\n{}",
            self.log_path.display(),
            last.join("\n")
        )
    }
}

/// What the guest runs.
fn program(site: Site, folder: &Path, kubeconfig: &Path, archives: &[PathBuf]) -> Program {
    let text = |path: &Path| path.display().to_string();
    let archives: Vec<String> = archives.iter().map(|archive| text(archive)).collect();
    let environment = [
        (
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        ),
        ("HOME", "/root".to_owned()),
        ("NAME", site.name()),
        ("STATE", text(folder)),
        ("ADDRESS", site.address().to_string()),
        ("GATEWAY", site.gateway().to_string()),
        ("IMAGES", archives.join("\n")),
        ("PROGRAMS", text(&components::folder())),
        ("KUBECONFIG", text(kubeconfig)),
    ];
    Program {
        executable: "/bin/bash".into(),
        arguments: vec!["-c".to_owned(), INSIDE.to_owned(), site.name()],
        folder: "/".into(),
        environment: BTreeMap::from(environment.map(|(name, value)| (name.to_owned(), value))),
    }
}

const INSIDE: &str = include_str!("emulated.sh");

/// The guest has this machine's files but for these folders, where its own are.
///
/// # Errors
/// When a cluster's files would be in one of them.
fn can_be_seen(folder: &Path) -> Result<()> {
    for hidden in ["/tmp", "/run", "/dev", "/var/log"] {
        ensure!(
            !folder.starts_with(hidden),
            "the node's machine can't see {}, since it has a {hidden} of its own: name another folder by --state",
            folder.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::place::Slot;

    #[test]
    fn the_guest_is_told_all_that_its_script_asks_for() {
        let site = Slot::new(0).unwrap().sites(1).next().unwrap();
        let archives = [PathBuf::from("/s/a b.tar"), PathBuf::from("/s/c.tar")];
        let program = program(site, Path::new("/s/node-1"), Path::new("/s/k"), &archives);
        assert_eq!(program.environment["IMAGES"], "/s/a b.tar\n/s/c.tar");
        assert_eq!(program.environment["ADDRESS"], "198.18.64.6");
        for asked in [
            "NAME",
            "STATE",
            "ADDRESS",
            "GATEWAY",
            "IMAGES",
            "PROGRAMS",
            "KUBECONFIG",
        ] {
            assert!(
                INSIDE.contains(&format!("${asked}")) && program.environment.contains_key(asked),
                "{asked}"
            );
        }
    }

    #[test]
    fn folders_that_the_guest_has_for_itself_are_refused() {
        assert!(can_be_seen(Path::new("/home/me/target/cluster/run")).is_ok());
        let error = can_be_seen(Path::new("/tmp/c")).unwrap_err().to_string();
        assert!(error.contains("--state"), "{error}");
    }
}
