//! How a run begins: alone, on a host that is in service, under a clock that may be right; and with what will be owed
//! written down.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;
use tracing::warn;

use super::failure::Error;
use super::farewell::DECOMMISSIONED;
use super::hour::wait_for_clock;
use super::owed::Debt;
use super::survey::{Survey, survey};
use super::{Ask, Run, World};
use crate::ca::Deadline;
use crate::disk::{self, DiskError, Lock};
use crate::plan::Verdict;
use crate::report::FileLine;
use crate::setting::{Name, chain};

/// Another run that does not end by then is worth a word (exit 75).
const LOCK_WAIT: Duration = Duration::from_secs(60);
const LOCK_STEP: Duration = Duration::from_millis(50);

/// All that the rest of a run goes by.
pub(super) struct Begun<'a> {
    pub(super) lock: Lock,
    pub(super) survey: Survey,
    /// The certificates that it is about.
    pub(super) asked: BTreeSet<Name>,
    pub(super) run: Run<'a>,
    /// What became of the keepsakes.
    pub(super) kept: Vec<FileLine>,
    /// What will be owed when they have changed.
    pub(super) debts: Vec<Debt>,
}

pub(super) async fn begin<'a>(world: &'a World, ask: &'a Ask) -> Result<Begun<'a>, Error> {
    let lock = lock(world, ask).await?;
    in_service(world)?;
    let deadline = Deadline::after(ask.deadline);
    wait_for_clock(world, deadline).await;
    let survey = survey(world, ask.force)?;
    let asked = survey.asked(&ask.only)?;
    let run = Run::new(world, deadline, &ask.stop);
    run.take_up(&survey, lock.was_left()).map_err(Error::Disk)?;
    // First, for what is given anew shows only here, and who reads it is owed a word then.
    let kept = run.keepsakes(&survey, &asked);
    let debts = run.owe(&survey, &asked, ask)?;
    Ok(Begun { lock, survey, asked, run, kept, debts })
}

/// A host that was taken out of service does not come back by its timer.
fn in_service(world: &World) -> Result<(), Error> {
    decommissioned(world)?.map_or(Ok(()), |since| Err(out_of_service(world, since)))
}

pub(super) fn out_of_service(world: &World, since: String) -> Error {
    Error::Decommissioned { since, mark: world.root.shown(&Path::new(disk::STATE).join(DECOMMISSIONED)) }
}

/// Since when the host is out of service, if it is.
fn decommissioned(world: &World) -> Result<Option<String>, Error> {
    let since = disk::read_state(&world.root, DECOMMISSIONED).map_err(Error::Disk)?;
    Ok(since.map(|since| since.trim().to_owned()))
}

/// The same for who only looks: where the state is not theirs to read, no one has said so.
pub(super) fn said_out(world: &World) -> Option<String> {
    decommissioned(world).ok().flatten()
}

/// Takes the lock, and waits for it in short sleeps.
pub(super) async fn lock(world: &World, ask: &Ask) -> Result<Lock, Error> {
    let deadline = Deadline::after(LOCK_WAIT.min(ask.deadline));
    let mut told = false;
    loop {
        match disk::lock(&world.root) {
            Err(error @ DiskError::Locked { .. }) if !deadline.left().is_zero() => {
                if !std::mem::replace(&mut told, true) {
                    warn!("waiting: {error}");
                }
                sleep(LOCK_STEP.min(deadline.left())).await;
            }
            lock => return lock.map_err(Error::Disk),
        }
    }
}

impl Run<'_> {
    /// What goes before everything else: whose directories may be written in, what an earlier run left, and what
    /// is to be known of this host by the next.
    fn take_up(&self, survey: &Survey, was_left: bool) -> Result<(), DiskError> {
        disk::admit(self.root(), &survey.node);
        if was_left {
            self.clear_up(survey)?;
        }
        self.remember_machine(survey)?;
        self.remember_facts(survey)
    }

    /// Removes what a run that did not come to its end has left: drafts, and requests that were answered. What
    /// is still to be answered stays, to be asked again as it is.
    pub(super) fn clear_up(&self, survey: &Survey) -> Result<(), DiskError> {
        for unswept in disk::sweep(self.root(), &survey.node) {
            warn!("what an earlier run may have left stays: {}", chain(&unswept));
        }
        for certificate in survey.node.certificates.values() {
            let held = survey.verdicts.get(&certificate.name).and_then(Verdict::pair);
            let Some(pair) = held else { continue };
            let open = disk::pending(self.root(), &certificate.name)?;
            // One that is half overwritten is none.
            if open.is_none_or(|open| certificate.rotate_key && pair.leaf().is_of(&open.key)) {
                disk::drop_pending(self.root(), &certificate.name)?;
            }
        }
        Ok(())
    }
}
