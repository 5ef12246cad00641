//! Everything around the certificates: trust files, drift, rendered files, and what is said at the end.

use std::collections::BTreeSet;

use tracing::info;

use super::failure::{Error, Failure};
use super::survey::{MACHINE, Survey};
use super::{AS_CONFIGURED, Ask, Done, Run, Trusts};
use crate::certificate::Owner;
use crate::disk;
use crate::file::File;
use crate::plan::Verdict;
use crate::report::{Action, FileLine, OwedLine, Report};
use crate::root::Owners;
use crate::setting::Name;

impl Run<'_> {
    /// Trust files come before any leaf that needs a new anchor in them.
    pub(super) fn trust_files(&self, survey: &Survey) -> Trusts {
        let known = survey.node.trusts.iter().filter_map(|trust| Some((trust, survey.trusted(trust)?)));
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
                    info!(path = %trust.path.display(), "trust file written");
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
                info!(certificate = %name, "repaired: {what}");
            }
            self.done.insert(name.clone(), done);
        }
    }

    /// Rendered files wait until every certificate they need is held.
    pub(super) fn files(&self, survey: &Survey) -> Vec<FileLine> {
        let lines = survey.node.files.iter().map(|file| {
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
                info!(path = %file.path.display(), "file written: {}", line.reason);
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

    pub(super) fn report(
        &self,
        survey: &Survey,
        ask: &Ask,
        trusts: &Trusts,
        files: Vec<FileLine>,
        owed: Vec<OwedLine>,
    ) -> Report {
        let certificates = survey.node.certificates.values().map(|certificate| {
            let mut line = survey.line(certificate);
            if let (Some(Verdict::Renew(..)), true) = (survey.verdicts.get(&certificate.name), ask.missing) {
                line.action = Action::Keep;
                line.reason = format!("{}, which is left to the timer", line.reason);
            }
            match self.done.get(&certificate.name) {
                Some(Done::Obtained(reason)) => {
                    (line.action, line.reason, line.changed) = (Action::Obtain, reason.clone(), true);
                }
                Some(Done::Repaired(what)) => {
                    (line.action, line.reason, line.changed) = (Action::Repair, what.clone(), true);
                }
                Some(Done::Failed(failure)) => {
                    line.trouble = Some(failure.trouble());
                    if failure.is_blocked() {
                        line.action = Action::Blocked;
                    }
                }
                None => {}
            }
            line
        });
        let trusts = survey.node.trusts.iter().map(|trust| {
            let mut line = survey.trust_line(self.world, trust);
            match trusts.get(&trust.path) {
                Some(Ok(changed)) => {
                    line.changed = *changed;
                    line.action = if *changed { Action::Obtain } else { Action::Keep };
                    line.reason = if *changed { "the CA's certificates" } else { AS_CONFIGURED }.to_owned();
                }
                Some(Err(failure)) => line.trouble = Some(failure.trouble()),
                None => line.action = Action::Blocked,
            }
            if let Some(failure) = trust.cas.iter().find_map(|ca| self.stale.get(ca)) {
                line.trouble = Some(failure.trouble());
            }
            line
        });
        Report {
            certificates: certificates.collect(),
            files: trusts.chain(files).collect(),
            owed,
            notes: self.notes(survey).into_iter().chain(survey.notes()).collect(),
        }
    }
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
