//! What policy has recorded of requests beside who, what and when: the objects, as the API server's own audit log has them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Output, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use bailiff_tests::masked::{no_canary, said, text, write};
use bailiff_tests::{ApiLab, Disk};
use serde_json::{Value, json};

const RULES: &str = r#"    - name: discover
      requests: [{verbs: [get], paths: ["*"]}]
      action: Allow
    - name: settings
      requests: [{resources: [configmaps]}]
      action: Allow
      recording: {level: Request, maxBytes: 2000}
    - name: rest
      requests: [{groups: ["*"], resources: [secrets, deployments, pods, pods/log]}]
      action: Allow
"#;

fn events_of(lab: &ApiLab, verb: &str, resource: &str) -> Result<Vec<Value>> {
    let mut events = lab.audited()?;
    events.retain(|event| {
        event.get("verb") == Some(&json!(verb))
            && event.pointer("/objectRef/resource") == Some(&json!(resource))
    });
    ensure!(!events.is_empty(), "no event of {verb} {resource}");
    Ok(events)
}

fn went_well(output: &Output) -> Result<()> {
    ensure!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    Ok(())
}

fn deployment(name: &str, note: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "annotations": {"example.com/note": note}},
           "spec": {"replicas": 0, "selector": {"matchLabels": {"app": name}},
                    "template": {"metadata": {"labels": {"app": name}},
                                 "spec": {"containers": [{"name": "main", "image": "example/main"}]}}}})
}

#[test]
fn objects_are_those_of_the_servers_own_audit_log() -> Result<()> {
    let rules = RULES.replace("      recording: {level: Request, maxBytes: 2000}\n", "");
    let rules = format!("{rules}  recording: RequestResponse\n");
    let Some(lab) = ApiLab::new("recorded-whole", "cluster-admin", &rules)? else {
        return Ok(());
    };
    let all = format!("/apis/apps/v1/namespaces/{}/deployments", lab.namespace);
    let one = format!("{all}/web");
    went_well(&write(
        &lab,
        "POST",
        "application/json",
        &all,
        &deployment("web", "first"),
    )?)?;
    let patch = json!({"metadata": {"annotations": {"example.com/note": "second"}}});
    went_well(&write(
        &lab,
        "PATCH",
        "application/merge-patch+json",
        &one,
        &patch,
    )?)?;
    let operations =
        json!([{"op": "replace", "path": "/metadata/annotations/example.com~1note", "value": "third"}]);
    went_well(&write(
        &lab,
        "PATCH",
        "application/json-patch+json",
        &one,
        &operations,
    )?)?;
    went_well(&write(
        &lab,
        "PATCH",
        "application/apply-patch+yaml",
        &format!("{one}?fieldManager=test&force=true"),
        &deployment("web", "fourth"),
    )?)?;
    went_well(&lab.curl_in("agent", &[], &one)?)?;
    went_well(&lab.curl_in("agent", &["--compressed"], &all)?)?;
    went_well(&lab.curl_in("agent", &["-X", "DELETE"], &one)?)?;
    let mut held = 0;
    for event in lab.audited()? {
        ensure!(event.get("level") == Some(&json!("RequestResponse")), "{event:#}");
        if event.pointer("/objectRef/resource") != Some(&json!("deployments")) {
            continue;
        }
        let server = lab.cluster.audited_too(&event)?;
        for field in ["requestObject", "responseObject"] {
            let (ours, theirs) = (event.get(field), server.get(field));
            ensure!(
                theirs.is_some() == ours.is_some(),
                "{field}: {ours:?}, and the server has {theirs:?}"
            );
            if let (Some(ours), Some(theirs)) = (ours, theirs) {
                // The server's has defaults of its own in what is sent.
                ensure!(
                    if field == "requestObject" {
                        is_in(ours, theirs)
                    } else {
                        ours == theirs
                    },
                    "{field}: {ours:#}, and the server has {theirs:#}"
                );
                held += 1;
            }
        }
    }
    ensure!(held == 11, "{held} objects were compared");
    Ok(())
}

