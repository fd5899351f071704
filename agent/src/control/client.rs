//! The side of whoever asks.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bailiff_model::Chain;

use super::{OpenSession, PREFIX, Reply, Request, SUFFIX, by_descriptor};

/// How long an agent may take for an answer.
const PATIENCE: Duration = Duration::from_secs(25);

/// The agents that write a record.
#[derive(Debug)]
pub(crate) struct Agents {
    directory: std::fs::File,
    sockets: Vec<PathBuf>,
}

/// What became of a session that was to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Killed {
    /// It has ended.
    Ended,
    /// It was told, and hasn't ended within some seconds.
    Told,
    /// No agent has it.
    Unknown,
}

impl Agents {
    /// Those whose sockets lie beside a record.
    pub(crate) fn beside(record: &Path) -> io::Result<Self> {
        let directory = std::fs::File::open(record)?;
        let mut sockets: Vec<PathBuf> = std::fs::read_dir(record)?
            .flatten()
            .map(|entry| PathBuf::from(entry.file_name()))
            .filter(|name| {
                name.to_str()
                    .is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX))
            })
            .collect();
        sockets.sort();
        Ok(Self { directory, sockets })
    }

    /// All sessions that are open now. An agent that is gone has none.
    pub(crate) fn sessions(&self) -> io::Result<Vec<OpenSession>> {
        let mut open = Vec::new();
        for socket in &self.sockets {
            for reply in self.ask(socket, &Request::List)? {
                match reply {
                    Reply::Session(session) => open.push(*session),
                    Reply::Refused(why) => return Err(io::Error::other(why)),
                    _ => {}
                }
            }
        }
        open.sort_by(|a, b| (a.began, &a.session).cmp(&(b.began, &b.session)));
        Ok(open)
    }

    /// The chain of a session that is open. None: it isn't.
    pub(crate) fn chain_of_session(&self, id: &str) -> io::Result<Vec<Chain>> {
        self.chains(&Request::ChainOfSession(id.to_owned()))
    }

    /// The chain of a process. None: it is in no pod that an agent here knows.
    pub(crate) fn chain_of_process(&self, tgid: u32) -> io::Result<Vec<Chain>> {
        self.chains(&Request::ChainOfProcess(tgid))
    }

    /// The chains of all processes of pods with a name, or `NAMESPACE/NAME`.
    pub(crate) fn chains_of_pods(&self, name: &str) -> io::Result<Vec<Chain>> {
        self.chains(&Request::ChainsOfPods(name.to_owned()))
    }

    fn chains(&self, request: &Request) -> io::Result<Vec<Chain>> {
        let mut chains = Vec::new();
        for socket in &self.sockets {
            for reply in self.ask(socket, request)? {
                match reply {
                    Reply::Chain(chain) => chains.push(*chain),
                    Reply::Refused(why) => return Err(io::Error::other(why)),
                    _ => {}
                }
            }
        }
        Ok(chains)
    }

    /// Ends a session by its whole id.
    pub(crate) fn kill(&self, id: &str, reason: Option<&str>) -> io::Result<Killed> {
        for socket in &self.sockets {
            let request = Request::Kill {
                id: id.to_owned(),
                reason: reason.map(str::to_owned),
            };
            for reply in self.ask(socket, &request)? {
                match reply {
                    Reply::Ended => return Ok(Killed::Ended),
                    Reply::Told => return Ok(Killed::Told),
                    Reply::Refused(why) => return Err(io::Error::other(why)),
                    _ => {}
                }
            }
        }
        Ok(Killed::Unknown)
    }

    fn ask(&self, socket: &Path, request: &Request) -> io::Result<Vec<Reply>> {
        let mut stream = match UnixStream::connect(by_descriptor(&self.directory, socket.as_os_str())) {
            Ok(stream) => stream,
            // Its agent was killed, or has just ended.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
                ) =>
            {
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let mut replies = Vec::new();
        for line in BufReader::new(stream).lines() {
            match serde_json::from_str(&line?)? {
                Reply::Done => return Ok(replies),
                reply => replies.push(reply),
            }
        }
        match request {
            Request::Kill { .. } => Ok(replies),
            _ => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the agent's answer isn't whole",
            )),
        }
    }
}
