//! Rules that look into bodies, against a real API server: what mounts secrets is told however it is written.

use std::path::PathBuf;
use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::ApiLab;
use bailiff_tests::masked::{refused, said, text};
use serde_json::{Value, json};

/// Everything but what mounts secrets, and nothing that runs as another service account.
const RULES: &str = r#"    - name: discover
      requests: [{verbs: [get], paths: ["*"]}]
      action: Allow
    - name: work
      requests:
        - {groups: ["*"], resources: [pods, pods/ephemeralcontainers, secrets, configmaps, podtemplates, replicationcontrollers]}
        - {groups: [apps, batch], resources: [deployments, statefulsets, daemonsets, replicasets, jobs, cronjobs]}
      action: Allow
    - name: no-secrets
      requests: [{verbs: [create, update, patch], mountsSecrets: true}]
      action: Deny
      message: agents mount no secrets
    - name: own-account
      requests: [{verbs: [create, update, patch], serviceAccounts: [admin]}]
      action: Deny
      message: agents run nothing as admin
"#;

fn write(lab: &ApiLab, name: &str, object: &Value) -> Result<PathBuf> {
    let path = lab.path(name);
    std::fs::write(&path, object.to_string())?;
    Ok(path)
}

/// Specs of pods that mount a secret, each in another way.
fn mounting() -> Vec<(&'static str, Value)> {
    let of = |volumes: Value, inner: Value| {
        let mut container = json!({"name": "main", "image": "example/main"});
        if let (Value::Object(all), Value::Object(more)) = (&mut container, inner) {
            all.extend(more);
        }
        json!({"containers": [container], "volumes": volumes, "restartPolicy": "Always"})
    };
    let nothing = || json!({});
    vec![
        (
            "volume",
            of(json!([{"name": "v", "secret": {"secretName": "db"}}]), nothing()),
        ),
        (
            "projected",
            of(
                json!([{"name": "v", "projected": {"sources": [{"secret": {"name": "db"}}]}}]),
                nothing(),
            ),
        ),
        (
            "csi",
            of(
                json!([{"name": "v", "csi": {"driver": "d.example", "nodePublishSecretRef": {"name": "db"}}}]),
                nothing(),
            ),
        ),
        (
            "env",
            of(
                json!([]),
                json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}]}),
            ),
        ),
        (
            "env-from",
            of(json!([]), json!({"envFrom": [{"secretRef": {"name": "db"}}]})),
        ),
    ]
}

fn harmless() -> Value {
    json!({
        "containers": [{"name": "main", "image": "example/main", "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            "env": [{"name": "A", "value": "b"}]}],
        "volumes": [{"name": "v", "configMap": {"name": "notes"}}],
    })
}

/// An object of each kind that makes pods.
fn objects(name: &str, spec: &Value) -> Vec<Value> {
    let labels = json!({"app": name});
    let template = |policy: Option<&str>| {
        let mut spec = spec.clone();
        if let (Some(policy), Some(members)) = (policy, spec.as_object_mut()) {
            members.insert("restartPolicy".to_owned(), json!(policy));
        }
        json!({"metadata": {"labels": labels}, "spec": spec})
    };
    let selector = json!({"matchLabels": labels});
    let object = |version: &str, kind: &str, body: Value| {
        let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}});
        if let (Value::Object(all), Value::Object(more)) = (&mut object, body) {
            all.extend(more);
        }
        object
    };
    let workload = || json!({"spec": {"replicas": 0, "selector": selector, "template": template(None)}});
    let job = || json!({"suspend": true, "template": template(Some("Never"))});
    vec![
        object("v1", "Pod", json!({"spec": spec})),
        object("v1", "PodTemplate", json!({"template": template(None)})),
        object(
            "v1",
            "ReplicationController",
            json!({"spec": {"replicas": 0, "selector": labels, "template": template(None)}}),
        ),
        object("apps/v1", "Deployment", workload()),
        object("apps/v1", "ReplicaSet", workload()),
        object("apps/v1", "StatefulSet", workload()),
        object(
            "apps/v1",
            "DaemonSet",
            json!({"spec": {"selector": selector, "template": template(None)}}),
        ),
        object("batch/v1", "Job", json!({"spec": job()})),
        object(
            "batch/v1",
            "CronJob",
            json!({"spec": {"schedule": "0 0 1 1 *", "suspend": true, "jobTemplate": {"spec": job()}}}),
        ),
    ]
}

