//! Pairs and bundles: a certificate is used only as a [`Bundle`], and only [`Bundle::judge`] makes one.
//!
//! The same judge asks the same questions of what a CA has just issued and of what lies on disk, so
//! that what is accepted today is not asked for again tomorrow.

mod leaf;
mod rejected;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

use crate::identity::{Identity, Usage};
use crate::key::{Key, pem_block};
use crate::trust::{Anchors, Pin};

use leaf::usage_name;
pub use leaf::{Leaf, plain};
pub use rejected::Rejected;

/// RFC 5280 sets no bound; a chain of real CAs has two or three.
const MAX_CHAIN: usize = 16;
/// Real certificates have 500 to 3,000 bytes.
const MAX_CERTIFICATE: usize = 64 * 1024;

/// A pair that the judge did not pass, and why.
#[derive(Debug)]
pub struct Unfit {
    /// The pair, whose key may still be of use.
    pub pair: Pair,
    /// The first check that it failed.
    pub why: Rejected,
    but_for_names: bool,
}

impl Unfit {
    /// The pair as it is, where all that is wrong is that its names are others than those wanted: good for
    /// whoever knows it by the names it has, such as the CA that it logs in to.
    pub fn under_its_names(self: Box<Self>) -> Result<(Bundle, Rejected), Box<Self>> {
        match self.but_for_names {
            true => Ok((Bundle { pair: self.pair }, self.why)),
            false => Err(self),
        }
    }
}

/// A chain that parses and a key that matches it.
#[derive(Debug, Clone)]
pub struct Pair {
    key: Arc<Key>,
    chain: Vec<CertificateDer<'static>>,
    leaf: Leaf,
    since: Option<SystemTime>,
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
        Ok(Self { key, chain, leaf, since: None })
    }

    /// Joins a key and a chain that was written as PEM.
    pub fn parse(key: Arc<Key>, pem: &str) -> Result<Self, Rejected> {
        Self::new(key, parse_chain(pem)?)
    }

    /// The same, known to be on this host since then.
    pub fn here_since(self, since: Option<SystemTime>) -> Self {
        Self { since, ..self }
    }

    /// Since when it has been on this host, where that is known.
    pub fn since(&self) -> Option<SystemTime> {
        self.since
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
    /// Asks everything that must hold before a certificate may be used: first what it says, then who says
    /// so, and last whether it says so now.
    pub fn judge(
        pair: Pair,
        wanted: &Identity,
        anchors: &Anchors,
        now: SystemTime,
    ) -> Result<Self, Box<Unfit>> {
        let stated = fit_as_such(&pair, wanted)
            .and_then(|()| usages_as_wanted(&pair.leaf, wanted))
            .and_then(|()| organization_as_wanted(&pair.leaf, wanted));
        let named = names_as_wanted(&pair.leaf, wanted);
        let proven =
            chained(&pair, anchors, &wanted.usages, now).and_then(|()| within_dates(&pair.leaf, now));
        let but_for_names = stated.is_ok() && proven.is_ok();
        match stated.and(named).and(proven) {
            Ok(()) => Ok(Self { pair }),
            Err(why) => Err(Box::new(Unfit { pair, why, but_for_names })),
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
    if let Some(issuer) = pair.chain.iter().skip(1).find_map(|der| no_issuer(der)) {
        let why =
            format!("{issuer:?}, which came with it, may not sign certificates (RFC 5280 section 4.2.1.3)");
        return Err(Rejected::Untrusted(why));
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

/// The anchors' own dates and the presence of the usages in the leaf are not webpki's to check. Asked of a
/// moment at which the leaf is valid, so that one that has ended is not taken for one that was never trusted.
fn chained(
    pair: &Pair,
    anchors: &Anchors,
    usages: &BTreeSet<Usage>,
    now: SystemTime,
) -> Result<(), Rejected> {
    let now = now.max(pair.leaf.not_before).min(pair.leaf.not_after);
    let live = anchors.live(now);
    let untrusted = |e: webpki::Error| Rejected::Untrusted(e.to_string());
    let (leaf, intermediates) = pair.chain.split_first().ok_or(Rejected::KeyMismatch)?;
    let end = webpki::EndEntityCert::try_from(leaf).map_err(untrusted)?;
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    end.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &live,
        intermediates,
        UnixTime::since_unix_epoch(since),
        Every(usages),
        None,
        None,
    )
    .map_err(|error| refusal(&error, pair, anchors, now))?;
    Ok(())
}

/// Asks one chain for all the usages at once: signatures cost most of what a run without work does, and
/// a pass for each usage would check each of them again.
struct Every<'a>(&'a BTreeSet<Usage>);

impl webpki::ExtendedKeyUsageValidator for Every<'_> {
    /// RFC 5280 section 4.2.1.12: a certificate that lists usages serves those alone, one that lists none
    /// serves any.
    fn validate(&self, listed: webpki::KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let present: Vec<_> =
            listed.map(|id| Ok(id?.to_decoded_oid())).collect::<Result<_, webpki::Error>>()?;
        let serves = |usage: &Usage| present.is_empty() || present.iter().any(|id| id == purpose(*usage));
        match self.0.iter().find(|usage| !serves(usage)) {
            None => Ok(()),
            Some(Usage::Server) => Err(lacks(webpki::KeyUsage::server_auth(), present)),
            Some(Usage::Client) => Err(lacks(webpki::KeyUsage::client_auth(), present)),
        }
    }
}

fn purpose(usage: Usage) -> &'static [usize] {
    match usage {
        Usage::Server => webpki::KeyUsage::SERVER_AUTH_REPR,
        Usage::Client => webpki::KeyUsage::CLIENT_AUTH_REPR,
    }
}

