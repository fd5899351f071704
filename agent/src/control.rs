//! What a person may ask of a running agent: which sessions are open, to end one, and the chains of processes.
//!
//! A Unix socket beside the record, which its owner alone can reach, and which serves root and the agent's own user alone, as the
//! kernel names them. No pod reaches it: it is no port, and a sandbox sees neither the host's sockets nor the record.
//!
//! One request a connection, one line of JSON; the answer is lines of JSON.

mod chains;
mod client;

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use bailiff_model::{Chain, HopKind, RecordingLevel, SessionId};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::proxy::Workers;
use crate::proxy::live::{Killing, Seen};
use crate::record::recordable;

pub(crate) use chains::Chains;
pub(crate) use client::{Agents, Killed};

/// How long a request may take to come, and its answer to go.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of a request.
const REQUEST: u64 = 16 * 1024;

/// Bytes of a reason that are kept.
const REASON: usize = 1000;

const PREFIX: &str = "agent-";
const SUFFIX: &str = ".sock";

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Which sessions are open.
    List,
    /// To end a session.
    Kill {
        /// Its whole id.
        id: String,
        /// Why.
        reason: Option<String>,
    },
    /// The chain of a session that is open, by its whole id.
    ChainOfSession(String),
    /// The chain of a process, by its number.
    ChainOfProcess(u32),
    /// The chains of all processes of pods with this name, or `NAMESPACE/NAME`.
    ChainsOfPods(String),
}

/// One line of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    /// A session that is open.
    Session(Box<OpenSession>),
    /// A chain.
    Chain(Box<Chain>),
    /// The session has ended.
    Ended,
    /// The session was told to end, and hasn't yet.
    Told,
    /// No such session is open here.
    Unknown,
    /// Not for whoever asked, or not understood.
    Refused(String),
    /// Nothing more follows. Without it an answer isn't whole.
    Done,
}

/// A session that is open.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct OpenSession {
    pub(crate) session: String,
    /// When it began, in milliseconds since 1970.
    pub(crate) began: u64,
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) target: String,
    pub(crate) database: String,
    pub(crate) user: String,
    pub(crate) application: String,
    /// `handshake`, `idle`, `in transaction` or `running`.
    pub(crate) state: String,
    pub(crate) operations: u64,
    pub(crate) denied: u64,
    /// What it runs now, where its text is recorded.
    pub(crate) statement: Option<String>,
    /// For how long, in milliseconds.
    pub(crate) running_ms: Option<u64>,
    /// The agent's process.
    pub(crate) agent: u32,
}

impl OpenSession {
    fn new(seen: &Seen) -> Self {
        let start = &seen.start;
        let (namespace, pod) = match start.chain.hops().last().map(|hop| &hop.kind) {
            Some(HopKind::Pod { pod, .. }) => (pod.namespace.clone(), pod.name.clone()),
            _ => Default::default(),
        };
        let running = seen.now.as_ref().and_then(|now| now.running.as_ref());
        let state = match &seen.now {
            None => "handshake",
            Some(_) if running.is_some() => "running",
            Some(now) if now.in_transaction => "in transaction",
            Some(_) => "idle",
        };
        Self {
            session: start.session.as_str().to_owned(),
            began: millis(start.at),
            namespace,
            pod,
            target: start.target.as_str().to_owned(),
            database: start.database.clone(),
            user: start.user.clone(),
            application: start.application.clone(),
            state: state.to_owned(),
            operations: seen.now.as_ref().map_or(0, |now| now.operations),
            denied: seen.now.as_ref().map_or(0, |now| now.denied),
            statement: running.and_then(|running| {
                recordable(&running.text, running.level.min(RecordingLevel::Statement))
                    .map(|text| text.into_owned())
            }),
            running_ms: running.map(|running| u64::try_from(running.age.as_millis()).unwrap_or(u64::MAX)),
            agent: std::process::id(),
        }
    }
}

