//! `packaging/config.toml` is the complete reference: whatever the parser knows stands there, and
//! whatever stands there the parser takes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::path::Path;

use nodecert::config::{self, Config, Faults, Text};
use nodecert::facts::{self, Host, Sources};
use nodecert::node;
use toml::Value;

/// Where in the reference a table's keys stand (`*` is any name or entry), and a text that asks the parser
/// for them: it does not know the key `zz`, and answers with those that it knows.
const TABLES: [(&str, &str); 31] = [
    ("", "zz = 1"),
    ("node", "[node]\nzz = 1"),
    ("ca.*", "[ca.a]\nzz = 1"),
    ("ca.*.tls", "[ca.a.tls]\nzz = 1"),
    ("ca.*.anchors", "[ca.a.anchors]\nzz = 1"),
    ("ca.*.vault", "[ca.a.vault]\nzz = 1"),
    ("ca.*.vault.auth.*", "[[ca.a.vault.auth]]\nzz = 1"),
    ("ca.*.vault.auth.*.approle", "[[ca.a.vault.auth]]\napprole = { zz = 1 }"),
    ("ca.*.vault.auth.*.cert", "[[ca.a.vault.auth]]\ncert = { zz = 1 }"),
    ("ca.*.vault.auth.*.jwt", "[[ca.a.vault.auth]]\njwt = { zz = 1 }"),
    (
        "ca.*.vault.auth.*.*.secret_id|ca.*.vault.auth.*.token|ca.*.vault.auth.*.jwt.jwt",
        "[[ca.a.vault.auth]]\ntoken = { zz = 1 }",
    ),
    ("ca.*.puppet", "[ca.a.puppet]\nzz = 1"),
    ("ca.*.cfssl", "[ca.a.cfssl]\nzz = 1"),
    ("ca.*.local", "[ca.a.local]\nzz = 1"),
    ("etcd", "[etcd]\nzz = 1"),
    ("kubernetes", "[kubernetes]\nzz = 1"),
    ("kube-apiserver", "[kube-apiserver]\nzz = 1"),
    ("kube-apiserver.tokens.*", "[kube-apiserver.tokens.a]\nzz = 1"),
    ("kube-apiserver.encryption", "[kube-apiserver.encryption]\nzz = 1"),
    ("kube-controller-manager", "[kube-controller-manager]\nzz = 1"),
    ("kube-scheduler", "[kube-scheduler]\nzz = 1"),
    ("kubelet", "[kubelet]\nzz = 1"),
    ("kube-proxy", "[kube-proxy]\nzz = 1"),
    ("admin", "[admin]\nzz = 1"),
    ("service-account", "[service-account]\nzz = 1"),
    ("etcd-client.*", "[etcd-client.a]\nzz = 1"),
    ("certificate.*", "[certificate.a]\nzz = 1"),
    ("certificate.*.files", "[certificate.a.files]\nzz = 1"),
    ("certificate.*.mode", "[certificate.a.mode]\nzz = 1"),
    ("certificate.*.hooks.*", "[[certificate.a.hooks]]\nzz = 1"),
    ("file.*", "[file.a]\nzz = 1"),
];

/// The same for keys that take one of a few words: each is to be named in the reference, in quotes.
const WORDS: [&str; 10] = [
    "[ca.a.vault]\nendpoint = \"zz\"",
    "[etcd]\nformat = \"zz\"",
    "[etcd]\nstate = \"zz\"",
    "[kube-apiserver]\nformat = \"zz\"",
    "[kube-apiserver.encryption]\nprovider = \"zz\"",
    "[etcd-client.a]\nvariables = \"zz\"",
    "[certificate.a]\nusages = [\"zz\"]",
    "[certificate.a]\nkey = \"zz\"",
    "[certificate.a]\nlayout = \"zz\"",
    "[[certificate.a.hooks]]\non = [\"zz\"]",
];

#[test]
fn every_key_that_the_parser_knows_stands_in_its_table() {
    let reference = uncommented().parse::<toml::Table>().expect("TOML");
    let reference = Value::Table(reference);
    for (places, question) in TABLES {
        let there: BTreeSet<_> = places.split('|').flat_map(|place| keys(&reference, place)).collect();
        let missing: Vec<_> = expected(question).into_iter().filter(|key| !there.contains(key)).collect();
        assert!(missing.is_empty(), "packaging/config.toml lacks {missing:?} at {places:?}");
    }
}

