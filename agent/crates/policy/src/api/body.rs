//! What a request says in its body, as far as rules ask for it.
//!
//! A body that can't be told may say anything: what forbids matches it, and nothing that allows covers it.

mod operations;
mod pods;

use std::cell::OnceCell;
use std::fmt;

use bailiff_model::{ApiRequest, ApiResource, ApiSubject, ApiVerb};
use serde_json::Value;

use super::expression::Bound;
pub(crate) use pods::{Named, Pods, way as pods_of};

/// A request's body, for whoever decides.
#[derive(Debug)]
pub enum ApiBody {
    /// There is none.
    Absent,
    /// There is one, and what it says isn't known.
    Untold(Untold),
    /// What it says.
    Told(Box<BodyFacts>),
}

/// Why it isn't known what a body says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Untold {
    /// It wasn't read, since no rule asked for it.
    Unread,
    /// It is longer than the API server takes.
    Long,
    /// It is compressed.
    Encoded,
    /// It is of a type that isn't known.
    Media,
    /// It isn't well-formed, is of another kind than the path says, or could be read in several ways.
    Form,
    /// It didn't come in time, or broke off.
    Lost,
    /// The agent has no memory left for it.
    Memory,
}

impl fmt::Display for Untold {
    /// A clause about the body, which quotes nothing of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unread => "it wasn't read",
            Self::Long => "it is too long",
            Self::Encoded => "it is compressed",
            Self::Media => "its Content-Type isn't one that can be read",
            Self::Form => {
                "it isn't well-formed, is of another kind than the request's path, or can be read in more than one way"
            }
            Self::Lost => "it didn't come to its end in time",
            Self::Memory => "there is no memory left for it",
        })
    }
}

/// What a body is to the object that the request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BodyForm {
    /// The whole object. Of deletes, their options.
    Object,
    /// A JSON merge patch (RFC 7386).
    Merge,
    /// A strategic merge patch.
    Strategic,
    /// What is applied by the server.
    Apply,
    /// A JSON Patch (RFC 6902): operations.
    Operations,
}

impl BodyForm {
    /// As `request.patchType` has it in expressions; empty for what is no patch.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Object => "",
            Self::Merge => "merge",
            Self::Strategic => "strategic",
            Self::Apply => "apply",
            Self::Operations => "json",
        }
    }
}

/// What a body says.
pub struct BodyFacts {
    pub(crate) form: BodyForm,
    pub(crate) value: Value,
    pub(crate) pods: Pods,
    /// Whether a delete is a dry run; `None` where that can't be told, and for all else.
    dry_run: Option<bool>,
    /// For expressions, made when the first one asks.
    bound: OnceCell<Bound>,
}

impl BodyFacts {
    /// What expressions see of it, in this request.
    pub(crate) fn bound(&self, request: &ApiRequest, body: &ApiBody) -> &Bound {
        self.bound
            .get_or_init(|| Bound::of(request, body, Some((self.form, &self.value))))
    }
}

/// Bodies hold secrets, which never print.
impl fmt::Debug for BodyFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyFacts")
            .field("form", &self.form)
            .finish_non_exhaustive()
    }
}

impl ApiBody {
    /// What a body says that was read: no key of it twice, and of the kind that the request's path names.
    #[must_use]
    pub fn told(request: &ApiRequest, form: BodyForm, value: Value) -> Self {
        let ApiSubject::Resource(resource) = &request.subject else {
            return Self::Untold(Untold::Unread);
        };
        let fits = match form {
            BodyForm::Operations => value.is_array(),
            _ => value.is_object(),
        };
        if !fits {
            return Self::Untold(Untold::Form);
        }
        let pods = Pods::of(resource, form, &value);
        let deletes = matches!(request.verb, ApiVerb::Delete | ApiVerb::DeleteCollection);
        let dry_run = if deletes { dry_run(&value) } else { None };
        Self::Told(Box::new(BodyFacts {
            form,
            value,
            pods,
            dry_run,
            bound: OnceCell::new(),
        }))
    }

    /// A body that nobody has read: where there may be one it may say anything.
    pub(crate) fn unread(request: &ApiRequest) -> Self {
        if may_have(request.verb) {
            Self::Untold(Untold::Unread)
        } else {
            Self::Absent
        }
    }

    /// Whether a request is a dry run; `None` where its body alone could tell, and doesn't.
    pub(crate) fn dry_run(&self, request: &ApiRequest) -> Option<bool> {
        if request.dry_run || !matches!(request.verb, ApiVerb::Delete | ApiVerb::DeleteCollection) {
            return Some(request.dry_run);
        }
        match self {
            Self::Absent => Some(false),
            Self::Untold(_) => None,
            Self::Told(facts) => facts.dry_run,
        }
    }

    /// The name of the object that a request is about, where the path hasn't it: of what is created.
    pub(crate) fn created_name(&self, request: &ApiRequest) -> Option<&str> {
        match self {
            Self::Told(facts) if creates(request) && facts.form == BodyForm::Object => {
                let name = facts.value.get("metadata")?.get("name")?.as_str()?;
                Some(name).filter(|name| !name.is_empty())
            }
            _ => None,
        }
    }
}

/// Whether requests of a verb have bodies that say something.
pub(crate) fn may_have(verb: ApiVerb) -> bool {
    matches!(
        verb,
        ApiVerb::Create | ApiVerb::Update | ApiVerb::Patch | ApiVerb::Delete | ApiVerb::DeleteCollection
    )
}

/// Whether a request creates an object whose name stands in its body alone.
pub(crate) fn creates(request: &ApiRequest) -> bool {
    let ApiSubject::Resource(resource) = &request.subject else {
        return false;
    };
    request.verb == ApiVerb::Create && resource.name.is_none() && resource.subresource.is_none()
}

/// Whether it is a namespace that is created, which lies in itself.
pub(crate) fn creates_namespace(request: &ApiRequest, resource: &ApiResource) -> bool {
    creates(request) && resource.group.is_empty() && resource.resource == "namespaces"
}

/// `DeleteOptions.dryRun`, of which the server takes `All` alone.
fn dry_run(options: &Value) -> Option<bool> {
    let kind = options.get("kind").and_then(Value::as_str).unwrap_or_default();
    if !matches!(kind, "" | "DeleteOptions") {
        return None;
    }
    match options.get("dryRun") {
        None | Some(Value::Null) => Some(false),
        Some(Value::Array(words)) if words.is_empty() => Some(false),
        Some(Value::Array(words)) => words
            .iter()
            .all(|word| word.as_str() == Some("All"))
            .then_some(true),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests;
