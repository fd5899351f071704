//! What the cluster has.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::{Client, Config, ResourceExt as _};

use crate::reports::{reports, resource};
use crate::world::cluster::{ClusterAccess, told};

/// Objects that are asked for at once.
const PAGE: u32 = 50;

/// All that is told of.
pub(super) struct Cluster {
    pub(super) reports: Vec<DynamicObject>,
    pub(super) targets: Vec<DynamicObject>,
    pub(super) policies: Vec<DynamicObject>,
    /// The nodes' names; `None` where the caller may not list them.
    pub(super) nodes: Option<Vec<String>>,
}

/// A client as a person has it: as kubectl does, or as the pod that this runs in.
///
/// # Errors
/// When no cluster is known.
pub(in crate::cli) async fn client(kubeconfig: Option<&Path>) -> Result<Client> {
    match kubeconfig {
        Some(file) => {
            let access = ClusterAccess {
                kubeconfig: Some(file.to_owned()),
            };
            Ok(access.client().await?)
        }
        None => {
            let config = Config::infer()
                .await
                .context("no cluster is known here: give --kubeconfig, or set KUBECONFIG")?;
            Ok(Client::try_from(config)?)
        }
    }
}

pub(super) async fn read(client: &Client) -> Result<Cluster> {
    let nodes = Api::<Node>::all(client.clone());
    Ok(Cluster {
        reports: list(client, &reports()).await?,
        targets: list(client, &resource("Target", "targets")).await?,
        policies: list(client, &resource("Policy", "policies")).await?,
        // Which have no agent is more than most people may see.
        nodes: match nodes.list_metadata(&ListParams::default()).await {
            Ok(nodes) => Some(nodes.items.iter().map(|node| node.name_any()).collect()),
            Err(kube::Error::Api(status)) if status.code == 403 => None,
            Err(error) => return Err(anyhow!("nodes can't be listed: {}", told(&error))),
        },
    })
}

async fn list(client: &Client, resource: &ApiResource) -> Result<Vec<DynamicObject>> {
    let api = Api::<DynamicObject>::all_with(client.clone(), resource);
    let name = format!("{}.{}", resource.plural, resource.group);
    let mut params = ListParams::default().limit(PAGE);
    let mut all = Vec::new();
    loop {
        let page = match api.list(&params).await {
            Ok(page) => page,
            Err(kube::Error::Api(status)) if status.code == 404 => {
                return Err(anyhow!(
                    "this cluster has no {name}: Bailiff isn't installed here; see docs/install.md"
                ));
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403) => {
                return Err(anyhow!(
                    "{name} can't be listed: {}; ask for a ClusterRole with `list` of nodereports, targets and policies in bailiff.dev",
                    status.message
                ));
            }
            Err(error) => {
                return Err(anyhow!("the cluster can't be asked: {}", told(&error)));
            }
        };
        all.extend(page.items);
        match page.metadata.continue_ {
            Some(next) if !next.is_empty() => params.continue_token = Some(next),
            _ => return Ok(all),
        }
    }
}
