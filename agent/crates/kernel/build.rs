//! Embeds the kernel programs where they have been built. Without them the agent looks for them when it runs.

use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-env-changed=BAILIFF_EBPF_OBJECT");
    let built = PathBuf::from(env("CARGO_MANIFEST_DIR")).join("../../../target/bpf/bailiff-ebpf.o");
    let object = std::env::var_os("BAILIFF_EBPF_OBJECT").map_or(built, PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    if let Ok(object) = object.canonicalize() {
        println!("cargo::rustc-cfg=bailiff_ebpf_embedded");
        println!("cargo::rustc-env=BAILIFF_EBPF_EMBEDDED={}", object.display());
    }
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}