const WHY: &str = "agents mount no secrets";

fn lab(namespace: &str, rules: &str) -> Result<Option<ApiLab>> {
    let Some(lab) = ApiLab::new(namespace, "cluster-admin", rules)? else {
        return Ok(None);
    };
    lab.cluster
        .kubectl(&["create", "serviceaccount", "-n", namespace, "admin"])?;
    lab.cluster.kubectl(&[
        "create",
        "secret",
        "generic",
        "-n",
        namespace,
        "db",
        "--from-literal=password=x",
    ])?;
    Ok(Some(lab))
}

fn path_of(path: &std::path::Path) -> Result<&str> {
    path.to_str().context("a path that isn't UTF-8")
}

#[test]
fn what_mounts_secrets_is_told_in_every_kind_and_way() -> Result<()> {
    let Some(lab) = lab("bodies-kinds", RULES)? else {
        return Ok(());
    };
    for (way, spec) in mounting() {
        for (number, object) in objects("mounts", &spec).into_iter().enumerate() {
            let file = write(&lab, "object.json", &object)?;
            let file = path_of(&file)?;
            refused(&lab.kubectl(&["create", "-f", file])?, WHY)
                .with_context(|| format!("{way} {number}"))?;
            if way == "volume" {
                refused(&lab.kubectl(&["apply", "-f", file])?, WHY)?;
                refused(&lab.kubectl(&["apply", "--server-side", "-f", file])?, WHY)?;
                let dry = lab.kubectl(&["create", "--dry-run=server", "-f", file])?;
                refused(&dry, WHY)?;
            }
        }
    }
    for object in objects("harmless", &harmless()) {
        let file = write(&lab, "object.json", &object)?;
        let what = object.to_string();
        said(&lab.kubectl(&["create", "-f", path_of(&file)?])?, &what)?;
    }
    // What a pod itself asks for by a command, and as whom.
    let overrides = |spec: Value| format!("--overrides={}", json!({"apiVersion": "v1", "spec": spec}));
    let run = |name: &str, more: &str| -> Result<Output> {
        lab.kubectl(&["run", name, "--image=example/main", more])
    };
    said(&run("plain", "--labels=a=b")?, "run")?;
    refused(
        &run(
            "mounts",
            &overrides(json!({"volumes": [{"name": "v", "secret": {"secretName": "db"}}]})),
        )?,
        WHY,
    )?;
    let admin = "agents run nothing as admin";
    refused(
        &run("admin", &overrides(json!({"serviceAccountName": "admin"})))?,
        admin,
    )?;
    refused(
        &run("admin", &overrides(json!({"serviceAccount": "admin"})))?,
        admin,
    )?;
    Ok(())
}

