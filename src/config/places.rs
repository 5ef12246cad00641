//! Where faults stand: the texts of a configuration, and its faults by file, line and column.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use crate::component::GONE;
use crate::setting::{self, Fault};

/// The most faults worth showing: after them the reader edits, not reads.
pub(super) const MAX_FAULTS: usize = 100;

/// One file of the configuration.
#[derive(Debug, Clone)]
pub struct Text {
    /// The path as its writer knows it.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
    /// Whether none but its owner can read it, so that it may hold secrets.
    pub private: bool,
}

/// Everything wrong with a configuration, where it stands and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(Vec<String>);

impl Faults {
    /// Faults that stand in no text.
    pub fn plain(messages: Vec<String>) -> Self {
        Self(messages)
    }

    /// One line each: `file:line:column: what and what to do`.
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Faults {}

/// The texts, joined in thought: each begins where the one before it ends.
#[derive(Debug)]
pub(super) struct Sources(pub(super) Vec<Text>);

impl Sources {
    /// Blanks in front of each text make the places within it those of the joined one.
    pub(super) fn padded(&self) -> Vec<String> {
        let mut offset = 0;
        let mut pad = |source: &Text| {
            let padded = " ".repeat(offset) + &source.text;
            offset += source.text.len() + 1;
            padded
        };
        self.0.iter().map(&mut pad).collect()
    }

    /// The text that a place of the joined one lies in, and the place within it.
    pub(super) fn holding(&self, span: &Range<usize>) -> Option<(&Text, usize)> {
        let mut offset = span.start;
        for source in &self.0 {
            if offset <= source.text.len() {
                return Some((source, offset));
            }
            offset -= source.text.len() + 1;
        }
        None
    }

    pub(super) fn locate(&self, mut faults: Vec<Fault>) -> Faults {
        faults.sort_by_key(|fault| fault.span.as_ref().map_or(usize::MAX, |span| span.start));
        faults.dedup();
        let lines = faults.iter().take(MAX_FAULTS);
        Faults(
            lines
                .map(|fault| {
                    format!("{}{}{}", self.place(fault), one_line(&fault.message), meant(&fault.message))
                })
                .collect(),
        )
    }

    /// What is no TOML comes first, and alone in its text: what else is wrong there seems so because of it.
    pub(super) fn locate_after(&self, unread: Vec<Fault>, mut faults: Vec<Fault>) -> Faults {
        let path = |fault: &Fault| Some(self.holding(fault.span.as_ref()?)?.0.path.as_path());
        let broken: Vec<_> = unread.iter().map(path).collect();
        faults.retain(|fault| path(fault).is_none() || !broken.contains(&path(fault)));
        let found = [self.locate(unread), self.locate(faults)];
        Faults(found.into_iter().flat_map(|faults| faults.0).take(MAX_FAULTS).collect())
    }

    /// Where all keys stand, of the tables that these texts are merged to.
    pub(super) fn places(&self, merged: &DeTable<'_>) -> Places {
        let (mut lines, mut begin) = (Vec::new(), 0);
        for source in &self.0 {
            lines.push(begin);
            lines.extend(source.text.match_indices('\n').map(|(at, _)| begin + at + 1));
            begin += source.text.len() + 1;
        }
        Places { keys: keys(merged), lines }
    }

    /// Where a setting stands, as `FILE:LINE`.
    pub(super) fn line(&self, places: &Places, way: &[&str]) -> Option<String> {
        let at = find(&places.keys, way)?;
        let (source, offset) = self.holding(&(at..at))?;
        let until = |place| places.lines.partition_point(|begin| *begin <= place);
        Some(format!("{}:{}", source.path.display(), until(at) - until(at - offset) + 1))
    }

    fn place(&self, fault: &Fault) -> String {
        let Some((source, offset)) = fault.span.as_ref().and_then(|span| self.holding(span)) else {
            return String::new();
        };
        let before = source.text.get(..offset).unwrap_or(&source.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        format!("{}:{line}:{column}: ", source.path.display())
    }
}

/// Where all keys stand: who has one failure to explain may have thousands, and reads the texts again but once.
#[derive(Debug)]
pub(super) struct Places {
    keys: Keys,
    /// Where each line begins.
    lines: Vec<usize>,
}

/// Where each key begins, and the keys below it.
type Keys = BTreeMap<String, Key>;

#[derive(Debug)]
struct Key {
    at: usize,
    below: Keys,
}

fn keys(table: &DeTable<'_>) -> Keys {
    let key = |value: &DeValue<'_>, at| match value {
        DeValue::Table(inner) => Key { at, below: keys(inner) },
        _ => Key { at, below: Keys::new() },
    };
    let all = table.iter();
    all.map(|(name, value)| (name.get_ref().to_string(), key(value.get_ref(), name.span().start))).collect()
}

fn find(keys: &Keys, way: &[&str]) -> Option<usize> {
    let (first, rest) = way.split_first()?;
    let key = keys.get(*first)?;
    if rest.is_empty() { Some(key.at) } else { find(&key.below, rest) }
}

/// What an unknown key was likely meant to be, of those that serde says were expected.
fn meant(message: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    let Some(unknown) = names.next().filter(|_| message.starts_with("unknown ")) else {
        return String::new();
    };
    let there: Vec<_> = names.collect();
    if let Some((_, _, advice)) = GONE.iter().find(|(key, by, _)| *key == unknown && there.contains(by)) {
        return (*advice).to_owned();
    }
    let near = there.into_iter().map(|name| (distance(unknown, name), name)).min();
    match near.filter(|(apart, name)| *apart <= 2 && *apart < name.len().min(unknown.len())) {
        Some((_, name)) => format!("; did you mean `{name}`?"),
        None => String::new(),
    }
}

/// How many letters have to be put in, taken out or exchanged (Wagner and Fischer, 1974).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (above, a) in one.bytes().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], above + 1);
        for (at, b) in other.bytes().enumerate() {
            let changed = corner + usize::from(a != b);
            corner = row[at + 1];
            row[at + 1] = changed.min(corner + 1).min(row[at] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

fn one_line(message: &str) -> String {
    let lines = message.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>();
    let shown = |c| if setting::is_shown(c) { c } else { char::REPLACEMENT_CHARACTER };
    lines.join("; ").chars().map(shown).collect()
}
