//! A node: containerd, runc and CNI plugins of the distribution, kubelet and kube-proxy, in namespaces of their own.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::components::program;
use super::control_plane::Component;
use super::hierarchies::Hierarchies;
use super::images;
use super::keys::{Keys, User};
use super::place::{Place, Site};
use super::state::Files;
use crate::lab::wait_for;

mod configuration;
mod emulated;
mod wires;

pub(crate) use emulated::Emulated;
pub(crate) use wires::clear;

/// What the operator says of nodes.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// How many pods kubelet runs on a node.
    #[arg(long, value_name = "NUMBER", default_value_t = 110, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) max_pods: u16,
    /// An archive of an image to put on each node, such as target/image/bailiff.tar of `cargo xtask image`.
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
}

impl Options {
    /// The archives of all images that a node gets: those that are made in its folder, and further ones.
    ///
    /// # Errors
    /// When one can't be made, or isn't there.
    fn archives(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let mut archives = images::make(folder)?.to_vec();
        for file in &self.image {
            let found = file.canonicalize();
            archives.push(found.with_context(|| format!("the image {} can't be read", file.display()))?);
        }
        Ok(archives)
    }

    /// The arguments that say the same.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let images = self.image.iter().flat_map(|file| {
            let option = OsString::from("--image");
            [option, file.into()]
        });
        [format!("--max-pods={}", self.max_pods).into()]
            .into_iter()
            .chain(images)
            .collect()
    }
}

/// A node that is ready for pods. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Node {
    site: Site,
    // Dropped in this order; the first process, which holds the namespaces, is the last of the components.
    pub(crate) components: Vec<Component>,
    _link: wires::Link,
    cgroups: Hierarchies,
    inside: Inside,
}

impl Node {
    /// Makes the namespaces, starts what a node runs, imports the images, and waits until the API server calls it ready. The others
    /// are those that are ready already: it is wired to them.
    ///
    /// # Errors
    /// When the kernel refuses, a component ends, or the node isn't ready in time.
    pub(crate) fn start(
        site: Site,
        place: &Place,
        files: &Files,
        keys: &Keys,
        options: &Options,
        others: &[Self],
    ) -> Result<Self> {
        let slot = site.slot();
        let name = site.name();
        let folder = files.folder().join(&name);
        fs::create_dir_all(&folder).with_context(|| format!("{} can't be made", folder.display()))?;
        let cgroups = Hierarchies::make(&slot.name(), &name, place.cgroup())?;
        let mut first = joining(&cgroups.doors());
        // The namespace of cgroups begins where the process is that makes it; its own processes are then beside the pods'.
        first.args([
            "unshare",
            "--cgroup",
            "sh",
            "-c",
            "echo 0 >\"$INIT\"; exec \"$@\"",
            "sh",
        ]);
        first.args(["unshare", "--mount", "--net", "--uts", "--ipc", "sh", "-c", FIRST]);
        first.env("INIT", cgroups.init()).env("STATE", &folder);
        first.env("NAME", &name).env("CONTROLLERS", cgroups.names());
        let mut doors = cgroups.doors();
        doors.pop();
        doors.push(cgroups.init());
        let mut this = Self {
            site,
            components: Vec::new(),
            _link: wires::Link(site),
            cgroups,
            inside: Inside { pid: 0, doors },
        };
        this.add(files, "namespaces", first)?;
        this.inside.pid = this.components.first().context("no process")?.process.pid();
        this.wait(files, "the node's file systems", || {
            Ok(folder.join("ready").exists())
        })?;
        wires::to_machine(site, &this.inside)?;
        for other in others {
            wires::between((other.site, &other.inside), (site, &this.inside))?;
        }
        configuration::write(site, &folder, keys, options, configuration::Kernel::Shared)?;

        let mut containerd = this.inside.command("containerd");
        containerd.arg("--config").arg(folder.join("containerd.toml"));
        this.add(files, "containerd", containerd)?;
        let mut asks = this.inside.command("ctr");
        asks.arg("version");
        this.wait(files, "containerd", || Ok(asks.output()?.status.success()))?;
        for archive in options.archives(&folder)? {
            let archive = archive.display().to_string();
            this.inside
                .run(&["ctr", "-n", "k8s.io", "images", "import", &archive])?;
        }
        let kubeconfig = keys.kubeconfig(&kubelet_user(site), slot)?;
        let mut kubelet = this.inside.command(program("kubelet"));
        kubelet.arg(format!("--config={}", folder.join("kubelet.json").display()));
        kubelet.arg(format!("--kubeconfig={}", kubeconfig.display()));
        kubelet.arg(format!("--hostname-override={name}"));
        kubelet.arg(format!("--node-ip={}", site.address()));
        this.add(files, "kubelet", kubelet)?;
        let mut proxy = this.inside.command(program("kube-proxy"));
        proxy.arg(format!("--config={}", folder.join("kube-proxy.json").display()));
        this.add(files, "kube-proxy", proxy)?;
        this.wait(files, "the node's readiness", || is_ready(site, files))?;
        Ok(this)
    }

