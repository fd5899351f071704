//! The chart and the plain manifests of `deploy/`.

use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{Cluster, check};

pub mod released;

/// A folder or file of `deploy/`.
#[must_use]
pub fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

impl Cluster {
    /// What helm says of the chart with these further arguments, for a release `bailiff` in the namespace `bailiff`.
    pub fn helm_template(&self, args: &[&str]) -> Result<Output> {
        let chart = deploy("chart");
        let chart = chart.to_str().context("a path that isn't UTF-8")?;
        // helm is built as a module, and knows no release of Kubernetes by itself.
        let first = [
            "template",
            "bailiff",
            chart,
            "--namespace=bailiff",
            "--kube-version",
            self.version()?,
        ];
        Ok(self.helm_command(&[&first, args].concat())?.output()?)
    }

    /// The objects that the chart makes with these further arguments, such as `--set`.
    pub fn render(&self, args: &[&str]) -> Result<Vec<Value>> {
        let output = self.helm_template(args)?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        objects(&String::from_utf8(output.stdout)?)
    }

    /// The objects that `kubectl kustomize` makes of a folder below `deploy/kustomize`.
    pub fn kustomize(&self, folder: &str) -> Result<Vec<Value>> {
        let mut kubectl = self.kubectl_command(&["kustomize"])?;
        kubectl.arg(deploy("kustomize").join(folder));
        objects(&String::from_utf8(check(&mut kubectl)?.stdout)?)
    }
}

/// The objects of a YAML text.
pub fn objects(text: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)?;
    Ok(documents
        .into_iter()
        .filter(|document| !document.is_null())
        .collect())
}

/// The object of a kind and name.
pub fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> Result<&'a Value> {
    objects
        .iter()
        .find(|object| {
            object.get("kind").and_then(Value::as_str) == Some(kind)
                && object.pointer("/metadata/name").and_then(Value::as_str) == Some(name)
        })
        .with_context(|| format!("no {kind} {name}"))
}
