//! The command's view of the files.
//!
//! Everything of the host's is shown through overlay file systems without an upper layer: nothing can be written, and sockets
//! and pipes of the host's can't be reached, wherever they lie and whenever they are made, since an overlay gives them
//! inodes of its own, on which nobody listens. (A read-only mount wouldn't do: connecting is no writing.) Only directories that
//! are meant to be written are the host's own.

mod own;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::fstat;
use nix::unistd::pivot_root;
use serde::{Deserialize, Serialize};

/// What is to be seen besides what everybody sees. All paths are absolute and without symbolic links.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct View {
    /// Where the command starts.
    pub(super) here: PathBuf,
    /// Directories that the command may change.
    pub(super) writable: Vec<PathBuf>,
    /// What it may not change even there: the policies, the agent.
    pub(super) kept: Vec<PathBuf>,
    /// What it doesn't see: the record.
    pub(super) hidden: Vec<PathBuf>,
}

/// What a place is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The host's, to be read. Where it can't be shown it is left out.
    Shown,
    /// The same; where it can't be shown, nothing starts.
    Kept,
    /// The host's own.
    Writable,
    /// Empty, and the command's own.
    Private(&'static str),
    /// Empty.
    Hidden,
    /// A socket of the host's in a writable directory.
    Covered,
}

/// Where the new root is put together: nothing that is shown lies here.
const SCAFFOLD: &str = "/sys";
const ROOT: &str = "/sys/root";
const EMPTY: &str = "/sys/empty";
const NOTHING: &str = "/sys/nothing";

/// Directories that are made anew. The host's hold services' sockets, other users' files, and ways to steer the kernel.
const PRIVATE: [(&str, &str); 3] = [
    ("/run", "mode=0755"),
    ("/tmp", "mode=1777"),
    ("/var/tmp", "mode=1777"),
];
const OWN: [&str; 3] = ["/dev", "/proc", "/sys"];

/// File systems that are interfaces of the kernel. The directory below is seen instead.
const INTERFACES: [&str; 23] = [
    "autofs",
    "bdev",
    "binder",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nfsd",
    "nsfs",
    "proc",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "sysfs",
    "tracefs",
];

/// File systems that know no sockets; some of them can't lie below an overlay.
const SOCKETLESS: [&str; 8] = [
    "exfat", "iso9660", "msdos", "ntfs", "ntfs3", "udf", "vfat", "erofs",
];

/// How many entries of writable directories are looked at for sockets.
const MOST_ENTRIES: usize = 2_000_000;

/// Makes it the root of the calling process, which is in a mount namespace of its own.
pub(super) fn enter(view: &View) -> Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let mounts = mounts()?;
    let plan = plan(view, &mounts, sockets(view)?);
    mount(
        Some("tmpfs"),
        SCAFFOLD,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=0700"),
    )
    .context("cannot put a tmpfs on /sys")?;
    for directory in [ROOT, EMPTY] {
        fs::create_dir(directory)?;
    }
    File::create(NOTHING)?;
    for (path, place) in &plan {
        apply(path, *place, &mounts).with_context(|| format!("cannot set up {}", path.display()))?;
    }
    own::devices().context("cannot set up /dev")?;
    own::processes().context("cannot set up /proc")?;
    mount(
        Some("sysfs"),
        &inside(Path::new("/sys")),
        Some("sysfs"),
        MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        none,
    )
    .context("cannot set up /sys")?;
    std::env::set_current_dir(ROOT)?;
    pivot_root(".", ".").context("cannot change the root")?;
    umount2(".", MntFlags::MNT_DETACH).context("cannot leave the host's files")?;
    std::env::set_current_dir(&view.here)
        .with_context(|| format!("{} isn't visible in the sandbox", view.here.display()))
}

