//! What holds of all rules, requests and chains.

mod who;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bailiff_model::{
    ApiRequest, ApiResource, ApiSession, ApiSubject, ApiVerb, Chain, Effect, Evidence, FailureMode, Hop,
    HopKind, Mode, PodInfo, PodUid, Protocol, Recording, SourceAddress, TargetName, TokenState, WhenFull,
};
use proptest::collection::vec;
use proptest::option::{of, weighted};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

mod bodies;

use super::body::ApiBody;
use super::rule::{ApiRule, BodyMatch, CommandGlob, Impersonates, RequestMatch, ResourceGlob, VerbSet};
use crate::compiled::{Policy, PolicySet, Subject, Target};
use crate::connection::{ClientTls, ConnectAs, UpstreamTls};
use crate::glob::Glob;

/// Pods most often, so that rules and requests meet.
const RESOURCES: [&str; 8] = [
    "pods",
    "pods",
    "pods",
    "pods",
    "secrets",
    "nodes",
    "deployments",
    "events",
];
const SUBRESOURCES: [&str; 8] = [
    "exec",
    "attach",
    "portforward",
    "log",
    "proxy",
    "status",
    "eviction",
    "token",
];
const NAMES: [&str; 2] = ["a", "ab"];
const VERBS: [ApiVerb; 8] = [
    ApiVerb::Get,
    ApiVerb::List,
    ApiVerb::Watch,
    ApiVerb::Create,
    ApiVerb::Update,
    ApiVerb::Patch,
    ApiVerb::Delete,
    ApiVerb::DeleteCollection,
];

fn globs(patterns: &'static [&'static str]) -> impl Strategy<Value = Option<Vec<Glob>>> {
    weighted(
        0.3,
        vec(select(patterns), 1..3).prop_map(|all| all.into_iter().map(Glob::new).collect()),
    )
}

fn entry() -> impl Strategy<Value = RequestMatch> {
    let resources = [
        "*",
        "*",
        "pods",
        "pods",
        "pods/*",
        "pods/exec",
        "pods/log",
        "pods/eviction",
        "nodes/proxy",
        "secrets",
        "*/status",
        "events",
        "deployments",
    ];
    let resources = vec(select(resources.to_vec()), 1..4)
        .prop_map(|all| all.into_iter().map(ResourceGlob::new).collect::<Vec<_>>());
    let verbs = subsequence(VERBS.to_vec(), 1..5).prop_map(VerbSet::from_iter);
    let commands = vec(select(&["ls *", "sh", "* -l", "*"][..]), 1..3)
        .prop_map(|all| all.into_iter().map(CommandGlob::new).collect());
    // Sessions seldom: what asks for one matches nothing else.
    let of_session = (
        weighted(0.25, vec(select(&["app", "*"][..]), 1..2)),
        weighted(0.25, commands),
        weighted(0.25, any::<bool>()),
    );
    let of_resource = (
        weighted(0.5, verbs),
        globs(&["", "", "apps", "*", "events.k8s.io"]),
        weighted(0.5, resources),
        globs(&["a", "ab", "b", "*"]),
        globs(&["a", "ab", "b", "*"]),
        weighted(0.15, any::<bool>()),
        weighted(0.3, of_session),
        weighted(0.2, vec(token(), 1..4)),
        weighted(0.3, bodies::asked()),
    )
        .prop_map(
            |(verbs, groups, resources, namespaces, names, dry_run, session, tokens, body)| {
                let (containers, commands, tty) = session.unwrap_or_default();
                RequestMatch {
                    verbs,
                    groups,
                    resources,
                    namespaces,
                    names,
                    paths: None,
                    dry_run,
                    containers: containers.map(|all| all.into_iter().map(Glob::new).collect()),
                    commands,
                    tty,
                    tokens,
                    body: body.unwrap_or_default(),
                    ..RequestMatch::default()
                }
            },
        );
    let of_path = (
        weighted(0.5, Just(VerbSet::default().with(ApiVerb::Get))),
        vec(select(&["/a*", "/ab", "*"][..]), 1..3),
    )
        .prop_map(|(verbs, paths)| RequestMatch {
            verbs,
            paths: Some(paths.into_iter().map(Glob::new).collect()),
            ..RequestMatch::default()
        });
    let of_somebody = (
        weighted(0.15, who::identities()),
        weighted(0.2, who::impersonates()),
    );
    (prop_oneof![5 => of_resource, 1 => of_path], of_somebody).prop_map(
        |(entry, (identity, impersonates))| RequestMatch {
            identity,
            impersonates,
            ..entry
        },
    )
}

