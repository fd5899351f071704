//! `bailiff sessions show`: a session as a story.

mod operation;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;

use super::read::{Reader, is, number, session, text};
use super::story::{Sessions, State};
use super::time::{Clock, lasted, took};
use super::{Out, Paint, Place, folded, plain};
use crate::control::Agents;

/// How often the record is looked at with --follow.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Show one session: who, through which chain, and each statement with its verdict
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    /// Print the recorded events as they are
    #[arg(long)]
    json: bool,
    /// Print texts, values and rows in full
    #[arg(long)]
    full: bool,
    /// Only what was denied or failed
    #[arg(long)]
    denied: bool,
    /// Go on until the session ends
    #[arg(short, long)]
    follow: bool,
    /// Tell times as this machine does, not in UTC
    #[arg(long)]
    local: bool,
    /// The session's id, a beginning of it that no other has, or `last`
    id: String,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let mut sessions = Sessions::default();
    let open = Agents::beside(&args.place.dir).and_then(|agents| agents.sessions());
    Reader::new(&args.place.dir).more(|event| sessions.take(&event))?;
    if let Ok(open) = &open {
        sessions.note_open(open);
    }
    let named = sessions.named(&args.id);
    let [summary] = named.as_slice() else {
        match named.len() {
            0 => bail!(
                "no session begins with {:?}; `bailiff sessions list` shows all",
                args.id
            ),
            many => bail!("{many} sessions begin with {:?}; give more of the id", args.id),
        }
    };
    let mut teller = Teller {
        out: Out::new(),
        clock: Clock::new(args.local),
        full: args.full,
        began: summary.began,
    };
    if !args.json {
        let id = format!("Session {}", summary.id);
        teller.out.line(&teller.out.paint(Paint::Bold, &id));
    }
    let mut reader = Reader::new(&args.place.dir);
    let mut ended = false;
    loop {
        let mut events = Vec::new();
        reader.more(|event| {
            if session(&event) == Some(&summary.id) {
                events.push(event);
            }
        })?;
        for event in &events {
            ended |= is(event, "session_end");
            if args.json {
                teller.out.line(&event.to_string());
            } else if !args.denied || !is(event, "operation") || operation::is_grave(event) {
                teller.tell(event);
            }
        }
        if !args.follow || ended || teller.out.closed {
            break;
        }
        let open = Agents::beside(&args.place.dir).and_then(|agents| agents.sessions())?;
        let is_open = open.iter().any(|open| open.session == summary.id);
        if !is_open && events.is_empty() {
            break; // Its agent was killed.
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    if !ended && !args.json {
        teller.open_end(summary.state(), summary.open.as_ref());
    }
    Ok(ExitCode::SUCCESS)
}

struct Teller {
    out: Out,
    clock: Clock,
    full: bool,
    began: u64,
}

impl Teller {
    fn tell(&mut self, event: &Value) {
        match text(event, "/unmapped/event") {
            "session_start" => self.start(event),
            "operation" => {
                for line in operation::lines(event, self) {
                    self.out.line(&line);
                }
            }
            "session_end" => self.end(event),
            _ => {}
        }
    }

    fn start(&mut self, start: &Value) {
        let hops: Vec<&Value> = start
            .pointer("/unmapped/chain")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .collect();
        for (place, hop) in hops.iter().enumerate() {
            let role = match (place, hops.len()) {
                (place, many) if place + 1 == many => "caller",
                (0, _) => "origin",
                _ => "through",
            };
            let evidence = text(hop, "/evidence");
            let told = match hop.pointer("/kind/pod") {
                Some(pod) => who(pod),
                None => format!("somebody unknown: {}", plain(text(hop, "/kind/unknown/why"))),
            };
            let evidence = match evidence {
                "observed" => self.out.paint(Paint::Dim, "[observed]"),
                other => self.out.paint(Paint::Yellow, &format!("[{other}]")),
            };
            self.out.line(&format!("  {role:<8} {told} {evidence}"));
            if let Some(by) = hop.pointer("/kind/pod/process/ancestry").and_then(started_by) {
                self.out.line(&format!("           {by}"));
            }
        }
        let application = plain(text(start, "/actor/app_name"));
        let by = if application.is_empty() || application == "-" {
            String::new()
        } else {
            format!(" with {application}")
        };
        self.out.line(&format!(
            "  to       {} at {}:{}, database {} as user {}{by}",
            plain(text(start, "/dst_endpoint/name")),
            text(start, "/dst_endpoint/ip"),
            number(start, "/dst_endpoint/port"),
            plain(text(start, "/database/name")),
            plain(text(start, "/actor/user/name")),
        ));
        if start.pointer("/unmapped/connected_as").is_some() {
            self.out.line(&format!(
                "           told to be user {} of database {}",
                plain(text(start, "/unmapped/connected_as/user")),
                plain(text(start, "/unmapped/connected_as/database")),
            ));
        }
        let began = self.clock.in_full(number(start, "/time"));
        self.out.line(&format!("  began    {began}"));
    }

    fn end(&mut self, end: &Value) {
        let at = number(end, "/time");
        let why = text(end, "/unmapped/why");
        let told = match why {
            "client_closed" => "the client closed it".to_owned(),
            "target_closed" => "the database closed it".to_owned(),
            "drained" => "the agent ended".to_owned(),
            "killed" => killed(end, &self.clock),
            other => plain(other),
        };
        let told = match why {
            "client_closed" => told,
            _ => self.out.paint(Paint::Red, &told),
        };
        self.out.line(&format!(
            "  ended    {} after {}: {told}",
            self.clock.in_full(at),
            lasted(at.saturating_sub(self.began))
        ));
        let (operations, denied) = (
            number(end, "/unmapped/operations"),
            number(end, "/unmapped/denied"),
        );
        let denied = match denied {
            0 => "none denied".to_owned(),
            some => self.out.paint(Paint::Red, &format!("{some} denied")),
        };
        let unrecorded = match number(end, "/unmapped/unrecorded") {
            0 => String::new(),
            some => self.out.paint(
                Paint::Yellow,
                &format!(", {some} not recorded, since the record was full"),
            ),
        };
        self.out.line(&format!(
            "  in all   {operations} operations, {denied}{unrecorded}"
        ));
    }

    /// What there is to say where the record has no end.
    fn open_end(&mut self, state: State<'_>, open: Option<&crate::control::OpenSession>) {
        let told = match state {
            State::Open(what) => {
                let running = open.and_then(|open| {
                    let for_long = lasted(open.running_ms?);
                    let statement = open.statement.as_deref().map_or_else(String::new, plain);
                    Some(format!(" for {for_long}: {}", folded(&statement, self.width())))
                });
                let told = format!("{what}{}", running.unwrap_or_default());
                format!("  open     {}", self.out.paint(Paint::Green, &told))
            }
            _ => format!(
                "  {}",
                self.out.paint(
                    Paint::Yellow,
                    "unfinished: its end isn't in the record and no agent has it open; the agent or the machine stopped suddenly"
                )
            ),
        };
        self.out.line(&told);
    }

    fn width(&self) -> usize {
        if self.full { usize::MAX } else { 120 }
    }

    fn since_began(&self, at: u64, decided: u64) -> String {
        let after = at.saturating_sub(self.began);
        format!(
            "+{}.{:03} s, decided in {}",
            after / 1000,
            after % 1000,
            took(decided)
        )
    }
}

fn who(pod: &Value) -> String {
    let mut told = format!(
        "pod {}/{} as service account {}",
        plain(text(pod, "/pod/namespace")),
        plain(text(pod, "/pod/name")),
        plain(text(pod, "/pod/serviceAccount")),
    );
    if let Some(process) = pod.get("process").filter(|process| process.is_object()) {
        let container = text(process, "/container");
        if container != "-" {
            told.push_str(&format!(", container {}", plain(container)));
        }
        let program = match text(process, "/executable") {
            "-" => text(process, "/comm"),
            executable => executable,
        };
        told.push_str(&format!(
            ", process {} {} of uid {}",
            number(process, "/id/tgid"),
            plain(program),
            number(process, "/uid")
        ));
    }
    told
}

/// From whom a process descends. `None` for one of which that is all known and nothing to tell: it came into the pod from outside.
fn started_by(ancestry: &Value) -> Option<String> {
    let mut by: Vec<String> = ancestry
        .get("processes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|process| {
            let program = text(process, "/executable");
            let has_ended = match process.get("ended") {
                Some(Value::Bool(true)) => ", ended",
                _ => "",
            };
            format!("{} ({}{has_ended})", plain(program), number(process, "/id/tgid"))
        })
        .collect();
    if ancestry.get("complete") != Some(&Value::Bool(true)) {
        by.push("whom nobody saw".to_owned());
    }
    (!by.is_empty()).then(|| format!("started by {}", by.join(", by ")))
}

fn killed(end: &Value, clock: &Clock) -> String {
    let by = |place: &str| end.pointer(&format!("/unmapped/killed_by{place}"));
    let mut told = format!(
        "uid {} ended it (process {} {}) at {}",
        by("/uid").unwrap_or(&Value::Null),
        by("/pid").unwrap_or(&Value::Null),
        plain(by("/program").and_then(Value::as_str).unwrap_or_default()),
        clock.in_full(by("/time").and_then(Value::as_u64).unwrap_or(0)),
    );
    if let Some(reason) = by("/reason").and_then(Value::as_str) {
        told.push_str(&format!(", saying {:?}", plain(reason)));
    }
    told
}
