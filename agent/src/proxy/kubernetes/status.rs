//! What the agent answers by itself: a `Status`, as the API server's own errors are.
//!
//! Source: `k8s.io/apimachinery/pkg/apis/meta/v1`, `Status` and its `generated.proto`.

use bailiff_model::{ApiRequest, ApiSubject};
use bailiff_policy::{Denial, Doubt, Untold};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Serialize;

/// The type of protobuf in the API.
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// An error of the agent's own.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    kind: &'static str,
    api_version: &'static str,
    metadata: Nothing,
    status: &'static str,
    message: String,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Box<Details>>,
    code: u16,
    /// Whether the request surely had no effect, so that it may be sent again.
    #[serde(skip)]
    again: bool,
}

#[derive(Debug, Serialize)]
struct Nothing {}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    kind: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    causes: Vec<Cause>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u8>,
}

#[derive(Debug, Serialize)]
struct Cause {
    reason: &'static str,
    message: String,
}

impl Status {
    fn new(code: StatusCode, reason: &'static str, message: String) -> Self {
        Self {
            kind: "Status",
            api_version: "v1",
            metadata: Nothing {},
            status: "Failure",
            message,
            reason,
            details: None,
            code: code.as_u16(),
            again: false,
        }
    }

    /// Policy doesn't allow it. Worded as the server's own refusals, so that tools say it as they say those.
    pub(super) fn forbidden(request: &ApiRequest, doubt: Option<Doubt>, denial: &Denial) -> Self {
        let mut details = Details::default();
        let what = match &request.subject {
            ApiSubject::Resource(resource) => {
                details.name = resource.name.clone().unwrap_or_default();
                details.group.clone_from(&resource.group);
                details.kind.clone_from(&resource.resource);
                let mut what = resource.resource.clone();
                if !resource.group.is_empty() {
                    what = format!("{what}.{}", resource.group);
                }
                if let Some(subresource) = &resource.subresource {
                    what = format!("{what}/{subresource}");
                }
                match details.name.as_str() {
                    "" => format!("{what} is forbidden"),
                    name => format!("{what} {name:?} is forbidden"),
                }
            }
            ApiSubject::Path(path) => format!("forbidden: {} {path:?}", request.verb),
            ApiSubject::Unknown => match doubt {
                Some(doubt) => format!("forbidden: it can't be told what this request does, since {doubt}"),
                None => "forbidden: it can't be told what this request does".to_owned(),
            },
        };
        details.causes.push(Cause {
            reason: "PolicyDenied",
            message: denial.reason.to_string(),
        });
        let message = format!("{what}: {} ({})", denial.message, denial.reason);
        Self {
            details: Some(Box::new(details)),
            ..Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
        }
    }

    /// Says, too, why rules that look into its body couldn't.
    pub(super) fn with_body(mut self, untold: Untold) -> Self {
        let why = format!("its body can't be told, since {untold}");
        self.message = format!("{}; {why}", self.message);
        if let Some(details) = &mut self.details {
            details.causes.push(Cause {
                reason: "BodyUntold",
                message: why,
            });
        }
        self
    }

    /// The request isn't one that the agent passes, whatever policy says.
    pub(super) fn bad_request(why: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", why.to_owned())
    }

    /// Who it is can't be told, or isn't taken.
    pub(super) fn unauthorized(why: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", why.to_owned())
    }

    /// The agent doesn't pass it, whatever policy says.
    pub(super) fn refused(why: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", why.to_owned())
    }

