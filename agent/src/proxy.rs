//! The data path: accept, attribute, decide, dial, and one session a connection.

mod accept;
mod dial;
mod end;
mod leg;
mod limits;
pub(crate) mod live;
mod postgres;
mod upstream;
pub(crate) mod worker;

pub use accept::Acceptor;
pub(crate) use accept::PodListeners;
pub use end::{End, Side};
pub use limits::{LimitError, LimitSetting, Limits};
pub use worker::{Workers, WorkersOptions};
