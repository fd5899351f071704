//! The agent's serving certificates, signed by a real cluster: asked for, approved, checked, renewed.

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{Authority, Certified, Running};

/// Reads of pods.
const RULES: &str = r#"    - name: look
      requests: [{verbs: [get, list, watch], groups: [""], resources: [pods]}]
      action: Allow
"#;

/// Whether a certificate's subject, or any other text in it, has these words.
fn says(certificate: &[u8], words: &str) -> bool {
    certificate
        .windows(words.len())
        .any(|window| window == words.as_bytes())
}

const STATE: &str = "bailiff_serving_certificate_state";

#[test]
fn pods_are_shown_what_the_cluster_signed_once_somebody_approved_it() -> Result<()> {
    let Some(lab) = Certified::new("approved", RULES)? else {
        return Ok(());
    };
    let agent = lab.start("approved-1")?;
    // Nobody approves: the agent says so, and shows pods nothing.
    let waiting = lab.until_told(&agent, "neither approved nor denied")?;
    ensure!(waiting.starts_with("HTTP/1.1 503"), "{waiting}");
    let names = lab.requests("approved-1")?;
    let [request] = names.as_slice() else {
        anyhow::bail!("{names:?}")
    };
    let told = format!(
        "[-]certificate:api failed: CertificateSigningRequest {request} is neither approved nor denied"
    );
    ensure!(waiting.contains(&told), "{waiting}");
    ensure!(agent.metric(&format!("{STATE}{{state=\"unapproved\",target=\"api\"}}"))? == 1);
    ensure!(lab.shown(&agent, "kubernetes.default.svc")?.is_none());

    lab.cluster.kubectl(&["certificate", "approve", request])?;
    let ready = lab.until_told(&agent, "[+]certificate:api ok")?;
    ensure!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    let service = lab.cluster.service()?.ip().to_string();
    for name in ["kubernetes", "kubernetes.default.svc.cluster.local", &service] {
        let shown = lab
            .shown(&agent, name)?
            .with_context(|| format!("nothing for {name}"))?;
        ensure!(says(&shown, "system:node:bailiff:approved-1"), "for {name}");
    }
    ensure!(lab.shown(&agent, "another.default.svc")?.is_none());
    ensure!(agent.metric(&format!("{STATE}{{state=\"issued\",target=\"api\"}}"))? == 1);
    ensure!(agent.metric(&format!("{STATE}{{state=\"unapproved\",target=\"api\"}}"))? == 0);
    ensure!(
        agent.metric("bailiff_certificate_expiry_timestamp_seconds{role=\"client\",target=\"api\"}")? > 0
    );
    // Told once, however often it was looked.
    let log = agent.log();
    ensure!(log.matches("neither approved nor denied").count() == 1, "{log}");
    ensure!(lab.requests("approved-1")?.len() == 1);
    Ok(())
}

#[test]
fn the_approver_lets_clients_through_with_nobodys_help() -> Result<()> {
    let Some(lab) = Certified::new("helped", RULES)? else {
        return Ok(());
    };
    let approver = lab.approver(&[])?;
    let kubeconfig = lab.agent_of("helped-1")?;
    let kubeconfig = kubeconfig.to_str().context("a path that isn't UTF-8")?;
    let curl = lab.lab.curl(&["-f"], "/api/v1/namespaces/helped/pods")?;
    let curl: Vec<&str> = curl.iter().map(String::as_str).collect();
    let options = ["--kubeconfig", kubeconfig, "--pod", "agent"];
    let seen = lab.lab.enforced.run_with(&options, &curl)?.output()?;
    ensure!(
        seen.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&seen.stderr),
        approver.log()
    );
    ensure!(String::from_utf8_lossy(&seen.stdout).contains("\"kind\": \"PodList\""));
    let secrets = lab.lab.curl(&["-f"], "/api/v1/namespaces/helped/secrets")?;
    let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
    let refused = lab.lab.enforced.run_with(&options, &secrets)?.output()?;
    ensure!(
        String::from_utf8_lossy(&refused.stderr).contains("403"),
        "{refused:?}"
    );
    let names = lab.requests("helped-1")?;
    ensure!(names.len() == 2, "one for each agent that ran: {names:?}");
    for name in names {
        let request = lab.request(&name)?;
        ensure!(
            request
                .pointer("/spec/expirationSeconds")
                .and_then(serde_json::Value::as_u64)
                == Some(86_400)
        );
        let reason = request
            .pointer("/status/conditions/0/reason")
            .and_then(serde_json::Value::as_str);
        ensure!(reason == Some("BailiffAgent"), "{request}");
    }
    Ok(())
}

