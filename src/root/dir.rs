//! A directory held open, and what can be done to the names in it.
//!
//! Names are single components: they come from checked settings or from a listing. No operation
//! follows a link at the name it is given.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat, renameat};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, fchown, fsync, linkat, symlinkat, unlinkat};
use zeroize::Zeroizing;

use super::{Ids, Read, RootError};

/// O_NONBLOCK: opening a FIFO that no one writes must not hang, open(2).
pub(super) const TO_READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY);
const TO_LIST: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file with content.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A FIFO, socket or device.
    Special,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Regular => "regular file",
            Self::Directory => "directory",
            Self::Link => "symbolic link",
            Self::Special => "FIFO, socket or device",
        })
    }
}

/// What stat(2) says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// What it is.
    pub kind: Kind,
    /// Its permission bits.
    pub mode: u32,
    /// Whose it is.
    pub ids: Ids,
    /// Its length in bytes.
    pub size: u64,
    /// When its content last changed.
    pub modified: SystemTime,
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl Meta {
    fn of(stat: &FileStat) -> Self {
        let kind = match stat.st_mode & nix::libc::S_IFMT {
            nix::libc::S_IFREG => Kind::Regular,
            nix::libc::S_IFDIR => Kind::Directory,
            nix::libc::S_IFLNK => Kind::Link,
            _ => Kind::Special,
        };
        let modified = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
        Self {
            kind,
            mode: stat.st_mode & 0o7777,
            ids: Ids { user: stat.st_uid, group: stat.st_gid },
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: SystemTime::UNIX_EPOCH + modified,
            device: stat.st_dev,
            inode: stat.st_ino,
        }
    }
}

