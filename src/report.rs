//! What is said to people and programs: text, JSON and exit codes.

mod farewell;
mod metrics;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::bundle::Leaf;
use crate::clock::{at, human};
use crate::facts::Facts;
use crate::setting::Name;

pub use farewell::Farewell;

/// Exit codes, rising: of several, the highest wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// Everything is as configured, whether it was changed or not.
    Done,
    /// The CA said no, or its answer failed verification.
    Refused,
    /// Run again: the CA cannot be reached, the clock is wrong, a user is not there yet.
    Temporary,
    /// A fault of the host or of ours.
    Fault,
    /// The configuration must be changed first.
    Config,
    /// The command line does not fit the configuration.
    Usage,
}

impl Exit {
    /// The number, of sysexits(3) where it has one; 77 is EX_NOPERM, 75 EX_TEMPFAIL.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Refused => 77,
            Self::Temporary => 75,
            Self::Fault => 70,
            Self::Config => 78,
            Self::Usage => 2,
        }
    }
}

/// What was or would be done about something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing: it is as configured.
    Keep,
    /// A new certificate, or a file that was not there.
    Obtain,
    /// A mode, an owner, a link or a content set right.
    Repair,
    /// Something to do that cannot be done now.
    Blocked,
}

impl Action {
    fn word(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Obtain => "obtain",
            Self::Repair => "repair",
            Self::Blocked => "blocked",
        }
    }

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

/// Why something was not done, as text, and what it means for the exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What went wrong, its causes, and what to do.
    pub message: String,
    /// The exit code it asks for.
    pub exit: Exit,
}

/// One certificate in a report.
#[derive(Debug)]
pub struct CertificateLine {
    /// Its name.
    pub name: Name,
    /// Its CA.
    pub ca: Name,
    /// `valid`, `due`, `missing` … as `status` names it.
    pub state: &'static str,
    /// Whether its consumer can work with what is there.
    pub usable: bool,
    /// What was or would be done.
    pub action: Action,
    /// Why.
    pub reason: String,
    /// Whether something was changed on disk.
    pub changed: bool,
    /// Why it was not done, if it was not.
    pub trouble: Option<Trouble>,
    /// What is there now, if it can be read.
    pub leaf: Option<Leaf>,
    /// From when it is to be renewed.
    pub renew_after: Option<SystemTime>,
    /// Its files by use.
    pub paths: Vec<(&'static str, PathBuf)>,
}

/// One trust file or rendered file in a report.
#[derive(Debug, Clone)]
pub struct FileLine {
    /// Its name.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// What was or would be done.
    pub action: Action,
    /// Why.
    pub reason: String,
    /// Whether it was changed.
    pub changed: bool,
    /// Why it was not written, if it was not.
    pub trouble: Option<Trouble>,
}

/// A hook that is owed, or was.
#[derive(Debug)]
pub struct OwedLine {
    /// What is to be done.
    pub deed: String,
    /// Why it was not done, if it was tried.
    pub trouble: Option<Trouble>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRun {
    /// When.
    pub ended: SystemTime,
    /// With which exit code.
    pub exit: u8,
}

/// What a command found or did.
#[derive(Debug, Default)]
pub struct Report {
    /// The certificates.
    pub certificates: Vec<CertificateLine>,
    /// Trust files and rendered files.
    pub files: Vec<FileLine>,
    /// Hooks: what `run` did, and what `status` finds undone.
    pub owed: Vec<OwedLine>,
    /// What a person should know besides.
    pub notes: Vec<String>,
    /// How the last run since the boot ended, if there was one.
    pub last_run: Option<LastRun>,
    /// Since when the host is out of service, if it is.
    pub decommissioned: Option<String>,
}

impl Report {
    /// The highest exit code of all its parts.
    pub fn exit(&self) -> Exit {
        self.troubles().map(|trouble| trouble.exit).max().unwrap_or(Exit::Done)
    }

    fn troubles(&self) -> impl Iterator<Item = &Trouble> {
        let certificates = self.certificates.iter().filter_map(|line| line.trouble.as_ref());
        let files = self.files.iter().filter_map(|line| line.trouble.as_ref());
        certificates.chain(files).chain(self.owed.iter().filter_map(|line| line.trouble.as_ref()))
    }

