//! Requests, policies and chains for tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bailiff_model::{
    ApiRequest, ApiResource, ApiSession, ApiSubject, ApiVerb, Chain, Evidence, Hop, HopKind, Mode, PodInfo,
    PodUid, TokenState,
};
use bailiff_policy::{ChainPolicy, PolicySet};

const HEAD: &str = "apiVersion: bailiff.dev/v1alpha1\n";

/// The request that a text says: `get pods/log web-0 in shop`, of the core's group.
pub(crate) fn request(text: &str) -> ApiRequest {
    let (text, namespace) = match text.split_once(" in ") {
        Some((text, namespace)) => (text, Some(namespace.to_owned())),
        None => (text, None),
    };
    let mut words = text.split(' ');
    let verb = words.next().unwrap_or_default();
    let resource = words.next().unwrap_or_default();
    let (resource, subresource) = match resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (resource, None),
    };
    ApiRequest {
        verb: ApiVerb::ALL
            .into_iter()
            .find(|known| known.as_str() == verb)
            .unwrap_or(ApiVerb::Unknown),
        subject: ApiSubject::Resource(ApiResource {
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            subresource,
            namespace,
            name: words.next().map(str::to_owned),
            ..ApiResource::default()
        }),
        dry_run: false,
        token: TokenState::Missing,
        identity: None,
        impersonates: None,
    }
}

/// The same of another group.
pub(crate) fn of(group: &str, mut request: ApiRequest) -> ApiRequest {
    if let ApiSubject::Resource(resource) = &mut request.subject {
        group.clone_into(&mut resource.group);
    }
    request
}

/// An exec in a pod.
pub(crate) fn exec(container: Option<&str>, command: &[&str], tty: bool) -> ApiRequest {
    let mut request = request("create pods/exec web-0 in shop");
    if let ApiSubject::Resource(resource) = &mut request.subject {
        resource.session = Some(ApiSession {
            container: container.map(str::to_owned),
            command: command.iter().map(|argument| (*argument).to_owned()).collect(),
            tty,
            ..ApiSession::default()
        });
    }
    request
}

/// A path that is no resource's.
pub(crate) fn path(verb: ApiVerb, path: &str) -> ApiRequest {
    ApiRequest {
        verb,
        subject: ApiSubject::Path(path.to_owned()),
        dry_run: false,
        token: TokenState::Missing,
        identity: None,
        impersonates: None,
    }
}

/// Of which nothing is told but the method.
pub(crate) fn unknown() -> ApiRequest {
    ApiRequest {
        verb: ApiVerb::Get,
        subject: ApiSubject::Unknown,
        dry_run: false,
        token: TokenState::Missing,
        identity: None,
        impersonates: None,
    }
}

/// A pod of a namespace, as a hop.
pub(crate) fn caller(namespace: &str) -> Hop {
    Hop {
        kind: HopKind::Pod {
            pod: Arc::new(PodInfo {
                namespace: namespace.to_owned(),
                name: format!("{namespace}-0"),
                uid: PodUid::new(namespace),
                service_account: "default".to_owned(),
                labels: BTreeMap::new(),
                mode: Mode::Enforce,
            }),
            process: None,
        },
        evidence: Evidence::Observed,
    }
}

/// A policy for the cluster, of these rules, about a subject where one is given.
pub(crate) fn policy(name: &str, subject: &str, rules: &str) -> String {
    let subjects = if subject.is_empty() {
        String::new()
    } else {
        format!("  subjects: [{subject}]\n")
    };
    format!(
        "{HEAD}kind: Policy\nmetadata: {{name: {name}}}\nspec:\n  targets: [cluster]\n{subjects}  rules:\n{rules}\n"
    )
}

/// What these policies say of hops, from the origin to the caller, at a cluster with these answers.
pub(crate) fn chain_policy(
    default: &str,
    unknown: &str,
    policies: &[&str],
    hops: &[Hop],
) -> Result<ChainPolicy> {
    let target = format!(
        "{HEAD}kind: Target\nmetadata: {{name: cluster}}\nspec:\n  protocol: kubernetes\n  endpoints: ['10.96.0.1:443']\n  default: {default}\n  unknown: {unknown}\n  tls:\n    client: {{mode: Require, certificateFile: /c, keyFile: /k}}\n    upstream: {{mode: Verify, caFile: /ca}}\n"
    );
    let mut sources = vec![("t.yaml", target.as_str())];
    sources.extend(policies.iter().map(|text| ("p.yaml", *text)));
    let set = PolicySet::from_sources(&sources)?;
    let target = set.targets().first().context("there is a target")?;
    let (last, before) = hops.split_last().context("a chain has a caller")?;
    let chain = before
        .iter()
        .rev()
        .fold(Chain::of_caller(last.clone()), |chain, hop| {
            chain.with_origin(hop.clone())
        });
    Ok(set.for_chain(target, &chain))
}