/// Whether all that one object says stands in another.
fn is_in(less: &Value, more: &Value) -> bool {
    match (less, more) {
        (Value::Object(less), Value::Object(more)) => less
            .iter()
            .all(|(key, value)| more.get(key).is_some_and(|other| is_in(value, other))),
        (Value::Array(less), Value::Array(more)) => {
            less.len() == more.len() && less.iter().zip(more).all(|(less, more)| is_in(less, more))
        }
        (less, more) => less == more,
    }
}

#[test]
fn levels_of_rules_count_and_what_is_too_large_is_left_out() -> Result<()> {
    let Some(lab) = ApiLab::new("recorded-parts", "cluster-admin", RULES)? else {
        return Ok(());
    };
    let all = format!("/api/v1/namespaces/{}/configmaps", lab.namespace);
    let map = |name: &str, note: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"note": note}});
    went_well(&write(
        &lab,
        "POST",
        "application/json",
        &all,
        &map("small", "kept"),
    )?)?;
    let token = lab.token("agent")?;
    went_well(&write(
        &lab,
        "POST",
        "application/json",
        &all,
        &map("token", &token),
    )?)?;
    went_well(&write(
        &lab,
        "POST",
        "application/json",
        &all,
        &map("large", &"x".repeat(3000)),
    )?)?;
    went_well(&lab.kubectl(&["get", "configmap", "small"])?)?;
    let events = events_of(&lab, "create", "configmaps")?;
    let [small, secret, large] = events.as_slice() else {
        bail!("{events:#?}")
    };
    for event in [small, secret, large] {
        ensure!(event.get("level") == Some(&json!("Request")), "{event:#}");
        ensure!(event.get("responseObject").is_none(), "{event:#}");
    }
    ensure!(
        small.pointer("/requestObject/data/note") == Some(&json!("kept")),
        "{small:#}"
    );
    // Detectors look at what is recorded.
    ensure!(!secret.to_string().contains(&token), "the record holds a token");
    ensure!(secret.pointer("/requestObject/data/note").is_some(), "{secret:#}");
    ensure!(large.get("requestObject").is_none(), "{large:#}");
    ensure!(
        large.pointer("/annotations/audit.k8s.io~1truncated") == Some(&json!("true")),
        "{large:#}"
    );
    // Of others nothing but who, what and when.
    let secrets = format!("/api/v1/namespaces/{}/secrets", lab.namespace);
    let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"}, "stringData": {"password": "canary-hunter2-x7"}});
    went_well(&write(&lab, "POST", "application/json", &secrets, &body)?)?;
    let events = events_of(&lab, "create", "secrets")?;
    for event in &events {
        ensure!(event.get("level") == Some(&json!("Metadata")), "{event:#}");
        no_canary(&event.to_string(), "the record")?;
        let told = event
            .pointer("/annotations/bailiff.dev~1bytes-in")
            .and_then(Value::as_str);
        ensure!(told == Some(&body.to_string().len().to_string()), "{event:#}");
    }
    Ok(())
}

