//! A directory held open, and what can be done to the names in it.
//!
//! Names are single components: they come from checked settings or from a listing. No operation
//! follows a link at the name it is given.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat, renameat};
use nix::sys::stat::{Mode, fchmod, fstat, fstatat, mkdirat, umask};
use nix::unistd::{AccessFlags, UnlinkatFlags, faccessat, fchown, fsync, linkat, symlinkat, unlinkat};

use super::meta::{Meta, Read, TO_READ, read_opened};
use super::{Ids, RootError};

const TO_LIST: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

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

    /// The same directory under the name that the caller knows.
    pub(super) fn shown_as(self, path: PathBuf) -> Self {
        Self { path, ..self }
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
        read_opened(
            unbroken(|| openat(&self.fd, name.as_ref(), flags, Mode::empty())),
            self.shown(name),
            limit,
        )
    }

    /// Opens a directory in this one; `None` if it is not there.
    pub fn dir(&self, name: impl AsRef<Path>) -> Result<Option<Self>, RootError> {
        let flags = TO_LIST | OFlag::O_NOFOLLOW;
        let found = unbroken(|| openat(&self.fd, name.as_ref(), flags, Mode::empty()));
        let found = self.there("open directory", &name, found)?;
        Ok(found.map(|fd| Self::new(fd, self.shown(name))))
    }

    /// Opens a directory by a path of several names and links, none of which leads out of this one.
    pub fn below(&self, path: &Path) -> Result<Option<Self>, RootError> {
        let how = OpenHow::new().flags(TO_LIST).resolve(ResolveFlag::RESOLVE_BENEATH);
        match openat2(&self.fd, path, how) {
            // What RestrictSUIDSGID= makes of it, systemd.exec(5).
            Err(Errno::ENOSYS) => self.step_by_step(path),
            found => Ok(self.there("open directory", path, found)?.map(|fd| Self::new(fd, self.shown(path)))),
        }
    }

    /// The same where the kernel does not do it at once. Our links lead to a name beside them; no other is followed.
    fn step_by_step(&self, path: &Path) -> Result<Option<Self>, RootError> {
        let mut here = self.again()?;
        for name in path.components() {
            // What is not a name leads out, or may.
            let Component::Normal(name) = name else {
                return Err(self.failed("open directory", path, Errno::EXDEV));
            };
            let next = match here.dir(name) {
                Err(refused) => match here.read_link(name)? {
                    Some(target) if is_name(&target) => here.dir(target)?,
                    _ => return Err(refused),
                },
                found => found?,
            };
            let Some(next) = next else { return Ok(None) };
            here = next;
        }
        Ok(Some(here.shown_as(self.shown(path))))
    }

    /// Makes a directory; `None` if the name is taken. The mode does not depend on the umask.
    pub fn new_dir(&self, name: impl AsRef<Path>, mode: u32) -> Result<Option<Self>, RootError> {
        match self.mkdir(name.as_ref(), mode) {
            Err(Errno::EEXIST) => return Ok(None),
            made => made.map_err(|errno| self.failed("create directory", &name, errno))?,
        }
        let dir = self.dir(&name)?.ok_or_else(|| self.failed("open directory", name, Errno::ENOENT))?;
        // A directory above may have given it its set-group-ID bit, inode(7).
        dir.set_mode(mode)?;
        Ok(Some(dir))
    }

    /// With its mode from the beginning: after a crash before fchmod(2), under a umask as that of our units, no
    /// one else could ever enter it. The umask is the whole process's, and nothing beside us makes files by it.
    fn mkdir(&self, name: &Path, mode: u32) -> nix::Result<()> {
        let mode = Mode::from_bits_truncate(mode);
        if mode == Mode::S_IRWXU {
            return mkdirat(&self.fd, name, mode);
        }
        let before = umask(Mode::all().difference(mode));
        let made = mkdirat(&self.fd, name, mode);
        umask(before);
        made
    }

    /// Opens a directory some names further down, and makes what is missing, durably. Each on the way
    /// gets the mode. All are made before the first fsync: one journal commit then serves them all.
    pub fn make_dirs(
        &self,
        names: impl IntoIterator<Item = impl AsRef<Path>>,
        mode: u32,
    ) -> Result<Self, RootError> {
        let (made, changed) = self.make_dirs_late(names, mode)?;
        changed.iter().try_for_each(Self::sync)?;
        Ok(made)
    }

    /// The same, durable after [`Dir::sync`] of those that it returns besides.
    pub fn make_dirs_late(
        &self,
        names: impl IntoIterator<Item = impl AsRef<Path>>,
        mode: u32,
    ) -> Result<(Self, Vec<Self>), RootError> {
        let (mut here, mut changed) = (self.again()?, Vec::new());
        for name in names {
            let made = here.new_dir(&name, mode)?;
            let is_new = made.is_some();
            let next = match made {
                Some(dir) => dir,
                None => here.open_as(&name, mode)?,
            };
            let parent = std::mem::replace(&mut here, next);
            changed.extend(is_new.then_some(parent));
        }
        Ok((here, changed))
    }

    /// A crash between mkdir and fchmod, or a person, may have left another mode.
    fn open_as(&self, name: impl AsRef<Path>, mode: u32) -> Result<Self, RootError> {
        let dir = self.dir(&name)?.ok_or_else(|| self.failed("open directory", &name, Errno::ENOENT))?;
        if dir.meta()?.mode != mode {
            dir.set_mode(mode)?;
        }
        Ok(dir)
    }

    /// The same directory, held open once more.
    pub fn again(&self) -> Result<Self, RootError> {
        let failed = |source| RootError::Io { action: "open directory", path: self.path.clone(), source };
        Ok(Self::new(self.fd.try_clone().map_err(failed)?, self.path.clone()))
    }

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

    /// The same, durably, and then overwrites what stood there, if it may be a secret: not before, or a power cut
    /// could bring back the old name with nothing in it. Not for what a consumer reads: one that has just opened the
    /// old file would find nothing in it.
    pub fn replace(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<(), RootError> {
        let retired = self.secret(&to)?;
        self.rename(from, to)?;
        self.sync()?;
        retired.map_or(Ok(()), |file| file.overwrite(0))
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
        Ok(Some(retired).filter(|file| file.meta.kind == super::Kind::Regular))
    }

    /// Removes a name that is no directory; `false` if it was not there.
    pub fn remove(&self, name: impl AsRef<Path>) -> Result<bool, RootError> {
        let gone = unlinkat(&self.fd, name.as_ref(), UnlinkatFlags::NoRemoveDir);
        Ok(self.there("remove", name, gone)?.is_some())
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

    /// Sets its own mode.
    pub fn set_mode(&self, mode: u32) -> Result<(), RootError> {
        fchmod(&self.fd, Mode::from_bits_truncate(mode))
            .map_err(|errno| RootError::io("change the mode of", &self.path, errno))
    }

    /// Whether anything can be put into it, as far as the kernel says without a try, faccessat(2).
    pub fn takes_files(&self) -> Result<(), RootError> {
        let may = faccessat(&self.fd, ".", AccessFlags::W_OK | AccessFlags::X_OK, AtFlags::AT_EACCESS);
        may.map_err(|errno| RootError::io("write in", &self.path, errno))
    }

    /// Makes the names in it durable, fsync(2).
    pub fn sync(&self) -> Result<(), RootError> {
        unbroken(|| fsync(&self.fd)).map_err(|errno| RootError::io("fsync", &self.path, errno))
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

/// Whether it is one name, which leads nowhere else.
fn is_name(target: &OsStr) -> bool {
    matches!(Path::new(target).components().collect::<Vec<_>>()[..], [Component::Normal(_)])
}

/// A signal that comes in between is no fault: signal(7), on calls that network file systems make wait.
fn unbroken<T>(call: impl Fn() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            answer => return answer,
        }
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

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test plants files")]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn step_by_step_leads_where_the_kernel_leads_and_never_out() {
        let temp = tempfile::TempDir::new().unwrap();
        let here = temp.path().join("here");
        fs::create_dir_all(here.join("in/one")).unwrap();
        fs::create_dir_all(temp.path().join("out/one")).unwrap();
        fs::write(here.join("in/file"), "").unwrap();
        for (target, link) in
            [("one", "current"), ("../../out", "up"), ("/tmp", "slash"), ("..", "dots"), ("gone", "dangling")]
        {
            symlink(target, here.join("in").join(link)).unwrap();
        }
        symlink(temp.path().join("out"), here.join("led")).unwrap();
        let dir = crate::root::Root::open(&here).unwrap().dir(Path::new("/")).unwrap().unwrap();
        for (path, found) in [
            ("in/one", Some(true)),
            ("in/current", Some(true)),
            ("in/nothing", Some(false)),
            ("in/dangling", Some(false)),
            ("in/file", None),
            ("in/up", None),
            ("in/slash", None),
            ("led/one", None),
            ("..", None),
            ("in/../..", None),
            ("/", None),
        ] {
            let there = |dir: Result<Option<Dir>, _>| dir.ok().map(|dir| dir.map(|dir| dir.meta().unwrap()));
            let path = Path::new(path);
            let (by_kernel, by_us) = (there(dir.below(path)), there(dir.step_by_step(path)));
            assert_eq!(by_us, by_kernel, "{}", path.display());
            assert_eq!(by_us.map(|dir| dir.is_some()), found, "{}", path.display());
        }
        assert!(dir.step_by_step(Path::new("in/dots")).is_err());
    }
}
