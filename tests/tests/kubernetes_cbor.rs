//! Bodies and masks in CBOR, which a server speaks where its feature gate says so.

use anyhow::{Result, ensure};
use bailiff_tests::masked::text;
use bailiff_tests::{ApiLab, Cluster, ClusterOptions, can_be_root};
use serde_json::{Value, json};

const RULES: &str = r#"    - name: work
      requests: [{groups: [""], resources: [pods, secrets]}]
      action: Allow
    - name: no-secrets
      requests: [{verbs: [create, update, patch], mountsSecrets: true}]
      action: Deny
      message: agents mount no secrets
  masks:
  - {groups: [""], resources: [secrets], fields: ["data.*"], with: Redact}
"#;

/// A body in CBOR as the server itself writes it, of one in JSON.
fn in_cbor(lab: &ApiLab, path: &str, object: &Value) -> Result<Vec<u8>> {
    let options = [
        "-X",
        "POST",
        "-H",
        "Content-Type: application/json",
        "-H",
        "Accept: application/cbor",
        "--data-binary",
        &object.to_string(),
    ];
    let made = lab.curl_direct(&options, &format!("{path}?dryRun=All"))?;
    // What says that it is CBOR: RFC 8949, 3.4.6.
    ensure!(made.stdout.starts_with(b"\xd9\xd9\xf7"), "{}", text(&made.stdout));
    Ok(made.stdout)
}

/// Sends a body in CBOR out of the pod.
fn send(lab: &ApiLab, method: &str, path: &str, body: &[u8]) -> Result<String> {
    let file = lab.path("body");
    std::fs::write(&file, body)?;
    lab.send(method, "application/cbor", &file, path)
}

#[test]
fn bodies_in_cbor_are_looked_into_and_written_back() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let cluster = Cluster::start(&ClusterOptions {
        api_server_flags: vec!["--feature-gates=CBORServingAndStorage=true".to_owned()],
        ..ClusterOptions::default()
    })?;
    // It ends with this process, as a shared one does.
    let lab = ApiLab::on(Box::leak(Box::new(cluster)), "cbor", "admin", RULES)?;
    let pods = "/api/v1/namespaces/cbor/pods";
    let pod = |name: &str, volumes: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"containers": [{"name": "main", "image": "example/main"}], "volumes": volumes}})
    };
    let plain = in_cbor(&lab, pods, &pod("plain", json!([])))?;
    let answer = send(&lab, "POST", pods, &plain)?;
    ensure!(answer.ends_with("201"), "{answer}");
    let mounts = json!([{"name": "v", "secret": {"secretName": "db"}}]);
    let mounts = in_cbor(&lab, pods, &pod("mounts", mounts))?;
    let answer = send(&lab, "POST", pods, &mounts)?;
    ensure!(
        answer.ends_with("403") && answer.contains("agents mount no secrets"),
        "{answer}"
    );
    // What breaks off isn't told, and so not surely harmless.
    let answer = send(
        &lab,
        "POST",
        pods,
        plain.get(..plain.len() - 1).unwrap_or_default(),
    )?;
    ensure!(
        answer.ends_with("403") && answer.contains("more than one way"),
        "{answer}"
    );

    lab.cluster.kubectl(&[
        "create",
        "secret",
        "generic",
        "-n",
        "cbor",
        "db",
        "--from-literal=password=canary-hunter2-x7",
    ])?;
    let db = "/api/v1/namespaces/cbor/secrets/db";
    let read = lab
        .curl_in("agent", &["-H", "Accept: application/cbor"], db)?
        .stdout;
    let find = |what: &str| read.windows(what.len()).any(|part| part == what.as_bytes());
    ensure!(find("[masked]") && !find("canary"), "{}", text(&read));
    let answer = send(&lab, "PUT", db, &read)?;
    ensure!(answer.ends_with("200") && !answer.contains("canary"), "{answer}");
    let kept = lab.cluster.kubectl(&[
        "get",
        "secret",
        "-n",
        "cbor",
        "db",
        "-o",
        "jsonpath={.data.password}",
    ])?;
    ensure!(kept == "Y2FuYXJ5LWh1bnRlcjIteDc=", "{kept}");
    Ok(())
}
