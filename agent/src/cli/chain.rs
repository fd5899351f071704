//! `bailiff chain`: who is behind a process, a pod or a session.

mod arguments;
mod draw;
mod tree;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use bailiff_model::Chain;
use clap::ValueEnum;
use serde_json::Value;

use super::sessions::read::{Reader, session};
use super::sessions::{Out, Place};
use crate::control::Agents;
use tree::Tree;

/// Show the chain behind a pod, a process or a session, with how each part of it is known
///
/// Run it on the node, as root: in the agent's own container, or with its record's directory.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Tree, value_name = "FORMAT")]
    output: Format,
    /// A process by its number on the node; a pod, as NAME or NAMESPACE/NAME; or a session by the beginning of its id, or `last`
    /// for the one that began last of those that are open, or else were recorded
    #[arg(value_name = "POD|PID|SESSION")]
    of: String,
}

const EXAMPLES: &str = "Examples:
  All processes of a pod, each below whoever started it:
    bailiff chain ci/runner-7

  Who is behind the last session:
    bailiff chain last

  A picture:
    bailiff chain 4131 -o dot | dot -Tsvg > chain.svg
";

/// How it is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Tree,
    /// An array of chains, each an array of hops from the origin to the caller.
    Json,
    /// For Graphviz.
    Dot,
    /// For Markdown.
    Mermaid,
}

/// Letters of an id's beginning, without which it is taken for a pod's name.
const LEAST_OF_ID: usize = 6;

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let chains = find(args)?;
    let mut out = Out::new();
    if args.output == Format::Json {
        out.line(&serde_json::to_string_pretty(&chains)?);
        return Ok(ExitCode::SUCCESS);
    }
    let tree = Tree::of(&chains);
    match args.output {
        Format::Tree | Format::Json => tree.print(&mut out),
        Format::Dot => draw::dot(&tree, &mut out),
        Format::Mermaid => draw::mermaid(&tree, &mut out),
    }
    Ok(ExitCode::SUCCESS)
}

fn find(args: &Args) -> Result<Vec<Chain>> {
    let agents = || {
        Agents::beside(&args.place.dir).with_context(|| {
            format!(
                "there is no agent beside {}; give its record's directory with --dir",
                args.place.dir.display()
            )
        })
    };
    if let Ok(tgid) = args.of.parse() {
        let chains = agents()?.chain_of_process(tgid)?;
        ensure!(
            !chains.is_empty(),
            "process {tgid} is in no pod that an agent enforces on here"
        );
        return Ok(chains);
    }
    if is_of_session(&args.of) {
        let mut chains = open_session(args)?;
        if chains.is_empty() {
            chains.extend(of_session(args)?);
        }
        if !chains.is_empty() {
            return Ok(chains);
        }
    }
    let chains = agents()?.chains_of_pods(&args.of)?;
    if chains.is_empty() {
        bail!(
            "no pod {} that an agent enforces on here, and no session of that id in {}; `bailiff sessions list` shows sessions",
            args.of,
            args.place.dir.display()
        );
    }
    Ok(chains)
}

fn is_of_session(text: &str) -> bool {
    text == "last" || text.len() >= LEAST_OF_ID && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The chain of a session that is open: what is recorded of it may not be on the disk yet.
fn open_session(args: &Args) -> Result<Vec<Chain>> {
    // Without an agent there is still the record.
    let Ok(agents) = Agents::beside(&args.place.dir) else {
        return Ok(Vec::new());
    };
    let mut open = agents.sessions()?;
    if args.of != "last" {
        open.retain(|open| open.session.starts_with(&args.of));
        ensure!(
            open.len() <= 1,
            "{} sessions begin with {:?}; give more of the id",
            open.len(),
            args.of
        );
    }
    Ok(match open.last() {
        Some(open) => agents.chain_of_session(&open.session)?,
        None => Vec::new(),
    })
}

/// The chain of a session as it was recorded.
fn of_session(args: &Args) -> Result<Option<Chain>> {
    let mut found: Vec<(String, Value)> = Vec::new();
    Reader::new(&args.place.dir).more(|event| {
        let Some((id, chain)) = recorded(&event) else {
            return;
        };
        if args.of == "last" {
            found = vec![(id, chain)];
        } else if id.starts_with(&args.of) && !found.iter().any(|(known, _)| *known == id) {
            found.push((id, chain));
        }
    })?;
    match found.as_slice() {
        [] => Ok(None),
        [(_, chain)] => Ok(Some(
            serde_json::from_value(chain.clone()).context("another version of Bailiff recorded its chain")?,
        )),
        many => bail!(
            "{} sessions begin with {:?}; give more of the id",
            many.len(),
            args.of
        ),
    }
}

/// A session's id and chain: of the event with which one of a database begins, or of a request's.
fn recorded(event: &Value) -> Option<(String, Value)> {
    if let Some(chain) = event.pointer("/unmapped/chain") {
        return Some((session(event)?.to_owned(), chain.clone()));
    }
    let notes = event.get("annotations")?;
    let text = |key| notes.get(key).and_then(Value::as_str);
    let chain = serde_json::from_str(text("bailiff.dev/chain")?).ok()?;
    Some((text("bailiff.dev/session")?.to_owned(), chain))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sessions_are_told_from_pods_by_their_names() {
        for id in ["last", "cf2af4", "cf2af4ebb06b4cf5d446f73345bceb25"] {
            assert!(is_of_session(id), "{id}");
        }
        for pod in ["cafe", "ci/runner", "runner-7", "lasting"] {
            assert!(!is_of_session(pod), "{pod}");
        }
    }

    #[test]
    fn both_kinds_of_records_have_chains() {
        let of_database = json!({"metadata": {"correlation_uid": "a"}, "unmapped": {"chain": []}});
        assert_eq!(recorded(&of_database), Some(("a".to_owned(), json!([]))));
        let of_request = json!({"annotations": {"bailiff.dev/session": "b", "bailiff.dev/chain": "[{}]"}});
        assert_eq!(recorded(&of_request), Some(("b".to_owned(), json!([{}]))));
        assert_eq!(recorded(&json!({"unmapped": {}})), None);
    }
}
