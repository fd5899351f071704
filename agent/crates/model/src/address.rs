//! Addresses, each wrapped by its role, so that none is taken for another.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(SocketAddr);

        impl $name {
            /// Wraps an address; an IPv4-mapped IPv6 address becomes the IPv4 one that it means.
            #[must_use]
            pub fn new(address: SocketAddr) -> Self {
                let ip = match address.ip() {
                    IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
                    v4 @ IpAddr::V4(_) => v4,
                };
                Self(SocketAddr::new(ip, address.port()))
            }

            /// The address without its role.
            #[must_use]
            pub fn get(self) -> SocketAddr {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

address! {
    /// What the client asked for, before the kernel side rewrote it.
    OriginalDst
}
address! {
    /// Where a diverted connection comes from, as the agent's listener sees it.
    ClientAddr
}
address! {
    /// One of the agent's listeners in a pod's network namespace.
    ListenerAddr
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_the_ipv4_ones_that_they_mean() {
        let mapped = OriginalDst::new("[::ffff:10.0.0.1]:5432".parse().unwrap());
        assert_eq!(mapped, OriginalDst::new("10.0.0.1:5432".parse().unwrap()));
        let v6 = OriginalDst::new("[fd00::1]:5432".parse().unwrap());
        assert_eq!(v6.to_string(), "[fd00::1]:5432");
    }
}
