//! Prints the CRDs for `cargo xtask crds`, as one JSON object: names of files, and what belongs into them.

fn main() -> Result<(), bailiff_policy::SchemaError> {
    let files: serde_json::Map<_, _> = bailiff_policy::manifests()?
        .into_iter()
        .map(|manifest| (manifest.file.to_owned(), manifest.yaml.into()))
        .collect();
    println!("{}", serde_json::Value::Object(files));
    Ok(())
}
