//! `bailiff sessions`: reading the record.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use serde_json::Value;

/// List recorded sessions, or show one.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List sessions, the newest last
    List {
        /// Where the record is
        #[arg(long, value_name = "DIR", default_value = "/var/lib/bailiff/record")]
        dir: PathBuf,
        /// Print one JSON object a session
        #[arg(long)]
        json: bool,
    },
    /// Show one session: who, where to, and each statement with its verdict
    Show {
        /// Where the record is
        #[arg(long, value_name = "DIR", default_value = "/var/lib/bailiff/record")]
        dir: PathBuf,
        /// Print the recorded events as they are
        #[arg(long)]
        json: bool,
        /// The session's id, a beginning of it that no other has, or `last`
        id: String,
    },
}

type Sessions = BTreeMap<(u64, String), Vec<Value>>;

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::List { dir, json } => list(&read(dir)?, *json),
        Command::Show { dir, json, id } => show(&read(dir)?, id, *json)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// All sessions, by when they began. A last line that a crash cut off is left out.
fn read(directory: &Path) -> Result<Sessions> {
    let files = crate::record::files(directory).with_context(|| {
        format!(
            "there is no record in {}; give its directory with --dir",
            directory.display()
        )
    })?;
    let mut by_id: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for path in files {
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            // An agent that needed room has just removed it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        // As bytes: a cut may go through a character.
        for line in BufReader::new(file).split(b'\n') {
            let line = line.with_context(|| format!("cannot read {}", path.display()))?;
            let Ok(event) = serde_json::from_slice::<Value>(&line) else {
                continue;
            };
            if let Some(id) = event.pointer("/metadata/correlation_uid").and_then(Value::as_str) {
                by_id.entry(id.to_owned()).or_default().push(event);
            }
        }
    }
    let began = |events: &[Value]| {
        events
            .first()
            .and_then(|event| event.get("time"))
            .and_then(Value::as_u64)
            .unwrap_or(0)
    };
    Ok(by_id
        .into_iter()
        .map(|(id, events)| ((began(&events), id), events))
        .collect())
}

fn text<'a>(event: &'a Value, place: &str) -> &'a str {
    event.pointer(place).and_then(Value::as_str).unwrap_or("-")
}

fn number(event: &Value, place: &str) -> u64 {
    event.pointer(place).and_then(Value::as_u64).unwrap_or(0)
}

fn is(event: &Value, kind: &str) -> bool {
    text(event, "/unmapped/event") == kind
}

fn caller(start: &Value) -> String {
    let hop = start
        .pointer("/unmapped/chain")
        .and_then(Value::as_array)
        .and_then(|hops| hops.last());
    let pod = hop.and_then(|hop| hop.pointer("/kind/pod/pod"));
    pod.map_or_else(
        || "-".to_owned(),
        |pod| format!("{}/{}", text(pod, "/namespace"), text(pod, "/name")),
    )
}

/// What a client chose, made safe for a terminal: control characters are shown, not obeyed.
fn plain(text: &str) -> String {
    text.chars()
        .map(|letter| match letter {
            '\n' | '\r' | '\t' => ' ',
            letter if letter.is_control() => char::REPLACEMENT_CHARACTER,
            letter => letter,
        })
        .collect()
}

/// Milliseconds since 1970 as UTC, to the second.
fn utc(millis: u64) -> String {
    let seconds = millis / 1000;
    // Days to a date, by eras of 400 years that begin on a 1st of March.
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    format!(
        "{:04}-{month:02}-{day:02} {:02}:{:02}:{:02}",
        era * 400 + year + later,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60
    )
}

fn list(sessions: &Sessions, json: bool) {
    if !json {
        println!(
            "{:<12}  {:<19}  {:<24}  {:<14}  {:<20}  {:>6}  {:>6}  {:>9}",
            "SESSION", "BEGAN (UTC)", "POD", "TARGET", "DATABASE/USER", "OPS", "DENIED", "SECONDS"
        );
    }
    for ((began, id), events) in sessions {
        let Some(start) = events.iter().find(|event| is(event, "session_start")) else {
            continue;
        };
        let operations = events.iter().filter(|event| is(event, "operation")).count();
        let denied = events
            .iter()
            .filter(|event| is(event, "operation") && text(event, "/unmapped/verdict") != "allow")
            .count();
        let ended = events
            .iter()
            .find(|event| is(event, "session_end"))
            .map(|end| number(end, "/time").saturating_sub(*began));
        let (database, user) = (text(start, "/database/name"), text(start, "/actor/user/name"));
        if json {
            let row = serde_json::json!({
                "session": id, "began": began, "pod": caller(start), "target": text(start, "/dst_endpoint/name"),
                "database": database, "user": user, "operations": operations, "denied": denied, "duration_ms": ended,
            });
            println!("{row}");
            continue;
        }
        let place = plain(&format!("{database}/{user}"));
        let short = id.get(..12).unwrap_or(id);
        #[expect(clippy::cast_precision_loss, reason = "shown to a tenth of a second")]
        let took = ended.map_or_else(
            || "open".to_owned(),
            |millis| format!("{:.1}", millis as f64 / 1000.0),
        );
        println!(
            "{short:<12}  {:<19}  {:<24}  {:<14}  {place:<20}  {operations:>6}  {denied:>6}  {took:>9}",
            utc(*began),
            plain(&caller(start)),
            text(start, "/dst_endpoint/name")
        );
    }
}

