//! Where facts come from. From the cluster, by its API server; standalone, from files and sandboxes on this machine.

pub mod cluster;
pub mod node;
pub mod standalone;
