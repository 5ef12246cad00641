//! One CA and the certificates that it signs: anchors, trust files, requests. CAs are served side by side, so
//! that one that is away holds up no other.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use tracing::{info, warn};

use super::failure::Failure;
use super::survey::Survey;
use super::{Ask, Done, Run, Trusts};
use crate::bundle::Bundle;
use crate::certificate::Owner;
use crate::disk;
use crate::node::TrustFile;
use crate::plan::Verdict;
use crate::report::said_once;
use crate::setting::{Name, RETOLD};
use crate::trust::Anchors;

/// A bundle in force, and why it was got.
pub(super) type Obtained = Result<(Bundle, String), Failure>;

/// The verdicts, and what could not be read.
type Judged<'s> = (Vec<(&'s Name, Verdict)>, Vec<(Name, Obtained)>);

/// What became of one CA's part of a wave.
pub(super) struct Served {
    ca: Name,
    learned: Option<Result<Anchors, Failure>>,
    /// Why its revocation lists, if they are wanted, could not be read.
    unread: Option<Failure>,
    trusts: Trusts,
    results: Vec<(Name, Obtained)>,
}

impl Run<'_> {
    /// Learns the CA's anchors where they are not known or were read long ago, puts them into the trust
    /// files, and then gets what is to be got.
    pub(super) async fn serve(&self, survey: &Survey, ca: &Name, names: &[Name], ask: &Ask) -> Served {
        let known = survey.known_anchors(ca);
        let learned = match self.is_to_learn(survey, ca, names, ask) {
            true => Some(self.fetch_anchors(survey, ca, known).await),
            false => None,
        };
        if let Some(Err(failure)) = &learned {
            let reason = survey.trouble(failure, &[]).message;
            warn!(target: RETOLD, %ca, reason, "{reason}");
        }
        let mut served =
            Served { ca: ca.clone(), learned, unread: None, trusts: BTreeMap::new(), results: Vec::new() };
        let news = served.learned.as_ref().and_then(|learned| learned.as_ref().ok());
        let Some(anchors) = news.or(known) else { return served };
        let lists = self.learn_crl(survey, ca, ask).await;
        let again = news.is_some() || matches!(lists, Ok(true));
        served.unread = lists.err();
        if let Some(failure) = &served.unread {
            warn!(target: RETOLD, %ca, "{}", survey.trouble(failure, &[]).message);
        }
        let (verdicts, unread) = self.verdicts(survey, names, anchors, again, ask);
        let due: Vec<_> = verdicts.iter().filter(|(_, verdict)| verdict.is_to_get(ask.missing)).collect();
        served.trusts = self.widen(survey, &due.iter().map(|(name, _)| *name).collect(), ca, anchors);
        // Each is told as it fails: the others may wait for long, and be told to end.
        let said = RefCell::default();
        unread.iter().for_each(|(name, result)| tell(survey, ca, name, result, &said));
        let obtain = async |name, verdict| {
            let result = self.obtain(survey, name, anchors, verdict, &served.trusts).await;
            tell(survey, ca, name, &result, &said);
            result
        };
        let results = join_all(due.iter().map(|(name, verdict)| obtain(*name, verdict))).await;
        let results = due.iter().map(|(name, _)| (**name).clone()).zip(results);
        served.results = results.chain(unread).collect();
        served
    }

    /// What is held, judged again where there are anchors to judge it by that were not there before; and what could
    /// not be read this time.
    fn verdicts<'s>(
        &self,
        survey: &'s Survey,
        names: &'s [Name],
        anchors: &Anchors,
        again: bool,
        ask: &Ask,
    ) -> Judged<'s> {
        let (mut verdicts, mut unread) = (Vec::new(), Vec::new());
        for certificate in names.iter().filter_map(|name| survey.node.certificates.get(name)) {
            let name = &certificate.name;
            let verdict = match survey.verdicts.get(name) {
                Some(verdict) if !again => Ok(verdict.clone()),
                _ => survey.verdict(self.world, certificate, Some(anchors), ask.force),
            };
            match verdict {
                Ok(verdict) => verdicts.push((name, verdict)),
                Err(error) => unread.push((name.clone(), Err(error.into()))),
            }
        }
        (verdicts, unread)
    }

    /// The trust files of these certificates hold the CA's anchors before any of them is there.
    fn widen(&self, survey: &Survey, names: &BTreeSet<&Name>, ca: &Name, anchors: &Anchors) -> Trusts {
        let with = |trust: &&TrustFile| trust.certificates.iter().any(|name| names.contains(name));
        let trusts = survey.node.trusts.iter().filter(with);
        trusts.map(|trust| (trust.path.clone(), self.put_trust(survey, trust, Some((ca, anchors))))).collect()
    }

    /// Writes one trust file. Where a CA that shares it is not known, or is served at the same time (`news`), what
    /// the file holds stays in it.
    pub(super) fn put_trust(
        &self,
        survey: &Survey,
        trust: &TrustFile,
        news: Option<(&Name, &Anchors)>,
    ) -> Result<bool, Failure> {
        let mut wanted = Anchors::default();
        let mut whole = true;
        for ca in &trust.cas {
            match news
                .filter(|(name, _)| *name == ca)
                .map(|(_, anchors)| anchors)
                .or(survey.known_anchors(ca))
            {
                Some(anchors) => wanted.join(anchors),
                None => whole = false,
            }
        }
        if wanted.certificates().is_empty() {
            return Ok(false);
        }
        let owner = Owner::default();
        // Someone else's file is not taken for ours by what it holds: it is refused or put aside as it is.
        let is_ours = || disk::trust_is(self.root(), &trust.path, &wanted, &owner, false).is_ok();
        let stays = !whole || news.is_some() && is_ours();
        if stays && let Some((text, _)) = disk::read_text(self.root(), &trust.path, super::TEXT)? {
            // What is no trust file is the next line's to refuse.
            Anchors::parse(text.as_bytes()).iter().for_each(|there| wanted.join(there));
        }
        let written = disk::widen(self.root(), &trust.path, &wanted, &owner, trust.replace, survey.now)?;
        if written {
            info!(path = %trust.path.display(), "{}: trust file written", trust.path.display());
        }
        Ok(written)
    }

    /// Takes into the survey what one CA's part of a wave has changed.
    pub(super) fn settle(&mut self, survey: &mut Survey, served: Served, ask: &Ask) {
        match served.learned {
            Some(Ok(anchors)) => {
                survey.anchors.insert(served.ca.clone(), Ok(Some(anchors)));
                survey.look_again(self.world, &served.ca, ask.force);
            }
            Some(Err(failure)) => match survey.known_anchors(&served.ca) {
                Some(_) => drop(survey.unread.anchors.insert(served.ca.clone(), failure)),
                None => drop(survey.anchors.insert(served.ca.clone(), Err(failure))),
            },
            None => {}
        }
        if let Some(failure) = served.unread {
            survey.unread.lists.insert(served.ca.clone(), failure);
        }
        self.trusts.extend(served.trusts);
        for (name, result) in served.results {
            match result {
                Ok((bundle, reason)) => {
                    survey.verdicts.insert(name.clone(), Verdict::Keep(bundle));
                    survey.is_mended(&name);
                    self.done.insert(name, Done::Obtained(reason));
                }
                Err(failure) => drop(self.done.insert(name, Done::Failed(failure))),
            }
        }
    }
}

fn tell(
    survey: &Survey,
    ca: &Name,
    name: &Name,
    result: &Obtained,
    said: &RefCell<BTreeMap<String, String>>,
) {
    let Err(failure) = result else { return };
    let trouble = survey.trouble(failure, &["certificate", name.as_str()]);
    let (reason, exit) = (trouble.message, trouble.exit.code());
    let shown = said_once(&mut said.borrow_mut(), name.as_str(), &reason);
    warn!(target: RETOLD, certificate = %name, %ca, reason, exit, "{name}: {shown}");
}
