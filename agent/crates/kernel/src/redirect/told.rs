//! What the kernel programs tell of single events, passed on to the agent's log.

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Level, Log, Metadata, Record};

/// Reads what the programs told.
pub(super) struct Told(EbpfLogger<ToTracing>);

impl Told {
    /// None where the object was built without.
    pub(super) fn of(ebpf: &mut Ebpf) -> Option<Self> {
        EbpfLogger::init_with_logger(ebpf, ToTracing).ok().map(Self)
    }

    /// Passes on what has come since the last time.
    pub(super) fn pass_on(&mut self) {
        self.0.flush();
    }
}

/// The programs speak in the `log` crate's terms, and the agent in tracing's.
struct ToTracing;

impl Log for ToTracing {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        match record.level() {
            Level::Error => tracing::error!(target: "bailiff::kernel", "{}", record.args()),
            Level::Warn => tracing::warn!(target: "bailiff::kernel", "{}", record.args()),
            Level::Info => tracing::info!(target: "bailiff::kernel", "{}", record.args()),
            Level::Debug | Level::Trace => tracing::debug!(target: "bailiff::kernel", "{}", record.args()),
        }
    }

    fn flush(&self) {}
}
