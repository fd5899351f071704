//! What nodes say becomes the status of Targets and Policies, and `bailiff status`: real agents of nodes without a machine, the approver, and a
//! real API server with the rights of `deploy/`.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{Approver, Cluster, ClusterOptions, Reporting, bailiff, can_be_root, reporting};
use serde_json::{Value, json};

/// How long anything may take that is waited for. A report may be ten seconds late, and statuses are gathered for two.
const PATIENCE: Duration = Duration::from_secs(90);

const TARGET: &str = r#"
apiVersion: bailiff.dev/v1alpha1
kind: Target
metadata: { name: db }
spec: { protocol: postgres, endpoints: ["10.255.0.1:5432"] }
"#;

const POLICY: &str = r#"
apiVersion: bailiff.dev/v1alpha1
kind: Policy
metadata: { name: read }
spec: { targets: [db], rules: [{ name: read, effects: [read], action: Allow }] }
"#;

/// A control plane for one test, since what is told here is told of all of a cluster.
fn cluster() -> Result<Option<Cluster>> {
    if !can_be_root()? {
        return Ok(None);
    }
    Cluster::start(&ClusterOptions::default()).map(Some)
}

fn approver(cluster: &Cluster) -> Result<Approver> {
    let token = cluster.token("bailiff", "bailiff-approver", None)?;
    let kubeconfig = reporting::kubeconfig(cluster, &cluster.folder().join("approver"), &token)?;
    Approver::start(&kubeconfig, "bailiff/bailiff-agent", "10.255.0.9", &[])
}

fn get(cluster: &Cluster, what: &str) -> Result<Value> {
    Ok(serde_json::from_str(
        &cluster.kubectl(&["get", what, "-o", "json"])?,
    )?)
}

