//! Certificate authorities: whom a host asks for its certificates, and how asking can end.
//!
//! A new CA is one file in `ca/` (its settings, its dialect, `obtain` and hints), one arm in [`Kind`]
//! and [`Ca`], one fake and one test against the real thing.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;

use crate::bundle::{Bundle, Leaf, Pair};
use crate::clock::Clock;
use crate::identity::Identity;
use crate::key::{Csr, Dialect};
use crate::setting::{Name, Secret};
use crate::trust::Anchors;

pub mod cfssl;
mod error;
pub mod glance;
pub mod local;
mod patience;
pub mod puppet;
mod settings;
mod text;
pub mod vault;
mod wire;

pub use error::{CaError, Lack, Setting};
pub use patience::{Backoff, Deadline};
pub use settings::{Kind, Server, Settings, Table};
pub use text::said;

/// Puts a secret on disk; the error says why it could not.
pub type Keep = Box<dyn Fn(&Secret) -> Result<(), String>>;

/// What was found on the host for a CA before it is asked.
pub struct Material {
    /// The certificates of `tls.file`.
    pub tls: Option<Anchors>,
    /// The secrets, in the order of [`Settings::secrets`]; the error says why one could not be had.
    pub secrets: Vec<Result<Secret, Lack>>,
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
