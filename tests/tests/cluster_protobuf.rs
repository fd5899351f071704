//! Masks in protobuf, as a real API server writes it and as Go's own decoder reads what comes out.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{Cluster, check};
use bailiff_wire::kubernetes::schema::Type;
use bailiff_wire::kubernetes::{Fields, LAST_APPLIED, Replacement, Shape, Value, json, protobuf};
use bytes::Bytes;
use serde_json::{Value as Tree, json};

const NAMESPACE: &str = "protobuf";
const MASK: &str = "[masked]";
/// What no answer may hold that is masked.
const CANARY: &str = "canary";

/// Paths like `spec.containers.*.env.*.value`, of what is masked.
#[derive(Clone)]
struct Masks {
    paths: Vec<Vec<&'static str>>,
    asked: usize,
}

impl Masks {
    fn new(paths: &[&'static str]) -> Self {
        Self {
            paths: paths.iter().map(|path| path.split('.').collect()).collect(),
            asked: 0,
        }
    }

    /// All that the objects of these tests hide.
    fn all() -> Self {
        Self::new(&[
            "data.*",
            "binaryData.*",
            "spec.containers.*.env.*.value",
            "spec.template.spec.containers.*.env.*.value",
            "spec.containers.*.resources.limits.*",
            "spec.versions.*.schema.openAPIV3Schema.properties.*.properties.*.default",
            "metadata.labels.hidden",
            "message",
            "note",
        ])
    }
}

/// How deep it is, and which paths lead there.
#[derive(Clone, Copy)]
struct At(usize, u64);

impl Fields for Masks {
    type At = At;

    fn object(&mut self, _: Option<&str>, _: Option<&str>) -> At {
        At(0, (1 << self.paths.len()) - 1)
    }

    fn member(&mut self, at: At, key: &str) -> At {
        let lead = self.paths.iter().enumerate().filter(|(number, path)| {
            at.1 & (1 << number) != 0 && path.get(at.0).is_some_and(|part| *part == "*" || *part == key)
        });
        At(at.0 + 1, lead.fold(0, |all, (number, _)| all | 1 << number))
    }

    fn element(&mut self, at: At, _: usize, _: Option<&str>) -> At {
        self.member(at, "*")
    }

    fn passes(&self, at: At) -> bool {
        at.1 == 0
    }

    fn unnamed(&mut self, at: At, of: Type) -> bool {
        // A name that the type has isn't that of a field that it doesn't have.
        self.paths.iter().enumerate().any(|(number, path)| {
            at.1 & (1 << number) != 0
                && path
                    .get(at.0)
                    .is_some_and(|part| *part == "*" || of.member(part).is_unknown())
        })
    }

    fn replace(&mut self, at: At, value: Value<'_>) -> Option<Replacement> {
        let ends = self
            .paths
            .iter()
            .enumerate()
            .any(|(number, path)| at.1 & (1 << number) != 0 && path.len() == at.0);
        if !ends {
            return None;
        }
        self.asked += 1;
        Some(match value {
            Value::Scalar(_) => Replacement::Empty,
            Value::Text(_) | Value::Bytes(_) => Replacement::Value(MASK.as_bytes().to_vec()),
        })
    }

    fn hides_texts(&self) -> bool {
        !self.paths.is_empty()
    }

    fn hides_cells(&self) -> bool {
        !self.paths.is_empty()
    }
}

/// The cluster with a namespace full of objects that hide something.
fn filled() -> Result<Option<&'static Cluster>> {
    static FILLED: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    let Some(cluster) = Cluster::shared()? else {
        return Ok(None);
    };
    let filled = FILLED.get_or_init(|| fill(cluster).map_err(|error| format!("{error:#}")));
    filled.clone().map_err(anyhow::Error::msg)?;
    Ok(Some(cluster))
}

