//! One certificate of this host: the `[certificate.NAME]` table and what it expands to.
//!
//! A component describes its certificates as the same [`Settings`] that a user writes, so a user's
//! table of that name overrides single keys of it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Deserialize;

use crate::bundle::Leaf;
use crate::deed::{self, Hook};
use crate::identity::{Identity, KeyKind, Usage};
use crate::setting::{At, Fault, Mode, Name, Scope, Span, Template};
use crate::trust::Pin;

/// `[certificate.NAME]`. What is absent has a default, or comes from the component.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "packaging/config.toml is their reference")]
pub struct Settings {
    pub ca: Option<At<Name>>,
    pub trusts: Option<Vec<At<Name>>>,
    pub role: Option<String>,
    pub common_name: Option<At<Template>>,
    pub certname: Option<At<Template>>,
    pub ssldir: Option<At<PathBuf>>,
    pub organization: Option<At<Vec<Template>>>,
    pub dns: Option<At<Vec<Template>>>,
    pub ips: Option<At<Vec<Template>>>,
    pub uris: Option<At<Vec<Template>>>,
    pub usages: Option<At<BTreeSet<Usage>>>,
    pub key: Option<KeyKind>,
    pub rotate_key: Option<bool>,
    pub ttl: Option<Span>,
    pub renew_at: Option<At<f64>>,
    pub directory: Option<At<PathBuf>>,
    pub files: Option<At<Names>>,
    pub layout: Option<Layout>,
    pub owner: Option<String>,
    pub group: Option<String>,
    pub mode: Option<Modes>,
    pub replace: Option<bool>,
    pub reload: Option<At<Vec<String>>>,
    pub hooks: Option<Vec<Hook>>,
}

/// `files`: the names of a certificate's files in its directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "packaging/config.toml is their reference")]
pub struct Names {
    pub cert: Option<String>,
    pub key: Option<String>,
    pub ca: Option<PathBuf>,
    pub chain: Option<String>,
    pub combined: Option<String>,
    pub crl: Option<PathBuf>,
}

/// `mode`: who may read the files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "packaging/config.toml is their reference")]
pub struct Modes {
    pub key: Option<Mode>,
    pub cert: Option<Mode>,
}

/// How the files are put in place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Links into a generation directory, which one rename swaps: a reader of the directory never meets
    /// a mixed pair.
    #[default]
    Links,
    /// Plain files, renamed one after the other, for consumers that bear no symlinks. Between the two
    /// renames a reader can meet the new key with the old certificate.
    Files,
}

/// The part of a lifetime over which the renewals of a fleet are spread: certificates that were issued in
/// the same minute, as after an outage, do not come back in the same minute for ever.
pub const SPLAY: f64 = 0.1;

/// A certificate that this host is to hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Certificate {
    /// Its name in the configuration.
    pub name: Name,
    /// The CA that signs it.
    pub ca: Name,
    /// The role it asks for, where it is not the CA's own.
    pub role: Option<String>,
    /// What it says.
    pub identity: Identity,
    /// The name that is asked for at a CA that keeps one certificate a name, where it is not the common name.
    pub certname: Option<String>,
    /// Whether a renewal makes a new key.
    pub rotate_key: bool,
    /// The fraction of its lifetime after which it is due at the latest.
    pub renew_at: f64,
    /// This host's place in [`SPLAY`], from 0 to 1.
    pub splay: f64,
    /// Where its files lie.
    pub place: Place,
    /// The trust file that goes with it.
    pub trust: Option<PathBuf>,
    /// The CAs whose anchors that file holds: those of whoever is at the other end.
    pub trusts: Vec<Name>,
    /// The directory of a puppet agent whose certificate this is too.
    pub ssldir: Option<PathBuf>,
    /// Where the revocation list of its CA goes, if it is wanted.
    pub crl: Option<PathBuf>,
    /// Who is told of a change.
    pub hooks: Vec<Hook>,
}