/// A directory held open.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    pub(super) fn new(fd: OwnedFd, path: PathBuf) -> Self {
        Self { fd, path }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Its path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a name in it, for messages.
    pub fn shown(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// What it is itself.
    pub fn meta(&self) -> Result<Meta, RootError> {
        let stat = fstat(&self.fd).map_err(|errno| RootError::io("look at", &self.path, errno))?;
        Ok(Meta::of(&stat))
    }

    /// What a name stands for; `None` if it is not there.
    pub fn stat(&self, name: impl AsRef<Path>) -> Result<Option<Meta>, RootError> {
        let found = fstatat(&self.fd, name.as_ref(), AtFlags::AT_SYMLINK_NOFOLLOW);
        Ok(self.there("look at", name, found)?.map(|stat| Meta::of(&stat)))
    }

    /// Where a link points to; `None` if the name is not there or no link.
    pub fn read_link(&self, name: impl AsRef<Path>) -> Result<Option<OsString>, RootError> {
        match readlinkat(&self.fd, name.as_ref()) {
            Err(Errno::EINVAL) => Ok(None),
            found => self.there("read link", name, found),
        }
    }

    /// Reads a regular file of at most `limit` bytes; `None` if it is not there.
    pub fn read(&self, name: impl AsRef<Path>, limit: usize) -> Result<Option<Read>, RootError> {
        let flags = TO_READ | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let found = match openat(&self.fd, name.as_ref(), flags, Mode::empty()) {
            // open(2): what O_NOFOLLOW says to a link.
            Err(Errno::ELOOP) => {
                return Err(RootError::NotRegular { path: self.shown(name), kind: Kind::Link });
            }
            found => self.there("open", &name, found)?,
        };
        found.map(|fd| read_all(fd, self.shown(name), limit)).transpose()
    }

    /// Opens a directory in this one; `None` if it is not there.
    pub fn dir(&self, name: impl AsRef<Path>) -> Result<Option<Self>, RootError> {
        let found = openat(&self.fd, name.as_ref(), TO_LIST | OFlag::O_NOFOLLOW, Mode::empty());
        let found = self.there("open directory", &name, found)?;
        Ok(found.map(|fd| Self::new(fd, self.shown(name))))
    }

    /// Opens a directory by a path of several names and links, none of which leads out of this one.
    pub fn below(&self, path: &Path) -> Result<Option<Self>, RootError> {
        let how = OpenHow::new().flags(TO_LIST).resolve(ResolveFlag::RESOLVE_BENEATH);
        let found = self.there("open directory", path, openat2(&self.fd, path, how))?;
        Ok(found.map(|fd| Self::new(fd, self.shown(path))))
    }

    /// Makes a directory; `None` if the name is taken. The mode does not depend on the umask.
    pub fn new_dir(&self, name: impl AsRef<Path>, mode: u32) -> Result<Option<Self>, RootError> {
        match mkdirat(&self.fd, name.as_ref(), Mode::S_IRWXU) {
            Err(Errno::EEXIST) => return Ok(None),
            made => made.map_err(|errno| self.failed("create directory", &name, errno))?,
        }
        let dir = self.dir(&name)?.ok_or_else(|| self.failed("open directory", name, Errno::ENOENT))?;
        dir.set_mode(mode)?;
        Ok(Some(dir))
    }

    /// Opens a directory some names further down, and makes what is missing, durably. `None` for no
    /// names. All are made before the first fsync: one journal commit then serves them all.
    pub fn make_dirs(
        &self,
        names: impl IntoIterator<Item = impl AsRef<OsStr>>,
        mode: u32,
    ) -> Result<Option<Self>, RootError> {
        let mut opened: Vec<Self> = Vec::new();
        let mut first_made = None;
        for (depth, name) in names.into_iter().enumerate() {
            let parent = opened.last().unwrap_or(self);
            let next = match parent.dir(name.as_ref())? {
                Some(dir) => dir,
                None => {
                    first_made.get_or_insert(depth);
                    parent
                        .new_dir(name.as_ref(), mode)?
                        .ok_or_else(|| parent.failed("create directory", name.as_ref(), Errno::EEXIST))?
                }
            };
            opened.push(next);
        }
        let last = opened.pop();
        if let Some(depth) = first_made {
            let parents = std::iter::once(self).chain(&opened);
            parents.skip(depth).try_for_each(Self::sync)?;
        }
        Ok(last)
    }

    /// Writes a new file: never readable by others, not for an instant, so made 0600, then its
    /// owner, its mode, and only then the content; fsynced. A file that could not be finished is
    /// removed.
    pub fn write_new(
        &self,
        name: impl AsRef<Path>,
        content: &[u8],
        mode: u32,
        ids: Option<Ids>,
    ) -> Result<(), RootError> {
        let name = name.as_ref();
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&self.fd, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(|errno| self.failed("create", name, errno))?;
        let written = self.fill(name, fd, content, mode, ids);
        if written.is_err() {
            // The first failure is the one to report.
            self.remove(name).ok();
        }
        written
    }

    fn fill(
        &self,
        name: &Path,
        fd: OwnedFd,
        content: &[u8],
        mode: u32,
        ids: Option<Ids>,
    ) -> Result<(), RootError> {
        let mut file = File::from(fd);
        self.set(name, &file, mode, ids)?;
        file.write_all(content).and_then(|()| file.sync_all()).map_err(|source| RootError::Io {
            action: "write",
            path: self.shown(name),
            source,
        })
    }

    /// Gives a regular file its owner and mode, durably. The owner first: with the new mode the old
    /// owner's group might read.
    pub fn mend(&self, name: impl AsRef<Path>, mode: u32, ids: Option<Ids>) -> Result<(), RootError> {
        let name = name.as_ref();
        let flags = TO_READ | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&self.fd, name, flags, Mode::empty())
            .map(File::from)
            .map_err(|errno| self.failed("open", name, errno))?;
        self.set(name, &file, mode, ids)?;
        fsync(&file).map_err(|errno| self.failed("write", name, errno))
    }

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

    /// Writes what is to stand at a name beside it, and says under which name.
    pub fn draft(
        &self,
        name: impl AsRef<Path>,
        content: &[u8],
        mode: u32,
        ids: Option<Ids>,
    ) -> Result<OsString, RootError> {
        let draft = beside(name.as_ref());
        self.remove(&draft)?;
        self.write_new(&draft, content, mode, ids)?;
        Ok(draft)
    }

    /// Puts a link at a name at once, whatever stood there; durable after [`Dir::sync`].
    pub fn put_link(&self, target: impl AsRef<Path>, name: impl AsRef<Path>) -> Result<(), RootError> {
        let draft = beside(name.as_ref());
        self.remove(&draft)?;
        symlinkat(target.as_ref(), &self.fd, draft.as_os_str())
            .map_err(|errno| self.failed("create link", &draft, errno))?;
        self.rename(&draft, name)
    }

    /// Gives a file a second name; `false` if that is taken.
    pub fn link(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<bool, RootError> {
        match linkat(&self.fd, from.as_ref(), &self.fd, to.as_ref(), AtFlags::empty()) {
            Err(Errno::EEXIST) => Ok(false),
            made => made.map(|()| true).map_err(|errno| self.failed("create", to, errno)),
        }
    }

    /// Renames over whatever stands at `to`.
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<(), RootError> {
        renameat(&self.fd, from.as_ref(), &self.fd, to.as_ref())
            .map_err(|errno| self.failed("replace", to, errno))
    }

    /// Removes a name that is no directory; `false` if it was not there.
    pub fn remove(&self, name: impl AsRef<Path>) -> Result<bool, RootError> {
        let gone = unlinkat(&self.fd, name.as_ref(), UnlinkatFlags::NoRemoveDir);
        Ok(self.there("remove", name, gone)?.is_some())
    }

    /// Removes a directory and the files in it; directories in it are not ours and stop it.
    pub fn remove_dir(&self, name: impl AsRef<Path>) -> Result<(), RootError> {
        let Some(dir) = self.dir(&name)? else { return Ok(()) };
        dir.list()?.iter().try_for_each(|file| dir.remove(file).map(drop))?;
        unlinkat(&self.fd, name.as_ref(), UnlinkatFlags::RemoveDir)
            .map_err(|errno| self.failed("remove directory", name, errno))
    }

    /// The names in it, sorted.
    pub fn list(&self) -> Result<Vec<OsString>, RootError> {
        let failed = |errno| RootError::io("list", &self.path, errno);
        // A descriptor of its own: reading a directory moves its offset.
        let mut listing = nix::dir::Dir::openat(&self.fd, ".", TO_LIST, Mode::empty()).map_err(failed)?;
        let mut names = Vec::new();
        for entry in listing.iter() {
            let name = entry.map_err(failed)?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        names.sort();
        Ok(names)
    }

    /// Opens a file to hold a lock on, mode 0644, made where it is missing.
    pub fn open_lock(&self, name: impl AsRef<Path>) -> Result<File, RootError> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        openat(&self.fd, name.as_ref(), flags, Mode::from_bits_truncate(0o644))
            .map(File::from)
            .map_err(|errno| self.failed("create", name, errno))
    }

    /// Sets its own mode.
    pub fn set_mode(&self, mode: u32) -> Result<(), RootError> {
        fchmod(&self.fd, Mode::from_bits_truncate(mode))
            .map_err(|errno| RootError::io("change the mode of", &self.path, errno))
    }

    /// Makes the names in it durable, fsync(2).
    pub fn sync(&self) -> Result<(), RootError> {
        fsync(&self.fd).map_err(|errno| RootError::io("fsync", &self.path, errno))
    }

    fn there<T>(
        &self,
        action: &'static str,
        name: impl AsRef<Path>,
        found: nix::Result<T>,
    ) -> Result<Option<T>, RootError> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(self.failed(action, name, errno)),
        }
    }

    fn failed(&self, action: &'static str, name: impl AsRef<Path>, errno: Errno) -> RootError {
        RootError::io(action, self.shown(name), errno)
    }
}

