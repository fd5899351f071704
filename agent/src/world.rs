//! Where facts come from. Here: standalone, from files and sandboxes on this machine.

pub mod standalone;
