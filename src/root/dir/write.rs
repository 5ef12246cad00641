//! Files and links that are written: new ones, and drafts beside the name that they are to have.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::{fchown, fsync, symlinkat};

use super::{Dir, unbroken};
use crate::root::meta::{Meta, TO_READ};
use crate::root::{Ids, RootError};

impl Dir {
    /// Writes a new file: never readable by others, not for an instant, so made 0600, then its
    /// owner, its mode, and only then the content. A file that could not be finished is removed.
    /// Durable after [`Written::sync`].
    pub fn write_new(
        &self,
        name: impl AsRef<Path>,
        content: &[u8],
        mode: u32,
        ids: Option<Ids>,
    ) -> Result<Written, RootError> {
        let name = name.as_ref();
        let file = self.open_to_write(name, OFlag::O_CREAT | OFlag::O_EXCL)?;
        let filled = self.set(name, &file, mode, ids).and_then(|()| self.write(name, file, content));
        if filled.is_err() {
            // The first failure is the one to report.
            self.discard(name).ok();
        }
        filled
    }

    /// Adds to a file, made 0600 where it is missing. Durable after [`Written::sync`].
    pub fn append(&self, name: impl AsRef<Path>, content: &[u8]) -> Result<Written, RootError> {
        let file = self.open_to_write(name.as_ref(), OFlag::O_CREAT | OFlag::O_APPEND)?;
        self.write(name.as_ref(), file, content)
    }

    /// Opens a file to hold a lock on, made where it is missing; mode 0600, for who can open it can
    /// hold it.
    pub fn open_lock(&self, name: impl AsRef<Path>) -> Result<File, RootError> {
        self.open_to_write(name.as_ref(), OFlag::O_CREAT)
    }

    fn open_to_write(&self, name: &Path, flags: OFlag) -> Result<File, RootError> {
        let flags = flags | OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        unbroken(|| openat(&self.fd, name, flags, Mode::S_IRUSR | Mode::S_IWUSR))
            .map(File::from)
            .map_err(|errno| self.failed("create", name, errno))
    }

    fn write(&self, name: &Path, mut file: File, content: &[u8]) -> Result<Written, RootError> {
        let path = self.shown(name);
        match file.write_all(content) {
            Ok(()) => Ok(Written { file, path }),
            Err(source) => Err(RootError::Io { action: "write", path, source }),
        }
    }

    /// Gives the file that was read its owner and mode, durably. Another one that has taken its name
    /// since is not touched: it might be anyone's.
    pub fn mend(
        &self,
        name: impl AsRef<Path>,
        seen: &Meta,
        mode: u32,
        ids: Option<Ids>,
    ) -> Result<(), RootError> {
        let name = name.as_ref();
        let flags = TO_READ | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = unbroken(|| openat(&self.fd, name, flags, Mode::empty()))
            .map(File::from)
            .map_err(|errno| self.failed("open", name, errno))?;
        let stat = fstat(&file).map_err(|errno| self.failed("look at", name, errno))?;
        if !Meta::of(&stat).is_same(seen) {
            return Err(self.failed("change the mode of", name, Errno::EBUSY));
        }
        self.set(name, &file, mode, ids)?;
        unbroken(|| fsync(&file)).map_err(|errno| self.failed("write", name, errno))
    }

