//! The binary `bailiff`.

use std::process::ExitCode;

/// Requests and sessions allocate and free much that is small, on the thread that serves them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    bailiff::cli::main()
}
