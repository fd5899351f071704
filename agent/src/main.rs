//! The binary `bailiff`.
fn main() {}
