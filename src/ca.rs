//! Certificate authorities: whom a host asks for its certificates, and how asking can end.
//!
//! A new CA is one file in `ca/` (its settings, its dialect, `obtain` and hints), one arm in [`Kind`]
//! and [`Ca`], one fake and one test against the real thing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls_pki_types::CertificateDer;
use serde::Deserialize;

use crate::bundle::{Bundle, Rejected};
use crate::clock::Clock;
use crate::identity::Identity;
use crate::key::{Csr, Dialect};
use crate::setting::{At, Fault, Name, Secret, SecretSource, Span};
use crate::trust::{AnchorSource, Anchors, Tls};

pub mod local;
mod tls;
pub mod vault;
mod wire;

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
struct Faults<'a> {
    name: &'a Name,
    span: Range<usize>,
    found: Vec<Fault>,
}

impl Faults<'_> {
    fn add(&mut self, span: Option<Range<usize>>, message: impl std::fmt::Display) {
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
            wire::proxy_url(proxy.get_ref()).map_err(|why| self.add(Some(proxy.span()), why)).ok()
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

    /// What it signs with; `None` where that is [`Material::root`].
    pub fn anchors(&self) -> Option<&AnchorSource> {
        self.server().map(|server| &server.anchors)
    }

    /// Whether its anchors are known only when it has been asked ([`Ca::published`]).
    pub fn needs_anchor_fetch(&self) -> bool {
        matches!(self.anchors(), Some(AnchorSource::Pins(_) | AnchorSource::Published))
    }

    /// The secrets it may log in with, in the order of [`Material::secrets`].
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

/// Puts a secret on disk; the error says why it could not.
pub type Keep = Box<dyn Fn(&Secret) -> Result<(), String>>;

/// What was found on the host for a CA before it is asked.
pub struct Material {
    /// The certificates of `tls.file`.
    pub tls: Option<Anchors>,
    /// The secrets, in the order of [`Settings::secrets`]; the error says why one could not be had.
    pub secrets: Vec<Result<Secret, String>>,
    /// What an earlier run unwrapped from the wrapping token that is there now, or from one that is gone.
    pub stored: Option<Secret>,
    /// The usable certificates among [`Settings::logs_in_with`].
    pub bundles: BTreeMap<Name, Bundle>,
    /// Puts an unwrapped secret on disk, durably; called before it is used, for it cannot be had again.
    pub keep: Keep,
    /// Key and certificate of a local CA.
    pub root: Option<local::Authority>,
}

impl Default for Material {
    /// Nothing was found, and nothing can be kept.
    fn default() -> Self {
        Self {
            tls: None,
            secrets: Vec::new(),
            stored: None,
            bundles: BTreeMap::new(),
            keep: Box::new(|_| Err("there is no place to keep it".to_owned())),
            root: None,
        }
    }
}

/// Why a CA did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Nobody answered, or nobody who could. Running again may help.
    #[error("CA {ca}: cannot {asked}: {why}; run again when it answers")]
    Temporary {
        /// The CA.
        ca: Name,
        /// What was to be done.
        asked: String,
        /// What each URL said.
        why: String,
    },
    /// A TLS failure that a wrong clock explains.
    #[error("CA {ca}: cannot {asked}: {why}")]
    Clock {
        /// The CA.
        ca: Name,
        /// What was to be done.
        asked: String,
        /// URL, certificate and clock.
        why: String,
    },
    /// The CA has the request and has not signed it yet.
    #[error("CA {ca}: {why}")]
    Pending {
        /// The CA.
        ca: Name,
        /// What it waits for.
        why: String,
    },
    /// It said no.
    #[error("CA {ca} refused to {asked} ({url}): {said}{}", then(.advice))]
    Refused {
        /// The CA.
        ca: Name,
        /// What was to be done.
        asked: String,
        /// Who said no.
        url: String,
        /// Its status and words.
        said: String,
        /// What to do next, where we know it.
        advice: String,
    },
    /// Its server is not the one that the configuration trusts.
    #[error("CA {ca}: {url} is not trusted: {why}")]
    Untrusted {
        /// The CA.
        ca: Name,
        /// Its server.
        url: String,
        /// What it presented, and what to do next.
        why: String,
    },
    /// It said yes and gave something that cannot be used.
    #[error("CA {ca} ({url}), asked to {asked}, gave a bad answer: {why}")]
    BadAnswer {
        /// The CA.
        ca: Name,
        /// What was to be done.
        asked: String,
        /// Who gave it.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// Every way to log in failed.
    #[error("CA {ca}: no way to log in worked: {reasons}")]
    NoLogin {
        /// The CA.
        ca: Name,
        /// Each way with its reason.
        reasons: String,
        /// Whether the CA refused one of them; if not, the secrets are not there yet.
        refused: bool,
    },
    /// What it needs on this host is not there or cannot be used: a fault of the host.
    #[error("CA {ca} cannot be asked: {why}")]
    Unusable {
        /// The CA.
        ca: Name,
        /// What is missing, and what to do.
        why: String,
    },
}

fn then(advice: &str) -> String {
    if advice.is_empty() { String::new() } else { format!("; {advice}") }
}

impl CaError {
    /// Whether the fault lies on this host.
    pub fn is_fault(&self) -> bool {
        matches!(self, Self::Unusable { .. })
    }

    /// Whether running again later may help without anyone doing anything.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Temporary { .. } | Self::Clock { .. } | Self::Pending { .. } => true,
            Self::NoLogin { refused, .. } => !refused,
            Self::Refused { .. }
            | Self::Untrusted { .. }
            | Self::BadAnswer { .. }
            | Self::Unusable { .. } => false,
        }
    }
}

