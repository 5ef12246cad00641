//! `[ca.NAME]`: what is written, what it means, and every fault of it at once.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::{Setting, cfssl, local, puppet, text, vault};
use crate::bundle::Rejected;
use crate::identity::Identity;
use crate::setting::{At, Fault, Name, SecretSource, Span};
use crate::trust::{AnchorSource, Tls};

/// How often anchors are read again where the configuration does not say.
const REFRESH: Duration = Duration::from_secs(24 * 3_600);

/// `[ca.NAME]`, as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "packaging/config.toml is their reference")]
pub struct Table {
    pub tls: Option<At<Tls>>,
    pub anchors: Option<At<AnchorSource>>,
    pub refresh: Option<Span>,
    pub proxy: Option<At<String>>,
    pub vault: Option<At<vault::Table>>,
    pub puppet: Option<At<puppet::Table>>,
    pub cfssl: Option<At<cfssl::Table>>,
    pub local: Option<At<local::Settings>>,
}

/// A CA that can be asked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How old anchors may be before they are read again.
    pub refresh: Duration,
    /// What it is.
    pub kind: Kind,
}

/// The kinds of CA.
#[derive(Debug, Clone)]
pub enum Kind {
    /// The PKI secrets engine of OpenBao or HashiCorp Vault.
    Vault(vault::Settings),
    /// The CA of a Puppet server.
    Puppet(puppet::Settings),
    /// A cfssl server.
    Cfssl(cfssl::Settings),
    /// A CA of this host alone.
    Local(local::Settings),
}

/// A CA's server, whatever protocol it speaks.
#[derive(Debug, Clone)]
pub struct Server {
    /// Where it listens, without a slash at the end; tried in turn.
    pub urls: Vec<String>,
    /// How it proves itself.
    pub tls: Tls,
    /// What it signs with.
    pub anchors: AnchorSource,
    /// An HTTP proxy; without it none is used, whatever the environment says.
    pub proxy: Option<String>,
}

impl Table {
    /// What the table means. `span` is where it stands; every fault comes at once.
    pub fn settings(self, name: &Name, span: Range<usize>) -> Result<Settings, Vec<Fault>> {
        let refresh = self.refresh.map_or(REFRESH, |span| span.0);
        let mut faults = Faults { name, span, found: Vec::new() };
        let kind = match (self.vault, self.puppet, self.cfssl, self.local) {
            (Some(vault), None, None, None) => {
                let server = faults.server(self.tls, self.anchors, self.proxy);
                vault.into_inner().settings(server, &mut faults).map(Kind::Vault)
            }
            (None, Some(puppet), None, None) => {
                let puppet = puppet.into_inner();
                let (tls, anchors) = faults.one_for_another(self.tls, self.anchors, puppet.first_use);
                let server = faults.server(tls, anchors, self.proxy);
                puppet.settings(server, &mut faults).map(Kind::Puppet)
            }
            (None, None, Some(cfssl), None) => {
                let server = faults.server(self.tls, self.anchors, self.proxy);
                cfssl.into_inner().settings(server, &mut faults).map(Kind::Cfssl)
            }
            (None, None, None, Some(local)) => Some(Kind::Local(local.into_inner())),
            (None, None, None, None) => {
                faults.add(None, "has no kind; write a table [ca.NAME.vault] (OpenBao too), [ca.NAME.puppet], [ca.NAME.cfssl] or [ca.NAME.local]");
                None
            }
            _ => {
                faults.add(None, "has two kinds; keep one of its tables vault, puppet, cfssl and local");
                None
            }
        };
        match kind {
            Some(kind) if faults.found.is_empty() => Ok(Settings { refresh, kind }),
            _ => Err(faults.found),
        }
    }
}

/// The faults met while a CA's table is read.
pub(super) struct Faults<'a> {
    name: &'a Name,
    span: Range<usize>,
    found: Vec<Fault>,
}

