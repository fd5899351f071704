//! Setup, build, test, demo, bench and lint.
fn main() {}