    /// What is written can't be taken, and why.
    pub(super) fn invalid(why: &str) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", why.to_owned())
    }

    /// The object isn't as it was.
    pub(super) fn conflict(why: &str) -> Self {
        Self::new(StatusCode::CONFLICT, "Conflict", why.to_owned())
    }

    /// What is written is in a format that can't be looked at.
    pub(super) fn unsupported(why: &str) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            why.to_owned(),
        )
    }

    /// What is written is larger than so many bytes.
    pub(super) fn too_large(most: usize) -> Self {
        let why = format!("the request is larger than {most} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", why)
    }

    /// The client took too long.
    pub(super) fn late(why: &str) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "Timeout", why.to_owned())
    }

    /// There is too much under way. The API server didn't get the request.
    pub(super) fn busy(why: &str) -> Self {
        Self {
            details: Some(Box::new(Details {
                retry_after_seconds: Some(1),
                ..Details::default()
            })),
            again: true,
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", why.to_owned())
        }
    }

    /// The answer is in a format that can't be looked at. Errors keep their code.
    pub(super) fn unmaskable(code: StatusCode) -> Self {
        let why = "fields of this resource are masked, and the answer is in a format that can't be looked at";
        if code.is_success() || code.is_redirection() {
            return Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", why.to_owned());
        }
        Self::new(code, "", format!("the API server refused the request; {why}"))
    }

    /// The answer can't be masked; what the request did isn't undone.
    pub(super) fn withheld(why: &str) -> Self {
        let why = format!("the API server's answer is withheld, since its fields can't be masked: {why}");
        Self::new(StatusCode::BAD_GATEWAY, "ServiceUnavailable", why)
    }

    /// There is no memory for the answer; what the request did isn't undone.
    pub(super) fn no_room() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "ServiceUnavailable",
            "the answer is withheld: the agent on this node has no memory left to mask it; ask for less at once, or again later"
                .to_owned(),
        )
    }

    /// The API server can't be reached, and didn't get the request.
    pub(super) fn unreachable(why: &str) -> Self {
        Self {
            details: Some(Box::new(Details {
                retry_after_seconds: Some(1),
                ..Details::default()
            })),
            again: true,
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "ServiceUnavailable",
                why.to_owned(),
            )
        }
    }

    /// The API server went away before it answered; what it did isn't known.
    pub(super) fn lost() -> Self {
        Self::new(
            StatusCode::BAD_GATEWAY,
            "ServiceUnavailable",
            "the API server closed the connection before it answered; whether the request took effect isn't known".to_owned(),
        )
    }

    /// Its code.
    pub(super) fn code(&self) -> u16 {
        self.code
    }

    /// The answer, in the form that the client asks for.
    pub(super) fn response(&self, form: Form) -> Response<Full<Bytes>> {
        let (kind, body) = match form {
            Form::Protobuf => (PROTOBUF, self.protobuf()),
            // Its types can't fail to be written.
            Form::Json => ("application/json", serde_json::to_vec(self).unwrap_or_default()),
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        // What the server's own errors have, too.
        headers.insert("cache-control", HeaderValue::from_static("no-cache, private"));
        headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
        if self.again {
            // Clients of the API send it again after that.
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    fn protobuf(&self) -> Vec<u8> {
        let mut status = Vec::new();
        field(&mut status, 1, &[]);
        field(&mut status, 2, self.status.as_bytes());
        field(&mut status, 3, self.message.as_bytes());
        field(&mut status, 4, self.reason.as_bytes());
        if let Some(details) = &self.details {
            let mut inner = Vec::new();
            field(&mut inner, 1, details.name.as_bytes());
            field(&mut inner, 2, details.group.as_bytes());
            field(&mut inner, 3, details.kind.as_bytes());
            for cause in &details.causes {
                let mut one = Vec::new();
                field(&mut one, 1, cause.reason.as_bytes());
                field(&mut one, 2, cause.message.as_bytes());
                field(&mut one, 3, &[]);
                field(&mut inner, 4, &one);
            }
            number(&mut inner, 5, details.retry_after_seconds.unwrap_or(0).into());
            field(&mut status, 5, &inner);
        }
        number(&mut status, 6, self.code.into());
        let mut kind = Vec::new();
        field(&mut kind, 1, self.api_version.as_bytes());
        field(&mut kind, 2, self.kind.as_bytes());
        let mut envelope = b"k8s\0".to_vec();
        field(&mut envelope, 1, &kind);
        field(&mut envelope, 2, &status);
        field(&mut envelope, 3, &[]);
        field(&mut envelope, 4, &[]);
        envelope
    }
}

/// In which form a client wants its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// JSON, which is also for those that ask for something else.
    Json,
    /// Protobuf in the API's envelope.
    Protobuf,
}

impl Form {
    /// The first of those that the client takes.
    pub(super) fn asked(headers: &HeaderMap) -> Self {
        headers
            .get_all(ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(|range| range.split(';').next().unwrap_or_default().trim())
            .find_map(|range| match range {
                PROTOBUF => Some(Self::Protobuf),
                "application/json" | "application/*" | "*/*" => Some(Self::Json),
                _ => None,
            })
            .unwrap_or(Self::Json)
    }
}

/// A length-delimited field of protobuf.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn number(out: &mut Vec<u8>, number: u8, value: u64) {
    out.push(number << 3);
    varint(out, value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
