//! What rules about requests to the Kubernetes API forbid and allow.

#[path = "api/requests.rs"]
mod api;

use std::sync::Arc;

use anyhow::{Result, ensure};
use api::{caller, chain_policy, exec, of, path, policy, request, unknown};
use bailiff_model::{ApiRequest, ApiVerb, Effect};
use bailiff_policy::type_request;

/// The verdict on a request by one rule, where nothing else is allowed (for Allow) or all else is (for the others).
fn verdict(entry: &str, action: &str, request: &ApiRequest) -> Result<Effect> {
    let default = if action == "Allow" { "Deny" } else { "Allow" };
    let rules = format!("  - name: r\n    requests: [{entry}]\n    action: {action}");
    let policy = chain_policy(default, "Deny", &[&policy("p", "", &rules)], &[caller("a")])?;
    Ok(policy.decide_request(request).effect())
}

fn allows(entry: &str, request: &ApiRequest) -> Result<bool> {
    Ok(verdict(entry, "Allow", request)? == Effect::Allow)
}

fn forbids(entry: &str, request: &ApiRequest) -> Result<bool> {
    let denied = verdict(entry, "Deny", request)? == Effect::Deny;
    let asked = verdict(entry, "RequireApproval", request)? != Effect::Allow;
    ensure!(
        denied == asked,
        "{entry}: Deny and RequireApproval differ on {request}"
    );
    Ok(denied)
}

/// Each row: an entry, a request, whether a rule that allows covers it, whether one that forbids touches it.
fn hold(rows: &[(&str, ApiRequest, bool, bool)]) -> Result<()> {
    for (entry, request, covered, touched) in rows {
        ensure!(
            allows(entry, request)? == *covered,
            "{entry} covers {request}: not {covered}"
        );
        ensure!(
            forbids(entry, request)? == *touched,
            "{entry} touches {request}: not {touched}"
        );
    }
    Ok(())
}

#[test]
fn what_is_given_must_all_match() -> Result<()> {
    let entry = "{verbs: [get], groups: [\"\"], resources: [pods], namespaces: [shop], names: [\"web-*\"]}";
    hold(&[
        (entry, request("get pods web-0 in shop"), true, true),
        (entry, request("get pods web-0 in bank"), false, false),
        (entry, request("get pods db-0 in shop"), false, false),
        (entry, request("get services web-0 in shop"), false, false),
        (entry, request("delete pods web-0 in shop"), false, false),
        (
            entry,
            of("metrics.k8s.io", request("get pods web-0 in shop")),
            false,
            false,
        ),
    ])
}

#[test]
fn what_isnt_said_may_be_anything() -> Result<()> {
    hold(&[
        // A list over all namespaces touches each, and is bounded by none.
        (
            "{verbs: [list], resources: [secrets], namespaces: [shop]}",
            request("list secrets"),
            false,
            true,
        ),
        (
            "{verbs: [list], resources: [secrets], namespaces: [\"*\"]}",
            request("list secrets"),
            true,
            true,
        ),
        (
            "{verbs: [list], resources: [secrets]}",
            request("list secrets"),
            true,
            true,
        ),
        // Without a name any name may be meant.
        (
            "{verbs: [list], resources: [secrets], names: [db]}",
            request("list secrets in shop"),
            false,
            true,
        ),
        (
            "{resources: [secrets], names: [db]}",
            request("create secrets in shop"),
            false,
            true,
        ),
        // By a field selector a list can have one.
        (
            "{verbs: [list], resources: [secrets], names: [db]}",
            request("list secrets db in shop"),
            true,
            true,
        ),
        (
            "{verbs: [list], resources: [secrets], names: [db]}",
            request("list secrets api in shop"),
            false,
            false,
        ),
        (
            "{resources: [secrets], names: [db]}",
            request("deletecollection secrets db in shop"),
            false,
            true,
        ),
        (
            "{verbs: [deletecollection], resources: [secrets], names: [\"*\"]}",
            request("deletecollection secrets in shop"),
            true,
            true,
        ),
        // A single object without a namespace lies in none.
        (
            "{verbs: [get], namespaces: [shop]}",
            request("get nodes n1"),
            false,
            false,
        ),
        (
            "{verbs: [create], namespaces: [shop]}",
            request("create nodes"),
            false,
            false,
        ),
        // Which one it is stands in the body, which isn't known here.
        (
            "{verbs: [create], namespaces: [shop]}",
            request("create namespaces"),
            false,
            true,
        ),
        (
            "{verbs: [get], namespaces: [\"*\"]}",
            request("get nodes n1"),
            true,
            true,
        ),
    ])
}

