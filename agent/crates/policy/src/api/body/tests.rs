use bailiff_model::{ApiRequest, ApiSubject, ApiVerb, TokenState};
use serde_json::json;

use super::*;

fn resource(text: &str) -> ApiResource {
    let (group, text) = text.split_once(' ').unwrap_or(("", text));
    let (resource, subresource) = match text.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (text, None),
    };
    ApiResource {
        group: group.to_owned(),
        version: "v1".to_owned(),
        resource: resource.to_owned(),
        subresource,
        namespace: Some("a".to_owned()),
        ..ApiResource::default()
    }
}

fn pods(text: &str, form: BodyForm, value: &Value) -> Pods {
    Pods::of(&resource(text), form, value)
}

fn spec_of(text: &str, spec: &Value) -> Value {
    let way = pods::way(&resource(text)).unwrap();
    way.iter()
        .rev()
        .fold(spec.clone(), |value, step| json!({*step: value}))
}

#[test]
fn secrets_are_found_wherever_pods_have_them() {
    let container = |inner: Value| {
        let mut container = json!({"name": "c", "image": "i"});
        container
            .as_object_mut()
            .unwrap()
            .extend(inner.as_object().unwrap().clone());
        container
    };
    let volume = |source: Value| {
        let mut volume = json!({"name": "v"});
        volume
            .as_object_mut()
            .unwrap()
            .extend(source.as_object().unwrap().clone());
        json!({"containers": [container(json!({}))], "volumes": [volume]})
    };
    let key = json!({"env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]});
    let specs = [
        volume(json!({"secret": {"secretName": "s"}})),
        volume(json!({"projected": {"sources": [{"configMap": {"name": "c"}}, {"secret": {"name": "s"}}]}})),
        volume(json!({"csi": {"driver": "d", "nodePublishSecretRef": {"name": "s"}}})),
        volume(json!({"azureFile": {"secretName": "s", "shareName": "x"}})),
        volume(json!({"cephfs": {"secretRef": {"name": "s"}}})),
        volume(json!({"rbd": {"secretRef": {"name": "s"}}})),
        volume(json!({"iscsi": {"secretRef": {"name": "s"}}})),
        volume(json!({"flexVolume": {"secretRef": {"name": "s"}}})),
        volume(json!({"scaleIO": {"secretRef": {"name": "s"}}})),
        volume(json!({"storageos": {"secretRef": {"name": "s"}}})),
        json!({"containers": [container(key.clone())]}),
        json!({"containers": [container(json!({}))], "initContainers": [container(key.clone())]}),
        json!({"containers": [container(json!({}))], "ephemeralContainers": [container(key)]}),
        json!({"containers": [container(json!({"envFrom": [{"prefix": "P_", "secretRef": {"name": "s"}}]}))]}),
    ];
    for text in [
        "pods",
        "podtemplates",
        "replicationcontrollers",
        "apps deployments",
        "apps replicasets",
        "apps statefulsets",
        "apps daemonsets",
        "batch jobs",
        "batch cronjobs",
    ] {
        for spec in &specs {
            for form in [
                BodyForm::Object,
                BodyForm::Merge,
                BodyForm::Strategic,
                BodyForm::Apply,
            ] {
                let found = pods(text, form, &spec_of(text, spec));
                assert_eq!(found.secrets.names, ["s"], "{text} {form:?} {spec}");
                assert!(
                    found.secrets.some && !found.secrets.unclear,
                    "{text} {form:?} {spec}"
                );
            }
            let path = format!("/{}", pods::way(&resource(text)).unwrap().join("/"));
            let patch = json!([{"op": "replace", "path": path, "value": spec}]);
            assert_eq!(
                pods(text, BodyForm::Operations, &patch).secrets.names,
                ["s"],
                "{text} {spec}"
            );
        }
    }
}

#[test]
fn what_mounts_none_is_told_so() {
    let spec = json!({
        "containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "a"}, {"name": "p"}],
            "env": [{"name": "A", "value": "b"}, {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}],
            "envFrom": [{"configMapRef": {"name": "c"}}]}],
        "volumes": [
            {"name": "a", "emptyDir": {}},
            {"name": "c", "csi": {"driver": "d"}},
            {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}, {"configMap": {"name": "c"}}]}},
            {"name": "n", "configMap": {"name": "c"}, "secret": null},
        ],
        "imagePullSecrets": [{"name": "s"}],
    });
    for form in [
        BodyForm::Object,
        BodyForm::Merge,
        BodyForm::Strategic,
        BodyForm::Apply,
    ] {
        let found = pods("apps deployments", form, &spec_of("apps deployments", &spec));
        assert_eq!(found.secrets, Named::default(), "{form:?}");
    }
}

