//! Reports as a person reads them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::SystemTime;

use super::{Action, CertificateLine, Exit, Report};
use crate::clock::{at, human};

impl Report {
    /// What `run` says at its end. Why something failed stands in its line.
    pub fn done(&self) -> String {
        let failed = self.troubles().count();
        let sum = if failed > 0 { format!("not done: {failed} failed") } else { self.sum() };
        self.lines(Action::past, "failed") + &sum + "\n"
    }

    fn sum(&self) -> String {
        let changed = self.certificates.iter().filter(|line| line.changed).count();
        let files = self.files.iter().filter(|line| line.changed).count();
        let failed = self.troubles().count();
        match (self.is_idle(), failed) {
            (true, _) => "nothing to do: everything is as configured".to_owned(),
            (false, 0) => {
                format!("done: {} and {} changed", count(changed, "certificate"), count(files, "file"))
            }
            (false, _) => format!("not done: {}", self.why_not(failed)),
        }
    }

    /// The last line in the journal, which has had the others; `Err` where something failed.
    pub fn last_word(&self) -> Result<String, String> {
        if self.exit() == Exit::Done { Ok(self.sum()) } else { Err(self.sum()) }
    }

    /// The gravest of the troubles and how many there are besides: the last line of a journal has to say why.
    fn why_not(&self, failed: usize) -> String {
        let gravest = self.troubles().max_by_key(|trouble| trouble.exit);
        let why = gravest.map_or("", |trouble| &trouble.message);
        if failed > 1 { format!("{why} (and {} more)", failed - 1) } else { why.to_owned() }
    }

    /// What `plan` says.
    pub fn plan(&self) -> String {
        let mut text = self.lines(Action::future, "blocked");
        if self.is_idle() {
            text.push_str("nothing to do: everything is as configured\n");
        }
        text
    }

    fn lines(&self, words: fn(Action) -> (&'static str, &'static str), not_done: &str) -> String {
        let certificates = self
            .certificates
            .iter()
            .map(|line| (words(line.action).0, line.name.to_string(), &line.reason, line.trouble.as_ref()));
        let files = self.files.iter().map(|line| {
            (words(line.action).1, line.path.display().to_string(), &line.reason, line.trouble.as_ref())
        });
        let rows: Vec<_> = certificates.chain(files).collect();
        let width = rows.iter().map(|(_, name, ..)| name.chars().count()).max().unwrap_or(0);
        let (mut text, mut said) = (String::new(), BTreeMap::new());
        for (word, name, reason, trouble) in &rows {
            let verb = trouble.map_or(*word, |_| not_done);
            let why = trouble.map(|trouble| said_once(&mut said, name, &trouble.message));
            let _ = writeln!(text, "{verb:<9} {name:<width$}  {}", why.as_ref().unwrap_or(reason));
        }
        for line in &self.owed {
            let _ = match &line.trouble {
                None => writeln!(text, "hook      {}", line.deed),
                Some(trouble) if trouble.exit == Exit::Temporary => {
                    writeln!(text, "owed      {}  {}", line.deed, trouble.message)
                }
                Some(trouble) => writeln!(text, "failed    {}  {}", line.deed, trouble.message),
            };
        }
        for note in &self.notes {
            let _ = writeln!(text, "note      {note}");
        }
        text
    }

    /// What `status` says.
    pub fn status(&self, now: SystemTime) -> String {
        let certificates =
            self.certificates.iter().map(|line| (line.state, line.name.to_string(), line.until(now)));
        let files = self.files.iter().map(|line| {
            let said = match &line.trouble {
                Some(trouble) => trouble.message.clone(),
                None if line.action == Action::Keep => String::new(),
                None => line.reason.clone(),
            };
            (line.state(), line.path.display().to_string(), said)
        });
        let owed =
            self.owed.iter().map(|line| ("owed", line.deed.clone(), "the next run does it".to_owned()));
        let rows: Vec<_> = certificates.chain(files).chain(owed).collect();
        let width = rows.iter().map(|(_, name, _)| name.chars().count()).max().unwrap_or(0);
        let line = |(state, name, said): &(&str, String, String)| {
            format!("{state:<13} {name:<width$}  {said}").trim_end().to_owned() + "\n"
        };
        let notes = self.notes.iter().map(|note| format!("note          {note}\n"));
        rows.iter().map(line).chain(notes).collect()
    }

