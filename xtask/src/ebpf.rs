//! The toolchains that can build the kernel programs, and building with them.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::packages::{self, Purpose};
use crate::shell;

/// Where the object is put, from the workspace's folder. The agent's build script embeds it from there.
pub(crate) const OBJECT: &str = "target/bpf/bailiff-ebpf.o";

/// Who provides a toolchain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Kind {
    /// A nightly of rustup with the component rust-src.
    Rustup,
    /// Debian's packages rustc-web, cargo-web and rust-web-src.
    Debian,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rustup => "rustup",
            Self::Debian => "debian",
        })
    }
}

/// A toolchain that has the sources of `core`.
#[derive(Debug)]
pub(crate) enum Toolchain {
    /// The name of one of rustup's toolchains.
    Rustup(String),
    /// The LLVM library that Debian's compiler uses.
    Debian(PathBuf),
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rustup(name) => write!(f, "rustup's {name}"),
            Self::Debian(llvm) => write!(f, "Debian's rustc with {}", llvm.display()),
        }
    }
}

impl Toolchain {
    /// Builds the object and puts it into its place, unless the same is there already.
    ///
    /// # Errors
    /// When the build or the copy fails.
    pub(crate) fn build(&self) -> Result<()> {
        let profile = bpf_profile()?;
        let mut cargo = match self {
            Self::Rustup(name) => {
                let mut cargo = shell::outside_cargo("rustup");
                cargo.args(["run", name, "cargo"]);
                cargo
            }
            Self::Debian(llvm) => {
                let mut cargo = shell::outside_cargo("/usr/bin/cargo");
                // Debian's own compiler is a release, and building `core` is a feature of nightlies.
                cargo.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", "/usr/bin/rustc");
                cargo.env("LD_LIBRARY_PATH", llvm_folder(llvm)?);
                cargo
            }
        };
        cargo.args(["build", "--package", "bailiff-ebpf", "--bin", "bailiff-ebpf"]);
        cargo.args([
            "-Zbuild-std=core",
            "--target",
            "bpfel-unknown-none",
            "--target-dir",
            "target/bpf-build",
        ]);
        cargo.args(["--profile", profile]);
        // As aya's own build helper: the host's architecture names registers, BTF describes maps and functions.
        let mut flags = vec![
            format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
            "-Cdebuginfo=2".to_owned(),
            "-Clinker=bpf-linker".to_owned(),
            "-Clink-arg=--btf".to_owned(),
        ];
        // The object names its sources, and goes into what is installed elsewhere.
        let renamed = shell::renamed();
        flags.extend(
            renamed
                .iter()
                .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())),
        );
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        cargo.env("PATH", path_with_cargo_bin()?);
        println!("with {self}, profile {profile}");
        let status = cargo
            .status()
            .with_context(|| format!("{self} can't be started"))?;
        if !status.success() {
            bail!("the kernel programs don't build with {self}; the compiler says above what is wrong");
        }
        let folder = match profile {
            "dev" => "debug",
            other => other,
        };
        let built = shell::root()
            .join("target/bpf-build/bpfel-unknown-none")
            .join(folder)
            .join("bailiff-ebpf");
        replace_if_changed(&built, &shell::root().join(OBJECT))
    }
}

/// Finds a toolchain, or installs one where that is possible.
///
/// # Errors
/// When there is none; the error says what to install.
pub(crate) fn ensure(kind: Option<Kind>) -> Result<Toolchain> {
    let toolchain = match find(kind) {
        Some(found) => found,
        None => install(kind)?,
    };
    ensure_linker()?;
    Ok(toolchain)
}

/// Finds a toolchain among those that are there.
pub(crate) fn find(kind: Option<Kind>) -> Option<Toolchain> {
    let debian = || (kind != Some(Kind::Rustup)).then(find_debian).flatten();
    let rustup = || (kind != Some(Kind::Debian)).then(find_rustup).flatten();
    debian().or_else(rustup)
}

/// True if the sources of `core` lie beside Debian's compiler.
pub(crate) fn has_debian_sources() -> bool {
    core_sources(Path::new("/usr"))
}

