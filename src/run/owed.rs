//! Hooks that are owed: written down before the change that calls for them, so that no crash forgets one,
//! and struck when they are done. What stands as it stood before is not owed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::failure::Error;
use super::survey::Survey;
use super::turn::{Told, trouble};
use super::{Ask, Run, TEXT};
use crate::deed::{Deed, Event};
use crate::disk::{self, DiskError};
use crate::file::File;
use crate::hooks;
use crate::keepsake::Form;
use crate::node::{Node, TrustFile};
use crate::report::{Action, Exit, OwedLine, Trouble};
use crate::root::Root;
use crate::setting::{Name, RETOLD};
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

/// The debts that are written down. A list that cannot be read is no list: then all hooks are owed, for no
/// one knows which were.
pub(super) fn read(root: &Root, node: &Node) -> Result<Vec<Debt>, DiskError> {
    let Some(text) = disk::read_state(root, OWED)? else { return Ok(Vec::new()) };
    Ok(serde_json::from_str(&text).unwrap_or_else(|error| {
        warn!("the list of owed hooks cannot be read, so all are owed: {error}");
        every(node)
    }))
}

fn every(node: &Node) -> Vec<Debt> {
    let unknown = Some("unknown".to_owned());
    let of_certificates = node.certificates.values().flat_map(|certificate| {
        let subject = Subject::Certificate(certificate.name.clone());
        certificate.hooks.iter().map(move |hook| (&hook.deed, subject.clone()))
    });
    let of_files = node.files.iter().flat_map(|file| {
        let subject = Subject::File(file.path.clone());
        file.deeds.iter().map(move |deed| (deed, subject.clone()))
    });
    let pairs = node.keepsakes.iter().filter(|keepsake| matches!(keepsake.form, Form::Pair { .. })).flat_map(
        |pair| {
            let subject = Subject::File(pair.path.clone());
            readers(node, &pair.users).into_iter().map(move |deed| (deed, subject.clone()))
        },
    );
    let debt =
        |(deed, subject): (&Deed, Subject)| Debt { deed: deed.clone(), subject, before: unknown.clone() };
    let mut debts: Vec<_> = of_certificates.chain(of_files).map(debt).collect();
    debts.extend(pairs.map(|(deed, subject)| debt((&deed, subject))));
    debts
}

/// The deeds among debts, each once.
pub(super) fn deeds(debts: &[Debt]) -> BTreeSet<Deed> {
    debts.iter().map(|debt| debt.deed.clone()).collect()
}

