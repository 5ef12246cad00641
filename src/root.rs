//! The directory that everything lies below: `/`, or the tree that `--root` names.
//!
//! Paths of a tree are resolved by openat2(2) with `RESOLVE_IN_ROOT`, so that an absolute link or `..` inside
//! it stays inside it; what is then done to a file is done relative to the descriptor of its
//! directory, so that no one can swap the directory in between. Linux 5.6 or newer.

mod dir;
mod meta;
mod owners;
mod way;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, stat};
use nix::unistd::geteuid;

pub use dir::{Dir, Written};
pub use meta::{Kind, Meta, Read};
pub use owners::{Ids, Owners};

use meta::{TO_READ, read_opened};
use way::Way;

/// Where this program keeps its own state.
pub const STATE: &str = "/var/lib/nodecert";

/// What went wrong with a file or with its owner.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The operating system said no.
    #[error("cannot {action} {}{}", path.display(), advice(source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// Where a file was expected there is something else.
    #[error("{} is a {kind}, not a regular file", path.display())]
    NotRegular {
        /// Its path.
        path: PathBuf,
        /// What it is.
        kind: Kind,
    },
    /// A file that is longer than its kind can be.
    #[error("{} has more than {limit} bytes, which nothing of its kind has", path.display())]
    TooLarge {
        /// Its path.
        path: PathBuf,
        /// The most that is read.
        limit: usize,
    },
    /// A file that was to be text is not.
    #[error("{} is not text (UTF-8)", path.display())]
    NotText {
        /// Its path.
        path: PathBuf,
    },
    /// A directory or link on the way to what root is to write, and that someone else can exchange.
    #[error(
        "{} belongs to user {user}, who could put something else in its place: give it to root, or make that user the owner of what is to lie there", path.display()
    )]
    Strange {
        /// Its path.
        path: PathBuf,
        /// Whose it is.
        user: u32,
    },
    /// A directory on the way to what root is to write, and that others can write.
    #[error(
        "others can write to {} (mode {mode:04o}), and could put something else in the place of what lies there: chmod go-w it", path.display()
    )]
    Open {
        /// Its path.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The files that list users and groups cannot be read.
    #[error("cannot tell users and groups")]
    Owners(#[source] Arc<RootError>),
    /// A user or group that is not there, or not yet.
    #[error(
        "the {what} {name:?} is not known here ({source_of_names}); create it, or install the package that brings it, and run again"
    )]
    NoUser {
        /// "user" or "group".
        what: &'static str,
        /// Its name.
        name: String,
        /// Where it was looked up.
        source_of_names: String,
    },
}

/// Who is to try again, and what else than a disk keeps a service from writing: systemd.exec(5), ReadWritePaths=.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied if !geteuid().is_root() => {
            " (run this as root, or with --root below a directory of your own)"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            " (for a service also what its unit says: `nodecert plan --read-write-paths` prints what it needs)"
        }
        _ => "",
    }
}

impl RootError {
    fn io(action: &'static str, path: impl Into<PathBuf>, errno: Errno) -> Self {
        Self::Io { action, path: path.into(), source: errno.into() }
    }
}

/// The directory that everything lies below.
#[derive(Debug)]
pub struct Root {
    dir: Dir,
    live: bool,
    owners: OnceLock<Owners>,
    /// Whose the top of it is; known where we are root and have to see whose directories we write in.
    tree: Option<Ids>,
    admitted: Mutex<BTreeSet<(u32, u32)>>,
}