#[test]
fn a_verb_that_does_the_same_is_forbidden_too_but_not_allowed() -> Result<()> {
    let verb = |name: &str| format!("{{verbs: [{name}], resources: [pods]}}");
    let of_verb = |name: &str| request(&format!("{name} pods web-0 in shop"));
    let implied = [
        ("get", &["get", "list", "watch"][..]),
        ("list", &["list", "watch"]),
        ("watch", &["watch"]),
        ("create", &["create", "update", "patch"]),
        ("update", &["update", "patch"]),
        ("patch", &["update", "patch"]),
        ("delete", &["delete", "deletecollection"]),
        ("deletecollection", &["deletecollection"]),
    ];
    for (named, touched) in implied {
        for (other, _) in implied {
            let (entry, asked) = (verb(named), of_verb(other));
            ensure!(
                allows(&entry, &asked)? == (named == other),
                "{named} covers {other}"
            );
            ensure!(
                forbids(&entry, &asked)? == touched.contains(&other),
                "{named} touches {other}"
            );
        }
    }
    // Of a subresource nothing is made by changing it.
    let status = request("patch pods/status web-0 in shop");
    ensure!(!forbids("{verbs: [create]}", &status)?);
    ensure!(forbids("{verbs: [update]}", &status)?);
    Ok(())
}

#[test]
fn subresources_are_named_as_in_rbac() -> Result<()> {
    let log = || request("get pods/log web-0 in shop");
    let scale = || of("apps", request("patch deployments/scale web in shop"));
    hold(&[
        ("{resources: [pods]}", log(), false, false),
        ("{resources: [pods/log]}", log(), true, true),
        ("{resources: [\"pods/*\"]}", log(), true, true),
        ("{resources: [\"*/log\"]}", log(), true, true),
        ("{resources: [\"*\"]}", log(), true, true),
        ("{verbs: [get]}", log(), true, true),
        ("{resources: [\"po*\"]}", log(), false, false),
        (
            "{resources: [\"pods/*\"]}",
            request("get pods web-0 in shop"),
            false,
            false,
        ),
        // Under its other subresources an object is read and changed like itself.
        (
            "{resources: [pods]}",
            request("get pods/status web-0 in shop"),
            false,
            true,
        ),
        ("{resources: [deployments]}", scale(), false, true),
        ("{resources: [\"*/scale\"]}", scale(), true, true),
        (
            "{resources: [pods]}",
            request("update pods/resize web-0 in shop"),
            false,
            true,
        ),
        (
            "{verbs: [delete], resources: [pods]}",
            request("create pods/eviction web-0 in shop"),
            false,
            true,
        ),
        (
            "{verbs: [create], resources: [pods]}",
            request("create pods/eviction web-0 in shop"),
            false,
            false,
        ),
        (
            "{resources: [events], groups: [\"\"]}",
            of("events.k8s.io", request("list events in shop")),
            false,
            true,
        ),
    ])
}

#[test]
fn side_doors_open_only_when_they_are_named_outright() -> Result<()> {
    for door in [
        "get nodes/proxy n1",
        "get pods/proxy web-0 in shop",
        "get services/proxy web in shop",
        "create pods/exec web-0 in shop",
        "create pods/attach web-0 in shop",
        "create pods/portforward web-0 in shop",
        "patch pods/ephemeralcontainers web-0 in shop",
        "create serviceaccounts/token ci in shop",
        "update certificatesigningrequests/approval mine",
        "create pods/eviction web-0 in shop",
        "get virtualmachines/portforward vm in shop",
    ] {
        let asked = request(door);
        let (_, named) = door.split_once(' ').unwrap_or_default();
        let (named, _) = named.split_once(' ').unwrap_or_default();
        let (resource, subresource) = named.split_once('/').unwrap_or_default();
        for wide in ["{verbs: [\"*\"]}", "{resources: [\"*\"]}"] {
            ensure!(!allows(wide, &asked)?, "{wide} covers {door}");
            ensure!(forbids(wide, &asked)?, "{wide} touches {door}");
        }
        let starred = format!("{{resources: [\"{resource}/*\"]}}");
        ensure!(!allows(&starred, &asked)?, "{starred} covers {door}");
        let outright = format!("{{resources: [{resource}/{subresource}]}}");
        ensure!(allows(&outright, &asked)?, "{outright} covers {door}");
        ensure!(forbids(&outright, &asked)?, "{outright} touches {door}");
    }
    Ok(())
}

