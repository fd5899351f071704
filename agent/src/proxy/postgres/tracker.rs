//! What the server still owes the client, and what each answer belongs to.
//!
//! PostgreSQL answers in order, so a queue of what was sent says which operation an answer is about. The queue is pure:
//! it sees tags and decided operations, never a socket. It follows `PostgresMain` of the server: after an error in the
//! extended protocol everything up to the next Sync is skipped, and Sync and Flush inside COPY FROM STDIN are ignored.
//! (Protocol: "Message Flow", sections 54.2.2, 54.2.3 and 54.2.6 of PostgreSQL's documentation.)

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use bailiff_policy::Ruling;

use super::names::{Change, Progress};
use super::operation::{Prepared, Running};

/// One request whose answer is outstanding.
#[derive(Debug)]
pub(crate) enum Expect {
    /// A simple query: ends with ReadyForQuery.
    Query(Running),
    /// A fast-path function call: ends with ReadyForQuery.
    FunctionCall(Running),
    /// A statement being parsed.
    Parse(Rc<Prepared>, Change),
    /// A portal being bound.
    Bind(Change),
    /// A statement or portal being closed.
    Close(Change),
    /// A statement or portal being described: its rows say where masked columns are.
    Describe(Option<Rc<Prepared>>),
    /// A Describe that the agent sent itself, because it has to know a result's columns before it masks them.
    OwnDescribe(Rc<Prepared>),
    /// A portal being run: ends with CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute(Running, Rc<Prepared>),
    /// A message in whose place one that must fail was sent.
    Refused(Running),
    /// CopyDone or CopyFail, sent before the server said that it copies. Nothing answers it.
    CopyEnd,
    /// The end of a pipeline: ends with ReadyForQuery.
    Sync,
}

/// What is to be done with a server's message.
#[derive(Debug)]
pub(crate) enum Step {
    /// It goes to the client as it came.
    Pass,
    /// It tells a result's columns, to be matched with the masks of the operation at the front.
    Columns,
    /// A row of the operation at the front.
    Row,
    /// An error.
    Error {
        /// The operation that it is about, where it's about one.
        about: Option<Arc<Ruling>>,
        /// The agent made the server fail; the client gets the policy's words instead.
        refused: bool,
    },
    /// The operation is over; the message goes to the client.
    Finished(Running),
}

/// A server's message that can't be right at this point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server sent message {0:?} where it can't stand")]
pub(crate) struct OutOfOrder(pub(crate) char);

/// Whether bulk data flows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Copying {
    /// It doesn't.
    #[default]
    No,
    /// From the client, until CopyDone or CopyFail.
    In,
    /// The client has ended it, and the server's answer is outstanding.
    Ended,
    /// To the client.
    Out,
    /// Both ways: replication.
    Both,
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    queue: VecDeque<Expect>,
    /// The server met an error in the extended protocol and skips what comes before the next Sync.
    skipping: bool,
    copying: Copying,
    /// Operations that the server skipped or that ended with an error, for the record.
    ended: Vec<Running>,
    /// What messages that failed or were skipped had done to names, in the order in which they were sent.
    undone: Vec<Change>,
    progress: Progress,
    /// Memory that the queue takes, in bytes.
    held: usize,
}

impl Tracker {
    /// Notes that a request went to the server.
    pub(crate) fn sent(&mut self, expect: Expect) {
        if matches!(expect, Expect::Sync) {
            if self.copying == Copying::In {
                return; // The server ignores it inside COPY FROM STDIN.
            }
            self.skipping = false;
        }
        if expect.ends_part() {
            self.progress.current += 1;
        }
        self.held += expect.size();
        self.queue.push_back(expect);
    }

    /// Roughly the memory that it takes, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Whether the server ignores what the client sends now, up to the next Sync.
    pub(crate) fn skipping(&self) -> bool {
        self.skipping
    }

    /// Says that everything up to the next Sync will be skipped, since something that must fail was sent.
    pub(crate) fn skip_until_sync(&mut self) {
        self.skipping = true;
    }

    /// How many answers are outstanding.
    pub(crate) fn outstanding(&self) -> usize {
        self.queue.len()
    }

    /// Notes that the client ended its bulk data, in which the server ignores Sync.
    pub(crate) fn copy_data_ends(&mut self) {
        match self.copying {
            Copying::In => self.copying = Copying::Ended,
            Copying::No if !self.queue.is_empty() => self.queue.push_back(Expect::CopyEnd),
            Copying::No | Copying::Ended | Copying::Out | Copying::Both => {}
        }
    }

    /// Takes what the server has answered off the queue.
    fn pop(&mut self) -> Option<Expect> {
        let answered = self.queue.pop_front();
        self.held -= answered.as_ref().map_or(0, Expect::size);
        while matches!(self.queue.front(), Some(Expect::CopyEnd)) {
            self.queue.pop_front();
        }
        answered
    }