    /// What `status --check` says, and its exit code, as the Nagios plugin convention has it: 0 fine, 1 due
    /// or changed by someone, 2 not usable.
    pub fn check(&self, now: SystemTime) -> (u8, String) {
        if let Some(since) = &self.decommissioned {
            return (2, format!("NODECERT CRITICAL - this host was decommissioned {since}\n"));
        }
        let unusable: Vec<_> = self.certificates.iter().filter(|line| !line.usable).collect();
        let due: Vec<_> =
            self.certificates.iter().filter(|line| line.usable && line.action != Action::Keep).collect();
        let files = self.files.iter().filter(|line| line.action != Action::Keep);
        let said = |lines: &[&CertificateLine]| {
            let each = lines.iter().map(|line| format!("{} is {}: {}", line.name, line.state, line.reason));
            each.collect::<Vec<_>>().join("; ")
        };
        if !unusable.is_empty() {
            return (2, format!("NODECERT CRITICAL - {}\n", said(&unusable)));
        }
        let mut warnings: Vec<_> = Some(said(&due)).filter(|said| !said.is_empty()).into_iter().collect();
        warnings.extend(self.owed.iter().map(|line| format!("owed: {}", line.deed)));
        warnings.extend(files.map(|line| format!("{}: {}", line.path.display(), line.reason)));
        if !warnings.is_empty() {
            return (1, format!("NODECERT WARNING - {}\n", warnings.join("; ")));
        }
        let first =
            self.certificates.iter().filter_map(|line| line.leaf.as_ref()).map(|leaf| leaf.not_after).min();
        let left = first.map(|end| human(end.duration_since(now).unwrap_or_default())).unwrap_or_default();
        let number = count(self.certificates.len(), "certificate");
        (0, format!("NODECERT OK - {number}, the first expires in {left}\n"))
    }
}

impl Action {
    /// The word for a certificate that was acted on, and the one for a file.
    fn past(self) -> (&'static str, &'static str) {
        match self {
            Self::Keep => ("kept", "kept"),
            Self::Obtain => ("obtained", "written"),
            Self::Repair => ("repaired", "written"),
            Self::Blocked => ("blocked", "blocked"),
        }
    }

    /// The same for what would be done.
    fn future(self) -> (&'static str, &'static str) {
        match self {
            Self::Obtain => ("obtain", "write"),
            Self::Repair => ("repair", "write"),
            other => (other.word(), other.word()),
        }
    }
}

impl CertificateLine {
    /// Until when it is valid, and what is wrong with it.
    fn until(&self, now: SystemTime) -> String {
        let until = self.leaf.as_ref().map(|leaf| match leaf.not_after.duration_since(now) {
            Ok(left) => format!("until {} ({} left)", at(leaf.not_after), human(left)),
            Err(_) => format!("until {}", at(leaf.not_after)),
        });
        let reason = match &self.trouble {
            Some(trouble) => Some(trouble.message.clone()),
            None => (self.state != "valid" || self.action == Action::Repair).then(|| self.reason.clone()),
        };
        until.into_iter().chain(reason).collect::<Vec<_>>().join("; ")
    }
}

/// Why something failed, where it is said for the first time: one fault, such as that of a login, can be many
/// certificates'.
pub(crate) fn said_once(said: &mut BTreeMap<String, String>, name: &str, why: &str) -> String {
    let first = said.entry(why.to_owned()).or_insert_with(|| name.to_owned());
    if first == name { why.to_owned() } else { format!("the same as {first}") }
}

fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_many_is_told_once() {
        let mut said = BTreeMap::new();
        let rows = [("web", "no login"), ("www", "no login"), ("db", "no key"), ("web", "no login")];
        let told = rows.map(|(name, why)| said_once(&mut said, name, why));
        assert_eq!(told, ["no login", "the same as web", "no key", "no login"]);
    }
}
