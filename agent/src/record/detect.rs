//! What must not stand in the record, whoever sent it.

use std::borrow::Cow;

/// A text without what detectors find in it. Borrowed where they find nothing.
pub(super) fn conceal(text: &[u8]) -> Cow<'_, [u8]> {
    Cow::Borrowed(text)
}
