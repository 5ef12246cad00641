//! Everything around the certificates: trust files, drift, rendered files, and what is said at the end.

use std::collections::BTreeSet;

use tracing::info;

use super::failure::{Error, Failure};
use super::survey::{MACHINE, Survey};
use super::{Ask, Done, Run, Trusts};
use crate::certificate::Owner;
use crate::disk;
use crate::file::File;
use crate::node::TrustFile;
use crate::plan::Verdict;
use crate::report::{Action, CertificateLine, FileLine, OwedLine, Report};
use crate::root::Owners;
use crate::setting::Name;

impl Run<'_> {
    /// Trust files come before any leaf that needs a new anchor in them.
    pub(super) fn trust_files(&self, survey: &Survey, asked: &BTreeSet<Name>) -> Trusts {
        let wanted = survey.node.trusts.iter().filter(|trust| survey.concerns(&trust.path, asked));
        let known = wanted.filter_map(|trust| Some((trust, survey.trusted(trust)?)));
        known
            .map(|(trust, anchors)| {
                let widened = disk::widen(
                    self.root(),
                    &trust.path,
                    &anchors,
                    &Owner::default(),
                    trust.replace,
                    survey.now,
                )
                .map_err(Failure::from);
                if let Ok(true) = widened {
                    info!(path = %trust.path.display(), "{}: trust file written", trust.path.display());
                }
                (trust.path.clone(), widened)
            })
            .collect()
    }

    /// Modes, owners and links that drifted are set right without asking anyone.
    pub(super) fn repair(&mut self, survey: &Survey, asked: &BTreeSet<Name>) {
        let drifted = survey.drifts.iter().filter(|(name, drift)| !drift.is_empty() && asked.contains(name));
        for (name, _) in drifted {
            let (Some(certificate), Some(bundle)) = (survey.node.certificates.get(name), survey.bundle(name))
            else {
                continue;
            };
            if matches!(self.done.get(name), Some(Done::Failed(_))) {
                continue;
            }
            let done = match disk::repair(self.root(), certificate, bundle, survey.now) {
                Ok(mended) => Done::Repaired(mended.join("; ")),
                Err(error) => Done::Failed(error.into()),
            };
            if let Done::Repaired(what) = &done {
                info!(certificate = %name, "{name}: repaired: {what}");
            }
            self.done.insert(name.clone(), done);
        }
    }

    /// Rendered files wait until every certificate they need is held.
    pub(super) fn files(&self, survey: &Survey, asked: &BTreeSet<Name>) -> Vec<FileLine> {
        let wanted = survey.node.files.iter().filter(|file| survey.concerns(&file.path, asked));
        let lines = wanted.map(|file| {
            let waits: Vec<_> =
                file.needs.iter().filter(|need| survey.bundle(need).is_none()).map(Name::as_str).collect();
            if !waits.is_empty() {
                return waiting_line(file, &waits.join(" and "));
            }
            let mut line = survey.file_line(self.world, file);
            if line.action == Action::Keep || line.trouble.is_some() {
                return line;
            }
            let put = survey
                .rendered(self.world, file)
                .and_then(|text| Ok(disk::put(self.root(), file, text.as_bytes(), survey.now)?));
            match put {
                Ok(changed) => line.changed = changed,
                Err(failure) => line.trouble = Some(failure.trouble()),
            }
            if line.changed {
                info!(path = %file.path.display(), "{}: written: {}", file.path.display(), line.reason);
            }
            line
        });
        lines.collect()
    }

    fn notes(&self, survey: &Survey) -> Vec<String> {
        let wanted =
            survey.node.certificates.values().any(|certificate| certificate.place.owner.user.is_some());
        match self.root().owners() {
            Owners::LeftAlone(why) if wanted => vec![format!("owners were left alone: {why}")],
            _ => Vec::new(),
        }
    }

    /// The state is this machine's from now on, once nothing of another machine is left in it.
    pub(super) fn remember_machine(&self, survey: &Survey, ask: &Ask) -> Result<(), Error> {
        let Some(id) = &survey.facts.machine_id else { return Ok(()) };
        let failed = self.done.values().any(|done| matches!(done, Done::Failed(_)));
        let whole = ask.only.is_empty() && !failed;
        let known = disk::read_state(self.root(), MACHINE).map_err(Error::Disk)?;
        match known {
            Some(known) if known.trim() == id.value => Ok(()),
            Some(_) if !whole => Ok(()),
            _ => disk::keep_state(self.root(), MACHINE, format!("{}\n", id.value).as_bytes())
                .map_err(Error::Disk),
        }
    }

    /// What is there now, and what this run did about it.
    pub(super) fn report(
        &self,
        survey: &Survey,
        ask: &Ask,
        trusts: &Trusts,
        files: &[FileLine],
        owed: Vec<OwedLine>,
    ) -> Result<Report, Error> {
        let mut report = super::status(survey, self.world, &ask.only)?;
        report.certificates.iter_mut().for_each(|line| self.tell_certificate(line, survey, ask));
        for line in &mut report.files {
            if let Some(acted) = files.iter().find(|acted| acted.path == line.path) {
                line.clone_from(acted);
            }
            self.tell_trust(line, survey, trusts);
        }
        report.owed = owed;
        report.notes = self.notes(survey);
        report.notes.extend(wide_trusts(survey, trusts));
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
            Some(Done::Failed(failure)) => line.trouble = Some(failure.trouble()),
            None => {}
        }
    }

    fn tell_trust(&self, line: &mut FileLine, survey: &Survey, trusts: &Trusts) {
        let Some(trust) = survey.node.trusts.iter().find(|trust| trust.path == line.path) else { return };
        match trusts.get(&trust.path) {
            Some(Ok(true)) => {
                (line.action, line.changed) = (Action::Obtain, true);
                "the CA's certificates".clone_into(&mut line.reason);
            }
            Some(Ok(false)) => {}
            Some(Err(failure)) => line.trouble = Some(failure.trouble()),
            None => {
                line.action = Action::Blocked;
                line.trouble = survey.unknown_anchors(trust).map(Failure::trouble);
            }
        }
        if let Some(failure) = trust.cas.iter().find_map(|ca| self.stale.get(ca)) {
            line.trouble = Some(failure.trouble());
        }
    }
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
