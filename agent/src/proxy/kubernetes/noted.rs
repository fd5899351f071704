//! Bodies that are kept for the record while they pass.

use std::rc::Rc;

use bailiff_wire::kubernetes::Format;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName};

use super::held::Held;
use crate::proxy::worker::WorkerShared;
use crate::record::Body;

/// A body that is kept up to a size. Past that nothing of it is: half an object is none.
pub(super) struct Noted {
    held: Held,
    body: Body,
    most: usize,
}

impl Noted {
    /// Begins, where the headers say that it's an object, or a patch of one.
    pub(super) fn new(shared: &Rc<WorkerShared>, headers: &HeaderMap, most: u32) -> Option<Self> {
        let text = |name: HeaderName| match headers.get(name).map(|value| value.to_str()) {
            None => Some(String::new()),
            Some(Ok(text)) => Some(text.to_ascii_lowercase()),
            Some(Err(_)) => None,
        };
        let kind = text(CONTENT_TYPE)?;
        let packed = match text(CONTENT_ENCODING)?.as_str() {
            "" | "identity" => false,
            "gzip" => true,
            _ => return None,
        };
        let (format, is_patch) = match kind.split(';').next().unwrap_or_default().trim() {
            // Without one the server takes it for JSON.
            "" => (Format::Json, false),
            "application/json-patch+json" => (Format::Json, true),
            "application/merge-patch+json" | "application/strategic-merge-patch+json" => {
                (Format::Json, false)
            }
            "application/apply-patch+yaml" => (Format::Yaml, false),
            "application/apply-patch+cbor" => (Format::Cbor, false),
            media => (Format::of_media(media)?, false),
        };
        Some(Self {
            held: Held::new(shared),
            body: Body {
                format,
                is_patch,
                packed,
                bytes: Vec::new(),
                more: false,
            },
            most: usize::try_from(most).unwrap_or(usize::MAX),
        })
    }

    /// Takes what passes.
    pub(super) fn add(&mut self, data: &[u8]) {
        if self.body.more {
            return;
        }
        let fits = self.body.bytes.len() + data.len() <= self.most;
        if !fits || self.held.grow(data.len()).is_err() {
            self.body.more = true;
            self.body.bytes = Vec::new();
            self.held.release();
            return;
        }
        self.body.bytes.extend_from_slice(data);
    }

    /// What is kept. From here on the recorder's queue counts it.
    pub(super) fn into_body(self) -> Body {
        self.body
    }
}