fn fill(cluster: &Cluster) -> Result<()> {
    cluster.namespace(NAMESPACE)?;
    cluster.service_account(NAMESPACE, "reader", None)?;
    let account = format!("--serviceaccount={NAMESPACE}:reader");
    cluster.kubectl(&[
        "create",
        "clusterrolebinding",
        "protobuf",
        "--clusterrole=cluster-admin",
        &account,
    ])?;
    let container = json!({"name": "main", "image": "none.invalid/none", "imagePullPolicy": "Never",
        "env": [{"name": "A", "value": "canary-env"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "resources": {"limits": {"memory": "64Mi", "cpu": "100m"}},
        "ports": [{"name": "http", "containerPort": 80}],
        "livenessProbe": {"httpGet": {"port": "http", "path": "/"}}});
    let metadata = |name: &str| {
        json!({"name": name, "namespace": NAMESPACE,
            "labels": {"app": name, "hidden": "canary-label"}, "annotations": {"note": "shown"}})
    };
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "password": {"type": "string", "default": "canary-default"}, "size": {"type": "integer", "default": 3},
        "any": {"x-kubernetes-preserve-unknown-fields": true}}}}});
    let objects = [
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata("applied"), "type": "Opaque",
            "data": {"k": "Y2FuYXJ5LXNlY3JldA==", "empty": ""}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata("applied"),
            "data": {"k": "canary-config", "l": "canary-\u{e9}\u{1f600}"}, "binaryData": {"b": "Y2FuYXJ5LWJpbmFyeQ=="}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata("applied"),
            "spec": {"containers": [container], "volumes": [{"name": "v", "secret": {"secretName": "applied"}}]}}),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata("applied"),
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "d"}},
                "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [container]}}}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata("applied"),
            "spec": {"ports": [{"port": 80, "targetPort": "http"}], "clusterIP": "None"}}),
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "things.protobuf.test", "labels": {"hidden": "canary-label"}},
            "spec": {"group": "protobuf.test", "scope": "Namespaced", "names": {"plural": "things", "singular": "thing", "kind": "Thing"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}}),
        json!({"apiVersion": "v1", "kind": "Event", "metadata": metadata("applied"), "message": "canary-event", "reason": "Test",
            "type": "Normal", "firstTimestamp": "2026-01-02T03:04:05Z", "eventTime": "2026-01-02T03:04:05.000006Z", "action": "none",
            "reportingComponent": "test.invalid/test", "reportingInstance": "test",
            "involvedObject": {"kind": "Pod", "namespace": NAMESPACE, "name": "applied"}}),
    ];
    let all: Vec<String> = objects.iter().map(Tree::to_string).collect();
    cluster.apply(&all.join("\n---\n"))?;
    Ok(())
}

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// An answer's body.
fn ask(cluster: &Cluster, accept: &str, path: &str, options: &[&str]) -> Result<Vec<u8>> {
    static TOKEN: OnceLock<String> = OnceLock::new();
    let token = match TOKEN.get() {
        Some(token) => token.clone(),
        None => {
            let token = cluster.token(NAMESPACE, "reader", None)?;
            TOKEN.get_or_init(|| token).clone()
        }
    };
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "60", "--cacert"]);
    curl.arg(cluster.ca()?).args(options);
    curl.args(["-H", &format!("Authorization: Bearer {token}")]);
    curl.args(["-H", &format!("Accept: {accept}")]);
    curl.arg(format!("https://{}{path}", cluster.api_server()?));
    Ok(check(&mut curl)?.stdout)
}

fn json_of(cluster: &Cluster, path: &str) -> Result<Vec<u8>> {
    ask(cluster, "application/json", path, &[])
}

/// What comes out of the stream, when the body comes in pieces of so many bytes.
fn through(shape: Shape, body: &[u8], piece: usize, masks: &mut Masks) -> Result<Vec<u8>> {
    let (mut stream, mut out) = (protobuf::Stream::new(shape), Vec::new());
    let body = Bytes::copy_from_slice(body);
    for from in (0..body.len()).step_by(piece) {
        stream.feed(&body.slice(from..body.len().min(from + piece)), masks, &mut out)?;
    }
    stream.finish(masks, &mut out)?;
    Ok(out.concat())
}

