//! What clients write back: a masked value that comes back stands for the one that it hides, which must neither be lost nor be
//! written somewhere else.
//!
//! A body is held whole and walked as answers are. Where it has values in masked fields, the object is read once more, with the
//! caller's own headers, and each value that equals the mask of the one in the same place becomes that one again. The object that
//! was read is pinned by its `resourceVersion`, so that nothing but it can be written. What remains of placeholders is refused.

mod json_patch;
mod restore;

use std::rc::Rc;
use std::sync::Arc;

use bailiff_model::{ApiRequest, ApiSubject, ApiVerb};
use bailiff_policy::{ApiBody, BodyForm, FieldMasks, type_request};
use bailiff_wire::kubernetes::schema::Type;
use bailiff_wire::kubernetes::{Format, Malformed, object};
use bytes::Bytes;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, TRANSFER_ENCODING};
use hyper::{Method, Request, StatusCode, Version};

use self::restore::{Originals, Restorer};
use super::body::{MAX_BODY, NotWhole, Whole, form, format_of, is_encoded, whole};
use super::connection::Connection;
use super::held::Held;
use super::masking::type_of;
use super::status::Status;
use super::upstream::{Begun, Leaving, Sent};

/// Bytes of an object that is read to restore what a client writes back.
const MAX_ORIGINAL: usize = 16 * 1024 * 1024;

/// Looks at what a request writes, and returns it as it may go on.
pub(super) async fn look(
    connection: &Rc<Connection>,
    asked: &ApiRequest,
    masks: &Arc<FieldMasks>,
    request: Request<Sent>,
) -> Result<Request<Sent>, Status> {
    let (mut head, body) = request.into_parts();
    if !matches!(asked.verb, ApiVerb::Create | ApiVerb::Update | ApiVerb::Patch) {
        // Options of a delete; nothing of it is kept.
        return Ok(Request::from_parts(head, body));
    }
    if is_encoded(&head.headers) {
        return Err(Status::unsupported(
            "a body with a Content-Encoding can't be looked at",
        ));
    }
    let came = match body {
        Sent::Passed(body) => whole(connection, body, MAX_BODY).await,
        Sent::Whole(_, Some(whole)) => Ok(whole),
        Sent::Whole(_, None) => return Ok(Request::from_parts(head, body)),
    };
    let mut came = came.map_err(|why| why.status(MAX_BODY))?;
    let body = came.bytes.clone();
    let (kind, format) = form(&head.headers).ok_or_else(|| {
        Status::unsupported("fields of this resource are masked, so that what is written to it must be JSON, YAML, protobuf or CBOR")
    })?;
    let format = format_of(format, &body);
    if kind == BodyForm::Operations {
        json_patch::check(&body, masks)?;
        return Ok(Request::from_parts(head, Sent::from(came)));
    }
    let creates = asked.verb == ApiVerb::Create;
    // A part of an object doesn't say of which kind it is.
    let of = Some(type_of(asked)).filter(|of| !of.is_unknown());
    let mut written = Restorer::over(masks, asked, None);
    walk(format, of, &body, &mut written)?;
    if creates || !written.touches_masked() {
        written.check_placeholders(creates)?;
        return Ok(Request::from_parts(head, Sent::from(came)));
    }
    let Some((originals, _held)) = read(connection, asked, masks, &head).await? else {
        written.check_placeholders(false)?;
        return Ok(Request::from_parts(head, Sent::from(came)));
    };
    let mut restorer = Restorer::over(masks, asked, Some(&originals));
    let mut restored = walk(format, of, &body, &mut restorer)?.unwrap_or_else(|| body.clone());
    restorer.check_placeholders(false)?;
    if restorer.restored() == 0 {
        return Ok(Request::from_parts(head, Sent::from(came)));
    }
    restorer.check_lists()?;
    if !restorer.is_pinned(&originals)? {
        let is_part = !matches!(kind, BodyForm::Object | BodyForm::Operations);
        if !is_part || format != Format::Json {
            return Err(Status::invalid(
                "the object carries masked values and no metadata.resourceVersion, so that it can't be told what they stand for; write it with the resourceVersion that it was read with",
            ));
        }
        restored = restore::pin(&restored, &originals)?;
    }
    head.headers.remove(TRANSFER_ENCODING);
    if head.headers.contains_key(CONTENT_LENGTH) {
        head.headers
            .insert(CONTENT_LENGTH, HeaderValue::from(restored.len()));
    }
    let more = restored.len().saturating_sub(body.len());
    came.held
        .grow(more)
        .map_err(|why| NotWhole::from(why).status(MAX_BODY))?;
    came.bytes = restored;
    Ok(Request::from_parts(head, Sent::from(came)))
}

