//! Entries that no request can meet.

use bailiff_model::ApiVerb;

use super::super::super::schema::RequestSpec;
use super::Entries;
use crate::api::rule::{RequestMatch, ResourceGlob, SIDE_DOORS, is_session, is_side_door};
use crate::glob::Glob;

/// Resources of the server's own that lie in no namespace. (`namespaces` count as lying in themselves.)
const WITHOUT_NAMESPACE: [&str; 12] = [
    "nodes",
    "persistentvolumes",
    "clusterroles",
    "clusterrolebindings",
    "customresourcedefinitions",
    "storageclasses",
    "priorityclasses",
    "certificatesigningrequests",
    "mutatingwebhookconfigurations",
    "validatingwebhookconfigurations",
    "validatingadmissionpolicies",
    "apiservices",
];

/// Subresources to which `dryRun` means nothing.
const WITHOUT_DRY_RUN: [&str; 6] = ["exec", "attach", "portforward", "proxy", "token", "log"];

impl Entries<'_, '_> {
    pub(super) fn check_paths(&mut self, spec: &RequestSpec, entry: &RequestMatch) {
        let Some(paths) = &spec.paths else { return };
        let line = paths.referenced.line();
        if entry.is_about_resources() {
            self.never(
                line,
                "`paths` are no resources, and it names what only resources have",
                "write two requests: one with `paths`, one with the rest",
            );
        }
        for path in paths.value.iter().filter(|path| !path.is_empty()) {
            if path != "*" && !path.starts_with('/') {
                self.never(
                    line,
                    &format!("path {path:?} doesn't begin with /"),
                    format!("write /{path}"),
                );
            } else if path.starts_with("/api/v1/")
                || path.starts_with("/apis/") && path.matches('/').count() > 3
            {
                self.never(
                    line,
                    &format!("{path:?} is a resource's path"),
                    "write groups, resources, namespaces and names in place of it",
                );
            } else if path.contains(['?', '#', '%']) {
                self.never(
                    line,
                    &format!("{path:?} has more than a path in it"),
                    "write the path alone, as it is after decoding",
                );
            }
        }
    }

    /// What comes without a name isn't allowed by one.
    pub(super) fn check_unnamed(&mut self, spec: &RequestSpec, entry: &RequestMatch) {
        let (true, Some(names), Some(verbs), Some(written)) =
            (self.allows, &entry.names, entry.verbs, &spec.verbs)
        else {
            return;
        };
        if names.iter().any(Glob::is_any) || written.value.iter().any(|verb| verb == "*") {
            return;
        }
        if verbs.contains(ApiVerb::DeleteCollection) {
            self.report.add(
                written.referenced.line(),
                format!(
                    "rule {:?} can never allow deletecollection by `names`: it is about many objects",
                    self.rule
                ),
                "allow deletecollection in a request without `names`",
            );
        }
    }

    /// What lies in no namespace isn't bounded by one.
    pub(super) fn check_unspaced(&mut self, spec: &RequestSpec, entry: &RequestMatch) {
        let (Some(namespaces), Some(written)) = (&entry.namespaces, &spec.resources) else {
            return;
        };
        if namespaces.iter().any(Glob::is_any) {
            return;
        }
        let without = |text: &&String| {
            let resource = text
                .split_once('/')
                .map_or(text.as_str(), |(resource, _)| resource);
            WITHOUT_NAMESPACE.contains(&resource)
        };
        if let Some(text) = written.value.iter().find(without) {
            self.never(
                written.referenced.line(),
                &format!("{text:?} lies in no namespace, and `namespaces` asks for one"),
                "write a request of its own for it, without `namespaces`",
            );
        }
    }

    /// What is always in lower case.
    pub(super) fn check_names(&mut self, spec: &RequestSpec) {
        for (field, written) in [("namespaces", &spec.namespaces), ("containers", &spec.containers)] {
            let Some(written) = written else { continue };
            let plain =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'*';
            if let Some(wrong) = written.value.iter().find(|name| !name.bytes().all(plain)) {
                self.never(
                    written.referenced.line(),
                    &format!("`{field}` holds {wrong:?}, which is no name that the API takes"),
                    "use lower case letters, digits and -, with * for any run of characters",
                );
            }
        }
    }

