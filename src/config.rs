//! TOML texts to [`Config`]: drop-ins merged, every fault in one go, each with its file, line and column.

mod places;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IntoDeserializer};
use toml::de::{DeTable, DeValue};

use crate::setting::{At, Fault, Name, SecretSource};
use crate::{ca, certificate, component, facts, file, setting};

pub use places::{Faults, Text};
use places::{MAX_FAULTS, Places, Sources};

/// The file that is read first.
pub const MAIN: &str = "/etc/nodecert/config.toml";
/// The directories of drop-ins; a name in an earlier one masks the same name in the later ones, as
/// systemd.unit(5) has it.
pub const DROP_INS: [&str; 3] =
    ["/etc/nodecert/config.d", "/run/nodecert/config.d", "/usr/lib/nodecert/config.d"];

/// The whole configuration, each table read by the room that owns it.
#[derive(Debug)]
pub struct Config {
    /// `[node]`
    pub node: facts::Settings,
    /// `[ca.NAME]`
    pub cas: BTreeMap<Name, ca::Settings>,
    /// `[etcd]`, `[kubelet]` …
    pub components: component::Settings,
    /// `[certificate.NAME]`
    pub certificates: BTreeMap<Name, At<certificate::Settings>>,
    /// `[file.NAME]`
    pub files: BTreeMap<Name, At<file::Settings>>,
    sources: Sources,
    /// Made when the first place is asked for.
    places: OnceLock<Places>,
}

/// The tables that are not a component's.
const TABLES: [&str; 4] = ["node", "ca", "certificate", "file"];

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Tables {
    node: facts::Settings,
    ca: BTreeMap<Name, At<ca::Table>>,
    certificate: BTreeMap<Name, At<certificate::Settings>>,
    file: BTreeMap<Name, At<file::Settings>>,
}

/// The drop-ins to read, in the order of their file names whatever directory they are in. `listed` goes
/// from the directory that masks to those that are masked.
pub fn order<'a>(listed: impl IntoIterator<Item = (&'a str, Vec<String>)>) -> Vec<PathBuf> {
    let mut chosen: BTreeMap<String, PathBuf> = BTreeMap::new();
    for (directory, names) in listed {
        for name in names.into_iter().filter(|name| name.ends_with(".toml")) {
            let path = Path::new(directory).join(&name);
            chosen.entry(name).or_insert(path);
        }
    }
    chosen.into_values().collect()
}

/// Reads texts in their order: tables merge, scalars and arrays replace.
pub fn parse(texts: Vec<Text>) -> Result<Config, Faults> {
    let sources = Sources(texts);
    let (mut unread, mut faults) = (Vec::new(), Vec::new());
    let padded = sources.padded();
    let merged = merge(&padded, &mut unread);
    let logins = logins(&merged);
    let (own, rest) = merged.into_iter().partition(|(key, _)| TABLES.contains(&key.get_ref().as_ref()));
    let tables: Tables = read(own, &mut faults);
    let mut rest: DeTable<'_> = rest;
    faults.extend(component::shared::share(&mut rest));
    let components: component::Settings = read(known(rest, &mut faults), &mut faults);
    let mut cas = BTreeMap::new();
    for (name, table) in tables.ca {
        let span = table.span();
        match table.into_inner().settings(&name, span) {
            Ok(settings) => drop(cas.insert(name, settings)),
            Err(found) => faults.extend(found),
        }
    }
    faults.extend(exposed_secrets(&cas, &logins, &sources));
    faults.extend(unknown_cas(
        &logins.keys().map(String::as_str).collect::<Vec<_>>(),
        &components,
        &tables.certificate,
    ));
    if !unread.is_empty() || !faults.is_empty() {
        return Err(sources.locate_after(unread, faults));
    }
    Ok(Config {
        node: tables.node,
        cas,
        components,
        certificates: tables.certificate,
        files: tables.file,
        sources,
        places: OnceLock::new(),
    })
}

impl Config {
    /// Says where faults stand that were found after the texts were read.
    pub fn locate(&self, faults: Vec<Fault>) -> Faults {
        self.sources.locate(faults)
    }

