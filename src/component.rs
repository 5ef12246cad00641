//! The programs of a host that need certificates, one file each.
//!
//! To add one: a file here with its `Settings`, the certificates it needs and the files it reads; a field
//! in `config::Config`; an arm in `node::expand`; and a golden case under `tests/cases`.
//!
//! A component says what it needs in the words of the `[certificate.NAME]` table, so that a user's table
//! of the same name overrides single keys.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::certificate::{self, Certificate};
use crate::deed::Deed;
use crate::facts::Facts;
use crate::file::{Content, File};
use crate::setting::{At, Fault, Mode, Name, Template};

pub mod etcd;
pub mod kubelet;

/// What a component looks at to say what it needs.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// What is true of the host.
    pub facts: &'a Facts,
    /// Those paths that the component asked about and that are there.
    pub present: &'a BTreeSet<PathBuf>,
}

/// The certificates a component needs, by name.
pub type Certificates = Vec<(Name, certificate::Settings)>;

/// The certificates of the node as they came out, overrides included.
pub type Expanded = BTreeMap<Name, Certificate>;

/// A name that stands in the program's own text.
fn name(text: &str) -> Name {
    #[allow(clippy::expect_used, reason = "only literals of this room come here, and its tests use each")]
    Name::new(text).expect("a valid name")
}

/// A value that does not come from a text.
fn own<T>(value: T) -> At<T> {
    At::new(0..0, value)
}

fn literals<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> At<Vec<Template>> {
    own(texts.into_iter().map(|text| Template::literal(text.as_ref())).collect())
}

/// Puts the user's own keys into a rendered mapping; those that nodecert answers for are refused.
fn pass_through(
    rendered: &mut Map<String, Value>,
    settings: Option<&At<Map<String, Value>>>,
    owned: &[&str],
) -> Result<(), Vec<Fault>> {
    let Some(settings) = settings else { return Ok(()) };
    let taken: Vec<_> = settings.get_ref().keys().filter(|key| owned.contains(&key.as_str())).collect();
    if !taken.is_empty() {
        let refuse = |key: &&String| {
            Fault::at(
                settings.span(),
                format!("settings must not hold {key:?}: nodecert sets it from the tables above"),
            )
        };
        return Err(taken.iter().map(refuse).collect());
    }
    rendered.extend(settings.get_ref().iter().map(|(key, value)| (key.clone(), value.clone())));
    Ok(())
}

fn path(of: &Path) -> String {
    of.display().to_string()
}

/// A file of a component that everyone may read and root owns.
fn open_file(file_name: &str, at: &str, content: Content, needs: &[Name], replace: bool) -> File {
    File {
        name: name(file_name),
        path: at.into(),
        content,
        needs: needs.to_vec(),
        owner: certificate::Owner::default(),
        mode: Mode(0o644),
        replace,
        // A drop-in is of no use before systemd has read it.
        deeds: if at.starts_with("/etc/systemd/") { vec![Deed::DaemonReload] } else { Vec::new() },
    }
}