fn millis(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The server, on a thread of its own.
pub(crate) struct Control {
    path: PathBuf,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Listens beside the record and serves.
    pub(crate) fn start(record: &Path, workers: Arc<Workers>, chains: Chains) -> Result<Self> {
        let path = record.join(format!("{PREFIX}{}{SUFFIX}", std::process::id()));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = {
            let _entered = runtime.enter();
            listen(record, &path).with_context(|| format!("cannot listen on {}", path.display()))?
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || runtime.block_on(serve(listener, workers, Arc::new(chains), stopped)))?;
        Ok(Self {
            path,
            stop,
            thread: Some(thread),
        })
    }

    /// Ends it.
    pub(crate) fn stop(mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Listens on a path of any length: the kernel takes 107 bytes of one, so the directory goes in by its descriptor.
fn listen(directory: &Path, path: &Path) -> io::Result<UnixListener> {
    let opened = std::fs::File::open(directory)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let short = by_descriptor(&opened, name);
    remove_dead(directory, &opened)?;
    let listener = UnixListener::bind(short)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Removes what agents left that were killed.
fn remove_dead(directory: &Path, opened: &std::fs::File) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)?.flatten() {
        let name = entry.file_name();
        let is_socket = name
            .to_str()
            .is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
        if is_socket {
            let answered = std::os::unix::net::UnixStream::connect(by_descriptor(opened, &name));
            if answered.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
    Ok(())
}

fn by_descriptor(directory: &std::fs::File, name: &std::ffi::OsStr) -> PathBuf {
    use std::os::fd::AsRawFd as _;
    Path::new("/proc/self/fd")
        .join(directory.as_raw_fd().to_string())
        .join(name)
}

async fn serve(listener: UnixListener, workers: Arc<Workers>, chains: Arc<Chains>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (workers, chains) = (Arc::clone(&workers), Arc::clone(&chains));
        tokio::spawn(async move {
            let _ = tokio::time::timeout(2 * PATIENCE, answer(stream, &workers, &chains)).await;
        });
    }
}

async fn answer(stream: UnixStream, workers: &Workers, chains: &Chains) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    let (read, mut write) = stream.into_split();
    let own = nix::unistd::Uid::effective().as_raw();
    if peer.uid() != 0 && peer.uid() != own {
        return say(&mut write, &Reply::Refused("only root may ask".to_owned())).await;
    }
    let mut line = String::new();
    let mut lines = BufReader::new(read.take(REQUEST));
    tokio::time::timeout(PATIENCE, lines.read_line(&mut line)).await??;
    match serde_json::from_str(&line) {
        Err(_) => {
            say(
                &mut write,
                &Reply::Refused("the request can't be read".to_owned()),
            )
            .await
        }
        Ok(Request::List) => {
            let (to, mut seen) = mpsc::unbounded_channel();
            workers.list(&to);
            drop(to);
            while let Some(seen) = seen.recv().await {
                say(&mut write, &Reply::Session(Box::new(OpenSession::new(&seen)))).await?;
            }
            say(&mut write, &Reply::Done).await
        }
        Ok(Request::ChainOfSession(id)) => {
            let (to, mut seen) = mpsc::unbounded_channel();
            workers.list(&to);
            drop(to);
            while let Some(seen) = seen.recv().await {
                if seen.start.session.as_str() == id {
                    let chain = Chain::clone(&seen.start.chain);
                    say(&mut write, &Reply::Chain(Box::new(chain))).await?;
                }
            }
            say(&mut write, &Reply::Done).await
        }
        Ok(Request::ChainOfProcess(tgid)) => {
            if let Some(chain) = chains.of_process(tgid) {
                say(&mut write, &Reply::Chain(Box::new(chain))).await?;
            }
            say(&mut write, &Reply::Done).await
        }
        Ok(Request::ChainsOfPods(name)) => {
            for chain in chains.of_pods(&name) {
                say(&mut write, &Reply::Chain(Box::new(chain))).await?;
            }
            say(&mut write, &Reply::Done).await
        }
        Ok(Request::Kill { id, reason }) => {
            let pid = peer.pid().unwrap_or(0);
            let killing = Arc::new(Killing {
                uid: peer.uid(),
                pid,
                program: program(pid),
                reason: reason
                    .map(|reason| shortened(&reason))
                    .filter(|reason| !reason.is_empty()),
                at: SystemTime::now(),
            });
            tracing::info!(session = %id, uid = killing.uid, pid, "a session is to end");
            let reply = match workers.kill(&SessionId::new(id), &killing).await {
                None => Reply::Unknown,
                Some(end) => match tokio::time::timeout(PATIENCE, end).await {
                    Ok(_) => Reply::Ended,
                    Err(_) => Reply::Told,
                },
            };
            say(&mut write, &reply).await
        }
    }
}

/// A reason as it may be told to a client and recorded: one line.
fn shortened(reason: &str) -> String {
    let mut text: String = reason
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    while text.len() > REASON {
        text.pop();
    }
    text.trim().to_owned()
}

/// The program of a process, as the kernel says; empty where it has gone.
fn program(pid: i32) -> String {
    std::fs::read_link(format!("/proc/{pid}/exe"))
        .map(|path| path.to_string_lossy().into_owned())
        .unwrap_or_default()
}

async fn say(to: &mut (impl tokio::io::AsyncWrite + Unpin), reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    tokio::time::timeout(PATIENCE, to.write_all(&line)).await?
}
