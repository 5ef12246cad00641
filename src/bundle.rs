//! Pairs and bundles: a certificate is used only as a [`Bundle`], and only [`Bundle::judge`] makes one.
//!
//! The same judge asks the same questions of what a CA has just issued and of what lies on disk, so
//! that what is accepted today is not asked for again tomorrow.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use crate::clock::{at, from_seconds, human};
use crate::identity::{Identity, KeyKind, Usage};
use crate::key::{Csr, Key, pem_block};
use crate::trust::{Anchors, Pin};

/// RFC 5280 sets no bound; a chain of real CAs has two or three.
const MAX_CHAIN: usize = 16;
/// Real certificates have 500 to 3,000 bytes.
const MAX_CERTIFICATE: usize = 64 * 1024;

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

/// A pair that the judge did not pass, and why.
#[derive(Debug)]
pub struct Unfit {
    /// The pair, whose key may still be of use.
    pub pair: Pair,
    /// The first check that it failed.
    pub why: Rejected,
}

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
    is_ca: bool,
    key_kind: Option<KeyKind>,
    public: Vec<u8>,
}

/// A chain that parses and a key that matches it.
#[derive(Debug, Clone)]
pub struct Pair {
    key: Arc<Key>,
    chain: Vec<CertificateDer<'static>>,
    leaf: Leaf,
}

impl Pair {
    /// Joins a key and a chain, leaf first; roots at its end are left off, for no peer needs them.
    pub fn new(key: Arc<Key>, mut chain: Vec<CertificateDer<'static>>) -> Result<Self, Rejected> {
        let Some(first) = chain.first() else {
            return Err(Rejected::Unreadable("it holds no certificate".into()));
        };
        if chain.len() > MAX_CHAIN || chain.iter().any(|der| der.len() > MAX_CERTIFICATE) {
            return Err(Rejected::Unreadable("it is larger than any real chain".into()));
        }
        let leaf = Leaf::parse(first)?;
        // One that cannot be read is refused even where the chain does without it: consumers read them all.
        chain.iter().try_for_each(|der| Leaf::parse(der).map(drop))?;
        if !leaf.is_of(&key) {
            return Err(Rejected::KeyMismatch);
        }
        let mut seen = BTreeSet::new();
        let mut position = 0;
        chain.retain(|der| {
            position += 1;
            position == 1 || (!is_self_signed(der) && seen.insert(Pin::of(der)))
        });
        Ok(Self { key, chain, leaf })
    }

    /// Joins a key and a chain that was written as PEM.
    pub fn parse(key: Arc<Key>, pem: &str) -> Result<Self, Rejected> {
        Self::new(key, parse_chain(pem)?)
    }

    /// The private key.
    pub fn key(&self) -> &Arc<Key> {
        &self.key
    }

    /// What the leaf says.
    pub fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    /// Leaf and intermediates as DER, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Leaf and intermediates as PEM.
    pub fn cert_pem(&self) -> String {
        self.chain.iter().map(|der| pem_block("CERTIFICATE", der)).collect()
    }

    /// The intermediates alone as PEM.
    pub fn chain_pem(&self) -> String {
        self.chain.iter().skip(1).map(|der| pem_block("CERTIFICATE", der)).collect()
    }
}

/// Reads the certificates of a PEM text; anything but certificates in it is passed over.
pub fn parse_chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, Rejected> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .take(MAX_CHAIN + 1)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| Rejected::Unreadable("its PEM is damaged".into()))
}

/// A pair that is what was wanted, now. Commit and render take nothing else.
#[derive(Debug, Clone)]
pub struct Bundle {
    pair: Pair,
}

impl Bundle {
    /// Asks everything that must hold before a certificate may be used, the plainest first.
    pub fn judge(
        pair: Pair,
        wanted: &Identity,
        anchors: &Anchors,
        now: SystemTime,
    ) -> Result<Self, Box<Unfit>> {
        let verdict = fit_as_such(&pair, wanted)
            .and_then(|()| within_dates(&pair.leaf, now))
            .and_then(|()| usages_as_wanted(&pair.leaf, wanted))
            .and_then(|()| chained(&pair, anchors, &wanted.usages, now))
            .and_then(|()| names_as_wanted(&pair.leaf, wanted));
        match verdict {
            Ok(()) => Ok(Self { pair }),
            Err(why) => Err(Box::new(Unfit { pair, why })),
        }
    }

