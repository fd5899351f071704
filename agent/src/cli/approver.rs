//! `bailiff approver`: approves the agents' requests for serving certificates.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::approver::{Approver, ApproverOptions};
use crate::world::cluster::ClusterAccess;

/// Approve the agents' requests for serving certificates.
///
/// Agents whose targets have `tls.client.csr` ask the cluster for a certificate of the API server's names. This approves such a request
/// if it comes from the agents' service account, by a token that is bound to the node that the request names, and asks for no
/// other names, use, kind of key and time than an agent needs. Other requests of that account are denied, and those of everybody else (kubelets, people)
/// are left alone.
///
/// It also puts together what all nodes' agents say (NodeReports) into the status of each Target and Policy.
///
/// Run one of it, under a service account of its own: deploy/chart has what it needs.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    cluster: ClusterAccess,
    /// The agents' service account
    #[arg(long, value_name = "NAMESPACE/NAME", default_value = "bailiff/bailiff-agent")]
    requester: String,
    /// The signer whose requests are approved
    #[arg(long, value_name = "NAME", default_value = "kubernetes.io/kubelet-serving")]
    signer: String,
    /// The domain of the cluster's services
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// A further name or address by which pods reach the API server; can be given several times. Those of its Service count anyway
    #[arg(long = "san", value_name = "NAME")]
    sans: Vec<String>,
    /// For how long a certificate may be asked for, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400, value_parser = clap::value_parser!(i32).range(600..=2_592_000))]
    max_seconds: i32,
    /// Serve /metrics, /healthz and /readyz here
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin: Option<SocketAddr>,
}

const EXAMPLES: &str = "Examples:
  In a pod, for pods that also dial the API server by its own address:
    bailiff approver --san 192.168.10.2

  From outside:
    bailiff approver --kubeconfig approver.kubeconfig --admin 127.0.0.1:9101
";

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let Some((namespace, name)) = args.requester.split_once('/') else {
        bail!(
            "--requester {:?} has no slash: give the service account as NAMESPACE/NAME",
            args.requester
        )
    };
    let domain = &args.cluster_domain;
    let mut names: BTreeSet<String> = [
        "kubernetes".to_owned(),
        "kubernetes.default".to_owned(),
        "kubernetes.default.svc".to_owned(),
        format!("kubernetes.default.svc.{domain}"),
    ]
    .into();
    // Addresses are written in many ways.
    names.extend(args.sans.iter().map(|name| match name.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => name.clone(),
    }));
    if let Some(wild) = names.iter().find(|name| name.contains('*') || name.is_empty()) {
        bail!("--san {wild:?}: give whole names; with a wildcard others' names would be approved, too")
    }
    Approver::run(ApproverOptions {
        cluster: args.cluster.clone(),
        requester: format!("system:serviceaccount:{namespace}:{name}"),
        signer: args.signer.clone(),
        names,
        max_seconds: args.max_seconds,
        admin: args.admin,
    })?;
    Ok(ExitCode::SUCCESS)
}
