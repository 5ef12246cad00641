//! kubeadm-style static pods: a manifest that the kubelet of this host runs without an API server.
//!
//! Source: kubeadm `phases/controlplane/manifests.go`. Directories are mounted, not single files: a file that
//! is replaced by rename would stay the old one inside the pod.

use serde_json::{Value, json};

use super::flags::{self, Program};
use super::open_file;
use crate::file::{Content, File};
use crate::setting::{At, Fault, Mode};

/// What a program needs to run as a pod.
pub(super) struct Pod<'a> {
    /// What it is run from.
    pub(super) image: Option<&'a At<String>>,
    /// Port and path of 127.0.0.1 at which it says that it lives.
    pub(super) probe: (u16, &'a str),
}

impl Pod<'_> {
    pub(super) fn render(&self, program: &Program<'_>) -> Result<File, Vec<Fault>> {
        let name = program.name;
        let Some(image) = self.image else {
            let message = format!(
                "[{name}] format = \"static-pod\" needs image = \"registry.k8s.io/{name}:vX.Y.Z\", the version of the cluster"
            );
            return Err(vec![Fault::at(program.table.clone(), message)]);
        };
        let manifest = self.manifest(program, image.get_ref());
        let path = format!("/etc/kubernetes/manifests/{name}.yaml");
        let content = Content::Yaml(manifest.as_object().cloned().unwrap_or_default());
        let file = open_file(&format!("{name}-manifest"), &path, content, program.needs, program.replace);
        Ok(File { mode: Mode(0o600), ..file })
    }

    fn manifest(&self, program: &Program<'_>, image: &str) -> Value {
        let (port, path) = self.probe;
        let command: Vec<_> =
            std::iter::once(program.name.to_owned()).chain(flags::words(&program.flags)).collect();
        let mounts = [("kubernetes", "/etc/kubernetes"), ("ca-certificates", "/etc/ssl/certs")];
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": program.name,
                "namespace": "kube-system",
                "labels": {"component": program.name, "tier": "control-plane"},
            },
            "spec": {
                "hostNetwork": true,
                "priorityClassName": "system-node-critical",
                "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": program.name,
                    "image": image,
                    "command": command,
                    "livenessProbe": {
                        "httpGet": {"host": "127.0.0.1", "path": path, "port": port, "scheme": "HTTPS"},
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
