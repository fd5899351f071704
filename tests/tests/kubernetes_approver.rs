//! The approver, on a real cluster: it approves what an agent needs, and says of everything else why not.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{Approver, Certified};
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P384_SHA384,
    PKCS_ED25519, SanType,
};
use serde_json::{Value, json};

const RULES: &str = r#"    - name: look
      requests: [{verbs: [get, list, watch], groups: [""], resources: [pods]}]
      action: Allow
"#;

const NODE: &str = "approver-1";

/// A request as an agent of the node would make it, with one thing changed.
struct Asked {
    params: CertificateParams,
    key: KeyPair,
    spec: Value,
}

impl Asked {
    fn good() -> Result<Self> {
        let mut params = CertificateParams::new(vec!["kubernetes.default.svc".to_owned()])?;
        params.distinguished_name = subject("system:nodes", &format!("system:node:bailiff:{NODE}"));
        Ok(Self {
            params,
            key: KeyPair::generate()?,
            spec: json!({
                "signerName": "kubernetes.io/kubelet-serving",
                "expirationSeconds": 3600,
                "usages": ["digital signature", "server auth"],
            }),
        })
    }

    fn names(mut self, names: &[SanType]) -> Self {
        self.params.subject_alt_names = names.to_vec();
        self
    }

    fn subject(mut self, organisation: &str, name: &str) -> Self {
        self.params.distinguished_name = subject(organisation, name);
        self
    }

    fn spec(mut self, field: &str, value: Value) -> Self {
        if let Some(spec) = self.spec.as_object_mut() {
            spec.insert(field.to_owned(), value);
        }
        self
    }

    fn key(mut self, key: KeyPair) -> Self {
        self.key = key;
        self
    }

    fn pem(&self) -> Result<String> {
        Ok(self.params.serialize_request(&self.key)?.pem()?)
    }

    /// Creates it with a kubeconfig or further options of kubectl.
    fn create(&self, lab: &Certified, name: &str, kubectl: &[&str]) -> Result<()> {
        self.create_as(lab, name, kubectl, &self.pem()?)
    }

    fn create_as(&self, lab: &Certified, name: &str, kubectl: &[&str], pem: &str) -> Result<()> {
        // Bytes are written in base64 there.
        let request = lab.lab.path(&format!("{name}.pem"));
        std::fs::write(&request, pem)?;
        let encoded = bailiff_tests::check(std::process::Command::new("base64").arg("-w0").arg(&request))?;
        let mut spec = self.spec.clone();
        let encoded = Value::String(String::from_utf8(encoded.stdout)?);
        spec.as_object_mut()
            .context("no spec")?
            .insert("request".to_owned(), encoded);
        let object = json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"name": name}, "spec": spec,
        });
        let file = lab.lab.path(&format!("{name}.json"));
        std::fs::write(&file, object.to_string())?;
        let file = file.to_str().context("a path that isn't UTF-8")?;
        let args = [kubectl, &["create", "-f", file]].concat();
        lab.cluster.kubectl(&args)?;
        Ok(())
    }
}

fn subject(organisation: &str, name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, organisation);
    subject.push(DnType::CommonName, name);
    subject
}

fn dns(name: &str) -> Result<SanType> {
    Ok(SanType::DnsName(Ia5String::try_from(name)?))
}

fn by(kubeconfig: &Path) -> Result<[String; 1]> {
    let kubeconfig = kubeconfig.to_str().context("a path that isn't UTF-8")?;
    Ok([format!("--kubeconfig={kubeconfig}")])
}

