//! What is wanted and what is there, without changing anything or asking anyone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::failure::{Error, Failure};
use super::{AS_CONFIGURED, TEXT, World};
use crate::bundle::{Bundle, Rejected};
use crate::ca;
use crate::certificate::{Certificate, Owner};
use crate::config::{self, Config, Faults, Text};
use crate::disk::{self, DiskError};
use crate::facts::{self, Facts};
use crate::file::{Content, File, Part};
use crate::key::pem_block;
use crate::node::{self, Node, TrustFile};
use crate::plan::{self, Reason, Verdict};
use crate::render;
use crate::report::{Action, CertificateLine, FileLine, Trouble};
use crate::root::Root;
use crate::setting::{Name, chain};
use crate::trust::{self, AnchorSource, Anchors};

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
    gone: BTreeSet<Name>,
    /// The certificates whose files cannot be read, or lie where someone else's do.
    pub(super) unreadable: BTreeMap<Name, Failure>,
    /// The certificates that were made on another machine.
    pub(super) cloned: BTreeSet<Name>,
    pub(super) now: SystemTime,
}

/// Reads configuration, facts and disk, and judges what is held.
pub fn survey(world: &World, force: bool) -> Result<Survey, Error> {
    let config = load(world)?;
    let facts = gather(world, &config)?;
    let present = disk::present(&world.root, &node::probes(&config)).map_err(Error::Disk)?;
    let node = node::expand(&config, &facts, &present).map_err(Error::Config)?;
    let cloned = cloned(&world.root, &facts, &node);
    let now = world.clock.now();
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
        gone: BTreeSet::new(),
        cloned,
        now,
    };
    let names: Vec<_> = survey.node.certificates.keys().cloned().collect();
    names.iter().for_each(|name| survey.look(world, name, force));
    Ok(survey)
}

/// Reads the configuration: one file as the caller sees it, or the files below the root.
fn load(world: &World) -> Result<Config, Error> {
    let texts = match &world.config {
        Some(path) => {
            let (text, private) = disk::read_outside(path).map_err(Error::Disk)?;
            vec![Text { path: path.clone(), text, private }]
        }
        None => texts(&world.root)?,
    };
    config::parse(texts).map_err(Error::Config)
}

fn texts(root: &Root) -> Result<Vec<Text>, Error> {
    let mut paths = vec![PathBuf::from(config::MAIN)];
    let listed =
        config::DROP_INS.map(|directory| (directory, disk::list_dropins(root, Path::new(directory))));
    let listed = listed.into_iter().map(|(directory, names)| Ok((directory, names.map_err(Error::Disk)?)));
    paths.extend(config::order(listed.collect::<Result<Vec<_>, Error>>()?));
    let mut texts = Vec::new();
    for path in paths {
        if let Some((text, private)) = disk::read_text(root, &path, TEXT).map_err(Error::Disk)? {
            texts.push(Text { path, text, private });
        }
    }
    if texts.is_empty() {
        let message =
            format!("there is no configuration: write {}, or name a file with --config", config::MAIN);
        return Err(Error::Config(Faults::plain(vec![message])));
    }
    Ok(texts)
}

fn gather(world: &World, config: &Config) -> Result<Facts, Error> {
    let sources = facts::Sources::read(|path| {
        disk::read_text(&world.root, Path::new(path), TEXT).ok()?.map(|(text, _)| text)
    });
    facts::gather(&config.node, &world.host, &sources).map_err(Error::Facts)
}

/// What is detected of this host, under the configuration's `[node]`, if there is a configuration.
pub fn detect(world: &World) -> Result<Facts, Error> {
    match load(world) {
        Ok(config) => gather(world, &config),
        Err(Error::Config(faults)) if world.config.is_some() => Err(Error::Config(faults)),
        Err(_) => {
            let config = config::parse(Vec::new()).map_err(Error::Config)?;
            gather(world, &config)
        }
    }
}

/// The machine that the state was made on.
pub(super) const MACHINE: &str = "machine-id";
/// The certificates that are still another machine's, a line each.
pub(super) const CLONED: &str = "cloned";

/// State that was made on another machine came here by copying a disk: its keys are someone else's too.
fn cloned(root: &Root, facts: &Facts, node: &Node) -> BTreeSet<Name> {
    // What cannot be read here is the trouble of each certificate below.
    let read = |state| disk::read_state(root, state).ok().flatten();
    let names = node.certificates.keys();
    match (&facts.machine_id, read(MACHINE)) {
        (Some(here), Some(made)) if made.trim() != here.value => names.cloned().collect(),
        (Some(_), Some(_)) => {
            let listed = read(CLONED).unwrap_or_default();
            names.filter(|name| listed.lines().any(|line| line == name.as_str())).cloned().collect()
        }
        _ => BTreeSet::new(),
    }
}

