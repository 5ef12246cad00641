//! Everything around the certificates: trust files, drift and rendered files.

use std::collections::BTreeSet;

use tracing::{info, warn};

use super::survey::Survey;
use super::{Done, Run};
use crate::disk;
use crate::file::{Content, File};
use crate::report::{Action, FileLine};
use crate::setting::{Name, RETOLD};

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
