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
            "t.yaml:4: clients of the Kubernetes API begin with TLS, and there is no certificate to show them → give tls.client with mode: Require, and caCertificateFile and caKeyFile, or certificateFile and keyFile",
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
    Ok(())
}
