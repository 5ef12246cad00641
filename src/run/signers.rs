//! The CAs of one run: opened with what lies on disk for them, and asked for their anchors.

use std::sync::Arc;
use std::time::Duration;

use tracing::info;
use zeroize::Zeroizing;

use super::dated::Dated;
use super::failure::Failure;
use super::load::{anchor_state, authority_state, crl_state, server_file};
use super::survey::Survey;
use super::{Ask, Run};
use crate::ca::{self, Ca, Lack, Material};
use crate::disk::{self, DiskError};
use crate::hooks;
use crate::setting::chain;
use crate::setting::{Name, Secret, SecretSource};
use crate::trust::{AnchorSource, Anchors, Pin, Tls};

/// The setting that a CA's anchors are read for: another pin is a reason to look again.
fn print_of(ca: &ca::Settings) -> String {
    Pin::of(format!("{:?}", ca.anchors()).as_bytes()).to_string()
}

impl Run<'_> {
    /// Whether a CA is to be asked for its anchors: where they are not known, and by the timer's run where
    /// they were read long ago; by a boot too, where the CA is asked for one of `names` anyway: it may sign with
    /// another root by now.
    pub(super) fn is_to_learn(&self, survey: &Survey, ca: &Name, names: &[Name], ask: &Ask) -> bool {
        let asked = || names.iter().any(|name| survey.is_to_get(name, ask.missing));
        match survey.anchors.get(ca) {
            Some(Ok(None)) => true,
            Some(Ok(Some(_))) => self.is_stale(survey, ca) && (!ask.missing || asked()),
            Some(Err(_)) | None => false,
        }
    }

    /// Whether a CA's revocation lists are to be read: where they are wanted as a file, as often as anchors.
    pub(super) fn is_to_read_crl(&self, survey: &Survey, name: &Name, ask: &Ask) -> bool {
        let wanted = survey.node.certificates.values().any(|c| c.ca == *name && c.crl.is_some());
        // What has no date is heeded, and read again.
        let dated = || matches!(Dated::read(self.root(), &crl_state(name)), Ok(Some(_)));
        wanted && (!dated() || !ask.missing && (ask.force || self.is_old_crl(survey, name)))
    }

    /// Reads a CA's revocation lists if they are to be read; says whether it did. Where they cannot be read
    /// now, what is known stays.
    pub(super) async fn learn_crl(&self, survey: &Survey, name: &Name, ask: &Ask) -> Result<bool, Failure> {
        match self.is_to_read_crl(survey, name, ask) {
            true => self.fetch_crl(survey, name).await.map(|()| true),
            false => Ok(false),
        }
    }

    fn is_old_crl(&self, survey: &Survey, name: &Name) -> bool {
        let refresh = survey.config.cas.get(name).map_or(Duration::MAX, |ca| ca.refresh);
        let known = Dated::read(self.root(), &crl_state(name)).ok().flatten();
        known.is_none_or(|known| known.is_older(refresh, survey.now))
    }

    async fn fetch_crl(&self, survey: &Survey, name: &Name) -> Result<(), Failure> {
        let Some(Ok(ca)) = self.cas.get(name) else { return Err(Failure::Waits(format!("CA {name}"))) };
        let Some(text) = ca.crl().await? else { return Ok(()) };
        let lists = Dated { since: survey.now, setting: String::new(), text };
        Ok(lists.keep(self.root(), &crl_state(name))?)
    }

    fn is_stale(&self, survey: &Survey, name: &Name) -> bool {
        let Some(ca) = survey.config.cas.get(name).filter(|ca| ca.needs_anchor_fetch()) else { return false };
        let known = Dated::read(self.root(), &anchor_state(name)).ok().flatten();
        known.is_none_or(|known| known.setting != print_of(ca) || known.is_older(ca.refresh, survey.now))
    }

    /// What a CA publishes now, beside what is known: an anchor leaves by its own end or by the operator's
    /// edit alone, for other hosts' certificates may still hang on it.
    pub(super) async fn fetch_anchors(
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
        let source = survey.config.cas.get(name).and_then(ca::Settings::anchors);
        let found = match source {
            Some(AnchorSource::Pins(pins)) => Anchors::pinned(&published, pins),
            Some(_) => Anchors::published(&published),
            // The embedded CA's own certificate lies with its key.
            None => Anchors::new(published),
        };
        let found =
            found.map_err(|source| Failure::Anchors { ca: name.clone(), source: Arc::new(source) })?;
        let mut anchors = known.map(|known| known.unexpired(survey.now)).unwrap_or_default();
        let news = !anchors.contain(&found);
        anchors.join(&found);
        if source.is_some() {
            self.keep_anchors(survey, name, &anchors)?;
        }
        for (subject, pin, _) in anchors.describe().into_iter().filter(|_| news) {
            info!(ca = %name, "CA {name}: trusts {subject:?} {pin}");
        }
        Ok(anchors)
    }

    fn keep_anchors(&self, survey: &Survey, name: &Name, anchors: &Anchors) -> Result<(), Failure> {
        let setting = survey.config.cas.get(name).map(print_of).unwrap_or_default();
        let known = Dated { since: survey.now, setting, text: anchors.pem() };
        Ok(known.keep(self.root(), &anchor_state(name))?)
    }

    pub(super) fn open_ca(&mut self, survey: &Survey, name: &Name) {
        if self.cas.contains_key(name) {
            return;
        }
        let Some(settings) = survey.config.cas.get(name) else { return };
        let material = self.prove_clock().and_then(|()| self.material(survey, name, settings));
        let opened = material.and_then(|material| {
            Ok(Ca::open(name, settings, material, &self.world.clock, self.deadline).map_err(Arc::new)?)
        });
        self.cas.insert(name.clone(), opened);
    }

    /// What lies on disk for a CA: whom it must prove to be, our secrets, our held certificates.
    pub(super) fn material(
        &self,
        survey: &Survey,
        name: &Name,
        settings: &ca::Settings,
    ) -> Result<Material, Failure> {
        let root = self.world.root.clone();
        let state = unwrapped_state(name);
        let sources = settings.secrets();
        let mut secrets: Vec<_> = sources.iter().map(|source| self.secret(source)).collect();
        let wrapped = sources.iter().position(|source| Some(*source) == settings.wrapped());
        let token = wrapped.and_then(|at| secrets.get(at)?.as_ref().ok());
        let token = token.map(|token| Pin::of(token.expose().as_bytes()).to_string());
        let stored = disk::read_state(self.root(), &state)?;
        let stored = stored.and_then(|text| unwrapped_from(&text, token.as_deref()));
        // Who opens a wrapping token again hears that someone opened it: it was this host.
        let opened = disk::read_state(self.root(), &opened_state(name))?;
        let spent = stored.is_none()
            && token.is_some()
            && opened.as_ref().map(|text| text.trim_end()) == token.as_deref();
        if let Some(at) = wrapped.filter(|_| spent) {
            secrets[at] = Err(Lack::absent(format!("{}: {SPENT}", sources[at])));
        }
        let token = token.filter(|_| !spent);
        if token.is_some() && stored.is_none() {
            // What is unwrapped cannot be had again.
            disk::prove_state(self.root(), &state)?;
        }
        Ok(Material {
            tls: self.server_anchors(name, settings)?,
            secrets,
            stored,
            bundles: survey
                .verdicts
                .iter()
                .filter_map(|(name, v)| Some((name.clone(), v.credential()?.clone())))
                .collect(),
            root: self.authority(name, settings)?,
            keep: Box::new(move |secret| {
                let text = format!("{}\n{}\n", token.as_deref().unwrap_or_default(), secret.expose());
                disk::keep_secret(&root, &state, Zeroizing::new(text).as_bytes())
                    .map_err(|error| chain(&error))
            }),
        })
    }

    fn server_anchors(&self, name: &Name, settings: &ca::Settings) -> Result<Option<Anchors>, Failure> {
        match settings.tls() {
            Some(Tls::File(path)) => server_file(self.world, name, path).map(Some),
            // What was taken the first time vouches from then on.
            Some(Tls::FirstUse) => {
                let known = disk::read_state(self.root(), &anchor_state(name))?;
                Ok(known.and_then(|text| Anchors::parse(text.as_bytes()).ok()))
            }
            Some(Tls::Pins(_) | Tls::System) | None => Ok(None),
        }
    }

    fn secret(&self, source: &SecretSource) -> Result<Secret, Lack> {
        disk::secret(self.root(), source, |argv| hooks::output(argv, self.stop))
            .map_err(|error| lack_of(&error))
    }

    /// The embedded CA's own key, made once.
    fn authority(
        &self,
        name: &Name,
        settings: &ca::Settings,
    ) -> Result<Option<ca::local::Authority>, Failure> {
        let ca::Kind::Local(settings) = &settings.kind else { return Ok(None) };
        let local = |source| Failure::Local { ca: name.clone(), source: Arc::new(source) };
        let state = authority_state(name);
        if let Some(pem) = disk::read_state(self.root(), &state)? {
            let authority = ca::local::Authority::parse(&pem, &pem).map_err(local)?;
            // One that has ended, as under a clock in 1970, can sign nothing any more.
            if authority.lives(self.world.clock.now()) {
                return Ok(Some(authority));
            }
        }
        let made = ca::local::Authority::make(name, settings, self.world.clock.now()).map_err(local)?;
        let text = Zeroizing::new([made.key().pem(), &made.pem()].concat());
        disk::keep_secret(self.root(), &state, text.as_bytes())?;
        info!(ca = %name, "CA {name}: made the embedded CA's key");
        Ok(Some(made))
    }
}

pub(super) fn lack_of(error: &DiskError) -> Lack {
    Lack { why: chain(error), is_fault: !error.is_temporary() }
}

const SPENT: &str =
    "this host opened that wrapping token, and what was in it is used and erased; put a new one there";

/// Where what was unwrapped for a CA lies until it is not needed.
pub(super) fn unwrapped_state(ca: &Name) -> String {
    format!("unwrapped/{ca}")
}

/// The fingerprint of the wrapping token that was opened here last.
pub(super) fn opened_state(ca: &Name) -> String {
    format!("opened/{ca}")
}

/// The secret of an earlier run, unless another wrapping token has come since.
fn unwrapped_from(text: &str, token: Option<&str>) -> Option<Secret> {
    let (from, secret) = text.split_once('\n')?;
    token.is_none_or(|token| token == from).then(|| Secret::new(secret))
}
