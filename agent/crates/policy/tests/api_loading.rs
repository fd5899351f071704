//! What can't work in targets and rules of the Kubernetes API is refused with its line and a mend.

use anyhow::{Result, ensure};
use bailiff_model::Protocol;
use bailiff_policy::PolicySet;

/// A target whose TLS begins in line 8.
const TARGET: &str = "apiVersion: bailiff.dev/v1alpha1
kind: Target
metadata:
  name: cluster
spec:
  protocol: kubernetes
  endpoints: [\"10.96.0.1:443\"]
  tls:
    client: {mode: Require, caCertificateFile: /etc/bailiff/ca.crt, caKeyFile: /etc/bailiff/ca.key}
    upstream: {mode: Verify, caFile: /etc/kubernetes/ca.crt, serverName: kubernetes.default.svc}
";

const DATABASE: &str = "apiVersion: bailiff.dev/v1alpha1
kind: Target
metadata:
  name: db
spec:
  protocol: postgres
  endpoints: [\"10.0.0.5:5432\"]
";

/// A policy whose spec begins in line 6.
fn policy(spec: &str) -> String {
    format!("apiVersion: bailiff.dev/v1alpha1\nkind: Policy\nmetadata:\n  name: p\nspec:\n{spec}\n")
}

/// A policy with one rule, whose request stands in line 9.
fn one_request(request: &str, action: &str) -> String {
    policy(&format!(
        "  targets: [cluster]\n  rules:\n  - name: r\n    requests: [{request}]\n    action: {action}"
    ))
}

/// The problems of these texts, as `file:line: reason → mend`.
fn problems(sources: &[(&str, &str)]) -> Vec<String> {
    match PolicySet::from_sources(sources) {
        Ok(_) => Vec::new(),
        Err(errors) => errors
            .0
            .iter()
            .map(|problem| {
                format!(
                    "{}:{}: {} → {}",
                    problem.file, problem.line, problem.reason, problem.mend
                )
            })
            .collect(),
    }
}

fn expect(sources: &[(&str, &str)], expected: &[&str]) -> Result<()> {
    let found = problems(sources);
    ensure!(found == expected, "expected {expected:#?}, found {found:#?}");
    Ok(())
}

fn in_target(text: &str, expected: &[&str]) -> Result<()> {
    expect(&[("t.yaml", text)], expected)
}

fn allowing(request: &str, expected: &[&str]) -> Result<()> {
    let text = one_request(request, "Allow");
    expect(&[("t.yaml", TARGET), ("p.yaml", &text)], expected)
}

fn denying(request: &str, expected: &[&str]) -> Result<()> {
    let text = one_request(request, "Deny");
    expect(&[("t.yaml", TARGET), ("p.yaml", &text)], expected)
}

#[test]
fn a_target_of_the_kubernetes_api_loads() -> Result<()> {
    let set = PolicySet::from_sources(&[("t.yaml", TARGET)])?;
    ensure!(
        set.targets()
            .iter()
            .all(|target| target.protocol == Protocol::Kubernetes)
    );
    let files = TARGET.replace(
        "caCertificateFile: /etc/bailiff/ca.crt, caKeyFile: /etc/bailiff/ca.key",
        "certificateFile: /etc/bailiff/tls.crt, keyFile: /etc/bailiff/tls.key",
    );
    in_target(&files, &[])
}

#[test]
fn a_target_of_the_kubernetes_api_has_nothing_of_a_database() -> Result<()> {
    let databases = "  searchPath: [a]\n  plainRelations: [a.b]\n  credential: {user: u, passwordFile: /p}\n  catalog: {user: c}\n";
    let never = "so that it never counts";
    in_target(
        &format!("{TARGET}{databases}"),
        &[
            &format!(
                "t.yaml:11: `searchPath` is about databases, and this target speaks the Kubernetes API, {never} → remove it, or write protocol: postgres"
            ),
            &format!(
                "t.yaml:12: `plainRelations` is about databases, and this target speaks the Kubernetes API, {never} → remove it, or write protocol: postgres"
            ),
            &format!(
                "t.yaml:13: `credential` is about databases, and this target speaks the Kubernetes API, {never} → remove it: clients' own tokens go on to the API server"
            ),
            &format!(
                "t.yaml:14: `catalog` is about databases, and this target speaks the Kubernetes API, {never} → remove it, or write protocol: postgres"
            ),
        ],
    )
}

#[test]
fn the_kubernetes_api_is_spoken_by_verified_tls_alone() -> Result<()> {
    let (bare, _) = TARGET.split_once("  tls:").unwrap_or((TARGET, ""));
    in_target(
        bare,
        &[
            "t.yaml:4: clients of the Kubernetes API begin with TLS, and there is no certificate to show them → give tls.client with mode: Require and csr: {}, or caCertificateFile and caKeyFile, or certificateFile and keyFile",
            "t.yaml:4: the API server is always spoken to by TLS and verified, and it isn't said by which CA → give tls.upstream with mode: Verify and caFile: the cluster's CA",
        ],
    )?;
    in_target(
        &TARGET.replace("Verify", "Prefer"),
        &[
            "t.yaml:10: the API server is always spoken to by TLS and verified, since clients' tokens go there → write mode: Verify, with caFile: the cluster's CA",
        ],
    )?;
    in_target(
        &TARGET.replace("Require", "Prefer"),
        &[
            "t.yaml:9: clients of the Kubernetes API begin with TLS, and without it their tokens would be read on the way → write mode: Require",
        ],
    )?;
    in_target(
        &TARGET.replace("Verify,", "Verify, direct: true,"),
        &[
            "t.yaml:10: `direct` is about PostgreSQL's way to begin TLS, and this target speaks the Kubernetes API, so that it never counts → remove it",
        ],
    )?;
    let unverified = problems(&[("t.yaml", &TARGET.replace("caFile: /etc/kubernetes/ca.crt, ", ""))]);
    ensure!(
        unverified.len() == 1 && unverified.iter().all(|found| found.contains("there is no CA")),
        "{unverified:#?}"
    );
    Ok(())
}

#[test]
fn rules_about_requests_load() -> Result<()> {
    for request in [
        "{verbs: [\"*\"]}",
        "{verbs: [get, list, watch], groups: [\"\"], resources: [pods, pods/log]}",
        "{verbs: [get], resources: [\"*/scale\", \"pods/*\", \"*\"], namespaces: [shop, \"team-*\"]}",
        "{verbs: [get], groups: [apps], resources: [deployments], names: [web, \"api-*\"]}",
        "{verbs: [get, head], paths: [\"/healthz*\", /version]}",
        "{verbs: [create], resources: [pods/exec], commands: [\"ls *\"], containers: [app], tty: false}",
        "{verbs: [create, update, patch], resources: [pods], dryRun: true}",
        "{groups: [example.com]}",
    ] {
        allowing(request, &[])?;
        denying(request, &[])?;
    }
    in_target(include_str!("../fuzz/corpus/load/edge-kubernetes-all"), &[])
}

/// A policy's problems beside a cluster and a database.
fn beside_a_database(spec: &str, expected: &[&str]) -> Result<()> {
    expect(
        &[
            ("t.yaml", TARGET),
            ("d.yaml", DATABASE),
            ("p.yaml", &policy(spec)),
        ],
        expected,
    )
}

#[test]
fn requests_that_cant_be_met_are_refused_with_a_mend() -> Result<()> {
    let mut rows: Vec<(&str, Vec<String>)> = Vec::new();
    for line in include_str!("api/refused.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        match (
            line.strip_prefix("      mend: "),
            line.strip_prefix("    "),
            rows.last_mut(),
        ) {
            (Some(mend), _, Some((_, said))) => {
                if let Some(reason) = said.last_mut() {
                    *reason = format!("{reason} → {mend}");
                }
            }
            (None, Some(reason), Some((_, said))) => said.push(format!("p.yaml:9: {reason}")),
            _ if line.is_empty() => {}
            _ => rows.push((line, Vec::new())),
        }
    }
    ensure!(rows.len() > 40, "{} rows", rows.len());
    for (row, said) in rows {
        let (action, request) = row.split_once(' ').unwrap_or_default();
        let text = one_request(request, action);
        let found = problems(&[("t.yaml", TARGET), ("p.yaml", &text)]);
        ensure!(found == said, "{row}: expected {said:#?}, found {found:#?}");
    }
    denying(
        "",
        &[
            "p.yaml:9: rule \"r\" can never match: `requests` is empty → name requests: {verbs: [get], resources: [pods]}",
        ],
    )
}

#[test]
fn a_rule_is_about_sql_or_about_requests() -> Result<()> {
    beside_a_database(
        "  targets: [cluster]\n  rules:\n  - name: r\n    action: Deny",
        &[
            "p.yaml:8: rule \"r\" can never match: it names neither `effects` nor `requests` → name `effects` of SQL, or `requests` to the Kubernetes API",
        ],
    )?;
    let of_sql = "effects: [read]|relations: [\"*\"]|functions: [f]|where: [Missing]|rows: {above: 1}|limit: Missing|statements: {above: 1}|masked: [Sort]";
    for field in of_sql.split('|') {
        let (name, _) = field.split_once(':').unwrap_or_default();
        let said = format!(
            "p.yaml:10: rule \"r\" can never match: `{name}` is about SQL, and its `requests` are about the Kubernetes API → remove `{name}`, or write two rules in two policies"
        );
        beside_a_database(
            &format!(
                "  targets: [cluster]\n  rules:\n  - name: r\n    requests: [{{verbs: [get]}}]\n    {field}\n    action: Deny"
            ),
            &[&said],
        )?;
    }
    Ok(())
}

#[test]
fn a_policy_is_about_sql_or_about_requests() -> Result<()> {
    let mend = "and rule \"a\" with `requests`, which is about the Kubernetes API → write two policies, one for each";
    let said =
        |line: u64, what: &str| format!("p.yaml:{line}: the policy has {what}, which is about SQL, {mend}");
    let spec = "  targets: [\"*\"]\n  rules:\n  - name: a\n    requests: [{verbs: [get]}]\n    action: Deny\n  - name: b\n    effects: [read]\n    action: Deny\n  masks:\n  - columns: [a.b.c]\n    with: Redact\n  detect:\n  - find: [Email]\n    with: Redact\n  connectAs: {database: d}";
    let expected = [
        said(11, "a rule with `effects`"),
        said(15, "`masks` of columns"),
        said(20, "`connectAs`"),
        "p.yaml:18: it isn't said whose fields these are → list `resources`: [secrets], and their `groups`: [\"\"] where several groups have them".to_owned(),
    ];
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    beside_a_database(spec, &expected)
}

#[test]
fn masks_of_fields_that_hide_nothing_are_refused() -> Result<()> {
    let path = "write names with dots between them, * for any part of a name, ** for any depth, [\"…\"] around a name with dots";
    let whose = "it isn't said whose fields these are → list `resources`: [secrets], and their `groups`: [\"\"] where several groups have them";
    let fields = "the mask names no field, so that it hides nothing → list `fields` by paths: data.*, spec.containers.env.value";
    let kind = "is a kind and no resource → write the plural in lower case, as in `kubectl api-resources`";
    for (mask, problem) in [
        ("{resources: [secrets], fields: [data], with: Redact}", None),
        ("{resources: [\"*\"], groups: [\"\"], names: [a], namespaces: [b], fields: [\"**.env[*].value\"], with: {KeepLast: 4}}", None),
        ("{fields: [data], with: Redact}", Some(whose.to_owned())),
        ("{resources: [], fields: [data], with: Redact}", Some(whose.to_owned())),
        ("{resources: [secrets], with: Redact}", Some(fields.to_owned())),
        ("{resources: [secrets], fields: [], with: Redact}", Some(fields.to_owned())),
        ("{resources: [Secret], fields: [data], with: Redact}", Some(format!("\"Secret\" {kind}"))),
        ("{resources: [secret], fields: [data], with: Redact}", Some(format!("\"secret\" {kind}"))),
        (
            "{resources: [pods/status], fields: [data], with: Redact}",
            Some("\"pods/status\" is a subresource → write the resource: what is masked in it is masked in its subresources".to_owned()),
        ),
        (
            "{resources: [secrets], groups: [v1], fields: [data], with: Redact}",
            Some("\"v1\" is no API group → write a group without its version; the core's is \"\"".to_owned()),
        ),
        (
            "{resources: [secrets], names: [], fields: [data], with: Redact}",
            Some("`names` is empty or holds an empty name, so that nothing is masked → leave `names` out to mean any, or say which you mean".to_owned()),
        ),
        (
            "{resources: [secrets], fields: [data], with: \"Null\"}",
            Some("Null takes the field away, and a client that writes the object back would remove it → write Redact, KeepLast or Hash".to_owned()),
        ),
        (
            "{resources: [pods], fields: [\"spec.containers[0].image\"], with: Redact}",
            Some(format!("\"spec.containers[0].image\" names an element of a list by its place, which anybody can change → {path}")),
        ),
        (
            "{resources: [pods], fields: [\"**\"], with: Redact}",
            Some(format!("\"**\" masks everything, what objects are called by included → {path}")),
        ),
        (
            "{resources: [pods], fields: [metadata.labels.app], with: Redact}",
            Some(format!("\"metadata.labels.app\" names what says which object it is, which is never masked → {path}")),
        ),
        (
            "{resources: [pods], fields: [spec, spec], with: Redact}",
            Some("\"spec\" is masked twice → remove one of them".to_owned()),
        ),
    ] {
        let problem = problem.map(|problem| format!("p.yaml:8: {problem}"));
        let expected: Vec<&str> = problem.iter().map(String::as_str).collect();
        beside_a_database(&format!("  targets: [cluster]\n  masks:\n  - {mask}"), &expected)?;
    }
    let many: Vec<String> = (0..130).map(|at| format!("a.k{at}")).collect();
    let spec = format!(
        "  targets: [cluster]\n  masks:\n  - {{resources: [pods], fields: [{}], with: Redact}}",
        many.join(", ")
    );
    beside_a_database(
        &spec,
        &[
            "p.yaml:4: all masks of fields have 390 steps together, and 256 can be followed → join masks of several names by `*`, or by paths that end earlier",
        ],
    )
}

#[test]
fn a_policy_is_at_targets_that_speak_what_it_is_about() -> Result<()> {
    const REQUESTS: &str = "  rules:\n  - name: r\n    requests: [{verbs: [get]}]\n    action: Deny";
    const EFFECTS: &str = "  rules:\n  - name: r\n    effects: [read]\n    action: Deny";
    const MASKS: &str = "  masks:\n  - columns: [a.b.c]\n    with: Redact";
    let about_sql = "p.yaml:6: the policy is about SQL, and target \"cluster\" doesn't speak that, so that it never applies there → write rules with `requests` for it, in a policy of their own";
    for (targets, what, expected) in [
        ("[cluster]", REQUESTS, None),
        ("[db]", EFFECTS, None),
        ("[\"*\"]", REQUESTS, None),
        ("[\"*\"]", EFFECTS, None),
        ("[\"*\"]", MASKS, None),
        ("[cluster, db]", EFFECTS, Some(about_sql)),
        ("[cluster]", MASKS, Some(about_sql)),
        (
            "[db]",
            REQUESTS,
            Some(
                "p.yaml:6: the policy is about the Kubernetes API, and target \"db\" doesn't speak that, so that it never applies there → write rules with `effects` for it, in a policy of their own",
            ),
        ),
    ] {
        let expected: Vec<&str> = expected.into_iter().collect();
        beside_a_database(&format!("  targets: {targets}\n{what}"), &expected)?;
    }
    let everywhere = policy(&format!("  targets: [\"*\"]\n{REQUESTS}"));
    expect(
        &[("d.yaml", DATABASE), ("p.yaml", &everywhere)],
        &[
            "p.yaml:6: the policy is about the Kubernetes API, and no target speaks that, so that it never applies there → write rules with `effects` for it, in a policy of their own",
        ],
    )
}

#[test]
fn a_policy_for_every_database_asks_nothing_of_a_cluster() -> Result<()> {
    let database = DATABASE.replace(
        "5432\"]\n",
        "5432\"]\n  credential: {user: u, passwordFile: /p}\n",
    );
    let spec = "  targets: [\"*\"]\n  connectAs: {user: u}\n  masks:\n  - columns: [a.b.c]\n    with: Redact";
    let set = [
        ("t.yaml", TARGET),
        ("d.yaml", &database),
        ("p.yaml", &policy(spec)),
    ];
    expect(&set, &[])?;
    let by_names: Vec<String> = PolicySet::from_sources(&[
        ("t.yaml", TARGET),
        ("d.yaml", DATABASE),
        (
            "p.yaml",
            &policy("  targets: [\"*\"]\n  masks:\n  - columns: [a.b.c]\n    with: Redact"),
        ),
    ])?
    .masked_by_names()
    .map(|target| target.name.to_string())
    .collect();
    ensure!(by_names == ["db"], "{by_names:?}");
    Ok(())
}

#[test]
fn rules_that_never_take_effect_are_refused() -> Result<()> {
    let two = |stricter: &str, rule: &str| {
        policy(&format!(
            "  targets: [cluster]\n  rules:\n  - name: no\n    requests: [{stricter}]\n    action: Deny\n  - name: yes\n    requests: [{rule}]\n    action: Allow"
        ))
    };
    let hidden = "p.yaml:11: rule \"yes\" can never take effect: rule \"no\" is stricter and matches all that it matches → narrow the stricter rule, or remove this one";
    for (stricter, rule, is_hidden) in [
        ("{verbs: [\"*\"]}", "{verbs: [get]}", true),
        (
            "{resources: [\"*\"]}",
            "{verbs: [get], resources: [pods], namespaces: [a]}",
            true,
        ),
        (
            "{resources: [secrets]}",
            "{resources: [secrets], names: [db]}",
            true,
        ),
        (
            "{resources: [secrets], names: [\"d*\"]}",
            "{resources: [secrets], names: [db]}",
            true,
        ),
        (
            "{resources: [secrets], names: [db]}",
            "{resources: [secrets]}",
            false,
        ),
        ("{resources: [secrets]}", "{resources: [pods, secrets]}", false),
        ("{resources: [\"pods/*\"]}", "{resources: [pods/exec]}", true),
        ("{resources: [\"pods/*\"]}", "{resources: [pods]}", false),
        ("{resources: [\"*\"]}", "{paths: [/version]}", false),
        ("{paths: [\"/h*\"]}", "{paths: [/healthz]}", true),
        (
            "{resources: [pods/exec], tty: true}",
            "{resources: [pods/exec]}",
            false,
        ),
        ("{resources: [pods], dryRun: true}", "{resources: [pods]}", false),
    ] {
        let expected: Vec<&str> = is_hidden.then_some(hidden).into_iter().collect();
        expect(&[("t.yaml", TARGET), ("p.yaml", &two(stricter, rule))], &expected)?;
    }
    let twice = policy(
        "  targets: [cluster]\n  rules:\n  - name: r\n    requests: [{verbs: [get]}]\n    action: Deny\n  - name: r\n    requests: [{verbs: [list]}]\n    action: Deny",
    );
    expect(
        &[("t.yaml", TARGET), ("p.yaml", &twice)],
        &["p.yaml:11: rule \"r\" is defined twice → give one another name"],
    )
}