#[test]
fn what_a_part_leaves_open_is_unclear() {
    let container = |inner: Value| json!({"spec": {"containers": [inner], "serviceAccountName": "a"}});
    for (form, part) in [
        // A volume that may be there already.
        (
            BodyForm::Strategic,
            container(json!({"name": "c", "image": "i", "volumeMounts": [{"name": "there"}]})),
        ),
        (
            BodyForm::Apply,
            container(json!({"name": "c", "image": "i", "volumeDevices": [{"name": "there"}]})),
        ),
        // One whose source may be, or what only a newer server knows.
        (BodyForm::Strategic, json!({"spec": {"volumes": [{"name": "v"}]}})),
        (
            BodyForm::Object,
            json!({"spec": {"containers": [], "volumes": [{"name": "v", "newer": {}}]}}),
        ),
        (
            BodyForm::Object,
            container(json!({"image": "i", "env": [{"valueFrom": {"newerKeyRef": {}}}]})),
        ),
        (
            BodyForm::Object,
            container(json!({"image": "i", "env": [{"valueFrom": "x"}]})),
        ),
        (
            BodyForm::Object,
            json!({"spec": {"containers": [], "volumes": [{"name": "v", "projected": {"sources": [{"newer": {}}]}}]}}),
        ),
        // What is no list or object where there should be one.
        (
            BodyForm::Merge,
            json!({"spec": {"volumes": {"0": {"secret": {}}}}}),
        ),
        (BodyForm::Merge, json!({"spec": {"containers": ["x"]}})),
        (BodyForm::Merge, json!({"spec": "x"})),
        // Operations that put what isn't seen, rename, or aren't pointers.
        (
            BodyForm::Operations,
            json!([{"op": "copy", "from": "/a", "path": "/b"}]),
        ),
        (
            BodyForm::Operations,
            json!([{"op": "move", "from": "/spec/volumes/0", "path": "/spec/volumes/1"}]),
        ),
        (
            BodyForm::Operations,
            json!([{"op": "replace", "path": "/spec/volumes/0/name", "value": "x"}]),
        ),
        (
            BodyForm::Operations,
            json!([{"op": "add", "path": "spec/volumes/0", "value": {"name": "v", "emptyDir": {}}}]),
        ),
        (
            BodyForm::Operations,
            json!([{"op": "add", "path": "", "value": {}}]),
        ),
        (
            BodyForm::Operations,
            json!([{"op": "ADD", "path": "/metadata/labels", "value": {}}]),
        ),
        (
            BodyForm::Operations,
            json!([{"path": "/metadata/labels", "value": {}}]),
        ),
        (BodyForm::Operations, json!(["x"])),
        (
            BodyForm::Operations,
            json!([
                {"op": "add", "path": "/spec/volumes/0", "value": {"name": "x", "emptyDir": {}}},
                {"op": "add", "path": "/spec/containers/0/volumeMounts/-", "value": {"name": "x"}},
                {"op": "remove", "path": "/spec/volumes/0"},
            ]),
        ),
    ] {
        let found = pods("pods", form, &part);
        assert!(found.touched && found.secrets.unclear, "{form:?} {part}");
    }
    // References without a name are references.
    for (form, part) in [
        (
            BodyForm::Strategic,
            json!({"spec": {"volumes": [{"name": "v", "secret": {"defaultMode": 420}}]}}),
        ),
        (
            BodyForm::Operations,
            json!([{"op": "add", "path": "/spec/volumes/-1/secret", "value": {}}]),
        ),
        (
            BodyForm::Operations,
            json!([{"op": "add", "path": "/spec/volumes/-/secret~1", "value": 1}, {"op": "replace",
            "path": "/spec/containers/1/env/0/valueFrom/secretKeyRef/key", "value": "k"}]),
        ),
    ] {
        let found = pods("pods", form, &part);
        assert!(found.secrets.some && found.secrets.unclear, "{form:?} {part}");
    }
}

#[test]
fn a_patch_of_something_else_says_nothing_of_pods() {
    for (form, part) in [
        (
            BodyForm::Strategic,
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 2}}),
        ),
        (
            BodyForm::Merge,
            json!({"spec": {"template": {"metadata": {"annotations": {"a": "b"}}}}}),
        ),
        (BodyForm::Merge, json!({"spec": {"template": null}})),
        (
            BodyForm::Apply,
            json!({"kind": "Deployment", "apiVersion": "apps/v1"}),
        ),
        (
            BodyForm::Operations,
            json!([{"op": "add", "path": "/metadata/labels/0", "value": "x"}]),
        ),
        (
            BodyForm::Operations,
            json!([{"op": "test", "path": "/spec/template/spec/volumes/0/secret", "value": {}}]),
        ),
        (BodyForm::Operations, json!([])),
    ] {
        assert_eq!(
            pods("apps deployments", form, &part),
            Pods::default(),
            "{form:?} {part}"
        );
    }
    // What removes an element of a list names none.
    let remove = json!([{"op": "remove", "path": "/spec/template/spec/volumes/0"}]);
    assert_eq!(
        pods("apps deployments", BodyForm::Operations, &remove).secrets,
        Named::default()
    );
    let delete = json!({"spec": {"volumes": [{"name": "v", "$patch": "delete"}], "containers": [{"name": "c", "$patch": "delete"}]}});
    assert_eq!(
        pods("pods", BodyForm::Strategic, &delete).secrets,
        Named::default()
    );
    for text in [
        "configmaps",
        "example.com pods",
        "pods/status",
        "apps deployments/scale",
    ] {
        let value = json!({"spec": {"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}});
        assert_eq!(pods(text, BodyForm::Object, &value), Pods::default(), "{text}");
    }
}

#[test]
fn only_new_containers_of_a_running_pod_count_and_none_of_its_volumes_is_believed() {
    let body = json!({"spec": {
        "serviceAccountName": "a",
        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "s"}}],
        "containers": [{"name": "c", "image": "old"}],
        "ephemeralContainers": [{"name": "e", "image": "new", "volumeMounts": [{"name": "v"}]}],
    }});
    let found = pods("pods/ephemeralcontainers", BodyForm::Object, &body);
    assert_eq!(found.images.names, ["new"]);
    assert!(found.secrets.unclear && !found.secrets.some);
    let harmless = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "new"}]}});
    let found = pods("pods/ephemeralcontainers", BodyForm::Strategic, &harmless);
    assert_eq!(found.secrets, Named::default());
    assert!(found.accounts.unclear);
}