#[test]
fn what_is_masked_for_a_pod_is_masked_in_the_record() -> Result<()> {
    let masked = bailiff_tests::masked::RULES;
    let rules = format!("{masked}  recording: {{level: RequestResponse, maxBytes: 1000000}}\n");
    let Some(lab) = ApiLab::new("recorded-masks", "cluster-admin", &rules)? else {
        return Ok(());
    };
    let all = format!("/api/v1/namespaces/{}/secrets", lab.namespace);
    let one = format!("{all}/db");
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"},
        "data": {"password": "Y2FuYXJ5LWh1bnRlcjIteDc="}, "stringData": {"other": "canary-written-77"}});
    went_well(&write(&lab, "POST", "application/json", &all, &secret)?)?;
    let patch =
        json!({"data": {"password": "Y2FuYXJ5LWh1bnRlcjIteDc=", "third": "Y2FuYXJ5LXdyaXR0ZW4tNzc="}});
    went_well(&write(
        &lab,
        "PATCH",
        "application/merge-patch+json",
        &one,
        &patch,
    )?)?;
    // What was read is written back; the agent puts the real value in its place.
    let read: Value = serde_json::from_str(&said(&lab.curl_in("agent", &[], &one)?, "get")?)?;
    went_well(&write(&lab, "PUT", "application/json", &one, &read)?)?;
    for accept in [
        "application/vnd.kubernetes.protobuf",
        "application/yaml",
        "application/json",
    ] {
        for path in [&one, &all] {
            went_well(&lab.curl_in("agent", &["-H", &format!("Accept: {accept}")], path)?)?;
        }
    }
    let events = lab.audited()?;
    let record = serde_json::to_string(&events)?;
    no_canary(&record, "the record")?;
    let [mut asked, mut answered] = [0, 0];
    for event in &events {
        // Lists in protobuf aren't kept.
        let is_list = event.get("verb") == Some(&json!("list"));
        ensure!(
            is_list || event.pointer("/annotations/bailiff.dev~1withheld").is_none(),
            "{event:#}"
        );
        let is = |object: Option<&Value>| {
            let object = object.map(|object| object.pointer("/items/0").unwrap_or(object));
            object.and_then(|object| object.pointer("/data/password")) == Some(&json!("W21hc2tlZF0="))
        };
        asked += u8::from(is(event.get("requestObject")));
        answered += u8::from(is(event.get("responseObject")));
    }
    ensure!((asked, answered) == (3, 9), "{asked} {answered} {events:#?}");
    Ok(())
}

/// Asks until the agent says no, and, when it is told a line, until it says yes. Prints each answer's status code, and a refusal.
const UNTIL_FULL: &str = r#"
ask() { curl -s -w '\n%{http_code}\n' --cacert "$1" -H "Authorization: Bearer $(cat "$2")" "$3?x=$(head -c 3000 /dev/urandom | od -An -tx1 | tr -d ' \n')"; }
for i in $(seq 300); do answer=$(ask "$@"); code=${answer##*
}; echo $code; [ $code = 503 ] && break; done
echo "$answer"
read go
for i in $(seq 20); do answer=$(ask "$@"); code=${answer##*
}; echo $code; [ $code = 200 ] && break; done
"#;

#[test]
fn without_room_in_the_record_requests_are_refused_until_there_is() -> Result<()> {
    let Some(mut lab) = ApiLab::new("recorded-full", "cluster-admin", RULES)? else {
        return Ok(());
    };
    lab.enforced = lab.enforced.options(&["--limit", "record-queue=16KiB"]);
    let disk = Disk::mount(lab.enforced.record())?;
    let url = format!(
        "https://{}/api/v1/namespaces/recorded-full/configmaps",
        lab.cluster.service()?
    );
    let (ca, token) = (lab.cluster.ca()?.display().to_string(), lab.path("agent.token"));
    let token = token.to_str().context("a path that isn't UTF-8")?;
    let mut asking = lab
        .enforced
        .run_with(
            &["--pod", "agent"],
            &["sh", "-c", UNTIL_FULL, "sh", &ca, token, &url],
        )?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut go = asking.stdin.take().context("no input")?;
    let mut lines = BufReader::new(asking.stdout.take().context("no output")?).lines();
    let (mut answered, mut refusal) = (0, String::new());
    for line in lines.by_ref() {
        let line = line?;
        match line.as_str() {
            "200" => answered += 1,
            "503" if !refusal.is_empty() => break,
            "503" => refusal.push(' '),
            part => refusal.push_str(part),
        }
    }
    ensure!(
        answered > 5
            && refusal.contains("\"reason\":\"ServiceUnavailable\"")
            && refusal.contains("can't record requests"),
        "{answered}, {refusal}"
    );
    disk.grow()?;
    go.write_all(b"go\n")?;
    let after: Vec<String> = lines.collect::<Result<_, _>>()?;
    ensure!(asking.wait()?.success());
    ensure!(after.last().is_some_and(|code| code == "200"), "{after:?}");
    answered += 1;
    // Each request that the server answered is there.
    let recorded = lab
        .audited()?
        .iter()
        .filter(|event| event.pointer("/responseStatus/code") == Some(&json!(200)))
        .count();
    ensure!(recorded == answered, "{recorded} of {answered}");
    Ok(())
}