pub(super) fn authority_state(ca: &Name) -> String {
    format!("ca/{ca}/authority.pem")
}

/// How the state of what a CA publishes begins: with when it was read, in seconds since 1970.
pub(super) const READ_AT: &str = "# read at ";

/// The revocation lists that a CA published when they were read last.
pub(super) fn known_crl(root: &Root, ca: &Name) -> Result<Option<String>, DiskError> {
    let state = disk::read_state(root, &crl_state(ca))?;
    Ok(state.and_then(|text| Some(text.strip_prefix(READ_AT)?.split_once('\n')?.1.to_owned())))
}

pub(super) fn crl_state(ca: &Name) -> String {
    format!("crl/{ca}.pem")
}

pub(super) fn anchor_state(ca: &Name) -> String {
    format!("anchors/{ca}.pem")
}

/// What is known of a CA's anchors without asking it.
fn known_anchors(
    root: &Root,
    name: &Name,
    ca: &ca::Settings,
    now: SystemTime,
) -> Result<Option<Anchors>, Failure> {
    // What is damaged in the state is asked for again.
    let kept = |state: &str| {
        Ok::<_, Failure>(disk::read_state(root, state)?.and_then(|text| Anchors::parse(text.as_bytes()).ok()))
    };
    match ca.anchors() {
        Some(AnchorSource::File(path)) => anchors_of_file(root, name, path).map(Some),
        Some(AnchorSource::Pins(pins)) => {
            let known = kept(&anchor_state(name))?;
            Ok(known.and_then(|known| Anchors::pinned(known.certificates(), pins).ok()))
        }
        Some(AnchorSource::Published | AnchorSource::FirstUse) => kept(&anchor_state(name)),
        None => Ok(kept(&authority_state(name))?.filter(|own| own.unexpired(now) == *own)),
    }
}

fn anchors_of_file(root: &Root, name: &Name, path: &Path) -> Result<Anchors, Failure> {
    let (ca, key, path) = (name.clone(), "anchors.file", path.to_owned());
    match disk::read_text(root, &path, TEXT)? {
        Some((text, _)) => Anchors::parse(text.as_bytes()).map_err(|source| Failure::CaFile {
            ca,
            key,
            path,
            source: Arc::new(source),
        }),
        None => Err(Failure::NoCaFile { ca, key, path }),
    }
}

impl Survey {
    /// Reads and judges what is held of one certificate, and what drifted around it.
    fn look(&mut self, world: &World, name: &Name, force: bool) {
        let Some(certificate) = self.node.certificates.get(name) else { return };
        let verdict = self.verdict(world, certificate, self.known_anchors(&certificate.ca), force);
        let bundle = verdict.as_ref().ok().and_then(Verdict::bundle);
        let drift = bundle.map(|bundle| disk::drift(&world.root, certificate, bundle, self.now));
        match verdict {
            Ok(verdict) => drop(self.verdicts.insert(name.clone(), verdict)),
            Err(error) => drop(self.unreadable.insert(name.clone(), error.into())),
        }
        match drift {
            Some(Ok(drift)) => {
                let paths: Vec<_> = certificate.place.paths().into_iter().map(|(_, path)| path).collect();
                let is_gone =
                    || disk::present(&world.root, &paths).is_ok_and(|there| there.len() < paths.len());
                if !drift.is_empty() && is_gone() {
                    self.gone.insert(name.clone());
                }
                self.drifts.insert(name.clone(), drift);
            }
            Some(Err(error)) => drop(self.unreadable.insert(name.clone(), error.into())),
            None => {}
        }
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
        let cloned = self.cloned.contains(&certificate.name);
        let verdict = plan::decide(certificate, held, anchors, cloned, force, self.now);
        let (Some(bundle), Some(anchors)) = (verdict.bundle(), anchors) else { return Ok(verdict) };
        let Some(lists) = known_crl(&world.root, &certificate.ca)? else { return Ok(verdict) };
        let [leaf, above @ ..] = bundle.pair().chain() else { return Ok(verdict) };
        let issuers: Vec<_> = above.iter().chain(anchors.certificates()).cloned().collect();
        match trust::revokes(&lists, &issuers, leaf) {
            Ok(true) => Ok(Verdict::Obtain(Some(bundle.pair().clone()), Reason::Unfit(Rejected::Revoked))),
            Ok(false) | Err(_) => Ok(verdict),
        }
    }

    /// A CA's anchors, where they are known.
    pub(super) fn known_anchors(&self, ca: &Name) -> Option<&Anchors> {
        self.anchors.get(ca)?.as_ref().ok()?.as_ref()
    }

