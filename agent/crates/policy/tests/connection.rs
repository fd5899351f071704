//! TLS, credentials and mappings: what can't work or wouldn't protect is refused with its line.

use anyhow::{Result, ensure};
use bailiff_policy::{ClientTlsMode, PolicySet, Proof, ServerIdentity, SigningRequest, UpstreamTlsMode};

/// A target with further lines of its spec, from line 8 on, and a policy with further lines, from line 7 on.
fn load(target: &str, policy: &str) -> Result<PolicySet, bailiff_policy::LoadErrors> {
    let target = format!(
        "apiVersion: bailiff.dev/v1alpha1\nkind: Target\nmetadata:\n  name: db\nspec:\n  protocol: postgres\n  endpoints: [\"10.0.0.5:5432\"]\n{target}"
    );
    let policy = format!(
        "apiVersion: bailiff.dev/v1alpha1\nkind: Policy\nmetadata:\n  name: p\nspec:\n  targets: [db]\n{policy}  rules:\n  - {{name: r, effects: [read], action: Allow}}\n"
    );
    PolicySet::from_sources(&[("t.yaml", &target), ("p.yaml", &policy)])
}

fn refused(target: &str, policy: &str, expected: &str) -> Result<()> {
    let Err(errors) = load(target, policy) else {
        anyhow::bail!("{target}{policy} is taken");
    };
    let told = errors.to_string();
    ensure!(told.contains(expected), "expected {expected:?}, found {told}");
    Ok(())
}

const VERIFIED: &str = "  tls: { upstream: { mode: Verify, caFile: /ca.pem } }\n";

#[test]
fn what_works_is_taken() -> Result<()> {
    let set = load(
        "  tls:\n    client: { mode: Require, caCertificateFile: /ca.pem, caKeyFile: /ca.key, names: [db.example, \"*.db.example\", 10.0.0.5] }\n    upstream: { mode: Verify, caFile: /db.pem, serverName: db.internal, direct: true }\n  credential: { certificateFile: /a.pem, keyFile: /a.key }\n",
        "  connectAs: { user: app, database: shop }\n",
    )?;
    let target = set.targets().first().expect("a target");
    ensure!(target.tls_client.mode == ClientTlsMode::Require);
    ensure!(
        matches!(&target.tls_client.identity, Some(ServerIdentity::Authority { names, .. }) if names.len() == 3)
    );
    ensure!(target.tls_upstream.mode == UpstreamTlsMode::Verify && target.tls_upstream.direct);
    ensure!(
        set.proofs()
            .all(|proof| matches!(proof, Proof::Certificate { .. }))
            && set.proofs().count() == 1
    );
    Ok(())
}

#[test]
fn tls_that_cannot_be() -> Result<()> {
    for (target, expected) in [
        (
            "  tls: { client: { mode: Prefer } }\n",
            "t.yaml:8: clients can't be given TLS",
        ),
        (
            "  tls: { client: { mode: Prefer, certificateFile: /a, caKeyFile: /b } }\n",
            "exactly one certificate and key",
        ),
        (
            "  tls: { client: { mode: Disabled, certificateFile: /a, keyFile: /b } }\n",
            "no client ever sees one",
        ),
        (
            "  tls: { client: { mode: Prefer, certificateFile: a, keyFile: /b } }\n",
            "\"a\" is no absolute path",
        ),
        (
            "  tls: { client: { mode: Prefer, certificateFile: /a, keyFile: /b, names: [x] } }\n",
            "holds one that is made already",
        ),
        (
            "  tls: { client: { mode: Prefer, caCertificateFile: /a, caKeyFile: /b, names: [] } }\n",
            "`names` holds 0 names",
        ),
        (
            "  tls: { client: { mode: Prefer, caCertificateFile: /a, caKeyFile: /b, names: [\"a b\"] } }\n",
            "no name that a certificate",
        ),
        (
            "  tls: { upstream: { mode: Verify } }\n",
            "t.yaml:8: TLS towards the target is always verified",
        ),
        ("  tls: { upstream: { mode: Prefer } }\n", "no CA to verify it by"),
        (
            "  tls: { upstream: { mode: Disabled, caFile: /a } }\n",
            "`mode` is Disabled",
        ),
        (
            "  tls: { upstream: { mode: Prefer, caFile: /a, direct: true } }\n",
            "can't fall back",
        ),
        (
            "  tls: { upstream: { mode: Verify, caFile: /a, serverName: \"-x\" } }\n",
            "no name that a certificate",
        ),
        (
            "  tls: { upstream: { mode: Sometimes, caFile: /a } }\n",
            "t.yaml:8",
        ),
    ] {
        refused(target, "", expected)?;
    }
    Ok(())
}

#[test]
fn credentials_that_prove_nothing_or_too_much() -> Result<()> {
    for (target, expected) in [
        ("  credential: { user: app }\n", "the credential proves nothing"),
        (
            "  credential: { passwordFile: /a, keyFile: /b }\n",
            "either a password or a certificate",
        ),
        (
            "  credential: { user: \"\", passwordFile: /a }\n",
            "can be no user",
        ),
        (
            "  credential: { certificateFile: /a, keyFile: /b }\n",
            "there is none with this target",
        ),
        (
            "  tls: { upstream: { mode: Prefer, caFile: /a } }\n  credential: { passwordFile: /b }\n",
            "t.yaml:9: tls.upstream.mode: Prefer may be plain text",
        ),
    ] {
        refused(target, "", expected)?;
    }
    Ok(())
}