    /// Gives a file the mode that it has: whoever watches it gets IN_ATTRIB, inotify(7).
    pub fn stir(&self, name: impl AsRef<Path>) -> Result<(), RootError> {
        let name = name.as_ref();
        let flags = TO_READ | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&self.fd, name, flags, Mode::empty());
        let stirred = file.and_then(|file| fchmod(&file, Mode::from_bits_truncate(fstat(&file)?.st_mode)));
        stirred.map_err(|errno| self.failed("change the mode of", name, errno))
    }

    /// The owner first: with the new mode the old owner's group might read.
    fn set(&self, name: &Path, file: &File, mode: u32, ids: Option<Ids>) -> Result<(), RootError> {
        if let Some(ids) = ids {
            fchown(file, Some(ids.user.into()), Some(ids.group.into()))
                .map_err(|errno| self.failed("change the owner of", name, errno))?;
        }
        fchmod(file, Mode::from_bits_truncate(mode))
            .map_err(|errno| self.failed("change the mode of", name, errno))
    }

    /// Puts a file at a name at once, whatever stood there; durable after [`Dir::sync`].
    pub fn put(
        &self,
        name: impl AsRef<Path>,
        content: &[u8],
        mode: u32,
        ids: Option<Ids>,
    ) -> Result<(), RootError> {
        let draft = self.draft(&name, content, mode, ids)?;
        self.rename(&draft, name)
    }

    /// Writes what is to stand at a name beside it, durably, and says under which name.
    pub fn draft(
        &self,
        name: impl AsRef<Path>,
        content: &[u8],
        mode: u32,
        ids: Option<Ids>,
    ) -> Result<OsString, RootError> {
        let (draft, written) = self.draft_late(name, content, mode, ids)?;
        let synced = written.sync();
        if synced.is_err() {
            // The first failure is the one to report.
            self.discard(&draft).ok();
        }
        synced.map(|()| draft)
    }

    /// The same, durable after [`Written::sync`].
    pub fn draft_late(
        &self,
        name: impl AsRef<Path>,
        content: &[u8],
        mode: u32,
        ids: Option<Ids>,
    ) -> Result<(OsString, Written), RootError> {
        let draft = beside(name.as_ref());
        self.remove(&draft)?;
        let written = self.write_new(&draft, content, mode, ids)?;
        Ok((draft, written))
    }

    /// Puts a link at a name at once, whatever stood there; durable after [`Dir::sync`].
    pub fn put_link(&self, target: impl AsRef<Path>, name: impl AsRef<Path>) -> Result<(), RootError> {
        let draft = beside(name.as_ref());
        self.remove(&draft)?;
        symlinkat(target.as_ref(), &self.fd, draft.as_os_str())
            .map_err(|errno| self.failed("create link", &draft, errno))?;
        self.rename(&draft, name)
    }

    /// Whether a link could be put at a name: makes one beside it and removes it.
    pub fn try_link(&self, name: impl AsRef<Path>) -> Result<(), RootError> {
        let draft = beside(name.as_ref());
        self.remove(&draft)?;
        symlinkat("nowhere", &self.fd, draft.as_os_str())
            .map_err(|errno| self.failed("create link", &draft, errno))?;
        self.remove(draft).map(drop)
    }

    /// Removes what a crash left of [`Dir::draft`] or [`Dir::put_link`].
    pub fn remove_draft(&self, name: impl AsRef<Path>) -> Result<(), RootError> {
        self.discard(beside(name.as_ref()))
    }

    /// Whether a name is one that only drafts have.
    pub fn is_draft(name: &OsStr) -> bool {
        let name = name.as_bytes();
        name.starts_with(b".") && name.ends_with(NEW)
    }
}

/// A file that was written and may not be on disk yet.
#[derive(Debug)]
#[must_use = "what is not synced may be gone after a power cut"]
pub struct Written {
    file: File,
    path: PathBuf,
}

impl Written {
    /// Waits until it is on disk, fsync(2). A full disk may show only now.
    pub fn sync(self) -> Result<(), RootError> {
        self.file.sync_all().map_err(|source| RootError::Io { action: "write", path: self.path, source })
    }
}

const NEW: &[u8] = b".nodecert-new";

/// One fixed name: whoever writes holds the lock, and a leftover of a crash is removed by the next.
fn beside(name: &Path) -> OsString {
    let mut draft = OsString::from(".");
    draft.push(name);
    draft.push(OsStr::from_bytes(NEW));
    draft
}
