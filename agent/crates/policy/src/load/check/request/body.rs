//! What entries ask of requests' bodies.

use bailiff_model::ApiVerb;

use super::super::super::schema::RequestSpec;
use super::Entries;
use crate::api::body::may_have;
use crate::api::expression::Expression;
use crate::api::rule::{BodyMatch, RequestMatch};

/// What makes pods, and in whose bodies their specs stand.
const WITH_PODS: [(&str, Option<&str>); 10] = [
    ("pods", None),
    ("pods", Some("ephemeralcontainers")),
    ("podtemplates", None),
    ("replicationcontrollers", None),
    ("deployments", None),
    ("statefulsets", None),
    ("daemonsets", None),
    ("replicasets", None),
    ("jobs", None),
    ("cronjobs", None),
];

impl Entries<'_, '_> {
    pub(super) fn body(&mut self, spec: &RequestSpec) -> BodyMatch {
        BodyMatch {
            mounts_secrets: spec.mounts_secrets.as_ref().map(|mounts| mounts.value),
            secrets: self.globs("secrets", spec.secrets.as_ref()),
            service_accounts: self.globs("serviceAccounts", spec.service_accounts.as_ref()),
            images: self.globs("images", spec.images.as_ref()),
            when: self.when(spec),
        }
    }

    fn when(&mut self, spec: &RequestSpec) -> Option<Expression> {
        let written = spec.when.as_ref()?;
        match Expression::compile(&written.value) {
            Ok(expression) => Some(expression),
            Err(fault) => {
                let reason = format!(
                    "rule {:?} has a `when` that can't be used: {}",
                    self.rule, fault.reason
                );
                self.report.add(written.referenced.line(), reason, fault.mend);
                None
            }
        }
    }

    /// What looks at bodies needs verbs that have them.
    fn check_when(&mut self, spec: &RequestSpec, entry: &RequestMatch) {
        let Some(written) = spec.when.as_ref().filter(|_| entry.body.is_about_object()) else {
            return;
        };
        let line = written.referenced.line();
        if spec.paths.is_some() {
            self.never(
                line,
                "`object` is what a resource's request has in its body, and `paths` are no resources",
                "remove `paths`, or look at `request` alone",
            );
        }
        let has_body = |verb: ApiVerb| may_have(verb) && verb != ApiVerb::Unknown;
        if !entry.verbs.is_some_and(|verbs| {
            ApiVerb::ALL
                .into_iter()
                .filter(|verb| verbs.contains(*verb))
                .all(has_body)
        }) {
            self.report.add(
                line,
                format!(
                    "rule {:?} looks at `object`, and its verbs have requests without one",
                    self.rule
                ),
                "write verbs: [create, update, patch], or delete and deletecollection for their options",
            );
        }
    }

    pub(super) fn check_body(&mut self, spec: &RequestSpec, entry: &RequestMatch) {
        self.check_when(spec, entry);
        let fields = [
            (
                "mountsSecrets",
                spec.mounts_secrets.as_ref().map(|w| w.referenced.line()),
            ),
            ("secrets", spec.secrets.as_ref().map(|w| w.referenced.line())),
            (
                "serviceAccounts",
                spec.service_accounts.as_ref().map(|w| w.referenced.line()),
            ),
            ("images", spec.images.as_ref().map(|w| w.referenced.line())),
        ];
        for (field, line) in fields {
            let Some(line) = line else { continue };
            if let Some(globs) = &entry.resources
                && !WITH_PODS
                    .iter()
                    .any(|(name, subresource)| globs.iter().any(|glob| glob.matches(name, *subresource)))
            {
                self.never(
                    line,
                    &format!("`{field}` is about pods and what makes them, which its resources don't name"),
                    "write resources: [pods, deployments, statefulsets, daemonsets, replicasets, jobs, cronjobs, replicationcontrollers, podtemplates]",
                );
            }
            let writes = [ApiVerb::Create, ApiVerb::Update, ApiVerb::Patch];
            if let Some(verbs) = entry.verbs
                && !writes.iter().any(|verb| verbs.contains(*verb))
            {
                self.never(
                    line,
                    &format!("`{field}` is about what is written, which its verbs don't"),
                    "write verbs: [create, update, patch]",
                );
            }
        }
        if let (Some(secrets), Some(false)) = (&spec.secrets, entry.body.mounts_secrets) {
            self.never(
                secrets.referenced.line(),
                "`secrets` names those that are mounted, and `mountsSecrets: false` means none",
                "remove one of the two",
            );
        }
    }
}
