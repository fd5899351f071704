//! What is recorded, and sizes that would say nothing.

use bailiff_model::{Recording, RecordingLevel};
use serde_saphyr::Spanned;

use super::super::schema::RecordingSpec;
use super::Report;

/// The most rows of one operation that may be asked for.
const MOST_ROWS: u32 = 100_000;

/// The most bytes of one operation's values, and of its rows, that may be asked for: sessions hold them in memory.
const MOST_BYTES: u32 = 16 << 20;

pub(super) fn compile_recording(spec: &RecordingSpec, report: &mut Report<'_>) -> Recording {
    let spec = &spec.0;
    let mut size = |name: &str, written: &Option<Spanned<u64>>, from: RecordingLevel, usual, most: u32| {
        let Some(written) = written else { return usual };
        let line = written.referenced.line();
        if spec.level < from {
            report.add(
                line,
                format!("`{name}` says nothing at level {:?}", spec.level),
                format!("set `level: {from:?}`, or leave `{name}` out"),
            );
        }
        match u32::try_from(written.value) {
            Ok(value) if (1..=most).contains(&value) => value,
            _ => {
                report.add(
                    line,
                    format!("`{name}` can't be {}", written.value),
                    format!("give a number from 1 to {most}"),
                );
                usual
            }
        }
    };
    let max_rows = size(
        "maxRows",
        &spec.max_rows,
        RecordingLevel::Results,
        Recording::ROWS,
        MOST_ROWS,
    );
    let max_bytes = size(
        "maxBytes",
        &spec.max_bytes,
        RecordingLevel::Values,
        Recording::BYTES,
        MOST_BYTES,
    );
    Recording::new(spec.level, spec.digest, max_rows, max_bytes)
}
