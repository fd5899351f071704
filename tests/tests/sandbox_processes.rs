//! Ways through other processes: the agent's, the host's, those that outlive the command.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{Escape, Invoker, check};
use serde_json::json;

#[test]
fn the_agents_process() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let agent = escape.lab.start()?;
    let pid = agent.pid();
    let start = first_mapping(pid)?;
    let on = |attempt: &'static str| (attempt, json!({ "pid": pid }));
    let vm = |which: &str| ("vm", json!({ "which": which, "pid": pid, "address": start }));
    let attempts = [
        ("kill", json!({ "pid": pid, "number": 0 })),
        on("pidfd"),
        on("pidfd_getfd"),
        on("ptrace"),
        vm("process_vm_readv"),
        vm("process_vm_writev"),
        on("mem"),
        on("fds"),
        on("root_of"),
    ];
    escape.succeed(&attempts)?;
    escape.fail(&attempts, &["ESRCH", "ENOENT"])?;
    // It still decides.
    let mut session = escape.lab.session(&agent)?;
    ensure!(session.value("select 1")? == "1");
    Ok(())
}

#[test]
fn what_can_be_seen_of_other_processes() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let host = Host::start()?;
    let attempts = [("in_sight", json!({}))];
    let outside = escape.succeed(&attempts)?;
    ensure!(outside.iter().all(|seen| seen.contains("sleep")), "{outside:?}");
    for invoker in Invoker::ALL {
        let report = escape.inside(invoker, &attempts)?;
        let seen = report.told.first().and_then(|told| told.got.clone());
        ensure!(seen.as_deref() == Some("bailiff,python3,python3"), "{seen:?}");
    }
    drop(host);
    Ok(())
}

/// Killing all that can be killed has no harmless counterpart outside.
#[test]
fn signals_to_everybody() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let agent = escape.lab.start()?;
    let mut host = Host::start()?;
    for invoker in Invoker::ALL {
        let mut run =
            escape
                .lab
                .enforced
                .run(&["sh", "-c", "sleep 600 & kill -KILL -1; wait $!; echo $?"])?;
        invoker.calls(&mut run);
        let output = check(run.current_dir(escape.place()))?;
        ensure!(
            String::from_utf8_lossy(&output.stdout).trim() == "137",
            "{output:?}"
        );
    }
    ensure!(host.0.try_wait()?.is_none(), "a process of the host's has ended");
    ensure!(escape.lab.session(&agent)?.value("select 1")? == "1");
    Ok(())
}

#[test]
fn programs_that_run_as_their_owner() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let place = tempfile::Builder::new()
        .prefix("bailiff-test-")
        .tempdir_in("/var/lib")?;
    std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755))?;
    for directory in [place.path(), escape.place()] {
        let program = directory.join("id");
        std::fs::copy("/usr/bin/id", &program)?;
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o6755))?;
        let attempts = [("set_user_id", json!({ "program": program }))];
        let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        escape.succeed_by(&nobody, &attempts, &[])?;
        let report = escape.inside(Invoker::Sudo, &attempts)?;
        ensure!(
            report
                .told
                .iter()
                .all(|told| told.refused.as_deref() == Some("65534")),
            "{report:?}"
        );
        escape.in_force(&report)?;
    }
    // Root's own number comes without its rights.
    for invoker in Invoker::ALL {
        let mut run = escape.lab.enforced.run(&["cat", "/proc/self/status"])?;
        invoker.calls(&mut run);
        let output = check(run.current_dir(escape.place()))?;
        let status = String::from_utf8_lossy(&output.stdout).into_owned();
        let nothing = "0000000000000000";
        for line in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            ensure!(status.contains(&format!("{line}:\t{nothing}")), "{status}");
        }
        ensure!(status.contains("NoNewPrivs:\t1"), "{status}");
        let uid = invoker.uid();
        ensure!(
            status.contains(&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}")),
            "{status}"
        );
    }
    Ok(())
}

