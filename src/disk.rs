//! What this program keeps on disk: the lock, held pairs, pending requests, trust files, generations,
//! rendered files and its own state. Nothing here decides what is wanted; it makes it so, durably,
//! without a moment in which a reader meets half of it.

mod commit;
mod erase;
mod held;
mod last;
mod outside;
mod plain;
mod prune;
mod repair;
mod secret;
mod state;
mod sweep;
#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test damages files and starts processes")]
mod tests;

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use crate::certificate::Owner;
use crate::node::Node;
use crate::root::{Ids, Root, RootError};

pub use crate::root::STATE;
pub use commit::{commit, may_commit, may_write, prove_writable};
pub use erase::{Erased, erase, erase_file, erase_state, wipe};
pub use held::held;
pub use last::{last_run, note_run};
pub use outside::{present, put_outside, read_outside, remove_outside};
pub use plain::{ABSENT, differs, list_dropins, put, read_text, trust_is, trust_may_be, widen};
pub use repair::{drift, repair};
pub use secret::{copies, secret, secret_file};
pub use state::{
    drop_pending, drop_state, keep_pending, keep_secret, keep_state, pending, prove_state, read_key,
    read_state,
};
pub use sweep::sweep;

/// Certificates, keys, trust and rendered files: more than any has.
const LIMIT: usize = 1024 * 1024;
const LOCK: &str = "/run/nodecert/lock";

/// What went wrong on disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A file, a directory, a user or a group.
    #[error(transparent)]
    Root(#[from] RootError),
    /// Someone else is at work.
    #[error("another nodecert is at work{}; it holds {}", holder(.pid.as_ref()), path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
        /// Who holds it, where that is known.
        pid: Option<u32>,
    },
    /// Files that someone else wrote.
    #[error(
        "{} not written by nodecert; set replace = true to have it replaced (a backup is kept), or move it away",
        were(paths)
    )]
    Foreign {
        /// Their paths, at least one.
        paths: Vec<PathBuf>,
    },
    /// A file that the configuration or the caller names and that is not there.
    #[error("there is no file {}, which {by} names", path.display())]
    Missing {
        /// Its path.
        path: PathBuf,
        /// The option or key.
        by: &'static str,
    },
    /// Something that no file can replace.
    #[error("{} is a directory where a file is to lie; move it away", path.display())]
    InTheWay {
        /// Its path.
        path: PathBuf,
    },
    /// A secret that is not there, or cannot be used.
    #[error("no secret from {from}: {why}")]
    Secret {
        /// Where it was looked for.
        from: String,
        /// What is wrong and what to do.
        why: String,
        /// Whether something lies there that must not be used: no wait mends that.
        is_fault: bool,
    },
}

impl DiskError {
    /// Whether it may be otherwise when the same is run again: exit code 75.
    pub fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::Locked { .. } | Self::Root(RootError::NoUser { .. }) | Self::Secret { is_fault: false, .. }
        )
    }

    /// Whether the disk failed, which says nothing about what is on it; being refused does.
    pub fn is_failure(&self) -> bool {
        let Self::Root(RootError::Io { source, .. }) = self else { return false };
        source.kind() != ErrorKind::PermissionDenied
    }
}

fn were(paths: &[PathBuf]) -> String {
    let shown: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    format!("{} {}", shown.join(", "), if paths.len() > 1 { "were" } else { "was" })
}

fn holder(pid: Option<&u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

/// The right to write; given back when dropped, and by the kernel when the process dies.
#[derive(Debug)]
pub struct Lock {
    file: File,
    left: bool,
}

impl Lock {
    /// Whether the run before did not come to its end, as far as is known: after a boot it is not.
    pub fn was_left(&self) -> bool {
        self.left
    }

    /// Gives it back, and says for the next run that this one came to its end.
    pub fn release(mut self) {
        // Else the next run looks for what this one might have left, and finds nothing.
        write_holder(&mut self.file, "").ok();
    }
}

/// Takes the lock below the root, unless someone else has it.
pub fn lock(root: &Root) -> Result<Lock, DiskError> {
    let (dir, name) = root.make_parent(Path::new(LOCK))?;
    let mut file = dir.open_lock(name)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::Error(source)) => {
            return Err(RootError::Io { action: "lock", path: dir.shown(name), source }.into());
        }
        Err(TryLockError::WouldBlock) => {
            let pid = read_holder(&mut file).and_then(|pid| pid.parse().ok());
            return Err(DiskError::Locked { path: dir.shown(name), pid });
        }
    }
    let left = read_holder(&mut file).is_none_or(|holder| !holder.is_empty());
    // For the message of whoever waits, and for the next run: no reason to fail.
    write_holder(&mut file, &std::process::id().to_string()).ok();
    Ok(Lock { file, left })
}

/// Always as wide as the longest number: over an older one nothing has to be cut off, which ext4 takes
/// longer for than a whole run without work.
fn write_holder(file: &mut File, holder: &str) -> std::io::Result<()> {
    file.rewind()?;
    file.write_all(format!("{holder:>10}\n").as_bytes())
}

/// Who holds it, empty once it was given back; `None` in a new file.
fn read_holder(file: &mut File) -> Option<String> {
    let mut line = [0; 20];
    let length = file.read(&mut line).ok()?;
    Some(std::str::from_utf8(line.get(..length)?).ok()?.strip_suffix('\n')?.trim().to_owned())
}

/// Says which users besides root may own the directories that files are put into: those that own some.
pub fn admit(root: &Root, node: &Node) {
    let certificates = node.certificates.values().map(|certificate| &certificate.place.owner);
    let owners = certificates.chain(node.files.iter().map(|file| &file.owner));
    // One who is not there yet owns nothing, and is the trouble of what is to be his.
    root.admit(owners.filter_map(|owner| ids(root, owner).ok().flatten()));
}

fn ids(root: &Root, owner: &Owner) -> Result<Option<Ids>, DiskError> {
    Ok(root.owners().ids(owner.user.as_deref(), owner.group.as_deref())?)
}
