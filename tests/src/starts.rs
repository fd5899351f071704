//! Pods as the kernel sees them, without a kubelet: a network namespace with a link each, and processes that begin in a cgroup of their own.
//! More than a kubelet runs on this machine, and all at once.

use std::fs::File;
use std::io::{PipeWriter, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use bailiff_kernel::netns::NetnsFd;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::check;

/// So many, whose processes wait for their start. Dropping it ends and removes them.
#[derive(Debug)]
pub struct Starts {
    folder: PathBuf,
    pods_cgroup: PathBuf,
    form: CgroupForm,
    pods: Vec<Start>,
    /// They end with it.
    input: Option<PipeWriter>,
    children: Vec<Child>,
}

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(300);

/// How kubelet's driver and the runtime call a pod's cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CgroupForm {
    /// The driver `cgroupfs`, a pod of guaranteed service.
    #[default]
    Cgroupfs,
    /// The driver `systemd` and containerd, a burstable pod.
    SystemdContainerd,
    /// The driver `systemd` and CRI-O with crun, whose containers have a cgroup of their own in their scope; a pod of best effort.
    SystemdCrio,
}

impl CgroupForm {
    /// Below the pods' cgroup, from the outermost on, to the one in which a container's processes are.
    fn path(self, uid: &str, container: &str) -> PathBuf {
        let systemd = |class: &str| {
            let uid = uid.replace('-', "_");
            Path::new(&format!("kubepods-{class}.slice")).join(format!("kubepods-{class}-pod{uid}.slice"))
        };
        match self {
            Self::Cgroupfs => Path::new(&format!("pod{uid}")).join(container),
            Self::SystemdContainerd => systemd("burstable").join(format!("cri-containerd-{container}.scope")),
            Self::SystemdCrio => systemd("besteffort").join(format!("crio-{container}.scope/container")),
        }
    }
}

/// One of them.
#[derive(Debug)]
pub struct Start {
    /// The uid in its cgroup's name.
    pub uid: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// The id of its only container.
    pub container: String,
    link: String,
    netns: NetnsFd,
}

/// The machine, as a pod's routes have it.
const GATEWAY: &str = "169.254.1.1";

/// The hardware addresses of a link's sides, the machine's first. They are made known to both: those that are looked for stand in one table of the
/// whole machine, of 1,024 places if nobody has changed that.
fn hardware(address: Ipv4Addr) -> [String; 2] {
    let [.., high, low] = address.octets();
    ["02:ba:11:00", "02:ba:11:01"].map(|first| format!("{first}:{high:02x}:{low:02x}"))
}

