//! Masks in what a real API server answers with, in JSON, YAML and CBOR.
#![expect(
    clippy::indexing_slicing,
    reason = "members of JSON values: what isn't there is null"
)]

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{Cluster, ClusterOptions, can_be_root, check};
use bailiff_wire::kubernetes::schema::{Type, of_resource};
use bailiff_wire::kubernetes::{Fields, Format, Replacement, Shape, Stream, Value};
use bytes::Bytes;
use serde_json::{Value as Tree, json};

const NAMESPACE: &str = "formats";

/// What must not come through. At the beginning of what is base64, it looks like the second.
const CANARY: &str = "canary-7d1f ";
const ENCODED: &str = "Y2FuYXJ5LTdkMWYg";
const MASK: &str = "[masked]";
const MASK_ENCODED: &str = "W21hc2tlZF0=";

const PATHS: [&[&str]; 4] = [
    &["data", "*"],
    &["stringData", "*"],
    &["binaryData", "*"],
    &["spec", "containers", "*", "env", "*", "value"],
];

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const CBOR: &str = "application/cbor";

/// Masks the paths, or nothing at all.
struct Masks {
    any: bool,
}

impl Masks {
    fn below(at: (usize, u8), key: &str) -> (usize, u8) {
        let leads = |path: &&[&str]| path.get(at.0).is_some_and(|part| *part == "*" || *part == key);
        let paths = PATHS.iter().enumerate();
        let paths = paths.filter(|(number, path)| at.1 & (1 << number) != 0 && leads(path));
        (at.0 + 1, paths.fold(0, |all, (number, _)| all | 1 << number))
    }
}

impl Fields for Masks {
    type At = (usize, u8);

    fn object(&mut self, _: Option<&str>, _: Option<&str>) -> Self::At {
        (0, if self.any { 15 } else { 0 })
    }

    fn member(&mut self, at: Self::At, key: &str) -> Self::At {
        Self::below(at, key)
    }

    fn element(&mut self, at: Self::At, _: usize, _: Option<&str>) -> Self::At {
        Self::below(at, "")
    }

    fn passes(&self, at: Self::At) -> bool {
        at.1 == 0
    }

    fn replace(&mut self, at: Self::At, _: Value<'_>) -> Option<Replacement> {
        let ends = |(number, path): (usize, &&[&str])| at.1 & (1 << number) != 0 && path.len() == at.0;
        let ends = PATHS.iter().enumerate().any(ends);
        ends.then(|| Replacement::Value(MASK.as_bytes().to_vec()))
    }

    fn hides_texts(&self) -> bool {
        self.any
    }

    fn hides_cells(&self) -> bool {
        self.any
    }
}

/// The same done on what was read.
fn mask(tree: &mut Tree, at: (usize, u8), bytes: bool) {
    match tree {
        Tree::Object(members) => {
            for (key, value) in members {
                let bytes = (bytes && key != "stringData") || key == "binaryData";
                mask(value, Masks::below(at, key), bytes);
            }
        }
        Tree::Array(elements) => {
            for value in elements {
                mask(value, Masks::below(at, ""), bytes);
            }
        }
        Tree::Null => {}
        leaf => {
            if (Masks { any: true }).replace(at, Value::Scalar("")).is_some() {
                *leaf = json!(if bytes { MASK_ENCODED } else { MASK });
            }
        }
    }
}

fn masked(object: &Tree, is_secret: bool) -> Result<Tree> {
    let mut object = object.clone();
    mask(&mut object, (0, 15), is_secret);
    let annotation = "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration";
    if let Some(Tree::String(applied)) = object.pointer_mut(annotation) {
        let mut inner: Tree = serde_json::from_str(applied)?;
        mask(&mut inner, (0, 15), is_secret);
        *applied = format!("{inner}\n");
    }
    Ok(object)
}

struct Api {
    cluster: Cluster,
    token: String,
}

impl Api {
    fn start() -> Result<Option<Self>> {
        if !can_be_root()? {
            return Ok(None);
        }
        let cluster = Cluster::start(&ClusterOptions {
            api_server_flags: vec!["--feature-gates=CBORServingAndStorage=true".to_owned()],
            ..ClusterOptions::default()
        })?;
        cluster.namespace(NAMESPACE)?;
        cluster.service_account(NAMESPACE, "reader", Some("admin"))?;
        let token = cluster.token(NAMESPACE, "reader", None)?;
        Ok(Some(Self { cluster, token }))
    }

    fn curl(&self, path: &str, accept: &str) -> Result<Command> {
        let mut curl = Command::new("curl");
        // The server writes JSON for people where curl asks.
        curl.args(["-sS", "--max-time", "60", "--user-agent", "test", "--cacert"]);
        curl.arg(self.cluster.ca()?);
        curl.args(["-H", &format!("Authorization: Bearer {}", self.token)]);
        curl.args(["-H", &format!("Accept: {accept}")]);
        curl.arg(format!("https://{}{path}", self.cluster.service()?));
        Ok(curl)
    }

    fn get(&self, path: &str, accept: &str) -> Result<Vec<u8>> {
        Ok(check(self.curl(path, accept)?.arg("--fail"))?.stdout)
    }

