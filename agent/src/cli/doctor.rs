//! `bailiff doctor`: what this node lacks, and what that costs.

use std::path::Path;
use std::process::ExitCode;

use bailiff_kernel::{cgroup, probe};
use caps::{CapSet, Capability};

/// Check this node: what is missing, what that costs, and what to do about it.
///
/// Exits with 1 if something is missing without which nothing works.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fine,
    /// It works without, but not all of it.
    Less,
    /// Nothing works without.
    Missing,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Less => "less",
            Self::Missing => "missing",
        }
    }
}

struct Check {
    what: &'static str,
    state: State,
    found: String,
    /// What it costs and the mend, where it isn't fine.
    cost: &'static str,
}

impl Check {
    fn of(what: &'static str, state: State, found: impl Into<String>, cost: &'static str) -> Self {
        Self {
            what,
            state,
            found: found.into(),
            cost,
        }
    }
}

pub(crate) fn run(args: &Args) -> ExitCode {
    let checks = checks();
    if args.json {
        let rows: Vec<_> = checks
            .iter()
            .map(|check| {
                serde_json::json!({
                    "check": check.what,
                    "state": check.state.as_str(),
                    "found": check.found,
                    "cost": (check.state != State::Fine).then_some(check.cost),
                })
            })
            .collect();
        println!("{}", serde_json::Value::Array(rows));
    } else {
        for check in &checks {
            println!("{:<8} {:<22} {}", check.state.as_str(), check.what, check.found);
            if check.state != State::Fine {
                println!("{:<31} {}", "", check.cost);
            }
        }
    }
    ExitCode::from(u8::from(checks.iter().any(|check| check.state == State::Missing)))
}

fn checks() -> Vec<Check> {
    let mut checks = vec![kernel(), capabilities(), btf(), object(), bpffs()];
    checks.extend(hierarchy());
    checks.push(uncovered());
    checks
}

fn kernel() -> Check {
    let cost = "Bailiff needs Linux 6.1 or later: refusals reach clients as ECONNREFUSED only there. Upgrade the kernel";
    match probe::kernel_version() {
        Ok((major, minor)) => {
            let state = if (major, minor) >= (6, 1) {
                State::Fine
            } else {
                State::Missing
            };
            let guard = if (major, minor) >= (6, 6) { "tcx" } else { "clsact" };
            Check::of(
                "kernel",
                state,
                format!("{major}.{minor}; host-side guards by {guard}"),
                cost,
            )
        }
        Err(error) => Check::of("kernel", State::Missing, error.to_string(), cost),
    }
}

fn capabilities() -> Check {
    let needed = [
        Capability::CAP_BPF,
        Capability::CAP_NET_ADMIN,
        Capability::CAP_SYS_ADMIN,
        Capability::CAP_PERFMON,
    ];
    let missing: Vec<String> = needed
        .into_iter()
        .filter(|capability| !caps::has_cap(None, CapSet::Effective, *capability).unwrap_or(false))
        .map(|capability| capability.to_string())
        .collect();
    let cost = "without these no program can be loaded; run as root, or give them in the DaemonSet's securityContext";
    if missing.is_empty() {
        Check::of(
            "capabilities",
            State::Fine,
            "BPF, NET_ADMIN, SYS_ADMIN, PERFMON",
            cost,
        )
    } else {
        Check::of(
            "capabilities",
            State::Missing,
            format!("not held: {}", missing.join(", ")),
            cost,
        )
    }
}

fn btf() -> Check {
    let there = Path::new("/sys/kernel/btf/vmlinux").exists();
    let state = if there { State::Fine } else { State::Missing };
    let found = if there {
        "/sys/kernel/btf/vmlinux"
    } else {
        "the kernel has none"
    };
    Check::of(
        "BTF",
        state,
        found,
        "sockets' own storage needs it; use a kernel with CONFIG_DEBUG_INFO_BTF",
    )
}

fn object() -> Check {
    match probe::has_object() {
        Ok(()) => Check::of("kernel programs", State::Fine, "found", ""),
        Err(error) => Check::of(
            "kernel programs",
            State::Missing,
            error.to_string(),
            "run `cargo xtask build`",
        ),
    }
}

fn bpffs() -> Check {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let there = mounts.lines().any(|line| line.contains(" - bpf "));
    let found = if there {
        "mounted"
    } else {
        "not mounted; Bailiff mounts it on /sys/fs/bpf while it runs"
    };
    Check::of("bpf file system", State::Fine, found, "")
}

fn hierarchy() -> Vec<Check> {
    let cost = "pods are told apart by cgroup v2; boot with systemd.unified_cgroup_hierarchy=1, or mount cgroup2 beside v1";
    match cgroup::mount() {
        Err(error) => vec![Check::of("cgroup2", State::Missing, error.to_string(), cost)],
        Ok(mount) => {
            let hybrid = mount != Path::new("/sys/fs/cgroup");
            let form = if hybrid { "hybrid hierarchy" } else { "cgroup v2" };
            let neighbours = match probe::neighbours(&mount) {
                Ok(found) if found.is_empty() => Check::of(
                    "other programs",
                    State::Fine,
                    "none on the hooks at the cgroup root",
                    "",
                ),
                Ok(found) => {
                    let list: Vec<_> = found
                        .iter()
                        .map(|(hook, count)| format!("{hook}: {count}"))
                        .collect();
                    Check::of(
                        "other programs",
                        State::Fine,
                        format!("{}; they are left alone", list.join(", ")),
                        "",
                    )
                }
                Err(error) => Check::of(
                    "other programs",
                    State::Less,
                    error.to_string(),
                    "a mesh or CNI on the same hooks can't be seen; run as root to see it",
                ),
            };
            vec![
                Check::of(
                    "cgroup2",
                    State::Fine,
                    format!("{} ({form})", mount.display()),
                    cost,
                ),
                neighbours,
            ]
        }
    }
}

/// What no check can mend.
fn uncovered() -> Check {
    Check::of(
        "not covered",
        State::Less,
        "Unix sockets that pods share with a database, relays in exempt cgroups, TLS to databases",
        "see ARCHITECTURE.md, \"Absent on purpose, or not there yet\"",
    )
}
