//! One certificate: from a request to a bundle in force.

use std::sync::Arc;

use tracing::{info, warn};
use zeroize::Zeroizing;

use super::failure::Failure;
use super::survey::Survey;
use super::{Run, TEXT, Trusts};
use crate::bundle::{Bundle, Pair, Rejected, parse_chain};
use crate::ca::{self, Ca, Issued, Renewal, Request};
use crate::certificate::Certificate;
use crate::clock::at;
use crate::disk;
use crate::key::{Dialect, Key, Pending};
use crate::plan::{self, Held, Reason, Verdict};
use crate::setting::Name;
use crate::setting::chain;
use crate::trust::Anchors;

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
        let trial = disk::prove_writable(self.root(), certificate, verdict.bundle().is_some())?;
        others_turn().await;
        trial.finish()?;
        let reason = reason_of(verdict);
        info!(certificate = %name, ca = %certificate.ca, reason, "{name}: asking CA {}: {reason}", certificate.ca);
        if verdict.pair().is_none()
            && !survey.cloned.contains(name)
            && let Some(bundle) = self.adopted(survey, certificate, ca, anchors).await?
        {
            disk::commit(self.root(), certificate, &bundle, self.world.clock.now())?;
            return Ok((bundle, "puppet's own agent has it already".to_owned()));
        }
        let (key, issued) = match self.renewed(certificate, ca, verdict).await? {
            Some(renewed) => renewed,
            None => self.requested(survey, certificate, settings, ca, verdict).await?,
        };
        let now = self.world.clock.now();
        let accepted = Pair::new(key, issued.chain.clone())
            .and_then(|pair| plan::accept(certificate, pair.here_since(Some(now)), anchors, now));
        let bundle = match accepted {
            Ok(bundle) => bundle,
            Err(why) => {
                let doubted = self.doubted(&why);
                let rejected = self.rejected(certificate, settings, why, &issued);
                return Err(doubted.unwrap_or(rejected));
            }
        };
        // The next request is on its way while this pair goes to disk.
        others_turn().await;
        disk::commit(self.root(), certificate, &bundle, now)?;
        disk::drop_pending(self.root(), name)?;
        let until = at(bundle.leaf().not_after);
        info!(certificate = %name, ca = %certificate.ca, not_after = until, "{name}: installed, valid until {until}");
        Ok((bundle, reason))
    }

    /// What a puppet agent got before this program came: the same certificate, if it will do. One that is due is
    /// good enough, for its name is taken; the next run renews it.
    async fn adopted(
        &self,
        survey: &Survey,
        certificate: &Certificate,
        ca: &Ca,
        anchors: &Anchors,
    ) -> Result<Option<Bundle>, Failure> {
        let Some(ssldir) = &certificate.ssldir else { return Ok(None) };
        let own = format!("{}.pem", certificate.identity.common_name);
        let read = |directory: &str| disk::read_text(self.root(), &ssldir.join(directory).join(&own), TEXT);
        let (Some((cert, _)), Some((key, _))) = (read("certs")?, read("private_keys")?) else {
            return Ok(None);
        };
        let (Ok(key), Ok(mut chain)) = (Key::parse(&Zeroizing::new(key)), parse_chain(&cert)) else {
            return Ok(None);
        };
        chain.extend(ca.published().await?);
        let held =
            Pair::new(Arc::new(key), chain).map_or_else(|why| Held::Mixed(why.to_string()), Held::Pair);
        let now = self.world.clock.now();
        let verdict = survey.judge(self.world, certificate, held, Some(anchors), false, now)?;
        if let Verdict::Keep(bundle) | Verdict::Renew(bundle, _) = verdict {
            return Ok(Some(bundle));
        }
        let why = reason_of(&verdict);
        info!(certificate = %certificate.name, "{}: the puppet agent's certificate is not used: {why}", certificate.name);
        Ok(None)
    }

    /// A certificate in force whose CA renews it by its own means, with its own key.
    async fn renewed(
        &self,
        certificate: &Certificate,
        ca: &Ca,
        verdict: &Verdict,
    ) -> Result<Option<(Arc<Key>, Issued)>, Failure> {
        let (Verdict::Renew(bundle, _), false) = (verdict, certificate.rotate_key) else { return Ok(None) };
        let renewed = ca.renew(&Renewal { bundle, identity: &certificate.identity }).await?;
        Ok(renewed.map(|issued| (bundle.pair().key().clone(), issued)))
    }

    async fn requested(
        &self,
        survey: &Survey,
        certificate: &Certificate,
        settings: &ca::Settings,
        ca: &Ca,
        verdict: &Verdict,
    ) -> Result<(Arc<Key>, Issued), Failure> {
        let held = verdict.pair();
        // A CA that renews by its own means has been asked to; what it signs anew is for a new key.
        let kept = held.filter(|pair| {
            !certificate.rotate_key
                && !settings.keeps_names()
                && !verdict.is_revoked()
                && pair.leaf().has_key_kind(certificate.identity.key)
        });
        // The key of these is not certified again.
        let spent = held.filter(|_| certificate.rotate_key || verdict.is_revoked());
        let pending = self.pending(survey, certificate, settings, &ca.dialect()?, spent, kept).await?;
        let request = Request {
            name: &certificate.name,
            csr: &pending.csr,
            identity: &certificate.identity,
            role: certificate.role.as_deref(),
            held: held.map(Pair::leaf),
        };
        let issued = ca.obtain(&request).await?;
        Ok((pending.key, issued))
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
    async fn pending(
        &self,
        survey: &Survey,
        certificate: &Certificate,
        settings: &ca::Settings,
        dialect: &Dialect,
        spent: Option<&Pair>,
        kept: Option<&Pair>,
    ) -> Result<Pending, Failure> {
        let wanted = &certificate.identity;
        let cloned = survey.cloned.contains(&certificate.name);
        let open = if cloned { None } else { disk::pending(self.root(), &certificate.name)? };
        // A power cut can bring a request back that was answered: its key is in use already.
        let open = open.filter(|open| !spent.is_some_and(|pair| pair.leaf().is_of(&open.key)));
        let key = match (open, kept) {
            (Some(open), _) if open.asks_for(wanted, dialect) => return Ok(open),
            // It may lie there under the name, and with another key we would be a stranger to it.
            (Some(open), _) if settings.keeps_names() && open.csr.key_kind() == Some(wanted.key) => open.key,
            (_, Some(pair)) => pair.key().clone(),
            (_, None) => Arc::new(Key::generate(wanted.key)?),
        };
        let pending = Pending::new(key, wanted, dialect)?;
        let kept = disk::keep_pending(self.root(), &certificate.name, &pending)?;
        others_turn().await;
        kept.settle()?;
        Ok(pending)
    }

    /// A request that led to a bad answer is not made again as it is.
    fn rejected(
        &self,
        certificate: &Certificate,
        settings: &ca::Settings,
        why: Rejected,
        issued: &Issued,
    ) -> Failure {
        let dropped = match settings.keeps_names() {
            // What is signed there is for this key, and nothing else will be.
            true => Ok(()),
            false => disk::drop_pending(self.root(), &certificate.name),
        };
        if let Err(error) = dropped {
            warn!(certificate = %certificate.name, "{}: {}", certificate.name, chain(&error));
        }
        let hint = settings.hint(&why).map(|hint| format!(". {hint}")).unwrap_or_default();
        let hint = signer_of(issued, &why).unwrap_or_default() + &hint;
        Failure::Rejected { ca: certificate.ca.clone(), why, hint }
    }
}

/// What a CA that is not trusted signs with, as it says itself: for a person to compare.
fn signer_of(issued: &Issued, why: &Rejected) -> Option<String> {
    let above = issued.chain.get(1..).filter(|_| matches!(why, Rejected::Untrusted(_)))?;
    let (name, pin, _) = Anchors::published(above).ok()?.describe().into_iter().next()?;
    Some(format!("; it came with {name:?} {pin}"))
}

/// Certificates of a wave go side by side on one thread. What each of them has written before the first waits for
/// the disk is there for all of them after one journal commit.
async fn others_turn() {
    tokio::task::yield_now().await;
}

fn reason_of(verdict: &Verdict) -> String {
    verdict.reason().map(Reason::to_string).unwrap_or_default()
}
