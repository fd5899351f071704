//! What is kept of Services' addresses on the disk.

use std::io;
use std::path::Path;

use bailiff_policy::{ServiceAddress, ServiceAddresses, ServiceRef};
use serde::{Deserialize, Serialize};

use crate::world::cluster::{read_kept, write_whole};

/// A file of more bytes is none of ours: an address takes some hundred.
const MAX_FILE: u64 = 64 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    services: Vec<Kept>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kept {
    service: ServiceRef,
    addresses: Vec<ServiceAddress>,
}

/// The addresses that the file has; none where there is no file.
pub(super) fn read(file: &Path) -> io::Result<ServiceAddresses> {
    let Some(document) = read_kept::<Document>(file, MAX_FILE)? else {
        return Ok(ServiceAddresses::new());
    };
    let services = document.services.into_iter();
    Ok(services.map(|kept| (kept.service, kept.addresses)).collect())
}

/// Puts these in place of what the file has.
pub(super) fn write(file: &Path, addresses: &ServiceAddresses) -> io::Result<()> {
    let services = addresses
        .iter()
        .map(|(service, addresses)| Kept {
            service: service.clone(),
            addresses: addresses.clone(),
        })
        .collect();
    let document = Document { services };
    write_whole(file, &serde_json::to_vec(&document).map_err(io::Error::other)?)
}
