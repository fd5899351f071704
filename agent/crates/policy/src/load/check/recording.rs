//! What is recorded, and sizes that would say nothing.

use bailiff_model::{Protocol, Recording, RecordingLevel};

use super::super::schema::{LevelName, RecordingSpec, Spanned};
use super::Report;

/// The most rows of one operation that may be asked for.
const MOST_ROWS: u32 = 100_000;

/// The most bytes of one operation's values, and of its rows, that may be asked for: sessions hold them in memory.
const MOST_BYTES: u32 = 16 << 20;

/// `line` is where the policy or rule begins that has it.
pub(super) fn compile_recording(
    spec: &RecordingSpec,
    protocol: Protocol,
    line: u64,
    report: &mut Report<'_>,
) -> Recording {
    let spec = &spec.0;
    let level = compile_level(spec.level, protocol, line, report);
    let of_api = protocol == Protocol::Kubernetes;
    if of_api {
        let rows = spec
            .max_rows
            .as_ref()
            .map(|rows| ("maxRows", rows.referenced.line()));
        let digest = spec
            .digest
            .as_ref()
            .map(|digest| ("digest", digest.referenced.line()));
        for (name, line) in [rows, digest].into_iter().flatten() {
            report.add(
                line,
                format!("`{name}` is about rows of SQL, and the policy is about the Kubernetes API"),
                format!("leave `{name}` out; `maxBytes` bounds what is kept of an object"),
            );
        }
    }
    let mut size = |name: &str, written: &Option<Spanned<u64>>, from: RecordingLevel, usual, most: u32| {
        let Some(written) = written else { return usual };
        let line = written.referenced.line();
        if level < from {
            report.add(
                line,
                format!("`{name}` says nothing at level {}", word(level, protocol)),
                format!("set `level: {}`, or leave `{name}` out", word(from, protocol)),
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
    let max_rows = match &spec.max_rows {
        // That is told above.
        Some(_) if of_api => Recording::ROWS,
        written => size(
            "maxRows",
            written,
            RecordingLevel::Results,
            Recording::ROWS,
            MOST_ROWS,
        ),
    };
    let max_bytes = size(
        "maxBytes",
        &spec.max_bytes,
        RecordingLevel::Values,
        Recording::BYTES,
        MOST_BYTES,
    );
    let digest = !of_api && spec.digest.as_ref().is_some_and(|digest| digest.value);
    Recording::new(level, digest, max_rows, max_bytes)
}

/// The level by the words of what the policy is about.
fn compile_level(
    written: Option<LevelName>,
    protocol: Protocol,
    line: u64,
    report: &mut Report<'_>,
) -> RecordingLevel {
    let (level, about) = match written {
        None => return RecordingLevel::default(),
        Some(LevelName::Metadata) => return RecordingLevel::Metadata,
        Some(LevelName::Statement) => (RecordingLevel::Statement, Protocol::Postgres),
        Some(LevelName::Values) => (RecordingLevel::Values, Protocol::Postgres),
        Some(LevelName::Results) => (RecordingLevel::Results, Protocol::Postgres),
        Some(LevelName::Request) => (RecordingLevel::Values, Protocol::Kubernetes),
        Some(LevelName::RequestResponse) => (RecordingLevel::Results, Protocol::Kubernetes),
    };
    if about != protocol {
        let (is, instead) = match protocol {
            Protocol::Postgres => ("SQL", "Metadata, Statement, Values or Results"),
            Protocol::Kubernetes => ("the Kubernetes API", "Metadata, Request or RequestResponse"),
        };
        report.add(
            line,
            format!("the recording's level is not one of {is}, which this is about"),
            format!("write {instead}"),
        );
    }
    level
}

/// A level's name where this is spoken.
fn word(level: RecordingLevel, protocol: Protocol) -> &'static str {
    match (level, protocol) {
        (RecordingLevel::Metadata, _) | (RecordingLevel::Statement, Protocol::Kubernetes) => "Metadata",
        (RecordingLevel::Statement, Protocol::Postgres) => "Statement",
        (RecordingLevel::Values, Protocol::Postgres) => "Values",
        (RecordingLevel::Values, Protocol::Kubernetes) => "Request",
        (RecordingLevel::Results, Protocol::Postgres) => "Results",
        (RecordingLevel::Results, Protocol::Kubernetes) => "RequestResponse",
    }
}