impl Faults<'_> {
    pub(super) fn add(&mut self, span: Option<Range<usize>>, message: impl std::fmt::Display) {
        let span = span.filter(|span| !span.is_empty()).unwrap_or_else(|| self.span.clone());
        self.found.push(Fault::at(span, format!("CA {} {message}", self.name)));
    }

    /// A Puppet CA signs its server's certificate too, so one of `tls` and `anchors` says both.
    fn one_for_another(
        &mut self,
        tls: Option<At<Tls>>,
        anchors: Option<At<AnchorSource>>,
        first_use: bool,
    ) -> (Option<At<Tls>>, Option<At<AnchorSource>>) {
        match (tls, anchors) {
            (tls, anchors) if first_use => {
                if tls.is_some() || anchors.is_some() {
                    self.add(
                        None,
                        "has first_use beside tls or anchors, which are better; leave first_use out",
                    );
                }
                (Some(At::new(0..0, Tls::FirstUse)), Some(At::new(0..0, AnchorSource::FirstUse)))
            }
            (Some(tls), None) => {
                let anchors = match tls.get_ref() {
                    Tls::File(path) => Some(AnchorSource::File(path.clone())),
                    Tls::Pins(pins) => Some(AnchorSource::Pins(pins.clone())),
                    Tls::System | Tls::FirstUse => None,
                };
                (Some(tls), anchors.map(|anchors| At::new(0..0, anchors)))
            }
            (None, Some(anchors)) => {
                let tls = match anchors.get_ref() {
                    AnchorSource::File(path) => Some(Tls::File(path.clone())),
                    AnchorSource::Pins(pins) => Some(Tls::Pins(pins.clone())),
                    AnchorSource::Published | AnchorSource::FirstUse => None,
                };
                (tls.map(|tls| At::new(0..0, tls)), Some(anchors))
            }
            both => both,
        }
    }

    /// The server without its URLs, which stand in the table of the kind.
    fn server(
        &mut self,
        tls: Option<At<Tls>>,
        anchors: Option<At<AnchorSource>>,
        proxy: Option<At<String>>,
    ) -> Option<Server> {
        if tls.is_none() {
            self.add(None, "has no tls; say how its server proves itself: tls.file, tls.pins or tls.system = true (`nodecert trust URL` prints them)");
        }
        if anchors.is_none() {
            self.add(None, "has no anchors; say what it signs with: anchors.file, anchors.pins or anchors.published = true");
        }
        let proxy = proxy.and_then(|proxy| {
            text::proxy_url(proxy.get_ref()).map_err(|why| self.add(Some(proxy.span()), why)).ok()
        });
        Some(Server { urls: Vec::new(), tls: tls?.into_inner(), anchors: anchors?.into_inner(), proxy })
    }
}

impl Settings {
    /// Whether this CA could ever give such a certificate; the error says what to change.
    pub fn admits(&self, wanted: &Identity, role: Option<&str>) -> Result<(), String> {
        match &self.kind {
            Kind::Vault(vault) => vault.admits(wanted, role),
            Kind::Puppet(puppet) => puppet.admits(wanted, role),
            Kind::Cfssl(cfssl) => cfssl.admits(wanted),
            Kind::Local(_) => local::admits(wanted),
        }
    }

    /// The role that a component's certificate asks for where nothing else is said: the one of its own name.
    /// The CA gives organization and usages by role, so each needs one of its own.
    pub fn role_for(&self, name: &Name) -> Option<String> {
        match &self.kind {
            Kind::Vault(vault) if vault.role.is_none() => Some(name.to_string()),
            Kind::Vault(_) | Kind::Puppet(_) | Kind::Cfssl(_) | Kind::Local(_) => None,
        }
    }

    /// The name under which it keeps a certificate, and which is the certificate's common name; `None`
    /// where it keeps none. `host` is this host's own name. The error says what to change.
    pub fn certname(
        &self,
        certname: Option<&str>,
        common_name: &str,
        host: &str,
    ) -> Result<Option<String>, String> {
        match &self.kind {
            Kind::Puppet(puppet) => puppet.certname(certname, common_name, host).map(Some),
            Kind::Vault(_) | Kind::Cfssl(_) | Kind::Local(_) if certname.is_some() => {
                Err("certname is for Puppet CAs; use common_name".to_owned())
            }
            Kind::Vault(_) | Kind::Cfssl(_) | Kind::Local(_) => Ok(None),
        }
    }

    /// Whether one name is one certificate there, which is renewed with its key or not at all, so that
    /// neither a key nor a request is thrown away.
    pub fn keeps_names(&self) -> bool {
        matches!(self.kind, Kind::Puppet(_))
    }

    /// How long before it signs them its certificates are valid: the default of a role's `not_before_duration`, a day
    /// at a Puppet CA, and cfssl's default of `backdate`.
    pub fn backdates(&self) -> Duration {
        match self.kind {
            Kind::Vault(_) => Duration::from_secs(30),
            Kind::Puppet(_) => Duration::from_secs(24 * 3_600),
            Kind::Cfssl(_) => Duration::from_secs(300),
            Kind::Local(_) => local::SKEW,
        }
    }

    /// Where its server listens.
    pub fn urls(&self) -> &[String] {
        self.server().map_or(&[], |server| &server.urls)
    }

    /// Whether its revocation lists are read.
    pub fn publishes_crl(&self) -> bool {
        matches!(self.kind, Kind::Puppet(_))
    }

    /// What its operator has to do before another certificate can come under a name.
    pub fn frees(&self, certname: &str) -> Option<String> {
        self.keeps_names()
            .then(|| format!("`puppetserver ca clean --certname {certname}` on the CA's server"))
    }

