//! The flow, to be read from top to bottom. This room alone calls those that do I/O.
//!
//! ```text
//! load -> survey -> learn anchors -> trust files -> waves of obtain -> repair -> files -> report
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::bundle::{Bundle, Pair, Rejected};
use crate::ca::local::LocalError;
use crate::ca::{self, Ca, CaError, Deadline, Material, Request};
use crate::certificate::{Certificate, Owner};
use crate::clock::Clock;
use crate::config::{self, Config, Faults, Text};
use crate::disk::{self, DiskError};
use crate::facts::{self, Facts, FactsError};
use crate::file::{Content, File};
use crate::hooks;
use crate::key::{Key, KeyError, Pending};
use crate::node::{self, Node, TrustFile};
use crate::plan::{self, Reason, Verdict};
use crate::render::{self, RenderError};
use crate::report::{Action, CertificateLine, Exit, FileLine, Report, Trouble, chain};
use crate::root::Root;
use crate::setting::{Name, Secret, SecretSource};
use crate::trust::{AnchorSource, Anchors, Pin, Tls, TrustError};

/// Another run that does not end by then is worth a word (exit 75).
const LOCK_WAIT: Duration = Duration::from_secs(60);
/// Bytes; no configuration, template or CA file is larger.
const TEXT: usize = 1024 * 1024;

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

/// Why a command did nothing at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is faulty.
    #[error("{0}")]
    Config(Faults),
    /// The host does not know its own name, or the like.
    #[error("cannot tell what is true of this host")]
    Facts(#[source] FactsError),
    /// Files that every command needs cannot be read or written.
    #[error("nothing was done")]
    Disk(#[source] DiskError),
    /// A name on the command line that is not in the configuration.
    #[error("there is no certificate or component {name}: there are {there}")]
    Unknown {
        /// What was asked for.
        name: Name,
        /// What there is.
        there: String,
    },
}

impl Error {
    /// The exit code it asks for.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Config(_) | Self::Unknown { .. } => Exit::Config,
            Self::Facts(error) if error.is_temporary() => Exit::Temporary,
            Self::Facts(_) => Exit::Config,
            Self::Disk(error) => exit_of(error),
        }
    }
}

/// Why one certificate or file was not brought to what it should be.
#[derive(Debug, Clone, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Ca(Arc<CaError>),
    #[error(
        "CA {ca} signed a certificate that is not the one asked for, and it was not installed: {why}{hint}"
    )]
    Rejected { ca: Name, why: Rejected, hint: String },
    #[error("cannot know the certificates of CA {ca}")]
    Anchors { ca: Name, source: Arc<TrustError> },
    #[error("CA {ca} cannot be used: there is no file {path}; put the CA's certificates there")]
    NoAnchorFile { ca: Name, path: String },
    #[error("the embedded CA {ca} cannot be used")]
    Local { ca: Name, source: Arc<LocalError> },
    #[error(transparent)]
    Disk(Arc<DiskError>),
    #[error("cannot make a key")]
    Key(#[source] Arc<KeyError>),
    #[error("cannot render it")]
    Render(#[source] Arc<RenderError>),
    #[error("waits for {0}")]
    Waits(String),
}

impl Failure {
    fn trouble(&self) -> Trouble {
        Trouble { message: chain(self), exit: self.exit() }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Ca(error) if error.is_temporary() => Exit::Temporary,
            // A certificate that begins later than now speaks of a clock, here or there, that is wrong.
            Self::Rejected { why: Rejected::NotYetValid { .. }, .. } | Self::Waits(_) => Exit::Temporary,
            Self::Ca(_) | Self::Rejected { .. } | Self::Anchors { .. } => Exit::Refused,
            Self::NoAnchorFile { .. } | Self::Render(_) => Exit::Config,
            Self::Disk(error) => exit_of(error),
            Self::Key(_) | Self::Local { .. } => Exit::Fault,
        }
    }
}

