//! Databases behind Services of a real cluster: PostgreSQL in pods, protected at each address that a Service has, as those change; and one outside.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::masked::text;
use bailiff_tests::{NodeAgent, NodeLab, Postgres};
use serde_json::{Value, json};

/// The real value, what a pod sees of it, and what the Policy says of dropping.
const CANARY: &str = "canary-ssn-4711";
const MASKED: &str = "[masked]";
const SEEN: &str = "select ssn from patients";
const DROPPED: &str = "drop table patients";
const SOURCE: &str = "select host(inet_client_addr())";

fn policy(target: &str) -> Value {
    json!({"apiVersion": "bailiff.dev/v1alpha1", "kind": "Policy", "metadata": {"name": target}, "spec": {
        "targets": [target],
        "rules": [
            {"name": "read", "effects": ["read"], "action": "Allow"},
            {"name": "keep", "effects": ["drop"], "action": "Deny", "message": "tables stay"},
        ],
        "masks": [{"columns": ["public.patients.ssn"], "with": "Redact"}],
    }})
}

/// A Target; `more` is of its spec.
fn target(name: &str, more: &Value) -> Value {
    let mut object = json!({"apiVersion": "bailiff.dev/v1alpha1", "kind": "Target", "metadata": {"name": name},
        "spec": {"protocol": "postgres", "plainRelations": ["public.patients"]}});
    let spec = object.get_mut("spec").and_then(Value::as_object_mut);
    if let (Some(spec), Some(more)) = (spec, more.as_object()) {
        spec.extend(more.clone());
    }
    object
}

fn service(namespace: &str, name: &str, more: &Value) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": name},
        "spec": {"ports": [{"name": "pg", "port": 5432, "targetPort": 5432}]}});
    let spec = object.get_mut("spec").and_then(Value::as_object_mut);
    if let (Some(spec), Some(more)) = (spec, more.as_object()) {
        spec.extend(more.clone());
    }
    object
}

