//! What a guest starts with: enough to reach the host's files.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::kernel::Kernel;
use crate::shell;

/// The host's files, the overlay above them, and the port that the report goes to.
const MODULES: [&str; 5] = ["virtio_pci", "9p", "9pnet_virtio", "overlay", "virtio_console"];

const INIT: &str = include_str!("init.sh");

/// Writes one that makes the guest run `program guest job`.
///
/// # Errors
/// When busybox isn't there, the kernel lacks a module, or a file can't be written.
pub(super) fn write(file: &Path, kernel: &Kernel, program: &Path, job: &Path) -> Result<()> {
    let staged = tempfile::tempdir().context("no temporary folder can be made")?;
    let root = staged.path();
    for folder in ["bin", "dev", "proc", "sys", "host", "changes", "root", "modules"] {
        fs::create_dir(root.join(folder))?;
    }
    let busybox = shell::which("busybox").context("busybox is missing: apt-get install busybox-static")?;
    fs::copy(&busybox, root.join("bin/busybox"))?;
    fs::write(root.join("init"), INIT)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    // A line each, which init reads: names may have spaces in them.
    let names = [&kernel.modules(), program, job].map(|path| format!("{}\n", path.display()));
    fs::write(root.join("names"), names.concat())?;
    for (number, module) in kernel.files_of(&MODULES)?.iter().enumerate() {
        let name = module
            .file_stem()
            .context("a module without a name")?
            .to_string_lossy();
        let name = format!("{number:02}-{}", name.trim_end_matches(".ko"));
        fs::write(root.join("modules").join(name), plain(module)?)?;
    }
    pack(&busybox, root, file)
}

/// A module's bytes: busybox hands them to the kernel as they are.
fn plain(module: &Path) -> Result<Vec<u8>> {
    if module.extension().is_some_and(|extension| extension == "ko") {
        return fs::read(module).with_context(|| format!("{} can't be read", module.display()));
    }
    let output = Command::new("xz")
        .arg("-dc")
        .arg(module)
        .output()
        .context("xz can't be started")?;
    ensure!(
        output.status.success(),
        "{} can't be unpacked by xz",
        module.display()
    );
    Ok(output.stdout)
}

fn pack(busybox: &Path, root: &Path, file: &Path) -> Result<()> {
    let mut names = Vec::new();
    list(root, root, &mut names)?;
    let mut child = Command::new(busybox)
        .args(["cpio", "-o", "-H", "newc"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("busybox can't be started")?;
    // Few enough for the pipe, so nobody has to read meanwhile.
    child
        .stdin
        .take()
        .context("standard input was asked for")?
        .write_all(names.join("\n").as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "busybox's cpio failed ({})",
        output.status
    );
    let sink = fs::File::create(file).with_context(|| format!("{} can't be written", file.display()))?;
    let mut gzip = GzEncoder::new(sink, Compression::fast());
    gzip.write_all(&output.stdout)?;
    gzip.finish()?;
    Ok(())
}

/// Each folder before what it holds, as the kernel unpacks them in order.
fn list(root: &Path, folder: &Path, names: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        names.push(path.strip_prefix(root)?.display().to_string());
        if entry.file_type()?.is_dir() {
            list(root, &path, names)?;
        }
    }
    Ok(())
}
