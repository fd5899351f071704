//! The agent as a library: wiring and I/O.
