//! A real API server with its controllers: what the tests of the Kubernetes API stand on.

use std::net::TcpStream;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{Cluster, check};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::Value;

#[test]
fn it_is_the_pinned_release_and_tells_it() -> Result<()> {
    let Some(cluster) = Cluster::shared()? else {
        return Ok(());
    };
    let told: Value = serde_json::from_str(&cluster.kubectl(&["version", "-o", "json"])?)?;
    for side in ["clientVersion", "serverVersion"] {
        let version = told
            .pointer(&format!("/{side}/gitVersion"))
            .and_then(Value::as_str);
        ensure!(version == Some(cluster.version()?), "{side}: {version:?}");
    }
    ensure!(cluster.version()?.starts_with("v1.34."), "{}", cluster.version()?);
    Ok(())
}

#[test]
fn the_services_address_leads_to_the_api_server() -> Result<()> {
    let Some(cluster) = Cluster::shared()? else {
        return Ok(());
    };
    TcpStream::connect(cluster.service()?)?;
    let server = format!("--server=https://{}", cluster.service()?);
    let listed = cluster.kubectl(&[
        &server,
        "get",
        "endpoints",
        "-n",
        "default",
        "kubernetes",
        "-o",
        "json",
    ])?;
    let endpoints: Value = serde_json::from_str(&listed)?;
    let address = endpoints
        .pointer("/subsets/0/addresses/0/ip")
        .and_then(Value::as_str);
    ensure!(
        address == Some(&cluster.api_server()?.ip().to_string()),
        "{endpoints}"
    );
    Ok(())
}

#[test]
fn a_bound_token_is_its_service_accounts_and_its_request_is_audited() -> Result<()> {
    let Some(cluster) = Cluster::shared()? else {
        return Ok(());
    };
    let namespace = "bound-token";
    cluster.namespace(namespace)?;
    cluster.service_account(namespace, "runner", Some("view"))?;
    let uid = cluster.pod(namespace, "runner", "runner")?;
    let token = cluster.token(namespace, "runner", Some("runner"))?;

    let listed = as_bearer(cluster, &token, &["get", "pods", "-n", namespace, "-o", "name"])?;
    ensure!(
        listed.status.success() && listed.stdout == b"pod/runner\n",
        "{listed:?}"
    );
    let refused = as_bearer(cluster, &token, &["get", "secrets", "-n", namespace])?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(!refused.status.success() && said.contains("forbidden"), "{said}");

    let user = format!("system:serviceaccount:{namespace}:runner");
    for (resource, code) in [("pods", 200), ("secrets", 403)] {
        let event = cluster.audited(resource, |event| {
            event.pointer("/user/username") == Some(&Value::from(user.as_str()))
                && event.pointer("/objectRef/resource") == Some(&Value::from(resource))
        })?;
        ensure!(event.pointer("/verb") == Some(&Value::from("list")), "{event}");
        ensure!(
            event.pointer("/objectRef/namespace") == Some(&Value::from(namespace)),
            "{event}"
        );
        ensure!(
            event.pointer("/responseStatus/code") == Some(&Value::from(code)),
            "{event}"
        );
        // The pod that the token is bound to is told, by name and by uid.
        let extra = |name: &str| {
            let key = format!("authentication.kubernetes.io/{name}");
            event
                .pointer("/user/extra")
                .and_then(|extra| extra.get(key))
                .cloned()
        };
        ensure!(
            extra("pod-name") == Some(serde_json::json!(["runner"])),
            "{event}"
        );
        ensure!(extra("pod-uid") == Some(serde_json::json!([uid])), "{event}");
    }
    let log = std::fs::read_to_string(cluster.folder().join("audit.log"))?;
    ensure!(!log.contains(&token), "the audit log holds a token");
    Ok(())
}

