//! What the kernel side does while agents come, hang, die and go.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use bailiff_kernel::{GuardBy, Redirect};
use bailiff_model::FailureMode;
use bailiff_tests::{KernelLab, check, harness_program};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Connects again and again to each of the addresses for a number of rounds or until its input ends, and prints how often it
/// went well, and how often otherwise, by the error's name. Not for a time: emulated, a machine takes tens of times as long.
const CALLER: &str = "
import collections, json, select
addresses, rounds = sys.argv[1].split(), int(sys.argv[2])
went = collections.Counter()
def call(address):
    s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET)
    s.settimeout(20)
    try:
        s.connect((address, 5432))
        s.sendall(f'{os.getpid()} {address} 5432\\n'.encode())
        return 'ok' if s.recv(1) == b'x' else 'closed'
    finally: s.close()
for number in range(rounds):
    if select.select([sys.stdin], [], [], 0)[0]: break
    went[told(lambda: call(addresses[number % len(addresses)]))] += 1
print(json.dumps(went))
";

/// The agent in a process of its own.
struct StandIn {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl StandIn {
    /// One that never counts as hung, be the machine as busy as it may.
    fn start(lab: &KernelLab) -> Result<Self> {
        Self::start_with(lab, 60, &[])
    }

    /// One that counts as hung after so many seconds, with addresses that are protected where there are no maps of its version.
    fn start_with(lab: &KernelLab, seconds: u32, addresses: &[&str]) -> Result<Self> {
        let mut child = Command::new(harness_program("stand-in-agent")?)
            .arg(lab.pins())
            .arg(lab.root())
            .arg(lab.netns_path())
            .arg(seconds.to_string())
            .args(addresses)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()?;
        let mut said = BufReader::new(child.stdout.take().context("no output")?);
        let mut line = String::new();
        said.read_line(&mut line)?;
        ensure!(line == "ready\n", "the agent didn't start");
        Ok(Self { child, said })
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }

    /// Ends it as a take-over does: how many connections it served, and how many had a wrong origin.
    fn retire(mut self) -> Result<(u64, u64)> {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.said.read_to_string(&mut text)?;
        let (served, wrong) = text.trim().split_once(' ').context("no counts")?;
        Ok((served.parse()?, wrong.parse()?))
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn caller(lab: &KernelLab, addresses: &str, rounds: u32) -> Result<Child> {
    lab.python_with("pods/a/main", CALLER, &[addresses, &rounds.to_string()])
}

/// How often each answer came over all callers.
fn went(callers: Vec<Child>) -> Result<std::collections::BTreeMap<String, u64>> {
    let mut sum = std::collections::BTreeMap::new();
    for caller in callers {
        let counts: std::collections::BTreeMap<String, u64> =
            serde_json::from_str(&KernelLab::answer(caller)?)?;
        for (answer, count) in counts {
            *sum.entry(answer).or_default() += count;
        }
    }
    Ok(sum)
}

#[test]
fn ten_thousand_connections_in_a_burst_have_their_own_origins() -> Result<()> {
    let Some(lab) = KernelLab::new("burst", FailureMode::Closed)? else {
        return Ok(());
    };
    let agent = StandIn::start(&lab)?;
    let callers = (0..8)
        .map(|_| caller(&lab, "10.9.8.7 fd00:9::7 ::ffff:10.9.8.7", 1250))
        .collect::<Result<Vec<_>>>()?;
    let went = went(callers)?;
    ensure!(went.len() == 1 && went.get("ok") == Some(&10_000), "{went:?}");
    ensure!(agent.retire()? == (10_000, 0));
    ensure!(lab.counted("diverted") == 10_000 && lab.counted("origin_lost") == 0);
    lab.wait_for("origins go with their connections", || {
        Ok(lab.redirect()?.origins().count() == 0)
    })
}

#[test]
fn a_killed_agent_refuses_at_once_and_the_next_one_goes_on() -> Result<()> {
    let Some(lab) = KernelLab::new("killed", FailureMode::Closed)? else {
        return Ok(());
    };
    let agent = StandIn::start(&lab)?;
    let before = went(vec![caller(&lab, "10.9.8.7", 3)?])?;
    ensure!(before.get("ok") == Some(&3), "{before:?}");
    drop(agent);
    let refused = lab.counted("refused_agent");
    let without = went(vec![caller(&lab, "10.9.8.7 fd00:9::7", 4)?])?;
    ensure!(without.get("ECONNREFUSED") == Some(&4), "{without:?}");
    ensure!(lab.counted("refused_agent") == refused + 4);
    let agent = StandIn::start(&lab)?;
    let after = went(vec![caller(&lab, "10.9.8.7 fd00:9::7", 4)?])?;
    ensure!(after.get("ok") == Some(&4), "{after:?}");
    ensure!(agent.retire()? == (4, 0));
    Ok(())
}

/// The database, at its own address in the pod's namespace: answers whatever comes.
fn database(lab: &KernelLab) -> Result<std::sync::Arc<std::sync::atomic::AtomicUsize>> {
    lab.own_protected_address()?;
    let listener = lab.netns().run_in(|| TcpListener::bind("10.9.8.7:5432"))??;
    let direct = std::sync::Arc::<std::sync::atomic::AtomicUsize>::default();
    let count = std::sync::Arc::clone(&direct);
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            count.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
            let _ = client.write_all(b"x");
            let _ = client.read_to_end(&mut Vec::new());
        }
    });
    Ok(direct)
}