/// One fixed name: whoever writes holds the lock, and a leftover of a crash is removed by the next.
fn beside(name: &Path) -> OsString {
    let mut draft = OsString::from(".");
    draft.push(name);
    draft.push(OsStr::from_bytes(b".nodecert-new"));
    draft
}

/// Reads what was opened, if it is a regular file. The buffer is made in one go: growing it would
/// leave pieces of a key behind.
pub(super) fn read_all(fd: OwnedFd, path: PathBuf, limit: usize) -> Result<Read, RootError> {
    let file = File::from(fd);
    let stat = fstat(&file).map_err(|errno| RootError::io("look at", &path, errno))?;
    let meta = Meta::of(&stat);
    if meta.kind != Kind::Regular {
        return Err(RootError::NotRegular { path, kind: meta.kind });
    }
    let size = usize::try_from(meta.size).unwrap_or(usize::MAX);
    if size > limit {
        return Err(RootError::TooLarge { path, limit });
    }
    let mut content = Zeroizing::new(Vec::with_capacity(size + 1));
    match file.take(limit as u64 + 1).read_to_end(&mut content) {
        Ok(length) if length > limit => Err(RootError::TooLarge { path, limit }),
        Ok(_) => Ok(Read { content, meta }),
        Err(source) => Err(RootError::Io { action: "read", path, source }),
    }
}