#[test]
fn accounts_are_those_that_the_server_takes() {
    let object = |spec: Value| pods("pods", BodyForm::Object, &json!({"spec": spec})).accounts;
    for (spec, name) in [
        (json!({}), "default"),
        (json!({"serviceAccountName": ""}), "default"),
        (json!({"serviceAccountName": "a"}), "a"),
        (json!({"serviceAccount": "b"}), "b"),
        (json!({"serviceAccountName": "", "serviceAccount": "b"}), "b"),
        (json!({"serviceAccountName": "a", "serviceAccount": "b"}), "a"),
    ] {
        let found = object(spec.clone());
        assert!(found.names == [name] && !found.unclear, "{spec}");
    }
    assert!(object(json!({"serviceAccountName": 7})).unclear);
    let part = |spec: Value| pods("pods", BodyForm::Merge, &json!({"spec": spec})).accounts;
    assert!(!part(json!({"serviceAccountName": "a"})).unclear);
    for spec in [
        json!({}),
        json!({"serviceAccount": "b"}),
        json!({"serviceAccountName": null, "serviceAccount": "b"}),
        json!({"serviceAccountName": ""}),
    ] {
        assert!(part(spec.clone()).unclear, "{spec}");
    }
}

#[test]
fn images_are_those_of_all_containers_and_volumes() {
    let spec = json!({
        "containers": [{"image": "a"}], "initContainers": [{"image": "b"}], "ephemeralContainers": [{"image": "c"}],
        "volumes": [{"name": "v", "image": {"reference": "d"}}],
    });
    let found = pods("pods", BodyForm::Object, &json!({"spec": spec})).images;
    assert_eq!(found.names, ["d", "a", "b", "c"]);
    assert!(!found.unclear);
    for part in [json!({"containers": [{"name": "c"}]}), json!({"nodeName": "n"})] {
        assert!(
            pods("pods", BodyForm::Strategic, &json!({"spec": part}))
                .images
                .unclear,
            "{part}"
        );
    }
}

#[test]
fn serialised_revisions_are_never_told() {
    let value = json!({"data": {"spec": {"template": {}}}});
    assert!(
        pods("apps controllerrevisions", BodyForm::Object, &value)
            .secrets
            .unclear
    );
}

#[test]
fn options_of_a_delete_say_whether_it_is_a_dry_run() {
    let request = |verb| ApiRequest {
        verb,
        subject: ApiSubject::Resource(resource("pods")),
        dry_run: false,
        token: TokenState::Missing,
        identity: None,
        impersonates: None,
    };
    for (value, told) in [
        (json!({"dryRun": ["All"]}), Some(true)),
        (
            json!({"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All", "All"]}),
            Some(true),
        ),
        (json!({}), Some(false)),
        (json!({"dryRun": []}), Some(false)),
        (json!({"dryRun": null}), Some(false)),
        (json!({"dryrun": ["All"]}), Some(false)),
        (json!({"dryRun": ["all"]}), None),
        (json!({"dryRun": "All"}), None),
        (json!({"kind": "Pod", "dryRun": ["All"]}), None),
    ] {
        let body = ApiBody::told(&request(ApiVerb::Delete), BodyForm::Object, value.clone());
        assert_eq!(body.dry_run(&request(ApiVerb::Delete)), told, "{value}");
        assert_eq!(body.dry_run(&request(ApiVerb::Update)), Some(false), "{value}");
    }
    assert_eq!(
        ApiBody::Untold(Untold::Form).dry_run(&request(ApiVerb::Delete)),
        None
    );
    assert_eq!(ApiBody::Absent.dry_run(&request(ApiVerb::Delete)), Some(false));
}

#[test]
fn bodies_do_not_print() {
    let request = ApiRequest {
        verb: ApiVerb::Create,
        subject: ApiSubject::Resource(resource("secrets")),
        dry_run: false,
        token: TokenState::Missing,
        identity: None,
        impersonates: None,
    };
    let body = ApiBody::told(
        &request,
        BodyForm::Object,
        json!({"data": {"password": "canary"}}),
    );
    assert!(!format!("{body:?}").contains("canary"));
}
