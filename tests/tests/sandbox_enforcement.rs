//! Ways to leave the cgroup, to take the kernel side down, and to see or change files that hold it.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use bailiff_kernel::cgroup;
use bailiff_tests::{Attempt, Escape, Invoker, bailiff};
use serde_json::{Value, json};

#[test]
fn moving_to_another_cgroup() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let own = Cgroup::create("move")?;
    let at = escape.place().join("cgroups");
    let mounting = [
        ("cgroup_mount", json!({ "at": at })),
        ("cgroup_fsmount", json!({})),
    ];
    let writing = |root: &Path| [("cgroup_write", json!({ "root": root }))];
    escape.succeed_by(&own.inner(), &writing(&own.0), &[])?;
    escape.succeed_by(&own.inner(), &mounting, &[])?;
    for root in [cgroup::mount()?, PathBuf::from("/sys")] {
        escape.fail(&writing(&root), &["no way: "])?;
    }
    escape.fail(&mounting, &["EPERM"])
}

#[test]
fn beginning_in_another_cgroup() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let own = Cgroup::create("clone")?;
    let directory = File::open(&own.0)?;
    let attempts = [("cgroup_clone3", json!({}))];
    escape.succeed_by(&own.inner(), &attempts, &[directory.as_fd()])?;
    escape.fail_with(&attempts, &["ENOSYS"], &[directory.as_fd()])
}

#[test]
fn unpinning_and_detaching() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    // Another instance is the one to be taken down, since its names are known; whoever can't harm that can't harm its own.
    let agent = escape.lab.start()?;
    let pins = PathBuf::from(format!("/sys/fs/bpf/bailiff-{:x}", agent.pid()));
    let before = files(&pins)?;
    ensure!(!before.is_empty(), "nothing is pinned in {}", pins.display());
    // What may be removed outside, too, to show that it can be.
    let link = PathBuf::from(format!("/sys/fs/bpf/bailiff-test-link-{}", std::process::id()));
    std::os::unix::fs::symlink("nowhere", &link)?;
    let _gone = Removed(link.clone());
    escape.succeed(&[("unpin", json!({ "path": link }))])?;
    let unpinning: Vec<Attempt<'_>> = before
        .iter()
        .map(|path| ("unpin", json!({ "path": path })))
        .collect();
    escape.fail(&unpinning, &["ENOENT", "EROFS"])?;

    // The next program, map and link: how all are found.
    const NEXT: [u32; 3] = [11, 12, 31];
    let mut calls: Vec<Attempt<'_>> = before
        .iter()
        .map(|path| ("bpf_get", json!({ "path": path })))
        .collect();
    calls.extend(NEXT.map(|command| ("bpf_next", json!({ "command": command }))));
    calls.push(("bpf_map_create", json!({})));
    calls.push(("bpf_mount", json!({ "at": escape.place().join("pins") })));
    let link = aya::programs::loaded_links()
        .flatten()
        .next()
        .context("no link")?;
    calls.push(("bpf_link", json!({ "id": link.id() })));
    escape.are_no_ways(&calls, &["EPERM"])?;

    ensure!(files(&pins)? == before, "pins have gone");
    let mut session = escape.lab.session(&agent)?;
    let answer = session.ask("create table escaped ()")?;
    ensure!(
        answer
            .iter()
            .any(|message| message.sqlstate().as_deref() == Some("42501")),
        "{answer:?}"
    );
    Ok(())
}

#[test]
fn uncovering_what_lies_below_mounts() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let at = escape.place().join("mounted");
    std::fs::create_dir(&at)?;
    let covered = "mount -t tmpfs tmpfs \"$0\" && exec \"$@\"";
    let at = at.display().to_string();
    let by = ["unshare", "--mount", "sh", "-c", covered, &at];
    escape.succeed_by(&by, &[("umount_each", json!({ "paths": [at] }))], &[])?;
    let record = escape.lab.enforced.record();
    let paths = json!([
        "/",
        "/tmp",
        "/run",
        "/var/tmp",
        "/dev",
        "/proc",
        "/proc/sys",
        "/proc/kcore",
        "/sys",
        record
    ]);
    escape.fail(&[("umount_each", json!({ "paths": paths }))], &["EPERM"])
}

#[test]
fn mounting() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let at = escape.place().join("at");
    let attempts = [
        "mount",
        "bind",
        "remount",
        "open_tree",
        "move_mount",
        "fsopen",
        "mount_setattr",
        "chroot",
        "pivot_root",
    ]
    .map(|which| ("mounting", json!({ "which": which, "at": at })));
    escape.succeed_by(&["unshare", "--mount"], &attempts, &[])?;
    escape.fail(&attempts, &["EPERM"])
}

#[test]
fn opening_files_by_their_handles() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let directory = tempfile::Builder::new()
        .prefix("bailiff-test-")
        .tempdir_in("/var/lib")?;
    std::fs::write(directory.path().join("secret"), "escaped")?;
    let handle = escape.succeed(&[("handle_of", json!({ "path": directory.path() }))])?;
    let handle: Value = serde_json::from_str(handle.first().map_or("", String::as_str))?;
    let attempts = [(
        "open_by_handle",
        json!({ "handle": handle, "mount": "/", "name": "secret" }),
    )];
    ensure!(escape.succeed(&attempts)? == ["escaped"]);
    escape.fail(&attempts, &["EPERM"])
}