#[test]
fn what_is_put_into_a_pod_that_is_there_is_told_too() -> Result<()> {
    let (rules, own_account) = RULES.split_at(RULES.find("    - name: own-account").context("no rule")?);
    let Some(lab) = lab("bodies-debug", rules)? else {
        return Ok(());
    };
    let debug = |name: &str, custom: Value| -> Result<Output> {
        let custom = format!("--custom={}", write(&lab, name, &custom)?.display());
        let words = [
            "debug",
            "plain",
            "--image=example/main",
            "--profile=general",
            "-c",
            name,
        ];
        lab.kubectl(&[&words[..], &[custom.as_str()]].concat())
    };
    said(&lab.kubectl(&["run", "plain", "--image=example/main"])?, "run")?;
    let env = || json!({"env": [{"name": "A", "value": "b"}]});
    said(&debug("looks", env())?, "debug")?;
    refused(
        &debug("mounts", json!({"envFrom": [{"secretRef": {"name": "db"}}]}))?,
        WHY,
    )?;
    let pod = lab
        .cluster
        .kubectl(&["get", "pod", "-n", &lab.namespace, "plain", "-o", "yaml"])?;
    ensure!(pod.contains("name: looks") && !pod.contains("secretRef"), "{pod}");
    // As whom the pod runs isn't said: it may be whoever is forbidden.
    let file = lab.enforced.config().join("policy.yaml");
    let policy = std::fs::read_to_string(&file)?;
    std::fs::write(&file, policy.replace(rules, &[rules, own_account].concat()))?;
    refused(&debug("another", env())?, "agents run nothing as admin")
}

#[test]
fn what_a_patch_mounts_is_told_whatever_kind_of_patch_it_is() -> Result<()> {
    let Some(lab) = lab("bodies-patches", RULES)? else {
        return Ok(());
    };
    for object in objects("web", &harmless()).into_iter().take(4) {
        let file = write(&lab, "object.json", &object)?;
        said(&lab.kubectl(&["create", "-f", path_of(&file)?])?, "create")?;
    }
    let patch = |kind: &str, patch: &Value| -> Result<Output> {
        let kind = format!("--type={kind}");
        lab.kubectl(&["patch", "deployment", "web", &kind, "-p", &patch.to_string()])
    };
    let of_pods = |spec: Value| json!({"spec": {"template": {"spec": spec}}});
    let volume = json!({"name": "s", "secret": {"secretName": "db"}});
    let pods = "/spec/template/spec";
    for (kind, body) in [
        ("strategic", of_pods(json!({"volumes": [volume]}))),
        ("merge", of_pods(json!({"volumes": [volume]}))),
        (
            "json",
            json!([{"op": "add", "path": format!("{pods}/volumes/-"), "value": volume}]),
        ),
        (
            "json",
            json!([{"op": "replace", "path": "/spec/template", "value": {"spec": {"volumes": [volume]}}}]),
        ),
        (
            "json",
            json!([{"op": "copy", "from": "/metadata/labels", "path": "/metadata/annotations"}]),
        ),
        // Servers take what stands before the first slash for nothing.
        (
            "json",
            json!([{"op": "add", "path": format!("x{pods}/volumes/-"), "value": volume}]),
        ),
        (
            "json",
            json!([{"op": "replace", "path": format!("{pods}/containers/0/env/0"),
                "value": {"name": "A", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}}]),
        ),
        // A volume that may be there.
        (
            "strategic",
            of_pods(
                json!({"containers": [{"name": "main", "volumeMounts": [{"name": "there", "mountPath": "/s"}]}]}),
            ),
        ),
    ] {
        refused(&patch(kind, &body)?, WHY).with_context(|| format!("{kind} {body}"))?;
    }
    for (kind, body) in [
        ("strategic", json!({"metadata": {"labels": {"a": "b"}}})),
        (
            "merge",
            json!({"spec": {"template": {"metadata": {"annotations": {"a": "b"}}}}}),
        ),
        (
            "json",
            json!([{"op": "add", "path": "/metadata/labels", "value": {"c": "d"}}]),
        ),
    ] {
        said(&patch(kind, &body)?, &body.to_string())?;
    }
    // Without the rules the server takes the patch that begins with nothing: they are about what it does.
    let path = "/apis/apps/v1/namespaces/bodies-patches/deployments/web";
    let odd = write(
        &lab,
        "odd.json",
        &json!([{"op": "add", "path": format!("x{pods}/volumes/-"), "value": volume}]),
    )?;
    let direct = lab.curl_direct(
        &[
            "-X",
            "PATCH",
            "-H",
            "Content-Type: application/json-patch+json",
            "--data-binary",
            &format!("@{}", odd.display()),
        ],
        path,
    )?;
    ensure!(
        text(&direct.stdout).contains("secretName"),
        "{}",
        text(&direct.stdout)
    );
    Ok(())
}

