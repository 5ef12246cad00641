//! What goes: removed, and overwritten before its blocks are free where it may be a secret.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::{Dir, unbroken};
use crate::root::RootError;
use crate::root::meta::{Kind, Meta};

impl Dir {
    /// Renames over whatever stands at `to`, durably, and then overwrites that, if it may be a secret: not before, or a
    /// power cut could bring back the old name with nothing in it. Not for what a consumer reads: one that has just opened the
    /// old file would find nothing in it.
    pub fn replace(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<(), RootError> {
        let retired = self.secret(&to)?;
        self.rename(from, to)?;
        self.sync()?;
        retired.map_or(Ok(()), |file| file.overwrite(0))
    }

    /// Removes a name that is no directory, and overwrites it first if it is a file without another name, durably;
    /// `false` if it was not there. By another name it may be anyone's, or a backup.
    pub fn wipe(&self, name: impl AsRef<Path>) -> Result<bool, RootError> {
        let name = name.as_ref();
        self.retiring(name)?.map_or(Ok(()), |file| file.overwrite(1))?;
        self.remove(name)
    }

    /// The same for what may be a secret. What cannot be overwritten goes all the same, and the error says so.
    pub fn discard(&self, name: impl AsRef<Path>) -> Result<(), RootError> {
        let name = name.as_ref();
        let overwritten = self.secret(name).and_then(|file| file.map_or(Ok(()), |file| file.overwrite(1)));
        self.remove(name)?;
        overwritten
    }

    /// Removes a directory and the files in it; directories in it are not ours and stop it. Files that may be
    /// secrets are overwritten first.
    pub fn remove_dir(&self, name: impl AsRef<Path>) -> Result<(), RootError> {
        let Some(dir) = self.dir(&name)? else { return Ok(()) };
        let discarded: Vec<_> = dir.list()?.iter().map(|file| dir.discard(file)).collect();
        let removed = unlinkat(&self.fd, name.as_ref(), UnlinkatFlags::RemoveDir);
        discarded.into_iter().collect::<Result<(), _>>()?;
        removed.map_err(|errno| self.failed("remove directory", name, errno))
    }

    /// Holds a file, to be overwritten when it is not needed any more; `None` for what all may read.
    fn secret(&self, name: impl AsRef<Path>) -> Result<Option<Retired>, RootError> {
        Ok(self.retiring(name.as_ref())?.filter(|file| file.meta.mode & 0o004 == 0))
    }

    fn retiring(&self, name: &Path) -> Result<Option<Retired>, RootError> {
        let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        // What cannot be opened so, as a link, holds nothing.
        let Ok(fd) = unbroken(|| openat(&self.fd, name, flags, Mode::empty())) else { return Ok(None) };
        let stat = fstat(&fd).map_err(|errno| self.failed("look at", name, errno))?;
        let retired = Retired { file: File::from(fd), meta: Meta::of(&stat), path: self.shown(name) };
        Ok(Some(retired).filter(|file| file.meta.kind == Kind::Regular))
    }
}

/// A file that is to go.
#[derive(Debug)]
struct Retired {
    file: File,
    meta: Meta,
    path: PathBuf,
}

impl Retired {
    /// Overwrites it where it lies, durably, if it has no more names than that: by another it may be anyone's, or a
    /// backup.
    fn overwrite(mut self, names: u64) -> Result<(), RootError> {
        let zeros = vec![0; usize::try_from(self.meta.size).unwrap_or(0)];
        let overwritten = match self.file.metadata() {
            Ok(now) if now.nlink() > names => Ok(()),
            // Its blocks alone, fdatasync(2): that takes no commit of the journal.
            _ => self.file.write_all(&zeros).and_then(|()| self.file.sync_data()),
        };
        overwritten.map_err(|source| RootError::Io { action: "overwrite", path: self.path, source })
    }
}
