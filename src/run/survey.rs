//! What is wanted and what is there, without changing anything or asking anyone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::SystemTime;

use super::World;
use super::failure::{Error, Failure};
use super::load::{gather, given_up, known_anchors, known_crl, load};
use super::machine::cloned;
use super::steady;
use crate::bundle::Bundle;
use crate::ca;
use crate::certificate::Certificate;
use crate::config::Config;
use crate::disk::{self, DiskError};
use crate::facts::Facts;
use crate::keepsake::Keepsake;
use crate::node::{self, Node};
use crate::plan::{self, Held, Known, Verdict};
use crate::setting::Name;
use crate::trust::Anchors;

/// What is wanted and what is there: the ground of every command. Nothing was changed, no one was asked.
#[derive(Debug)]
pub struct Survey {
    /// What is true of the host.
    pub facts: Facts,
    /// What the host is to hold.
    pub node: Node,
    pub(super) config: Config,
    pub(super) anchors: BTreeMap<Name, Result<Option<Anchors>, Failure>>,
    pub(super) verdicts: BTreeMap<Name, Verdict>,
    pub(super) drifts: BTreeMap<Name, Vec<String>>,
    /// The certificates of which a file is gone from its place.
    pub(super) gone: BTreeSet<Name>,
    /// The certificates whose files cannot be read, or lie where someone else's do.
    pub(super) unreadable: BTreeMap<Name, Failure>,
    /// Whether the state says that it is this machine's.
    pub(super) at_home: bool,
    /// The certificates that were made on another machine.
    pub(super) cloned: BTreeSet<Name>,
    pub(super) unread: Unread,
    /// Until when certificates do not follow this host's names and addresses.
    pub(super) settles: Option<SystemTime>,
    pub(super) now: SystemTime,
}

/// What was to be read again in this run and could not be, by CA; what was known of it stays.
#[derive(Debug, Default)]
pub(super) struct Unread {
    pub(super) anchors: BTreeMap<Name, Failure>,
    pub(super) lists: BTreeMap<Name, Failure>,
}

/// Reads configuration, facts and disk, and judges what is held.
pub fn survey(world: &World, force: bool) -> Result<Survey, Error> {
    let config = load(world)?;
    let facts = gather(world, &config)?;
    let present = disk::present(&world.root, &node::probes(&config)).map_err(Error::Disk)?;
    let node = node::expand(&config, &facts, &present).map_err(Error::Config)?;
    let (at_home, cloned) = cloned(&world.root, &facts, &node);
    let now = world.clock.now();
    let settles = steady::settles(&world.root, &config, &facts, now);
    let known =
        |(name, ca): (&Name, &ca::Settings)| (name.clone(), known_anchors(&world.root, name, ca, now));
    let anchors = config.cas.iter().map(known).collect();
    let mut survey = Survey {
        facts,
        node,
        config,
        anchors,
        verdicts: BTreeMap::new(),
        drifts: BTreeMap::new(),
        unreadable: BTreeMap::new(),
        unread: Unread::default(),
        gone: BTreeSet::new(),
        at_home,
        cloned,
        settles,
        now,
    };
    let names: Vec<_> = survey.node.certificates.keys().cloned().collect();
    names.iter().for_each(|name| survey.look(world, name, force));
    Ok(survey)
}

impl Survey {
    /// Reads and judges what is held of one certificate, and what drifted around it.
    fn look(&mut self, world: &World, name: &Name, force: bool) {
        let Some(certificate) = self.node.certificates.get(name) else { return };
        let verdict = self.verdict(world, certificate, self.known_anchors(&certificate.ca), force);
        let bundle = verdict.as_ref().ok().and_then(Verdict::bundle);
        let drift = bundle.map(|bundle| disk::drift(&world.root, certificate, bundle, self.now));
        let paths: Vec<_> = certificate.place.paths().into_iter().map(|(_, path)| path).collect();
        let is_gone = || disk::present(&world.root, &paths).is_ok_and(|there| there.len() < paths.len());
        self.is_mended(name);
        match verdict {
            Ok(verdict) => drop(self.verdicts.insert(name.clone(), verdict)),
            Err(error) => drop(self.unreadable.insert(name.clone(), error.into())),
        }
        match drift {
            Some(Ok(drift)) => {
                if !drift.is_empty() && is_gone() {
                    self.gone.insert(name.clone());
                }
                self.drifts.insert(name.clone(), drift);
            }
            Some(Err(error)) => drop(self.unreadable.insert(name.clone(), error.into())),
            None => {}
        }
    }