#[test]
fn bodies_of_every_format_are_told_and_those_that_cant_be_are_refused() -> Result<()> {
    let Some(lab) = lab("bodies-formats", RULES)? else {
        return Ok(());
    };
    let path = "/api/v1/namespaces/bodies-formats/pods";
    let mounts = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "containers": [{"name": "main", "image": "example/main"}], "volumes": [{"name": "v", "secret": {"secretName": "db"}}]}});
    let mut plain = mounts.clone();
    plain["spec"]["volumes"] = json!([]);
    // The server itself writes them in protobuf.
    for (object, name, code) in [(&mounts, "mounts", "403"), (&plain, "plain", "201")] {
        let file = write(&lab, "object.json", object)?;
        let data = format!("@{}", file.display());
        let accept = "Accept: application/vnd.kubernetes.protobuf";
        let made = lab.curl_direct(
            &[
                "-X",
                "POST",
                "-H",
                "Content-Type: application/json",
                "-H",
                accept,
                "--data-binary",
                &data,
            ],
            &format!("{path}?dryRun=All"),
        )?;
        ensure!(made.stdout.starts_with(b"k8s\0"), "{}", text(&made.stdout));
        let file = lab.path(name);
        std::fs::write(&file, &made.stdout)?;
        let answer = lab.send("POST", "application/vnd.kubernetes.protobuf", &file, path)?;
        ensure!(answer.ends_with(code), "{name}: {answer}");
    }
    let file = lab.path("body");
    let send = |media: &str, body: &[u8]| -> Result<String> {
        std::fs::write(&file, body)?;
        lab.send("POST", media, &file, path)
    };
    let yaml = "apiVersion: v1\nkind: Pod\nmetadata: {name: written}\nspec:\n  containers: [{name: main, image: example/main}]\n";
    let answer = send("application/yaml", yaml.as_bytes())?;
    ensure!(answer.ends_with("201"), "{answer}");
    let volumes = "  volumes: [{name: v, secret: {secretName: db}}]\n";
    let answer = send("application/yaml", format!("{yaml}{volumes}").as_bytes())?;
    ensure!(answer.ends_with("403") && answer.contains(WHY), "{answer}");
    // What isn't surely harmless is refused, and said why.
    let twice = plain.to_string().replacen(
        "\"volumes\":[]",
        "\"volumes\":[{\"name\":\"v\",\"secret\":{\"secretName\":\"db\"}}],\"volumes\":[]",
        1,
    );
    let large = plain.to_string().replacen(
        "\"p\"",
        &format!("\"p\",\"annotations\":{{\"a\":\"{}\"}}", "x".repeat(4 << 20)),
        1,
    );
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [mounts]}).to_string();
    let other = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "p"}}).to_string();
    for (media, body, why) in [
        ("application/json", twice.as_str(), "more than one way"),
        ("application/json", &list, "more than one way"),
        ("application/json", &other, "more than one way"),
        ("application/json", "{\"spec\":", "more than one way"),
        ("application/json", &large, "too long"),
        ("text/plain", &plain.to_string(), "Content-Type"),
        ("application/yaml", "a: &x {b: c}\nd: *x\n", "more than one way"),
    ] {
        let answer = send(media, body.as_bytes())?;
        let shown: String = answer.chars().take(600).collect();
        ensure!(
            answer.ends_with("403") && answer.contains(why),
            "{media} {why}: {shown}"
        );
    }
    plain["metadata"]["name"] = json!("another");
    std::fs::write(&file, plain.to_string())?;
    let data = format!("@{}", file.display());
    for options in [
        // Chunked, so that its length isn't told before.
        vec!["-H", "Transfer-Encoding: chunked", "--http1.1"],
        vec!["-H", "Expect: 100-continue", "--http1.1"],
        vec!["--http2"],
    ] {
        let all = [
            &[
                "-X",
                "POST",
                "-H",
                "Content-Type: application/json",
                "--data-binary",
                &data,
                "-w",
                "\n%{http_code}",
            ][..],
            &options,
        ]
        .concat();
        let answer = said(
            &lab.curl_in("agent", &all, &format!("{path}?dryRun=All"))?,
            "chunked",
        )?;
        ensure!(answer.ends_with("201"), "{options:?}: {answer}");
    }
    let all = [
        "-X",
        "POST",
        "-H",
        "Content-Type: application/json",
        "-H",
        "Content-Encoding: gzip",
        "--data-binary",
        &data,
    ];
    let answer = said(&lab.curl_in("agent", &all, path)?, "encoded")?;
    ensure!(answer.contains("compressed"), "{answer}");
    // Members are told by their case, and what the server doesn't know it doesn't do.
    let cased = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "cased"}, "spec": {
        "containers": [{"name": "main", "image": "example/main"}], "Volumes": [{"name": "v", "secret": {"secretName": "db"}}]}});
    let answer = send("application/json", cased.to_string().as_bytes())?;
    ensure!(
        answer.ends_with("201") && !answer.contains("secretName"),
        "{answer}"
    );
    Ok(())
}

