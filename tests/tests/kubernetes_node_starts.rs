//! A thousand pods that start at once and whose first process connects in its first instant: each is refused until it is known, then
//! decided as the pod that it is, and none reaches the API server past the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{Burst, CgroupForm, Starts, can_be_root, sum_of};
use serde_json::Value;

const STARTS: usize = 1_000;

fn text<'a>(event: &'a Value, place: &str) -> &'a str {
    event.pointer(place).and_then(Value::as_str).unwrap_or_default()
}

fn number(said: &Value, name: &str) -> u64 {
    said.get(name).and_then(Value::as_u64).unwrap_or_default()
}

#[test]
fn of_a_thousand_starts_none_is_unattributed_and_none_direct() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let burst = Burst::start()?;
    let wanted: Vec<String> = (0..STARTS).map(|number| format!("start-{number}")).collect();
    let pods = burst.pods(&wanted)?;
    let names: BTreeMap<&str, &str> = pods
        .iter()
        .map(|(name, uid)| (uid.as_str(), name.as_str()))
        .collect();
    let uids: Vec<String> = pods.values().cloned().collect();
    let folder = tempfile::tempdir()?;
    let mut starts = Starts::new(&uids, 0, folder.path())?;
    starts.prepare(&burst.agent.pods_cgroup(), |pod| burst.command(pod))?;

    let begun = Instant::now();
    starts.go()?;
    let answers: Vec<Value> = starts
        .answers()?
        .iter()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect::<Result<_>>()?;
    let took = begun.elapsed();
    let refused: u64 = answers.iter().map(|said| number(said, "refused")).sum();
    let at_once = answers.iter().filter(|said| number(said, "refused") == 0).count();
    let mut waited: Vec<u64> = answers.iter().map(|said| number(said, "connected")).collect();
    waited.sort_unstable();
    println!(
        "{STARTS} starts in {took:?}: {at_once} were let through at once, {refused} tries refused; connected after {:?} ms (median), {:?} ms at most",
        waited.get(STARTS / 2),
        waited.last()
    );
    ensure!(
        answers.iter().all(|said| number(said, "status") == 200),
        "{answers:?}"
    );

    // Each is a pod that is covered, by its own metrics, and each try is accounted for.
    burst.until("covered", || {
        Ok(burst.metric("bailiff_pods{state=\"enforced\"}")? == STARTS as u64)
    })?;
    // The kernel's counters are taken ten times a second.
    let mut metrics = String::new();
    burst.until("counted", || {
        metrics = burst.metrics()?;
        Ok(sum_of(&metrics, "bailiff_kernel_events_total{event=\"diverted\"}")? >= STARTS as u64)
    })?;
    let event = |name: &str| {
        sum_of(
            &metrics,
            &format!("bailiff_kernel_events_total{{event=\"{name}\"}}"),
        )
    };
    ensure!(
        sum_of(&metrics, "bailiff_connections_total")? == STARTS as u64,
        "{metrics}"
    );
    ensure!(
        sum_of(&metrics, "bailiff_connections_refused_total")? == 0,
        "{metrics}"
    );
    ensure!(
        sum_of(&metrics, "bailiff_connections_destroyed_total")? == 0,
        "{metrics}"
    );
    ensure!(event("diverted")? == STARTS as u64, "{metrics}");
    for never in [
        "direct",
        "origin_lost",
        "refused_agent",
        "refused_full",
        "refused_error",
        "refused_listener",
    ] {
        ensure!(event(never)? == 0, "{never}: {metrics}");
    }
    ensure!(
        event("refused_unenrolled")? + event("refused_namespace")? == refused,
        "{refused} refusals: {metrics}"
    );

    // What the API server itself was asked: by each pod once, from its address, and always by way of the agent.
    let served: Vec<Value> = burst
        .cluster
        .audit()?
        .into_iter()
        .filter(|event| text(event, "/userAgent").starts_with("start/"))
        .collect();
    ensure!(served.len() == STARTS, "{} requests", served.len());
    let addresses: BTreeMap<&str, String> = starts
        .pods()
        .iter()
        .map(|pod| (pod.uid.as_str(), pod.address.to_string()))
        .collect();
    let mut recorded = BTreeMap::new();
    burst.until("recorded", || {
        recorded = burst
            .agent
            .recorded()?
            .into_iter()
            .filter(|event| text(event, "/userAgent").starts_with("start/"))
            .map(|event| (text(&event, "/auditID").to_owned(), event))
            .collect();
        Ok(recorded.len() >= STARTS)
    })?;
    let mut seen = BTreeSet::new();
    for event in &served {
        let uid = text(event, "/userAgent").trim_start_matches("start/");
        ensure!(seen.insert(uid), "{uid} asked twice");
        ensure!(
            event.pointer("/sourceIPs/0").and_then(Value::as_str) == addresses.get(uid).map(String::as_str),
            "{event}"
        );
        let own = recorded
            .get(text(event, "/auditID"))
            .with_context(|| format!("direct: {event}"))?;
        let pod = format!("{}/{}", Burst::NAME, names.get(uid).context("a pod of no start")?);
        ensure!(
            text(own, "/annotations/bailiff.dev~1pod") == pod
                && text(own, "/annotations/bailiff.dev~1chain").contains(uid),
            "{pod}: {own}"
        );
    }

    // They end together, too.
    starts.end()?;
    burst.until("forgotten", || Ok(burst.metric("bailiff_pods")? == 0))?;
    drop(starts);
    burst.stop()
}

