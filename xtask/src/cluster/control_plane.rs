//! etcd, the API server, the controllers, and the scheduler where there is something to schedule on.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use super::components::program;
use super::keys::{self, Keys, User};
use super::place::Slot;
use super::state::Files;
use crate::lab::{Beside, wait_for};

/// A component that runs, with its name and its log's.
#[derive(Debug)]
pub(crate) struct Component {
    pub(crate) name: String,
    pub(crate) process: Beside,
}

impl Component {
    /// Starts it with its output in its log.
    ///
    /// # Errors
    /// When it or the log can't be started.
    pub(crate) fn start(name: &str, command: &mut Command, files: &Files) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            process: Beside::start(name, command, &files.log(name), Signal::SIGTERM)?,
        })
    }

    /// Fails if it has ended, with the end of its log.
    ///
    /// # Errors
    /// When it no longer runs.
    pub(crate) fn still_runs(&mut self, files: &Files) -> Result<()> {
        self.process.still_runs(&files.log(&self.name))
    }
}

/// The control plane. Dropping it ends it, the API server before its store.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    /// In the order in which they are ended.
    pub(crate) components: Vec<Component>,
}

/// What the operator adds to the components' flags.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct Flags {
    /// A further flag of the API server, such as --api-server-flag=--goaway-chance=0.02.
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    pub(crate) api_server_flag: Vec<String>,
    /// A further flag of the controllers, such as --controllers-flag=--cluster-signing-duration=1h.
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    pub(crate) controllers_flag: Vec<String>,
}

impl ControlPlane {
    /// Starts it, and waits until the API server is ready and the controllers have made what each namespace has.
    ///
    /// # Errors
    /// When a component ends or isn't ready in time, with the end of its log.
    pub(crate) fn start(
        slot: Slot,
        files: &Files,
        keys: &Keys,
        flags: &Flags,
        with_scheduler: bool,
    ) -> Result<Self> {
        fs::write(files.audit_policy(), AUDIT_POLICY)
            .with_context(|| format!("{} can't be written", files.audit_policy().display()))?;
        keys.server("kube-apiserver", &keys::api_server_names(slot))?;
        keys.client(&User {
            file: "api-server-to-kubelets".to_owned(),
            name: "kube-apiserver-kubelet-client".to_owned(),
            group: Some("system:masters"),
        })?;
        keys.kubeconfig(
            &User {
                file: "admin".to_owned(),
                name: "admin".to_owned(),
                group: Some("system:masters"),
            },
            slot,
        )?;
        let own = keys.kubeconfig(
            &User {
                file: "kube-controller-manager".to_owned(),
                name: "system:kube-controller-manager".to_owned(),
                group: None,
            },
            slot,
        )?;

        let mut this = Self {
            components: Vec::new(),
        };
        this.add(files, "etcd", &etcd(slot, files))?;
        let mut arguments = api_server(slot, files, keys);
        arguments.extend(flags.api_server_flag.iter().cloned());
        this.add(files, "kube-apiserver", &arguments)?;
        this.wait(files, "the API server's readiness", &["get", "--raw", "/readyz"])?;
        let mut arguments = controllers(slot, keys, &own);
        arguments.extend(flags.controllers_flag.iter().cloned());
        this.add(files, "kube-controller-manager", &arguments)?;
        if with_scheduler {
            let own = keys.kubeconfig(
                &User {
                    file: "kube-scheduler".to_owned(),
                    name: "system:kube-scheduler".to_owned(),
                    group: None,
                },
                slot,
            )?;
            this.add(files, "kube-scheduler", &client(slot, &own))?;
        }
        for made in ["configmap/kube-root-ca.crt", "serviceaccount/default"] {
            this.wait(files, made, &["get", "--namespace=default", made])?;
        }
        Ok(this)
    }

    fn add(&mut self, files: &Files, name: &str, arguments: &[String]) -> Result<()> {
        let mut command = Command::new(program(name));
        command.args(arguments);
        let component = Component::start(name, &mut command, files)?;
        self.components.insert(0, component);
        Ok(())
    }

    fn wait(&mut self, files: &Files, what: &str, kubectl: &[&str]) -> Result<()> {
        wait_for(what, LIMIT, || {
            self.still_runs(files)?;
            Ok(files.kubectl().args(kubectl).output()?.status.success())
        })
    }

