//! The files of the record: appended to, begun anew at a size, and the oldest removed so that the disk stays bounded.
//!
//! A file is JSON Lines in Zstandard frames, one frame an append: `zstdcat` shows it. Lines resemble each other so much that
//! they take a fraction of the disk, and compressing them costs less than having the kernel keep the pages of the plain text.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use zstd::bulk::Compressor;

use super::chain::{Chain, is_mark};

/// How much may be kept.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Where.
    pub directory: PathBuf,
    /// Bytes of one file before the next is begun.
    pub file_bytes: u64,
    /// Bytes of all files together.
    pub total_bytes: u64,
}

/// The record's files.
pub struct Store {
    options: StoreOptions,
    compressor: Compressor<'static>,
    frame: Vec<u8>,
    /// What goes out with one write: the frame with its marks.
    out: Vec<u8>,
    chain: Chain,
    file: File,
    written: u64,
    number: u64,
    stamp: u128,
}

const PREFIX: &str = "sessions-";
const SUFFIX: &str = ".jsonl.zst";
/// Of files that an agent before version 2 of the record wrote: plain lines.
const PLAIN: &str = ".jsonl";

/// The first of the fast levels: it makes the record a tenth or less of the text in half the time of level 1, which would make it
/// a quarter smaller still.
const LEVEL: i32 = -1;

impl Store {
    /// Begins a new file. The directory and its files are readable by their owner alone.
    pub fn open(options: StoreOptions) -> io::Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&options.directory)?;
        let stamp = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis());
        let file = create(&options.directory, stamp, 0)?;
        let store = Self {
            options,
            compressor: compressor()?,
            frame: Vec::new(),
            out: Vec::new(),
            chain: Chain::default(),
            file,
            written: 0,
            number: 0,
            stamp,
        };
        // Agents before may have left more than this one may keep.
        store.make_room()?;
        Ok(store)
    }

    /// A store that writes into what a test gives it.
    #[cfg(test)]
    pub(super) fn into_file(options: StoreOptions, file: File) -> Self {
        Self {
            options,
            compressor: compressor().unwrap(),
            frame: Vec::new(),
            out: Vec::new(),
            chain: Chain::default(),
            file,
            written: 0,
            number: 0,
            stamp: 0,
        }
    }

    /// Appends whole lines: all of them, or, where that fails, none.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        self.frame.clear();
        self.frame.reserve(zstd::zstd_safe::compress_bound(lines.len()));
        self.compressor.compress_to_buffer(lines, &mut self.frame)?;
        let size = self.frame.len() as u64;
        if self.written > 0 && self.written + size > self.options.file_bytes {
            let next = create(&self.options.directory, self.stamp, self.number + 1)?;
            self.seal();
            self.file = next;
            self.number += 1;
            self.written = 0;
            self.make_room()?;
        }
        self.out.clear();
        if self.written == 0 {
            self.chain.begin(&mut self.out);
        }
        self.out.extend_from_slice(&self.frame);
        let head = self.chain.link(&self.frame, &mut self.out);
        if let Err(error) = self.file.write_all(&self.out) {
            // A part may stand there, and the next attempt would write it once more.
            let _ = self.file.set_len(self.written);
            return Err(error);
        }
        self.chain.written(head);
        self.written += self.out.len() as u64;
        Ok(())
    }

    /// Says that the file is complete. Where that can't be written, the file is told as one without a seal.
    pub(super) fn seal(&mut self) {
        if self.written > 0 {
            self.out.clear();
            let head = self.chain.seal(&mut self.out);
            match self.file.write_all(&self.out) {
                Ok(()) => self.chain.written(head),
                Err(_) => {
                    let _ = self.file.set_len(self.written);
                }
            }
        }
    }

    fn make_room(&self) -> io::Result<()> {
        let mut files: Vec<(PathBuf, u64)> = files(&self.options.directory)?
            .into_iter()
            .filter_map(|path| Some((path.clone(), std::fs::metadata(path).ok()?.len())))
            .collect();
        let mut total: u64 = files.iter().map(|(_, size)| size).sum::<u64>() + self.options.file_bytes;
        files.pop(); // The one that was just begun.
        for (path, size) in files {
            if total <= self.options.total_bytes {
                break;
            }
            std::fs::remove_file(path)?;
            total -= size;
        }
        Ok(())
    }
}

