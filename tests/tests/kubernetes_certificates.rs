//! The agent's serving certificates, signed by a real cluster: asked for, approved, checked, renewed.

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::Certified;

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
