//! Taking away: keys, secrets and state, for good as far as a program can.
//!
//! What is erased is overwritten where it lies, synced, and then unlinked. That is enough where blocks are
//! rewritten in place: ext4 and XFS on a disk. It is not where they are not: btrfs, ZFS, bcachefs, snapshots,
//! the spare blocks of flash, backups. There only the encryption of the whole disk helps.

use std::path::{Path, PathBuf};

use super::DiskError;
use super::commit::{HIDDEN, Stands, files, stands};
use super::plain::RECORD;
use super::state::STATE;
use crate::certificate::Certificate;
use crate::root::{Dir, Kind, Root, RootError};

/// Erases one file; `false` if it was not there.
pub fn wipe(root: &Root, path: &Path) -> Result<bool, DiskError> {
    let (Some(dir), name) = root.parent_to_write(path)? else { return Ok(false) };
    let gone = dir.wipe(name)?;
    if gone {
        dir.sync()?;
    }
    Ok(gone)
}

/// Erases the files of a certificate and every generation of it, and says which paths are gone. What someone
/// else wrote stays, unless it is the pair in force (`held`).
pub fn erase(root: &Root, certificate: &Certificate, held: bool) -> Result<Vec<PathBuf>, DiskError> {
    let place = &certificate.place;
    let mut gone = Vec::new();
    let Some(dir) = root.dir_to_write(&place.directory)? else { return Ok(gone) };
    if let Some(hidden) = dir.dir(HIDDEN)? {
        empty(&hidden, Path::new(certificate.name.as_str()))?;
        hidden.sync()?;
    }
    for file in files(place) {
        let ours = match stands(root, &dir, place, file)? {
            Stands::Ours => true,
            Stands::Foreign => held && (file == place.key || file == place.cert),
            Stands::Nothing | Stands::Directory => false,
        };
        if ours && dir.wipe(file)? {
            gone.push(place.path(file));
        }
    }
    dir.sync()?;
    Ok(gone)
}

/// Erases all of this program's state but one file, and the record of what else it wrote: those files stay, and
/// stay ours.
pub fn erase_state(root: &Root, but: &str) -> Result<(), DiskError> {
    let Some(dir) = root.dir_to_write(Path::new(STATE))? else { return Ok(()) };
    for name in dir.list()?.iter().filter(|name| *name != but && *name != RECORD) {
        empty(&dir, name.as_ref())?;
    }
    Ok(dir.sync()?)
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
