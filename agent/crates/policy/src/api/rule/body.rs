//! What rules ask of requests' bodies.

use bailiff_model::{ApiRequest, ApiResource, ApiVerb};

use super::any;
use crate::api::body::{ApiBody, Named, Pods, may_have, pods_of};
use crate::api::expression::Expression;
use crate::glob::Glob;

/// What a request says in its body. What is given must all match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BodyMatch {
    /// Whether pods that it makes or changes mount secrets, or have them in their environment.
    pub(crate) mounts_secrets: Option<bool>,
    /// Which secrets.
    pub(crate) secrets: Option<Vec<Glob>>,
    /// Under which service accounts they run.
    pub(crate) service_accounts: Option<Vec<Glob>>,
    /// Of which images.
    pub(crate) images: Option<Vec<Glob>>,
    /// What holds of the request and its body.
    pub(crate) when: Option<Expression>,
}

impl BodyMatch {
    /// Whether it asks for nothing.
    pub(crate) fn is_empty(&self) -> bool {
        !self.is_about_pods() && self.when.is_none()
    }

    /// Whether something is given that only pods have, and what makes them.
    pub(crate) fn is_about_pods(&self) -> bool {
        self.mounts_secrets.is_some()
            || self.secrets.is_some()
            || self.service_accounts.is_some()
            || self.images.is_some()
    }

    /// Whether the body of such a request says what is asked for.
    pub(super) fn asks(&self, request: &ApiRequest, resource: &ApiResource) -> bool {
        self.is_about_pods() && makes_pods(request, resource)
            || self.is_about_object() && has_object(request, resource)
    }

    /// Whether something is given that only bodies have.
    pub(crate) fn is_about_object(&self) -> bool {
        self.when.as_ref().is_some_and(Expression::is_about_object)
    }

    /// Whether an expression may hold, of whatever the request is about.
    pub(super) fn when_touched(&self, request: &ApiRequest, body: &ApiBody) -> bool {
        // Uncertainty denies: where it can't be told it may.
        let may_hold = |when: &Expression| when.holds(request, body).unwrap_or(true);
        self.when.as_ref().is_none_or(may_hold)
    }

    /// Whether an expression surely holds.
    pub(super) fn when_covered(&self, request: &ApiRequest, body: &ApiBody) -> bool {
        let holds = |when: &Expression| when.holds(request, body) == Some(true);
        self.when.as_ref().is_none_or(holds)
    }

    /// Whether a body may say all of this.
    pub(super) fn touched(&self, request: &ApiRequest, resource: &ApiResource, body: &ApiBody) -> bool {
        if self.is_about_object() && !has_object(request, resource) {
            return false;
        }
        self.pods_touched(request, resource, body) && self.when_touched(request, body)
    }

    fn pods_touched(&self, request: &ApiRequest, resource: &ApiResource, body: &ApiBody) -> bool {
        if !self.is_about_pods() {
            return true;
        }
        makes_pods(request, resource)
            && match body {
                ApiBody::Absent => false,
                // Uncertainty denies: it may say anything.
                ApiBody::Untold(_) => true,
                ApiBody::Told(facts) => self.touches(&facts.pods),
            }
    }

    /// Whether a body surely says all of this, and nothing else.
    pub(super) fn covered(&self, request: &ApiRequest, resource: &ApiResource, body: &ApiBody) -> bool {
        if self.is_about_object() && !has_object(request, resource) {
            return false;
        }
        self.pods_covered(request, resource, body) && self.when_covered(request, body)
    }

    fn pods_covered(&self, request: &ApiRequest, resource: &ApiResource, body: &ApiBody) -> bool {
        if !self.is_about_pods() {
            return true;
        }
        makes_pods(request, resource)
            && match body {
                ApiBody::Absent | ApiBody::Untold(_) => false,
                ApiBody::Told(facts) => self.covers(&facts.pods),
            }
    }

    fn touches(&self, pods: &Pods) -> bool {
        let may_be = |named: &Named, matches: &dyn Fn(&str) -> bool| {
            named.unclear || named.names.iter().any(|name| matches(name))
        };
        self.mounts_secrets.is_none_or(|mounts| {
            let secrets = &pods.secrets;
            if mounts {
                secrets.some || secrets.unclear
            } else {
                !secrets.some
            }
        }) && self
            .secrets
            .as_ref()
            .is_none_or(|globs| may_be(&pods.secrets, &|name| any(globs, name)))
            && self
                .service_accounts
                .as_ref()
                .is_none_or(|globs| may_be(&pods.accounts, &|name| any(globs, name)))
            && self.images.as_ref().is_none_or(|globs| {
                may_be(&pods.images, &|image| {
                    any(globs, image) || any(globs, &full_image(image))
                })
            })
    }

    fn covers(&self, pods: &Pods) -> bool {
        // Where there are none, none of them is what is named.
        let surely = |named: &Named, globs: &Vec<Glob>| {
            named.some && !named.unclear && named.names.iter().all(|name| any(globs, name))
        };
        self.mounts_secrets.is_none_or(|mounts| {
            let secrets = &pods.secrets;
            if mounts {
                secrets.some
            } else {
                !secrets.some && !secrets.unclear
            }
        }) && self
            .secrets
            .as_ref()
            .is_none_or(|globs| surely(&pods.secrets, globs))
            && self
                .service_accounts
                .as_ref()
                .is_none_or(|globs| surely(&pods.accounts, globs))
            && self
                .images
                .as_ref()
                .is_none_or(|globs| surely(&pods.images, globs))
    }
}

/// Whether a request has an object, or the options of a delete, in its body: sessions and proxies have what is another's.
fn has_object(request: &ApiRequest, resource: &ApiResource) -> bool {
    let apart = matches!(
        resource.subresource.as_deref(),
        Some("exec" | "attach" | "portforward" | "proxy" | "log")
    );
    may_have(request.verb) && !apart
}

/// Whether a request makes pods or changes them, or what makes them.
fn makes_pods(request: &ApiRequest, resource: &ApiResource) -> bool {
    matches!(
        request.verb,
        ApiVerb::Create | ApiVerb::Update | ApiVerb::Patch | ApiVerb::Unknown
    ) && pods_of(resource).is_some()
}

/// An image with the registry that container runtimes take where none is named.
fn full_image(image: &str) -> String {
    match image.split_once('/') {
        Some(("index.docker.io", rest)) => format!("docker.io/{rest}"),
        Some((registry, _)) if registry.contains(['.', ':']) || registry == "localhost" => image.to_owned(),
        Some(_) => format!("docker.io/{image}"),
        None => format!("docker.io/library/{image}"),
    }
}
