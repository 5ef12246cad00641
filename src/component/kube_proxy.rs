//! `[kube-proxy]`: its identity, kubeconfig and `KubeProxyConfiguration` kubeproxy.config.k8s.io/v1alpha1.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::flags::{self, Format, Program};
use super::kubeconfig::{self, Kubeconfig};
use super::{
    Certificates, Component, Expanded, Surroundings, client, default_node_name, name, node_name, open_file,
    pass_through, read_once, restarted, yes,
};
use crate::file::{Content, File};
use crate::setting::{At, Fault, Name, Template};

/// `[kube-proxy]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "packaging/config.toml is their reference")]
pub struct Settings {
    pub ca: At<Name>,
    pub api_server: At<String>,
    #[serde(default = "default_node_name")]
    pub node_name: At<Template>,
    pub cluster_cidr: Option<String>,
    #[serde(default)]
    pub format: Format,
    #[serde(default = "yes")]
    pub render: bool,
    pub args: Option<At<Map<String, Value>>>,
    pub settings: Option<At<Map<String, Value>>>,
    #[serde(default)]
    pub embed: bool,
    #[serde(default)]
    pub replace: bool,
}

const NAME: &str = "kube-proxy";
const USER: &str = "system:kube-proxy";
const KUBECONFIG: &str = "/etc/kubernetes/kube-proxy.conf";
const CONFIG: &str = "/var/lib/kube-proxy/config.yaml";

const OWNED: [&str; 5] = ["apiVersion", "kind", "clientConnection", "hostnameOverride", "clusterCIDR"];

impl Component for Settings {
    fn cas(&self) -> Vec<&At<Name>> {
        vec![&self.ca]
    }

    fn certificates(&self, _: Surroundings<'_>) -> Result<Certificates, Vec<Fault>> {
        Ok(vec![(name(NAME), client(&self.ca, restarted(NAME, self.format), USER, "kube-proxy"))])
    }

    /// kubeconfig, configuration and the command line that names it, unless `render = false`.
    fn files(&self, around: Surroundings<'_>, expanded: &Expanded) -> Result<Vec<File>, Vec<Fault>> {
        let Some(certificate) = expanded.get(&name(NAME)).filter(|_| self.render) else {
            return Ok(Vec::new());
        };
        kubeconfig::host("api_server", &self.api_server)?;
        let kubeconfig = Kubeconfig {
            file: "kube-proxy-kubeconfig",
            path: KUBECONFIG,
            server: self.api_server.get_ref(),
            user: USER,
            certificate: NAME,
            embed: self.embed,
            told: restarted(NAME, self.format),
            replace: self.replace,
        };
        let mut configuration = self.configuration(&node_name(&self.node_name, around)?);
        pass_through(&mut configuration, "settings", self.settings.as_ref(), &OWNED)?;
        let needs = [certificate.name.clone()];
        let configuration = Content::Yaml(configuration);
        let program = Program {
            name: NAME,
            table: self.ca.span(),
            env: ["/etc/kubernetes/proxy", "KUBE_PROXY_ARGS"],
            flags: flags::with_args(flags::set(&json!({"config": CONFIG})), self.args.as_ref(), &[])?,
            args: self.args.as_ref(),
            needs: &[],
            told: restarted(NAME, self.format),
            replace: self.replace,
        };
        let files = [
            read_once(
                restarted(NAME, self.format),
                open_file("kube-proxy-config", CONFIG, configuration, &needs, self.replace),
            ),
            program.render(self.format, None)?,
        ];
        Ok(kubeconfig.render(expanded).into_iter().chain(files).collect())
    }
}

impl Settings {
    fn configuration(&self, node: &str) -> Map<String, Value> {
        let value = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": KUBECONFIG},
            "hostnameOverride": node,
            "clusterCIDR": self.cluster_cidr.as_deref().unwrap_or_default(),
        });
        value.as_object().cloned().unwrap_or_default()
    }
}