#[test]
fn a_serving_certificate_by_the_kubelets_signer_is_trusted_for_the_api_servers_names() -> Result<()> {
    let Some(cluster) = Cluster::shared()? else {
        return Ok(());
    };
    let namespace = "serving-certificate";
    cluster.namespace(namespace)?;
    let address = cluster.service()?.ip().to_string();
    let names = ["kubernetes.default.svc".to_owned(), address.clone()];
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "system:nodes");
    params
        .distinguished_name
        .push(DnType::CommonName, "system:node:bailiff");
    let key = KeyPair::generate()?;
    let request = params.serialize_request(&key)?.pem()?;

    let created = cluster.apply(
        &serde_json::json!({
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {"name": namespace},
            "spec": {
                "signerName": "kubernetes.io/kubelet-serving",
                "usages": ["digital signature", "server auth"],
                "request": base64(cluster, "request.pem", &request)?,
            },
        })
        .to_string(),
    )?;
    ensure!(created.contains("created"), "{created}");
    cluster.kubectl(&["certificate", "approve", namespace])?;
    let issued = "jsonpath={.status.certificate}";
    cluster.kubectl(&[
        "wait",
        "csr",
        namespace,
        &format!("--for={issued}"),
        "--timeout=60s",
    ])?;
    let certificate = cluster.kubectl(&["get", "csr", namespace, "-o", issued])?;
    let root = cluster.kubectl(&[
        "get",
        "configmap",
        "-n",
        namespace,
        "kube-root-ca.crt",
        "-o",
        r"jsonpath={.data.ca\.crt}",
    ])?;
    ensure!(
        root.trim() == std::fs::read_to_string(cluster.ca()?)?.trim(),
        "another CA: {root}"
    );

    // A client that trusts what pods trust, and asks for each of the names; and for one that it isn't.
    let folder = cluster.folder();
    std::fs::write(folder.join("issued.base64"), certificate)?;
    std::fs::write(folder.join("issued.key"), key.serialize_pem())?;
    std::fs::write(folder.join("root.pem"), root)?;
    let output = check(Command::new("python3").args(["-c", HANDSHAKE]).arg(folder).args([
        "kubernetes.default.svc",
        &address,
        "kubernetes.default.example",
    ]))?;
    let said = String::from_utf8(output.stdout)?;
    let lines: Vec<&str> = said.lines().collect();
    ensure!(
        matches!(lines.as_slice(), ["verified", "verified", refused] if refused.contains("mismatch")),
        "{said}"
    );
    Ok(())
}

/// A TLS handshake in memory for each name.
const HANDSHAKE: &str = "
import base64, os, ssl, sys
folder, names = sys.argv[1], sys.argv[2:]
at = lambda name: os.path.join(folder, name)
open(at('issued.pem'), 'wb').write(base64.b64decode(open(at('issued.base64')).read()))
accepting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
accepting.load_cert_chain(at('issued.pem'), at('issued.key'))
for name in names:
    asking = ssl.create_default_context(cafile=at('root.pem'))
    here, there = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = asking.wrap_bio(here, there, server_hostname=name)
    server = accepting.wrap_bio(there, here, server_side=True)
    try:
        done = False
        for side in [client, server] * 3:
            try: side.do_handshake(); done = True
            except ssl.SSLWantReadError: pass
        print('verified' if done else 'unfinished')
    except ssl.SSLCertVerificationError as error: print(error)
";

fn base64(cluster: &Cluster, name: &str, text: &str) -> Result<String> {
    let file = cluster.folder().join(name);
    std::fs::write(&file, text)?;
    let output = check(Command::new("base64").arg("-w0").arg(file))?;
    Ok(String::from_utf8(output.stdout)?)
}

/// kubectl with a token and the CA alone, as it has them in a pod.
fn as_bearer(cluster: &Cluster, token: &str, args: &[&str]) -> Result<std::process::Output> {
    let mut command = Command::new(cluster.programs()?.join("kubectl"));
    command
        .env("KUBECONFIG", "/dev/null")
        .env("KUBECACHEDIR", cluster.folder().join("kubectl-cache"))
        .arg(format!("--server=https://{}", cluster.api_server()?))
        .arg("--certificate-authority")
        .arg(cluster.ca()?)
        .arg(format!("--token={token}"))
        .args(args)
        .stdin(Stdio::null());
    command.output().context("kubectl can't be started")
}
