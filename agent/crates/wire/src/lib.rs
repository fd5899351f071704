//! Protocol codecs: bytes in, messages out. No policy and no I/O; both peers are hostile.

pub mod kubernetes;
pub mod postgres;
pub mod sql;