fn plan(view: &View, mounts: &BTreeMap<PathBuf, String>, sockets: Vec<PathBuf>) -> BTreeMap<PathBuf, Place> {
    let mut plan = BTreeMap::from([(PathBuf::from("/"), Place::Kept)]);
    let mut private = Vec::new();
    for (path, options) in PRIVATE {
        if let Ok(path) = fs::canonicalize(path) {
            plan.insert(path.clone(), Place::Private(options));
            private.push(path);
        }
    }
    for (path, kind) in mounts {
        let replaced = OWN.iter().any(|own| path.starts_with(own))
            || private.iter().any(|place| path.starts_with(place));
        if !replaced && !INTERFACES.contains(&kind.as_str()) {
            plan.entry(path.clone()).or_insert(Place::Shown);
        }
    }
    for path in &view.writable {
        plan.insert(path.clone(), Place::Writable);
    }
    let kept = view.kept.iter().map(|path| (path, Place::Kept));
    let hidden = view.hidden.iter().map(|path| (path, Place::Hidden));
    for (path, place) in kept.chain(hidden) {
        let above = path.ancestors().skip(1).find(|above| plan.contains_key(*above));
        let around = above.and_then(|above| plan.get(above)).copied();
        if around == Some(Place::Writable) {
            // A directory between could be renamed and another put in its place; nobody renames a mount point.
            let between: Vec<_> = path
                .ancestors()
                .skip(1)
                .take_while(|above| !plan.contains_key(*above))
                .collect();
            for directory in between {
                plan.insert(directory.to_owned(), Place::Writable);
            }
        }
        // What lies in a private place isn't seen, and what is shown can't be changed.
        if around == Some(Place::Writable)
            || (place == Place::Hidden && !matches!(around, Some(Place::Private(_))))
        {
            plan.insert(path.clone(), place);
        }
    }
    for socket in sockets {
        plan.insert(socket, Place::Covered);
    }
    plan
}

/// Sockets in directories that are the host's own.
fn sockets(view: &View) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut waiting = Vec::new();
    for path in &view.writable {
        waiting.push((path.clone(), fs::symlink_metadata(path)?.dev()));
    }
    let mut seen = 0_usize;
    while let Some((directory, device)) = waiting.pop() {
        if view.kept.contains(&directory) || view.hidden.contains(&directory) {
            continue;
        }
        // What can't be read here can't be reached by the command.
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            seen += 1;
            if seen > MOST_ENTRIES {
                bail!(
                    "the directories that the command may change hold more than {MOST_ENTRIES} entries, \
                     too many to look for sockets; start in a smaller one"
                );
            }
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_socket() {
                found.push(entry.path());
            } else if kind.is_dir() && entry.metadata().is_ok_and(|about| about.dev() == device) {
                waiting.push((entry.path(), device));
            }
        }
    }
    Ok(found)
}

fn apply(path: &Path, place: Place, mounts: &BTreeMap<PathBuf, String>) -> Result<()> {
    let target = inside(path);
    let none = None::<&str>;
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    if matches!(place, Place::Writable) && !target.exists() {
        fs::create_dir_all(&target)?; // Below a private place.
    }
    let at = match (opened(&target), place) {
        (Ok(at), _) => at,
        // A mount that another one hides.
        (Err(_), Place::Shown | Place::Private(_)) => return Ok(()),
        (Err(error), _) => return Err(error),
    };
    let onto = through(&at);
    match place {
        Place::Private(options) => {
            mount(Some("tmpfs"), &onto, Some("tmpfs"), plain, Some(options))?;
        }
        Place::Hidden => mount(
            Some("tmpfs"),
            &onto,
            Some("tmpfs"),
            plain | MsFlags::MS_RDONLY,
            Some("mode=0755"),
        )?,
        Place::Covered => bind(Path::new(NOTHING), &target, &at, MsFlags::MS_RDONLY)?,
        Place::Writable => bind(&through(&opened(path)?), &target, &at, MsFlags::empty())?,
        Place::Shown | Place::Kept => {
            let source = match opened(path) {
                Ok(source) => source,
                Err(_) if place == Place::Shown => return Ok(()),
                Err(error) => return Err(error),
            };
            let about = fstat(&source)?;
            let format =
                nix::sys::stat::SFlag::from_bits_truncate(about.st_mode) & nix::sys::stat::SFlag::S_IFMT;
            if format == nix::sys::stat::SFlag::S_IFREG {
                return bind(&through(&source), &target, &at, MsFlags::MS_RDONLY);
            }
            if format != nix::sys::stat::SFlag::S_IFDIR {
                return Ok(()); // What lies below is an overlay's.
            }
            // By its number, since a path may hold what separates options.
            let options = format!("lowerdir=/proc/self/fd/{}:{EMPTY}", source.as_raw_fd());
            match mount(
                Some("overlay"),
                &onto,
                Some("overlay"),
                plain | MsFlags::MS_RDONLY,
                Some(options.as_str()),
            ) {
                Ok(()) => {}
                Err(_)
                    if mounts
                        .get(path)
                        .is_some_and(|kind| SOCKETLESS.contains(&kind.as_str())) =>
                {
                    bind(&through(&source), &target, &at, MsFlags::MS_RDONLY)?;
                }
                Err(nix::Error::ENODEV) => {
                    bail!("the kernel has no overlay file system; try `modprobe overlay`")
                }
                Err(error) if place == Place::Kept => return Err(error).context("cannot mount an overlay"),
                // Of what can't be shown without its sockets, nothing is.
                Err(_) => mount(
                    Some("tmpfs"),
                    &onto,
                    Some("tmpfs"),
                    plain | MsFlags::MS_RDONLY,
                    none,
                )?,
            }
        }
    }
    Ok(())
}