/// Walks one object, and returns what it became where that's something else.
fn walk(
    format: Format,
    of: Option<Type>,
    body: &[u8],
    fields: &mut Restorer<'_>,
) -> Result<Option<Bytes>, Status> {
    let mut out = Vec::new();
    match object(format, of, body, fields, &mut out) {
        Ok(changed) => Ok(changed.then(|| Bytes::from(out))),
        Err(Malformed::Kind) => Err(Status::unsupported(
            "fields of this resource are masked, and its kind isn't known in this format; write it as JSON",
        )),
        Err(why) => Err(Status::bad_request(&format!(
            "what is written can't be looked at: {why}"
        ))),
    }
}

/// The object as it is now, read as the caller, where the caller may read it.
async fn read(
    connection: &Rc<Connection>,
    written: &ApiRequest,
    masks: &Arc<FieldMasks>,
    head: &hyper::http::request::Parts,
) -> Result<Option<(Originals, Held)>, Status> {
    let mut parts = head.uri.clone().into_parts();
    parts.path_and_query = head.uri.path().parse().ok();
    let Ok(uri) = hyper::Uri::from_parts(parts) else {
        return Ok(None);
    };
    let typed = type_request("GET", head.uri.path(), false);
    let mut asked = typed.request;
    asked.token = written.token;
    asked.identity.clone_from(&written.identity);
    asked.impersonates.clone_from(&written.impersonates);
    if !matches!(asked.subject, ApiSubject::Resource(_)) {
        return Ok(None);
    }
    let ruling = connection.decider.borrow_mut().decide(&asked, &ApiBody::Absent);
    let Some(permit) = ruling.permit() else {
        return Ok(None);
    };
    let mut request = Request::new(Leaving::from(Sent::nothing()));
    *request.method_mut() = Method::GET;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_11;
    for (name, value) in &head.headers {
        let who = matches!(name.as_str(), "authorization" | "host" | "user-agent")
            || name.as_str().starts_with(super::impersonation::PREFIX);
        if who {
            request.headers_mut().append(name.clone(), value.clone());
        }
    }
    request
        .headers_mut()
        .insert(ACCEPT, HeaderValue::from_static("application/json"));
    request
        .headers_mut()
        .insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let forwarded = connection.upstream.forward(permit, connection, &asked, request);
    let Ok(Begun { response, .. }) = forwarded.await else {
        return Err(Status::unreachable(
            "the API server can't be asked what the masked values in this request stand for; nothing was written",
        ));
    };
    let is_json = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.starts_with("application/json"));
    let (status, body) = (response.status(), response.into_body());
    let original = match whole(connection, body, MAX_ORIGINAL).await {
        Ok(original) => original,
        Err(why @ NotWhole::NoRoom) => return Err(why.status(MAX_ORIGINAL)),
        Err(_) => return Ok(None),
    };
    if status != StatusCode::OK || !is_json {
        return Ok(None);
    }
    let Whole { bytes, held } = original;
    Ok(Originals::of(&bytes, masks).map(|originals| (originals, held)))
}