    /// The certificates that names stand for; all if there is none.
    pub(super) fn asked(&self, only: &[Name]) -> Result<BTreeSet<Name>, Error> {
        if only.is_empty() {
            return Ok(self.node.certificates.keys().cloned().collect());
        }
        let mut asked = BTreeSet::new();
        for name in only {
            match self.node.components.get(name.as_str()) {
                Some(certificates) => asked.extend(certificates.iter().cloned()),
                None if self.node.certificates.contains_key(name) => drop(asked.insert(name.clone())),
                None => return Err(self.unknown(name)),
            }
        }
        Ok(asked)
    }

    fn unknown(&self, name: &Name) -> Error {
        let certificates = self.node.certificates.keys().map(Name::as_str);
        let there: Vec<_> = certificates.chain(self.node.components.keys().map(String::as_str)).collect();
        Error::Unknown { name: name.clone(), there: there.join(", ") }
    }

    pub(super) fn is_to_get(&self, name: &Name, missing: bool) -> bool {
        self.verdicts.get(name).is_some_and(|verdict| verdict.is_to_get(missing))
    }

    pub(super) fn bundle(&self, name: &Name) -> Option<&Bundle> {
        self.verdicts.get(name).and_then(Verdict::bundle)
    }

    /// Whether a file goes with one of these certificates; one that goes with none is everyone's.
    pub(super) fn concerns(&self, path: &Path, asked: &BTreeSet<Name>) -> bool {
        let trusts = self.node.trusts.iter().map(|trust| (&trust.path, &trust.certificates));
        let files = self.node.files.iter().map(|file| (&file.path, &file.needs));
        if self.node.keepsakes.iter().any(|keepsake| path == keepsake.path || path == keepsake.public) {
            return true;
        }
        let with = trusts.chain(files).filter(|(there, _)| *there == path).map(|(_, names)| names);
        with.into_iter().any(|names| names.is_empty() || names.iter().any(|name| asked.contains(name)))
    }

    pub(super) fn line(&self, certificate: &Certificate) -> CertificateLine {
        let verdict = self.verdicts.get(&certificate.name);
        let drift = self.drifts.get(&certificate.name).map(Vec::as_slice).unwrap_or_default();
        let leaf = verdict.and_then(Verdict::pair).map(|pair| pair.leaf().clone());
        let (action, reason) = match verdict.and_then(Verdict::reason) {
            Some(reason) => match self.blocked(certificate) {
                Some(remedy) => (Action::Blocked, format!("{reason}; first {remedy} has to free its name")),
                None => (Action::Obtain, reason.to_string()),
            },
            None if !drift.is_empty() => (Action::Repair, drift.join("; ")),
            None => (Action::Keep, AS_CONFIGURED.to_owned()),
        };
        let trouble = self.trouble(certificate);
        CertificateLine {
            name: certificate.name.clone(),
            ca: certificate.ca.clone(),
            state: verdict.map_or("unreadable", Verdict::state),
            usable: verdict.is_some_and(Verdict::is_usable) && !self.gone.contains(&certificate.name),
            action: if trouble.is_some() { Action::Blocked } else { action },
            reason,
            changed: false,
            trouble,
            renew_after: leaf.as_ref().map(|leaf| certificate.due_at(leaf)),
            leaf,
            paths: self.paths(certificate),
        }
    }

    /// What its CA's operator has to do first, where the certificate that is held bears the only name that
    /// the new one can have.
    fn blocked(&self, certificate: &Certificate) -> Option<String> {
        let wanted = &certificate.identity.common_name;
        let verdict = self.verdicts.get(&certificate.name)?;
        let held = verdict.pair().filter(|pair| pair.leaf().common_names == [wanted.as_str()])?;
        let renewable = verdict.bundle().is_some() && !certificate.rotate_key;
        let known = !matches!(verdict.reason(), Some(Reason::AnchorsUnknown));
        let same_key = held.leaf().has_key_kind(certificate.identity.key);
        if renewable && same_key || !known {
            return None;
        }
        self.config.cas.get(&certificate.ca)?.frees(wanted)
    }

    /// What a person should know: a CA that no one vouched for is named until someone does.
    pub(super) fn notes(&self) -> Vec<String> {
        let unseen = self.config.cas.iter().filter(|(_, ca)| ca.anchors() == Some(&AnchorSource::FirstUse));
        unseen
            .flat_map(|(name, _)| {
                let known = self.known_anchors(name).map(Anchors::describe).unwrap_or_default();
                known.into_iter().map(move |(subject, pin, _)| {
                    format!("CA {name}: {subject:?} was taken unseen (first_use = true); compare {pin} with what its operator says, then write tls.pins = [\"{pin}\"] instead")
                })
            })
            .collect()
    }

