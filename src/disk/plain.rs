//! Plain files: trust files and rendered files. Each is replaced whole, by rename, and only if its
//! content, mode or owner differ.
//!
//! A file that stands there and was not written by this program is not touched without consent.
//! Ours are those of the record, those that say so in their first line, and trust files that hold
//! nothing but anchors wanted here.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::prune::stamp;
use super::repair::attributes;
use super::state::{append_state, state_path};
use super::{DiskError, LIMIT, ids};
use crate::certificate::Owner;
use crate::file::File;
use crate::root::{Dir, Ids, Kind, Lines, Meta, Root, RootError};
use crate::trust::Anchors;

/// What a rendered file says of itself in its first line, as a comment of its format.
const MARK: &str = "Written by nodecert";
/// One absolute path a line, below the state directory.
pub(super) const RECORD: &str = "written";
/// What [`differs`] and [`trust_is`] say of a file that is not there.
pub const ABSENT: &str = "absent";
const TRUST_MODE: u32 = 0o644;

/// Writes a rendered file, if it differs; says whether it did.
pub fn put(root: &Root, file: &File, content: &[u8], now: SystemTime) -> Result<bool, DiskError> {
    rendered(root, file, content)?.settle(root, now)
}

/// Why [`put`] would write a rendered file, if it would. Changes nothing.
pub fn differs(root: &Root, file: &File, content: &[u8]) -> Result<Option<String>, DiskError> {
    rendered(root, file, content)?.difference(root)
}

/// Makes a trust file hold exactly the wanted anchors, if it does not; says whether it did not. For
/// all to read: mode 0644.
pub fn widen(
    root: &Root,
    path: &Path,
    wanted: &Anchors,
    owner: &Owner,
    replace: bool,
    now: SystemTime,
) -> Result<bool, DiskError> {
    let (pem, ours) = (wanted.pem(), holds_only(wanted));
    trust(root, path, &pem, &ours, owner, replace)?.settle(root, now)
}

/// Why [`widen`] would write a trust file, if it would. Changes nothing.
pub fn trust_is(
    root: &Root,
    path: &Path,
    wanted: &Anchors,
    owner: &Owner,
    replace: bool,
) -> Result<Option<String>, DiskError> {
    let (pem, ours) = (wanted.pem(), holds_only(wanted));
    trust(root, path, &pem, &ours, owner, replace)?.difference(root)
}

/// The same while the anchors are not known: any certificates may be they, and nothing else.
pub fn trust_may_be(root: &Root, path: &Path, replace: bool) -> Result<Option<&'static str>, DiskError> {
    let certificates = |content: &[u8]| Anchors::parse(content).is_ok();
    let wanted = trust(root, path, "", &certificates, &Owner::default(), replace)?;
    Ok(Some(match wanted.compare(root)? {
        Some(Difference::Missing) => ABSENT,
        _ if replace || is_recorded(root, path)? => "the CA's certificates are not known yet",
        Some(Difference::Content { .. }) => {
            "the CA's certificates are not known yet; what stands there was not written by nodecert, and stays if it holds others"
        }
        // It is empty.
        None | Some(Difference::Attributes(..)) => return wanted.foreign(root).map(|_| None),
    }))
}

/// Reads a text below the root, a configuration or template; also says whether only its owner can
/// read it. A link to /dev/null is an empty text, as systemd masks files. `None` if it is not there.
pub fn read_text(root: &Root, path: &Path, limit: usize) -> Result<Option<(String, bool)>, DiskError> {
    let found = root.read(path, limit);
    let unread = matches!(found, Ok(None) | Err(RootError::NotRegular { kind: Kind::Special, .. }));
    if unread && masked(root, path)? {
        return Ok(Some((String::new(), false)));
    }
    let Some(read) = found? else { return Ok(None) };
    // What this host does and whom it trusts is for its owner to say.
    if read.meta.mode & 0o002 != 0 {
        return Err(RootError::Open { path: root.shown(path), mode: read.meta.mode }.into());
    }
    match String::from_utf8(read.content.to_vec()) {
        Ok(text) => Ok(Some((text, read.meta.mode & 0o044 == 0))),
        Err(_) => Err(RootError::NotText { path: root.shown(path) }.into()),
    }
}

fn masked(root: &Root, path: &Path) -> Result<bool, RootError> {
    let (dir, name) = root.parent(path)?;
    Ok(match dir {
        Some(dir) => dir.read_link(name)?.is_some_and(|target| target == "/dev/null"),
        None => false,
    })
}

/// The names in a directory, sorted; none where it is missing.
pub fn list_dropins(root: &Root, dir: &Path) -> Result<Vec<String>, DiskError> {
    let names = root.dir(dir)?.map_or(Ok(Vec::new()), |dir| dir.list())?;
    Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
}

/// A file as it is to be.
struct Wanted<'a> {
    path: &'a Path,
    content: &'a [u8],
    mode: u32,
    ids: Option<Ids>,
    replace: bool,
    ours: &'a dyn Fn(&[u8]) -> bool,
}

fn rendered<'a>(root: &Root, file: &'a File, content: &'a [u8]) -> Result<Wanted<'a>, DiskError> {
    Ok(Wanted {
        path: &file.path,
        content,
        mode: file.mode.0,
        ids: ids(root, &file.owner)?,
        replace: file.replace,
        ours: &says_so,
    })
}

fn trust<'a>(
    root: &Root,
    path: &'a Path,
    pem: &'a str,
    ours: &'a dyn Fn(&[u8]) -> bool,
    owner: &Owner,
    replace: bool,
) -> Result<Wanted<'a>, DiskError> {
    let ids = ids(root, owner)?;
    Ok(Wanted { path, content: pem.as_bytes(), mode: TRUST_MODE, ids, replace, ours })
}

