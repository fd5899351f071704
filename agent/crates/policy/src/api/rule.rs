//! What rules about requests match and cover. `docs/kubernetes.md` tells the same to those who write them.
//!
//! **Deny and RequireApproval** match a request that *may* be what the rule names. What isn't said may be anything: a list over
//! all namespaces touches each, a request without a name touches any name, a session without a command any command.
//!
//! **Allow** covers a request only if it is *wholly* what one of the rule's entries names.

mod body;
mod pattern;
mod who;

use std::sync::Arc;

use bailiff_model::{
    ApiRequest, ApiResource, ApiSession, ApiSubject, ApiVerb, Effect, Recording, TokenState,
};

use super::body::{ApiBody, Untold, creates, creates_namespace};
use crate::glob::Glob;

pub(crate) use body::BodyMatch;
pub(crate) use pattern::{CommandGlob, ResourceGlob, VerbSet};
pub(crate) use who::{Identities, Impersonated, Impersonates};

/// One rule about requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiRule {
    pub(crate) name: Arc<str>,
    pub(crate) requests: Vec<RequestMatch>,
    pub(crate) action: Effect,
    pub(crate) message: Option<Arc<str>>,
    /// What is recorded of requests that it touches, beside what the policy says.
    pub(crate) recording: Option<Recording>,
}

impl ApiRule {
    /// Whether a request may be what the rule names.
    pub(crate) fn touches(&self, request: &ApiRequest, body: &ApiBody) -> bool {
        self.requests.iter().any(|entry| entry.touches(request, body))
    }

    /// Whether an approval is asked for: for whatever may be what the rule names, or may be only a part of it.
    pub(crate) fn asks(&self, request: &ApiRequest, body: &ApiBody) -> bool {
        self.requests.iter().any(|entry| entry.asks(request, body))
    }

    /// Whether the rule names all that a request may be.
    pub(crate) fn covers(&self, request: &ApiRequest, body: &ApiBody) -> bool {
        self.requests.iter().any(|entry| entry.covers(request, body))
    }

    /// Whether the body of such a request could say whether the rule names it.
    pub(crate) fn asks_body(&self, request: &ApiRequest) -> bool {
        self.requests.iter().any(|entry| entry.asks_body(request))
    }
}

/// Requests that a rule names. What is given must all match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RequestMatch {
    /// `None` for any.
    pub(crate) verbs: Option<VerbSet>,
    pub(crate) groups: Option<Vec<Glob>>,
    pub(crate) resources: Option<Vec<ResourceGlob>>,
    pub(crate) namespaces: Option<Vec<Glob>>,
    pub(crate) names: Option<Vec<Glob>>,
    /// Paths that are no resources'. Never given together with what is about resources.
    pub(crate) paths: Option<Vec<Glob>>,
    pub(crate) dry_run: Option<bool>,
    pub(crate) containers: Option<Vec<Glob>>,
    pub(crate) commands: Option<Vec<CommandGlob>>,
    pub(crate) tty: Option<bool>,
    /// What requests show of who they are.
    pub(crate) tokens: Option<Vec<TokenState>>,
    /// Who that is.
    pub(crate) identity: Option<Identities>,
    /// As whom they ask to act. To allow, `None` is as nobody else; to forbid, anybody.
    pub(crate) impersonates: Option<Impersonates>,
    /// What they say in their bodies.
    pub(crate) body: BodyMatch,
}

/// Subresources that open a session in a container. A rule that allows `create` lets them begin by whichever method carries them.
const SESSIONS: [&str; 3] = ["exec", "attach", "portforward"];

/// Subresources through which a caller gets round rules, or does what the resource's name doesn't tell: no `*` covers them.
pub(crate) const SIDE_DOORS: [&str; 8] = [
    // Code and connections inside of containers.
    "exec",
    "attach",
    "portforward",
    "ephemeralcontainers",
    // Whatever is served behind; of nodes that's the kubelet's own exec.
    "proxy",
    // Makes credentials.
    "token",
    "approval",
    // Deletes pods by creating something.
    "eviction",
];

