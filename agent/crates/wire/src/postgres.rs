//! PostgreSQL's frontend/backend protocol, versions 3.0 and 3.2.
//!
//! Views borrow from the bytes that arrived, so that an untouched message leaves as it came. Sections named in this module
//! are those of the chapter "Frontend/Backend Protocol" of PostgreSQL's documentation.

pub mod authentication;
pub mod backend;
pub mod build;
pub mod content;
mod cursor;
mod error;
mod frame;
pub mod frontend;
pub mod startup;
pub mod value;

pub use error::DecodeError;
pub use frame::{Frame, FrameHeader, Limits, next_frame};
