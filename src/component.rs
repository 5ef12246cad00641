//! The programs of a host that need certificates, one file each.
//!
//! To add one: a file here whose `Settings` are a [`Component`]; a field and a row in [`Settings`]; and a
//! golden case under `tests/cases`.
//!
//! A component says what it needs in the words of the `[certificate.NAME]` table, so that a user's table
//! of the same name overrides single keys.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::certificate::{self, Certificate, Names};
use crate::deed::{Deed, Event, Hook};
use crate::facts::Facts;
use crate::file::{Content, File};
use crate::identity::{Usage, dns_name};
use crate::keepsake::Keepsake;
use crate::setting::{At, Fault, Mode, Name, Scope, Template};
use flags::Format;

pub mod admin;
pub mod encryption;
pub mod etcd;
pub mod etcd_client;
mod flags;
pub mod generate;
pub mod kube_apiserver;
pub mod kube_controller_manager;
pub mod kube_proxy;
pub mod kube_scheduler;
mod kubeconfig;
pub mod kubelet;
pub mod service_account;
pub mod shared;
pub mod static_pod;
pub mod tokens;

/// The tables of the components, as they stand in the configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
#[allow(missing_docs, reason = "each field is a table, and its type is documented")]
pub struct Settings {
    pub etcd: Option<At<etcd::Settings>>,
    pub etcd_client: BTreeMap<Name, At<etcd_client::Settings>>,
    pub kube_apiserver: Option<At<kube_apiserver::Settings>>,
    pub kube_controller_manager: Option<At<kube_controller_manager::Settings>>,
    pub kube_scheduler: Option<At<kube_scheduler::Settings>>,
    pub kubelet: Option<At<kubelet::Settings>>,
    pub kube_proxy: Option<At<kube_proxy::Settings>>,
    pub admin: Option<At<admin::Settings>>,
    pub service_account: Option<At<service_account::Settings>>,
}

impl Settings {
    /// What the members of `[etcd]` are dialled at, in the order of their names.
    pub fn members(&self) -> Vec<&str> {
        let cluster = self.etcd.iter().flat_map(|etcd| etcd.get_ref().cluster.get_ref().values());
        cluster.map(String::as_str).collect()
    }

    /// Every table that can be there, by its name.
    fn rows(&self) -> Vec<(&'static str, Vec<Table<'_>>)> {
        let clients = self.etcd_client.iter().map(|(name, settings)| table(name.as_str(), settings));
        vec![
            ("etcd-client", clients.collect()),
            one("etcd", self.etcd.as_ref()),
            one("kube-apiserver", self.kube_apiserver.as_ref()),
            one("kube-controller-manager", self.kube_controller_manager.as_ref()),
            one("kube-scheduler", self.kube_scheduler.as_ref()),
            one("kubelet", self.kubelet.as_ref()),
            one("kube-proxy", self.kube_proxy.as_ref()),
            one("admin", self.admin.as_ref()),
            one("service-account", self.service_account.as_ref()),
        ]
    }

    /// The tables that are there.
    pub fn tables(&self) -> impl Iterator<Item = Table<'_>> {
        self.rows().into_iter().flat_map(|(_, tables)| tables)
    }

    /// The keys on the way to a component's table.
    pub fn way<'n>(&self, name: &'n str) -> Vec<&'n str> {
        match self.etcd_client.keys().any(|client| client.as_str() == name) {
            true => vec!["etcd-client", name],
            false => vec![name],
        }
    }

    /// The names that a component's table can have.
    pub fn names() -> Vec<&'static str> {
        Self::default().rows().into_iter().map(|(name, _)| name).collect()
    }
}

/// Keys that there were: with one that stands beside them, and what to do.
pub const GONE: [(&str, &str, &str); 1] = [(
    "api_server",
    "generate",
    "; it is no use here any more: leave it out, and write generate = \"HOST\" where `true` is not enough",
)];

/// The keys of a component's table that name the role of its certificates, by the ends of their names.
const ROLES: [(&str, &str); 4] = [
    ("-peer", "peer_role"),
    ("-serving", "serving_role"),
    ("-healthcheck-client", "healthcheck_role"),
    ("", "role"),
];

/// Those of one certificate, the likeliest first.
pub fn role_keys(certificate: &str) -> impl Iterator<Item = &'static str> {
    ROLES.iter().filter(move |(end, _)| certificate.ends_with(end)).map(|(_, key)| *key)
}