    /// Where the first of these settings stands that does, as `FILE:LINE, a.b.c`; each is the keys on the way to it. The
    /// texts are read again, once: only who reports a fault wants to know.
    pub fn place(&self, settings: &[Vec<&str>]) -> Option<String> {
        let read = || self.sources.places(&merge(&self.sources.padded(), &mut Vec::new()));
        let places = self.places.get_or_init(read);
        settings.iter().find_map(|way| {
            let line = self.sources.line(places, way)?;
            Some(format!("{line}, {}", way.join(".")))
        })
    }
}

fn merge<'i>(padded: &'i [String], faults: &mut Vec<Fault>) -> DeTable<'i> {
    let mut merged = DeTable::new();
    for text in padded {
        let (table, errors) = DeTable::parse_recoverable(text);
        faults.extend(errors.iter().map(|error| explained(fault_of(error), text)));
        overlay(&mut merged, table.into_inner());
    }
    merged
}

/// What is no TOML, with what was to stand there: its reader guesses what else the text could have become.
fn explained(mut fault: Fault, text: &str) -> Fault {
    let known = SYNTAX.iter().find(|(start, _)| fault.message.starts_with(start));
    let Some((_, hint)) = known else { return fault };
    let found = fault.span.clone().and_then(|span| text.get(span)).unwrap_or_default();
    fault.message += &hint.replace("NAME", found);
    fault
}

/// How messages of the reader begin, and what they mean.
const SYNTAX: [(&str, &str); 7] = [
    ("invalid float", QUOTES),
    ("invalid boolean", QUOTES),
    ("string values must be quoted", QUOTES),
    ("key with no value", "; a line is KEY = VALUE or [TABLE]"),
    ("duplicate key", ": `NAME` stands above already, in this file"),
    ("missing escaped value", "; between single quotes a backslash is only that"),
    ("too few unicode", "; between single quotes a backslash is only that"),
];
const QUOTES: &str = "; text stands in quotes, \"like this\"";

fn overlay<'i>(base: &mut DeTable<'i>, over: DeTable<'i>) {
    for (key, value) in over {
        match (base.get_mut(key.get_ref().as_ref()).map(At::get_mut), value.get_ref()) {
            (Some(DeValue::Table(below)), DeValue::Table(_)) => {
                if let DeValue::Table(above) = value.into_inner() {
                    overlay(below, above);
                }
            }
            _ => {
                base.remove(key.get_ref().as_ref());
                base.insert(key, value);
            }
        }
    }
}

/// Tables with other names than there are would be read by no one.
fn known<'i>(tables: DeTable<'i>, faults: &mut Vec<Fault>) -> DeTable<'i> {
    let names = component::Settings::names();
    let (known, unknown): (DeTable<'_>, DeTable<'_>) =
        tables.into_iter().partition(|(key, _)| names.contains(&key.get_ref().as_ref()));
    let there: Vec<_> = TABLES.iter().chain([&component::shared::TABLE]).chain(&names).copied().collect();
    faults.extend(unknown.keys().map(|key| setting::unknown(key, &there)));
    known
}

/// Reads the tables; an entry that cannot be read is struck and the rest read again, so that all faults
/// come at once.
fn read<T: DeserializeOwned + Default>(mut merged: DeTable<'_>, faults: &mut Vec<Fault>) -> T {
    for _ in 0..MAX_FAULTS {
        let error = match T::deserialize(At::new(0..0, merged.clone()).into_deserializer()) {
            Ok(tables) => return tables,
            Err(error) => error,
        };
        let fault = fault_of(&error);
        let struck = fault.span.clone().is_some_and(|span| strike(&mut merged, &span));
        faults.push(fault);
        if !struck {
            break;
        }
    }
    T::default()
}

/// Takes the innermost entry out whose key or value holds the span.
fn strike(table: &mut DeTable<'_>, span: &Range<usize>) -> bool {
    for (_, value) in table.iter_mut() {
        if let DeValue::Table(inner) = value.get_mut()
            && strike(inner, span)
        {
            return true;
        }
    }
    let within = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end;
    let found = table.iter().find(|(key, value)| within(key.span()) || within(value.span()));
    let key = found.map(|(key, _)| key.clone());
    key.is_some_and(|key| table.remove(&key).is_some())
}

fn fault_of(error: &toml::de::Error) -> Fault {
    let span = error.span().unwrap_or_default();
    let span = span.start..span.end.max(span.start + 1);
    Fault::at(span, without_literals(error.message()))
}

