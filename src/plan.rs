//! Verdicts: what is to be done about each certificate, and why. A chain of checks, first match wins.

use std::fmt;
use std::time::SystemTime;

use crate::bundle::{Bundle, Pair, Rejected, Unfit};
use crate::certificate::Certificate;
use crate::clock::at;
use crate::trust::{self, Anchors};

/// What lies at a certificate's place.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "one for each certificate, taken apart at once")]
pub enum Held {
    /// Nothing.
    Absent,
    /// Something that is no pair, and what is wrong with it.
    Damaged(String),
    /// A chain and a key that is another's.
    Mixed(String),
    /// A chain and its key.
    Pair(Pair),
}

/// What is known beside the certificate itself.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// What its CA signs with, if that is known.
    pub anchors: Option<&'a Anchors>,
    /// The revocation lists of its CA, PEM, if they are read.
    pub crl: Option<&'a str>,
    /// The fingerprint of the certificate that this host has had revoked.
    pub given_up: Option<&'a str>,
    /// Whether what is there was made on another machine.
    pub cloned: bool,
    /// Whether the operator wants another.
    pub forced: bool,
    /// Until when the names and addresses of this host must hold before a certificate follows them.
    pub settles: Option<SystemTime>,
    /// What time it is.
    pub now: SystemTime,
}

/// What is to be done about a certificate.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It is what is wanted.
    Keep(Bundle),
    /// It is usable, but another is to be got now.
    Renew(Bundle, Reason),
    /// It is good under the names it has, and they are not those that are wanted.
    Amend(Bundle, Reason),
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
    /// Key and certificate are not of one pair.
    Mixed(String),
    /// What is there was made on another machine, from which this one was copied.
    Cloned,
    /// The CA's certificates are not known yet, so nothing can be judged.
    AnchorsUnknown,
    /// What is there is not what is wanted.
    Unfit(Rejected),
    /// So it is, but what it should be has changed only now, and may change back.
    Waits(Rejected, SystemTime),
    /// Its time has come.
    Due(SystemTime),
    /// The operator wants it.
    Forced,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("absent"),
            Self::Damaged(why) | Self::Mixed(why) => f.write_str(why),
            Self::Cloned => f.write_str("made on another machine, of which this one is a copy"),
            Self::AnchorsUnknown => f.write_str("the CA's certificates are not known yet"),
            Self::Unfit(why) => write!(f, "{why}"),
            Self::Waits(why, until) => write!(
                f,
                "{why}; waits until {}, for this host's names and addresses have just changed (`nodecert run --force` does not wait)",
                at(*until)
            ),
            Self::Due(when) => write!(f, "due since {}", at(*when)),
            Self::Forced => f.write_str("forced"),
        }
    }
}

/// Judges what is held: absent, damaged, mixed, another machine's, revoked, not as configured, untrusted, expired,
/// not yet valid, due, forced. Revoked stands before all that can be said of a pair, for it is about the key too:
/// that is not certified again, whatever else is wrong.
pub fn decide(certificate: &Certificate, held: Held, known: &Known<'_>) -> Verdict {
    let pair = match held {
        Held::Absent => return Verdict::Obtain(None, Reason::Absent),
        Held::Damaged(why) => return Verdict::Obtain(None, Reason::Damaged(why)),
        Held::Mixed(why) => return Verdict::Obtain(None, Reason::Mixed(why)),
        Held::Pair(_) if known.cloned => return Verdict::Obtain(None, Reason::Cloned),
        Held::Pair(pair) => pair,
    };
    let Some(anchors) = known.anchors else { return Verdict::Obtain(Some(pair), Reason::AnchorsUnknown) };
    if known.revokes(&pair, anchors) {
        return Verdict::Obtain(Some(pair), Reason::Unfit(Rejected::Revoked));
    }
    let bundle = match Bundle::judge(pair, &certificate.identity, anchors, known.now) {
        Ok(bundle) => bundle,
        Err(unfit) => return unfit_for(certificate, unfit, known),
    };
    let due = certificate.due_at(bundle.leaf(), bundle.pair().since());
    match (due <= known.now, known.forced) {
        (true, _) => Verdict::Renew(bundle, Reason::Due(due)),
        (false, true) => Verdict::Renew(bundle, Reason::Forced),
        (false, false) => Verdict::Keep(bundle),
    }
}