    /// Where it is.
    pub(crate) fn site(&self) -> Site {
        self.site
    }

    /// The process that holds its namespaces.
    pub(crate) fn process(&self) -> u32 {
        self.inside.pid
    }

    /// Its cgroup of the second version.
    pub(crate) fn cgroup(&self) -> &Path {
        self.cgroups.unified()
    }

    fn add(&mut self, files: &Files, name: &str, mut command: Command) -> Result<()> {
        let name = format!("{}-{name}", self.site.name());
        let component = Component::start(&name, &mut command, files)?;
        self.components.insert(0, component);
        Ok(())
    }

    fn wait(&mut self, files: &Files, what: &str, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
        wait_for(what, LIMIT, || {
            self.still_runs(files)?;
            ready()
        })
    }

    /// Fails if a component has ended, with the end of its log.
    ///
    /// # Errors
    /// When one no longer runs.
    pub(crate) fn still_runs(&mut self, files: &Files) -> Result<()> {
        self.components
            .iter_mut()
            .try_for_each(|component| component.still_runs(files))
    }
}

const FIRST: &str = include_str!("node-first.sh");
const READY: &str = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status} {.spec.podCIDR}"#;
const LIMIT: Duration = Duration::from_secs(180);

/// Who kubelet is to the API server.
fn kubelet_user(site: Site) -> User {
    let name = site.name();
    User {
        file: format!("{name}-kubelet"),
        name: format!("system:node:{name}"),
        group: Some("system:nodes"),
    }
}

/// Whether the API server calls the node ready.
///
/// # Errors
/// When the controllers gave it another range of pods than what routes say.
fn is_ready(site: Site, files: &Files) -> Result<bool> {
    let name = site.name();
    let asked = files
        .kubectl()
        .args(["get", "node", &name, "-o", READY])
        .output()?;
    let said = String::from_utf8(asked.stdout)?;
    if !said.starts_with("True 10.") {
        return Ok(false);
    }
    ensure!(
        said == format!("True {}", site.pods()),
        "{name} got another range of pods than {}: {said}",
        site.pods()
    );
    Ok(true)
}

/// A program that enters these cgroups before it begins: a shell does it, since nothing can be done between fork and exec
/// without unsafe code.
fn joining(doors: &[PathBuf]) -> Command {
    let mut command = Command::new("sh");
    let script = "while [ \"$1\" != -- ]; do echo 0 >\"$1\" || exit 1; shift; done; shift; exec \"$@\"";
    command.args(["-c", script, "sh"]).args(doors).arg("--");
    command
}

/// The node's namespaces and cgroups.
#[derive(Debug)]
struct Inside {
    pid: u32,
    doors: Vec<PathBuf>,
}

impl Inside {
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = joining(&self.doors);
        command.args(["nsenter", "--target", &self.pid.to_string()]);
        command.args(["--mount", "--net", "--uts", "--ipc", "--cgroup", "--wd=/"]);
        command.arg(program).stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Result<()> {
        let (name, rest) = words.split_first().context("no program")?;
        let output = self.command(name).args(rest).output()?;
        ensure!(
            output.status.success(),
            "`{}` in the node: {}",
            words.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}
