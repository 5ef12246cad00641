//! The manual, as `nodecert man` prints and writes it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, reason = "a test fails aloud")]

use std::process::Output;

use assert_cmd::Command;
use clap::CommandFactory;
use nodecert::cli::Cli;

fn nodecert(arguments: &[&str]) -> Output {
    Command::cargo_bin("nodecert").unwrap().args(arguments).output().unwrap()
}

fn page(name: &str) -> String {
    let output = nodecert(&["man", name]);
    assert!(output.status.success(), "{name}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a reader sees of man(7) source: its escapes undone.
fn read(source: &str) -> String {
    let undone = source.replace("\\fB", "").replace("\\fR", "").replace("\\fI", "").replace("\\*(Aq", "'");
    undone.replace("\\&", "").replace("\\-", "-").replace("\\\\", "\\")
}

#[test]
fn every_command_has_a_page_that_the_first_one_names() {
    let first = read(&page("nodecert"));
    for command in Cli::command().get_subcommands() {
        let name = format!("nodecert-{}", command.get_name());
        assert!(first.contains(&format!("{name}(1)")), "nodecert(1) does not name {name}(1)");
        let page = read(&page(&name));
        assert!(page.starts_with(&format!(".TH {name} 1 ")), "{page}");
        for option in command.get_opts() {
            let long = option.get_long().unwrap();
            assert!(page.contains(&format!("--{long}")), "{name}(1) does not name --{long}");
        }
        let exit = page.split_once(".SH \"EXIT STATUS\"").unwrap_or_else(|| panic!("{name}(1): {page}")).1;
        for code in ["0", "77", "75", "70", "78", "2"] {
            assert!(
                exit.contains(&format!(".TP\n{code}\n")),
                "{name}(1) does not say what {code} means: {exit}"
            );
        }
    }
}

#[test]
fn the_page_of_the_configuration_holds_every_line_of_the_reference() {
    let page = read(&page("nodecert.toml"));
    let reference = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/config.toml"));
    let reference = reference.unwrap();
    let lines: Vec<_> = reference.lines().skip(2).filter(|line| !line.is_empty() && *line != "#").collect();
    assert!(lines.len() > 300, "{}", lines.len());
    for line in lines {
        let prose = line.trim_start().strip_prefix("# ").filter(|words| !words.starts_with(' '));
        let said = prose.unwrap_or(line);
        assert!(page.contains(said), "nodecert.toml(5) lacks: {said}");
    }
}

#[test]
fn all_pages_are_written_to_a_directory_under_the_names_that_man_looks_for() {
    let directory = tempfile::tempdir().unwrap();
    let output = nodecert(&["man", "--directory", directory.path().to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let missing = directory.path().join("missing");
    let output = nodecert(&["man", "--directory", missing.to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("cannot open directory {}", missing.display())), "{said}");
    assert!(!said.contains("root directory"), "{said}");
    let written = std::fs::read_to_string(directory.path().join("nodecert-run.1")).unwrap();
    assert_eq!(written, page("nodecert-run"));
    let written = std::fs::read_to_string(directory.path().join("nodecert.toml.5")).unwrap();
    assert_eq!(written, page("nodecert.toml"));
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        Cli::command().get_subcommands().count() + 2
    );
}

#[test]
fn a_page_that_is_not_there_is_a_matter_of_usage() {
    let output = nodecert(&["man", "nodecert-walk"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no page nodecert-walk") && said.contains("nodecert-run"), "{said}");
}
