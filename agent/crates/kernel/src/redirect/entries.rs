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