    /// The lifetime of certificates that ask for none, where this configuration says it.
    pub fn ttl(&self) -> Option<&At<Span>> {
        match &self.kind {
            Kind::Local(local) => local.ttl.as_ref(),
            Kind::Vault(_) | Kind::Puppet(_) | Kind::Cfssl(_) => None,
        }
    }

    /// Where in the table of the CA a setting can stand, the likeliest first, each as the keys on the way to it. One of
    /// `tls` and `anchors` may say both.
    pub fn ways(&self, setting: Setting) -> Vec<&'static [&'static str]> {
        match setting {
            Setting::Table => Vec::new(),
            Setting::Tls => vec![&["tls"], &["anchors"]],
            Setting::Anchors => vec![&["anchors"], &["tls"]],
            Setting::TlsFile => vec![&["tls", "file"], &["anchors", "file"]],
            Setting::AnchorsFile => vec![&["anchors", "file"], &["tls", "file"]],
            Setting::Urls | Setting::Auth | Setting::Mount | Setting::Role | Setting::Label => {
                let way = match &self.kind {
                    Kind::Vault(_) => vault::way(setting),
                    Kind::Puppet(_) => puppet::way(setting),
                    Kind::Cfssl(_) => cfssl::way(setting),
                    Kind::Local(_) => None,
                };
                way.into_iter().collect()
            }
        }
    }

    /// The option of the CA that is behind a rejection of what it issued.
    pub fn hint(&self, why: &Rejected) -> Option<String> {
        match &self.kind {
            Kind::Vault(vault) => vault.hint(why),
            Kind::Puppet(puppet) => puppet.hint(why),
            Kind::Cfssl(cfssl) => cfssl.hint(why),
            Kind::Local(_) => None,
        }
    }

    /// How its server proves itself; `None` where there is no server.
    pub fn tls(&self) -> Option<&Tls> {
        self.server().map(|server| &server.tls)
    }

    /// What it signs with; `None` where that is [`super::Material::root`].
    pub fn anchors(&self) -> Option<&AnchorSource> {
        self.server().map(|server| &server.anchors)
    }

    /// Whether its anchors are known only when it has been asked ([`super::Ca::published`]).
    pub fn needs_anchor_fetch(&self) -> bool {
        matches!(
            self.anchors(),
            Some(AnchorSource::Pins(_) | AnchorSource::Published | AnchorSource::FirstUse)
        )
    }

    /// The secrets it may log in with, in the order of [`super::Material::secrets`].
    pub fn secrets(&self) -> Vec<&SecretSource> {
        match &self.kind {
            Kind::Vault(vault) => vault.secrets(),
            Kind::Puppet(puppet) => puppet.secrets(),
            Kind::Cfssl(cfssl) => vec![&cfssl.key],
            Kind::Local(_) => Vec::new(),
        }
    }

    /// Those of the secrets that no one else may read in the configuration.
    pub fn private(&self) -> Vec<&SecretSource> {
        match &self.kind {
            Kind::Puppet(puppet) => puppet.private(),
            Kind::Vault(_) | Kind::Cfssl(_) | Kind::Local(_) => self.secrets(),
        }
    }

    /// The source of the one-time secret among them that is unwrapped and then kept on disk.
    pub fn wrapped(&self) -> Option<&SecretSource> {
        match &self.kind {
            Kind::Vault(vault) => vault.wrapped(),
            Kind::Puppet(_) | Kind::Cfssl(_) | Kind::Local(_) => None,
        }
    }

    /// The files of secrets that are erased once a certificate is enough to log in.
    pub fn wipes(&self) -> Vec<&Path> {
        match &self.kind {
            Kind::Vault(vault) => vault.wipes(),
            Kind::Puppet(_) | Kind::Cfssl(_) | Kind::Local(_) => Vec::new(),
        }
    }

    /// The certificates it may log in with.
    pub fn logs_in_with(&self) -> Vec<&At<Name>> {
        match &self.kind {
            Kind::Vault(vault) => vault.logs_in_with(),
            Kind::Puppet(_) | Kind::Cfssl(_) | Kind::Local(_) => Vec::new(),
        }
    }

    /// Whether it has a way to log in other than by a certificate.
    pub fn logs_in_otherwise(&self) -> bool {
        match &self.kind {
            Kind::Vault(vault) => vault.auth.len() > vault.logs_in_with().len(),
            Kind::Puppet(_) | Kind::Cfssl(_) | Kind::Local(_) => true,
        }
    }

    fn server(&self) -> Option<&Server> {
        match &self.kind {
            Kind::Vault(vault) => Some(&vault.server),
            Kind::Puppet(puppet) => Some(&puppet.server),
            Kind::Cfssl(cfssl) => Some(&cfssl.server),
            Kind::Local(_) => None,
        }
    }
}
