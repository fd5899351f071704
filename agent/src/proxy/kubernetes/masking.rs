//! Answers with masked fields: what the API server says passes through the masks on its way, an object at a time.

use std::collections::VecDeque;
use std::fmt;
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bailiff_model::{ApiRequest, ApiSubject, ApiVerb};
use bailiff_policy::FieldMasks;
use bailiff_wire::kubernetes::schema::{self, Type};
use bailiff_wire::kubernetes::{Format, Malformed, Shape, Stream};
use bytes::Bytes;
use flate2::write::GzDecoder;
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue,
};
use hyper::{Response, StatusCode};

use super::held::{Held, NoRoom};
use super::status::Status;
use crate::mask::FieldMasker;

/// Compressed bytes that are unpacked at a time: gzip makes at most some thousand of one, which bounds what is held.
const UNPACKED_AT_ONCE: usize = 2 * 1024;

/// What is handed on at a time: what the connection hasn't written yet of it is the only part of an answer that isn't counted.
const HANDED_ON: usize = 64 * 1024;

/// Why an answer isn't passed on, or not to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Withheld {
    /// It can't be looked at.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// It isn't compressed as it says.
    #[error("the body isn't compressed as it says")]
    Packed,
    /// The server went away.
    #[error("the API server went away: {0}")]
    Lost(#[from] hyper::Error),
    /// It is too large for what there is.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

impl Withheld {
    /// What the client is told in place of the answer.
    pub(super) fn status(&self) -> Status {
        match self {
            Self::NoRoom(_) => Status::no_room(),
            why => Status::withheld(&why.to_string()),
        }
    }
}

/// Asks for no compression that can't be undone.
pub(super) fn ask(headers: &mut HeaderMap) {
    let takes_gzip = headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.split(';').next().unwrap_or_default().trim() == "gzip");
    headers.insert(
        ACCEPT_ENCODING,
        HeaderValue::from_static(if takes_gzip { "gzip" } else { "identity" }),
    );
    // A part of an object can't be looked at.
    headers.remove("range");
    headers.remove("if-none-match");
}

/// What an answer's body is, where its fields can be looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    format: Format,
    shape: Shape,
    packed: bool,
    reads: bool,
    /// The type of the resource's objects.
    of: Type,
}

impl Told {
    /// By the request and the answer's head.
    pub(super) fn of<B>(asked: &ApiRequest, response: &Response<B>) -> Option<Self> {
        let text = |name| Some(response.headers().get(name)?.to_str().ok()?.to_ascii_lowercase());
        let kind = text(CONTENT_TYPE)?;
        let packed = match text(CONTENT_ENCODING).as_deref() {
            None if response.headers().contains_key(CONTENT_ENCODING) => return None,
            None | Some("identity" | "") => false,
            Some("gzip") => true,
            Some(_) => return None,
        };
        let format = Format::of_media(kind.split(';').next().unwrap_or_default().trim())?;
        let shape = match asked.verb {
            _ if response.status() != StatusCode::OK => Shape::Object,
            ApiVerb::Watch => Shape::Watch,
            ApiVerb::List | ApiVerb::DeleteCollection => Shape::List,
            _ => Shape::Object,
        };
        Some(Self {
            format,
            shape,
            packed,
            of: type_of(asked),
            reads: matches!(asked.verb, ApiVerb::Get | ApiVerb::List | ApiVerb::Watch),
        })
    }

    /// Whether something of it comes at once. Of a watch nothing may come for hours.
    pub(super) fn begins(self) -> bool {
        self.shape != Shape::Watch
    }
}

/// The type of the objects that a request is about, where it's a built-in one.
pub(super) fn type_of(asked: &ApiRequest) -> Type {
    let ApiSubject::Resource(resource) = &asked.subject else {
        return Type::UNKNOWN;
    };
    // A subresource's objects may be of another kind, and say so.
    if resource.subresource.is_some() {
        return Type::UNKNOWN;
    }
    let version = if resource.group.is_empty() {
        resource.version.clone()
    } else {
        format!("{}/{}", resource.group, resource.version)
    };
    schema::of_resource(&version, &resource.resource).unwrap_or(Type::UNKNOWN)
}

