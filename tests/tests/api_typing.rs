//! Requests are typed as the API server itself types them: its audit log says so.

use std::collections::{BTreeMap, HashMap};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bailiff_model::{ApiRequest, ApiSubject};
use bailiff_policy::{Typed, type_request};
use bailiff_tests::Cluster;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;

/// Requests as bytes: none of the libraries sends all that the table holds.
struct Api {
    address: SocketAddr,
    config: Arc<rustls::ClientConfig>,
    token: String,
}

impl Api {
    /// As a service account that may do nothing, or all.
    fn new(cluster: &Cluster, namespace: &str, mighty: bool) -> Result<Self> {
        cluster.namespace(namespace)?;
        cluster.service_account(namespace, "reader", None)?;
        if mighty {
            let account = format!("--serviceaccount={namespace}:reader");
            let role = "--clusterrole=cluster-admin";
            cluster.kubectl(&["create", "clusterrolebinding", namespace, role, &account])?;
        }
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(cluster.ca()?)?)?;
        Ok(Self {
            address: cluster.api_server()?,
            config: Arc::new(
                rustls::ClientConfig::builder()
                    .with_root_certificates(roots)
                    .with_no_client_auth(),
            ),
            token: cluster.token(namespace, "reader", None)?,
        })
    }

    /// Sends a request on a connection of its own, and returns all that comes back. `id` names it in the audit log.
    fn ask(&self, id: &str, method: &str, target: &str, body: &str) -> Result<String> {
        let mut socket = TcpStream::connect(self.address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        let name = ServerName::try_from("kubernetes.default.svc")?;
        let mut tls = rustls::ClientConnection::new(Arc::clone(&self.config), name)?;
        let mut stream = rustls::Stream::new(&mut tls, &mut socket);
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: kubernetes.default.svc\r\nAuthorization: Bearer {}\r\nAudit-ID: {id}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.token,
            body.len()
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            // Go's server ends some connections without TLS's goodbye.
            Err(error)
                if !matches!(
                    error.kind(),
                    ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
                ) =>
            {
                return Err(error).with_context(|| format!("{method} {target}"));
            }
            _ => {}
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// The status and the whole answer of a request that isn't looked up in the log.
    fn status(&self, method: &str, target: &str, body: &str) -> Result<(u16, String)> {
        let answer = self.ask("unnamed", method, target, body)?;
        let status = answer
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .with_context(|| format!("{method} {target}: {answer}"))?;
        Ok((status, answer))
    }
}

struct Row<'a> {
    method: &'a str,
    body: bool,
    target: &'a str,
    /// Why the server's log is no measure here.
    reason: Option<&'a str>,
}

fn table() -> Result<Vec<Row<'static>>> {
    include_str!("../api/requests.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (request, expected) = line.split_once(" => ").context(line)?;
            let (method, target) = request.split_once(' ').context(line)?;
            let body = method.strip_suffix("+body");
            Ok(Row {
                method: body.unwrap_or(method),
                body: body.is_some(),
                target,
                reason: expected.split_once(" @ ").map(|(_, reason)| reason),
            })
        })
        .collect()
}

/// What the server's log says of a request, in the words of the typing.
fn logged(event: &Value) -> BTreeMap<&'static str, String> {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let mut words = BTreeMap::new();
    words.extend(text(event, "verb").map(|verb| ("verb", verb)));
    words.extend(text(event, "requestURI").map(|target| ("target", target)));
    if let Some(object) = event.get("objectRef") {
        words.insert("kind", "resource".to_owned());
        for (name, field) in [
            ("group", "apiGroup"),
            ("version", "apiVersion"),
            ("resource", "resource"),
            ("subresource", "subresource"),
            ("namespace", "namespace"),
            ("name", "name"),
        ] {
            words.extend(text(object, field).map(|value| (name, value)));
        }
    }
    words
}

fn typed(request: &ApiRequest, target: &str) -> BTreeMap<&'static str, String> {
    let mut words = BTreeMap::from([("verb", request.verb.to_string()), ("target", target.to_owned())]);
    if let ApiSubject::Resource(resource) = &request.subject {
        words.insert("kind", "resource".to_owned());
        for (name, value) in [
            ("group", Some(&resource.group)),
            ("version", Some(&resource.version)),
            ("resource", Some(&resource.resource)),
            ("subresource", resource.subresource.as_ref()),
            ("namespace", resource.namespace.as_ref()),
            ("name", resource.name.as_ref()),
        ] {
            words.extend(
                value
                    .filter(|value| !value.is_empty())
                    .map(|value| (name, value.clone())),
            );
        }
    }
    words
}

