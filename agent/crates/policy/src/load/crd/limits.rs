//! What the API server checks besides types: what `check.rs` says of one object alone, as far as it is easily said.
//!
//! Never more than the loader asks for, but for the sizes of lists that expressions go through: the server bounds what these cost.

use serde_json::{Map, Value, json};

use super::SchemaError;

/// `*`, or `schema.name`.
const RELATION: &str = r"^(\*|[^.]+\.[^.]+)$";

/// From / on, as the agent sees it.
const PATH: &str = "^/";

/// Lays the limits over the schemas of types.
///
/// # Errors
/// When one is about what isn't there, so that a field that is called otherwise doesn't lose its own unseen.
pub(super) fn put(types: &mut Map<String, Value>) -> Result<(), SchemaError> {
    for (name, limits) in target().into_iter().chain(policy()) {
        // Each kind has its own types.
        if let Some(schema) = types.get_mut(name) {
            lay(schema, limits, name)?;
        }
    }
    Ok(())
}

/// The names of the types that have limits.
#[cfg(test)]
pub(super) fn names() -> Vec<&'static str> {
    target()
        .into_iter()
        .chain(policy())
        .map(|(name, _)| name)
        .collect()
}

fn lay(schema: &mut Value, limits: Value, place: &str) -> Result<(), SchemaError> {
    let Value::Object(limits) = limits else {
        *schema = limits;
        return Ok(());
    };
    let Value::Object(node) = schema else {
        return Err(SchemaError::Misplaced(place.to_owned()));
    };
    for (key, limit) in limits {
        let inner = format!("{place}.{key}");
        match node.get_mut(&key) {
            Some(there) => lay(there, limit, &inner)?,
            // Whatever has something in it is there already.
            None if limit.is_object() => return Err(SchemaError::Misplaced(inner)),
            None => drop(node.insert(key, limit)),
        }
    }
    Ok(())
}

/// Expressions that must hold, each with what it means where one doesn't.
fn rules(rules: &[(&str, &str)]) -> Value {
    rules
        .iter()
        .map(|(rule, message)| json!({ "rule": rule, "message": message }))
        .collect()
}

/// A list that holds something, each with at least a character.
fn names_in() -> Value {
    json!({ "minItems": 1, "items": { "minLength": 1 } })
}

fn files(names: &[&str]) -> Value {
    let each = |name: &&str| ((*name).to_owned(), json!({ "pattern": PATH }));
    Value::Object(names.iter().map(each).collect())
}

/// A name of RFC 1123, as namespaces and Services have.
const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