#[test]
fn keyrings() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let attempts = ["add_key", "keyctl", "request_key"].map(|call| (call, json!({})));
    escape.are_no_ways(&attempts, &["EPERM"])
}

#[test]
fn calls_that_reach_into_the_kernel() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let attempts = ["userfaultfd", "perf"].map(|call| (call, json!({})));
    escape.are_no_ways(&attempts, &["EPERM"])?;
    let modules =
        ["init_module", "finit_module", "delete_module"].map(|which| ("module", json!({ "which": which })));
    // A kernel without modules has no such calls, and one with them takes none of these; neither says EPERM to root.
    for told in escape.outside(&modules)?.told {
        ensure!(told.refused.is_some_and(|refused| refused != "EPERM"));
    }
    escape.fail(&modules, &["EPERM"])
}

#[test]
fn descriptors_that_were_open_where_it_was_called() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let place = tempfile::Builder::new()
        .prefix("bailiff-test-")
        .tempdir_in("/tmp")?;
    std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755))?;
    std::fs::write(place.path().join("secret"), "escaped")?;
    let place = place.path().display().to_string();
    let opening = ["sh", "-c", "exec \"$@\" 9<\"$0\"", place.as_str()];
    let attempts =
        ["self", "1"].map(|process| ("descriptors", json!({ "process": process, "name": "secret" })));
    let [own, _] = &attempts;
    ensure!(escape.succeed_by(&opening, std::slice::from_ref(own), &[])? == ["escaped"]);
    for invoker in Invoker::ALL {
        let inner = escape.lab.enforced.run(&[])?;
        let mut outer = Command::new("sh");
        outer
            .args(opening.iter().skip(1))
            .arg(inner.get_program())
            .args(inner.get_args());
        let report = escape.inside_of(&mut outer, invoker, &attempts, &[])?;
        for told in &report.told {
            let refused = told.refused.as_deref().unwrap_or_default();
            ensure!(
                ["not there", "EACCES"].contains(&refused),
                "{invoker:?}: {report:?}"
            );
        }
        escape.in_force(&report)?;
    }
    Ok(())
}

#[test]
fn directories_as_standard_input() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let output = escape
        .lab
        .enforced
        .run(&["ls", "/proc/self/fd/0/"])?
        .stdin(File::open("/etc")?)
        .output()?;
    ensure!(
        output.status.code() == Some(125) && output.stdout.is_empty(),
        "{output:?}"
    );
    Ok(())
}

#[test]
fn a_process_that_outlives_the_command() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let marker = format!("bailiff-test-daemon-{}", std::process::id());
    let daemon = |mark: &str| {
        let mark = escape.place().join(mark);
        [("daemon", json!({ "mark": mark, "marker": marker }))]
    };
    escape.succeed(&daemon("outside"))?;
    let left = with_marker(&marker)?;
    ensure!(left.len() == 1, "{left:?}");
    for pid in left {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
    }
    for (invoker, mark) in [(Invoker::Root, "root"), (Invoker::Sudo, "sudo")] {
        let report = escape.inside(invoker, &daemon(mark))?;
        ensure!(report.told.iter().all(|told| told.got.is_some()), "{report:?}");
        ensure!(escape.place().join(mark).exists());
        let left = with_marker(&marker)?;
        // What was killed outside may still be there to be collected, without a command line.
        ensure!(left.is_empty(), "{invoker:?}: {left:?}");
    }
    Ok(())
}

/// Processes with a word on their command line, other than this one.
fn with_marker(marker: &str) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&words).contains(marker) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Where the memory of a process begins that it may write.
fn first_mapping(pid: u32) -> Result<u64> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let line = maps
        .lines()
        .find(|line| line.contains(" rw"))
        .context("no mapping")?;
    let (start, _) = line.split_once('-').context("no address")?;
    Ok(u64::from_str_radix(start, 16)?)
}

/// A process of the host's that does nothing.
struct Host(Child);

impl Host {
    fn start() -> Result<Self> {
        Ok(Self(
            Command::new("sleep").arg("600").stdin(Stdio::null()).spawn()?,
        ))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
