//! `bailiff sessions list`.

use std::collections::HashSet;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow};
use clap::ValueEnum;
use jiff::Timestamp;

use super::read::Reader;
use super::story::{Sessions, State, Summary};
use super::time::{Clock, lasted};
use super::{Out, Paint, Place, folded, plain};
use crate::control::Agents;

/// How often the record is looked at with --follow.
const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// List sessions, the newest last
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    filter: Filter,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    output: Format,
    /// The same as --output json
    #[arg(long, hide = true)]
    json: bool,
    /// Go on listing sessions as they begin and end
    #[arg(short, long)]
    follow: bool,
    /// Tell times as this machine does, not in UTC
    #[arg(long)]
    local: bool,
}

const EXAMPLES: &str = "Examples:
  What was denied in the last hour:
    bailiff sessions list --verdict deny --since 1h

  What is open now, with what it runs:
    bailiff sessions list --open -o wide

  For other programs, one JSON object a session:
    bailiff sessions list --target shop -o json | jq -r .session
";

/// Which sessions are meant. All that is given must hold.
#[derive(Debug, Default, clap::Args)]
struct Filter {
    /// Of pods of this name; `*` stands for anything
    #[arg(long, value_name = "NAME")]
    pod: Option<String>,
    /// Of pods of this namespace; `*` stands for anything
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// To this target; `*` stands for anything
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// As this database user; `*` stands for anything
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// With a statement that got this verdict
    #[arg(long, value_enum)]
    verdict: Option<Verdict>,
    /// That were open at this time or later: 15m, 2h, 3d ago, or 2026-01-31T12:30
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// That began before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// That are open now
    #[arg(long)]
    open: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Columns for people
    Table,
    /// More columns
    Wide,
    /// One JSON object a session
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Verdict {
    /// It was allowed
    Allow,
    /// It was denied
    Deny,
    /// It would have needed an approval
    RequireApproval,
}

impl Verdict {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::RequireApproval => "require_approval",
        }
    }
}

/// The filter with its times read.
struct Wanted<'a> {
    filter: &'a Filter,
    since: u64,
    until: u64,
}

impl Filter {
    fn read(&self, clock: &Clock) -> Result<Wanted<'_>> {
        let now = Timestamp::now();
        let read = |written: &Option<String>, otherwise| match written {
            Some(text) => clock.read(text, now).map_err(|error| anyhow!(error)),
            None => Ok(otherwise),
        };
        Ok(Wanted {
            filter: self,
            since: read(&self.since, 0)?,
            until: read(&self.until, u64::MAX)?,
        })
    }
}

impl Wanted<'_> {
    fn has(&self, summary: &Summary) -> bool {
        let named = |pattern: &Option<String>, name: &str| {
            pattern.as_ref().is_none_or(|pattern| matches(pattern, name))
        };
        let filter = self.filter;
        named(&filter.pod, &summary.pod)
            && named(&filter.namespace, &summary.namespace)
            && named(&filter.target, &summary.target)
            && named(&filter.user, &summary.user)
            && filter
                .verdict
                .is_none_or(|verdict| summary.verdicts.contains(verdict.as_str()))
            && summary.began < self.until
            && match (&summary.ended, &summary.open) {
                (Some((at, _)), _) => *at >= self.since,
                (None, Some(_)) => true,
                (None, None) => summary.began >= self.since,
            }
            && (!filter.open || matches!(summary.state(), State::Open(_)))
    }
}

