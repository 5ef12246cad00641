//! `[kubelet]`: a kubelet's client identity, its serving certificate and its configuration.
//!
//! Sources: kubernetes.io "PKI certificates and requirements"; `KubeletConfiguration`
//! kubelet.config.k8s.io/v1beta1; the Node authorizer, which knows a node by CN `system:node:NAME` and
//! O `system:nodes`.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::flags::{self, Flags, Format, Program};
use super::kubeconfig::{self, Kubeconfig};
use super::{
    Certificates, Component, Expanded, Surroundings, default_node_name, literals, name, names, node_name,
    open_file, own, pass_through, path, read_once, restart, restarted, yes,
};
use crate::certificate::{self, Certificate, Names};
use crate::deed::Event;
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
    pub version: Option<At<Version>>,
    #[serde(default)]
    pub format: Format,
    #[serde(default = "yes")]
    pub render: bool,
    #[serde(default)]
    pub extra_dns: Vec<Template>,
    #[serde(default)]
    pub extra_ips: Vec<IpAddr>,
    pub args: Option<At<Map<String, Value>>>,
    pub settings: Option<At<Map<String, Value>>>,
    #[serde(default)]
    pub embed: bool,
    #[serde(default)]
    pub replace: bool,
}

/// `version`: of the kubelet, as `1.34`, `v1.34` or `1.34.2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Version {
    major: u16,
    minor: u16,
}

impl TryFrom<String> for Version {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut parts = text.trim_start_matches('v').split('.').map(str::parse);
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok(Self { major, minor }),
            _ => Err(format!("{text:?} is not a version of Kubernetes; write for example \"1.34\"")),
        }
    }
}

/// From this version on the runtime's socket is a setting of the file; before, it was a flag.
/// <https://github.com/kubernetes/kubernetes/pull/112136>
const RUNTIME_IN_FILE: Version = Version { major: 1, minor: 27 };
/// From this version on the kubelet reads its serving certificate again; before, at its start only. To start it
/// again harms no pod. <https://github.com/kubernetes/kubernetes/pull/124574>
const RELOADS: Version = Version { major: 1, minor: 31 };
const RUNTIME: &str = "unix:///run/containerd/containerd.sock";

const KUBELET: &str = "kubelet";
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
            hooks: Some(if self.is_before(RELOADS) {
                restart(Event::Leaf, restarted(KUBELET, self.format))
            } else {
                Vec::new()
            }),
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
        let program = Program {
            name: KUBELET,
            table: self.ca.span(),
            env: [ARGUMENTS, "KUBELET_EXTRA_ARGS"],
            flags: flags::with_args(self.flags(&node), self.args.as_ref(), &[])?,
            args: self.args.as_ref(),
            needs: &[],
            told: restarted(KUBELET, self.format),
            replace: self.replace,
        };
        let (configuration, needs) =
            (Content::Yaml(configuration), [client.name.clone(), serving.name.clone()]);
        let kubeconfig = self.kubeconfig(&node, expanded)?;
        let files = [
            read_once(
                restarted(KUBELET, self.format),
                open_file("kubelet-config", CONFIG, configuration, &needs, self.replace),
            ),
            program.render(self.format, None)?,
        ];
        Ok(kubeconfig.into_iter().chain(files).collect())
    }
}

impl Settings {
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
            hooks: Some(restart(Event::Ca, restarted(KUBELET, self.format))),
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
            embed: self.embed,
            told: restarted(KUBELET, self.format),
            replace: self.replace,
        };
        Ok(kubeconfig.render(expanded))
    }

    /// What is a flag only. In a variable these are added to what kubeadm's drop-in of the unit says; in a
    /// drop-in of our own they are the whole command line.
    fn flags(&self, node: &str) -> Flags {
        let whole = self.format == Format::DropIn;
        let before = self.is_before(RUNTIME_IN_FILE);
        flags::set(&json!({
            "config": whole.then_some(CONFIG),
            "kubeconfig": whole.then_some(KUBECONFIG),
            "hostname-override": node,
            "container-runtime": before.then_some("remote"),
            "container-runtime-endpoint": before.then_some(RUNTIME),
        }))
    }

    /// Where no version is said, it is a current one.
    fn is_before(&self, version: Version) -> bool {
        self.version.as_ref().is_some_and(|own| *own.get_ref() < version)
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
            "containerRuntimeEndpoint": RUNTIME,
            "staticPodPath": "/etc/kubernetes/manifests",
            "readOnlyPort": 0,
        });
        let mut configuration = value.as_object().cloned().unwrap_or_default();
        if self.is_before(RUNTIME_IN_FILE) {
            configuration.shift_remove("containerRuntimeEndpoint");
        }
        configuration
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
