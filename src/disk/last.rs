//! How the last run since the boot ended. Not durable: the next boot brings a run of its own.

use std::io::Write as _;
use std::path::Path;

use super::DiskError;
use crate::clock::{from_seconds, seconds};
use crate::report::LastRun;
use crate::root::{Root, RootError};

const LAST: &str = "/run/nodecert/last-run";

/// Keeps it for `status`.
pub fn note_run(root: &Root, last: LastRun) -> Result<(), DiskError> {
    let (dir, name) = root.make_parent(Path::new(LAST))?;
    // Over the older one, as wide, in one go: a reader never meets half of it.
    let line = format!("{:>20} {:>3}\n", seconds(last.ended), last.exit);
    dir.open_lock(name)?
        .write_all(line.as_bytes())
        .map_err(|source| RootError::Io { action: "write", path: dir.shown(name), source }.into())
}

/// `None` if there was none, or if it is not ours to read.
pub fn last_run(root: &Root) -> Option<LastRun> {
    let read = root.read(Path::new(LAST), 64).ok()??;
    let (ended, exit) = std::str::from_utf8(&read.content).ok()?.trim().split_once(' ')?;
    Some(LastRun { ended: from_seconds(ended.parse().ok()?), exit: exit.trim().parse().ok()? })
}