/// The LLVM that bpf-linker reads and writes; the compiler's must have the same major version.
const LLVM: u32 = 22;
/// The newest nightly known to come with that LLVM; a later one may have the next.
const NIGHTLY: &str = "nightly-2026-05-20";
const LINKER: &str = "bpf-linker@0.10.3";
const BY_HAND: &str = "The kernel programs need a Rust toolchain with the sources of `core`. Install either of\n  \
    debian:  apt-get install --no-install-recommends rustc-web cargo-web rust-web-src\n  \
    rustup:  rustup toolchain install nightly-2026-05-20 --profile minimal --component rust-src\n\
    and `cargo install bpf-linker@0.10.3 --locked`; or leave the kernel programs out with `cargo xtask build --no-ebpf`.";

/// Gets a toolchain: Debian's where that is possible, otherwise rustup's. Which releases of Debian, and which of their
/// archives, have the former is not known beforehand, so that the one is tried and then the other.
fn install(kind: Option<Kind>) -> Result<Toolchain> {
    let mut reasons = Vec::new();
    for one in [Kind::Debian, Kind::Rustup] {
        if kind.is_some_and(|kind| kind != one) {
            continue;
        }
        let tried = match one {
            Kind::Debian => install_debian(),
            Kind::Rustup => install_rustup(),
        };
        match (tried, find(Some(one))) {
            (Ok(()), Some(toolchain)) => return Ok(toolchain),
            (Ok(()), None) => reasons.push(format!(
                "{one}: installed, but without the sources of `core` or with another LLVM than {LLVM}"
            )),
            (Err(error), _) => reasons.push(format!("{one}: {error:#}")),
        }
        if let (Some(reason), None, Kind::Debian) = (reasons.last(), kind, one) {
            println!("not {reason}\nso with rustup");
        }
    }
    bail!("{BY_HAND}\nWhat was tried:\n  {}", reasons.join("\n  "))
}

fn install_debian() -> Result<()> {
    if !packages::can_install() {
        bail!("packages are installed only as root, with apt-get");
    }
    let conflict = ["rustup", "rustc"]
        .into_iter()
        .find(|package| packages::is_installed(package));
    if let Some(package) = conflict {
        bail!("the package `{package}`, which is installed, conflicts with rustc-web");
    }
    packages::ensure(&[Purpose::EbpfDebian])
}

fn install_rustup() -> Result<()> {
    if shell::which("rustup").is_none() {
        bail!("there is no rustup on PATH");
    }
    let mut rustup = shell::outside_cargo("rustup");
    rustup.args([
        "toolchain",
        "install",
        NIGHTLY,
        "--profile",
        "minimal",
        "--component",
        "rust-src",
    ]);
    shell::run(&mut rustup, "rustup could not fetch a nightly.")
}

fn find_debian() -> Option<Toolchain> {
    let rustc = Path::new("/usr/bin/rustc");
    if !rustc.is_file() || !Path::new("/usr/bin/cargo").is_file() || !has_debian_sources() {
        return None;
    }
    (llvm_major(shell::outside_cargo(rustc).arg("-vV"))? == LLVM).then_some(())?;
    llvm_library().map(Toolchain::Debian)
}

fn find_rustup() -> Option<Toolchain> {
    let output = shell::outside_cargo("rustup")
        .args(["toolchain", "list"])
        .output()
        .ok()?;
    let list = String::from_utf8(output.stdout).ok()?;
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    for name in names.filter(|name| name.starts_with("nightly")) {
        let rustc = |arg: [&str; 2]| {
            let mut command = shell::outside_cargo("rustup");
            command.args(["run", name, "rustc"]).args(arg);
            command
        };
        let Ok(sysroot) = shell::capture(&mut rustc(["--print", "sysroot"])) else {
            continue;
        };
        let mut version = rustc(["-v", "-V"]);
        if core_sources(Path::new(sysroot.trim())) && llvm_major(&mut version) == Some(LLVM) {
            return Some(Toolchain::Rustup(name.to_owned()));
        }
    }
    None
}

fn core_sources(sysroot: &Path) -> bool {
    sysroot
        .join("lib/rustlib/src/rust/library/core/src/lib.rs")
        .is_file()
}

fn llvm_major(rustc: &mut Command) -> Option<u32> {
    let output = rustc.output().ok()?;
    parse_llvm_major(&String::from_utf8(output.stdout).ok()?)
}

fn parse_llvm_major(version: &str) -> Option<u32> {
    let line = version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.trim().parse().ok()
}

