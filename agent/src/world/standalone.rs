//! The standalone world: one command in a sandbox that stands for a pod.

mod filter;
mod instance;
mod inventory;
mod invoker;
mod reach;
mod sandbox;
mod signals;
pub mod stages;
mod view;
mod workplace;

pub use instance::Instance;
pub use inventory::{Inventory, InventoryPod};
pub use reach::Reach;
pub use sandbox::Sandbox;
pub use signals::{Signals, code};
pub use workplace::Workplace;