/// Waits until something is so of an object; returns it.
fn until(cluster: &Cluster, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
    let end = Instant::now() + PATIENCE;
    loop {
        let object = get(cluster, what);
        if let Ok(object) = &object
            && is_so(object)
        {
            return Ok(object.clone());
        }
        ensure!(Instant::now() < end, "{what} is never so: {object:#?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn text<'a>(object: &'a Value, place: &str) -> &'a str {
    object.pointer(place).and_then(Value::as_str).unwrap_or_default()
}

/// Status, reason, and how many of how many nodes.
fn accepted(object: &Value) -> (&str, &str, &str) {
    (
        text(object, "/status/conditions/0/status"),
        text(object, "/status/conditions/0/reason"),
        text(object, "/status/nodes/ratio"),
    )
}

fn is(status: &str, reason: &str, ratio: &str) -> impl Fn(&Value) -> bool {
    let wanted = (status.to_owned(), reason.to_owned(), ratio.to_owned());
    move |object| {
        let (status, reason, ratio) = accepted(object);
        (status.to_owned(), reason.to_owned(), ratio.to_owned()) == wanted
            && object.pointer("/status/observedGeneration") == object.pointer("/metadata/generation")
    }
}

/// `bailiff status` with a kubeconfig.
fn status(kubeconfig: &Path, options: &[&str]) -> Result<Output> {
    Ok(Command::new(bailiff()?)
        .arg("status")
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(options)
        .output()?)
}

fn said(output: &Output) -> String {
    let all = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn objects_say_on_how_many_nodes_they_are_in_force_and_why_not_on_others() -> Result<()> {
    let Some(cluster) = cluster()? else {
        return Ok(());
    };
    let administrator = cluster.kubeconfig()?.to_owned();
    let absent = status(&administrator, &[])?;
    ensure!(
        absent.status.code() == Some(2) && said(&absent).contains("see docs/install.md"),
        "{}",
        said(&absent)
    );
    cluster.install_crds()?;
    cluster.apply_base(&[
        "namespace.yaml",
        "agent-rbac.yaml",
        "approver-rbac.yaml",
        "nodereports.yaml",
    ])?;
    let secrets = cluster.folder().join("secrets");
    std::fs::create_dir(&secrets)?;
    std::fs::write(secrets.join("password"), "canary-in-a-file\n")?;
    cluster.apply(TARGET)?;
    cluster.apply(POLICY)?;
    let approver = approver(&cluster)?;
    until(
        &cluster,
        "policies.bailiff.dev/read",
        is("Unknown", "NoNodes", "0/0"),
    )?;

    let here = Reporting::start(&cluster, "here", None)?;
    let without = Reporting::start(&cluster, "without", Some(&secrets))?;
    for object in ["targets.bailiff.dev/db", "policies.bailiff.dev/read"] {
        until(&cluster, object, is("True", "InForce", "2/2"))
            .with_context(|| format!("{}{}{}", here.log(), without.log(), approver.log()))?;
    }
    cluster.kubectl(&[
        "wait",
        "--for=condition=Accepted",
        "--timeout=10s",
        "policies.bailiff.dev/read",
    ])?;
    let printed = cluster.kubectl(&["get", "policies.bailiff.dev,targets.bailiff.dev", "-o", "wide"])?;
    ensure!(
        printed.matches("2/2").count() == 2 && printed.matches("InForce").count() == 2,
        "{printed}"
    );
    let printed = cluster.kubectl(&["get", "nodereports"])?;
    ensure!(
        printed.lines().count() == 3 && printed.contains("Observe") && printed.contains("NOT COVERED"),
        "{printed}"
    );
    // All is well from the first report on, and said so.
    let well = status(&administrator, &[])?;
    ensure!(
        well.status.code() == Some(0) && said(&well).contains("All is well."),
        "{}",
        said(&well)
    );

    // Another generation.
    let patch = r#"{"spec": {"rules": [{"name": "read", "effects": ["read"], "action": "Deny"}]}}"#;
    cluster.kubectl(&[
        "patch",
        "policies.bailiff.dev",
        "read",
        "--type=merge",
        "-p",
        patch,
    ])?;
    let read = until(&cluster, "policies.bailiff.dev/read", |read| {
        is("True", "InForce", "2/2")(read) && read.pointer("/metadata/generation") == Some(&json!(2))
    })?;
    ensure!(
        read.pointer("/status/conditions/0/observedGeneration") == Some(&json!(2)),
        "{read:#}"
    );

    // A target whose file only one node has. What comes with it waits on the other.
    let file = secrets.join("password");
    let secret = json!({
        "apiVersion": "bailiff.dev/v1alpha1", "kind": "Target", "metadata": {"name": "secret"},
        "spec": {"protocol": "postgres", "endpoints": ["10.255.0.2:5432"], "credential": {"passwordFile": file}},
    });
    cluster.apply(&secret.to_string())?;
    let secret = until(
        &cluster,
        "targets.bailiff.dev/secret",
        is("False", "Refused", "1/2"),
    )?;
    ensure!(
        text(&secret, "/status/refusals/0/nodes/0") == "without"
            && text(&secret, "/status/refusals/0/reason").contains("/secrets/password")
            && !text(&secret, "/status/refusals/0/mend").is_empty()
            && text(&secret, "/status/conditions/0/message")
                .starts_with("1 of 2 nodes refuses it; without: "),
        "{secret:#}"
    );
    let later = POLICY.replace("name: read }", "name: later }");
    cluster.apply(&later)?;
    until(
        &cluster,
        "policies.bailiff.dev/later",
        is("False", "HeldBack", "1/2"),
    )?;
    let read = get(&cluster, "policies.bailiff.dev/read")?;
    ensure!(accepted(&read) == ("True", "InForce", "2/2"), "{read:#}");

    let told = status(&administrator, &[])?;
    let shown = said(&told);
    let words = |line: &&str, words: &[&str]| {
        words
            .iter()
            .all(|word| line.split_whitespace().any(|part| part == *word))
    };
    ensure!(
        told.status.code() == Some(1)
            && shown
                .lines()
                .any(|line| words(&line, &["secret", "postgres", "1/2", "Refused"]) && line.contains("mend:"))
            && shown
                .lines()
                .any(|line| words(&line, &["later", "Enforce", "1/2", "HeldBack"]))
            && shown
                .lines()
                .any(|line| words(&line, &["here", "ready", "observe"])),
        "{shown}"
    );
    let told: Value = serde_json::from_slice(&status(&administrator, &["-o", "json"])?.stdout)?;
    ensure!(
        told.get("ok") == Some(&json!(false))
            && told.pointer("/targets/1/name") == Some(&json!("secret"))
            && told.pointer("/targets/1/accepted") == Some(&json!(1))
            && told.pointer("/targets/1/refusals/0/nodes") == Some(&json!(["without"]))
            && told.pointer("/nodes/1/said/objects/refused") == Some(&json!(1)),
        "{told:#}"
    );
    // Neither holds what the file does.
    ensure!(
        !cluster
            .kubectl(&["get", "nodereports,targets.bailiff.dev", "-o", "yaml"])?
            .contains("canary-in-a-file"),
        "a secret is told"
    );

    // An agent that can't start says so.
    ensure!(without.stop()?.success());
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let admin = ["--admin", &taken.local_addr()?.to_string()];
    let without = Reporting::start_with(&cluster, "without", Some(&secrets), &admin)?;
    let report = until(&cluster, "nodereports/without", |report| {
        text(report, "/status/dataPath/reason").starts_with("the agent can't start: ")
    })?;
    ensure!(
        report.pointer("/status/objects/refused") == Some(&json!(1))
            && report.pointer("/status/objects/heldBack") == Some(&json!(3)),
        "{report:#}"
    );
    until(
        &cluster,
        "policies.bailiff.dev/read",
        is("False", "HeldBack", "1/2"),
    )?;
    drop((without, taken));
    // One that can goes on by what was in force there, refused as the rest still is.
    let without = Reporting::start(&cluster, "without", Some(&secrets))?;
    for (object, reason) in [("read", "InForce"), ("later", "HeldBack")] {
        until(&cluster, &format!("policies.bailiff.dev/{object}"), |policy| {
            accepted(policy).1 == reason
        })
        .with_context(|| without.log())?;
    }

    // An approver that starts anew writes what has changed meanwhile, and nothing else.
    let version = |what: &str| -> Result<String> {
        let object = get(&cluster, what)?;
        Ok(text(&object, "/metadata/resourceVersion").to_owned())
    };
    ensure!(approver.stop()?.success());
    cluster.kubectl(&["delete", "targets.bailiff.dev", "secret"])?;
    drop(without);
    let without = Reporting::start(&cluster, "without", Some(&secrets))?;
    let approver = self::approver(&cluster)?;
    for object in [
        "policies.bailiff.dev/later",
        "policies.bailiff.dev/read",
        "targets.bailiff.dev/db",
    ] {
        until(&cluster, object, is("True", "InForce", "2/2"))?;
    }
    let before = version("targets.bailiff.dev/db")?;
    ensure!(approver.stop()?.success());
    cluster.apply(&POLICY.replace("name: read }", "name: last }"))?;
    let approver = self::approver(&cluster)?;
    until(
        &cluster,
        "policies.bailiff.dev/last",
        is("True", "InForce", "2/2"),
    )?;
    ensure!(
        version("targets.bailiff.dev/db")? == before,
        "it was written again"
    );
    ensure!(
        approver
            .get("/metrics")?
            .contains("bailiff_approver_status_errors_total 0\n")
            && approver.get("/readyz")?.contains("[+]statuses ok"),
        "{}",
        approver.log()
    );

    // A node that goes takes its report with it, and counts no more.
    ensure!(without.stop()?.success());
    let last = get(&cluster, "nodereports/without")?;
    ensure!(
        last.pointer("/status/dataPath") == Some(&json!({"ready": false, "reason": "the agent has ended"})),
        "{last:#}"
    );
    let told = status(&administrator, &[])?;
    ensure!(
        told.status.code() == Some(1) && said(&told).contains("the agent has ended"),
        "{}",
        said(&told)
    );
    cluster.kubectl(&["delete", "node", "without"])?;
    until(
        &cluster,
        "policies.bailiff.dev/read",
        is("True", "InForce", "1/1"),
    )?;
    ensure!(
        get(&cluster, "nodereports/without").is_err(),
        "its report is still there"
    );
    ensure!(here.stop()?.success());
    drop(approver);
    cluster.stop()
}

#[test]
fn a_report_is_written_seldom_however_often_pods_come_and_go() -> Result<()> {
    let Some(cluster) = cluster()? else {
        return Ok(());
    };
    cluster.install_crds()?;
    cluster.apply_base(&["namespace.yaml", "agent-rbac.yaml", "nodereports.yaml"])?;
    let mut agent = Reporting::start(&cluster, "busy", None)?;
    until(&cluster, "nodereports/busy", |_| true).with_context(|| agent.log())?;
    // Of an exempt namespace: nothing is enrolled, and all is counted.
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "comes-and-goes", "namespace": "kube-system"},
        "spec": {
            "nodeName": "busy", "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "main", "image": "none.invalid/none", "imagePullPolicy": "Never"}],
        },
    });
    cluster.kubectl(&[
        "wait",
        "--for=create",
        "--timeout=60s",
        "-n",
        "kube-system",
        "serviceaccount/default",
    ])?;
    cluster.apply(&pod.to_string())?;
    let path = "jsonpath={.metadata.uid}";
    let uid = cluster.kubectl(&["get", "pod", "-n", "kube-system", "comes-and-goes", "-o", path])?;
    let generation = |report: &Value| {
        report
            .pointer("/metadata/generation")
            .and_then(Value::as_u64)
            .unwrap_or_default()
    };
    let (begun, before) = (Instant::now(), generation(&get(&cluster, "nodereports/busy")?));
    for _ in 0..30 {
        agent.run_pod(&uid)?;
        std::thread::sleep(Duration::from_millis(500));
        agent.end_pod()?;
        std::thread::sleep(Duration::from_millis(500));
    }
    let writes = generation(&get(&cluster, "nodereports/busy")?) - before;
    // What only counts pods is written every fifteen seconds at most.
    let most = begun.elapsed().as_secs() / 15 + 1;
    ensure!(writes <= most, "{writes} writes in {:?}", begun.elapsed());

    // One that stays is told; and one of which nobody says who it is, with why.
    agent.run_pod(&uid)?;
    agent.run_pod("11111111-2222-3333-4444-555555555555")?;
    let report = until(&cluster, "nodereports/busy", |report| {
        report.pointer("/status/pods/exempt") == Some(&json!(1))
            && report.pointer("/status/pods/notCovered") == Some(&json!(1))
    })?;
    ensure!(
        text(&report, "/status/notCovered/0/name") == "11111111-2222-3333-4444-555555555555"
            && text(&report, "/status/notCovered/0/reason").contains("nobody says who it is")
            && text(&report, "/metadata/ownerReferences/0/kind") == "Node",
        "{report:#}"
    );
    let told = status(cluster.kubeconfig()?, &[])?;
    ensure!(
        told.status.code() == Some(1) && said(&told).contains("?/11111111-2222-3333-4444-555555555555"),
        "{}",
        said(&told)
    );
    ensure!(agent.log().is_empty(), "{}", agent.log());
    drop(agent);
    cluster.stop()
}

