//! Clients that authenticate by certificate: verified here, and passed on by impersonation where that's allowed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{ApiLab, Running, Said};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde_json::{Value, json};

const RULES: &str = r#"    - name: look
      requests: [{verbs: [get, list], groups: [""], resources: [pods, configmaps]}]
      action: Allow
    - name: discover
      requests:
        - { verbs: [get], paths: ["*"] }
        - { verbs: [create], groups: [authentication.k8s.io], resources: [selfsubjectreviews], tokens: [Certificate] }
      action: Allow
    - name: nothing-for-jane
      requests: [{resources: [configmaps], identity: {users: [jane], groups: [developers]}}]
      action: Deny
      message: jane needs no config maps
"#;

const TAKEN: &str = "    clientCertificates: { caFile: CA, impersonate: { tokenFile: TOKEN } }\n";

/// A namespace in which `jane` may look, and an account in whose name the agent speaks.
struct Certificates {
    lab: ApiLab,
    path: String,
}

/// A subject's attributes, the key's use and the time.
struct Wanted<'a> {
    subject: &'a [(DnType, &'a str)],
    uses: &'a [ExtendedKeyUsagePurpose],
    from: i64,
    until: i64,
}

/// A subject, and what comes of it.
type Refusal<'a> = (&'a [(DnType, &'a str)], u16, &'a str);

const CLIENT: &[ExtendedKeyUsagePurpose] = &[ExtendedKeyUsagePurpose::ClientAuth];

impl<'a> Wanted<'a> {
    fn of(subject: &'a [(DnType, &'a str)]) -> Self {
        Self {
            subject,
            uses: CLIENT,
            from: -3600,
            until: 3600,
        }
    }
}

fn jane() -> [(DnType, &'static str); 2] {
    [
        (DnType::CommonName, "jane"),
        (DnType::OrganizationName, "developers"),
    ]
}

/// A second attribute of a kind, which the library would put in place of the first.
fn another(kind: u64) -> DnType {
    DnType::CustomDnType(vec![2, 5, 4, kind])
}

impl Certificates {
    fn new(namespace: &str, certificates: &str) -> Result<Option<Self>> {
        let Some(lab) = ApiLab::new(namespace, "view", RULES)? else {
            return Ok(None);
        };
        lab.cluster
            .kubectl(&["create", "serviceaccount", "-n", namespace, "speaker"])?;
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/client-certificates.yaml");
        let text = std::fs::read_to_string(manifest)?
            .replace("resourceNames: [jane]", "resourceNames: [jane, josé]")
            .replace(
                "bailiff-agent-client-certificates",
                &format!("speaker-{namespace}"),
            )
            .replace(
                "name: bailiff-agent\n    namespace: bailiff",
                &format!("name: speaker\n    namespace: {namespace}"),
            );
        lab.cluster.apply(&text)?;
        let group = "rbac.authorization.k8s.io";
        let view = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "certified", "namespace": namespace},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "view"},
            "subjects": [
                {"kind": "User", "name": "josé", "apiGroup": group}, {"kind": "Group", "name": "developers", "apiGroup": group},
            ],
        });
        lab.cluster.apply(&view.to_string())?;
        let token = lab.cluster.token(namespace, "speaker", None)?;
        std::fs::write(lab.path("speaker.token"), token)?;
        let this = Self {
            path: format!("/api/v1/namespaces/{namespace}/pods"),
            lab,
        };
        std::fs::copy(this.lab.cluster.ca()?, this.lab.path("client-ca.crt"))?;
        let target = this.lab.enforced.config().join("target.yaml");
        let taken = certificates
            .replace("CA", &this.lab.path("client-ca.crt").display().to_string())
            .replace("TOKEN", &this.lab.path("speaker.token").display().to_string());
        let text = std::fs::read_to_string(&target)? + &taken;
        std::fs::write(target, text)?;
        Ok(Some(this))
    }

    fn agent(&self) -> Result<Running> {
        self.lab.enforced.start_with(&["--pod", "agent"])
    }

    /// The cluster's CA, which signs its clients' certificates, too.
    fn issuer(&self) -> Result<Issuer<'static, KeyPair>> {
        Ok(Issuer::from_ca_cert_pem(
            &std::fs::read_to_string(self.lab.cluster.ca()?)?,
            KeyPair::from_pem(&std::fs::read_to_string(self.lab.cluster.ca_key()?)?)?,
        )?)
    }

    fn signed(&self, wanted: &Wanted<'_>) -> Result<(rcgen::Certificate, KeyPair)> {
        sign(wanted, &self.issuer()?)
    }

    fn shown(&self, subject: &[(DnType, &str)]) -> Result<CertifiedKey> {
        pair(self.signed(&Wanted::of(subject))?)
    }

    fn connect(&self, agent: &Running, shown: CertifiedKey) -> Result<Said> {
        Said::connect(&self.lab, agent, Some(shown))
    }
}