/// Where the files of a pair lie, and whose they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Their directory, absolute.
    pub directory: PathBuf,
    /// File name of leaf and intermediates.
    pub cert: String,
    /// File name of the private key.
    pub key: String,
    /// File name of the intermediates alone, if wanted.
    pub chain: Option<String>,
    /// File name of key and certificates in one, if wanted.
    pub combined: Option<String>,
    /// Links or plain files.
    pub layout: Layout,
    /// Who owns them.
    pub owner: Owner,
    /// Mode of key and combined file.
    pub key_mode: Mode,
    /// Mode of certificate and chain.
    pub cert_mode: Mode,
    /// Whether files that someone else wrote may be replaced, with a backup.
    pub replace: bool,
}

/// User and group by name; `None` is root, and for the group the user's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// User name.
    pub user: Option<String>,
    /// Group name.
    pub group: Option<String>,
}

impl Place {
    /// Absolute path of one of its files.
    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    /// Every file with its use, in the order cert, key, chain, combined.
    pub fn paths(&self) -> Vec<(&'static str, PathBuf)> {
        let named = [
            ("cert", Some(&self.cert)),
            ("key", Some(&self.key)),
            ("chain", self.chain.as_ref()),
            ("combined", self.combined.as_ref()),
        ];
        named.into_iter().filter_map(|(usage, file)| Some((usage, self.path(file?)))).collect()
    }
}

impl Certificate {
    /// When a certificate of this configuration is to be renewed.
    pub fn due_at(&self, leaf: &Leaf) -> SystemTime {
        leaf.not_before + leaf.lifetime().mul_f64((self.renew_at - SPLAY * self.splay).max(0.0))
    }
}

impl Settings {
    /// The CAs it names.
    pub fn cas(&self) -> impl Iterator<Item = &At<Name>> {
        self.ca.iter().chain(self.trusts.iter().flatten())
    }

    /// Puts a user's keys over a component's.
    pub fn over(self, base: Self) -> Self {
        Self {
            ca: self.ca.or(base.ca),
            trusts: self.trusts.or(base.trusts),
            role: self.role.or(base.role),
            common_name: self.common_name.or(base.common_name),
            certname: self.certname.or(base.certname),
            ssldir: self.ssldir.or(base.ssldir),
            organization: self.organization.or(base.organization),
            dns: self.dns.or(base.dns),
            ips: self.ips.or(base.ips),
            uris: self.uris.or(base.uris),
            usages: self.usages.or(base.usages),
            key: self.key.or(base.key),
            rotate_key: self.rotate_key.or(base.rotate_key),
            ttl: self.ttl.or(base.ttl),
            renew_at: self.renew_at.or(base.renew_at),
            directory: self.directory.or(base.directory),
            files: match (self.files, base.files) {
                (Some(own), Some(base)) => {
                    let span = own.span();
                    Some(At::new(span, own.into_inner().over(base.into_inner())))
                }
                (own, base) => own.or(base),
            },
            layout: self.layout.or(base.layout),
            owner: self.owner.or(base.owner),
            group: self.group.or(base.group),
            mode: match (self.mode, base.mode) {
                (Some(own), Some(base)) => {
                    Some(Modes { key: own.key.or(base.key), cert: own.cert.or(base.cert) })
                }
                (own, base) => own.or(base),
            },
            replace: self.replace.or(base.replace),
            reload: self.reload.or(base.reload),
            hooks: self.hooks.or(base.hooks),
        }
    }

    /// What the settings mean on this host. `span` is where the table stands.
    pub fn expand(
        &self,
        name: &Name,
        span: std::ops::Range<usize>,
        scope: &Scope,
    ) -> Result<Certificate, Vec<Fault>> {
        let mut reading = Reading { faults: Vec::new(), name, span, scope };
        let certname = reading.certname(self);
        let identity = reading.identity(self, certname.as_deref());
        let hooks = reading.hooks(self);
        let place = reading.place(self);
        let ca = self.ca.as_ref().map(|ca| ca.get_ref().clone());
        if ca.is_none() {
            reading.fault(None, "has no ca; name the CA that signs it");
        }
        let renew_at = self.renew_at.as_ref().map_or(2.0 / 3.0, |at| *at.get_ref());
        if self.trusts.as_ref().is_some_and(Vec::is_empty) {
            reading.fault(None, "has an empty trusts; name the CAs of the other end, or leave it out");
        }
        if let Some(ssldir) = self.ssldir.as_ref().filter(|ssldir| !is_plain_path(ssldir.get_ref())) {
            reading.fault(Some(ssldir.span()), "needs a ssldir that is an absolute path without '..'");
        }
        if !(0.2..=0.95).contains(&renew_at) {
            let span = self.renew_at.as_ref().map(At::span);
            reading.fault(span, "must have a renew_at between 0.2 and 0.95, a fraction of the lifetime");
        }
        match (ca, place, reading.faults.is_empty()) {
            (Some(ca), Some(place), true) => Ok(Certificate {
                name: name.clone(),
                trusts: self.trusts(&ca),
                ca,
                role: self.role.clone(),
                identity,
                certname,
                rotate_key: self.rotate_key.unwrap_or(true),
                renew_at,
                ssldir: self.ssldir.as_ref().map(|ssldir| ssldir.get_ref().clone()),
                splay: splay(scope, name),
                trust: self.trust_path(&place.directory),
                crl: self
                    .files
                    .as_ref()
                    .and_then(|files| Some(place.directory.join(files.get_ref().crl.as_ref()?))),
                place,
                hooks,
            }),
            _ => Err(reading.faults),
        }
    }

