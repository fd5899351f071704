//! The policies that an agent starts with: those that are there; where they are refused, the last that were in force on this node; where there were
//! none, what can be of those that are there. A node without an agent holds nobody.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use bailiff_kernel::Pulse;
use bailiff_policy::{PolicySet, Sources};

use super::{AgentOptions, told};
use crate::decide::Load;
use crate::proxy::{FileError, Snapshot};
use crate::reports::{Findings, Wrong};
use crate::world::cluster::{read_kept, write_whole};

/// An agent that lives shows it at least as often.
const BEAT: Duration = Duration::from_millis(1500);

/// Far above what the cluster's Targets and Policies take: as many objects of the size that a file may have aren't put into one cluster.
const MAX_FILE: u64 = 256 << 20;

/// What the agent starts with.
pub(super) struct First {
    /// The policies, without the addresses that Targets have by Services.
    pub(super) set: PolicySet,
    /// What they name.
    pub(super) files: Snapshot,
    /// How they stand to those that are there.
    pub(super) state: State,
    /// Tells what is in force, once it is.
    pub(super) tell: Box<dyn FnOnce(&Findings)>,
}

/// How what is in force stands to what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// All that is there is in force.
    Whole,
    /// What is there is refused, and what was before is in force.
    Before,
    /// What is there is refused in part. That part isn't in force, and everything is denied where it might have forbidden something.
    Part,
}

impl First {
    /// Reads them. Blocks on the disk.
    ///
    /// # Errors
    /// When they are refused, and nothing else can be in force or needs to be, since another agent holds the node's pods.
    pub(super) fn read(options: &AgentOptions, load: Load) -> Result<Self> {
        let sources = Sources::read(&options.config);
        let loaded = match load(&sources) {
            Ok(set) => with_files(set).map_err(Refused::Files),
            Err(errors) => Err(Refused::Objects(errors)),
        };
        let refused = match loaded {
            Ok((set, files)) => {
                keep(options.last_in_force.as_deref(), &sources);
                return Ok(Self {
                    set,
                    files,
                    state: State::Whole,
                    tell: Box::new(move |findings| findings.loaded(&sources)),
                });
            }
            Err(refused) => refused,
        };
        let why = refused.told();
        options.findings.refused(&sources, &refused.wrong());
        let Some(kept) = &options.last_in_force else {
            return Err(why);
        };
        if let Some((before, set, files)) = last(kept, load) {
            tracing::error!("the policies that were in force on this node before stay: {why:#}");
            return Ok(Self {
                set,
                files,
                state: State::Before,
                tell: Box::new(move |findings| {
                    findings.loaded(&before);
                    findings.refused(&sources, &refused.wrong());
                }),
            });
        }
        if another_lives(&options.pins) {
            return Err(why.context("the agent that runs here goes on with those that it has"));
        }
        let (set, files, in_force) = partial(&sources, &refused)?;
        tracing::error!(
            "what is refused isn't in force, and everything is denied at the Targets that refused Policies are about: {why:#}"
        );
        Ok(Self {
            set,
            files,
            state: State::Part,
            tell: Box::new(move |findings| findings.partly(&sources, &refused.wrong(), &in_force)),
        })
    }
}

/// Whether another agent goes on holding the node's pods. Blocks until it must have shown it.
fn another_lives(pins: &Path) -> bool {
    Pulse::of(pins).is_ok_and(|pulse| {
        std::thread::sleep(BEAT);
        pulse.age() < BEAT
    })
}

/// Why what is there can't be in force as a whole.
enum Refused {
    Objects(bailiff_policy::LoadErrors),
    Files(Vec<FileError>),
}

impl Refused {
    fn wrong(&self) -> Wrong<'_> {
        match self {
            Self::Objects(errors) => Wrong::Problems(&errors.0),
            Self::Files(errors) => Wrong::Files(errors),
        }
    }

    fn told(&self) -> anyhow::Error {
        match self {
            Self::Objects(errors) => errors.clone().into(),
            Self::Files(errors) => told(errors),
        }
    }
}

fn with_files(set: PolicySet) -> Result<(PolicySet, Snapshot), Vec<FileError>> {
    let files = Snapshot::read_after(&set, &Snapshot::default())?;
    Ok((set, files))
}

/// What can be in force, and the files of which it is.
fn partial(sources: &Sources, refused: &Refused) -> Result<(PolicySet, Snapshot, HashSet<String>)> {
    let mut without = HashSet::new();
    if let Refused::Files(errors) = refused {
        without.extend(naming(sources, errors));
    }
    loop {
        let part = sources.load_what_can_be(&without)?;
        match with_files(part.set) {
            Ok((set, files)) => return Ok((set, files, part.files)),
            Err(errors) => {
                let before = without.len();
                without.extend(naming(sources, &errors));
                if without.len() == before {
                    return Err(told(&errors));
                }
            }
        }
    }
}

/// The objects' files that name files which can't be used.
fn naming(sources: &Sources, errors: &[FileError]) -> Vec<String> {
    let wrong = Wrong::Files(errors);
    sources
        .texts()
        .filter(|(file, text)| wrong.with(file, text, false).is_some())
        .map(|(file, _)| file.to_owned())
        .collect()
}

/// What was in force last, if that can be in force again.
fn last(file: &Path, load: Load) -> Option<(Sources, PolicySet, Snapshot)> {
    let texts = read_kept::<Vec<(String, String)>>(file, MAX_FILE)
        .inspect_err(
            |error| tracing::error!(%error, file = %file.display(), "what was in force before can't be read"),
        )
        .ok()??;
    let sources = Sources::of(texts);
    let set = load(&sources)
        .inspect_err(|errors| tracing::error!("what was in force before can't be again: {errors}"))
        .ok()?;
    let (set, files) = with_files(set)
        .inspect_err(|errors| tracing::error!("what was in force before can't be again: {:#}", told(errors)))
        .ok()?;
    Some((sources, set, files))
}

/// Notes what is in force, for a start at which what is there is refused.
pub(super) fn keep(file: Option<&Path>, sources: &Sources) {
    let Some(file) = file else {
        return;
    };
    if let Err(error) = write(file, sources) {
        tracing::warn!(%error, file = %file.display(), "what is in force can't be kept for the next start");
    }
}

fn write(file: &Path, sources: &Sources) -> io::Result<()> {
    let texts: Vec<(&str, &str)> = sources.texts().collect();
    let text = serde_json::to_vec(&texts).map_err(io::Error::other)?;
    if std::fs::read(file).is_ok_and(|there| there == text) {
        return Ok(());
    }
    write_whole(file, &text)
}
