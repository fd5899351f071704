//! The archive: an OCI image layout with one layer that has one file.
//! Source: <https://github.com/opencontainers/image-spec/blob/v1.1.1/spec.md>

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Result;
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// As OCI calls it.
pub(super) const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "amd64"
};

/// What was made.
#[derive(Debug)]
pub(super) struct Made {
    /// Bytes of the layer as it is stored.
    pub(super) packed: u64,
    /// By which the image can be told from any other: `sha256:…` of its manifest.
    pub(super) digest: String,
}

/// Writes the image of a program and of what it needs beside it, by paths without the first slash. The same bytes and names give the same image.
pub(super) fn write(output: &Path, tag: &str, program: &[u8], beside: &[(String, Vec<u8>)]) -> Result<Made> {
    let mut files = vec![("bailiff", program, 0o755)];
    files.extend(
        beside
            .iter()
            .map(|(path, bytes)| (path.as_str(), bytes.as_slice(), 0o755)),
    );
    let layer = tarred(&files)?;
    let mut packed = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    packed.write_all(&layer)?;
    let packed = packed.finish()?;
    let version = env!("CARGO_PKG_VERSION");
    let config = serde_json::to_vec(&json!({
        "architecture": ARCHITECTURE,
        "os": "linux",
        "config": {
            "Entrypoint": ["/bailiff"],
            "Labels": {
                "org.opencontainers.image.title": "bailiff",
                "org.opencontainers.image.version": version,
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("application/vnd.oci.image.config.v1+json", &config),
        "layers": [described("application/vnd.oci.image.layer.v1.tar+gzip", &packed)],
    }))?;
    let mut listed = described("application/vnd.oci.image.manifest.v1+json", &manifest);
    let tag_alone = tag.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    if let Some(listed) = listed.as_object_mut() {
        listed.insert(
            "annotations".to_owned(),
            // The one by which containerd and the one by which all others call it.
            json!({"io.containerd.image.name": full(tag), "org.opencontainers.image.ref.name": tag_alone}),
        );
    }
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [listed],
    }))?;
    let blobs = [&config, &manifest, &packed].map(|blob| (format!("blobs/sha256/{}", hex(blob)), blob));
    let mut files: Vec<(&str, &[u8], u32)> = vec![
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644),
        ("index.json", &index, 0o644),
    ];
    files.extend(
        blobs
            .iter()
            .map(|(name, blob)| (name.as_str(), blob.as_slice(), 0o644)),
    );
    if let Some(folder) = output.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(output, tarred(&files)?)?;
    Ok(Made {
        packed: packed.len() as u64,
        digest: digest(&manifest),
    })
}

/// A name as containerd keeps it: with a registry, which is Docker's where none is given.
fn full(tag: &str) -> String {
    match tag.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => tag.to_owned(),
        Some(_) => format!("docker.io/{tag}"),
        None => format!("docker.io/library/{tag}"),
    }
}

/// Files in a tar, of root and without a time.
fn tarred(files: &[(&str, &[u8], u32)]) -> io::Result<Vec<u8>> {
    let mut all = tar::Builder::new(Vec::new());
    for (name, bytes, mode) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(*mode);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        all.append_data(&mut header, name, *bytes)?;
    }
    all.into_inner()
}

fn described(media: &str, blob: &[u8]) -> Value {
    json!({"mediaType": media, "digest": digest(blob), "size": blob.len()})
}

fn digest(blob: &[u8]) -> String {
    format!("sha256:{}", hex(blob))
}

fn hex(blob: &[u8]) -> String {
    Sha256::digest(blob)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read as _;

    use super::*;

    fn untarred(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut all = BTreeMap::new();
        let mut archive = tar::Archive::new(bytes);
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            assert_eq!(entry.header().mtime().unwrap(), 0);
            assert_eq!(entry.header().uid().unwrap(), 0);
            let name = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            all.insert(name, bytes);
        }
        all
    }

    fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, described: &Value) -> &'a [u8] {
        let digest = described.pointer("/digest").and_then(Value::as_str).unwrap();
        let bytes = files.get(&format!("blobs/{}", digest.replace(':', "/"))).unwrap();
        assert_eq!(super::digest(bytes), digest);
        assert_eq!(
            described.pointer("/size").and_then(Value::as_u64),
            Some(bytes.len() as u64)
        );
        bytes
    }

    #[test]
    fn an_image_is_one_file_under_its_digests_and_made_anew_it_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("a/image.tar");
        let program = b"a program".repeat(10_000);
        let made = write(&output, "bailiff:1", &program, &[]).unwrap();
        let bytes = fs::read(&output).unwrap();
        let files = untarred(&bytes);
        assert_eq!(files.len(), 5);
        let index: Value = serde_json::from_slice(files.get("index.json").unwrap()).unwrap();
        let listed = index.pointer("/manifests/0").unwrap();
        assert_eq!(
            listed.pointer("/digest").and_then(Value::as_str),
            Some(made.digest.as_str())
        );
        assert_eq!(
            listed
                .pointer("/annotations/io.containerd.image.name")
                .and_then(Value::as_str),
            Some("docker.io/library/bailiff:1")
        );
        let manifest: Value = serde_json::from_slice(blob(&files, listed)).unwrap();
        let config = blob(&files, manifest.pointer("/config").unwrap());
        let config: Value = serde_json::from_slice(config).unwrap();
        let packed = blob(&files, manifest.pointer("/layers/0").unwrap());
        assert_eq!(packed.len() as u64, made.packed);
        let mut layer = Vec::new();
        flate2::read::GzDecoder::new(packed)
            .read_to_end(&mut layer)
            .unwrap();
        assert_eq!(
            config.pointer("/rootfs/diff_ids/0").and_then(Value::as_str),
            Some(digest(&layer).as_str())
        );
        assert_eq!(
            untarred(&layer),
            BTreeMap::from([("bailiff".to_owned(), program.clone())])
        );
        write(&output, "bailiff:1", &program, &[]).unwrap();
        assert_eq!(fs::read(&output).unwrap(), bytes);
    }

    #[test]
    fn names_are_full_as_containerd_has_them() {
        for (short, long) in [
            ("bailiff:1", "docker.io/library/bailiff:1"),
            ("team/bailiff:1", "docker.io/team/bailiff:1"),
            ("registry.example/bailiff:1", "registry.example/bailiff:1"),
            ("localhost/bailiff:1", "localhost/bailiff:1"),
            ("host:5000/bailiff:1", "host:5000/bailiff:1"),
        ] {
            assert_eq!(full(short), long);
        }
    }
}