/// Whether a name fits a pattern in which `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut name) = name.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match name.find(part) {
            Some(at) => name = name.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    name.ends_with(last)
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let clock = Clock::new(args.local);
    let wanted = args.filter.read(&clock)?;
    let format = if args.json { Format::Json } else { args.output };
    let mut out = Out::new();
    let (mut reader, mut sessions) = (Reader::new(&args.place.dir), Sessions::default());
    // What was printed of a session: that it is open, and that it has ended.
    let mut told: HashSet<(String, bool)> = HashSet::new();
    if format != Format::Json {
        out.line(&out.paint(Paint::Bold, &header(format, &clock)));
    }
    loop {
        // The agents first: a session that ends between the two has its end in the record.
        let agents = Agents::beside(&args.place.dir).and_then(|agents| agents.sessions());
        reader.more(|event| sessions.take(&event))?;
        match agents {
            Ok(open) => sessions.note_open(&open),
            Err(error) => {
                tracing::warn!(%error, "what is open now can't be asked; sessions without an end show as unfinished")
            }
        }
        for summary in sessions.in_order() {
            let over = !matches!(summary.state(), State::Open(_));
            if wanted.has(summary) && told.insert((summary.id.clone(), over)) {
                let line = match format {
                    Format::Json => json(summary),
                    format => row(summary, format, &clock, &out),
                };
                out.line(&line);
            }
        }
        if !args.follow || out.closed {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn header(format: Format, clock: &Clock) -> String {
    let began = format!("BEGAN ({})", clock.name());
    let narrow = format!(
        "{:<12}  {began:<19}  {:<24}  {:<14}  {:<20}  {:>6}  {:>6}  {:>12}  {:<20}",
        "SESSION", "POD", "TARGET", "DATABASE/USER", "OPS", "DENIED", "LASTED", "STATE"
    );
    match format {
        Format::Wide => format!(
            "{narrow}  {:>8}  {:>8}  {:<16}  NOW",
            "ROWS", "MASKED", "APPLICATION"
        ),
        _ => narrow.trim_end().to_owned(),
    }
}

fn row(summary: &Summary, format: Format, clock: &Clock, out: &Out) -> String {
    let wide = format == Format::Wide;
    let id = if wide {
        summary.id.as_str()
    } else {
        summary.id.get(..12).unwrap_or(&summary.id)
    };
    let ended = match (&summary.ended, &summary.open) {
        (Some((at, _)), _) => Some(*at),
        (None, Some(_)) => u64::try_from(Timestamp::now().as_millisecond()).ok(),
        (None, None) => None,
    };
    let took = ended.map_or_else(|| "-".to_owned(), |at| lasted(at.saturating_sub(summary.began)));
    let state = format!("{:<20}", summary.state().told());
    let state = match summary.state() {
        State::Open(_) => out.paint(Paint::Green, &state),
        State::Unfinished => out.paint(Paint::Yellow, &state),
        State::Ended("killed") => out.paint(Paint::Red, &state),
        State::Ended(_) => state,
    };
    let denied = format!("{:>6}", summary.denied);
    let denied = if summary.denied > 0 {
        out.paint(Paint::Red, &denied)
    } else {
        denied
    };
    let pod = plain(&format!("{}/{}", summary.namespace, summary.pod));
    let place = plain(&format!("{}/{}", summary.database, summary.user));
    let narrow = format!(
        "{id:<12}  {:<19}  {pod:<24}  {:<14}  {place:<20}  {:>6}  {denied}  {took:>12}  {state}",
        clock.told(summary.began),
        plain(&summary.target),
        summary.operations,
    );
    if !wide {
        return narrow.trim_end().to_owned();
    }
    let now = summary.open.as_ref().and_then(|open| {
        let statement = folded(&plain(open.statement.as_deref()?), 80);
        Some(format!("{} for {}", statement, lasted(open.running_ms?)))
    });
    format!(
        "{narrow}  {:>8}  {:>8}  {:<16}  {}",
        summary.rows,
        summary.masked,
        plain(&summary.application),
        now.unwrap_or_default()
    )
    .trim_end()
    .to_owned()
}

fn json(summary: &Summary) -> String {
    let (state, why) = match summary.state() {
        State::Open(what) => (what, None),
        State::Ended(why) => ("ended", Some(why)),
        State::Unfinished => ("unfinished", None),
    };
    let open = summary.open.as_ref().filter(|_| summary.ended.is_none());
    serde_json::json!({
        "session": summary.id,
        "began": summary.began,
        "ended": summary.ended.as_ref().map(|(at, _)| at),
        "duration_ms": summary.ended.as_ref().map(|(at, _)| at.saturating_sub(summary.began)),
        "open": open.is_some(),
        "state": state,
        "why": why,
        "namespace": summary.namespace,
        "pod": summary.pod,
        "target": summary.target,
        "database": summary.database,
        "user": summary.user,
        "application": summary.application,
        "operations": summary.operations,
        "denied": summary.denied,
        "rows": summary.rows,
        "masked_values": summary.masked,
        "statement": open.and_then(|open| open.statement.as_deref()),
        "running_ms": open.and_then(|open| open.running_ms),
        "agent": open.map(|open| open.agent),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, name, fits) in [
            ("ci-runner", "ci-runner", true),
            ("ci-runner", "ci-runner-2", false),
            ("ci-*", "ci-runner", true),
            ("*runner", "ci-runner", true),
            ("c*-r*r", "ci-runner", true),
            ("*", "", true),
            ("a*a", "a", false),
            ("*x*", "ci-runner", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn filters_all_hold() {
        let summary = Summary {
            id: "a".to_owned(),
            began: 1_000_000,
            pod: "runner".to_owned(),
            namespace: "ci".to_owned(),
            verdicts: ["deny".to_owned()].into(),
            ended: Some((2_000_000, "client_closed".to_owned())),
            ..Summary::default()
        };
        let has = |filter: Filter| filter.read(&Clock::new(false)).unwrap().has(&summary);
        assert!(has(Filter::default()));
        let pod = || Some("run*".to_owned());
        assert!(has(Filter {
            pod: pod(),
            ..Filter::default()
        }));
        let other = Some("other".to_owned());
        assert!(!has(Filter {
            pod: pod(),
            namespace: other,
            ..Filter::default()
        }));
        let verdict = |verdict| Filter {
            verdict: Some(verdict),
            ..Filter::default()
        };
        assert!(has(verdict(Verdict::Deny)) && !has(verdict(Verdict::Allow)));
        let since = |text: &str| Filter {
            since: Some(text.to_owned()),
            ..Filter::default()
        };
        assert!(has(since("1970-01-01T00:30")) && !has(since("1970-01-01T00:40")));
        let until = |text: &str| Filter {
            until: Some(text.to_owned()),
            ..Filter::default()
        };
        assert!(has(until("1970-01-01T00:30")) && !has(until("1970-01-01T00:10")));
        assert!(!has(Filter {
            open: true,
            ..Filter::default()
        }));
    }
}