#[test]
fn with_failure_mode_open_a_killed_agent_lets_connections_go_direct() -> Result<()> {
    let Some(lab) = KernelLab::new("killed-open", FailureMode::Open)? else {
        return Ok(());
    };
    let direct = database(&lab)?;
    let reached = || direct.load(std::sync::atomic::Ordering::Acquire);
    let agent = StandIn::start(&lab)?;
    ensure!(went(vec![caller(&lab, "10.9.8.7", 3)?])?.get("ok") == Some(&3));
    ensure!(reached() == 0 && lab.counted("direct") == 0);
    drop(agent);
    ensure!(went(vec![caller(&lab, "10.9.8.7", 3)?])?.get("ok") == Some(&3));
    ensure!(reached() == 3 && lab.counted("direct") == 3);
    let agent = StandIn::start(&lab)?;
    ensure!(went(vec![caller(&lab, "10.9.8.7", 3)?])?.get("ok") == Some(&3));
    ensure!(reached() == 3, "once an agent is back, nothing goes direct");
    ensure!(agent.retire()? == (3, 0));
    Ok(())
}

#[test]
fn a_hung_agent_counts_as_none_until_it_goes_on() -> Result<()> {
    for mode in [FailureMode::Closed, FailureMode::Open] {
        let Some(lab) = KernelLab::new("hung", mode)? else {
            return Ok(());
        };
        let direct = database(&lab)?;
        let agent = StandIn::start_with(&lab, 1, &[])?;
        // Until the heartbeat is too old, connections are queued, and the client doesn't hang in connect. It is there before
        // the agent hangs, since to start may take it longer than that.
        let mut queued = lab.python(
            "pods/a/main",
            "
print('there', flush=True)
sys.stdin.readline()
s = socket.create_connection(('10.9.8.7', 5432), timeout=60)
print('connected', flush=True)
s.sendall(b'%d 10.9.8.7 5432\\n' % os.getpid())
print(s.recv(1))
",
        )?;
        let mut said = BufReader::new(queued.stdout.take().context("no output")?);
        let mut line = String::new();
        said.read_line(&mut line)?;
        ensure!(line == "there\n", "{line:?}");
        agent.signal(Signal::SIGSTOP)?;
        queued.stdin.take().context("no input")?.write_all(b"\n")?;
        line.clear();
        said.read_line(&mut line)?;
        ensure!(line == "connected\n", "{line:?}");
        std::thread::sleep(Duration::from_millis(1200));
        let without = went(vec![caller(&lab, "10.9.8.7", 3)?])?;
        let reached = direct.load(std::sync::atomic::Ordering::Acquire);
        match mode {
            FailureMode::Closed => {
                ensure!(
                    without.get("ECONNREFUSED") == Some(&3) && reached == 0,
                    "{without:?}"
                );
            }
            FailureMode::Open => {
                ensure!(without.get("ok") == Some(&3) && reached == 3, "{without:?}");
            }
        }
        agent.signal(Signal::SIGCONT)?;
        line.clear();
        said.read_line(&mut line)?;
        ensure!(line == "b'x'\n", "{line:?}");
        queued.wait()?;
        lab.wait_for("the agent beats again", || {
            let served = went(vec![caller(&lab, "10.9.8.7", 1)?])?;
            Ok(served.get("ok") == Some(&1))
        })?;
        ensure!(agent.retire()?.1 == 0);
    }
    Ok(())
}

#[test]
fn agents_take_over_from_one_another_at_full_rate_and_nothing_is_refused() -> Result<()> {
    let Some(lab) = KernelLab::new("handover", FailureMode::Closed)? else {
        return Ok(());
    };
    let mut agent = StandIn::start(&lab)?;
    let mut callers = (0..4)
        .map(|_| caller(&lab, "10.9.8.7 fd00:9::7", u32::MAX))
        .collect::<Result<Vec<_>>>()?;
    let (mut served, mut wrong) = (0, 0);
    for _ in 0..4 {
        let before = lab.counted("diverted");
        lab.wait_for("callers connect", || Ok(lab.counted("diverted") > before + 8))?;
        let next = StandIn::start(&lab)?;
        let counts = std::mem::replace(&mut agent, next).retire()?;
        ensure!(counts.0 > 0, "each of them was connected to: {counts:?}");
        served += counts.0;
        wrong += counts.1;
    }
    for caller in &mut callers {
        drop(caller.stdin.take());
    }
    let went = went(callers)?;
    let counts = agent.retire()?;
    ensure!(went.len() == 1, "{went:?}");
    ensure!(
        went.get("ok") == Some(&(served + counts.0)),
        "{went:?} of {served} + {}",
        counts.0
    );
    ensure!(wrong + counts.1 == 0);
    ensure!(lab.counted("refused_agent") == 0 && lab.counted("refused_listener") == 0);
    Ok(())
}