fn says_so(content: &[u8]) -> bool {
    let first = content.split(|&byte| byte == b'\n').next().unwrap_or_default();
    String::from_utf8_lossy(first).contains(MARK)
}

fn holds_only(wanted: &Anchors) -> impl Fn(&[u8]) -> bool {
    |content| Anchors::parse(content).is_ok_and(|found| wanted.contain(&found))
}

/// How what stands at a path differs from what is wanted.
enum Difference {
    Missing,
    /// The content, and whether the file is another's.
    Content {
        foreign: bool,
    },
    /// Mode or owner only.
    Attributes(String, Meta),
}

impl Wanted<'_> {
    fn difference(&self, root: &Root) -> Result<Option<String>, DiskError> {
        Ok(match self.compare(root)? {
            None => None,
            Some(Difference::Missing) => Some(ABSENT.to_owned()),
            Some(Difference::Content { .. }) => Some("other content".to_owned()),
            Some(Difference::Attributes(line, _)) => Some(line),
        })
    }

    fn settle(&self, root: &Root, now: SystemTime) -> Result<bool, DiskError> {
        let Some(difference) = self.compare(root)? else { return self.adopt(root).map(|()| false) };
        let (dir, name) = root.make_parent(self.path)?;
        if let Difference::Attributes(_, seen) = difference {
            dir.mend(name, &seen, self.mode, self.ids)?;
            return Ok(true);
        }
        let draft = dir.draft(name, self.content, self.mode, self.ids)?;
        if matches!(difference, Difference::Content { foreign: true }) {
            back_up(&dir, name, now)?;
        }
        self.adopt(root)?;
        dir.rename(draft, name)?;
        dir.sync()?;
        Ok(true)
    }

    /// Makes the file known as ours, to be changed when what is wanted changes; also one that someone
    /// else wrote just as it is wanted.
    fn adopt(&self, root: &Root) -> Result<(), DiskError> {
        if !says_so(self.content) {
            record(root, [self.path.to_owned()], false)?;
        }
        Ok(())
    }

    fn compare(&self, root: &Root) -> Result<Option<Difference>, DiskError> {
        let (Some(dir), name) = root.parent(self.path)? else { return Ok(Some(Difference::Missing)) };
        let read = match dir.read(name, LIMIT) {
            Ok(None) => return Ok(Some(Difference::Missing)),
            Ok(Some(read)) => read,
            Err(RootError::NotRegular { kind: Kind::Directory, path }) => {
                return Err(DiskError::InTheWay { path });
            }
            Err(RootError::NotRegular { .. } | RootError::TooLarge { .. }) => {
                return self.foreign(root).map(Some);
            }
            Err(error) => return Err(error.into()),
        };
        if *read.content != self.content {
            let ours = (self.ours)(&read.content) || is_recorded(root, self.path)?;
            return if ours {
                Ok(Some(Difference::Content { foreign: false }))
            } else {
                self.foreign(root).map(Some)
            };
        }
        let flaw = attributes(&dir.shown(name), &read.meta, self.mode, self.ids);
        Ok(flaw.map(|line| Difference::Attributes(line, read.meta)))
    }

    fn foreign(&self, root: &Root) -> Result<Difference, DiskError> {
        match self.replace {
            true => Ok(Difference::Content { foreign: true }),
            false => Err(DiskError::Foreign { paths: vec![root.shown(self.path)] }),
        }
    }
}

/// Gives a file a second name that says when it was put aside; it keeps its own until the rename
/// over it, so there is never a moment without it.
pub(super) fn back_up(dir: &Dir, name: &OsStr, now: SystemTime) -> Result<(), DiskError> {
    let mut base = name.to_owned();
    base.push(".nodecert-backup-");
    base.push(stamp(now));
    let mut backup = base.clone();
    let mut number = 1;
    while !dir.link(name, &backup)? {
        number += 1;
        backup.clone_from(&base);
        backup.push(format!("-{number}"));
    }
    Ok(())
}

/// Adds files to the record, those that are new to it, before they take their names. For a single
/// file it need not be durable: one that is found just as it is wanted becomes ours again.
pub(super) fn record(
    root: &Root,
    paths: impl IntoIterator<Item = PathBuf>,
    durable: bool,
) -> Result<(), DiskError> {
    let new = |known: &Lines| {
        let new = paths.into_iter().filter(|path| !known.hold(path));
        (new.map(|path| format!("{}\n", path.display())).collect::<String>(), known.are_cut())
    };
    let (mut lines, are_cut) = root.ask_lines(&state_path(RECORD), LIMIT, new)?;
    if lines.is_empty() {
        return Ok(());
    }
    if are_cut {
        // A power cut left half a line.
        lines.insert(0, '\n');
    }
    append_state(root, RECORD, lines.as_bytes(), durable)
}

/// Whether a plain file is one that this program wrote.
pub(super) fn is_recorded(root: &Root, path: &Path) -> Result<bool, DiskError> {
    Ok(root.ask_lines(&state_path(RECORD), LIMIT, |record| record.hold(path))?)
}

/// Whether a regular file is of the record, or says itself that this program wrote it.
pub(super) fn is_ours(root: &Root, dir: &Dir, path: &Path) -> Result<bool, DiskError> {
    if is_recorded(root, path)? {
        return Ok(true);
    }
    let Some(name) = path.file_name() else { return Ok(false) };
    match dir.read(name, LIMIT) {
        Ok(read) => Ok(read.is_some_and(|read| says_so(&read.content))),
        Err(RootError::NotRegular { .. } | RootError::TooLarge { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
