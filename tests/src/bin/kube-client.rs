//! Works with the API by kube-rs, with the arguments KUBECONFIG NAMESPACE: a list, a watch, read-modify-write, server-side apply. Prints
//! what it sees, a line of JSON for each.

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _};
use kube::api::{Api, ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Config};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let kubeconfig = Kubeconfig::read_from(arguments.next().context("no kubeconfig")?)?;
    let namespace = arguments.next().context("no namespace")?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    let secrets = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Secret"));
    let secrets: Api<DynamicObject> = Api::namespaced_with(client, &namespace, &secrets);

    let mut all = secrets.list(&ListParams::default()).await?.items;
    all.sort_by_key(|secret| secret.metadata.name.clone());
    for secret in &all {
        let name = secret.metadata.name.clone().unwrap_or_default();
        say(&format!("secret {name}"), data(secret));
    }

    let stamp = format!("kube-{}", std::process::id());
    let mut secret = secrets.get("db").await?;
    let labels = secret.metadata.labels.get_or_insert_default();
    labels.insert("stamp".to_owned(), stamp.clone());
    say(
        "replaced",
        data(&secrets.replace("db", &PostParams::default(), &secret).await?),
    );

    let applied = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db", "labels": {"applied": "yes"}}});
    let how = PatchParams::apply("kube-client").force();
    say(
        "applied",
        data(&secrets.patch("db", &how, &Patch::Apply(applied)).await?),
    );

    let watched = watcher(secrets, watcher::Config::default().streaming_lists());
    let mut watched = watched.applied_objects().boxed();
    while let Some(secret) = watched.try_next().await? {
        let label = secret
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get("stamp"));
        if label == Some(&stamp) {
            say("watched", data(&secret));
            break;
        }
    }
    Ok(())
}

fn data(secret: &DynamicObject) -> &Value {
    secret.data.get("data").unwrap_or(&Value::Null)
}

fn say(what: &str, value: &Value) {
    println!("{}", json!({"what": what, "value": value}));
}