fn slice(namespace: &str, name: &str, of: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<_> = addresses.iter().map(|at| json!({"addresses": [at]})).collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": namespace, "name": name, "labels": {"kubernetes.io/service-name": of}},
        "addressType": "IPv4", "ports": [{"name": "pg", "port": 5432}], "endpoints": endpoints})
}

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
        lab.postgres_pod("client", &["sleep", "100000"], &json!({}))?;
        lab.0.ready("client")?;
        Ok(Some(lab))
    }

    fn apply(&self, objects: &[Value]) -> Result<()> {
        objects
            .iter()
            .try_for_each(|object| self.0.cluster.apply(&object.to_string()).map(drop))
    }

    /// A pod with this machine's PostgreSQL in it.
    fn postgres_pod(&self, name: &str, command: &[&str], security: &Value) -> Result<()> {
        // Debian's /lib and /lib64 are links into /usr.
        let mounts = [
            ("/usr/lib", "/usr/lib"),
            ("/usr/lib", "/lib"),
            ("/usr/lib64", "/lib64"),
            ("/usr/share", "/usr/share"),
            ("/etc/passwd", "/etc/passwd"),
            ("/etc/group", "/etc/group"),
        ];
        let (mut volumes, mut mounted) = (Vec::new(), Vec::new());
        for (number, (from, to)) in mounts.iter().enumerate() {
            let name = format!("m{number}");
            volumes.push(json!({"name": name, "hostPath": {"path": from}}));
            mounted.push(json!({"name": name, "mountPath": to, "readOnly": true}));
        }
        let keys = self.0.path("tls");
        if keys.exists() {
            volumes.push(json!({"name": "keys", "hostPath": {"path": keys}}));
            mounted.push(json!({"name": "keys", "mountPath": "/tls", "readOnly": true}));
        }
        let more = json!({
            "containers": [{
                "name": "main", "image": "bailiff.test/busybox:1", "imagePullPolicy": "Never", "command": command,
                "volumeMounts": mounted, "securityContext": security,
            }],
            "volumes": volumes,
        });
        self.0.begin_pod_with(name, command, &more).map(drop)
    }

    /// A database in a pod with the label `app` of this name; with TLS where there is a certificate. Returns the pod's address.
    fn database(&self, name: &str) -> Result<String> {
        let bin = binaries()?;
        let id = |what: &str| -> Result<u32> {
            let said = std::process::Command::new("id")
                .args([what, "postgres"])
                .output()?;
            Ok(text(&said.stdout).trim().parse()?)
        };
        let script = format!(
            "set -e; d=/tmp/data; {bin}/initdb -D $d -A trust -U postgres -E UTF8 --no-locale --no-sync >/tmp/log
             echo 'host all all 0.0.0.0/0 trust' >>$d/pg_hba.conf; tls=
             if [ -e /tls/key.pem ]; then cp /tls/key.pem $d/key.pem; chmod 600 $d/key.pem; tls='-c ssl=on -c ssl_key_file=key.pem -c ssl_cert_file=/tls/certificate.pem'; fi
             exec {bin}/postgres -D $d -c listen_addresses=0.0.0.0 -c unix_socket_directories=/tmp -c fsync=off $tls"
        );
        let security = json!({"runAsUser": id("-u")?, "runAsGroup": id("-g")?});
        self.postgres_pod(name, &["sh", "-c", &script], &security)?;
        self.0.ready(name)?;
        let make =
            format!("create table patients (id int, ssn text); insert into patients values (1, '{CANARY}')");
        self.until(None, "the database", || {
            let psql = format!("{bin}/psql");
            let made = self
                .0
                .run(name, &[&psql, "-h", "/tmp", "-U", "postgres", "-XAtqc", &make])?;
            Ok(made.status.success())
        })?;
        self.address(name)
    }

    fn address(&self, pod: &str) -> Result<String> {
        let path = "jsonpath={.status.podIP}";
        self.0
            .cluster
            .kubectl(&["get", "pod", "-n", &self.0.namespace, pod, "-o", path])
    }

    fn cluster_ip(&self, service: &str) -> Result<String> {
        let path = "jsonpath={.spec.clusterIP}";
        self.0
            .cluster
            .kubectl(&["get", "service", "-n", &self.0.namespace, service, "-o", path])
    }

    /// What psql in the pod `client` says, errors too.
    fn psql(&self, host: &str, statement: &str) -> Result<String> {
        let psql = format!("{}/psql", binaries()?);
        let to = format!("host={host} user=postgres dbname=postgres connect_timeout=5");
        let said = self.0.run("client", &[&psql, &to, "-XAtqc", statement])?;
        Ok((text(&said.stdout) + &text(&said.stderr)).trim().to_owned())
    }

    /// That what the pod asks there is denied and masked.
    fn protected(&self, agent: &NodeAgent, host: &str) -> Result<()> {
        self.until(Some(agent), host, || Ok(self.psql(host, SEEN)? == MASKED))?;
        let denied = self.psql(host, DROPPED)?;
        ensure!(denied.contains("tables stay"), "{host}: {denied}");
        Ok(())
    }

    fn until(
        &self,
        agent: Option<&NodeAgent>,
        what: &str,
        mut is_so: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(60);
        while !is_so()? {
            let seen = || self.psql(what, SEEN).unwrap_or_default();
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

/// Where the machine's PostgreSQL is.
fn binaries() -> Result<String> {
    let mut found: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")?
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|bin| bin.join("postgres").is_file())
        .collect();
    found.sort();
    let last = found
        .pop()
        .context("PostgreSQL is missing: apt-get install postgresql")?;
    last.to_str()
        .map(str::to_owned)
        .context("a path that isn't UTF-8")
}

#[test]
fn a_database_behind_a_service_is_protected_at_each_of_its_addresses_as_they_change() -> Result<()> {
    let Some(lab) = Lab::new("services-changing")? else {
        return Ok(());
    };
    let namespace = lab.0.namespace.as_str();
    let first = lab.database("pg-0")?;
    lab.0
        .cluster
        .kubectl(&["label", "pod", "-n", namespace, "pg-0", "app=pg", "--overwrite"])?;
    lab.apply(&[
        service(namespace, "pg", &json!({"selector": {"app": "pg"}})),
        target(
            "db",
            &json!({"services": [{"namespace": namespace, "name": "pg"}]}),
        ),
        policy("db"),
    ])?;
    let agent = lab.agent(None)?;
    let service_address = lab.cluster_ip("pg")?;
    lab.until_addresses(&agent, "db", 2)?;
    lab.protected(&agent, &service_address)?;
    lab.protected(&agent, &first)?;

    // Whatever becomes of policies meanwhile.
    lab.apply(&[policy("nowhere")])?;
    lab.until(Some(&agent), "a policy that is refused", || {
        Ok(agent.metric("bailiff_policies_refused")? == 1)
    })?;
    // Another pod comes, before it is ready to be asked by the Service: its address alone.
    let second = lab.database("pg-1")?;
    ensure!(lab.psql(&second, SEEN)? == CANARY, "nobody names it yet");
    lab.0
        .cluster
        .kubectl(&["label", "pod", "-n", namespace, "pg-1", "app=pg", "--overwrite"])?;
    let took = lab.until_addresses(&agent, "db", 3)?;
    println!("an endpoint is protected {took:?} after it came");
    ensure!(lab.psql(&second, SEEN)? == MASKED, "{}", agent.log());
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
    lab.until(Some(&agent), &second, || Ok(lab.psql(&second, SEEN)? == CANARY))?;
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
    let pod = lab.database("pg-0")?;
    lab.0
        .cluster
        .kubectl(&["label", "pod", "-n", namespace, "pg-0", "app=pg", "--overwrite"])?;
    // The tenant's Target allows everything, and masks nothing.
    lab.apply(&[
        service(namespace, "pg", &json!({"selector": {"app": "pg"}})),
        service(namespace, "tenant", &json!({})),
        target("db", &json!({"services": [{"namespace": namespace, "name": "pg", "port": "pg"}]})),
        policy("db"),
        target("outside", &json!({"endpoints": [format!("{}:5432", outside.address())]})),
        policy("outside"),
        target("a-tenants", &json!({"services": [{"namespace": namespace, "name": "tenant", "port": 5432}], "default": "Allow", "unknown": "Allow"})),
    ])?;
    let agent = lab.agent(None)?;
    let service_address = lab.cluster_ip("pg")?;
    lab.until_addresses(&agent, "db", 2)?;
    lab.until_addresses(&agent, "a-tenants", 1)?;
    let addresses = [service_address.as_str(), &pod, outside.address()];
    for address in addresses {
        lab.protected(&agent, address)?;
    }

    // And one that is nobody's.
    let others = [&addresses[..], &["192.0.2.9"]].concat();
    lab.apply(&[slice(namespace, "tenant-1", "tenant", &others)])?;
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
    let pod = lab.database("pg-0")?;
    lab.0
        .cluster
        .kubectl(&["label", "pod", "-n", namespace, "pg-0", "app=pg", "--overwrite"])?;
    let upstream = json!({"mode": "Verify", "caFile": lab.0.cluster.ca()?, "serverName": name});
    lab.apply(&[
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
    let own = lab.address("client")?;
    for host in [lab.cluster_ip("pg")?, pod] {
        lab.protected(&agent, &host)?;
        ensure!(
            lab.psql(&host, SOURCE)? == own,
            "{host}: {}",
            lab.psql(&host, SOURCE)?
        );
    }
    let seen = |agent: &NodeAgent| {
        lab.until(Some(agent), plain.address(), || {
            Ok(lab.psql(plain.address(), SOURCE)? == own)
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