fn exit_of(error: &DiskError) -> Exit {
    if error.is_temporary() { Exit::Temporary } else { Exit::Fault }
}

impl From<DiskError> for Failure {
    fn from(error: DiskError) -> Self {
        Self::Disk(Arc::new(error))
    }
}

impl From<Arc<CaError>> for Failure {
    fn from(error: Arc<CaError>) -> Self {
        Self::Ca(error)
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        Self::Key(Arc::new(error))
    }
}

/// What is wanted and what is there: the ground of every command. Nothing was changed, no one was asked.
#[derive(Debug)]
pub struct Survey {
    /// What is true of the host.
    pub facts: Facts,
    /// What the host is to hold.
    pub node: Node,
    config: Config,
    anchors: BTreeMap<Name, Result<Option<Anchors>, Failure>>,
    verdicts: BTreeMap<Name, Verdict>,
    drifts: BTreeMap<Name, Vec<String>>,
    cloned: bool,
    now: SystemTime,
}

/// Reads configuration, facts and disk, and judges what is held.
pub fn survey(world: &World, force: bool) -> Result<Survey, Error> {
    let config = load(world)?;
    let facts = gather(world, &config)?;
    let present = disk::present(&world.root, &node::probes(&config)).map_err(Error::Disk)?;
    let node = node::expand(&config, &facts, &present).map_err(Error::Config)?;
    let cloned = is_cloned(&world.root, &facts).map_err(Error::Disk)?;
    let anchors =
        config.cas.iter().map(|(name, ca)| (name.clone(), known_anchors(&world.root, name, ca))).collect();
    let mut survey = Survey {
        facts,
        node,
        config,
        anchors,
        verdicts: BTreeMap::new(),
        drifts: BTreeMap::new(),
        cloned,
        now: world.clock.now(),
    };
    for certificate in survey.node.certificates.values() {
        let verdict = survey.verdict(world, certificate, force).map_err(Error::Disk)?;
        if let Verdict::Keep(bundle) | Verdict::Renew(bundle, _) = &verdict {
            let drift = disk::drift(&world.root, certificate, bundle, survey.now).map_err(Error::Disk)?;
            survey.drifts.insert(certificate.name.clone(), drift);
        }
        survey.verdicts.insert(certificate.name.clone(), verdict);
    }
    Ok(survey)
}

/// Brings the host to what the configuration asks for.
pub async fn run(world: &World, ask: &Ask) -> Result<(Report, Facts), Error> {
    let _lock = disk::lock(&world.root, LOCK_WAIT).map_err(Error::Disk)?;
    let mut survey = survey(world, ask.force)?;
    let asked = survey.asked(&ask.only)?;
    let mut run =
        Run { world, deadline: Deadline::after(ask.deadline), cas: BTreeMap::new(), done: BTreeMap::new() };
    run.learn_anchors(&mut survey, ask.force).await;
    let trusts = run.trust_files(&survey);
    for wave in survey.node.waves.clone() {
        let due = wave.into_iter().filter(|name| asked.contains(name) && survey.is_to_get(name, ask.missing));
        let due: Vec<_> = due.collect();
        run.open_cas(&survey, &due);
        let results = join_all(due.iter().map(|name| run.obtain(&survey, name, &trusts))).await;
        for (name, result) in due.into_iter().zip(results) {
            run.settle(&mut survey, name, result);
        }
    }
    run.repair(&survey, &asked);
    let files = run.files(&survey);
    run.close().await;
    run.remember_machine(&survey, ask)?;
    let report = run.report(&survey, ask, trusts, files);
    Ok((report, survey.facts))
}

/// What `run` would do, without doing it.
pub fn plan(survey: &Survey, world: &World, only: &[Name]) -> Result<Report, Error> {
    let asked = survey.asked(only)?;
    let mut report = status(survey, world, only)?;
    report.certificates.retain(|line| asked.contains(&line.name));
    Ok(report)
}

