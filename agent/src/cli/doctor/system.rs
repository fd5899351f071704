//! What can be read without asking the kernel for programs: versions, mounts, rights, clock, space.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use caps::{CapSet, Capability};

use super::Finding;

/// The oldest kernel whose hooks Bailiff's programs fit.
pub(super) const FLOOR: (u32, u32) = (6, 1);

/// What the record takes by default, in bytes.
const RECORD_SPACE: u64 = 1 << 30;

/// 2025-01-01: a clock before it was never set.
const CLOCK_FLOOR: u64 = 1_735_689_600;

pub(super) fn check(record: &Path) -> Vec<Finding> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut findings = vec![
        version(read("/proc/sys/kernel/osrelease").trim()),
        btf(Path::new("/sys/kernel/btf/vmlinux").exists()),
        cgroup2(&read("/proc/self/mountinfo")),
        bpffs(&read("/proc/self/mountinfo")),
        tracefs(),
        capabilities(),
        lockdown(&read("/sys/kernel/security/lockdown")),
        jit(read("/proc/sys/net/core/bpf_jit_enable").trim()),
        clock(
            read("/sys/devices/system/clocksource/clocksource0/current_clocksource").trim(),
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        ),
    ];
    findings.push(ip(&std::env::var_os("PATH").unwrap_or_default()));
    findings.push(space(record));
    findings.push(Finding::note(
        "not covered",
        "Unix sockets that pods share with a database, relays in exempt cgroups",
        "what goes over these is neither decided nor recorded",
        "see ARCHITECTURE.md, \"Absent on purpose, or not there yet\"",
    ));
    findings
}

/// A kernel's version, of what it says itself: `6.1.0-28-amd64`.
pub(super) fn kernel_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release
        .split(|letter: char| !letter.is_ascii_digit())
        .map_while(|number| number.parse::<u32>().ok());
    Some((numbers.next()?, numbers.next()?))
}

fn version(release: &str) -> Finding {
    let Some(kernel) = kernel_of(release) else {
        return Finding::fails(
            "kernel",
            format!("version {release:?} can't be read"),
            "what the kernel has isn't known",
            "mount /proc",
        );
    };
    if kernel < FLOOR {
        return Finding::fails(
            "kernel",
            release,
            "connections can't be refused with an error that clients retry, so nothing is enforced",
            "run Linux 6.1 or newer",
        );
    }
    Finding::ok("kernel", release)
}

fn btf(there: bool) -> Finding {
    if there {
        Finding::ok("BTF", "/sys/kernel/btf/vmlinux")
    } else {
        Finding::note(
            "BTF",
            "/sys/kernel/btf/vmlinux does not exist",
            "sockets' own storage is described by it; the line on kernel programs says whether this kernel takes them without",
            "run a kernel built with CONFIG_DEBUG_INFO_BTF",
        )
    }
}

/// The places and kinds in mountinfo: `… … … root place … - kind source options`.
fn mounts(mountinfo: &str) -> impl Iterator<Item = (&str, &str)> {
    mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        Some((before.split(' ').nth(4)?, after.split(' ').next()?))
    })
}

fn cgroup2(mountinfo: &str) -> Finding {
    let hybrid = mounts(mountinfo).any(|(_, kind)| kind == "cgroup");
    match mounts(mountinfo).find(|(_, kind)| *kind == "cgroup2") {
        Some((place, _)) if hybrid => Finding::ok("cgroup2", format!("{place} (hybrid: v1 beside it)")),
        Some((place, _)) => Finding::ok("cgroup2", place),
        None => Finding::fails(
            "cgroup2",
            "not mounted",
            "there is nothing to hang the hooks on, and pods can't be told apart",
            "boot with systemd.unified_cgroup_hierarchy=1, or: mount -t cgroup2 none /sys/fs/cgroup/unified",
        ),
    }
}

fn bpffs(mountinfo: &str) -> Finding {
    if mounts(mountinfo).any(|(place, kind)| place == "/sys/fs/bpf" && kind == "bpf") {
        return Finding::ok("bpf file system", "/sys/fs/bpf");
    }
    Finding::note(
        "bpf file system",
        "not mounted on /sys/fs/bpf",
        "Bailiff mounts it where it runs; in a container, pins go with that container's mounts unless /sys/fs/bpf is shared",
        "mount -t bpf bpf /sys/fs/bpf",
    )
}

fn tracefs() -> Finding {
    let places = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
    match places
        .iter()
        .find(|place| Path::new(place).join("events/sched").exists())
    {
        Some(place) => Finding::ok("tracefs", *place),
        None => Finding::note(
            "tracefs",
            "not mounted",
            "Bailiff mounts it while it runs, to see processes start and end",
            "mount -t tracefs tracefs /sys/kernel/tracing",
        ),
    }
}

fn capabilities() -> Finding {
    // Those of the chart's agents. The first covers CAP_BPF and CAP_PERFMON.
    let needed = [
        (
            Capability::CAP_SYS_ADMIN,
            "load programs, and enter pods' namespaces",
        ),
        (
            Capability::CAP_NET_ADMIN,
            "destroy connections that are older than their protection",
        ),
        (
            Capability::CAP_SYS_PTRACE,
            "open the namespaces of pods' processes",
        ),
    ];
    let lacking: Vec<String> = needed
        .into_iter()
        .filter(|(capability, _)| !caps::has_cap(None, CapSet::Effective, *capability).unwrap_or(false))
        .map(|(capability, what)| format!("{capability} (to {what})"))
        .collect();
    if lacking.is_empty() {
        return Finding::ok("capabilities", "all that it takes");
    }
    Finding::fails(
        "capabilities",
        format!("not held: {}", lacking.join(", ")),
        "the kernel side can't be put in force, and some checks below can't be made",
        "run as root, or give the agent's container these capabilities",
    )
}

