//! Finding what is told by its own form: addresses, numbers with check digits, keys.
//!
//! Each detector is written by hand and linear: it looks at each byte a bounded number of times, whatever the bytes are. Which of
//! them run at all is told by one pass over the value, so that values without their bytes cost little. A value is seen whole;
//! what is spread over several values isn't found. `docs/detectors.md` says what each takes for its own and how well that works.

mod card;
mod cloud;
mod email;
mod iban;
mod phone;
mod rules;
mod secret;
mod ssn;
mod text;

use std::borrow::Cow;
use std::ops::Range;

pub(crate) use rules::DetectRule;
pub use rules::{Detection, Treatment};
use text::Seen;

/// What stands in place of what was found, and of redacted texts.
pub const PLACEHOLDER: &[u8] = b"[masked]";

/// Something that is told by its form.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize, schemars::JsonSchema,
)]
pub enum Detector {
    /// An email address.
    Email,
    /// A payment card's number, with a right check digit and a known issuer's range.
    PaymentCard,
    /// A US social security number, as 3-2-4 digits that can have been given out.
    UsSsn,
    /// An international bank account number, with the length of its country and right check digits.
    Iban,
    /// A phone number: E.164, or a national form with separators.
    Phone,
    /// A JSON Web Token, signed or encrypted.
    Jwt,
    /// A private key in PEM and its kind.
    PrivateKey,
    /// A key or secret of AWS, Google Cloud or Azure.
    CloudKey,
}

impl Detector {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Email,
        Self::PaymentCard,
        Self::UsSsn,
        Self::Iban,
        Self::Phone,
        Self::Jwt,
        Self::PrivateKey,
        Self::CloudKey,
    ];

    /// Its name, as it is written in policies.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Email => "Email",
            Self::PaymentCard => "PaymentCard",
            Self::UsSsn => "UsSsn",
            Self::Iban => "Iban",
            Self::Phone => "Phone",
            Self::Jwt => "Jwt",
            Self::PrivateKey => "PrivateKey",
            Self::CloudKey => "CloudKey",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }

    /// Adds what it finds, each once, in order.
    fn find(self, text: &[u8], found: &mut impl FnMut(Range<usize>)) {
        match self {
            Self::Email => email::find(text, found),
            Self::PaymentCard => card::find(text, found),
            Self::UsSsn => ssn::find(text, found),
            Self::Iban => iban::find(text, found),
            Self::Phone => phone::find(text, found),
            Self::Jwt => secret::find_tokens(text, found),
            Self::PrivateKey => secret::find_keys(text, found),
            Self::CloudKey => cloud::find(text, found),
        }
    }

    /// Whether it may find something in a text with these bytes.
    fn may_find(self, seen: &Seen) -> bool {
        match self {
            Self::Email => seen.at && seen.length >= 6,
            Self::PaymentCard => seen.digits >= 12,
            Self::UsSsn => seen.digits >= 9,
            Self::Iban => seen.length >= 15 && seen.digits >= 2,
            Self::Phone => seen.digits >= 8,
            Self::Jwt => seen.dot && seen.length >= 20,
            Self::PrivateKey => seen.dash && seen.length >= 24,
            Self::CloudKey => seen.length >= 20,
        }
    }
}

/// Some detectors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Detectors(u8);

impl Detectors {
    /// None.
    pub const NONE: Self = Self(0);
    /// All.
    pub const ALL: Self = Self(u8::MAX);

    /// These and one more.
    #[must_use]
    pub fn with(self, detector: Detector) -> Self {
        Self(self.0 | detector.bit())
    }

    /// Whether one is among them.
    #[must_use]
    pub fn contains(self, detector: Detector) -> bool {
        self.0 & detector.bit() != 0
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What they find in a text, in order of where it begins. What two detectors find may overlap.
    ///
    /// `found` is emptied first; it is an argument so that looking at a value that holds nothing takes no memory.
    pub fn find(self, text: &[u8], found: &mut Vec<Found>) {
        found.clear();
        let seen = Seen::of(text);
        for detector in Detector::ALL {
            if self.contains(detector) && detector.may_find(&seen) {
                detector.find(text, &mut |range| found.push(Found { range, detector }));
            }
        }
        found.sort_unstable_by_key(|one| (one.range.start, one.range.end));
    }
}

impl FromIterator<Detector> for Detectors {
    fn from_iter<I: IntoIterator<Item = Detector>>(all: I) -> Self {
        all.into_iter().fold(Self::NONE, Self::with)
    }
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where, in bytes. It begins and ends between characters.
    pub range: Range<usize>,
    /// By whom.
    pub detector: Detector,
}

/// The text with everything that any detector finds replaced by a [placeholder](PLACEHOLDER).
#[must_use]
pub fn mask_text(text: &[u8]) -> Cow<'_, [u8]> {
    let mut found = Vec::new();
    Detectors::ALL.find(text, &mut found);
    if found.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut masked = Vec::with_capacity(text.len());
    let mut kept = 0;
    for one in &found {
        // What overlaps what is masked already only makes that longer.
        if one.range.start >= kept {
            masked.extend_from_slice(text.get(kept..one.range.start).unwrap_or_default());
            masked.extend_from_slice(PLACEHOLDER);
        }
        kept = kept.max(one.range.end);
    }
    masked.extend_from_slice(text.get(kept..).unwrap_or_default());
    Cow::Owned(masked)
}
