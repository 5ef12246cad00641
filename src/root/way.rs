//! The way to a directory that root writes in: no one else may lead us elsewhere or put something else there.
//!
//! Whoever can write a directory can put a link, or a file of his own, in the place of what lies in it. So
//! each directory on the way belongs to root, to whom the tree belongs, or to a user that the configuration
//! gives files to, and others cannot write it. Steps are taken from descriptor to descriptor: what was looked
//! at is what is used. systemd refuses the same as an "unsafe path transition".

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;

use super::{Dir, Ids, Meta, RootError};

/// As many links as the kernel follows, path_resolution(7).
const MOST_LINKS: usize = 40;

/// Who may own what is on the way.
pub(super) struct Way<'a> {
    pub(super) tree: Ids,
    pub(super) admitted: &'a BTreeSet<(u32, u32)>,
}

impl Way<'_> {
    /// Goes from the top of the tree to a directory; `None` if it is not there.
    pub(super) fn go(&self, top: &Dir, path: &Path) -> Result<Option<Dir>, RootError> {
        let mut steps = steps(path);
        let mut here: Vec<Dir> = Vec::new();
        let (mut links, mut theirs) = (0, None);
        while let Some(step) = steps.pop() {
            if step == ".." {
                here.pop();
                continue;
            }
            let dir = here.last().unwrap_or(top);
            match dir.dir(&step) {
                Ok(None) => return Ok(None),
                Ok(Some(next)) => {
                    self.prove(&next, &next.meta()?)?;
                    here.push(next);
                }
                Err(refused) => {
                    let Some(target) = dir.read_link(&step)? else { return Err(refused) };
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(RootError::io("follow", dir.shown(&step), Errno::ELOOP));
                    }
                    theirs = self.prove_link(dir, &step)?.or(theirs);
                    if Path::new(&target).is_absolute() {
                        here.clear();
                    }
                    steps.extend(self::steps(Path::new(&target)));
                }
            }
        }
        let end = here.pop().map_or_else(|| top.again(), Ok)?;
        // A link of the service's own leads to what is its own.
        match theirs {
            Some((link, user)) if end.meta()?.ids.user != user => Err(unsafe_at(&link, user)),
            _ => Ok(Some(end)),
        }
    }

    fn prove(&self, dir: &Dir, meta: &Meta) -> Result<(), RootError> {
        if !self.admits_user(meta.ids.user) {
            return Err(unsafe_at(dir.path(), meta.ids.user));
        }
        let by_group = meta.mode & 0o020 != 0 && !self.admits_group(meta.ids.group);
        if meta.mode & 0o002 != 0 || by_group {
            return Err(RootError::Open { path: dir.path().to_owned(), mode: meta.mode });
        }
        Ok(())
    }

    /// Whose link it is, where that is neither root nor the owner of the tree.
    fn prove_link(&self, dir: &Dir, name: &OsString) -> Result<Option<(PathBuf, u32)>, RootError> {
        let Some(meta) = dir.stat(name)? else { return Ok(None) };
        match meta.ids.user {
            user if user == 0 || user == self.tree.user => Ok(None),
            user if self.admits_user(user) => Ok(Some((dir.shown(name), user))),
            user => Err(unsafe_at(&dir.shown(name), user)),
        }
    }

    fn admits_user(&self, user: u32) -> bool {
        user == 0 || user == self.tree.user || self.admitted.iter().any(|(admitted, _)| *admitted == user)
    }

    fn admits_group(&self, group: u32) -> bool {
        group == 0 || group == self.tree.group || self.admitted.iter().any(|(_, admitted)| *admitted == group)
    }
}

fn unsafe_at(path: &Path, user: u32) -> RootError {
    RootError::Strange { path: path.to_owned(), user }
}

/// The names of a path, the last one first.
fn steps(path: &Path) -> Vec<OsString> {
    let step = |component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    };
    let mut steps: Vec<_> = path.components().filter_map(step).collect();
    steps.reverse();
    steps
}
