//! Targets' certificates and credentials: what can't be used, what ends soon, which clients can't be served.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use bailiff_policy::{ClientTlsMode, PolicySet, Target, UpstreamTlsMode};

use super::Finding;
use crate::proxy::Snapshot;

/// A certificate that ends within this is told, in seconds.
const SOON: i64 = 30 * 24 * 3600;

pub(super) fn check(config: &Path) -> Vec<Finding> {
    let set = match PolicySet::load(config) {
        Ok(set) => set,
        Err(errors) => {
            return vec![Finding::fails(
                "configuration",
                errors.to_string(),
                "the agent doesn't start with it",
                "mend what is named",
            )];
        }
    };
    let files = match Snapshot::read(&set) {
        Ok(files) => files,
        Err(errors) => {
            return errors
                .into_iter()
                .map(|error| {
                    Finding::fails(
                        "files",
                        format!("{}: {}: {}", error.whose, error.file.display(), error.reason),
                        "the agent doesn't start with it",
                        error.mend,
                    )
                })
                .collect();
        }
    };
    let mut findings: Vec<Finding> = set
        .targets()
        .iter()
        .flat_map(|target| of(target, &files))
        .collect();
    findings.extend(set.masked_by_names().map(|target| {
        Finding::note(
            "masks",
            format!(
                "target {} has masks, and no role to read catalogs with",
                target.name
            ),
            "masks go by names: views, expressions and relations that aren't in plainRelations are refused",
            "give the target `catalog`, with a role that needs no right but to connect",
        )
    }));
    findings.extend(ends(&files));
    findings
}

fn of(target: &Target, files: &Snapshot) -> Vec<Finding> {
    let name = target.name.as_str();
    let mut findings = Vec::new();
    match target.tls_client.mode {
        ClientTlsMode::Disabled => findings.push(Finding::note(
            "client TLS",
            format!("target {name} shows clients no certificate"),
            "clients that insist on TLS (sslmode require, verify-ca, verify-full) can't connect",
            "give tls.client a certificate for the database's names, or a CA that clients trust",
        )),
        _ if files.is_stranger(&target.name) => findings.push(Finding::note(
            "client TLS",
            format!("target {name} shows certificates of another CA than the database's"),
            "clients that verify by the database's own CA (verify-ca, verify-full) can't be terminated and can't connect",
            "use the database's CA for tls.client, or have clients trust the CA of tls.client",
        )),
        mode => findings.push(Finding::ok("client TLS", format!("target {name}: {mode:?}"))),
    }
    let both = target.tls_client.mode != ClientTlsMode::Disabled
        && target.tls_upstream.mode != UpstreamTlsMode::Disabled;
    if both && target.credential.is_none() {
        findings.push(Finding::note(
            "channel binding",
            format!("target {name} has TLS on both sides and no credential"),
            "clients that can bind SCRAM to their TLS connection (libpq does by default) are refused where the database asks for scram-sha-256",
            "give the target a credential, or set channel_binding=disable for those clients",
        ));
    }
    findings
}

fn ends(files: &Snapshot) -> Vec<Finding> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    files
        .expiries()
        .iter()
        .map(|expiry| {
            let (target, role) = (expiry.target.as_str(), expiry.role);
            let days = (expiry.at - now) / (24 * 3600);
            if expiry.at <= now {
                Finding::fails(
                    "certificates",
                    format!("the {role} certificate of target {target} has ended"),
                    "connections to the target fail",
                    "renew it; the agent takes it up by itself",
                )
            } else if expiry.at - now < SOON {
                Finding::note(
                    "certificates",
                    format!("the {role} certificate of target {target} ends in {days} days"),
                    "connections to the target fail from then on",
                    "renew it; the agent takes it up by itself",
                )
            } else {
                Finding::ok(
                    "certificates",
                    format!("the {role} certificate of target {target} ends in {days} days"),
                )
            }
        })
        .collect()
}