#[test]
fn what_keeps_a_certificate_from_being_had_is_told() -> Result<()> {
    let Some(lab) = Certified::new("kept", RULES)? else {
        return Ok(());
    };
    let state =
        |agent: &Running, state: &str| agent.metric(&format!("{STATE}{{state=\"{state}\",target=\"api\"}}"));
    let begin = |kubeconfig: &std::path::Path| -> Result<Running> {
        let kubeconfig = kubeconfig.to_str().context("a path that isn't UTF-8")?;
        lab.lab
            .enforced
            .start_with(&["--kubeconfig", kubeconfig, "--pod", "agent"])
    };
    let name = |node: &str| -> Result<String> {
        let names = lab.requests(node)?;
        names.into_iter().next().context("no request")
    };

    // Somebody says no, and why.
    let agent = lab.start("kept-denied")?;
    lab.until_told(&agent, "neither approved nor denied")?;
    lab.cluster
        .kubectl(&["certificate", "deny", &name("kept-denied")?])?;
    let told = lab.until_told(&agent, "was denied")?;
    ensure!(
        told.starts_with("HTTP/1.1 503") && told.contains("KubectlDeny"),
        "{told}"
    );
    ensure!(state(&agent, "denied")? == 1 && lab.shown(&agent, "kubernetes")?.is_none());
    // Not asked again at once.
    ensure!(lab.requests("kept-denied")?.len() == 1);
    agent.stop()?;

    // A token that is bound to nothing says no node.
    let token = lab.cluster.token("kept", "bailiff-agent", None)?;
    let agent = begin(&lab.kubeconfig("kept-unbound", &token)?)?;
    lab.until_told(&agent, "names no node")?;
    ensure!(state(&agent, "no_node")? == 1);
    agent.stop()?;

    // A token that isn't one, and none of the rights.
    let agent = begin(&lab.kubeconfig("kept-unknown", "nobodys-token-canary")?)?;
    let told = lab.until_told(&agent, "the API server says 401")?;
    ensure!(
        state(&agent, "unreachable")? == 1 && !told.contains("canary"),
        "{told}"
    );
    let (_, log) = agent.stop()?;
    ensure!(!log.contains("canary"), "{log}");

    // It is signed, but pods wouldn't trust it.
    let stranger = Authority::new("another CA")?;
    lab.asks(&format!("{{ caFile: {} }}", stranger.certificate().display()))?;
    let agent = lab.start("kept-untrusted")?;
    lab.until_told(&agent, "neither approved nor denied")?;
    lab.cluster
        .kubectl(&["certificate", "approve", &name("kept-untrusted")?])?;
    let told = lab.until_told(&agent, "pods would refuse it")?;
    ensure!(told.starts_with("HTTP/1.1 503"), "{told}");
    ensure!(
        told.contains(&stranger.certificate().display().to_string()),
        "{told}"
    );
    ensure!(state(&agent, "untrusted")? == 1 && lab.shown(&agent, "kubernetes")?.is_none());
    // The definition is mended while the agent runs.
    lab.asks("{}")?;
    agent.wait_for("another request", || {
        Ok(lab.requests("kept-untrusted")?.len() == 2)
    })?;
    for name in lab.requests("kept-untrusted")? {
        lab.cluster.kubectl(&["certificate", "approve", &name])?;
    }
    lab.until_told(&agent, "[+]certificate:api ok")?;
    ensure!(lab.shown(&agent, "kubernetes")?.is_some());
    agent.stop()?;

    // A signer that nobody serves never signs.
    lab.asks("{ signer: example.com/nobody }")?;
    let agent = lab.start("kept-unsigned")?;
    lab.until_told(&agent, "neither approved nor denied")?;
    lab.cluster
        .kubectl(&["certificate", "approve", &name("kept-unsigned")?])?;
    lab.until_told(&agent, "the signer example.com/nobody hasn't signed it")?;
    ensure!(state(&agent, "unsigned")? == 1);
    lab.cluster.kubectl(&["delete", "csr", &name("kept-unsigned")?])?;
    lab.until_told(&agent, "was deleted before it was signed")?;
    ensure!(state(&agent, "deleted")? == 1);
    Ok(())
}

#[test]
fn a_ca_that_pods_dont_trust_is_told_loudly_until_it_is_gone() -> Result<()> {
    let Some(lab) = Certified::new("other-ca", RULES)? else {
        return Ok(());
    };
    let _approver = lab.approver(&[])?;
    // The right one, so that what is signed is taken, and another that no pod has.
    let key = rcgen::KeyPair::generate()?;
    let other = rcgen::CertificateParams::new(Vec::new())?
        .self_signed(&key)?
        .pem();
    let right = std::fs::read_to_string(lab.cluster.ca()?)?;
    let file = lab.lab.path("pod-ca.crt");
    std::fs::write(&file, right.clone() + &other)?;
    lab.asks(&format!("{{ caFile: {} }}", file.display()))?;
    let agent = lab.start("other-ca-1")?;
    let expected = "1 of 2 CA certificates in";
    let told = lab.until_told(&agent, expected)?;
    ensure!(
        told.starts_with("HTTP/1.1 503") && told.contains("[-]certificate:api failed"),
        "{told}"
    );
    let state = |state: &str| {
        agent.metric(&format!(
            "bailiff_pods_ca_state{{state=\"{state}\",target=\"api\"}}"
        ))
    };
    ensure!(state("other")? == 1 && state("same")? == 0);
    let log = agent.log();
    ensure!(log.matches("pods trust another CA").count() == 1, "{log}");
    std::fs::write(&file, right)?;
    let told = lab.until_told(&agent, "[+]certificate:api ok")?;
    ensure!(told.starts_with("HTTP/1.1 200"), "{told}");
    ensure!(state("other")? == 0 && state("same")? == 1);
    Ok(())
}