/// One component of this host.
#[derive(Clone)]
pub struct Table<'a> {
    /// What the command line calls it.
    pub name: &'a str,
    /// Where its table stands.
    pub span: Range<usize>,
    /// What it needs.
    pub component: &'a dyn Component,
}

fn one<'a, C: Component>(name: &'static str, settings: Option<&'a At<C>>) -> (&'static str, Vec<Table<'a>>) {
    (name, settings.map(|settings| table(name, settings)).into_iter().collect())
}

fn table<'a, C: Component>(name: &'a str, settings: &'a At<C>) -> Table<'a> {
    Table { name, span: settings.span(), component: settings.get_ref() }
}

impl<'a> Table<'a> {
    /// What it looks at.
    pub fn around(&self, around: Surroundings<'a>) -> Surroundings<'a> {
        Surroundings { table: self.name, ..around }
    }
}

/// What a component says of itself.
pub trait Component {
    /// The CAs it names.
    fn cas(&self) -> Vec<&At<Name>>;

    /// The paths whose presence decides something: [`Surroundings::present`] holds those that are there.
    fn probes(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// The certificates it needs.
    fn certificates(&self, around: Surroundings<'_>) -> Result<Certificates, Vec<Fault>>;

    /// What is made once for it and then kept.
    fn keepsakes(&self, _: Surroundings<'_>) -> Result<Vec<Keepsake>, Vec<Fault>> {
        Ok(Vec::new())
    }

    /// The cluster that this host is a member of, and that [`Deed::InTurn`] has in mind.
    fn cluster(&self, _: Surroundings<'_>) -> Option<Cluster> {
        None
    }

    /// The files it reads, once its certificates are known as they came out.
    fn files(&self, around: Surroundings<'_>, expanded: &Expanded) -> Result<Vec<File>, Vec<Fault>>;
}

/// An etcd cluster, as one of its members sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The certificate that this host shows to the other members.
    pub certificate: Name,
    /// This host's own name there.
    pub own: String,
    /// Every member's name, and the URLs at which clients may find it, the best first.
    pub members: BTreeMap<String, Vec<String>>,
}

/// What a component looks at to say what it needs.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The name of the component's own table.
    pub table: &'a str,
    /// What is true of the host.
    pub facts: &'a Facts,
    /// The values of templates.
    pub scope: &'a Scope,
    /// Those paths that the component asked about and that are there.
    pub present: &'a BTreeSet<PathBuf>,
    /// The CAs where one name is one certificate.
    pub keeping: &'a BTreeSet<Name>,
    /// The certificates that have a table of their own.
    pub tables: &'a BTreeSet<Name>,
    /// What the members of `[etcd]` are dialled at, in the order of their names.
    pub members: &'a [&'a str],
}

/// The certificates a component needs, by name.
pub type Certificates = Vec<(Name, certificate::Settings)>;

/// The certificates of the node as they came out, overrides included.
pub type Expanded = BTreeMap<Name, Certificate>;

/// A name that stands in the program's own text.
fn name(text: &str) -> Name {
    #[allow(clippy::expect_used, reason = "only literals of this room come here, and its tests use each")]
    Name::new(text).expect("a valid name")
}

/// A value that does not come from a text.
fn own<T>(value: T) -> At<T> {
    At::new(0..0, value)
}

/// A text of our own or of this host, in which nothing is an expression.
fn literal(text: &str) -> Template {
    Template::literal(text)
}

/// A component's own names, sorted, and those that the user adds.
fn names(own_names: impl IntoIterator<Item = String>, extra: &[Template]) -> At<Vec<Template>> {
    let sorted: BTreeSet<String> = own_names.into_iter().collect();
    own(sorted.iter().map(|text| literal(text)).chain(extra.iter().cloned()).collect())
}

fn literals<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> At<Vec<Template>> {
    own(texts.into_iter().map(|text| Template::literal(text.as_ref())).collect())
}

/// kubeadm's directory.
const KUBERNETES: &str = "/etc/kubernetes/pki";
/// The same key pair on every host of a control plane; what it signs are tokens, not certificates.
const SERVICE_ACCOUNT_KEY: &str = "/etc/kubernetes/pki/sa.key";
const SERVICE_ACCOUNT_PUBLIC: &str = "/etc/kubernetes/pki/sa.pub";

/// An identity in kubeadm's layout, in no group: to Kubernetes an organization is a group.
fn kubernetes(
    ca: &At<Name>,
    common_name: &str,
    usage: Usage,
    file: &str,
    trust: &str,
) -> certificate::Settings {
    certificate::Settings {
        ca: Some(ca.clone()),
        common_name: Some(own(literal(common_name))),
        organization: Some(own(Vec::new())),
        usages: Some(own([usage].into())),
        directory: Some(own(KUBERNETES.into())),
        files: Some(own(Names {
            cert: Some(format!("{file}.crt")),
            key: Some(format!("{file}.key")),
            ca: Some(Path::new(KUBERNETES).join(trust)),
            ..Names::default()
        })),
        ..certificate::Settings::default()
    }
}

/// The identity of a program that goes to kube-apiserver, and reads at its start only by whose certificates it
/// knows that (client-go, before 1.36).
fn client(ca: &At<Name>, told: Option<Deed>, user: &str, file: &str) -> certificate::Settings {
    certificate::Settings {
        hooks: Some(restart(Event::Ca, told)),
        ..kubernetes(ca, user, Usage::Client, file, "ca.crt")
    }
}

/// The kube-apiserver that a component of the control plane talks to: that of its own host, whose
/// version is its own too.
fn local_server(
    around: Surroundings<'_>,
    server: Option<&At<String>>,
    span: Range<usize>,
) -> Result<String, Vec<Fault>> {
    if let Some(server) = server {
        kubeconfig::host("server", server)?;
        return Ok(server.get_ref().clone());
    }
    match &around.facts.primary {
        Some(primary) => Ok(format!("https://{}:6443", bracketed(&primary.value.to_string()))),
        None => Err(vec![Fault::at(
            span,
            format!("this host has no address, so [{}] needs server = \"https://HOST:6443\"", around.table),
        )]),
    }
}

/// RFC 3986 section 3.2.2: an IPv6 address in a URL stands in brackets.
fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// The node's name as the Node authorizer compares it: lower case, RFC 1123.
fn node_name(setting: &At<Template>, around: Surroundings<'_>) -> Result<String, Vec<Fault>> {
    let fault = |why: String| vec![Fault::at(setting.span(), format!("[{}] node_name: {why}", around.table))];
    let node = setting.get_ref().render(around.scope).map_err(fault)?.to_ascii_lowercase();
    dns_name(&node).map_err(fault)?;
    Ok(node)
}

fn default_node_name() -> At<Template> {
    #[allow(clippy::expect_used, reason = "a template of our own")]
    own(Template::new("{{ nodename }}").expect("a template"))
}

fn default_domain() -> String {
    "cluster.local".to_owned()
}

fn yes() -> bool {
    true
}

/// Puts the user's own keys into a rendered mapping; those that nodecert answers for are refused.
fn pass_through(
    rendered: &mut Map<String, Value>,
    key: &str,
    settings: Option<&At<Map<String, Value>>>,
    owned: &[&str],
) -> Result<(), Vec<Fault>> {
    let Some(settings) = settings else { return Ok(()) };
    let taken: Vec<_> = settings.get_ref().keys().filter(|key| owned.contains(&key.as_str())).collect();
    if !taken.is_empty() {
        let refuse = |taken: &&String| {
            Fault::at(
                settings.span(),
                format!("{key} must not hold {taken:?}: nodecert sets it from the tables above"),
            )
        };
        return Err(taken.iter().map(refuse).collect());
    }
    rendered.extend(settings.get_ref().iter().map(|(key, value)| (key.clone(), value.clone())));
    Ok(())
}

fn path(of: &Path) -> String {
    of.display().to_string()
}

/// The hook of a program that reads something at its start only.
fn restart(on: Event, told: Option<Deed>) -> Vec<Hook> {
    told.map(|deed| Hook { on: [on].into(), deed }).into_iter().collect()
}

/// A static pod has no unit to restart.
fn restarted(program: &str, format: Format) -> Option<Deed> {
    (format != Format::StaticPod).then(|| Deed::Restart(format!("{program}.service")))
}

/// A file that a program reads at its start only.
fn read_once(told: Option<Deed>, mut file: File) -> File {
    file.deeds.extend(told);
    file
}

/// A file of a component that everyone may read and root owns.
fn open_file(file_name: &str, at: &str, content: Content, needs: &[Name], replace: bool) -> File {
    File {
        name: name(file_name),
        path: at.into(),
        content,
        needs: needs.to_vec(),
        owner: certificate::Owner::default(),
        mode: Mode(0o644),
        replace,
        quiet: None,
        // A drop-in is of no use before systemd has read it.
        deeds: if at.starts_with("/etc/systemd/") { vec![Deed::DaemonReload] } else { Vec::new() },
    }
}