/// What stands in a request's conditions: type, reason, message.
fn condition(lab: &Certified, name: &str) -> Result<Option<(String, String, String)>> {
    let request = lab.request(name)?;
    let Some(found) = request.pointer("/status/conditions/0") else {
        return Ok(None);
    };
    let text = |field: &str| {
        found
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    Ok(Some((text("type"), text("reason"), text("message"))))
}

fn counted(approver: &Approver, decision: &str, reason: &str) -> Result<bool> {
    let line = format!("bailiff_approver_requests_total{{decision=\"{decision}\",reason=\"{reason}\"}} ");
    Ok(approver.get("/metrics")?.contains(&line))
}

/// Requests by the agents' account that are something else than an agent needs, each with the word and some of the words for it.
fn wrong() -> Result<Vec<(&'static str, Asked, &'static str, &'static str)>> {
    let good = Asked::good;
    let name = || format!("system:node:bailiff:{NODE}");
    let mut unit = good()?;
    unit.params
        .distinguished_name
        .push(DnType::OrganizationalUnitName, "more");
    // basicConstraints, CA:TRUE.
    let mut authority = good()?;
    authority.params.custom_extensions = vec![CustomExtension::from_oid_content(
        &[2, 5, 29, 19],
        vec![0x30, 3, 1, 1, 0xff],
    )];
    Ok(vec![
        (
            "another-name",
            good()?.names(&[dns("shop.default.svc")?]),
            "Names",
            "shop.default.svc",
        ),
        (
            "another-beside",
            good()?.names(&[dns("kubernetes")?, dns("kubernetes.evil")?]),
            "Names",
            "kubernetes.evil",
        ),
        (
            "wildcard",
            good()?.names(&[dns("*.default.svc")?]),
            "Names",
            "*.default.svc",
        ),
        (
            "another-address",
            good()?.names(&[SanType::IpAddress("192.0.2.7".parse()?)]),
            "Names",
            "192.0.2.7",
        ),
        (
            "mapped-address",
            good()?.names(&[SanType::IpAddress("::ffff:192.0.2.7".parse()?)]),
            "Names",
            "::ffff:192.0.2.7",
        ),
        (
            "mail",
            good()?.names(&[SanType::Rfc822Name(Ia5String::try_from("root@kubernetes")?)]),
            "Names",
            "of another kind",
        ),
        (
            "uri",
            good()?.names(&[
                dns("kubernetes")?,
                SanType::URI(Ia5String::try_from("spiffe://cluster/root")?),
            ]),
            "Names",
            "of another kind",
        ),
        ("no-name", good()?.names(&[]), "Extensions", "other attributes"),
        (
            "another-node",
            good()?.subject("system:nodes", "system:node:bailiff:approver-2"),
            "Subject",
            "CN=system:node:bailiff:approver-2",
        ),
        (
            "a-kubelet",
            good()?.subject("system:nodes", &format!("system:node:{NODE}")),
            "Subject",
            "of the agent on node approver-1 it is",
        ),
        (
            "masters",
            good()?.subject("system:masters", &name()),
            "Subject",
            "O=system:masters",
        ),
        ("unit", unit, "Subject", "OU=more"),
        ("authority", authority, "Extensions", "2 extensions"),
        (
            "client",
            good()?.spec(
                "usages",
                json!(["digital signature", "server auth", "client auth"]),
            ),
            "Usages",
            "client auth",
        ),
        (
            "signs",
            good()?.spec("usages", json!(["cert sign", "server auth"])),
            "Usages",
            "cert sign",
        ),
        (
            "no-server",
            good()?.spec("usages", json!(["digital signature"])),
            "Usages",
            "isn't for a server",
        ),
        (
            "forever",
            good()?.spec("expirationSeconds", Value::Null),
            "Lifetime",
            "doesn't say expirationSeconds",
        ),
        (
            "a-month",
            good()?.spec("expirationSeconds", json!(2_592_000)),
            "Lifetime",
            "86400 are the most",
        ),
        (
            "another-curve",
            good()?.key(KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?),
            "Key",
            "P-256",
        ),
        (
            "another-key",
            good()?.key(KeyPair::generate_for(&PKCS_ED25519)?),
            "Key",
            "P-256",
        ),
    ])
}

#[test]
fn what_is_not_an_agents_is_denied_or_left_alone_and_told_why() -> Result<()> {
    let Some(lab) = Certified::new("judged", RULES)? else {
        return Ok(());
    };
    let approver = lab.approver(&[])?;
    let agent = by(&lab.agent_of(NODE)?)?;
    let agent: Vec<&str> = agent.iter().map(String::as_str).collect();
    let wrong = wrong()?;
    for (name, asked, ..) in &wrong {
        asked
            .create(&lab, &format!("judged-{name}"), &agent)
            .with_context(|| format!("{name} can't be made"))?;
    }
    // Several blocks, of which the signer would read the first.
    let good = Asked::good()?;
    good.create_as(
        &lab,
        "judged-blocks",
        &agent,
        &(good.pem()? + &wrong_pem(&wrong)?),
    )?;
    // A token that is bound to nothing.
    let unbound: PathBuf = lab.kubeconfig("unbound", &lab.cluster.token("judged", "bailiff-agent", None)?)?;
    let unbound = by(&unbound)?;
    Asked::good()?.create(&lab, "judged-unbound", &[&unbound[0]])?;

    // Those of others, and for others. Somebody else with the agents' rights, a kubelet, the agent itself at another signer.
    lab.cluster
        .kubectl(&["create", "serviceaccount", "-n", "judged", "somebody"])?;
    lab.cluster.kubectl(&[
        "create",
        "clusterrolebinding",
        "judged-somebody",
        "--clusterrole=bailiff-agent",
        "--serviceaccount=judged:somebody",
    ])?;
    let somebody = lab.kubeconfig("somebody", &lab.cluster.token("judged", "somebody", None)?)?;
    let somebody = by(&somebody)?;
    Asked::good()?.create(&lab, "judged-somebody", &[&somebody[0]])?;
    Asked::good()?
        .subject("system:nodes", "system:node:worker")
        .names(&[dns("worker")?])
        .create(
            &lab,
            "judged-kubelet",
            &["--as=system:node:worker", "--as-group=system:nodes"],
        )?;
    Asked::good()?
        .subject("team", "somebody")
        .spec("signerName", json!("kubernetes.io/kube-apiserver-client"))
        .spec("usages", json!(["client auth"]))
        .create(&lab, "judged-signer", &agent)?;
    // It comes last: what stands before it was looked at.
    Asked::good()?.create(&lab, "judged-good", &agent)?;
    approver.wait_for("the good one approved", || {
        Ok(condition(&lab, "judged-good")?.is_some())
    })?;
    let (kind, reason, message) = condition(&lab, "judged-good")?.context("nothing")?;
    ensure!(
        kind == "Approved" && reason == "BailiffAgent",
        "{kind} {reason} {message}"
    );
    ensure!(message.contains("the agent of node approver-1"), "{message}");
    approver.wait_for("the good one signed", || {
        Ok(lab
            .request("judged-good")?
            .pointer("/status/certificate")
            .is_some())
    })?;

    let further = [
        ("blocks", "Malformed", "no single PEM block"),
        ("unbound", "Node", "bound to no node"),
    ];
    let all = wrong
        .iter()
        .map(|(name, _, reason, words)| (*name, *reason, *words));
    for (name, reason, words) in all.chain(further) {
        let found = condition(&lab, &format!("judged-{name}"))?.with_context(|| format!("{name} is open"))?;
        ensure!(
            found.0 == "Denied" && found.1 == reason && found.2.contains(words),
            "{name}: {found:?}, expected {reason} with {words:?}"
        );
        ensure!(counted(&approver, "denied", reason)?, "{name}");
        let log = approver.log();
        ensure!(
            log.lines()
                .any(|line| line.contains(&format!("judged-{name}\"")) && line.contains("denied")),
            "{name} isn't in the log: {log}"
        );
        ensure!(
            lab.request(&format!("judged-{name}"))?
                .pointer("/status/certificate")
                .is_none(),
            "{name}"
        );
    }
    for name in ["somebody", "kubelet", "signer"] {
        let found = condition(&lab, &format!("judged-{name}"))?;
        ensure!(found.is_none(), "{name}: {found:?}");
    }
    ensure!(counted(&approver, "left", "Requester")? && counted(&approver, "left", "Signer")?);
    let log = approver.log();
    ensure!(
        log.contains("left alone: it is for the signer kubernetes.io/kube-apiserver-client"),
        "{log}"
    );
    Ok(())
}

fn wrong_pem(wrong: &[(&str, Asked, &str, &str)]) -> Result<String> {
    wrong.first().context("none")?.1.pem()
}

#[test]
fn the_approver_has_no_more_rights_than_it_needs() -> Result<()> {
    let Some(lab) = Certified::new("rights", RULES)? else {
        return Ok(());
    };
    // As the API server's own authorization has it.
    let may = |account: &str, verb: &str, resource: &str, name: &str| -> Result<bool> {
        let (group, resource) = match resource.split_once('.') {
            Some((resource, group)) => (group, resource),
            None => ("", resource),
        };
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {},
            "spec": {
                "user": format!("system:serviceaccount:bailiff:{account}"),
                "groups": ["system:serviceaccounts", "system:serviceaccounts:bailiff", "system:authenticated"],
                "resourceAttributes": {"verb": verb, "group": group, "resource": resource, "subresource": subresource, "name": name},
            },
        });
        let file = lab.lab.path("review.json");
        std::fs::write(&file, review.to_string())?;
        let file = file.to_str().context("a path that isn't UTF-8")?;
        let said = lab
            .cluster
            .kubectl(&["create", "-f", file, "-o", "jsonpath={.status.allowed}"])?;
        Ok(said == "true")
    };
    const REQUESTS: &str = "certificatesigningrequests.certificates.k8s.io";
    const APPROVAL: &str = "certificatesigningrequests/approval.certificates.k8s.io";
    const SIGNERS: &str = "signers.certificates.k8s.io";
    const SERVING: &str = "kubernetes.io/kubelet-serving";
    for (account, verb, resource, name, expected) in [
        ("bailiff-approver", "approve", SIGNERS, SERVING, true),
        ("bailiff-approver", "watch", REQUESTS, "", true),
        ("bailiff-approver", "patch", APPROVAL, "", true),
        (
            "bailiff-approver",
            "approve",
            SIGNERS,
            "kubernetes.io/kube-apiserver-client",
            false,
        ),
        ("bailiff-approver", "sign", SIGNERS, SERVING, false),
        ("bailiff-approver", "create", REQUESTS, "", false),
        ("bailiff-approver", "delete", REQUESTS, "", false),
        ("bailiff-approver", "get", "secrets", "", false),
        ("bailiff-agent", "approve", SIGNERS, SERVING, false),
        ("bailiff-agent", "patch", APPROVAL, "", false),
        ("bailiff-agent", "delete", REQUESTS, "", false),
        ("bailiff-agent", "list", REQUESTS, "", false),
    ] {
        ensure!(
            may(account, verb, resource, name)? == expected,
            "{account} {verb} {resource} {name}"
        );
    }
    Ok(())
}
