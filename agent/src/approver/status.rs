//! The status of Targets and Policies: what all nodes' reports make of each, written where that isn't what stands there.
//!
//! What is written follows from the reports and the object alone, names the object's uid and version, and is written only where it differs. So
//! several approvers of one release come to the same, and one that starts anew writes nothing that is there already.

mod known;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use jiff::Timestamp;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt as _};
use tokio::time::{Instant, sleep_until};

use super::State;
use crate::reports::{reports, resource};
use crate::world::cluster::{told, watch_told};
use known::{Known, Of};

/// How long news is gathered before statuses are written: nodes take a changed object within seconds of each other.
const GATHERED: Duration = Duration::from_secs(2);

/// Without any news: so long after it wrote last an agent counts as silent, which nothing tells of.
const SILENCE: Duration = Duration::from_secs(60);

/// How long until what couldn't be written is written again.
const AGAIN: Duration = Duration::from_secs(15);

/// Reports that are asked for at once. They may be large.
const PAGE: u32 = 20;

/// Follows reports and objects, and writes statuses, for ever. That there are none of these kinds, or no right, is told and tried again.
pub(super) async fn keep(client: Client, state: Arc<State>) {
    let kinds = [
        (Of::Reports, reports(), PAGE),
        (Of::Targets, resource("Target", "targets"), 500),
        (Of::Policies, resource("Policy", "policies"), 500),
    ];
    let streams = kinds.map(|(of, resource, page)| follow(&client, of, &resource, page).boxed());
    let mut news = pin!(futures_util::stream::select_all(streams));
    let mut known = Known::default();
    // Kinds that can't be followed: told once.
    let mut away = Vec::new();
    let mut write_at = Instant::now() + SILENCE;
    loop {
        tokio::select! {
            event = news.next() => match event {
                None => return,
                Some((of, Ok(event))) => {
                    // It says that it begins before it has asked.
                    if !matches!(event, Event::Init) && away.contains(&of) {
                        away.retain(|other| *other != of);
                        tracing::info!(kind = of.plural(), "objects are followed again");
                    }
                    let matters = known.take(of, event);
                    state.statuses_known.store(known.is_whole(), Ordering::Release);
                    if matters {
                        write_at = write_at.min(Instant::now() + GATHERED);
                    }
                }
                Some((of, Err(error))) => {
                    state.metrics.status_error();
                    if !away.contains(&of) {
                        away.push(of);
                        let error = watch_told(&error);
                        tracing::warn!(
                            kind = of.plural(),
                            error,
                            "objects can't be followed now, so that the status of Targets and Policies isn't written; it is tried again"
                        );
                    }
                }
            },
            () = sleep_until(write_at) => {
                let is_written = !known.is_whole() || write(&client, &mut known, &state).await;
                write_at = Instant::now() + if is_written { SILENCE } else { AGAIN };
            }
        }
    }
}

type News = (Of, Result<Event<DynamicObject>, watcher::Error>);

fn follow(client: &Client, of: Of, resource: &ApiResource, page: u32) -> impl Stream<Item = News> + use<> {
    let api = Api::<DynamicObject>::all_with(client.clone(), resource);
    watcher(api, watcher::Config::default().page_size(page))
        .default_backoff()
        .map(move |event| (of, event))
}

/// Writes what isn't so. False where something has to be tried again.
async fn write(client: &Client, known: &mut Known, state: &State) -> bool {
    let mut all_written = true;
    for due in known.due(Timestamp::now()) {
        let api = Api::<DynamicObject>::all_with(client.clone(), &due.of.resource());
        let outcome = api
            .patch_status(&due.name, &PatchParams::default(), &Patch::Merge(&due.patch))
            .await;
        match outcome {
            Ok(object) => {
                state.metrics.status_written();
                tracing::debug!(
                    kind = due.of.plural(),
                    name = object.name_any(),
                    "its status is written"
                );
                known.take(due.of, Event::Apply(object));
            }
            // It is another by now, or gone: then there is news of it by itself.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => {
                all_written = false;
                state.metrics.status_error();
                tracing::warn!(
                    kind = due.of.plural(),
                    name = due.name,
                    error = told(&error),
                    "a status can't be written; it is tried again"
                );
                // Those after it would fail as it did.
                break;
            }
        }
    }
    all_written
}
