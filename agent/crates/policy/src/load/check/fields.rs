//! Masks and detectors for fields of API objects, and whether each can ever hide anything.

use super::super::schema::{DetectSpec, MaskSpec, PolicySpec, Spanned};
use super::Report;
use super::action::{compile_action, compile_detect};
use super::request::KINDS;
use crate::api::fields::{AllMasks, FieldDetect, FieldMask, FieldPath, MAX_STEPS, Objects};
use crate::glob::Glob;
use crate::mask::MaskAction;

/// Which objects a mask or detector names, as it's written.
struct Named<'a> {
    groups: Option<&'a Spanned<Vec<String>>>,
    resources: Option<&'a Spanned<Vec<String>>>,
    namespaces: Option<&'a Spanned<Vec<String>>>,
    names: Option<&'a Spanned<Vec<String>>>,
}

impl<'a> Named<'a> {
    fn of_mask(spec: &'a MaskSpec) -> Self {
        Self {
            groups: spec.groups.as_ref(),
            resources: spec.resources.as_ref(),
            namespaces: spec.namespaces.as_ref(),
            names: spec.names.as_ref(),
        }
    }

    fn of_detect(spec: &'a DetectSpec) -> Self {
        Self {
            groups: spec.groups.as_ref(),
            resources: spec.resources.as_ref(),
            namespaces: spec.namespaces.as_ref(),
            names: spec.names.as_ref(),
        }
    }

    /// The first that is given, with its line.
    fn first(&self) -> Option<(&'static str, u64)> {
        let given = [
            ("resources", self.resources),
            ("groups", self.groups),
            ("namespaces", self.namespaces),
            ("names", self.names),
        ];
        given
            .into_iter()
            .find_map(|(field, written)| Some((field, written?.referenced.line())))
    }
}

/// The line at which a policy says something about fields of API objects, if it does.
pub(super) fn line_of_api(spec: &PolicySpec) -> Option<u64> {
    let of_mask = |mask: &MaskSpec| {
        let fields = mask.fields.as_ref().map(|fields| fields.referenced.line());
        fields.or_else(|| Named::of_mask(mask).first().map(|(_, line)| line))
    };
    let of_detect = |detect: &DetectSpec| Named::of_detect(detect).first().map(|(_, line)| line);
    spec.masks
        .iter()
        .find_map(of_mask)
        .or_else(|| spec.detect.iter().find_map(of_detect))
}

/// Masks and detectors of a policy for the Kubernetes API.
pub(super) fn compile_fields(spec: &PolicySpec, report: &mut Report<'_>) -> AllMasks {
    let mut all = AllMasks::default();
    for mask in &spec.masks {
        compile_mask(mask, &mut all, report);
    }
    for detect in &spec.detect {
        let line = detect.find.referenced.line();
        if let Some(relations) = &detect.relations {
            report.add(
                relations.referenced.line(),
                "`relations` is about databases, and this policy is about the Kubernetes API",
                "name `resources`",
            );
        }
        let Some(objects) = compile_objects(&Named::of_detect(detect), line, report) else {
            continue;
        };
        if let Some(rule) = compile_detect(detect, report)
            && is_possible(
                rule.detection.strictest(),
                detect.action.referenced.line(),
                report,
            )
        {
            all.detects.push(FieldDetect {
                objects,
                detection: rule.detection,
            });
        }
    }
    all
}

/// All policies' steps are followed at once.
pub(super) fn check_steps(all: usize, line: u64, report: &mut Report<'_>) {
    if all > MAX_STEPS {
        report.add(
            line,
            format!("all masks of fields have {all} steps together, and {MAX_STEPS} can be followed"),
            "join masks of several names by `*`, or by paths that end earlier",
        );
    }
}

