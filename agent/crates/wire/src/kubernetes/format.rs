//! The formats of objects, as one.

use bytes::Bytes;

use super::schema::Type;
use super::{Fields, Malformed, Shape, cbor, json, protobuf, yaml};

/// How objects are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON.
    Json,
    /// YAML, as the API server writes it.
    Yaml,
    /// Protobuf in the API's envelope.
    Protobuf,
    /// CBOR.
    Cbor,
}

impl Format {
    /// By a body's media type, in lower case and without parameters: as it is in answers and requests, patches excepted.
    #[must_use]
    pub fn of_media(media: &str) -> Option<Self> {
        Some(match media {
            "application/json" => Self::Json,
            "application/yaml" => Self::Yaml,
            "application/vnd.kubernetes.protobuf" => Self::Protobuf,
            "application/cbor" | "application/cbor-seq" => Self::Cbor,
            _ => return None,
        })
    }
}

/// Goes over one object, which in JSON, YAML and CBOR may be a part of one. Its type is `of` where that is known, and otherwise what it
/// says of itself.
///
/// Returns whether anything is replaced. Then `out` got the object with that; otherwise, and on an error, nothing is added to `out`.
///
/// # Errors
/// When it isn't an object in that format, has more after it, is too large or too deep, or a replacement doesn't fit.
pub fn object<F: Fields>(
    format: Format,
    of: Option<Type>,
    bytes: &[u8],
    fields: &mut F,
    out: &mut Vec<u8>,
) -> Result<bool, Malformed> {
    match format {
        Format::Json => json::object(bytes, of, fields, out),
        Format::Yaml => yaml::object(bytes, of, fields, out),
        Format::Protobuf => protobuf::body(bytes, of.unwrap_or(Type::UNKNOWN), fields, out),
        Format::Cbor => cbor::object(bytes, of, fields, out),
    }
}

/// Goes over an answer's body as it comes, and holds no more of it than one object.
#[derive(Debug)]
pub enum Stream {
    /// In JSON.
    Json(json::Stream),
    /// In YAML.
    Yaml(yaml::Stream),
    /// In protobuf.
    Protobuf(protobuf::Stream),
    /// In CBOR.
    Cbor(cbor::Stream),
}

impl Stream {
    /// Begins a body of this shape. Objects are of type `of` where they don't say it of themselves before.
    #[must_use]
    pub fn new(format: Format, shape: Shape, of: Type) -> Self {
        match format {
            Format::Json => Self::Json(json::Stream::new(shape).of(of)),
            Format::Yaml => Self::Yaml(yaml::Stream::new(shape).of(of)),
            Format::Protobuf => Self::Protobuf(protobuf::Stream::new(shape)),
            Format::Cbor => Self::Cbor(cbor::Stream::new(shape).of(of)),
        }
    }

    /// Takes the next piece of the body. What can be passed on of it, and of those before it, is added to `out`.
    ///
    /// # Errors
    /// When the body isn't of that format and shape, or an object in it is too large or too deep. Nothing may be passed on after that.
    pub fn feed<F: Fields>(
        &mut self,
        chunk: &Bytes,
        fields: &mut F,
        out: &mut Vec<Bytes>,
    ) -> Result<(), Malformed> {
        match self {
            Self::Json(stream) => stream.feed(chunk, fields, out),
            Self::Yaml(stream) => stream.feed(chunk, fields, out),
            Self::Protobuf(stream) => stream.feed(chunk, fields, out),
            Self::Cbor(stream) => stream.feed(chunk, fields, out),
        }
    }

    /// Memory that it keeps between two pieces, in bytes: of an object that isn't whole, and of what goes in its place.
    #[must_use]
    pub fn held(&self) -> usize {
        match self {
            Self::Json(stream) => stream.held(),
            Self::Yaml(stream) => stream.held(),
            Self::Protobuf(stream) => stream.held(),
            Self::Cbor(stream) => stream.held(),
        }
    }

    /// Ends the body.
    ///
    /// # Errors
    /// When it ended in the middle of something.
    pub fn finish<F: Fields>(&mut self, fields: &mut F, out: &mut Vec<Bytes>) -> Result<(), Malformed> {
        match self {
            Self::Json(stream) => stream.finish(fields, out),
            Self::Yaml(stream) => stream.finish(fields, out),
            Self::Protobuf(stream) => stream.finish(fields, out),
            Self::Cbor(stream) => stream.finish(fields, out),
        }
    }
}
