//! Whom to trust: anchors, pins, and the settings that say where they come from.

use std::fmt;
use std::path::PathBuf;
use std::time::SystemTime;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::clock::{at, from_seconds};
use crate::key::pem_block;
use crate::setting::is_shown;

mod revocation;

pub use revocation::{proven, revokes};

/// More certificates than any site has roots; a bundle of system roots has about 150.
const MAX_ANCHORS: usize = 500;
/// Characters of a name that are shown.
const MAX_SHOWN: usize = 200;

/// The SHA-256 fingerprint of a certificate, written `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The fingerprint of a certificate's DER.
    pub fn of(der: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
        let mut pin = [0; 32];
        pin.copy_from_slice(digest.as_ref());
        Self(pin)
    }

    /// The fingerprint itself.
    pub fn bytes(self) -> [u8; 32] {
        self.0
    }

    /// Reads a fingerprint; colons between the digits, as openssl prints them, are fine.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a fingerprint; write sha256: and 64 hexadecimal digits");
        let digits: String = text.strip_prefix("sha256:").ok_or_else(wrong)?.replace(':', "");
        if digits.len() != 64 || !digits.is_ascii() {
            return Err(wrong());
        }
        let mut pin = [0; 32];
        for (byte, i) in pin.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&digits[i..i + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(pin))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> Deserialize<'de> for Pin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Pin::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl Serialize for Pin {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whom we talk to: how a CA's server proves itself (`tls`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// By a chain to a certificate of this file.
    File(PathBuf),
    /// By a chain that holds one of these certificates.
    Pins(Vec<Pin>),
    /// By a chain to a root of the operating system.
    System,
    /// By a chain to what it published when it was asked for the first time, which no one vouched for.
    FirstUse,
}

/// What a CA signs with, and what trust files hold (`anchors`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnchorSource {
    /// The certificates of this file.
    File(PathBuf),
    /// The certificates that the CA publishes, if they have these fingerprints.
    Pins(Vec<Pin>),
    /// What the CA publishes over the trusted connection.
    Published,
    /// What the CA published when it was asked for the first time, which no one vouched for.
    FirstUse,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct TlsKeys {
    file: Option<PathBuf>,
    pins: Option<Vec<Pin>>,
    system: bool,
}

impl<'de> Deserialize<'de> for Tls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match TlsKeys::deserialize(deserializer)? {
            TlsKeys { file: Some(path), pins: None, system: false } => Ok(Self::File(path)),
            TlsKeys { file: None, pins: Some(pins), system: false } if !pins.is_empty() => {
                Ok(Self::Pins(pins))
            }
            TlsKeys { file: None, pins: None, system: true } => Ok(Self::System),
            _ => Err(de::Error::custom("tls needs exactly one of file, pins (not empty) and system = true")),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct AnchorKeys {
    file: Option<PathBuf>,
    pins: Option<Vec<Pin>>,
    published: bool,
}

impl<'de> Deserialize<'de> for AnchorSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match AnchorKeys::deserialize(deserializer)? {
            AnchorKeys { file: Some(path), pins: None, published: false } => Ok(Self::File(path)),
            AnchorKeys { file: None, pins: Some(pins), published: false } if !pins.is_empty() => {
                Ok(Self::Pins(pins))
            }
            AnchorKeys { file: None, pins: None, published: true } => Ok(Self::Published),
            _ => Err(de::Error::custom(
                "anchors needs exactly one of file, pins (not empty) and published = true",
            )),
        }
    }
}

/// What is wrong with a set of CA certificates.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Not one certificate, or a damaged one.
    #[error("no CA certificate that can be read: expected PEM blocks CERTIFICATE")]
    Unreadable,
    /// Too many of them to be meant.
    #[error("more than {MAX_ANCHORS} CA certificates")]
    TooMany,
    /// None of them is valid any more.
    #[error(
        "{name:?} in it expired {when}, and this host's clock says {now}; put the CA's present certificate there, or set the clock"
    )]
    Expired {
        /// One of them.
        name: String,
        /// When, RFC 3339.
        when: String,
        /// What time it is said to be, RFC 3339.
        now: String,
    },
    /// A certificate that may not sign others.
    #[error("{0} is not a CA certificate (basic constraints, RFC 5280 section 4.2.1.9)")]
    NotCa(String),
    /// The CA publishes other certificates than the configuration pins.
    #[error("the CA publishes {}, none of which the configuration pins; if the CA was replaced on purpose, add the new fingerprint to anchors.pins", list(.0))]
    Unpinned(Vec<(String, Pin)>),
}

fn list(found: &[(String, Pin)]) -> String {
    let each: Vec<_> = found.iter().map(|(name, pin)| format!("{name:?} {pin}")).collect();
    if each.is_empty() { "no certificate".to_owned() } else { each.join(", ") }
}

/// The CA certificates that a consumer is to trust, in a stable order, each once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Anchors(Vec<CertificateDer<'static>>);

impl Anchors {
    /// Reads the certificates of a PEM text; all must be CA certificates.
    pub fn parse(pem: &[u8]) -> Result<Self, TrustError> {
        let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        Self::new(found.map_err(|_| TrustError::Unreadable)?)
    }

    /// Checks certificates that came by other ways.
    pub fn new(found: Vec<CertificateDer<'static>>) -> Result<Self, TrustError> {
        if found.is_empty() {
            return Err(TrustError::Unreadable);
        }
        if found.len() > MAX_ANCHORS {
            return Err(TrustError::TooMany);
        }
        let mut anchors = Self::default();
        for der in found {
            let (rest, parsed) = X509Certificate::from_der(&der).map_err(|_| TrustError::Unreadable)?;
            // Version 1 roots have no basic constraints and are still in use as anchors.
            if !rest.is_empty() || (parsed.version().0 == 2 && !parsed.is_ca()) {
                return Err(TrustError::NotCa(name_of(&der)));
            }
            anchors.add(der);
        }
        Ok(anchors)
    }

