//! A request to the Kubernetes API, in the words of the server's own authorization.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Identity, Impersonation, TokenState};

/// One request, typed. Source: `k8s.io/apiserver/pkg/endpoints/request`, `RequestInfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiRequest {
    /// What it does.
    pub verb: ApiVerb,
    /// To what.
    pub subject: ApiSubject,
    /// `dryRun=All`: nothing is kept.
    pub dry_run: bool,
    /// What it shows of who it is.
    pub token: TokenState,
    /// Who that is, where it was verified.
    pub identity: Option<Arc<Identity>>,
    /// As whom it asks to act; `None` for as who it is.
    pub impersonates: Option<Box<Impersonation>>,
}

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every request is about a resource, and a box would be an allocation for each"
)]
pub enum ApiSubject {
    /// A resource, known to the server or not.
    Resource(ApiResource),
    /// A path that is no resource's: `/healthz`, `/openapi/v3`, `/apis`. As the server matches it, without the query.
    Path(String),
    /// Can't be told.
    Unknown,
}

/// A resource as a request names it. Empty names are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiResource {
    /// The API group; empty for the core's.
    pub group: String,
    /// The version.
    pub version: String,
    /// The resource's name in the plural, in lower case as the path has it.
    pub resource: String,
    /// The subresource.
    pub subresource: Option<String>,
    /// The namespace; `None` for all, or where there is none.
    pub namespace: Option<String>,
    /// The object's name, where the path or a `metadata.name` field selector gives it.
    pub name: Option<String>,
    /// What follows a subresource, decoded and with its leading slash. For the proxies of nodes, pods and services the path that
    /// they are asked for; of other subresources, only those of aggregated APIs have any.
    pub proxied: Option<String>,
    /// The label selector as it was written, where the server reads one: to list, watch and delete many.
    pub label_selector: Option<String>,
    /// The field selector as it was written, likewise.
    pub field_selector: Option<String>,
    /// What runs or is reached by `exec`, `attach` and `portforward`.
    pub session: Option<ApiSession>,
}

impl ApiResource {
    /// Whether it is a node's, pod's or service's own server that answers, through the API server.
    #[must_use]
    pub fn is_proxy(&self) -> bool {
        self.group.is_empty()
            && matches!(self.resource.as_str(), "nodes" | "pods" | "services")
            && self.subresource.as_deref() == Some("proxy")
    }

    /// The object's own name: what is proxied to may be written with a scheme and a port around it, as `https:web:8443`, and then
    /// the server's authorization sees all of that as the name.
    ///
    /// Source: `k8s.io/apimachinery/pkg/util/net`, `SplitSchemeNamePort`.
    #[must_use]
    pub fn object_name(&self) -> Option<&str> {
        let name = self.name.as_deref()?;
        if !self.is_proxy() {
            return Some(name);
        }
        let mut parts = name.splitn(3, ':');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(_scheme), Some(name), Some(_port)) => Some(name),
            (Some(name), _, _) => Some(name),
            _ => None,
        }
    }
}

/// What `exec`, `attach` and `portforward` ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiSession {
    /// The container; `None` for the default one.
    pub container: Option<String>,
    /// The command and its arguments.
    pub command: Vec<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Whether it gets input.
    pub stdin: bool,
    /// Ports, where the request names them.
    pub ports: Vec<u16>,
}

/// A verb of authorization: for resources what is done to them, for other paths the method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum ApiVerb {
    /// Reads one object, or a path.
    Get,
    /// Reads many.
    List,
    /// Is told of changes.
    Watch,
    /// Makes one.
    Create,
    /// Replaces one.
    Update,
    /// Changes one, or makes it by server-side apply.
    Patch,
    /// Removes one.
    Delete,
    /// Removes many.
    DeleteCollection,
    /// A path's POST.
    Post,
    /// A path's PUT.
    Put,
    /// A path's HEAD.
    Head,
    /// OPTIONS.
    Options,
    /// Can't be told.
    Unknown,
}

impl ApiVerb {
    /// All verbs.
    pub const ALL: [Self; 13] = [
        Self::Get,
        Self::List,
        Self::Watch,
        Self::Create,
        Self::Update,
        Self::Patch,
        Self::Delete,
        Self::DeleteCollection,
        Self::Post,
        Self::Put,
        Self::Head,
        Self::Options,
        Self::Unknown,
    ];

    /// The name that policies, metrics and the server's audit log use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Post => "post",
            Self::Put => "put",
            Self::Head => "head",
            Self::Options => "options",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for ApiVerb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for ApiRequest {
    /// As people say it: `delete pods/exec web-0 in shop`, `get /healthz`, `get pods in shop as jane`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.verb)?;
        match &self.subject {
            ApiSubject::Path(path) => f.write_str(path)?,
            ApiSubject::Unknown => f.write_str("something that can't be told")?,
            ApiSubject::Resource(resource) => {
                f.write_str(&resource.resource)?;
                if !resource.group.is_empty() {
                    write!(f, ".{}", resource.group)?;
                }
                if let Some(subresource) = &resource.subresource {
                    write!(f, "/{subresource}")?;
                }
                if let Some(name) = &resource.name {
                    write!(f, " {name}")?;
                }
                if let Some(namespace) = &resource.namespace {
                    write!(f, " in {namespace}")?;
                }
            }
        }
        match &self.impersonates {
            Some(other) => write!(f, " as {}", other.user),
            None => Ok(()),
        }
    }
}
