//! Addresses that Targets have by Services: whose each is, where several Targets come to name it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bailiff_model::TargetName;
use serde::{Deserialize, Serialize};

use crate::compiled::{Endpoint, PolicySet, Target};

/// Addresses that a Target may have by its Services. A database has some, and a replica set some dozen.
pub const TARGET_ADDRESSES: usize = 1_000;

/// The same of all Targets: a quarter of what the kernel's map holds, the rest of which is for `endpoints`.
pub const ALL_ADDRESSES: usize = 16_384;

/// A port of a Service that a Target names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceRef {
    /// The Service's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its port; `None` for the only one that it has.
    pub port: Option<ServicePort>,
}

impl fmt::Display for ServiceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        match &self.port {
            None => Ok(()),
            Some(ServicePort::Number(port)) => write!(f, ":{port}"),
            Some(ServicePort::Name(port)) => write!(f, ":{port}"),
        }
    }
}

/// What a Service calls a port of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ServicePort {
    /// By its number.
    Number(u16),
    /// By its name.
    Name(String),
}

/// One address of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceAddress {
    /// Who says so.
    pub source: AddressSource,
    /// Since when the object exists that has it, in seconds since 1970.
    pub since: i64,
    /// Address and port.
    pub at: SocketAddr,
}

/// Who says that an address is a Service's: those whose word counts more come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AddressSource {
    /// The cluster, which gives each to one Service alone.
    Assigned,
    /// Whoever may write the Service or its EndpointSlices.
    Written,
    /// Somebody, until a moment ago.
    Gone,
}

/// The addresses of each Service that a Target names.
pub type ServiceAddresses = BTreeMap<ServiceRef, Vec<ServiceAddress>>;

/// An address of a Target's Service that isn't that Target's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefusedAddress {
    /// The Target.
    pub target: String,
    /// The address, or the first of several.
    pub at: SocketAddr,
    /// Why.
    pub why: Refused,
}

/// Why an address isn't a Target's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refused {
    /// It is another Target's, whose name this is.
    Another(String),
    /// There are more than may be; so many are left out.
    TooMany(usize),
}

impl fmt::Display for RefusedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Refused::Another(other) => write!(
                f,
                "{} is Target {other}'s, and stays that one's: an address has one Target",
                self.at
            ),
            Refused::TooMany(left) => write!(
                f,
                "{left} addresses are not protected, from {} on: a Target has at most {TARGET_ADDRESSES} by its Services, and all together \
                 {ALL_ADDRESSES}; name fewer Services",
                self.at
            ),
        }
    }
}

/// What one Target has to say for an address.
struct Claim<'a> {
    address: ServiceAddress,
    target: &'a Arc<Target>,
}

impl PolicySet {
    /// The same with these addresses of Services, of the same generation: what is decided doesn't change, only where. And the addresses
    /// that are another Target's, or too many.
    ///
    /// What stands in a Target's `endpoints` is the operator's word and never another's, however wide it is. Of two Targets that have an address
    /// by Services it is that one's to whose Service the cluster gave it, then the one's whose object is older, then by names: whoever may write
    /// EndpointSlices takes no address of another Target that has it already.
    #[must_use]
    pub fn with_addresses(&self, addresses: &ServiceAddresses) -> (Self, Vec<RefusedAddress>) {
        let mut refused = Vec::new();
        let mut claims: Vec<Claim<'_>> = Vec::new();
        for target in &self.targets {
            claims.extend(of_target(target, addresses).map(|address| Claim { address, target }));
        }
        claims.sort_by(|a, b| {
            let key = |claim: &Claim<'_>| (claim.address.at, claim.address.source, claim.address.since);
            key(a)
                .cmp(&key(b))
                .then_with(|| a.target.name.as_str().cmp(b.target.name.as_str()))
        });
        let mut owned: BTreeMap<&str, Vec<Claim<'_>>> = BTreeMap::new();
        let mut last: Option<(SocketAddr, &str)> = None;
        for claim in claims {
            let (at, name) = (claim.address.at, claim.target.name.as_str());
            let owner = match last {
                Some((last_at, owner)) if last_at == at => Some(owner),
                _ => self.static_owner(at, name),
            };
            last = Some((at, owner.unwrap_or(name)));
            match owner {
                Some(owner) if owner != name => refused.push(RefusedAddress {
                    target: name.to_owned(),
                    at,
                    why: Refused::Another(owner.to_owned()),
                }),
                // It has that one already, by better word.
                Some(_) => {}
                None => owned.entry(name).or_default().push(claim),
            }
        }
        let mut resolved = HashMap::new();
        for (name, mut claims) in owned {
            claims.sort_by_key(|claim| claim.address);
            let room = TARGET_ADDRESSES.min(ALL_ADDRESSES - resolved.len());
            let left = claims.len().saturating_sub(room);
            if let Some(first) = claims.get(room) {
                refused.push(RefusedAddress {
                    target: name.to_owned(),
                    at: first.address.at,
                    why: Refused::TooMany(left),
                });
            }
            let kept = claims.iter().take(room);
            resolved.extend(kept.map(|claim| (claim.address.at, Arc::clone(claim.target))));
        }
        refused.sort_unstable();
        refused.dedup();
        let mut set = self.clone();
        set.resolved = Arc::new(resolved);
        (set, refused)
    }

    /// Every address that is protected, with its Target: those that stand there, and those that Services have.
    pub fn protected(&self) -> impl Iterator<Item = (&Arc<Target>, Endpoint)> {
        let written = self
            .targets
            .iter()
            .flat_map(|target| target.endpoints.iter().map(move |endpoint| (target, *endpoint)));
        written.chain(self.resolved.iter().map(|(at, target)| (target, whole(*at))))
    }

    /// How many addresses a Target has by Services.
    #[must_use]
    pub fn addresses_of(&self, target: &TargetName) -> usize {
        let of_it = |owner: &&Arc<Target>| owner.name == *target;
        self.resolved.values().filter(of_it).count()
    }

    /// Every Service that a Target names.
    pub fn services(&self) -> impl Iterator<Item = &ServiceRef> {
        self.targets.iter().flat_map(|target| &target.services)
    }

    /// The other Target in whose `endpoints` an address lies.
    fn static_owner(&self, at: SocketAddr, but: &str) -> Option<&str> {
        self.targets
            .iter()
            .filter(|target| target.name.as_str() != but)
            .find(|target| {
                let mut endpoints = target.endpoints.iter();
                endpoints.any(|endpoint| endpoint.contains(at.ip(), at.port()))
            })
            .map(|target| target.name.as_str())
    }
}

/// A Target's addresses by its Services, in any order and perhaps more than once.
fn of_target<'a>(
    target: &'a Target,
    addresses: &'a ServiceAddresses,
) -> impl Iterator<Item = ServiceAddress> + 'a {
    let services = target.services.iter();
    services
        .filter_map(|service| addresses.get(service))
        .flatten()
        .copied()
}

/// An address as an endpoint.
fn whole(at: SocketAddr) -> Endpoint {
    Endpoint {
        address: at.ip(),
        prefix: match at.ip() {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        },
        port: at.port(),
    }
}

#[cfg(test)]
mod tests;