fn lockdown(text: &str) -> Finding {
    let mode = text
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map_or("none", |(mode, _)| mode);
    if mode == "confidentiality" {
        return Finding::note(
            "lockdown",
            mode,
            "programs may not read kernel memory; if Bailiff's are refused below, this is why",
            "boot with lockdown=integrity",
        );
    }
    Finding::ok("lockdown", mode)
}

fn jit(enabled: &str) -> Finding {
    if enabled == "0" {
        return Finding::note(
            "BPF compiler",
            "off",
            "the hooks are interpreted, so that each connect and packet takes longer",
            "sysctl -w net.core.bpf_jit_enable=1",
        );
    }
    Finding::ok("BPF compiler", if enabled.is_empty() { "built in" } else { "on" })
}

fn clock(source: &str, now: u64) -> Finding {
    if now < CLOCK_FLOOR {
        return Finding::fails(
            "clock",
            "the date lies before 2025",
            "the record's times are wrong",
            "set the clock, and keep it by chrony or systemd-timesyncd",
        );
    }
    if matches!(source, "hpet" | "acpi_pm" | "refined-jiffies" | "jiffies" | "xen") {
        return Finding::note(
            "clock",
            source,
            "each reading of the time is a system call, and every statement takes some",
            "choose one from /sys/devices/system/clocksource/clocksource0/available_clocksource",
        );
    }
    Finding::ok("clock", source)
}

fn ip(path: &std::ffi::OsStr) -> Finding {
    let found = std::env::split_paths(path)
        .map(|directory| directory.join("ip"))
        .find(|place| place.is_file());
    match found {
        Some(place) => Finding::ok("ip", place.display().to_string()),
        None => Finding::note(
            "ip",
            "not in PATH",
            "`bailiff run` can't make sandboxes; enforcing on pods doesn't take it",
            "apt-get install iproute2",
        ),
    }
}

fn space(record: &Path) -> Finding {
    let existing = record
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let about = match nix::sys::statvfs::statvfs(existing) {
        Ok(about) => about,
        Err(error) => {
            return Finding::fails(
                "record's disk",
                format!("{}: {error}", existing.display()),
                "sessions can't be recorded",
                "choose another with --record-dir",
            );
        }
    };
    let free = about.blocks_available().saturating_mul(about.fragment_size());
    let found = format!("{}: {} MiB free", existing.display(), free >> 20);
    if about.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY) {
        return Finding::fails(
            "record's disk",
            format!("{} is read-only", existing.display()),
            "sessions can't be recorded",
            "choose another with --record-dir",
        );
    }
    if free < RECORD_SPACE {
        return Finding::note(
            "record's disk",
            found,
            "the record takes up to 1 GiB by default; on a full disk, targets' `whenFull` decides whether statements wait",
            "free some, choose another with --record-dir, or give `run` a smaller --record-mib",
        );
    }
    Finding::ok("record's disk", found)
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    #[test]
    fn kernels_are_told_by_number() {
        for (release, outcome) in [
            ("6.1.0-28-amd64", Outcome::Ok),
            ("6.18.3", Outcome::Ok),
            ("10.0", Outcome::Ok),
            ("5.15.0-100-generic", Outcome::Fails),
            ("6.0.19", Outcome::Fails),
            ("", Outcome::Fails),
        ] {
            assert_eq!(version(release).outcome, outcome, "{release}");
        }
    }

    #[test]
    fn cgroup2_is_found_whole_hybrid_or_not_at_all() {
        let whole = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw";
        assert_eq!(cgroup2(whole), Finding::ok("cgroup2", "/sys/fs/cgroup"));
        let hybrid = "31 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      32 23 0:28 / /sys/fs/cgroup/unified rw shared:3 - cgroup2 none rw";
        let found = cgroup2(hybrid);
        assert_eq!(found.outcome, Outcome::Ok);
        assert!(
            found.found.starts_with("/sys/fs/cgroup/unified (hybrid"),
            "{found:?}"
        );
        let none = "31 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu";
        assert_eq!(cgroup2(none).outcome, Outcome::Fails);
    }

    #[test]
    fn clocks_and_lockdown_are_read() {
        assert_eq!(clock("tsc", CLOCK_FLOOR).outcome, Outcome::Ok);
        assert_eq!(clock("hpet", CLOCK_FLOOR).outcome, Outcome::Note);
        assert_eq!(clock("tsc", 0).outcome, Outcome::Fails);
        assert_eq!(
            lockdown("none [integrity] confidentiality\n"),
            Finding::ok("lockdown", "integrity")
        );
        assert_eq!(
            lockdown("none integrity [confidentiality]").outcome,
            Outcome::Note
        );
        assert_eq!(lockdown("").outcome, Outcome::Ok);
    }

    #[test]
    fn a_record_that_is_to_be_made_is_judged_by_what_is_above_it() {
        let found = space(Path::new("/proc/self/nowhere/record"));
        assert!(found.found.starts_with("/proc/"), "{found:?}");
    }
}