impl Run<'_> {
    /// Writes down what will be owed once this run has changed what it is about to change.
    pub(super) fn owe(&self, survey: &Survey, asked: &BTreeSet<Name>, ask: &Ask) -> Result<Vec<Debt>, Error> {
        let mut debts = read(self.root(), &survey.node).map_err(Error::Disk)?;
        let known = debts.len();
        if self.world.tells {
            let names: Vec<_> = asked.iter().cloned().collect();
            let due =
                asked.iter().filter(|name| self.may_change(survey, name, &names, ask)).cloned().collect();
            for debt in self.coming(survey, &due, ask) {
                let there =
                    debts.iter().any(|other| other.deed == debt.deed && other.subject == debt.subject);
                if !there {
                    debts.push(debt);
                }
            }
        }
        if debts.len() > known {
            self.write(&debts).map_err(Error::Disk)?;
        }
        Ok(debts)
    }

    /// Whether a certificate is to be got, or may turn out to be: what its CA says anew may be that it is revoked.
    fn may_change(&self, survey: &Survey, name: &Name, names: &[Name], ask: &Ask) -> bool {
        let Some(certificate) = survey.node.certificates.get(name) else { return false };
        survey.is_to_get(name, ask.missing)
            || self.is_to_learn(survey, &certificate.ca, names, ask)
            || self.is_to_read_crl(survey, &certificate.ca, ask)
    }

    fn coming(&self, survey: &Survey, due: &BTreeSet<Name>, ask: &Ask) -> Vec<Debt> {
        let mut debts = Vec::new();
        // What a CA publishes may have changed: that shows only when it has been asked.
        let names: Vec<_> = due.iter().cloned().collect();
        let learns = |trust: &TrustFile| trust.cas.iter().any(|ca| self.is_to_learn(survey, ca, &names, ask));
        for certificate in
            survey.node.certificates.values().filter(|certificate| !certificate.hooks.is_empty())
        {
            let trust =
                survey.node.trusts.iter().find(|trust| Some(&trust.path) == certificate.trust.as_ref());
            let trust = trust
                .filter(|trust| learns(trust) || survey.trust_line(self.world, trust).action != Action::Keep);
            for hook in &certificate.hooks {
                if hook.on.contains(&Event::Leaf) && due.contains(&certificate.name) {
                    debts.push(self.debt(survey, &hook.deed, Subject::Certificate(certificate.name.clone())));
                }
                if let Some(trust) = trust.filter(|_| hook.on.contains(&Event::Ca)) {
                    debts.push(self.debt(survey, &hook.deed, Subject::File(trust.path.clone())));
                }
            }
        }
        let told = survey.node.files.iter().filter(|file| !file.deeds.is_empty());
        // A file can hold a certificate that is about to change, or what is trusted with it.
        let embeds = |need: &Name| {
            let trust = survey.node.certificates.get(need).and_then(|certificate| certificate.trust.as_ref());
            let trust = survey.node.trusts.iter().find(|file| Some(&file.path) == trust);
            due.contains(need) || trust.is_some_and(learns)
        };
        let changes = |file: &&File| {
            file.needs.iter().any(embeds) || survey.file_line(self.world, file).action != Action::Keep
        };
        for file in told.filter(changes) {
            let debt = |deed| self.debt(survey, deed, Subject::File(file.path.clone()));
            debts.extend(file.deeds.iter().map(debt));
        }
        debts
    }

    fn debt(&self, survey: &Survey, deed: &Deed, subject: Subject) -> Debt {
        let before = self.print_of(survey, &subject);
        Debt { deed: deed.clone(), subject, before }
    }

    /// What stands there now; nothing where it cannot be read, which is the trouble of another line.
    fn print_of(&self, survey: &Survey, subject: &Subject) -> Option<String> {
        match subject {
            Subject::Certificate(name) => survey
                .verdicts
                .get(name)
                .and_then(|v| v.pair())
                .map(|pair| pair.leaf().fingerprint.to_string()),
            Subject::File(path) => {
                let (text, _) = disk::read_text(self.root(), path, TEXT).ok().flatten()?;
                let file = survey.node.files.iter().find(|file| file.path == *path);
                let told = match file.and_then(|file| file.quiet) {
                    Some(quiet) => {
                        text.lines().filter(|line| !line.starts_with(quiet)).collect::<Vec<_>>().join("\n")
                    }
                    None => text,
                };
                Some(Pin::of(told.as_bytes()).to_string())
            }
        }
    }

    /// Does what is owed, each deed once; what fails stays owed.
    pub(super) async fn pay(&self, survey: &Survey, debts: Vec<Debt>) -> Result<Vec<OwedLine>, Error> {
        if debts.is_empty() || !self.world.tells {
            return Ok(Vec::new());
        }
        let changed = |debt: &Debt| self.print_of(survey, &debt.subject) != debt.before;
        let due: Vec<_> = debts.into_iter().filter(changed).collect();
        let (mut lines, mut done, mut troubled) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        let mut rest = 0;
        for deed in &needed(&deeds(&due)) {
            if self.stop.is_asked() {
                break;
            }
            if matches!(deed, Deed::InTurn(_)) && !done.is_empty() {
                // It may take long, and be ended by a stop that leaves no time to write.
                self.write(&left(&due, &done)).map_err(Error::Disk)?;
            }
            let told = match held_up(deed, &troubled) {
                Some(trouble) => Err(trouble),
                None => self.perform(survey, deed).await,
            };
            let trouble = match told {
                Ok(told) => {
                    done.insert(deed.clone());
                    if matches!(told, Told::Rests) {
                        rest += 1;
                        continue;
                    }
                    info!(hook = %deed, "hook done: {deed}");
                    None
                }
                Err(mut trouble) => {
                    warn!(target: RETOLD, hook = %deed, reason = trouble.message, "hook not done: {deed}: {}", trouble.message);
                    trouble.message.push_str("; it stays owed and is tried again by the next run");
                    troubled.insert(deed);
                    Some(trouble)
                }
            };
            lines.push(OwedLine { deed: deed.to_string(), trouble });
        }
        if rest > 0 && !hooks::has_systemd() {
            warn!(
                "no systemd here: {rest} hooks for units were not called; restart what reads these files yourself, or by hooks that run a command"
            );
        }
        let left = left(&due, &done);
        self.write(&left).map_err(Error::Disk)?;
        if !left.is_empty() && self.stop.is_asked() {
            return Err(Error::Stopped);
        }
        Ok(lines)
    }

    /// Writes down who reads a key pair at its start only, before it is replaced: who is restarted by a file of the
    /// same program.
    pub(super) fn owe_readers(&self, survey: &Survey, users: &[Name], path: &Path) -> Result<(), DiskError> {
        if !self.world.tells {
            return Ok(());
        }
        let mut debts = read(self.root(), &survey.node)?;
        let subject = Subject::File(path.to_owned());
        for deed in readers(&survey.node, users) {
            if !debts.iter().any(|debt| debt.deed == deed && debt.subject == subject) {
                debts.push(self.debt(survey, &deed, subject.clone()));
            }
        }
        self.write(&debts)
    }

    fn write(&self, debts: &[Debt]) -> Result<(), DiskError> {
        if debts.is_empty() {
            return disk::drop_state(self.root(), OWED);
        }
        let text = serde_json::to_string(debts).unwrap_or_default();
        disk::keep_state(self.root(), OWED, text.as_bytes())
    }
}

