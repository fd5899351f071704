//! How well the detectors find what they are about, over a labelled set, and that `docs/detectors.md` says the same.

#[path = "detectors/generated.rs"]
mod generated;

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bailiff_policy::{Detector, Detectors, Found, mask_text};
use proptest::prelude::*;

/// A value, and where in it something is to be found.
pub(crate) struct Labelled {
    pub(crate) text: String,
    pub(crate) spans: Vec<Range<usize>>,
}

impl Labelled {
    /// From a text with «…» around what is to be found.
    pub(crate) fn parse(line: &str) -> Result<Self> {
        let line = line.replace("\\n", "\n").replace("\\t", "\t");
        let (mut text, mut spans, mut begin) = (String::new(), Vec::new(), None);
        for character in line.chars() {
            match character {
                '«' => begin = Some(text.len()),
                '»' => spans.push(begin.take().context("» without «")?..text.len()),
                other => text.push(other),
            }
        }
        ensure!(begin.is_none(), "« without »: {line}");
        Ok(Self { text, spans })
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

fn by_hand(detector: Detector) -> Result<Vec<Labelled>> {
    let name = match detector {
        Detector::Email => "email",
        Detector::PaymentCard => "card",
        Detector::UsSsn => "ssn",
        Detector::Iban => "iban",
        Detector::Phone => "phone",
        Detector::Jwt => "jwt",
        Detector::PrivateKey => "private_key",
        Detector::CloudKey => "cloud_key",
    };
    let path = root().join("tests/detectors").join(name).with_extension("txt");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    text.lines()
        .filter(|line| !line.starts_with("# "))
        .map(Labelled::parse)
        .collect()
}

/// What came out for one detector.
#[derive(Default)]
struct Outcome {
    values: usize,
    labels: usize,
    right: usize,
    wrong: usize,
    missed: usize,
    faults: Vec<String>,
}

impl Outcome {
    fn add(&mut self, detector: Detector, value: &Labelled) {
        let mut found = Vec::new();
        Detectors::NONE
            .with(detector)
            .find(value.text.as_bytes(), &mut found);
        self.values += 1;
        self.labels += value.spans.len();
        let covers = |found: &Found, span: &Range<usize>| {
            found.range.start <= span.start && span.end <= found.range.end
        };
        for span in &value.spans {
            if found.iter().any(|found| covers(found, span)) {
                self.right += 1;
            } else {
                self.missed += 1;
                self.faults.push(format!(
                    "missed {:?} in {:?}",
                    value.text.get(span.clone()),
                    value.text
                ));
            }
        }
        for found in &found {
            // What goes beyond its label takes more than it should.
            if !value.spans.contains(&found.range) {
                self.wrong += 1;
                let text = value.text.get(found.range.clone());
                self.faults.push(format!("took {text:?} in {:?}", value.text));
            }
        }
    }

    /// Of what was found, how much is labelled; of what is labelled, how much was found. In thousandths, rounded down.
    fn precision_and_recall(&self) -> (usize, usize) {
        let share = |part: usize, rest: usize| (part * 1000).checked_div(part + rest).unwrap_or(0);
        (share(self.right, self.wrong), share(self.right, self.missed))
    }
}

#[test]
fn the_documented_table_holds() -> Result<()> {
    let documented = std::fs::read_to_string(root().join("docs/detectors.md"))?;
    let mut rows = Vec::new();
    for detector in Detector::ALL {
        let (mut hand, mut all) = (Outcome::default(), Outcome::default());
        for value in by_hand(detector)? {
            hand.add(detector, &value);
            all.add(detector, &value);
        }
        for value in generated::values(detector)? {
            all.add(detector, &value);
        }
        ensure!(
            all.values >= 400 && hand.values >= 40,
            "{detector:?}: too few values"
        );
        let thousandth = |share: usize| format!("{}.{:03}", share / 1000, share % 1000);
        let ((hand_precision, hand_recall), (precision, recall)) =
            (hand.precision_and_recall(), all.precision_and_recall());
        for fault in &all.faults {
            println!("{}: {fault}", detector.as_str());
        }
        rows.push(format!(
            "| `{}` | {} | {} | {} | {} | {} | {} |",
            detector.as_str(),
            hand.values,
            thousandth(hand_precision),
            thousandth(hand_recall),
            all.values,
            thousandth(precision),
            thousandth(recall),
        ));
    }
    println!("{}", rows.join("\n"));
    for row in rows {
        ensure!(documented.contains(&row), "docs/detectors.md lacks: {row}");
    }
    Ok(())
}

#[test]
fn what_is_found_is_replaced() {
    let cases: [(&str, &str); 7] = [
        ("", ""),
        ("nothing here", "nothing here"),
        ("write bob@example.com!", "write [masked]!"),
        ("bob@example.com", "[masked]"),
        ("a bob@example.com, 123-45-6789 z", "a [masked], [masked] z"),
        ("größe 4111 1111 1111 1111 €", "größe [masked] €"),
        ("日本bob@例え.jp語", "[masked]"),
    ];
    for (text, masked) in cases {
        assert_eq!(
            String::from_utf8_lossy(&mask_text(text.as_bytes())),
            masked,
            "{text}"
        );
    }
    assert!(matches!(mask_text(b"untouched"), Cow::Borrowed(_)));
}

/// Texts full of what begins like something.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"@".to_vec()),
        Just(b"a@b.co".to_vec()),
        Just(b"-----BEGIN ".to_vec()),
        Just(b"PRIVATE KEY-----".to_vec()),
        Just(b"END ".to_vec()),
        Just(b"eyJ".to_vec()),
        Just(b"eyJhbGciOiJIUzI1NiJ9.".to_vec()),
        Just(b"AKIA".to_vec()),
        Just(b"sig=".to_vec()),
        Just(b"secretaccesskey: ".to_vec()),
        Just(b"Q~".to_vec()),
        Just(b"DE89 3704".to_vec()),
        Just(b"+49 (".to_vec()),
        Just(b"4111 1111 1111 1111".to_vec()),
        Just(b"ssn 123-45-6789".to_vec()),
        Just("ü€😀".as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..8),
        "[0-9]{1,20}".prop_map(String::into_bytes),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn what_is_found_lies_in_the_text_and_between_characters(text in hostile()) {
        let mut found = Vec::new();
        Detectors::ALL.find(&text, &mut found);
        for one in &found {
            prop_assert!(one.range.start < one.range.end && one.range.end <= text.len());
            if let Ok(text) = std::str::from_utf8(&text) {
                prop_assert!(text.is_char_boundary(one.range.start) && text.is_char_boundary(one.range.end), "{one:?}");
            }
        }
        prop_assert!(found.is_sorted_by_key(|one| one.range.start));
    }

    #[test]
    fn each_finds_alone_what_it_finds_among_others(text in hostile()) {
        let (mut all, mut alone) = (Vec::new(), Vec::new());
        Detectors::ALL.find(&text, &mut all);
        for detector in Detector::ALL {
            Detectors::NONE.with(detector).find(&text, &mut alone);
            let mine: Vec<_> = all.iter().filter(|one| one.detector == detector).cloned().collect();
            prop_assert_eq!(&mine, &alone);
            prop_assert!(mine.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start), "{:?}", mine);
        }
    }
}

/// What each detector begins with, over and over: quadratic work would show as a test that doesn't end.
#[test]
fn long_texts_of_beginnings_are_read_once() {
    for piece in [
        "@",
        "a@b.",
        "BEGIN ",
        "-----BEGIN ",
        "eyJ",
        "eyJ.",
        "AKIA",
        "= ",
        "sig=",
        "Q~",
        "DE89",
        "1 ",
        "+1",
        "(1",
        "12-",
        "\"",
    ] {
        let text = piece.repeat(100_000);
        let masked = mask_text(text.as_bytes());
        assert!(!masked.is_empty() && masked.len() <= text.len(), "{piece:?}");
    }
}
