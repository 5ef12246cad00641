//! The flow, to be read from top to bottom. This room alone calls those that do I/O.
//!
//! ```text
//! survey -> learn anchors -> owe -> trust files -> waves of obtain -> repair -> files -> pay -> report
//! ```

mod failure;
mod obtain;
mod owed;
mod settle;
mod signers;
mod survey;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tracing::warn;

use crate::bundle::Bundle;
use crate::ca::{Ca, Deadline};
use crate::clock::Clock;
use crate::disk;
use crate::facts::{self, Facts};
use crate::plan::Verdict;
use crate::report::{OwedLine, Report, chain};
use crate::root::Root;
use crate::setting::Name;

pub use failure::Error;
use failure::Failure;
pub use survey::{Survey, detect, survey};

/// Another run that does not end by then is worth a word (exit 75).
const LOCK_WAIT: Duration = Duration::from_secs(60);
/// Bytes; no configuration, template or CA file is larger.
const TEXT: usize = 1024 * 1024;
const AS_CONFIGURED: &str = "as configured";

/// The host that the program runs on, or what a test puts in its place.
#[derive(Debug)]
pub struct World {
    /// The directory everything lies below.
    pub root: Arc<Root>,
    /// What the kernel says.
    pub host: facts::Host,
    /// What time it is.
    pub clock: Clock,
    /// The one configuration file to read, as the caller sees it, instead of those below the root.
    pub config: Option<PathBuf>,
}

/// What `run` is asked to do.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Certificates or components; all if empty.
    pub only: Vec<Name>,
    /// Leave what is merely due.
    pub missing: bool,
    /// Get even what is fine.
    pub force: bool,
    /// How long to go on trying.
    pub deadline: Duration,
}

impl Default for Ask {
    fn default() -> Self {
        Self { only: Vec::new(), missing: false, force: false, deadline: Duration::from_secs(600) }
    }
}

/// Brings the host to what the configuration asks for.
pub async fn run(world: &World, ask: &Ask) -> Result<(Report, Facts), Error> {
    let _lock = disk::lock(&world.root, LOCK_WAIT).map_err(Error::Disk)?;
    let mut survey = survey(world, ask.force)?;
    let asked = survey.asked(&ask.only)?;
    let mut run = Run::new(world, Deadline::after(ask.deadline));
    run.learn_anchors(&mut survey, ask).await;
    run.learn_crls(&mut survey, ask).await;
    let due: BTreeSet<_> = asked.iter().filter(|name| survey.is_to_get(name, ask.missing)).cloned().collect();
    let debts = run.owe(&survey, &due)?;
    let trusts = run.trust_files(&survey);
    for wave in survey.node.waves.clone() {
        let wave: Vec<_> = wave.into_iter().filter(|name| due.contains(name)).collect();
        run.open_cas(&survey, &wave);
        let results = join_all(wave.iter().map(|name| run.obtain(&survey, name, &trusts))).await;
        for (name, result) in wave.into_iter().zip(results) {
            run.settle(&mut survey, name, result);
        }
    }
    run.repair(&survey, &asked);
    let files = run.files(&survey);
    run.close().await;
    run.remember_machine(&survey, ask)?;
    let owed = run.pay(&survey, debts)?;
    let report = run.report(&survey, ask, &trusts, files, owed);
    Ok((report, survey.facts))
}

/// What is there and what `run` would do about it, without doing it.
pub fn status(survey: &Survey, world: &World, only: &[Name]) -> Result<Report, Error> {
    let asked = survey.asked(only)?;
    let chosen = survey.node.certificates.values().filter(|certificate| asked.contains(&certificate.name));
    let mut files: Vec<_> = survey.node.trusts.iter().map(|trust| survey.trust_line(world, trust)).collect();
    files.extend(survey.node.files.iter().map(|file| survey.file_line(world, file)));
    if !only.is_empty() {
        files.retain(|line| survey.belongs(&line.path, &asked));
    }
    let owed = owed::deeds(&owed::read(&world.root)?);
    Ok(Report {
        certificates: chosen.map(|certificate| survey.line(certificate)).collect(),
        files,
        owed: owed.iter().map(|deed| OwedLine { deed: deed.to_string(), trouble: None }).collect(),
        notes: survey.notes(),
    })
}

/// Writes metrics where the caller wants them, whole or not at all.
pub fn publish(path: &Path, metrics: &str) -> Result<(), Error> {
    disk::put_outside(path, metrics.as_bytes()).map_err(Error::Disk)
}

/// One run: its CAs, opened when first needed, and what became of each certificate.
struct Run<'a> {
    world: &'a World,
    deadline: Deadline,
    cas: BTreeMap<Name, Result<Ca, Failure>>,
    /// The CAs whose anchors could not be read again.
    stale: BTreeMap<Name, Failure>,
    done: BTreeMap<Name, Done>,
}

/// What became of one certificate.
enum Done {
    Obtained(String),
    Repaired(String),
    Failed(Failure),
}

/// What became of the trust files, by path.
type Trusts = BTreeMap<PathBuf, Result<bool, Failure>>;

impl<'a> Run<'a> {
    fn new(world: &'a World, deadline: Deadline) -> Self {
        Self { world, deadline, cas: BTreeMap::new(), stale: BTreeMap::new(), done: BTreeMap::new() }
    }

    fn root(&self) -> &Root {
        &self.world.root
    }

    fn settle(&mut self, survey: &mut Survey, name: Name, result: Result<(Bundle, String), Failure>) {
        match result {
            Ok((bundle, reason)) => {
                survey.verdicts.insert(name.clone(), Verdict::Keep(bundle));
                survey.drifts.remove(&name);
                self.done.insert(name, Done::Obtained(reason));
            }
            Err(failure) => {
                warn!(certificate = %name, "{}", chain(&failure));
                self.done.insert(name, Done::Failed(failure));
            }
        }
    }

    async fn close(&self) {
        join_all(self.cas.values().filter_map(|ca| ca.as_ref().ok()).map(Ca::close)).await;
    }
}
