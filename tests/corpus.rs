//! What the fuzzers of `tests/fuzz` found or began with is read again in every `cargo test`.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test reads files and fails aloud"
)]

#[path = "fuzz/src/lib.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 8] = [
    ("cfssl", targets::cfssl),
    ("configuration", targets::configuration),
    ("der", targets::der),
    ("held", targets::held),
    ("host", targets::host),
    ("puppet", targets::puppet),
    ("template", targets::template),
    ("vault", targets::vault),
];

#[test]
fn every_file_of_the_corpus_is_read_without_a_finding() {
    let mut findings = Vec::new();
    for (name, target) in TARGETS {
        let files = listed(&Path::new("tests/fuzz/corpus").join(name));
        assert!(files.len() >= 3, "{name}: {} files", files.len());
        for file in files {
            let bytes = fs::read(&file).unwrap();
            if catch_unwind(|| target(&bytes)).is_err() {
                findings.push(file);
            }
        }
    }
    assert_eq!(findings, Vec::<PathBuf>::new(), "each is shown above");
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let known: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    for directory in ["tests/fuzz/corpus", "tests/fuzz/fuzz_targets"] {
        let there = listed(Path::new(directory));
        let there: BTreeSet<_> =
            there.iter().map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
        assert_eq!(there, known, "{directory}");
    }
}

fn listed(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}
