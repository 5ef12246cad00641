//! What is said to people and programs: text, JSON and exit codes.

mod farewell;
mod json;
mod metrics;
mod text;

use std::path::PathBuf;
use std::time::SystemTime;

use crate::bundle::Leaf;
use crate::setting::Name;

pub use farewell::Farewell;
pub(crate) use text::said_once;

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
}

impl FileLine {
    /// `current`, `missing` … as `status` names it.
    fn state(&self) -> &'static str {
        match self.action {
            Action::Keep => "current",
            _ if self.changed => "current",
            Action::Obtain => "missing",
            Action::Repair => "differs",
            Action::Blocked => "blocked",
        }
    }
}
