//! From a Service and its EndpointSlices to addresses. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use bailiff_model::OriginalDst;
use bailiff_policy::{AddressSource, ServiceAddress, ServicePort, ServiceRef};
use k8s_openapi::api::core::v1::{Service, ServicePort as PortOfService};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// What the API server told of a Service.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) service: Option<Service>,
    pub(super) slices: Vec<EndpointSlice>,
    pub(super) service_told: bool,
    pub(super) slices_told: bool,
    /// Why the Service or its slices can't be followed, by their kinds.
    pub(super) away: BTreeMap<String, String>,
}

impl Known {
    /// Whether both were told whole, once.
    pub(super) fn is_told(&self) -> bool {
        self.service_told && self.slices_told
    }
}

/// Where a Service is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Resolved {
    pub(super) addresses: Vec<ServiceAddress>,
    /// What keeps it from being protected, or all ways to it from being.
    pub(super) problems: Vec<String>,
}

/// All addresses at which a port of a Service can be dialed, but for node ports.
///
/// Whether a pod is ready isn't asked: it can be dialed by its address before and after.
pub(super) fn resolve(wanted: &ServiceRef, known: &Known) -> Resolved {
    let problem = |text: String| Resolved {
        problems: vec![text],
        ..Resolved::default()
    };
    let Some(service) = &known.service else {
        return problem("there is no such Service, so that nothing is protected by it".to_owned());
    };
    let spec = service.spec.clone().unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        return problem(
            "the Service is of type ExternalName, a name without addresses: list the addresses in the Target's endpoints"
                .to_owned(),
        );
    }
    let port = match port(wanted, spec.ports.as_deref().unwrap_or_default()) {
        Ok(port) => port,
        Err(text) => return problem(text),
    };
    let Some(number) = valid(port.port) else {
        return problem(format!("port {} of the Service is none", port.port));
    };
    let mut found = Found::default();
    let since = since(&service.metadata);
    for address in spec
        .cluster_ips
        .iter()
        .flatten()
        .chain(&spec.cluster_ip)
        .filter(|address| !matches!(address.as_str(), "" | "None"))
    {
        found.add(address, number, AddressSource::Assigned, since);
    }
    let ingress = service
        .status
        .iter()
        .filter_map(|status| status.load_balancer.as_ref()?.ingress.as_ref())
        .flatten();
    for ingress in ingress {
        match (&ingress.ip, &ingress.hostname) {
            // Written by what runs the load balancer, which others may not.
            (Some(address), _) => found.add(address, number, AddressSource::Assigned, since),
            (None, Some(name)) => found.problem(format!(
                "its load balancer is told by a name, {name:?}: list its addresses in the Target's endpoints, or pods get past by them"
            )),
            (None, None) => {}
        }
    }
    for address in spec.external_ips.iter().flatten() {
        found.add(address, number, AddressSource::Written, since);
    }
    if let Some(node_port) = port.node_port {
        found.problem(format!(
            "it has a node port: whoever dials a node's address at {node_port} gets past Bailiff; make it a Service without, or list the nodes' \
             addresses with that port in the Target's endpoints"
        ));
    }
    for slice in &known.slices {
        of_slice(slice, port, &mut found);
    }
    Resolved {
        addresses: found.addresses.into_iter().collect(),
        problems: found.problems,
    }
}

/// What the Service's port leads to.
fn of_slice(slice: &EndpointSlice, port: &PortOfService, found: &mut Found) {
    // Others are names.
    if !matches!(slice.address_type.as_str(), "IPv4" | "IPv6") {
        return found.problem(format!(
            "its EndpointSlice {} has addresses of type {}, which can't be protected",
            slice.metadata.name.as_deref().unwrap_or_default(),
            slice.address_type
        ));
    }
    let called = port.name.as_deref().unwrap_or_default();
    let numbers: Vec<u16> = slice
        .ports
        .iter()
        .flatten()
        .filter(|port| port.name.as_deref().unwrap_or_default() == called && is_tcp(port.protocol.as_deref()))
        .filter_map(|port| valid(port.port?))
        .collect();
    let since = since(&slice.metadata);
    for address in slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses) {
        for number in &numbers {
            found.add(address, *number, AddressSource::Written, since);
        }
    }
}

/// The port that is meant.
fn port<'a>(wanted: &ServiceRef, ports: &'a [PortOfService]) -> Result<&'a PortOfService, String> {
    let tcp: Vec<&PortOfService> = ports
        .iter()
        .filter(|port| is_tcp(port.protocol.as_deref()))
        .collect();
    let found = tcp.iter().find(|port| match &wanted.port {
        None => true,
        Some(ServicePort::Number(number)) => i32::from(*number) == port.port,
        Some(ServicePort::Name(name)) => port.name.as_deref() == Some(name),
    });
    let has = || match tcp.as_slice() {
        [] => "it has no TCP port".to_owned(),
        _ => {
            let each = tcp.iter().map(|port| match &port.name {
                Some(name) => format!("{} ({name})", port.port),
                None => port.port.to_string(),
            });
            format!("it has {}", each.collect::<Vec<_>>().join(", "))
        }
    };
    match (&wanted.port, found) {
        (None, Some(_)) if tcp.len() > 1 => Err(format!(
            "the Service has several ports, and the Target names none: {}",
            has()
        )),
        (_, Some(port)) => Ok(port),
        (_, None) => Err(format!("the Service has no such port: {}", has())),
    }
}

#[derive(Default)]
struct Found {
    addresses: BTreeSet<ServiceAddress>,
    problems: Vec<String>,
}

impl Found {
    fn add(&mut self, text: &str, port: u16, source: AddressSource, since: i64) {
        // What the API server has is well-formed; what isn't can't be dialed either.
        let Ok(address) = text.parse::<IpAddr>() else {
            return self.problem(format!("{text:?} is no address, and isn't protected"));
        };
        let at = OriginalDst::new(SocketAddr::new(address, port)).get();
        // These mean something else in each pod. The API server refuses them in slices.
        let is_own = match at.ip() {
            IpAddr::V4(v4) => {
                v4.is_loopback() || v4.is_unspecified() || v4.is_link_local() || v4.is_multicast()
            }
            IpAddr::V6(v6) => {
                v6.is_loopback() || v6.is_unspecified() || v6.is_unicast_link_local() || v6.is_multicast()
            }
        };
        if is_own {
            return self.problem(format!("{text} can be no Service's address, and isn't protected"));
        }
        self.addresses.insert(ServiceAddress { source, since, at });
    }

    fn problem(&mut self, text: String) {
        if !self.problems.contains(&text) {
            self.problems.push(text);
        }
    }
}

fn is_tcp(protocol: Option<&str>) -> bool {
    matches!(protocol, None | Some("TCP"))
}

fn valid(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

fn since(metadata: &ObjectMeta) -> i64 {
    // Without a time it is as young as can be: it takes nothing from others.
    metadata
        .creation_timestamp
        .as_ref()
        .map_or(i64::MAX, |created| created.0.as_second())
}
