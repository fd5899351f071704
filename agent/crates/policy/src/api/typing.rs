//! From a request's first line to what the API server's authorization would make of it.
//!
//! Source: `k8s.io/apiserver/pkg/endpoints/request`, `RequestInfoFactory`, and `net/url`, which reads targets before it; both of
//! Kubernetes 1.34. Where a request may mean something else to somebody who reads it a little differently (encoded slashes, dot
//! segments, keys given twice), it isn't typed at all: a [`Doubt`] says why, and its subject is [`ApiSubject::Unknown`].

mod query;
mod selector;

use std::borrow::Cow;
use std::fmt;

use bailiff_model::{ApiRequest, ApiResource, ApiSession, ApiSubject, ApiVerb, TokenState};

use query::{Query, decoded, is_true};

/// The longest path and query that is read, in bytes. All that is typed is a part of it, so this bounds that, too.
pub const MAX_TARGET: usize = 16 * 1024;

/// What was made of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Typed {
    /// The request; of an unknown verb and subject where there is a doubt.
    pub request: ApiRequest,
    /// Why it couldn't be told.
    pub doubt: Option<Doubt>,
}

/// Why a request can't be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Doubt {
    /// Longer than [`MAX_TARGET`].
    Long,
    /// Not a path: `*`, a whole URL, a host and port.
    Form,
    /// A byte that doesn't belong into a path or query, such as a space, `#`, `;` or a backslash.
    Byte,
    /// A percent sign without two digits, or what isn't UTF-8 or doesn't belong into a name when decoded.
    Escape,
    /// An escape in what says what the request is about: the group, the resource, the subresource.
    Encoded,
    /// An empty segment in the path: `//`.
    Empty,
    /// `.` or `..` in the path.
    Dots,
    /// A method that isn't one of the subject's.
    Method,
    /// The verb as a part of the path, in a form that servers no longer know (`/api/v1/proxy/…`) or without a resource.
    Prefix,
    /// A query that takes a key twice with different values: servers read the first, others the last.
    Twice,
    /// A selector that may or may not be one, where the object's name depends on it.
    Selector,
    /// Values that the server refuses, such as a port of 65,536.
    Value,
}

impl Doubt {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Long,
        Self::Form,
        Self::Byte,
        Self::Escape,
        Self::Encoded,
        Self::Empty,
        Self::Dots,
        Self::Method,
        Self::Prefix,
        Self::Twice,
        Self::Selector,
        Self::Value,
    ];

    /// The name for metrics and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Long => "long",
            Self::Form => "form",
            Self::Byte => "byte",
            Self::Escape => "escape",
            Self::Encoded => "encoded",
            Self::Empty => "empty",
            Self::Dots => "dots",
            Self::Method => "method",
            Self::Prefix => "prefix",
            Self::Twice => "twice",
            Self::Selector => "selector",
            Self::Value => "value",
        }
    }
}

impl fmt::Display for Doubt {
    /// A clause about the request, which quotes nothing of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Long => "its path and query are longer than 16 KiB",
            Self::Form => "its target isn't a path",
            Self::Byte => "its path or query holds a byte that doesn't belong there",
            Self::Escape => "its path or query holds a percent escape that doesn't belong there",
            Self::Encoded => "its path encodes what says which resource it is about",
            Self::Empty => "its path has an empty segment",
            Self::Dots => "its path has a segment of dots",
            Self::Method => "its method isn't one for this path",
            Self::Prefix => "its path holds the verb in a form that isn't served",
            Self::Twice => "its query has a key twice, with different values",
            Self::Selector => "its selectors can't be read",
            Self::Value => "its query has a value that can't be read",
        })
    }
}

/// Types a request by its method and target (the path with the query, as in the request's first line or `:path`).
///
/// `body` says whether a body comes with it, or may come: a DELETE's options are read from it if there is one, and from the query
/// only if there is none, so the query's `dryRun` is only believed then.
#[must_use]
pub fn type_request(method: &str, target: &str, body: bool) -> Typed {
    match read(method, target, body) {
        Ok(request) => Typed { request, doubt: None },
        // Uncertainty denies: nothing of a request that can't be told is kept.
        Err(doubt) => Typed {
            request: ApiRequest {
                verb: ApiVerb::Unknown,
                subject: ApiSubject::Unknown,
                dry_run: false,
                token: TokenState::Missing,
                identity: None,
                impersonates: None,
            },
            doubt: Some(doubt),
        },
    }
}