/// The shared library itself: the folder that Debian has for its version comes only with LLVM's development files.
fn llvm_library() -> Option<PathBuf> {
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let folders = [
        PathBuf::from(multiarch),
        PathBuf::from(format!("/usr/lib/llvm-{LLVM}/lib")),
    ];
    folders.iter().find_map(|folder| {
        std::fs::read_dir(folder)
            .ok()?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| {
                let name = path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                name.starts_with(&format!("libLLVM.so.{LLVM}"))
                    || name.starts_with(&format!("libLLVM-{LLVM}.so"))
            })
    })
}

/// A folder with this LLVM alone. bpf-linker opens the first `libLLVM*` that it sees on the path, of whatever version.
fn llvm_folder(library: &Path) -> Result<PathBuf> {
    let folder = shell::root().join("target/bpf-llvm");
    std::fs::create_dir_all(&folder)?;
    let link = folder.join("libLLVM.so");
    if std::fs::read_link(&link).ok().as_deref() != Some(library) {
        if link.is_symlink() {
            std::fs::remove_file(&link)?;
        }
        std::os::unix::fs::symlink(library, &link)
            .with_context(|| format!("{} can't be made", link.display()))?;
    }
    Ok(folder)
}

fn ensure_linker() -> Result<()> {
    let path = path_with_cargo_bin()?;
    if std::env::split_paths(&path).any(|folder| folder.join("bpf-linker").is_file()) {
        return Ok(());
    }
    shell::heading("Installing bpf-linker (a few minutes, once)");
    let mut cargo = shell::outside_cargo("cargo");
    cargo.args(["install", LINKER, "--locked"]);
    shell::run(
        &mut cargo,
        "bpf-linker links the kernel programs; without it: `cargo xtask build --no-ebpf`.",
    )
}

/// `PATH` with the folder that `cargo install` fills, which a fresh shell may not know yet.
fn path_with_cargo_bin() -> Result<std::ffi::OsString> {
    let mut folders: Vec<PathBuf> =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    folders.extend(home.map(|home| home.join("bin")));
    std::env::join_paths(folders).context("PATH has a folder with a colon in its name")
}

/// The profile for the kernel programs: their own if the workspace defines one.
fn bpf_profile() -> Result<&'static str> {
    let manifest = std::fs::read_to_string(shell::root().join("Cargo.toml"))?;
    Ok(if manifest.lines().any(|line| line.trim() == "[profile.bpf]") {
        "bpf"
    } else {
        "release"
    })
}

/// Copies only a changed object, so that what embeds it isn't built again.
fn replace_if_changed(built: &Path, place: &Path) -> Result<()> {
    let new = std::fs::read(built).with_context(|| format!("the build left no {}", built.display()))?;
    if std::fs::read(place).is_ok_and(|old| old == new) {
        println!("{OBJECT} is as before ({} bytes)", new.len());
        return Ok(());
    }
    if let Some(folder) = place.parent() {
        std::fs::create_dir_all(folder)?;
        // Beside and renamed, so that a build that runs at the same time never sees half an object.
        let mut beside = tempfile::NamedTempFile::new_in(folder)?;
        std::io::Write::write_all(&mut beside, &new)?;
        // Readable for whoever builds the agent, which a temporary file is not.
        std::fs::set_permissions(beside.path(), std::fs::Permissions::from_mode(0o644))?;
        beside
            .persist(place)
            .with_context(|| format!("{} can't be replaced", place.display()))?;
    }
    println!("built {OBJECT} ({} bytes)", new.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_version_is_read_from_the_compiler() {
        assert_eq!(
            parse_llvm_major("rustc 1.96.0\nhost: x\nLLVM version: 22.1.8\n"),
            Some(22)
        );
        assert_eq!(parse_llvm_major("rustc 1.96.0\n"), None);
    }

    #[test]
    fn an_unchanged_object_keeps_its_modification_time() {
        let folder = tempfile::tempdir().unwrap();
        let (built, place) = (folder.path().join("built"), folder.path().join("bpf/object.o"));
        std::fs::write(&built, b"one").unwrap();
        replace_if_changed(&built, &place).unwrap();
        let first = std::fs::metadata(&place).unwrap().modified().unwrap();
        replace_if_changed(&built, &place).unwrap();
        assert_eq!(std::fs::metadata(&place).unwrap().modified().unwrap(), first);
        std::fs::write(&built, b"two").unwrap();
        replace_if_changed(&built, &place).unwrap();
        assert_eq!(std::fs::read(&place).unwrap(), b"two");
    }
}