    /// Whether the client's bulk data may belong to an operation that was allowed.
    pub(crate) fn accepts_copy_data(&self) -> bool {
        matches!(self.copying, Copying::In | Copying::Both)
            || self.queue.iter().any(|expect| match expect {
                Expect::Query(run) | Expect::Execute(run, _) => run.may_copy(),
                _ => false,
            })
    }

    /// The operation that the server's next messages are about.
    pub(crate) fn current(&mut self) -> Option<&mut Running> {
        match self.queue.front_mut() {
            Some(
                Expect::Query(run)
                | Expect::FunctionCall(run)
                | Expect::Execute(run, _)
                | Expect::Refused(run),
            ) => Some(run),
            _ => None,
        }
    }

    /// The first operation whose answer is outstanding.
    pub(crate) fn front(&self) -> Option<&Running> {
        self.queue.iter().find_map(|expect| match expect {
            Expect::Query(run)
            | Expect::FunctionCall(run)
            | Expect::Execute(run, _)
            | Expect::Refused(run) => Some(run),
            _ => None,
        })
    }

    /// The statement whose columns the server's next RowDescription tells, where it isn't a simple query's.
    pub(crate) fn described(&self) -> Option<&Rc<Prepared>> {
        match self.queue.front() {
            Some(
                Expect::Describe(Some(prepared))
                | Expect::OwnDescribe(prepared)
                | Expect::Execute(_, prepared),
            ) => Some(prepared),
            _ => None,
        }
    }

    /// How far the pipeline has come.
    pub(crate) fn progress(&self) -> Progress {
        self.progress
    }

