//! Command lines, kept in a file that the program's unit reads, `ExecStart=/usr/bin/kube-apiserver $KUBE_API_ARGS`,
//! in a drop-in of the unit, or in a static pod.
//!
//! systemd.service(5): a variable that is a word of its own is split at blanks, so no value may hold one.

use std::ops::Range;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::static_pod::Pod;
use super::{open_file, pass_through, read_once};
use crate::deed::Deed;
use crate::file::{Content, File};
use crate::setting::{At, Fault, Name};

/// `--NAME=VALUE`, in order, without the dashes.
pub(super) type Flags = Map<String, Value>;

/// The flags of an object that have a value.
pub(super) fn set(flags: &Value) -> Flags {
    let set = flags.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    set.map(|(flag, value)| (flag.clone(), value.clone())).collect()
}

/// Puts the user's `args` over the defaults; those that say who the component is and whom it trusts stay.
pub(super) fn with_args(
    mut flags: Flags,
    args: Option<&At<Map<String, Value>>>,
    open: &[&str],
) -> Result<Flags, Vec<Fault>> {
    let owned: Vec<String> = flags.keys().filter(|flag| !open.contains(&flag.as_str())).cloned().collect();
    let owned: Vec<&str> = owned.iter().map(String::as_str).collect();
    pass_through(&mut flags, "args", args, &owned)?;
    Ok(flags)
}

/// `format`: how the command line reaches the program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// A variable in a file that the program's unit reads.
    #[default]
    Env,
    /// A drop-in that gives the unit its command line.
    DropIn,
    /// A manifest in `/etc/kubernetes/manifests`.
    StaticPod,
}

/// One program and its command line.
pub(super) struct Program<'a> {
    /// Its name: of the binary, the unit, the container and the manifest.
    pub(super) name: &'a str,
    /// Where its table stands.
    pub(super) table: Range<usize>,
    /// The file that its unit reads, and the variable in it.
    pub(super) env: [&'a str; 2],
    /// Its command line.
    pub(super) flags: Flags,
    /// What the user adds to it.
    pub(super) args: Option<&'a At<Map<String, Value>>>,
    /// The certificates that must be held before it starts.
    pub(super) needs: &'a [Name],
    /// How it is told of what it reads at its start only.
    pub(super) told: Option<Deed>,
    /// Whether a file that someone else wrote may be replaced.
    pub(super) replace: bool,
}

impl Program<'_> {
    /// The file that holds the command line; `pod` for programs that can run in one.
    pub(super) fn render(&self, format: Format, pod: Option<Pod<'_>>) -> Result<File, Vec<Fault>> {
        match (format, pod) {
            (Format::Env, _) => self.env_file(),
            (Format::DropIn, _) => self.drop_in(),
            (Format::StaticPod, Some(pod)) => pod.render(self),
            (Format::StaticPod, None) => {
                let message =
                    format!("[{}] cannot run as a static pod: \"env\" and \"drop-in\" are there", self.name);
                Err(vec![Fault::at(self.table.clone(), message)])
            }
        }
    }

    fn env_file(&self) -> Result<File, Vec<Fault>> {
        let [path, variable] = self.env;
        let file = format!("{}-arguments", self.name);
        let content = Content::Env(vec![(variable.to_owned(), self.line(&file)?)]);
        Ok(read_once(self.told.clone(), open_file(&file, path, content, self.needs, self.replace)))
    }

    /// systemd.service(5): an empty ExecStart= takes away the unit's own; percent and dollar stand twice.
    fn drop_in(&self) -> Result<File, Vec<Fault>> {
        let file = format!("{}-drop-in", self.name);
        let path = format!("/etc/systemd/system/{}.service.d/50-nodecert.conf", self.name);
        let line = self.line(&file)?.replace('%', "%%").replace('$', "$$");
        let content = format!("[Service]\nExecStart=\nExecStart=/usr/bin/{} {line}\n", self.name);
        Ok(read_once(
            self.told.clone(),
            open_file(&file, &path, Content::Text(content), self.needs, self.replace),
        ))
    }

    fn line(&self, file: &str) -> Result<String, Vec<Fault>> {
        line(&self.flags).map_err(|message| {
            vec![Fault::at(self.args.map(At::span).unwrap_or_default(), format!("{file}: {message}"))]
        })
    }
}

fn line(flags: &Flags) -> Result<String, String> {
    let words = words(flags);
    match words.iter().find(|word| word.contains(|c: char| c.is_whitespace() || "\"'\\".contains(c))) {
        Some(word) => {
            Err(format!("{word:?} holds a blank, a quote or a backslash, at which systemd would split it"))
        }
        None => Ok(words.join(" ")),
    }
}

/// `--NAME=VALUE` each; a list gives its flag more than once.
pub(super) fn words(flags: &Flags) -> Vec<String> {
    let mut words = Vec::new();
    for (flag, value) in flags {
        let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        words.extend(values.iter().map(|value| format!("--{flag}={}", text(value))));
    }
    words
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