#[test]
fn a_session_is_the_same_by_either_method() -> Result<()> {
    for method in ["get", "create"] {
        let asked = request(&format!("{method} pods/exec web-0 in shop"));
        ensure!(
            allows("{verbs: [create], resources: [pods/exec]}", &asked)?,
            "{method}"
        );
        ensure!(
            forbids("{verbs: [create], resources: [pods/exec]}", &asked)?,
            "{method}"
        );
        ensure!(
            forbids("{verbs: [get], resources: [pods/exec]}", &asked)?,
            "{method}"
        );
        ensure!(
            !forbids("{verbs: [delete], resources: [pods/exec]}", &asked)?,
            "{method}"
        );
    }
    Ok(())
}

#[test]
fn a_nodes_proxy_may_be_any_pods_session() -> Result<()> {
    let asked = request("get nodes/proxy n1");
    for forbidden in [
        "{verbs: [create], resources: [pods/exec], namespaces: [shop], commands: [\"rm *\"]}",
        "{verbs: [get], resources: [pods/log]}",
        "{verbs: [list], resources: [pods], groups: [\"\"]}",
        "{verbs: [get], namespaces: [shop]}",
    ] {
        ensure!(forbids(forbidden, &asked)?, "{forbidden}");
    }
    for another in [
        "{resources: [secrets]}",
        "{verbs: [delete], resources: [pods]}",
        "{groups: [apps]}",
    ] {
        ensure!(!forbids(another, &asked)?, "{another}");
    }
    // A service or pod is named with its scheme and port there.
    let service = request("get services/proxy https:web:443 in shop");
    ensure!(forbids("{resources: [services/proxy], names: [web]}", &service)?);
    ensure!(!allows("{resources: [services/proxy], names: [web]}", &service)?);
    Ok(())
}

#[test]
fn sessions_are_decided_by_container_command_and_tty() -> Result<()> {
    let plain = || exec(Some("app"), &["ls", "-l", "/tmp"], false);
    let entry = |more: &str| format!("{{verbs: [create], resources: [pods/exec], {more}}}");
    let listing = entry("commands: [\"ls *\"]");
    let rows = [
        (listing.clone(), plain(), true, true),
        (listing.clone(), exec(None, &["ls"], false), true, true),
        (listing.clone(), exec(None, &["lsof"], false), false, false),
        (listing.clone(), exec(None, &["ls -l"], false), false, false),
        (
            listing.clone(),
            exec(None, &["sh", "-c", "ls"], false),
            false,
            false,
        ),
        // A command that isn't told may be any.
        (listing.clone(), exec(None, &[], false), false, true),
        (
            listing.clone(),
            request("create pods/exec web-0 in shop"),
            false,
            true,
        ),
        (listing, request("create pods/attach web-0 in shop"), false, false),
        (entry("commands: [\"ls -l\"]"), plain(), false, false),
        (entry("commands: [\"* -l /tmp*\"]"), plain(), true, true),
        (entry("containers: [app]"), plain(), true, true),
        (entry("containers: [vault]"), plain(), false, false),
        (
            entry("containers: [app]"),
            exec(None, &["ls"], false),
            false,
            true,
        ),
        (entry("tty: true"), plain(), false, false),
        (entry("tty: true"), exec(None, &["sh"], true), true, true),
        (entry("tty: false"), exec(None, &["sh"], true), false, false),
    ];
    for (entry, request, covered, touched) in rows {
        hold(&[(&entry, request, covered, touched)])?;
    }
    Ok(())
}