#[test]
fn mappings_that_nothing_proves() -> Result<()> {
    let owned = format!("{VERIFIED}  credential: {{ user: app, passwordFile: /b }}\n");
    for (target, policy, expected) in [
        ("", "  connectAs: {}\n", "p.yaml:7: `connectAs` maps nothing"),
        (
            "",
            "  connectAs: { user: app }\n",
            "nothing proves to target \"db\" that the agent is \"app\"",
        ),
        (
            owned.as_str(),
            "  connectAs: { user: boss }\n",
            "that the agent is \"boss\"",
        ),
        (
            "",
            "  connectAs: { database: shop, passwordFile: /a }\n",
            "says not whose",
        ),
        (
            "",
            "  connectAs: { user: app, certificateFile: /a, keyFile: /b }\n",
            "there is none with this target",
        ),
    ] {
        refused(target, policy, expected)?;
    }
    load(&owned, "  connectAs: { user: app }\n")?;
    load(VERIFIED, "  connectAs: { user: boss, passwordFile: /a }\n")?;
    load("", "  connectAs: { database: shop }\n")?;
    Ok(())
}

#[test]
fn masks_over_a_way_that_may_be_plain_text() -> Result<()> {
    let masks = "  masks:\n  - { columns: [a.b.c], with: Redact }\n";
    refused(
        "  tls: { upstream: { mode: Prefer, caFile: /a } }\n",
        masks,
        "p.yaml:8: target \"db\" has tls.upstream.mode: Prefer",
    )?;
    load(VERIFIED, masks)?;
    load("", masks)?;
    Ok(())
}

/// The API server as a target, with what its `tls.client` holds.
fn api(client: &str) -> Result<PolicySet, bailiff_policy::LoadErrors> {
    let target = format!(
        "apiVersion: bailiff.dev/v1alpha1\nkind: Target\nmetadata:\n  name: api\nspec:\n  protocol: kubernetes\n  endpoints: [\"10.96.0.1:443\", \"10.1.0.0/16:6443\", \"[fd00::1]:443\"]\n  tls:\n    client: {client}\n    upstream: {{ mode: Verify, caFile: /cluster.pem }}\n"
    );
    PolicySet::from_sources(&[("t.yaml", &target)])
}

fn requested(client: &str) -> Result<SigningRequest> {
    let set = api(client)?;
    match set.targets().first().map(|target| &target.tls_client.identity) {
        Some(Some(ServerIdentity::Requested(request))) => Ok(request.clone()),
        other => anyhow::bail!("{other:?}"),
    }
}

#[test]
fn a_certificate_that_the_cluster_is_asked_for() -> Result<()> {
    let usual = requested("{ mode: Require, csr: {} }")?;
    ensure!(usual.signer == "kubernetes.io/kubelet-serving" && usual.expiration_seconds == 86_400);
    ensure!(usual.ca == std::path::Path::new("/cluster.pem"));
    // What is diverted by a prefix may be anybody's.
    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "10.96.0.1",
        "fd00::1",
    ];
    ensure!(usual.names == names, "{:?}", usual.names);
    let own = requested(
        "{ mode: Require, names: [api.example, 10.0.0.1], csr: { signer: example.com/api, caFile: /pods.pem, expirationSeconds: 3600 } }",
    )?;
    ensure!(own.signer == "example.com/api" && own.expiration_seconds == 3600);
    ensure!(own.ca == std::path::Path::new("/pods.pem") && own.names == ["api.example", "10.0.0.1"]);
    Ok(())
}

#[test]
fn a_certificate_that_the_cluster_cannot_be_asked_for() -> Result<()> {
    for (client, expected) in [
        (
            "{ mode: Require, csr: {}, certificateFile: /a, keyFile: /b }",
            "exactly one certificate and key",
        ),
        (
            "{ mode: Require, csr: {}, caCertificateFile: /a, caKeyFile: /b }",
            "exactly one certificate and key",
        ),
        (
            "{ mode: Require, csr: {}, keyFile: /b }",
            "exactly one certificate and key",
        ),
        ("{ mode: Disabled, csr: {} }", "no client ever sees one"),
        (
            "{ mode: Require, csr: { signer: kubelet-serving } }",
            "is no signer's name",
        ),
        ("{ mode: Require, csr: { signer: a.b/ } }", "is no signer's name"),
        (
            "{ mode: Require, csr: { expirationSeconds: 599 } }",
            "t.yaml:9: `expirationSeconds` is 599",
        ),
        (
            "{ mode: Require, csr: { expirationSeconds: 31536000 } }",
            "`expirationSeconds` is 31536000",
        ),
        (
            "{ mode: Require, csr: { caFile: ca.pem } }",
            "\"ca.pem\" is no absolute path",
        ),
        (
            "{ mode: Require, csr: {}, names: [\"*.default.svc\"] }",
            "holds one with `*`",
        ),
        ("{ mode: Require, csr: { keyFile: /a } }", "unknown field"),
    ] {
        let Err(errors) = api(client) else {
            anyhow::bail!("{client} is taken")
        };
        let told = errors.to_string();
        ensure!(
            told.contains(expected),
            "{client}: expected {expected:?}, found {told}"
        );
    }
    refused(
        "  tls: { client: { mode: Require, csr: {} }, upstream: { mode: Verify, caFile: /ca.pem } }\n",
        "",
        "this target is a database",
    )
}
