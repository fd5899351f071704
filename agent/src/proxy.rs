//! The data path: accept, attribute, decide, dial, and one session a connection.

mod accept;
mod busy_poll;
mod capped;
pub(crate) mod dial;
mod end;
mod kubernetes;
mod leg;
mod limits;
pub(crate) mod live;
mod postgres;
mod reactor;
mod session;
mod socket;
pub(crate) mod tls;
mod upstream;
pub(crate) mod worker;

pub use accept::Acceptor;
pub(crate) use accept::PodListeners;
pub use end::{End, Side};
pub use limits::{LimitError, LimitSetting, Limits};
pub use postgres::cancel::Cancels;
pub use tls::{Expiry, FileError, Materials, Snapshot};
pub use worker::{Workers, WorkersOptions};