#[test]
fn a_dry_run_is_one_only_where_the_server_holds_to_it() -> Result<()> {
    let typed = |method: &str, target: &str, body: bool| {
        let typed = type_request(method, target, body);
        ensure!(typed.doubt.is_none(), "{target}: {:?}", typed.doubt);
        Ok(typed.request)
    };
    let (dry, real) = (
        "{resources: [\"*\"], dryRun: true}",
        "{resources: [\"*\"], dryRun: false}",
    );
    let pods = "/api/v1/namespaces/shop/pods";
    let pod = "/api/v1/namespaces/shop/pods/web-0?dryRun=All";
    let dry_pods = format!("{pods}?dryRun=All");
    let token = "/api/v1/namespaces/shop/serviceaccounts/ci/token?dryRun=All";
    // Whether `dryRun: true` covers and touches, and whether `dryRun: false` does.
    for (request, [dry_covers, dry_touches, real_covers, real_touches]) in [
        (typed("POST", &dry_pods, true)?, [true, true, false, false]),
        (typed("POST", pods, true)?, [false, false, true, true]),
        // A delete is held to its body, where it has one.
        (typed("DELETE", pod, false)?, [true, true, false, false]),
        (typed("DELETE", pod, true)?, [false, true, false, true]),
        // A read is a read, and a token a token.
        (typed("GET", pod, false)?, [false, false, true, true]),
        (typed("POST", token, true)?, [false, false, false, true]),
    ] {
        hold(&[
            (dry, request.clone(), dry_covers, dry_touches),
            (real, request, real_covers, real_touches),
        ])?;
    }
    Ok(())
}

#[test]
fn paths_are_matched_by_paths() -> Result<()> {
    hold(&[
        (
            "{verbs: [get], paths: [\"/healthz*\"]}",
            path(ApiVerb::Get, "/healthz/etcd"),
            true,
            true,
        ),
        (
            "{verbs: [get], paths: [/healthz]}",
            path(ApiVerb::Get, "/healthz/etcd"),
            false,
            false,
        ),
        (
            "{verbs: [get], paths: [/metrics]}",
            path(ApiVerb::Get, "/metrics/"),
            false,
            true,
        ),
        (
            "{verbs: [get], paths: [/metrics]}",
            path(ApiVerb::Head, "/metrics"),
            false,
            true,
        ),
        ("{paths: [\"*\"]}", path(ApiVerb::Post, "/x"), true, true),
        (
            "{paths: [\"*\"]}",
            request("get pods web-0 in shop"),
            false,
            false,
        ),
        (
            "{resources: [\"*\"]}",
            path(ApiVerb::Get, "/version"),
            false,
            false,
        ),
        ("{verbs: [get]}", path(ApiVerb::Get, "/version"), true, true),
        (
            "{namespaces: [\"*\"]}",
            path(ApiVerb::Get, "/version"),
            false,
            false,
        ),
    ])
}

#[test]
fn what_cant_be_told_may_be_anything() -> Result<()> {
    let verbless = ApiRequest {
        verb: ApiVerb::Unknown,
        ..request("get pods web-0 in shop")
    };
    for entry in ["{verbs: [delete], resources: [secrets]}", "{paths: [/version]}"] {
        ensure!(forbids(entry, &unknown())?, "{entry}");
        ensure!(!allows(entry, &unknown())?, "{entry}");
    }
    ensure!(!allows("{verbs: [\"*\"]}", &verbless)?);
    ensure!(forbids("{verbs: [delete], resources: [pods]}", &verbless)?);
    ensure!(!forbids(
        "{verbs: [delete], names: [db]}",
        &request("get pods web-0 in shop")
    )?);
    // The target's `unknown` answers what no rule forbids.
    let lenient = chain_policy("Deny", "Allow", &[], &[caller("a")])?;
    ensure!(lenient.decide_request(&unknown()).effect() == Effect::Allow);
    ensure!(lenient.decide_request(&verbless).effect() == Effect::Allow);
    ensure!(
        lenient
            .decide_request(&request("get pods web-0 in shop"))
            .effect()
            == Effect::Deny
    );
    let rules = "  - name: r\n    requests: [{verbs: [delete], resources: [secrets]}]\n    action: Deny";
    let strict = chain_policy("Allow", "Allow", &[&policy("p", "", rules)], &[caller("a")])?;
    ensure!(strict.decide_request(&unknown()).effect() == Effect::Deny);
    Ok(())
}

const READS: &str =
    "  - name: read\n    requests: [{verbs: [get, list], resources: [pods]}]\n    action: Allow";

