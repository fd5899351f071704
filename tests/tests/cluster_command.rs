//! `cargo xtask cluster` as a developer uses it: it tells what runs, can be asked twice, and leaves nothing.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{Alone, Listing, check, harness_program, is_root};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

#[test]
fn up_status_and_down_also_after_a_kill() -> Result<()> {
    if !is_root()? {
        return Ok(());
    }
    let _alone = Alone::wait()?;
    others_are_gone()?;
    let before = machine()?;
    let folder = tempfile::Builder::new().prefix("bailiff-cluster-").tempdir()?;
    let down = Down(folder.path());

    let said = cluster(folder.path(), &["status"])?;
    ensure!(
        !said.status.success() && text(&said).contains("cluster up"),
        "{}",
        text(&said)
    );

    let up = ["up", "--control-plane-only"];
    let said = cluster(folder.path(), &up)?;
    ensure!(said.status.success(), "{}", text(&said));
    for expected in [
        "ready after",
        "kube-apiserver",
        "kube-controller-manager",
        "etcd",
        "export KUBECONFIG=",
    ] {
        ensure!(text(&said).contains(expected), "{}", text(&said));
    }
    let said = cluster(folder.path(), &up)?;
    ensure!(
        said.status.success() && text(&said).contains("it runs already"),
        "{}",
        text(&said)
    );
    let said = cluster(folder.path(), &["kubeconfig"])?;
    let kubeconfig = text(&said).trim().to_owned();
    ensure!(Path::new(&kubeconfig).is_file(), "{kubeconfig}");
    ensure!(machine()? != before, "a cluster that is nowhere");

    let said = cluster(folder.path(), &["down"])?;
    ensure!(said.status.success(), "{}", text(&said));
    same(&before)?;
    let said = cluster(folder.path(), &["down"])?;
    ensure!(said.status.success(), "{}", text(&said));

    // With two nodes, too. The process that holds them is killed: their components, cgroups and addresses are there still, and
    // `down` knows them.
    let said = cluster(folder.path(), &["up", "--nodes", "2"])?;
    for expected in ["node-1-kubelet", "node-2-kubelet", ".4.0/22"] {
        ensure!(text(&said).contains(expected), "{}", text(&said));
    }
    let said = cluster(folder.path(), &["status"])?;
    ensure!(text(&said).contains("node-2 "), "{}", text(&said));
    let told: Value = serde_json::from_str(&std::fs::read_to_string(folder.path().join("cluster.json"))?)?;
    let pid = told.get("pid").and_then(Value::as_i64).context("no pid")?;
    kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?;
    drop(down);
    same(&before)
}

/// Clusters of tests that ran before end with their processes, and take a moment for it.
fn others_are_gone() -> Result<()> {
    let until = Instant::now() + Duration::from_secs(60);
    while Command::new("pgrep")
        .args(["-f", "cluster serve --until-end-of-input"])
        .output()?
        .status
        .success()
    {
        ensure!(Instant::now() < until, "another test's cluster doesn't end");
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// The cluster goes, also when the test fails.
struct Down<'a>(&'a Path);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        let said = cluster(self.0, &["down"]);
        assert!(
            std::thread::panicking() || said.is_ok_and(|said| said.status.success()),
            "`cluster down` failed"
        );
    }
}

fn cluster(folder: &Path, args: &[&str]) -> Result<Output> {
    Command::new(harness_program("xtask")?)
        .arg("cluster")
        .args(args)
        .arg("--state")
        .arg(folder)
        .stdin(Stdio::null())
        .output()
        .context("xtask can't be started")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// What a cluster could leave: all that a listing tells, addresses and translations.
fn machine() -> Result<(Listing, String)> {
    let mut told = String::new();
    for words in [
        ["ip", "-o", "addr"],
        ["ip", "-o", "route"],
        ["nft", "list", "tables"],
    ] {
        let [program, rest @ ..] = words;
        told += &String::from_utf8(check(Command::new(program).args(rest))?.stdout)?;
    }
    // The listing looks at the second version's cgroups alone.
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup")?.flatten() {
        for group in std::fs::read_dir(hierarchy.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            if group.file_name().to_string_lossy().starts_with("bailiff-cluster") {
                told += &format!("{}\n", group.path().display());
            }
        }
    }
    Ok((Listing::settled()?, told))
}

fn same(before: &(Listing, String)) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let now = machine()?;
        // What earlier programs left to the kernel may have gone meanwhile.
        let more = now.0.beyond(&before.0);
        if more.is_empty() && now.1 == before.1 {
            return Ok(());
        }
        ensure!(
            Instant::now() < until,
            "left: {more:?}\n{}\nbefore:\n{}",
            now.1,
            before.1
        );
    }
}
