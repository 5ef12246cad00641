//! Revocation lists (RFC 5280 section 5): which of them say anything, and what they say.

use std::time::SystemTime;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::proves;
use crate::clock::{at, from_seconds};
use crate::key::pem_block;

/// Those lists of a PEM text that a certificate of the bundle has signed. One of another CA says nothing and
/// is left out; a consumer refuses every certificate for one that has ended.
pub fn proven(pem: &str, bundle: &[CertificateDer<'_>], now: SystemTime) -> Result<String, String> {
    let mut proven = String::new();
    for der in read(pem)? {
        let list = parsed(&der)?;
        if !is_signed_within(&list, bundle) {
            continue;
        }
        let end = list.next_update().map(|end| from_seconds(end.timestamp()));
        if let Some(end) = end.filter(|end| *end < now) {
            return Err(format!(
                "the revocation list of {:?} ended {}: is this host's clock right? Else the CA's operator has to have it made anew",
                list.issuer().to_string(),
                at(end)
            ));
        }
        proven += &pem_block("X509 CRL", &der);
    }
    if proven.is_empty() { Err("it holds no list that this CA has signed".to_owned()) } else { Ok(proven) }
}

/// Whether the list of a certificate's issuer names it. Lists that are not signed by the issuer say nothing.
pub fn revokes(pem: &str, bundle: &[CertificateDer<'_>], leaf: &[u8]) -> Result<bool, String> {
    let (_, leaf) =
        X509Certificate::from_der(leaf).map_err(|_| "the certificate cannot be read".to_owned())?;
    let mut found = false;
    for der in read(pem)? {
        let list = parsed(&der)?;
        if list.issuer().as_raw() != leaf.issuer().as_raw() || !is_signed_within(&list, bundle) {
            continue;
        }
        found = true;
        if list.iter_revoked_certificates().any(|revoked| *revoked.serial() == leaf.serial) {
            return Ok(true);
        }
    }
    if found { Ok(false) } else { Err("it holds no list of the CA that signed the certificate".to_owned()) }
}

fn read(pem: &str) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let lists = CertificateRevocationListDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    lists.map_err(|_| "it is no list of revocation lists in PEM".to_owned())
}

fn parsed(der: &[u8]) -> Result<CertificateRevocationList<'_>, String> {
    let read = CertificateRevocationList::from_der(der);
    read.map(|(_, list)| list).map_err(|_| "a revocation list in it is damaged".to_owned())
}

fn is_signed_within(list: &CertificateRevocationList<'_>, bundle: &[CertificateDer<'_>]) -> bool {
    let certificates = bundle.iter().filter_map(|der| X509Certificate::from_der(der).ok());
    let mut issuers = certificates.map(|(_, c)| c).filter(|c| c.subject().as_raw() == list.issuer().as_raw());
    issuers.any(|issuer| proves(&issuer, list.tbs_cert_list.as_ref(), &list.signature_value.data))
}