#[test]
fn pods_and_containers_are_known_by_the_names_that_drivers_and_runtimes_give() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let burst = Burst::start()?;
    let folder = tempfile::tempdir()?;
    let forms = [
        ("cgroupfs", CgroupForm::Cgroupfs),
        ("containerd", CgroupForm::SystemdContainerd),
        ("crio", CgroupForm::SystemdCrio),
    ];
    let mut all = Vec::new();
    for (number, (name, form)) in (0..).zip(forms) {
        let pods = burst.pods(&[name.to_owned()])?;
        let uids: Vec<String> = pods.into_values().collect();
        let mut starts = Starts::new(&uids, number, folder.path())?;
        starts.call_cgroups(form);
        starts.prepare(&burst.agent.pods_cgroup(), |pod| burst.command(pod))?;
        starts.go()?;
        let answers = starts.answers()?;
        ensure!(
            answers.iter().all(|line| line.contains("\"status\":200")),
            "{answers:?}"
        );
        all.push((name, starts));
    }
    burst.until("covered", || {
        Ok(burst.metric("bailiff_pods{state=\"enforced\"}")? == 3)
    })?;
    for (name, starts) in &all {
        let pod = starts.pods().first().context("no pod")?;
        let mut process = Value::Null;
        burst.until("recorded", || {
            let client = format!("start/{}", pod.uid);
            let event = burst
                .agent
                .recorded()?
                .into_iter()
                .find(|event| text(event, "/userAgent") == client);
            let Some(event) = event else { return Ok(false) };
            ensure!(
                text(&event, "/annotations/bailiff.dev~1pod") == format!("{}/{name}", Burst::NAME),
                "{event}"
            );
            let chain: Value = serde_json::from_str(text(&event, "/annotations/bailiff.dev~1chain"))?;
            process = chain.pointer("/0/kind/pod/process").cloned().unwrap_or_default();
            Ok(true)
        })?;
        // Kubelet, which would tell its name, isn't there.
        ensure!(text(&process, "/container") == pod.container, "{name}: {process}");
        ensure!(
            process.pointer("/ancestry/complete") == Some(&Value::Bool(true)),
            "{name}: {process}"
        );
    }
    for (_, starts) in &mut all {
        starts.end()?;
    }
    burst.until("forgotten", || Ok(burst.metric("bailiff_pods")? == 0))?;
    drop(all);
    burst.stop()
}
