//! What only the kernel itself can say: whether it takes the programs, and who else hangs on its hooks.

use std::collections::BTreeSet;
use std::path::Path;

use bailiff_kernel::probe::{self, Attached};
use bailiff_kernel::{KernelError, cgroup};

use super::Finding;

pub(super) fn check() -> Vec<Finding> {
    let mut findings = vec![program_types(), programs(), guard(), older_connections()];
    if let Ok(root) = cgroup::mount() {
        findings.push(match probe::attached(&root) {
            Ok(attached) => others(&root, &attached),
            Err(error) => Finding::note(
                "other programs",
                error.to_string(),
                "whether somebody else has programs on the same hooks isn't known; Bailiff's links stack with theirs",
                "run as root",
            ),
        });
    }
    findings
}

fn program_types() -> Finding {
    match probe::missing_program_types() {
        Ok(missing) if missing.is_empty() => Finding::ok("program types", "all that it takes"),
        Ok(missing) => Finding::fails(
            "program types",
            format!("without {}", missing.join(", ")),
            "the hooks can't be attached",
            "run a kernel with CONFIG_CGROUP_BPF, CONFIG_NET_CLS_BPF and CONFIG_BPF_EVENTS",
        ),
        Err(error) => Finding::fails(
            "program types",
            first_line(&error),
            "what the kernel has isn't known",
            "run as root",
        ),
    }
}

fn programs() -> Finding {
    match probe::verify_programs() {
        Ok(count) => Finding::ok("kernel programs", format!("{count}, all accepted by this kernel")),
        Err(error @ KernelError::NoObject { .. }) => Finding::fails(
            "kernel programs",
            error.to_string(),
            "nothing can be enforced",
            "run `cargo xtask build`",
        ),
        Err(error) => Finding::fails(
            "kernel programs",
            first_line(&error),
            "nothing can be enforced",
            "see what is missing above; as root, this line is the kernel's own refusal",
        ),
    }
}

/// The verifier's whole log is for developers, and this is the doctor already.
fn first_line(error: &KernelError) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.split(". `bailiff doctor`").next().unwrap_or(line).to_owned()
}

fn guard() -> Finding {
    if probe::has_tcx() {
        return Finding::ok("host-side guard", "by tcx");
    }
    Finding::note(
        "host-side guard",
        "no tcx (it takes Linux 6.6, and CAP_NET_ADMIN to ask)",
        "the guard on pods' links is a clsact filter, which whoever replaces that qdisc takes away",
        "run Linux 6.6 or newer",
    )
}

fn older_connections() -> Finding {
    match probe::can_destroy_connections() {
        Ok(true) => Finding::ok("older connections", "can be destroyed"),
        Ok(false) => Finding::note(
            "older connections",
            "this kernel can't destroy them",
            "what a pod has open when it is enrolled, or when a target is added, goes on past Bailiff until it ends",
            "run a kernel with CONFIG_INET_DIAG_DESTROY, or restart the pods",
        ),
        Err(error) => Finding::note(
            "older connections",
            error.to_string(),
            "whether connections older than their protection can be destroyed isn't known",
            "run as root",
        ),
    }
}

fn others(root: &Path, attached: &[Attached]) -> Finding {
    let own = attached
        .iter()
        .filter(|program| program.program.starts_with("bailiff_"))
        .count();
    let foreign: BTreeSet<String> = attached
        .iter()
        .filter(|program| !program.program.starts_with("bailiff_"))
        .map(|program| {
            let place = program.cgroup.strip_prefix(root).unwrap_or(&program.cgroup);
            format!("{} on {} of /{}", program.program, program.hook, place.display())
        })
        .collect();
    if foreign.is_empty() {
        return Finding::ok(
            "other programs",
            format!("none on these hooks; {own} of Bailiff's"),
        );
    }
    Finding::note(
        "other programs",
        foreign.into_iter().collect::<Vec<_>>().join(", "),
        "they go on working beside Bailiff's; one on connect4 or connect6 that runs first may hide the address that was asked for",
        "name a service's backends as endpoints of the Target too",
    )
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::Outcome;
    use super::*;

    #[test]
    fn own_programs_are_told_from_others() {
        let root = PathBuf::from("/sys/fs/cgroup");
        let attached = |program: &str| Attached {
            cgroup: root.join("kubepods"),
            hook: "connect4",
            program: program.to_owned(),
        };
        let own = others(&root, &[attached("bailiff_connect")]);
        assert_eq!(own.outcome, Outcome::Ok);
        let mixed = others(&root, &[attached("bailiff_connect"), attached("cil_sock4")]);
        assert_eq!(mixed.outcome, Outcome::Note);
        assert_eq!(mixed.found, "cil_sock4 on connect4 of /kubepods");
    }
}