type Limits = Vec<(&'static str, Value)>;

const PROOF: [(&str, &str); 2] = [
    (
        "has(self.certificateFile) == has(self.keyFile)",
        "a certificate has a key: give certificateFile and keyFile",
    ),
    (
        "!(has(self.passwordFile) && has(self.certificateFile))",
        "a credential is either a password or a certificate with its key",
    ),
];

fn target() -> Limits {
    vec![
        (
            "TargetSpec",
            json!({
                "properties": {
                    "endpoints": { "items": {
                        "pattern": r"^(\[[0-9A-Fa-f:.]+(/[0-9]{1,3})?\]|[0-9]{1,3}(\.[0-9]{1,3}){3}(/[0-9]{1,2})?):([0-9]{1,5}|\*)$",
                    }},
                    "services": { "maxItems": 16 },
                    "searchPath": { "minItems": 1 },
                    "plainRelations": { "items": { "pattern": RELATION } },
                },
                "x-kubernetes-validations": rules(&[
                    (
                        "(has(self.endpoints) && size(self.endpoints) > 0) || (has(self.services) && size(self.services) > 0)",
                        "the target has no endpoints and no services, so that nothing is ever diverted: list its addresses in endpoints, or its Services",
                    ),
                    (
                        "self.protocol != 'kubernetes' || !has(self.services) || size(self.services) == 0",
                        "services are about databases, and this target speaks the Kubernetes API: list its addresses in endpoints",
                    ),
                    (
                        "self.protocol != 'kubernetes' || (has(self.tls) && has(self.tls.client) && self.tls.client.mode == 'Require')",
                        "clients of the Kubernetes API begin with TLS: give tls.client with mode: Require and csr: {}, or a certificate or CA with its key",
                    ),
                    (
                        "self.protocol != 'kubernetes' || (has(self.tls) && has(self.tls.upstream) && self.tls.upstream.mode == 'Verify')",
                        "the API server is always verified: give tls.upstream with mode: Verify and caFile: the cluster's CA",
                    ),
                    (
                        "self.protocol != 'kubernetes' || !(has(self.searchPath) || has(self.credential) || has(self.catalog) || (has(self.plainRelations) && size(self.plainRelations) > 0))",
                        "searchPath, plainRelations, credential and catalog are about databases, and this target speaks the Kubernetes API",
                    ),
                    (
                        "self.protocol == 'kubernetes' || !has(self.identity)",
                        "identity is about tokens of the Kubernetes API, and clients of databases show none",
                    ),
                    (
                        "self.protocol == 'kubernetes' || !(has(self.tls) && has(self.tls.client) && has(self.tls.client.csr))",
                        "tls.client.csr is about the API server's names, and this target is a database",
                    ),
                    (
                        "!has(self.credential) || has(self.credential.passwordFile) || has(self.credential.certificateFile)",
                        "the credential proves nothing: give passwordFile, or certificateFile and keyFile",
                    ),
                    (
                        "!has(self.credential) || !(has(self.tls) && has(self.tls.upstream) && self.tls.upstream.mode == 'Prefer')",
                        "tls.upstream.mode: Prefer may be plain text, which shows the agent's credential at work: write Verify, or Disabled",
                    ),
                    (
                        "!has(self.catalog) || has(self.catalog.user)",
                        "the catalog's user is missing: name a role that may log in",
                    ),
                ]),
            }),
        ),
        (
            "ServiceSpec",
            json!({ "properties": {
                "namespace": { "maxLength": 63, "pattern": LABEL },
                "name": { "maxLength": 63, "pattern": LABEL },
            }}),
        ),
        (
            "ClientTlsSpec",
            json!({
                "properties": {
                    "certificateFile": { "pattern": PATH },
                    "keyFile": { "pattern": PATH },
                    "caCertificateFile": { "pattern": PATH },
                    "caKeyFile": { "pattern": PATH },
                    "names": { "minItems": 1, "maxItems": 100, "items": { "minLength": 1 } },
                },
                "x-kubernetes-validations": rules(&[
                    (
                        "self.mode != 'Disabled' || !(has(self.certificateFile) || has(self.keyFile) || has(self.caCertificateFile) || has(self.caKeyFile) || has(self.csr))",
                        "certificates are given, but mode is Disabled, so that no client ever sees one",
                    ),
                    (
                        "self.mode == 'Disabled' || (has(self.certificateFile) == has(self.keyFile) && has(self.caCertificateFile) == has(self.caKeyFile) && [has(self.keyFile), has(self.caKeyFile), has(self.csr)].exists_one(given, given))",
                        "give exactly one of certificateFile and keyFile, caCertificateFile and caKeyFile, or, for the Kubernetes API, csr",
                    ),
                    (
                        "self.mode == 'Disabled' || !(has(self.names) && has(self.certificateFile))",
                        "names says for whom certificates are minted, and certificateFile holds one that is made already",
                    ),
                ]),
            }),
        ),
        (
            "CsrSpec",
            json!({ "properties": {
                "signer": { "pattern": r"^[^/]+\.[^/]+/.+$" },
                "caFile": { "pattern": PATH },
                "expirationSeconds": { "minimum": 600, "maximum": 2_592_000 },
            }}),
        ),
        (
            "UpstreamTlsSpec",
            json!({
                "properties": { "caFile": { "pattern": PATH }, "serverName": { "minLength": 1 } },
                "x-kubernetes-validations": rules(&[
                    (
                        "self.mode != 'Disabled' || !(has(self.caFile) || has(self.serverName) || (has(self.direct) && self.direct))",
                        "mode is Disabled, so that nothing else that is said of TLS towards the target ever counts",
                    ),
                    (
                        "self.mode == 'Disabled' || has(self.caFile)",
                        "TLS towards the target is always verified: give caFile, the CA that signed its certificate",
                    ),
                    (
                        "self.mode != 'Prefer' || !(has(self.direct) && self.direct)",
                        "a handshake that begins without asking can't fall back to plain text: write mode: Verify, or leave direct out",
                    ),
                ]),
            }),
        ),
        (
            "CredentialSpec",
            json!({
                "properties": {
                    "user": { "minLength": 1, "maxLength": 63 },
                    "passwordFile": { "pattern": PATH },
                    "certificateFile": { "pattern": PATH },
                    "keyFile": { "pattern": PATH },
                },
                "x-kubernetes-validations": rules(&PROOF),
            }),
        ),
        (
            "IdentitySpec",
            json!({
                "properties": {
                    "issuer": { "minLength": 1 },
                    "audiences": names_in(),
                    "keySetFile": { "pattern": PATH },
                    "furtherIssuers": { "maxItems": 16 },
                },
                "x-kubernetes-validations": rules(&[
                    (
                        "has(self.issuer) == has(self.audiences) && has(self.issuer) == has(self.keySetFile)",
                        "of an issuer's name, audiences and keys one says nothing without the others: give issuer, audiences and keySetFile, or none of the three",
                    ),
                    (
                        "has(self.issuer) || (has(self.tokenReview) && self.tokenReview)",
                        "nobody says whose tokens are: write tokenReview: true, or give issuer, audiences and keySetFile",
                    ),
                ]),
            }),
        ),
        (
            "ClientCertificatesSpec",
            json!({ "properties": files(&["caFile"]) }),
        ),
        ("ImpersonateSpec", json!({ "properties": files(&["tokenFile"]) })),
        (
            "FurtherIssuerSpec",
            json!({
                "properties": {
                    "issuer": { "minLength": 1 },
                    "audiences": names_in(),
                    "keySetFile": { "pattern": PATH },
                },
                "x-kubernetes-validations": rules(&[
                    (
                        "!(has(self.serviceAccounts) && self.serviceAccounts) || !(has(self.usernameClaim) || has(self.usernamePrefix) || has(self.groupsClaim) || has(self.groupsPrefix))",
                        "serviceAccounts says whom tokens name, so that claims and prefixes never count",
                    ),
                    (
                        "!has(self.groupsPrefix) || has(self.groupsClaim) || (has(self.serviceAccounts) && self.serviceAccounts)",
                        "groupsPrefix goes before groups, and no claim has any: give groupsClaim",
                    ),
                ]),
            }),
        ),
    ]
}

fn policy() -> Limits {
    vec![
        (
            "PolicySpec",
            json!({
                "properties": {
                    "targets": names_in(),
                    "rules": {
                        "maxItems": 1024,
                        "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["name"],
                    },
                    "masks": { "maxItems": 1024 },
                    "detect": { "maxItems": 256 },
                },
                "x-kubernetes-validations": rules(&[
                    (
                        "(has(self.rules) && size(self.rules) > 0) || (has(self.masks) && size(self.masks) > 0) || (has(self.detect) && size(self.detect) > 0) || has(self.connectAs)",
                        "the policy has neither rules nor masks nor detect nor connectAs, so that it says nothing",
                    ),
                    (
                        "!has(self.rules) || !(self.rules.exists(rule, has(rule.effects)) && self.rules.exists(rule, has(rule.requests)))",
                        "rules with effects are about SQL, those with requests about the Kubernetes API: write two policies, one for each",
                    ),
                    (
                        "!has(self.rules) || !(has(self.connectAs) || (has(self.masks) && self.masks.exists(mask, has(mask.columns) || has(mask.types)))) || !self.rules.exists(rule, has(rule.requests))",
                        "connectAs and masks of columns are about SQL, rules with requests about the Kubernetes API: write two policies, one for each",
                    ),
                    (
                        "!has(self.rules) || !((has(self.masks) && self.masks.exists(mask, has(mask.fields))) || (has(self.detect) && self.detect.exists(found, has(found.resources)))) || !self.rules.exists(rule, has(rule.effects))",
                        "rules with effects are about SQL, fields of resources about the Kubernetes API: write two policies, one for each",
                    ),
                ]),
            }),
        ),
        (
            "SubjectSpec",
            json!({
                "minProperties": 1,
                "properties": {
                    "namespaces": names_in(),
                    "serviceAccounts": names_in(),
                    "pods": names_in(),
                    "podLabels": { "minProperties": 1 },
                },
            }),
        ),
        (
            "RuleSpec",
            json!({
                "properties": {
                    "effects": { "minItems": 1, "maxItems": 64 },
                    "requests": { "minItems": 1, "maxItems": 256 },
                    "relations": { "minItems": 1, "items": { "pattern": RELATION } },
                    "functions": { "minItems": 1 },
                    "where": { "minItems": 1 },
                    "masked": { "minItems": 1, "maxItems": 64 },
                },
                "x-kubernetes-validations": of_rule(),
            }),
        ),
        ("RequestSpec", request()),
        (
            "IdentitiesSpec",
            json!({ "minProperties": 1, "properties": { "users": names_in(), "groups": names_in() } }),
        ),
        (
            "ImpersonatedSpec",
            json!({ "minProperties": 1, "properties": {
                "users": names_in(),
                "groups": names_in(),
                "uids": names_in(),
                "extra": { "minProperties": 1 },
            }}),
        ),
        (
            "RecordingFields",
            json!({ "properties": {
                "maxRows": { "minimum": 1, "maximum": 100_000 },
                "maxBytes": { "minimum": 1, "maximum": 16_777_216 },
            }}),
        ),
        (
            "MaskSpec",
            json!({
                "properties": {
                    "columns": { "items": { "pattern": r"^[^.]+\.[^.]+\.[^.]+$" } },
                    "types": { "items": { "pattern": r"^[^.]+(\.[^.]+)?$" } },
                    "fields": names_in(),
                    "groups": { "minItems": 1, "items": { "pattern": "^[^/]*$" } },
                    "resources": { "minItems": 1, "items": { "pattern": "^[^A-Z/]+$" } },
                    "namespaces": names_in(),
                    "names": names_in(),
                },
                "x-kubernetes-validations": rules(&[
                    (
                        "((has(self.columns) && size(self.columns) > 0) || (has(self.types) && size(self.types) > 0)) != has(self.fields)",
                        "a mask names columns or types of databases, or fields of the Kubernetes API's objects",
                    ),
                    (
                        "has(self.fields) == has(self.resources)",
                        "fields are those of resources: name both, or columns and types alone",
                    ),
                    (
                        "has(self.fields) || !(has(self.groups) || has(self.namespaces) || has(self.names))",
                        "groups, namespaces and names are about resources of the Kubernetes API",
                    ),
                ]),
            }),
        ),
        (
            "DetectSpec",
            json!({
                "properties": {
                    "find": { "minItems": 1 },
                    "relations": { "minItems": 1, "items": { "pattern": RELATION } },
                    "groups": { "minItems": 1, "items": { "pattern": "^[^/]*$" } },
                    "resources": { "minItems": 1, "items": { "pattern": "^[^A-Z/]+$" } },
                    "namespaces": names_in(),
                    "names": names_in(),
                },
                "x-kubernetes-validations": rules(&[
                    (
                        "!(has(self.relations) && has(self.resources))",
                        "relations are about databases, resources about the Kubernetes API: write two policies, one for each",
                    ),
                    (
                        "has(self.resources) || !(has(self.groups) || has(self.namespaces) || has(self.names))",
                        "it isn't said whose fields these are: list resources",
                    ),
                ]),
            }),
        ),
        ("HashSpec", json!({ "properties": files(&["keyFile"]) })),
        (
            "ConnectAsSpec",
            json!({
                "properties": {
                    "user": { "minLength": 1, "maxLength": 63 },
                    "database": { "minLength": 1, "maxLength": 63 },
                    "passwordFile": { "pattern": PATH },
                    "certificateFile": { "pattern": PATH },
                    "keyFile": { "pattern": PATH },
                },
                "x-kubernetes-validations": rules(&[
                    ("has(self.user) || has(self.database)", "connectAs maps nothing: give user, database or both"),
                    (
                        "has(self.user) || !(has(self.passwordFile) || has(self.certificateFile))",
                        "connectAs gives a credential, but says not whose: give user",
                    ),
                    PROOF[0],
                    PROOF[1],
                ]),
            }),
        ),
    ]
}

fn of_rule() -> Value {
    rules(&[
        (
            "has(self.effects) != has(self.requests)",
            "a rule has either effects of SQL or requests to the Kubernetes API",
        ),
        (
            "!has(self.requests) || !(has(self.relations) || has(self.functions) || has(self.where) || has(self.rows) || has(self.limit) || has(self.statements) || has(self.masked))",
            "relations, functions, where, rows, limit, statements and masked are about SQL, and requests about the Kubernetes API",
        ),
        (
            "self.action != 'Allow' || !(has(self.where) || has(self.rows) || has(self.limit) || has(self.statements))",
            "where, rows, limit and statements only narrow what is forbidden: leave them out, and forbid the rest by a rule with action: Deny that has them",
        ),
        (
            "self.action == 'Allow' || !has(self.masked)",
            "masked only widens what is allowed: leave it out, since such uses are denied without a rule that allows them",
        ),
        (
            "!has(self.masked) || !('Keep' in self.masked || 'Copy' in self.masked)",
            "no rule can allow masked: [Keep] or [Copy]: what comes of these can't be masked",
        ),
        (
            "!has(self.masked) || !has(self.relations) || !('Function' in self.masked || 'Define' in self.masked)",
            "what is read by masked: [Function] or [Define] isn't known, so that relations can't bound it: allow it in a rule without relations",
        ),
        (
            "self.action != 'Allow' || !has(self.effects) || !('unknown' in self.effects)",
            "no rule can allow unknown: what can't be told is answered by the target's unknown",
        ),
        (
            "self.action != 'Allow' || !has(self.effects) || !has(self.functions) || 'execute' in self.effects",
            "functions is about execute, which isn't among the effects",
        ),
        (
            "self.action != 'Allow' || !has(self.effects) || !has(self.relations) || has(self.functions) || !('execute' in self.effects)",
            "what a function touches isn't known, so that relations can't bound execute: name the functions, or allow it in a rule of its own",
        ),
        (
            "self.action != 'Allow' || !has(self.effects) || !has(self.relations) || !('replication' in self.effects)",
            "replication takes the changes of all relations: allow it in a rule of its own, without relations",
        ),
        (
            "!has(self.limit) || !has(self.effects) || 'read' in self.effects",
            "limit is about read, which isn't among the effects",
        ),
        (
            "!(has(self.where) || has(self.rows)) || !has(self.effects) || self.effects.exists(effect, effect in ['read', 'update', 'delete', 'truncate'])",
            "where and rows are about read, update, delete and truncate, none of which is among the effects",
        ),
        (
            "!has(self.statements) || self.statements.above > 0",
            "every text has more than 0 statements: leave statements out, or write {above: 1}",
        ),
    ])
}

fn request() -> Value {
    const NAME: &str = "^[a-z0-9*-]+$";
    let verbs = [
        "*",
        "get",
        "list",
        "watch",
        "create",
        "update",
        "patch",
        "delete",
        "deletecollection",
        "head",
        "post",
        "put",
        "options",
    ];
    json!({
        "minProperties": 1,
        "properties": {
            "verbs": { "minItems": 1, "items": { "enum": verbs } },
            "groups": { "minItems": 1, "items": { "pattern": "^[^A-Z/]*$" } },
            "resources": { "minItems": 1, "items": { "pattern": "^[a-z0-9*-]+(/[a-z0-9*-]+)?$" } },
            "namespaces": { "minItems": 1, "items": { "pattern": NAME } },
            "names": names_in(),
            "paths": { "minItems": 1, "items": { "pattern": r"^(\*|/[^?#%]*)$" } },
            "containers": { "minItems": 1, "items": { "pattern": NAME } },
            "commands": { "minItems": 1, "items": { "pattern": r"\S" } },
            "tokens": { "minItems": 1 },
            "secrets": names_in(),
            "serviceAccounts": names_in(),
            "images": names_in(),
        },
        "x-kubernetes-validations": rules(&[
            (
                "!has(self.paths) || !(has(self.groups) || has(self.resources) || has(self.namespaces) || has(self.names) || has(self.containers) || has(self.commands) || has(self.tty) || has(self.mountsSecrets) || has(self.secrets) || has(self.serviceAccounts) || has(self.images))",
                "paths are no resources: write two requests, one with paths, one with the rest",
            ),
            (
                "!has(self.secrets) || !has(self.mountsSecrets) || self.mountsSecrets",
                "secrets names those that are mounted, and mountsSecrets: false means none",
            ),
        ]),
    })
}