fn read(method: &str, target: &str, body: bool) -> Result<ApiRequest, Doubt> {
    if target.len() > MAX_TARGET {
        return Err(Doubt::Long);
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let Some(relative) = path.strip_prefix('/') else {
        return Err(Doubt::Form);
    };
    if !path.bytes().all(in_path) || !query.bytes().all(in_query) {
        return Err(Doubt::Byte);
    }
    // The server trims slashes at both ends. More than one at the end is an empty segment to others.
    let (trimmed, trailing) = match relative.strip_suffix('/') {
        Some(trimmed) => (trimmed, true),
        None => (relative, false),
    };
    if relative == "/" || trimmed.split('/').any(str::is_empty) && !trimmed.is_empty() {
        return Err(Doubt::Empty);
    }
    if trimmed.split('/').any(is_dots) {
        return Err(Doubt::Dots);
    }
    let mut segments = Segments::new(trimmed);
    let grouped = match segments.next() {
        Some("api") if segments.count_is_at_least(2) => false,
        Some("apis") if segments.count_is_at_least(3) => true,
        _ => return no_resource(method, path),
    };
    resource(method, grouped, segments, trailing, query, body)
}

/// A path that is no resource's, which the server compares as it is, with a slash at its end if it has one.
fn no_resource(method: &str, path: &str) -> Result<ApiRequest, Doubt> {
    if path.contains('%') {
        return Err(Doubt::Encoded);
    }
    let verb = match method {
        "GET" => ApiVerb::Get,
        "HEAD" => ApiVerb::Head,
        "POST" => ApiVerb::Post,
        "PUT" => ApiVerb::Put,
        "PATCH" => ApiVerb::Patch,
        "DELETE" => ApiVerb::Delete,
        "OPTIONS" => ApiVerb::Options,
        // The server lowers the letters of whatever it is and goes on.
        _ => return Err(Doubt::Method),
    };
    Ok(ApiRequest {
        verb,
        subject: ApiSubject::Path(path.to_owned()),
        dry_run: false,
        token: TokenState::Missing,
        identity: None,
        impersonates: None,
    })
}

fn resource(
    method: &str,
    grouped: bool,
    mut segments: Segments<'_>,
    trailing: bool,
    query: &str,
    body: bool,
) -> Result<ApiRequest, Doubt> {
    let group = if grouped { segments.plain()? } else { Some("") };
    let (Some(group), Some(version), Some(mut first)) = (group, segments.plain()?, segments.plain()?) else {
        // There are enough segments, or this wasn't called.
        return Err(Doubt::Form);
    };
    let watched = first == "watch";
    if watched {
        first = segments.plain()?.ok_or(Doubt::Prefix)?;
    } else if first == "proxy" {
        return Err(Doubt::Prefix);
    }

    let (mut resource, mut namespace, mut name) = (first, None, None);
    if first == "namespaces" {
        namespace = segments.named()?;
        let mut ahead = segments;
        match ahead.next() {
            // `status` and `finalize` are the namespace's own; anything else is a resource in it.
            Some(next) if namespace.is_some() && !matches!(next, "status" | "finalize") => {
                resource = plain(next)?;
                segments = ahead;
                name = segments.named()?;
            }
            _ => name.clone_from(&namespace),
        }
    } else {
        name = segments.named()?;
    }
    let subresource = segments.plain()?;

    let proxied = match (subresource, segments.rest()) {
        (None, _) => None,
        (Some(_), Some(rest)) => Some(proxied(rest, trailing)?),
        (Some("proxy"), None) if trailing => Some("/".to_owned()),
        (Some(_), None) => None,
    };
    let mut verb = if watched {
        // Of other methods the server says the same, but answers none.
        matches!(method, "GET" | "HEAD")
            .then_some(ApiVerb::Watch)
            .ok_or(Doubt::Method)?
    } else {
        match method {
            "GET" | "HEAD" => ApiVerb::Get,
            "POST" => ApiVerb::Create,
            "PUT" => ApiVerb::Update,
            "PATCH" => ApiVerb::Patch,
            "DELETE" if name.is_none() => ApiVerb::DeleteCollection,
            "DELETE" => ApiVerb::Delete,
            _ => return Err(Doubt::Method),
        }
    };

    let mut typed = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        resource: resource.to_owned(),
        subresource: subresource.map(str::to_owned),
        namespace,
        name,
        proxied,
        label_selector: None,
        field_selector: None,
        session: None,
    };
    if typed.is_proxy() {
        // The query is the proxied server's, and read by it alone.
        return Ok(ApiRequest {
            verb,
            subject: ApiSubject::Resource(typed),
            dry_run: false,
            token: TokenState::Missing,
            identity: None,
            impersonates: None,
        });
    }
    let query = Query::read(query)?;
    if typed.name.is_none() && verb == ApiVerb::Get {
        verb = if query.watch.as_deref().map_or(Ok(false), is_true)? {
            ApiVerb::Watch
        } else {
            ApiVerb::List
        };
        typed.name = query.selected_name()?;
    }
    typed.session = session(&typed, &query)?;
    let dry_run = query.dry_run && holds_to_dry_run(verb, subresource, body);
    if !watched && matches!(verb, ApiVerb::List | ApiVerb::Watch | ApiVerb::DeleteCollection) {
        let some =
            |selector: Cow<'_, str>| Some(selector.into_owned()).filter(|selector| !selector.is_empty());
        typed.label_selector = query.label_selector.and_then(some);
        typed.field_selector = query.field_selector.and_then(some);
    }
    Ok(ApiRequest {
        verb,
        subject: ApiSubject::Resource(typed),
        dry_run,
        token: TokenState::Missing,
        identity: None,
        impersonates: None,
    })
}

