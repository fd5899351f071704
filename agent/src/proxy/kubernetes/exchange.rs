//! One request: from its headers to a verdict, and to the answer.
//!
//! Each request is a task of its own in memory of its own: what few requests need while they wait is boxed, so that the others' tasks stay small.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bailiff_policy::{ApiBody, FieldMasks, type_request};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING,
};
use hyper::{Method, Request, Response, StatusCode, Uri};

use super::answer::Answer;
use super::body::Read;
use super::certified::Refused;
use super::connection::{Connection, Version};
use super::evidence::Account;
use super::held::Held;
use super::masking::{Masked, Told};
use super::status::{Form, Status};
use super::switched::Far;
use super::upstream::{Begun, Failure, Sent};
use super::{impersonation, masking, write};

/// Answers a request: by the API server where policy allows it, otherwise by the agent.
pub(super) async fn answer(connection: &Rc<Connection>, request: Request<Incoming>) -> Response<Answer> {
    let began = Instant::now();
    let target = request
        .uri()
        .path_and_query()
        .map_or_else(|| request.uri().to_string(), |target| target.as_str().to_owned());
    let with_body = !request.body().is_end_stream();
    let mut typed = type_request(request.method().as_str(), &target, with_body);
    let caller = connection.caller.of(request.headers()).await;
    typed.request.token = caller.state;
    typed.request.identity.clone_from(&caller.identity);
    let malformed = match impersonation::of(request.headers()) {
        Ok(other) => {
            typed.request.impersonates = other;
            well_formed(&request, connection.version).err()
        }
        Err(why) => Some(why),
    };
    let acts = connection.caller.is_certified() && typed.request.impersonates.is_some();
    let refused = caller.refused.or(acts.then_some(Refused::Acting));
    let asks = with_body
        && malformed.is_none()
        && refused.is_none()
        && connection.decider.borrow_mut().asks_body(&typed.request);
    let Read {
        mut request,
        body,
        is_empty,
        lost,
    } = if asks {
        Box::pin(Read::of(connection, &typed.request, request)).await
    } else {
        Read::unread(request, with_body)
    };
    if is_empty {
        let again = type_request(request.method().as_str(), &target, false);
        typed.request.dry_run = again.request.dry_run;
    }
    let ruling = connection.decider.borrow_mut().decide(&typed.request, &body);
    let account = Account::open(connection, &request, &target, typed, caller, &ruling, began);
    let form = Form::asked(request.headers());
    if !connection.room_for_another().await {
        account.goes_unrecorded();
        let why = "the agent on this node can't record requests now, and policy lets none pass unrecorded; its log says why";
        return say(&Status::unreachable(why), form, account);
    }
    if let Some(why) = malformed {
        account.refused("malformed");
        return say(&Status::bad_request(why), form, account);
    }
    if let Some(refused) = refused {
        account.refused(refused.as_str());
        return say(&refused.status(), form, account);
    }
    let Some(permit) = ruling.permit() else {
        let status = match ruling.denial() {
            Some(denial) => {
                let status = Status::forbidden(account.request(), account.doubt(), denial);
                match body {
                    ApiBody::Untold(why) if asks => status.with_body(why),
                    _ => status,
                }
            }
            // Uncertainty denies: what isn't allowed is denied, also without words for it.
            None => Status::bad_request("denied by policy"),
        };
        return say(&status, form, account);
    };
    if let Some(status) = lost {
        return say(&status, form, account);
    }
    // What it says is of no use any more, and takes memory.
    drop(body);
    address(&mut request, connection);
    let request = match ruling.fields() {
        None => request,
        Some(masks) => {
            masking::ask(request.headers_mut());
            let looked = Box::pin(write::look(connection, account.request(), masks, request));
            match looked.await {
                Ok(request) => request,
                Err(status) => return say(&status, form, account),
            }
        }
    };
    let request = account.passes(request);
    let forwarded = connection
        .upstream
        .forward(permit, connection, account.request(), request);
    match forwarded.await {
        Ok(Begun { mut response, parted }) => {
            account.began(response.status().as_u16());
            account.told(response.headers());
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                match parted {
                    Some(parted) => connection.switches(Far::new(parted, account.clone())),
                    None => return say(&Status::lost(), form, account),
                }
            }
            // The two legs are kept open each for itself.
            if connection.version == Version::Http2 {
                response.headers_mut().remove("connection");
                // No two answers have the same: in HPACK's table it would be compared with all that came before, and push out what comes
                // again. That was a twentieth of a small read's cost.
                if let Some(id) = response.headers_mut().get_mut("audit-id") {
                    id.set_sensitive(true);
                }
            }
            match ruling.fields() {
                None => {
                    account.answers(response.headers());
                    response.map(|body| Answer::passed(body, account))
                }
                Some(masks) => {
                    let held = Held::of_answer(connection);
                    Box::pin(masked(masks, response, form, account, held)).await
                }
            }
        }
        Err(Failure::Denied(denial)) => {
            let status = Status::forbidden(account.request(), account.doubt(), &denial);
            say(&status, form, account)
        }
        Err(Failure::Certificate(refused)) => {
            account.refused(refused.as_str());
            say(&refused.status(), form, account)
        }
        Err(Failure::Unreachable(end)) => {
            tracing::warn!(reason = end.reason(), %end, "the API server can't be reached");
            let why = "the agent on this node can't reach the API server; its log says why";
            say(&Status::unreachable(why), form, account)
        }
        Err(Failure::Lost(error)) => {
            tracing::warn!(%error, "the API server went away before it answered");
            say(&Status::lost(), form, account)
        }
    }
}

