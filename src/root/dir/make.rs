//! Directories that are made: with their mode from the first moment, and durable when their caller needs it.

use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{Mode, mkdirat, umask};

use super::Dir;
use crate::root::RootError;

impl Dir {
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
}
