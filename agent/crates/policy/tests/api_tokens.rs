//! Rules about what requests show of who they are.

#[path = "api/requests.rs"]
#[expect(dead_code, reason = "this suite needs only some of it")]
mod api;

use anyhow::{Context as _, Result};
use api::{caller, request};
use bailiff_model::{Chain, Effect, TokenState};
use bailiff_policy::{PolicySet, TokenUsers};

const HEAD: &str = "apiVersion: bailiff.dev/v1alpha1\n";

fn target(identity: &str) -> String {
    format!(
        "{HEAD}kind: Target\nmetadata: {{name: cluster}}\nspec:\n  protocol: kubernetes\n  endpoints: ['10.96.0.1:443']\n  tls:\n    client: {{mode: Require, certificateFile: /c, keyFile: /k}}\n    upstream: {{mode: Verify, caFile: /ca}}\n{identity}"
    )
}

fn policy(rules: &str) -> String {
    format!("{HEAD}kind: Policy\nmetadata: {{name: p}}\nspec:\n  targets: [cluster]\n  rules:\n{rules}")
}

const IDENTITY: &str = "  identity: {issuer: https://k, audiences: [https://k], keySetFile: /jwks.json}\n";

const RULES: &str = "  - {name: own, requests: [{verbs: [get], resources: [pods], tokens: [Bound]}], action: Allow}\n  - {name: stolen, requests: [{tokens: [Stolen]}], action: Deny, message: this token belongs to another pod}\n";

#[test]
fn a_stolen_token_is_denied_and_only_a_bound_one_is_allowed() -> Result<()> {
    let set = PolicySet::from_sources(&[("t.yaml", &target(IDENTITY)), ("p.yaml", &policy(RULES))])?;
    let target = set.targets().first().context("there is a target")?;
    let policy = set.for_chain(target, &Chain::of_caller(caller("shop")));
    let decided = |token| {
        let mut request = request("get pods web-0 in shop");
        request.token = token;
        let ruling = policy.decide_request(&request);
        (
            ruling.effect(),
            ruling.reason().rule.as_deref().map(str::to_owned),
        )
    };
    let rule = |name: &str| Some(name.to_owned());
    assert_eq!(decided(TokenState::Bound), (Effect::Allow, rule("own")));
    assert_eq!(decided(TokenState::Stolen), (Effect::Deny, rule("stolen")));
    // It may be anybody's.
    assert_eq!(decided(TokenState::Unverified), (Effect::Deny, rule("stolen")));
    assert_eq!(decided(TokenState::Unbound), (Effect::Deny, None));
    assert_eq!(decided(TokenState::Missing), (Effect::Deny, None));
    Ok(())
}

#[test]
fn tokens_that_are_never_read_cant_be_matched() -> Result<()> {
    let problems = PolicySet::from_sources(&[("t.yaml", &target("")), ("p.yaml", &policy(RULES))])
        .err()
        .context("it loads")?
        .to_string();
    let expected = "`tokens` can't be told apart at target \"cluster\", which doesn't say who makes them";
    assert_eq!(problems.matches(expected).count(), 2, "{problems}");
    assert!(problems.contains("p.yaml:7"), "{problems}");
    assert!(problems.contains("give the target `identity`"), "{problems}");
    Ok(())
}

#[test]
fn where_the_api_server_is_asked_no_keys_are_needed() -> Result<()> {
    let asked = target("  identity: {tokenReview: true}\n");
    let set = PolicySet::from_sources(&[("t.yaml", &asked), ("p.yaml", &policy(RULES))])?;
    let tokens = set.targets().first().and_then(|target| target.identity.clone());
    let tokens = tokens.context("tokens are read")?;
    assert!(tokens.review && tokens.issuers.is_empty());
    for (identity, expected) in [
        ("{}", "nobody says whose tokens are"),
        (
            "{tokenReview: false}",
            "write tokenReview: true, or give `issuer`",
        ),
        (
            "{tokenReview: true, keySetFile: /jwks.json}",
            "says nothing without the others",
        ),
        (
            "{issuer: https://k, audiences: [], keySetFile: /jwks.json}",
            "says nothing without the others",
        ),
        (
            "{issuer: https://k, audiences: [https://k]}",
            "tokenReview: true and none of the three",
        ),
    ] {
        let text = target(&format!("  identity: {identity}\n"));
        let problems = PolicySet::from_sources(&[("t.yaml", &text)])
            .err()
            .with_context(|| format!("{identity} loads"))?
            .to_string();
        assert!(problems.contains(expected), "{identity}: {problems}");
    }
    Ok(())
}

#[test]
fn an_issuer_without_names_or_for_a_database_is_refused() -> Result<()> {
    let nameless = "  identity: {issuer: '', audiences: [''], keySetFile: jwks.json}\n";
    let database = format!(
        "{HEAD}kind: Target\nmetadata: {{name: db}}\nspec:\n  protocol: postgres\n  endpoints: ['10.0.0.5:5432']\n{IDENTITY}"
    );
    for (text, expected) in [
        (target(nameless), "without a name"),
        (target(nameless), "no absolute path"),
        (database, "clients of databases show none"),
    ] {
        let problems = PolicySet::from_sources(&[("t.yaml", &text)])
            .err()
            .context("it loads")?
            .to_string();
        assert!(problems.contains(expected), "{problems}");
    }
    Ok(())
}

#[test]
fn further_issuers_name_whom_their_claims_name() -> Result<()> {
    let identity = |further: &str| {
        format!(
            "  identity:\n    issuer: https://k\n    audiences: [https://k]\n    keySetFile: /jwks.json\n    tokenReview: true\n    furtherIssuers:\n      - {further}\n"
        )
    };
    let sso = "issuer: https://sso, audiences: [k8s], keySetFile: /sso.json";
    for (further, expected) in [
        (format!("{{{sso}}}"), ("sub", "https://sso#", None, "")),
        (
            format!("{{{sso}, usernameClaim: email}}"),
            ("email", "", None, ""),
        ),
        (
            format!("{{{sso}, usernamePrefix: '-', groupsClaim: teams, groupsPrefix: 'sso:'}}"),
            ("sub", "", Some("teams"), "sso:"),
        ),
    ] {
        let set = PolicySet::from_sources(&[("t.yaml", &target(&identity(&further)))])?;
        let tokens = set.targets().first().and_then(|target| target.identity.clone());
        let tokens = tokens.context("tokens are read")?;
        assert!(tokens.review && tokens.issuers.len() == 2);
        let (username, prefix, groups, groups_prefix) = expected;
        let users = TokenUsers::Claims {
            username: username.to_owned(),
            username_prefix: prefix.to_owned(),
            groups: groups.map(str::to_owned),
            groups_prefix: groups_prefix.to_owned(),
        };
        assert_eq!(tokens.issuers.last().map(|issuer| &issuer.users), Some(&users));
    }
    for (further, expected) in [
        (
            "{issuer: https://k, audiences: [k], keySetFile: /k.json}".to_owned(),
            "is given twice",
        ),
        (format!("{{{sso}, groupsPrefix: a}}"), "no claim has any"),
        (
            format!("{{{sso}, serviceAccounts: true, usernameClaim: sub}}"),
            "never count",
        ),
        (
            "{issuer: https://sso, audiences: [], keySetFile: sso.json}".to_owned(),
            "without a name",
        ),
    ] {
        let problems = PolicySet::from_sources(&[("t.yaml", &target(&identity(&further)))])
            .err()
            .context("it loads")?
            .to_string();
        assert!(problems.contains(expected), "{expected}: {problems}");
    }
    Ok(())
}