fn lacks(required: webpki::KeyUsage, present: Vec<Vec<usize>>) -> webpki::Error {
    webpki::Error::RequiredEkuNotFoundContext(webpki::RequiredEkuNotFoundContext { required, present })
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

fn organization_as_wanted(leaf: &Leaf, wanted: &Identity) -> Result<(), Rejected> {
    match wanted.organization.as_ref().filter(|&wanted| *wanted != leaf.organizations) {
        Some(organization) => Err(Rejected::Organization {
            wanted: organization.iter().cloned().collect(),
            found: leaf.organizations.iter().cloned().collect(),
        }),
        None => Ok(()),
    }
}

fn names_as_wanted(leaf: &Leaf, wanted: &Identity) -> Result<(), Rejected> {
    let common_name: Vec<_> =
        Some(&wanted.common_name).filter(|n| !n.is_empty()).into_iter().cloned().collect();
    if leaf.common_names != common_name {
        let found = leaf.common_names.join(", ");
        return Err(Rejected::CommonName { wanted: wanted.common_name.clone(), found });
    }
    missing(&wanted.dns, &leaf.dns).map_or(Ok(()), |names| Err(Rejected::MissingDns(names)))?;
    missing(&wanted.ips, &leaf.ips).map_or(Ok(()), |names| Err(Rejected::MissingIp(names)))?;
    missing(&wanted.uris, &leaf.uris).map_or(Ok(()), |names| Err(Rejected::MissingUri(names)))
}

fn missing<T: Ord + ToString>(wanted: &BTreeSet<T>, found: &BTreeSet<T>) -> Option<Vec<String>> {
    let names: Vec<_> = wanted.difference(found).map(T::to_string).collect();
    (!names.is_empty()).then_some(names)
}

/// The name of a certificate whose key usage is not to sign others, which webpki does not look at.
fn no_issuer(der: &[u8]) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    let usage = parsed.key_usage().ok()??;
    (!usage.value.key_cert_sign()).then(|| plain(&parsed.subject().to_string()))
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

#[cfg(test)]
mod tests;