/// The same for JSON.
fn through_json(shape: Shape, body: &[u8], masks: &mut Masks) -> Result<Vec<u8>> {
    let (mut stream, mut out) = (json::Stream::new(shape), Vec::new());
    stream.feed(&Bytes::copy_from_slice(body), masks, &mut out)?;
    stream.finish(masks, &mut out)?;
    Ok(out.concat())
}

/// What Go's decoder makes of a body, or of the events of a watch: a line each.
fn decoded(cluster: &Cluster, body: &[u8], how: &[&str]) -> Result<Vec<Tree>> {
    let mut child = Command::new(cluster.programs()?.join("cluster"))
        .arg("decode")
        .args(how)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("no input")?;
    let body = body.to_vec();
    let writing = std::thread::spawn(move || input.write_all(&body));
    let output = child.wait_with_output()?;
    let wrote = writing.join().map_err(|_| anyhow::anyhow!("writing panicked"))?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    wrote?;
    let lines = output.stdout.split(|byte| *byte == b'\n');
    lines
        .filter(|line| !line.is_empty())
        .map(|line| Ok(serde_json::from_slice(line)?))
        .collect()
}

/// Without what protobuf doesn't tell from nothing, and without the version of a list, which others change.
fn normal(mut tree: Tree) -> Tree {
    if tree.get("items").is_some()
        && let Some(metadata) = tree.get_mut("metadata")
    {
        *metadata = Tree::Null;
    }
    filled_only(tree)
}

fn filled_only(tree: Tree) -> Tree {
    let is_empty = |tree: &Tree| match tree {
        Tree::Null => true,
        Tree::Array(all) => all.is_empty(),
        Tree::Object(all) => all.is_empty(),
        _ => false,
    };
    match tree {
        Tree::Object(members) => members
            .into_iter()
            .map(|(name, tree)| (name, filled_only(tree)))
            .filter(|(_, tree)| !is_empty(tree))
            .collect(),
        Tree::Array(elements) => elements.into_iter().map(filled_only).collect(),
        other => other,
    }
}

fn paths() -> Vec<(Shape, String)> {
    let here = format!("/api/v1/namespaces/{NAMESPACE}");
    let apps = format!("/apis/apps/v1/namespaces/{NAMESPACE}");
    let of = |shape, paths: &[String]| -> Vec<(Shape, String)> {
        paths.iter().map(|path| (shape, path.clone())).collect()
    };
    let crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let mut all = of(
        Shape::Object,
        &[
            format!("{here}/secrets/applied"),
            format!("{here}/configmaps/applied"),
            format!("{here}/pods/applied"),
            format!("{here}/events/applied"),
            format!("{here}/services/applied"),
            format!("{apps}/deployments/applied"),
            format!("{apps}/deployments/applied/scale"),
            format!("{crd}/things.protobuf.test"),
            format!("/api/v1/namespaces/{NAMESPACE}"),
        ],
    );
    all.extend(of(
        Shape::List,
        &[
            format!("{here}/secrets"),
            format!("{here}/configmaps"),
            format!("{here}/pods"),
            format!("{here}/events"),
            format!("{here}/endpoints"),
            format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"),
            format!("{apps}/deployments"),
            format!("{apps}/replicasets"),
            format!("/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events"),
            crd.to_owned(),
            "/apis/apiregistration.k8s.io/v1/apiservices".to_owned(),
            "/apis/rbac.authorization.k8s.io/v1/clusterroles".to_owned(),
            "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas".to_owned(),
            "/apis/coordination.k8s.io/v1/leases".to_owned(),
            "/apis/scheduling.k8s.io/v1/priorityclasses".to_owned(),
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies".to_owned(),
        ],
    ));
    all
}

