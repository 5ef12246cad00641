//! What goes wrong with files and their owners, and what a person can do about it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;
use nix::unistd::geteuid;

use super::meta::Kind;

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
    /// A directory on the way to what root is to write, or a file that it goes by, and that others can write.
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

/// What to do, who is to try again, and what else than a disk keeps a service from writing: systemd.exec(5), ReadWritePaths=.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied if !geteuid().is_root() => {
            " (run this as root, or with --root below a directory of your own)"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            " (for a service also what its unit says: `nodecert plan --read-write-paths` prints what it needs)"
        }
        io::ErrorKind::NotADirectory => {
            " (something else stands where a directory belongs: move it away, or choose another place)"
        }
        _ => "",
    }
}

impl RootError {
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>, errno: Errno) -> Self {
        Self::Io { action, path: path.into(), source: errno.into() }
    }
}
