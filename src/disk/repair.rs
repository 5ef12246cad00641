//! What is not as it should be around a pair that is good, and its mending, without a CA.

use std::path::Path;
use std::time::SystemTime;

use super::commit::{
    CURRENT, HIDDEN, Part, commit, consent, generation_path, leads_wrong, parts, point, prune, stale,
};
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
        if found.closed {
            home.set_mode(0o755).and_then(|()| home.sync())?;
        }
    }
    if found.to_commit {
        commit(root, certificate, bundle, now)?;
    } else if let Some(dir) = found.dir.as_ref().filter(|_| found.to_point) {
        point(root, dir, certificate, now)?;
    }
    if let Some((own, current)) = found.own.as_ref().filter(|_| found.to_prune) {
        prune(own, Some(current), current, now)?;
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
    /// Where the generations lie, and which is in force.
    own: Option<(Dir, String)>,
    to_mend: Vec<(String, Meta, u32)>,
    closed: bool,
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
        self.home = dir.below(Path::new(&generation_path(&certificate.name)))?;
        match &self.home {
            Some(home) if home.meta()?.mode != 0o755 => {
                self.flaws.push(format!("{} cannot be entered by others", home.path().display()));
                self.closed = true;
            }
            Some(_) => {}
            None => self.flaws.push(format!(
                "{} holds no generation of {}",
                dir.path().display(),
                certificate.name
            )),
        }
        let Some(own) = dir.below(&Path::new(HIDDEN).join(certificate.name.as_str()))? else {
            return Ok(());
        };
        let Some(current) = own.read_link(CURRENT)?.and_then(|name| name.into_string().ok()) else {
            return Ok(());
        };
        let leftovers = stale(&own, Some(&current), &current, now)?;
        self.to_prune = !leftovers.is_empty();
        self.flaws
            .extend(leftovers.iter().map(|name| format!("{} is no longer used", own.shown(name).display())));
        self.own = Some((own, current));
        Ok(())
    }

    fn part(&mut self, dir: &Dir, home: &Dir, part: &Part<'_>, ids: Option<Ids>) -> Result<(), RootError> {
        let path = dir.shown(part.file);
        let read = match home.read(part.file, LIMIT) {
            Err(error @ RootError::Io { .. }) => return Err(error),
            Err(error) => return Ok(self.anew(error.to_string())),
            Ok(None) => return Ok(self.anew(format!("{} is missing", path.display()))),
            Ok(Some(read)) => read,
        };
        if *read.content != part.content.as_bytes() {
            return Ok(self.anew(format!("{} does not hold what belongs there", path.display())));
        }
        if let Some(flaw) = attributes(&path, &read.meta, part.mode, ids) {
            self.flaws.push(flaw);
            self.to_mend.push((part.file.to_owned(), read.meta, part.mode));
        }
        Ok(())
    }

    fn anew(&mut self, line: String) {
        self.flaws.push(line);
        self.to_commit = true;
    }
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
