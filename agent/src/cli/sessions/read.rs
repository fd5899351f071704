//! The record's files, read line by line, also while they are written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// How far the files of a record were read.
#[derive(Debug)]
pub(in crate::cli) struct Reader {
    directory: PathBuf,
    read: BTreeMap<PathBuf, u64>,
}

impl Reader {
    /// Begins at the record's beginning.
    pub(in crate::cli) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            read: BTreeMap::new(),
        }
    }

    /// Hands on every event that was written since the last call. A frame without an end is left for later: it is being written,
    /// or a crash cut it off.
    pub(in crate::cli) fn more(&mut self, mut event: impl FnMut(Value)) -> Result<()> {
        let files = crate::record::files(&self.directory).with_context(|| {
            format!(
                "there is no record in {}; give its directory with --dir",
                self.directory.display()
            )
        })?;
        self.read.retain(|path, _| files.contains(path));
        for path in files {
            let before = self.read.get(&path).copied().unwrap_or(0);
            let file = std::fs::File::open(&path);
            let mut file = match file {
                Ok(file) => file,
                // An agent that needed room has just removed it.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
            };
            let after = crate::record::frames(&mut file, before, |text| {
                let lines = text.split(|byte| *byte == b'\n');
                lines
                    .filter_map(|line| serde_json::from_slice(line).ok())
                    .for_each(&mut event);
            })
            .with_context(|| format!("cannot read {}", path.display()))?;
            self.read.insert(path, after);
        }
        Ok(())
    }
}

pub(in crate::cli) fn text<'a>(event: &'a Value, place: &str) -> &'a str {
    event.pointer(place).and_then(Value::as_str).unwrap_or("-")
}

pub(in crate::cli) fn number(event: &Value, place: &str) -> u64 {
    event.pointer(place).and_then(Value::as_u64).unwrap_or(0)
}

/// Which session an event is about.
pub(in crate::cli) fn session(event: &Value) -> Option<&str> {
    event.pointer("/metadata/correlation_uid").and_then(Value::as_str)
}

pub(in crate::cli) fn is(event: &Value, kind: &str) -> bool {
    text(event, "/unmapped/event") == kind
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn plain_lines_of_older_agents_are_read() {
        let directory = std::env::temp_dir().join(format!("bailiff-sessions-plain-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let line = |id: &str| format!("{{\"metadata\":{{\"correlation_uid\":\"{id}\"}}}}\n");
        let path = directory.join("sessions-1.jsonl");
        // Half of a two-byte character.
        let cut = b"{\"metadata\":{\"correlation_uid\":\"\xc3";
        std::fs::write(
            &path,
            [line("bb").as_bytes(), line("aa").as_bytes(), cut].concat(),
        )
        .unwrap();
        let mut reader = Reader::new(&directory);
        let mut ids = Vec::new();
        let mut more = |ids: &mut Vec<String>| {
            reader
                .more(|event| ids.extend(session(&event).map(str::to_owned)))
                .unwrap();
        };
        more(&mut ids);
        assert_eq!(ids, ["bb", "aa"]);
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"\xa9\"}}\n").unwrap();
        more(&mut ids);
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(ids, ["bb", "aa", "é"]);
    }

    #[test]
    fn a_frame_that_is_cut_off_waits_for_its_end() {
        let directory = std::env::temp_dir().join(format!("bailiff-sessions-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let line = |id: &str| format!("{{\"metadata\":{{\"correlation_uid\":\"{id}\"}}}}\n");
        let path = directory.join("sessions-1.jsonl.zst");
        let frame = |text: &str| zstd::encode_all(text.as_bytes(), 1).unwrap();
        let last = frame(&line("é"));
        let (begun, rest) = last.split_at(last.len() / 2);
        let written = [frame(&(line("bb") + &line("aa"))), begun.to_vec()];
        std::fs::write(&path, written.concat()).unwrap();
        let mut reader = Reader::new(&directory);
        let mut ids = Vec::new();
        let mut more = |ids: &mut Vec<String>| {
            reader
                .more(|event| ids.extend(session(&event).map(str::to_owned)))
                .unwrap();
        };
        more(&mut ids);
        assert_eq!(ids, ["bb", "aa"]);
        more(&mut ids);
        assert_eq!(ids.len(), 2);
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(rest).unwrap();
        more(&mut ids);
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(ids, ["bb", "aa", "é"]);
    }
}
