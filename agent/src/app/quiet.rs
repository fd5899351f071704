//! The quiet thread: policy files and the kernel's counters.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bailiff_kernel::KernelError;
use bailiff_policy::PolicySet;
use bailiff_policy::report::{DataPath, MAX_REASON, cut};

use super::{Followers, KernelSide, entries, first, steer, told};
use crate::addresses::Addresses;
use crate::admin::Pages;
use crate::certificates::{self, Certificates};
use crate::decide::{InForce, Watcher};
use crate::metrics::Metrics;
use crate::older::Older;
use crate::proxy::{Materials, Snapshot};
use crate::reports::{Findings, Wrong};

/// What it looks after.
pub(super) struct Quiet {
    pub(super) watcher: Watcher,
    /// The policies in force, without the addresses that Targets have by Services.
    pub(super) base: PolicySet,
    pub(super) addresses: Arc<Addresses>,
    pub(super) in_force: Arc<InForce>,
    pub(super) materials: Arc<Materials>,
    pub(super) redirect: KernelSide,
    pub(super) older: Arc<Older>,
    pub(super) followers: Arc<Followers>,
    pub(super) certificates: Arc<Certificates>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) pages: Arc<dyn Pages>,
    pub(super) findings: Arc<Findings>,
    /// Where what is in force is kept for the next start.
    pub(super) last_in_force: Option<PathBuf>,
    pub(super) stop: Arc<AtomicBool>,
}

impl Quiet {
    /// Until it is told to stop.
    pub(super) fn run(mut self) {
        let mut ticks = 0_u32;
        while !self.stop.load(Ordering::Acquire) {
            std::thread::sleep(Watcher::INTERVAL / 10);
            ticks += 1;
            self.older.work(|| entries(&self.in_force.load()));
            if self.addresses.have_changed() {
                let set = self.addresses.resolve(&self.base);
                if self.enforce(set).is_ok() {
                    tracing::info!("the addresses of Targets by Services have changed");
                }
            }
            if !ticks.is_multiple_of(10) {
                continue;
            }
            self.ask_the_kernel();
            self.look_for_detached();
            self.look_at_files();
            self.tell_state();
            match self.watcher.changed() {
                None => {}
                Some((sources, Ok(set))) => {
                    // Before the policies: a session finds what its target's definition names.
                    match Snapshot::read_after(&set, &self.materials.load()) {
                        Ok(files) => self.put_in_force(files),
                        Err(errors) => {
                            self.metrics.policies_refused.set(1);
                            self.metrics.policy_reload_errors.inc();
                            self.findings.refused(&sources, &Wrong::Files(&errors));
                            tracing::error!("the policies stay as they were: {:#}", told(&errors));
                            continue;
                        }
                    }
                    self.addresses.follow(&set);
                    if let Err(error) = self.enforce(self.addresses.resolve(&set)) {
                        self.findings
                            .refused(&sources, &Wrong::Kernel(&error.to_string()));
                        self.addresses.follow(&self.base);
                        continue;
                    }
                    self.base = set;
                    self.metrics.policies_refused.set(0);
                    self.metrics.partly_in_force.store(false, Ordering::Release);
                    first::keep(self.last_in_force.as_deref(), &sources);
                    self.findings.loaded(&sources);
                    self.metrics.policy_reloads.inc();
                    tracing::info!("policies reloaded");
                }
                Some((sources, Err(errors))) => {
                    self.metrics.policies_refused.set(1);
                    self.metrics.policy_reload_errors.inc();
                    self.findings.refused(&sources, &Wrong::Problems(&errors.0));
                    tracing::error!("the policies stay as they were: {errors}");
                }
            }
        }
    }

    /// What the programs counted and told.
    fn ask_the_kernel(&self) {
        let counted = steer(&self.redirect, |redirect| {
            redirect.pass_on_told();
            redirect.counters()
        });
        for (counter, total) in counted.into_iter().flatten() {
            self.metrics.kernel(counter.as_str(), total);
        }
    }

    /// Puts these targets and policies in force.
    ///
    /// # Errors
    /// When the kernel side doesn't take them. It's told, and those before stay in force.
    fn enforce(&self, set: PolicySet) -> Result<(), KernelError> {
        let targets = entries(&set);
        // New addresses first: an operation on them waits for the policy rather than passing by it.
        let updated = steer(&self.redirect, |redirect| redirect.set_targets(&targets));
        if let Some(Err(error)) = updated {
            tracing::error!(%error, "the new targets can't be put in force; the policies stay as they were");
            self.metrics.policy_reload_errors.inc();
            return Err(error);
        }
        let followers = self.followers.lock();
        for follow in followers.iter().flat_map(|followers| followers.iter()) {
            if let Err(error) = follow(&set) {
                tracing::error!("a changed target can't be reached: {error:#}");
            }
        }
        self.in_force.replace(set);
        drop(followers);
        self.older.of_all();
        Ok(())
    }

    /// Takes up certificates and passwords that were renewed.
    fn look_at_files(&self) {
        let now = self.materials.load();
        let expired = i64::try_from(now.expired()).unwrap_or(i64::MAX);
        if expired > self.metrics.certificates_expired.get() {
            tracing::error!(expired, "a certificate of a target has ended; renew it");
        }
        self.metrics.certificates_expired.set(expired);
        let refused = self.metrics.tls_files_refused.get() == 1;
        if !now.is_stale() && !refused {
            return;
        }
        match Snapshot::read_after(&self.in_force.load(), &now) {
            Ok(files) => {
                self.put_in_force(files);
                tracing::info!("certificates and credentials read anew");
            }
            // Said once: they may be half written, and are looked at again in a second.
            Err(errors) if !refused => {
                self.metrics.tls_files_refused.set(1);
                tracing::error!(
                    "certificates and credentials stay as they were: {:#}",
                    told(&errors)
                );
            }
            Err(_) => {}
        }
    }

    fn put_in_force(&self, files: Snapshot) {
        self.metrics.certificates(files.expiries());
        self.certificates.follow(&files);
        self.metrics.tls_files_refused.set(0);
        self.materials.replace(files);
    }

    /// Tells the node's report whether connections are diverted, and how certificates are doing.
    fn tell_state(&self) {
        let (ready, conditions) = self.pages.readiness();
        // Names alone: numbers in the rest change each second.
        let failing: Vec<_> = conditions
            .lines()
            .filter_map(|line| line.strip_prefix("[-]")?.split(" failed").next())
            .collect();
        let data_path = DataPath {
            ready,
            reason: cut(&failing.join(", "), MAX_REASON),
        };
        let files = self.materials.load();
        self.findings.state(
            data_path,
            certificates::told(files.expiries(), &self.certificates.supplied()),
        );
    }

    /// Whether the kernel runs the programs, rather than whether they were attached once.
    fn look_for_detached(&self) {
        let detached = steer(&self.redirect, |redirect| {
            redirect.tidy();
            redirect.detached()
        });
        let detached = detached.unwrap_or_default();
        let count = i64::try_from(detached.len()).unwrap_or(i64::MAX);
        if count > 0 && self.metrics.kernel_detached.get() != count {
            tracing::error!(programs = %detached.join(", "), "kernel programs are no longer where they were attached; start bailiff again");
        }
        self.metrics.kernel_detached.set(count);
    }
}
