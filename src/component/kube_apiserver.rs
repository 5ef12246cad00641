//! `[kube-apiserver]`: its serving certificate, and those with which it goes to etcd, to kubelets and to
//! extension API servers.
//!
//! Sources: kubernetes.io "PKI certificates and requirements"; kubeadm `phases/certs/certlist.go` and
//! `util/pkiutil/pki_helpers.go` for names, kubeadm `phases/controlplane/manifests.go` for flags. Only
//! flags that every supported Kubernetes has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::flags::{self, Flags, Format, Program};
use super::generate::Wanted;
use super::static_pod::Pod;
use super::tokens::{self, Token};
use super::{
    Certificates, Component, Expanded, Surroundings, encryption, kubeconfig, kubernetes, literals, name,
    names, own, path, restart, yes,
};
use crate::certificate::{self, Certificate};
use crate::deed::{Deed, Event};
use crate::facts::Cidr;
use crate::file::File;
use crate::identity::{Usage, dns_name};
use crate::keepsake::Keepsake;
use crate::setting::{At, Fault, Name, Template};

/// `[kube-apiserver]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "packaging/config.toml is their reference")]
pub struct Settings {
    pub ca: At<Name>,
    pub etcd_ca: Option<At<Name>>,
    pub front_proxy_ca: Option<At<Name>>,
    pub kubelet_ca: Option<At<Name>>,
    pub service_cidr: Option<At<String>>,
    #[serde(default = "super::default_domain")]
    pub cluster_domain: String,
    pub api_server: Option<At<String>>,
    pub advertise_address: Option<IpAddr>,
    #[serde(default = "default_port")]
    pub port: u16,
    #[serde(default)]
    pub etcd_servers: Vec<At<String>>,
    #[serde(default)]
    pub extra_dns: Vec<Template>,
    #[serde(default)]
    pub extra_ips: Vec<IpAddr>,
    #[serde(default)]
    pub format: Format,
    pub image: Option<At<String>>,
    #[serde(default = "yes")]
    pub render: bool,
    pub args: Option<At<Map<String, Value>>>,
    #[serde(default)]
    pub tokens: BTreeMap<Name, tokens::Settings>,
    pub encryption: Option<encryption::Settings>,
    #[serde(default = "default_restart")]
    pub restart: At<String>,
    #[serde(default)]
    pub replace: bool,
}

fn default_restart() -> At<String> {
    own(format!("{NAME}.service"))
}

pub(super) fn default_port() -> u16 {
    6443
}

const NAME: &str = "kube-apiserver";
const SERVING: &str = "kube-apiserver-serving";
const ETCD: &str = "kube-apiserver-etcd-client";
const KUBELET: &str = "kube-apiserver-kubelet-client";
const FRONT_PROXY: &str = "front-proxy-client";

/// Flags that the user's `args` may set otherwise.
const OPEN: [&str; 5] = [
    "allow-privileged",
    "authorization-mode",
    "enable-admission-plugins",
    "kubelet-preferred-address-types",
    "service-account-issuer",
];

impl Component for Settings {
    fn cas(&self) -> Vec<&At<Name>> {
        let more = [&self.etcd_ca, &self.front_proxy_ca, &self.kubelet_ca];
        std::iter::once(&self.ca).chain(more.into_iter().flatten()).collect()
    }

    /// All are read again when they change, but for the CAs of etcd and of kubelets.
    fn certificates(&self, around: Surroundings<'_>) -> Result<Certificates, Vec<Fault>> {
        if let Some(deed) = self.told() {
            deed.check().map_err(|why| vec![Fault::at(self.restart.span(), format!("restart: {why}"))])?;
        }
        let ca = &self.ca;
        let etcd = self.etcd_ca.as_ref().unwrap_or(ca);
        let front_proxy = self.front_proxy_ca.as_ref().unwrap_or(ca);
        let mut kubelet =
            kubernetes(ca, KUBELET, Usage::Client, "apiserver-kubelet-client", self.kubelet_trust());
        kubelet.trusts = Some(vec![self.kubelet_ca.as_ref().unwrap_or(ca).clone()]);
        kubelet.hooks = Some(restart(Event::Ca, self.told()));
        let etcd = kubernetes(etcd, ETCD, Usage::Client, "apiserver-etcd-client", "etcd/ca.crt");
        Ok(vec![
            (name(SERVING), self.serving(around)?),
            (name(KUBELET), kubelet),
            (name(ETCD), certificate::Settings { hooks: Some(restart(Event::Ca, self.told())), ..etcd }),
            (
                name(FRONT_PROXY),
                kubernetes(
                    front_proxy,
                    FRONT_PROXY,
                    Usage::Client,
                    "front-proxy-client",
                    "front-proxy-ca.crt",
                ),
            ),
        ])
    }

