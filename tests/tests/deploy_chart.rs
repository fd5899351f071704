//! The chart, at helm and at a real API server: what it makes, what it refuses, and how a release comes, changes and goes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::deploy::{deploy, find};
use bailiff_tests::{Cluster, check};
use serde_json::{Value, json};

/// Every value, at another than its default.
fn everything() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/deploy_chart/everything.yaml");
    format!("--values={}", file.display())
}

/// What is left out when as much as can be is.
const LITTLE: [&str; 5] = [
    "--set=approver.enabled=false",
    "--set=crds.install=false",
    "--set=metrics.services=false",
    "--set=priorityClass.create=false",
    "--set=priorityClass.name=system-node-critical",
];

/// The Prometheus operator's module, whose CRDs are what ServiceMonitors and PrometheusRules are checked by, and its hash in go.sum.
const OPERATOR: &str = "github.com/prometheus-operator/prometheus-operator@v0.85.0";
const OPERATOR_HASH: &str = "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=";

/// The objects of the operator's kinds.
fn monitoring_crds(cluster: &Cluster) -> Result<()> {
    let go = ["/usr/local/go/bin/go", "/usr/lib/go-1.24/bin/go"]
        .map(PathBuf::from)
        .into_iter()
        .chain([cluster.programs()?.join("../go/bin/go")])
        .find(|go| go.exists())
        .unwrap_or_else(|| PathBuf::from("go"));
    let nowhere = tempfile::tempdir()?;
    let fetched = check(
        Command::new(go)
            .args(["mod", "download", "-json", OPERATOR])
            .env("GOTOOLCHAIN", "local")
            .current_dir(&nowhere),
    )?;
    let fetched: Value = serde_json::from_slice(&fetched.stdout)?;
    let told = |name: &str| fetched.get(name).and_then(Value::as_str).context("no module");
    ensure!(told("Sum")? == OPERATOR_HASH, "{fetched}");
    let folder = Path::new(told("Dir")?).join("example/prometheus-operator-crd");
    for kind in ["servicemonitors", "prometheusrules"] {
        let file = folder.join(format!("monitoring.coreos.com_{kind}.yaml"));
        let mut apply = cluster.kubectl_command(&["apply", "--server-side", "-f"])?;
        check(apply.arg(file))?;
        let name = format!("crd/{kind}.monitoring.coreos.com");
        cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", &name])?;
    }
    Ok(())
}

