//! The CAs of one run: opened with what lies on disk for them, and asked for their anchors.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tracing::{info, warn};
use zeroize::Zeroizing;

use super::failure::Failure;
use super::survey::{READ_AT, Survey, anchor_state, crl_state, known_crl};
use super::{Ask, Run, TEXT};
use crate::ca::{self, Ca, Material};
use crate::disk;
use crate::hooks;
use crate::report::chain;
use crate::setting::{Name, Secret, SecretSource};
use crate::trust::{AnchorSource, Anchors, Pin, Tls};

/// The first line of what was read from a CA.
fn read_now(survey: &Survey) -> String {
    let read = survey.now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    format!("{READ_AT}{read}\n")
}

impl Run<'_> {
    /// Anchors that are not known yet, or were read long ago, come from the CA, over the connection that
    /// `tls` vouches for; the embedded CA is made here, once. What is held is judged again with what was
    /// learned. Where nothing can be learned, what is known stays in force.
    pub(super) async fn learn_anchors(&mut self, survey: &mut Survey, ask: &Ask) {
        let used: BTreeSet<_> =
            survey.node.certificates.values().map(|certificate| certificate.ca.clone()).collect();
        for ca in used {
            let Some(Ok(known)) = survey.anchors.get(&ca).cloned() else { continue };
            if known.is_some() && (ask.missing || !self.is_stale(survey, &ca)) {
                continue;
            }
            self.open_ca(survey, &ca);
            match (self.fetch_anchors(survey, &ca, known.as_ref()).await, known) {
                (Ok(anchors), _) => {
                    survey.anchors.insert(ca.clone(), Ok(Some(anchors)));
                    survey.judge_again(self.world, &ca, ask.force);
                }
                (Err(failure), known) => {
                    warn!(ca = %ca, "{}", chain(&failure));
                    match known {
                        Some(_) => drop(self.stale.insert(ca, failure)),
                        None => drop(survey.anchors.insert(ca, Err(failure))),
                    }
                }
            }
        }
        // One that is logged in to with a certificate of a later wave is opened again when that is there.
        self.cas.retain(|ca, _| survey.config.cas.get(ca).is_none_or(|ca| ca.logs_in_with().is_empty()));
    }

    /// Revocation lists that are wanted as files are read as often as anchors; one that cannot be read now
    /// stays as it is.
    pub(super) async fn learn_crls(&mut self, survey: &mut Survey, ask: &Ask) {
        let wanted: BTreeSet<_> =
            survey.node.certificates.values().filter(|c| c.crl.is_some()).map(|c| c.ca.clone()).collect();
        for ca in wanted {
            let refresh = survey.config.cas.get(&ca).map_or(Duration::MAX, |ca| ca.refresh);
            let there = matches!(known_crl(self.root(), &ca), Ok(Some(_)));
            let stale = self.is_older(survey, &crl_state(&ca), refresh) || ask.force;
            if there && (ask.missing || !stale) {
                continue;
            }
            self.open_ca(survey, &ca);
            match self.fetch_crl(survey, &ca).await {
                Ok(()) => survey.judge_again(self.world, &ca, ask.force),
                Err(failure) => warn!(ca = %ca, "{}", chain(&failure)),
            }
        }
    }

    async fn fetch_crl(&self, survey: &Survey, name: &Name) -> Result<(), Failure> {
        let lists = match self.cas.get(name) {
            Some(Ok(ca)) => ca.crl().await?,
            Some(Err(failure)) => return Err(failure.clone()),
            None => return Err(Failure::Waits(format!("CA {name}"))),
        };
        let Some(lists) = lists else { return Ok(()) };
        let state = format!("{}{lists}", read_now(survey));
        Ok(disk::keep_state(self.root(), &crl_state(name), state.as_bytes())?)
    }

    fn is_stale(&self, survey: &Survey, name: &Name) -> bool {
        let Some(ca) = survey.config.cas.get(name).filter(|ca| ca.needs_anchor_fetch()) else { return false };
        self.is_older(survey, &anchor_state(name), ca.refresh)
    }

    fn is_older(&self, survey: &Survey, state: &str, refresh: Duration) -> bool {
        let state = disk::read_state(self.root(), state).ok().flatten();
        let read = state.and_then(|text| text.lines().next()?.strip_prefix(READ_AT)?.parse::<u64>().ok());
        let read = SystemTime::UNIX_EPOCH + Duration::from_secs(read.unwrap_or(0));
        // A time to come was written under a clock that was wrong.
        survey.now.duration_since(read).map_or(true, |age| age >= refresh)
    }

    /// What a CA publishes now, beside what is known: an anchor leaves by its own end or by the operator's
    /// edit alone, for other hosts' certificates may still hang on it.
    async fn fetch_anchors(
        &self,
        survey: &Survey,
        name: &Name,
        known: Option<&Anchors>,
    ) -> Result<Anchors, Failure> {
        let published = match self.cas.get(name) {
            Some(Ok(ca)) => ca.published().await?,
            Some(Err(failure)) => return Err(failure.clone()),
            None => return Err(Failure::Waits(format!("CA {name}"))),
        };
        let found = match survey.config.cas.get(name).and_then(ca::Settings::anchors) {
            Some(AnchorSource::Pins(pins)) => Anchors::pinned(&published, pins),
            _ => Anchors::published(&published),
        };
        let found =
            found.map_err(|source| Failure::Anchors { ca: name.clone(), source: Arc::new(source) })?;
        let mut anchors = known.map(|known| known.unexpired(survey.now)).unwrap_or_default();
        let news = !anchors.contain(&found);
        anchors.join(&found);
        let state = format!("{}{}", read_now(survey), anchors.pem());
        disk::keep_state(self.root(), &anchor_state(name), state.as_bytes())?;
        for (subject, pin, _) in anchors.describe().into_iter().filter(|_| news) {
            info!(ca = %name, "trusts {subject:?} {pin}");
        }
        Ok(anchors)
    }

    pub(super) fn open_cas(&mut self, survey: &Survey, due: &[Name]) {
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
        let path = match settings.tls() {
            Some(Tls::File(path)) => path,
            // What was taken the first time vouches from then on.
            Some(Tls::FirstUse) => {
                let known = disk::read_state(self.root(), &anchor_state(name))?;
                return Ok(known.and_then(|text| Anchors::parse(text.as_bytes()).ok()));
            }
            Some(Tls::Pins(_) | Tls::System) | None => return Ok(None),
        };
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
}

/// The secret of an earlier run, unless another wrapping token has come since.
fn unwrapped_from(text: &str, token: Option<&str>) -> Option<Secret> {
    let (from, secret) = text.split_once('\n')?;
    token.is_none_or(|token| token == from).then(|| Secret::new(secret))
}
