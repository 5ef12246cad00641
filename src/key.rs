//! Private keys and the requests made from them.
//!
//! A key is made on the host and leaves it never; a request (CSR, RFC 2986) carries its public half.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use rcgen::{
    Attribute, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    KeyPair, PublicKeyData, RsaKeySize, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateSigningRequestDer, PrivateKeyDer};
use x509_parser::oid_registry::OID_PKCS9_EXTENSION_REQUEST;
use x509_parser::prelude::{FromDer, ParsedExtension, X509CertificationRequest};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::Zeroizing;

use crate::identity::{Identity, KeyKind, Usage};
use crate::setting::Secret;

/// What is wrong with a key or a request.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The text holds no private key that can be read.
    #[error(
        "no usable private key: expected one PEM block PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY, not encrypted"
    )]
    Unreadable,
    /// The library could not make a key.
    #[error("cannot make a {0:?} key")]
    Make(KeyKind, #[source] rcgen::Error),
    /// The names of an identity do not fit into a request.
    #[error("cannot make a request for {0:?}")]
    Request(String, #[source] rcgen::Error),
    /// The text holds no request that can be read.
    #[error("no usable certificate request")]
    BadRequest,
    /// The kernel gave no random bytes.
    #[error("the kernel gives no random bytes")]
    Entropy,
}

/// A private key. It cannot be cloned or shown; its memory is wiped when it is dropped.
pub struct Key {
    pair: KeyPair,
    pem: Zeroizing<String>,
}

impl Key {
    /// Makes a new key. RSA takes 50 to 700 ms, everything else microseconds.
    pub fn generate(kind: KeyKind) -> Result<Self, KeyError> {
        let made = match kind {
            KeyKind::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            KeyKind::P384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            KeyKind::P521 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512),
            KeyKind::Ed25519 => {
                let none = KeyError::Make(kind, rcgen::Error::KeyGenerationUnavailable);
                return Self::ed25519().ok_or(none);
            }
            KeyKind::Rsa2048 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048),
            KeyKind::Rsa3072 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_3072),
            KeyKind::Rsa4096 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_4096),
        };
        let pair = made.map_err(|source| KeyError::Make(kind, source))?;
        let pem = Zeroizing::new(pair.serialize_pem());
        Ok(Self { pair, pem })
    }

    /// rcgen would write the public half into the key too (RFC 8410 section 7, version 2), which OpenSSL 3.0
    /// cannot read.
    fn ed25519() -> Option<Self> {
        let made = aws_lc_rs::signature::Ed25519KeyPair::generate().ok()?;
        let der = made.to_pkcs8v1().ok()?;
        Self::parse(&Zeroizing::new(pem_block("PRIVATE KEY", der.as_ref()))).ok()
    }

    /// Reads a key and keeps its text as it is: a SEC1 key written anew would be mislabelled.
    pub fn parse(pem: &str) -> Result<Self, KeyError> {
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| KeyError::Unreadable)?;
        // The kind that almost every key is; otherwise rcgen would try one kind after the other from the start.
        let pair = KeyPair::from_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256)
            .or_else(|_| KeyPair::try_from(&der))
            .map_err(|_| KeyError::Unreadable)?;
        Ok(Self { pair, pem: Zeroizing::new(pem.to_owned()) })
    }

    /// The private key as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The public half as SubjectPublicKeyInfo, RFC 5280 section 4.1.2.7.
    pub fn public(&self) -> Vec<u8> {
        self.pair.subject_public_key_info()
    }

    /// What signs with this key.
    pub fn signer(&self) -> &KeyPair {
        &self.pair
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Random bytes.
pub fn random(number: usize) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let mut bytes = Zeroizing::new(vec![0; number]);
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| KeyError::Entropy)?;
    Ok(bytes)
}

/// How many organizations a request can carry.
pub const MAX_ORGANIZATIONS: usize = 1;

/// What a CA's protocol bears in a request, and what it wants in it besides the names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialect {
    /// Whether usages may be asked for; a Puppet CA refuses a request that holds any.
    pub usages: bool,
    /// Whether the common name is asked for as a SAN where it is the only one. A Puppet CA adds it
    /// unasked, and refuses SANs unless it is configured to sign them.
    pub lone_name: bool,
    /// Attributes (RFC 2986 section 4), which do not become part of the certificate.
    pub attributes: Vec<(Oid, Secret)>,
    /// Extensions that are asked for, each a text.
    pub extensions: Vec<(Oid, Secret)>,
}

impl Default for Dialect {
    /// All that an identity says, and nothing else.
    fn default() -> Self {
        Self { usages: true, lone_name: true, attributes: Vec::new(), extensions: Vec::new() }
    }
}