#[test]
fn every_hop_must_be_allowed() -> Result<()> {
    let texts = [policy("reads", "{namespaces: [a]}", READS)];
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let asked = request("get pods web-0 in shop");
    let alone = chain_policy("Deny", "Deny", &texts, &[caller("a")])?.decide_request(&asked);
    ensure!(alone.effect() == Effect::Allow && alone.permit().is_some());
    ensure!(alone.verb() == Some(ApiVerb::Get) && alone.effects().is_empty());
    ensure!(alone.reason().to_string() == "policy reads, rule read");
    let below = chain_policy("Deny", "Deny", &texts, &[caller("b"), caller("a")])?.decide_request(&asked);
    ensure!(below.effect() == Effect::Deny && below.permit().is_none() && below.reason().hop == 0);
    let message = below.denial().map(|denial| denial.message.to_string());
    ensure!(
        message.as_deref() == Some("no rule allows get pods web-0 in shop"),
        "{message:?}"
    );
    Ok(())
}

#[test]
fn a_denial_says_policy_rule_and_the_authors_words() -> Result<()> {
    let rules = "  - name: no-secrets\n    requests: [{resources: [secrets]}]\n    action: Deny\n    message: ask the vault\n  - name: ask\n    requests: [{verbs: [delete]}]\n    action: RequireApproval";
    let policy = chain_policy("Allow", "Deny", &[&policy("p", "", rules)], &[caller("a")])?;
    let denied = policy.decide_request(&request("list secrets"));
    ensure!(denied.reason().to_string() == "policy p, rule no-secrets");
    ensure!(
        denied
            .denial()
            .is_some_and(|denial| &*denial.message == "ask the vault")
    );
    let asked = policy.decide_request(&request("delete pods web-0 in shop"));
    ensure!(asked.effect() == Effect::RequireApproval && asked.permit().is_none());
    ensure!(
        asked.denial().is_some_and(|denial| &*denial.message
            == "denied by policy p (it needs an approval, and none can be given yet)"),
        "{asked:?}"
    );
    Ok(())
}

#[test]
fn an_approval_lets_pass_only_what_its_rule_covers() -> Result<()> {
    let rules = "  - name: ask\n    requests: [{verbs: [list], resources: [secrets], namespaces: [shop]}]\n    action: RequireApproval";
    let policy = chain_policy("Deny", "Deny", &[&policy("p", "", rules)], &[caller("a")])?;
    let decided = |text: &str| policy.decide_request(&request(text)).effect();
    ensure!(decided("list secrets in shop") == Effect::RequireApproval);
    ensure!(decided("list secrets") == Effect::Deny);
    Ok(())
}

#[test]
fn observing_blocks_nothing_and_says_what_it_would_do() -> Result<()> {
    let watching = policy(
        "watching",
        "",
        "  - name: no-pods\n    requests: [{resources: [pods]}]\n    action: Deny",
    )
    .replace("spec:\n", "spec:\n  mode: Observe\n");
    let policy = chain_policy(
        "Deny",
        "Deny",
        &[&policy("reads", "", READS), &watching],
        &[caller("a")],
    )?;
    let ruling = policy.decide_request(&request("get pods web-0 in shop"));
    ensure!(ruling.permit().is_some());
    ensure!(
        ruling
            .observed()
            .is_some_and(|(effect, reason)| *effect == Effect::Deny
                && reason.to_string() == "policy watching, rule no-pods"),
        "{ruling:?}"
    );
    Ok(())
}

#[test]
fn what_is_allowed_again_is_the_same_ruling() -> Result<()> {
    let policy = chain_policy(
        "Deny",
        "Deny",
        &[&policy("reads", "", READS)],
        &[caller("b"), caller("a")],
    )?;
    let first = policy.decide_request(&request("get pods web-0 in shop"));
    let again = policy.decide_request(&request("get pods web-1 in bank"));
    ensure!(Arc::ptr_eq(&first, &again));
    let list = policy.decide_request(&request("list pods in shop"));
    ensure!(!Arc::ptr_eq(&first, &list) && list.verb() == Some(ApiVerb::List));
    Ok(())
}

#[test]
fn a_target_is_dialed_only_where_something_could_be_allowed() -> Result<()> {
    let texts = [policy("reads", "{namespaces: [a]}", READS)];
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    ensure!(
        chain_policy("Deny", "Deny", &texts, &[caller("a")])?
            .connect()
            .is_ok()
    );
    let refused = chain_policy("Deny", "Deny", &texts, &[caller("b")])?.connect();
    ensure!(
        refused.is_err_and(|denial| &*denial.message == "access to the Kubernetes API is denied by policy")
    );
    Ok(())
}
