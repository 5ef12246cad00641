//! A directory held open, and what can be done to the names in it.
//!
//! Names are single components: they come from checked settings or from a listing. No operation
//! follows a link at the name it is given.

mod make;
mod retire;
mod write;

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat, renameat};
use nix::sys::stat::{Mode, fchmod, fstat, fstatat};
use nix::unistd::{AccessFlags, UnlinkatFlags, faccessat, fsync, linkat, unlinkat};

use super::RootError;
use super::meta::{Meta, Read, TO_READ, read_opened};

pub use write::Written;

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

    /// The same directory, held open once more.
    pub fn again(&self) -> Result<Self, RootError> {
        let failed = |source| RootError::Io { action: "open directory", path: self.path.clone(), source };
        Ok(Self::new(self.fd.try_clone().map_err(failed)?, self.path.clone()))
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
