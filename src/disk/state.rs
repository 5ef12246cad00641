//! This program's own state below `/var/lib/nodecert`: for no one else to read, and durable before
//! anyone relies on it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::commit::probe;
use super::{DiskError, LIMIT};
use crate::key::{Csr, Key, Pending};
use crate::root::{Dir, Root, RootError, STATE, Written};
use crate::setting::Name;

const REQUEST: &str = "-----BEGIN CERTIFICATE REQUEST-----";

/// Keeps a file of state: mode 0600, in directories 0700, on disk when this returns. `relative` is a
/// path of plain names.
pub fn keep_state(root: &Root, relative: &str, content: &[u8]) -> Result<(), DiskError> {
    let (dir, name) = make_parent(root, relative)?;
    dir.put(&name, content, 0o600, None)?;
    Ok(dir.sync()?)
}

/// The same for a secret: what it replaces is overwritten.
pub fn keep_secret(root: &Root, relative: &str, content: &[u8]) -> Result<(), DiskError> {
    let (dir, name) = make_parent(root, relative)?;
    let draft = dir.draft(&name, content, 0o600, None)?;
    Ok(dir.replace(draft, name)?)
}

/// Makes sure that a file of state can be kept, before something is got that cannot be had again.
pub fn prove_state(root: &Root, relative: &str) -> Result<(), DiskError> {
    probe(make_parent(root, relative)?.0)
}

/// Adds to a file of state.
pub(super) fn append_state(
    root: &Root,
    relative: &str,
    content: &[u8],
    durable: bool,
) -> Result<(), DiskError> {
    let (dir, name) = make_parent(root, relative)?;
    let written = dir.append(name, content)?;
    if durable {
        written.sync()?;
        dir.sync()?;
    }
    Ok(())
}

/// Reads a file of state; `None` if it is not there.
pub fn read_state(root: &Root, relative: &str) -> Result<Option<Zeroizing<String>>, DiskError> {
    let path = state_path(relative);
    let Some(read) = root.read(&path, LIMIT)? else { return Ok(None) };
    match std::str::from_utf8(&read.content) {
        Ok(text) => Ok(Some(Zeroizing::new(text.to_owned()))),
        Err(_) => Err(RootError::NotText { path: root.shown(&path) }.into()),
    }
}

/// Reads a private key that others may have put there; `None` if it is not there.
pub fn read_key(root: &Root, path: &Path) -> Result<Option<Zeroizing<String>>, DiskError> {
    let read = root.read(path, LIMIT)?;
    // What is no text is no key either, and is said to be none by whoever parses it.
    Ok(read.map(|read| Zeroizing::new(String::from_utf8_lossy(&read.content).into_owned())))
}

/// Removes a file of state, if it is there, durably: a one-time secret does not come back.
pub fn drop_state(root: &Root, relative: &str) -> Result<(), DiskError> {
    let path = state_path(relative);
    let (Some(dir), name) = root.parent(&path)? else { return Ok(()) };
    if dir.remove(name)? {
        dir.sync()?;
    }
    Ok(())
}

/// The request that was being made when the last run ended. One that cannot be read is none.
pub fn pending(root: &Root, name: &Name) -> Result<Option<Pending>, DiskError> {
    match read_state(root, &pending_path(name)) {
        Ok(text) => Ok(text.and_then(|text| parse_pending(&text))),
        Err(DiskError::Root(error @ RootError::Io { .. })) => Err(error.into()),
        Err(_) => Ok(None),
    }
}

/// Keeps key and request, in one file so that neither is there without the other. The request may be sent after
/// `Kept::settle`; those that are written before the first is settled share a journal commit.
pub fn keep_pending(root: &Root, name: &Name, pending: &Pending) -> Result<Kept, DiskError> {
    let key = pending.key.pem();
    let line_end = if key.ends_with('\n') { "" } else { "\n" };
    let text = Zeroizing::new([key, line_end, &pending.csr.pem()].concat());
    let (dir, name) = make_parent(root, &pending_path(name))?;
    if dir.stat(&name)?.is_some() {
        // What stands there may hold the only copy of a key that a CA knows us by.
        let (draft, written) = dir.draft_late(&name, text.as_bytes(), 0o600, None)?;
        return Ok(Kept { dir, written, draft: Some((draft, name)) });
    }
    // Not by rename, which takes a second journal commit: half a request is none.
    let written = dir.write_new(&name, text.as_bytes(), 0o600, None)?;
    Ok(Kept { dir, written, draft: None })
}

/// A file of state that may not be on disk yet.
#[derive(Debug)]
#[must_use = "what is not settled may be gone after a power cut"]
pub struct Kept {
    dir: Dir,
    written: Written,
    /// What bears another name until it is whole, and the name that it then takes.
    draft: Option<(OsString, OsString)>,
}

impl Kept {
    /// Waits until it is.
    pub fn settle(self) -> Result<(), DiskError> {
        self.written.sync()?;
        let settled = match self.draft {
            Some((draft, name)) => self.dir.replace(draft, name),
            None => self.dir.sync(),
        };
        Ok(settled?)
    }
}

/// Forgets the request, and overwrites it, for its key is in use by now. That it has no name is not fsynced: what
/// a power cut brings back is no request any more.
pub fn drop_pending(root: &Root, name: &Name) -> Result<(), DiskError> {
    let path = state_path(&pending_path(name));
    if let (Some(dir), name) = root.parent(&path)? {
        dir.wipe(name)?;
    }
    Ok(())
}

fn pending_path(name: &Name) -> String {
    format!("pending/{name}.pem")
}

fn parse_pending(text: &str) -> Option<Pending> {
    let (key, csr) = text.split_at(text.find(REQUEST)?);
    Some(Pending { key: Arc::new(Key::parse(key).ok()?), csr: Csr::parse(csr).ok()? })
}

/// Where a file of state lies.
pub(super) fn state_path(relative: &str) -> PathBuf {
    Path::new(STATE).join(relative)
}

fn make_parent(root: &Root, relative: &str) -> Result<(Dir, OsString), RootError> {
    let path = state_path(relative);
    if let (Some(dir), name) = root.parent(&path)? {
        return Ok((dir, name.to_owned()));
    }
    let lib = root.make_dir(Path::new("/var/lib"))?;
    let parents = Path::new(relative).parent().into_iter().flat_map(Path::iter);
    let dir = lib.make_dirs(std::iter::once(OsStr::new("nodecert")).chain(parents), 0o700)?;
    Ok((dir, root.parent(&path)?.1.to_owned()))
}
