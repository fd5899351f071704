//! PostgreSQL's frontend/backend protocol, version 3.

pub(crate) mod cancel;
mod evidence;
mod fastpath;
mod names;
mod opening;
mod operation;
mod replication;
mod serving;
mod tracker;

pub(crate) use opening::serve;
pub(crate) use serving::Answers;
