//! State with a date: its first line says, in seconds since 1970, when what stands below it was read, or since when
//! it has held.

use std::time::{Duration, SystemTime};

use crate::clock::{from_seconds, seconds};
use crate::disk::{self, DiskError};
use crate::root::Root;

const HEAD: &str = "# as of ";

/// What was read, and when.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Dated {
    pub(super) since: SystemTime,
    /// The setting for which it was read, where another one is a reason to read it again.
    pub(super) setting: String,
    pub(super) text: String,
}

impl Dated {
    /// `None` where nothing is kept, or something that cannot be understood.
    pub(super) fn read(root: &Root, state: &str) -> Result<Option<Self>, DiskError> {
        Ok(disk::read_state(root, state)?.and_then(|kept| Self::parse(&kept)))
    }

    /// What was read, whenever that was: also what an earlier version kept, under another first line.
    pub(super) fn text(kept: &str) -> String {
        Self::parse(kept).map_or_else(|| kept.to_owned(), |dated| dated.text)
    }

    fn parse(kept: &str) -> Option<Self> {
        let (head, text) = kept.strip_prefix(HEAD)?.split_once('\n')?;
        let (since, setting) = head.split_once(' ')?;
        let since = from_seconds(since.parse().ok()?);
        Some(Self { since, setting: setting.to_owned(), text: text.to_owned() })
    }

    pub(super) fn keep(&self, root: &Root, state: &str) -> Result<(), DiskError> {
        let kept = format!("{HEAD}{} {}\n{}", seconds(self.since), self.setting, self.text);
        disk::keep_state(root, state, kept.as_bytes())
    }

    /// Whether it is as old as that. A time to come was written under a clock that was wrong.
    pub(super) fn is_older(&self, age: Duration, now: SystemTime) -> bool {
        now.duration_since(self.since).map_or(true, |since| since >= age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_without_a_date_is_known_and_old() {
        let undated = "# read at 1700000000\n-----BEGIN X509 CRL-----\n";
        assert_eq!(Dated::text(undated), undated);
        assert_eq!(Dated::parse(undated), None);
        assert_eq!(Dated::text("# as of 1700000000 a setting\ntext\n"), "text\n");
    }
}