    /// What the server makes of an object, in JSON or as it says it in another format.
    fn put(&self, path: &str, media: &str, body: &[u8], accept: &str) -> Result<Vec<u8>> {
        let mut curl = self.curl(&format!("{path}?dryRun=All"), accept)?;
        curl.args([
            "-X",
            "PUT",
            "-H",
            &format!("Content-Type: {media}"),
            "--data-binary",
            "@-",
        ]);
        let mut child = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        child.stdin.take().context("no input")?.write_all(body)?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "curl: {}", output.status);
        Ok(output.stdout)
    }

    #[expect(clippy::indexing_slicing, reason = "members that are added to JSON objects")]
    fn fill(&self) -> Result<()> {
        let of = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}});
        let mut secret = of("Secret", "applied");
        secret["data"] = json!({"one": format!("{ENCODED}b25l"), "two": format!("{ENCODED}dHdv")});
        let mut texts = of("Secret", "texts");
        texts["stringData"] = json!({"lines": format!("{CANARY}\n  and: more\n")});
        let mut config = of("ConfigMap", "nasty");
        config["data"] = json!({
            "lines": format!("{CANARY}\n  indented: |\n- dash\n\n\n"),
            "leading": format!("  {CANARY}\n # {CANARY}\n"),
            "mapping": format!("{CANARY}: # x"),
            "comment": format!("# {CANARY}"),
            "quotes": format!("'{CANARY}' \"{CANARY}\" \\ {{[&*!|>%@`"),
            "tab": format!("\t{CANARY}\t\r\n\u{1}\u{1f600}\u{e9}"),
            "long": format!("{CANARY} ").repeat(60),
            "long-lines": format!("{CANARY} ").repeat(30) + "\n" + &format!("{CANARY} ").repeat(30),
            "yes": format!("{CANARY}---\n---\n{CANARY}\n...\n"),
            "json": json!({"a": [CANARY, {"b": "\"]}"}]}).to_string(),
        });
        config["binaryData"] = json!({"bytes": format!("{ENCODED}AAH/")});
        let mut other = of("ConfigMap", "other");
        other["data"] = json!({"0123": "true", "empty": "", "k": CANARY});
        let mut pod = of("Pod", "with-env");
        pod["spec"] = json!({"containers": [{"name": "main", "image": "none.invalid/none",
            "env": [{"name": "TOKEN", "value": CANARY}, {"name": "NONE"}], "resources": {"limits": {"cpu": "100m"}}}]});
        for manifest in [secret, texts, config, other, pod] {
            self.cluster.apply(&manifest.to_string())?;
        }
        Ok(())
    }
}

fn passed(media: &str, shape: Shape, of: Type, body: &[u8], piece: usize, any: bool) -> Result<Vec<u8>> {
    let format = Format::of_media(media).context("no format")?;
    let mut stream = Stream::new(format, shape, of);
    let (mut fields, mut out) = (Masks { any }, Vec::new());
    for piece in body.chunks(piece.max(1)) {
        stream.feed(&Bytes::copy_from_slice(piece), &mut fields, &mut out)?;
    }
    stream.finish(&mut fields, &mut out)?;
    Ok(out.concat())
}

fn find(bytes: &[u8], what: &str) -> bool {
    bytes.windows(what.len()).any(|window| window == what.as_bytes())
}

/// Passes a body through in pieces of several sizes; returns it with masks.
fn through(media: &str, shape: Shape, of: Type, body: &[u8], what: &str) -> Result<Vec<u8>> {
    ensure!(!body.is_empty(), "{what}: nothing came");
    let whole = passed(media, shape, of, body, body.len(), true).context(what.to_owned())?;
    for piece in [1, 61, 4096, body.len()] {
        let same = passed(media, shape, of, body, piece, false).context(what.to_owned())?;
        ensure!(same == body, "{what} in pieces of {piece} isn't what it was");
        let again = passed(media, shape, of, body, piece, true)?;
        ensure!(again == whole, "{what} in pieces of {piece} is masked otherwise");
    }
    for canary in [CANARY.trim(), ENCODED] {
        ensure!(
            !find(&whole, canary),
            "{what}: {}",
            String::from_utf8_lossy(&whole)
        );
    }
    Ok(whole)
}

#[test]
fn answers_of_a_real_server_are_masked_in_every_text_format() -> Result<()> {
    let Some(api) = Api::start()? else {
        return Ok(());
    };
    api.fill()?;
    for resource in ["secrets", "configmaps", "pods"] {
        lists(&api, resource)?;
        watches(&api, resource)?;
    }
    for (resource, name) in [
        ("secrets", "applied"),
        ("secrets", "texts"),
        ("configmaps", "nasty"),
        ("configmaps", "other"),
    ] {
        objects(&api, resource, name)?;
    }
    failures(&api)?;
    api.cluster.stop()
}