#[test]
fn where_nothing_is_masked_bytes_pass_as_they_came() -> Result<()> {
    let Some(cluster) = filled()? else {
        return Ok(());
    };
    let mut bodies = Vec::new();
    for (shape, path) in paths() {
        bodies.push((shape, ask(cluster, PROTOBUF, &path, &[])?, path));
    }
    let missing = format!("/api/v1/namespaces/{NAMESPACE}/secrets/missing");
    bodies.push((Shape::Object, ask(cluster, PROTOBUF, &missing, &[])?, missing));
    for kind in ["secrets", "pods"] {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/{kind}?watch=1&timeoutSeconds=1");
        bodies.push((Shape::Watch, ask(cluster, PROTOBUF, &path, &[])?, path));
    }
    for (shape, body, path) in bodies {
        ensure!(!body.is_empty(), "{path}");
        for piece in [1, 7, 1000, 1 << 20] {
            // What is asked for but isn't there is looked for all the same.
            for masks in [
                &[][..],
                &["metadata.labels.nobody", "spec.nothing.*", "data.none"],
            ] {
                let mut masks = Masks {
                    asked: 0,
                    ..Masks::new(masks)
                };
                if piece == 1 && body.len() > 100_000 {
                    continue;
                }
                let hides = masks.hides_texts();
                let out = through(shape, &body, piece, &mut masks).with_context(|| path.clone())?;
                ensure!(out == body, "{path} in pieces of {piece}, {hides}");
            }
        }
    }
    Ok(())
}

#[test]
fn what_gos_decoder_reads_is_as_masked_in_json() -> Result<()> {
    let Some(cluster) = filled()? else {
        return Ok(());
    };
    let (mut asked, mut hidden) = (0, 0);
    // Leases change between two answers.
    for (shape, path) in paths().into_iter().filter(|(_, path)| !path.contains("leases")) {
        let body = ask(cluster, PROTOBUF, &path, &[])?;
        let direct = json_of(cluster, &path)?;
        let mut masks = Masks::all();
        let out = through(shape, &body, 512, &mut masks).with_context(|| path.clone())?;
        let [read] = decoded(cluster, &out, &[])?
            .try_into()
            .map_err(|all| anyhow::anyhow!("{path}: {all:?}"))?;
        let mut masks_json = Masks::all();
        let expected: Tree = serde_json::from_slice(&through_json(shape, &direct, &mut masks_json)?)
            .with_context(|| path.clone())?;
        let (read, expected) = (normal(read), normal(expected));
        ensure!(read == expected, "{path}:\n{read}\n{expected}");
        ensure!(masks.asked == masks_json.asked, "{path}: {} asked", masks.asked);
        asked += masks.asked;
        if String::from_utf8_lossy(&body).contains(CANARY) {
            hidden += 1;
            ensure!(!String::from_utf8_lossy(&out).contains(CANARY), "{path}: {read}");
        }
        // What was applied last is masked, and is still JSON.
        if let Some(applied) = read.pointer(&format!(
            "/metadata/annotations/{}",
            LAST_APPLIED.replace('/', "~1")
        )) {
            let applied: Tree = serde_json::from_str(applied.as_str().context("no text")?)?;
            ensure!(applied.pointer("/metadata/name").is_some(), "{path}: {applied}");
        }
    }
    ensure!(asked > 30 && hidden > 10, "{asked} {hidden}");
    Ok(())
}

#[test]
fn metadata_alone_is_masked_too() -> Result<()> {
    let Some(cluster) = filled()? else {
        return Ok(());
    };
    let here = format!("/api/v1/namespaces/{NAMESPACE}/secrets");
    for (shape, kind, path) in [
        (Shape::List, "PartialObjectMetadataList", here.clone()),
        (Shape::Object, "PartialObjectMetadata", format!("{here}/applied")),
    ] {
        for version in ["v1", "v1beta1"] {
            let accept = format!("{PROTOBUF};as={kind};v={version};g=meta.k8s.io");
            let body = ask(cluster, &accept, &path, &[])?;
            ensure!(
                String::from_utf8_lossy(&body).contains("canary-label"),
                "{accept}"
            );
            ensure!(
                through(shape, &body, 100, &mut Masks::new(&[]))? == body,
                "{accept}"
            );
            let out = through(shape, &body, 100, &mut Masks::all())?;
            ensure!(!String::from_utf8_lossy(&out).contains(CANARY), "{accept}");
            let read = decoded(cluster, &out, &[])?;
            ensure!(format!("{read:?}").contains(MASK), "{accept}: {read:?}");
        }
    }
    Ok(())
}