/// An object identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Oid(pub &'static [u64]);

impl Oid {
    /// Reads the dotted form. What it holds is never freed: rcgen takes static numbers only, and a
    /// configuration names a handful.
    pub fn parse(text: &str) -> Option<Self> {
        let parts = text.split('.').map(|part| part.parse().ok()).collect::<Option<Vec<u64>>>()?;
        // X.660: two levels at least, the first is 0, 1 or 2, and below 0 and 1 there are 40.
        match parts[..] {
            [0 | 1, second, ..] if second < 40 => Some(Self(parts.leak())),
            [2, _, _, ..] => Some(Self(parts.leak())),
            _ => None,
        }
    }
}

/// A certificate signing request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Csr(CertificateSigningRequestDer<'static>);

impl Csr {
    /// Makes the request for an identity, signed with its key.
    pub fn new(key: &Key, wanted: &Identity, dialect: &Dialect) -> Result<Self, KeyError> {
        let failed = |source| KeyError::Request(wanted.common_name.clone(), source);
        let attributes = dialect.attributes.iter().map(attribute).collect();
        let request = parameters(wanted, dialect)
            .and_then(|p| p.serialize_request_with_attributes(&key.pair, attributes))
            .map_err(failed)?;
        Ok(Self(request.der().clone()))
    }

    /// Reads a request that was written as PEM.
    pub fn parse(pem: &str) -> Result<Self, KeyError> {
        let der =
            CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map_err(|_| KeyError::BadRequest)?;
        X509CertificationRequest::from_der(&der).map_err(|_| KeyError::BadRequest)?;
        Ok(Self(der))
    }

    /// The request as DER.
    pub fn der(&self) -> &[u8] {
        &self.0
    }

    /// The request as PEM.
    pub fn pem(&self) -> String {
        pem_block("CERTIFICATE REQUEST", &self.0)
    }

    /// The public key as SubjectPublicKeyInfo.
    pub fn public(&self) -> Option<&[u8]> {
        let (_, request) = X509CertificationRequest::from_der(&self.0).ok()?;
        Some(request.certification_request_info.subject_pki.raw)
    }

    /// Whether another request is made with the same key.
    pub fn has_key_of(&self, other: &Self) -> bool {
        self.public().is_some_and(|own| other.public() == Some(own))
    }

    /// The kind of its key, if it is one that can be asked for.
    pub fn key_kind(&self) -> Option<KeyKind> {
        let (_, request) = X509CertificationRequest::from_der(&self.0).ok()?;
        kind_of(&request.certification_request_info.subject_pki)
    }

    /// Whether another request asks for a certificate that says the same; attributes do not become part of it.
    pub fn says_same(&self, other: &Self) -> bool {
        self.names() == other.names() && self.extensions() == other.extensions()
    }

    /// Whether another request is the same but for its signature, which is random for ECDSA.
    pub fn is_same(&self, other: &Self) -> bool {
        self.asked().is_some_and(|own| other.asked() == Some(own))
    }

    /// All that is to become an extension, as it was encoded.
    fn extensions(&self) -> Option<Vec<u8>> {
        let (_, request) = X509CertificationRequest::from_der(&self.0).ok()?;
        let mut attributes = request.certification_request_info.iter_attributes();
        let found = attributes.find(|attribute| attribute.oid == OID_PKCS9_EXTENSION_REQUEST)?;
        Some(found.value.to_vec())
    }

    /// Subject and SANs, as people write them.
    pub fn names(&self) -> BTreeSet<String> {
        let Ok((_, request)) = X509CertificationRequest::from_der(&self.0) else { return BTreeSet::new() };
        let extensions = request.requested_extensions().into_iter().flatten();
        let sans = extensions.flat_map(|extension| match extension {
            ParsedExtension::SubjectAlternativeName(san) => {
                san.general_names.iter().map(ToString::to_string).collect()
            }
            _ => Vec::new(),
        });
        sans.chain([request.certification_request_info.subject.to_string()]).collect()
    }

    /// What is asked, without the signature.
    fn asked(&self) -> Option<&[u8]> {
        let (_, request) = X509CertificationRequest::from_der(&self.0).ok()?;
        Some(request.certification_request_info.raw)
    }
}

/// A key and the request made with it, kept on disk before the request is sent, so that a retry is
/// the same request.
#[derive(Debug, Clone)]
pub struct Pending {
    /// The private key.
    pub key: Arc<Key>,
    /// The request.
    pub csr: Csr,
}

