//! `bailiff doctor`: what a node has, what it lacks, what that costs and how to mend it.

mod kernel;
mod system;
mod targets;

use std::io::{IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

/// Check whether this node can enforce, and say what is missing, what that costs and how to mend it.
///
/// Changes nothing. Ends with 0 when the node can enforce, with 1 when something that it takes is missing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the record of sessions is to go
    #[arg(long, value_name = "DIR", default_value = "/var/lib/bailiff/record")]
    record_dir: PathBuf,
    /// Look at these Targets and Policies, too: their certificates, and which clients can't be served
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    /// As it should be.
    Ok,
    /// Works, and costs something.
    Note,
    /// Bailiff can't enforce.
    Missing,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    /// What was looked at.
    check: &'static str,
    #[serde(rename = "state")]
    outcome: Outcome,
    /// What is there.
    found: String,
    /// What follows from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            check,
            outcome: Outcome::Ok,
            found: found.into(),
            cost: None,
            mend: None,
        }
    }

    fn note(check: &'static str, found: impl Into<String>, cost: &str, mend: &str) -> Self {
        Self {
            outcome: Outcome::Note,
            cost: Some(cost.to_owned()),
            mend: Some(mend.to_owned()),
            ..Self::ok(check, found)
        }
    }

    fn missing(check: &'static str, found: impl Into<String>, cost: &str, mend: &str) -> Self {
        Self {
            outcome: Outcome::Missing,
            ..Self::note(check, found, cost, mend)
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut findings = system::check(&args.record_dir);
    findings.extend(kernel::check());
    findings.extend(args.config.iter().flat_map(|config| targets::check(config)));
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &findings)?;
        writeln!(out)?;
    } else {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        print(&mut out, &findings, colours)?;
    }
    let missing = findings.iter().any(|finding| finding.outcome == Outcome::Missing);
    Ok(if missing {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn print(out: &mut dyn Write, findings: &[Finding], colours: bool) -> std::io::Result<()> {
    for finding in findings {
        let (mark, colour) = match finding.outcome {
            Outcome::Ok => ("ok", "\x1b[32m"),
            Outcome::Note => ("note", "\x1b[33m"),
            Outcome::Missing => ("missing", "\x1b[31m"),
        };
        let (colour, plain) = if colours { (colour, "\x1b[0m") } else { ("", "") };
        writeln!(
            out,
            "{colour}{mark:<7}{plain}  {:<17}  {}",
            finding.check, finding.found
        )?;
        for (word, text) in [("costs", &finding.cost), ("mend", &finding.mend)] {
            if let Some(text) = text {
                writeln!(out, "{:28}{word}: {text}", "")?;
            }
        }
    }
    let count = |outcome| {
        findings
            .iter()
            .filter(|finding| finding.outcome == outcome)
            .count()
    };
    match count(Outcome::Missing) {
        0 => writeln!(out, "\nThis node can enforce; {} notes.", count(Outcome::Note)),
        missing => writeln!(
            out,
            "\nThis node can't enforce: {missing} missing, {} notes.",
            count(Outcome::Note)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_its_cost_and_mend() {
        let findings = [
            Finding::ok("kernel", "6.18"),
            Finding::missing("cgroup2", "not mounted", "no hooks", "mount it"),
        ];
        let mut out = Vec::new();
        print(&mut out, &findings, false).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("ok       kernel             6.18\n"), "{text}");
        assert!(
            text.contains("missing  cgroup2            not mounted\n"),
            "{text}"
        );
        assert!(text.contains("costs: no hooks\n"), "{text}");
        assert!(text.contains("mend: mount it\n"), "{text}");
        assert!(text.contains("can't enforce: 1 missing, 0 notes"), "{text}");
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn json_leaves_out_what_is_not_said() {
        let value = serde_json::to_value(Finding::ok("kernel", "6.18")).unwrap();
        assert_eq!(
            value,
            serde_json::json!({ "check": "kernel", "state": "ok", "found": "6.18" })
        );
    }
}