fn rule() -> impl Strategy<Value = ApiRule> {
    let action = prop_oneof![
        1 => Just(Effect::Deny),
        1 => Just(Effect::RequireApproval),
        2 => Just(Effect::Allow)
    ];
    (vec(entry(), 1..3), action).prop_map(|(requests, action)| ApiRule {
        name: "r".into(),
        requests,
        action,
        message: None,
        recording: None,
    })
}

fn forbidding_rule() -> impl Strategy<Value = ApiRule> {
    (rule(), any::<bool>()).prop_map(|(rule, deny)| ApiRule {
        action: if deny {
            Effect::Deny
        } else {
            Effect::RequireApproval
        },
        ..rule
    })
}

fn policy_of(rules: impl Strategy<Value = ApiRule>) -> impl Strategy<Value = Policy> {
    (vec(rules, 1..4), weighted(0.3, select(&NAMES[..]))).prop_map(|(requests, namespace)| Policy {
        name: "p".into(),
        protocol: Protocol::Kubernetes,
        mode: Mode::Enforce,
        targets: None,
        subjects: namespace
            .map(|namespace| Subject {
                namespaces: vec![Glob::new(namespace)],
                ..Subject::default()
            })
            .into_iter()
            .collect(),
        rules: Vec::new(),
        requests,
        masks: Vec::new(),
        detect: Vec::new(),
        fields: Default::default(),
        recording: Recording::default(),
        connect_as: ConnectAs::default(),
    })
}

fn policies() -> impl Strategy<Value = Vec<Policy>> {
    vec(policy_of(rule()), 0..4)
}

fn resource() -> impl Strategy<Value = ApiResource> {
    let session = (
        of(select(&["app", "b"][..])),
        select(vec!["ls", "ls -l", "sh -l", ""]),
        any::<bool>(),
    );
    (
        select(&["", "", "", "apps", "events.k8s.io"][..]),
        select(&RESOURCES[..]),
        weighted(0.5, select(&SUBRESOURCES[..])),
        weighted(0.7, select(&NAMES[..])),
        weighted(0.7, select(&NAMES[..])),
        of(session),
    )
        .prop_map(
            |(group, resource, subresource, namespace, name, session)| ApiResource {
                group: group.to_owned(),
                version: "v1".to_owned(),
                resource: resource.to_owned(),
                subresource: subresource.map(str::to_owned),
                namespace: namespace.map(str::to_owned),
                name: name.map(str::to_owned),
                session: session
                    .filter(|_| matches!(subresource, Some("exec" | "attach" | "portforward")))
                    .map(|(container, command, tty)| ApiSession {
                        container: container.map(str::to_owned),
                        command: command.split_whitespace().map(str::to_owned).collect(),
                        tty,
                        ..ApiSession::default()
                    }),
                ..ApiResource::default()
            },
        )
}

fn request() -> impl Strategy<Value = ApiRequest> {
    let of_resource =
        (select(&VERBS[..]), resource(), weighted(0.2, Just(true))).prop_map(|(verb, resource, dry_run)| {
            ApiRequest {
                verb,
                subject: ApiSubject::Resource(resource),
                dry_run: dry_run.is_some(),
                token: TokenState::Missing,
                identity: None,
                impersonates: None,
            }
        });
    let of_path = (
        select(&[ApiVerb::Get, ApiVerb::Head, ApiVerb::Post][..]),
        select(&["/a", "/ab", "/ab/", "/b"][..]),
    )
        .prop_map(|(verb, path)| ApiRequest {
            verb,
            subject: ApiSubject::Path(path.to_owned()),
            dry_run: false,
            token: TokenState::Missing,
            identity: None,
            impersonates: None,
        });
    who::by_somebody(prop_oneof![6 => of_resource, 1 => of_path])
}

fn token() -> impl Strategy<Value = TokenState> {
    select(&TokenState::ALL[..])
}

fn effect() -> impl Strategy<Value = Effect> {
    select(&[Effect::Deny, Effect::RequireApproval, Effect::Allow][..])
}