impl Starts {
    /// Makes namespaces and links for pods of these uids, with addresses of 198.19.0.0/16 from this one on. What they send to addresses of this machine arrives.
    /// What their processes print goes into files of `folder`.
    pub fn new(uids: &[String], first: u16, folder: &Path) -> Result<Self> {
        let mut this = Self {
            folder: folder.to_owned(),
            pods_cgroup: PathBuf::new(),
            form: CgroupForm::default(),
            pods: Vec::new(),
            input: None,
            children: Vec::new(),
        };
        let own = std::process::id();
        let mut links = String::new();
        for (uid, number) in uids.iter().zip(u32::from(first)..) {
            let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 19, 0, 1)) + number);
            let netns = NetnsFd::create()?;
            let link = format!("b{own}x{number}");
            let pod = Start {
                uid: uid.clone(),
                address,
                container: format!("{number:064x}"),
                link,
                netns,
            };
            let (link, netns) = (&pod.link, pod.netns_path());
            let [here, there] = hardware(address);
            links += &format!(
                "link add {link} address {here} type veth peer name eth0 address {there} netns {netns}\nlink set {link} up\n\
                 neigh add {address} lladdr {there} dev {link} nud permanent\nroute add {address}/32 dev {link}\n"
            );
            this.pods.push(pod);
        }
        batch(&links)?;
        for pod in &this.pods {
            let [here, _] = hardware(pod.address);
            let inside = format!(
                "link set lo up\naddr add {}/32 dev eth0\nlink set eth0 up\nneigh add {GATEWAY} lladdr {here} dev eth0 nud permanent\n\
                 route add {GATEWAY} dev eth0\nroute add default via {GATEWAY}\n",
                pod.address
            );
            pod.netns.run_in(|| batch(&inside))??;
        }
        Ok(this)
    }

    /// Has their cgroups called otherwise than by the driver `cgroupfs`.
    pub fn call_cgroups(&mut self, form: CgroupForm) {
        self.form = form;
    }

    /// The pods.
    #[must_use]
    pub fn pods(&self) -> &[Start] {
        &self.pods
    }

    /// Starts a process for each, by this command, which waits until [`Self::go`]. Then it makes its pod's cgroup, is the first process in
    /// it, enters the namespace, as runc does, and begins: nobody has heard of the pod before. It is to stay until its input ends.
    pub fn prepare(&mut self, pods_cgroup: &Path, command: impl Fn(&Start) -> Result<Command>) -> Result<()> {
        let (reader, writer) = std::io::pipe()?;
        let script = "kill -STOP $$; mkdir -p \"$1\" && echo 0 >\"$1/cgroup.procs\" || exit 1
            netns=$2; shift 2; exec nsenter --net=\"$netns\" \"$@\"";
        self.input = Some(writer);
        self.pods_cgroup = pods_cgroup.to_owned();
        for pod in &self.pods {
            let command = command(pod)?;
            let said = File::create(self.folder.join(&pod.uid))?;
            let child = Command::new("sh")
                .args(["-c", script, "sh"])
                .arg(self.cgroup(pod))
                .arg(pod.netns_path())
                .arg(command.get_program())
                .args(command.get_args())
                .stdin(reader.try_clone()?)
                .stdout(said.try_clone()?)
                .stderr(said)
                .spawn()?;
            self.children.push(child);
        }
        for child in &self.children {
            let pid = Pid::from_raw(i32::try_from(child.id())?);
            let status = waitpid(pid, Some(WaitPidFlag::WUNTRACED))?;
            ensure!(matches!(status, WaitStatus::Stopped(..)), "a start: {status:?}");
        }
        Ok(())
    }

    /// Lets all begin.
    pub fn go(&self) -> Result<()> {
        for child in &self.children {
            kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGCONT)?;
        }
        Ok(())
    }

    /// Waits until each process has printed a line; returns them in the pods' order. Fails with what one said that ended before.
    pub fn answers(&mut self) -> Result<Vec<String>> {
        let until = Instant::now() + PATIENCE;
        let mut all = Vec::new();
        for (pod, child) in self.pods.iter().zip(&mut self.children) {
            loop {
                let said = std::fs::read_to_string(self.folder.join(&pod.uid))?;
                if let Some(status) = child.try_wait()? {
                    bail!("{} ended ({status}): {said}", pod.address);
                }
                if said.ends_with('\n') {
                    all.push(said);
                    break;
                }
                ensure!(Instant::now() < until, "{} says nothing: {said}", pod.address);
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(all)
    }

    /// Ends all processes, as pods end, and removes their cgroups.
    pub fn end(&mut self) -> Result<()> {
        drop(self.input.take());
        for child in &mut self.children {
            let status = child.wait()?;
            ensure!(status.success(), "a start: {status}");
        }
        self.children.clear();
        for pod in &self.pods {
            std::fs::remove_dir(self.cgroup(pod))?;
        }
        self.remove_cgroups();
        Ok(())
    }

    /// That of a pod's container.
    fn cgroup(&self, pod: &Start) -> PathBuf {
        self.pods_cgroup.join(self.form.path(&pod.uid, &pod.container))
    }

    /// What there still is of them.
    fn remove_cgroups(&self) {
        for pod in &self.pods {
            let cgroup = self.cgroup(pod);
            for folder in cgroup
                .ancestors()
                .take_while(|folder| *folder != self.pods_cgroup)
            {
                // One in which others are is the last one's to remove.
                let _ = std::fs::remove_dir(folder);
            }
        }
    }
}

impl Drop for Starts {
    fn drop(&mut self) {
        drop(self.input.take());
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.remove_cgroups();
        let links: String = self
            .pods
            .iter()
            .map(|pod| format!("link del {}\n", pod.link))
            .collect();
        let _ = batch(&links);
    }
}

impl Start {
    /// A path by which another process opens the namespace, while this one lives.
    fn netns_path(&self) -> String {
        format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.netns.as_fd().as_raw_fd()
        )
    }
}

/// Many commands of iproute2's `ip` at once, a line each.
fn batch(lines: &str) -> Result<()> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(lines.as_bytes())?;
    check(Command::new("ip").args(["-force", "-batch"]).arg(file.path())).map(drop)
}
