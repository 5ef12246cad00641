//! The manual: a page for the program, one for each command, and nodecert.toml(5), made of the command line and
//! of the reference `packaging/config.toml`, which stands in the program as it is.

use std::io;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

const REFERENCE: &str = include_str!("../packaging/config.toml");
const EXIT_CODES: [(&str, &str); 6] = [
    ("0", "Done, whether anything was changed or not."),
    ("77", "Refused: the CA said no, or its answer failed verification."),
    (
        "75",
        "Temporary: the CA cannot be reached, the clock is wrong, a user or a secret is not there yet. Run again.",
    ),
    (
        "70",
        "A fault of the host: disk full, read-only, a file in the way, a secret that others can read, a hook that failed.",
    ),
    ("78", "The configuration must be changed; its faults are listed with file, line and column."),
    ("2", "Usage."),
];
/// What commands answer that are asked a question.
const ANSWERS: [(&str, &str, &str); 3] = [
    ("nodecert-plan", "--exit-code", "0 nothing to do, 3 something."),
    ("nodecert-status", "--usable", "0 the consumer may start, 1 it may not."),
    ("nodecert-status", "--check", "As Nagios plugins: 0 fine, 1 due or owed, 2 not usable, 3 not known."),
];
const FILES: [(&str, &str); 4] = [
    ("/etc/nodecert/config.toml", "The configuration, nodecert.toml(5)."),
    ("/etc/nodecert/config.d/*.toml", "Drop-ins; in /usr/lib/nodecert and /run/nodecert too."),
    ("/var/lib/nodecert", "State: pending requests, known CA certificates, secrets, the embedded CA."),
    ("DIRECTORY/.nodecert", "The certificates and keys themselves, beside the names their consumers read."),
];

/// One page of the manual.
#[derive(Debug)]
pub struct Page {
    /// What it is asked for by: `nodecert`, `nodecert-run` …, `nodecert.toml`.
    pub name: String,
    /// The section of the manual it belongs to.
    pub section: &'static str,
    /// man(7) source.
    pub text: Vec<u8>,
}

/// The whole manual, first what man(1) shows for the program's own name.
pub fn pages(command: Command) -> io::Result<Vec<Page>> {
    let mut program = command.disable_help_subcommand(true);
    program.build();
    let commands: Vec<_> = program.get_subcommands().cloned().collect();
    let mut pages = vec![page(program)?];
    for command in commands {
        pages.push(page(command)?);
    }
    let mut text = title("nodecert.toml", "5").into_bytes();
    reference().to_writer(&mut text)?;
    pages.push(Page { name: "nodecert.toml".to_owned(), section: "5", text });
    Ok(pages)
}

/// The program or one of its commands.
fn page(command: Command) -> io::Result<Page> {
    let name = command.get_display_name().unwrap_or("nodecert").to_owned();
    let is_whole = command.has_subcommands();
    let mut text = title(&name, "1").into_bytes();
    let man = Man::new(command);
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if is_whole {
        man.render_subcommands_section(&mut text)?;
    }
    rest(&name, is_whole).to_writer(&mut text)?;
    Ok(Page { name, section: "1", text })
}

/// What clap does not know of.
fn rest(name: &str, is_whole: bool) -> Roff {
    let mut text = Roff::new();
    let answers = ANSWERS.iter().filter(|(of, ..)| *of == name).map(|(_, option, said)| (*option, *said));
    list(&mut text, "EXIT STATUS", &answers.chain(EXIT_CODES).collect::<Vec<_>>());
    if is_whole {
        list(&mut text, "FILES", &FILES);
    }
    text.control("SH", ["SEE ALSO"]);
    text.text([roman(if is_whole {
        "nodecert.toml(5), systemd.timer(5)"
    } else {
        "nodecert(1), nodecert.toml(5)"
    })]);
    text
}

fn list(text: &mut Roff, heading: &str, items: &[(&str, &str)]) {
    text.control("SH", [heading]);
    for (tag, said) in items {
        text.control("TP", []).text([bold(*tag)]).text([roman(*said)]);
    }
}

/// man(7), TH; without a date, since the version says more. The crate cannot write an empty argument.
fn title(name: &str, section: &str) -> String {
    format!(".TH {name} {section} \"\" \"nodecert {}\" \"nodecert manual\"\n", env!("CARGO_PKG_VERSION"))
}

/// The reference as a page: a section for each table; its keys with what is said of them.
fn reference() -> Roff {
    let mut text = Roff::new();
    text.control("SH", ["NAME"]).text([roman("nodecert.toml - configuration of nodecert")]);
    text.control("SH", ["DESCRIPTION"]);
    let (mut said, mut keys, mut fresh) = (Vec::new(), Vec::new(), true);
    // The first two lines are the title; a blank one at the end closes the last entry.
    for line in REFERENCE.lines().skip(2).chain([""]) {
        match Line::of(line) {
            Line::Key(key) => keys.push(key),
            _ if !keys.is_empty() => entry(&mut text, &mut fresh, &mut keys, &mut said),
            _ => {}
        }
        match Line::of(line) {
            Line::Said(words) => said.push(words),
            Line::Table(table) => {
                text.control("SH", [table]);
                fresh = true;
                prose(&mut text, &mut fresh, &mut said);
            }
            Line::Blank => prose(&mut text, &mut fresh, &mut said),
            Line::Key(_) => {}
        }
    }
    text.control("SH", ["SEE ALSO"]).text([roman("nodecert(1)")]);
    text
}

/// One line of the reference.
enum Line<'a> {
    Blank,
    Table(&'a str),
    /// A mark, one blank, words.
    Said(&'a str),
    /// A key with an example, also one that can be uncommented.
    Key(&'a str),
}

impl<'a> Line<'a> {
    fn of(line: &'a str) -> Self {
        let inner = line.trim_start();
        match inner.strip_prefix("# ") {
            _ if inner.is_empty() || inner == "#" => Self::Blank,
            Some(words) if !words.starts_with(' ') => Self::Said(words),
            // An entry of a list is indented or has a mark, a table has neither.
            _ if line.starts_with('[') => Self::Table(line),
            _ => Self::Key(line),
        }
    }
}

fn prose(text: &mut Roff, fresh: &mut bool, said: &mut Vec<&str>) {
    if !said.is_empty() {
        paragraph(text, fresh);
        text.text([roman(said.join(" "))]);
        said.clear();
    }
}

/// Some keys, as they stand, and what is said above them.
fn entry(text: &mut Roff, fresh: &mut bool, keys: &mut Vec<&str>, said: &mut Vec<&str>) {
    paragraph(text, fresh);
    text.control("nf", []);
    for key in keys.drain(..) {
        text.text([bold(key)]);
    }
    text.control("fi", []);
    if !said.is_empty() {
        text.control("RS", ["4"]).text([roman(said.join(" "))]).control("RE", []);
        said.clear();
    }
}

/// Below a heading one has begun already.
fn paragraph(text: &mut Roff, fresh: &mut bool) {
    if !std::mem::take(fresh) {
        text.control("PP", []);
    }
}
