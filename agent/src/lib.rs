//! The agent as a library: wiring and I/O. See `ARCHITECTURE.md`.

mod addresses;
pub mod admin;
pub mod app;
pub mod approver;
pub mod attribution;
pub mod catalog;
pub mod certificates;
pub mod cli;
mod control;
pub mod decide;
mod identity;
pub(crate) mod mask;
pub mod metrics;
mod older;
pub mod proxy;
pub mod record;
pub mod reports;
pub mod world;

/// 128 random bits in hexadecimal, from the kernel.
pub(crate) fn random_hex() -> String {
    use std::fmt::Write as _;
    let mut bytes = [0_u8; 16];
    fill_random(&mut bytes);
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Fills it with bytes that nobody can guess.
pub(crate) fn fill_random(bytes: &mut [u8]) {
    use std::io::Read as _;
    let read = std::fs::File::open("/dev/urandom").and_then(|mut random| random.read_exact(bytes));
    if let Err(error) = read {
        // Names that must not be guessed can't be made: nothing may go on.
        tracing::error!(%error, "no randomness; ending");
        std::process::abort();
    }
}