/// Subresources that are something else than the object which they belong to. Under all others it may be read or changed.
const APART: [&str; 8] = [
    "exec",
    "attach",
    "portforward",
    "proxy",
    "log",
    "token",
    "eviction",
    "binding",
];

/// What the kubelet serves behind `nodes/proxy`, whatever the method.
const KUBELET: [(&str, Option<&str>); 5] = [
    ("pods", None),
    ("pods", Some("log")),
    ("pods", Some("exec")),
    ("pods", Some("attach")),
    ("pods", Some("portforward")),
];

impl RequestMatch {
    fn touches(&self, request: &ApiRequest, body: &ApiBody) -> bool {
        self.impersonates
            .as_ref()
            .is_none_or(|these| these.touches(request))
            && self.touched_as(request, body)
    }

    /// As [`touches`](Self::touches), and also what acts as fewer than the entry names: an approval would let that pass.
    fn asks(&self, request: &ApiRequest, body: &ApiBody) -> bool {
        self.impersonates
            .as_ref()
            .is_none_or(|these| these.touches(request) || Impersonates::cover(Some(these), request))
            && self.touched_as(request, body)
    }

    /// Whether it may be what the entry names, whoever it acts as.
    fn touched_as(&self, request: &ApiRequest, body: &ApiBody) -> bool {
        self.token_touched(request.token)
            && self.identity.as_ref().is_none_or(|these| these.touch(request))
            && self.subject_touched(request, body)
    }

    /// A token that can't be verified may be any: uncertainty denies.
    fn token_touched(&self, token: TokenState) -> bool {
        self.tokens
            .as_ref()
            .is_none_or(|tokens| tokens.contains(&token) || token == TokenState::Unverified)
    }

    fn subject_touched(&self, request: &ApiRequest, body: &ApiBody) -> bool {
        match &request.subject {
            // Uncertainty denies: it may be anything.
            ApiSubject::Unknown => true,
            ApiSubject::Path(path) => {
                !self.is_about_resources()
                    && self.verb_touched(request.verb, None)
                    && self.dry_run_touched(request, body)
                    && self.paths.as_ref().is_none_or(|globs| {
                        let bare = path.strip_suffix('/').unwrap_or(path);
                        any(globs, path) || any(globs, bare)
                    })
                    && self.body.when_touched(request, body)
            }
            ApiSubject::Resource(resource) => {
                self.paths.is_none()
                    && (self.touches_resource(request, resource, body) || self.touches_kubelet(resource))
            }
        }
    }

    fn touches_resource(&self, request: &ApiRequest, resource: &ApiResource, body: &ApiBody) -> bool {
        let created = body.created_name(request);
        self.verb_touched(request.verb, Some(resource))
            && self
                .groups
                .as_ref()
                .is_none_or(|globs| group_touched(globs, &resource.group, &resource.resource))
            && self
                .resources
                .as_ref()
                .is_none_or(|globs| self.resource_touched(globs, resource))
            && self
                .namespaces
                .as_ref()
                .is_none_or(|globs| match &resource.namespace {
                    Some(namespace) => any(globs, namespace),
                    None if creates_namespace(request, resource) => {
                        created.is_none_or(|name| any(globs, name))
                    }
                    // A single object without a namespace lies in none; the server has no way to one of a namespace but by it.
                    None => {
                        resource.name.is_none() && reaches_many(request.verb)
                            || globs.iter().any(Glob::is_any)
                    }
                })
            && self.names.as_ref().is_none_or(|globs| match created {
                Some(name) => any(globs, name),
                None => name_touched(globs, resource),
            })
            && self.dry_run_touched(request, body)
            && self.session_touched(resource)
            && self.body.touched(request, resource, body)
    }

