//! Services of the cluster behind which a target is.

use std::collections::HashSet;

use bailiff_model::Protocol;

use super::super::World;
use super::super::schema::{PortSpec, Resource, ServiceSpec, Spanned, TargetSpec};
use super::Report;
use crate::addresses::{ServicePort, ServiceRef};
use crate::compiled::Target;

/// As many as a target has use for: each costs every agent two watches.
const SERVICES: usize = 16;

pub(super) fn compile(written: &[Spanned<ServiceSpec>], report: &mut Report<'_>) -> Vec<ServiceRef> {
    if let Some(first) = written.get(SERVICES) {
        report.add(
            first.referenced.line(),
            format!("`services` holds {}", written.len()),
            format!("list at most {SERVICES}"),
        );
    }
    written.iter().map(|service| one(service, report)).collect()
}

fn one(written: &Spanned<ServiceSpec>, report: &mut Report<'_>) -> ServiceRef {
    let (spec, line) = (&written.value, written.referenced.line());
    for (field, name) in [("namespace", &spec.namespace), ("name", &spec.name)] {
        if !is_label(name) {
            report.add(
                line,
                format!("`{field}` {name:?} is no name of a Service's"),
                "use lower case letters, digits and -, at most 63, with a letter or digit at both ends",
            );
        }
    }
    let port = match &spec.port {
        None => None,
        Some(PortSpec::Number(number)) => match u16::try_from(*number) {
            Ok(number) if number != 0 => Some(ServicePort::Number(number)),
            _ => {
                report.add(
                    line,
                    format!("{number} is no port"),
                    "give the Service's own port, from 1 to 65535, or its name",
                );
                None
            }
        },
        Some(PortSpec::Name(name)) => {
            if !is_label(name) || name.len() > 15 {
                report.add(
                    line,
                    format!("{name:?} is no port's name"),
                    "give the port as a number, or by the name that it has in the Service",
                );
            }
            Some(ServicePort::Name(name.clone()))
        }
    };
    ServiceRef {
        namespace: spec.namespace.clone(),
        name: spec.name.clone(),
        port,
    }
}

/// What can be told of a target's services with the other targets.
pub(super) fn check(
    resource: &Resource<TargetSpec>,
    target: &Target,
    world: World,
    seen: &mut HashSet<ServiceRef>,
    report: &mut Report<'_>,
) {
    let written = &resource.spec.services;
    let Some(first) = written.first() else {
        return;
    };
    let line = first.referenced.line();
    if world == World::Files {
        report.add(
            line,
            "the target names services, and nobody here asks a cluster for their addresses",
            "list its addresses in endpoints; services are for Targets that are objects of a cluster, which `bailiff node --node` reads \
             without --config",
        );
    }
    if target.protocol == Protocol::Kubernetes {
        report.add(
            line,
            "`services` are about databases, and this target speaks the Kubernetes API",
            "list its addresses in endpoints",
        );
    }
    for (service, written) in target.services.iter().zip(written) {
        // Which port a name or none stands for, the cluster knows.
        if !seen.insert(service.clone()) {
            report.add(
                written.referenced.line(),
                format!("service {service} is named already"),
                "an address has one target; remove it from one of them",
            );
        }
    }
}

/// RFC 1123, as the API server asks for of namespaces and Services.
fn is_label(name: &str) -> bool {
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|byte| plain(byte) || *byte == b'-')
        && bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
}
