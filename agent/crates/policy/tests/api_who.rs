//! Rules about who asks, and as whom it acts.

#[path = "api/requests.rs"]
#[expect(dead_code, reason = "this suite needs only some of it")]
mod api;

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use api::{caller, request};
use bailiff_model::{ApiRequest, Chain, Effect, Identity, Impersonation, TokenState};
use bailiff_policy::PolicySet;

const HEAD: &str = "apiVersion: bailiff.dev/v1alpha1\n";

const IDENTITY: &str = "  identity: {issuer: https://k, audiences: [https://k], keySetFile: /jwks.json}\n";

fn target(identity: &str) -> String {
    format!(
        "{HEAD}kind: Target\nmetadata: {{name: cluster}}\nspec:\n  protocol: kubernetes\n  endpoints: ['10.96.0.1:443']\n  tls:\n    client: {{mode: Require, certificateFile: /c, keyFile: /k}}\n    upstream: {{mode: Verify, caFile: /ca}}\n{identity}"
    )
}

fn policy(rules: &str) -> String {
    format!("{HEAD}kind: Policy\nmetadata: {{name: p}}\nspec:\n  targets: [cluster]\n  rules:\n{rules}")
}

/// What a policy says of a request to get a pod.
fn decided(rules: &str, who: impl Fn(&mut ApiRequest)) -> Result<Effect> {
    let set = PolicySet::from_sources(&[("t.yaml", &target(IDENTITY)), ("p.yaml", &policy(rules))])?;
    let target = set.targets().first().context("there is a target")?;
    let policy = set.for_chain(target, &Chain::of_caller(caller("shop")));
    let mut request = request("get pods web-0 in shop");
    who(&mut request);
    Ok(policy.decide_request(&request).effect())
}

fn problems(target: &str, rules: &str) -> Result<String> {
    let loaded = PolicySet::from_sources(&[("t.yaml", target), ("p.yaml", &policy(rules))]);
    Ok(loaded.err().context("it loads")?.to_string())
}