/// Whether the server keeps nothing of such a request if the query says so. What opens sessions refuses the parameter, and a
/// token is given out whatever it says.
fn holds_to_dry_run(verb: ApiVerb, subresource: Option<&str>, body: bool) -> bool {
    let verb = match verb {
        ApiVerb::Create | ApiVerb::Update | ApiVerb::Patch => true,
        ApiVerb::Delete | ApiVerb::DeleteCollection => !body,
        _ => false,
    };
    verb && matches!(
        subresource,
        None | Some("status" | "scale" | "eviction" | "binding" | "finalize" | "approval")
            | Some("ephemeralcontainers" | "resize")
    )
}

/// What the query says of an exec, attach or port-forward, by GET as well as by POST.
fn session(resource: &ApiResource, query: &Query<'_>) -> Result<Option<ApiSession>, Doubt> {
    if !resource.group.is_empty() || resource.resource != "pods" {
        return Ok(None);
    }
    let mut session = ApiSession::default();
    match resource.subresource.as_deref() {
        Some(kind @ ("exec" | "attach")) => {
            session.container = query
                .container
                .as_deref()
                .filter(|container| !container.is_empty())
                .map(str::to_owned);
            session.tty = query.tty.as_deref().map_or(Ok(false), is_true)?;
            session.stdin = query.stdin.as_deref().map_or(Ok(false), is_true)?;
            if kind == "exec" {
                session.command = query
                    .command
                    .iter()
                    .map(|word| word.clone().into_owned())
                    .collect();
            }
        }
        Some("portforward") => session.ports = query.ports()?,
        _ => return Ok(None),
    }
    Ok(Some(session))
}

/// What follows a subresource, decoded.
fn proxied(rest: &str, trailing: bool) -> Result<String, Doubt> {
    let mut proxied = String::with_capacity(rest.len() + 2);
    for segment in rest.split('/') {
        proxied.push('/');
        proxied.push_str(&name(segment)?);
    }
    if trailing {
        proxied.push('/');
    }
    Ok(proxied)
}

/// The segments that are left of a path, none of which is empty.
#[derive(Clone, Copy)]
struct Segments<'a>(Option<&'a str>);

impl<'a> Segments<'a> {
    fn new(path: &'a str) -> Self {
        Self(Some(path).filter(|path| !path.is_empty()))
    }

    fn count_is_at_least(&self, count: usize) -> bool {
        self.0
            .is_some_and(|rest| rest.split('/').take(count).count() == count)
    }

    fn next(&mut self) -> Option<&'a str> {
        let (segment, rest) = match self.0?.split_once('/') {
            Some((segment, rest)) => (segment, Some(rest)),
            None => (self.0?, None),
        };
        self.0 = rest;
        Some(segment)
    }

    /// One that is taken as it stands.
    fn plain(&mut self) -> Result<Option<&'a str>, Doubt> {
        self.next().map(plain).transpose()
    }

    /// One that is somebody's name, decoded.
    fn named(&mut self) -> Result<Option<String>, Doubt> {
        self.next()
            .map(|segment| name(segment).map(Cow::into_owned))
            .transpose()
    }

    fn rest(self) -> Option<&'a str> {
        self.0
    }
}

fn plain(segment: &str) -> Result<&str, Doubt> {
    if segment.contains('%') {
        return Err(Doubt::Encoded);
    }
    Ok(segment)
}

/// A name, which some clients encode more of than they would have to: the colon of `system:node`, say.
fn name(segment: &str) -> Result<Cow<'_, str>, Doubt> {
    let name = decoded(segment, false)?;
    if matches!(name, Cow::Owned(_)) {
        if is_dots(&name) {
            return Err(Doubt::Dots);
        }
        if name.contains(|c: char| matches!(c, '/' | '\\' | '%' | ';' | '?' | '#') || c.is_control()) {
            return Err(Doubt::Escape);
        }
    }
    Ok(name)
}

fn is_dots(segment: &str) -> bool {
    matches!(segment, "." | "..")
}

/// RFC 3986, 3.3: what stands in a path, without the semicolon, at which some cut.
fn in_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,=:@%".contains(&byte)
}

/// Any printable character but the space, a fragment's mark, and the semicolon, at which some cut.
fn in_query(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'#' | b';')
}

#[cfg(test)]
mod tests;
