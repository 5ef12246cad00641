//! `[kubelet]`: a kubelet's client identity, its serving certificate and its configuration.
//!
//! Sources: kubernetes.io "PKI certificates and requirements"; `KubeletConfiguration`
//! kubelet.config.k8s.io/v1beta1; the Node authorizer, which knows a node by CN `system:node:NAME` and
//! O `system:nodes`.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::kubeconfig::{self, Kubeconfig};
use super::{
    Certificates, Component, Expanded, Surroundings, default_node_name, literals, name, names, node_name,
    open_file, own, pass_through, path, yes,
};
use crate::certificate::{self, Certificate, Names};
use crate::file::{Content, File};
use crate::identity::Usage;
use crate::setting::{At, Fault, Name, Template};

/// `[kubelet]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "packaging/config.toml is their reference")]
pub struct Settings {
    pub ca: At<Name>,
    pub serving_ca: Option<At<Name>>,
    pub role: Option<String>,
    pub serving_role: Option<String>,
    pub api_server: At<String>,
    #[serde(default = "default_node_name")]
    pub node_name: At<Template>,
    #[serde(default)]
    pub cluster_dns: Vec<IpAddr>,
    #[serde(default = "super::default_domain")]
    pub cluster_domain: String,
    #[serde(default = "yes")]
    pub render: bool,
    #[serde(default)]
    pub extra_dns: Vec<Template>,
    #[serde(default)]
    pub extra_ips: Vec<IpAddr>,
    pub settings: Option<At<Map<String, Value>>>,
    #[serde(default)]
    pub replace: bool,
}

const KUBECONFIG: &str = "/etc/kubernetes/kubelet.conf";
const CONFIG: &str = "/var/lib/kubelet/config.yaml";
const ARGUMENTS: &str = "/etc/default/kubelet";

/// What decides who the kubelet is and whom it trusts; all else may be set by the user.
const OWNED: [&str; 10] = [
    "apiVersion",
    "kind",
    "authentication",
    "authorization",
    "tlsCertFile",
    "tlsPrivateKeyFile",
    "rotateCertificates",
    "serverTLSBootstrap",
    "clusterDomain",
    "clusterDNS",
];

impl Component for Settings {
    fn cas(&self) -> Vec<&At<Name>> {
        [Some(&self.ca), self.serving_ca.as_ref()].into_iter().flatten().collect()
    }

    /// Client and serving certificate.
    fn certificates(&self, around: Surroundings<'_>) -> Result<Certificates, Vec<Fault>> {
        let facts = around.facts;
        let node = node_name(&self.node_name, around)?;
        let client = self.certificate(&node, "kubelet-client", Usage::Client);
        let serving_ca = self.serving_ca.as_ref().unwrap_or(&self.ca);
        let dns = [&facts.hostname.value, &facts.fqdn.value, &node].map(|name| name.to_ascii_lowercase());
        let ips = facts.addresses.iter().map(|address| address.ip).chain(self.extra_ips.iter().copied());
        let mut serving = certificate::Settings {
            ca: Some(serving_ca.clone()),
            role: self.serving_role.clone().or_else(|| self.role.clone()),
            dns: Some(names(dns, &self.extra_dns)),
            ips: Some(literals(ips.map(|ip| ip.to_string()))),
            ..self.certificate(&node, "kubelet", Usage::Server)
        };
        if serving_ca.get_ref() != self.ca.get_ref() {
            // The kubelet itself needs no anchor for what it serves; kube-apiserver does.
            serving.files = Some(own(Names { ca: Some("".into()), ..file_names("kubelet") }));
        }
        Ok(vec![(name("kubelet-client"), client), (name("kubelet-serving"), serving)])
    }

    /// kubeconfig, KubeletConfiguration and extra arguments, unless `render = false`.
    fn files(&self, around: Surroundings<'_>, expanded: &Expanded) -> Result<Vec<File>, Vec<Fault>> {
        let (Some(client), Some(serving)) =
            (expanded.get(&name("kubelet-client")), expanded.get(&name("kubelet-serving")))
        else {
            return Ok(Vec::new());
        };
        if !self.render {
            return Ok(Vec::new());
        }
        let node = node_name(&self.node_name, around)?;
        let mut configuration = self.configuration(client, serving);
        pass_through(&mut configuration, "settings", self.settings.as_ref(), &OWNED)?;
        let arguments = vec![("KUBELET_EXTRA_ARGS".to_owned(), format!("--hostname-override={node}"))];
        let (client, serving) = (&client.name, &serving.name);
        let kubeconfig = self.kubeconfig(&node, expanded)?;
        let files = [
            open_file(
                "kubelet-config",
                CONFIG,
                Content::Yaml(configuration),
                &[client.clone(), serving.clone()],
                self.replace,
            ),
            open_file("kubelet-arguments", ARGUMENTS, Content::Env(arguments), &[], self.replace),
        ];
        Ok(kubeconfig.into_iter().chain(files).collect())
    }
}

impl Settings {
    fn certificate(&self, node: &str, file: &str, usage: Usage) -> certificate::Settings {
        certificate::Settings {
            ca: Some(self.ca.clone()),
            role: self.role.clone(),
            common_name: Some(own(super::literal(&format!("system:node:{node}")))),
            organization: Some(literals(["system:nodes"])),
            usages: Some(own([usage].into())),
            directory: Some(own("/var/lib/kubelet/pki".into())),
            files: Some(own(file_names(file))),
            ..certificate::Settings::default()
        }
    }

    fn kubeconfig(&self, node: &str, expanded: &Expanded) -> Result<Option<File>, Vec<Fault>> {
        kubeconfig::host("api_server", &self.api_server)?;
        let kubeconfig = Kubeconfig {
            file: "kubelet-kubeconfig",
            path: KUBECONFIG,
            server: self.api_server.get_ref(),
            user: &format!("system:node:{node}"),
            certificate: "kubelet-client",
            replace: self.replace,
        };
        Ok(kubeconfig.render(expanded))
    }

    fn configuration(&self, client: &Certificate, serving: &Certificate) -> Map<String, Value> {
        let value = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": true},
                "x509": {"clientCAFile": client.trust.as_deref().map(path)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": path(&serving.place.path(&serving.place.cert)),
            "tlsPrivateKeyFile": path(&serving.place.path(&serving.place.key)),
            "tlsMinVersion": "VersionTLS12",
            // With these the kubelet would ask the cluster for certificates and ignore ours.
            "rotateCertificates": false,
            "serverTLSBootstrap": false,
            "clusterDomain": self.cluster_domain,
            "clusterDNS": self.cluster_dns,
            "cgroupDriver": "systemd",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "staticPodPath": "/etc/kubernetes/manifests",
            "readOnlyPort": 0,
        });
        value.as_object().cloned().unwrap_or_default()
    }
}

fn file_names(file: &str) -> Names {
    Names {
        cert: Some(format!("{file}.crt")),
        key: Some(format!("{file}.key")),
        ca: Some("/etc/kubernetes/pki/ca.crt".into()),
        ..Names::default()
    }
}
