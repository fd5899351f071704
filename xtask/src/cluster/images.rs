//! Images for the node, made by hand: no registry is asked for anything.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::shell;

/// The image below each pod.
pub(crate) const PAUSE: &str = "bailiff.test/pause:1";
/// A shell with the usual programs.
pub(crate) const BUSYBOX: &str = "bailiff.test/busybox:1";

/// Makes their archives, as `docker save` would, in a folder.
///
/// # Errors
/// When busybox isn't there, or a file can't be written.
pub(crate) fn make(folder: &Path) -> Result<[PathBuf; 2]> {
    let root = folder.join("root");
    for name in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
        fs::create_dir_all(root.join(name)).with_context(|| format!("{} can't be made", root.display()))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    let busybox = shell::which("busybox").context("busybox is missing: apt-get install busybox-static")?;
    fs::copy(&busybox, root.join("bin/busybox"))?;
    for applet in shell::capture(Command::new(&busybox).arg("--list"))?.lines() {
        let link = root.join("bin").join(applet);
        if !link.exists() {
            symlink("busybox", &link).with_context(|| format!("{} can't be made", link.display()))?;
        }
    }
    let layer = folder.join("layer.tar");
    archive(&layer, &root, ".")?;
    Ok([
        image(folder, &layer, "pause", PAUSE, &["/bin/sleep", "2147483647"])?,
        image(folder, &layer, "busybox", BUSYBOX, &["/bin/sh"])?,
    ])
}

fn image(folder: &Path, layer: &Path, name: &str, tag: &str, command: &[&str]) -> Result<PathBuf> {
    let sum = |file: &Path| -> Result<String> {
        let said = shell::capture(Command::new("sha256sum").arg(file))?;
        Ok(said.split_whitespace().next().unwrap_or_default().to_owned())
    };
    let build = folder.join(format!("image-{name}"));
    fs::create_dir_all(&build)?;
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Cmd": command, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sum(layer)?)]},
    });
    let unnamed = build.join("config");
    fs::write(&unnamed, config.to_string())?;
    let config = format!("{}.json", sum(&unnamed)?);
    fs::rename(&unnamed, build.join(&config))?;
    fs::hard_link(layer, build.join("layer.tar"))?;
    let manifest = serde_json::json!([{"Config": config, "RepoTags": [tag], "Layers": ["layer.tar"]}]);
    fs::write(build.join("manifest.json"), manifest.to_string())?;
    let whole = folder.join(format!("{name}.tar"));
    archive(&whole, &build, ".")?;
    Ok(whole)
}

fn archive(file: &Path, folder: &Path, what: &str) -> Result<()> {
    shell::capture(
        Command::new("tar")
            .args(["--owner=0", "--group=0", "--numeric-owner", "--sort=name", "-cf"])
            .arg(file)
            .arg("-C")
            .arg(folder)
            .arg(what),
    )
    .map(|_| ())
}