/// What the API server says to manifests that it is only asked about.
fn asked(cluster: &Cluster, manifests: &[u8]) -> Result<Output> {
    let mut child = cluster
        .kubectl_command(&["apply", "--dry-run=server", "--validate=strict", "-f", "-"])?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("no input")?.write_all(manifests)?;
    Ok(child.wait_with_output()?)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

fn helm(cluster: &Cluster, args: &[&str]) -> Result<String> {
    let chart = deploy("chart");
    let chart = chart.to_str().context("a path that isn't UTF-8")?;
    let args: Vec<&str> = args
        .iter()
        .map(|arg| if *arg == "CHART" { chart } else { arg })
        .collect();
    let output = cluster.helm_command(&args)?.output()?;
    ensure!(output.status.success(), "helm {args:?}: {}", said(&output));
    Ok(said(&output))
}

#[test]
fn helm_has_nothing_to_say_against_the_chart() -> Result<()> {
    let Some(cluster) = Cluster::shared()? else {
        return Ok(());
    };
    let every = everything();
    for values in [&[][..], &LITTLE, &[every.as_str()]] {
        let version = cluster.version()?;
        let first = ["lint", "--strict", "CHART", "--kube-version", version];
        let told = helm(cluster, &[&first, values].concat())?;
        ensure!(told.contains("0 chart(s) failed"), "{told}");
    }
    Ok(())
}

#[test]
fn the_api_server_takes_each_object_by_its_schema() -> Result<()> {
    let Some(cluster) = Cluster::shared()? else {
        return Ok(());
    };
    monitoring_crds(cluster)?;
    let namespace = cluster.kubectl(&["create", "namespace", "bailiff", "--dry-run=client", "-o", "json"])?;
    cluster.apply(&namespace)?;
    let every = everything();
    let sets: [(&[&str], usize); 3] = [(&[], 21), (&LITTLE, 8), (&[&every], 23)];
    for (values, count) in sets {
        let rendered = cluster.helm_template(values)?;
        ensure!(rendered.status.success(), "{}", said(&rendered));
        let taken = asked(cluster, &rendered.stdout)?;
        let told = said(&taken);
        ensure!(
            taken.status.success() && !told.contains("Warning"),
            "{values:?}: {told}"
        );
        let objects = cluster.render(values)?;
        ensure!(
            objects.len() == count && told.lines().count() == count,
            "{values:?}: {} objects, {told}",
            objects.len()
        );
    }
    // Strict is strict: what isn't a field is refused.
    let rendered = cluster.helm_template(&[])?;
    let wrong = String::from_utf8(rendered.stdout)?.replace("hostPID:", "hostPIDs:");
    let refused = asked(cluster, wrong.as_bytes())?;
    ensure!(
        !refused.status.success() && said(&refused).contains("unknown field \"spec.template.spec.hostPIDs\""),
        "{}",
        said(&refused)
    );
    Ok(())
}

#[test]
fn each_value_does_what_it_says() -> Result<()> {
    let Some(cluster) = Cluster::shared()? else {
        return Ok(());
    };
    let every = everything();
    let objects = cluster.render(&[&every])?;
    let agent = find(&objects, "DaemonSet", "guard-agent")?;
    let spec = agent.pointer("/spec/template/spec").context("no pod")?;
    let strings = |value: Option<&Value>| -> Vec<String> {
        value
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|value| value.as_str().map(str::to_owned))
            .collect()
    };
    let args = strings(spec.pointer("/containers/0/args"));
    let (revision, args): (Vec<String>, Vec<String>) =
        args.into_iter().partition(|arg| arg.starts_with("--revision="));
    ensure!(revision.len() == 1, "{revision:?}");
    ensure!(
        args == [
            "node",
            "--node=$(NODE_NAME)",
            "--mode=$(BAILIFF_MODE)",
            "--except-namespace=trial",
            "--exempt-namespace=kube-system",
            "--exempt-namespace=storage",
            "--exempt-namespace=bailiff",
            "--pods-cgroup=/sys/fs/cgroup/unified/kubepods",
            "--state-dir=/var/lib/bailiff/state",
            "--record-dir=/var/lib/bailiff/record",
            "--record-mib=2048",
            "--daemonset=bailiff/guard-agent",
            "--admin=[$(HOST_IP)]:9500",
            "--workers=3",
            "--limit=drain=30s",
            "--limit=connections=1000000",
            "--limit=memory=512MiB",
            "--busy-poll=0",
        ],
        "{args:#?}"
    );
    for (place, expected) in [
        (
            "/containers/0/image",
            json!(
                "registry.example/security/bailiff@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
            ),
        ),
        ("/containers/0/imagePullPolicy", json!("Always")),
        ("/containers/0/env/2/value", json!("enforce")),
        ("/containers/0/readinessProbe/httpGet/port", json!(9500)),
        (
            "/containers/0/securityContext/seLinuxOptions",
            json!({"type": "spc_t"}),
        ),
        (
            "/containers/0/securityContext/appArmorProfile/localhostProfile",
            json!("bailiff"),
        ),
        ("/containers/0/resources/limits/memory", json!("1Gi")),
        ("/containers/0/volumeMounts/4/mountPath", json!("/etc/bailiff")),
        ("/volumes/3/hostPath/path", json!("/srv/bailiff")),
        ("/volumes/4/secret/secretName", json!("bailiff-keys")),
        ("/imagePullSecrets", json!([{"name": "registry"}])),
        ("/priorityClassName", json!("system-node-critical")),
        ("/terminationGracePeriodSeconds", json!(45)),
        ("/nodeSelector/pool", json!("work")),
        ("/tolerations/0/key", json!("only")),
    ] {
        ensure!(
            spec.pointer(place) == Some(&expected),
            "{place}: {:?}",
            spec.pointer(place)
        );
    }
    ensure!(agent.pointer("/spec/updateStrategy/type") == Some(&json!("OnDelete")));
    let template = agent.pointer("/spec/template/metadata").context("no template")?;
    ensure!(
        template.pointer("/labels/team") == Some(&json!("platform"))
            && template.pointer("/annotations/example.com~1owner") == Some(&json!("platform")),
        "{template}"
    );
    let rules = find(&objects, "ClusterRole", "guard-agent")?
        .pointer("/rules")
        .and_then(Value::as_array)
        .context("no rules")?;
    let impersonated: Vec<&Value> = rules
        .iter()
        .filter(|rule| rule.pointer("/verbs/0") == Some(&json!("impersonate")))
        .collect();
    ensure!(
        impersonated
            == [
                &json!({"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"], "resourceNames": ["jane"]}),
                &json!({"apiGroups": [""], "resources": ["groups"], "verbs": ["impersonate"], "resourceNames": ["developers"]}),
                &json!({"apiGroups": ["authentication.k8s.io"], "resources": ["uids"], "verbs": ["impersonate"]}),
            ],
        "{impersonated:#?}"
    );
    let approver = find(&objects, "Deployment", "guard-approver")?;
    let args = strings(approver.pointer("/spec/template/spec/containers/0/args"));
    ensure!(
        args == [
            "approver",
            "--requester=bailiff/guard-agent",
            "--signer=example.com/bailiff",
            "--cluster-domain=cluster.example",
            "--max-seconds=3600",
            "--san=192.168.10.2",
            "--san=api.example",
            "--admin=0.0.0.0:9600",
            "--kubeconfig=/dev/null",
        ],
        "{args:#?}"
    );
    let may = find(&objects, "ClusterRole", "guard-approver")?;
    ensure!(
        may.pointer("/rules/2/resourceNames") == Some(&json!(["example.com/bailiff"])),
        "{may}"
    );
    let policy = find(&objects, "NetworkPolicy", "guard-approver")?;
    ensure!(
        policy.pointer("/spec/egress")
            == Some(
                &json!([{"ports": [{"protocol": "TCP", "port": 6443}], "to": [{"ipBlock": {"cidr": "192.168.10.0/24"}}]}])
            ),
        "{policy:#}"
    );
    Ok(())
}