/// serde quotes the value it did not expect; a secret in the wrong place would stand in the journal.
fn without_literals(message: &str) -> String {
    let Some((kind, rest)) = message.split_once(": ").filter(|(kind, _)| kind.starts_with("invalid ")) else {
        return message.to_owned();
    };
    match rest.rsplit_once(", expected") {
        Some((found, expected)) => {
            let word = found.split(['"', '`']).next().unwrap_or_default().trim_end();
            format!("{kind}: {word}, expected{expected}")
        }
        None => message.to_owned(),
    }
}

/// Where each CA's secrets stand: every CA by name, struck ones too.
fn logins(merged: &DeTable<'_>) -> BTreeMap<String, Option<Range<usize>>> {
    let Some(DeValue::Table(cas)) = merged.get("ca").map(At::get_ref) else { return BTreeMap::new() };
    let auth = |ca: &DeValue<'_>| {
        let of = |kind: &str, key: &str| ca.get(kind)?.get_ref().get(key).map(At::span);
        of("vault", "auth").or_else(|| of("puppet", "attributes")).or_else(|| of("cfssl", "key"))
    };
    cas.iter().map(|(name, ca)| (name.get_ref().to_string(), auth(ca.get_ref()))).collect()
}

fn exposed_secrets(
    cas: &BTreeMap<Name, ca::Settings>,
    logins: &BTreeMap<String, Option<Range<usize>>>,
    sources: &Sources,
) -> Vec<Fault> {
    let literal =
        |ca: &ca::Settings| ca.private().iter().any(|source| matches!(source, SecretSource::Literal(_)));
    let literals =
        cas.iter().filter(|(_, ca)| literal(ca)).filter_map(|(name, _)| logins.get(name.as_str())?.clone());
    let exposed = literals.filter_map(|span| sources.holding(&span).map(|(text, _)| (span, text)));
    let message = |path: &Path| {
        format!(
            "a secret stands in a file that others can read: chmod 0600 {}, or use {{ file = … }}",
            path.display()
        )
    };
    exposed
        .filter(|(_, text)| !text.private)
        .map(|(span, text)| Fault::at(span, message(&text.path)))
        .collect()
}