fn unfit_for(certificate: &Certificate, unfit: Box<Unfit>, known: &Known<'_>) -> Verdict {
    let (bundle, why) = match unfit.under_its_names() {
        Ok(amendable) => amendable,
        Err(unfit) => return Verdict::Obtain(Some(unfit.pair), Reason::Unfit(unfit.why)),
    };
    // Under another name its consumer does not start: that waits for nothing.
    let is_another = matches!(why, Rejected::CommonName { .. });
    let at_once =
        is_another || known.forced || certificate.due_at(bundle.leaf(), bundle.pair().since()) <= known.now;
    match known.settles.filter(|_| !at_once) {
        Some(until) => Verdict::Amend(bundle, Reason::Waits(why, until)),
        None => Verdict::Amend(bundle, Reason::Unfit(why)),
    }
}

impl Known<'_> {
    fn revokes(&self, pair: &Pair, anchors: &Anchors) -> bool {
        let fingerprint = pair.leaf().fingerprint.to_string();
        let listed = |lists| {
            let issuers: Vec<_> =
                pair.chain().iter().skip(1).chain(anchors.certificates()).cloned().collect();
            // A list that cannot be read, or is not its CA's, says nothing.
            pair.chain().first().is_some_and(|leaf| trust::revokes(lists, &issuers, leaf) == Ok(true))
        };
        self.given_up == Some(fingerprint.as_str()) || self.crl.is_some_and(listed)
    }
}

/// Takes what a CA has issued, or says why not: what is accepted now is not to be asked for again at once.
pub fn accept(
    certificate: &Certificate,
    pair: Pair,
    anchors: &Anchors,
    now: SystemTime,
) -> Result<Bundle, Rejected> {
    let bundle = Bundle::judge(pair, &certificate.identity, anchors, now).map_err(|unfit| unfit.why)?;
    match certificate.must_by(bundle.leaf()) <= now {
        true => Err(Rejected::DueAtOnce(bundle.leaf().lifetime())),
        false => Ok(bundle),
    }
}

impl Verdict {
    /// Whether a certificate is to be got; `missing` leaves what is merely due.
    pub fn is_to_get(&self, missing: bool) -> bool {
        match self {
            Self::Obtain(..) => true,
            Self::Amend(_, reason) => !matches!(reason, Reason::Waits(..)),
            Self::Renew(..) => !missing,
            Self::Keep(_) => false,
        }
    }

    /// The bundle in force, if there is one.
    pub fn bundle(&self) -> Option<&Bundle> {
        match self {
            Self::Keep(bundle) | Self::Renew(bundle, _) => Some(bundle),
            Self::Amend(..) | Self::Obtain(..) => None,
        }
    }

    /// What this host can still show to a CA that knows it by the names it had.
    pub fn credential(&self) -> Option<&Bundle> {
        match self {
            Self::Keep(bundle) | Self::Renew(bundle, _) | Self::Amend(bundle, _) => Some(bundle),
            Self::Obtain(..) => None,
        }
    }

    /// Whether a consumer can work with what is there: it is what was wanted, or lacks only names that were
    /// added since. To start with a name too few is better than not to start.
    pub fn is_usable(&self) -> bool {
        match self {
            Self::Keep(_) | Self::Renew(..) => true,
            Self::Amend(_, reason) => !matches!(reason, Reason::Unfit(Rejected::CommonName { .. })),
            Self::Obtain(..) => false,
        }
    }

    /// Whether what lies there was revoked, and its key with it.
    pub fn is_revoked(&self) -> bool {
        matches!(self.reason(), Some(Reason::Unfit(Rejected::Revoked)))
    }

    /// Why something is to be done, if something is.
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Keep(_) => None,
            Self::Renew(_, reason) | Self::Amend(_, reason) | Self::Obtain(_, reason) => Some(reason),
        }
    }

    /// The pair that lies there, usable or not.
    pub fn pair(&self) -> Option<&Pair> {
        match self {
            Self::Keep(bundle) | Self::Renew(bundle, _) | Self::Amend(bundle, _) => Some(bundle.pair()),
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
            Some(Reason::Cloned | Reason::Mixed(_) | Reason::Waits(..) | Reason::Unfit(_)) => "mismatched",
        }
    }
}

#[cfg(test)]
mod tests;