/// What is there.
pub fn status(survey: &Survey, world: &World, only: &[Name]) -> Result<Report, Error> {
    let asked = survey.asked(only)?;
    let chosen = survey.node.certificates.values().filter(|certificate| asked.contains(&certificate.name));
    let certificates = chosen.map(|certificate| survey.line(certificate)).collect();
    let mut files: Vec<_> = survey.node.trusts.iter().map(|trust| survey.trust_line(world, trust)).collect();
    files.extend(survey.node.files.iter().map(|file| survey.file_line(world, file)));
    if !only.is_empty() {
        let needed = |path: &Path| survey.belongs(path, &asked);
        files.retain(|line| needed(&line.path));
    }
    Ok(Report { certificates, files, notes: Vec::new() })
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

const MACHINE: &str = "machine-id";

/// State that was made on another machine came here by copying a disk: its keys are someone else's too.
fn is_cloned(root: &Root, facts: &Facts) -> Result<bool, DiskError> {
    let Some(here) = &facts.machine_id else { return Ok(false) };
    let made = disk::read_state(root, MACHINE)?;
    Ok(made.is_some_and(|made| made.trim() != here.value))
}

fn anchor_state(ca: &Name) -> String {
    format!("anchors/{ca}.pem")
}

/// What is known of a CA's anchors without asking it.
fn known_anchors(root: &Root, name: &Name, ca: &ca::Settings) -> Result<Option<Anchors>, Failure> {
    let parse = |text: &str| Anchors::parse(text.as_bytes());
    let failed = |source| Failure::Anchors { ca: name.clone(), source: Arc::new(source) };
    match ca.anchors() {
        Some(AnchorSource::File(path)) => match disk::read_text(root, path, TEXT)? {
            Some((text, _)) => parse(&text).map(Some).map_err(failed),
            None => Err(Failure::NoAnchorFile { ca: name.clone(), path: path.display().to_string() }),
        },
        Some(AnchorSource::Pins(pins)) => {
            let known = disk::read_state(root, &anchor_state(name))?.and_then(|text| parse(&text).ok());
            Ok(known.and_then(|known| Anchors::pinned(known.certificates(), pins).ok()))
        }
        // What is damaged here is asked for again.
        Some(AnchorSource::Published) | None => {
            Ok(disk::read_state(root, &anchor_state(name))?.and_then(|text| parse(&text).ok()))
        }
    }
}

/// Writes metrics where the caller wants them, whole or not at all.
pub fn publish(path: &Path, metrics: &str) -> Result<(), Error> {
    disk::put_outside(path, metrics.as_bytes()).map_err(Error::Disk)
}

impl Survey {
    fn verdict(&self, world: &World, certificate: &Certificate, force: bool) -> Result<Verdict, DiskError> {
        let held = disk::held(&world.root, certificate)?;
        let anchors = self.anchors.get(&certificate.ca).and_then(|known| known.as_ref().ok()?.as_ref());
        Ok(plan::decide(certificate, held, anchors, self.cloned, force, self.now))
    }

    /// The certificates that names stand for; all if there is none.
    fn asked(&self, only: &[Name]) -> Result<BTreeSet<Name>, Error> {
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
        let there: Vec<_> = certificates.chain(self.node.components.keys().copied()).collect();
        Error::Unknown { name: name.clone(), there: there.join(", ") }
    }

    fn is_to_get(&self, name: &Name, missing: bool) -> bool {
        match self.verdicts.get(name) {
            Some(Verdict::Obtain(..)) => true,
            Some(Verdict::Renew(..)) => !missing,
            Some(Verdict::Keep(_)) | None => false,
        }
    }

    fn bundle(&self, name: &Name) -> Option<&Bundle> {
        self.verdicts.get(name).and_then(Verdict::bundle)
    }

    /// Whether a file goes with one of these certificates.
    fn belongs(&self, path: &Path, asked: &BTreeSet<Name>) -> bool {
        let trusts = self.node.trusts.iter().map(|trust| (&trust.path, &trust.certificates));
        let files = self.node.files.iter().map(|file| (&file.path, &file.needs));
        trusts
            .chain(files)
            .any(|(there, names)| there == path && names.iter().any(|name| asked.contains(name)))
    }

    fn line(&self, certificate: &Certificate) -> CertificateLine {
        let verdict = self.verdicts.get(&certificate.name);
        let drift = self.drifts.get(&certificate.name).map(Vec::as_slice).unwrap_or_default();
        let leaf = verdict.and_then(Verdict::pair).map(|pair| pair.leaf().clone());
        let (action, reason) = match verdict.and_then(Verdict::reason) {
            Some(reason) => (Action::Obtain, reason.to_string()),
            None if !drift.is_empty() => (Action::Repair, drift.join("; ")),
            None => (Action::Keep, "it is what the configuration asks for".to_owned()),
        };
        CertificateLine {
            name: certificate.name.clone(),
            ca: certificate.ca.clone(),
            state: verdict.map_or("missing", Verdict::state),
            action,
            reason,
            changed: false,
            trouble: self
                .anchors
                .get(&certificate.ca)
                .and_then(|known| known.as_ref().err())
                .map(Failure::trouble),
            renew_after: leaf.as_ref().map(|leaf| certificate.due_at(leaf)),
            leaf,
            paths: self.paths(certificate),
        }
    }

    fn paths(&self, certificate: &Certificate) -> Vec<(&'static str, PathBuf)> {
        let mut paths = certificate.place.paths();
        paths.extend(certificate.trust.iter().map(|path| ("ca", path.clone())));
        paths
    }

    /// The anchors that a trust file is to hold, if all are known.
    fn trusted(&self, trust: &TrustFile) -> Option<Anchors> {
        let mut anchors = Anchors::default();
        for ca in &trust.cas {
            anchors.join(self.anchors.get(ca)?.as_ref().ok()?.as_ref()?);
        }
        Some(anchors)
    }

    fn trust_line(&self, world: &World, trust: &TrustFile) -> FileLine {
        let difference = match self.trusted(trust) {
            Some(anchors) => {
                disk::trust_is(&world.root, &trust.path, &anchors, &Owner::default(), trust.replace)
                    .map_err(Failure::from)
            }
            None => Ok(Some("the CA's certificates are not known yet".to_owned())),
        };
        file_line("ca".to_owned(), &trust.path, difference)
    }

    fn file_line(&self, world: &World, file: &File) -> FileLine {
        let difference = self
            .rendered(world, file)
            .and_then(|text| Ok(disk::differs(&world.root, file, text.as_bytes())?));
        let mut line = file_line(file.name.to_string(), &file.path, difference);
        let waits: Vec<_> =
            file.needs.iter().filter(|need| self.bundle(need).is_none()).map(Name::as_str).collect();
        if !waits.is_empty() && line.action != Action::Keep {
            line.reason = format!("{}, after {}", line.reason, waits.join(" and "));
        }
        line
    }

    fn rendered(&self, world: &World, file: &File) -> Result<String, Failure> {
        let template = match &file.content {
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

fn file_line(name: String, path: &Path, difference: Result<Option<String>, Failure>) -> FileLine {
    let (action, reason, trouble) = match difference {
        Ok(None) => (Action::Keep, "it is what the configuration asks for".to_owned(), None),
        Ok(Some(why)) if why.starts_with("there is none") => (Action::Obtain, why, None),
        Ok(Some(why)) => (Action::Repair, why, None),
        Err(failure) => (Action::Blocked, chain(&failure), Some(failure.trouble())),
    };
    FileLine { name, path: path.to_owned(), action, reason, changed: false, trouble }
}

/// One run: its CAs, opened when first needed, and what became of each certificate.
struct Run<'a> {
    world: &'a World,
    deadline: Deadline,
    cas: BTreeMap<Name, Result<Ca, Failure>>,
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

impl Run<'_> {
    fn root(&self) -> &Root {
        &self.world.root
    }

    /// Anchors that are not known yet come from the CA, over the connection that `tls` vouches for; the
    /// embedded CA is made here, once. What is held is judged again with what was learned.
    async fn learn_anchors(&mut self, survey: &mut Survey, force: bool) {
        let used: BTreeSet<_> =
            survey.node.certificates.values().map(|certificate| certificate.ca.clone()).collect();
        for ca in used {
            if !matches!(survey.anchors.get(&ca), Some(Ok(None))) {
                continue;
            }
            self.open_ca(survey, &ca);
            let learned = self.fetch_anchors(survey, &ca).await;
            if let Err(failure) = &learned {
                warn!(ca = %ca, "{}", chain(failure));
            }
            survey.anchors.insert(ca.clone(), learned.map(Some));
            let judged: Vec<_> = survey
                .node
                .certificates
                .values()
                .filter(|certificate| certificate.ca == ca)
                .filter_map(|c| Some((c.name.clone(), survey.verdict(self.world, c, force).ok()?)))
                .collect();
            survey.verdicts.extend(judged);
        }
    }

    async fn fetch_anchors(&self, survey: &Survey, name: &Name) -> Result<Anchors, Failure> {
        let published = match self.cas.get(name) {
            Some(Ok(ca)) => ca.published().await?,
            Some(Err(failure)) => return Err(failure.clone()),
            None => return Err(Failure::Waits(format!("CA {name}"))),
        };
        let source = survey.config.cas.get(name).and_then(ca::Settings::anchors);
        let anchors = match source {
            Some(AnchorSource::Pins(pins)) => Anchors::pinned(&published, pins),
            _ => Anchors::published(&published),
        };
        let anchors =
            anchors.map_err(|source| Failure::Anchors { ca: name.clone(), source: Arc::new(source) })?;
        disk::keep_state(self.root(), &anchor_state(name), anchors.pem().as_bytes())?;
        for (subject, pin, _) in anchors.describe() {
            info!(ca = %name, "trusts {subject:?} {pin}");
        }
        Ok(anchors)
    }

    /// Trust files come before any leaf that needs a new anchor in them.
    fn trust_files(&self, survey: &Survey) -> Trusts {
        let known = survey.node.trusts.iter().filter_map(|trust| Some((trust, survey.trusted(trust)?)));
        known
            .map(|(trust, anchors)| {
                let widened = disk::widen(
                    self.root(),
                    &trust.path,
                    &anchors,
                    &Owner::default(),
                    trust.replace,
                    survey.now,
                )
                .map_err(Failure::from);
                if let Ok(true) = widened {
                    info!(path = %trust.path.display(), "trust file written");
                }
                (trust.path.clone(), widened)
            })
            .collect()
    }

    fn open_cas(&mut self, survey: &Survey, due: &[Name]) {
        let cas: BTreeSet<_> =
            due.iter().filter_map(|name| survey.node.certificates.get(name)).map(|c| c.ca.clone()).collect();
        cas.iter().for_each(|ca| self.open_ca(survey, ca));
    }

    fn open_ca(&mut self, survey: &Survey, name: &Name) {
        if self.cas.contains_key(name) {
            return;
        }
        let Some(settings) = survey.config.cas.get(name) else { return };
        let opened = self.material(survey, name, settings).and_then(|material| {
            Ok(Ca::open(name, settings, material, &self.world.clock, self.deadline).map_err(Arc::new)?)
        });
        self.cas.insert(name.clone(), opened);
    }

    /// What lies on disk for a CA: whom it must prove to be, our secrets, our held certificates.
    fn material(&self, survey: &Survey, name: &Name, settings: &ca::Settings) -> Result<Material, Failure> {
        let root = self.world.root.clone();
        let state = format!("unwrapped/{name}");
        let token = settings.wrapped().map(|source| self.secret(source));
        let token = token.and_then(Result::ok).map(|token| Pin::of(token.expose().as_bytes()).to_string());
        let stored = disk::read_state(self.root(), &state)?;
        Ok(Material {
            tls: self.server_anchors(name, settings)?,
            secrets: settings.secrets().into_iter().map(|source| self.secret(source)).collect(),
            stored: stored.and_then(|text| unwrapped_from(&text, token.as_deref())),
            bundles: survey
                .verdicts
                .iter()
                .filter_map(|(name, v)| Some((name.clone(), v.bundle()?.clone())))
                .collect(),
            root: self.authority(name, settings)?,
            keep: Box::new(move |secret| {
                let text = format!("{}\n{}\n", token.as_deref().unwrap_or_default(), secret.expose());
                disk::keep_state(&root, &state, Zeroizing::new(text).as_bytes())
                    .map_err(|error| chain(&error))
            }),
        })
    }

    fn server_anchors(&self, name: &Name, settings: &ca::Settings) -> Result<Option<Anchors>, Failure> {
        let Some(Tls::File(path)) = settings.tls() else { return Ok(None) };
        match disk::read_text(self.root(), path, TEXT)? {
            Some((text, _)) => Anchors::parse(text.as_bytes())
                .map(Some)
                .map_err(|source| Failure::Anchors { ca: name.clone(), source: Arc::new(source) }),
            None => Err(Failure::NoAnchorFile { ca: name.clone(), path: path.display().to_string() }),
        }
    }

    fn secret(&self, source: &SecretSource) -> Result<Secret, String> {
        disk::secret(self.root(), source, hooks::output).map_err(|error| chain(&error))
    }

    /// The embedded CA's own key, made once.
    fn authority(
        &self,
        name: &Name,
        settings: &ca::Settings,
    ) -> Result<Option<ca::local::Authority>, Failure> {
        let ca::Kind::Local(settings) = &settings.kind else { return Ok(None) };
        let local = |source| Failure::Local { ca: name.clone(), source: Arc::new(source) };
        let state = format!("ca/{name}/authority.pem");
        if let Some(pem) = disk::read_state(self.root(), &state)? {
            return Ok(Some(ca::local::Authority::parse(&pem, &pem).map_err(local)?));
        }
        let made = ca::local::Authority::make(name, settings, self.world.clock.now()).map_err(local)?;
        let text = Zeroizing::new([made.key().pem(), &made.pem()].concat());
        disk::keep_state(self.root(), &state, text.as_bytes())?;
        info!(ca = %name, "made the embedded CA's key");
        Ok(Some(made))
    }

    /// From a request to a certificate in force. Until the commit, what is held stays as it is.
    async fn obtain(
        &self,
        survey: &Survey,
        name: &Name,
        trusts: &Trusts,
    ) -> Result<(Bundle, String), Failure> {
        let certificate = &survey.node.certificates[name];
        let (anchors, settings, ca) = self.signer(survey, certificate)?;
        if let Some(Err(failure)) = certificate.trust.as_ref().and_then(|path| trusts.get(path)) {
            return Err(failure.clone());
        }
        let verdict = survey.verdicts.get(name);
        disk::prove_writable(self.root(), certificate, verdict.and_then(Verdict::bundle).is_some())?;
        let pending = self.pending(survey, certificate, settings, verdict)?;
        info!(certificate = %name, ca = %certificate.ca, "asking for a certificate: {}", reason_of(verdict));
        let request = Request {
            name,
            csr: &pending.csr,
            identity: &certificate.identity,
            role: certificate.role.as_deref(),
        };
        let issued = ca.obtain(&request).await?;
        let now = self.world.clock.now();
        let accepted = Pair::new(pending.key.clone(), issued.chain)
            .and_then(|pair| plan::accept(certificate, pair, anchors, now));
        let bundle = match accepted {
            Ok(bundle) => bundle,
            Err(why) => return Err(self.rejected(certificate, settings, why)),
        };
        disk::commit(self.root(), certificate, &bundle, now)?;
        disk::drop_pending(self.root(), name)?;
        info!(certificate = %name, ca = %certificate.ca, "installed, valid until {}", crate::bundle::at(bundle.leaf().not_after));
        Ok((bundle, reason_of(verdict)))
    }

    fn signer<'s>(
        &'s self,
        survey: &'s Survey,
        certificate: &Certificate,
    ) -> Result<(&'s Anchors, &'s ca::Settings, &'s Ca), Failure> {
        let waits = || Failure::Waits(format!("CA {}", certificate.ca));
        let anchors =
            survey.anchors.get(&certificate.ca).ok_or_else(waits)?.as_ref().map_err(Clone::clone)?;
        let settings = survey.config.cas.get(&certificate.ca).ok_or_else(waits)?;
        let ca = self.cas.get(&certificate.ca).ok_or_else(waits)?.as_ref().map_err(Clone::clone)?;
        Ok((anchors.as_ref().ok_or_else(waits)?, settings, ca))
    }

    /// The request that is still open, if it asks for what is wanted now; else a new one, on disk before it
    /// is sent.
    fn pending(
        &self,
        survey: &Survey,
        certificate: &Certificate,
        settings: &ca::Settings,
        verdict: Option<&Verdict>,
    ) -> Result<Pending, Failure> {
        let (wanted, dialect) = (&certificate.identity, settings.dialect());
        let open = if survey.cloned { None } else { disk::pending(self.root(), &certificate.name)? };
        if let Some(open) = open.filter(|open| open.asks_for(wanted, dialect)) {
            return Ok(open);
        }
        let kept = verdict
            .and_then(Verdict::pair)
            .filter(|pair| !certificate.rotate_key && pair.leaf().has_key_kind(wanted.key));
        let key = match kept {
            Some(pair) => pair.key().clone(),
            None => Arc::new(Key::generate(wanted.key)?),
        };
        let pending = Pending::new(key, wanted, dialect)?;
        disk::keep_pending(self.root(), &certificate.name, &pending)?;
        Ok(pending)
    }

    /// A request that led to a bad answer is not made again as it is.
    fn rejected(&self, certificate: &Certificate, settings: &ca::Settings, why: Rejected) -> Failure {
        if let Err(error) = disk::drop_pending(self.root(), &certificate.name) {
            warn!(certificate = %certificate.name, "{}", chain(&error));
        }
        let hint = settings.hint(&why).map(|hint| format!(". {hint}")).unwrap_or_default();
        Failure::Rejected { ca: certificate.ca.clone(), why, hint }
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

    /// Modes, owners and links that drifted are set right without asking anyone.
    fn repair(&mut self, survey: &Survey, asked: &BTreeSet<Name>) {
        let drifted = survey.drifts.iter().filter(|(name, drift)| !drift.is_empty() && asked.contains(name));
        for (name, _) in drifted {
            let (Some(certificate), Some(bundle)) = (survey.node.certificates.get(name), survey.bundle(name))
            else {
                continue;
            };
            if matches!(self.done.get(name), Some(Done::Failed(_))) {
                continue;
            }
            let done = match disk::repair(self.root(), certificate, bundle, survey.now) {
                Ok(mended) => Done::Repaired(mended.join("; ")),
                Err(error) => Done::Failed(error.into()),
            };
            if let Done::Repaired(what) = &done {
                info!(certificate = %name, "repaired: {what}");
            }
            self.done.insert(name.clone(), done);
        }
    }

    /// Rendered files wait until every certificate they need is held.
    fn files(&self, survey: &Survey) -> Vec<FileLine> {
        let lines = survey.node.files.iter().map(|file| {
            let waits: Vec<_> =
                file.needs.iter().filter(|need| survey.bundle(need).is_none()).map(Name::as_str).collect();
            if !waits.is_empty() {
                return waiting_line(file, &waits.join(" and "));
            }
            let mut line = survey.file_line(self.world, file);
            if line.action == Action::Keep || line.trouble.is_some() {
                return line;
            }
            let put = survey
                .rendered(self.world, file)
                .and_then(|text| Ok(disk::put(self.root(), file, text.as_bytes(), survey.now)?));
            match put {
                Ok(changed) => line.changed = changed,
                Err(failure) => line.trouble = Some(failure.trouble()),
            }
            if line.changed {
                info!(path = %file.path.display(), "file written: {}", line.reason);
            }
            line
        });
        lines.collect()
    }

    async fn close(&self) {
        join_all(self.cas.values().filter_map(|ca| ca.as_ref().ok()).map(Ca::close)).await;
    }

    /// The state is this machine's from now on, once nothing of another machine is left in it.
    fn remember_machine(&self, survey: &Survey, ask: &Ask) -> Result<(), Error> {
        let Some(id) = &survey.facts.machine_id else { return Ok(()) };
        let failed = self.done.values().any(|done| matches!(done, Done::Failed(_)));
        let whole = ask.only.is_empty() && !failed;
        let known = disk::read_state(self.root(), MACHINE).map_err(Error::Disk)?;
        match known {
            Some(known) if known.trim() == id.value => Ok(()),
            Some(_) if !whole => Ok(()),
            _ => disk::keep_state(self.root(), MACHINE, format!("{}\n", id.value).as_bytes())
                .map_err(Error::Disk),
        }
    }

    fn report(&self, survey: &Survey, ask: &Ask, trusts: Trusts, files: Vec<FileLine>) -> Report {
        let certificates = survey.node.certificates.values().map(|certificate| {
            let mut line = survey.line(certificate);
            if let (Some(Verdict::Renew(..)), true) = (survey.verdicts.get(&certificate.name), ask.missing) {
                line.action = Action::Keep;
                line.reason = format!("{}, which is left to the timer", line.reason);
            }
            match self.done.get(&certificate.name) {
                Some(Done::Obtained(reason)) => {
                    (line.action, line.reason, line.changed) = (Action::Obtain, reason.clone(), true);
                }
                Some(Done::Repaired(what)) => {
                    (line.action, line.reason, line.changed) = (Action::Repair, what.clone(), true);
                }
                Some(Done::Failed(failure)) => line.trouble = Some(failure.trouble()),
                None => {}
            }
            line
        });
        let trusts = survey.node.trusts.iter().map(|trust| {
            let mut line = survey.trust_line(self.world, trust);
            match trusts.get(&trust.path) {
                Some(Ok(changed)) => {
                    line.changed = *changed;
                    line.action = if *changed { Action::Obtain } else { Action::Keep };
                    line.reason = "it holds the CA's certificates".to_owned();
                }
                Some(Err(failure)) => line.trouble = Some(failure.trouble()),
                None => line.action = Action::Blocked,
            }
            line
        });
        Report {
            certificates: certificates.collect(),
            files: trusts.chain(files).collect(),
            notes: Vec::new(),
        }
    }
}

fn waiting_line(file: &File, waits: &str) -> FileLine {
    FileLine {
        name: file.name.to_string(),
        path: file.path.clone(),
        action: Action::Blocked,
        reason: format!("waits for {waits}"),
        changed: false,
        trouble: None,
    }
}

/// The secret of an earlier run, unless another wrapping token has come since.
fn unwrapped_from(text: &str, token: Option<&str>) -> Option<Secret> {
    let (from, secret) = text.split_once('\n')?;
    token.is_none_or(|token| token == from).then(|| Secret::new(secret))
}

fn reason_of(verdict: Option<&Verdict>) -> String {
    verdict.and_then(Verdict::reason).map(Reason::to_string).unwrap_or_default()
}
