//! `[etcd]`: a member of an etcd cluster, with mutual TLS towards clients and peers.
//!
//! Sources: etcd `embed/config.go` and its security guide; measured on etcd 3.4.23 and 3.5.1. Unknown keys
//! of the YAML are ignored by etcd without a word, so the output is typed here and a typing slip in
//! `settings` stays the user's.

mod rendering;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    Certificates, Cluster, Component, Expanded, Surroundings, bracketed, literals, name, names, open_file,
    own, pass_through, yes,
};
use crate::certificate::{self, Names};
use crate::deed::{Deed, Event, Hook};
use crate::facts::Facts;
use crate::file::{Content, File};
use crate::identity::{Usage, dns_name};
use crate::setting::{At, Fault, Mode, Name, Template};

/// `[etcd]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "packaging/config.toml is their reference")]
pub struct Settings {
    pub ca: At<Name>,
    pub peer_ca: Option<At<Name>>,
    pub role: Option<String>,
    pub peer_role: Option<String>,
    pub name: Option<At<String>>,
    pub cluster: At<BTreeMap<String, String>>,
    #[serde(default)]
    pub format: Format,
    #[serde(default = "yes")]
    pub render: bool,
    #[serde(default)]
    pub extra_dns: Vec<Template>,
    #[serde(default)]
    pub extra_ips: Vec<IpAddr>,
    #[serde(default = "default_token")]
    pub token: String,
    pub state: Option<State>,
    #[serde(default = "default_data_dir")]
    pub data_dir: PathBuf,
    #[serde(default)]
    pub healthcheck: bool,
    pub healthcheck_role: Option<String>,
    pub settings: Option<At<Map<String, Value>>>,
    #[serde(default)]
    pub plain: BTreeSet<Plain>,
    #[serde(default = "default_unit")]
    pub restart: At<String>,
    #[serde(default)]
    pub replace: bool,
}

/// `plain`: what still speaks HTTP without TLS, while a cluster moves from the one to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plain {
    /// The client port; TLS has 2378 beside it.
    Clients,
    /// The peer port.
    Peers,
}

/// `format`: the form of etcd's configuration. One form, never both: with `--config-file` etcd ignores
/// every flag and ETCD_ variable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `/etc/etcd/etcd.yaml`, and the drop-in that makes the unit read it.
    #[default]
    Yaml,
    /// `/etc/default/etcd`, which Debian's unit reads.
    Env,
}

/// `state`: whether the member founds its cluster or joins one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// All members of the list start for the first time.
    New,
    /// The cluster is there.
    Existing,
}

fn default_token() -> String {
    "etcd-cluster".to_owned()
}

fn default_unit() -> At<String> {
    own("etcd.service".to_owned())
}

fn default_data_dir() -> PathBuf {
    "/var/lib/etcd/default".into()
}

const SERVER: &str = "etcd-server";
/// The name of the table that gives peers a certificate of their own where one would do for both.
pub const PEER: &str = "etcd-peer";
const YAML: &str = "/etc/etcd/etcd.yaml";
const ENV: &str = "/etc/default/etcd";
/// Where clients find TLS while 2379 speaks HTTP still.
const PASSAGE: u16 = 2378;
/// What begins with these counts only while a member has no data (etcd, "Configuration flags": clustering).
const FOUNDING: [&str; 2] = ["initial-", "ETCD_INITIAL_"];
const DROP_IN: &str = "/etc/systemd/system/etcd.service.d/50-nodecert.conf";

/// This host's place in the cluster.
struct Member {
    name: String,
    /// What the others dial.
    host: String,
    /// What etcd listens on; it takes no names.
    listen: IpAddr,
}

impl Component for Settings {
    fn cas(&self) -> Vec<&At<Name>> {
        [Some(&self.ca), self.peer_ca.as_ref()].into_iter().flatten().collect()
    }

    fn probes(&self) -> Vec<PathBuf> {
        vec![self.probe()]
    }

