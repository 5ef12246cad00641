//! Generations have an age, by their names, and go when no reader can still be at them.

use std::time::{Duration, SystemTime};

use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

use crate::root::{Dir, RootError};

/// A generation that was replaced stays that long, for readers that are late.
const GRACE: Duration = Duration::from_secs(600);

/// Removes what is left over, and says what.
pub(super) fn prune(
    own: &Dir,
    retired_with: Option<&str>,
    current: &str,
    now: SystemTime,
) -> Result<Vec<String>, RootError> {
    let stale = stale(own, retired_with, current, now)?;
    stale.iter().try_for_each(|name| own.remove_dir(name))?;
    Ok(stale)
}

/// The generations that no reader can still be at: those that had been replaced when `retired_with`
/// was made, and unfinished ones, once that was ten minutes ago. A name that is off by more the other
/// way was made while the clock was wrong.
pub(super) fn stale(
    own: &Dir,
    retired_with: Option<&str>,
    current: &str,
    now: SystemTime,
) -> Result<Vec<String>, RootError> {
    let old = |name: &str| made_at(name).is_some_and(|made| apart(made, now) > GRACE);
    if retired_with.is_some_and(|name| !old(name)) {
        return Ok(Vec::new());
    }
    let names = own.list()?.into_iter().filter_map(|name| name.into_string().ok());
    Ok(names.filter(|name| name != current && Some(name.as_str()) != retired_with && old(name)).collect())
}

fn apart(a: SystemTime, b: SystemTime) -> Duration {
    a.duration_since(b).unwrap_or_else(|error| error.duration())
}

/// A time as file names have it: `20261123T101500Z`.
pub(super) fn stamp(time: SystemTime) -> String {
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    // Only a year of five digits cannot be written so.
    OffsetDateTime::from(time).format(format).unwrap_or_else(|_| "99991231T235959Z".to_owned())
}

/// When a generation was made.
pub(super) fn made_at(name: &str) -> Option<SystemTime> {
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    let (stamp, _) = name.split_once('-')?;
    Some(PrimitiveDateTime::parse(stamp, format).ok()?.assume_utc().into())
}