#[test]
fn files_of_the_hosts_that_steer_it_or_its_users() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let mut files = Vec::new();
    for place in [
        "/etc",
        "/etc/cron.d",
        "/usr/local/bin",
        "/var/lib",
        "/var/spool/cron",
        "/root",
        "/opt",
        "/home",
    ] {
        if Path::new(place).is_dir() {
            let file = tempfile::Builder::new()
                .prefix(".bailiff-test-")
                .tempfile_in(place)?;
            let all = std::os::unix::fs::PermissionsExt::from_mode(0o666);
            std::fs::set_permissions(file.path(), all)?;
            files.push(file);
        }
    }
    let attempts: Vec<Attempt<'_>> = files
        .iter()
        .map(|file| ("write", json!({ "path": file.path() })))
        .collect();
    escape.are_no_ways(&attempts, &["EROFS", "EACCES"])?;
    for file in &files {
        // Once, outside.
        ensure!(
            std::fs::read_to_string(file.path())? == "x",
            "{}",
            file.path().display()
        );
    }
    Ok(())
}

#[test]
fn files_by_which_the_kernel_is_steered() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let present = |paths: &[&str], attempt: &'static str| -> Vec<Attempt<'static>> {
        let there = paths.iter().filter(|path| Path::new(path).exists());
        there.map(|path| (attempt, json!({ "path": path }))).collect()
    };
    let steering = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/vm/drop_caches",
        "/proc/sysrq-trigger",
        "/sys/kernel/mm/ksm/run",
        "/sys/kernel/uevent_helper",
        "/sys/power/state",
    ];
    let attempts = present(&steering, "open_to_write");
    ensure!(attempts.len() >= 3, "{attempts:?}");
    escape.are_no_ways(&attempts, &["EROFS", "EACCES"])?;
    let attempts = present(
        &[
            "/dev/kmsg",
            "/dev/mem",
            "/dev/vda",
            "/dev/sda",
            "/dev/fuse",
            "/dev/net/tun",
        ],
        "open_to_read",
    );
    ensure!(!attempts.is_empty());
    let outside = escape.outside(&attempts)?;
    ensure!(outside.told.iter().any(|told| told.got.is_some()), "{outside:?}");
    escape.fail(&attempts, &["ENOENT"])?;
    let device = json!({ "path": escape.place().join("device") });
    escape.are_no_ways(&[("make_device", device)], &["EPERM"])
}

/// The policies and the record lie where the command may write.
#[test]
fn the_policies_and_the_record_in_the_workplace() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let (config, record) = (escape.place().join("a/config"), escape.place().join("a/record"));
    std::fs::create_dir_all(&config)?;
    for file in ["target.yaml", "policy.yaml"] {
        std::fs::copy(escape.lab.enforced.config().join(file), config.join(file))?;
    }
    let everybody =
        |path: &Path| std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777));
    for path in [&escape.place().join("a"), &config, &config.join("policy.yaml")] {
        everybody(path)?;
    }
    std::fs::create_dir(&record)?;
    std::fs::write(record.join("before.jsonl"), "a secret")?;
    // A link to the record on the way to it.
    let link = escape.place().join("link");
    std::os::unix::fs::symlink("a", &link)?;
    let attempts = [
        ("write", json!({ "path": config.join("policy.yaml") })),
        ("create", json!({ "path": config.join("more.yaml") })),
        (
            "rename",
            json!({ "path": config, "to": escape.place().join("moved") }),
        ),
        (
            "rename",
            json!({ "path": escape.place().join("a"), "to": escape.place().join("moved") }),
        ),
        (
            "rename",
            json!({ "path": record, "to": escape.place().join("moved") }),
        ),
        ("create", json!({ "path": record.join("forged.jsonl") })),
        ("read", json!({ "path": record.join("before.jsonl") })),
        ("read", json!({ "path": link.join("record/before.jsonl") })),
    ];
    escape.succeed(&attempts)?;
    std::fs::copy(
        escape.lab.enforced.config().join("policy.yaml"),
        config.join("policy.yaml"),
    )?;
    for invoker in Invoker::ALL {
        let mut run = Command::new(bailiff()?);
        run.arg("run")
            .arg("--config")
            .arg(&config)
            .arg("--record-dir")
            .arg(link.join("record"))
            .arg("--");
        let report = escape.inside_of(&mut run, invoker, &attempts, &[])?;
        for (attempt, told) in attempts.iter().zip(&report.told) {
            let ways = ["EROFS", "EACCES", "EBUSY", "EXDEV", "ENOENT"];
            ensure!(
                told.refused
                    .as_deref()
                    .is_some_and(|refused| ways.contains(&refused)),
                "{attempt:?} by {invoker:?}: {told:?}"
            );
        }
        escape.in_force(&report)?;
    }
    // What is neither can be written there.
    let report = escape.inside(
        Invoker::Root,
        &[("create", json!({ "path": escape.place().join("mine") }))],
    )?;
    ensure!(report.told.iter().all(|told| told.got.is_some()), "{report:?}");
    Ok(())
}

/// Everything in a directory and below.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A cgroup of the test's own with one below it.
struct Cgroup(PathBuf);

impl Cgroup {
    fn create(name: &str) -> Result<Self> {
        let this = Self(cgroup::mount()?.join(format!("bailiff-test-sandbox-{name}-{}", std::process::id())));
        std::fs::create_dir_all(this.0.join("inner"))?;
        Ok(this)
    }

    /// How a program is started in the inner one.
    fn inner(&self) -> [&str; 4] {
        [
            "sh",
            "-c",
            "echo $$ > \"$0/inner/cgroup.procs\"; exec \"$@\"",
            self.0.to_str().unwrap_or_default(),
        ]
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = cgroup::end(&self.0);
    }
}

struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
