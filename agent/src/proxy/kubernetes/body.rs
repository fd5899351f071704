//! Bodies that are looked at before they are passed on: for what rules ask of them, and for masked values that are written back.
//!
//! A body is held whole, up to what the API server itself takes, counted into the worker's memory, and for a bounded time.

use std::rc::Rc;
use std::time::Duration;

use bailiff_model::{ApiRequest, ApiSubject, ApiVerb};
use bailiff_policy::{ApiBody, BodyForm, Untold};
use bailiff_wire::kubernetes::schema::{self, Type};
use bailiff_wire::kubernetes::{Format, read};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use tokio::time::timeout;

use super::connection::Connection;
use super::held::{Held, NoRoom};
use super::masking::type_of;
use super::status::Status;
use super::upstream::Sent;

/// Bytes of a body that are looked at: what the API server itself takes. (`MaxRequestBodyBytes`.)
pub(super) const MAX_BODY: usize = 3 * 1024 * 1024;

/// How long a body may take: as long as the API server gives a whole request. (`--request-timeout`.)
const BODY_WITHIN: Duration = Duration::from_secs(60);

/// A request whose body was looked at, as far as it could be.
pub(super) struct Read {
    /// With its body as it came.
    pub(super) request: Request<Sent>,
    pub(super) body: ApiBody,
    /// Whether a delete came without options: then those in its query count.
    pub(super) is_empty: bool,
    /// Why it can't be passed on, whatever policy says.
    pub(super) lost: Option<Status>,
}

impl Read {
    /// One whose body nobody asks for.
    pub(super) fn unread(request: Request<Incoming>, with_body: bool) -> Self {
        let body = if with_body {
            ApiBody::Untold(Untold::Unread)
        } else {
            ApiBody::Absent
        };
        Self {
            request: request.map(Sent::Passed),
            body,
            is_empty: false,
            lost: None,
        }
    }

    /// Reads a body that rules ask for. What can't be read goes on as it comes, where policy lets it.
    ///
    /// Cancelling it ends the request.
    pub(super) async fn of(
        connection: &Rc<Connection>,
        asked: &ApiRequest,
        request: Request<Incoming>,
    ) -> Self {
        let (head, body) = request.into_parts();
        let untold = |sent: Sent, why| Self {
            request: Request::from_parts(head.clone(), sent),
            body: ApiBody::Untold(why),
            is_empty: false,
            lost: None,
        };
        if is_encoded(&head.headers) {
            return untold(Sent::Passed(body), Untold::Encoded);
        }
        let Some((form, format)) = form(&head.headers) else {
            return untold(Sent::Passed(body), Untold::Media);
        };
        if body.size_hint().lower() > MAX_BODY as u64 {
            // The server refuses it by the same length.
            return untold(Sent::Passed(body), Untold::Long);
        }
        let whole = match whole(connection, body, MAX_BODY).await {
            Ok(whole) => whole,
            Err(why) => {
                return Self {
                    lost: Some(why.status(MAX_BODY)),
                    ..untold(Sent::nothing(), why.untold())
                };
            }
        };
        let deletes = matches!(asked.verb, ApiVerb::Delete | ApiVerb::DeleteCollection);
        let is_empty = whole.bytes.is_empty() && deletes;
        let body = match told(asked, form, format, &whole.bytes) {
            _ if is_empty => ApiBody::Absent,
            Some(value) => ApiBody::told(asked, form, value),
            // Uncertainty denies.
            None => ApiBody::Untold(Untold::Form),
        };
        Self {
            request: Request::from_parts(head, Sent::from(whole)),
            body,
            is_empty,
            lost: None,
        }
    }
}

fn told(asked: &ApiRequest, form: BodyForm, format: Format, bytes: &Bytes) -> Option<serde_json::Value> {
    let of = match form {
        BodyForm::Operations => None,
        _ => kind_of(asked),
    };
    read(format_of(format, bytes), of, bytes).ok()
}