/// An answer with fields masked, or why it is none.
async fn masked(
    masks: &Arc<FieldMasks>,
    response: Response<Incoming>,
    form: Form,
    account: Account,
    held: Held,
) -> Response<Answer> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS || response.body().is_end_stream() {
        return response.map(|body| Answer::passed(body, account));
    }
    let Some(told) = Told::of(account.request(), &response) else {
        let code = response.status();
        return say(&Status::unmaskable(code), form, account);
    };
    let (head, mut body) = Masked::new(told, masks, response, held).into_parts();
    if told.begins()
        && let Err(why) = body.begin().await
    {
        tracing::warn!(%why, "an answer was withheld: its fields can't be masked");
        return say(&why.status(), form, account);
    }
    account.answers(&head.headers);
    Response::from_parts(head, Answer::Masked(Box::new(body), account))
}

/// What is no API request, or could be read in two ways.
fn well_formed(request: &Request<Incoming>, version: Version) -> Result<(), &'static str> {
    let (uri, headers) = (request.uri(), request.headers());
    if request.method() == Method::CONNECT {
        return Err("CONNECT is for proxies, and this is none");
    }
    if version == Version::Http1 && (uri.authority().is_some() || uri.path_and_query().is_none()) {
        return Err("the request's target must be a path");
    }
    if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) {
        return Err("the request has both a Content-Length and a Transfer-Encoding");
    }
    // Whoever stands between might take what is named there for its own, and drop it: then the request would be another's.
    let named = |value: &HeaderValue| {
        let value = value.as_bytes().to_ascii_lowercase();
        [impersonation::PREFIX, AUTHORIZATION.as_str()]
            .iter()
            .any(|name| value.windows(name.len()).any(|part| part == name.as_bytes()))
    };
    if headers.get_all(CONNECTION).iter().any(named) {
        return Err("the Connection header names one that says who the request is");
    }
    for name in [HOST, AUTHORIZATION, CONTENT_LENGTH] {
        if count(headers, &name) > 1 {
            return Err("a header that may be given once is given several times");
        }
    }
    Ok(())
}

fn count(headers: &HeaderMap, name: &hyper::header::HeaderName) -> usize {
    headers.get_all(name).iter().count()
}

/// HTTP/2 names scheme and authority with each request; a client may have left them out.
fn address(request: &mut Request<Sent>, connection: &Connection) {
    if connection.version == Version::Http1 {
        return;
    }
    let mut parts = request.uri().clone().into_parts();
    if parts.scheme.is_none() {
        parts.scheme = Some(hyper::http::uri::Scheme::HTTPS);
    }
    if parts.authority.is_none() {
        let named = request
            .headers()
            .get(HOST)
            .and_then(|host| host.to_str().ok())
            .and_then(|host| host.parse().ok());
        let dialed = || connection.session.destination.get().to_string().parse().ok();
        parts.authority = named.or_else(dialed);
    }
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

fn say(status: &Status, form: Form, account: Account) -> Response<Answer> {
    account.began(status.code());
    status
        .response(form)
        .map(|body: Full<Bytes>| Answer::Said(body, account))
}