#[test]
fn the_server_audits_each_request_as_it_was_typed() -> Result<()> {
    let Some(cluster) = Cluster::shared()? else {
        return Ok(());
    };
    // It may do nothing, so the log tells what it asked and nothing happens.
    let api = Api::new(cluster, "typing-table", false)?;
    let rows = table()?;
    for (number, row) in rows.iter().enumerate() {
        let body = if row.body { "{}" } else { "" };
        api.ask(&format!("typing-{number}"), row.method, row.target, body)?;
    }
    api.ask("typing-end", "GET", "/healthz", "")?;
    let is = |event: &Value, id: &str| event.get("auditID").and_then(Value::as_str) == Some(id);
    cluster.audited("the last request", |event| is(event, "typing-end"))?;
    let events = cluster.audit()?;
    let by_id: HashMap<&str, &Value> = events
        .iter()
        .filter_map(|event| Some((event.get("auditID")?.as_str()?, event)))
        .collect();

    let (mut compared, mut doubted, mut read_otherwise, mut wrong) = (0, 0, 0, Vec::new());
    for (number, row) in rows.iter().enumerate() {
        let said = by_id
            .get(format!("typing-{number}").as_str())
            .map(|event| logged(event));
        let Typed { request, doubt } = type_request(row.method, row.target, row.body);
        if doubt.is_some() {
            doubted += 1;
            read_otherwise += usize::from(said.is_some());
            continue;
        }
        if row.reason.is_some() {
            continue;
        }
        compared += 1;
        let typed = typed(&request, row.target);
        if said.as_ref() != Some(&typed) {
            let Row { method, target, .. } = row;
            wrong.push(format!(
                "{method} {target}\n  typed  {typed:?}\n  server {said:?}"
            ));
        }
    }
    println!(
        "{compared} requests are the same to the server; of {doubted} that can't be told it reads {read_otherwise}"
    );
    ensure!(
        wrong.is_empty(),
        "{} of {compared}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    ensure!(compared > 450 && doubted > 100, "{compared} and {doubted}");
    Ok(())
}

/// `dryRun` in the query: what is believed is so, and what isn't would have been a mistake to believe.
#[test]
fn the_server_holds_to_the_dry_runs_that_are_believed() -> Result<()> {
    let Some(cluster) = Cluster::shared()? else {
        return Ok(());
    };
    let namespace = "typing-dry-run";
    let api = Api::new(cluster, namespace, true)?;
    let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
    let one = format!("{maps}/one");
    let dry = |target: &str| format!("{target}?dryRun=All");
    let map = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}}"#;
    let stands = || -> Result<bool> { Ok(api.status("GET", &one, "")?.0 == 200) };
    let is_dry = |method: &str, target: &str, body: &str| {
        let Typed { request, doubt } = type_request(method, target, !body.is_empty());
        (request.dry_run, doubt)
    };

    ensure!(is_dry("POST", &dry(&maps), map) == (true, None));
    ensure!(
        api.status("POST", &dry(&maps), map)?.0 == 201 && !stands()?,
        "made"
    );
    ensure!(api.status("POST", &maps, map)?.0 == 201 && stands()?, "not made");
    for target in [dry(&one), format!("{maps}?dryRun=All&labelSelector=a!=b")] {
        ensure!(is_dry("DELETE", &target, "") == (true, None));
        ensure!(
            api.status("DELETE", &target, "")?.0 == 200 && stands()?,
            "{target}: gone"
        );
    }
    // With a body, the options are there and not in the query.
    ensure!(is_dry("DELETE", &dry(&one), "{}") == (false, None));
    ensure!(
        api.status("DELETE", &dry(&one), "{}")?.0 == 200 && !stands()?,
        "it stands"
    );

    // A value that isn't `All` isn't a dry run, and is refused.
    for values in ["dryRun=", "dryRun=None", "dryRun=All&dryRun=None", "dryRun=all"] {
        let target = format!("{maps}?{values}");
        ensure!(is_dry("POST", &target, map) == (false, None));
        let (status, answer) = api.status("POST", &target, map)?;
        ensure!(status == 422 && !stands()?, "{target}: {answer}");
    }

    // A token is made all the same.
    let token = dry(&format!(
        "/api/v1/namespaces/{namespace}/serviceaccounts/default/token"
    ));
    let request =
        r#"{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}}"#;
    ensure!(is_dry("POST", &token, request) == (false, None));
    let (status, answer) = api.status("POST", &token, request)?;
    ensure!(status == 201 && answer.contains(r#""token":"ey"#), "{status}");

    // Sessions refuse it.
    cluster.pod(namespace, "web", "default")?;
    for session in [
        "exec?command=ls&dryRun=All",
        "portforward?dryRun=All",
        "proxy/?dryRun=All",
    ] {
        let target = format!("/api/v1/namespaces/{namespace}/pods/web/{session}");
        ensure!(is_dry("POST", &target, "") == (false, None));
        let (status, answer) = api.status("POST", &target, "")?;
        ensure!(
            status == 400 && answer.contains("dryRun is not supported"),
            "{target}: {answer}"
        );
    }
    Ok(())
}

/// A name that a selector gives is only believed where the server takes the selectors.
#[test]
fn the_server_takes_the_selectors_that_names_are_taken_from() -> Result<()> {
    let Some(cluster) = Cluster::shared()? else {
        return Ok(());
    };
    let api = Api::new(cluster, "typing-selectors", true)?;
    let mut seen = (0, 0);
    for Row { method, target, .. } in table()? {
        let selected = target.contains("fieldSelector=") && method == "GET" && !target.contains("watch");
        let Typed { request, doubt } = type_request(method, target, false);
        let (true, None, ApiSubject::Resource(resource)) = (selected, doubt, &request.subject) else {
            continue;
        };
        let named = resource.name.is_some() && resource.field_selector.is_some();
        if !named && !target.contains("limit") {
            continue;
        }
        let (status, answer) = api.status(method, target, "")?;
        // What makes the server forget the name makes it refuse the list. Which fields there are is another matter.
        let refused = status == 400 && !answer.contains("field label not supported");
        ensure!(refused != named, "{target}: {answer}");
        seen = if named {
            (seen.0 + 1, seen.1)
        } else {
            (seen.0, seen.1 + 1)
        };
    }
    ensure!(seen.0 > 20 && seen.1 > 3, "{seen:?}");
    Ok(())
}

/// Odd forms in which the server serves what policies may forbid: a rule that read them a little differently would be gone round.
#[test]
fn odd_forms_that_the_server_serves_are_not_told() -> Result<()> {
    let Some(cluster) = Cluster::shared()? else {
        return Ok(());
    };
    let namespace = "typing-forms";
    let api = Api::new(cluster, namespace, true)?;
    let here = format!("/api/v1/namespaces/{namespace}");
    for target in [
        format!("{here}%2Fconfigmaps"),
        format!("{here}/configmaps%2fkube-root-ca.crt"),
        format!("{here}/configmap%73"),
        format!("{here}/configmaps//"),
        format!("/api%2Fv1/namespaces/{namespace}/configmaps"),
        format!("/api/v1/%6eamespaces/{namespace}/configmaps"),
        format!("https://kubernetes.default.svc{here}/configmaps"),
    ] {
        let (status, answer) = api.status("GET", &target, "")?;
        ensure!(
            status == 200 && answer.contains("BEGIN CERTIFICATE"),
            "{target}: {answer}"
        );
        let Typed { request, doubt } = type_request("GET", &target, false);
        ensure!(
            doubt.is_some() && request.subject == ApiSubject::Unknown,
            "{target}: {request}"
        );
    }
    // These are served, too, and mean the same to all.
    for target in [
        format!("{here}/configmaps/"),
        format!("{here}/configmaps/kube-root-ca.crt/"),
        format!("{here}/configmaps/kube-root-ca%2Ecrt"),
    ] {
        let (status, answer) = api.status("GET", &target, "")?;
        ensure!(
            status == 200 && answer.contains("BEGIN CERTIFICATE"),
            "{target}: {answer}"
        );
        ensure!(type_request("GET", &target, false).doubt.is_none(), "{target}");
    }
    Ok(())
}