fn lists(api: &Api, resource: &str) -> Result<()> {
    let of = of_resource("v1", resource).context("no type")?;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/{resource}");
    for (media, query) in [(JSON, ""), (JSON, "?pretty=1"), (YAML, ""), (CBOR, "")] {
        let what = format!("{resource} in {media}");
        let body = api.get(&format!("{path}{query}"), media)?;
        ensure!(
            find(&body, "canary") || find(&body, ENCODED),
            "{what}: no canary was there"
        );
        let out = through(media, Shape::List, of, &body, &what)?;
        if media == JSON {
            let (body, out): (Tree, Tree) = (serde_json::from_slice(&body)?, serde_json::from_slice(&out)?);
            let mut expected = body.clone();
            for item in expected["items"].as_array_mut().context("no items")? {
                *item = masked(item, resource == "secrets")?;
            }
            // What was applied last is JSON of which the order of members may differ.
            ensure!(normal(out.clone()) == normal(expected), "{what}: {out}");
        }
        if media == CBOR {
            // The server has no tables in it.
            continue;
        }
        let table = format!("{media};as=Table;v=v1;g=meta.k8s.io");
        let what = format!("{resource} as a table in {media}");
        let body = api.get(&format!("{path}?includeObject=Object"), &table)?;
        let out = through(media, Shape::List, of, &body, &what)?;
        ensure!(
            find(&out, MASK) || resource == "configmaps",
            "{what}: no cell is masked"
        );
        for name in ["applied", "nasty", "with-env"] {
            ensure!(find(&out, name) == find(&body, name), "{what}: {name} is hidden");
        }
    }
    Ok(())
}

fn normal(mut tree: Tree) -> Tree {
    let items = tree["items"].as_array_mut().into_iter().flatten();
    for item in items {
        let annotation = "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration";
        if let Some(applied) = item.pointer_mut(annotation)
            && let Some(inner) = applied.as_str().and_then(|text| serde_json::from_str(text).ok())
        {
            *applied = inner;
        }
    }
    tree
}

fn watches(api: &Api, resource: &str) -> Result<()> {
    let of = of_resource("v1", resource).context("no type")?;
    let path = format!(
        "/api/v1/namespaces/{NAMESPACE}/{resource}?watch=1&timeoutSeconds=2&allowWatchBookmarks=true\
         &sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
    );
    for (media, accept) in [
        (JSON, JSON),
        (JSON, "application/json;as=Table;v=v1;g=meta.k8s.io"),
        (CBOR, CBOR),
    ] {
        let what = format!("a watch of {resource} as {accept}");
        let body = api.get(&path, accept)?;
        ensure!(
            find(&body, "BOOKMARK"),
            "{what}: {}",
            String::from_utf8_lossy(&body)
        );
        let out = through(media, Shape::Watch, of, &body, &what)?;
        ensure!(
            find(&out, "k8s.io/initial-events-end"),
            "{what}: the bookmark is gone"
        );
    }
    Ok(())
}

/// What comes out is what the server itself reads as masked.
fn objects(api: &Api, resource: &str, name: &str) -> Result<()> {
    let of = of_resource("v1", resource).context("no type")?;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/{resource}/{name}");
    let direct: Tree = serde_json::from_slice(&api.get(&path, JSON)?)?;
    let expected = masked(&direct, resource == "secrets")?;
    for media in [JSON, YAML, CBOR] {
        let what = format!("{resource}/{name} in {media}");
        let body = api.get(&path, media)?;
        let out = through(media, Shape::Object, of, &body, &what)?;
        let answer = api.put(&path, media, &out, JSON)?;
        let read: Tree = serde_json::from_slice(&answer)
            .with_context(|| format!("{what}: {}", String::from_utf8_lossy(&answer)))?;
        for part in ["data", "binaryData"] {
            ensure!(
                read[part] == expected[part],
                "{what}: {read}\n{}",
                String::from_utf8_lossy(&out)
            );
        }
        for part in ["labels", "uid", "creationTimestamp"] {
            ensure!(
                read["metadata"][part] == direct["metadata"][part],
                "{what}: {read}"
            );
        }
    }
    Ok(())
}

/// A failure's text quotes what was sent, and what was there.
fn failures(api: &Api) -> Result<()> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/with-env");
    let pod = api.get(&path, JSON)?;
    let changed = String::from_utf8(pod)?.replacen("canary-7d1f ", "canary-7d1f other", 2);
    for media in [JSON, YAML, CBOR] {
        let answer = api.put(&path, JSON, changed.as_bytes(), media)?;
        let what = format!("a failure in {media}: {}", String::from_utf8_lossy(&answer));
        ensure!(find(&answer, "Failure") && find(&answer, "canary"), "{what}");
        let out = through(media, Shape::Object, Type::UNKNOWN, &answer, &what)?;
        ensure!(find(&out, "withheld: it may quote a masked value"), "{what}");
        ensure!(find(&out, "Forbidden") == find(&answer, "Forbidden"), "{what}");
    }
    let missing = check(&mut api.curl(&format!("{path}-not"), YAML)?)?.stdout;
    let out = through(YAML, Shape::Object, Type::UNKNOWN, &missing, "what isn't there")?;
    ensure!(
        out == missing && find(&out, "NotFound"),
        "what isn't there is no secret"
    );
    Ok(())
}
