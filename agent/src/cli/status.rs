//! `bailiff status`: how Bailiff is doing in a cluster, by what its nodes say.

mod read;
mod summary;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use kube::Client;

use super::sessions::Out;
pub(super) use read::client;
use read::read;
use summary::{NodeState, Summary};

/// Show how Bailiff is doing in the cluster: nodes, pods, targets, policies and certificates
///
/// Reads what the nodes' agents say (NodeReports), and Targets and Policies, as you: by --kubeconfig, KUBECONFIG or ~/.kube/config, or in a pod
/// by its service account. It takes the right to list nodereports, targets and policies of bailiff.dev; with the right to list nodes it also
/// tells which have no agent. Changes nothing.
///
/// Ends with 0 when all is well; with 1 when something isn't: an object is refused, a pod isn't covered, a node's agent is missing, silent or not
/// ready, a certificate is missing or ends soon; and with 2 when the cluster can't be asked. What is only on its way is well.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// How to reach the cluster; by default as kubectl does, or as the pod that this runs in
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    output: Format,
}

const EXAMPLES: &str = "Examples:
  Wait until a policy that was applied is in force everywhere:
    kubectl wait --for=condition=Accepted policies.bailiff.dev/agents

  Which pods aren't covered, and why:
    bailiff status -o json | jq '.notCovered'
";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Tables for people
    Table,
    /// One JSON object
    Json,
}

/// The exit status where the cluster can't be asked: 1 says that something in it isn't well.
pub(super) const CANNOT_ASK: u8 = 2;

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let asked = runtime.block_on(async { read(&client(args.kubeconfig.as_deref()).await?).await });
    let cluster = match asked {
        Ok(cluster) => cluster,
        Err(error) => {
            eprintln!("bailiff: {error:#}");
            return Ok(ExitCode::from(CANNOT_ASK));
        }
    };
    let summary = Summary::of(cluster, jiff::Timestamp::now());
    let mut out = Out::new();
    match args.output {
        Format::Json => out.line(&serde_json::to_string_pretty(&summary)?),
        Format::Table => table::print(&mut out, &summary),
    }
    Ok(if summary.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Whether all is well, and in a line how much there is of what.
pub(super) async fn in_a_line(asked: &Client) -> Result<(bool, String)> {
    let summary = Summary::of(read(asked).await?, jiff::Timestamp::now());
    let ready = summary
        .nodes
        .iter()
        .filter(|node| node.state == NodeState::Ready)
        .count();
    let objects = || summary.targets.iter().chain(&summary.policies);
    let refused = objects().filter(|object| object.judged.status == "False").count();
    let line = format!(
        "{ready} of {} nodes ready, {} pods not covered, {refused} of {} Targets and Policies refused or held back",
        summary.nodes.len(),
        summary.not_covered.len(),
        objects().count(),
    );
    Ok((summary.ok, line))
}