    fn part(&self, name: &Name, bundle: &Bundle, part: Part) -> String {
        let pair = bundle.pair();
        match part {
            Part::Key => pair.key().pem().to_owned(),
            Part::Leaf => pair.chain().iter().take(1).map(|der| pem_block("CERTIFICATE", der)).collect(),
            Part::Authorities => {
                let certificate = self.node.certificates.get(name);
                let anchors = certificate.and_then(|certificate| self.known_anchors(&certificate.ca));
                pair.chain_pem() + &anchors.map(Anchors::pem).unwrap_or_default()
            }
        }
    }

    /// What stands in the way before anyone is asked.
    fn trouble(&self, certificate: &Certificate) -> Option<Trouble> {
        let anchors = self.anchors.get(&certificate.ca).and_then(|known| known.as_ref().err());
        self.unreadable.get(&certificate.name).or(anchors).map(Failure::trouble)
    }

    fn paths(&self, certificate: &Certificate) -> Vec<(&'static str, PathBuf)> {
        let mut paths = certificate.place.paths();
        paths.extend(certificate.trust.iter().map(|path| ("ca", path.clone())));
        paths
    }

    /// The anchors that a trust file is to hold, if all are known.
    pub(super) fn trusted(&self, trust: &TrustFile) -> Option<Anchors> {
        let mut anchors = Anchors::default();
        for ca in &trust.cas {
            anchors.join(self.known_anchors(ca)?);
        }
        Some(anchors)
    }

    /// Why the anchors that a trust file is to hold are not all known.
    pub(super) fn unknown_anchors(&self, trust: &TrustFile) -> Option<&Failure> {
        trust.cas.iter().find_map(|ca| self.anchors.get(ca)?.as_ref().err())
    }

    pub(super) fn trust_line(&self, world: &World, trust: &TrustFile) -> FileLine {
        let difference = match self.trusted(trust) {
            Some(anchors) => {
                disk::trust_is(&world.root, &trust.path, &anchors, &Owner::default(), trust.replace)
                    .map_err(Failure::from)
            }
            None => disk::present(&world.root, std::slice::from_ref(&trust.path)).map_err(Failure::from).map(
                |there| {
                    let why = if there.is_empty() {
                        disk::ABSENT
                    } else {
                        "the CA's certificates are not known yet"
                    };
                    Some(why.to_owned())
                },
            ),
        };
        file_line("ca".to_owned(), &trust.path, difference)
    }

    pub(super) fn file_line(&self, world: &World, file: &File) -> FileLine {
        let difference = self
            .rendered(world, file)
            .and_then(|text| Ok(disk::differs(&world.root, file, text.as_bytes())?));
        let mut line = file_line(file.name.to_string(), &file.path, difference);
        let waits: Vec<_> =
            file.needs.iter().filter(|need| self.bundle(need).is_none()).map(Name::as_str).collect();
        if !waits.is_empty() && line.action != Action::Keep {
            line.reason = format!("{}; waits for {}", line.reason, waits.join(" and "));
        }
        line
    }

    pub(super) fn rendered(&self, world: &World, file: &File) -> Result<String, Failure> {
        let template = match &file.content {
            Content::Part(name, part) => match self.bundle(name) {
                Some(bundle) => self.part(name, bundle, *part),
                None => return Err(Failure::Waits(format!("certificate {name}"))),
            },
            Content::Crl(ca) => match known_crl(&world.root, ca)? {
                Some(lists) => lists,
                None => return Err(Failure::Waits(format!("the revocation list of CA {ca}"))),
            },
            Content::Template(path) => match disk::read_text(&world.root, path, TEXT)? {
                Some((text, _)) => text,
                None => return Err(DiskError::Missing { path: path.clone() }.into()),
            },
            _ => String::new(),
        };
        let rendered = render::render(&file.content, &template, &node::scope(&self.facts));
        rendered.map_err(|error| Failure::Render(Arc::new(error)))
    }
}

pub(super) fn file_line(name: String, path: &Path, difference: Result<Option<String>, Failure>) -> FileLine {
    let (action, reason, trouble) = match difference {
        Ok(None) => (Action::Keep, AS_CONFIGURED.to_owned(), None),
        Ok(Some(why)) if why == disk::ABSENT => (Action::Obtain, why, None),
        Ok(Some(why)) => (Action::Repair, why, None),
        Err(failure @ Failure::Waits(_)) => (Action::Obtain, failure.to_string(), None),
        Err(failure) => (Action::Blocked, chain(&failure), Some(failure.trouble())),
    };
    FileLine { name, path: path.to_owned(), action, reason, changed: false, trouble }
}