fn show(sessions: &Sessions, id: &str, json: bool) -> Result<()> {
    let matching: Vec<_> = match id {
        "last" => sessions.iter().next_back().into_iter().collect(),
        id => sessions
            .iter()
            .filter(|((_, found), _)| found.starts_with(id))
            .collect(),
    };
    let [((_, id), events)] = matching.as_slice() else {
        match matching.len() {
            0 => bail!("no session begins with {id:?}; `bailiff sessions list` shows all"),
            many => bail!("{many} sessions begin with {id:?}; give more of the id"),
        }
    };
    if json {
        for event in *events {
            println!("{event}");
        }
        return Ok(());
    }
    println!("session {id}");
    for event in *events {
        match text(event, "/unmapped/event") {
            "session_start" => show_start(event),
            "operation" => show_operation(event),
            "session_end" => println!(
                "  ended: {} after {} operations, {} of them denied",
                text(event, "/unmapped/why"),
                number(event, "/unmapped/operations"),
                number(event, "/unmapped/denied")
            ),
            _ => {}
        }
    }
    Ok(())
}

fn show_start(start: &Value) {
    println!("  chain:");
    for (place, hop) in start
        .pointer("/unmapped/chain")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .enumerate()
    {
        let evidence = text(hop, "/evidence");
        match hop.pointer("/kind/pod") {
            Some(pod) => println!(
                "    {place}. pod {}/{} as {}, container {}, process {} {} uid {} [{evidence}]",
                text(pod, "/pod/namespace"),
                text(pod, "/pod/name"),
                text(pod, "/pod/serviceAccount"),
                text(pod, "/process/container"),
                number(pod, "/process/id/tgid"),
                plain(text(pod, "/process/executable")),
                number(pod, "/process/uid"),
            ),
            None => println!(
                "    {place}. unknown: {} [{evidence}]",
                text(hop, "/kind/unknown/why")
            ),
        }
    }
    println!(
        "  to {} at {}:{}, database {}, user {}",
        text(start, "/dst_endpoint/name"),
        text(start, "/dst_endpoint/ip"),
        number(start, "/dst_endpoint/port"),
        plain(text(start, "/database/name")),
        plain(text(start, "/actor/user/name"))
    );
}

fn show_operation(operation: &Value) {
    let verdict = text(operation, "/unmapped/verdict");
    let effects: Vec<&str> = operation
        .pointer("/unmapped/effects")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let by = match (
        text(operation, "/unmapped/policy"),
        text(operation, "/unmapped/rule"),
    ) {
        ("-", _) => "the target's default".to_owned(),
        (policy, rule) => format!("{policy}/{rule}"),
    };
    println!(
        "  [{verdict:>5}] {}",
        plain(text(operation, "/query_info/query_string"))
    );
    print!(
        "          {} by {by}; {} rows, {} masked, decided in {} µs, took {} µs",
        effects.join("+"),
        number(operation, "/unmapped/rows"),
        number(operation, "/unmapped/masked_values"),
        number(operation, "/unmapped/decided_us"),
        number(operation, "/unmapped/took_us"),
    );
    match text(operation, "/status_code") {
        "-" => {}
        code => print!("; SQLSTATE {code}"),
    }
    match text(operation, "/status_detail") {
        "-" => println!(),
        detail => println!("; {detail}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_a_crash_cut_off_is_left_out() {
        let directory = std::env::temp_dir().join(format!("bailiff-sessions-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let line = |id: &str, time: u64| {
            format!("{{\"time\":{time},\"metadata\":{{\"correlation_uid\":\"{id}\"}}}}\n")
        };
        let mut text = format!("{}{}", line("bb", 2), line("aa", 1)).into_bytes();
        // Half of a two-byte character.
        text.extend_from_slice(b"{\"time\":3,\"metadata\":{\"correlation_uid\":\"\xc3");
        std::fs::write(directory.join("sessions-1.jsonl"), text).unwrap();
        let sessions = read(&directory);
        std::fs::remove_dir_all(&directory).unwrap();
        let ids: Vec<_> = sessions.unwrap().into_keys().map(|(_, id)| id).collect();
        assert_eq!(ids, ["aa", "bb"]);
    }

    #[test]
    fn times_are_told_as_utc() {
        for (millis, told) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400_000, "2000-02-29 00:00:00"),
            (1_709_251_199_999, "2024-02-29 23:59:59"),
            (4_102_444_800_000, "2100-01-01 00:00:00"),
        ] {
            assert_eq!(utc(millis), told);
        }
    }

    #[test]
    fn a_terminal_is_not_steered_by_what_a_client_sent() {
        assert_eq!(plain("SELECT\n1 \x1b[2J\u{9b}x"), "SELECT 1 \u{fffd}[2J\u{fffd}x");
    }

    #[test]
    fn an_id_has_to_name_one_session() {
        let mut sessions = Sessions::new();
        for id in ["aa1", "aa2"] {
            sessions.insert((1, id.to_owned()), Vec::new());
        }
        assert!(show(&sessions, "aa1", true).is_ok());
        let several = show(&sessions, "aa", true).unwrap_err().to_string();
        assert!(several.contains("2 sessions"), "{several}");
        let none = show(&sessions, "b", true).unwrap_err().to_string();
        assert!(none.contains("no session begins"), "{none}");
    }
}