    /// Whether a consumer may start: every certificate is usable and every file is there.
    pub fn is_usable(&self) -> bool {
        let there = |line: &FileLine| matches!(line.action, Action::Keep | Action::Repair);
        self.certificates.iter().all(|line| line.usable) && self.files.iter().all(there)
    }

    /// Whether there is anything to do, or was.
    pub fn is_idle(&self) -> bool {
        self.certificates.iter().all(|line| line.action == Action::Keep && line.trouble.is_none())
            && self.files.iter().all(|line| line.action == Action::Keep && line.trouble.is_none())
            && self.owed.is_empty()
    }

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
            (file_state(line), line.path.display().to_string(), said)
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

    /// `status --format json`, or with `acts` what `plan` and `run` answer.
    pub fn json(&self, facts: &Facts, acts: bool) -> Value {
        json!({
            "node": {
                "hostname": facts.hostname.value,
                "fqdn": facts.fqdn.value,
                "nodename": facts.nodename.value,
                "addresses": facts.addresses.iter().map(|address| address.ip).collect::<Vec<_>>(),
            },
            "certificates": self.certificates.iter().map(|line| line.json(acts)).collect::<Vec<_>>(),
            "files": self.files.iter().map(|line| line.json(acts)).collect::<Vec<_>>(),
            "owed": self.owed.iter().map(|line| json!({
                "hook": line.deed,
                "error": line.trouble.as_ref().map(|trouble| &trouble.message),
            })).collect::<Vec<_>>(),
            "notes": self.notes,
            "last_run": self.last_run.map(|last| json!({ "ended": at(last.ended), "exit": last.exit })),
            "decommissioned": self.decommissioned,
        })
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

    fn json(&self, acts: bool) -> Value {
        let leaf = self.leaf.as_ref();
        let mut value = json!({
            "name": self.name,
            "ca": self.ca,
            "state": self.state,
            "reason": self.reason,
            "subject": leaf.map(|leaf| &leaf.subject),
            "issuer": leaf.map(|leaf| &leaf.issuer),
            "serial": leaf.map(|leaf| &leaf.serial),
            "dns": leaf.map(|leaf| leaf.dns.iter().collect::<Vec<_>>()).unwrap_or_default(),
            "ips": leaf.map(|leaf| leaf.ips.iter().collect::<Vec<_>>()).unwrap_or_default(),
            "uris": leaf.map(|leaf| leaf.uris.iter().collect::<Vec<_>>()).unwrap_or_default(),
            "usages": leaf.map(|leaf| leaf.usages.iter().collect::<Vec<_>>()).unwrap_or_default(),
            "not_before": leaf.map(|leaf| at(leaf.not_before)),
            "not_after": leaf.map(|leaf| at(leaf.not_after)),
            "renew_after": self.renew_after.map(at),
            "fingerprint": leaf.map(|leaf| leaf.fingerprint),
            "paths": self.paths.iter().map(|(usage, path)| ((*usage).to_owned(), json!(path))).collect::<serde_json::Map<_, _>>(),
        });
        if acts {
            add_act(&mut value, self.action, self.changed, self.trouble.as_ref());
        }
        value
    }
}

impl FileLine {
    fn json(&self, acts: bool) -> Value {
        let mut value =
            json!({ "name": self.name, "path": self.path, "state": file_state(self), "reason": self.reason });
        if acts {
            add_act(&mut value, self.action, self.changed, self.trouble.as_ref());
        }
        value
    }
}

fn add_act(value: &mut Value, action: Action, changed: bool, trouble: Option<&Trouble>) {
    value["action"] = json!(action.word());
    value["changed"] = json!(changed);
    value["error"] = json!(trouble.map(|trouble| &trouble.message));
    value["exit"] = json!(trouble.map_or(0, |trouble| trouble.exit.code()));
}

/// Why something failed, where it is said for the first time: one fault, such as that of a login, can be many
/// certificates'.
pub(crate) fn said_once(said: &mut BTreeMap<String, String>, name: &str, why: &str) -> String {
    let first = said.entry(why.to_owned()).or_insert_with(|| name.to_owned());
    if first == name { why.to_owned() } else { format!("the same as {first}") }
}

fn file_state(line: &FileLine) -> &'static str {
    match line.action {
        _ if line.changed => "current",
        Action::Keep => "current",
        Action::Obtain => "missing",
        Action::Repair => "differs",
        Action::Blocked => "blocked",
    }
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