    /// Nothing that was found wrong around a certificate holds any more.
    pub(super) fn is_mended(&mut self, name: &Name) {
        self.drifts.remove(name);
        self.gone.remove(name);
        self.unreadable.remove(name);
    }

    /// Looks at all certificates of a CA, now that its anchors are known.
    pub(super) fn look_again(&mut self, world: &World, ca: &Name, force: bool) {
        let of_ca = self.node.certificates.values().filter(|certificate| certificate.ca == *ca);
        let names: Vec<_> = of_ca.map(|certificate| certificate.name.clone()).collect();
        names.iter().for_each(|name| self.look(world, name, force));
    }

    pub(super) fn verdict(
        &self,
        world: &World,
        certificate: &Certificate,
        anchors: Option<&Anchors>,
        force: bool,
    ) -> Result<Verdict, DiskError> {
        let held = disk::held(&world.root, certificate)?;
        self.judge(world, certificate, held, anchors, force, self.now)
    }

    /// What is to be done about a certificate, were this what is held of it.
    pub(super) fn judge(
        &self,
        world: &World,
        certificate: &Certificate,
        held: Held,
        anchors: Option<&Anchors>,
        force: bool,
        now: SystemTime,
    ) -> Result<Verdict, DiskError> {
        let crl = known_crl(&world.root, &certificate.ca)?;
        let given_up = given_up(&world.root, &certificate.name)?;
        let known = Known {
            anchors,
            crl: crl.as_deref(),
            given_up: given_up.as_deref(),
            cloned: self.cloned.contains(&certificate.name),
            forced: force,
            settles: self.settles,
            now,
        };
        Ok(plan::decide(certificate, held, &known))
    }

    /// A CA's anchors, where they are known.
    pub(super) fn known_anchors(&self, ca: &Name) -> Option<&Anchors> {
        self.anchors.get(ca)?.as_ref().ok()?.as_ref()
    }

    /// The certificates and keepsakes that names stand for; all if there is none.
    pub(super) fn asked(&self, only: &[Name]) -> Result<BTreeSet<Name>, Error> {
        let keepsakes = self.node.keepsakes.iter().map(|keepsake| &keepsake.name);
        let all: BTreeSet<_> = self.node.certificates.keys().chain(keepsakes).cloned().collect();
        if only.is_empty() {
            return Ok(all);
        }
        let mut asked = BTreeSet::new();
        for name in only {
            match self.node.components.get(name.as_str()) {
                Some(names) => asked.extend(names.iter().cloned()),
                None if all.contains(name) => drop(asked.insert(name.clone())),
                None => return Err(self.unknown(name)),
            }
        }
        Ok(asked)
    }

    fn unknown(&self, name: &Name) -> Error {
        let certificates = self.node.certificates.keys().map(Name::as_str);
        let there: BTreeSet<_> =
            certificates.chain(self.node.components.keys().map(String::as_str)).collect();
        Error::Unknown { name: name.clone(), there: there.into_iter().collect::<Vec<_>>().join(", ") }
    }

    pub(super) fn is_to_get(&self, name: &Name, missing: bool) -> bool {
        self.verdicts.get(name).is_some_and(|verdict| verdict.is_to_get(missing))
    }

    pub(super) fn bundle(&self, name: &Name) -> Option<&Bundle> {
        self.verdicts.get(name).and_then(Verdict::bundle)
    }

    /// The files that go with one of these certificates; one that goes with none is everyone's.
    pub(super) fn concerned(&self, asked: &BTreeSet<Name>) -> BTreeSet<&Path> {
        let trusts = self.node.trusts.iter().map(|trust| (&trust.path, &trust.certificates));
        let files = self.node.files.iter().map(|file| (&file.path, &file.needs));
        let keepsakes = self.node.keepsakes.iter().filter(|keepsake| {
            asked.contains(&keepsake.name) || keepsake.users.iter().any(|user| asked.contains(user))
        });
        let with = |names: &[Name]| names.is_empty() || names.iter().any(|name| asked.contains(name));
        let found = trusts.chain(files).filter(|(_, names)| with(names)).map(|(path, _)| path.as_path());
        found.chain(keepsakes.flat_map(Keepsake::paths)).collect()
    }
}
