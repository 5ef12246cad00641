//! What a certificate says.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use x509_parser::oid_registry::{
    OID_X509_COMMON_NAME, OID_X509_COUNTRY_NAME, OID_X509_LOCALITY_NAME, OID_X509_ORGANIZATION_NAME,
    OID_X509_ORGANIZATIONAL_UNIT, OID_X509_STATE_OR_PROVINCE_NAME, OidRegistry,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::x509::X509Name;

use super::Rejected;
use crate::clock::from_seconds;
use crate::identity::{KeyKind, Usage};
use crate::key::{Csr, Key, kind_of};
use crate::setting::is_shown;
use crate::trust::Pin;

/// Octets; one more where the first stands for the sign.
const MAX_SERIAL: usize = 21;
/// Characters of a subject that are read; RFC 5280 allows 64 in a common name or organization.
const MAX_SHOWN: usize = 400;

/// What a leaf certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Subject as people write it.
    pub subject: String,
    /// Subject common names; more than one is never wanted.
    pub common_names: Vec<String>,
    /// Subject organizations.
    pub organizations: BTreeSet<String>,
    /// DNS names among the SANs, lower case.
    pub dns: BTreeSet<String>,
    /// Addresses among the SANs.
    pub ips: BTreeSet<IpAddr>,
    /// URIs among the SANs.
    pub uris: BTreeSet<String>,
    /// Extended key usages: `server`, `client`, or the name or number of another.
    pub usages: BTreeSet<String>,
    /// Beginning of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// Serial number as two hexadecimal digits a byte, with colons.
    pub serial: String,
    /// Issuer as people write it.
    pub issuer: String,
    /// SHA-256 of the certificate.
    pub fingerprint: Pin,
    pub(super) is_ca: bool,
    pub(super) key_kind: Option<KeyKind>,
    public: Vec<u8>,
}

impl Leaf {
    /// Reads what a certificate says; of what it cannot name it keeps the number.
    pub fn parse(der: &[u8]) -> Result<Self, Rejected> {
        let unreadable = |why: &str| Rejected::Unreadable(why.to_owned());
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| unreadable("it is not X.509"))?;
        if !rest.is_empty() {
            return Err(unreadable("bytes follow its end"));
        }
        let (mut dns, mut ips, mut uris) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let san = parsed.subject_alternative_name().map_err(|_| unreadable("its SANs are damaged"))?;
        for name in san.iter().flat_map(|san| &san.value.general_names) {
            match name {
                GeneralName::DNSName(name) => drop(dns.insert(name.to_ascii_lowercase())),
                GeneralName::IPAddress(bytes) => ips.extend(ip_of(bytes)),
                GeneralName::URI(uri) => drop(uris.insert((*uri).to_owned())),
                _ => {}
            }
        }
        // Consumers differ in where such a name ends.
        if dns.iter().chain(&uris).any(|name| !name.chars().all(is_shown)) {
            return Err(unreadable("a name in it holds a control character"));
        }
        if parsed.raw_serial().len() > MAX_SERIAL {
            return Err(unreadable("its serial number is longer than RFC 5280 allows, section 4.1.2.2"));
        }
        let text = |attributes: &mut dyn Iterator<Item = &x509_parser::x509::AttributeTypeAndValue<'_>>| {
            attributes.map(|a| plain(a.as_str().unwrap_or("(not text)"))).collect::<Vec<_>>()
        };
        Ok(Self {
            subject: plain(&written(parsed.subject())),
            common_names: text(&mut parsed.subject().iter_common_name()),
            organizations: text(&mut parsed.subject().iter_organization()).into_iter().collect(),
            dns,
            ips,
            uris,
            usages: usages_of(&parsed),
            not_before: from_seconds(parsed.validity().not_before.timestamp()),
            not_after: from_seconds(parsed.validity().not_after.timestamp()),
            serial: parsed.raw_serial_as_string(),
            issuer: plain(&written(parsed.issuer())),
            fingerprint: Pin::of(der),
            is_ca: parsed.is_ca(),
            key_kind: kind_of(parsed.public_key()),
            public: parsed.public_key().raw.to_vec(),
        })
    }

    /// Whether it belongs to a key.
    pub fn is_of(&self, key: &Key) -> bool {
        self.public == key.public()
    }

    /// Whether it answers a request: it has the request's key.
    pub fn is_for(&self, csr: &Csr) -> bool {
        csr.public() == Some(&self.public[..])
    }

    /// Whether its key is of a kind, and so may be kept where that kind is wanted.
    pub fn has_key_kind(&self, kind: KeyKind) -> bool {
        self.key_kind == Some(kind)
    }

    /// How long it is valid in all.
    pub fn lifetime(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }
}

/// Text of others, fit for a log: cut, and what could begin a line or move a cursor becomes what no name holds.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if is_shown(c) { c } else { char::REPLACEMENT_CHARACTER }).take(MAX_SHOWN).collect()
}

/// As `X509Name` writes itself. Where all of it has a short form, without the table of every other attribute: that
/// is made anew by each process, and takes a twentieth of a run with nothing to do.
fn written(name: &X509Name<'_>) -> String {
    let short = [
        OID_X509_COMMON_NAME,
        OID_X509_ORGANIZATION_NAME,
        OID_X509_ORGANIZATIONAL_UNIT,
        OID_X509_COUNTRY_NAME,
        OID_X509_LOCALITY_NAME,
        OID_X509_STATE_OR_PROVINCE_NAME,
    ];
    let is_short = name.iter_attributes().all(|attribute| short.contains(attribute.attr_type()));
    let written = is_short.then(|| name.to_string_with_registry(&OidRegistry::default()).ok());
    written.flatten().unwrap_or_else(|| name.to_string())
}

fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

fn usages_of(parsed: &X509Certificate<'_>) -> BTreeSet<String> {
    let Ok(Some(usages)) = parsed.extended_key_usage() else { return BTreeSet::new() };
    let usages = usages.value;
    let named = [
        (usages.server_auth, usage_name(Usage::Server)),
        (usages.client_auth, usage_name(Usage::Client)),
        (usages.any, "any"),
        (usages.code_signing, "code signing"),
        (usages.email_protection, "email protection"),
        (usages.time_stamping, "time stamping"),
        (usages.ocsp_signing, "OCSP signing"),
    ];
    let named = named.into_iter().filter(|(there, _)| *there).map(|(_, name)| name.to_owned());
    named.chain(usages.other.iter().map(ToString::to_string)).collect()
}

/// The usage as reports and messages name it.
pub(super) fn usage_name(usage: Usage) -> &'static str {
    match usage {
        Usage::Server => "server",
        Usage::Client => "client",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_written_as_the_library_writes_it() {
        let serial = rcgen::DnType::CustomDnType(vec![2, 5, 4, 5]);
        let short = [(rcgen::DnType::OrganizationName, "ops"), (rcgen::DnType::CommonName, "node01")];
        let long = [(rcgen::DnType::CommonName, "node01"), (serial, "4711")];
        for (name, text) in [(short, "O=ops, CN=node01"), (long, "CN=node01, serialNumber=4711")] {
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            name.into_iter().for_each(|(kind, value)| params.distinguished_name.push(kind, value));
            let made = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
            let (_, parsed) = X509Certificate::from_der(made.der()).unwrap();
            assert_eq!(written(parsed.subject()), parsed.subject().to_string());
            assert_eq!(written(parsed.subject()), text);
        }
    }
}