#[test]
fn what_is_wrong_is_refused_and_told() -> Result<()> {
    let Some(cluster) = Cluster::shared()? else {
        return Ok(());
    };
    for (value, told) in [
        ("mod=enforce", "additional properties 'mod' not allowed"),
        (
            "mode=enforced",
            "'/mode': value must be one of 'observe', 'enforce'",
        ),
        (
            "agent.tolerance=1",
            "'/agent': additional properties 'tolerance' not allowed",
        ),
        (
            "agent.recordMib=lots",
            "'/agent/recordMib': got string, want integer",
        ),
        (
            "agent.limits.connections=5",
            "'/agent/limits/connections': got number, want string",
        ),
        ("agent.limits.drain=9s", "give agent.drainSeconds instead"),
        (
            "agent.drainSeconds=55",
            "give at least ten seconds more than that",
        ),
        ("agent.podsCgroup=/proc", "'/agent/podsCgroup'"),
        (
            "agent.impersonate.groups={system:masters}",
            "'/agent/impersonate/groups/0'",
        ),
        ("agent.impersonate.users={*}", "'/agent/impersonate/users/0'"),
        ("approver.sans={*.example}", "'/approver/sans/0'"),
        ("approver.maxSeconds=60", "minimum: got 60, want 600"),
        ("image.digest=latest", "'/image/digest'"),
        (
            "priorityClass.create=false",
            "give priorityClass.name, such as system-node-critical",
        ),
        ("exemptNamespaces={Kube}", "'/exemptNamespaces/0'"),
    ] {
        let output = cluster.helm_template(&["--set", value])?;
        ensure!(
            !output.status.success() && said(&output).contains(told),
            "{value}: {}",
            said(&output)
        );
    }
    Ok(())
}

#[test]
fn each_value_has_a_default_a_description_and_a_place_in_the_trial() -> Result<()> {
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(deploy("chart/values.schema.json"))?)?;
    let mut described = BTreeMap::new();
    describe(&schema, "", &mut described)?;
    let values = |text: &str| -> Result<BTreeSet<String>> {
        let values: Value = serde_saphyr::from_str(text)?;
        let mut leaves = BTreeSet::new();
        leaves_of(&values, "", &described, &mut leaves);
        Ok(leaves)
    };
    let defaults = std::fs::read_to_string(deploy("chart/values.yaml"))?;
    let given = values(&defaults)?;
    let known: BTreeSet<String> = described
        .iter()
        .filter(|(place, is_leaf)| **is_leaf && *place != "/global")
        .map(|(place, _)| place.clone())
        .collect();
    ensure!(
        given == known,
        "{:?}",
        given.symmetric_difference(&known).collect::<Vec<_>>()
    );
    let tried = values(include_str!("deploy_chart/everything.yaml"))?;
    let off = [
        "approver/enabled",
        "networkPolicy/enabled",
        "crds/install",
        "metrics/services",
        "image/tag",
    ];
    let untried: Vec<&String> = known
        .difference(&tried)
        .filter(|place| !off.iter().any(|off| place.ends_with(off)))
        .collect();
    ensure!(untried.is_empty(), "{untried:?}");
    ensure!(known.len() > 50, "{}", known.len());
    Ok(())
}