    /// The pair.
    pub fn pair(&self) -> &Pair {
        &self.pair
    }

    /// What the leaf says.
    pub fn leaf(&self) -> &Leaf {
        &self.pair.leaf
    }
}

fn fit_as_such(pair: &Pair, wanted: &Identity) -> Result<(), Rejected> {
    if pair.leaf.is_ca {
        return Err(Rejected::CaCertificate);
    }
    if pair.leaf.key_kind != Some(wanted.key) {
        return Err(Rejected::KeyKind(wanted.key));
    }
    match pair.chain.iter().find_map(|der| weak_signature(der)) {
        Some(algorithm) => Err(Rejected::WeakSignature(algorithm)),
        None => Ok(()),
    }
}

fn within_dates(leaf: &Leaf, now: SystemTime) -> Result<(), Rejected> {
    if now < leaf.not_before {
        return Err(Rejected::NotYetValid { from: leaf.not_before, now });
    }
    if leaf.not_after <= now {
        return Err(Rejected::Expired(leaf.not_after));
    }
    Ok(())
}

/// One pass for each usage: a chain may serve servers and not clients. The anchors' own dates and
/// the presence of the usages are not webpki's to check.
fn chained(
    pair: &Pair,
    anchors: &Anchors,
    usages: &BTreeSet<Usage>,
    now: SystemTime,
) -> Result<(), Rejected> {
    let live = anchors.live(now);
    let untrusted = |e: webpki::Error| Rejected::Untrusted(e.to_string());
    let (leaf, intermediates) = pair.chain.split_first().ok_or(Rejected::KeyMismatch)?;
    let end = webpki::EndEntityCert::try_from(leaf).map_err(untrusted)?;
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    for usage in usages {
        let usage = match usage {
            Usage::Server => webpki::KeyUsage::server_auth(),
            Usage::Client => webpki::KeyUsage::client_auth(),
        };
        end.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &live,
            intermediates,
            UnixTime::since_unix_epoch(since),
            usage,
            None,
            None,
        )
        .map_err(|error| refusal(&error, pair, anchors, now))?;
    }
    Ok(())
}

/// Tells an anchor that ended from one that was never there.
fn refusal(error: &webpki::Error, pair: &Pair, anchors: &Anchors, now: SystemTime) -> Rejected {
    let top = pair.chain.last().and_then(|der| X509Certificate::from_der(der).ok());
    let issuer = top.map(|(_, c)| c.issuer().to_string()).unwrap_or_default();
    match anchors.expired(now).into_iter().find(|(name, _)| *name == issuer) {
        Some((name, when)) => Rejected::AnchorExpired { name, when },
        None if *error == webpki::Error::UnknownIssuer => {
            let known: Vec<_> =
                anchors.describe().into_iter().map(|(name, pin, _)| format!("{name:?} {pin}")).collect();
            Rejected::Untrusted(format!("its chain ends at {issuer:?}; trusted are {}", known.join(", ")))
        }
        None => Rejected::Untrusted(format!("{error}")),
    }
}

fn usages_as_wanted(leaf: &Leaf, wanted: &Identity) -> Result<(), Rejected> {
    let asked: BTreeSet<_> = wanted.usages.iter().map(|&usage| usage_name(usage).to_owned()).collect();
    let missing: Vec<_> = asked.difference(&leaf.usages).cloned().collect();
    if !missing.is_empty() {
        return Err(Rejected::MissingUsage(missing));
    }
    let extra: Vec<_> = leaf.usages.difference(&asked).cloned().collect();
    if wanted.exact_usages && !extra.is_empty() {
        return Err(Rejected::ExtraUsage(extra));
    }
    Ok(())
}

