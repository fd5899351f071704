//! Certificates of a signer that gives them half a minute: renewed under an open connection, and ended where nobody approves.

use std::io::{Read as _, Write as _};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{Certified, Cluster, ClusterOptions, Encrypted, can_be_root};

const RULES: &str = r#"    - name: look
      requests: [{verbs: [get, list, watch], groups: [""], resources: [pods]}]
      action: Allow
"#;

/// Reads on until something was said.
fn until_said(stream: &mut Encrypted, what: &str) -> Result<()> {
    let (mut said, mut buffer) = (String::new(), [0; 4096]);
    while !said.contains(what) {
        let read = stream
            .read(&mut buffer)
            .with_context(|| format!("waiting for {what:?} after {said:?}"))?;
        ensure!(read > 0, "closed before {what:?}: {said}");
        said.push_str(&String::from_utf8_lossy(buffer.get(..read).context("too much")?));
    }
    Ok(())
}

#[test]
fn a_certificate_is_renewed_under_an_open_watch_and_ends_where_nobody_approves() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let cluster = Cluster::start(&ClusterOptions {
        // A certificate's time is the lesser of what is asked for, 600 s or more, and this.
        controllers_flags: vec!["--cluster-signing-duration=30s".to_owned()],
        ..ClusterOptions::default()
    })?;
    // It ends with this process, as a shared one does.
    let lab = Certified::on(Box::leak(Box::new(cluster)), "renewed", RULES)?;
    let approver = lab.approver(&[])?;
    let agent = lab.start("renewed-1")?;
    lab.until_told(&agent, "[+]certificate:api ok")?;
    let name = "kubernetes.default.svc";
    let first = lab.shown(&agent, name)?;
    ensure!(first.is_some());
    let expiry = "bailiff_certificate_expiry_timestamp_seconds{role=\"client\",target=\"api\"}";
    let ends = agent.metric(expiry)?;

    let mut watch = lab.connect(&agent, name)?.context("no connection")?;
    write!(
        watch,
        "GET /api/v1/namespaces/renewed/pods?watch=1 HTTP/1.1\r\nHost: {name}\r\nAuthorization: Bearer {}\r\n\r\n",
        lab.lab.token("agent")?
    )?;
    until_said(&mut watch, "\"name\":\"other\"")?;
    agent.wait_for("another certificate", || Ok(lab.shown(&agent, name)? != first))?;
    ensure!(lab.shown(&agent, name)?.is_some(), "none in between");
    ensure!(agent.metric(expiry)? > ends);
    ensure!(lab.requests("renewed-1")?.len() == 2, "one for each");
    let label = |value: &str| {
        lab.cluster
            .kubectl(&["label", "pod", "-n", "renewed", "other", "--overwrite", value])
    };
    label("seen=renewed")?;
    until_said(&mut watch, "\"seen\":\"renewed\"")?;

    // The approver is gone: told in time, and what there is holds until its end.
    ensure!(approver.stop()?.success());
    let warned = lab.until_told(&agent, "[!]certificate:api: it ends in")?;
    ensure!(
        warned.starts_with("HTTP/1.1 200") && warned.contains("[+]certificate:api ok"),
        "{warned}"
    );
    ensure!(warned.contains("neither approved nor denied"), "{warned}");
    ensure!(lab.shown(&agent, name)?.is_some());
    let ended = lab.until_told(&agent, "[-]certificate:api failed: it ended")?;
    ensure!(ended.starts_with("HTTP/1.1 503"), "{ended}");
    ensure!(
        lab.shown(&agent, name)?.is_none(),
        "an ended certificate is shown"
    );
    label("seen=ended")?;
    until_said(&mut watch, "\"seen\":\"ended\"")?;

    // It comes back, and the request that waited is the one that it approves.
    let requests = lab.requests("renewed-1")?;
    let _approver = lab.approver(&[])?;
    let ready = lab.until_told(&agent, "[+]certificate:api ok")?;
    ensure!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    ensure!(lab.shown(&agent, name)?.is_some());
    ensure!(lab.requests("renewed-1")? == requests);
    Ok(())
}
