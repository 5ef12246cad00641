//! Holds the house to its plan: every room is on the map in `src/lib.rs`, arrows go down the map only, and
//! what touches the world stands in the rooms that may.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What gives I/O away in a source, and the rooms that may do it.
const DEEDS: [(&str, &[&str], &[&str]); 6] = [
    ("files", &["std::fs", "nix::fcntl", "nix::dir", "OpenOptions"], &["root", "disk", "facts"]),
    ("network", &["reqwest", "TcpStream", "UdpSocket", "rustls::Client"], &["https", "ca", "quorum"]),
    ("processes", &["process::Command", "Command::new"], &["hooks"]),
    ("signals", &["signal_hook", "tokio::signal"], &["stop"]),
    ("the clock", &["SystemTime::now"], &["clock"]),
    ("the environment", &["std::env"], &["disk", "main"]),
];

/// Rooms with names that say nothing.
const MEANINGLESS: [&str; 5] = ["util", "utils", "helper", "common", "manager"];

#[test]
fn the_map_lists_every_room_and_no_other() {
    let rooms: Vec<_> = rooms().into_keys().filter(|room| room != "lib" && room != "main").collect();
    let mut listed = map();
    listed.sort();
    assert_eq!(listed, rooms, "the table in src/lib.rs against the files in src");
    assert!(rooms.iter().all(|room| !MEANINGLESS.contains(&room.as_str())), "{rooms:?}");
}

#[test]
fn arrows_go_down_the_map_only() {
    let order = map();
    let place = |room: &str| order.iter().position(|other| other == room);
    let mut wrong = Vec::new();
    for (room, sources) in rooms() {
        let Some(own) = place(&room) else { continue };
        for other in uses(&sources) {
            if place(&other).is_some_and(|there| there < own) {
                wrong.push(format!("{room} uses {other}, which stands above it"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_touches_the_world_stands_in_the_rooms_that_may() {
    let mut wrong = Vec::new();
    for (room, sources) in rooms() {
        for (deed, words, allowed) in DEEDS {
            let found = words.iter().find(|word| sources.contains(**word));
            if let Some(word) = found.filter(|_| !allowed.contains(&room.as_str())) {
                wrong.push(format!("{room} touches {deed}: it names {word}; {allowed:?} may"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The rooms in the order of the table in `src/lib.rs`.
fn map() -> Vec<String> {
    let lib = std::fs::read_to_string(source("lib.rs")).expect("src/lib.rs");
    let rows = lib.lines().filter_map(|line| line.strip_prefix("//! | [`"));
    rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned())).collect()
}

/// Every room with its sources, tests left out.
fn rooms() -> BTreeMap<String, String> {
    let mut rooms: BTreeMap<String, String> = BTreeMap::new();
    for path in files(&source("")) {
        let inner = path.strip_prefix(source("")).expect("below src");
        let room = inner.iter().next().expect("a name").to_string_lossy().trim_end_matches(".rs").to_owned();
        if inner.with_extension("").iter().any(|part| part == "tests") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("source");
        let code = without_tests(&text);
        rooms.entry(room).or_default().push_str(code);
    }
    rooms
}

/// A source without the tests at its end; `mod tests;` alone cuts nothing off.
fn without_tests(text: &str) -> &str {
    let mut from = 0;
    while let Some(found) = text[from..].find("#[cfg(test)]") {
        let module = text[from + found..].lines().find(|line| !line.starts_with("#["));
        if module.is_some_and(|line| line.starts_with("mod ") && line.ends_with('{')) {
            return &text[..from + found];
        }
        from += found + 1;
    }
    text
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("src").map(|entry| entry.expect("entry").path());
    let (directories, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    directories.iter().flat_map(|directory| self::files(directory)).chain(files).collect()
}

/// The rooms that a source names as `crate::ROOM` or in `use crate::{ROOM, …}`.
fn uses(source: &str) -> Vec<String> {
    let code =
        source.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut rooms = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let listed = rest.strip_prefix('{').and_then(|list| list.split_once('}')).map(|(list, _)| list);
        let names = listed.unwrap_or(rest).split(if listed.is_some() { ',' } else { ';' });
        let word = |name: &str| {
            name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
        };
        rooms.extend(names.take(if listed.is_some() { usize::MAX } else { 1 }).map(word));
    }
    rooms
}

fn source(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file)
}
