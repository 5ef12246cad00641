//! Names and addresses that were detected must have held for a while before a certificate follows them: a lease
//! that flaps is no reason to ask a CA twice an hour. What the configuration says is meant, and counts at once.

use std::time::{Duration, SystemTime};

use super::Run;
use super::dated::Dated;
use super::survey::Survey;
use crate::config::Config;
use crate::disk::DiskError;
use crate::facts::Facts;
use crate::root::Root;

/// What was detected by the last run, and since when it has held.
const STATE: &str = "facts";
/// Longer than a lease takes to come back, shorter than the time to the timer's next run.
const SETTLE: Duration = Duration::from_secs(600);

/// Until when what is true of this host now must hold; `None` where it has, or was never different.
pub(super) fn settles(root: &Root, config: &Config, facts: &Facts, now: SystemTime) -> Option<SystemTime> {
    let settle = config.node.settle.map_or(SETTLE, |settle| settle.0);
    // A state that cannot be read delays nothing.
    let until = since(&Dated::read(root, STATE).ok()??, facts, now) + settle;
    (until > now).then_some(until)
}

/// Since when it holds. A time to come was written under a clock that was wrong.
fn since(known: &Dated, facts: &Facts, now: SystemTime) -> SystemTime {
    if known.text == detected(facts) { known.since.min(now) } else { now }
}

impl Run<'_> {
    /// What is true of this host now, and since when, for the runs to come.
    pub(super) fn remember_facts(&self, survey: &Survey) -> Result<(), DiskError> {
        let there = Dated::read(self.root(), STATE)?;
        let since = there.as_ref().map(|there| since(there, &survey.facts, survey.now));
        // Where no run has seen anything else it has always held.
        let since = since.unwrap_or(SystemTime::UNIX_EPOCH);
        let facts = Dated { since, setting: String::new(), text: detected(&survey.facts) };
        match there {
            Some(there) if there == facts => Ok(()),
            // All of it is configured.
            None if facts.text.is_empty() => Ok(()),
            _ => facts.keep(self.root(), STATE),
        }
    }
}

/// What certificates can be made of, a line each.
fn detected(facts: &Facts) -> String {
    let names = [Some(&facts.hostname), facts.domain.as_ref(), Some(&facts.nodename)];
    let names = names.into_iter().flatten().map(|fact| (fact.value.clone(), fact.source.as_str()));
    let addresses = facts.addresses.iter().map(|address| (address.ip.to_string(), address.source.as_str()));
    let found = names.chain(addresses).filter(|(_, source)| !source.starts_with("[node]"));
    let mut lines: Vec<_> = found.map(|(value, _)| value + "\n").collect();
    lines.sort();
    lines.concat()
}
