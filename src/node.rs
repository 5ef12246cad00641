//! Configuration and facts to [`Node`]: everything this host is to hold.

mod checks;
mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::ca;
use crate::certificate::{Certificate, INTERVAL, too_short};
use crate::component::{Cluster, Surroundings};
use crate::config::{Config, Faults};
use crate::deed::Deed;
use crate::facts::Facts;
use crate::file::File;
use crate::keepsake::Keepsake;
use crate::setting::{At, Fault, Name, Scope};

/// Everything this host is to hold.
#[derive(Debug, Default)]
pub struct Node {
    /// The certificates by name.
    pub certificates: BTreeMap<Name, Certificate>,
    /// The trust files.
    pub trusts: Vec<TrustFile>,
    /// What is made once and then kept.
    pub keepsakes: Vec<Keepsake>,
    /// The rendered files.
    pub files: Vec<File>,
    /// The certificates in the order they are obtained: one that logs in to another CA comes first.
    pub waves: Vec<Vec<Name>>,
    /// The etcd cluster that this host is a member of.
    pub cluster: Option<Cluster>,
    /// The certificates and keepsakes of each component, for `status --usable COMPONENT`.
    pub components: BTreeMap<String, Vec<Name>>,
    /// Whose the files of components are, and what is made once for them.
    pub tables: BTreeMap<PathBuf, String>,
}

impl Node {
    /// Where a run may write, but for its own state.
    pub fn directories(&self) -> BTreeSet<&Path> {
        let certificates =
            self.certificates.values().map(|certificate| certificate.place.directory.as_path());
        let keepsakes = self.keepsakes.iter().flat_map(Keepsake::paths);
        let trusts = self.trusts.iter().map(|trust| trust.path.as_path());
        let files = self.files.iter().map(|file| file.path.as_path()).chain(keepsakes).chain(trusts);
        certificates.chain(files.filter_map(Path::parent)).collect()
    }
}

/// A file that holds the anchors of the CAs of all the certificates that name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustFile {
    /// Where it lies, absolute.
    pub path: PathBuf,
    /// The CAs whose anchors it holds.
    pub cas: Vec<Name>,
    /// The certificates that go with it.
    pub certificates: Vec<Name>,
    /// Whether a file that someone else wrote may be replaced.
    pub replace: bool,
}

/// The values of a template on this host.
pub fn scope(facts: &Facts) -> Scope {
    let mut values = BTreeMap::from([
        ("hostname", minijinja::Value::from(facts.hostname.value.clone())),
        ("fqdn", facts.fqdn.value.clone().into()),
        ("nodename", facts.nodename.value.clone().into()),
        (
            "addresses",
            facts.addresses.iter().map(|address| address.ip.to_string()).collect::<Vec<_>>().into(),
        ),
    ]);
    values.extend(facts.domain.iter().map(|domain| ("domain", domain.value.clone().into())));
    values.extend(facts.machine_id.iter().map(|id| ("machine_id", id.value.clone().into())));
    Scope(values)
}

/// The paths whose presence decides something: `present` of [`expand`] holds those that are there.
pub fn probes(config: &Config) -> Vec<PathBuf> {
    config.components.tables().flat_map(|table| table.component.probes()).collect()
}

/// Says what this host is to hold; all faults that need facts come in one go.
pub fn expand(config: &Config, facts: &Facts, present: &BTreeSet<PathBuf>) -> Result<Node, Faults> {
    let scope = scope(facts);
    let keeping =
        config.cas.iter().filter(|(_, ca)| ca.keeps_names()).map(|(name, _)| name.clone()).collect();
    let tables = config.certificates.keys().cloned().collect();
    let members = config.components.members();
    let around = Surroundings {
        table: "",
        facts,
        scope: &scope,
        present,
        keeping: &keeping,
        tables: &tables,
        members: &members,
    };
    let mut expanding = Expanding { config, around, faults: Vec::new(), node: Node::default() };
    expanding.components();
    expanding.certificates();
    expanding.keepsakes();
    expanding.component_files();
    expanding.files();
    expanding.ssldirs();
    expanding.crls();
    expanding.turns();
    expanding.trusts();
    expanding.collisions();
    expanding.names();
    expanding.logins_exist();
    expanding.waves();
    match expanding.faults.is_empty() {
        true => Ok(expanding.node),
        false => Err(config.locate(expanding.faults)),
    }
}

/// Gives a certificate the name it has at its CA; the error says why that CA can never sign it.
fn fit(certificate: &mut Certificate, ca: &ca::Settings, host: &str) -> Result<(), String> {
    let certname = certificate.certname.as_deref();
    if let Some(certname) = ca.certname(certname, &certificate.identity.common_name, host)? {
        certificate.identity.common_name = certname;
    }
    ca.admits(&certificate.identity, certificate.role.as_deref())
}

struct Expanding<'a> {
    config: &'a Config,
    around: Surroundings<'a>,
    faults: Vec<Fault>,
    node: Node,
}

