//! Why a certificate is not the one that is wanted.

use std::time::{Duration, SystemTime};

use crate::clock::{at, human};
use crate::identity::KeyKind;

/// Why a certificate is not the one that is wanted. Each check of the judge has its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// No certificate, a damaged one, or more than a chain can have.
    #[error("it cannot be read as a certificate chain: {0}")]
    Unreadable(String),
    /// The certificate belongs to another key.
    #[error("its public key is not that of our private key")]
    KeyMismatch,
    /// The key is of another kind than the configuration asks for.
    #[error("its key is not {0:?}, which the configuration asks for")]
    KeyKind(KeyKind),
    /// It would let its holder sign certificates.
    #[error("it is a CA certificate (CA:TRUE), not one for a host")]
    CaCertificate,
    /// A hash that can be forged.
    #[error("it is signed with the weak algorithm {0}")]
    WeakSignature(String),
    /// It has ended.
    #[error("it expired {}", at(*.0))]
    Expired(SystemTime),
    /// It has not begun: most often a clock is wrong.
    #[error("it is valid only from {}, and this host's clock says {}", at(*.from), at(*.now))]
    NotYetValid {
        /// The beginning of its validity.
        from: SystemTime,
        /// This host's time.
        now: SystemTime,
    },
    /// Its anchor has ended.
    #[error("the CA certificate it leads to, {name:?}, expired {}", at(*.when))]
    AnchorExpired {
        /// The subject of the CA certificate.
        name: String,
        /// The end of its validity.
        when: SystemTime,
    },
    /// No chain to an anchor.
    #[error("it does not lead to a trusted CA certificate: {0}")]
    Untrusted(String),
    /// Extended key usages that are asked for and not there.
    #[error("it lacks the extended key usage {}", names(.0))]
    MissingUsage(Vec<String>),
    /// Extended key usages that are there and not asked for.
    #[error("it has the extended key usage {}, which was not asked for", names(.0))]
    ExtraUsage(Vec<String>),
    /// Its CA takes it back.
    #[error("its CA has revoked it")]
    Revoked,
    /// Another common name.
    #[error("its common name is {found:?}, not {wanted:?}")]
    CommonName {
        /// What the configuration asks for.
        wanted: String,
        /// What it says.
        found: String,
    },
    /// Other organizations; an extra one is a privilege.
    #[error("its organization is {}, not {}", names(.found), names(.wanted))]
    Organization {
        /// What the configuration asks for.
        wanted: Vec<String>,
        /// What it says.
        found: Vec<String>,
    },
    /// DNS names that are asked for and not there.
    #[error("it lacks the DNS name {}", names(.0))]
    MissingDns(Vec<String>),
    /// Addresses that are asked for and not there.
    #[error("it lacks the address {}", names(.0))]
    MissingIp(Vec<String>),
    /// URIs that are asked for and not there.
    #[error("it lacks the URI {}", names(.0))]
    MissingUri(Vec<String>),
    /// So short that it is due the moment it is issued.
    #[error("it is valid for {} only and would be due at once", human(*.0))]
    DueAtOnce(Duration),
}

fn names<T: AsRef<str>>(list: &[T]) -> String {
    if list.is_empty() {
        "none".to_owned()
    } else {
        list.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ")
    }
}
