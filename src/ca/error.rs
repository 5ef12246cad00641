//! How asking a CA can end badly, and whose turn it is then.

use crate::setting::Name;

/// Why a secret could not be had.
#[derive(Debug, Clone)]
pub struct Lack {
    /// What is wrong and what to do.
    pub why: String,
    /// Whether something lies there that must not be used: no wait mends that.
    pub is_fault: bool,
}

impl Lack {
    /// It is not there, or not yet.
    pub fn absent(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_fault: false }
    }
}

/// Why a CA did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Nobody answered, or nobody who could. Running again may help.
    #[error("CA {ca}: cannot {asked}: {why}; run again when it answers")]
    Temporary {
        /// The CA.
        ca: Name,
        /// What was to be done.
        asked: String,
        /// What each URL said.
        why: String,
    },
    /// A TLS failure that a wrong clock explains.
    #[error("CA {ca}: cannot {asked}: {why}")]
    Clock {
        /// The CA.
        ca: Name,
        /// What was to be done.
        asked: String,
        /// URL, certificate and clock.
        why: String,
    },
    /// The CA has the request and has not signed it yet.
    #[error("CA {ca}: {why}")]
    Pending {
        /// The CA.
        ca: Name,
        /// What it waits for.
        why: String,
    },
    /// It said no.
    #[error("CA {ca} refused to {asked} ({url}): {said}{}", then(.advice))]
    Refused {
        /// The CA.
        ca: Name,
        /// What was to be done.
        asked: String,
        /// Who said no.
        url: Box<str>,
        /// Its status and words.
        said: String,
        /// What to do next, where we know it.
        advice: String,
        /// What is the likeliest to be wrong in the configuration.
        setting: Setting,
    },
    /// Its server is not the one that the configuration trusts.
    #[error("CA {ca}: {url} is not trusted: {why}")]
    Untrusted {
        /// The CA.
        ca: Name,
        /// Its server.
        url: String,
        /// What it presented, and what to do next.
        why: String,
    },
    /// A wrapping token that wraps something else than it should. It was not opened.
    #[error(
        "CA {ca}: the wrapping token was made by {found:?}, not by {wanted:?}: it may have been exchanged on its way, and was not opened; find out how it came here, then {advice}"
    )]
    Exchanged {
        /// The CA.
        ca: Name,
        /// Where the token was made.
        found: String,
        /// Where it should have been made.
        wanted: String,
        /// How to make a new one.
        advice: String,
    },
    /// It said yes and gave something that cannot be used.
    #[error("CA {ca} ({url}), asked to {asked}, gave a bad answer: {why}")]
    BadAnswer {
        /// The CA.
        ca: Name,
        /// What was to be done.
        asked: String,
        /// Who gave it.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// Every way to log in failed.
    #[error("CA {ca}: no way to log in worked: {reasons}")]
    NoLogin {
        /// The CA.
        ca: Name,
        /// Each way with its reason.
        reasons: String,
        /// Whether the CA refused one of them; if not, the secrets are not there yet.
        refused: bool,
        /// Whether one of them needs a secret that lies here and must not be used.
        is_fault: bool,
    },
    /// A name that is one certificate's, and that certificate cannot be ours or cannot be renewed.
    #[error(
        "CA {ca}, certname {certname}: {why}; `puppetserver ca clean --certname {certname}` on the CA's server frees the name, then run again"
    )]
    Taken {
        /// The CA.
        ca: Name,
        /// The name.
        certname: String,
        /// What is there.
        why: String,
    },
    /// What a request is to hold cannot be had.
    #[error("CA {ca} cannot be asked: {}", lack.why)]
    NoSecret {
        /// The CA.
        ca: Name,
        /// What is missing.
        lack: Lack,
    },
    /// What it needs on this host is not there or cannot be used: a fault of the host.
    #[error("CA {ca} cannot be asked: {why}")]
    Unusable {
        /// The CA.
        ca: Name,
        /// What is missing, and what to do.
        why: String,
    },
}

/// What of a CA's configuration an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "they say themselves")]
pub enum Setting {
    Table,
    Urls,
    Mount,
    Role,
    Label,
    Auth,
    Tls,
    TlsFile,
    Anchors,
    AnchorsFile,
}

fn then(advice: &str) -> String {
    if advice.is_empty() { String::new() } else { format!("; {advice}") }
}

impl CaError {
    /// The CA, and the setting of it that may be wrong; none where no setting is.
    pub fn setting(&self) -> Option<(&Name, Setting)> {
        match self {
            Self::Temporary { ca, .. } | Self::BadAnswer { ca, .. } => Some((ca, Setting::Urls)),
            Self::Refused { ca, setting, .. } => Some((ca, *setting)),
            Self::Untrusted { ca, .. } => Some((ca, Setting::Tls)),
            Self::Exchanged { ca, .. } | Self::NoLogin { ca, .. } | Self::NoSecret { ca, .. } => {
                Some((ca, Setting::Auth))
            }
            Self::Unusable { ca, .. } => Some((ca, Setting::Table)),
            Self::Clock { .. } | Self::Pending { .. } | Self::Taken { .. } => None,
        }
    }

    /// Whether the fault lies on this host.
    pub fn is_fault(&self) -> bool {
        match self {
            Self::Unusable { .. } => true,
            Self::NoLogin { is_fault, .. } => *is_fault,
            Self::NoSecret { lack, .. } => lack.is_fault,
            _ => false,
        }
    }

    /// Whether it is for an operator to act first.
    pub fn is_blocked(&self) -> bool {
        matches!(self, Self::Taken { .. })
    }

    /// Whether running again later may help without anyone doing anything.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Temporary { .. } | Self::Clock { .. } | Self::Pending { .. } => true,
            Self::NoSecret { lack, .. } => !lack.is_fault,
            Self::NoLogin { refused, is_fault, .. } => !refused && !is_fault,
            Self::Refused { .. }
            | Self::Untrusted { .. }
            | Self::Exchanged { .. }
            | Self::BadAnswer { .. }
            | Self::Taken { .. }
            | Self::Unusable { .. } => false,
        }
    }
}
