//! One rendered file: the `[file.NAME]` table, and what a component wants written.

use std::path::PathBuf;

use serde::Deserialize;

use crate::certificate::Owner;
use crate::deed::{Deed, Hook};
use crate::setting::{At, Mode, Name};

/// `[file.NAME]`: any file, from a template.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "packaging/config.toml is their reference")]
pub struct Settings {
    pub path: At<PathBuf>,
    pub template: At<PathBuf>,
    #[serde(default)]
    pub needs: Vec<At<Name>>,
    pub owner: Option<String>,
    pub group: Option<String>,
    pub mode: Option<Mode>,
    #[serde(default)]
    pub replace: bool,
    pub reload: Option<At<Vec<String>>>,
    #[serde(default)]
    pub hooks: Vec<Hook>,
}

/// A file that this host is to hold.
#[derive(Debug, Clone, PartialEq)]
pub struct File {
    /// What reports call it.
    pub name: Name,
    /// Where it lies, absolute.
    pub path: PathBuf,
    /// What is in it.
    pub content: Content,
    /// The certificates that must be held before it is written.
    pub needs: Vec<Name>,
    /// Who owns it.
    pub owner: Owner,
    /// Its mode.
    pub mode: Mode,
    /// Whether a file that someone else wrote may be replaced, with a backup.
    pub replace: bool,
    /// What is done when it changed.
    pub deeds: Vec<Deed>,
    /// How lines begin of which no one need be told.
    pub quiet: Option<&'static str>,
}

/// A part of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The leaf alone.
    Leaf,
    /// The private key.
    Key,
    /// What stands above the leaf, up to the anchors.
    Authorities,
}

/// What is in a rendered file, as data; `render` gives it its form.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A YAML mapping.
    Yaml(serde_json::Map<String, serde_json::Value>),
    /// `NAME="value"` lines, as systemd.exec(5) `EnvironmentFile=` reads them.
    Env(Vec<(String, String)>),
    /// A text, such as a unit's drop-in.
    Text(String),
    /// A text in a form that knows no comments.
    Bare(String),
    /// Another content, in which each of these stands in the place of its mark.
    Filled(Box<Content>, Vec<Fill>),
    /// A part of a certificate, for a place of its own.
    Part(Name, Part),
    /// The revocation list of a CA.
    Crl(Name),
    /// A template of the user's.
    Template(PathBuf),
}

/// What is known only when a file is written, and must not be shown before.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fill {
    /// A keepsake that is a text, as it is.
    Keepsake(Name),
    /// The private key of a certificate, base64 of its PEM.
    Key(Name),
    /// A certificate and what stands between it and the anchors, the same.
    Cert(Name),
    /// What a trust file holds, the same.
    Trust(PathBuf),
}

impl Fill {
    /// What stands in its place until then.
    pub fn mark(&self) -> String {
        match self {
            Self::Keepsake(name) => format!("<keepsake {name}>"),
            Self::Key(name) => format!("<key of {name}>"),
            Self::Cert(name) => format!("<certificate {name}>"),
            Self::Trust(path) => format!("<{}>", path.display()),
        }
    }
}