#[test]
fn every_word_that_a_key_can_take_is_named() {
    for question in WORDS {
        for word in expected(question) {
            assert!(
                shipped().contains(&format!("\"{word}\"")),
                "packaging/config.toml does not name {word:?}, which answers {question:?}"
            );
        }
    }
}

#[test]
fn as_shipped_it_parses() {
    parse(shipped()).unwrap_or_else(|faults| panic!("{faults}"));
}

#[test]
fn with_every_example_uncommented_it_parses_and_expands() {
    let config = parse(uncommented()).unwrap_or_else(|faults| panic!("{faults}"));
    let facts = facts::gather(&config.node, &Host::default(), &Sources::default()).expect("facts of [node]");
    node::expand(&config, &facts, &BTreeSet::new()).unwrap_or_else(|faults| panic!("{faults}"));
}

#[test]
fn the_other_examples_parse() {
    let packaging = packaging();
    let examples = std::fs::read_dir(packaging.join("examples")).expect("examples");
    // Those for cloud-init are user-data; tests/boot.rs boots them.
    let examples = examples.map(|entry| entry.expect("entry").path()).filter(|path| path.is_file());
    for path in examples.chain([packaging.join("demo.toml")]) {
        let text = std::fs::read_to_string(&path).expect("text");
        parse(text).unwrap_or_else(|faults| panic!("{}: {faults}", path.display()));
    }
}

#[test]
fn the_timer_as_shipped_runs_as_often_as_the_rules_of_renewal_take_for_granted() {
    let timer = packaging().join("../systemd/nodecert-renew.timer");
    let timer = std::fs::read_to_string(timer).expect("the timer");
    assert_eq!(nodecert::certificate::INTERVAL.as_secs(), 3_600);
    // With a fixed delay of at most as much, one run comes that long after the other.
    for line in ["OnCalendar=hourly", "RandomizedDelaySec=1h", "FixedRandomDelay=yes"] {
        assert!(timer.lines().any(|there| there == line), "{line}");
    }
    assert!(shipped().contains("#interval = \"1h\""));
}

fn packaging() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging"))
}

fn shipped() -> String {
    std::fs::read_to_string(packaging().join("config.toml")).expect("packaging/config.toml")
}

/// Prose is "# words"; what can be uncommented has no blank after its mark, or two in a list.
fn uncommented() -> String {
    let uncomment = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with("  ") || rest.starts_with(|c: char| c.is_ascii_lowercase()) => {
            rest.to_owned()
        }
        _ => line.to_owned(),
    };
    shipped().lines().map(uncomment).collect::<Vec<_>>().join("\n")
}

fn parse(text: String) -> Result<Config, Faults> {
    config::parse(vec![Text { path: "reference".into(), text, private: false }])
}

/// What the parser would have taken instead: the words in backticks after "expected".
fn expected(question: &str) -> Vec<String> {
    let faults = parse(question.to_owned()).expect_err("zz is unknown");
    let fault = faults.lines().iter().find(|fault| fault.contains("`zz`"));
    let fault = fault.unwrap_or_else(|| panic!("no word of zz for {question:?}: {faults}"));
    let (_, known) = fault.split_once("expected").expect("a list of what is known");
    let words: Vec<_> = known.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    assert!(!words.is_empty(), "{fault}");
    words
}

/// The keys of every table at a place.
fn keys(value: &Value, place: &str) -> BTreeSet<String> {
    let (step, rest) = place.split_once('.').unwrap_or((place, ""));
    let below: Vec<&Value> = match (step, value) {
        ("", Value::Table(table)) => return table.keys().cloned().collect(),
        ("*", Value::Table(table)) => table.values().collect(),
        ("*", Value::Array(array)) => array.iter().collect(),
        (name, Value::Table(table)) => table.get(name).into_iter().collect(),
        _ => Vec::new(),
    };
    below.into_iter().flat_map(|value| keys(value, rest)).collect()
}
