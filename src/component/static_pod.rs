//! kubeadm-style static pods: a manifest that the kubelet of this host runs without an API server.
//!
//! Source: kubeadm `phases/controlplane/manifests.go`. Directories are mounted, not single files: a file that
//! is replaced by rename would stay the old one inside the pod.

use serde::Deserialize;
use serde_json::{Value, json};

use super::flags::{self, Flags};
use super::open_file;
use crate::file::{Content, File};
use crate::setting::{At, Fault, Mode, Name};

/// `format`: how the command line reaches the program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// A variable in a file that the program's unit reads.
    #[default]
    Env,
    /// A manifest in `/etc/kubernetes/manifests`.
    StaticPod,
}

/// One program of the control plane as a pod.
pub(super) struct StaticPod<'a> {
    /// Its name, of the container and of the manifest.
    pub(super) name: &'a str,
    /// What it is run from.
    pub(super) image: Option<&'a At<String>>,
    /// Where its table stands.
    pub(super) table: std::ops::Range<usize>,
    /// Its command line.
    pub(super) flags: &'a Flags,
    /// Host, port and path at which it says that it lives.
    pub(super) probe: (&'a str, u16, &'a str),
    /// The certificates that must be held before it starts.
    pub(super) needs: &'a [Name],
    /// Whether a file that someone else wrote may be replaced.
    pub(super) replace: bool,
}

impl StaticPod<'_> {
    pub(super) fn render(&self) -> Result<File, Vec<Fault>> {
        let Some(image) = self.image else {
            let message = format!(
                "[{0}] format = \"static-pod\" needs image = \"registry.k8s.io/{0}:vX.Y.Z\", the version of the cluster",
                self.name
            );
            return Err(vec![Fault::at(self.table.clone(), message)]);
        };
        let manifest = self.manifest(image.get_ref());
        let path = format!("/etc/kubernetes/manifests/{}.yaml", self.name);
        let content = Content::Yaml(manifest.as_object().cloned().unwrap_or_default());
        let file = open_file(&format!("{}-manifest", self.name), &path, content, self.needs, self.replace);
        Ok(File { mode: Mode(0o600), ..file })
    }

    fn manifest(&self, image: &str) -> Value {
        let (host, port, path) = self.probe;
        let command: Vec<_> = std::iter::once(self.name.to_owned()).chain(flags::words(self.flags)).collect();
        let mounts = [("kubernetes", "/etc/kubernetes"), ("ca-certificates", "/etc/ssl/certs")];
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "namespace": "kube-system",
                "labels": {"component": self.name, "tier": "control-plane"},
            },
            "spec": {
                "hostNetwork": true,
                "priorityClassName": "system-node-critical",
                "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": self.name,
                    "image": image,
                    "command": command,
                    "livenessProbe": {
                        "httpGet": {"host": host, "path": path, "port": port, "scheme": "HTTPS"},
                        "initialDelaySeconds": 10,
                        "timeoutSeconds": 15,
                        "failureThreshold": 8,
                    },
                    "volumeMounts": mounts.map(|(name, path)| {
                        json!({"name": name, "mountPath": path, "readOnly": true})
                    }),
                }],
                "volumes": mounts.map(|(name, path)| json!({"name": name, "hostPath": {"path": path, "type": "Directory"}})),
            },
        })
    }
}
