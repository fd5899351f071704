//! One operation of the story.

use serde_json::Value;

use super::super::read::{number, text};
use super::super::time::took;
use super::super::{Paint, folded, plain, plain_lines};
use super::Teller;

/// Rows that are shown without --full.
const ROWS: usize = 5;

/// Whether it was denied, or failed.
pub(super) fn is_grave(operation: &Value) -> bool {
    text(operation, "/unmapped/verdict") != "allow" || number(operation, "/status_id") == 2
}

pub(super) fn lines(operation: &Value, teller: &Teller) -> Vec<String> {
    let out = &teller.out;
    let verdict = text(operation, "/unmapped/verdict");
    let (word, paint) = match verdict {
        "allow" => ("allow", Paint::Green),
        "deny" => ("DENY", Paint::Red),
        "require_approval" => ("ASKS", Paint::Red),
        other => (other, Paint::Red),
    };
    let mut lines = vec![String::new()];
    let said = operation
        .pointer("/query_info/query_string")
        .and_then(Value::as_str);
    let said = match said {
        Some(said) if teller.full => plain_lines(said).replace('\n', "\n           "),
        Some(said) => folded(&plain(said), teller.width()),
        None => out.paint(Paint::Dim, "(its text isn't recorded)"),
    };
    let word = format!("{word:<8}");
    lines.push(format!("  {} {said}", out.paint(paint, &word)));
    let detail = |text: String| format!("           {text}");
    for (place, value) in list(operation, "/unmapped/values").iter().enumerate() {
        lines.push(detail(format!("${} = {}", place + 1, bound(value, teller))));
    }
    if let Some(why) = operation
        .pointer("/unmapped/values_withheld")
        .and_then(Value::as_str)
    {
        lines.push(detail(
            out.paint(Paint::Dim, &format!("its values aren't recorded: {why}")),
        ));
    }
    let effects: Vec<&str> = list(operation, "/unmapped/effects")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let by = match (
        text(operation, "/unmapped/policy"),
        text(operation, "/unmapped/rule"),
    ) {
        ("-", _) => "by the target's default".to_owned(),
        (policy, "-") => format!("by policy {policy}"),
        (policy, rule) => format!("by policy {policy}, rule {rule}"),
    };
    let mut told = format!("{} {by}", effects.join("+"));
    if verdict == "allow" {
        told.push_str(&format!(
            "; {} in {}",
            counted(number(operation, "/unmapped/rows"), "row"),
            took(number(operation, "/unmapped/took_us"))
        ));
    } else if let Some(message) = operation.pointer("/unmapped/message").and_then(Value::as_str) {
        told.push_str(&format!(": {}", plain(message)));
    }
    lines.push(detail(match verdict {
        "allow" => told,
        _ => out.paint(Paint::Red, &told),
    }));
    if let Some(would_be) = operation.pointer("/unmapped/would_be") {
        let told = format!(
            "would be {} by policy {}, which only observes",
            text(would_be, "/verdict"),
            text(would_be, "/policy")
        );
        lines.push(detail(out.paint(Paint::Yellow, &told)));
    }
    let masked = number(operation, "/unmapped/masked_values");
    if masked > 0 {
        lines.push(detail(
            out.paint(Paint::Yellow, &format!("{} masked", counted(masked, "value"))),
        ));
    }
    let code = text(operation, "/status_code");
    let ending = text(operation, "/status_detail");
    if verdict == "allow" && code != "-" {
        lines.push(detail(
            out.paint(Paint::Yellow, &format!("failed with SQLSTATE {code}")),
        ));
    }
    if ending != "-" {
        lines.push(detail(out.paint(Paint::Yellow, ending)));
    }
    lines.extend(result(operation, teller).into_iter().map(detail));
    for cut in list(operation, "/unmapped/truncated") {
        let told = format!(
            "{} of {} {} are recorded",
            number(cut, "/kept"),
            number(cut, "/of"),
            text(cut, "/field")
        );
        lines.push(detail(out.paint(Paint::Yellow, &told)));
    }
    let timing = teller.since_began(
        number(operation, "/time"),
        number(operation, "/unmapped/decided_us"),
    );
    lines.push(detail(out.paint(Paint::Dim, &timing)));
    lines
}

fn list<'a>(event: &'a Value, place: &str) -> &'a [Value] {
    event
        .pointer(place)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn counted(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn shown(text: &str, teller: &Teller) -> String {
    if teller.full {
        plain(text)
    } else {
        folded(&plain(text), 60)
    }
}

fn bound(value: &Value, teller: &Teller) -> String {
    let kind = value.get("type").and_then(Value::as_str);
    let told = if let Some(bytes) = value.get("left_out_bytes") {
        format!("({bytes} bytes, too long to be recorded)")
    } else if let Some(hex) = value.get("hex").and_then(Value::as_str) {
        format!("bytes {}", shown(hex, teller))
    } else {
        match value.get("value") {
            Some(Value::String(text)) => format!("'{}'", shown(text, teller)),
            _ => "null".to_owned(),
        }
    };
    let masked = match value.get("masked") {
        Some(_) => teller.out.paint(Paint::Yellow, " masked"),
        None => String::new(),
    };
    let kind = kind.map_or_else(String::new, |kind| format!(" ({kind})"));
    format!("{told}{}{masked}", teller.out.paint(Paint::Dim, &kind))
}

fn result(operation: &Value, teller: &Teller) -> Vec<String> {
    let mut lines = Vec::new();
    for set in list(operation, "/unmapped/result/sets") {
        let columns: Vec<String> = list(set, "/columns")
            .iter()
            .map(|column| plain(text(column, "/name")))
            .collect();
        if !columns.is_empty() {
            lines.push(format!(
                "│ {}",
                teller.out.paint(Paint::Bold, &columns.join(" │ "))
            ));
        }
        let rows = list(set, "/rows").iter().map(|row| {
            let cells: Vec<String> = row
                .as_array()
                .into_iter()
                .flatten()
                .map(|cell| self::cell(cell, teller))
                .collect();
            cells.join(" │ ")
        });
        let copied = list(set, "/copy").iter().map(|line| cell(line, teller));
        let all: Vec<String> = rows.chain(copied).collect();
        let most = if teller.full { all.len() } else { ROWS };
        lines.extend(all.iter().take(most).map(|row| format!("│ {row}")));
        if all.len() > most {
            lines.push(format!("│ … {} more; --full shows them", all.len() - most));
        }
    }
    if let Some(digest) = operation
        .pointer("/unmapped/result/digest")
        .and_then(Value::as_str)
    {
        let messages = number(operation, "/unmapped/result/messages");
        let told = format!("digest of {}: {digest}", counted(messages, "message"));
        lines.push(teller.out.paint(Paint::Dim, &told));
    }
    lines
}

fn cell(cell: &Value, teller: &Teller) -> String {
    match cell {
        Value::String(text) => shown(text.trim_end_matches('\n'), teller),
        Value::Null => teller.out.paint(Paint::Dim, "null"),
        other => format!("bytes {}", shown(text(other, "/hex"), teller)),
    }
}
