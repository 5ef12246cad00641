//! Who is told of a change, and how.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// A certificate and its key.
    Leaf,
    /// The CA certificates that go with it.
    Ca,
}

/// One way to tell a consumer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deed {
    /// systemd is to read its units again.
    DaemonReload,
    /// `systemctl try-reload-or-restart`: a unit that was stopped stays so.
    Reload(String),
    /// `systemctl try-restart`: the same.
    Restart(String),
    /// A command.
    Run(Vec<String>),
    /// One of these, by a member of an etcd cluster that has its turn: the others are well, and none of them
    /// does it now.
    InTurn(Box<Deed>),
}

/// A deed and what calls for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// What calls for it.
    pub on: BTreeSet<Event>,
    /// What is to be done.
    pub deed: Deed,
}

/// When a deed may be done, where not at once.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum When {
    /// When the quorum of this host's etcd cluster bears it.
    Quorum,
}

/// An entry of `hooks`: `{ on = ["ca"], restart = "x.service" }`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct HookTable {
    on: Option<BTreeSet<Event>>,
    reload: Option<String>,
    restart: Option<String>,
    run: Option<Vec<String>>,
    when: Option<When>,
}

impl<'de> Deserialize<'de> for Hook {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let table = HookTable::deserialize(deserializer)?;
        let deed = match (table.reload, table.restart, table.run) {
            (Some(unit), None, None) => Deed::Reload(unit),
            (None, Some(unit), None) => Deed::Restart(unit),
            (None, None, Some(argv)) => Deed::Run(argv),
            _ => return Err(de::Error::custom("a hook needs exactly one of reload, restart and run")),
        };
        let on = table.on.unwrap_or_else(|| [Event::Leaf, Event::Ca].into());
        deed.check().map_err(de::Error::custom)?;
        Ok(match table.when {
            Some(When::Quorum) => Self { on, deed: Deed::InTurn(Box::new(deed)) },
            None => Self { on, deed },
        })
    }
}

/// `reload = ["x.service"]`: short for hooks on leaf and CA.
pub fn reloads(units: &[String]) -> Result<Vec<Hook>, String> {
    let hook = |unit: &String| {
        let hook = Hook { on: [Event::Leaf, Event::Ca].into(), deed: Deed::Reload(unit.clone()) };
        hook.deed.check().map(|()| hook)
    };
    units.iter().map(hook).collect()
}

impl Deed {
    /// Whether it can be done at all: a unit has a name and a type, a command is an absolute path.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::DaemonReload => Ok(()),
            Self::InTurn(deed) => deed.check(),
            Self::Reload(unit) | Self::Restart(unit) => {
                let plain = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
                let named =
                    unit.split_once('.').is_some_and(|(name, kind)| !name.is_empty() && !kind.is_empty());
                if named && !unit.starts_with('-') && unit.chars().all(plain) {
                    return Ok(());
                }
                Err(format!(
                    "{unit:?} is not the name of a unit; write it with its type, such as nginx.service"
                ))
            }
            Self::Run(argv) => match argv.first() {
                Some(program) if program.starts_with('/') => Ok(()),
                _ => Err("run needs an absolute path and its arguments; there is no shell".to_owned()),
            },
        }
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DaemonReload => f.write_str("reload systemd's units"),
            Self::Reload(unit) => write!(f, "reload {unit}"),
            Self::Restart(unit) => write!(f, "restart {unit}"),
            Self::Run(argv) => write!(f, "run {}", argv.join(" ")),
            Self::InTurn(deed) => write!(f, "{deed} in turn"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn what_is_no_unit_and_no_command_is_refused() {
        for unit in ["nginx", "-x.service", "a b.service", ".service", "x;y.service"] {
            assert!(Deed::Reload(unit.to_owned()).check().is_err(), "{unit}");
        }
        assert!(Deed::Run(argv(&["after"])).check().is_err() && Deed::Run(Vec::new()).check().is_err());
        assert_eq!(Deed::Restart("etcd@a.service".to_owned()).check(), Ok(()));
    }
}
