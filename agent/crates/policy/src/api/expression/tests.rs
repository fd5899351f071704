use std::time::Instant;

use bailiff_model::{ApiResource, ApiSubject, ApiVerb, Identity, TokenState};
use serde_json::json;

use super::*;
use crate::api::body::{BodyForm, Untold};

fn request(verb: ApiVerb) -> ApiRequest {
    ApiRequest {
        verb,
        subject: ApiSubject::Resource(ApiResource {
            group: "apps".to_owned(),
            version: "v1".to_owned(),
            resource: "deployments".to_owned(),
            namespace: Some("team-a".to_owned()),
            ..ApiResource::default()
        }),
        dry_run: false,
        token: TokenState::Bound,
        identity: Some(Arc::new(Identity {
            user: "ci".into(),
            groups: vec!["builders".into()],
            bound_to: None,
        })),
        impersonates: None,
    }
}

fn object() -> serde_json::Value {
    json!({
        "metadata": {"name": "web", "labels": {"app.kubernetes.io/name": "web"}},
        "spec": {"replicas": 11, "paused": null, "template": {"spec": {"containers": [
            {"name": "a", "image": "registry.example/a", "env": [{"name": "A", "value": "1"}]},
            {"name": "b", "image": "registry.example/b", "securityContext": {"privileged": true}},
        ]}}},
    })
}

fn holds(source: &str) -> Option<bool> {
    let request = request(ApiVerb::Create);
    let body = ApiBody::told(&request, BodyForm::Object, object());
    Expression::compile(source).unwrap().holds(&request, &body)
}

#[test]
fn requests_and_bodies_are_looked_at() {
    for source in [
        "object.spec.replicas > 10 && request.namespace.startsWith('team-')",
        "object.spec.replicas == 11",
        "object.spec.replicas * 2 < 23.5",
        "has(object.spec.template) && !has(object.spec.absent)",
        "object.spec.paused == null",
        "object.metadata.labels['app.kubernetes.io/name'] == 'web'",
        "'app.kubernetes.io/name' in object.metadata.labels",
        "object.spec.template.spec.containers.all(c, c.image.startsWith('registry.example/'))",
        "object.spec.template.spec.containers.exists(c, has(c.securityContext) && c.securityContext.privileged)",
        "object.spec.template.spec.containers.exists_one(c, c.name == 'a')",
        "object.spec.template.spec.containers.filter(c, c.name in ['a', 'x']).size() == 1",
        "object.spec.template.spec.containers.exists(c, has(c.env) && c.env.exists(e, e.name == 'A'))",
        "object.spec.template.spec.containers.all(c, c.image.matches('^registry[.]example/[a-z]+$'))",
        "size(object.spec.template.spec.containers) == 2",
        "request.verb == 'create' && request.group == 'apps' && request.version == 'v1' && request.resource == 'deployments'",
        "request.subresource == '' && request.name == 'web' && request.patchType == '' && !request.dryRun",
        "request.user == 'ci' && 'builders' in request.groups && request.token == 'bound'",
        "!has(request.path)",
        "object.absent == 1 || request.verb == 'create'",
    ] {
        assert_eq!(holds(source), Some(true), "{source}");
    }
    assert_eq!(holds("object.spec.replicas > 11"), Some(false));
}

#[test]
fn what_cant_be_told_is_neither_true_nor_false() {
    for source in [
        "object.absent == 1",
        "object.spec.replicas > 'ten'",
        "object.spec.replicas",
        "object.spec.replicas / 0 == 1",
        "object.spec.replicas + 9223372036854775807 > 0",
        "object.spec.replicas.startsWith('1')",
        "object.metadata.name[0] == 'w'",
    ] {
        assert_eq!(holds(source), None, "{source}");
    }
    let of = |source: &str, request: &ApiRequest, body: &ApiBody| {
        Expression::compile(source).unwrap().holds(request, body)
    };
    let create = request(ApiVerb::Create);
    for why in [Untold::Form, Untold::Long, Untold::Memory] {
        assert_eq!(
            of("has(object.spec) || true", &create, &ApiBody::Untold(why)),
            None
        );
    }
    // What isn't about bodies doesn't need them.
    assert_eq!(
        of(
            "request.verb == 'create'",
            &create,
            &ApiBody::Untold(Untold::Unread)
        ),
        Some(true)
    );
    assert_eq!(of("object == null", &create, &ApiBody::Absent), Some(true));
    // Who isn't known may be anybody; and what a list is about may be anything.
    let nobody = ApiRequest {
        identity: None,
        ..create
    };
    assert_eq!(of("request.user == 'ci'", &nobody, &ApiBody::Absent), None);
    assert_eq!(of("request.name == 'web'", &nobody, &ApiBody::Absent), None);
}