    /// Server and peer certificate. Both carry both usages: a member is a client of its peers, and its
    /// own gateway one of its server.
    /// Where one name is one certificate, both have one: the server's.
    fn certificates(&self, around: Surroundings<'_>) -> Result<Certificates, Vec<Fault>> {
        let facts = around.facts;
        let member = self.member(facts)?;
        if let Some(deed) = self.turn() {
            deed.check().map_err(|why| vec![Fault::at(self.restart.span(), format!("restart: {why}"))])?;
        }
        let peer_ca = self.other_peer_ca();
        let server = self.certificate(facts, &member, "server", "ca.crt");
        let healthcheck = self.healthcheck.then(|| (name("etcd-healthcheck-client"), self.healthcheck()));
        if peer_ca.is_none() && self.serves_both(around) {
            return Ok([(name(SERVER), server)].into_iter().chain(healthcheck).collect());
        }
        let mut peer = self.certificate(
            facts,
            &member,
            "peer",
            if peer_ca.is_some() { "peer-ca.crt" } else { "ca.crt" },
        );
        peer.ca = Some(peer_ca.unwrap_or(&self.ca).clone());
        peer.role = self.peer_role.clone().or(peer.role);
        let pairs = [(name(SERVER), server), (name(PEER), peer)];
        Ok(pairs.into_iter().chain(healthcheck).collect())
    }

    /// etcd's own configuration, unless `render = false`.
    fn files(&self, around: Surroundings<'_>, expanded: &Expanded) -> Result<Vec<File>, Vec<Fault>> {
        let Some(server) = expanded.get(&name(SERVER)).filter(|_| self.render) else {
            return Ok(Vec::new());
        };
        let peer = expanded.get(&name(PEER)).unwrap_or(server);
        if let Some(bare) = [server, peer].into_iter().find(|pair| pair.trust.is_none()) {
            // Without a trusted-ca-file etcd would ask clients for certificates and take those of any public CA.
            let message = format!(
                "certificate {} needs a trust file: files.ca must not be empty, or set render = false",
                bare.name
            );
            return Err(vec![Fault::at(self.ca.span(), message)]);
        }
        let member = self.member(around.facts)?;
        let mut rendered = self.yaml(&member, around, [server, peer]);
        let ours = |key: &&String| !["logger", "enable-grpc-gateway"].contains(&key.as_str());
        let owned: Vec<String> = rendered.keys().filter(ours).cloned().collect();
        let owned: Vec<&str> = owned.iter().map(String::as_str).collect();
        pass_through(&mut rendered, "settings", self.settings.as_ref(), &owned)?;
        let mut needs = vec![server.name.clone(), peer.name.clone()];
        needs.dedup();
        let [yaml, env] = FOUNDING.map(Some);
        let mut files = match self.format {
            Format::Yaml => vec![
                File {
                    quiet: yaml,
                    ..open_file("etcd-config", YAML, Content::Yaml(rendered), &needs, self.replace)
                },
                open_file("etcd-drop-in", DROP_IN, Content::Text(rendering::drop_in()), &[], self.replace),
            ],
            Format::Env => {
                let content = Content::Env(self.env(&rendered)?);
                vec![File { quiet: env, ..open_file("etcd-config", ENV, content, &needs, self.replace) }]
            }
        };
        files.iter_mut().for_each(|file| file.deeds.extend(self.turn()));
        Ok(files)
    }

    fn cluster(&self, around: Surroundings<'_>) -> Option<Cluster> {
        let member = self.member(around.facts).ok()?;
        let hosts = self.cluster.get_ref().iter();
        let mut members: BTreeMap<_, _> =
            hosts.map(|(name, host)| (name.clone(), self.found_at(host))).collect();
        // Where it still runs with another address than it is to have.
        let local = format!("https://{}:2379", loopback(member.listen));
        members.entry(member.name.clone()).or_default().push(local);
        Some(Cluster { certificate: name(SERVER), own: member.name, members })
    }
}

impl Settings {
    fn other_peer_ca(&self) -> Option<&At<Name>> {
        self.peer_ca.as_ref().filter(|peer| peer.get_ref() != self.ca.get_ref())
    }

    /// Whether server and peers share a certificate: one name is one certificate at their CA, and no table
    /// of their own says otherwise.
    fn serves_both(&self, around: Surroundings<'_>) -> bool {
        around.keeping.contains(self.ca.get_ref()) && !around.tables.contains(&name(PEER))
    }

    /// What etcd reads at its start only: the CA certificates, and its own configuration. Restarts in turn,
    /// or all members would be away in the same minute of the same timer.
    fn turn(&self) -> Option<Deed> {
        let unit = self.restart.get_ref();
        (!unit.is_empty()).then(|| Deed::InTurn(Box::new(Deed::Restart(unit.clone()))))
    }

    fn hooks(&self) -> Vec<Hook> {
        self.turn().map(|deed| Hook { on: [Event::Ca].into(), deed }).into_iter().collect()
    }