    /// Takes from what a CA publishes its anchors: those that are pinned.
    pub fn pinned(published: &[CertificateDer<'static>], pins: &[Pin]) -> Result<Self, TrustError> {
        let chosen: Vec<_> = published.iter().filter(|der| pins.contains(&Pin::of(der))).cloned().collect();
        if chosen.is_empty() {
            return Err(TrustError::Unpinned(
                published.iter().map(|der| (name_of(der), Pin::of(der))).collect(),
            ));
        }
        Self::new(chosen)
    }

    /// Takes from what a CA publishes its anchors: the roots, or the topmost where it has none to show.
    pub fn published(published: &[CertificateDer<'static>]) -> Result<Self, TrustError> {
        let roots: Vec<_> = published.iter().filter(|der| is_self_issued(der)).cloned().collect();
        let chosen = if roots.is_empty() { published.last().cloned().into_iter().collect() } else { roots };
        Self::new(chosen)
    }

    /// Takes from what a CA publishes all that these vouch for: each of them that is there, and what it
    /// has signed, step by step.
    pub fn vouched(published: &[CertificateDer<'static>], by: &[Pin]) -> Vec<CertificateDer<'static>> {
        let (mut vouched, mut rest): (Vec<_>, Vec<_>) =
            published.iter().cloned().partition(|der| by.contains(&Pin::of(der)));
        loop {
            let signed = |der: &CertificateDer<'_>| vouched.iter().any(|issuer| has_signed(issuer, der));
            let (more, left): (Vec<_>, Vec<_>) = rest.into_iter().partition(signed);
            if more.is_empty() {
                return vouched;
            }
            vouched.extend(more);
            rest = left;
        }
    }

    /// Joins the anchors of several CAs.
    pub fn join(&mut self, other: &Self) {
        other.0.iter().for_each(|der| self.add(der.clone()));
    }

    /// Those that have not expired.
    pub fn unexpired(&self, now: SystemTime) -> Self {
        Self(self.0.iter().filter(|der| not_after(der) >= now).cloned().collect())
    }

    /// Whether all of the other's anchors are among these.
    pub fn contain(&self, other: &Self) -> bool {
        other.0.iter().all(|der| self.0.contains(der))
    }

    /// The certificates.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.0
    }

    /// Name, fingerprint and end of each, for people.
    pub fn describe(&self) -> Vec<(String, Pin, SystemTime)> {
        self.0.iter().map(|der| (name_of(der), Pin::of(der), not_after(der))).collect()
    }

    /// What a trust file holds: exactly these certificates as PEM.
    pub fn pem(&self) -> String {
        self.0.iter().map(|der| pem_block("CERTIFICATE", der)).collect()
    }

    /// Those that have not expired, in the form that webpki verifies against; webpki itself does not
    /// look at an anchor's dates.
    pub fn live(&self, now: SystemTime) -> Vec<TrustAnchor<'_>> {
        let alive = self.0.iter().filter(|der| not_after(der) >= now);
        alive.filter_map(|der| webpki::anchor_from_trusted_cert(der).ok()).collect()
    }

    /// The same anchors, if one at least has not expired.
    pub fn in_time(self, now: SystemTime) -> Result<Self, TrustError> {
        match self.expired(now).pop() {
            Some((name, when)) if self.unexpired(now).0.is_empty() => {
                Err(TrustError::Expired { name, when: at(when), now: at(now) })
            }
            _ => Ok(self),
        }
    }

    /// Those that have expired, by name and time.
    pub fn expired(&self, now: SystemTime) -> Vec<(String, SystemTime)> {
        let dead = self.0.iter().filter(|der| not_after(der) < now);
        dead.map(|der| (name_of(der), not_after(der))).collect()
    }

    fn add(&mut self, der: CertificateDer<'static>) {
        if !self.0.contains(&der) {
            self.0.push(der);
        }
    }
}

/// Whether a CA certificate has signed another certificate.
fn has_signed(issuer: &[u8], der: &[u8]) -> bool {
    let (Ok((_, issuer)), Ok((_, signed))) =
        (X509Certificate::from_der(issuer), X509Certificate::from_der(der))
    else {
        return false;
    };
    issuer.is_ca()
        && issuer.subject().as_raw() == signed.issuer().as_raw()
        && proves(&issuer, signed.tbs_certificate.as_ref(), &signed.signature_value.data)
}

/// Whether a signature over bytes is by the key of a certificate.
pub fn proves(signer: &X509Certificate<'_>, bytes: &[u8], signature: &[u8]) -> bool {
    let key = &signer.public_key().subject_public_key.data;
    webpki::ALL_VERIFICATION_ALGS.iter().any(|with| with.verify_signature(key, bytes, signature).is_ok())
}

fn name_of(der: &[u8]) -> String {
    let subject = X509Certificate::from_der(der).map(|(_, c)| c.subject().to_string()).unwrap_or_default();
    subject
        .chars()
        .map(|c| if is_shown(c) { c } else { char::REPLACEMENT_CHARACTER })
        .take(MAX_SHOWN)
        .collect()
}

fn not_after(der: &[u8]) -> SystemTime {
    from_seconds(X509Certificate::from_der(der).map_or(0, |(_, c)| c.validity().not_after.timestamp()))
}

fn is_self_issued(der: &[u8]) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, c)| c.subject().as_raw() == c.issuer().as_raw())
}