    /// Deny of `get` is also of `list` and `watch`, which return the same; and so on, as docs/kubernetes.md has it.
    fn verb_touched(&self, verb: ApiVerb, resource: Option<&ApiResource>) -> bool {
        let Some(verbs) = self.verbs else {
            return true;
        };
        let subresource = resource.and_then(|resource| resource.subresource.as_deref());
        let implied: &[ApiVerb] = match verb {
            // Uncertainty denies.
            ApiVerb::Unknown => return true,
            _ if begins_session(verb, subresource) => &[ApiVerb::Create, ApiVerb::Get],
            ApiVerb::Create if subresource == Some("eviction") => &[ApiVerb::Delete],
            ApiVerb::List | ApiVerb::Head => &[ApiVerb::Get],
            ApiVerb::Watch => &[ApiVerb::Get, ApiVerb::List],
            ApiVerb::DeleteCollection => &[ApiVerb::Delete],
            // Both change, and both make what isn't there: a patch by server-side apply, an update of some resources.
            ApiVerb::Update if subresource.is_none() => &[ApiVerb::Patch, ApiVerb::Create],
            ApiVerb::Patch if subresource.is_none() => &[ApiVerb::Update, ApiVerb::Create],
            ApiVerb::Update => &[ApiVerb::Patch],
            ApiVerb::Patch => &[ApiVerb::Update],
            _ => &[],
        };
        verbs.contains(verb) || implied.iter().any(|verb| verbs.contains(*verb))
    }

    fn resource_touched(&self, globs: &[ResourceGlob], resource: &ApiResource) -> bool {
        let names = |name: &str, subresource: Option<&str>| {
            globs
                .iter()
                .any(|glob| glob.matches(name, subresource) || glob.is_any())
        };
        let subresource = resource.subresource.as_deref();
        let deletes = self
            .verbs
            .is_none_or(|verbs| verbs.contains(ApiVerb::Delete) || verbs.contains(ApiVerb::DeleteCollection));
        names(&resource.resource, subresource)
            || match subresource {
                Some("eviction") => deletes && names(&resource.resource, None),
                Some(other) => !APART.contains(&other) && names(&resource.resource, None),
                None => false,
            }
    }

    /// Behind a node's proxy any pod of that node can be read and entered: uncertainty denies.
    fn touches_kubelet(&self, resource: &ApiResource) -> bool {
        resource.is_proxy()
            && resource.resource == "nodes"
            && self.verbs.is_none_or(|verbs| {
                [ApiVerb::Get, ApiVerb::List, ApiVerb::Create]
                    .iter()
                    .any(|verb| verbs.contains(*verb))
            })
            && self.groups.as_ref().is_none_or(|globs| any(globs, ""))
            && self.resources.as_ref().is_none_or(|globs| {
                KUBELET
                    .iter()
                    .any(|(name, subresource)| globs.iter().any(|glob| glob.matches(name, *subresource)))
            })
    }

    /// A delete's body may say it: uncertainty denies.
    fn dry_run_touched(&self, request: &ApiRequest, body: &ApiBody) -> bool {
        let is = |dry_run| body.dry_run(request).is_none_or(|is| is == dry_run);
        self.dry_run.is_none_or(is)
    }

    fn session_touched(&self, resource: &ApiResource) -> bool {
        if !self.asks_for_session() {
            return true;
        }
        let session = resource.session.as_ref();
        let subresource = resource.subresource.as_deref();
        let has_container = matches!(subresource, Some("exec" | "attach" | "log"));
        // What isn't said may be anything: uncertainty denies.
        let container = self.containers.as_ref().is_none_or(|globs| {
            has_container
                && session
                    .and_then(|session| session.container.as_deref())
                    .is_none_or(|container| any(globs, container))
        });
        let command = self.commands.as_ref().is_none_or(|globs| {
            subresource == Some("exec")
                && session
                    .filter(|session| !session.command.is_empty())
                    .is_none_or(|session| globs.iter().any(|glob| glob.matches(&session.command)))
        });
        let tty = self.tty.is_none_or(|tty| {
            matches!(subresource, Some("exec" | "attach")) && session.is_none_or(|session| session.tty == tty)
        });
        container && command && tty
    }

