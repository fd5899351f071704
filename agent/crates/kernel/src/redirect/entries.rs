//! Addresses as the kernel programs know them.

use std::net::{IpAddr, SocketAddr};

use bailiff_common::{Address, HostKey, OriginKey, PREFIX_KEY_HEAD, PrefixKey, Protected};
use bailiff_model::{FailureMode, OriginalDst};

use super::{FourTuple, is_open};

/// One protected address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetEntry {
    /// The network address.
    pub address: IpAddr,
    /// Length of its prefix in bits.
    pub prefix: u8,
    /// The port; 0 for any.
    pub port: u16,
    /// What happens while the agent doesn't answer.
    pub failure_mode: FailureMode,
}

/// Where an entry is kept.
pub(super) enum Kept {
    Host(HostKey, Protected),
    Prefix(u32, PrefixKey, Protected),
}

impl TargetEntry {
    /// Whether a connection to this address and port is meant.
    #[must_use]
    pub fn covers(&self, to: SocketAddr) -> bool {
        let bits = u32::from(self.prefix) + if self.address.is_ipv4() { 96 } else { 0 };
        let differ = u128::from_be_bytes(mapped(self.address)) ^ u128::from_be_bytes(mapped(to.ip()));
        let outside = differ.checked_shr(128_u32.saturating_sub(bits)).unwrap_or(0);
        outside == 0 && (self.port == 0 || self.port == to.port())
    }

    pub(super) fn kept(&self) -> Kept {
        let address = mapped(self.address);
        let bits = u32::from(self.prefix) + if self.address.is_ipv4() { 96 } else { 0 };
        let protected = Protected {
            open: is_open(self.failure_mode),
            prefix: bits,
        };
        if bits == 128 {
            Kept::Host(
                HostKey {
                    address,
                    port: self.port,
                    _pad: 0,
                },
                protected,
            )
        } else {
            Kept::Prefix(
                PREFIX_KEY_HEAD + bits,
                PrefixKey {
                    port: self.port,
                    _pad: 0,
                    address,
                },
                protected,
            )
        }
    }
}

pub(super) fn mapped(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

pub(super) fn original(address: Address, port: u16) -> OriginalDst {
    OriginalDst::new(SocketAddr::from((address, port)))
}

pub(super) fn key(connection: &FourTuple) -> OriginKey {
    OriginKey {
        netns: connection.netns.0,
        client: mapped(connection.client.ip()),
        listener: mapped(connection.listener.ip()),
        client_port: connection.client.port(),
        listener_port: connection.listener.port(),
        _pad: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_covers_its_prefix_and_port() {
        let entry = |address: &str, prefix, port| TargetEntry {
            address: address.parse().unwrap(),
            prefix,
            port,
            failure_mode: FailureMode::Closed,
        };
        let to = |to: &str| to.parse().unwrap();
        assert!(entry("10.9.8.7", 32, 5432).covers(to("10.9.8.7:5432")));
        assert!(entry("10.9.8.7", 32, 5432).covers(to("[::ffff:10.9.8.7]:5432")));
        assert!(!entry("10.9.8.7", 32, 5432).covers(to("10.9.8.7:5433")));
        assert!(!entry("10.9.8.7", 32, 5432).covers(to("10.9.8.6:5432")));
        assert!(entry("10.9.8.0", 24, 0).covers(to("10.9.8.255:1")));
        assert!(!entry("10.9.8.0", 24, 0).covers(to("10.9.9.0:1")));
        assert!(entry("0.0.0.0", 0, 0).covers(to("192.0.2.1:1")));
        assert!(!entry("0.0.0.0", 0, 0).covers(to("[2001:db8::1]:1")));
        assert!(entry("::", 0, 7).covers(to("192.0.2.1:7")));
        assert!(entry("fd00:9::", 64, 5432).covers(to("[fd00:9::1]:5432")));
    }
}
