//! Ways to have a statement do more than it seems to.

mod steps;
mod words;
mod writes;

use crate::say;

pub use steps::in_two_steps;
pub use words::{encodings, words};
pub use writes::{hidden_writes, other_things};

/// One attack: what is said, in one session or in several.
#[derive(Debug)]
pub struct Evasion {
    /// What it is called.
    pub name: &'static str,
    /// One after the other.
    pub sessions: Vec<Session>,
    /// Only a policy that names what may be used is to stop it.
    pub only_listed: bool,
}

/// One session of an attack.
#[derive(Debug)]
pub struct Session {
    /// Parameters of its start.
    pub parameters: Vec<(&'static str, &'static str)>,
    /// What is sent, each part when the last one is answered.
    pub parts: Vec<Vec<u8>>,
}

impl Evasion {
    fn listed(self) -> Self {
        Self {
            only_listed: true,
            ..self
        }
    }

    /// The same attack with each Query sent as Parse, Bind and Execute.
    #[must_use]
    pub fn extended(&self) -> Self {
        let sessions = self.sessions.iter().map(|session| Session {
            parameters: session.parameters.clone(),
            parts: session
                .parts
                .iter()
                .map(|part| match part.split_first() {
                    Some((b'Q', rest)) => {
                        let sql = rest.get(4..rest.len() - 1).unwrap_or_default();
                        std::str::from_utf8(sql)
                            .map_or_else(|_| part.clone(), |sql| [say::run(sql), say::sync()].concat())
                    }
                    _ => part.clone(),
                })
                .collect(),
        });
        Self {
            sessions: sessions.collect(),
            ..*self
        }
    }
}

fn evasion(name: &'static str, statements: &[&str]) -> Evasion {
    Evasion {
        name,
        sessions: vec![Session {
            parameters: Vec::new(),
            parts: statements.iter().map(|sql| say::query(sql)).collect(),
        }],
        only_listed: false,
    }
}

/// One that isn't after the vault.
fn other(name: &'static str, statements: &[&str]) -> Evasion {
    Evasion {
        only_listed: true,
        ..evasion(name, statements)
    }
}

fn with(name: &'static str, parameters: &[(&'static str, &'static str)], statements: &[&str]) -> Evasion {
    let mut this = evasion(name, statements);
    for session in &mut this.sessions {
        session.parameters = parameters.to_vec();
    }
    this
}

fn sent(name: &'static str, parts: Vec<Vec<u8>>) -> Evasion {
    Evasion {
        name,
        sessions: vec![Session {
            parameters: Vec::new(),
            parts,
        }],
        only_listed: false,
    }
}

/// A session after another.
fn then(mut first: Evasion, second: Evasion) -> Evasion {
    first.sessions.extend(second.sessions);
    first
}
