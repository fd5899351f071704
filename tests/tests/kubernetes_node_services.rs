//! Databases behind Services of a real cluster: PostgreSQL in pods, protected at each address that a Service has, as those change; and one outside.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::databases::{CANARY, MASKED, SEEN, SOURCE, policy, service, slice, target};
use bailiff_tests::{NodeAgent, NodeLab, Postgres};
use serde_json::json;

/// A namespace with a pod `client`, and the cluster's Targets and Policies: those of no test before.
struct Lab(NodeLab);

impl Lab {
    fn new(namespace: &str) -> Result<Option<Self>> {
        let Some(lab) = NodeLab::new(namespace, "view", "")? else {
            return Ok(None);
        };
        lab.cluster.install_crds()?;
        for kind in ["targets.bailiff.dev", "policies.bailiff.dev"] {
            lab.cluster.kubectl(&["delete", kind, "--all"])?;
        }
        let lab = Self(lab);
        lab.0.postgres_pod("client", &["sleep", "100000"], &json!({}))?;
        lab.0.ready("client")?;
        Ok(Some(lab))
    }

    /// That what the pod asks there is denied and masked.
    fn protected(&self, agent: &NodeAgent, host: &str) -> Result<()> {
        self.0
            .protected(host, &|| agent.log() + &agent.get("/readyz").unwrap_or_default())
    }

