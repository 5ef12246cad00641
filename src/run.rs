//! The flow, to be read from top to bottom. This room alone calls those that do I/O.
//!
//! ```text
//! survey -> owe -> waves { CAs side by side { anchors -> trust files -> obtain } }
//!        -> trust files -> repair -> files -> pay -> report
//! ```

mod failure;
mod farewell;
mod hour;
mod keep;
mod lines;
mod load;
mod obtain;
mod owed;
mod serve;
mod settle;
mod signers;
mod spent;
mod steady;
mod survey;
mod turn;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tracing::warn;

use crate::ca::{Ca, Deadline};
use crate::clock::Clock;
use crate::disk::{self, DiskError};
use crate::facts::{self, Facts};
use crate::report::{Exit, LastRun, OwedLine, Report};
use crate::root::Root;
use crate::setting::{Name, chain};

pub use failure::Error;
use failure::Failure;
pub use farewell::{decommission, revoke};
pub use load::detect;
pub use survey::{Survey, survey};

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
    /// Whether consumers are told of changes; below another root there are none.
    pub tells: bool,
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

/// Brings the host to what the configuration asks for, and notes how that ended.
pub async fn run(world: &World, ask: &Ask) -> Result<(Report, Facts), Error> {
    let done = bring(world, ask).await;
    let exit = done.as_ref().map_or_else(Error::exit, |(report, _)| report.exit());
    let last = LastRun { ended: world.clock.now(), exit: exit.code() };
    if let Err(error) = disk::note_run(&world.root, last) {
        warn!("how this run ended could not be noted: {}", chain(&error));
    }
    done
}

async fn bring(world: &World, ask: &Ask) -> Result<(Report, Facts), Error> {
    let lock = lock(world, ask)?;
    in_service(world)?;
    let deadline = Deadline::after(ask.deadline);
    hour::wait_for_clock(world, deadline).await;
    let mut survey = survey(world, ask.force)?;
    let asked = survey.asked(&ask.only)?;
    let mut run = Run::new(world, deadline);
    if lock.was_left() {
        run.clear_up(&survey).map_err(Error::Disk)?;
    }
    run.remember_machine(&survey).map_err(Error::Disk)?;
    run.remember_facts(&survey).map_err(Error::Disk)?;
    let debts = run.owe(&survey, &asked, ask)?;
    for wave in survey.node.waves.clone() {
        let parts = run.open(&survey, wave.into_iter().filter(|name| asked.contains(name)), ask);
        let served = parts.iter().map(|(ca, names)| run.serve(&survey, ca, names, ask));
        for served in join_all(served).await {
            run.settle(&mut survey, served, ask);
        }
    }
    run.trust_files(&survey, &asked);
    run.repair(&survey, &asked);
    let mut files = run.keepsakes(&survey, &asked);
    files.extend(run.files(&survey, &asked));
    let spent = run.retire_secrets(&survey).await;
    run.close().await;
    run.strike_cloned(&survey).map_err(Error::Disk)?;
    let owed = run.pay(&survey, debts).await?;
    let mut report = run.report(&survey, ask, &files, owed)?;
    report
        .notes
        .extend(spent.unwrap_or_else(|why| vec![format!("a secret was not erased: {}", chain(&why))]));
    // What a disk refused may be lying about half done.
    if report.exit() != Exit::Fault {
        lock.release();
    }
    Ok((report, survey.facts))
}

/// A host that was taken out of service does not come back by its timer.
fn in_service(world: &World) -> Result<(), Error> {
    match disk::read_state(&world.root, farewell::DECOMMISSIONED).map_err(Error::Disk)? {
        Some(since) => Err(Error::Decommissioned(since.trim().to_owned())),
        None => Ok(()),
    }
}

fn lock(world: &World, ask: &Ask) -> Result<disk::Lock, Error> {
    let lock = match disk::lock(&world.root, Duration::ZERO) {
        Err(error @ DiskError::Locked { .. }) => {
            warn!("waiting: {error}");
            disk::lock(&world.root, LOCK_WAIT.min(ask.deadline))
        }
        lock => lock,
    };
    lock.map_err(Error::Disk)
}

/// What is there and what `run` would do about it, without doing it.
pub fn status(survey: &Survey, world: &World, only: &[Name]) -> Result<Report, Error> {
    let asked = survey.asked(only)?;
    let chosen = survey.node.certificates.values().filter(|certificate| asked.contains(&certificate.name));
    let mut files: Vec<_> = survey.node.trusts.iter().map(|trust| survey.trust_line(world, trust)).collect();
    files.extend(survey.node.keepsakes.iter().flat_map(|keepsake| keep::lines(world, keepsake)));
    files.extend(survey.node.files.iter().map(|file| survey.file_line(world, file)));
    if !only.is_empty() {
        files.retain(|line| survey.concerns(&line.path, &asked));
    }
    let (owed, notes) = match owed::read(&world.root, &survey.node) {
        Ok(debts) => (owed::deeds(&debts), Vec::new()),
        Err(error) => (BTreeSet::new(), vec![format!("what is owed is not known: {}", chain(&error))]),
    };
    Ok(Report {
        certificates: chosen.map(|certificate| survey.line(certificate)).collect(),
        files,
        owed: owed.iter().map(|deed| OwedLine { deed: deed.to_string(), trouble: None }).collect(),
        notes: [notes, survey.notes()].concat(),
        last_run: None,
    })
}

/// How the last run since the boot ended; `None` also where that is not ours to read.
pub fn last_run(world: &World) -> Option<LastRun> {
    disk::last_run(&world.root)
}

/// Writes metrics or a page where the caller wants them, whole or not at all.
pub fn publish(path: &Path, text: &[u8]) -> Result<(), Error> {
    disk::put_outside(path, text).map_err(Error::Disk)
}

/// One run: its CAs, opened when first needed, and what became of each certificate.
struct Run<'a> {
    world: &'a World,
    deadline: Deadline,
    cas: BTreeMap<Name, Result<Ca, Failure>>,
    /// The CAs whose anchors could not be read again.
    stale: BTreeMap<Name, Failure>,
    trusts: Trusts,
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
        let (cas, stale, trusts, done) = Default::default();
        Self { world, deadline, cas, stale, trusts, done }
    }

    fn root(&self) -> &Root {
        &self.world.root
    }

    /// The certificates of a wave by CA, with CAs that are only trusted beside them; those that are to be
    /// asked for something are made ready.
    fn open(
        &mut self,
        survey: &Survey,
        wave: impl Iterator<Item = Name>,
        ask: &Ask,
    ) -> BTreeMap<Name, Vec<Name>> {
        let mut parts: BTreeMap<Name, Vec<Name>> = BTreeMap::new();
        for name in wave {
            if let Some(certificate) = survey.node.certificates.get(&name) {
                for ca in &certificate.trusts {
                    parts.entry(ca.clone()).or_default();
                }
                parts.entry(certificate.ca.clone()).or_default().push(name);
            }
        }
        for (ca, names) in &parts {
            let due = names.iter().any(|name| survey.is_to_get(name, ask.missing));
            if due || self.is_to_learn(survey, ca, names, ask) || self.is_to_read_crl(survey, ca, ask) {
                self.open_ca(survey, ca);
            }
        }
        parts
    }

    async fn close(&self) {
        join_all(self.cas.values().filter_map(|ca| ca.as_ref().ok()).map(Ca::close)).await;
    }
}
