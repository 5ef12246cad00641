//! `[kube-controller-manager]`: its identity, kubeconfig and flags.
//!
//! It gets no signing key: certificates of this cluster come from the CAs of the configuration.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::flags::{self, Format, Program};
use super::kubeconfig::Kubeconfig;
use super::static_pod::Pod;
use super::{
    Certificates, Component, Expanded, Surroundings, client, local_server, name, path, restarted, yes,
};
use crate::file::File;
use crate::setting::{At, Fault, Name};

/// `[kube-controller-manager]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "packaging/config.toml is their reference")]
pub struct Settings {
    pub ca: At<Name>,
    pub server: Option<At<String>>,
    pub service_cidr: Option<String>,
    pub cluster_cidr: Option<String>,
    #[serde(default)]
    pub format: Format,
    pub image: Option<At<String>>,
    #[serde(default = "yes")]
    pub render: bool,
    pub args: Option<At<Map<String, Value>>>,
    #[serde(default)]
    pub embed: bool,
    #[serde(default)]
    pub replace: bool,
}

const NAME: &str = "kube-controller-manager";
const USER: &str = "system:kube-controller-manager";
const KUBECONFIG: &str = "/etc/kubernetes/controller-manager.conf";

/// Flags that the user's `args` may set otherwise.
const OPEN: [&str; 4] = ["bind-address", "leader-elect", "controllers", "use-service-account-credentials"];

impl Component for Settings {
    fn cas(&self) -> Vec<&At<Name>> {
        vec![&self.ca]
    }

    fn certificates(&self, _: Surroundings<'_>) -> Result<Certificates, Vec<Fault>> {
        Ok(vec![(name(NAME), client(&self.ca, restarted(NAME, self.format), USER, "controller-manager"))])
    }

    /// kubeconfig and command line, unless `render = false`.
    fn files(&self, around: Surroundings<'_>, expanded: &Expanded) -> Result<Vec<File>, Vec<Fault>> {
        let Some(certificate) = expanded.get(&name(NAME)).filter(|_| self.render) else {
            return Ok(Vec::new());
        };
        let server = local_server(around, self.server.as_ref(), self.ca.span())?;
        let kubeconfig = Kubeconfig {
            file: "kube-controller-manager-kubeconfig",
            path: KUBECONFIG,
            server: &server,
            user: USER,
            certificate: NAME,
            embed: self.embed,
            told: restarted(NAME, self.format),
            replace: self.replace,
        };
        let trust = certificate.trust.as_deref().map(path);
        let flags = json!({
            "kubeconfig": KUBECONFIG,
            "authentication-kubeconfig": KUBECONFIG,
            "authorization-kubeconfig": KUBECONFIG,
            "client-ca-file": trust,
            "root-ca-file": trust,
            "service-account-private-key-file": super::SERVICE_ACCOUNT_KEY,
            "use-service-account-credentials": true,
            "controllers": "*,bootstrapsigner,tokencleaner",
            "service-cluster-ip-range": self.service_cidr,
            "allocate-node-cidrs": self.cluster_cidr.as_ref().map(|_| true),
            "cluster-cidr": self.cluster_cidr,
            "bind-address": "127.0.0.1",
            "leader-elect": true,
        });
        let flags = flags::with_args(flags::set(&flags), self.args.as_ref(), &OPEN)?;
        let program = Program {
            name: NAME,
            table: self.ca.span(),
            env: ["/etc/kubernetes/controller-manager", "KUBE_CONTROLLER_MANAGER_ARGS"],
            flags,
            args: self.args.as_ref(),
            needs: std::slice::from_ref(&certificate.name),
            told: restarted(NAME, self.format),
            replace: self.replace,
        };
        let pod = Pod { image: self.image.as_ref(), probe: (10257, "/healthz") };
        let arguments = program.render(self.format, Some(pod))?;
        Ok(kubeconfig.render(expanded).into_iter().chain([arguments]).collect())
    }
}
