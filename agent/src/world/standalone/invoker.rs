//! Who called `bailiff run`: whoever called sudo or its like, or root itself.

use std::ffi::CString;
use std::path::PathBuf;
use std::process::Command;

use nix::unistd::{Gid, Uid, User, getgrouplist};

/// `nogroup`.
const NO_GROUP: u32 = 65_534;

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
    /// Finds it from what sudo, run0, pkexec or doas left in the environment.
    pub(super) fn find() -> Self {
        if !Uid::effective().is_root() {
            return Self::Same;
        }
        let text = |name: &str| std::env::var(name).ok();
        let number = |name: &str| text(name)?.parse::<u32>().ok();
        let by_name = || {
            User::from_name(&text("DOAS_USER")?)
                .ok()?
                .map(|user| user.uid.as_raw())
        };
        let Some(uid) = number("SUDO_UID")
            .or_else(|| number("PKEXEC_UID"))
            .or_else(by_name)
        else {
            return Self::Same;
        };
        let uid = Uid::from_raw(uid);
        let user = User::from_uid(uid).ok().flatten().map(Box::new);
        let own = user.as_ref().map(|user| user.gid.as_raw());
        // Somebody without a group of their own gets nobody's, rather than root's.
        let gid = Gid::from_raw(number("SUDO_GID").or(own).unwrap_or(NO_GROUP));
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
