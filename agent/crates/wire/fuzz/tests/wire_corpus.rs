//! The corpus on stable, without libFuzzer: what was captured of real clients and servers (`cargo xtask corpus`), edge cases
//! made by hand (`edge-…`), and what fuzzing found (`found-…`).

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use bailiff_wire::postgres::startup::{First, next_first};
use bailiff_wire::postgres::{DecodeError, Frame, Limits, next_frame};
use bailiff_wire_fuzz::{TARGETS, decode_backend, decode_frontend};

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name)
}

/// Names and bytes of a folder's files, in order.
fn files(name: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let folder = folder(name);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("{} can't be read", folder.display()))? {
        let entry = entry?;
        files.push((
            entry.file_name().to_string_lossy().into_owned(),
            std::fs::read(entry.path())?,
        ));
    }
    files.sort();
    Ok(files)
}

/// Those that real clients and servers sent.
fn captured(name: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = files(name)?;
    files.retain(|(name, _)| !name.starts_with("edge-") && !name.starts_with("found-"));
    ensure!(!files.is_empty(), "nothing of {name} was captured");
    Ok(files)
}

#[test]
fn every_file_holds_in_its_target() -> Result<()> {
    let mut size = 0;
    for (target, run) in TARGETS {
        let own = files(target)?;
        ensure!(!own.is_empty(), "{target} has no corpus");
        for (name, bytes) in &own {
            if let Err(panic) = std::panic::catch_unwind(|| run(bytes)) {
                panic!("{target}/{name}: {panic:?}");
            }
            size += bytes.len();
        }
        println!("{target}: {} files", own.len());
    }
    ensure!(
        size < 1 << 20,
        "{size} bytes are more than the repository is ready to hold"
    );
    Ok(())
}

#[test]
fn every_file_holds_in_every_other_target() -> Result<()> {
    // What isn't meant for a decoder is as hostile as can be had for nothing.
    for (folder, _) in TARGETS {
        for (name, bytes) in files(folder)? {
            for (target, run) in TARGETS {
                if let Err(panic) = std::panic::catch_unwind(|| run(&bytes)) {
                    panic!("{folder}/{name} in {target}: {panic:?}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn every_folder_has_a_target() -> Result<()> {
    for entry in std::fs::read_dir(folder(""))? {
        let name = entry?.file_name();
        ensure!(
            TARGETS.iter().any(|(target, _)| name.as_os_str() == *target),
            "there is no target for {}",
            name.display()
        );
    }
    Ok(())
}

type Decode = fn(&Frame<'_>) -> Result<(), DecodeError>;

fn sides() -> [(&'static str, Limits, Decode); 2] {
    [
        ("frontend", Limits::frontend(1 << 20), decode_frontend),
        ("backend", Limits::backend(), decode_backend),
    ]
}

/// All of the messages in real streams are understood, and there is one of each kind that such a peer sends.
#[test]
fn what_real_peers_send_is_read_whole() -> Result<()> {
    let expected: [&[u8]; 2] = [b"BCDEFHPQSXcdfp", b"123ACDEGHIKNRSTVZcdnst"];
    for ((side, limits, decode), expected) in sides().into_iter().zip(expected) {
        let mut kinds = BTreeSet::new();
        for (name, bytes) in captured(side)? {
            let mut rest = bytes.as_slice();
            loop {
                match next_frame(rest, &limits) {
                    Ok(Some(frame)) => {
                        decode(&frame).with_context(|| format!("{side}/{name}"))?;
                        kinds.insert(frame.tag);
                        rest = rest.split_at(frame.raw.len()).1;
                    }
                    Ok(None) => break,
                    Err(error) => return Err(error).with_context(|| format!("{side}/{name}")),
                }
            }
            ensure!(rest.is_empty(), "{side}/{name}: {} bytes are left", rest.len());
        }
        let missing: Vec<char> = expected
            .iter()
            .filter(|tag| !kinds.contains(tag))
            .map(|tag| char::from(*tag))
            .collect();
        ensure!(
            missing.is_empty(),
            "no {side} message of the kinds {missing:?} was captured"
        );
    }
    Ok(())
}

/// Real streams arrive byte by byte, and give the same messages at the same places as when they arrive at once.
#[test]
fn streams_that_trickle_give_the_same_messages() -> Result<()> {
    for (side, limits, _) in sides() {
        for (name, bytes) in files(side)? {
            let (mut rest, mut at_once) = (bytes.as_slice(), Vec::new());
            let end = loop {
                match next_frame(rest, &limits) {
                    Ok(Some(frame)) => {
                        at_once.push((frame.tag, frame.raw));
                        rest = rest.split_at(frame.raw.len()).1;
                    }
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            };
            let (mut buffer, mut trickled, mut told) = (Vec::new(), Vec::new(), None);
            for byte in &bytes {
                buffer.push(*byte);
                match next_frame(&buffer, &limits) {
                    Ok(Some(frame)) => {
                        ensure!(frame.raw.len() == buffer.len(), "{side}/{name}: one came late");
                        trickled.push((frame.tag, std::mem::take(&mut buffer)));
                    }
                    Ok(None) => {}
                    Err(error) => {
                        told = Some(error);
                        break;
                    }
                }
            }
            ensure!(told == end, "{side}/{name}: {told:?}, not {end:?}");
            let same = trickled
                .iter()
                .map(|(tag, raw)| (*tag, raw.as_slice()))
                .eq(at_once.iter().copied());
            ensure!(same, "{side}/{name} comes apart otherwise");
        }
    }
    Ok(())
}

#[test]
fn real_first_packets_are_understood() -> Result<()> {
    let (mut ssl, mut cancel, mut startup) = (0, 0, 0);
    for (name, bytes) in captured("startup")? {
        let first = next_first(&bytes).with_context(|| name.clone())?;
        match first {
            Some((First::Ssl, _)) => ssl += 1,
            Some((First::Cancel(_), _)) => cancel += 1,
            Some((First::Startup(found), _)) => {
                ensure!(found.parameter("user").is_some(), "{name} names no user");
                startup += 1;
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    ensure!(ssl > 0 && cancel > 0 && startup > 5, "{ssl} {cancel} {startup}");
    Ok(())
}
