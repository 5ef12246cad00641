//! `[ca.NAME]`: what is written, what it means, and every fault of it at once.

use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;

use super::{local, text, vault};
use crate::bundle::Rejected;
use crate::identity::Identity;
use crate::key::Dialect;
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
        let fault = |message: &str| Err(vec![Fault::at(span.clone(), format!("CA {name} {message}"))]);
        match (self.vault, self.local) {
            (None, None) => {
                fault("has no kind; write a table [ca.NAME.vault] (OpenBao too) or [ca.NAME.local]")
            }
            (Some(_), Some(_)) => fault("has two kinds, vault and local; keep one of the tables"),
            (None, Some(local)) => Ok(Settings { refresh, kind: Kind::Local(local.into_inner()) }),
            (Some(vault), None) => {
                let mut faults = Faults { name, span, found: Vec::new() };
                let server = faults.server(self.tls, self.anchors, self.proxy);
                let settings = vault.into_inner().settings(server, &mut faults);
                match settings {
                    Some(settings) if faults.found.is_empty() => {
                        Ok(Settings { refresh, kind: Kind::Vault(settings) })
                    }
                    _ => Err(faults.found),
                }
            }
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
            Kind::Local(_) => local::admits(wanted),
        }
    }

    /// The role of certificates that name none.
    pub fn role(&self) -> Option<&str> {
        match &self.kind {
            Kind::Vault(vault) => vault.role.as_deref(),
            Kind::Local(_) => None,
        }
    }

    /// What its protocol bears in a request.
    pub fn dialect(&self) -> Dialect {
        Dialect { usages: true }
    }

    /// The option of the CA that is behind a rejection of what it issued.
    pub fn hint(&self, why: &Rejected) -> Option<String> {
        match &self.kind {
            Kind::Vault(vault) => vault.hint(why),
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
        matches!(self.anchors(), Some(AnchorSource::Pins(_) | AnchorSource::Published))
    }

    /// The secrets it may log in with, in the order of [`super::Material::secrets`].
    pub fn secrets(&self) -> Vec<&SecretSource> {
        match &self.kind {
            Kind::Vault(vault) => vault.secrets(),
            Kind::Local(_) => Vec::new(),
        }
    }

    /// The source of the one-time secret among them that is unwrapped and then kept on disk.
    pub fn wrapped(&self) -> Option<&SecretSource> {
        match &self.kind {
            Kind::Vault(vault) => vault.wrapped(),
            Kind::Local(_) => None,
        }
    }

    /// The certificates it may log in with.
    pub fn logs_in_with(&self) -> Vec<&At<Name>> {
        match &self.kind {
            Kind::Vault(vault) => vault.logs_in_with(),
            Kind::Local(_) => Vec::new(),
        }
    }

    /// Whether it has a way to log in other than by a certificate.
    pub fn logs_in_otherwise(&self) -> bool {
        match &self.kind {
            Kind::Vault(vault) => vault.auth.len() > vault.logs_in_with().len(),
            Kind::Local(_) => true,
        }
    }

    fn server(&self) -> Option<&Server> {
        match &self.kind {
            Kind::Vault(vault) => Some(&vault.server),
            Kind::Local(_) => None,
        }
    }
}
