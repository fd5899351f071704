//! Requests to the Kubernetes API as rules write them.

use bailiff_model::TokenState;
use serde::Deserialize;
use serde_saphyr::Spanned;

/// `{verbs: [get, list], groups: [""], resources: [pods, pods/log]}`, or `{verbs: [get], paths: ["/healthz*"]}`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in super::super) struct RequestSpec {
    pub(in super::super) verbs: Option<Spanned<Vec<String>>>,
    pub(in super::super) groups: Option<Spanned<Vec<String>>>,
    pub(in super::super) resources: Option<Spanned<Vec<String>>>,
    pub(in super::super) namespaces: Option<Spanned<Vec<String>>>,
    pub(in super::super) names: Option<Spanned<Vec<String>>>,
    pub(in super::super) paths: Option<Spanned<Vec<String>>>,
    pub(in super::super) dry_run: Option<Spanned<bool>>,
    pub(in super::super) containers: Option<Spanned<Vec<String>>>,
    pub(in super::super) commands: Option<Spanned<Vec<String>>>,
    pub(in super::super) tty: Option<Spanned<bool>>,
    pub(in super::super) tokens: Option<Spanned<Vec<TokenState>>>,
}
