//! What is there, and what a run would do about it: `plan`, `status`; and what a run says at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::begin::{out_of_service, said_out};
use super::failure::{Error, Failure};
use super::lines::table_of;
use super::survey::Survey;
use super::{Ask, Done, Run, Trusts, World, keep, owed};
use crate::certificate::Owner;
use crate::clock::at;
use crate::disk;
use crate::node::TrustFile;
use crate::plan::Verdict;
use crate::report::{Action, CertificateLine, FileLine, OwedLine, Report};
use crate::root::Owners;
use crate::setting::{Name, chain};

/// What `run` would do, unless it would do nothing at all.
pub fn plan(survey: &Survey, world: &World, only: &[Name]) -> Result<Report, Error> {
    if let Some(since) = said_out(world) {
        return Err(out_of_service(world, since));
    }
    let mut report = status(survey, world, only)?;
    survey.foresee(world, &mut report);
    Ok(report)
}

/// What is there and what `run` would do about it, without doing it.
pub fn status(survey: &Survey, world: &World, only: &[Name]) -> Result<Report, Error> {
    let mut report = told(survey, world, only, Vec::new())?;
    for line in report.certificates.iter_mut().filter(|line| line.state == "damaged") {
        survey.own_up(world, line);
    }
    Ok(report)
}

impl Survey {
    /// What looks damaged may be someone else's file, which no run mends.
    fn own_up(&self, world: &World, line: &mut CertificateLine) {
        let may = disk::may_commit(&world.root, &self.node.certificates[&line.name], false);
        if let Err(failure) = may.map_err(Failure::from)
            && failure.is_foreign()
        {
            line.reason = self.trouble(&failure, &["certificate", line.name.as_str()]).message;
        }
    }
}

/// The same, where some files have just been looked at.
fn told(survey: &Survey, world: &World, only: &[Name], seen: Vec<FileLine>) -> Result<Report, Error> {
    let asked = survey.asked(only)?;
    let chosen = survey.node.certificates.values().filter(|certificate| asked.contains(&certificate.name));
    let mut files = file_lines(survey, world, seen);
    if !only.is_empty() {
        let concerned = survey.concerned(&asked);
        files.retain(|line| concerned.contains(line.path.as_path()));
    }
    let decommissioned = said_out(world);
    let out = decommissioned.clone().map(|since| out_of_service(world, since).to_string());
    Ok(Report {
        certificates: chosen.map(|certificate| survey.line(certificate)).collect(),
        files,
        owed: owed_lines(survey, world),
        notes: out.into_iter().chain(survey.notes()).collect(),
        last_run: None,
        decommissioned,
    })
}

/// Trust files, what is kept and rendered files. What has been looked at is not read again.
fn file_lines(survey: &Survey, world: &World, seen: Vec<FileLine>) -> Vec<FileLine> {
    let seen: BTreeMap<_, _> = seen.into_iter().map(|line| (line.path.clone(), line)).collect();
    let known = |path: &Path| seen.get(path).cloned();
    let node = &survey.node;
    let trusts =
        node.trusts.iter().map(|trust| known(&trust.path).unwrap_or_else(|| survey.trust_line(world, trust)));
    let kept = node.keepsakes.iter().flat_map(|keepsake| {
        let all: Option<Vec<_>> = keepsake.paths().map(known).collect();
        all.unwrap_or_else(|| {
            let found = keep::lines(survey, world, keepsake).into_iter();
            found.map(|line| known(&line.path).unwrap_or(line)).collect()
        })
    });
    let rendered =
        node.files.iter().map(|file| known(&file.path).unwrap_or_else(|| survey.file_line(world, file)));
    trusts.chain(kept).chain(rendered).collect()
}

/// What is owed. Where that is not known there may be something to do.
fn owed_lines(survey: &Survey, world: &World) -> Vec<OwedLine> {
    let deeds = match owed::read(&world.root, &survey.node) {
        Ok(debts) => owed::deeds(&debts).iter().map(ToString::to_string).collect(),
        Err(error) => vec![format!("what is owed is not known: {}", chain(&error))],
    };
    deeds.into_iter().map(|deed| OwedLine { deed, trouble: None }).collect()
}