#[test]
fn an_agent_takes_over_from_another_version_and_nothing_goes_direct() -> Result<()> {
    let Some(lab) = KernelLab::new("versions", FailureMode::Closed)? else {
        return Ok(());
    };
    let direct = database(&lab)?;
    let agent = StandIn::start(&lab)?;
    let before = went(vec![caller(&lab, "10.9.8.7 fd00:9::7", 4)?])?;
    ensure!(before.get("ok") == Some(&4), "{before:?}");
    // What another version pinned, which has another layout.
    let (own, other) = own_and_other(&lab)?;
    std::fs::rename(&own, &other)?;
    let mut callers = (0..4)
        .map(|_| caller(&lab, "10.9.8.7 fd00:9::7", u32::MAX))
        .collect::<Result<Vec<_>>>()?;
    let diverted = lab.counted("diverted");
    lab.wait_for("callers connect", || Ok(lab.counted("diverted") > diverted + 8))?;
    let next = StandIn::start_with(&lab, 60, &["10.9.8.7:5432", "[fd00:9::7]:5432"])?;
    let (served, wrong) = agent.retire()?;
    // They go on with it for a while.
    std::thread::sleep(Duration::from_millis(500));
    for caller in &mut callers {
        drop(caller.stdin.take());
    }
    let during = went(callers)?;
    // Until it has enrolled the pods, nobody knows them.
    let refused = |answer: &str| matches!(answer, "ECONNREFUSED" | "EPERM");
    ensure!(
        during.keys().all(|answer| answer == "ok" || refused(answer)) && during.contains_key("ok"),
        "{during:?}"
    );
    ensure!(
        direct.load(std::sync::atomic::Ordering::Acquire) == 0,
        "a connection went direct"
    );
    ensure!(
        own.exists() && !other.exists(),
        "the other's maps are still there"
    );
    let after = went(vec![caller(&lab, "10.9.8.7 fd00:9::7", 4)?])?;
    ensure!(after.get("ok") == Some(&4), "{after:?}");
    let (served_next, wrong_next) = next.retire()?;
    let ok = during.get("ok").copied().unwrap_or_default();
    // Of what programs of both versions had their hands on, nobody knows where it was to go: an agent refuses that.
    ensure!(
        served + served_next + wrong + wrong_next == 4 + ok + 4 && wrong_next == 0 && wrong < 100,
        "{served} + {served_next}, {wrong} + {wrong_next} of {during:?}"
    );
    Ok(())
}

/// The maps of this version, and where another one's would be.
fn own_and_other(lab: &KernelLab) -> Result<(std::path::PathBuf, std::path::PathBuf)> {
    let own = std::fs::read_dir(lab.pins())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.display().to_string().contains("/maps-v"))
        .context("no maps")?;
    let other = own.with_file_name("maps-v1");
    Ok((own, other))
}

/// Programs on the host's side of a link, by their numbers or by what tc says of them.
fn guards_of(link: &str, by: GuardBy) -> Result<Vec<String>> {
    if by == GuardBy::Tcx {
        let (_, programs) = SchedClassifier::query_tcx(link, TcAttachType::Ingress)?;
        return Ok(programs.iter().map(|program| program.id().to_string()).collect());
    }
    let shown = check(Command::new("tc").args(["filter", "show", "dev", link, "ingress"]))?;
    let shown = String::from_utf8(shown.stdout)?;
    Ok(shown
        .lines()
        .filter(|line| line.contains("bailiff"))
        .map(str::to_owned)
        .collect())
}

#[test]
fn guards_on_links_outlive_their_agent_and_are_replaced_by_the_next() -> Result<()> {
    let tcx = bailiff_kernel::probe::has_tcx().then_some(GuardBy::Tcx);
    for by in tcx.into_iter().chain([GuardBy::Clsact]) {
        let Some(mut lab) = KernelLab::new("guards", FailureMode::Closed)? else {
            return Ok(());
        };
        let link = format!("bg{}", std::process::id());
        let peer = format!("{link}p");
        check(Command::new("ip").args(["link", "add", &link, "type", "veth", "peer", "name", &peer]))?;
        let options = bailiff_kernel::Options {
            guard_by: by,
            ..lab.options()?
        };
        let mut first = Redirect::load(options.clone())?;
        first.guard_link(&link)?;
        let of_first = guards_of(&link, by)?;
        ensure!(of_first.len() == 1, "{of_first:?}");
        drop(first);
        ensure!(
            guards_of(&link, by)? == of_first,
            "an agent's end takes the guard off"
        );
        let mut second = Redirect::load(options)?;
        second.guard_link(&link)?;
        let of_second = guards_of(&link, by)?;
        ensure!(
            of_second.len() == 1 && of_second != of_first,
            "{of_first:?} {of_second:?}"
        );
        lab.swap_redirect(None);
        second.remove()?;
        lab.wait_for("the guard goes", || Ok(guards_of(&link, by)?.is_empty()))?;
        check(Command::new("ip").args(["link", "del", &link]))?;
    }
    Ok(())
}
