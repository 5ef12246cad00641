//! One certificate: from a request to a bundle in force.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::failure::Failure;
use super::survey::Survey;
use super::{Run, Trusts};
use crate::bundle::{Bundle, Pair, Rejected};
use crate::ca::{self, Ca, Request};
use crate::certificate::Certificate;
use crate::clock::{at, human};
use crate::disk;
use crate::key::{Key, Pending};
use crate::plan::{self, Reason, Verdict};
use crate::setting::Name;
use crate::setting::chain;
use crate::trust::Anchors;

/// A lifetime that an hourly timer can fail to keep up with.
const SHORT: Duration = Duration::from_secs(3 * 3_600);

impl Run<'_> {
    /// From a request to a certificate in force. Until the commit, what is held stays as it is.
    pub(super) async fn obtain(
        &self,
        survey: &Survey,
        name: &Name,
        anchors: &Anchors,
        verdict: &Verdict,
        trusts: &Trusts,
    ) -> Result<(Bundle, String), Failure> {
        let certificate = &survey.node.certificates[name];
        let (settings, ca) = self.signer(survey, certificate)?;
        if let Some(Err(failure)) = certificate.trust.as_ref().and_then(|path| trusts.get(path)) {
            return Err(failure.clone());
        }
        disk::prove_writable(self.root(), certificate, verdict.bundle().is_some())?;
        let pending = self.pending(survey, certificate, settings, verdict)?;
        info!(certificate = %name, ca = %certificate.ca, "{name}: asking CA {}: {}", certificate.ca, reason_of(verdict));
        let request = Request {
            name,
            csr: &pending.csr,
            identity: &certificate.identity,
            role: certificate.role.as_deref(),
        };
        let issued = ca.obtain(&request).await?;
        let now = self.world.clock.now();
        let accepted = Pair::new(pending.key.clone(), issued.chain)
            .and_then(|pair| plan::accept(certificate, pair, anchors, now));
        let bundle = match accepted {
            Ok(bundle) => bundle,
            Err(why) => return Err(self.rejected(certificate, settings, why)),
        };
        disk::commit(self.root(), certificate, &bundle, now)?;
        if bundle.leaf().lifetime() < SHORT {
            let length = human(bundle.leaf().lifetime());
            warn!(certificate = %name, "{name}: is valid for {length} only, and the timer runs every hour; ask for a longer ttl, or run it more often");
        }
        disk::drop_pending(self.root(), name)?;
        info!(certificate = %name, ca = %certificate.ca, "{name}: installed, valid until {}", at(bundle.leaf().not_after));
        Ok((bundle, reason_of(verdict)))
    }

    fn signer<'s>(
        &'s self,
        survey: &'s Survey,
        certificate: &Certificate,
    ) -> Result<(&'s ca::Settings, &'s Ca), Failure> {
        let waits = || Failure::Waits(format!("CA {}", certificate.ca));
        let settings = survey.config.cas.get(&certificate.ca).ok_or_else(waits)?;
        let ca = self.cas.get(&certificate.ca).ok_or_else(waits)?.as_ref().map_err(Clone::clone)?;
        Ok((settings, ca))
    }

    /// The request that is still open, if it asks for what is wanted now; else a new one, on disk before it
    /// is sent.
    fn pending(
        &self,
        survey: &Survey,
        certificate: &Certificate,
        settings: &ca::Settings,
        verdict: &Verdict,
    ) -> Result<Pending, Failure> {
        let (wanted, dialect) = (&certificate.identity, settings.dialect());
        let cloned = survey.cloned.contains(&certificate.name);
        let open = if cloned { None } else { disk::pending(self.root(), &certificate.name)? };
        // A power cut can bring a request back that was answered: its key is in use already.
        let used = |open: &Pending| verdict.pair().is_some_and(|pair| pair.leaf().is_of(&open.key));
        if let Some(open) =
            open.filter(|open| open.asks_for(wanted, dialect) && !(certificate.rotate_key && used(open)))
        {
            return Ok(open);
        }
        let kept =
            verdict.pair().filter(|pair| !certificate.rotate_key && pair.leaf().has_key_kind(wanted.key));
        let key = match kept {
            Some(pair) => pair.key().clone(),
            None => Arc::new(Key::generate(wanted.key)?),
        };
        let pending = Pending::new(key, wanted, dialect)?;
        disk::keep_pending(self.root(), &certificate.name, &pending)?;
        Ok(pending)
    }

    /// A request that led to a bad answer is not made again as it is.
    fn rejected(&self, certificate: &Certificate, settings: &ca::Settings, why: Rejected) -> Failure {
        if let Err(error) = disk::drop_pending(self.root(), &certificate.name) {
            warn!(certificate = %certificate.name, "{}: {}", certificate.name, chain(&error));
        }
        let hint = settings.hint(&why).map(|hint| format!(". {hint}")).unwrap_or_default();
        Failure::Rejected { ca: certificate.ca.clone(), why, hint }
    }
}

fn reason_of(verdict: &Verdict) -> String {
    verdict.reason().map(Reason::to_string).unwrap_or_default()
}
