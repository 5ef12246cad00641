//! The end of a certificate, and of a host: revoked where the CA lets itself be asked, erased here, and what is
//! left to a person said.

mod erase;

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use tracing::info;

use super::begin::{lock, said_out};
use super::failure::{Error, Failure};
use super::load::{given_up, given_up_state};
use super::survey::{Survey, survey};
use super::{Ask, Run, World};
use crate::bundle::Bundle;
use crate::ca::{self, Ca, Deadline, Material};
use crate::certificate::Certificate;
use crate::disk;
use crate::plan::Verdict;
use crate::report::{Exit, Farewell, Trouble};
use crate::setting::{At, Name};
use crate::stop::Stop;

/// The mark of a host that has been taken out of service: no run brings its keys back.
pub(super) const DECOMMISSIONED: &str = "decommissioned";

/// Has the CAs revoke what is held of these certificates. The next run gets others, with new keys; what it would
/// log in with is not revoked unless there is something else to try.
pub async fn revoke(
    world: &World,
    names: &[Name],
    deadline: Duration,
    stop: &Stop,
) -> Result<Farewell, Error> {
    let ask = Ask { deadline, stop: stop.clone(), ..Ask::default() };
    unless_stopped(stop, give_up_all(world, names, &ask)).await
}

/// Takes the host out of service: with `revoke` its certificates are revoked first, and if one cannot be,
/// nothing is erased. `host` is its own name, so that no other is meant.
pub async fn decommission(
    world: &World,
    host: &str,
    revoke: bool,
    deadline: Duration,
    stop: &Stop,
) -> Result<Farewell, Error> {
    let ask = Ask { deadline, stop: stop.clone(), ..Ask::default() };
    unless_stopped(stop, retire(world, host, revoke, &ask)).await
}

/// To stop is heard where it waits, so what it is erasing is erased.
async fn unless_stopped(
    stop: &Stop,
    work: impl Future<Output = Result<Farewell, Error>>,
) -> Result<Farewell, Error> {
    match select(pin!(stop.asked()), pin!(work)).await {
        Either::Left(_) => Err(Error::Stopped),
        Either::Right((done, _)) => done,
    }
}

async fn give_up_all(world: &World, names: &[Name], ask: &Ask) -> Result<Farewell, Error> {
    let (lock, survey, mut run) = begin(world, ask).await?;
    let asked = survey.asked(names)?;
    if !survey.node.certificates.keys().any(|name| asked.contains(name)) {
        let names: Vec<_> = names.iter().map(Name::as_str).collect();
        return Err(Error::NoCertificate(names.join(", ")));
    }
    let mut farewell = Farewell::default();
    for name in survey.last_first().filter(|name| asked.contains(*name)) {
        match run.other_way_in(&survey, name) {
            Ok(()) => {
                let given_up = run.give_up(&survey, name, &mut farewell).await;
                let refused = farewell.failed.last().is_some_and(|last| last.exit == Exit::Refused);
                if !given_up && refused {
                    farewell.left.push(format!(
                        "{name}: what is held stays in force; `nodecert run --force --only {name}` gets another, revoked or not"
                    ));
                }
            }
            Err(failure) => farewell.failed.push(failed(&survey, name, &failure)),
        }
    }
    run.close().await;
    if !farewell.done.is_empty() && said_out(world).is_none() {
        farewell.left.push(survey.next_run(&asked));
    }
    end(lock, &farewell);
    Ok(farewell)
}

async fn retire(world: &World, host: &str, revoke: bool, ask: &Ask) -> Result<Farewell, Error> {
    let (lock, survey, mut run) = begin(world, ask).await?;
    let own = [&survey.facts.hostname.value, &survey.facts.fqdn.value];
    if !own.iter().any(|own| *own == host) {
        return Err(Error::AnotherHost { named: host.to_owned(), own: survey.facts.fqdn.value.clone() });
    }
    let mut farewell = Farewell::default();
    let (mut may_go, was_out) = (true, said_out(world).is_some());
    if revoke {
        for name in survey.last_first().filter(|name| survey.may_hold(name)) {
            // Without the way in, what has just failed could never be revoked from here.
            if !may_go && let Err(Failure::LocksOut { ca, .. }) = run.other_way_in(&survey, name) {
                farewell
                    .left
                    .push(format!("{name}: not revoked yet, for this host logs in to CA {ca} with it"));
                continue;
            }
            may_go &= run.give_up(&survey, name, &mut farewell).await;
        }
        run.close().await;
    }
    if may_go {
        run.erase(&survey, &mut farewell)?;
    } else {
        farewell.left.push(not_erased(&farewell, was_out));
    }
    end(lock, &farewell);
    Ok(farewell)
}

/// What helps: to wait, where the CA is away; else someone at the CA, whom this host cannot wait for.
fn not_erased(farewell: &Farewell, was_out: bool) -> String {
    let by_hand = "have the operators of the CAs revoke what failed, then run it without --revoke";
    match farewell.exit() {
        _ if was_out => format!("nothing more was erased, and what it logged in with may be gone: {by_hand}"),
        Exit::Temporary => format!("nothing was erased: run it again, or {by_hand}"),
        _ => format!("nothing was erased: mend that and run it again, or {by_hand}"),
    }
}

/// What both begin with; what a run before them left is cleared away, for it may hold a key.
async fn begin<'a>(world: &'a World, ask: &'a Ask) -> Result<(disk::Lock, Survey, Run<'a>), Error> {
    let lock = lock(world, ask).await?;
    let survey = survey(world, false)?;
    let run = Run::new(world, Deadline::after(ask.deadline), &ask.stop);
    disk::admit(&world.root, &survey.node);
    if lock.was_left() {
        run.clear_up(&survey).map_err(Error::Disk)?;
    }
    Ok((lock, survey, run))
}

