//! Whether the CA has revoked what it still serves.

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::{CaError, Known, Puppet};
use crate::trust::proves;

impl Puppet {
    pub(super) async fn is_revoked(&self, known: &Known, leaf: &[u8]) -> Result<bool, CaError> {
        let call = self.call("read its revocation list", "certificate_revocation_list/ca");
        let answer = self.checked(&known.wire, &call).await?;
        revokes(&answer.body, &known.bundle, leaf)
            .map_err(|why| known.wire.bad_answer(&answer.url, &call, why))
    }
}

/// Whether the list of a certificate's issuer names it. Lists that are not signed by the issuer say nothing.
fn revokes(pem: &[u8], bundle: &[CertificateDer<'_>], leaf: &[u8]) -> Result<bool, String> {
    let lists = CertificateRevocationListDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let lists = lists.map_err(|_| "it is no list of revocation lists in PEM".to_owned())?;
    let (_, leaf) =
        X509Certificate::from_der(leaf).map_err(|_| "the certificate cannot be read".to_owned())?;
    let issuers = bundle.iter().filter_map(|der| X509Certificate::from_der(der).ok());
    let issuers: Vec<_> =
        issuers.map(|(_, c)| c).filter(|c| c.subject().as_raw() == leaf.issuer().as_raw()).collect();
    let mut found = false;
    for der in &lists {
        let (_, list) =
            CertificateRevocationList::from_der(der).map_err(|_| "a list in it is damaged".to_owned())?;
        let signed = |issuer: &X509Certificate<'_>| {
            proves(issuer, list.tbs_cert_list.as_ref(), &list.signature_value.data)
        };
        if list.issuer().as_raw() != leaf.issuer().as_raw() || !issuers.iter().any(signed) {
            continue;
        }
        found = true;
        if list.iter_revoked_certificates().any(|revoked| *revoked.serial() == leaf.serial) {
            return Ok(true);
        }
    }
    if found { Ok(false) } else { Err("it holds no list of the CA that signed the certificate".to_owned()) }
}
