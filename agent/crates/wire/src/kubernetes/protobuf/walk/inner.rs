//! JSON that stands in a field.

use crate::kubernetes::protobuf::cut;
use crate::kubernetes::schema::Type;
use crate::kubernetes::{Fields, Malformed, Replacement, Value, json};

/// What the JSON is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Inner<At> {
    /// A part of the object, at this place.
    Value(At),
    /// An object of its own.
    Object,
    /// What was applied last as the object with this root and of this type.
    Applied(At, Type),
}

impl<At: Copy> Inner<At> {
    /// Goes over it. Says whether `out` got something in its place.
    ///
    /// # Errors
    /// When it is too deep, a replacement doesn't fit, or an object of its own isn't one.
    pub(super) fn go<F: Fields<At = At>>(
        self,
        content: &[u8],
        fields: &mut F,
        out: &mut Vec<u8>,
    ) -> Result<bool, Malformed> {
        match self {
            Self::Object => json::object(content, None, fields, out),
            Self::Value(at) => json::value(content, at, fields, out).or_else(|why| {
                if why != Malformed::Form {
                    return Err(why);
                }
                // What can't be read isn't passed on, since what is masked may stand in it; nor does it keep the rest of the
                // object from being passed on.
                out.extend_from_slice(b"{}");
                Ok(true)
            }),
            Self::Applied(root, of) => {
                let with = json::last_applied(&String::from_utf8_lossy(content), root, of, fields);
                out.extend_from_slice(with.as_deref().unwrap_or_default().as_bytes());
                Ok(with.is_some())
            }
        }
    }
}

/// Fields whose values never become longer: what stands in their place is cut.
pub(super) struct Fitted<'a, F>(pub(super) &'a mut F);

impl<F: Fields> Fields for Fitted<'_, F> {
    type At = F::At;

    const NAMED: bool = F::NAMED;

    fn object(&mut self, namespace: Option<&str>, name: Option<&str>) -> F::At {
        self.0.object(namespace, name)
    }

    fn applied(&mut self, root: F::At) -> F::At {
        self.0.applied(root)
    }

    fn member(&mut self, at: F::At, key: &str) -> F::At {
        self.0.member(at, key)
    }

    fn element(&mut self, at: F::At, index: usize, name: Option<&str>) -> F::At {
        self.0.element(at, index, name)
    }

    fn unnamed(&mut self, at: F::At, of: Type) -> bool {
        self.0.unnamed(at, of)
    }

    fn passes(&self, at: F::At) -> bool {
        self.0.passes(at)
    }

    fn replace(&mut self, at: F::At, value: Value<'_>) -> Option<Replacement> {
        let with = self.0.replace(at, value)?;
        Some(match (with, value) {
            (Replacement::Value(mut with), Value::Text(text)) => {
                with.truncate(cut(&with, text.len()));
                Replacement::Value(with)
            }
            (Replacement::Value(mut with), Value::Bytes(bytes)) => {
                with.truncate(cut(&with, bytes.len()));
                Replacement::Value(with)
            }
            (Replacement::Value(with), Value::Scalar(scalar)) if with.len() > scalar.len() => {
                Replacement::Empty
            }
            (with, _) => with,
        })
    }

    fn hides_texts(&self) -> bool {
        self.0.hides_texts()
    }

    fn hides_cells(&self) -> bool {
        self.0.hides_cells()
    }
}
