//! The agent's own connection to a database.

use std::time::Duration;

use bailiff_model::OriginalDst;
use bailiff_policy::Target;
use tokio_postgres::Client;

use super::CatalogError;
use crate::proxy::End;
use crate::proxy::dial::{OwnConnection, OwnError, connect_agent};
use crate::proxy::tls::Snapshot;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Connects from the node's namespace, as the target's definition says. The connection lives as long as the client that is
/// returned.
pub(super) async fn connect(
    target: &Target,
    files: &Snapshot,
    address: OriginalDst,
    database: &str,
) -> Result<Client, CatalogError> {
    let access = target
        .catalog_access()
        .ok_or_else(|| CatalogError::Credential("the target's definition names none".to_owned()))?;
    let OwnConnection { client, connection } =
        connect_agent(target, access, files, address, database, CONNECT).await?;
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a catalog's connection ended");
        }
    });
    Ok(client)
}

impl From<OwnError> for CatalogError {
    fn from(error: OwnError) -> Self {
        match error {
            OwnError::NoFiles => Self::Credential(error.to_string()),
            OwnError::Way(End::Unreachable(error)) => Self::Unreachable(error.to_string()),
            OwnError::Way(end) => Self::Unreachable(end.to_string()),
            OwnError::Server(error) => error.into(),
        }
    }
}