    fn covers(&self, request: &ApiRequest, body: &ApiBody) -> bool {
        let token = |tokens: &Vec<TokenState>| tokens.contains(&request.token);
        if request.verb == ApiVerb::Unknown
            || !self.tokens.as_ref().is_none_or(token)
            || !self.identity.as_ref().is_none_or(|these| these.covers(request))
            || !Impersonates::cover(self.impersonates.as_ref(), request)
        {
            return false;
        }
        let is = |dry_run| body.dry_run(request) == Some(dry_run);
        let dry_run = self.dry_run.is_none_or(is);
        let verb = |verb: ApiVerb| self.verbs.is_none_or(|verbs| verbs.contains(verb));
        dry_run
            && match &request.subject {
                ApiSubject::Unknown => false,
                ApiSubject::Path(path) => {
                    !self.is_about_resources()
                        && verb(request.verb)
                        && self.paths.as_ref().is_none_or(|globs| any(globs, path))
                        && self.body.when_covered(request, body)
                }
                ApiSubject::Resource(resource) => {
                    // A session is more than a read, whichever method it begins with.
                    let begins = begins_session(request.verb, resource.subresource.as_deref());
                    let needed = if begins { ApiVerb::Create } else { request.verb };
                    self.paths.is_none() && verb(needed) && self.covers_resource(request, resource, body)
                }
            }
    }

    fn covers_resource(&self, request: &ApiRequest, resource: &ApiResource, body: &ApiBody) -> bool {
        let created = body.created_name(request);
        let subresource = resource.subresource.as_deref();
        let named = match &self.resources {
            None => !subresource.is_some_and(is_side_door),
            Some(globs) => globs
                .iter()
                .any(|glob| glob.covers(&resource.resource, subresource)),
        };
        named
            && self
                .groups
                .as_ref()
                .is_none_or(|globs| any(globs, &resource.group))
            && self
                .namespaces
                .as_ref()
                .is_none_or(|globs| {
                    let itself = created.filter(|_| creates_namespace(request, resource));
                    surely(globs, resource.namespace.as_deref().or(itself))
                })
            // What removes many isn't bounded by a name, whatever its selector says.
            && self.names.as_ref().is_none_or(|globs| {
                let name = resource.name.as_deref().or(created);
                surely(globs, name.filter(|_| request.verb != ApiVerb::DeleteCollection))
            })
            && (!self.asks_for_session()
                || resource
                    .session
                    .as_ref()
                    .is_some_and(|session| self.covers_session(subresource, session)))
            && self.body.covered(request, resource, body)
    }

    /// Whether the body of such a request could say whether it is one of these.
    fn asks_body(&self, request: &ApiRequest) -> bool {
        let ApiSubject::Resource(resource) = &request.subject else {
            return false;
        };
        let names = self.names.is_some() && creates(request);
        let namespaces = self.namespaces.is_some() && creates_namespace(request, resource);
        let deletes = matches!(request.verb, ApiVerb::Delete | ApiVerb::DeleteCollection);
        let dry_run = self.dry_run.is_some() && deletes && !request.dry_run;
        (names || namespaces || dry_run || self.body.asks(request, resource))
            && self.asks(request, &ApiBody::Untold(Untold::Unread))
    }

    /// Whether it says something that may stand in bodies.
    pub(crate) fn may_ask_body(&self) -> bool {
        self.names.is_some() || self.namespaces.is_some() || self.dry_run.is_some() || !self.body.is_empty()
    }

    fn covers_session(&self, subresource: Option<&str>, session: &ApiSession) -> bool {
        let enters = matches!(subresource, Some("exec" | "attach"));
        self.containers
            .as_ref()
            .is_none_or(|globs| enters && surely(globs, session.container.as_deref()))
            && self.commands.as_ref().is_none_or(|globs| {
                subresource == Some("exec")
                    && !session.command.is_empty()
                    && globs.iter().any(|glob| glob.matches(&session.command))
            })
            && self.tty.is_none_or(|tty| enters && session.tty == tty)
    }

    /// Whether something is given that only resources have.
    pub(crate) fn is_about_resources(&self) -> bool {
        self.groups.is_some()
            || self.resources.is_some()
            || self.namespaces.is_some()
            || self.names.is_some()
            || self.asks_for_session()
            || self.body.is_about_pods()
            || self.body.is_about_object()
    }

    /// Whether something is given that only sessions in containers have.
    pub(crate) fn asks_for_session(&self) -> bool {
        self.containers.is_some() || self.commands.is_some() || self.tty.is_some()
    }

