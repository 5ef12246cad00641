//! Golden cases: a folder each, run twice. The first run must leave exactly what `expected.txt` lists; the
//! second must change nothing, ask no one, and say so.
//!
//! `root/` is copied to where the case runs; `case.toml` says how it is run and what it must say.
//! With `NODECERT_BLESS=1` the listings are written anew: read their diff before committing it.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod golden {
    pub(crate) mod comparison;
    pub(crate) mod listing;
}

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde::Deserialize;

/// `case.toml`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// Arguments after `--root DIR`.
    #[serde(default = "run")]
    args: Vec<String>,
    /// The exit code of the first run.
    #[serde(default)]
    exit: i32,
    /// What the first run must say, on either stream.
    #[serde(default)]
    says: Vec<String>,
    /// What the second run must say; by default that there was nothing to do.
    #[serde(default = "nothing")]
    again: Vec<String>,
}

fn run() -> Vec<String> {
    vec!["run".to_owned()]
}

fn nothing() -> Vec<String> {
    vec!["nothing to do".to_owned()]
}

#[test]
fn every_case_gives_what_it_lists_and_a_second_run_changes_nothing() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut folders: Vec<_> =
        std::fs::read_dir(cases).expect("cases").map(|e| e.expect("entry").path()).collect();
    folders.sort();
    assert!(!folders.is_empty(), "there is no golden case");
    let wrong: Vec<_> = folders.iter().filter_map(|folder| check(folder).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

fn check(folder: &Path) -> Result<(), String> {
    let name = folder.file_name().expect("name").to_string_lossy().into_owned();
    let text =
        std::fs::read_to_string(folder.join("case.toml")).map_err(|e| format!("{name}: case.toml: {e}"))?;
    let case: Case = toml::from_str(&text).map_err(|e| format!("{name}: {e}"))?;
    let scratch = tempfile::tempdir().expect("a directory");
    let root = copy(&folder.join("root"), scratch.path());

    let first = nodecert(&root, &case.args);
    expect(&name, "first run", &first, case.exit, &case.says)?;
    let left = golden::listing::of(&root);
    golden::comparison::compare(&folder.join("expected.txt"), &name, &left)?;

    let second = nodecert(&root, &case.args);
    expect(&name, "second run", &second, case.exit, &case.again)?;
    let after = golden::listing::of(&root);
    if after != left {
        return Err(format!(
            "{name}: the second run changed something:\n{}",
            golden::comparison::difference(&left, &after)
        ));
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> PathBuf {
    let root = to.join("root");
    std::fs::create_dir(&root).expect("root");
    let status = Command::new("cp").arg("-a").arg(from.join(".")).arg(&root).status().expect("cp");
    assert!(status.success(), "cannot copy {}", from.display());
    // git keeps no modes: whatever the checkout's umask made of them, a case begins with these.
    let status = Command::new("chmod").arg("-R").arg("u=rwX,go=rX").arg(&root).status().expect("chmod");
    assert!(status.success());
    root
}

fn nodecert(root: &Path, args: &[String]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodecert"));
    command.arg("--root").arg(root).args(args).env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM");
    command.output().expect("nodecert runs")
}

fn expect(name: &str, which: &str, output: &Output, exit: i32, says: &[String]) -> Result<(), String> {
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.code() != Some(exit) {
        return Err(format!("{name}, {which}: exit {:?}, not {exit}:\n{said}", output.status.code()));
    }
    match says.iter().find(|phrase| !said.contains(phrase.as_str())) {
        Some(phrase) => Err(format!("{name}, {which} does not say {phrase:?}:\n{said}")),
        None => Ok(()),
    }
}
