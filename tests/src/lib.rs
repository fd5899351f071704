//! The harness and the suites that need a kernel or real servers.
