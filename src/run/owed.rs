//! Hooks that are owed: written down before the change that calls for them, so that no crash forgets one,
//! and struck when they are done. What stands as it stood before is not owed.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::failure::Error;
use super::survey::Survey;
use super::{Run, TEXT};
use crate::disk::{self, DiskError};
use crate::hooks::{self, Deed, Event};
use crate::report::{Action, Exit, OwedLine, Trouble};
use crate::root::Root;
use crate::setting::Name;
use crate::trust::Pin;

const OWED: &str = "owed.json";

/// A deed, and what must have changed for it to be owed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Debt {
    deed: Deed,
    subject: Subject,
    /// The fingerprint of what stood there; `None` for nothing.
    before: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Subject {
    Certificate(Name),
    File(PathBuf),
}

/// The debts that are written down.
pub(super) fn read(root: &Root) -> Result<Vec<Debt>, Error> {
    let text = disk::read_state(root, OWED).map_err(Error::Disk)?;
    let debts = text.map(|text| serde_json::from_str(&text));
    debts.unwrap_or_else(|| Ok(Vec::new())).or_else(|error| {
        // It is ours and was written whole: another version wrote it, and its units were told by that.
        warn!("the list of owed hooks cannot be read and is begun anew: {error}");
        Ok(Vec::new())
    })
}

/// The deeds among debts, each once.
pub(super) fn deeds(debts: &[Debt]) -> BTreeSet<Deed> {
    debts.iter().map(|debt| debt.deed.clone()).collect()
}

impl Run<'_> {
    /// Writes down what will be owed once this run has changed what it is about to change.
    pub(super) fn owe(&self, survey: &Survey, due: &BTreeSet<Name>) -> Result<Vec<Debt>, Error> {
        let mut debts = read(self.root())?;
        let known = debts.len();
        // Below another root there is no one to tell.
        if self.root().is_live() {
            for debt in self.coming(survey, due).map_err(Error::Disk)? {
                let there =
                    debts.iter().any(|other| other.deed == debt.deed && other.subject == debt.subject);
                if !there {
                    debts.push(debt);
                }
            }
        }
        if debts.len() > known {
            self.write(&debts)?;
        }
        Ok(debts)
    }

    fn coming(&self, survey: &Survey, due: &BTreeSet<Name>) -> Result<Vec<Debt>, DiskError> {
        let mut debts = Vec::new();
        for certificate in survey.node.certificates.values() {
            for hook in &certificate.hooks {
                if hook.on.contains(&Event::Leaf) && due.contains(&certificate.name) {
                    debts.push(self.debt(
                        survey,
                        &hook.deed,
                        Subject::Certificate(certificate.name.clone()),
                    )?);
                }
                let trust =
                    survey.node.trusts.iter().find(|trust| Some(&trust.path) == certificate.trust.as_ref());
                let widens =
                    trust.filter(|trust| survey.trust_line(self.world, trust).action != Action::Keep);
                if let Some(trust) = widens.filter(|_| hook.on.contains(&Event::Ca)) {
                    debts.push(self.debt(survey, &hook.deed, Subject::File(trust.path.clone()))?);
                }
            }
        }
        let told = survey.node.files.iter().filter(|file| !file.deeds.is_empty());
        for file in told.filter(|file| survey.file_line(self.world, file).action != Action::Keep) {
            for deed in &file.deeds {
                debts.push(self.debt(survey, deed, Subject::File(file.path.clone()))?);
            }
        }
        Ok(debts)
    }

    fn debt(&self, survey: &Survey, deed: &Deed, subject: Subject) -> Result<Debt, DiskError> {
        let before = self.print_of(survey, &subject)?;
        Ok(Debt { deed: deed.clone(), subject, before })
    }

    /// What stands there now.
    fn print_of(&self, survey: &Survey, subject: &Subject) -> Result<Option<String>, DiskError> {
        Ok(match subject {
            Subject::Certificate(name) => survey
                .verdicts
                .get(name)
                .and_then(|v| v.pair())
                .map(|pair| pair.leaf().fingerprint.to_string()),
            Subject::File(path) => disk::read_text(self.root(), path, TEXT)?
                .map(|(text, _)| Pin::of(text.as_bytes()).to_string()),
        })
    }

    /// Does what is owed, each deed once; what fails stays owed.
    pub(super) fn pay(&self, survey: &Survey, debts: Vec<Debt>) -> Result<Vec<OwedLine>, Error> {
        if debts.is_empty() || !self.root().is_live() {
            return Ok(Vec::new());
        }
        let changed =
            |debt: &Debt| self.print_of(survey, &debt.subject).map_or(true, |now| now != debt.before);
        let due: Vec<_> = debts.into_iter().filter(changed).collect();
        let mut lines = Vec::new();
        for deed in needed(&deeds(&due)) {
            let done = hooks::perform(&deed);
            match &done {
                Ok(()) => info!("hook done: {deed}"),
                Err(why) => warn!("hook failed and stays owed: {deed}: {why}"),
            }
            let trouble = done.err().map(|why| Trouble {
                message: format!("{why}; it stays owed and is tried again by the next run"),
                exit: Exit::Fault,
            });
            lines.push(OwedLine { deed: deed.to_string(), trouble });
        }
        let failed = |debt: &&Debt| {
            lines.iter().any(|line| line.trouble.is_some() && line.deed == debt.deed.to_string())
        };
        let left: Vec<_> = due.iter().filter(failed).cloned().collect();
        self.write(&left)?;
        Ok(lines)
    }

    fn write(&self, debts: &[Debt]) -> Result<(), Error> {
        if debts.is_empty() {
            return disk::drop_state(self.root(), OWED).map_err(Error::Disk);
        }
        let text = serde_json::to_string(debts).unwrap_or_default();
        disk::keep_state(self.root(), OWED, text.as_bytes()).map_err(Error::Disk)
    }
}

/// A unit that is restarted need not be reloaded.
fn needed(deeds: &BTreeSet<Deed>) -> Vec<Deed> {
    let restarted = |deed: &Deed| match deed {
        Deed::Reload(unit) => deeds.contains(&Deed::Restart(unit.clone())),
        _ => false,
    };
    deeds.iter().filter(|deed| !restarted(deed)).cloned().collect()
}