/// What a disk refused may be lying about half done.
fn end(lock: disk::Lock, farewell: &Farewell) {
    if farewell.exit() != Exit::Fault {
        lock.release();
    }
}

impl Run<'_> {
    /// Says whether its key may be erased: it is revoked, or no one but the CA's operator can have it so. What
    /// waits for a person waits no better with its key still here.
    async fn give_up(&mut self, survey: &Survey, name: &Name, farewell: &mut Farewell) -> bool {
        match self.revoked(survey, name).await {
            Ok(done) => farewell.done.push(done),
            Err(Failure::ByHand(command)) => {
                let ca = &survey.node.certificates[name].ca;
                let message = format!("{name}: CA {ca} is asked by its operator alone: {command}");
                farewell.failed.push(Trouble { message, exit: Exit::Refused });
            }
            Err(failure) => {
                farewell.failed.push(failed(survey, name, &failure));
                return false;
            }
        }
        true
    }

    /// A host that logs in by the certificate alone would never get another one.
    fn other_way_in(&self, survey: &Survey, name: &Name) -> Result<(), Failure> {
        for (ca, settings) in &survey.config.cas {
            let logins: Vec<_> = settings.logs_in_with().into_iter().map(At::get_ref).collect();
            if !logins.contains(&name) {
                continue;
            }
            let material = self.material(survey, ca, settings)?;
            let mut others = logins.into_iter().filter(|other| *other != name);
            let by_secret = material.stored.is_some() || material.secrets.iter().any(Result::is_ok);
            if !by_secret && !others.any(|other| self.opens(other, &material)) {
                let lacks =
                    material.secrets.into_iter().filter_map(Result::err).map(|lack| lack.why).collect();
                return Err(Failure::LocksOut { ca: ca.clone(), lacks });
            }
        }
        Ok(())
    }

    /// Whether this certificate still lets the host in: what was revoked a moment ago does not.
    fn opens(&self, name: &Name, material: &Material) -> bool {
        let print = |bundle: &Bundle| bundle.leaf().fingerprint.to_string();
        let given_up = given_up(self.root(), name).ok().flatten();
        material.bundles.get(name).is_some_and(|bundle| given_up != Some(print(bundle)))
    }

    async fn revoked(&mut self, survey: &Survey, name: &Name) -> Result<String, Failure> {
        let certificate = &survey.node.certificates[name];
        let pair = match (survey.verdicts.get(name), survey.unreadable.get(name)) {
            (_, Some(failure)) => return Err(failure.clone()),
            (verdict, _) => verdict.and_then(Verdict::pair),
        };
        let Some(pair) = pair else { return Err(Failure::NothingHeld) };
        let (serial, fingerprint) = (&pair.leaf().serial, pair.leaf().fingerprint.to_string());
        if given_up(self.root(), name)?.is_some_and(|given_up| given_up == fingerprint) {
            return Ok(format!("{name}: was revoked before, serial number {serial}"));
        }
        self.open_ca(survey, &certificate.ca);
        let ca = match self.cas.get(&certificate.ca) {
            Some(Ok(ca)) => ca,
            Some(Err(failure)) => return Err(failure.clone()),
            None => return Err(Failure::Waits(format!("CA {}", certificate.ca))),
        };
        if let Some(command) = ca.revoke(name, pair).await? {
            return Err(Failure::ByHand(command));
        }
        // From here on it is not usable here either, whatever its CA publishes.
        disk::keep_state(self.root(), &given_up_state(name), format!("{fingerprint}\n").as_bytes())?;
        info!(certificate = %name, ca = %certificate.ca, "{name}: revoked, serial number {serial}");
        Ok(revoked_line(certificate, ca, serial))
    }
}

fn failed(survey: &Survey, name: &Name, failure: &Failure) -> Trouble {
    let Trouble { message, exit } = survey.trouble(failure, &["certificate", name.as_str()]);
    Trouble { message: format!("{name}: {message}"), exit }
}

fn revoked_line(certificate: &Certificate, ca: &Ca, serial: &str) -> String {
    let name = &certificate.name;
    match ca {
        // It publishes no list, and whoever trusts it has no one to ask.
        Ca::Local(_) => {
            format!("{name}: serial number {serial} is given up; only this host knows, until its end")
        }
        _ => format!("{name}: CA {} has revoked serial number {serial}", certificate.ca),
    }
}

impl Survey {
    /// What brings others. Whether a secret still opens a CA shows only when it is used.
    fn next_run(&self, revoked: &BTreeSet<Name>) -> String {
        let logins =
            |ca: &ca::Settings| ca.logs_in_with().iter().any(|name| revoked.contains(name.get_ref()));
        let cas: Vec<_> =
            self.config.cas.iter().filter(|(_, ca)| logins(ca)).map(|(name, _)| name.as_str()).collect();
        match cas.is_empty() {
            true => "this host: its next run gets others".to_owned(),
            false => format!(
                "this host: its next run gets others, if what else it has still logs in to CA {}, which was not tried: `nodecert run` shows",
                cas.join(", ")
            ),
        }
    }

    /// Those that log in to the CA of another come after it.
    fn last_first(&self) -> impl Iterator<Item = &Name> {
        self.node.waves.iter().rev().flatten()
    }

    fn holds(&self, name: &Name) -> bool {
        self.verdicts.get(name).is_some_and(|verdict| verdict.pair().is_some())
    }

    /// What cannot be read may be held all the same.
    fn may_hold(&self, name: &Name) -> bool {
        self.holds(name) || self.unreadable.contains_key(name)
    }
}
