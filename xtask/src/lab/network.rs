//! An address for the servers, and a namespace that stands for a pod without the agent.

use std::process::Command;

use anyhow::{Result, bail};

/// An address of this machine, on the loopback interface, which no cable and no other program uses: the range is set aside
/// for benchmarks (RFC 2544). Namespaces that route through this machine reach it.
#[derive(Debug)]
pub(crate) struct Address(&'static str);

impl Address {
    /// Adds it.
    ///
    /// # Errors
    /// When it is there already, from another demo or bench that runs or was killed.
    pub(crate) fn add(address: &'static str) -> Result<Self> {
        let cidr = format!("{address}/32");
        if let Err(error) = ip(&["addr", "add", &cidr, "dev", "lo"]) {
            bail!("{error}\nIf nothing else runs that uses it: `ip addr del {cidr} dev lo`, then again.");
        }
        Ok(Self(address))
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        if let Err(error) = ip(&["addr", "del", &format!("{}/32", self.0), "dev", "lo"]) {
            eprintln!("{error}");
        }
    }
}

/// A network namespace with a link to this machine, as a pod has it.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes it.
    ///
    /// # Errors
    /// When the kernel refuses a namespace or a link.
    pub(crate) fn new() -> Result<Self> {
        let id = std::process::id();
        let namespace = Self {
            name: format!("bailiff-bench-{id}"),
        };
        ip(&["netns", "add", &namespace.name])?;
        let host = format!("bbench{id}");
        ip(&[
            "link",
            "add",
            &host,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            &namespace.name,
        ])?;
        ip(&["addr", "add", "198.18.53.1/30", "dev", &host])?;
        ip(&["link", "set", &host, "up"])?;
        for inside in [
            ["addr", "add", "198.18.53.2/30", "dev", "eth0"].as_slice(),
            &["link", "set", "lo", "up"],
            &["link", "set", "eth0", "up"],
            &["route", "add", "default", "via", "198.18.53.1"],
        ] {
            ip(&[["-n", namespace.name.as_str()].as_slice(), inside].concat())?;
        }
        Ok(namespace)
    }

    /// A command that runs inside.
    pub(crate) fn command(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The link goes with it.
        if let Err(error) = ip(&["netns", "del", &self.name]) {
            eprintln!("{error}");
        }
    }
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output()?;
    if !output.status.success() {
        bail!(
            "`ip {}` failed: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