    fn until(
        &self,
        agent: Option<&NodeAgent>,
        what: &str,
        mut is_so: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(60);
        while !is_so()? {
            let seen = || self.0.psql(what, SEEN).unwrap_or_default();
            let said = || agent.map(|agent| agent.log() + &agent.get("/readyz").unwrap_or_default());
            ensure!(Instant::now() < end, "{what}: {}{:?}", seen(), said());
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// The node's agent by the cluster's Targets and Policies.
    fn agent(&self, server: Option<&str>) -> Result<NodeAgent> {
        let kubeconfig = self.0.credential(server)?;
        let state = self.0.path("state");
        let utf8 = |path: &Path| {
            path.to_str()
                .map(str::to_owned)
                .context("a path that isn't UTF-8")
        };
        let (kubeconfig, state) = (utf8(&kubeconfig)?, utf8(&state)?);
        let node = self.0.cluster.node().context("no node")?;
        self.0.start_without_config(&[
            "--kubeconfig",
            &kubeconfig,
            "--node",
            node,
            "--state-dir",
            &state,
            "--mode",
            "enforce",
        ])
    }

    /// Waits until a Target has so many addresses by its Services.
    fn until_addresses(&self, agent: &NodeAgent, target: &str, count: u64) -> Result<Duration> {
        let begin = Instant::now();
        let name = format!("bailiff_target_addresses{{target=\"{target}\"}}");
        self.until(Some(agent), &name, || Ok(agent.metric(&name)? == count))?;
        Ok(begin.elapsed())
    }
}

#[test]
fn a_database_behind_a_service_is_protected_at_each_of_its_addresses_as_they_change() -> Result<()> {
    let Some(lab) = Lab::new("services-changing")? else {
        return Ok(());
    };
    let namespace = lab.0.namespace.as_str();
    let first = lab.0.database("pg-0")?;
    lab.0
        .cluster
        .kubectl(&["label", "pod", "-n", namespace, "pg-0", "app=pg", "--overwrite"])?;
    lab.0.apply(&[
        service(namespace, "pg", &json!({"selector": {"app": "pg"}})),
        target(
            "db",
            &json!({"services": [{"namespace": namespace, "name": "pg"}]}),
        ),
        policy("db"),
    ])?;
    let agent = lab.agent(None)?;
    let service_address = lab.0.cluster_ip("pg")?;
    lab.until_addresses(&agent, "db", 2)?;
    lab.protected(&agent, &service_address)?;
    lab.protected(&agent, &first)?;

    // Whatever becomes of policies meanwhile.
    lab.0.apply(&[policy("nowhere")])?;
    lab.until(Some(&agent), "a policy that is refused", || {
        Ok(agent.metric("bailiff_policies_refused")? == 1)
    })?;
    // Another pod comes, before it is ready to be asked by the Service: its address alone.
    let second = lab.0.database("pg-1")?;
    ensure!(lab.0.psql(&second, SEEN)? == CANARY, "nobody names it yet");
    lab.0
        .cluster
        .kubectl(&["label", "pod", "-n", namespace, "pg-1", "app=pg", "--overwrite"])?;
    let took = lab.until_addresses(&agent, "db", 3)?;
    println!("an endpoint is protected {took:?} after it came");
    ensure!(lab.0.psql(&second, SEEN)? == MASKED, "{}", agent.log());
    lab.protected(&agent, &second)?;
    ensure!(agent.metric("bailiff_policies_refused")? == 1, "{}", agent.log());
    lab.0
        .cluster
        .kubectl(&["delete", "policies.bailiff.dev", "nowhere"])?;

    // What has gone is let go, after a while: the same address may be another's.
    lab.0.cluster.kubectl(&[
        "label",
        "pod",
        "-n",
        namespace,
        "pg-1",
        "app=other",
        "--overwrite",
    ])?;
    lab.until_addresses(&agent, "db", 2)?;
    lab.until(Some(&agent), &second, || Ok(lab.0.psql(&second, SEEN)? == CANARY))?;
    lab.protected(&agent, &service_address)?;
    ensure!(
        !agent.get("/readyz")?.contains("[!]services"),
        "{}",
        agent.get("/readyz")?
    );

    // Away, with what was known last.
    let kept = lab.0.path("state").join("services.json");
    lab.until(Some(&agent), "what is kept", || {
        Ok(std::fs::read_to_string(&kept)
            .is_ok_and(|text| text.contains(&service_address) && !text.contains(&second)))
    })?;
    agent.kill()?;
    let agent = lab.agent(Some("127.0.0.1:1"))?;
    lab.protected(&agent, &service_address)?;
    lab.protected(&agent, &first)?;
    let said = format!("[!]services: target db, service {namespace}/pg: its Service can't be followed now");
    lab.until(Some(&agent), "readyz", || {
        Ok(agent.get("/readyz")?.contains(&said))
    })?;
    agent.kill()?;

    // Without the Service nobody says whose the pods' addresses are.
    let agent = lab.agent(None)?;
    lab.protected(&agent, &first)?;
    lab.0
        .cluster
        .kubectl(&["delete", "service", "-n", namespace, "pg"])?;
    lab.until(Some(&agent), "readyz", || {
        let ready = agent.get("/readyz")?;
        Ok(ready.contains(&format!(
            "[!]services: target db, service {namespace}/pg: there is no such Service"
        )))
    })?;
    lab.until_addresses(&agent, "db", 0)?;
    ensure!(
        agent.metric("bailiff_service_problems")? == 1,
        "{}",
        agent.metrics()?
    );
    ensure!(agent.stop()?.success());
    Ok(())
}

#[test]
fn a_tenants_slice_takes_no_address_of_another_target() -> Result<()> {
    let Some(lab) = Lab::new("services-tenants")? else {
        return Ok(());
    };
    let namespace = lab.0.namespace.as_str();
    let outside = Postgres::start_anywhere()?;
    outside.sql(&format!(
        "create table patients (id int, ssn text); insert into patients values (1, '{CANARY}')"
    ))?;
    let pod = lab.0.database("pg-0")?;
    lab.0
        .cluster
        .kubectl(&["label", "pod", "-n", namespace, "pg-0", "app=pg", "--overwrite"])?;
    // The tenant's Target allows everything, and masks nothing.
    lab.0.apply(&[
        service(namespace, "pg", &json!({"selector": {"app": "pg"}})),
        service(namespace, "tenant", &json!({})),
        target("db", &json!({"services": [{"namespace": namespace, "name": "pg", "port": "pg"}]})),
        policy("db"),
        target("outside", &json!({"endpoints": [format!("{}:5432", outside.address())]})),
        policy("outside"),
        target("a-tenants", &json!({"services": [{"namespace": namespace, "name": "tenant", "port": 5432}], "default": "Allow", "unknown": "Allow"})),
    ])?;
    let agent = lab.agent(None)?;
    let service_address = lab.0.cluster_ip("pg")?;
    lab.until_addresses(&agent, "db", 2)?;
    lab.until_addresses(&agent, "a-tenants", 1)?;
    let addresses = [service_address.as_str(), &pod, outside.address()];
    for address in addresses {
        lab.protected(&agent, address)?;
    }

    // And one that is nobody's.
    let others = [&addresses[..], &["192.0.2.9"]].concat();
    lab.0.apply(&[slice(namespace, "tenant-1", "tenant", &others)])?;
    lab.until_addresses(&agent, "a-tenants", 2)?;
    for address in addresses {
        lab.protected(&agent, address)?;
    }
    let ready = agent.get("/readyz")?;
    for (address, owner) in addresses.iter().zip(["db", "db", "outside"]) {
        let told = format!("[!]services: target a-tenants: {address}:5432 is Target {owner}'s, and stays");
        ensure!(ready.contains(&told), "{told}: {ready}");
    }
    // The next one, which learns all at once, sees it the same.
    agent.kill()?;
    let agent = lab.agent(None)?;
    lab.until_addresses(&agent, "a-tenants", 2)?;
    for address in addresses {
        lab.protected(&agent, address)?;
    }
    ensure!(agent.stop()?.success());
    Ok(())
}

#[test]
fn the_database_sees_the_pods_own_address() -> Result<()> {
    let Some(lab) = Lab::new("services-sources")? else {
        return Ok(());
    };
    let namespace = lab.0.namespace.as_str();
    let name = format!("pg.{namespace}.svc");
    let (certificate, key) = lab.0.cluster.certificate(&name)?;
    let tls = lab.0.path("tls");
    std::fs::create_dir(&tls)?;
    std::fs::write(tls.join("certificate.pem"), certificate.pem())?;
    std::fs::write(tls.join("key.pem"), key.serialize_pem())?;
    let plain = Postgres::start_anywhere()?;
    let pod = lab.0.database("pg-0")?;
    lab.0
        .cluster
        .kubectl(&["label", "pod", "-n", namespace, "pg-0", "app=pg", "--overwrite"])?;
    let upstream = json!({"mode": "Verify", "caFile": lab.0.cluster.ca()?, "serverName": name});
    lab.0.apply(&[
        service(namespace, "pg", &json!({"selector": {"app": "pg"}})),
        target(
            "db",
            &json!({"services": [{"namespace": namespace, "name": "pg"}], "tls": {"upstream": upstream}}),
        ),
        policy("db"),
        // Without masks nothing has to be hidden from who reads the pod's own wire.
        target(
            "outside",
            &json!({"endpoints": [format!("{}:5432", plain.address())], "default": "Allow"}),
        ),
    ])?;
    let agent = lab.agent(None)?;
    lab.until_addresses(&agent, "db", 2)?;
    let own = lab.0.address("client")?;
    for host in [lab.0.cluster_ip("pg")?, pod] {
        lab.protected(&agent, &host)?;
        ensure!(
            lab.0.psql(&host, SOURCE)? == own,
            "{host}: {}",
            lab.0.psql(&host, SOURCE)?
        );
    }
    let seen = |agent: &NodeAgent| {
        lab.until(Some(agent), plain.address(), || {
            Ok(lab.0.psql(plain.address(), SOURCE)? == own)
        })
    };
    seen(&agent)?;
    let ruled = lab.0.enforced.operations()?;
    ensure!(
        ruled
            .iter()
            .any(|event| event.to_string().contains("services-sources")),
        "{ruled:?}"
    );
    ensure!(agent.stop()?.success());
    Ok(())
}
