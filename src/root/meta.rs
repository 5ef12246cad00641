//! What stat(2) says of a file, and its bounded reading.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, fstat};
use zeroize::Zeroizing;

use super::{Ids, RootError};

/// O_NONBLOCK: opening a FIFO that no one writes must not hang, open(2).
pub(super) const TO_READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY);

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
    /// Whether both are of one file.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    pub(super) fn of(stat: &FileStat) -> Self {
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

/// What was read of a regular file; its content is wiped when dropped, for it may be a key.
#[derive(Debug)]
pub struct Read {
    /// What it holds.
    pub content: Zeroizing<Vec<u8>>,
    /// Whose it is.
    pub meta: Meta,
}

/// What comes of an open(2) that was to read: `None` if nothing is there.
pub(super) fn read_opened(
    opened: nix::Result<OwnedFd>,
    path: PathBuf,
    limit: usize,
) -> Result<Option<Read>, RootError> {
    Ok(read_on(opened, path, limit, None)?.map(|(read, _)| read))
}

/// The same; of a file that is still the one `seen` only what lies beyond its end then. Also says from which byte on.
pub(super) fn read_on(
    opened: nix::Result<OwnedFd>,
    path: PathBuf,
    limit: usize,
    seen: Option<&Meta>,
) -> Result<Option<(Read, u64)>, RootError> {
    match opened {
        Ok(fd) => read_beyond(fd, path, limit, seen).map(Some),
        Err(Errno::ENOENT) => Ok(None),
        // open(2): what O_NOFOLLOW says to a link, and what a socket says.
        Err(Errno::ELOOP) => Err(RootError::NotRegular { path, kind: Kind::Link }),
        Err(Errno::ENXIO) => Err(RootError::NotRegular { path, kind: Kind::Special }),
        Err(errno) => Err(RootError::io("open", path, errno)),
    }
}

/// Reads what was opened, if it is a regular file. The buffer is made in one go: growing it would
/// leave pieces of a key behind.
fn read_beyond(
    fd: OwnedFd,
    path: PathBuf,
    limit: usize,
    seen: Option<&Meta>,
) -> Result<(Read, u64), RootError> {
    let mut file = File::from(fd);
    let stat = fstat(&file).map_err(|errno| RootError::io("look at", &path, errno))?;
    let meta = Meta::of(&stat);
    if meta.kind != Kind::Regular {
        return Err(RootError::NotRegular { path, kind: meta.kind });
    }
    if usize::try_from(meta.size).map_or(true, |size| size > limit) {
        return Err(RootError::TooLarge { path, limit });
    }
    let from = seen.filter(|seen| seen.is_same(&meta) && seen.size <= meta.size).map_or(0, |seen| seen.size);
    match read_sized(&mut file, from, meta.size, limit) {
        Ok(content) if content.len() > limit => Err(RootError::TooLarge { path, limit }),
        Ok(content) => Ok((Read { content, meta }, from)),
        Err(source) => Err(RootError::Io { action: "read", path, source }),
    }
}

/// One call where the file is as long as it was said to be: no more came, though there was room for it.
fn read_sized(file: &mut File, from: u64, end: u64, limit: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    if from > 0 {
        file.seek(SeekFrom::Start(from))?;
    }
    let size = usize::try_from(end - from).unwrap_or(limit);
    let mut file = file.take(limit as u64 + 1);
    let mut content = Zeroizing::new(vec![0; size + 1]);
    let length = loop {
        match file.read(&mut content) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => break read?,
        }
    };
    content.truncate(length);
    if length != size {
        file.read_to_end(&mut content)?;
    }
    Ok(content)
}