fn sign(wanted: &Wanted<'_>, issuer: &Issuer<'_, KeyPair>) -> Result<(rcgen::Certificate, KeyPair)> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    for (kind, text) in wanted.subject {
        params
            .distinguished_name
            .push(kind.clone(), DnValue::Utf8String((*text).to_owned()));
    }
    params.extended_key_usages = wanted.uses.to_vec();
    let now = SystemTime::now();
    let at = |seconds: i64| {
        let by = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 { now - by } else { now + by }
    };
    params.not_before = at(wanted.from).into();
    params.not_after = at(wanted.until).into();
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, issuer)?, key))
}

fn pair((certificate, key): (rcgen::Certificate, KeyPair)) -> Result<CertifiedKey> {
    with_key(vec![certificate.der().clone()], &key)
}

fn with_key(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Result<CertifiedKey> {
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key)?;
    Ok(CertifiedKey::new(chain, key))
}

fn text<'a>(event: &'a Value, path: &str) -> &'a str {
    event.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

#[test]
fn a_certificate_is_refused_clearly_where_none_is_taken() -> Result<()> {
    let Some(lab) = Certificates::new("uncertified", "")? else {
        return Ok(());
    };
    let agent = lab.agent()?;
    let mut pod = lab.connect(&agent, lab.shown(&jane())?)?;
    let auth = format!("Authorization: Bearer {}\r\n", lab.lab.token("agent")?);
    for headers in ["", &auth] {
        let answer = pod.get(&lab.path, headers)?;
        let expected = "takes no client certificates for this API server";
        ensure!(
            answer.code == 403 && answer.text.contains(expected),
            "{}",
            answer.text
        );
    }
    let mut pod = Said::connect(&lab.lab, &agent, None)?;
    ensure!(pod.get(&lab.path, &auth)?.code == 200);
    drop(pod);
    drop(agent);
    let refused = lab.lab.audited()?;
    let word = "/annotations/bailiff.dev~1refused";
    ensure!(
        refused
            .iter()
            .filter(|event| text(event, word) == "certificate_not_taken")
            .count()
            == 2,
        "{refused:#?}"
    );
    Ok(())
}

#[test]
fn a_good_certificate_is_known_also_where_the_agent_may_not_act() -> Result<()> {
    let Some(lab) = Certificates::new("known", "    clientCertificates: { caFile: CA }\n")? else {
        return Ok(());
    };
    let agent = lab.agent()?;
    let mut pod = lab.connect(&agent, lab.shown(&jane())?)?;
    let answer = pod.get(&lab.path, "")?;
    ensure!(
        answer.code == 403 && answer.text.contains("may not act as its user"),
        "{}",
        answer.text
    );
    drop(pod);
    drop(agent);
    let events = lab.lab.audited()?;
    ensure!(
        events.iter().all(|event| text(event, "/user/username") == "jane"),
        "{events:#?}"
    );
    Ok(())
}

