//! What is not as it should be around a pair that is good, and its mending, without a CA.

use std::path::Path;
use std::time::SystemTime;

use super::commit::{CURRENT, HIDDEN, Part, commit, consent, current, leads_wrong, parts, point};
use super::prune::{prune, stale};
use super::{DiskError, LIMIT, ids};
use crate::bundle::Bundle;
use crate::certificate::{Certificate, Layout};
use crate::root::{Dir, Ids, Meta, Root, RootError};

/// Says what [`repair`] would change, a line each; nothing if all is well. Changes nothing.
pub fn drift(
    root: &Root,
    certificate: &Certificate,
    bundle: &Bundle,
    now: SystemTime,
) -> Result<Vec<String>, DiskError> {
    Ok(look(root, certificate, bundle, now)?.flaws)
}

/// Mends what [`drift`] finds and says what that was.
pub fn repair(
    root: &Root,
    certificate: &Certificate,
    bundle: &Bundle,
    now: SystemTime,
) -> Result<Vec<String>, DiskError> {
    let found = look(root, certificate, bundle, now)?;
    let ids = ids(root, &certificate.place.owner)?;
    // Before a commit too: the generation that it replaces stays for a while.
    if let Some(home) = &found.home {
        found.to_mend.iter().try_for_each(|(file, seen, mode)| home.mend(file, seen, *mode, ids))?;
    }
    for dir in &found.closed {
        dir.set_mode(0o755)?;
        dir.sync()?;
    }
    if found.to_commit {
        commit(root, certificate, bundle, now)?;
    } else if let Some(dir) = found.dir.as_ref().filter(|_| found.to_point) {
        point(root, dir, certificate, now)?;
    }
    if let Some(own) = found.own.as_ref().filter(|_| found.to_prune) {
        let current = current(own)?.unwrap_or_default();
        prune(own, Some(&current), &current, now)?;
    }
    Ok(found.flaws)
}

/// What is wrong, with what it takes to mend it.
#[derive(Default)]
struct Found {
    flaws: Vec<String>,
    /// The certificate's directory.
    dir: Option<Dir>,
    /// Where the files themselves lie: the generation in force, or the certificate's directory.
    home: Option<Dir>,
    /// Where the generations lie.
    own: Option<Dir>,
    to_mend: Vec<(String, Meta, u32)>,
    closed: Vec<Dir>,
    to_commit: bool,
    to_point: bool,
    to_prune: bool,
}

fn look(
    root: &Root,
    certificate: &Certificate,
    bundle: &Bundle,
    now: SystemTime,
) -> Result<Found, DiskError> {
    let place = &certificate.place;
    let ids = ids(root, &place.owner)?;
    let mut found = Found::default();
    let Some(dir) = root.dir(&place.directory)? else {
        found.flaws.push(format!("{} is missing", root.shown(&place.directory).display()));
        found.to_commit = true;
        return Ok(found);
    };
    if place.layout == Layout::Links {
        found.links(&dir, certificate, now)?;
    } else {
        found.home = root.dir(&place.directory)?;
    }
    let home = found.home.take();
    for part in parts(place, bundle.pair()) {
        match &home {
            Some(home) => found.part(&dir, home, &part, ids)?,
            None => found.to_commit = true,
        }
    }
    if found.to_commit || found.to_point {
        // What is held is what stands there: it may be replaced by itself.
        consent(root, &dir, place, true)?;
    }
    (found.home, found.dir) = (home, Some(dir));
    Ok(found)
}

impl Found {
    fn links(&mut self, dir: &Dir, certificate: &Certificate, now: SystemTime) -> Result<(), DiskError> {
        for (file, why) in leads_wrong(dir, certificate)? {
            self.flaws.push(format!("{} {why}", dir.shown(file).display()));
            self.to_point = true;
        }
        let mut inside = inside(dir, certificate)?;
        for inner in &inside {
            if inner.meta()?.mode != 0o755 {
                self.flaws.push(format!("{} is not open to all (mode 0755)", inner.path().display()));
                self.closed.push(inner.again()?);
            }
        }
        if inside.len() < 3 {
            self.flaws.push(format!("{} holds no generation", dir.shown(HIDDEN).display()));
            return Ok(());
        }
        self.home = inside.pop();
        self.own = inside.pop();
        self.leftovers(now)
    }

    fn leftovers(&mut self, now: SystemTime) -> Result<(), DiskError> {
        let Some(own) = &self.own else { return Ok(()) };
        let current = current(own)?.unwrap_or_default();
        for name in stale(own, Some(&current), &current, now)? {
            self.flaws.push(format!("{} is no longer used", own.shown(name).display()));
            self.to_prune = true;
        }
        Ok(())
    }

    fn part(&mut self, dir: &Dir, home: &Dir, part: &Part<'_>, ids: Option<Ids>) -> Result<(), RootError> {
        let path = dir.shown(part.file);
        let wrong = match home.read(part.file, LIMIT) {
            Err(error @ RootError::Io { .. }) => return Err(error),
            Err(error) => Err(error.to_string()),
            Ok(None) => Err(format!("{} is missing", path.display())),
            Ok(Some(read)) if *read.content != part.content.as_bytes() => {
                Err(format!("{} does not hold what belongs there", path.display()))
            }
            Ok(Some(read)) => Ok(read.meta),
        };
        let seen = match wrong {
            Ok(seen) => seen,
            Err(line) => {
                self.flaws.push(line);
                self.to_commit = true;
                return Ok(());
            }
        };
        if let Some(flaw) = attributes(&path, &seen, part.mode, ids) {
            self.flaws.push(flaw);
            self.to_mend.push((part.file.to_owned(), seen, part.mode));
        }
        Ok(())
    }
}

/// The directories from the certificate's own down to the generation in force, as far as they are
/// there: `.nodecert`, `NAME`, `current`.
fn inside(dir: &Dir, certificate: &Certificate) -> Result<Vec<Dir>, RootError> {
    let mut found: Vec<Dir> = Vec::new();
    for name in [HIDDEN, certificate.name.as_str(), CURRENT] {
        match found.last().unwrap_or(dir).below(Path::new(name))? {
            Some(next) => found.push(next),
            None => break,
        }
    }
    Ok(found)
}

/// What is wrong with mode and owner of a file.
pub(super) fn attributes(path: &Path, meta: &Meta, mode: u32, ids: Option<Ids>) -> Option<String> {
    let path = path.display();
    if meta.mode != mode {
        return Some(format!("{path} has mode {:04o}, not {mode:04o}", meta.mode));
    }
    let ids = ids.filter(|ids| *ids != meta.ids)?;
    Some(format!(
        "{path} belongs to {}:{}, not {}:{} (user and group by number)",
        meta.ids.user, meta.ids.group, ids.user, ids.group
    ))
}