impl Pending {
    /// Makes the request for an identity with the given key.
    pub fn new(key: Arc<Key>, wanted: &Identity, dialect: &Dialect) -> Result<Self, KeyError> {
        let csr = Csr::new(&key, wanted, dialect)?;
        Ok(Self { key, csr })
    }

    /// Whether this request still asks for what is wanted now.
    pub fn asks_for(&self, wanted: &Identity, dialect: &Dialect) -> bool {
        self.csr.key_kind() == Some(wanted.key)
            && Csr::new(&self.key, wanted, dialect).is_ok_and(|fresh| fresh.is_same(&self.csr))
    }
}

/// The kind of a public key, if it is one that can be asked for.
pub fn kind_of(key: &SubjectPublicKeyInfo<'_>) -> Option<KeyKind> {
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => match rsa.key_size() {
            2041..=2048 => Some(KeyKind::Rsa2048),
            3065..=3072 => Some(KeyKind::Rsa3072),
            4089..=4096 => Some(KeyKind::Rsa4096),
            _ => None,
        },
        Ok(PublicKey::EC(point)) => match point.key_size() {
            256 => Some(KeyKind::P256),
            384 => Some(KeyKind::P384),
            // x509-parser reckons whole bytes: 66 of them hold 521 bits.
            521..=528 => Some(KeyKind::P521),
            _ => None,
        },
        _ if key.algorithm.algorithm == x509_parser::oid_registry::OID_SIG_ED25519 => Some(KeyKind::Ed25519),
        _ => None,
    }
}

/// One PEM block, RFC 7468: 64 characters a line, with a newline at the end.
pub fn pem_block(label: &str, der: &[u8]) -> String {
    let format = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(label, der), format)
}

fn parameters(wanted: &Identity, dialect: &Dialect) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(wanted);
    if dialect.lone_name || !has_lone_name(wanted) {
        params.subject_alt_names = alternative_names(wanted)?;
    }
    params.custom_extensions = dialect.extensions.iter().map(extension).collect();
    if dialect.usages {
        params.extended_key_usages = wanted.usages.iter().map(|&usage| purpose(usage)).collect();
    }
    Ok(params)
}

/// Whether the common name is all there is among the SANs.
fn has_lone_name(wanted: &Identity) -> bool {
    wanted.ips.is_empty()
        && wanted.uris.is_empty()
        && wanted.dns.iter().all(|name| *name == wanted.common_name)
}

fn attribute((oid, value): &(Oid, Secret)) -> Attribute {
    Attribute { oid: oid.0, values: der(SET, &der(UTF8_STRING, value.expose().as_bytes())) }
}

fn extension((oid, value): &(Oid, Secret)) -> CustomExtension {
    CustomExtension::from_oid_content(oid.0, der(UTF8_STRING, value.expose().as_bytes()))
}

const UTF8_STRING: u8 = 0x0c;
const SET: u8 = 0x31;

/// Tag, length and value, X.690 section 8.1.
fn der(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = value.len().to_be_bytes();
    let digits = length.iter().copied().skip_while(|&digit| digit == 0).collect::<Vec<u8>>();
    let mut der = vec![tag];
    match digits[..] {
        [] => der.push(0),
        [short] if short < 0x80 => der.push(short),
        _ => {
            // At most eight digits.
            der.push(0x80 | u8::try_from(digits.len()).unwrap_or(8));
            der.extend(digits);
        }
    }
    der.extend(value);
    der
}

/// The subject of an identity: its organization, then its common name. rcgen keeps one organization;
/// several are the CA's to set ([`MAX_ORGANIZATIONS`]).
pub fn subject(wanted: &Identity) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    for organization in wanted.organization.iter().flatten().take(MAX_ORGANIZATIONS) {
        subject.push(DnType::OrganizationName, organization.as_str());
    }
    if !wanted.common_name.is_empty() {
        subject.push(DnType::CommonName, wanted.common_name.as_str());
    }
    subject
}

/// The SANs of an identity in a fixed order.
pub fn alternative_names(wanted: &Identity) -> Result<Vec<SanType>, rcgen::Error> {
    let dns = wanted.dns.iter().map(|name| Ok(SanType::DnsName(name.as_str().try_into()?)));
    let ips = wanted.ips.iter().map(|&ip| Ok(SanType::IpAddress(ip)));
    let uris = wanted.uris.iter().map(|uri| Ok(SanType::URI(uri.as_str().try_into()?)));
    dns.chain(ips).chain(uris).collect()
}

/// The usage in rcgen's words.
pub fn purpose(usage: Usage) -> ExtendedKeyUsagePurpose {
    match usage {
        Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }
}
