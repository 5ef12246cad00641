//! The directory that everything lies below: `/`, or the tree that `--root` names.
//!
//! Paths of a tree are resolved by openat2(2) with `RESOLVE_IN_ROOT`, so that an absolute link or `..` inside
//! it stays inside it; what is then done to a file is done relative to the descriptor of its
//! directory, so that no one can swap the directory in between. Linux 5.6 or newer.

mod dir;
mod error;
mod lines;
mod meta;
mod owners;
mod way;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, stat};
use nix::unistd::geteuid;

pub use dir::{Dir, Written};
pub use error::RootError;
pub use lines::Lines;
pub use meta::{Kind, Meta, Read};
pub use owners::{Ids, Owners};

use meta::{TO_READ, read_opened};
use way::Way;

/// Where this program keeps its own state.
pub const STATE: &str = "/var/lib/nodecert";

/// The directory that everything lies below.
#[derive(Debug)]
pub struct Root {
    dir: Dir,
    live: bool,
    owners: OnceLock<Owners>,
    /// Whose the top of it is; known where we are root and have to see whose directories we write in.
    tree: Option<Ids>,
    admitted: Mutex<BTreeSet<(u32, u32)>>,
    lines: Mutex<Lines>,
}

impl Root {
    /// Opens the directory, which must exist. `/` is the live host.
    pub fn open(path: &Path) -> Result<Self, RootError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = openat(AT_FDCWD, path, flags, Mode::empty())
            .map_err(|errno| RootError::io("open directory", path, errno))?;
        // So that what is said of its files can be used wherever it is read.
        let shown = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let dir = Dir::new(fd, shown);
        let meta = dir.meta()?;
        let live = is_slash(&meta)?;
        let tree = geteuid().is_root().then_some(meta.ids);
        Ok(Self {
            dir,
            live,
            owners: OnceLock::new(),
            tree,
            admitted: Mutex::default(),
            lines: Mutex::default(),
        })
    }

    /// Opens the directory; makes it where it is missing, as for a first look at a demo.
    pub fn make(path: &Path) -> Result<Self, RootError> {
        match Self::open(path) {
            Err(RootError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        let action = "create the root directory";
        std::fs::create_dir_all(path).map_err(|source| RootError::Io {
            action,
            path: path.into(),
            source,
        })?;
        Self::open(path)
    }

    /// Whether this is the running system itself.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// A path of the configuration as the caller would have to write it.
    pub fn shown(&self, path: &Path) -> PathBuf {
        self.dir.path().join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Opens a directory; `None` if it is not there.
    pub fn dir(&self, path: &Path) -> Result<Option<Dir>, RootError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        match self.resolve(path, flags) {
            Ok(fd) => Ok(Some(Dir::new(fd, self.shown(path)))),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => {
                Err(RootError::io("open directory", self.shown(self.in_the_way(path, errno)), errno))
            }
        }
    }

    /// What stands where a directory belongs, if that is why a path cannot be opened; else the path.
    fn in_the_way<'a>(&self, path: &'a Path, errno: Errno) -> &'a Path {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let blocks = |path: &&Path| matches!(self.resolve(path, flags), Err(Errno::ENOTDIR));
        path.ancestors().take_while(|path| errno == Errno::ENOTDIR && blocks(path)).last().unwrap_or(path)
    }

    /// Says whose directories root may write in besides its own: those of whom it gives files to.
    pub fn admit(&self, owners: impl IntoIterator<Item = Ids>) {
        let owners = owners.into_iter().map(|ids| (ids.user, ids.group)).collect();
        // What a thread that panicked left is a whole set all the same.
        *self.admitted.lock().unwrap_or_else(PoisonError::into_inner) = owners;
    }

    /// Opens a directory to write in; it and its parents are made, mode 0755, where they are missing. Root
    /// goes no way on which someone else could lead it elsewhere.
    pub fn make_dir(&self, path: &Path) -> Result<Dir, RootError> {
        let (made, changed) = self.make_dir_late(path)?;
        changed.iter().try_for_each(Dir::sync)?;
        Ok(made)
    }

    /// The same, durable after [`Dir::sync`] of those that it returns besides.
    pub fn make_dir_late(&self, path: &Path) -> Result<(Dir, Vec<Dir>), RootError> {
        let mut missing = Vec::new();
        for ancestor in path.ancestors() {
            if let Some(dir) = self.dir_to_write(ancestor)? {
                if missing.is_empty() {
                    return Ok((dir, Vec::new()));
                }
                return dir.make_dirs_late(missing.into_iter().rev(), 0o755);
            }
            missing.extend(ancestor.file_name());
        }
        Err(RootError::io("create directory", self.shown(path), Errno::ENOENT))
    }

    /// Opens a directory to write in, if it is there.
    pub fn dir_to_write(&self, path: &Path) -> Result<Option<Dir>, RootError> {
        let Some(tree) = self.tree else { return self.dir(path) };
        let admitted = &self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        let way = Way { tree, admitted };
        Ok(way.go(&self.dir, path)?.map(|dir| dir.shown_as(self.shown(path))))
    }

    /// Opens the directory that a file lies in, if it is there, and says the file's name in it.
    pub fn parent<'a>(&self, path: &'a Path) -> Result<(Option<Dir>, &'a OsStr), RootError> {
        let (parent, name) = self.split(path)?;
        Ok((self.dir(parent)?, name))
    }

    /// The same, to write in it.
    pub fn parent_to_write<'a>(&self, path: &'a Path) -> Result<(Option<Dir>, &'a OsStr), RootError> {
        let (parent, name) = self.split(path)?;
        Ok((self.dir_to_write(parent)?, name))
    }

    /// The same, and makes the directory where it is missing.
    pub fn make_parent<'a>(&self, path: &'a Path) -> Result<(Dir, &'a OsStr), RootError> {
        let (parent, name) = self.split(path)?;
        Ok((self.make_dir(parent)?, name))
    }

    /// Reads a regular file of at most `limit` bytes, by way of links that stay below the root.
    /// A device or a FIFO is refused and does not hang us. `None` if it is not there.
    pub fn read(&self, path: &Path, limit: usize) -> Result<Option<Read>, RootError> {
        match self.resolve(path, TO_READ) {
            Err(Errno::ENOTDIR) => self.dir(path).map(|_| None),
            opened => read_opened(opened, self.shown(path), limit),
        }
    }

    /// Who is known here, read once.
    pub fn owners(&self) -> &Owners {
        self.owners.get_or_init(|| Owners::gather(self))
    }

    fn split<'a>(&self, path: &'a Path) -> Result<(&'a Path, &'a OsStr), RootError> {
        path.parent()
            .zip(path.file_name())
            .ok_or_else(|| RootError::io("take as a file", self.shown(path), Errno::EISDIR))
    }

    /// openat2(2) answers EAGAIN when a rename elsewhere made it lose its way; a few times is plenty. On the live
    /// host every path stays below the root by itself, and the units' sandbox has no openat2(2).
    fn resolve(&self, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlag::O_CLOEXEC;
        let how = OpenHow::new()
            .flags(flags)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let mut answer = Err(Errno::EAGAIN);
        for _ in 0..16 {
            answer = match self.live {
                true => openat(self.dir.fd(), path, flags, Mode::empty()),
                false => openat2(self.dir.fd(), path, how),
            };
            if !matches!(answer, Err(Errno::EAGAIN | Errno::EINTR)) {
                break;
            }
        }
        answer
    }
}

fn is_slash(top: &Meta) -> Result<bool, RootError> {
    let slash = stat("/").map_err(|errno| RootError::io("look at", "/", errno))?;
    Ok(top.is_same(&Meta::of(&slash)))
}

#[cfg(test)]
mod tests;
