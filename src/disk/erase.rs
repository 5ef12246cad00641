//! Taking away: keys, secrets and state, for good as far as a program can.
//!
//! What is erased is overwritten where it lies, synced, and then unlinked. That is enough where blocks are
//! rewritten in place: ext4 and XFS on a disk. It is not where they are not: btrfs, ZFS, bcachefs, snapshots,
//! the spare blocks of flash, backups. There only the encryption of the whole disk helps.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::DiskError;
use super::commit::{HIDDEN, Stands, files, stands};
use super::plain::{RECORD, is_ours};
use crate::certificate::Certificate;
use crate::root::{Dir, Kind, Root, RootError, STATE};

/// Erases one file; `false` if it was not there.
pub fn wipe(root: &Root, path: &Path) -> Result<bool, DiskError> {
    let (Some(dir), name) = root.parent_to_write(path)? else { return Ok(false) };
    let gone = dir.wipe(name)?;
    if gone {
        dir.sync()?;
    }
    Ok(gone)
}

/// What became of what was to be erased, by path.
#[derive(Debug, Default)]
pub struct Erased {
    /// Gone for good.
    pub gone: Vec<PathBuf>,
    /// Links to a secret that are gone, and where they led: what lies there stays.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// What holds a secret, perhaps, and someone else wrote: it stays.
    pub foreign: Vec<PathBuf>,
}

impl Erased {
    fn erase(&mut self, dir: &Dir, name: &OsStr, path: PathBuf) -> Result<(), RootError> {
        let target = dir.read_link(name)?;
        if dir.wipe(name)? {
            match target {
                Some(target) => self.links.push((path, target.into())),
                None => self.gone.push(path),
            }
        }
        Ok(())
    }
}

/// Erases a file that holds a secret, if this program wrote it or whoever calls has `consent`.
pub fn erase_file(root: &Root, path: &Path, consent: bool) -> Result<Erased, DiskError> {
    let mut erased = Erased::default();
    let (Some(dir), name) = root.parent_to_write(path)? else { return Ok(erased) };
    let Some(meta) = dir.stat(name)? else { return Ok(erased) };
    let may_go = match meta.kind {
        Kind::Regular => consent || is_ours(root, &dir, path)?,
        Kind::Link => consent,
        Kind::Directory | Kind::Special => false,
    };
    if may_go {
        erased.erase(&dir, name, path.to_owned())?;
        dir.sync()?;
    } else {
        erased.foreign.push(path.to_owned());
    }
    Ok(erased)
}

/// Erases the files of a certificate and every generation of it, and says what became of each. What someone else
/// wrote stays, unless it is the pair in force (`held`).
pub fn erase(root: &Root, certificate: &Certificate, held: bool) -> Result<Erased, DiskError> {
    let place = &certificate.place;
    let mut erased = Erased::default();
    let Some(dir) = root.dir_to_write(&place.directory)? else { return Ok(erased) };
    if let Some(hidden) = dir.dir(HIDDEN)? {
        empty(&hidden, Path::new(certificate.name.as_str()))?;
        hidden.sync()?;
    }
    for file in files(place) {
        let (path, is_secret) =
            (place.path(file), file == place.key || place.combined.as_deref() == Some(file));
        match stands(root, &dir, place, file)? {
            // A link of ours led to what is gone by now.
            Stands::Ours => erased.gone.extend(dir.wipe(file)?.then_some(path)),
            Stands::Foreign if held && file == place.key => erased.erase(&dir, file.as_ref(), path)?,
            Stands::Foreign if held && file == place.cert => {
                erased.gone.extend(dir.wipe(file)?.then_some(path));
            }
            Stands::Foreign if is_secret => erased.foreign.push(path),
            Stands::Foreign | Stands::Nothing | Stands::Directory => {}
        }
    }
    dir.sync()?;
    Ok(erased)
}

/// Erases all of this program's state but some files, and the record of what else it wrote: those files stay, and
/// stay ours. `but`: paths below the state.
pub fn erase_state(root: &Root, but: &[&Path]) -> Result<(), DiskError> {
    let Some(dir) = root.dir_to_write(Path::new(STATE))? else { return Ok(()) };
    Ok(empty_but(&dir, &[but, &[Path::new(RECORD)]].concat())?)
}

fn empty_but(dir: &Dir, but: &[&Path]) -> Result<(), RootError> {
    for name in dir.list()? {
        let stays: Vec<_> = but.iter().filter_map(|path| path.strip_prefix(&name).ok()).collect();
        if stays.is_empty() {
            empty(dir, name.as_ref())?;
        } else if !stays.contains(&Path::new(""))
            && let Some(inner) = dir.dir(&name)?
        {
            empty_but(&inner, &stays)?;
        }
    }
    dir.sync()
}

/// Erases what bears a name, with all that is in it.
fn empty(dir: &Dir, name: &Path) -> Result<(), RootError> {
    match dir.stat(name)?.map(|meta| meta.kind) {
        None => Ok(()),
        Some(Kind::Directory) => {
            if let Some(inner) = dir.dir(name)? {
                inner.list()?.iter().try_for_each(|file| empty(&inner, file.as_ref()))?;
            }
            dir.remove_dir(name)
        }
        Some(_) => dir.wipe(name).map(drop),
    }
}