    /// What must be taken back of what was done to names, in the order in which it was done.
    pub(crate) fn take_undone(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.undone)
    }

    /// Operations that ended without an answer of their own since the last call.
    pub(crate) fn take_ended(&mut self) -> Vec<Running> {
        std::mem::take(&mut self.ended)
    }

    /// Everything that is still outstanding, for the record of a session that ends now.
    pub(crate) fn abandon(&mut self) -> Vec<Running> {
        let mut ended = std::mem::take(&mut self.ended);
        ended.extend(self.queue.drain(..).filter_map(Expect::into_running));
        ended
    }

    /// Takes a message of the server by its tag.
    pub(crate) fn answered(&mut self, tag: u8) -> Result<Step, OutOfOrder> {
        let wrong = OutOfOrder(char::from(tag));
        match tag {
            // DataRow first: it is the most frequent by far.
            b'D' => match self.queue.front() {
                Some(Expect::Query(_) | Expect::Execute(..)) => Ok(Step::Row),
                _ => Err(wrong),
            },
            b'N' | b'S' | b'A' => Ok(Step::Pass),
            b'C' | b'I' | b's' => match self.pop() {
                Some(Expect::Execute(run, _)) => {
                    self.copying = Copying::No;
                    Ok(Step::Finished(run))
                }
                Some(query @ Expect::Query(_)) if tag != b's' => {
                    self.copying = Copying::No;
                    self.held += query.size();
                    self.queue.push_front(query);
                    Ok(Step::Pass)
                }
                _ => Err(wrong),
            },
            b'Z' => self.ready(wrong),
            b'1' => match self.pop() {
                Some(Expect::Parse(..)) => Ok(Step::Pass),
                _ => Err(wrong),
            },
            b'2' => match self.pop() {
                Some(Expect::Bind(_)) => Ok(Step::Pass),
                _ => Err(wrong),
            },
            b'3' => match self.pop() {
                Some(Expect::Close(_)) => Ok(Step::Pass),
                _ => Err(wrong),
            },
            b't' => match self.queue.front() {
                Some(Expect::Describe(_)) => Ok(Step::Pass),
                _ => Err(wrong),
            },
            b'T' | b'n' => match self.queue.front() {
                // The caller reads the columns first and then calls `described_done`.
                Some(Expect::Describe(_) | Expect::OwnDescribe(_)) => Ok(Step::Columns),
                Some(Expect::Query(_)) if tag == b'T' => Ok(Step::Columns),
                _ => Err(wrong),
            },
            b'G' => self.copy_starts(Copying::In, wrong),
            b'H' => self.copy_starts(Copying::Out, wrong),
            b'W' => self.copy_starts(Copying::Both, wrong),
            b'd' | b'c' => match self.copying {
                Copying::Out | Copying::Both => Ok(Step::Pass),
                Copying::No | Copying::In | Copying::Ended => Err(wrong),
            },
            b'V' => match self.queue.front() {
                Some(Expect::FunctionCall(_)) => Ok(Step::Pass),
                _ => Err(wrong),
            },
            b'E' => Ok(self.failed()),
            _ => Err(wrong),
        }
    }

    /// Ends a Describe, after its columns were read. True where the client itself asked.
    pub(crate) fn described_done(&mut self) -> bool {
        match self.queue.front() {
            Some(Expect::Describe(_)) => {
                self.pop();
                true
            }
            Some(Expect::OwnDescribe(_)) => {
                self.pop();
                false
            }
            _ => true,
        }
    }

    fn ready(&mut self, wrong: OutOfOrder) -> Result<Step, OutOfOrder> {
        self.copying = Copying::No;
        self.progress.unsettled += 1;
        match self.pop() {
            Some(Expect::Sync) => Ok(Step::Pass),
            Some(Expect::Query(run) | Expect::FunctionCall(run)) => Ok(Step::Finished(run)),
            // A refused simple query: its error came before.
            Some(Expect::Refused(run)) if run.is_simple() => Ok(Step::Finished(run)),
            _ => Err(wrong),
        }
    }

    fn copy_starts(&mut self, copying: Copying, wrong: OutOfOrder) -> Result<Step, OutOfOrder> {
        match self.queue.front() {
            Some(Expect::Query(run) | Expect::Execute(run, _)) if run.may_copy() => {}
            _ => return Err(wrong),
        }
        if copying == Copying::In {
            // What the client sent after it, up to the end of its data, is read by COPY itself, which ignores Sync. Anything else
            // would fail there, in a way that this queue could no longer follow.
            loop {
                match self.queue.get(1) {
                    Some(Expect::Sync) => {
                        self.progress.current -= 1;
                        self.queue.remove(1);
                    }
                    Some(Expect::CopyEnd) => {
                        self.queue.remove(1);
                        self.copying = Copying::Ended;
                        return Ok(Step::Pass);
                    }
                    Some(_) => return Err(wrong),
                    None => break,
                }
            }
        }
        self.copying = copying;
        Ok(Step::Pass)
    }

    fn failed(&mut self) -> Step {
        self.copying = Copying::No;
        match self.queue.front() {
            // The answer goes on to ReadyForQuery. Without anything outstanding it is the server's farewell.
            None | Some(Expect::Sync) => {
                return Step::Error {
                    about: None,
                    refused: false,
                };
            }
            Some(Expect::Query(run) | Expect::FunctionCall(run)) => {
                return Step::Error {
                    about: Some(Arc::clone(&run.ruling)),
                    refused: false,
                };
            }
            Some(Expect::Refused(run)) if run.is_simple() => {
                return Step::Error {
                    about: Some(Arc::clone(&run.ruling)),
                    refused: true,
                };
            }
            Some(_) => {}
        }
        let (about, refused) = match self.queue.front() {
            Some(Expect::Refused(run)) => (Some(Arc::clone(&run.ruling)), true),
            Some(Expect::Execute(run, _)) => (Some(Arc::clone(&run.ruling)), false),
            Some(
                Expect::Parse(prepared, _) | Expect::OwnDescribe(prepared) | Expect::Describe(Some(prepared)),
            ) => (Some(Arc::clone(&prepared.ruling)), false),
            _ => (None, false),
        };
        while let Some(expect) = self.queue.front() {
            if matches!(expect, Expect::Sync) {
                return Step::Error { about, refused };
            }
            match self.pop() {
                Some(Expect::Parse(_, change) | Expect::Bind(change) | Expect::Close(change)) => {
                    self.undone.push(change);
                }
                other => {
                    // A skipped simple query has no ReadyForQuery.
                    self.progress.unsettled += u64::from(other.as_ref().is_some_and(Expect::ends_part));
                    self.ended.extend(other.and_then(Expect::into_running));
                }
            }
        }
        self.skipping = true;
        Step::Error { about, refused }
    }
}

impl Expect {
    /// Roughly the memory that it takes, in bytes.
    fn size(&self) -> usize {
        match self {
            Self::Query(run) | Self::FunctionCall(run) | Self::Execute(run, _) | Self::Refused(run) => {
                256 + run.text.len() + run.portal.as_ref().map_or(0, |portal| portal.held())
            }
            Self::Parse(prepared, _) => 256 + prepared.text.len(),
            // Removed one by one in places.
            Self::CopyEnd | Self::Sync => 0,
            _ => 128,
        }
    }

    /// Whether ReadyForQuery answers it.
    fn ends_part(&self) -> bool {
        match self {
            Self::Query(_) | Self::FunctionCall(_) | Self::Sync => true,
            Self::Refused(run) => run.is_simple(),
            _ => false,
        }
    }

    fn into_running(self) -> Option<Running> {
        match self {
            Self::Query(run) | Self::FunctionCall(run) | Self::Execute(run, _) | Self::Refused(run) => {
                Some(run)
            }
            Self::Parse(..)
            | Self::Bind(_)
            | Self::Close(_)
            | Self::Describe(_)
            | Self::OwnDescribe(_)
            | Self::CopyEnd
            | Self::Sync => None,
        }
    }
}
