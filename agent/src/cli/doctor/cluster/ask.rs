//! Asking the API server, where not everybody may ask everything.

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use kube::core::PartialObjectMeta;
use serde::de::DeserializeOwned;

use super::super::Finding;
use crate::world::cluster::told;

/// Objects that are asked for at once.
const PAGE: u32 = 100;

/// What was asked for, or why it couldn't be.
pub(super) type Asked<T> = Result<T, Unasked>;

/// What couldn't be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unasked {
    what: String,
    why: String,
}

impl Unasked {
    pub(super) fn of(what: &str, error: &kube::Error) -> Self {
        Self {
            what: what.to_owned(),
            why: told(error),
        }
    }

    pub(super) fn finding(&self, check: &'static str) -> Finding {
        Finding::unknown(
            check,
            format!("couldn't be asked: {}: {}", self.what, self.why),
            "run it as somebody who may: docs/operations.md has the rights that it takes",
        )
    }
}

/// All objects of a kind.
pub(super) async fn list<K>(api: &Api<K>, what: &str) -> Asked<Vec<K>>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    list_by(api, what, "").await
}

/// Those with these labels.
pub(super) async fn list_by<K>(api: &Api<K>, what: &str, labels: &str) -> Asked<Vec<K>>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut params = ListParams::default().limit(PAGE).labels(labels);
    let mut all = Vec::new();
    loop {
        let page = api
            .list(&params)
            .await
            .map_err(|error| Unasked::of(what, &error))?;
        all.extend(page.items);
        match page.metadata.continue_ {
            Some(next) if !next.is_empty() => params.continue_token = Some(next),
            _ => return Ok(all),
        }
    }
}

/// The names of all objects of a kind, without what is in them.
pub(super) async fn names<K>(api: &Api<K>, what: &str) -> Asked<Vec<String>>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut params = ListParams::default().limit(PAGE);
    let mut all = Vec::new();
    loop {
        let page = api
            .list_metadata(&params)
            .await
            .map_err(|error| Unasked::of(what, &error))?;
        let named = |object: PartialObjectMeta<K>| object.metadata.name;
        all.extend(page.items.into_iter().filter_map(named));
        match page.metadata.continue_ {
            Some(next) if !next.is_empty() => params.continue_token = Some(next),
            _ => return Ok(all),
        }
    }
}

/// One object, or that there is none.
pub(super) async fn get<K>(api: &Api<K>, name: &str, what: &str) -> Asked<Option<K>>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    api.get_opt(name)
        .await
        .map_err(|error| Unasked::of(&format!("{what} {name}"), &error))
}

/// Whether somebody may do something.
pub(super) async fn may(
    client: &Client,
    user: &str,
    groups: &[&str],
    asked: ResourceAttributes,
) -> Asked<bool> {
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(user.to_owned()),
            groups: Some(groups.iter().map(ToString::to_string).collect()),
            resource_attributes: Some(asked),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    Api::<SubjectAccessReview>::all(client.clone())
        .create(&PostParams::default(), &review)
        .await
        .map(|review| review.status.is_some_and(|status| status.allowed))
        .map_err(|error| Unasked::of(&format!("what {user} may do"), &error))
}
