//! What holds of rules that look into bodies.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::api::body::{BodyForm, Untold};

pub(super) fn asked() -> impl Strategy<Value = BodyMatch> {
    (
        weighted(0.4, any::<bool>()),
        globs(&["a", "ab", "*"]),
        globs(&["default", "a", "*"]),
        globs(&["a", "docker.io/library/a", "*"]),
    )
        .prop_map(|(mounts_secrets, secrets, service_accounts, images)| BodyMatch {
            mounts_secrets,
            secrets,
            service_accounts,
            images,
            when: None,
        })
}

fn spec() -> impl Strategy<Value = Value> {
    let container = (
        weighted(0.8, select(&["a", "b"][..])),
        weighted(0.3, select(&["a", "b"][..])),
        weighted(0.2, Just("v")),
    )
        .prop_map(|(image, secret, mount)| {
            json!({
                "name": "c", "image": image,
                "env": secret.map(|secret| json!([{"name": "E", "valueFrom": {"secretKeyRef": {"name": secret}}}])),
                "volumeMounts": mount.map(|mount| json!([{"name": mount}])),
            })
        });
    (
        weighted(0.5, select(&["a", "b", "default"][..])),
        vec(container, 0..3),
        vec(
            select(vec![
                json!({"name": "v", "secret": {"secretName": "ab"}}),
                json!({"name": "v", "emptyDir": {}}),
                json!({"name": "v"}),
                json!({"name": "v", "newer": {}}),
            ]),
            0..2,
        ),
    )
        .prop_map(|(account, containers, volumes)| {
            json!({"serviceAccountName": account, "containers": containers, "volumes": volumes})
        })
}

/// A body for what makes pods, and for deletes.
fn body() -> impl Strategy<Value = (BodyForm, Value)> {
    let forms = [
        BodyForm::Object,
        BodyForm::Merge,
        BodyForm::Strategic,
        BodyForm::Apply,
        BodyForm::Operations,
    ];
    (
        select(forms.to_vec()),
        weighted(0.8, spec()),
        weighted(0.7, select(&NAMES[..])),
        weighted(0.3, select(vec![json!(["All"]), json!([]), json!(["None"])])),
    )
        .prop_map(|(form, spec, name, dry_run)| {
            let spec = spec.map(|spec| {
                let mut spec = spec;
                spec["template"] = json!({"spec": spec.clone()});
                spec
            });
            let value = if form == BodyForm::Operations {
                json!([{"op": "replace", "path": "/spec", "value": spec}])
            } else {
                json!({"metadata": {"name": name}, "spec": spec, "dryRun": dry_run})
            };
            (form, value)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_a_rule_would_allow_by_a_body_it_would_forbid(entry in entry(), request in request(), body in body()) {
        // As whom somebody acts is bounded by rules that allow, and looked for by those that forbid: not what is asked here.
        let entry = RequestMatch { impersonates: None, ..entry };
        let rule = |action| ApiRule {
            name: "r".into(),
            requests: vec![entry.clone()],
            action,
            message: None,
            recording: None,
        };
        let body = ApiBody::told(&request, body.0, body.1);
        if rule(Effect::Allow).covers(&request, &body) {
            prop_assert!(rule(Effect::Deny).touches(&request, &body));
        }
        // What surely is meant may be meant whatever is known of it.
        if rule(Effect::Deny).touches(&request, &body) && !matches!(body, ApiBody::Untold(_)) {
            prop_assert!(rule(Effect::Deny).touches(&request, &ApiBody::Untold(Untold::Form)));
        }
    }

    #[test]
    fn a_body_that_cant_be_told_is_never_allowed_more(
        policies in policies(), answers in answers(), chain in chain(), request in request(), body in body(),
    ) {
        let told = ApiBody::told(&request, body.0, body.1);
        let (by_told, _) = decide_with(&policies, answers, &chain, &request, &told);
        let (by_untold, _) = decide_with(&policies, answers, &chain, &request, &ApiBody::Untold(Untold::Long));
        // Of other verbs there is no body to speak of.
        if crate::api::body::may_have(request.verb) {
            prop_assert!(by_untold <= by_told, "{by_untold:?} {by_told:?}");
        }
    }

    #[test]
    fn where_no_rule_asks_for_it_the_body_changes_nothing(
        policies in policies(), answers in answers(), chain in chain(), request in request(), body in body(),
    ) {
        let asks = policies.iter().flat_map(|policy| &policy.requests).any(|rule| rule.asks_body(&request));
        let told = ApiBody::told(&request, body.0, body.1);
        if !asks {
            let (one, _) = decide_with(&policies, answers, &chain, &request, &told);
            let (other, _) = decide(&policies, answers, &chain, &request);
            prop_assert_eq!(one, other);
        }
    }
}