impl Expanding<'_> {
    /// The certificates of components, each under the user's table of the same name.
    fn components(&mut self) {
        for table in self.config.components.tables() {
            let certificates = match table.component.certificates(table.around(self.around)) {
                Ok(certificates) => certificates,
                Err(faults) => {
                    self.faults.extend(faults);
                    continue;
                }
            };
            let names = certificates.iter().map(|(name, _)| name.clone()).collect();
            self.node.components.insert(table.name.to_owned(), names);
            for (name, base) in certificates {
                let own = self.config.certificates.get(&name);
                let span = own.map_or(table.span.clone(), At::span);
                let mut settings = own.map_or(base.clone(), |own| own.get_ref().clone().over(base));
                let ca = settings.ca.as_ref().and_then(|ca| self.config.cas.get(ca.get_ref()));
                settings.role = settings.role.or_else(|| ca?.role_for(&name));
                self.certificate(&name, span, &settings);
            }
        }
    }

    /// The user's own certificates.
    fn certificates(&mut self) {
        for (name, settings) in &self.config.certificates {
            if !self.node.components.values().flatten().any(|there| there == name) {
                self.certificate(name, settings.span(), settings.get_ref());
            }
        }
    }

    fn certificate(
        &mut self,
        name: &Name,
        span: std::ops::Range<usize>,
        settings: &crate::certificate::Settings,
    ) {
        let mut certificate = match settings.expand(name, span.clone(), self.around.scope) {
            Ok(certificate) => certificate,
            Err(faults) => return self.faults.extend(faults),
        };
        certificate.interval = self.config.node.interval.map_or(INTERVAL, |interval| interval.0);
        let ca = self.config.cas.get(&certificate.ca);
        if let Some(ttl) = settings.ttl.as_ref().or_else(|| ca?.ttl())
            && let Some(why) = too_short(ttl.get_ref().0, certificate.interval)
        {
            self.faults.push(Fault::at(ttl.span(), format!("certificate {name}: {why}")));
        }
        if let Some(ca) = ca {
            certificate.backdated = ca.backdates();
            if ca.keeps_names() && settings.rotate_key.is_none() {
                certificate.rotate_key = false;
            }
            // An agent's own directory says that its name is meant.
            let host = if certificate.ssldir.is_some() { "" } else { self.around.facts.fqdn.value.as_str() };
            if certificate.ssldir.is_some() && !ca.keeps_names() {
                let message =
                    format!("certificate {name} has a ssldir, which is for certificates of a Puppet CA");
                self.faults.push(Fault::at(span.clone(), message));
            }
            if let Err(why) = fit(&mut certificate, ca, host) {
                self.faults.push(Fault::at(
                    span,
                    format!("CA {} cannot sign certificate {name}: {why}", certificate.ca),
                ));
            }
        }
        self.node.certificates.insert(name.clone(), certificate);
    }

    fn keepsakes(&mut self) {
        for table in self.config.components.tables() {
            match table.component.keepsakes(table.around(self.around)) {
                Ok(keepsakes) => {
                    let names = keepsakes.iter().map(|keepsake| keepsake.name.clone());
                    self.node.components.entry(table.name.to_owned()).or_default().extend(names);
                    self.whose(table.name, keepsakes.iter().flat_map(Keepsake::paths));
                    self.node.keepsakes.extend(keepsakes);
                }
                Err(faults) => self.faults.extend(faults),
            }
        }
    }

    fn component_files(&mut self) {
        for table in self.config.components.tables() {
            match table.component.files(table.around(self.around), &self.node.certificates) {
                Ok(files) => {
                    self.whose(table.name, files.iter().map(|file| file.path.as_path()));
                    self.node.files.extend(files);
                }
                Err(faults) => self.faults.extend(faults),
            }
        }
    }

    fn whose<'p>(&mut self, table: &str, paths: impl Iterator<Item = &'p Path>) {
        self.node.tables.extend(paths.map(|path| (path.to_owned(), table.to_owned())));
    }

    fn trusts(&mut self) {
        let mut trusts: BTreeMap<&Path, TrustFile> = BTreeMap::new();
        for certificate in self.node.certificates.values() {
            let Some(path) = &certificate.trust else { continue };
            let trust = trusts.entry(path).or_insert_with(|| TrustFile {
                path: path.clone(),
                cas: Vec::new(),
                certificates: Vec::new(),
                replace: false,
            });
            let more = certificate.trusts.iter().filter(|ca| !trust.cas.contains(ca)).cloned();
            let more: Vec<_> = more.collect();
            trust.cas.extend(more);
            trust.certificates.push(certificate.name.clone());
            trust.replace |= certificate.place.replace;
        }
        self.node.trusts = trusts.into_values().collect();
    }

    /// Who is to wait for a quorum needs one.
    fn turns(&mut self) {
        self.node.cluster = self
            .config
            .components
            .tables()
            .find_map(|table| table.component.cluster(table.around(self.around)));
        if self.node.cluster.is_some() {
            return;
        }
        let of_certificates = self.node.certificates.values().flat_map(|certificate| {
            certificate.hooks.iter().map(|hook| (&hook.deed, format!("certificate {}", certificate.name)))
        });
        let of_files = self
            .node
            .files
            .iter()
            .flat_map(|file| file.deeds.iter().map(|deed| (deed, format!("file {}", file.name))));
        let waiting = of_certificates.chain(of_files).filter(|(deed, _)| matches!(deed, Deed::InTurn(_)));
        let faults: Vec<_> = waiting.map(|(_, what)| Fault {
            span: None,
            message: format!("{what} has a hook with when = \"quorum\", which is that of the cluster in [etcd], and this host has no such table"),
        }).collect();
        self.faults.extend(faults);
    }
}