fn compile_mask(mask: &MaskSpec, all: &mut AllMasks, report: &mut Report<'_>) {
    let line = mask.action.referenced.line();
    if !mask.columns.is_empty() || !mask.types.is_empty() {
        // Told with the policy as a whole.
        return;
    }
    let written = mask.fields.as_ref().map(|fields| fields.value.as_slice());
    let Some(written) = written.filter(|written| !written.is_empty()) else {
        report.add(
            line,
            "the mask names no field, so that it hides nothing",
            "list `fields` by paths: data.*, spec.containers.env.value",
        );
        return;
    };
    let objects = compile_objects(&Named::of_mask(mask), line, report);
    let action = compile_action(&mask.action, report).filter(|action| is_possible(*action, line, report));
    let (Some(objects), Some(action)) = (objects, action) else {
        return;
    };
    for field in written {
        let path = match FieldPath::parse(&field.value) {
            Ok(path) => path,
            Err(problem) => {
                report.add(
                    field.referenced.line(),
                    format!("{:?} {problem}", field.value),
                    "write names with dots between them, * for any part of a name, ** for any depth, [\"…\"] around a name with dots",
                );
                continue;
            }
        };
        let same = |other: &FieldMask| other.path == path && other.objects == objects;
        if all.masks.iter().any(same) {
            report.add(
                field.referenced.line(),
                format!("{:?} is masked twice", field.value),
                "remove one of them",
            );
            continue;
        }
        all.masks.push(FieldMask {
            objects: objects.clone(),
            path,
            action,
        });
    }
}

/// A field that is gone can't be told from one that a client took away: writing the object back would remove it.
fn is_possible(action: MaskAction, line: u64, report: &mut Report<'_>) -> bool {
    if action == MaskAction::Null {
        report.add(
            line,
            "Null takes the field away, and a client that writes the object back would remove it",
            "write Redact, KeepLast or Hash",
        );
        return false;
    }
    true
}

fn compile_objects(named: &Named<'_>, line: u64, report: &mut Report<'_>) -> Option<Objects> {
    let Some(resources) = named.resources.filter(|resources| !resources.value.is_empty()) else {
        report.add(
            line,
            "it isn't said whose fields these are",
            "list `resources`: [secrets], and their `groups`: [\"\"] where several groups have them",
        );
        return None;
    };
    for resource in &resources.value {
        let problem = if KINDS.contains(&resource.as_str()) || resource.chars().any(char::is_uppercase) {
            Some((
                "is a kind and no resource",
                "write the plural in lower case, as in `kubectl api-resources`",
            ))
        } else if resource.contains('/') {
            Some((
                "is a subresource",
                "write the resource: what is masked in it is masked in its subresources",
            ))
        } else if resource.is_empty() {
            Some(("is empty", "write the resource, or \"*\""))
        } else {
            None
        };
        if let Some((what, mend)) = problem {
            report.add(resources.referenced.line(), format!("{resource:?} {what}"), mend);
        }
    }
    for (field, written) in [
        ("groups", named.groups),
        ("namespaces", named.namespaces),
        ("names", named.names),
    ] {
        let Some(written) = written else { continue };
        let hollow = |text: &String| text.is_empty() && field != "groups";
        if written.value.is_empty() || written.value.iter().any(hollow) {
            report.add(
                written.referenced.line(),
                format!("`{field}` is empty or holds an empty name, so that nothing is masked"),
                format!("leave `{field}` out to mean any, or say which you mean"),
            );
        }
        for group in written.value.iter().filter(|_| field == "groups") {
            if group == "core" || group == "v1" || group.contains('/') {
                report.add(
                    written.referenced.line(),
                    format!("{group:?} is no API group"),
                    "write a group without its version; the core's is \"\"",
                );
            }
        }
    }
    let globs = |written: Option<&Spanned<Vec<String>>>| {
        written.map(|written| written.value.iter().map(|text| Glob::new(text)).collect())
    };
    Some(Objects {
        groups: globs(named.groups),
        resources: resources.value.iter().map(|text| Glob::new(text)).collect(),
        namespaces: globs(named.namespaces),
        names: globs(named.names),
    })
}
