//! One certificate of this host: the `[certificate.NAME]` table and what it expands to.
//!
//! A component describes its certificates as the same [`Settings`] that a user writes, so a user's
//! table of that name overrides single keys of it.

mod reading;
mod timer;
mod turn;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use crate::bundle::Leaf;
use crate::deed::Hook;
use crate::identity::{Identity, KeyKind, Usage};
use crate::setting::{At, Fault, Mode, Name, Scope, Span, Template};
use crate::trust::Pin;

use reading::Reading;
pub use timer::{INTERVAL, too_short};

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
    pub ttl: Option<At<Span>>,
    pub renew_at: Option<At<f64>>,
    pub spread: Option<bool>,
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
    /// Where among the hosts' turns this one's lies, from 0 to 1; `None` if it does not wait for its turn.
    pub place_in_turn: Option<f64>,
    /// How long before it was signed its CA says that it is valid.
    pub backdated: Duration,
    /// How often the timer runs.
    pub interval: Duration,
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
    /// When a certificate of this configuration is to be renewed: at this host's last turn before it must be. `since`
    /// is when it came here; a CA may date back by more than is assumed, or have a clock that is behind.
    pub fn due_at(&self, leaf: &Leaf, since: Option<SystemTime>) -> SystemTime {
        let (latest, assumed) = (self.must_by(leaf), self.good_for(leaf).saturating_sub(self.backdated));
        let left = since.map_or(assumed, |since| latest.duration_since(since).unwrap_or_default());
        let turn = |place| turn::turn(latest, turn::used(assumed, left), place);
        self.place_in_turn.map_or(latest, turn)
    }

    /// When it must be renewed: after a part of its lifetime, and no later than two runs of the timer before its
    /// end, for one of them may fail. Where that is nearly the whole of it, after a third, so that a run does not
    /// ask again for what the last one got.
    pub fn must_by(&self, leaf: &Leaf) -> SystemTime {
        leaf.not_before + self.good_for(leaf)
    }

    fn good_for(&self, leaf: &Leaf) -> Duration {
        let lifetime = leaf.lifetime();
        let last = lifetime.saturating_sub(2 * self.interval).max(lifetime / 3);
        lifetime.mul_f64(self.renew_at).min(last)
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
            spread: self.spread.or(base.spread),
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
                place_in_turn: self.spread.unwrap_or(true).then(|| place_in_turn(scope, name)),
                backdated: Duration::ZERO,
                interval: INTERVAL,
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

    /// `ca.crt` unless `files.ca` says otherwise; an empty one wants none.
    fn trust_path(&self, directory: &Path) -> Option<PathBuf> {
        let named = self.files.as_ref().and_then(|files| files.get_ref().ca.as_deref());
        let file = named.unwrap_or(Path::new("ca.crt"));
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

/// The same on every run of a host, and another on every host and for every certificate.
fn place_in_turn(scope: &Scope, name: &Name) -> f64 {
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
