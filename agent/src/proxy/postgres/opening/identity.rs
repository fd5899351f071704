//! As whom a session connects: what the client asks for, what policy makes of it, and what proves it.

use std::sync::Arc;

use bailiff_policy::{ConnectAs, Target};
use bailiff_wire::postgres::build;
use bailiff_wire::postgres::startup::{First, next_first};

use super::first::SessionWish;
use crate::proxy::end::End;
use crate::proxy::tls::{Secret, Snapshot};

/// Who a session is to the server.
pub(super) struct Identity {
    /// The user and database that the server is told, where the client asked for others.
    pub(super) mapped: Option<(String, String)>,
    /// By what the agent authenticates. `None`: the client does so by itself.
    pub(super) secret: Option<Arc<Secret>>,
}

impl Identity {
    /// Of a session that the client wishes for.
    pub(super) fn new(
        target: &Target,
        mapping: &ConnectAs,
        files: &Snapshot,
        wish: &SessionWish,
    ) -> Result<Self, End> {
        let credential = target.credential.as_ref();
        let secret = secret(target, mapping, files)?;
        let user = mapping
            .user
            .as_deref()
            .or_else(|| credential.and_then(|credential| credential.user.as_deref()))
            .unwrap_or(&wish.user);
        let database = mapping.database.as_deref().unwrap_or(&wish.database);
        let mapped =
            (user != wish.user || database != wish.database).then(|| (user.to_owned(), database.to_owned()));
        if (mapped.is_some() || secret.is_some()) && wish.changes_role {
            return Err(End::Refused(
                "the agent on this node says as whom this connects; leave role and session_authorization out of the connection's options",
            ));
        }
        Ok(Self { mapped, secret })
    }

    /// The StartupMessage for the server: the client's own, unless it is told of somebody else.
    pub(super) fn startup(&self, wish: &SessionWish) -> Vec<u8> {
        let Some((user, database)) = &self.mapped else {
            return wish.raw.clone();
        };
        let mut out = Vec::with_capacity(wish.raw.len() + user.len() + database.len());
        if let Ok(Some((First::Startup(startup), _))) = next_first(&wish.raw) {
            let own = [
                (b"user".as_slice(), user.as_bytes()),
                (b"database", database.as_bytes()),
            ];
            let others = startup
                .parameters
                .iter()
                .filter(|(name, _)| *name != b"user" && *name != b"database")
                .copied();
            build::startup(&mut out, startup.minor, own.into_iter().chain(others));
        }
        out
    }
}

/// By what the agent authenticates to a target, where it does.
pub(super) fn secret(
    target: &Target,
    mapping: &ConnectAs,
    files: &Snapshot,
) -> Result<Option<Arc<Secret>>, End> {
    let proof = mapping
        .proof
        .as_ref()
        .or(target.credential.as_ref().map(|credential| &credential.proof));
    proof
        .map(|proof| {
            // Uncertainty denies: the client's own proof isn't taken in its place.
            files.secret(proof).map(Arc::clone).ok_or(End::Refused(
                "the agent's credential for this database isn't in force yet; connect again",
            ))
        })
        .transpose()
}
