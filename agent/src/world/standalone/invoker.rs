//! Who called `bailiff run`: whoever called sudo, or root itself.

use std::ffi::CString;
use std::path::PathBuf;
use std::process::Command;

use nix::unistd::{Gid, Uid, User, getgrouplist};

/// The user as whom the command runs.
#[derive(Debug, Clone)]
pub(super) enum Invoker {
    /// The calling process's own user.
    Same,
    /// The one who called sudo.
    Other {
        /// Its number.
        uid: Uid,
        /// Its group.
        gid: Gid,
        /// All of its groups.
        groups: Vec<Gid>,
        /// What the user database says of it.
        user: Option<Box<User>>,
    },
}

impl Invoker {
    /// Finds it from what sudo left in the environment.
    pub(super) fn find() -> Self {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
        let (true, Some(uid), Some(gid)) =
            (Uid::effective().is_root(), number("SUDO_UID"), number("SUDO_GID"))
        else {
            return Self::Same;
        };
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let user = User::from_uid(uid).ok().flatten().map(Box::new);
        let groups = user
            .as_ref()
            .and_then(|user| getgrouplist(&CString::new(user.name.as_str()).ok()?, gid).ok())
            .unwrap_or_else(|| vec![gid]);
        Self::Other {
            uid,
            gid,
            groups,
            user,
        }
    }

    /// Its home directory.
    pub(super) fn home(&self) -> Option<PathBuf> {
        match self {
            Self::Same => Some(User::from_uid(Uid::effective()).ok()??.dir),
            Self::Other { user, .. } => Some(user.as_ref()?.dir.clone()),
        }
    }

    /// Gives a command the environment of this user, in which sudo has put root's.
    pub(super) fn environment(&self, command: &mut Command) {
        if let Self::Other { user: Some(user), .. } = self {
            command
                .env("HOME", &user.dir)
                .env("SHELL", &user.shell)
                .env("USER", &user.name)
                .env("LOGNAME", &user.name);
        }
    }
}
