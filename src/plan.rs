//! Verdicts: what is to be done about each certificate, and why. A chain of checks, first match wins.

use std::fmt;
use std::time::SystemTime;

use crate::bundle::{Bundle, Pair, Rejected};
use crate::certificate::Certificate;
use crate::clock::at;
use crate::trust::Anchors;

/// What lies at a certificate's place.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "one for each certificate, taken apart at once")]
pub enum Held {
    /// Nothing.
    Absent,
    /// Something that is no pair, and what is wrong with it.
    Damaged(String),
    /// A chain and its key.
    Pair(Pair),
}

/// What is to be done about a certificate.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It is what is wanted.
    Keep(Bundle),
    /// It is usable, but another is to be got now.
    Renew(Bundle, Reason),
    /// There is none that is usable. The pair, if any, still has a key.
    Obtain(Option<Pair>, Reason),
}

/// Why a certificate is to be got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// There is none.
    Absent,
    /// What is there is no pair.
    Damaged(String),
    /// What is there was made on another machine, from which this one was copied.
    Cloned,
    /// The CA's certificates are not known yet, so nothing can be judged.
    AnchorsUnknown,
    /// What is there is not what is wanted.
    Unfit(Rejected),
    /// Its time has come.
    Due(SystemTime),
    /// The operator wants it.
    Forced,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("absent"),
            Self::Damaged(why) => f.write_str(why),
            Self::Cloned => f.write_str("made on another machine, of which this one is a copy"),
            Self::AnchorsUnknown => f.write_str("the CA's certificates are not known yet"),
            Self::Unfit(why) => write!(f, "{why}"),
            Self::Due(when) => write!(f, "due since {}", at(*when)),
            Self::Forced => f.write_str("forced"),
        }
    }
}

/// Judges what is held.
pub fn decide(
    certificate: &Certificate,
    held: Held,
    anchors: Option<&Anchors>,
    cloned: bool,
    forced: bool,
    now: SystemTime,
) -> Verdict {
    let pair = match held {
        Held::Absent => return Verdict::Obtain(None, Reason::Absent),
        Held::Damaged(why) => return Verdict::Obtain(None, Reason::Damaged(why)),
        Held::Pair(_) if cloned => return Verdict::Obtain(None, Reason::Cloned),
        Held::Pair(pair) => pair,
    };
    let Some(anchors) = anchors else { return Verdict::Obtain(Some(pair), Reason::AnchorsUnknown) };
    let bundle = match Bundle::judge(pair, &certificate.identity, anchors, now) {
        Ok(bundle) => bundle,
        Err(unfit) => return Verdict::Obtain(Some(unfit.pair), Reason::Unfit(unfit.why)),
    };
    let due = certificate.due_at(bundle.leaf());
    if due <= now {
        return Verdict::Renew(bundle, Reason::Due(due));
    }
    if forced { Verdict::Renew(bundle, Reason::Forced) } else { Verdict::Keep(bundle) }
}

/// Takes what a CA has issued, or says why not: what is accepted now must not be due at once.
pub fn accept(
    certificate: &Certificate,
    pair: Pair,
    anchors: &Anchors,
    now: SystemTime,
) -> Result<Bundle, Rejected> {
    let bundle = Bundle::judge(pair, &certificate.identity, anchors, now).map_err(|unfit| unfit.why)?;
    match certificate.due_at(bundle.leaf()) <= now {
        true => Err(Rejected::DueAtOnce(bundle.leaf().lifetime())),
        false => Ok(bundle),
    }
}

impl Verdict {
    /// Whether a certificate is to be got; `missing` leaves what is merely due.
    pub fn is_to_get(&self, missing: bool) -> bool {
        match self {
            Self::Obtain(..) => true,
            Self::Renew(..) => !missing,
            Self::Keep(_) => false,
        }
    }

    /// The bundle in force, if there is one.
    pub fn bundle(&self) -> Option<&Bundle> {
        match self {
            Self::Keep(bundle) | Self::Renew(bundle, _) => Some(bundle),
            Self::Obtain(..) => None,
        }
    }

    /// Whether a consumer can work with what is there: it is what was wanted, or lacks only names that were
    /// added since. To start with a name too few is better than not to start.
    pub fn is_usable(&self) -> bool {
        use Rejected::{MissingDns, MissingIp, MissingUri};
        let lacks_names = |why: &Rejected| matches!(why, MissingDns(_) | MissingIp(_) | MissingUri(_));
        match self {
            Self::Keep(_) | Self::Renew(..) => true,
            Self::Obtain(_, Reason::Unfit(why)) => lacks_names(why),
            Self::Obtain(..) => false,
        }
    }

    /// Why something is to be done, if something is.
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Keep(_) => None,
            Self::Renew(_, reason) | Self::Obtain(_, reason) => Some(reason),
        }
    }

    /// The pair that lies there, usable or not.
    pub fn pair(&self) -> Option<&Pair> {
        match self {
            Self::Keep(bundle) | Self::Renew(bundle, _) => Some(bundle.pair()),
            Self::Obtain(pair, _) => pair.as_ref(),
        }
    }

    /// The state as `status` names it.
    pub fn state(&self) -> &'static str {
        match self.reason() {
            None | Some(Reason::Forced) => "valid",
            Some(Reason::Due(_)) => "due",
            Some(Reason::Absent) => "missing",
            Some(Reason::Damaged(_) | Reason::Unfit(Rejected::Unreadable(_))) => "damaged",
            Some(Reason::AnchorsUnknown) => "untrusted",
            Some(Reason::Unfit(Rejected::Expired(_))) => "expired",
            Some(Reason::Unfit(Rejected::Revoked)) => "revoked",
            Some(Reason::Unfit(Rejected::NotYetValid { .. })) => "not_yet_valid",
            Some(Reason::Unfit(Rejected::Untrusted(_) | Rejected::AnchorExpired { .. })) => "untrusted",
            Some(Reason::Cloned | Reason::Unfit(_)) => "mismatched",
        }
    }
}