fn readers(node: &Node, users: &[Name]) -> BTreeSet<Deed> {
    let files = node.files.iter().filter(|file| file.needs.iter().any(|need| users.contains(need)));
    let deeds = files.flat_map(|file| &file.deeds);
    deeds.filter(|deed| matches!(deed, Deed::Restart(_))).cloned().collect()
}

/// A unit that systemd has not read again would be started as it was before.
fn held_up(deed: &Deed, troubled: &BTreeSet<&Deed>) -> Option<Trouble> {
    let concerns = !matches!(deed, Deed::DaemonReload | Deed::Run(_));
    let waits = || trouble("waits until systemd has read its units again".to_owned(), Exit::Temporary);
    (concerns && troubled.contains(&Deed::DaemonReload)).then(waits)
}

/// The debts that what was done has not settled.
fn left(due: &[Debt], done: &BTreeSet<Deed>) -> Vec<Debt> {
    let is_left = |deed: &Deed| {
        let with: BTreeSet<_> = done.iter().chain([deed]).cloned().collect();
        !done.contains(deed) && needed(&with).contains(deed)
    };
    due.iter().filter(|debt| is_left(&debt.deed)).cloned().collect()
}

/// A unit that is restarted need not be reloaded, and one that waits for its turn is not restarted before.
fn needed(deeds: &BTreeSet<Deed>) -> Vec<Deed> {
    let in_turn = |deed: &Deed| deeds.contains(&Deed::InTurn(Box::new(deed.clone())));
    let restarted = |unit: &String| {
        let restart = Deed::Restart(unit.clone());
        deeds.contains(&restart) || in_turn(&restart)
    };
    let needless = |deed: &Deed| match deed {
        Deed::Reload(unit) => restarted(unit) || in_turn(deed),
        _ => in_turn(deed),
    };
    deeds.iter().filter(|deed| !needless(deed)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_unit_is_restarted_by_what_systemd_has_not_read() {
        let restart = Deed::Restart("a.service".into());
        let in_turn = Deed::InTurn(Box::new(restart.clone()));
        let run = Deed::Run(vec!["/bin/tell".into()]);
        let order = needed(&[&run, &restart, &Deed::DaemonReload].map(Clone::clone).into());
        assert_eq!(order.first(), Some(&Deed::DaemonReload), "it comes first");
        let failed = BTreeSet::from([&Deed::DaemonReload]);
        let waits = |deed| held_up(deed, &failed).map(|trouble| trouble.exit);
        assert_eq!((waits(&restart), waits(&in_turn)), (Some(Exit::Temporary), Some(Exit::Temporary)));
        assert_eq!((waits(&run), held_up(&restart, &BTreeSet::new())), (None, None));
    }

    #[test]
    fn what_was_done_settles_its_own_debts_and_those_that_it_covers() {
        let (reload, restart) = (Deed::Reload("a".into()), Deed::Restart("a".into()));
        let in_turn = Deed::InTurn(Box::new(restart.clone()));
        let other = Deed::Run(vec!["tell".into()]);
        let debt =
            |deed: &Deed| Debt { deed: deed.clone(), subject: Subject::File("/etc/a".into()), before: None };
        let due: Vec<_> = [&reload, &restart, &other, &in_turn].map(debt).into();
        let left = |done: &[&Deed]| deeds(&left(&due, &done.iter().copied().cloned().collect()));
        let set = |deeds: &[&Deed]| deeds.iter().copied().cloned().collect::<BTreeSet<_>>();
        assert_eq!(left(&[]), set(&[&reload, &restart, &other, &in_turn]));
        assert_eq!(left(&[&other]), set(&[&reload, &restart, &in_turn]));
        assert_eq!(left(&[&restart]), set(&[&other, &in_turn]), "restarted is reloaded");
        assert_eq!(left(&[&in_turn]), set(&[&other]));
        assert_eq!(left(&[&reload, &in_turn, &other]), set(&[]));
    }
}
