//! Files that the caller names on the command line: as the caller sees them, not below the root.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{DiskError, LIMIT, read_text};
use crate::root::{Root, RootError};

/// Reads a text; also says whether only its owner can read it.
pub fn read_outside(path: &Path) -> Result<(String, bool), DiskError> {
    let host = Root::open(Path::new("/"))?;
    read_text(&host, &found(path)?, LIMIT)?
        .ok_or_else(|| DiskError::Missing { path: path.to_owned(), by: "--config" })
}

/// Replaces a file whole, for all to read.
pub fn put_outside(path: &Path, content: &[u8]) -> Result<(), DiskError> {
    let (root, name) = parent(path)?;
    let (dir, name) = root.make_parent(&name)?;
    Ok(dir.put(name, content, 0o644, None)?)
}

/// Removes a file, whatever is there under its name; one that is missing is no fault.
pub fn remove_outside(path: &Path) -> Result<(), DiskError> {
    let (root, name) = parent(path)?;
    let (Some(dir), name) = root.parent_to_write(&name)? else { return Ok(()) };
    dir.remove(name)?;
    Ok(())
}

/// Those of some paths below the root that are there.
pub fn present(root: &Root, paths: &[PathBuf]) -> Result<BTreeSet<PathBuf>, DiskError> {
    let mut there = BTreeSet::new();
    for path in paths {
        if let (Some(dir), name) = root.parent(path)? {
            there.extend(dir.stat(name)?.map(|_| path.clone()));
        }
    }
    Ok(there)
}

/// As the caller sees it: links are followed wherever they lead.
fn found(path: &Path) -> Result<PathBuf, DiskError> {
    let failed = |source| RootError::Io { action: "find", path: path.to_owned(), source };
    Ok(std::fs::canonicalize(path).or_else(|_| std::path::absolute(path)).map_err(failed)?)
}

fn parent(path: &Path) -> Result<(Root, PathBuf), DiskError> {
    let missing = || DiskError::Missing { path: path.to_owned(), by: "the command line" };
    let found = found(path)?;
    let name = found.file_name().ok_or_else(missing)?;
    let directory = found.parent().ok_or_else(missing)?;
    Ok((Root::open(directory)?, Path::new("/").join(name)))
}