    /// Fails if a component has ended, with the end of its log.
    ///
    /// # Errors
    /// When one no longer runs.
    pub(crate) fn still_runs(&mut self, files: &Files) -> Result<()> {
        self.components
            .iter_mut()
            .try_for_each(|component| component.still_runs(files))
    }
}

/// Far above what it takes; a machine may be busy.
const LIMIT: Duration = Duration::from_secs(180);

/// Who did what, without bodies, for every request; no stage but the last, so that one request is one line, and a
/// long one two. In one namespace with bodies: the agent's record of them is held against that.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: RequestResponse
  namespaces: [recorded-whole]
- level: Metadata
";

fn etcd(slot: Slot, files: &Files) -> Vec<String> {
    let [clients, peers] = [2379, 2380].map(|port| format!("http://{}:{port}", slot.inside()));
    vec![
        format!("--data-dir={}", files.folder().join("etcd").display()),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=default={peers}"),
        // Nothing of it outlives the cluster.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}

fn api_server(slot: Slot, files: &Files, keys: &Keys) -> Vec<String> {
    let file = |name: &str| keys.file(name).display().to_string();
    let at = slot.api_server();
    vec![
        format!("--etcd-servers=http://{}:2379", slot.inside()),
        format!("--bind-address={}", at.ip()),
        format!("--advertise-address={}", at.ip()),
        format!("--secure-port={}", at.port()),
        format!("--service-cluster-ip-range={}", slot.services()),
        format!("--client-ca-file={}", file("ca.crt")),
        format!("--tls-cert-file={}", file("kube-apiserver.crt")),
        format!("--tls-private-key-file={}", file("kube-apiserver.key")),
        format!("--service-account-key-file={}", file("sa.pub")),
        format!("--service-account-signing-key-file={}", file("sa.key")),
        format!("--service-account-issuer={ISSUER}"),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged=true".to_owned(),
        format!("--kubelet-certificate-authority={}", file("ca.crt")),
        format!(
            "--kubelet-client-certificate={}",
            file("api-server-to-kubelets.crt")
        ),
        format!("--kubelet-client-key={}", file("api-server-to-kubelets.key")),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        format!("--audit-policy-file={}", files.audit_policy().display()),
        format!("--audit-log-path={}", files.audit_log().display()),
        // A line is there when the response is: tests read it at once, and none is lost.
        "--audit-log-mode=blocking".to_owned(),
    ]
}

/// As kubeadm names it.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

fn controllers(slot: Slot, keys: &Keys, kubeconfig: &Path) -> Vec<String> {
    let file = |name: &str| keys.file(name).display().to_string();
    let mut arguments = served_by(slot, kubeconfig);
    arguments.extend([
        format!("--root-ca-file={}", file("ca.crt")),
        format!("--service-account-private-key-file={}", file("sa.key")),
        // One CA signs for all signers, so what kubelet-serving signs is trusted by pods.
        format!("--cluster-signing-cert-file={}", file("ca.crt")),
        format!("--cluster-signing-key-file={}", file("ca.key")),
        "--use-service-account-credentials=true".to_owned(),
        "--allocate-node-cidrs=true".to_owned(),
        format!("--cluster-cidr={}", slot.pods()),
        format!("--node-cidr-mask-size={}", Slot::PODS_OF_A_NODE),
        format!("--service-cluster-ip-range={}", slot.services()),
    ]);
    arguments
}

/// What the scheduler is started with: there is one.
fn client(slot: Slot, kubeconfig: &Path) -> Vec<String> {
    let mut arguments = served_by(slot, kubeconfig);
    arguments.push("--leader-elect=false".to_owned());
    arguments
}

/// What the controllers and the scheduler have in common: whom they serve by themselves they ask the API server about.
fn served_by(slot: Slot, kubeconfig: &Path) -> Vec<String> {
    let mut arguments: Vec<String> = [
        "kubeconfig",
        "authentication-kubeconfig",
        "authorization-kubeconfig",
    ]
    .iter()
    .map(|flag| format!("--{flag}={}", kubeconfig.display()))
    .collect();
    arguments.push(format!("--bind-address={}", slot.inside()));
    arguments
}