#[test]
fn a_certificate_goes_on_as_whom_it_names() -> Result<()> {
    let Some(lab) = Certificates::new("certified", TAKEN)? else {
        return Ok(());
    };
    let agent = lab.agent()?;
    let mut pod = lab.connect(&agent, lab.shown(&jane())?)?;
    let pods_own = format!("Authorization: Bearer {}\r\n", lab.lab.token("agent")?);
    // A certificate counts before a token, as at the API server.
    for headers in ["", &pods_own, "Authorization: Bearer nobodys\r\n"] {
        let answer = pod.get(&lab.path, headers)?;
        ensure!(
            answer.code == 200 && answer.text.contains("PodList"),
            "{headers}: {}",
            answer.text
        );
    }
    for (path, headers, code, expected) in [
        (
            "/api/v1/namespaces/certified/configmaps",
            "",
            403,
            "jane needs no config maps",
        ),
        ("/api/v1/namespaces/certified/secrets", "", 403, "no rule allows"),
        (
            lab.path.as_str(),
            "Impersonate-User: root\r\n",
            400,
            "can't ask to act as another",
        ),
        (
            &lab.path,
            "Connection: impersonate-user, Authorization\r\n",
            400,
            "Connection header names",
        ),
        // RBAC is the user's, not the agent's.
        (
            "/api/v1/namespaces/default/pods",
            "",
            403,
            "User \\\"jane\\\" cannot list",
        ),
    ] {
        let answer = pod.get(path, headers)?;
        ensure!(
            answer.code == code && answer.text.contains(expected),
            "{path} {headers}: {}",
            answer.text
        );
    }
    let jose = [(DnType::CommonName, "josé")];
    let answer = lab.connect(&agent, lab.shown(&jose)?)?.get(&lab.path, "")?;
    ensure!(answer.code == 200, "{}", answer.text);
    // As whom RBAC doesn't let the agent act.
    let jo = [
        (DnType::CommonName, "jo"),
        (DnType::OrganizationName, "developers"),
    ];
    let answer = lab.connect(&agent, lab.shown(&jo)?)?.get(&lab.path, "")?;
    ensure!(
        answer.code == 403 && answer.text.contains("cannot impersonate"),
        "{}",
        answer.text
    );
    let two = [
        (DnType::CommonName, "jane"),
        (DnType::OrganizationName, "developers"),
        (another(10), "ops"),
    ];
    let answer = lab.connect(&agent, lab.shown(&two)?)?.get(&lab.path, "")?;
    ensure!(
        answer.code == 403 && answer.text.contains("groups \\\"ops\\\""),
        "{}",
        answer.text
    );
    drop(pod);
    let log = agent.log();
    drop(agent);

    let events = lab.lab.audited()?;
    let passed: Vec<&Value> = events
        .iter()
        .filter(|event| event.pointer("/responseStatus/code") == Some(&json!(200)))
        .collect();
    ensure!(passed.len() == 4, "{events:#?}");
    for event in passed {
        let id = text(event, "/auditID");
        let theirs = lab
            .lab
            .cluster
            .audited("the request", |event| text(event, "/auditID") == id)?;
        ensure!(
            text(&theirs, "/user/username") == "system:serviceaccount:certified:speaker",
            "{theirs:#}"
        );
        for (ours, of_server) in [
            ("/user/username", "/impersonatedUser/username"),
            ("/user/groups", "/impersonatedUser/groups"),
        ] {
            ensure!(
                event.pointer(ours) == theirs.pointer(of_server),
                "{event:#} {theirs:#}"
            );
        }
        ensure!(text(event, "/annotations/bailiff.dev~1token") == "certificate");
    }
    let own = std::fs::read_to_string(lab.lab.path("speaker.token"))?;
    ensure!(!log.contains(&own) && !format!("{events:?}").contains(&own));
    Ok(())
}

