//! Command lines of the control plane, kept in a file that its units read:
//! `ExecStart=/usr/bin/kube-apiserver $KUBE_API_ARGS`.
//!
//! systemd.service(5): a variable that is a word of its own is split at blanks, so no value may hold one.

use serde_json::{Map, Value};

use super::{open_file, pass_through};
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

/// The environment file that holds a command line.
pub(super) fn file(
    names: [&str; 3],
    flags: &Flags,
    args: Option<&At<Map<String, Value>>>,
    needs: &[Name],
    replace: bool,
) -> Result<File, Vec<Fault>> {
    let [file, at, variable] = names;
    let line = line(flags).map_err(|message| {
        vec![Fault::at(args.map(At::span).unwrap_or_default(), format!("{file}: {message}"))]
    })?;
    Ok(open_file(file, at, Content::Env(vec![(variable.to_owned(), line)]), needs, replace))
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