fn hop() -> impl Strategy<Value = Hop> {
    weighted(0.8, select(&NAMES[..])).prop_map(|namespace| Hop {
        kind: match namespace {
            Some(namespace) => HopKind::Pod {
                pod: Arc::new(PodInfo {
                    namespace: namespace.to_owned(),
                    name: "pod".to_owned(),
                    uid: PodUid::new(namespace),
                    service_account: "default".to_owned(),
                    labels: BTreeMap::new(),
                    mode: Mode::Enforce,
                }),
                process: None,
            },
            None => HopKind::Unknown {
                why: "an event was lost".to_owned(),
            },
        },
        evidence: Evidence::Observed,
    })
}

fn chain() -> impl Strategy<Value = Chain> {
    (hop(), vec(hop(), 0..3)).prop_map(|(caller, before)| {
        before
            .into_iter()
            .fold(Chain::of_caller(caller), Chain::with_origin)
    })
}

/// A target's answers to what no rule names, and to what can't be told.
#[derive(Debug, Clone, Copy)]
struct Answers(Effect, Effect);

fn answers() -> impl Strategy<Value = Answers> {
    (effect(), effect()).prop_map(|(default, unknown)| Answers(default, unknown))
}

/// The verdict, and whether a rule made it.
fn decide(policies: &[Policy], answers: Answers, chain: &Chain, request: &ApiRequest) -> (Effect, bool) {
    decide_with(policies, answers, chain, request, &ApiBody::unread(request))
}

/// The same for a body of which something is known.
fn decide_with(
    policies: &[Policy],
    answers: Answers,
    chain: &Chain,
    request: &ApiRequest,
    body: &ApiBody,
) -> (Effect, bool) {
    let target = Target {
        name: TargetName::new("cluster"),
        protocol: Protocol::Kubernetes,
        endpoints: Vec::new(),
        services: Vec::new(),
        failure_mode: FailureMode::Closed,
        source_address: SourceAddress::Pod,
        default: answers.0,
        unknown: answers.1,
        when_full: WhenFull::Block,
        catalog: None,
        search_path: Vec::new(),
        plain_relations: Vec::new(),
        tls_client: ClientTls::default(),
        tls_upstream: UpstreamTls {
            ca: Some(PathBuf::from("/ca")),
            ..UpstreamTls::default()
        },
        credential: None,
        identity: None,
    };
    let set = PolicySet::new(vec![target], policies.to_vec());
    let Some(target) = set.targets().first() else {
        return (Effect::Deny, false);
    };
    let ruling = set.for_chain(target, chain).decide_request_with(request, body);
    assert_eq!(ruling.permit().is_some(), ruling.effect() == Effect::Allow);
    assert_eq!(ruling.denial().is_none(), ruling.effect() == Effect::Allow);
    assert_eq!(ruling.verb(), Some(request.verb));
    (ruling.effect(), ruling.reason().rule.is_some())
}