/// What is asked of a CA.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The certificate's name in the configuration.
    pub name: &'a Name,
    /// The request, kept on disk before it is sent.
    pub csr: &'a Csr,
    /// What the certificate is to say.
    pub identity: &'a Identity,
    /// The certificate's own role.
    pub role: Option<&'a str>,
}

/// What a CA answered: not judged yet.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
}

/// A CA that is ready to be asked.
pub enum Ca {
    /// Over the network.
    Vault(Box<vault::Vault>),
    /// On this host.
    Local(Box<local::Local>),
}

impl Ca {
    /// Makes a CA ready; nothing is sent before it is asked.
    pub fn open(
        name: &Name,
        settings: &Settings,
        material: Material,
        clock: &Clock,
        deadline: Deadline,
    ) -> Result<Self, CaError> {
        match &settings.kind {
            Kind::Vault(vault) => {
                vault::Vault::open(name, vault, material, clock, deadline).map(|v| Self::Vault(Box::new(v)))
            }
            Kind::Local(local) => {
                local::Local::open(name, local, material.root, clock).map(|l| Self::Local(Box::new(l)))
            }
        }
    }

    /// The CA certificates that the CA publishes, over the trusted connection.
    pub async fn published(&self) -> Result<Vec<CertificateDer<'static>>, Arc<CaError>> {
        match self {
            Self::Vault(vault) => vault.published().await.map_err(Arc::new),
            Self::Local(local) => Ok(vec![local.certificate().clone()]),
        }
    }

    /// Asks for a certificate, and waits for it until the deadline.
    pub async fn obtain(&self, request: &Request<'_>) -> Result<Issued, Arc<CaError>> {
        match self {
            Self::Vault(vault) => vault.obtain(request).await,
            Self::Local(local) => local.obtain(request).map_err(Arc::new),
        }
    }

    /// Gives back what was lent for this run: the token of our own login. Failing is no error.
    pub async fn close(&self) {
        if let Self::Vault(vault) = self {
            vault.close().await;
        }
    }
}

/// The moment at which a run gives up.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// So long from now.
    pub fn after(length: Duration) -> Self {
        #[allow(clippy::disallowed_methods, reason = "a length of waiting, not a time of day")]
        Self(Instant::now() + length)
    }

    /// What is left of it.
    pub fn left(&self) -> Duration {
        #[allow(clippy::disallowed_methods, reason = "a length of waiting, not a time of day")]
        self.0.saturating_duration_since(Instant::now())
    }
}

/// How long to wait before asking again: exponential with full jitter, so that hosts which failed
/// together do not return together (AWS Architecture Blog, "Exponential Backoff And Jitter").
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    attempts: u32,
}

impl Backoff {
    const BASE: Duration = Duration::from_millis(500);
    const CAP: Duration = Duration::from_secs(30);
    /// What is kept for the last attempt itself.
    const RESERVE: Duration = Duration::from_millis(300);

    /// The next wait: not before `after`, which is what the server asked for, and so that an attempt
    /// still fits into what is `left`. `None` where none fits.
    pub fn next(&mut self, after: Option<Duration>, left: Duration, entropy: u64) -> Option<Duration> {
        let least = after.unwrap_or_default();
        let most = left.checked_sub(Self::RESERVE).filter(|&most| most > least)?;
        let ceiling = Self::BASE.saturating_mul(1 << self.attempts.min(16)).min(Self::CAP);
        self.attempts += 1;
        let share = f64::from(u32::try_from(entropy >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX);
        Some((least + ceiling.mul_f64(share)).min(most))
    }
}
