//! A new certificate for the same key and the same names: all that a Puppet CA can renew, and only a
//! server that has the endpoint (measured: 8.7, and 7.9.5 has not).

use reqwest::Method;
use rustls_pki_types::CertificateDer;

use super::enrolment::REVOKED;
use super::{CaError, Issued, Known, Puppet, Renewal};
use crate::bundle::Leaf;
use crate::ca::text::said;
use crate::clock::at;

impl Puppet {
    /// `None` where the name is free, so that it can be asked for as if for the first time.
    pub(super) async fn renewed(
        &self,
        known: &Known,
        renewal: &Renewal<'_>,
    ) -> Result<Option<Issued>, CaError> {
        let certname = &renewal.identity.common_name;
        let Some(there) = self.certificate(known, certname).await? else { return Ok(None) };
        let held = renewal.bundle;
        let leaf = Leaf::parse(&there).ok().filter(|leaf| leaf.is_of(held.pair().key()));
        let Some(leaf) = leaf else {
            return Err(self.taken(certname, "the CA has since signed it for another key"));
        };
        if self.is_revoked(known, &there).await? {
            return Err(self.taken(certname, REVOKED));
        }
        // A renewal whose answer was lost is there already.
        if held.leaf().not_before < leaf.not_before {
            return Ok(Some(self.issued(known, there)));
        }
        self.ask_renewal(known, renewal).await.map(|leaf| Some(self.issued(known, leaf)))
    }

    async fn ask_renewal(
        &self,
        known: &Known,
        renewal: &Renewal<'_>,
    ) -> Result<CertificateDer<'static>, CaError> {
        let certname = &renewal.identity.common_name;
        let asked = format!("renew {certname}");
        let mut call = self.call(&asked, "certificate_renewal");
        call.method = Method::POST;
        let wire = self.wire(known.trust.clone(), Some(renewal.bundle))?;
        let answer = wire.ask(&call).await?;
        if answer.status.is_success() {
            return self.leaf(known, &answer, &call);
        }
        let (status, said, until) =
            (answer.status.as_u16(), said(&answer.body), at(renewal.bundle.leaf().not_after));
        let needs = match status {
            403 => NO_CERTIFICATE,
            404 => SWITCHED_OFF,
            _ => "see the log of the CA's server",
        };
        Err(self.taken(
            certname,
            format!(
                "this server did not renew it ({status} {said}): {needs}. The certificate in force stays until {until}"
            ),
        ))
    }
}

const SWITCHED_OFF: &str =
    "that needs Puppet Server 8 or later with allow-auto-renewal: true in its ca.conf, and a restart of it";
/// Measured: 8.7 answers so where no client certificate reached it, 7.9.5 where one did.
const NO_CERTIFICATE: &str = "that needs Puppet Server 8 or later with allow-auto-renewal: true in its ca.conf, and this host's certificate has to reach it: client-auth: want in its webserver.conf, and nothing between that ends TLS";
