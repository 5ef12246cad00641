//! Why nothing was done, or one thing was not: with the exit code it asks for.

use std::path::PathBuf;
use std::sync::Arc;

use crate::bundle::Rejected;
use crate::ca::CaError;
use crate::ca::local::LocalError;
use crate::config::Faults;
use crate::disk::DiskError;
use crate::facts::FactsError;
use crate::keepsake::Unkept;
use crate::key::KeyError;
use crate::render::RenderError;
use crate::report::{Exit, OwedLine, Trouble};
use crate::setting::{Name, chain};
use crate::trust::TrustError;

/// Why a command did nothing at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is faulty.
    #[error("{0}")]
    Config(Faults),
    /// The host does not know its own name, or the like.
    #[error("cannot tell what is true of this host")]
    Facts(#[source] FactsError),
    /// Files that every command needs cannot be read or written.
    #[error("cannot go on")]
    Disk(#[source] DiskError),
    /// The host that is to be taken out of service is not this one.
    #[error("this host is {own:?}, not {named:?}; nothing was erased")]
    AnotherHost {
        /// What was said.
        named: String,
        /// What it is called.
        own: String,
    },
    /// What is named is no certificate that a CA could revoke.
    #[error("{0} is no certificate: a CA can revoke nothing of it, and nothing was asked")]
    NoCertificate(String),
    /// This host has been taken out of service.
    #[error("this host was decommissioned {since}; to bring it back, remove {}", mark.display())]
    Decommissioned {
        /// When.
        since: String,
        /// What says so.
        mark: PathBuf,
    },
    /// There is no way to wait for anything.
    #[error("the kernel gives no event queue: too many open files?")]
    Kernel(#[source] std::io::Error),
    /// A signal came before all was done.
    #[error("asked to end before all was done: what was in force stays, and the next run goes on from here")]
    Stopped,
    /// A name on the command line that is not in the configuration.
    #[error("there is no certificate or component {name}: there are {there}")]
    Unknown {
        /// What was asked for.
        name: Name,
        /// What there is.
        there: String,
    },
}

impl Error {
    /// The exit code it asks for.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Config(_) | Self::Decommissioned { .. } => Exit::Config,
            Self::Unknown { .. } | Self::AnotherHost { .. } | Self::NoCertificate(_) => Exit::Usage,
            Self::Stopped => Exit::Temporary,
            Self::Kernel(_) => Exit::Fault,
            Self::Facts(error) if error.is_temporary() => Exit::Temporary,
            Self::Facts(FactsError::Kernel { .. }) => Exit::Fault,
            Self::Facts(_) => Exit::Config,
            Self::Disk(error) => exit_of(error),
        }
    }
}

/// Why one certificate or file was not brought to what it should be.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Ca(Arc<CaError>),
    #[error(
        "CA {ca} signed a certificate that is not the one asked for, and it was not installed: {why}{hint}"
    )]
    Rejected { ca: Name, why: Rejected, hint: String },
    #[error(
        "{0}; nothing that is held was touched. Set the clock, as by `chronyc makestep` or `timedatectl set-time`, and run again"
    )]
    Clock(String),
    #[error("cannot know the certificates of CA {ca}")]
    Anchors { ca: Name, source: Arc<TrustError> },
    #[error("CA {ca} cannot be used yet: {key} names {}, and there is no such file; put the CA's certificates there", path.display())]
    NoCaFile { ca: Name, key: &'static str, path: PathBuf },
    #[error("CA {ca} cannot be used: {key} names {}, which is not right", path.display())]
    CaFile { ca: Name, key: &'static str, path: PathBuf, source: Arc<TrustError> },
    #[error("the embedded CA {ca} cannot be used")]
    Local { ca: Name, source: Arc<LocalError> },
    #[error(transparent)]
    Disk(Arc<DiskError>),
    #[error("cannot make a key")]
    Key(#[source] Arc<KeyError>),
    #[error("cannot render it")]
    Render(#[source] Arc<RenderError>),
    #[error(transparent)]
    Keepsake(Unkept),
    #[error("waits for {0}")]
    Waits(String),
    #[error("nothing that could be revoked is held; name the serial number to the CA's operator")]
    NothingHeld,
    #[error("{0}")]
    ByHand(String),
    #[error(
        "not revoked: this host logs in to CA {ca} with it and would have no other way in{}; put a new secret there first, then revoke it again. To end the host: `nodecert decommission HOSTNAME --revoke`",
        said_of(lacks)
    )]
    LocksOut { ca: Name, lacks: Vec<String> },
}

impl Failure {
    /// [`super::Survey::trouble`] says where its cause stands, too.
    pub(super) fn trouble(&self) -> Trouble {
        Trouble { message: chain(self), exit: self.exit() }
    }

    /// What stays to be done because of it.
    pub(super) fn owed(&self, deed: &str) -> OwedLine {
        OwedLine { deed: deed.to_owned(), trouble: Some(self.trouble()) }
    }

    /// Whether someone else's file is in the way.
    pub(super) fn is_foreign(&self) -> bool {
        matches!(self, Self::Disk(error) if matches!(**error, DiskError::Foreign { .. }))
    }

    /// Whether it is for an operator to act first.
    pub(super) fn is_blocked(&self) -> bool {
        matches!(self, Self::Ca(error) if error.is_blocked())
    }

    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Ca(error) if error.is_temporary() => Exit::Temporary,
            Self::Ca(error) if error.is_fault() => Exit::Fault,
            // A certificate that begins later than now speaks of a clock, here or there, that is wrong.
            Self::Rejected { why: Rejected::NotYetValid { .. }, .. } => Exit::Temporary,
            // The file may be on its way, as users and names are at early boot.
            Self::Clock(_) => Exit::Temporary,
            Self::NoCaFile { .. } | Self::Waits(_) | Self::Keepsake(Unkept::Absent { .. }) => Exit::Temporary,
            Self::Ca(_) | Self::Rejected { .. } | Self::Anchors { .. } => Exit::Refused,
            Self::ByHand(_) | Self::LocksOut { .. } => Exit::Refused,
            Self::NothingHeld => Exit::Fault,
            // It may be the clock that is wrong.
            Self::CaFile { source, .. } if matches!(**source, TrustError::Expired { .. }) => Exit::Temporary,
            Self::CaFile { .. } | Self::Render(_) | Self::Keepsake(_) => Exit::Config,
            Self::Disk(error) => exit_of(error),
            Self::Key(_) | Self::Local { .. } => Exit::Fault,
        }
    }
}

fn said_of(lacks: &[String]) -> String {
    match lacks.is_empty() {
        true => ", for its auth names no secret".to_owned(),
        false => format!(" ({})", lacks.join("; ")),
    }
}

fn exit_of(error: &DiskError) -> Exit {
    match error {
        error if error.is_temporary() => Exit::Temporary,
        DiskError::Missing { .. } => Exit::Config,
        _ => Exit::Fault,
    }
}

impl From<DiskError> for Failure {
    fn from(error: DiskError) -> Self {
        Self::Disk(Arc::new(error))
    }
}

impl From<Arc<CaError>> for Failure {
    fn from(error: Arc<CaError>) -> Self {
        Self::Ca(error)
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        Self::Key(Arc::new(error))
    }
}
