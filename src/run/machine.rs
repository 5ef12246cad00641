//! Whose state this is: of a machine that was copied, the keys are someone else's too.

use std::collections::BTreeSet;

use super::failure::Failure;
use super::survey::Survey;
use super::{Done, Run};
use crate::disk::{self, DiskError};
use crate::facts::Facts;
use crate::node::Node;
use crate::report::OwedLine;
use crate::root::Root;
use crate::setting::Name;

/// The machine that the state was made on.
const MACHINE: &str = "machine-id";
/// The certificates that are still another machine's, a line each.
const CLONED: &str = "cloned";

/// Whether the state is said to be this machine's, and what is not. State that was made on another machine came here
/// by copying a disk: its keys are someone else's too.
pub(super) fn cloned(root: &Root, facts: &Facts, node: &Node) -> (bool, BTreeSet<Name>) {
    // What cannot be read here is the trouble of each certificate below.
    let read = |state| disk::read_state(root, state).ok().flatten();
    let names = node.certificates.keys();
    match (&facts.machine_id, read(MACHINE)) {
        (Some(here), Some(made)) if made.trim() != here.value => (false, names.cloned().collect()),
        (Some(_), Some(_)) => {
            let listed = read(CLONED).unwrap_or_default();
            let listed = |name: &&Name| listed.lines().any(|line| line == name.as_str());
            (true, names.filter(listed).cloned().collect())
        }
        _ => (false, BTreeSet::new()),
    }
}

impl Run<'_> {
    /// The state is this machine's from now on; what was made on another is on a list until it is made anew.
    pub(super) fn remember_machine(&self, survey: &Survey) -> Result<(), DiskError> {
        let Some(id) = &survey.facts.machine_id else { return Ok(()) };
        if survey.at_home {
            return Ok(());
        }
        // What could not be read before is no reason to write over it.
        disk::read_state(self.root(), MACHINE)?;
        self.list_cloned(&survey.cloned)?;
        disk::keep_state(self.root(), MACHINE, format!("{}\n", id.value).as_bytes())
    }

    /// Strikes from the list what this run has made anew.
    pub(super) fn strike_cloned(&self, survey: &Survey) -> Option<OwedLine> {
        let made = |name: &&Name| matches!(self.done.get(*name), Some(Done::Obtained(_)));
        if !survey.cloned.iter().any(|name| made(&name)) {
            return None;
        }
        let left = survey.cloned.iter().filter(|name| !made(name)).cloned().collect();
        let failed = self.list_cloned(&left).err()?;
        Some(Failure::from(failed).owed("to note which keys are this machine's own"))
    }

    fn list_cloned(&self, names: &BTreeSet<Name>) -> Result<(), DiskError> {
        if names.is_empty() {
            return disk::drop_state(self.root(), CLONED);
        }
        let lines: Vec<_> = names.iter().map(Name::as_str).collect();
        disk::keep_state(self.root(), CLONED, lines.join("\n").as_bytes())
    }
}