#[test]
fn a_table_is_not_served_in_protobuf() -> Result<()> {
    let Some(cluster) = filled()? else {
        return Ok(());
    };
    let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets");
    let accept = format!("{PROTOBUF};as=Table;v=v1;g=meta.k8s.io");
    for (query, what) in [("", "a list"), ("?watch=1&timeoutSeconds=1", "a watch")] {
        let answer = ask(cluster, &accept, &format!("{path}{query}"), &[])?;
        let answer: Tree =
            serde_json::from_slice(&answer).with_context(|| format!("{what} isn't refused"))?;
        ensure!(
            answer.get("reason") == Some(&Tree::from("NotAcceptable")),
            "{what}: {answer}"
        );
    }
    Ok(())
}

#[test]
fn failures_quote_nothing() -> Result<()> {
    let Some(cluster) = filled()? else {
        return Ok(());
    };
    let wrong = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "Canary canary"}});
    let options = [
        "-X",
        "POST",
        "-H",
        "Content-Type: application/json",
        "-d",
        &wrong.to_string(),
    ];
    let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
    let body = ask(cluster, PROTOBUF, &path, &options)?;
    ensure!(String::from_utf8_lossy(&body).contains("Canary canary\": a lowercase"));
    let out = through(Shape::Object, &body, 50, &mut Masks::all())?;
    let [read] = decoded(cluster, &out, &[])?
        .try_into()
        .map_err(|all| anyhow::anyhow!("{all:?}"))?;
    let withheld = Tree::from("withheld: it may quote a masked value");
    ensure!(read.get("message") == Some(&withheld), "{read}");
    ensure!(
        read.pointer("/details/causes/0/message") == Some(&withheld),
        "{read}"
    );
    ensure!(read.get("code") == Some(&Tree::from(422)), "{read}");
    ensure!(
        read.pointer("/details/causes/0/field") == Some(&Tree::from("metadata.name")),
        "{read}"
    );
    Ok(())
}

#[test]
fn events_of_a_watch_are_masked_and_its_bookmarks_are_not() -> Result<()> {
    let Some(cluster) = filled()? else {
        return Ok(());
    };
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=2";
    let path =
        format!("/api/v1/namespaces/{NAMESPACE}/configmaps?fieldSelector=metadata.name%3Dapplied&{query}");
    let body = ask(cluster, PROTOBUF, &path, &[])?;
    ensure!(through(Shape::Watch, &body, 64, &mut Masks::new(&[]))? == body);
    let out = through(Shape::Watch, &body, 64, &mut Masks::all())?;
    ensure!(
        String::from_utf8_lossy(&body).contains(CANARY) && !String::from_utf8_lossy(&out).contains(CANARY)
    );
    let read = decoded(cluster, &out, &["watch"])?;
    let kinds: Vec<&Tree> = read.iter().filter_map(|event| event.get("type")).collect();
    ensure!(kinds == ["ADDED", "BOOKMARK"], "{kinds:?}");
    let ends = "/object/metadata/annotations/k8s.io~1initial-events-end";
    ensure!(
        read.last().and_then(|event| event.pointer(ends)) == Some(&Tree::from("true")),
        "{read:?}"
    );
    let direct = json_of(cluster, &path)?;
    let expected = through_json(Shape::Watch, &direct, &mut Masks::all())?;
    let first = serde_json::Deserializer::from_slice(&expected)
        .into_iter::<Tree>()
        .next()
        .context("no event")??;
    ensure!(
        read.first().cloned().map(normal) == Some(normal(first)),
        "{read:?}"
    );

    // Metadata alone, as informers ask for it.
    let accept = format!("{PROTOBUF};as=PartialObjectMetadata;v=v1;g=meta.k8s.io");
    let body = ask(cluster, &accept, &path, &[])?;
    let out = through(Shape::Watch, &body, 64, &mut Masks::all())?;
    ensure!(!String::from_utf8_lossy(&out).contains(CANARY));
    ensure!(decoded(cluster, &out, &["watch"])?.len() == 2);

    // A version that isn't there any more: a failure in place of a watch, or in it.
    let path =
        format!("/api/v1/namespaces/{NAMESPACE}/configmaps?watch=1&timeoutSeconds=1&resourceVersion=x");
    let body = ask(cluster, PROTOBUF, &path, &[])?;
    let out = through(Shape::Watch, &body, 9, &mut Masks::all())?;
    let read = decoded(cluster, &out, &[])?;
    ensure!(
        read.first().and_then(|status| status.get("status")) == Some(&Tree::from("Failure")),
        "{read:?}"
    );
    Ok(())
}