/// A report as an agent writes it, that says nothing.
fn report(node: &str) -> Value {
    let now = "2030-01-01T00:00:00Z";
    json!({
        "apiVersion": "bailiff.dev/v1alpha1", "kind": "NodeReport", "metadata": {"name": node},
        "status": {
            "version": "1", "mode": "Observe", "started": now, "written": now, "dataPath": {"ready": true},
            "policiesFrom": "Cluster", "pods": {"enforced": 0, "observed": 0, "exempt": 0, "notCovered": 0},
            "objects": {"targets": 0, "policies": 0, "refused": 0, "heldBack": 0},
        },
    })
}

/// What kubectl says with such a token, and whether it succeeded.
fn with_token(cluster: &Cluster, token: &str, args: &[&str], input: &str) -> Result<(bool, String)> {
    let path = reporting::kubeconfig(cluster, &cluster.folder().join("tried"), token)?;
    let mut child = cluster
        .kubectl_command(args)?
        .env("KUBECONFIG", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("no input")?;
    std::io::Write::write_all(&mut stdin, input.as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    Ok((output.status.success(), said(&output)))
}

#[test]
fn nobody_writes_a_nodes_report_but_its_agent() -> Result<()> {
    let Some(cluster) = cluster()? else {
        return Ok(());
    };
    cluster.install_crds()?;
    cluster.apply_base(&["namespace.yaml", "agent-rbac.yaml", "nodereports.yaml"])?;
    for node in ["one", "other"] {
        cluster
            .apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}}).to_string())?;
    }
    let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    let own = reporting::token(&cluster, "one")?;
    let (one, other) = (report("one").to_string(), report("other").to_string());
    // The policy is in force a while after it was made.
    let end = Instant::now() + PATIENCE;
    loop {
        let (is_written, told) = with_token(&cluster, &own, &apply, &other)?;
        if !is_written {
            ensure!(told.contains("written by that node's agent alone"), "{told}");
            break;
        }
        ensure!(Instant::now() < end, "the policy is never in force");
        std::thread::sleep(Duration::from_millis(500));
    }
    let (is_written, told) = with_token(&cluster, &own, &apply, &one)?;
    ensure!(is_written, "{told}");
    // Twice: as what is made, and as what is changed.
    let of_other = reporting::token(&cluster, "other")?;
    let (is_written, told) = with_token(&cluster, &of_other, &apply, &other)?;
    ensure!(is_written, "{told}");
    let changed = other.replace("Observe", "Enforce");
    let (is_written, told) = with_token(&cluster, &own, &apply, &changed)?;
    ensure!(
        !is_written && told.contains("written by that node's agent alone"),
        "{told}"
    );
    // A token of the same account that is bound to no node.
    let unbound = cluster.token("bailiff", "bailiff-agent", None)?;
    let (is_written, told) = with_token(&cluster, &unbound, &apply, &one)?;
    ensure!(
        !is_written && told.contains("written by that node's agent alone"),
        "{told}"
    );

    // Who has all rights on the group, as somebody who writes policies may.
    cluster.namespace("tenant")?;
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "tenant"},
        "rules": [{"apiGroups": ["bailiff.dev"], "resources": ["*"], "verbs": ["*"]}],
    });
    cluster.apply(&role.to_string())?;
    let binding = "--serviceaccount=tenant:default";
    cluster.kubectl(&[
        "create",
        "clusterrolebinding",
        "tenant",
        "--clusterrole=tenant",
        binding,
    ])?;
    let tenant = cluster.token("tenant", "default", None)?;
    for (args, told) in [
        (apply.as_slice(), "written by that node's agent alone"),
        (&["delete", "nodereport", "one"], "deleted with its node"),
        (
            &["delete", "--raw", "/apis/bailiff.dev/v1alpha1/nodereports"],
            "deleted with its node",
        ),
        (
            &["label", "nodereport", "one", "a=b"],
            "written by that node's agent alone",
        ),
    ] {
        let (is_done, said) = with_token(&cluster, &tenant, args, &one)?;
        ensure!(!is_done && said.contains(told), "{args:?}: {said}");
    }
    // It reads them, and `bailiff status` says what it may not see.
    let kubeconfig = reporting::kubeconfig(&cluster, &cluster.folder().join("tenant"), &tenant)?;
    let told = status(&kubeconfig, &[])?;
    ensure!(
        told.status.code() == Some(0) && said(&told).contains("you may not list nodes"),
        "{}",
        said(&told)
    );
    let nobody = cluster.token("tenant", "default", None)?;
    cluster.kubectl(&["delete", "clusterrolebinding", "tenant"])?;
    let kubeconfig = reporting::kubeconfig(&cluster, &cluster.folder().join("nobody"), &nobody)?;
    let end = Instant::now() + PATIENCE;
    loop {
        let told = status(&kubeconfig, &["-o", "json"])?;
        if said(&told).contains("nodereports.bailiff.dev can't be listed") {
            ensure!(
                told.status.code() == Some(2) && told.stdout.is_empty(),
                "{}",
                said(&told)
            );
            break;
        }
        ensure!(Instant::now() < end, "{}", said(&told));
        std::thread::sleep(Duration::from_millis(200));
    }

    // An administrator takes one away, and forges none.
    let (is_written, told) = {
        let forged = cluster.apply(&report("one").to_string().replace("Observe", "Enforce"));
        (forged.is_ok(), format!("{forged:?}"))
    };
    ensure!(
        !is_written && told.contains("written by that node's agent alone"),
        "{told}"
    );
    cluster.kubectl(&["delete", "nodereport", "one"])?;
    let api_server = cluster.api_server()?;
    cluster.stop()?;
    // Nothing answers there any more.
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "own",
        "clusters": [{"name": "own", "cluster": {"server": format!("https://{api_server}")}}],
        "users": [{"name": "own", "user": {}}],
        "contexts": [{"name": "own", "context": {"cluster": "own", "user": "own"}}],
    });
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("kubeconfig");
    std::fs::write(&path, config.to_string())?;
    let away = status(&path, &[])?;
    ensure!(
        away.status.code() == Some(2) && said(&away).contains("can't be asked"),
        "{}",
        said(&away)
    );
    Ok(())
}
