//! The flow, to be read from top to bottom. This room alone calls those that do I/O.
//!
//! ```text
//! begin         lock -> in service? -> clock -> survey -> take up -> keepsakes -> owe
//! waves         { CAs side by side { anchors -> trust files -> obtain } }
//! settle_files  trust files -> repair -> files
//! finish        pay -> used secrets -> report
//! ```

mod begin;
mod blame;
mod dated;
mod failure;
mod farewell;
mod foresee;
mod hour;
mod keep;
mod lines;
mod load;
mod machine;
mod obtain;
mod owed;
mod serve;
mod settle;
mod signers;
mod spent;
mod steady;
mod survey;
mod told;
mod turn;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, join_all, select};
use tracing::warn;

use crate::ca::{Ca, Deadline};
use crate::clock::Clock;
use crate::disk::{self, DiskError};
use crate::facts::{self, Facts};
use crate::report::{Exit, FileLine, LastRun, Report};
use crate::root::Root;
use crate::setting::{Name, chain};
use crate::stop::Stop;

use begin::{Begun, begin};
pub use failure::Error;
use failure::Failure;
pub use farewell::{decommission, revoke};
pub use load::detect;
use owed::Debt;
pub use survey::{Survey, survey};
pub use told::{plan, status};

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
    /// The word to end before that.
    pub stop: Stop,
}

impl Default for Ask {
    fn default() -> Self {
        let (only, stop, deadline) = (Vec::new(), Stop::default(), Duration::from_secs(600));
        Self { only, missing: false, force: false, deadline, stop }
    }
}

/// Brings the host to what the configuration asks for, unless it is asked to stop, and notes how that ended. To
/// stop is heard where it waits, so what it is writing is whole; the lock is given back.
pub async fn run(world: &World, ask: &Ask) -> Result<(Report, Facts), Error> {
    let done = match select(pin!(ask.stop.asked()), pin!(bring(world, ask))).await {
        Either::Left(_) => Err(Error::Stopped),
        Either::Right((done, _)) => done,
    };
    // Who has not begun has nothing to say of how a run ended.
    if !matches!(done, Err(Error::Unknown { .. } | Error::Disk(DiskError::Locked { .. }))) {
        note(world, &done);
    }
    done
}

fn note(world: &World, done: &Result<(Report, Facts), Error>) {
    let exit = done.as_ref().map_or_else(Error::exit, |(report, _)| report.exit());
    let last = LastRun { ended: world.clock.now(), exit: exit.code() };
    if let Err(error) = disk::note_run(&world.root, last) {
        warn!("how this run ended could not be noted: {}", chain(&error));
    }
}

async fn bring(world: &World, ask: &Ask) -> Result<(Report, Facts), Error> {
    let Begun { lock, mut survey, asked, mut run, kept, debts } = begin(world, ask).await?;
    run.waves(&mut survey, &asked, ask).await;
    let files = [kept, run.settle_files(&mut survey, &asked)].concat();
    let report = run.finish(&survey, ask, files, debts).await?;
    // What a disk refused may be lying about half done.
    if report.exit() != Exit::Fault {
        lock.release();
    }
    Ok((report, survey.facts))
}

/// How the last run since the boot ended; `None` also where that is not ours to read.
pub fn last_run(world: &World) -> Option<LastRun> {
    disk::last_run(&world.root)
}

/// Writes metrics or a page where the caller wants them, whole or not at all.
pub fn publish(path: &Path, text: &[u8]) -> Result<(), Error> {
    disk::put_outside(path, text).map_err(Error::Disk)
}

/// Takes back what was published: removed, so that no full disk can keep it in force.
pub fn withdraw(path: &Path) -> Result<(), Error> {
    disk::remove_outside(path).map_err(Error::Disk)
}

/// One run: its CAs, opened when first needed, and what became of each certificate.
struct Run<'a> {
    world: &'a World,
    deadline: Deadline,
    stop: &'a Stop,
    cas: BTreeMap<Name, Result<Ca, Failure>>,
    trusts: Trusts,
    done: BTreeMap<Name, Done>,
}

/// What became of one certificate.
enum Done {
    Obtained(String),
    Repaired(String),
    Failed(Failure),
    /// No new one, and what is held was mended.
    Mended(Failure),
}

/// What became of the trust files, by path.
type Trusts = BTreeMap<PathBuf, Result<bool, Failure>>;

impl<'a> Run<'a> {
    fn new(world: &'a World, deadline: Deadline, stop: &'a Stop) -> Self {
        let (cas, trusts, done) = Default::default();
        Self { world, deadline, stop, cas, trusts, done }
    }

    fn root(&self) -> &Root {
        &self.world.root
    }

    /// Gets what is to be got, wave by wave: one that logs in to another CA comes first.
    async fn waves(&mut self, survey: &mut Survey, asked: &BTreeSet<Name>, ask: &Ask) {
        for wave in survey.node.waves.clone() {
            let parts = self.open(survey, wave.into_iter().filter(|name| asked.contains(name)), ask);
            let served = parts.iter().map(|(ca, names)| self.serve(survey, ca, names, ask));
            for served in join_all(served).await {
                self.settle(survey, served, ask);
            }
        }
    }

    /// Brings everything around the certificates to what it should be.
    fn settle_files(&mut self, survey: &mut Survey, asked: &BTreeSet<Name>) -> Vec<FileLine> {
        self.trust_files(survey, asked);
        self.repair(survey, asked);
        self.files(survey, asked)
    }

    /// Tells who is to be told, lets go of what is not needed any more, and says what was done.
    async fn finish(
        &self,
        survey: &Survey,
        ask: &Ask,
        files: Vec<FileLine>,
        debts: Vec<Debt>,
    ) -> Result<Report, Error> {
        let paid = self.pay(survey, debts).await;
        let (erased, notes) = self.retire_secrets(survey).await;
        self.close().await;
        let owed = paid?.into_iter().chain(erased).chain(self.strike_cloned(survey)).collect();
        let mut report = self.report(survey, ask, files, owed)?;
        report.notes.extend(notes);
        Ok(report)
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
