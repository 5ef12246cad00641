//! The lines of a file that only grows, for who asks after them again and again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use super::meta::{Meta, Read, TO_READ, read_on};
use super::{Root, RootError};

/// What was read of such a file.
#[derive(Debug, Default)]
pub struct Lines {
    seen: Option<(PathBuf, Meta)>,
    whole: BTreeSet<PathBuf>,
    rest: Vec<u8>,
}

impl Lines {
    /// Whether one of the whole lines is this path.
    pub fn hold(&self, path: &Path) -> bool {
        self.whole.contains(path)
    }

    /// Whether the last line has no end, as a power cut leaves it.
    pub fn are_cut(&self) -> bool {
        !self.rest.is_empty()
    }

    fn go_on(&mut self, read: &Read, is_new: bool) {
        if is_new {
            (self.whole, self.rest) = Default::default();
        }
        self.rest.extend_from_slice(&read.content);
        let end = self.rest.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        let whole: Vec<_> = self.rest.drain(..end).collect();
        let lines = whole.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        self.whole.extend(lines.map(|line| PathBuf::from(String::from_utf8_lossy(line).into_owned())));
    }
}

impl Root {
    /// Asks something of the lines of a file; one that is missing has none. Of what was read before only what came
    /// after it is read: asked once for each of a thousand certificates, all of it would be read a thousand times.
    pub fn ask_lines<T>(
        &self,
        path: &Path,
        limit: usize,
        ask: impl FnOnce(&Lines) -> T,
    ) -> Result<T, RootError> {
        // What a thread that panicked left is read again.
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = lines.seen.take().filter(|(of, _)| of == path).map(|(_, seen)| seen);
        match read_on(self.resolve(path, TO_READ), self.shown(path), limit, seen.as_ref())? {
            Some((read, from)) => {
                // It may have grown while it was read.
                let meta = Meta { size: from + read.content.len() as u64, ..read.meta };
                lines.go_on(&read, from == 0);
                lines.seen = Some((path.to_owned(), meta));
            }
            None => *lines = Lines::default(),
        }
        Ok(ask(&lines))
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test plants files")]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;

    #[test]
    fn lines_are_those_of_the_file_whatever_became_of_it_since() {
        let temp = tempfile::TempDir::new().unwrap();
        let (root, file) = (Root::open(temp.path()).unwrap(), temp.path().join("record"));
        let ask = |path: &str| {
            let held = |lines: &Lines| (lines.hold(Path::new(path)), lines.are_cut());
            root.ask_lines(Path::new("/record"), 100, held).unwrap()
        };
        let append = |text: &str| {
            let mut options = fs::OpenOptions::new();
            options.append(true).create(true).open(&file).unwrap().write_all(text.as_bytes()).unwrap();
        };
        assert_eq!(ask("/a"), (false, false), "missing");
        append("/a\n/half");
        assert_eq!((ask("/a"), ask("/half")), ((true, true), (false, true)));
        append("way\n");
        assert_eq!(
            (ask("/a"), ask("/halfway"), ask("/half")),
            ((true, false), (true, false), (false, false))
        );
        fs::write(&file, "/b\n").unwrap();
        assert_eq!((ask("/a"), ask("/b")), ((false, false), (true, false)), "shorter");
        fs::write(temp.path().join("other"), "/c\n/d\n").unwrap();
        fs::rename(temp.path().join("other"), &file).unwrap();
        assert_eq!((ask("/b"), ask("/d")), ((false, false), (true, false)), "another file");
        append(&"x".repeat(100));
        let large = root.ask_lines(Path::new("/record"), 100, Lines::are_cut);
        assert!(matches!(large, Err(RootError::TooLarge { .. })));
        fs::remove_file(&file).unwrap();
        assert_eq!(ask("/d"), (false, false), "gone");
    }
}
