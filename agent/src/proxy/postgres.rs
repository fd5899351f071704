//! PostgreSQL's frontend/backend protocol, version 3.

mod evidence;
mod names;
mod opening;
mod operation;
mod serving;
mod tracker;

pub(crate) use opening::serve;
