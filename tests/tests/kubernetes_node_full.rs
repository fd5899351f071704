//! A full node whose pods come and go, by the same names and addresses as those before them: nothing is kept of those that went.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use bailiff_common::{Enrolment, Origin, OriginKey};
use bailiff_tests::{Burst, Starts, can_be_root, sum_of};
use serde_json::Value;

/// So many pods are on the node all the while, and so many come and go.
const STAY: usize = 225;
const CHURN: usize = 25;
const ROUNDS: usize = 6;

/// How much more memory the agent may have after all rounds than after the second, in KiB: what allocators keep, and nothing that grows.
const SLACK: u64 = 8 << 10;

/// The agent's memory that is its own, in KiB, as the kernel accounts for it.
fn anonymous(burst: &Burst) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", burst.agent.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line
        .and_then(|rest| rest.split_whitespace().next())
        .context("no RssAnon")?;
    Ok(number.parse()?)
}

/// What is kept of pods and connections.
#[derive(Debug, Default, PartialEq, Eq)]
struct Kept {
    /// Cgroups that the kernel side knows.
    enrolments: usize,
    /// Connections whose origin it knows.
    origins: usize,
    /// Pins of guards on pods' links.
    guards: usize,
}

impl Kept {
    fn by(burst: &Burst) -> Result<Self> {
        let pins = burst.agent.pins();
        let maps = pins.join(format!("maps-v{}", bailiff_common::ABI_VERSION));
        let open = |name: &str| MapData::from_pin(maps.join(name));
        let enrolments: HashMap<_, u64, Enrolment> = Map::HashMap(open("ENROLMENTS")?).try_into()?;
        let origins: HashMap<_, OriginKey, Origin> = Map::HashMap(open("ORIGINS")?).try_into()?;
        let guards = std::fs::read_dir(pins.join("links"))?.flatten().filter(|pin| {
            let name = pin.file_name();
            name.to_string_lossy().starts_with("bailiff_host_guard_")
        });
        Ok(Self {
            enrolments: enrolments.keys().count(),
            origins: origins.keys().count(),
            guards: guards.count(),
        })
    }
}

/// Waits until nothing is kept but what goes with so many pods.
fn kept_of(burst: &Burst, pods: usize) -> Result<()> {
    let wanted = Kept {
        enrolments: pods,
        origins: 0,
        guards: pods,
    };
    let mut kept = Kept::default();
    let forgotten = burst.until("forgotten", || {
        kept = Kept::by(burst)?;
        Ok(kept == wanted)
    });
    forgotten.map_err(|_| anyhow::anyhow!("for {pods} pods it keeps {kept:?}"))
}

fn all_are_answered(starts: &mut Starts) -> Result<()> {
    for line in starts.answers()? {
        let said: Value = serde_json::from_str(&line)?;
        ensure!(said.get("status").and_then(Value::as_u64) == Some(200), "{said}");
    }
    Ok(())
}

#[test]
fn a_full_node_whose_pods_come_and_go_keeps_nothing_of_those_that_went() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let burst = Burst::start()?;
    let covered = |wanted: usize| {
        burst.until("covered", || {
            let metrics = burst.metrics()?;
            Ok(
                sum_of(&metrics, "bailiff_pods{state=\"enforced\"}")? == wanted as u64
                    && sum_of(&metrics, "bailiff_pods")? == wanted as u64,
            )
        })
    };
    let folder = tempfile::tempdir()?;
    println!("with no pod: {} KiB", anonymous(&burst)?);
    let names: Vec<String> = (0..STAY).map(|number| format!("stays-{number}")).collect();
    let uids: Vec<String> = burst.pods(&names)?.into_values().collect();
    let mut stay = Starts::new(&uids, 0, folder.path())?;
    stay.prepare(&burst.agent.pods_cgroup(), |pod| burst.command(pod))?;
    stay.go()?;
    all_are_answered(&mut stay)?;
    covered(STAY)?;
    println!("with {STAY} pods: {} KiB", anonymous(&burst)?);

    // The same names and addresses each time, of other pods.
    let names: Vec<String> = (0..CHURN)
        .map(|number| format!("comes-and-goes-{number}"))
        .collect();
    let mut seen = BTreeSet::new();
    let mut memory = Vec::new();
    for _ in 0..ROUNDS {
        let uids: Vec<String> = burst.pods(&names)?.into_values().collect();
        ensure!(uids.iter().all(|uid| seen.insert(uid.clone())));
        let mut starts = Starts::new(&uids, 1_000, folder.path())?;
        starts.prepare(&burst.agent.pods_cgroup(), |pod| burst.command(pod))?;
        starts.go()?;
        all_are_answered(&mut starts)?;
        covered(STAY + CHURN)?;
        starts.end()?;
        drop(starts);
        let delete = ["delete", "pod", "-n", Burst::NAME, "--grace-period=0", "--force"];
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        burst.cluster.kubectl(&[&delete, names.as_slice()].concat())?;
        covered(STAY)?;
        memory.push(anonymous(&burst)?);
    }
    println!("after each of {ROUNDS} rounds of {CHURN} pods: {memory:?} KiB");
    let (after_second, last) = (
        memory.get(1).context("no round")?,
        memory.last().context("no round")?,
    );
    ensure!(*last <= after_second + SLACK, "it grows: {memory:?}");
    kept_of(&burst, STAY)?;
    let metrics = burst.metrics()?;
    ensure!(
        sum_of(&metrics, "bailiff_connections_total")? == (STAY + ROUNDS * CHURN) as u64
            && sum_of(&metrics, "bailiff_connections_refused_total")? == 0
            && sum_of(&metrics, "bailiff_sessions_open")? == 0
            && sum_of(&metrics, "bailiff_kernel_events_total{event=\"origin_lost\"}")? == 0
            && sum_of(&metrics, "bailiff_kernel_programs_detached")? == 0,
        "{metrics}"
    );
    stay.end()?;
    covered(0)?;
    drop(stay);
    kept_of(&burst, 0)?;
    burst.stop()
}
