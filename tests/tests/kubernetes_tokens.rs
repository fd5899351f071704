//! Tokens of issuers that aren't configured: the API server is asked whose they are.

use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::Certified;
use serde_json::Value;

const RULES: &str = r#"    - name: own
      requests: [{verbs: [get, list], groups: [""], resources: [pods], tokens: [Bound]}]
      action: Allow
    - name: stolen
      requests: [{tokens: [Stolen]}]
      action: Deny
      message: this token was made for another pod
"#;

/// An issuer that made none of the cluster's tokens, and the API server asked about them.
fn reviewed(namespace: &str) -> Result<Option<Certified>> {
    let Some(lab) = Certified::new(namespace, RULES)? else {
        return Ok(None);
    };
    lab.target(
        "    issuer:",
        "    tokenReview: true\n    issuer: https://elsewhere.example",
    )?;
    Ok(Some(lab))
}

fn pods(lab: &Certified, kubeconfig: &std::path::Path, pod: &str, namespace: &str) -> Result<Output> {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let curl = lab.lab.curl(&["-w", "%{http_code} "], &path)?;
    // Several connections, one after the other.
    let script = "for i in 1 2 3; do \"$@\"; done";
    let curl: Vec<&str> = ["sh", "-c", script, "sh"]
        .into_iter()
        .chain(curl.iter().map(String::as_str))
        .collect();
    let kubeconfig = kubeconfig.to_str().context("a path that isn't UTF-8")?;
    let options = ["--kubeconfig", kubeconfig, "--pod", pod];
    Ok(lab.lab.enforced.run_with(&options, &curl)?.output()?)
}

/// How often the agents' account asked about a token.
fn reviews(lab: &Certified, namespace: &str) -> Result<usize> {
    let user = format!("system:serviceaccount:{namespace}:bailiff-agent");
    let asked = lab.cluster.audit()?.into_iter().filter(|event| {
        let text = |path: &str| event.pointer(path).and_then(Value::as_str);
        text("/user/username") == Some(&user) && text("/objectRef/resource") == Some("tokenreviews")
    });
    Ok(asked.count())
}

#[test]
fn the_api_server_says_whose_a_token_is_and_is_asked_once() -> Result<()> {
    let Some(lab) = reviewed("reviewed")? else {
        return Ok(());
    };
    let _approver = lab.approver(&[])?;
    let agent = lab.agent_of("reviewed-1")?;
    let own = pods(&lab, &agent, "agent", "reviewed")?;
    let said = String::from_utf8_lossy(&own.stdout).into_owned();
    ensure!(
        said.matches("200 ").count() == 3,
        "{said}\n{}",
        String::from_utf8_lossy(&own.stderr)
    );
    ensure!(reviews(&lab, "reviewed")? == 1);
    let events = lab.lab.audited()?;
    let user = |event: &Value| {
        event
            .pointer("/user/username")
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    ensure!(
        !events.is_empty()
            && events
                .iter()
                .all(|event| user(event).as_deref() == Some("system:serviceaccount:reviewed:agent")),
        "{events:#?}"
    );

    // The same token, shown by another pod.
    let stolen = pods(&lab, &agent, "other", "reviewed")?;
    let said = String::from_utf8_lossy(&stolen.stdout).into_owned();
    ensure!(
        said.matches("this token was made for another pod").count() == 3,
        "{said}"
    );

    // One that the API server doesn't know may be anybody's.
    let known = std::fs::read_to_string(lab.lab.path("agent.token"))?;
    std::fs::write(lab.lab.path("agent.token"), "nobodys-token-canary")?;
    let before = reviews(&lab, "reviewed")?;
    let unknown = pods(&lab, &agent, "agent", "reviewed")?;
    let said = String::from_utf8_lossy(&unknown.stdout).into_owned();
    ensure!(
        said.matches("403 ").count() == 3 && !said.contains("PodList"),
        "{said}"
    );
    ensure!(
        reviews(&lab, "reviewed")? == before + 1,
        "what isn't known is kept, too"
    );
    let log = String::from_utf8_lossy(&unknown.stderr).into_owned();
    ensure!(!log.contains("canary"), "{log}");
    let kept = format!("{:?}", lab.lab.audited()?);
    ensure!(!kept.contains("canary") && !kept.contains(&known));
    Ok(())
}

#[test]
fn an_agent_that_may_not_ask_takes_tokens_as_unverified_and_says_so_once() -> Result<()> {
    let Some(lab) = reviewed("unreviewed")? else {
        return Ok(());
    };
    let _approver = lab.approver(&[])?;
    let agent = lab.agent_of("unreviewed-1")?;
    // All other rights stay.
    lab.cluster.kubectl(&[
        "create",
        "clusterrole",
        "unreviewed",
        "--verb=create,get",
        "--resource=certificatesigningrequests.certificates.k8s.io",
    ])?;
    lab.cluster
        .kubectl(&["delete", "clusterrolebinding", "bailiff-agent-unreviewed"])?;
    lab.cluster.kubectl(&[
        "create",
        "clusterrolebinding",
        "unreviewed",
        "--clusterrole=unreviewed",
        "--serviceaccount=unreviewed:bailiff-agent",
    ])?;
    let refused = pods(&lab, &agent, "agent", "unreviewed")?;
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    ensure!(
        said.matches("403 ").count() == 3 && !said.contains("PodList"),
        "{said}"
    );
    let log = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        log.matches("the API server can't be asked about tokens").count() == 1,
        "{log}"
    );
    ensure!(log.contains("the API server says 403"), "{log}");
    Ok(())
}
