//! Where faults stand: the texts of a configuration, and its faults by file, line and column.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use super::merge;
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
        let padded = self.padded();
        let tables = merge(&padded, &mut Vec::new());
        let way = |fault: &Fault| fault.span.as_ref().and_then(|span| way(&tables, span.start));
        let ways: Vec<_> = faults.iter().map(|fault| way(fault).unwrap_or_default()).collect();
        let follow = followers(&faults, &ways);
        let lines = faults.iter().zip(&ways).enumerate().filter(|(at, _)| !follow.contains(at));
        let line = |(fault, way): (&Fault, &Way)| {
            let message = one_line(&fault.message);
            let setting = if way.is_value { format!(" ({})", way.keys.join(".")) } else { String::new() };
            format!("{}{message}{setting}{}", self.place(fault), meant(&fault.message))
        };
        Faults(lines.take(MAX_FAULTS).map(|(_, found)| line(found)).collect())
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

/// The keys on the way to a place, and whether it lies in a value: a key or a heading names itself.
#[derive(Default)]
struct Way {
    keys: Vec<String>,
    is_value: bool,
}

fn way(table: &DeTable<'_>, at: usize) -> Option<Way> {
    table.iter().find_map(|(key, value)| {
        let here = || match key.span().contains(&at) {
            true => Some(Way::default()),
            false => value.span().contains(&at).then(|| Way { keys: Vec::new(), is_value: true }),
        };
        let found = match value.get_ref() {
            DeValue::Table(inner) => way(inner, at),
            _ => here(),
        };
        let mut found = found.or_else(|| key.span().contains(&at).then(Way::default))?;
        found.keys.insert(0, key.get_ref().to_string());
        Some(found)
    })
}

/// Those of the faults, in their order, that only say that a key is missing which stands below, misspelt or with a
/// value that is wrong.
fn followers(faults: &[Fault], ways: &[Way]) -> Vec<usize> {
    let follower = |(at, way): (usize, &Way)| {
        let wrong = way.keys.iter().skip(1).filter(|_| way.is_value).map(String::as_str);
        let ca = way.keys.get(1).map_or("", String::as_str);
        let said = |key| {
            [format!("missing field `{key}`"), format!("CA {ca} has no {key};"), format!("{key} needs ")]
        };
        let said: Vec<_> = wrong.chain(near(&faults[at].message)).flat_map(said).collect();
        let last =
            move |said: String| faults[..at].iter().rposition(|fault| fault.message.starts_with(&said));
        said.into_iter().filter_map(last)
    };
    ways.iter().enumerate().flat_map(follower).collect()
}

/// What an unknown key was likely meant to be, of those that serde says were expected.
fn meant(message: &str) -> String {
    let Some((unknown, there)) = unknown(message) else { return String::new() };
    if let Some((_, _, advice)) = GONE.iter().find(|(key, by, _)| *key == unknown && there.contains(by)) {
        return (*advice).to_owned();
    }
    near(message).map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

/// The nearest of what is there, if it is near.
fn near(message: &str) -> Option<&str> {
    let (unknown, there) = unknown(message)?;
    let near = there.into_iter().map(|name| (distance(unknown, name), name)).min();
    let near = near.filter(|(apart, name)| *apart <= 2 && *apart < name.len().min(unknown.len()));
    near.map(|(_, name)| name)
}

/// The unknown name and those that serde says were expected.
fn unknown(message: &str) -> Option<(&str, Vec<&str>)> {
    let mut names = message.split('`').skip(1).step_by(2);
    Some((names.next().filter(|_| message.starts_with("unknown "))?, names.collect()))
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