#[test]
fn what_isnt_good_is_refused_and_told() -> Result<()> {
    let Some(lab) = Certificates::new("attacked", TAKEN)? else {
        return Ok(());
    };
    let agent = lab.agent()?;
    let (cn, o) = (DnType::CommonName, DnType::OrganizationName);
    let names: &[Refusal<'_>] = &[
        (&[(o.clone(), "developers")], 401, "no common name"),
        (
            &[(cn.clone(), "jane"), (o.clone(), "system:masters")],
            403,
            "system:masters",
        ),
        (
            &[
                (cn.clone(), "jane"),
                (o.clone(), "developers"),
                (another(10), "system:masters"),
            ],
            403,
            "system:masters",
        ),
        (&[(cn.clone(), "system:anonymous")], 403, "anonymous"),
        (
            &[(cn.clone(), "jane\r\nImpersonate-Group: system:masters")],
            401,
            "control characters",
        ),
        (
            &[(cn.clone(), "jane"), (o.clone(), "a\nb")],
            401,
            "control characters",
        ),
        (&[(cn.clone(), " jane")], 401, "outer blanks"),
        (
            &[(cn.clone(), "jane"), (o.clone(), "developers ")],
            401,
            "outer blanks",
        ),
        (&[(cn.clone(), "")], 401, "is empty"),
        (
            &[(cn.clone(), "jo"), (another(3), "jane")],
            401,
            "several common names",
        ),
    ];
    for (subject, code, expected) in names {
        let answer = lab.connect(&agent, lab.shown(subject)?)?.get(&lab.path, "")?;
        ensure!(
            answer.code == *code && answer.text.contains(expected),
            "{subject:?}: {}",
            answer.text
        );
    }
    let jane = jane();
    let of = |uses: &'static [ExtendedKeyUsagePurpose], from, until| Wanted {
        subject: &jane,
        uses,
        from,
        until,
    };
    let server = &[ExtendedKeyUsagePurpose::ServerAuth];
    for (wanted, expected) in [
        (of(CLIENT, -3600, -60), "it has expired"),
        (of(CLIENT, 3600, 7200), "isn't valid yet"),
        (of(server, -3600, 3600), "isn't for clients"),
    ] {
        let answer = lab
            .connect(&agent, pair(lab.signed(&wanted)?)?)?
            .get(&lab.path, "")?;
        ensure!(
            answer.code == 401 && answer.text.contains(expected),
            "{expected}: {}",
            answer.text
        );
    }
    // Of another CA, that CA sent along or not, also where it calls itself as the real one.
    let real = CertificateDer::from_pem_file(lab.lab.cluster.ca()?)?;
    let as_real = Issuer::from_ca_cert_der(&real, KeyPair::generate()?)?;
    let (alike, alike_key) = sign(&Wanted::of(&jane), &as_real)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let false_ca = params.self_signed(&key)?;
    let (leaf, key) = sign(&Wanted::of(&jane), &Issuer::new(params, key))?;
    for (chain, key) in [
        (vec![alike.der().clone()], &alike_key),
        (vec![alike.der().clone(), real.clone()], &alike_key),
        (vec![leaf.der().clone(), false_ca.der().clone()], &key),
        (vec![leaf.der().clone(), real.clone()], &key),
    ] {
        let answer = lab.connect(&agent, with_key(chain, key)?)?.get(&lab.path, "")?;
        ensure!(answer.code == 401, "{}", answer.text);
    }
    // Who has jane's certificate alone, without her key, gets no connection.
    let (stolen, _) = lab.signed(&Wanted::of(&jane))?;
    let answer = lab
        .connect(&agent, with_key(vec![stolen.der().clone()], &key)?)
        .and_then(|mut pod| pod.get(&lab.path, ""));
    ensure!(answer.is_err(), "{answer:?}");
    drop(agent);
    // Nothing of it reached the API server.
    let speaker = "system:serviceaccount:attacked:speaker";
    ensure!(
        !lab.lab
            .cluster
            .audit()?
            .iter()
            .any(|event| text(event, "/user/username") == speaker)
    );
    ensure!(
        lab.lab
            .audited()?
            .iter()
            .all(|event| text(event, "/annotations/bailiff.dev~1refused").starts_with("certificate_"))
    );
    Ok(())
}

