//! What a run left that did not come to its end: drafts, each beside the file that it was to become. None
//! of them grows, for their names are fixed, but one may be a key.

use std::io::ErrorKind;
use std::path::Path;

use super::DiskError;
use super::commit::{CURRENT, HIDDEN, PROBE};
use super::state::state_path;
use crate::certificate::{Certificate, Layout};
use crate::keepsake::Keepsake;
use crate::node::Node;
use crate::root::{Dir, Kind, Root, RootError};

/// Removes the drafts of everything that this host is to hold, and those in the state. What cannot be swept, as
/// on a file system that is read-only now, keeps nothing else from it: those are returned.
pub fn sweep(root: &Root, node: &Node) -> Vec<DiskError> {
    let certificates = node.certificates.values().map(|certificate| sweep_certificate(root, certificate));
    let keepsakes = node.keepsakes.iter().flat_map(Keepsake::paths);
    let trusts = node.trusts.iter().map(|trust| trust.path.as_path());
    let files = node.files.iter().map(|file| file.path.as_path()).chain(trusts).chain(keepsakes);
    let files = files.map(|path| sweep_beside(root, path));
    let state = root.dir(&state_path("")).map_err(DiskError::from);
    let state = state.and_then(|dir| dir.map_or(Ok(()), |dir| sweep_state(&dir)));
    let unswept = certificates.chain(files).chain([state]).filter_map(Result::err);
    unswept.filter(|error| !is_barred(error)).collect()
}

/// Whether something else stands in the place of its directory: then nothing was left there.
fn is_barred(error: &DiskError) -> bool {
    matches!(error, DiskError::Root(RootError::Io { source, .. }) if source.kind() == ErrorKind::NotADirectory)
}

fn sweep_certificate(root: &Root, certificate: &Certificate) -> Result<(), DiskError> {
    let place = &certificate.place;
    let Some(dir) = root.dir(&place.directory)? else { return Ok(()) };
    for (_, path) in place.paths() {
        sweep_beside(root, &path)?;
    }
    let own = match place.layout {
        Layout::Files => Some(dir),
        Layout::Links => dir.below(&Path::new(HIDDEN).join(certificate.name.as_str()))?,
    };
    let Some(own) = own else { return Ok(()) };
    own.remove_draft(PROBE)?;
    own.remove_draft(CURRENT)?;
    Ok(())
}

fn sweep_beside(root: &Root, path: &Path) -> Result<(), DiskError> {
    if let (Some(dir), name) = root.parent(path)? {
        dir.remove_draft(name)?;
    }
    Ok(())
}

/// Nothing but ours lies there.
fn sweep_state(dir: &Dir) -> Result<(), DiskError> {
    for name in dir.list()? {
        if Dir::is_draft(&name) {
            dir.discard(&name)?;
        } else if dir.stat(&name)?.is_some_and(|meta| meta.kind == Kind::Directory)
            && let Some(inner) = dir.dir(&name)?
        {
            sweep_state(&inner)?;
        }
    }
    Ok(())
}