    /// Tokens, and the key of what is kept in etcd.
    fn keepsakes(&self, around: Surroundings<'_>) -> Result<Vec<Keepsake>, Vec<Fault>> {
        let tokens = self.tokens().into_iter().map(|token| token.keepsake(around, self.wanted()));
        let encryption = self.encryption.iter().map(|settings| settings.keepsake(around, self.wanted()));
        tokens.chain(encryption).collect()
    }

    /// The command line and the files it names, unless `render = false`.
    fn files(&self, around: Surroundings<'_>, expanded: &Expanded) -> Result<Vec<File>, Vec<Fault>> {
        let pairs = [SERVING, KUBELET, ETCD, FRONT_PROXY].map(|pair| expanded.get(&name(pair)));
        let [Some(serving), Some(kubelet), Some(etcd), Some(front_proxy)] = pairs else {
            return Ok(Vec::new());
        };
        if !self.render {
            return Ok(Vec::new());
        }
        let flags = self.flags(around, [serving, kubelet, etcd, front_proxy])?;
        let flags = flags::with_args(flags, self.args.as_ref(), &OPEN)?;
        let program = Program {
            name: NAME,
            table: self.ca.span(),
            env: ["/etc/kubernetes/apiserver", "KUBE_API_ARGS"],
            flags,
            args: self.args.as_ref(),
            needs: &[serving, kubelet, etcd, front_proxy].map(|pair| pair.name.clone()),
            told: self.told(),
            replace: self.replace,
        };
        let pod = Pod { image: self.image.as_ref(), probe: (self.port, "/livez") };
        let server = self.api_server.as_ref().map(|url| url.get_ref().clone());
        let server = server.map_or_else(|| super::local_server(around, None, self.ca.span()), Ok)?;
        let mut files = vec![program.render(self.format, Some(pod))?];
        files.extend(tokens::file(&self.tokens(), self.told(), self.replace)?);
        for token in self.tokens() {
            let trust = serving.trust.as_deref().unwrap_or(Path::new(""));
            files.extend(token.kubeconfig(&server, trust, self.replace)?);
        }
        files.extend(self.encryption.as_ref().map(|settings| settings.file(self.told(), self.replace)));
        Ok(files)
    }
}

impl Settings {
    /// How it is told of what it reads at its start only: no static pod has a unit.
    fn told(&self) -> Option<Deed> {
        let unit = self.restart.get_ref();
        (self.format != Format::StaticPod && !unit.is_empty()).then(|| Deed::Restart(unit.clone()))
    }