/// The type of what is sent, where that is known.
fn kind_of(asked: &ApiRequest) -> Option<Type> {
    if matches!(asked.verb, ApiVerb::Delete | ApiVerb::DeleteCollection) {
        return schema::lookup("v1", "DeleteOptions");
    }
    let ApiSubject::Resource(resource) = &asked.subject else {
        return None;
    };
    match (resource.resource.as_str(), resource.subresource.as_deref()) {
        ("pods", Some("ephemeralcontainers")) => schema::lookup("v1", "Pod"),
        _ => Some(type_of(asked)).filter(|of| !of.is_unknown()),
    }
}

/// A body as a whole, and the memory that it takes.
pub(super) struct Whole {
    pub(super) bytes: Bytes,
    pub(super) held: Held,
}

/// Why a body isn't there as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotWhole {
    Long,
    Late,
    Broken,
    NoRoom,
}

impl From<NoRoom> for NotWhole {
    fn from(_: NoRoom) -> Self {
        Self::NoRoom
    }
}

impl NotWhole {
    /// What the client is told of its own body.
    pub(super) fn status(self, most: usize) -> Status {
        match self {
            Self::Long => Status::too_large(most),
            Self::Late => Status::late("the request's body didn't come to its end in time"),
            Self::Broken => Status::bad_request("the request's body broke off"),
            Self::NoRoom => Status::busy("the agent on this node has no memory left for the request's body"),
        }
    }

    fn untold(self) -> Untold {
        match self {
            Self::Long => Untold::Long,
            Self::Late | Self::Broken => Untold::Lost,
            Self::NoRoom => Untold::Memory,
        }
    }
}

/// Collects a body. Each piece is copied: one may lie in a buffer that is much larger.
///
/// Cancelling it loses what came.
pub(super) async fn whole<B>(connection: &Connection, body: B, most: usize) -> Result<Whole, NotWhole>
where
    B: Body<Data = Bytes> + Unpin,
{
    let collected = timeout(BODY_WITHIN, collect(connection, body, most)).await;
    collected.unwrap_or(Err(NotWhole::Late))
}

async fn collect<B>(connection: &Connection, mut body: B, most: usize) -> Result<Whole, NotWhole>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut held = Held::new(&connection.shared);
    let mut bytes: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| NotWhole::Broken)?;
        // Trailers tell nothing in this protocol.
        let Ok(data) = frame.into_data() else { continue };
        let length = bytes.len() + data.len();
        if length > most {
            return Err(NotWhole::Long);
        }
        if length > bytes.capacity() {
            let room = length.max(2 * bytes.capacity()).min(most);
            held.grow(room - bytes.capacity())?;
            bytes.reserve_exact(room - bytes.len());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Whole {
        bytes: Bytes::from(bytes),
        held,
    })
}

/// Whether a body is compressed, which the API server doesn't undo.
pub(super) fn is_encoded(headers: &HeaderMap) -> bool {
    headers.contains_key(CONTENT_ENCODING)
}

/// What the body is, by its Content-Type.
pub(super) fn form(headers: &HeaderMap) -> Option<(BodyForm, Format)> {
    let told = headers
        .get(CONTENT_TYPE)
        .map(|value| value.to_str().unwrap_or("?"));
    // Without one the server takes it for JSON.
    let told = told.unwrap_or("application/json");
    let media = told.split(';').next().unwrap_or_default().trim();
    Some(match media.to_ascii_lowercase().as_str() {
        "application/json" => (BodyForm::Object, Format::Json),
        "application/yaml" => (BodyForm::Object, Format::Yaml),
        "application/vnd.kubernetes.protobuf" => (BodyForm::Object, Format::Protobuf),
        "application/cbor" => (BodyForm::Object, Format::Cbor),
        "application/json-patch+json" => (BodyForm::Operations, Format::Json),
        "application/merge-patch+json" => (BodyForm::Merge, Format::Json),
        "application/strategic-merge-patch+json" => (BodyForm::Strategic, Format::Json),
        "application/apply-patch+yaml" => (BodyForm::Apply, Format::Yaml),
        "application/apply-patch+cbor" => (BodyForm::Apply, Format::Cbor),
        _ => return None,
    })
}

/// JSON is YAML, and what most clients apply.
pub(super) fn format_of(format: Format, body: &[u8]) -> Format {
    if format == Format::Yaml && body.trim_ascii_start().first() == Some(&b'{') {
        return Format::Json;
    }
    format
}
