//! Databases in pods of a real node, and what a pod sees of them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::NodeLab;
use crate::masked::text;

/// The real value.
pub const CANARY: &str = "canary-ssn-4711";
/// What a pod sees of it.
pub const MASKED: &str = "[masked]";
/// How it is read.
pub const SEEN: &str = "select ssn from patients";
/// What the Policy refuses: `tables stay`.
pub const DROPPED: &str = "drop table patients";
/// From where a connection comes, as the server sees it.
pub const SOURCE: &str = "select host(inet_client_addr())";

/// A Policy of a target: its patients are read, their numbers masked, and tables stay.
#[must_use]
pub fn policy(target: &str) -> Value {
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
#[must_use]
pub fn target(name: &str, more: &Value) -> Value {
    let mut object = json!({"apiVersion": "bailiff.dev/v1alpha1", "kind": "Target", "metadata": {"name": name},
        "spec": {"protocol": "postgres", "plainRelations": ["public.patients"]}});
    let spec = object.get_mut("spec").and_then(Value::as_object_mut);
    if let (Some(spec), Some(more)) = (spec, more.as_object()) {
        spec.extend(more.clone());
    }
    object
}

/// A Service of a port `pg`; `more` is of its spec.
#[must_use]
pub fn service(namespace: &str, name: &str, more: &Value) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": name},
        "spec": {"ports": [{"name": "pg", "port": 5432, "targetPort": 5432}]}});
    let spec = object.get_mut("spec").and_then(Value::as_object_mut);
    if let (Some(spec), Some(more)) = (spec, more.as_object()) {
        spec.extend(more.clone());
    }
    object
}

/// What is behind a Service, as whoever may write EndpointSlices says it.
#[must_use]
pub fn slice(namespace: &str, name: &str, of: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<_> = addresses.iter().map(|at| json!({"addresses": [at]})).collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": namespace, "name": name, "labels": {"kubernetes.io/service-name": of}},
        "addressType": "IPv4", "ports": [{"name": "pg", "port": 5432}], "endpoints": endpoints})
}

impl NodeLab {
    /// Applies objects.
    pub fn apply(&self, objects: &[Value]) -> Result<()> {
        objects
            .iter()
            .try_for_each(|object| self.cluster.apply(&object.to_string()).map(drop))
    }

    /// A pod with this machine's PostgreSQL in it.
    pub fn postgres_pod(&self, name: &str, command: &[&str], security: &Value) -> Result<()> {
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
        let keys = self.path("tls");
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
        self.begin_pod_with(name, command, &more).map(drop)
    }

    /// A database in a pod with the label `app` of this name; with TLS where there is a certificate. Returns the pod's address.
    pub fn database(&self, name: &str) -> Result<String> {
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
        self.ready(name)?;
        let make =
            format!("create table patients (id int, ssn text); insert into patients values (1, '{CANARY}')");
        let psql = format!("{bin}/psql");
        let made = [&psql, "-h", "/tmp", "-U", "postgres", "-XAtqc", &make];
        until(
            || Ok(self.run(name, &made)?.status.success()),
            || format!("{name} doesn't answer"),
        )?;
        self.address(name)
    }

    /// A pod's address.
    pub fn address(&self, pod: &str) -> Result<String> {
        let path = "jsonpath={.status.podIP}";
        self.cluster
            .kubectl(&["get", "pod", "-n", &self.namespace, pod, "-o", path])
    }

    /// A Service's address.
    pub fn cluster_ip(&self, service: &str) -> Result<String> {
        let path = "jsonpath={.spec.clusterIP}";
        self.cluster
            .kubectl(&["get", "service", "-n", &self.namespace, service, "-o", path])
    }

    /// What psql in the pod `client` says, errors too.
    pub fn psql(&self, host: &str, statement: &str) -> Result<String> {
        let psql = format!("{}/psql", binaries()?);
        let to = format!("host={host} user=postgres dbname=postgres connect_timeout=5");
        let said = self.run("client", &[&psql, &to, "-XAtqc", statement])?;
        Ok((text(&said.stdout) + &text(&said.stderr)).trim().to_owned())
    }

    /// Waits until what `client` asks there comes masked, and sees that what is denied is. `said` is what the agent says, for a failure.
    pub fn protected(&self, host: &str, said: &dyn Fn() -> String) -> Result<()> {
        until(
            || Ok(self.psql(host, SEEN)? == MASKED),
            || format!("{host}: {:?} {}", self.psql(host, SEEN), said()),
        )?;
        let denied = self.psql(host, DROPPED)?;
        ensure!(denied.contains("tables stay"), "{host}: {denied}");
        Ok(())
    }
}

fn until(mut is_so: impl FnMut() -> Result<bool>, why: impl Fn() -> String) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so()? {
        ensure!(Instant::now() < end, "{}", why());
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Where the programs of this machine's PostgreSQL are.
pub fn binaries() -> Result<String> {
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