    pub(super) fn check_dry_run(&mut self, spec: &RequestSpec, entry: &RequestMatch) {
        let Some(dry_run) = spec
            .dry_run
            .as_ref()
            .filter(|dry_run| dry_run.value && self.allows)
        else {
            return;
        };
        let line = dry_run.referenced.line();
        if spec.paths.is_some() {
            self.never(
                line,
                "paths that are no resources know no dry run",
                "remove `dryRun`",
            );
        }
        let reads = [ApiVerb::Get, ApiVerb::List, ApiVerb::Watch];
        if let Some(verbs) = entry.verbs
            && let Some(verb) = reads.into_iter().find(|verb| verbs.contains(*verb))
            && spec
                .verbs
                .as_ref()
                .is_some_and(|verbs| verbs.value.iter().all(|verb| verb != "*"))
        {
            self.report.add(
                line,
                format!(
                    "rule {:?} can never allow {verb} with `dryRun`: the server doesn't look for it in reads",
                    self.rule
                ),
                format!("leave {verb} out, or allow it in a request without `dryRun`"),
            );
        }
    }

    pub(super) fn check_session(&mut self, spec: &RequestSpec, entry: &RequestMatch) {
        let fields = [
            (
                "commands",
                spec.commands.as_ref().map(|w| w.referenced.line()),
                &["exec"][..],
            ),
            (
                "containers",
                spec.containers.as_ref().map(|w| w.referenced.line()),
                &["exec", "attach"],
            ),
            (
                "tty",
                spec.tty.as_ref().map(|w| w.referenced.line()),
                &["exec", "attach"],
            ),
        ];
        for (field, line, subresources) in fields {
            let Some(line) = line else { continue };
            let meets = |glob: &ResourceGlob| {
                subresources
                    .iter()
                    .any(|name| glob.matches("pods", Some(name)) && (!self.allows || glob.is_outright()))
            };
            let met = match &entry.resources {
                Some(globs) => globs.iter().any(meets),
                None => !self.allows,
            };
            if !met {
                let list: Vec<String> = subresources.iter().map(|name| format!("pods/{name}")).collect();
                let list = list.join(" and ");
                self.never(
                    line,
                    &format!("`{field}` is about {list}, which its resources don't name"),
                    format!("write resources: [{}]", list.replace(" and ", ", ")),
                );
            }
        }
    }

    /// What no `*` covers has to be named, and sessions have to be allowed as what they are.
    pub(super) fn check_side_doors(&mut self, spec: &RequestSpec, entry: &RequestMatch) {
        let (true, Some(written), Some(globs)) = (self.allows, &spec.resources, &entry.resources) else {
            return;
        };
        let line = written.referenced.line();
        for (glob, text) in globs.iter().zip(&written.value) {
            let Some(subresource) = text.split_once('/').map(|(_, subresource)| subresource) else {
                continue;
            };
            if is_side_door(subresource) && !glob.is_outright() {
                self.never(
                    line,
                    &format!(
                        "{text:?} allows nothing, since no `*` opens a side door ({})",
                        SIDE_DOORS.join(", ")
                    ),
                    format!("name it outright: pods/{subresource}"),
                );
            }
            if is_session(subresource) && entry.verbs.is_some_and(|verbs| !verbs.contains(ApiVerb::Create)) {
                self.never(
                    line,
                    &format!("{text:?} is a session, which counts as `create` whichever method begins it"),
                    "add the verb create, or remove it",
                );
            }
            if WITHOUT_DRY_RUN.contains(&subresource) && spec.dry_run.as_ref().is_some_and(|dry| dry.value) {
                self.never(
                    line,
                    &format!("{text:?} knows no dry run"),
                    "allow it in a request without `dryRun`",
                );
            }
        }
    }
}
