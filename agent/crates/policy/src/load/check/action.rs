//! What is done to masked values, and whether it can be.

use std::path::Path;

use super::super::schema::{ActionSpec, DetectSpec, Spanned};
use super::{Report, relation_globs};
use crate::detect::{DetectRule, Detection, Detector, Treatment};
use crate::mask::{HashKey, MaskAction};

/// Characters that may be kept. More tell who somebody is, whatever the value.
const MOST_KEPT: u8 = 16;

/// Length of a key's file in bytes. A shorter key can be guessed; a longer file is something else.
const KEY_LENGTH: std::ops::RangeInclusive<u64> = 32..=4096;

pub(super) fn compile_action(spec: &Spanned<ActionSpec>, report: &mut Report<'_>) -> Option<MaskAction> {
    let line = spec.referenced.line();
    match &spec.value {
        ActionSpec::Redact => Some(MaskAction::Redact),
        ActionSpec::Null => Some(MaskAction::Null),
        ActionSpec::KeepLast(kept) if (1..=MOST_KEPT).contains(kept) => Some(MaskAction::KeepLast(*kept)),
        ActionSpec::KeepLast(kept) => {
            report.add(
                line,
                format!(
                    "KeepLast: {kept} keeps {}",
                    if *kept == 0 { "nothing" } else { "too much" }
                ),
                format!("keep 1 to {MOST_KEPT} characters, or use Redact"),
            );
            None
        }
        ActionSpec::Hash(hash) => {
            if let Err(why) = key_file(Path::new(&hash.key_file)) {
                report.add(
                    line,
                    format!("Hash can't be done: keyFile {:?} {why}", hash.key_file),
                    "name a file of 32 to 4096 random bytes by its whole path, such as `head -c 32 /dev/urandom` makes",
                );
                return None;
            }
            Some(MaskAction::Hash(HashKey::in_file(&hash.key_file)))
        }
    }
}

/// Detectors, and what is done with what they find.
pub(super) fn compile_detect(spec: &DetectSpec, report: &mut Report<'_>) -> Option<DetectRule> {
    if spec.find.value.is_empty() {
        report.add(
            spec.find.referenced.line(),
            "`find` is empty, so that nothing is ever found",
            format!(
                "detectors are: {}",
                Detector::ALL.map(Detector::as_str).join(", ")
            ),
        );
    }
    let empty = || "`relations` is empty, so that no value is ever looked at".to_owned();
    let relations = spec
        .relations
        .as_ref()
        .map(|written| relation_globs(written, empty, report));
    let action = compile_action(&spec.action, report)?;
    if spec.whole && action == MaskAction::Null {
        report.add(
            spec.action.referenced.line(),
            "`whole` says nothing here: Null is always for the whole value",
            "remove `whole`",
        );
    }
    let treatment = Treatment {
        action,
        whole: spec.whole,
    };
    let all = |detection: Detection, detector: &Detector| detection.with(*detector, treatment);
    Some(DetectRule {
        detection: spec.find.value.iter().fold(Detection::default(), all),
        relations,
    })
}

/// Whether a file may hold a key. What is in it isn't read here.
fn key_file(path: &Path) -> Result<(), String> {
    if !path.is_absolute() {
        return Err("is no whole path".to_owned());
    }
    let about = std::fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?;
    if !about.is_file() {
        return Err("is no file".to_owned());
    }
    if !KEY_LENGTH.contains(&about.len()) {
        return Err(format!("is {} bytes long", about.len()));
    }
    Ok(())
}