fn acting(user: &str, groups: &[&str]) -> impl Fn(&mut ApiRequest) {
    let other = Impersonation {
        user: user.to_owned(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        ..Impersonation::default()
    };
    move |request| request.impersonates = Some(Box::new(other.clone()))
}

#[test]
fn an_entry_covers_who_it_names_outright_with_all_groups() -> Result<()> {
    let rule = |impersonates: &str| {
        format!(
            "  - {{name: r, requests: [{{verbs: [get], resources: [pods]{impersonates}}}], action: Allow}}\n"
        )
    };
    let both = ", impersonates: {users: ['dev-*'], groups: [developers]}";
    for (impersonates, groups, expected) in [
        ("", &[][..], Effect::Deny),
        (", impersonates: None", &[], Effect::Deny),
        (", impersonates: Any", &["x"], Effect::Allow),
        (both, &[], Effect::Allow),
        (both, &["developers"], Effect::Allow),
        (both, &["developers", "x"], Effect::Deny),
        (
            ", impersonates: {users: ['dev-*']}",
            &["developers"],
            Effect::Deny,
        ),
        (
            ", impersonates: {users: [other], groups: ['*']}",
            &["developers"],
            Effect::Deny,
        ),
    ] {
        let found = decided(&rule(impersonates), acting("dev-a", groups))?;
        ensure!(found == expected, "{impersonates} {groups:?}: {found:?}");
    }
    ensure!(
        decided(&rule(both), |_| ())? == Effect::Deny,
        "who acts as nobody isn't named"
    );
    ensure!(decided(&rule(", impersonates: None"), |_| ())? == Effect::Allow);
    Ok(())
}

#[test]
fn a_uid_and_extra_are_covered_where_they_are_named() -> Result<()> {
    let rule = |more: &str| {
        format!(
            "  - {{name: r, requests: [{{resources: [pods], impersonates: {{users: [jane]{more}}}}}], action: Allow}}\n"
        )
    };
    let by = |uid: Option<&str>, extra: &[(&str, &str)]| {
        let other = Impersonation {
            user: "jane".to_owned(),
            uid: uid.map(str::to_owned),
            extra: extra
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            ..Impersonation::default()
        };
        move |request: &mut ApiRequest| request.impersonates = Some(Box::new(other.clone()))
    };
    ensure!(decided(&rule(""), by(Some("1"), &[]))? == Effect::Deny);
    ensure!(decided(&rule(", uids: ['1*']"), by(Some("1"), &[]))? == Effect::Allow);
    ensure!(decided(&rule(", uids: ['1*']"), by(None, &[("a", "b")]))? == Effect::Deny);
    let extra = ", extra: {'a.io/*': [view, edit], b: ['*']}";
    ensure!(decided(&rule(extra), by(None, &[("a.io/scopes", "view"), ("b", "c")]))? == Effect::Allow);
    ensure!(
        decided(
            &rule(extra),
            by(None, &[("a.io/scopes", "view"), ("a.io/scopes", "all")])
        )? == Effect::Deny
    );
    Ok(())
}

#[test]
fn who_forbids_also_means_the_groups_that_the_server_adds() -> Result<()> {
    let rules = |group: &str| {
        format!(
            "  - {{name: a, requests: [{{resources: ['*'], impersonates: Any}}], action: Allow}}\n  - {{name: d, requests: [{{impersonates: {{groups: ['{group}']}}}}], action: Deny}}\n"
        )
    };
    for (group, user, groups, expected) in [
        ("system:masters", "jane", &["system:masters"][..], Effect::Deny),
        ("system:masters", "jane", &["developers"], Effect::Allow),
        (
            "system:serviceaccounts",
            "system:serviceaccount:shop:web",
            &[],
            Effect::Deny,
        ),
        (
            "system:serviceaccounts:shop",
            "system:serviceaccount:shop:web",
            &[],
            Effect::Deny,
        ),
        // Those that are given stand for all.
        (
            "system:serviceaccounts:shop",
            "system:serviceaccount:shop:web",
            &["x"],
            Effect::Allow,
        ),
        ("system:authenticated", "jane", &["x"], Effect::Deny),
        ("system:authenticated", "system:anonymous", &[], Effect::Allow),
        ("system:unauthenticated", "system:anonymous", &[], Effect::Deny),
    ] {
        let found = decided(&rules(group), acting(user, groups))?;
        ensure!(found == expected, "{group}, {user} {groups:?}: {found:?}");
    }
    Ok(())
}

#[test]
fn who_cant_be_verified_may_be_anybody() -> Result<()> {
    let rule = |action: &str| {
        format!(
            "  - {{name: r, requests: [{{resources: [pods], identity: {{users: [jane], groups: [ops, '*:ops']}}}}], action: {action}}}\n"
        )
    };
    let open = "  - {name: o, requests: [{verbs: [get, list], resources: ['*']}], action: Allow}\n";
    let deny = rule("Deny") + open;
    let by = |token: TokenState, user: &str, group: &str| {
        let identity = Identity {
            user: user.into(),
            groups: vec!["system:authenticated".into(), group.into()],
            bound_to: None,
        };
        move |request: &mut ApiRequest| {
            request.token = token;
            request.identity = (token == TokenState::Bound).then(|| Arc::new(identity.clone()));
        }
    };
    for (token, user, group, allowed, denied) in [
        (TokenState::Bound, "jane", "sso:ops", Effect::Allow, Effect::Deny),
        (TokenState::Bound, "jane", "dev", Effect::Deny, Effect::Allow),
        (TokenState::Bound, "jo", "ops", Effect::Deny, Effect::Allow),
        (TokenState::Unverified, "", "", Effect::Deny, Effect::Deny),
        (TokenState::Missing, "", "", Effect::Deny, Effect::Allow),
    ] {
        ensure!(
            decided(&rule("Allow"), by(token, user, group))? == allowed,
            "{token} {user} {group}"
        );
        ensure!(
            decided(&deny, by(token, user, group))? == denied,
            "{token} {user} {group}"
        );
    }
    Ok(())
}

#[test]
fn what_cant_match_is_refused() -> Result<()> {
    let rule = |entry: &str, action: &str| {
        format!("  - {{name: r, requests: [{{verbs: [get], {entry}}}], action: {action}}}\n")
    };
    for (entry, action, expected) in [
        ("identity: {}", "Deny", "names nobody"),
        ("identity: {users: []}", "Deny", "`identity.users` is empty"),
        ("impersonates: {}", "Deny", "names nobody"),
        (
            "impersonates: {groups: [a]}",
            "Allow",
            "covers only what it names",
        ),
        (
            "impersonates: {users: [a], groups: ['']}",
            "Allow",
            "`impersonates.groups` is empty",
        ),
        (
            "impersonates: {users: [a], extra: {}}",
            "Allow",
            "`impersonates.extra` is empty",
        ),
        ("impersonates: any", "Deny", "`Any`, `None` or {users"),
        ("impersonates: {user: a}", "Deny", "user"),
    ] {
        let found = problems(&target(IDENTITY), &rule(entry, action))?;
        ensure!(found.contains(expected), "{entry}: {found}");
    }
    let found = problems(&target(""), &rule("identity: {users: [a]}", "Deny"))?;
    ensure!(
        found.contains("`identity` can't be told apart at target \"cluster\""),
        "{found}"
    );
    let hidden = rule("impersonates: {users: [a]}", "Allow")
        + "  - {name: d, requests: [{verbs: [get], impersonates: Any}], action: Deny}\n";
    ensure!(problems(&target(IDENTITY), &hidden)?.contains("can never take effect"));
    Ok(())
}