impl Root {
    /// Opens the directory, which must exist. `/` is the live host.
    pub fn open(path: &Path) -> Result<Self, RootError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = openat(AT_FDCWD, path, flags, Mode::empty())
            .map_err(|errno| RootError::io("open the root directory", path, errno))?;
        // So that what is said of its files can be used wherever it is read.
        let shown = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let dir = Dir::new(fd, shown);
        let meta = dir.meta()?;
        let live = is_slash(&meta)?;
        let tree = geteuid().is_root().then_some(meta.ids);
        Ok(Self { dir, live, owners: OnceLock::new(), tree, admitted: Mutex::default() })
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
            Err(errno) => Err(RootError::io("open directory", self.shown(path), errno)),
        }
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
        read_opened(self.resolve(path, TO_READ), self.shown(path), limit)
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
#[allow(clippy::disallowed_methods, reason = "a test plants files")]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree() -> (tempfile::TempDir, Root) {
        let temp = tempfile::TempDir::new().unwrap();
        let tree = temp.path().join("tree");
        fs::create_dir_all(tree.join("etc")).unwrap();
        fs::write(temp.path().join("secret"), "outside").unwrap();
        let root = Root::open(&tree).unwrap();
        (temp, root)
    }

    #[test]
    fn a_link_never_leads_out_of_the_root() {
        let (temp, root) = tree();
        let etc = temp.path().join("tree/etc");
        let outside = temp.path().join("secret");
        symlink(&outside, etc.join("absolute")).unwrap();
        symlink("../../secret", etc.join("relative")).unwrap();
        symlink(temp.path(), etc.join("dir")).unwrap();
        symlink("../../../../../..", etc.join("up")).unwrap();
        for path in ["/etc/absolute", "/etc/relative", "/etc/dir/secret", "/../secret"] {
            assert!(root.read(Path::new(path), 100).unwrap().is_none(), "{path}");
        }
        fs::write(temp.path().join("tree/secret"), "inside").unwrap();
        for path in ["/etc/relative", "/etc/up/secret", "/../secret", "secret"] {
            let read = root.read(Path::new(path), 100).unwrap().unwrap();
            assert_eq!(*read.content, b"inside", "{path}");
        }
        fs::create_dir(temp.path().join("tree/inner")).unwrap();
        symlink("/inner", etc.join("made")).unwrap();
        root.make_dir(Path::new("/etc/made/deep/er")).unwrap();
        assert!(temp.path().join("tree/inner/deep/er").is_dir());
    }

    #[test]
    fn the_live_host_is_known_by_any_name() {
        assert!(Root::open(Path::new("/")).unwrap().is_live());
        assert!(Root::open(Path::new("/usr/..")).unwrap().is_live());
        let (_temp, root) = tree();
        assert!(!root.is_live());
        assert!(root.shown(Path::new("/etc/x")).ends_with("tree/etc/x"));
    }

    #[test]
    fn errors_say_what_was_tried_on_what() {
        let (temp, root) = tree();
        fs::write(temp.path().join("tree/etc/file"), "x").unwrap();
        let error = root.make_dir(Path::new("/etc/file/below")).unwrap_err();
        assert!(error.to_string().starts_with("cannot open directory /"), "{error}");
        assert!(error.to_string().ends_with("tree/etc/file"), "{error}");
        let error = root.read(Path::new("/etc"), 100).unwrap_err();
        assert!(error.to_string().ends_with("is a directory, not a regular file"), "{error}");
        let error = root.read(Path::new("/etc/file"), 0).unwrap_err();
        assert!(matches!(error, RootError::TooLarge { limit: 0, .. }));
        let _socket = std::os::unix::net::UnixListener::bind(temp.path().join("tree/etc/s")).unwrap();
        let error = root.read(Path::new("/etc/s"), 100).unwrap_err();
        assert!(matches!(error, RootError::NotRegular { kind: Kind::Special, .. }), "{error}");
        let missing = Root::open(&temp.path().join("nowhere")).unwrap_err();
        assert!(missing.to_string().starts_with("cannot open the root directory"), "{missing}");
        assert!(!Root::make(&temp.path().join("now/here")).unwrap().is_live());
    }

    #[test]
    fn a_file_is_read_to_its_end_whatever_its_length_is_said_to_be() {
        let root = Root::open(Path::new("/")).unwrap();
        let said = root.read(Path::new("/proc/sys/kernel/ostype"), 100).unwrap().unwrap();
        assert_eq!((said.meta.size, said.content.as_slice()), (0, &b"Linux\n"[..]));
        let (temp, root) = tree();
        for content in ["", "x", "two\nlines"] {
            fs::write(temp.path().join("tree/etc/x"), content).unwrap();
            let read = root.read(Path::new("/etc/x"), 9).unwrap().unwrap();
            assert_eq!(*read.content, content.as_bytes());
        }
    }

    #[test]
    fn a_file_that_took_the_name_of_the_one_seen_is_not_mended() {
        let (temp, root) = tree();
        let (etc, path) = (root.dir(Path::new("/etc")).unwrap().unwrap(), temp.path().join("tree/etc/x"));
        fs::write(&path, "x").unwrap();
        let seen = etc.stat("x").unwrap().unwrap();
        fs::rename(&path, temp.path().join("aside")).unwrap();
        fs::write(&path, "other").unwrap();
        assert!(etc.mend("x", &seen, 0o666, None).is_err());
        fs::remove_file(&path).unwrap();
        fs::hard_link(temp.path().join("aside"), &path).unwrap();
        etc.mend("x", &seen, 0o604, None).unwrap();
        assert_eq!(etc.stat("x").unwrap().unwrap().mode, 0o604);
    }

    #[test]
    fn what_is_overwritten_has_no_other_name() {
        let (temp, root) = tree();
        let etc = root.dir(Path::new("/etc")).unwrap().unwrap();
        let (path, other) = (temp.path().join("tree/etc/key"), temp.path().join("other"));
        let make = || etc.put("key", b"secret", 0o600, None).unwrap();
        let open = || fs::File::open(&path).unwrap();
        let replace =
            || etc.draft("key", b"another", 0o600, None).and_then(|draft| etc.replace(draft, "key"));
        type Go<'a> = &'a dyn Fn() -> Result<(), RootError>;
        let ways: [Go<'_>; 3] = [&|| etc.wipe("key").map(drop), &|| etc.discard("key"), &replace];
        for (way, go) in ways.iter().enumerate() {
            make();
            let held = open();
            go().unwrap();
            assert_eq!(io::read_to_string(held).unwrap(), "\0".repeat(6), "way {way}");
            make();
            fs::hard_link(&path, &other).unwrap();
            go().unwrap();
            assert_eq!(fs::read_to_string(&other).unwrap(), "secret", "way {way}");
            fs::remove_file(&path).ok();
            symlink(&other, &path).unwrap();
            go().unwrap();
            assert_eq!(fs::read_to_string(&other).unwrap(), "secret", "way {way}");
            fs::remove_file(&other).unwrap();
        }
    }
}
