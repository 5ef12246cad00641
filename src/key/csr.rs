//! Requests for certificates (CSR, RFC 2986): what an identity says, in the dialect that its CA bears.

use std::collections::BTreeSet;

use rcgen::{
    Attribute, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    SanType,
};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::oid_registry::OID_PKCS9_EXTENSION_REQUEST;
use x509_parser::prelude::{FromDer, ParsedExtension, X509CertificationRequest};

use super::{Key, KeyError, kind_of, pem_block};
use crate::identity::{Identity, KeyKind, Usage};
use crate::setting::Secret;

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
            .and_then(|p| p.serialize_request_with_attributes(key.signer(), attributes))
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
