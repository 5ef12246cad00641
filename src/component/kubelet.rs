//! `[kubelet]`: a kubelet's client identity, its serving certificate and its configuration.
//!
//! Sources: kubernetes.io "PKI certificates and requirements"; `KubeletConfiguration`
//! kubelet.config.k8s.io/v1beta1; the Node authorizer, which knows a node by CN `system:node:NAME` and
//! O `system:nodes`.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Certificates, Expanded, literals, name, open_file, own, pass_through, path};
use crate::certificate::{self, Certificate, Names, Owner};
use crate::facts::Facts;
use crate::file::{Content, File};
use crate::identity::{Usage, dns_name};
use crate::setting::{At, Fault, Mode, Name, Scope, Template};

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
    #[serde(default = "default_domain")]
    pub cluster_domain: String,
    #[serde(default = "yes")]
    pub render: bool,
    #[serde(default)]
    pub extra_dns: Vec<String>,
    #[serde(default)]
    pub extra_ips: Vec<IpAddr>,
    pub settings: Option<At<Map<String, Value>>>,
    #[serde(default)]
    pub replace: bool,
}

fn yes() -> bool {
    true
}

fn default_domain() -> String {
    "cluster.local".to_owned()
}

fn default_node_name() -> At<Template> {
    #[allow(clippy::expect_used, reason = "a template of our own")]
    own(Template::new("{{ nodename }}").expect("a template"))
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

impl Settings {
    /// The CAs it names.
    pub fn cas(&self) -> impl Iterator<Item = &At<Name>> {
        [Some(&self.ca), self.serving_ca.as_ref()].into_iter().flatten()
    }

    /// Client and serving certificate.
    pub fn certificates(&self, facts: &Facts, scope: &Scope) -> Result<Certificates, Vec<Fault>> {
        let node = self.node(scope)?;
        let client = self.certificate(&node, "kubelet-client", Usage::Client);
        let serving_ca = self.serving_ca.as_ref().unwrap_or(&self.ca);
        let dns = [&facts.hostname.value, &facts.fqdn.value, &node].map(|name| name.to_ascii_lowercase());
        let ips = facts.addresses.iter().map(|address| address.ip).chain(self.extra_ips.iter().copied());
        let mut serving = certificate::Settings {
            ca: Some(serving_ca.clone()),
            role: self.serving_role.clone().or_else(|| self.role.clone()),
            dns: Some(literals(dns.iter().chain(&self.extra_dns))),
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
    pub fn files(&self, scope: &Scope, expanded: &Expanded) -> Result<Vec<File>, Vec<Fault>> {
        let (Some(client), Some(serving)) =
            (expanded.get(&name("kubelet-client")), expanded.get(&name("kubelet-serving")))
        else {
            return Ok(Vec::new());
        };
        if !self.render {
            return Ok(Vec::new());
        }
        let node = self.node(scope)?;
        let mut configuration = self.configuration(client, serving);
        pass_through(&mut configuration, self.settings.as_ref(), &OWNED)?;
        let arguments = vec![("KUBELET_EXTRA_ARGS".to_owned(), format!("--hostname-override={node}"))];
        let (client, serving) = (&client.name, &serving.name);
        Ok(vec![
            self.kubeconfig(&node, expanded)?,
            open_file(
                "kubelet-config",
                CONFIG,
                Content::Yaml(configuration),
                &[client.clone(), serving.clone()],
                self.replace,
            ),
            open_file("kubelet-arguments", ARGUMENTS, Content::Env(arguments), &[], self.replace),
        ])
    }

    /// The node's name as the Node authorizer compares it: lower case, RFC 1123.
    fn node(&self, scope: &Scope) -> Result<String, Vec<Fault>> {
        let fault =
            |why: String| vec![Fault::at(self.node_name.span(), format!("[kubelet] node_name: {why}"))];
        let node = self.node_name.get_ref().render(scope).map_err(fault)?.to_ascii_lowercase();
        dns_name(&node).map_err(fault)?;
        Ok(node)
    }

    fn certificate(&self, node: &str, file: &str, usage: Usage) -> certificate::Settings {
        certificate::Settings {
            ca: Some(self.ca.clone()),
            role: self.role.clone(),
            common_name: Some(own(Template::literal(&format!("system:node:{node}")))),
            organization: Some(literals(["system:nodes"])),
            usages: Some(own([usage].into())),
            directory: Some(own("/var/lib/kubelet/pki".into())),
            files: Some(own(file_names(file))),
            replace: Some(self.replace),
            ..certificate::Settings::default()
        }
    }

    /// Paths, not embedded data: client-go reads them again every five minutes, a changed kubeconfig never.
    fn kubeconfig(&self, node: &str, expanded: &Expanded) -> Result<File, Vec<Fault>> {
        let server = self.api_server.get_ref();
        let host = server.strip_prefix("https://").unwrap_or("");
        if host.is_empty() || host.contains(['/', '@', ' ']) {
            let message = format!("api_server {server:?} is not a server's URL; write https://HOST:PORT");
            return Err(vec![Fault::at(self.api_server.span(), message)]);
        }
        let client = name("kubelet-client");
        let pair = expanded.get(&client);
        let user = format!("system:node:{node}");
        let value = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "default", "cluster": {
                "certificate-authority": pair.and_then(|pair| pair.trust.as_deref()).map(path),
                "server": server,
            }}],
            "users": [{"name": user, "user": {
                "client-certificate": pair.map(|pair| path(&pair.place.path(&pair.place.cert))),
                "client-key": pair.map(|pair| path(&pair.place.path(&pair.place.key))),
            }}],
            "contexts": [{"name": "default", "context": {"cluster": "default", "user": user}}],
            "current-context": "default",
        });
        let content = Content::Yaml(value.as_object().cloned().unwrap_or_default());
        Ok(File {
            mode: Mode(0o600),
            owner: Owner::default(),
            ..open_file("kubelet-kubeconfig", KUBECONFIG, content, &[client], self.replace)
        })
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