/// An answer's body on its way through the masks.
pub(super) struct Masked {
    body: Incoming,
    unpack: Option<Box<GzDecoder<Vec<u8>>>>,
    stream: Stream,
    masker: FieldMasker,
    ready: VecDeque<Bytes>,
    made: Vec<Bytes>,
    ended: bool,
    /// Bytes of what is ready, until all of it was taken: its pieces may share their memory.
    waiting: usize,
    held: Held,
}

impl fmt::Debug for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Masked")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl Masked {
    /// Begins, and has the answer's head say no more than is true then.
    pub(super) fn new(
        told: Told,
        masks: &Arc<FieldMasks>,
        response: Response<Incoming>,
        held: Held,
    ) -> Response<Self> {
        let (mut head, body) = response.into_parts();
        for name in [CONTENT_LENGTH, CONTENT_ENCODING, ETAG] {
            head.headers.remove(name);
        }
        let masked = Self {
            body,
            unpack: told.packed.then(|| Box::new(GzDecoder::new(Vec::new()))),
            stream: Stream::new(told.format, told.shape, told.of),
            masker: FieldMasker::new(Arc::clone(masks), !told.reads),
            ready: VecDeque::new(),
            made: Vec::new(),
            ended: false,
            waiting: 0,
            held,
        };
        Response::from_parts(head, masked)
    }

    /// How many values were masked since this was asked last.
    pub(super) fn take_masked(&mut self) -> u64 {
        self.masker.take_masked()
    }

    /// Waits for the first bytes that may be passed on: until then, what is wrong can be said as an answer.
    ///
    /// Cancel-safe: what came is kept.
    pub(super) async fn begin(&mut self) -> Result<(), Withheld> {
        std::future::poll_fn(|cx| self.poll_ready(cx)).await
    }

    /// Whether all was taken.
    pub(super) fn is_done(&self) -> bool {
        self.ended && self.ready.is_empty()
    }

    /// Takes what may be passed on next; `None` at the end.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Withheld>>> {
        if let Err(why) = ready!(self.poll_ready(cx)) {
            self.ended = true;
            self.ready.clear();
            return Poll::Ready(Some(Err(why)));
        }
        Poll::Ready(self.next().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn next(&mut self) -> Option<Bytes> {
        let first = self.ready.front_mut()?;
        if first.len() > HANDED_ON {
            return Some(first.split_to(HANDED_ON));
        }
        let bytes = self.ready.pop_front();
        if self.ready.is_empty() {
            self.waiting = 0;
            // It has become less.
            let _ = self.held.set(self.stream.held());
        }
        bytes
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Withheld>> {
        while self.ready.is_empty() && !self.ended {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    // Trailers tell nothing in this protocol.
                    if let Ok(data) = frame.into_data() {
                        self.take(&data)?;
                    }
                }
                Some(Err(error)) => return Poll::Ready(Err(error.into())),
                None => {
                    self.ended = true;
                    self.finish()?;
                }
            }
            self.held.set(self.stream.held() + self.waiting)?;
        }
        Poll::Ready(Ok(()))
    }

    fn take(&mut self, data: &Bytes) -> Result<(), Withheld> {
        let Some(unpack) = &mut self.unpack else {
            self.stream.feed(data, &mut self.masker, &mut self.made)?;
            self.pass();
            return Ok(());
        };
        for piece in data.chunks(UNPACKED_AT_ONCE) {
            unpack.write_all(piece).map_err(|_| Withheld::Packed)?;
            let plain = Bytes::from(std::mem::take(unpack.get_mut()));
            if !plain.is_empty() {
                self.stream.feed(&plain, &mut self.masker, &mut self.made)?;
            }
        }
        self.pass();
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Withheld> {
        if let Some(mut unpack) = self.unpack.take() {
            unpack.try_finish().map_err(|_| Withheld::Packed)?;
            let plain = Bytes::from(std::mem::take(unpack.get_mut()));
            if !plain.is_empty() {
                self.stream.feed(&plain, &mut self.masker, &mut self.made)?;
            }
        }
        self.stream.finish(&mut self.masker, &mut self.made)?;
        self.pass();
        Ok(())
    }

    /// What was made may be passed on.
    fn pass(&mut self) {
        for bytes in self.made.drain(..).filter(|bytes| !bytes.is_empty()) {
            self.waiting += bytes.len();
            self.ready.push_back(bytes);
        }
    }
}