fn unknown_cas(
    named: &[&str],
    components: &component::Settings,
    certificates: &BTreeMap<Name, At<certificate::Settings>>,
) -> Vec<Fault> {
    let components: Vec<_> = components.tables().collect();
    let components = components.iter().flat_map(|table| table.component.cas());
    let certificates = certificates.values().flat_map(|settings| settings.get_ref().cas());
    let unknown = components.chain(certificates).filter(|ca| !named.contains(&ca.get_ref().as_str()));
    let there = named.join(", ");
    let there = if there.is_empty() { "there is none".to_owned() } else { format!("there are {there}") };
    unknown
        .map(|ca| Fault::at(ca.span(), format!("no CA has the name {:?}: {there}", ca.get_ref().as_str())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setting::Template;

    const CA: &str = "[ca.lab.local]\n";

    fn text(path: &str, text: &str, private: bool) -> Text {
        Text { path: path.into(), text: text.to_owned(), private }
    }

    fn faults(texts: &[&str]) -> Vec<String> {
        let named = texts.iter().enumerate().map(|(n, body)| text(&format!("{n}.toml"), body, true));
        parse(named.collect()).err().map(|faults| faults.lines().to_vec()).unwrap_or_default()
    }

    #[test]
    fn a_name_in_etc_masks_the_same_name_elsewhere_and_the_order_is_that_of_names() {
        let names = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let listed = [
            ("/etc", names(&["50-b.toml", "notes.txt"])),
            ("/run", names(&["50-b.toml", "40-a.toml"])),
            ("/usr", names(&["40-a.toml", "60-c.toml"])),
        ];
        let paths: Vec<_> = order(listed).iter().map(|path| path.display().to_string()).collect();
        assert_eq!(paths, ["/run/40-a.toml", "/etc/50-b.toml", "/usr/60-c.toml"]);
    }

    #[test]
    fn tables_merge_and_scalars_and_arrays_replace() {
        let base = "[ca.lab.local]\nttl = \"1d\"\n[certificate.web]\nca = \"lab\"\ncommon_name = \"a\"\ndns = [\"a\", \"b\"]\n";
        let over = "[certificate.web]\ncommon_name = \"c\"\ndns = [\"d\"]\n";
        let config = parse(vec![text("a", base, true), text("b", over, true)]).expect("a configuration");
        let web = config.certificates.values().next().expect("web").get_ref();
        assert_eq!(web.common_name.as_ref().map(At::get_ref), Some(&Template::literal("c")));
        assert_eq!(web.dns.as_ref().map(|dns| dns.get_ref().len()), Some(1));
        assert_eq!(web.ca.as_ref().map(|ca| ca.get_ref().as_str()), Some("lab"));
    }

    #[test]
    fn a_fault_is_placed_in_the_file_it_stands_in() {
        let second = "[certificate.web]\nca = \"lab\"\n\nlayout = \"heap\"\n";
        let found = faults(&[CA, second]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("1.toml:4:10: unknown variant `heap`"), "{found:?}");
    }

    #[test]
    fn what_is_not_toml_is_placed_too_and_what_can_be_read_of_the_rest_is() {
        let found = faults(&[CA, "[certificate.web\nca = 3\n", "[node]\nhostnam = \"x\"\n"]);
        assert!(found.iter().any(|line| line.starts_with("1.toml:1:")), "{found:?}");
        assert!(
            found.iter().any(|line| line.starts_with("2.toml:2:1: unknown field `hostnam`")),
            "{found:?}"
        );
    }

    #[test]
    fn a_key_that_is_misspelt_or_wrong_is_one_fault_and_names_its_setting() {
        let ca = "[ca.a]\ntls.system = true\nanchors.published = true\n[ca.a.vault]\nurls = [\"https://v:8200\"]\nmount = \"pki\"\nrole = \"r\"\nauth = [{ token = { file = \"/t\" } }]\n";
        for (right, wrong, ends) in [
            ("urls = [\"https://v:8200\"]", "url = [\"https://v:8200\"]", "did you mean `urls`?"),
            (
                "urls = [\"https://v:8200\"]",
                "urls = \"https://v:8200\"",
                "expected a sequence (ca.a.vault.urls)",
            ),
            ("token", "tokn", "`jwt` (ca.a.vault.auth); did you mean `token`?"),
            ("auth", "atuh", "did you mean `auth`?"),
            ("tls", "tsl", "did you mean `tls`?"),
            ("anchors", "anchor", "did you mean `anchors`?"),
            ("tls.system = true", "tls.pins = [\"sha256:ab\"]", "64 hexadecimal digits (ca.a.tls.pins)"),
            ("role", "rol", "did you mean `role`?"),
        ] {
            let found = faults(&[&ca.replace(right, wrong)]);
            assert!(found.len() == 1 && found[0].ends_with(ends), "{wrong}: {found:?}");
        }
        for (text, ends) in [
            ("[etcd]\ncc = \"lab\"\ncluster = { node01 = \"10.0.0.1\" }\n", "did you mean `ca`?"),
            ("[etcd]\nca = 5\ncluster = { node01 = \"10.0.0.1\" }\n", "a string (etcd.ca)"),
            ("[file.x]\npth = \"/x\"\ntemplate = \"/t\"\n", "did you mean `path`?"),
            ("[certificate.w]\nca = \"lab\"\nmode = { key = 600 }\n", "a string (certificate.w.mode.key)"),
            ("[certificate.w]\nca = \"lab\"\nttl = \"5w\"\n", "10m, 24h or 30d (certificate.w.ttl)"),
            ("[certificate.w]\nca = \"b\"\n", "there are lab (certificate.w.ca)"),
        ] {
            let found = faults(&[&(CA.to_owned() + text)]);
            assert!(found.len() == 1 && found[0].ends_with(ends), "{text}: {found:?}");
        }
        let two = ca.replace("auth", "atuh") + &ca.replace("ca.a", "ca.b").replace("mount = \"pki\"\n", "");
        let found = faults(&[&two]);
        assert!(found.len() == 2 && found[1].contains("CA b has no mount"), "{found:?}");
    }

    #[test]
    fn what_is_no_toml_says_what_was_to_be_there() {
        for (text, hint) in [
            ("[node]\nhostname = node01\n", "text stands in quotes, "),
            ("[node]\ndomain = example.com\n", "text stands in quotes"),
            ("[node\nhostname = \"a\"\n", "`]`"),
            ("node]\nhostname = \"a\"\n", "a line is KEY = VALUE or [TABLE]"),
            ("[node]\nhostname: \"a\"\n", "a line is KEY = VALUE or [TABLE]"),
            ("[node]\nhostname = \"a\"\n[node]\n", "`node` stands above already"),
            ("[node]\nhostname = \"a\"\nhostname = \"b\"\n", "`hostname` stands above already"),
        ] {
            let found = faults(&[CA, text]);
            assert!(found[0].starts_with("1.toml:") && found.concat().contains(hint), "{text}: {found:?}");
        }
    }

    #[test]
    fn an_unknown_key_that_is_near_to_one_that_is_there_is_said_to_be_meant() {
        let ends = |text: &str| faults(&[&(CA.to_owned() + text)]).concat();
        for (text, meant) in [
            ("[node]\nhostnam = \"x\"\n", "`hostname`"),
            ("[kublet]\n", "`kubelet`"),
            ("[certificate.w]\nca = \"lab\"\ncomon_name = \"x\"\n", "`common_name`"),
            ("[certificate.w]\nca = \"lab\"\nlayout = \"link\"\n", "`links`"),
            ("[kubernetes]\napi_sever = \"x\"\n", "`api_server`"),
        ] {
            assert!(ends(text).ends_with(&format!("; did you mean {meant}?")), "{}", ends(text));
        }
        assert!(!ends("[node]\nxyzzy = 1\n").contains("did you mean"));
        assert!(!ends("[certificate.w]\nca = \"lab\"\nxx = 1\n").contains("did you mean"), "not dns");
    }

    #[test]
    fn a_key_that_there_was_says_what_to_write_instead() {
        let found = faults(&["[service-account]\ngenerate = true\napi_server = \"https://a:6443\"\n"]);
        assert!(found[0].contains("leave it out, and write generate = "), "{found:?}");
    }

    #[test]
    fn what_follows_from_an_unclosed_table_is_not_said_before_it_nor_beside_it() {
        let found = faults(&[
            "[certificate.w]\nca = \"b\"\n",
            "[ca.a\ntls.system = true\n[etcd\nca = \"a\"\ncluster = { node01 = \"10.0.0.1\" }\n",
        ]);
        let starts: Vec<_> = found.iter().map(|line| line.split(", ").next().unwrap_or_default()).collect();
        let unclosed = ["1.toml:1:6: unclosed table", "1.toml:3:6: unclosed table"];
        assert_eq!(starts[..2], unclosed, "{found:?}");
        assert!(found[2..].iter().all(|line| line.starts_with("0.toml:2:6: ")), "{found:?}");
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_not_repeated_for_it_may_be_a_secret() {
        let found = faults(&[
            "[ca.a]\ntls.system = true\nanchors.published = true\n[ca.a.vault]\nauth = \"hvs.secret\"\n",
        ]);
        assert!(!found.is_empty() && !found.concat().contains("hvs"), "{found:?}");
    }

    #[test]
    fn a_literal_secret_needs_a_file_of_its_own_readers() {
        let body = "[ca.a]\ntls.system = true\nanchors.published = true\n[ca.a.vault]\nurls = [\"https://v:8200\"]\nmount = \"pki\"\nrole = \"r\"\nauth = [{ token = \"hvs.secret\" }]\n";
        assert!(parse(vec![text("a.toml", body, true)]).is_ok());
        let found = parse(vec![text("a.toml", body, false)]).expect_err("others can read it");
        assert!(
            found.lines()[0]
                .starts_with("a.toml:8:8: a secret stands in a file that others can read: chmod 0600")
        );
        assert!(!found.to_string().contains("hvs"));
    }

    #[test]
    fn a_ca_that_is_faulty_itself_is_not_called_missing() {
        let found = faults(&["[ca.a]\n[certificate.w]\nca = \"a\"\n[certificate.x]\nca = \"b\"\n"]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].contains("CA a has no kind")
                && found[1].contains("no CA has the name \"b\": there are a")
        );
    }
}
