//! The standalone world: one command in a sandbox that stands for a pod.

mod inventory;
mod sandbox;
pub mod stages;

pub use inventory::{Inventory, InventoryPod};
pub use sandbox::Sandbox;
