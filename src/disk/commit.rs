//! The commit: key, certificate and chain change at once.
//!
//! ```text
//! DIRECTORY/server.crt -> .nodecert/NAME/current/server.crt
//! DIRECTORY/.nodecert/NAME/current -> 20261123T101500Z-1
//! DIRECTORY/.nodecert/NAME/20261123T101500Z-1/{server.key,server.crt}
//! ```
//! This is Kubernetes' AtomicWriter with the fsyncs it lacks. Links are relative, so that they hold
//! under a bind mount.

use std::ffi::OsString;
use std::path::Path;
use std::time::SystemTime;

use zeroize::Zeroizing;

use super::plain::{back_up, is_recorded, record};
use super::prune::{prune, stamp};
use super::{DiskError, ids};
use crate::bundle::{Bundle, Pair};
use crate::certificate::{Certificate, Layout, Place};
use crate::root::{Dir, Ids, Kind, Root, RootError, Written};
use crate::setting::Name;

pub(super) const HIDDEN: &str = ".nodecert";
pub(super) const CURRENT: &str = "current";
/// What shows whether a directory takes a file.
pub(super) const PROBE: &str = "probe";
pub(super) const MISSING: &str = "is missing";

/// What one file of a pair is to hold.
pub(super) struct Part<'a> {
    pub(super) file: &'a str,
    pub(super) content: Zeroizing<String>,
    pub(super) mode: u32,
}

/// The files of a pair, in the order in which they are put in place: who sees the certificate finds
/// the rest.
pub(super) fn parts<'a>(place: &'a Place, pair: &Pair) -> Vec<Part<'a>> {
    let (key, cert) = (pair.key().pem(), pair.cert_pem());
    let line_end = if key.ends_with('\n') { "" } else { "\n" };
    let combined = || Zeroizing::new([key, line_end, &cert].concat());
    let secret = |file, content| Part { file, content, mode: place.key_mode.0 };
    let public = |file, content| Part { file, content: Zeroizing::new(content), mode: place.cert_mode.0 };
    let mut parts = Vec::new();
    parts.extend(place.combined.as_deref().map(|file| secret(file, combined())));
    parts.extend(place.chain.as_deref().map(|file| public(file, pair.chain_pem())));
    parts.push(secret(&place.key, Zeroizing::new(key.to_owned())));
    parts.push(public(&place.cert, cert));
    parts
}

/// The same files, without what is in them.
pub(super) fn files(place: &Place) -> impl Iterator<Item = &str> {
    let optional = [place.combined.as_deref(), place.chain.as_deref()];
    optional.into_iter().flatten().chain([place.key.as_str(), place.cert.as_str()])
}

/// Where a fixed name leads.
pub(super) fn link_target(name: &Name, file: &str) -> String {
    format!("{HIDDEN}/{name}/{CURRENT}/{file}")
}

/// The generation in force, from the certificate's directory.
pub(super) fn generation_path(name: &Name) -> String {
    format!("{HIDDEN}/{name}/{CURRENT}")
}

/// Puts a pair in force, durably. A destination that [`prove_writable`] did not pass is not asked
/// again whether what stands there may go.
pub fn commit(
    root: &Root,
    certificate: &Certificate,
    bundle: &Bundle,
    now: SystemTime,
) -> Result<(), DiskError> {
    let place = &certificate.place;
    let ids = ids(root, &place.owner)?;
    let parts = parts(place, bundle.pair());
    let dir = root.make_dir(&place.directory)?;
    match place.layout {
        Layout::Links => swap(root, &dir, certificate, &parts, ids, now),
        Layout::Files => rename_all(root, &dir, place, &parts, ids, now),
    }
}