    fn tokens(&self) -> Vec<Token<'_>> {
        self.tokens.iter().map(|(name, settings)| Token { name, settings }).collect()
    }

    /// What is known of the hosts that have the same secrets.
    fn wanted(&self) -> Wanted<'_> {
        Wanted { table: "", key: "", generate: None, given: None, etcd_servers: &self.etcd_servers }
    }

    /// Kubelets may be signed by a CA of their own; then its anchors are no clients' anchors.
    fn kubelet_trust(&self) -> &'static str {
        let own = self.kubelet_ca.as_ref().is_some_and(|kubelet| kubelet.get_ref() != self.ca.get_ref());
        if own { "kubelet-ca.crt" } else { "ca.crt" }
    }

    fn serving(&self, around: Surroundings<'_>) -> Result<certificate::Settings, Vec<Fault>> {
        let facts = around.facts;
        dns_name(&self.cluster_domain).map_err(|why| {
            vec![Fault::at(self.ca.span(), format!("[kube-apiserver] cluster_domain: {why}"))]
        })?;
        let services = self.services()?;
        let mut dns: BTreeSet<String> =
            ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
                .map(str::to_owned)
                .into();
        dns.insert(format!("kubernetes.default.svc.{}", self.cluster_domain));
        dns.extend(
            [&facts.hostname.value, &facts.fqdn.value, &facts.nodename.value]
                .map(|name| name.to_ascii_lowercase()),
        );
        let mut ips: BTreeSet<IpAddr> = services.iter().map(|(_, first)| *first).collect();
        ips.extend(facts.addresses.iter().map(|address| address.ip));
        ips.extend([IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)]);
        ips.extend(self.extra_ips.iter().chain(&self.advertise_address));
        if let Some(url) = &self.api_server {
            let host = kubeconfig::host("api_server", url)?;
            match host.parse() {
                Ok(ip) => drop(ips.insert(ip)),
                Err(_) => match dns_name(host) {
                    Ok(()) => drop(dns.insert(host.to_ascii_lowercase())),
                    Err(why) => return Err(vec![Fault::at(url.span(), format!("api_server: {why}"))]),
                },
            }
        }
        Ok(certificate::Settings {
            dns: Some(names(dns, &self.extra_dns)),
            ips: Some(literals(ips.iter().map(IpAddr::to_string))),
            organization: None,
            // Whoever signs what is served, clients are those of the cluster's CA.
            trusts: Some(vec![self.ca.clone()]),
            ..kubernetes(&self.ca, "kube-apiserver", Usage::Server, "apiserver", "ca.crt")
        })
    }

    /// The ranges of services, one or one of each family, with the first address of each: pods reach
    /// kube-apiserver there, and it must stand in the certificate.
    fn services(&self) -> Result<Vec<(Cidr, IpAddr)>, Vec<Fault>> {
        let Some(ranges) = &self.service_cidr else {
            let message = "[kube-apiserver] needs service_cidr, such as \"10.96.0.0/12\" or \"10.96.0.0/12,fd00:10:96::/108\": its certificate must hold the first address of the range";
            return Err(vec![Fault::at(self.ca.span(), message)]);
        };
        let fault = |why: String| vec![Fault::at(ranges.span(), format!("service_cidr: {why}"))];
        let mut found: Vec<(Cidr, IpAddr)> = Vec::new();
        for text in ranges.get_ref().split(',') {
            let cidr: Cidr =
                text.trim().parse().map_err(|why: crate::facts::FactsError| fault(why.to_string()))?;
            let first =
                cidr.first_host().ok_or_else(|| fault(format!("{cidr} has no address for a service")))?;
            if found.iter().any(|(_, other)| other.is_ipv4() == first.is_ipv4()) {
                return Err(fault("one range, or one of IPv4 and one of IPv6".to_owned()));
            }
            found.push((cidr, first));
        }
        Ok(found)
    }

    fn flags(&self, around: Surroundings<'_>, pairs: [&Certificate; 4]) -> Result<Flags, Vec<Fault>> {
        if self.etcd_servers.is_empty() {
            let message = "[kube-apiserver] needs etcd_servers, such as [\"https://10.0.0.11:2379\"], or render = false";
            return Err(vec![Fault::at(self.ca.span(), message)]);
        }
        for server in &self.etcd_servers {
            kubeconfig::host("etcd_servers", server)?;
        }
        let servers: Vec<_> = self.etcd_servers.iter().map(|server| server.get_ref().as_str()).collect();
        let services: Vec<_> = self.services()?.iter().map(|(cidr, _)| cidr.to_string()).collect();
        let [serving, kubelet, etcd, front_proxy] = pairs;
        let cert = |pair: &Certificate| path(&pair.place.path(&pair.place.cert));
        let key = |pair: &Certificate| path(&pair.place.path(&pair.place.key));
        let trust = |pair: &Certificate| pair.trust.as_deref().map(path).unwrap_or_default();
        let advertised =
            self.advertise_address.or(around.facts.primary.as_ref().map(|primary| primary.value));
        let flags = json!({
            "advertise-address": advertised,
            "secure-port": self.port,
            "service-cluster-ip-range": services.join(","),
            "tls-cert-file": cert(serving),
            "tls-private-key-file": key(serving),
            "client-ca-file": trust(serving),
            "etcd-servers": servers.join(","),
            "etcd-cafile": trust(etcd),
            "etcd-certfile": cert(etcd),
            "etcd-keyfile": key(etcd),
            "kubelet-client-certificate": cert(kubelet),
            "kubelet-client-key": key(kubelet),
            "kubelet-certificate-authority": trust(kubelet),
            "kubelet-preferred-address-types": "InternalIP,ExternalIP,Hostname",
            "proxy-client-cert-file": cert(front_proxy),
            "proxy-client-key-file": key(front_proxy),
            "requestheader-client-ca-file": trust(front_proxy),
            "requestheader-allowed-names": front_proxy.identity.common_name,
            "requestheader-username-headers": "X-Remote-User",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "service-account-issuer": format!("https://kubernetes.default.svc.{}", self.cluster_domain),
            "service-account-key-file": super::SERVICE_ACCOUNT_PUBLIC,
            "service-account-signing-key-file": super::SERVICE_ACCOUNT_KEY,
            "token-auth-file": (!self.tokens.is_empty()).then_some(tokens::TOKENS),
            "encryption-provider-config": self.encryption.as_ref().map(|_| encryption::CONFIG),
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "allow-privileged": true,
        });
        Ok(flags::set(&flags))
    }
}
