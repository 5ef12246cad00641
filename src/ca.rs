//! Certificate authorities: whom a host asks for its certificates, and how asking can end.
//!
//! A new CA is one file in `ca/` (its settings, its dialect, `obtain` and hints), one arm in [`Kind`]
//! and [`Ca`], one fake and one test against the real thing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls_pki_types::CertificateDer;

use crate::bundle::{Bundle, Leaf, Pair};
use crate::clock::Clock;
use crate::identity::Identity;
use crate::key::{Csr, Dialect};
use crate::setting::{Name, Secret};
use crate::trust::Anchors;

pub mod cfssl;
pub mod glance;
pub mod local;
pub mod puppet;
mod settings;
mod text;
pub mod vault;
mod wire;

pub use settings::{Kind, Server, Settings, Table};
pub use text::said;

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
    /// A wrapping token that wraps something else than it should. It was not opened.
    #[error(
        "CA {ca}: the wrapping token was made by {found:?}, not by {wanted:?}: it may have been exchanged on its way, and was not opened; find out how it came here, then {advice}"
    )]
    Exchanged {
        /// The CA.
        ca: Name,
        /// Where the token was made.
        found: String,
        /// Where it should have been made.
        wanted: String,
        /// How to make a new one.
        advice: String,
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
    /// A name that is one certificate's, and that certificate cannot be ours or cannot be renewed.
    #[error(
        "CA {ca}, certname {certname}: {why}; `puppetserver ca clean --certname {certname}` on the CA's server frees the name, then run again"
    )]
    Taken {
        /// The CA.
        ca: Name,
        /// The name.
        certname: String,
        /// What is there.
        why: String,
    },
    /// What a request is to hold cannot be had yet.
    #[error("CA {ca} cannot be asked yet: {why}")]
    NoSecret {
        /// The CA.
        ca: Name,
        /// What is missing.
        why: String,
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

    /// Whether it is for an operator to act first.
    pub fn is_blocked(&self) -> bool {
        matches!(self, Self::Taken { .. })
    }

    /// Whether running again later may help without anyone doing anything.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Temporary { .. } | Self::Clock { .. } | Self::Pending { .. } | Self::NoSecret { .. } => {
                true
            }
            Self::NoLogin { refused, .. } => !refused,
            Self::Refused { .. }
            | Self::Untrusted { .. }
            | Self::Exchanged { .. }
            | Self::BadAnswer { .. }
            | Self::Taken { .. }
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
    /// What is held now.
    pub held: Option<&'a Leaf>,
}

/// What is asked of a CA that renews a certificate in force by its own means.
#[derive(Debug, Clone, Copy)]
pub struct Renewal<'a> {
    /// What is in force.
    pub bundle: &'a Bundle,
    /// What the certificate is to say.
    pub identity: &'a Identity,
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
    /// Over the network.
    Puppet(Box<puppet::Puppet>),
    /// Over the network.
    Cfssl(Box<cfssl::Cfssl>),
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
            Kind::Puppet(puppet) => puppet::Puppet::open(name, puppet, material, clock, deadline)
                .map(|p| Self::Puppet(Box::new(p))),
            Kind::Cfssl(cfssl) => {
                cfssl::Cfssl::open(name, cfssl, material, clock, deadline).map(|c| Self::Cfssl(Box::new(c)))
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
            Self::Puppet(puppet) => puppet.published().await,
            Self::Cfssl(cfssl) => cfssl.published().await,
            Self::Local(local) => Ok(vec![local.certificate().clone()]),
        }
    }

    /// The revocation lists that the CA publishes, PEM; `None` where none is read.
    pub async fn crl(&self) -> Result<Option<String>, Arc<CaError>> {
        match self {
            Self::Puppet(puppet) => puppet.crl().await.map(Some),
            Self::Vault(_) | Self::Cfssl(_) | Self::Local(_) => Ok(None),
        }
    }

    /// What its requests hold; the error says which part cannot be had.
    pub fn dialect(&self) -> Result<Dialect, Arc<CaError>> {
        match self {
            Self::Puppet(puppet) => puppet.dialect().map_err(Arc::new),
            Self::Vault(_) | Self::Cfssl(_) | Self::Local(_) => Ok(Dialect::default()),
        }
    }

    /// Renews the certificate in force with its own key, where the CA has a way of its own to do so; `None`
    /// where it is to be asked as if for the first time.
    pub async fn renew(&self, renewal: &Renewal<'_>) -> Result<Option<Issued>, Arc<CaError>> {
        match self {
            Self::Puppet(puppet) => puppet.renew(renewal).await,
            Self::Vault(_) | Self::Cfssl(_) | Self::Local(_) => Ok(None),
        }
    }

    /// Asks for a certificate, and waits for it until the deadline.
    pub async fn obtain(&self, request: &Request<'_>) -> Result<Issued, Arc<CaError>> {
        match self {
            Self::Vault(vault) => vault.obtain(request).await,
            Self::Puppet(puppet) => puppet.obtain(request).await,
            Self::Cfssl(cfssl) => cfssl.obtain(request).await,
            Self::Local(local) => local.obtain(request).map_err(Arc::new),
        }
    }

    /// Has a certificate revoked; or says the command for its operator, where no one else is heard.
    pub async fn revoke(&self, name: &Name, pair: &Pair) -> Result<Option<String>, Arc<CaError>> {
        match self {
            Self::Vault(vault) => vault.revoke(name, pair.leaf()).await.map(|()| None),
            Self::Puppet(puppet) => Ok(Some(puppet.revocation(pair.leaf()))),
            Self::Cfssl(cfssl) => Ok(Some(cfssl.revocation(pair))),
            Self::Local(_) => Ok(None),
        }
    }

    /// Whether one of these certificates, which have just come, is enough to log in with from now on: tried,
    /// for the secret that led here is not kept for longer.
    pub async fn needs_no_secret(&self, held: &BTreeMap<Name, Bundle>) -> bool {
        match self {
            Self::Vault(vault) => vault.needs_no_secret(held).await,
            Self::Puppet(_) | Self::Cfssl(_) | Self::Local(_) => false,
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

/// How long to wait before asking again: exponential with full jitter, so that hosts which failed together do not
/// return together (AWS Architecture Blog, "Exponential Backoff And Jitter"); but no longer than a share of what was
/// waited already, or those who are last would wait for long while the CA has nothing to do.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    attempts: u32,
    waited: Duration,
}

impl Backoff {
    const BASE: Duration = Duration::from_millis(500);
    const CAP: Duration = Duration::from_secs(30);
    /// Up to here it only doubles.
    const FREE: Duration = Duration::from_secs(6);
    const SHARE: u32 = 5;
    /// What is kept for the last attempt itself.
    const RESERVE: Duration = Duration::from_millis(300);

    /// The next wait: not before `after`, which is what the server asked for, and so that an attempt
    /// still fits into what is `left`. `None` where none fits.
    pub fn next(&mut self, after: Option<Duration>, left: Duration, entropy: u64) -> Option<Duration> {
        let least = after.unwrap_or_default();
        let most = left.checked_sub(Self::RESERVE).filter(|&most| most > least)?;
        let cap = (self.waited / Self::SHARE).clamp(Self::FREE, Self::CAP);
        let ceiling = Self::BASE.saturating_mul(1 << self.attempts.min(16)).min(cap);
        self.attempts += 1;
        let share = f64::from(u32::try_from(entropy >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX);
        let wait = (least + ceiling.mul_f64(share)).min(most);
        self.waited += wait;
        Some(wait)
    }
}