    /// Who signs the one end signs the other too, where nothing else is said.
    fn trusts(&self, ca: &Name) -> Vec<Name> {
        match &self.trusts {
            Some(trusts) => trusts.iter().map(|ca| ca.get_ref().clone()).collect(),
            None => vec![ca.clone()],
        }
    }

    fn trust_path(&self, directory: &Path) -> Option<PathBuf> {
        let file =
            self.files.as_ref().map_or(Some(Path::new("ca.crt")), |files| files.get_ref().ca.as_deref())?;
        (!file.as_os_str().is_empty()).then(|| directory.join(file))
    }
}

impl Names {
    fn over(self, base: Self) -> Self {
        Self {
            cert: self.cert.or(base.cert),
            key: self.key.or(base.key),
            ca: self.ca.or(base.ca),
            chain: self.chain.or(base.chain),
            combined: self.combined.or(base.combined),
            crl: self.crl.or(base.crl),
        }
    }
}

/// The faults met while a table is read.
struct Reading<'a> {
    faults: Vec<Fault>,
    name: &'a Name,
    span: std::ops::Range<usize>,
    scope: &'a Scope,
}

impl Reading<'_> {
    fn fault(&mut self, span: Option<std::ops::Range<usize>>, message: impl std::fmt::Display) {
        let span = span.filter(|span| !span.is_empty()).unwrap_or_else(|| self.span.clone());
        self.faults.push(Fault::at(span, format!("certificate {} {message}", self.name)));
    }

    fn identity(&mut self, settings: &Settings, certname: Option<&str>) -> Identity {
        let common_name =
            settings.common_name.as_ref().map(|cn| (cn.span(), cn.get_ref().render(self.scope)));
        let common_name = match common_name {
            Some((_, Ok(text))) => text,
            Some((span, Err(why))) => {
                self.fault(Some(span), format!("has a faulty common_name: {why}"));
                return self.identity(&Settings { common_name: None, ..settings.clone() }, certname);
            }
            None => certname.unwrap_or_default().to_owned(),
        };
        let usages = settings.usages.as_ref().map(|usages| usages.get_ref().clone());
        if usages.as_ref().is_some_and(BTreeSet::is_empty) {
            self.fault(
                settings.usages.as_ref().map(At::span),
                "has no usages; write \"server\", \"client\" or both",
            );
        }
        let before = self.faults.len();
        let identity = Identity {
            common_name,
            organization: settings
                .organization
                .as_ref()
                .map(|list| self.list("organization", list).into_iter().collect()),
            dns: self
                .names("dns", settings.dns.as_ref())
                .into_iter()
                .map(|name| name.to_ascii_lowercase())
                .collect(),
            ips: self.ips(settings.ips.as_ref()),
            uris: self.names("uris", settings.uris.as_ref()).into_iter().collect(),
            exact_usages: usages.is_some(),
            usages: usages.unwrap_or_else(|| [Usage::Server, Usage::Client].into()),
            key: settings.key.unwrap_or_default(),
            ttl: settings.ttl.map(|span| span.0),
        };
        if self.faults.len() == before {
            identity
                .check()
                .into_iter()
                .for_each(|why| self.fault(None, format!("cannot be asked for: {why}")));
        }
        identity
    }

    fn certname(&mut self, settings: &Settings) -> Option<String> {
        let certname = settings.certname.as_ref()?;
        let rendered = certname.get_ref().render(self.scope);
        rendered
            .map_err(|why| self.fault(Some(certname.span()), format!("has a faulty certname: {why}")))
            .ok()
    }

    fn hooks(&mut self, settings: &Settings) -> Vec<Hook> {
        let mut hooks = settings.hooks.clone().unwrap_or_default();
        match settings.reload.as_ref().map(|units| (units.span(), deed::reloads(units.get_ref()))) {
            Some((_, Ok(reloads))) => hooks.extend(reloads),
            Some((span, Err(why))) => self.fault(Some(span), format!("has a faulty reload: {why}")),
            None => {}
        }
        hooks
    }

    fn names(&mut self, key: &str, list: Option<&At<Vec<Template>>>) -> Vec<String> {
        list.map(|list| self.list(key, list)).unwrap_or_default()
    }

    fn list(&mut self, key: &str, list: &At<Vec<Template>>) -> Vec<String> {
        let mut texts = Vec::new();
        for template in list.get_ref() {
            match template.splice(self.scope) {
                Ok(found) => texts.extend(found),
                Err(why) => self.fault(Some(list.span()), format!("has a faulty {key}: {why}")),
            }
        }
        texts
    }

    fn ips(&mut self, list: Option<&At<Vec<Template>>>) -> BTreeSet<IpAddr> {
        let Some(list) = list else { return BTreeSet::new() };
        let mut ips = BTreeSet::new();
        for text in self.list("ips", list) {
            match text.parse() {
                Ok(ip) => drop(ips.insert(ip)),
                Err(_) => self
                    .fault(Some(list.span()), format!("has {text:?} among its ips, which is no IP address")),
            }
        }
        ips
    }

    fn place(&mut self, settings: &Settings) -> Option<Place> {
        let Some(directory) = &settings.directory else {
            self.fault(None, "has no directory; say where its files are to lie");
            return None;
        };
        if !is_plain_path(directory.get_ref()) {
            self.fault(Some(directory.span()), "needs a directory that is an absolute path without '..'");
        }
        let span = settings.files.as_ref().map(At::span);
        let names = settings.files.as_ref().map(|files| files.get_ref().clone()).unwrap_or_default();
        let place = Place {
            directory: directory.get_ref().clone(),
            cert: names.cert.unwrap_or_else(|| format!("{}.crt", self.name)),
            key: names.key.unwrap_or_else(|| format!("{}.key", self.name)),
            chain: names.chain,
            combined: names.combined,
            layout: settings.layout.unwrap_or_default(),
            owner: Owner { user: settings.owner.clone(), group: settings.group.clone() },
            key_mode: settings.mode.and_then(|mode| mode.key).unwrap_or(Mode(0o600)),
            cert_mode: settings.mode.and_then(|mode| mode.cert).unwrap_or(Mode(0o644)),
            replace: settings.replace.unwrap_or(false),
        };
        let files = [Some(&place.cert), Some(&place.key), place.chain.as_ref(), place.combined.as_ref()];
        for file in files.into_iter().flatten().filter(|file| !is_file_name(file)) {
            self.fault(span.clone(), format!("has {file:?} among its files, which is not a plain file name"));
        }
        if place.key_mode.0 & 0o007 != 0 {
            self.fault(
                None,
                format!("has key mode {}, which lets every user in; at most 0660 can be", place.key_mode),
            );
        }
        Some(place)
    }
}

/// The same on every run of a host, and another on every host and for every certificate.
fn splay(scope: &Scope, name: &Name) -> f64 {
    let host = scope.0.get("fqdn").map(ToString::to_string).unwrap_or_default();
    let [a, b, ..] = Pin::of(format!("{host}/{name}").as_bytes()).bytes();
    f64::from(u16::from_be_bytes([a, b])) / f64::from(u16::MAX)
}

/// Whether a path of the configuration can be meant: absolute, and not by way of `..`.
pub fn is_plain_path(path: &Path) -> bool {
    use std::path::Component;
    path.is_absolute()
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

fn is_file_name(file: &str) -> bool {
    Path::new(file).file_name().is_some_and(|name| name == file) && !file.starts_with(".nodecert")
}