/// Binds something, without set-user-id programs and devices, and with the restrictions of its own mount.
fn bind(source: &Path, target: &Path, at: &OwnedFd, more: MsFlags) -> Result<()> {
    let none = None::<&str>;
    mount(Some(source), &through(at), none, MsFlags::MS_BIND, none)?;
    let top = opened(target)?; // `at` lies below what was just mounted.
    restrict(&top, more | MsFlags::MS_NOSUID | MsFlags::MS_NODEV)
}

fn restrict(mounted: &OwnedFd, flags: MsFlags) -> Result<()> {
    use nix::sys::statvfs::{FsFlags, fstatvfs};
    let has = fstatvfs(mounted.as_fd())?.flags();
    let mut flags = flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
    for (has_it, keep) in [
        (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
    ] {
        if has.contains(has_it) {
            flags |= keep;
        }
    }
    let none = None::<&str>;
    Ok(mount(none, &through(mounted), none, flags, none)?)
}

/// A place in the new root.
fn inside(path: &Path) -> PathBuf {
    Path::new(ROOT).join(path.strip_prefix("/").unwrap_or(path))
}

/// Opens a place itself: whoever can write there must not lead a mount elsewhere by a symbolic link.
fn opened(path: &Path) -> Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(AT_FDCWD, path, how).with_context(|| format!("cannot open {}", path.display()))
}

fn through(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Mount points and their kinds of file system; of several on one place the uppermost.
fn mounts() -> Result<BTreeMap<PathBuf, String>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(text
        .lines()
        .filter_map(|line| {
            let (place, kind) = line.split_once(" - ")?;
            Some((
                unescaped(place.split(' ').nth(4)?),
                kind.split(' ').next()?.to_owned(),
            ))
        })
        .collect())
}

/// A path of mountinfo, where blanks, tabs, newlines and backslashes are octal.
fn unescaped(text: &str) -> PathBuf {
    let mut path = text.to_owned();
    for (code, character) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        path = path.replace(code, character);
    }
    PathBuf::from(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(writable: &str, kept: &[&str], hidden: &[&str]) -> View {
        let paths = |texts: &[&str]| texts.iter().map(PathBuf::from).collect::<Vec<_>>();
        View {
            here: PathBuf::from(writable),
            writable: paths(&[writable]),
            kept: paths(kept),
            hidden: paths(hidden),
        }
    }

    #[test]
    fn what_is_kept_in_a_writable_directory_is_pinned_up_to_it() {
        let root = Path::new("/srv/job");
        let conf = root.join("a/b/conf");
        let mounts = BTreeMap::from([
            (PathBuf::from("/"), "ext4".to_owned()),
            (PathBuf::from("/opt/data"), "xfs".to_owned()),
            (PathBuf::from("/opt/cg"), "cgroup2".to_owned()),
            (PathBuf::from("/run/secrets"), "tmpfs".to_owned()),
        ]);
        let plan = plan(
            &view(
                "/srv/job",
                &["/srv/job/a/b/conf", "/etc/policies"],
                &["/srv/record", "/tmp/record"],
            ),
            &mounts,
            vec![root.join("a/s.sock")],
        );
        assert_eq!(plan.get(&root.join("a/s.sock")), Some(&Place::Covered));
        assert_eq!(plan.get(root), Some(&Place::Writable));
        assert_eq!(plan.get(&root.join("a")), Some(&Place::Writable));
        assert_eq!(plan.get(&root.join("a/b")), Some(&Place::Writable));
        assert_eq!(plan.get(&conf), Some(&Place::Kept));
        assert_eq!(plan.get(Path::new("/srv/record")), Some(&Place::Hidden));
        assert_eq!(plan.get(Path::new("/opt/data")), Some(&Place::Shown));
        for absent in ["/etc/policies", "/tmp/record", "/opt/cg", "/run/secrets"] {
            assert_eq!(plan.get(Path::new(absent)), None, "{absent}");
        }
    }

    #[test]
    fn blanks_in_mount_points_are_read() {
        assert_eq!(unescaped("/a\\040b\\134040"), PathBuf::from("/a b\\040"));
    }
}