fn compressor() -> io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(LEVEL)?;
    // A frame that the disk changed is told from one that was written so.
    compressor.include_checksum(true)?;
    Ok(compressor)
}

/// Hands on the text of each whole frame from a place in a file on, and says behind which it ended. What comes after it is
/// being written, or a crash cut it off.
///
/// A file of plain lines counts as one frame up to its last whole line.
///
/// `from` must be 0 or what an earlier call returned. Reads what is left of the file at once: at most `file_bytes`.
pub(crate) fn frames(file: &mut File, from: u64, mut text: impl FnMut(&[u8])) -> io::Result<u64> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    file.read_to_end(&mut bytes)?;
    let mut rest = bytes.as_slice();
    if from == 0 && rest.first() == Some(&b'{') || from > 0 && starts_plain(file)? {
        let whole = memchr::memrchr(b'\n', rest).map_or(0, |end| end + 1);
        text(rest.get(..whole).unwrap_or_default());
        return Ok(from + whole as u64);
    }
    while let Ok(length) = zstd::zstd_safe::find_frame_compressed_size(rest)
        && let Some((frame, after)) = rest.split_at_checked(length)
        && !frame.is_empty()
    {
        if !is_mark(frame) {
            text(&zstd::decode_all(frame)?);
        }
        rest = after;
    }
    Ok(from + (bytes.len() - rest.len()) as u64)
}

/// Whether a file holds plain lines.
fn starts_plain(file: &mut File) -> io::Result<bool> {
    let mut first = [0];
    file.seek(SeekFrom::Start(0))?;
    Ok(file.read(&mut first)? == 1 && first == *b"{")
}

fn create(directory: &Path, stamp: u128, number: u64) -> io::Result<File> {
    let path = directory.join(format!(
        "{PREFIX}{stamp:015}-{:08}-{number:06}{SUFFIX}",
        std::process::id()
    ));
    OpenOptions::new()
        .create_new(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

/// The record's files, the oldest first.
pub(crate) fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| {
                    name.starts_with(PREFIX) && (name.ends_with(SUFFIX) || name.ends_with(PLAIN))
                })
        })
        .collect();
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_stays_bounded() {
        let directory = std::env::temp_dir().join(format!("bailiff-store-{}", std::process::id()));
        let options = StoreOptions {
            directory: directory.clone(),
            file_bytes: 1000,
            total_bytes: 5000,
        };
        let mut store = Store::open(options).unwrap();
        for _ in 0..200 {
            store.append(crate::random_hex().as_bytes()).unwrap();
            let total: u64 = files(&directory)
                .unwrap()
                .iter()
                .map(|path| std::fs::metadata(path).unwrap().len())
                .sum();
            assert!(total <= 5000, "{total}");
        }
        assert!(files(&directory).unwrap().len() > 2);
        // What a crash cut off isn't there, and what stands before it is.
        let newest = files(&directory).unwrap().pop().unwrap();
        let whole = std::fs::read(&newest).unwrap();
        let lines = |path: &Path| {
            let mut count = 0;
            let after = frames(&mut File::open(path).unwrap(), 0, |text| {
                assert_eq!(text.len(), 32);
                count += 1;
            });
            (count, after.unwrap())
        };
        let (before, length) = lines(&newest);
        assert_eq!(length, whole.len() as u64);
        let cut = super::super::chain::MARK + 5;
        std::fs::write(&newest, whole.get(..whole.len() - cut).unwrap()).unwrap();
        let (after, shorter) = lines(&newest);
        assert_eq!(after, before - 1);
        assert!(shorter < length - cut as u64);
        drop(store);
        // An agent that may keep less begins by making room.
        let less = StoreOptions {
            directory: directory.clone(),
            file_bytes: 1000,
            total_bytes: 2000,
        };
        let _store = Store::open(less).unwrap();
        assert_eq!(files(&directory).unwrap().len(), 2);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