fn names_as_wanted(leaf: &Leaf, wanted: &Identity) -> Result<(), Rejected> {
    let common_name: Vec<_> =
        Some(&wanted.common_name).filter(|n| !n.is_empty()).into_iter().cloned().collect();
    if leaf.common_names != common_name {
        let found = leaf.common_names.join(", ");
        return Err(Rejected::CommonName { wanted: wanted.common_name.clone(), found });
    }
    if let Some(organization) = wanted.organization.as_ref().filter(|&wanted| *wanted != leaf.organizations) {
        return Err(Rejected::Organization {
            wanted: organization.iter().cloned().collect(),
            found: leaf.organizations.iter().cloned().collect(),
        });
    }
    missing(&wanted.dns, &leaf.dns).map_or(Ok(()), |names| Err(Rejected::MissingDns(names)))?;
    missing(&wanted.ips, &leaf.ips).map_or(Ok(()), |names| Err(Rejected::MissingIp(names)))?;
    missing(&wanted.uris, &leaf.uris).map_or(Ok(()), |names| Err(Rejected::MissingUri(names)))
}

fn missing<T: Ord + ToString>(wanted: &BTreeSet<T>, found: &BTreeSet<T>) -> Option<Vec<String>> {
    let names: Vec<_> = wanted.difference(found).map(T::to_string).collect();
    (!names.is_empty()).then_some(names)
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
                GeneralName::DNSName(name) => drop(dns.insert(plain(&name.to_ascii_lowercase()))),
                GeneralName::IPAddress(bytes) => ips.extend(ip_of(bytes)),
                GeneralName::URI(uri) => drop(uris.insert(plain(uri))),
                _ => {}
            }
        }
        let text = |attributes: &mut dyn Iterator<Item = &x509_parser::x509::AttributeTypeAndValue<'_>>| {
            attributes.map(|a| plain(a.as_str().unwrap_or("(not text)"))).collect::<Vec<_>>()
        };
        Ok(Self {
            subject: plain(&parsed.subject().to_string()),
            common_names: text(&mut parsed.subject().iter_common_name()),
            organizations: text(&mut parsed.subject().iter_organization()).into_iter().collect(),
            dns,
            ips,
            uris,
            usages: usages_of(&parsed),
            not_before: from_seconds(parsed.validity().not_before.timestamp()),
            not_after: from_seconds(parsed.validity().not_after.timestamp()),
            serial: parsed.raw_serial_as_string(),
            issuer: plain(&parsed.issuer().to_string()),
            fingerprint: Pin::of(der),
            is_ca: parsed.is_ca(),
            key_kind: kind_of(&parsed),
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

/// Text of others, fit for a log: what could begin a line or move a cursor becomes what no name holds.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
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
fn usage_name(usage: Usage) -> &'static str {
    match usage {
        Usage::Server => "server",
        Usage::Client => "client",
    }
}

fn kind_of(parsed: &X509Certificate<'_>) -> Option<KeyKind> {
    use x509_parser::public_key::PublicKey;
    let key = parsed.public_key();
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

fn weak_signature(der: &[u8]) -> Option<String> {
    use x509_parser::asn1_rs::oid;
    use x509_parser::oid_registry as known;
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    let weak = [
        (known::OID_PKCS1_MD5WITHRSAENC, "MD5 with RSA"),
        (known::OID_PKCS1_SHA1WITHRSA, "SHA-1 with RSA"),
        (known::OID_SHA1_WITH_RSA, "SHA-1 with RSA"),
        (oid!(1.2.840.10045.4.1), "SHA-1 with ECDSA"),
    ];
    let used = &parsed.signature_algorithm.algorithm;
    weak.into_iter().find(|(weak, _)| weak == used).map(|(_, name)| name.to_owned())
}

fn is_self_signed(der: &[u8]) -> bool {
    X509Certificate::from_der(der)
        .is_ok_and(|(_, c)| c.subject().as_raw() == c.issuer().as_raw() && has_ca_bit(&c))
}

fn has_ca_bit(parsed: &X509Certificate<'_>) -> bool {
    parsed.is_ca()
        || !parsed
            .extensions()
            .iter()
            .any(|e| matches!(e.parsed_extension(), ParsedExtension::BasicConstraints(_)))
}

fn names<T: AsRef<str>>(list: &[T]) -> String {
    if list.is_empty() {
        "none".to_owned()
    } else {
        list.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests;
