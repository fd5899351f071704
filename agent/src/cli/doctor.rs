//! `bailiff doctor`: what a node or a cluster has, what it lacks, what that costs and how to mend it.

mod cluster;
mod kernel;
mod system;
mod targets;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;

use super::sessions::{Out, Paint, plain};
use super::status;

/// Check whether this node, or a cluster, can enforce, and say what is missing, what that costs and how to mend it.
///
/// Changes nothing, and reads nothing secret. On a node it looks at the kernel, its mounts and its rights. With --cluster it asks the API server, from
/// anywhere and as you: releases, definitions, rights, nodes, rollout, and who else stands between pods and what they dial. What you may not
/// see is said, and nothing else is left out for it.
///
/// Ends with 0 when it can enforce; with 1 when something that it takes is missing or wrong; and with 2 when that can't be told, since the
/// cluster, or a part of it, can't be asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Where the record of sessions is to go
    #[arg(long, value_name = "DIR", default_value = "/var/lib/bailiff/record")]
    record_dir: PathBuf,
    /// Look at these Targets and Policies, too: their certificates, and which clients can't be served
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,
    /// Look at the cluster, and not at this node
    #[arg(long, conflicts_with_all = ["record_dir", "config"])]
    cluster: bool,
    /// With --cluster: how to reach it; by default as kubectl does, or as the pod that this runs in
    #[arg(long, value_name = "FILE", requires = "cluster")]
    kubeconfig: Option<PathBuf>,
    /// With --cluster: the namespace in which Bailiff is, or is to be
    #[arg(
        short,
        long,
        value_name = "NAMESPACE",
        default_value = "bailiff",
        requires = "cluster"
    )]
    namespace: String,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    output: Format,
}

const EXAMPLES: &str = "Examples:
  Before and after an installation:
    bailiff doctor --cluster

  What isn't as it should be:
    bailiff doctor --cluster -o json | jq '.findings[] | select(.state != \"ok\")'
";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Lines for people
    Table,
    /// One JSON object
    Json,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    /// As it should be.
    Ok,
    /// Works, and costs something.
    Note,
    /// It couldn't be asked.
    Unknown,
    /// Bailiff can't enforce.
    Fails,
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

    fn unknown(check: &'static str, found: impl Into<String>, mend: &str) -> Self {
        Self {
            outcome: Outcome::Unknown,
            mend: Some(mend.to_owned()),
            ..Self::ok(check, found)
        }
    }

    fn fails(check: &'static str, found: impl Into<String>, cost: &str, mend: &str) -> Self {
        Self {
            outcome: Outcome::Fails,
            ..Self::note(check, found, cost, mend)
        }
    }
}

/// All that was found.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether nothing fails, and all could be asked.
    ok: bool,
    findings: Vec<Finding>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let findings = if args.cluster {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let found = runtime.block_on(async {
            let client = status::client(args.kubeconfig.as_deref()).await?;
            cluster::check(&client, &args.namespace).await
        });
        match found {
            Ok(findings) => findings,
            Err(error) => {
                eprintln!("bailiff: {error:#}");
                return Ok(ExitCode::from(status::CANNOT_ASK));
            }
        }
    } else {
        let mut findings = system::check(&args.record_dir);
        findings.extend(kernel::check());
        findings.extend(args.config.iter().flat_map(|config| targets::check(config)));
        findings
    };
    let worst = findings
        .iter()
        .map(|finding| finding.outcome)
        .max()
        .unwrap_or(Outcome::Ok);
    let report = Report {
        ok: worst <= Outcome::Note,
        findings,
    };
    let mut out = Out::new();
    match args.output {
        Format::Json => out.line(&serde_json::to_string_pretty(&report)?),
        Format::Table => {
            for (line, paint) in lines(&report.findings) {
                out.line(&paint.map_or_else(|| line.clone(), |paint| paint_word(&out, paint, &line)));
            }
            out.line(&verdict(&report.findings, args.cluster));
        }
    }
    Ok(match worst {
        Outcome::Ok | Outcome::Note => ExitCode::SUCCESS,
        Outcome::Unknown => ExitCode::from(status::CANNOT_ASK),
        Outcome::Fails => ExitCode::FAILURE,
    })
}

/// A line whose first word is coloured.
fn paint_word(out: &Out, paint: Paint, line: &str) -> String {
    match line.split_once(' ') {
        Some((word, rest)) => format!("{} {rest}", out.paint(paint, word)),
        None => line.to_owned(),
    }
}

/// What people read, and in which colour each first word stands.
fn lines(findings: &[Finding]) -> Vec<(String, Option<Paint>)> {
    let mut lines = Vec::new();
    for finding in findings {
        let (mark, paint) = match finding.outcome {
            Outcome::Ok => ("ok", Paint::Green),
            Outcome::Note => ("note", Paint::Yellow),
            Outcome::Unknown => ("unknown", Paint::Yellow),
            Outcome::Fails => ("fails", Paint::Red),
        };
        let line = format!("{mark:<7}  {:<17}  {}", finding.check, plain(&finding.found));
        lines.push((line, Some(paint)));
        for (word, text) in [("costs", &finding.cost), ("mend", &finding.mend)] {
            if let Some(text) = text {
                lines.push((format!("{:28}{word}: {}", "", plain(text)), None));
            }
        }
    }
    lines
}

fn verdict(findings: &[Finding], cluster: bool) -> String {
    let count = |outcome| {
        findings
            .iter()
            .filter(|finding| finding.outcome == outcome)
            .count()
    };
    let what = if cluster { "cluster" } else { "node" };
    let (fails, unknown, notes) = (
        count(Outcome::Fails),
        count(Outcome::Unknown),
        count(Outcome::Note),
    );
    let rest = if unknown > 0 {
        format!("{unknown} couldn't be asked, {notes} notes")
    } else {
        format!("{notes} notes")
    };
    match (fails, unknown) {
        (0, 0) => format!("\nThis {what} can enforce; {rest}."),
        (0, _) => format!("\nWhether this {what} can enforce isn't known: {rest}."),
        _ => format!("\nThis {what} can't enforce as it should: {fails} fail, {rest}."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_its_cost_and_mend() {
        let findings = [
            Finding::ok("kernel", "6.18"),
            Finding::fails("cgroup2", "not mounted", "no hooks", "mount it"),
        ];
        let text: String = lines(&findings)
            .into_iter()
            .map(|(line, _)| line + "\n")
            .collect();
        assert!(text.contains("ok       kernel             6.18\n"), "{text}");
        assert!(
            text.contains("fails    cgroup2            not mounted\n"),
            "{text}"
        );
        assert!(text.contains("costs: no hooks\n"), "{text}");
        assert!(text.contains("mend: mount it\n"), "{text}");
        assert!(
            verdict(&findings, false).contains("This node can't enforce as it should: 1 fail, 0 notes"),
            "{text}"
        );
    }

    #[test]
    fn what_couldnt_be_asked_leaves_it_open() {
        let findings = [
            Finding::ok("Kubernetes", "v1.34"),
            Finding::unknown("nodes", "couldn't be asked: nodes: no\u{1b}[2J", "ask"),
        ];
        let told = verdict(&findings, true);
        assert!(told.contains("isn't known: 1 couldn't be asked"), "{told}");
        let text: String = lines(&findings).into_iter().map(|(line, _)| line).collect();
        assert!(
            text.contains("unknown  nodes") && !text.contains('\u{1b}'),
            "{text}"
        );
        assert!(Outcome::Unknown > Outcome::Note && Outcome::Fails > Outcome::Unknown);
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