impl Run<'_> {
    /// What is there now, and what this run did about it.
    pub(super) fn report(
        &self,
        survey: &Survey,
        ask: &Ask,
        mut files: Vec<FileLine>,
        owed: Vec<OwedLine>,
    ) -> Result<Report, Error> {
        let as_wanted = |trust: &&TrustFile| {
            matches!(self.trusts.get(&trust.path), Some(Ok(_))) && survey.trusted(trust).is_some()
        };
        let trusts = survey.node.trusts.iter().filter(as_wanted);
        files.extend(trusts.map(|trust| survey.line_of("ca".to_owned(), &trust.path, Ok(None), &[])));
        let mut report = told(survey, self.world, &ask.only, files)?;
        report.certificates.iter_mut().for_each(|line| self.tell_certificate(line, survey, ask));
        let trusts: BTreeMap<_, _> = survey.node.trusts.iter().map(|trust| (&trust.path, trust)).collect();
        for line in &mut report.files {
            if let Some(trust) = trusts.get(&line.path) {
                self.tell_trust(line, survey, trust);
            }
        }
        report.owed = owed;
        report.notes.extend(self.notes(survey));
        report.notes.extend(wide_trusts(survey, &self.trusts));
        report.notes.extend(dead_trusts(survey, &self.trusts));
        Ok(report)
    }

    fn tell_certificate(&self, line: &mut CertificateLine, survey: &Survey, ask: &Ask) {
        if let (Some(Verdict::Renew(..)), true) = (survey.verdicts.get(&line.name), ask.missing) {
            line.action = Action::Keep;
            line.reason = format!("{}, which is left to the timer", line.reason);
        }
        match self.done.get(&line.name) {
            Some(Done::Obtained(reason)) => {
                (line.action, line.reason, line.changed) = (Action::Obtain, reason.clone(), true);
            }
            Some(Done::Repaired(what)) => {
                (line.action, line.reason, line.changed) = (Action::Repair, what.clone(), true);
            }
            Some(Done::Failed(failure) | Done::Mended(failure)) => {
                line.changed = matches!(self.done.get(&line.name), Some(Done::Mended(_)));
                line.trouble = Some(survey.trouble(failure, &["certificate", line.name.as_str()]));
                if failure.is_blocked() {
                    line.action = Action::Blocked;
                }
            }
            None => {}
        }
    }

    fn tell_trust(&self, line: &mut FileLine, survey: &Survey, trust: &TrustFile) {
        match self.trusts.get(&trust.path) {
            Some(Ok(true)) => {
                (line.action, line.changed) = (Action::Obtain, true);
                "the CA's certificates".clone_into(&mut line.reason);
            }
            Some(Ok(false)) => {}
            Some(Err(failure)) => line.trouble = Some(survey.trouble(failure, &table_of(trust))),
            None => line.action = Action::Blocked,
        }
        let unread = trust.cas.iter().find_map(|ca| survey.unread.anchors.get(ca));
        if let Some(failure) = unread.or_else(|| survey.unknown_anchors(trust)) {
            line.trouble = Some(survey.trouble(failure, &table_of(trust)));
        }
    }

    fn notes(&self, survey: &Survey) -> Vec<String> {
        let places = survey.node.certificates.values().map(|certificate| &certificate.place.owner);
        let mut owners = places.chain(survey.node.files.iter().map(|file| &file.owner));
        let wanted = owners.any(|owner| *owner != Owner::default());
        match self.root().owners() {
            Owners::LeftAlone(why) if wanted => vec![format!("owners were left alone: {why}")],
            _ => Vec::new(),
        }
    }
}

/// What has expired vouches for nothing: worth a word when a trust file is written that holds it.
fn dead_trusts(survey: &Survey, trusts: &Trusts) -> BTreeSet<String> {
    let written = written(survey, trusts);
    let dead = |ca: &Name| {
        let expired = survey.known_anchors(ca).map(|known| known.expired(survey.now)).unwrap_or_default();
        let said = |(name, when)| {
            format!(
                "CA {ca}: {name:?} expired {}, and nothing that hangs on it is valid: renew it, or take it out of anchors",
                at(when)
            )
        };
        expired.into_iter().map(said).collect::<Vec<_>>()
    };
    written.flat_map(|trust| trust.cas.iter().flat_map(dead)).collect()
}

/// A root that stands above the CA vouches for every other CA that it has signed: worth a word when a trust
/// file begins to hold it, and not each night.
fn wide_trusts(survey: &Survey, trusts: &Trusts) -> BTreeSet<String> {
    let written = written(survey, trusts);
    let wide = |trust: &TrustFile, name: &Name| {
        let certificate = survey.node.certificates.get(name)?;
        let issuer = survey.bundle(name)?.pair().chain().get(1)?;
        let anchors = survey.anchors.get(&certificate.ca)?.as_ref().ok()?.as_ref()?;
        let trusted = trust.cas.contains(&certificate.ca) && !anchors.certificates().contains(issuer);
        trusted.then(|| {
            format!(
                "{} trusts what stands above CA {}, and with it any other CA below that; anchors.pins of the CA itself would not",
                trust.path.display(), certificate.ca
            )
        })
    };
    written.flat_map(|trust| trust.certificates.iter().filter_map(move |name| wide(trust, name))).collect()
}

fn written<'a>(survey: &'a Survey, trusts: &'a Trusts) -> impl Iterator<Item = &'a TrustFile> {
    survey.node.trusts.iter().filter(|trust| matches!(trusts.get(&trust.path), Some(Ok(true))))
}