/// The same request about more.
fn wider(request: &ApiRequest) -> Vec<ApiRequest> {
    let ApiSubject::Resource(resource) = &request.subject else {
        return Vec::new();
    };
    let with = |changed: ApiResource| ApiRequest {
        subject: ApiSubject::Resource(changed),
        ..request.clone()
    };
    let mut all = Vec::new();
    if matches!(
        request.verb,
        ApiVerb::List | ApiVerb::Watch | ApiVerb::DeleteCollection
    ) {
        // All namespaces in place of one; only a list without a name is about more than one object of each.
        if resource.name.is_none() {
            all.push(with(ApiResource {
                namespace: None,
                ..resource.clone()
            }));
        }
        if resource.namespace.is_some() {
            all.push(with(ApiResource {
                name: None,
                ..resource.clone()
            }));
        }
    }
    // A session of which nothing is told, or not the container, or not the command.
    if let Some(session) = &resource.session {
        let told = |session: Option<ApiSession>| {
            with(ApiResource {
                session,
                ..resource.clone()
            })
        };
        all.push(told(None));
        all.push(told(Some(ApiSession {
            container: None,
            ..session.clone()
        })));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_a_rule_would_allow_it_would_forbid_and_ask_for(mut entry in entry(), request in request()) {
        let rule = |entry: &RequestMatch, action| ApiRule {
            name: "r".into(),
            requests: vec![entry.clone()],
            action,
            message: None,
            recording: None,
        };
        let body = ApiBody::unread(&request);
        if rule(&entry, Effect::Allow).covers(&request, &body) {
            prop_assert!(rule(&entry, Effect::RequireApproval).asks(&request, &body));
        }
        if rule(&entry, Effect::Deny).touches(&request, &body) {
            prop_assert!(rule(&entry, Effect::RequireApproval).asks(&request, &body));
        }
        // Of those as whom a request acts, a list is a bound where it allows, and any of it where it forbids.
        if let Some(Impersonates::These(these)) = &mut entry.impersonates {
            (these.groups, these.uids, these.extra) = (None, None, None);
        }
        if rule(&entry, Effect::Allow).covers(&request, &body) {
            prop_assert!(rule(&entry, Effect::Deny).touches(&request, &body));
        }
    }

    #[test]
    fn a_rule_that_hides_another_touches_all_that_it_covers(
        outer in entry(), inner in entry(), request in request(),
    ) {
        let rule = |entry: &RequestMatch| ApiRule {
            name: "r".into(),
            requests: vec![entry.clone()],
            action: Effect::Deny,
            message: None,
            recording: None,
        };
        prop_assert!(outer.contains(&outer));
        let body = ApiBody::unread(&request);
        if outer.contains(&inner) && rule(&inner).covers(&request, &body) {
            prop_assert!(rule(&outer).touches(&request, &body), "{outer:?} {inner:?}");
        }
    }

    #[test]
    fn one_more_hop_never_allows_more(
        policies in policies(), answers in answers(), chain in chain(), origin in hop(), request in request(),
    ) {
        let (before, _) = decide(&policies, answers, &chain, &request);
        let (after, _) = decide(&policies, answers, &chain.with_origin(origin), &request);
        prop_assert!(after <= before);
    }

    #[test]
    fn somebody_unknown_is_never_allowed_more_than_any_pod(
        policies in policies(), answers in answers(), caller in hop(), request in request(),
    ) {
        let unknown = Hop {
            kind: HopKind::Unknown { why: "an event was lost".to_owned() },
            evidence: Evidence::Unobserved,
        };
        let (known, _) = decide(&policies, answers, &Chain::of_caller(caller), &request);
        let (anybody, _) = decide(&policies, answers, &Chain::of_caller(unknown), &request);
        prop_assert!(anybody <= known);
    }

    #[test]
    fn forbidding_more_never_allows_more_and_allowing_more_never_forbids_more(
        policies in policies(), answers in answers(), chain in chain(), more in policy_of(rule()), request in request(),
    ) {
        let (before, _) = decide(&policies, answers, &chain, &request);
        let with = |action: fn(Effect) -> bool| {
            let mut all = policies.clone();
            let mut more = more.clone();
            more.requests.retain(|rule| action(rule.action));
            all.push(more);
            decide(&all, answers, &chain, &request).0
        };
        prop_assert!(with(|action| action == Effect::Deny) <= before);
        // An approval that covers lets ask for what the default wouldn't, and lets nothing pass.
        prop_assert!(before == Effect::Allow || with(|action| action != Effect::Allow) != Effect::Allow);
        prop_assert!(with(|action| action == Effect::Allow) >= before);
    }

    #[test]
    fn the_order_of_policies_and_rules_changes_nothing(
        policies in policies(), answers in answers(), chain in chain(), request in request(),
    ) {
        let mut turned = policies.clone();
        turned.reverse();
        for policy in &mut turned {
            policy.requests.reverse();
        }
        let (one, other) = (
            decide(&policies, answers, &chain, &request),
            decide(&turned, answers, &chain, &request),
        );
        prop_assert_eq!(one.0, other.0);
    }

    #[test]
    fn what_is_about_more_is_never_allowed_more(
        allowing in policies(), forbidding in vec(policy_of(forbidding_rule()), 0..3),
        answers in answers(), chain in chain(), request in request(),
    ) {
        let policies = [allowing, forbidding].concat();
        let (narrow, _) = decide(&policies, answers, &chain, &request);
        for wide in wider(&request) {
            let (effect, _) = decide(&policies, answers, &chain, &wide);
            prop_assert!(effect <= narrow, "{wide}: {effect:?}, {request}: {narrow:?}");
        }
    }

    #[test]
    fn what_cant_be_told_is_forbidden_by_whatever_forbids_anything(
        policies in policies(), answers in answers(), chain in chain(), request in request(),
    ) {
        let (told, by_rule) = decide(&policies, answers, &chain, &request);
        let (verbless, subjectless) = (
            ApiRequest { verb: ApiVerb::Unknown, ..request.clone() },
            ApiRequest { subject: ApiSubject::Unknown, ..request.clone() },
        );
        let (untold, _) = decide(&policies, answers, &chain, &subjectless);
        prop_assert!(untold <= answers.1);
        prop_assert!(decide(&policies, answers, &chain, &verbless).0 <= answers.1);
        if by_rule && told == Effect::Deny {
            prop_assert_eq!(untold, Effect::Deny);
        }
    }

    #[test]
    fn rules_that_forbid_arent_got_round_by_other_verbs_or_tokens_that_cant_be_verified(
        policies in vec(policy_of(forbidding_rule()), 0..4), chain in chain(), request in request(),
    ) {
        // A session has no reading and no making: both methods are the same there.
        let mut request = request;
        if let ApiSubject::Resource(resource) = &mut request.subject
            && resource.subresource.as_deref().is_some_and(super::rule::is_session)
        {
            resource.subresource = None;
        }
        let decided = |verb| {
            let request = ApiRequest { verb, ..request.clone() };
            decide(&policies, Answers(Effect::Allow, Effect::Deny), &chain, &request).0
        };
        let unverified = ApiRequest { token: TokenState::Unverified, ..request.clone() };
        let open = Answers(Effect::Allow, Effect::Deny);
        prop_assert!(decide(&policies, open, &chain, &unverified).0 <= decide(&policies, open, &chain, &request).0);
        prop_assert!(decided(ApiVerb::List) <= decided(ApiVerb::Get));
        prop_assert!(decided(ApiVerb::Watch) <= decided(ApiVerb::List));
        prop_assert!(decided(ApiVerb::DeleteCollection) <= decided(ApiVerb::Delete));
        prop_assert_eq!(decided(ApiVerb::Update), decided(ApiVerb::Patch));
    }

    #[test]
    fn observing_decides_nothing(
        policies in policies(), answers in answers(), chain in chain(), more in policy_of(rule()), request in request(),
    ) {
        let before = decide(&policies, answers, &chain, &request);
        let mut all = policies;
        all.push(Policy { mode: Mode::Observe, ..more });
        prop_assert_eq!(decide(&all, answers, &chain, &request).0, before.0);
    }

    #[test]
    fn a_hop_that_is_only_observed_forbids_nothing_and_frees_no_other(
        policies in policies(), answers in answers(), chain in chain(), observed in vec(any::<bool>(), 4), request in request(),
    ) {
        let in_mode = |hop: &Hop, mode: Mode| match &hop.kind {
            HopKind::Pod { pod, process } => Hop {
                kind: HopKind::Pod { pod: Arc::new(PodInfo { mode, ..PodInfo::clone(pod) }), process: process.clone() },
                ..hop.clone()
            },
            HopKind::Unknown { .. } => hop.clone(),
        };
        let hops: Vec<Hop> = chain
            .hops()
            .iter()
            .zip(&observed)
            .map(|(hop, observed)| in_mode(hop, if *observed { Mode::Observe } else { Mode::Enforce }))
            .collect();
        let of = |hops: Vec<Hop>| {
            let (last, before) = hops.split_last()?;
            let chain = before.iter().rev().fold(Chain::of_caller(last.clone()), |chain, hop| chain.with_origin(hop.clone()));
            Some(decide(&policies, answers, &chain, &request).0)
        };
        let is_watched = |hop: &Hop| matches!(&hop.kind, HopKind::Pod { pod, .. } if pod.mode == Mode::Observe);
        let others: Vec<Hop> = hops.iter().filter(|hop| !is_watched(hop)).cloned().collect();
        prop_assert_eq!(of(hops), Some(of(others).unwrap_or(Effect::Allow)));
    }
}

#[test]
fn the_side_doors_are_those_that_are_documented() {
    let text = include_str!("../../../../../docs/kubernetes.md");
    let (_, section) = text.split_once("## Sessions and side doors").unwrap_or_default();
    let (section, _) = section.split_once("\n## ").unwrap_or_default();
    let mut documented: Vec<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once(" |"))
        .flat_map(|(names, _)| names.split(", "))
        .map(|name| name.trim_matches('`'))
        .collect();
    let mut known = super::rule::SIDE_DOORS.to_vec();
    documented.sort_unstable();
    known.sort_unstable();
    assert_eq!(documented, known);
}
