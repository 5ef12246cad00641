//! The embedded CA: a root of this host's own, for trying out and for labs.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyUsagePurpose,
    SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm};
use serde::Deserialize;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate, X509CertificationRequest};

use super::{CaError, Issued, Request};
use crate::clock::{Clock, from_seconds};
use crate::identity::{Identity, KeyKind};
use crate::key::{Csr, Key, KeyError, MAX_ORGANIZATIONS, alternative_names, pem_block, purpose, subject};
use crate::setting::{At, Name, Span, chain};

/// What is certified where neither the certificate nor the CA says how long.
const TTL: Duration = Duration::from_secs(90 * 86_400);
/// Ten years.
const ROOT_TTL: Duration = Duration::from_secs(3_652 * 86_400);
/// Hosts' clocks differ a little.
pub(super) const SKEW: Duration = Duration::from_secs(60);

/// `[ca.NAME.local]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "packaging/config.toml is their reference")]
pub struct Settings {
    pub common_name: Option<String>,
    pub ttl: Option<At<Span>>,
}

/// What is wrong with a local CA.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Its key cannot be made or read.
    #[error("the key of the local CA cannot be used")]
    Key(#[from] KeyError),
    /// Its certificate cannot be read, or is not one of a CA.
    #[error("the certificate of the local CA is {0}")]
    Certificate(&'static str),
    /// The request is not signed with its own key.
    #[error("the request is not signed with the key that it asks to certify")]
    Forged,
    /// The system has no random numbers.
    #[error("the system gives no random numbers")]
    Entropy,
    /// The library could not sign.
    #[error("the local CA cannot sign")]
    Sign(#[from] rcgen::Error),
}

/// Whether the local CA can give such a certificate.
pub(super) fn admits(wanted: &Identity) -> Result<(), String> {
    match wanted.organization.as_ref().map_or(0, std::collections::BTreeSet::len) {
        count if count > MAX_ORGANIZATIONS => {
            Err(format!("asks for {count} organizations; a local CA can certify {MAX_ORGANIZATIONS}"))
        }
        _ => Ok(()),
    }
}

/// The key and the certificate of a CA.
#[derive(Debug)]
pub struct Authority {
    key: Key,
    certificate: CertificateDer<'static>,
    until: SystemTime,
}

impl Authority {
    /// Makes a new root, good for ten years.
    pub fn make(name: &Name, settings: &Settings, now: SystemTime) -> Result<Self, LocalError> {
        let key = Key::generate(KeyKind::P256)?;
        let named = settings.common_name.clone().unwrap_or_else(|| format!("nodecert {name} CA"));
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, named);
        params.not_before = OffsetDateTime::from(now - SKEW);
        params.not_after = OffsetDateTime::from(now + ROOT_TTL);
        params.serial_number = Some(serial()?);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(key.signer())?.der().clone();
        Self::new(key, certificate)
    }

    /// Whether it has not ended.
    pub fn lives(&self, now: SystemTime) -> bool {
        self.until > now
    }

    /// Reads a root that was made before, from two PEM texts.
    pub fn parse(key: &str, certificate: &str) -> Result<Self, LocalError> {
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|_| LocalError::Certificate("not readable"))?;
        Self::new(Key::parse(key)?, certificate)
    }

    fn new(key: Key, certificate: CertificateDer<'static>) -> Result<Self, LocalError> {
        let (_, parsed) =
            X509Certificate::from_der(&certificate).map_err(|_| LocalError::Certificate("not readable"))?;
        if !parsed.is_ca() {
            return Err(LocalError::Certificate("not a CA certificate"));
        }
        if parsed.public_key().raw != key.public() {
            return Err(LocalError::Certificate("not that of its key"));
        }
        let until = from_seconds(parsed.validity().not_after.timestamp());
        Ok(Self { key, certificate, until })
    }

    /// The private key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The root certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The root certificate as PEM.
    pub fn pem(&self) -> String {
        pem_block("CERTIFICATE", &self.certificate)
    }

    /// Certifies the key of a request for an identity; what else the request says is passed over.
    /// `ttl` ends with the root at the latest.
    pub fn sign(
        &self,
        csr: &Csr,
        wanted: &Identity,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, LocalError> {
        let issuer = Issuer::from_ca_cert_der(&self.certificate, self.key.signer())?;
        let params = leaf(wanted, now, (now + ttl).min(self.until))?;
        Ok(params.signed_by(&proven_key(csr)?, &issuer)?.der().clone())
    }
}

/// The public key of a request whose signature shows that its maker holds the private one, RFC 2986
/// section 3. x509-parser cannot check P-521, so webpki's algorithms are tried.
fn proven_key(csr: &Csr) -> Result<SubjectPublicKeyInfo, LocalError> {
    let (_, request) = X509CertificationRequest::from_der(csr.der()).map_err(|_| KeyError::BadRequest)?;
    let (asked, signature) = (&request.certification_request_info, &request.signature_value.data);
    let key = &asked.subject_pki.subject_public_key.data;
    let proves =
        |with: &&dyn SignatureVerificationAlgorithm| with.verify_signature(key, asked.raw, signature).is_ok();
    if !webpki::ALL_VERIFICATION_ALGS.iter().any(proves) {
        return Err(LocalError::Forged);
    }
    Ok(SubjectPublicKeyInfo::from_der(asked.subject_pki.raw)?)
}

fn leaf(wanted: &Identity, now: SystemTime, until: SystemTime) -> Result<CertificateParams, LocalError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(wanted);
    params.subject_alt_names = alternative_names(wanted)?;
    params.extended_key_usages = wanted.usages.iter().map(|&usage| purpose(usage)).collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if matches!(wanted.key, KeyKind::Rsa2048 | KeyKind::Rsa3072 | KeyKind::Rsa4096) {
        // TLS 1.2 key exchange by RSA needs it, RFC 5246 section 7.4.2.
        params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial()?);
    params.not_before = OffsetDateTime::from(now - SKEW);
    params.not_after = OffsetDateTime::from(until);
    Ok(params)
}

/// 126 random bits: positive, and never short. RFC 5280 section 4.1.2.2 allows 20 octets.
fn serial() -> Result<SerialNumber, LocalError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| LocalError::Entropy)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// A local CA that is ready to sign.
pub struct Local {
    name: Name,
    authority: Authority,
    ttl: Duration,
    clock: Clock,
}

impl Local {
    pub(super) fn open(
        name: &Name,
        settings: &Settings,
        authority: Option<Authority>,
        clock: &Clock,
    ) -> Result<Self, CaError> {
        let missing = || CaError::Unusable { ca: name.clone(), why: "its root is not there".to_owned() };
        Ok(Self {
            name: name.clone(),
            authority: authority.ok_or_else(missing)?,
            ttl: settings.ttl.as_ref().map_or(TTL, |span| span.get_ref().0),
            clock: clock.clone(),
        })
    }

    pub(super) fn certificate(&self) -> &CertificateDer<'static> {
        self.authority.certificate()
    }

    pub(super) fn obtain(&self, request: &Request<'_>) -> Result<Issued, CaError> {
        let ttl = request.identity.ttl.unwrap_or(self.ttl);
        let signed = self.authority.sign(request.csr, request.identity, ttl, self.clock.now());
        match signed {
            Ok(leaf) => Ok(Issued { chain: vec![leaf] }),
            Err(error) => Err(CaError::Unusable { ca: self.name.clone(), why: chain(&error) }),
        }
    }
}