#[test]
fn a_list_of_more_than_a_mebibyte_keeps_its_length() -> Result<()> {
    let Some(cluster) = filled()? else {
        return Ok(());
    };
    let namespace = "protobuf-long";
    cluster.namespace(namespace)?;
    let map = |name: &str, data: Tree| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data});
    let mut items = vec![map("first", json!({"short": CANARY}))];
    items.extend((0..150).map(|number| {
        let value = format!("canary-{number}-{}", "x".repeat(10_000 + number));
        map(&format!("long-{number}"), json!({"k": value, "short": CANARY}))
    }));
    let file = cluster.folder().join("long.json");
    std::fs::write(
        &file,
        json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string(),
    )?;
    cluster.kubectl(&["create", "-f", file.to_str().context("a path that isn't UTF-8")?])?;

    let path =
        format!("/api/v1/namespaces/{namespace}/configmaps?fieldSelector=metadata.name!=kube-root-ca.crt");
    let body = ask(cluster, PROTOBUF, &path, &[])?;
    ensure!(body.len() > 1_500_000, "{} bytes", body.len());
    for piece in [100, 16 * 1024, 1 << 24] {
        ensure!(
            through(Shape::List, &body, piece, &mut Masks::new(&[]))? == body,
            "{piece}"
        );
        let out = through(Shape::List, &body, piece, &mut Masks::new(&["data.*"]))?;
        ensure!(out.len() == body.len(), "{} of {}", out.len(), body.len());
        ensure!(!String::from_utf8_lossy(&out).contains(CANARY));
        if piece > 1000 {
            let [read] = decoded(cluster, &out, &[])?
                .try_into()
                .map_err(|all: Vec<Tree>| anyhow::anyhow!("{} objects", all.len()))?;
            let direct = through_json(
                Shape::List,
                &json_of(cluster, &path)?,
                &mut Masks::new(&["data.*"]),
            )?;
            let (mut read, mut direct) = (normal(read), normal(serde_json::from_slice(&direct)?));
            // Where there is no room yet, what stands in a short value's place is cut to its length.
            for (list, expected) in [(&mut read, MASK.get(..CANARY.len())), (&mut direct, Some(MASK))] {
                let first = list.pointer_mut("/items/0/data/short").context("no item")?;
                ensure!(first.as_str() == expected, "{first}");
                *first = Tree::Null;
            }
            ensure!(read == direct, "{piece}");
        }
    }
    Ok(())
}

#[test]
fn a_body_that_was_rewritten_is_taken_by_the_server() -> Result<()> {
    let Some(cluster) = filled()? else {
        return Ok(());
    };
    cluster.kubectl(&[
        "create",
        "configmap",
        "rewritten",
        "-n",
        NAMESPACE,
        "--from-literal=k=canary-longer-than-its-mask",
        "--from-literal=l=x",
    ])?;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps/rewritten");
    let body = ask(cluster, PROTOBUF, &path, &[])?;
    let mut out = Vec::new();
    let changed = protobuf::body(&body, Type::UNKNOWN, &mut Masks::new(&["data.*"]), &mut out)?;
    ensure!(changed && out != body);
    let file = cluster.folder().join("rewritten.pb");
    std::fs::write(&file, &out)?;
    let data = format!("@{}", file.display());
    let content = format!("Content-Type: {PROTOBUF}");
    let answer = ask(
        cluster,
        "application/json",
        &path,
        &["-X", "PUT", "-H", &content, "--data-binary", &data],
    )?;
    let answer: Tree = serde_json::from_slice(&answer)?;
    ensure!(
        answer.get("data") == Some(&json!({"k": MASK, "l": MASK})),
        "{answer}"
    );
    Ok(())
}