/// What a delete or a create says in its body alone.
const BY_BODY: &str = r#"    - name: discover
      requests: [{verbs: [get], paths: ["*"]}]
      action: Allow
    - name: look
      requests: [{verbs: [get, list, watch], groups: ["*"], resources: [pods, configmaps]}]
      action: Allow
    - name: try
      requests: [{verbs: [delete, deletecollection], resources: [configmaps], dryRun: true}]
      action: Allow
    - name: own-notes
      requests: [{verbs: [create], resources: [configmaps], names: ["own-*"]}]
      action: Allow
    - name: known-images
      requests: [{verbs: [create], resources: [pods], images: ["registry.example/*"], serviceAccounts: [default], mountsSecrets: false}]
      action: Allow
    - name: small
      requests:
        - {verbs: [create], groups: [apps], resources: [deployments], when: "object.spec.replicas <= 2 && request.name.startsWith('small-')"}
      action: Allow
    - name: known-secrets
      requests: [{verbs: [create], resources: [pods], secrets: ["public-*"]}]
      action: Allow
"#;

#[test]
fn what_is_allowed_by_its_body_is_nothing_else() -> Result<()> {
    let Some(lab) = lab("bodies-allowed", BY_BODY)? else {
        return Ok(());
    };
    for name in ["kept", "other"] {
        lab.cluster.kubectl(&[
            "create",
            "configmap",
            "-n",
            &lab.namespace,
            name,
            "--from-literal=a=1",
        ])?;
    }
    said(
        &lab.kubectl(&["delete", "configmap", "kept", "--dry-run=server"])?,
        "a dry run",
    )?;
    refused(&lab.kubectl(&["delete", "configmap", "kept"])?, "forbidden")?;
    let path = "/api/v1/namespaces/bodies-allowed/configmaps/kept";
    let file = lab.path("options");
    let delete = |media: &str, body: &str, path: &str| -> Result<String> {
        std::fs::write(&file, body)?;
        lab.send("DELETE", media, &file, path)
    };
    // `runtime.Unknown`: a type of 19 bytes, and then DeleteOptions, whose field 5 is dryRun.
    let protobuf = |options: &str| {
        let length = char::from(u8::try_from(options.len()).unwrap_or(0));
        format!("k8s\0\n\x13\n\x02v1\x12\rDeleteOptions\x12{length}{options}")
    };
    let (dry, not_dry) = (protobuf("*\x03All"), protobuf(""));
    let dry_and_not_told = protobuf("*\x03All\u{7a}\0");
    for (media, body, code) in [
        ("application/json", r#"{"dryRun":["All"]}"#, "200"),
        (
            "application/yaml",
            "kind: DeleteOptions\napiVersion: v1\ndryRun: [All]\n",
            "200",
        ),
        ("application/vnd.kubernetes.protobuf", dry.as_str(), "200"),
        ("application/vnd.kubernetes.protobuf", &not_dry, "403"),
        // A field that no DeleteOptions has.
        ("application/vnd.kubernetes.protobuf", &dry_and_not_told, "403"),
        ("application/json", r#"{"dryRun":[]}"#, "403"),
        ("application/json", r#"{"DryRun":["All"]}"#, "403"),
        ("application/json", r#"{"dryRun":["All"],"dryRun":[]}"#, "403"),
        (
            "application/json",
            r#"{"kind":"Pod","apiVersion":"v1","dryRun":["All"]}"#,
            "403",
        ),
    ] {
        let answer = delete(media, body, path)?;
        ensure!(answer.ends_with(code), "{body}: {answer}");
    }
    // What the query says counts only where nothing else does.
    let dry = format!("{path}?dryRun=All");
    let answer = delete("application/json", r#"{"dryRun":[]}"#, &dry)?;
    ensure!(answer.ends_with("403"), "{answer}");
    let answer = said(
        &lab.curl_in("agent", &["-X", "DELETE", "-w", "\n%{http_code}"], &dry)?,
        "a dry run",
    )?;
    ensure!(answer.ends_with("200"), "{answer}");
    lab.cluster
        .kubectl(&["get", "configmap", "-n", &lab.namespace, "kept", "other"])?;

    let create = |name: &str| lab.kubectl(&["create", "configmap", name, "--from-literal=a=1"]);
    said(&create("own-notes")?, "create")?;
    refused(&create("others")?, "forbidden")?;
    let generated = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "own-"}});
    let generated = write(&lab, "generated.json", &generated)?;
    refused(
        &lab.kubectl(&["create", "-f", path_of(&generated)?])?,
        "forbidden",
    )?;

    let pod = |name: &str, spec: Value| -> Result<Output> {
        let file = write(
            &lab,
            "pod.json",
            &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}),
        )?;
        lab.kubectl(&["create", "-f", path_of(&file)?])
    };
    let known = json!([{"name": "a", "image": "registry.example/a"}]);
    let mixed = json!([{"name": "a", "image": "registry.example/a"}, {"name": "b", "image": "b"}]);
    let volume = |secret: &str| json!([{"name": "v", "secret": {"secretName": secret}}]);
    said(&pod("known", json!({"containers": known}))?, "known")?;
    said(
        &pod(
            "public",
            json!({"containers": mixed, "volumes": volume("public-key")}),
        )?,
        "public",
    )?;
    for spec in [
        json!({"containers": mixed}),
        json!({"containers": known, "initContainers": [{"name": "i", "image": "i"}]}),
        json!({"containers": known, "serviceAccountName": "admin"}),
        json!({"containers": known, "volumes": volume("db")}),
        json!({"containers": known, "volumes": [{"name": "v", "secret": {"secretName": "public-key"}}, {"name": "w", "secret": {"secretName": "db"}}]}),
    ] {
        refused(&pod("refused", spec.clone())?, "forbidden").with_context(|| spec.to_string())?;
    }

    let deployment = |name: &str, spec: Value| -> Result<Output> {
        let labels = json!({"app": name});
        let mut spec = spec;
        spec["selector"] = json!({"matchLabels": labels});
        spec["template"] = json!({"metadata": {"labels": labels}, "spec": {"containers": known}});
        let object =
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec});
        let file = write(&lab, "deployment.json", &object)?;
        lab.kubectl(&["create", "-f", path_of(&file)?])
    };
    said(&deployment("small-one", json!({"replicas": 0}))?, "small")?;
    for (name, spec) in [
        ("small-two", json!({"replicas": 3})),
        ("large", json!({"replicas": 0})),
        // What isn't there can't be told.
        ("small-three", json!({})),
    ] {
        refused(&deployment(name, spec)?, "forbidden").context(name)?;
    }
    Ok(())
}
