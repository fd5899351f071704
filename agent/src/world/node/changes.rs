//! When something about the node's pods may have changed: the kernel tells of cgroups that come, go, get their first process or lose their
//! last. Looking at all of them again and again would cost more than all else that an idle agent does.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// Without news they are looked at all the same, for what the kernel may not tell.
const AT_LEAST: Duration = Duration::from_secs(2);

/// The same where the kernel tells nothing at all.
const UNTOLD: Duration = Duration::from_millis(200);

/// While a pod is about to be enrolled, and nothing tells when it can be. Doubled each time: of some it never can.
const SOON: Duration = Duration::from_millis(10);

/// News that come one after the other are looked at together.
const GATHERED: Duration = Duration::from_millis(5);

/// What the kernel is asked to tell of.
#[derive(Debug)]
pub(super) struct Changes {
    inotify: Option<Inotify>,
    watched: HashMap<PathBuf, WatchDescriptor>,
}

impl Changes {
    pub(super) fn new() -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .inspect_err(|error| {
                tracing::warn!(%error, "the kernel doesn't tell of pods' cgroups; they are looked at five times a second");
            })
            .ok();
        Self {
            inotify,
            watched: HashMap::new(),
        }
    }

    /// Has the kernel tell of these folders' folders, and of these pods' processes, and of no others. True where some of them are new: something
    /// may have changed there between the look that found them and this.
    pub(super) fn follow(&mut self, folders: &[PathBuf], pods: &[&Path]) -> bool {
        let Some(inotify) = &self.inotify else {
            return false;
        };
        // Pods' own folders, too: containers' cgroups are made there.
        let all = folders.iter().map(PathBuf::as_path).chain(pods.iter().copied());
        let of_folders = all.map(|folder| {
            let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR;
            (folder.to_owned(), flags)
        });
        let of_pods = pods
            .iter()
            .map(|pod| (pod.join("cgroup.events"), AddWatchFlags::IN_MODIFY));
        let wanted: HashMap<PathBuf, AddWatchFlags> = of_folders.chain(of_pods).collect();
        let gone: HashSet<PathBuf> = self
            .watched
            .keys()
            .filter(|path| !wanted.contains_key(*path))
            .cloned()
            .collect();
        for path in gone {
            if let Some(watch) = self.watched.remove(&path) {
                // It went with the cgroup, if that has gone.
                let _ = inotify.rm_watch(watch);
            }
        }
        let mut any_new = false;
        for (path, flags) in wanted {
            if self.watched.contains_key(&path) {
                continue;
            }
            // What can't be watched (too many, or gone already) is looked at every two seconds.
            if let Ok(watch) = inotify.add_watch(&path, flags) {
                self.watched.insert(path, watch);
                any_new = true;
            }
        }
        any_new
    }

    /// Waits for news of cgroups, from `facts`, or on `end`; or so long as may pass without any. True where it was `end`. `tried` is how often the
    /// newest of the pods was looked at that are about to be enrolled.
    pub(super) fn wait(
        &self,
        end: BorrowedFd<'_>,
        facts: Option<&EventFd>,
        tried: Option<u32>,
    ) -> nix::Result<bool> {
        let untroubled = match &self.inotify {
            Some(_) => AT_LEAST,
            None => UNTOLD,
        };
        let at_most = tried.map_or(untroubled, |tried| {
            untroubled.min(SOON.saturating_mul(1 << tried.saturating_sub(1).min(8)))
        });
        let until = Instant::now() + at_most;
        let mut fds = vec![PollFd::new(end, PollFlags::POLLIN)];
        fds.extend(facts.map(|facts| PollFd::new(facts.as_fd(), PollFlags::POLLIN)));
        fds.extend(
            self.inotify
                .as_ref()
                .map(|inotify| PollFd::new(inotify.as_fd(), PollFlags::POLLIN)),
        );
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            match poll(&mut fds, left) {
                Ok(_) => break,
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
        let has_ended = fds.first().and_then(PollFd::any).unwrap_or_default();
        if !has_ended && fds.iter().any(|fd| fd.any().unwrap_or_default()) {
            std::thread::sleep(GATHERED);
        }
        if let Some(facts) = facts {
            let _ = facts.read();
        }
        if let Some(inotify) = &self.inotify {
            while inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
        }
        Ok(has_ended)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::sys::eventfd::EfdFlags;

    use super::*;

    fn never() -> EventFd {
        EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap()
    }

    #[test]
    fn a_folder_that_comes_and_a_file_that_changes_are_told() {
        let root = tempfile::tempdir().unwrap();
        let pod = root.path().join("pod");
        fs::create_dir(&pod).unwrap();
        fs::write(pod.join("cgroup.events"), "populated 0\n").unwrap();
        let mut changes = Changes::new();
        changes.follow(&[root.path().to_owned()], &[&pod]);
        let end = never();
        let changes_of: [&dyn Fn(); 3] = [
            &|| fs::create_dir(root.path().join("other")).unwrap(),
            &|| fs::write(pod.join("cgroup.events"), "populated 1\n").unwrap(),
            &|| fs::remove_dir(root.path().join("other")).unwrap(),
        ];
        for change in changes_of {
            change();
            let began = Instant::now();
            assert!(!changes.wait(end.as_fd(), None, None).unwrap());
            // Otherwise it would have taken all of that.
            assert!(began.elapsed() < AT_LEAST);
        }
        // What isn't followed any more says nothing, and the same place may come again.
        changes.follow(&[root.path().to_owned()], &[]);
        assert_eq!(changes.watched.len(), 1);
        changes.follow(&[root.path().to_owned()], &[&pod]);
        assert_eq!(changes.watched.len(), 3);
    }

    #[test]
    fn facts_and_the_end_are_told_apart() {
        let (changes, end, facts) = (Changes::new(), never(), never());
        facts.write(1).unwrap();
        assert!(!changes.wait(end.as_fd(), Some(&facts), None).unwrap());
        // Its news were taken.
        assert!(facts.read().is_err());
        end.write(1).unwrap();
        assert!(changes.wait(end.as_fd(), Some(&facts), None).unwrap());
    }
}
