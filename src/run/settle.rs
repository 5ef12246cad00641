//! Everything around the certificates: trust files, drift, rendered files, and what is said at the end.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{info, warn};

use super::failure::{Error, Failure};
use super::lines::table_of;
use super::load::{CLONED, MACHINE};
use super::survey::Survey;
use super::{Ask, Done, Run, Trusts};
use crate::certificate::Owner;
use crate::clock::at;
use crate::disk::{self, DiskError};
use crate::file::{Content, File};
use crate::node::TrustFile;
use crate::plan::Verdict;
use crate::report::{Action, CertificateLine, FileLine, OwedLine, Report};
use crate::root::Owners;
use crate::setting::{Name, RETOLD, chain};

impl Run<'_> {
    /// Every trust file that is asked for, now that all that could be learned is known.
    pub(super) fn trust_files(&mut self, survey: &Survey, asked: &BTreeSet<Name>) {
        let concerned = survey.concerned(asked);
        for trust in survey.node.trusts.iter().filter(|trust| concerned.contains(trust.path.as_path())) {
            let written = self.put_trust(survey, trust, None);
            let before = matches!(self.trusts.get(&trust.path), Some(Ok(true)));
            self.trusts.insert(trust.path.clone(), written.map(|written| written || before));
        }
    }

    /// Modes, owners and links that drifted are set right without asking anyone, also where a CA that was asked for
    /// another certificate is away.
    pub(super) fn repair(&mut self, survey: &mut Survey, asked: &BTreeSet<Name>) {
        let drifted = survey.drifts.iter().filter(|(name, drift)| !drift.is_empty() && asked.contains(name));
        for name in drifted.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            let (Some(certificate), Some(bundle)) =
                (survey.node.certificates.get(&name), survey.bundle(&name))
            else {
                continue;
            };
            let done = match disk::repair(self.root(), certificate, bundle, survey.now) {
                Ok(mended) => {
                    let what = mended.join("; ");
                    info!(certificate = %name, reason = what, "{name}: repaired: {what}");
                    survey.is_mended(&name);
                    Done::Repaired(what)
                }
                Err(error) => {
                    let failure = error.into();
                    let reason = survey.trouble(&failure, &["certificate", name.as_str()]).message;
                    warn!(target: RETOLD, certificate = %name, reason, "{name}: not repaired: {reason}");
                    Done::Failed(failure)
                }
            };
            let done = beside(self.done.remove(&name), done);
            self.done.insert(name, done);
        }
    }

    /// Rendered files wait until every certificate they need is held.
    pub(super) fn files(&self, survey: &Survey, asked: &BTreeSet<Name>) -> Vec<FileLine> {
        let concerned = survey.concerned(asked);
        let wanted = survey.node.files.iter().filter(|file| concerned.contains(file.path.as_path()));
        let lines = wanted.map(|file| {
            let line = self.file(survey, file);
            // What is there stays, but it is not as fresh as it was to be.
            let stale = survey.unread_lists(file).map(|failure| survey.trouble(failure, &[]));
            FileLine { trouble: line.trouble.or(stale), ..line }
        });
        lines.collect()
    }

    fn file(&self, survey: &Survey, file: &File) -> FileLine {
        let waits: Vec<_> =
            file.needs.iter().filter(|need| survey.bundle(need).is_none()).map(Name::as_str).collect();
        let mut line = survey.file_line(self.world, file);
        // What it will be refused for is said at once.
        if !waits.is_empty() && line.trouble.is_none() {
            return waiting_line(file, &waits.join(" and "));
        }
        // One that is as it is to be becomes ours where nothing in it could say so, as one that puppet wrote.
        let is_silent = matches!(file.content, Content::Part(..));
        if line.trouble.is_some() || line.action == Action::Keep && !is_silent {
            return line;
        }
        let put = survey
            .rendered(self.world, file)
            .and_then(|text| Ok(disk::put(self.root(), file, text.as_bytes(), survey.now)?));
        match put {
            Ok(changed) => line.changed = changed,
            Err(failure) => {
                let trouble = survey.trouble(&failure, &survey.table_of(&file.name, &file.path));
                let (path, reason) = (file.path.display(), &trouble.message);
                warn!(target: RETOLD, %path, reason, "{path}: {reason}");
                line.trouble = Some(trouble);
            }
        }
        if line.changed {
            let reason = &line.reason;
            info!(path = %file.path.display(), reason, "{}: written: {reason}", file.path.display());
        }
        line
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

    /// What goes before everything else: whose directories may be written in, what an earlier run left, and what
    /// is to be known of this host by the next.
    pub(super) fn take_up(&self, survey: &Survey, was_left: bool) -> Result<(), DiskError> {
        disk::admit(self.root(), &survey.node);
        if was_left {
            self.clear_up(survey)?;
        }
        self.remember_machine(survey)?;
        self.remember_facts(survey)
    }

    /// Removes what a run that did not come to its end has left: drafts, and requests that were answered. What
    /// is still to be answered stays, to be asked again as it is.
    pub(super) fn clear_up(&self, survey: &Survey) -> Result<(), DiskError> {
        for unswept in disk::sweep(self.root(), &survey.node) {
            warn!("what an earlier run may have left stays: {}", chain(&unswept));
        }
        for certificate in survey.node.certificates.values() {
            let held = survey.verdicts.get(&certificate.name).and_then(Verdict::pair);
            let Some(pair) = held else { continue };
            let open = disk::pending(self.root(), &certificate.name)?;
            // One that is half overwritten is none.
            if open.is_none_or(|open| certificate.rotate_key && pair.leaf().is_of(&open.key)) {
                disk::drop_pending(self.root(), &certificate.name)?;
            }
        }
        Ok(())
    }

    /// The state is this machine's from now on; what was made on another is on a list until it is made anew.
    fn remember_machine(&self, survey: &Survey) -> Result<(), DiskError> {
        let Some(id) = &survey.facts.machine_id else { return Ok(()) };
        if survey.at_home {
            return Ok(());
        }
        // What could not be read before is no reason to write over it.
        disk::read_state(self.root(), MACHINE)?;
        self.list_cloned(&survey.cloned)?;
        disk::keep_state(self.root(), MACHINE, format!("{}\n", id.value).as_bytes())
    }

    /// Strikes from the list what this run has made anew.
    pub(super) fn strike_cloned(&self, survey: &Survey) -> Option<OwedLine> {
        let made = |name: &&Name| matches!(self.done.get(*name), Some(Done::Obtained(_)));
        if !survey.cloned.iter().any(|name| made(&name)) {
            return None;
        }
        let left = survey.cloned.iter().filter(|name| !made(name)).cloned().collect();
        let failed = self.list_cloned(&left).err()?;
        Some(Failure::from(failed).owed("to note which keys are this machine's own"))
    }

    fn list_cloned(&self, names: &BTreeSet<Name>) -> Result<(), DiskError> {
        if names.is_empty() {
            return disk::drop_state(self.root(), CLONED);
        }
        let lines: Vec<_> = names.iter().map(Name::as_str).collect();
        disk::keep_state(self.root(), CLONED, lines.join("\n").as_bytes())
    }

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
        let mut report = super::told(survey, self.world, &ask.only, files)?;
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
}

/// What became of a certificate that was to be repaired, after what became of it before: of two failures the one
/// with the higher exit.
fn beside(before: Option<Done>, repair: Done) -> Done {
    match (before, repair) {
        (Some(Done::Failed(failure)), Done::Repaired(_)) => Done::Mended(failure),
        (Some(Done::Failed(before)), Done::Failed(failure)) if failure.exit() <= before.exit() => {
            Done::Failed(before)
        }
        (_, repair) => repair,
    }
}

/// What has expired vouches for nothing: worth a word when a trust file is written that holds it.
fn dead_trusts(survey: &Survey, trusts: &Trusts) -> BTreeSet<String> {
    let written = survey.node.trusts.iter().filter(|trust| matches!(trusts.get(&trust.path), Some(Ok(true))));
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
    let written = survey.node.trusts.iter().filter(|trust| matches!(trusts.get(&trust.path), Some(Ok(true))));
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

fn waiting_line(file: &File, waits: &str) -> FileLine {
    FileLine {
        name: file.name.to_string(),
        path: file.path.clone(),
        action: Action::Blocked,
        reason: format!("waits for {waits}"),
        changed: false,
        trouble: None,
    }
}