fn swap(
    root: &Root,
    dir: &Dir,
    certificate: &Certificate,
    parts: &[Part<'_>],
    ids: Option<Ids>,
    now: SystemTime,
) -> Result<(), DiskError> {
    let own = own_dir(dir, &certificate.name)?;
    let previous = current(&own)?;
    let (name, generation) = new_generation(&own, now)?;
    if let Err(error) = fill(&generation, parts, ids) {
        // It holds a key: it does not wait to be pruned. The first failure is the one to report.
        own.remove_dir(&name).ok();
        return Err(error.into());
    }
    own.put_link(&name, CURRENT)?;
    if previous.is_none() && is_bare(dir, certificate)? {
        // No reader yet that a name without a generation could take something from: one journal commit for both.
        point_late(root, dir, certificate, now)?;
        own.sync()?;
        dir.sync()?;
    } else {
        own.sync()?;
        point(root, dir, certificate, now)?;
    }
    // The pair is in force. What cannot be pruned shows as drift, and who is not told of it looks again by itself.
    if let Some(retired) = &previous {
        stir(&own, retired).ok();
    }
    prune(&own, previous.as_deref(), &name, now).ok();
    Ok(())
}

/// kube-apiserver and kubelet watch the files that the fixed names lead to (fsnotify in apiserver
/// `dynamiccertificates`), and those do not change: an event at the retired ones makes them look at the names again.
fn stir(own: &Dir, retired: &str) -> Result<(), RootError> {
    let Some(generation) = own.dir(retired)? else { return Ok(()) };
    generation.list()?.iter().try_for_each(|file| generation.stir(file))
}

fn own_dir(dir: &Dir, name: &Name) -> Result<Dir, RootError> {
    dir.make_dirs([HIDDEN, name.as_str()], 0o755)
}

/// The generation in force.
pub(super) fn current(own: &Dir) -> Result<Option<String>, RootError> {
    Ok(own.read_link(CURRENT)?.and_then(|name| name.into_string().ok()))
}

/// Named by the time and a number, for two in one second.
fn new_generation(own: &Dir, now: SystemTime) -> Result<(String, Dir), RootError> {
    let stamp = stamp(now);
    let mut number = 1;
    loop {
        let name = format!("{stamp}-{number}");
        if let Some(dir) = own.new_dir(&name, 0o700)? {
            return Ok((name, dir));
        }
        number += 1;
    }
}

/// All is written before the first fsync, so that few journal commits serve it all. The modes of the
/// files guard the key; the directory opens before its fsync, so that a power cut cannot leave a
/// generation in force that no one may enter.
fn fill(generation: &Dir, parts: &[Part<'_>], ids: Option<Ids>) -> Result<(), RootError> {
    let write = |part: &Part<'_>| generation.write_new(part.file, part.content.as_bytes(), part.mode, ids);
    let written = parts.iter().map(write).collect::<Result<Vec<_>, _>>()?;
    generation.set_mode(0o755)?;
    written.into_iter().try_for_each(Written::sync)?;
    generation.sync()
}

/// Makes the fixed names lead to the generation in force, those that do not. Plain files that stood
/// there go one after the other, this once.
pub(super) fn point(
    root: &Root,
    dir: &Dir,
    certificate: &Certificate,
    now: SystemTime,
) -> Result<(), DiskError> {
    if point_late(root, dir, certificate, now)? {
        dir.sync()?;
    }
    Ok(())
}

/// The same, durable after [`Dir::sync`]; says whether there was any.
fn point_late(root: &Root, dir: &Dir, certificate: &Certificate, now: SystemTime) -> Result<bool, DiskError> {
    let wrong = leads_wrong(dir, certificate)?;
    for (file, _) in &wrong {
        save(root, dir, &certificate.place, file, now)?;
        dir.put_link(link_target(&certificate.name, file), file)?;
    }
    Ok(!wrong.is_empty())
}

/// Whether nothing stands at any of the fixed names.
fn is_bare(dir: &Dir, certificate: &Certificate) -> Result<bool, RootError> {
    let wrong = leads_wrong(dir, certificate)?;
    Ok(wrong.len() == files(&certificate.place).count() && wrong.iter().all(|(_, why)| *why == MISSING))
}

/// The fixed names that do not lead to the generation in force, and why.
pub(super) fn leads_wrong<'a>(
    dir: &Dir,
    certificate: &'a Certificate,
) -> Result<Vec<(&'a str, &'static str)>, RootError> {
    let mut wrong = Vec::new();
    for file in files(&certificate.place) {
        let found = dir.read_link(file)?;
        if found.as_ref().is_some_and(|target| **target == *link_target(&certificate.name, file)) {
            continue;
        }
        wrong.push(match (found, dir.stat(file)?) {
            (Some(_), _) => (file, "leads elsewhere than into .nodecert"),
            (None, Some(_)) => (file, "is no link into .nodecert"),
            (None, None) => (file, MISSING),
        });
    }
    Ok(wrong)
}

/// Two files cannot be renamed at once: between key and certificate, which are last and back to
/// back, a reader can meet the new key with the old certificate. That is why `links` is the default.
fn rename_all(
    root: &Root,
    dir: &Dir,
    place: &Place,
    parts: &[Part<'_>],
    ids: Option<Ids>,
    now: SystemTime,
) -> Result<(), DiskError> {
    let drafts = write_drafts(dir, parts, ids)?;
    for part in parts {
        save(root, dir, place, part.file, now)?;
    }
    // Before the names change: after a crash between two of them they must still be known as ours.
    record(root, parts.iter().map(|part| place.path(part.file)), true)?;
    drafts.iter().zip(parts).try_for_each(|(draft, part)| dir.rename(draft, part.file))?;
    Ok(dir.sync()?)
}

/// All or none: what cannot be used is not left lying about.
fn write_drafts(dir: &Dir, parts: &[Part<'_>], ids: Option<Ids>) -> Result<Vec<OsString>, RootError> {
    let mut drafts = Vec::new();
    for part in parts {
        match dir.draft(part.file, part.content.as_bytes(), part.mode, ids) {
            Ok(draft) => drafts.push(draft),
            Err(error) => {
                // The first failure is the one to report.
                for draft in &drafts {
                    dir.discard(draft).ok();
                }
                return Err(error);
            }
        }
    }
    Ok(drafts)
}

/// Keeps a copy of a file that someone else wrote, where the configuration says to replace it.
fn save(root: &Root, dir: &Dir, place: &Place, file: &str, now: SystemTime) -> Result<(), DiskError> {
    if place.replace && stands(root, dir, place, file)? == Stands::Foreign {
        back_up(dir, file.as_ref(), now)?;
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stands {
    Nothing,
    Ours,
    Foreign,
    Directory,
}

pub(super) fn stands(root: &Root, dir: &Dir, place: &Place, file: &str) -> Result<Stands, DiskError> {
    let Some(meta) = dir.stat(file)? else { return Ok(Stands::Nothing) };
    let ours = match meta.kind {
        Kind::Directory => return Ok(Stands::Directory),
        Kind::Link => {
            dir.read_link(file)?.is_some_and(|target| target.as_encoded_bytes().starts_with(b".nodecert/"))
        }
        Kind::Regular => is_recorded(root, &place.path(file))?,
        Kind::Special => false,
    };
    Ok(if ours { Stands::Ours } else { Stands::Foreign })
}

/// Makes sure, before a CA signs, that what it signs can be put in force: user and group are known,
/// the directories are there and take a file, and what stands at the fixed names is ours or may go.
/// `adopted`: certificate and key at the fixed names are a usable pair, to be replaced in its time.
/// Proven only by `Trial::finish`: those of several certificates that are begun before the first is
/// finished share a journal commit.
pub fn prove_writable(root: &Root, certificate: &Certificate, adopted: bool) -> Result<Trial, DiskError> {
    let place = &certificate.place;
    ids(root, &place.owner)?;
    if let Some(dir) = root.dir(&place.directory)? {
        consent(root, &dir, place, adopted)?;
    }
    if place.layout == Layout::Files {
        let (dir, made) = root.make_dir_late(&place.directory)?;
        return Ok(Trial::begin(dir, made)?);
    }
    let (_, made) = root.make_dir_late(&place.directory.join(HIDDEN).join(certificate.name.as_str()))?;
    let dir = root.make_dir(&place.directory)?;
    if let Some((file, _)) = leads_wrong(&dir, certificate)?.first() {
        dir.try_link(file)?;
    }
    Ok(Trial::begin(own_dir(&dir, &certificate.name)?, made)?)
}

/// What shows of that without changing anything; [`super::admit`] goes before it.
pub fn may_commit(root: &Root, certificate: &Certificate, adopted: bool) -> Result<(), DiskError> {
    let place = &certificate.place;
    ids(root, &place.owner)?;
    if let Some(dir) = root.dir(&place.directory)? {
        consent(root, &dir, place, adopted)?;
    }
    may_write(root, &place.directory)
}

/// The same of a file of its own: whether its directory, or what it will be made in, takes anything.
pub fn may_write(root: &Root, directory: &Path) -> Result<(), DiskError> {
    for ancestor in directory.ancestors() {
        if let Some(dir) = root.dir_to_write(ancestor)? {
            return Ok(dir.takes_files()?);
        }
    }
    Ok(())
}

/// Whether what stands at the fixed names may be replaced.
pub(super) fn consent(root: &Root, dir: &Dir, place: &Place, adopted: bool) -> Result<(), DiskError> {
    let mut paths = Vec::new();
    for file in files(place) {
        let of_pair = file == place.cert || file == place.key;
        match stands(root, dir, place, file)? {
            Stands::Directory => return Err(DiskError::InTheWay { path: dir.shown(file) }),
            Stands::Foreign if place.replace || (adopted && of_pair) => {}
            Stands::Foreign => paths.push(dir.shown(file)),
            Stands::Nothing | Stands::Ours => {}
        }
    }
    if paths.is_empty() { Ok(()) } else { Err(DiskError::Foreign { paths }) }
}

/// A file as large as a pair with its chain, that was written to see whether one can be.
#[derive(Debug)]
#[must_use = "a full disk shows only when it is finished"]
pub struct Trial {
    dir: Dir,
    /// The directories that have got a new one.
    changed: Vec<Dir>,
    draft: OsString,
    written: Written,
}

impl Trial {
    fn begin(dir: Dir, changed: Vec<Dir>) -> Result<Self, RootError> {
        let (draft, written) = dir.draft_late(PROBE, &[b'\n'; 16 * 1024], 0o600, None)?;
        Ok(Self { dir, changed, draft, written })
    }

    /// Waits until it is on disk, and removes it.
    pub fn finish(self) -> Result<(), DiskError> {
        // The file first: what it takes room for and the names above it are one journal commit.
        let synced = self.written.sync().and_then(|()| self.changed.iter().try_for_each(Dir::sync));
        // The first failure is the one to report.
        let removed = self.dir.remove(&self.draft).map(drop);
        Ok(synced.and(removed)?)
    }
}

/// Whether a directory takes a file.
pub(super) fn probe(dir: Dir) -> Result<(), DiskError> {
    Trial::begin(dir, Vec::new())?.finish()
}