    /// For etcdctl on this host, by root: a client and nothing else.
    fn healthcheck(&self) -> certificate::Settings {
        certificate::Settings {
            ca: Some(self.ca.clone()),
            role: self.healthcheck_role.clone(),
            common_name: Some(own(super::literal("kube-etcd-healthcheck-client"))),
            usages: Some(own([Usage::Client].into())),
            directory: Some(own("/etc/etcd/pki".into())),
            files: Some(own(Names {
                cert: Some("healthcheck-client.crt".to_owned()),
                key: Some("healthcheck-client.key".to_owned()),
                ca: Some("ca.crt".into()),
                ..Names::default()
            })),
            ..certificate::Settings::default()
        }
    }

    /// The path that says whether this member has ever run.
    fn probe(&self) -> PathBuf {
        self.data_dir.join("member")
    }

    fn member(&self, facts: &Facts) -> Result<Member, Vec<Fault>> {
        let cluster = self.cluster.get_ref();
        let names = [&facts.hostname.value, &facts.fqdn.value, &facts.nodename.value];
        let own = match &self.name {
            Some(name) => cluster.get_key_value(name.get_ref()),
            None => names.into_iter().find_map(|name| cluster.get_key_value(name)),
        };
        let Some((name, host)) = own else {
            let name = self.name.as_ref().map_or(&facts.hostname.value, At::get_ref);
            let there = cluster.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let message = format!(
                "cluster has no entry for this host, {name:?}: it has {there}. Add {name} = \"ADDRESS\", or set [node] hostname or [etcd] name"
            );
            return Err(vec![Fault::at(self.cluster.span(), message)]);
        };
        self.check_hosts()?;
        let listen = host.parse().ok().or_else(|| facts.primary.as_ref().map(|primary| primary.value));
        let Some(listen) = listen else {
            let message = format!(
                "etcd listens on an address, and this host has none: write {name}'s into cluster, or set [node] addresses"
            );
            return Err(vec![Fault::at(self.cluster.span(), message)]);
        };
        Ok(Member { name: name.clone(), host: host.clone(), listen })
    }

    fn check_hosts(&self) -> Result<(), Vec<Fault>> {
        let wrong = |(name, host): (&String, &String)| {
            let why = host.parse::<IpAddr>().err().and_then(|_| dns_name(host).err())?;
            Some(Fault::at(self.cluster.span(), format!("cluster has a faulty host for {name}: {why}")))
        };
        let faults: Vec<_> = self.cluster.get_ref().iter().filter_map(wrong).collect();
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    fn certificate(
        &self,
        facts: &Facts,
        member: &Member,
        purpose: &str,
        trust: &str,
    ) -> certificate::Settings {
        let mut dns: BTreeSet<String> = ["localhost".to_owned()].into();
        dns.extend([&facts.hostname.value, &facts.fqdn.value].map(|name| name.to_ascii_lowercase()));
        let mut ips: BTreeSet<IpAddr> = facts.addresses.iter().map(|address| address.ip).collect();
        ips.extend([IpAddr::from([127, 0, 0, 1]), "::1".parse().unwrap_or(IpAddr::from([127, 0, 0, 1]))]);
        ips.insert(member.listen);
        ips.extend(&self.extra_ips);
        if member.host.parse::<IpAddr>().is_err() {
            dns.insert(member.host.to_ascii_lowercase());
        }
        certificate::Settings {
            ca: Some(self.ca.clone()),
            role: self.role.clone(),
            common_name: Some(own(super::literal(&member.name.to_ascii_lowercase()))),
            dns: Some(names(dns, &self.extra_dns)),
            ips: Some(literals(ips.iter().map(IpAddr::to_string))),
            usages: Some(own([Usage::Server, Usage::Client].into())),
            directory: Some(own("/etc/etcd/pki".into())),
            files: Some(own(Names {
                cert: Some(format!("{purpose}.crt")),
                key: Some(format!("{purpose}.key")),
                ca: Some(trust.into()),
                ..Names::default()
            })),
            owner: Some("etcd".to_owned()),
            replace: Some(self.replace),
            mode: Some(certificate::Modes { key: Some(Mode(0o600)), cert: Some(Mode(0o644)) }),
            hooks: Some(self.hooks()),
            ..certificate::Settings::default()
        }
    }

    /// Where a member may serve clients, one that is a step behind or ahead of this one too.
    fn found_at(&self, host: &str) -> Vec<String> {
        let host = bracketed(host);
        let mut urls = vec![format!("https://{host}:2379"), format!("https://{host}:{PASSAGE}")];
        urls.extend(self.plain.contains(&Plain::Clients).then(|| format!("http://{host}:2379")));
        urls
    }
}

/// As it stands in a URL.
fn loopback(listen: IpAddr) -> &'static str {
    if listen.is_ipv4() { "127.0.0.1" } else { "[::1]" }
}
