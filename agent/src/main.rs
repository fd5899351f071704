//! The binary `bailiff`.

use std::process::ExitCode;

fn main() -> ExitCode {
    bailiff::cli::main()
}