/// Each place of a schema, and whether it is a value of its own. All have a description, and none takes what it doesn't know.
fn describe(schema: &Value, place: &str, found: &mut BTreeMap<String, bool>) -> Result<()> {
    let description = schema
        .get("description")
        .and_then(Value::as_str)
        .unwrap_or_default();
    ensure!(description.ends_with('.'), "{place}: {description:?}");
    let properties = schema.get("properties").and_then(Value::as_object);
    found.insert(place.to_owned(), properties.is_none());
    if let Some(properties) = properties {
        ensure!(
            schema.get("additionalProperties") == Some(&json!(false)),
            "{place} takes anything"
        );
        for (name, below) in properties {
            describe(below, &format!("{place}/{name}"), found)?;
        }
    }
    Ok(())
}

fn leaves_of(value: &Value, place: &str, described: &BTreeMap<String, bool>, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) if described.get(place) == Some(&false) => {
            for (name, below) in fields {
                leaves_of(below, &format!("{place}/{name}"), described, found);
            }
        }
        _ => {
            found.insert(place.to_owned());
        }
    }
}

/// The names of all objects that there are, but for those that come and go by themselves.
fn all(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let kinds = cluster.kubectl(&["api-resources", "--verbs=list", "-o", "name"])?;
    let kinds: Vec<&str> = kinds
        .lines()
        .filter(|kind| !kind.starts_with("events") && !kind.starts_with("leases"))
        .collect();
    let names = cluster.kubectl(&["get", &kinds.join(","), "-A", "-o", "name"])?;
    Ok(names.lines().map(str::to_owned).collect())
}

/// What is there beyond what was, once nothing changes any more.
fn added(cluster: &Cluster, before: &BTreeSet<String>, expected: &[&str]) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let now = all(cluster)?;
        let added: Vec<&str> = now.difference(before).map(String::as_str).collect();
        if added == expected {
            return Ok(());
        }
        ensure!(Instant::now() < until, "{added:#?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn mode(cluster: &Cluster) -> Result<String> {
    let path = "jsonpath={.spec.template.spec.containers[0].env[?(@.name=='BAILIFF_MODE')].value}";
    cluster.kubectl(&["get", "daemonset", "-n", "bailiff", "bailiff-agent", "-o", path])
}

const TARGET: &str = r#"{"apiVersion": "bailiff.dev/v1alpha1", "kind": "Target", "metadata": {"name": "shop"},
    "spec": {"protocol": "postgres", "endpoints": ["198.18.0.53:5432"], "default": "Deny"}}"#;

#[test]
fn a_release_is_installed_changed_rolled_back_and_taken_away() -> Result<()> {
    if !bailiff_tests::can_be_root()? {
        return Ok(());
    }
    let cluster = Cluster::start(&bailiff_tests::ClusterOptions::default())?;
    cluster.namespace("bailiff")?;
    let before = all(&cluster)?;
    let install = ["install", "bailiff", "CHART", "-n", "bailiff"];
    let told = helm(&cluster, &install)?;
    ensure!(
        told.contains("STATUS: deployed") && told.contains("mode: observe"),
        "{told}"
    );
    ensure!(mode(&cluster)? == "observe");
    cluster.kubectl(&[
        "wait",
        "--for=condition=Established",
        "--timeout=60s",
        "crd/targets.bailiff.dev",
    ])?;
    cluster.apply(TARGET)?;

    let upgrade = ["upgrade", "bailiff", "CHART", "-n", "bailiff", "--reuse-values"];
    helm(&cluster, &[&upgrade[..], &["--set", "mode=enforce"]].concat())?;
    ensure!(mode(&cluster)? == "enforce");
    let refused = cluster
        .helm_command(&["upgrade", "bailiff"])?
        .arg(deploy("chart"))
        .args(["-n", "bailiff", "--reuse-values", "--set", "mode=on"])
        .output()?;
    ensure!(!refused.status.success() && mode(&cluster)? == "enforce");
    helm(&cluster, &["rollback", "bailiff", "1", "-n", "bailiff"])?;
    ensure!(mode(&cluster)? == "observe");

    // What stays: the definitions, and so what people wrote.
    let kept = [
        "customresourcedefinition.apiextensions.k8s.io/nodereports.bailiff.dev",
        "customresourcedefinition.apiextensions.k8s.io/policies.bailiff.dev",
        "customresourcedefinition.apiextensions.k8s.io/targets.bailiff.dev",
        "target.bailiff.dev/shop",
    ];
    let told = helm(&cluster, &["uninstall", "bailiff", "-n", "bailiff"])?;
    ensure!(told.contains("kept due to the resource policy"), "{told}");
    added(&cluster, &before, &apiservices(&kept))?;
    // The next release finds them.
    helm(&cluster, &install)?;
    cluster.kubectl(&["get", "target", "shop"])?;
    helm(&cluster, &["uninstall", "bailiff", "-n", "bailiff"])?;
    // As docs/install.md says.
    cluster.kubectl(&[
        "delete",
        "crd",
        "targets.bailiff.dev",
        "policies.bailiff.dev",
        "nodereports.bailiff.dev",
    ])?;
    added(&cluster, &before, &[])?;

    // The same without helm.
    let base = deploy("kustomize/base");
    let base = base.to_str().context("a path that isn't UTF-8")?;
    let enforce = deploy("kustomize/enforce");
    let enforce = enforce.to_str().context("a path that isn't UTF-8")?;
    cluster.kubectl(&["apply", "--server-side", "-k", base])?;
    ensure!(mode(&cluster)? == "observe");
    cluster.kubectl(&["apply", "--server-side", "-k", enforce])?;
    ensure!(mode(&cluster)? == "enforce");
    cluster.kubectl(&["apply", "--server-side", "-k", base])?;
    ensure!(mode(&cluster)? == "observe");
    cluster.kubectl(&["delete", "-k", base])?;
    let gone = all(&cluster)?;
    let left: Vec<&String> = gone.iter().filter(|name| name.contains("bailiff")).collect();
    ensure!(left.is_empty(), "{left:?}");
    cluster.stop()
}

