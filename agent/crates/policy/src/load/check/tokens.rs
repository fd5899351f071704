//! Whose tokens the clients of an API server show.

use std::path::PathBuf;

use bailiff_model::Protocol;

use super::super::schema::{ClientCertificatesSpec, FurtherIssuerSpec, Resource, Spanned, TargetSpec};
use super::Report;
use crate::connection::{ClientCertificates, ClientTokens, TokenIssuer, TokenUsers};

/// As many as one API server has use for.
const ISSUERS: usize = 16;

pub(super) fn compile(resource: &Resource<TargetSpec>, report: &mut Report<'_>) -> Option<ClientTokens> {
    let written = resource.spec.identity.as_ref()?;
    let (spec, line) = (&written.value, written.referenced.line());
    if resource.spec.protocol != Protocol::Kubernetes {
        report.add(
            line,
            "`identity` is about tokens of the Kubernetes API, and clients of databases show none",
            "remove it, or write protocol: kubernetes",
        );
        return None;
    }
    let mut issuers = Vec::new();
    match (&spec.issuer, spec.audiences.as_slice(), &spec.key_set_file) {
        (None, [], None) if spec.token_review => {}
        (None, [], None) => report.add(
            line,
            "nobody says whose tokens are",
            "write tokenReview: true, or give `issuer`, `audiences` and `keySetFile`",
        ),
        (Some(name), audiences @ [_, ..], Some(key_set)) => issuers.push(issuer(
            (name, audiences, key_set),
            TokenUsers::ServiceAccounts,
            line,
            report,
        )),
        _ => report.add(
            line,
            "of an issuer's name, audiences and keys one says nothing without the others",
            "give `issuer`, `audiences` and `keySetFile`, or tokenReview: true and none of the three",
        ),
    }
    if spec.further_issuers.len() > ISSUERS {
        report.add(
            line,
            format!("`furtherIssuers` holds {}", spec.further_issuers.len()),
            format!("list at most {ISSUERS}"),
        );
    }
    for further in &spec.further_issuers {
        let (written, line) = (&further.value, further.referenced.line());
        let users = users(further, report);
        let key = (
            &written.issuer,
            written.audiences.as_slice(),
            &written.key_set_file,
        );
        if issuers.iter().any(|known| known.issuer == *key.0) {
            report.add(
                line,
                format!("issuer {:?} is given twice", written.issuer),
                "give each issuer once, with all its keys in one file",
            );
        }
        issuers.push(issuer(key, users, line, report));
    }
    Some(ClientTokens {
        issuers,
        review: spec.token_review,
        certificates: spec
            .client_certificates
            .as_ref()
            .map(|written| certificates(written, report)),
    })
}

fn certificates(written: &Spanned<ClientCertificatesSpec>, report: &mut Report<'_>) -> ClientCertificates {
    let (spec, line) = (&written.value, written.referenced.line());
    let mut whole = |field: &str, path: &String, mend: &str| {
        let path = PathBuf::from(path);
        if !path.is_absolute() {
            report.add(
                line,
                format!("{field} {:?} is no absolute path", path.display().to_string()),
                format!("write the whole path, such as {mend}"),
            );
        }
        path
    };
    ClientCertificates {
        ca: whole("caFile", &spec.ca_file, "/etc/bailiff/client-ca.crt"),
        token: spec.impersonate.as_ref().map(|impersonate| {
            let usual = "/var/run/secrets/kubernetes.io/serviceaccount/token";
            whole("tokenFile", &impersonate.token_file, usual)
        }),
    }
}

fn issuer(
    (name, audiences, key_set): (&String, &[String], &String),
    users: TokenUsers,
    line: u64,
    report: &mut Report<'_>,
) -> TokenIssuer {
    if name.is_empty() || audiences.is_empty() || audiences.iter().any(String::is_empty) {
        report.add(
            line,
            "no token can be of an issuer, or for an audience, without a name",
            "give `issuer` and `audiences` as the API server's --service-account-issuer and --api-audiences, or its --oidc-issuer-url and --oidc-client-id",
        );
    }
    let path = PathBuf::from(key_set);
    if !path.is_absolute() {
        report.add(
            line,
            format!("keySetFile {key_set:?} is no absolute path"),
            "write the whole path, such as /etc/bailiff/jwks.json",
        );
    }
    TokenIssuer {
        issuer: name.clone(),
        audiences: audiences.to_vec(),
        key_set: path,
        users,
    }
}

/// Source: `k8s.io/apiserver/pkg/apis/apiserver/validation` and kube-apiserver's --oidc-username-prefix.
fn users(further: &Spanned<FurtherIssuerSpec>, report: &mut Report<'_>) -> TokenUsers {
    let (spec, line) = (&further.value, further.referenced.line());
    let claims = [
        &spec.username_claim,
        &spec.username_prefix,
        &spec.groups_claim,
        &spec.groups_prefix,
    ];
    if spec.service_accounts {
        if claims.into_iter().any(Option::is_some) {
            report.add(
                line,
                "`serviceAccounts` says whom tokens name, so that claims and prefixes never count",
                "remove them, or `serviceAccounts`",
            );
        }
        return TokenUsers::ServiceAccounts;
    }
    if spec.groups_prefix.is_some() && spec.groups_claim.is_none() {
        report.add(
            line,
            "`groupsPrefix` goes before groups, and no claim has any",
            "give groupsClaim, or remove it",
        );
    }
    let username = spec.username_claim.clone().unwrap_or_else(|| "sub".to_owned());
    let username_prefix = match spec.username_prefix.as_deref() {
        Some("-") => String::new(),
        Some(prefix) => prefix.to_owned(),
        None if username == "email" => String::new(),
        None => format!("{}#", spec.issuer),
    };
    TokenUsers::Claims {
        username,
        username_prefix,
        groups: spec.groups_claim.clone(),
        groups_prefix: spec.groups_prefix.clone().unwrap_or_default(),
    }
}