#[test]
fn connections_outlive_neither_certificate_nor_files_and_take_up_no_other_session() -> Result<()> {
    let Some(lab) = Certificates::new("outlived", TAKEN)? else {
        return Ok(());
    };
    let agent = lab.agent()?;
    let jane = jane();
    let brief = Wanted {
        until: 4,
        ..Wanted::of(&jane)
    };
    let mut pod = lab.connect(&agent, pair(lab.signed(&brief)?)?)?;
    ensure!(pod.get(&lab.path, "")?.code == 200);
    let until = |pod: &mut Said, code: u16| -> Result<String> {
        let mut last = None;
        for _ in 0..600 {
            let answer = pod.get(&lab.path, "")?;
            if answer.code == code {
                return Ok(answer.text);
            }
            last = Some(answer);
            std::thread::sleep(Duration::from_millis(50));
        }
        anyhow::bail!("never {code}: {last:?}")
    };
    ensure!(until(&mut pod, 401)?.contains("it has expired"));

    // Each handshake is a whole one, in which the key is proved.
    let config = Said::config(&lab.lab, Some(lab.shown(&jane)?))?;
    let mut pod = Said::with(&lab.lab, &agent, Arc::clone(&config))?;
    ensure!(pod.get(&lab.path, "")?.code == 200);
    let mut again = Said::with(&lab.lab, &agent, config)?;
    ensure!(again.get(&lab.path, "")?.code == 200 && !again.is_resumed());

    // The agent's token is renewed: what is in the file is shown from then on.
    let token = lab.lab.path("speaker.token");
    let good = std::fs::read(&token)?;
    std::fs::write(&token, "nobodys")?;
    ensure!(
        !until(&mut pod, 401)?.contains("client certificate"),
        "the API server says that"
    );
    std::fs::write(&token, good)?;
    until(&mut pod, 200)?;
    // Another CA for clients: who came by the old one goes no further.
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(lab.lab.path("client-ca.crt"), params.self_signed(&key)?.pem())?;
    ensure!(until(&mut pod, 401)?.contains("no CA that this API server's clients come from"));
    Ok(())
}

#[test]
fn kubectl_comes_by_certificate() -> Result<()> {
    let Some(lab) = Certificates::new("certified-kubectl", TAKEN)? else {
        return Ok(());
    };
    let jane = jane();
    let (certificate, key) = lab.signed(&Wanted::of(&jane))?;
    let (at, key_at) = (lab.lab.path("jane.crt"), lab.lab.path("jane.key"));
    std::fs::write(&at, certificate.pem())?;
    std::fs::write(&key_at, key.serialize_pem())?;
    let config = std::fs::read_to_string(lab.lab.path("agent.kubeconfig"))?;
    let mut config: Value = serde_json::from_str(&config)?;
    let user = config.pointer_mut("/users/0/user").context("no user")?;
    *user = json!({"client-certificate": at, "client-key": key_at});
    std::fs::write(lab.lab.path("jane.kubeconfig"), config.to_string())?;
    for (args, expected) in [
        (&["get", "pods", "-o", "name"][..], "pod/agent"),
        (&["auth", "whoami"], "jane"),
        (&["auth", "whoami"], "[developers system:authenticated]"),
        (&["get", "configmaps"], "jane needs no config maps"),
        (&["get", "pods", "--as", "root"], "BadRequest"),
    ] {
        let output = lab.lab.kubectl_in("agent", "jane", args)?.output()?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(said.contains(expected), "{args:?}: {said}");
    }
    Ok(())
}
