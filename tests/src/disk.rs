//! A disk that gets full.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::check;

/// A small disk that is really one, unmounted when dropped. Needs root.
#[derive(Debug)]
pub struct Disk(PathBuf);

impl Disk {
    /// Puts one of 256 KiB at a place, which is made.
    pub fn mount(place: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&place)?;
        check(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", "size=256k,mode=700", "bailiff-record"])
                .arg(&place),
        )?;
        Ok(Self(place))
    }

    /// Makes it 64 MiB.
    pub fn grow(&self) -> Result<()> {
        check(
            Command::new("mount")
                .args(["-o", "remount,size=64m"])
                .arg(&self.0),
        )?;
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
