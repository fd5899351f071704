//! Requests to the Kubernetes API: the first line of one, without its version.

use std::fmt::Write;

use bailiff_model::{ApiRequest, ApiResource, ApiSubject, ApiVerb};
use bailiff_policy::{MAX_TARGET, Typed, type_request};

/// Types `METHOD TARGET`. What is typed is typed for all who read it, also encoded otherwise; what isn't is wholly unknown.
pub fn api_request(bytes: &[u8]) {
    let line = String::from_utf8_lossy(bytes);
    let (method, target) = line.split_once(' ').unwrap_or(("GET", &line));
    let typed = type_request(method, target, false);
    assert_eq!(typed, type_request(method, target, false));

    let Typed { request, doubt } = &typed;
    assert!(!request.to_string().is_empty());
    assert!(doubt.is_none_or(|doubt| !doubt.to_string().is_empty()));
    assert_eq!(doubt.is_some(), request.subject == ApiSubject::Unknown);
    if doubt.is_some() {
        assert_eq!(request.verb, ApiVerb::Unknown);
        assert!(!request.dry_run);
        return;
    }
    assert!(target.len() <= MAX_TARGET);
    a_body_only_takes_away(method, target, request);
    encoding_changes_nothing(method, target, request);
    match &request.subject {
        ApiSubject::Unknown => {}
        ApiSubject::Path(path) => assert!(target.starts_with(path.as_str())),
        ApiSubject::Resource(resource) => {
            is_bounded(resource, target.len());
            is_written_as_it_was_read(method, target, request, resource);
        }
    }
}

fn a_body_only_takes_away(method: &str, target: &str, request: &ApiRequest) {
    let with = type_request(method, target, true).request;
    assert!(request.dry_run || !with.dry_run);
    assert_eq!(
        &ApiRequest {
            dry_run: request.dry_run,
            ..with
        },
        request
    );
}

/// An escape in place of a letter or digit says the same: in the query to all, in the path the same or what can't be told.
fn encoding_changes_nothing(method: &str, target: &str, request: &ApiRequest) {
    let path = target.find('?').unwrap_or(target.len());
    // All of a short target, some of a long one.
    let step = target.len() / 64 + 1;
    for (at, c) in target.char_indices().step_by(step) {
        let in_escape = target.bytes().take(at).rev().take(2).any(|byte| byte == b'%');
        if !c.is_ascii_alphanumeric() || in_escape || target.len() + 2 > MAX_TARGET {
            continue;
        }
        let (head, tail) = target.split_at(at);
        let tail = tail.strip_prefix(c).unwrap_or(tail);
        let encoded = type_request(method, &format!("{head}%{:02x}{tail}", u32::from(c)), false);
        if at > path || encoded.doubt.is_none() {
            assert_eq!(&encoded.request, request, "{head} | {tail}");
        }
    }
}

/// Nothing is longer than what it was read from.
fn is_bounded(resource: &ApiResource, length: usize) {
    let texts = [
        Some(&resource.group),
        Some(&resource.version),
        Some(&resource.resource),
        resource.subresource.as_ref(),
        resource.namespace.as_ref(),
        resource.name.as_ref(),
        resource.label_selector.as_ref(),
        resource.field_selector.as_ref(),
    ];
    assert!(texts.iter().flatten().all(|text| text.len() <= length));
    assert!(
        resource
            .proxied
            .as_ref()
            .is_none_or(|path| path.len() <= length && path.starts_with('/'))
    );
    if let Some(session) = &resource.session {
        let words: usize = session.command.iter().map(|word| word.len() + 1).sum();
        assert!(words + session.ports.len() <= length);
    }
}

/// A path made of what was read is read as the same.
fn is_written_as_it_was_read(method: &str, target: &str, request: &ApiRequest, resource: &ApiResource) {
    if matches!(request.verb, ApiVerb::List | ApiVerb::Watch) {
        // The name is the selector's, and the verb may stand in the path.
        return;
    }
    let mut written = match resource.group.as_str() {
        "" => format!("/api/{}", resource.version),
        group => format!("/apis/{group}/{}", resource.version),
    };
    // A namespace's own path is shorter than that of what lies in it.
    let own = resource.resource == "namespaces"
        && resource.name == resource.namespace
        && matches!(
            resource.subresource.as_deref(),
            None | Some("status" | "finalize")
        );
    if let Some(namespace) = resource.namespace.as_ref().filter(|_| !own) {
        written.push_str("/namespaces/");
        encode(namespace, &mut written);
    }
    let names = [
        Some(&resource.resource),
        resource.name.as_ref(),
        resource.subresource.as_ref(),
    ];
    for name in names.into_iter().flatten() {
        written.push('/');
        encode(name, &mut written);
    }
    if let Some(rest) = &resource.proxied {
        encode(rest, &mut written);
    }
    if let Some((_, query)) = target.split_once('?') {
        written.push('?');
        written.push_str(query);
    }
    if written.len() <= MAX_TARGET {
        let again = type_request(method, &written, false);
        assert_eq!(&again.request, request, "{written}: {:?}", again.doubt);
    }
}

/// Encodes what doesn't stand in paths as it is.
fn encode(name: &str, written: &mut String) {
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@/".contains(&byte) {
            written.push(char::from(byte));
        } else {
            // Writing to a string doesn't fail.
            let _ = write!(written, "%{byte:02X}");
        }
    }
}