    /// Whether a rule that forbids with this entry touches all that one with the other could allow.
    pub(crate) fn contains(&self, inner: &Self) -> bool {
        let verbs = match (self.verbs, inner.verbs) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(outer), Some(inner)) => outer.has_all(inner),
        };
        // About paths alone, about resources alone, or about either.
        let of_one_kind = if self.paths.is_some() {
            inner.paths.is_some()
        } else {
            !self.is_about_resources() || inner.is_about_resources()
        };
        verbs
            && of_one_kind
            && contain(self.groups.as_deref(), inner.groups.as_deref())
            && contain(self.namespaces.as_deref(), inner.namespaces.as_deref())
            && contain(self.names.as_deref(), inner.names.as_deref())
            && contain(self.paths.as_deref(), inner.paths.as_deref())
            && match (&self.resources, &inner.resources) {
                (None, _) => true,
                (Some(outer), None) => outer.iter().any(ResourceGlob::is_any),
                (Some(outer), Some(inner)) => inner
                    .iter()
                    .all(|inner| outer.iter().any(|outer| outer.contains(inner))),
            }
            && (self.dry_run.is_none() || self.dry_run == inner.dry_run)
            && match (&self.tokens, &inner.tokens) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(outer), Some(inner)) => inner.iter().all(|token| outer.contains(token)),
            }
            && match (&self.identity, &inner.identity) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(outer), Some(inner)) => outer.contain(inner),
            }
            && Impersonates::contains(self.impersonates.as_ref(), inner.impersonates.as_ref())
            && (self.body.is_empty() || self.body == inner.body)
            && (!self.asks_for_session()
                || (&self.containers, &self.commands, self.tty)
                    == (&inner.containers, &inner.commands, inner.tty))
    }
}

/// Whether a subresource opens a session in a container.
pub(crate) fn is_session(subresource: &str) -> bool {
    SESSIONS.contains(&subresource)
}

/// Whether a request begins a session: by GET (WebSocket) as by POST (SPDY).
fn begins_session(verb: ApiVerb, subresource: Option<&str>) -> bool {
    subresource.is_some_and(is_session)
        && matches!(
            verb,
            ApiVerb::Get | ApiVerb::List | ApiVerb::Watch | ApiVerb::Head | ApiVerb::Create
        )
}

/// Whether a subresource has to be named outright.
pub(crate) fn is_side_door(subresource: &str) -> bool {
    SIDE_DOORS.contains(&subresource)
}

/// Whether a verb is about many objects at once, of all namespaces where none is given.
fn reaches_many(verb: ApiVerb) -> bool {
    matches!(
        verb,
        ApiVerb::List | ApiVerb::Watch | ApiVerb::DeleteCollection | ApiVerb::Unknown
    )
}

fn any(globs: &[Glob], name: &str) -> bool {
    globs.iter().any(|glob| glob.matches(name))
}

/// Whether what isn't given, and so may be anything, is named too.
fn surely(globs: &[Glob], name: Option<&str>) -> bool {
    globs
        .iter()
        .any(|glob| glob.is_any() || name.is_some_and(|name| glob.matches(name)))
}

/// Events are served under two groups, and are the same.
pub(super) fn group_touched(globs: &[Glob], group: &str, resource: &str) -> bool {
    any(globs, group)
        || resource == "events"
            && matches!(group, "" | "events.k8s.io")
            && (any(globs, "") || any(globs, "events.k8s.io"))
}

/// A pod or service is proxied to as `scheme:name:port`, and is the one of that name all the same.
fn name_touched(globs: &[Glob], resource: &ApiResource) -> bool {
    let named = |name: Option<&str>| name.is_none_or(|name| any(globs, name));
    named(resource.name.as_deref()) || named(resource.object_name())
}

fn contain(outer: Option<&[Glob]>, inner: Option<&[Glob]>) -> bool {
    match (outer, inner) {
        (None, _) => true,
        (Some(outer), None) => outer.iter().any(Glob::is_any),
        (Some(outer), Some(inner)) => inner.iter().all(|inner| any(outer, inner.as_str())),
    }
}