/// With what the API server makes of the definitions by itself.
fn apiservices<'a>(kept: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["apiservice.apiregistration.k8s.io/v1alpha1.bailiff.dev"];
    all.extend_from_slice(kept);
    all
}

#[test]
fn the_plain_manifests_are_what_the_chart_says() -> Result<()> {
    let Some(cluster) = Cluster::shared()? else {
        return Ok(());
    };
    let current =
        check(Command::new(bailiff_tests::harness_program("xtask")?).args(["manifests", "--check"]))?;
    ensure!(said(&current).contains("deploy/kustomize: current"));
    // By what they are, too, whoever wrote them.
    let by_name = |objects: Vec<Value>| -> BTreeMap<String, Value> {
        objects
            .into_iter()
            .map(|mut object| {
                if let Some(labels) = object
                    .pointer_mut("/metadata/labels")
                    .and_then(Value::as_object_mut)
                {
                    labels.remove("helm.sh/chart");
                    labels.remove("app.kubernetes.io/managed-by");
                }
                let name = ["/kind", "/metadata/namespace", "/metadata/name"]
                    .map(|place| object.pointer(place).and_then(Value::as_str).unwrap_or_default())
                    .join("/");
                (name, object)
            })
            .collect()
    };
    let chart = by_name(cluster.render(&["--set=crds.keep=false"])?);
    let mut base = by_name(cluster.kustomize("base")?);
    let enforce = by_name(cluster.kustomize("enforce")?);
    let mut changed = enforce;
    let env = changed
        .get_mut("DaemonSet/bailiff/bailiff-agent")
        .and_then(|agent| agent.pointer_mut("/spec/template/spec/containers/0/env"))
        .and_then(Value::as_array_mut)
        .context("no environment")?;
    // What is patched comes first.
    env.rotate_left(1);
    let mode = env
        .last_mut()
        .and_then(|last| last.get_mut("value"))
        .context("no mode")?;
    ensure!(*mode == "enforce", "{mode}");
    *mode = json!("observe");
    ensure!(changed == base, "more than the mode is another");
    let mut monitoring = by_name(cluster.kustomize("monitoring")?);
    let namespace = base.remove("Namespace//bailiff").context("no namespace")?;
    ensure!(
        namespace.pointer("/metadata/labels/pod-security.kubernetes.io~1enforce")
            == Some(&json!("privileged"))
    );
    ensure!(chart == base, "the base isn't the chart's default");
    monitoring.remove("Namespace//bailiff");
    let every = by_name(cluster.render(&[
        "--set=crds.keep=false",
        "--set=metrics.serviceMonitor.enabled=true,metrics.prometheusRule.enabled=true,metrics.dashboard.enabled=true",
    ])?);
    ensure!(every == monitoring && every.len() == chart.len() + 3);
    Ok(())
}