#[test]
fn patches_are_looked_at_as_they_come() {
    let request = request(ApiVerb::Patch);
    let body = ApiBody::told(
        &request,
        BodyForm::Operations,
        json!([{"op": "add", "path": "/spec/replicas", "value": 3}]),
    );
    let expression =
        Expression::compile("request.patchType == 'json' && object.exists(o, o.path == '/spec/replicas')")
            .unwrap();
    assert_eq!(expression.holds(&request, &body), Some(true));
}

#[test]
fn what_there_isnt_is_refused_when_it_is_loaded() {
    let deep = format!("{}object.a == 1{}", "(".repeat(40), ")".repeat(40));
    let long = format!("object.a == '{}'", "x".repeat(5000));
    for (source, why) in [
        ("object.spec.replicas >", "no expression"),
        ("", "no expression"),
        ("objct.spec.replicas > 1", "there is no \"objct\""),
        ("request.verbs == 'get'", "there is no `request.verbs`"),
        ("request['verb'] == 'get'", "`request` stands alone"),
        ("has(request.nothing)", "there is no `request.nothing`"),
        ("object.a.lowerAscii() == 'b'", "there is no function"),
        (
            "timestamp(object.a) < timestamp('2026-01-01T00:00:00Z')",
            "there is no function",
        ),
        ("object.a.startsWith()", "too much or too little"),
        ("startsWith(object.a, 'b')", "too much or too little"),
        ("object.list.map(x, x.name) == ['a']", "no `map`"),
        ("{'a': object.b} == object.c", "makes an object"),
        ("object.list.all(object, object.b)", "hides another"),
        ("object.list.all(x, x.all(x, x.a))", "hides another"),
        (
            "object.a.matches(object.b)",
            "takes its pattern from somewhere else",
        ),
        ("object.a.matches('(')", "no pattern"),
        ("object.a.matches('(a{1000}){1000}')", "no pattern"),
        ("1 == 1", "the same for every request"),
        (&deep, "deep in each other"),
        (&long, "longer than"),
    ] {
        let fault = Expression::compile(source).unwrap_err();
        assert!(fault.reason.contains(why), "{source}: {fault:?}");
        assert!(!fault.mend.is_empty());
    }
}

#[test]
fn what_could_take_too_long_isnt_run() {
    let request = request(ApiVerb::Create);
    let of = |count: usize| {
        let element = json!({"name": "aaaaaaaaaaaaaaaaaaaaaaaa"});
        ApiBody::told(
            &request,
            BodyForm::Object,
            json!({"list": vec![element; count], "text": "a".repeat(count * 64)}),
        )
    };
    for (source, small, large) in [
        // Once over all of it.
        (
            "object.list.all(x, x.name.startsWith('a'))",
            Some(true),
            Some(true),
        ),
        ("object.list.all(x, x.name.all(y, y == 'a'))", None, None),
        (
            "object.list.all(x, x.name in ['b', 'aaaaaaaaaaaaaaaaaaaaaaaa'])",
            Some(true),
            Some(true),
        ),
        // Once for each of its values.
        (
            "object.list.all(x, object.list.exists(y, y.name == x.name))",
            Some(true),
            None,
        ),
        ("object.list.all(x, x in object.list)", Some(true), None),
        ("object.list.all(x, !object.text.contains('b'))", Some(true), None),
        (
            "object.list.all(x, object.list.all(y, object.list.all(z, z != null)))",
            Some(true),
            None,
        ),
    ] {
        let expression = Expression::compile(source).unwrap();
        assert_eq!(expression.holds(&request, &of(4)), small, "{source}");
        let began = Instant::now();
        assert_eq!(expression.holds(&request, &of(5_000)), large, "{source}");
        println!("{source}: {:?}", began.elapsed());
    }
}
