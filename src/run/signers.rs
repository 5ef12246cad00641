//! The CAs of one run: opened with what lies on disk for them, and asked for their anchors.

use std::collections::BTreeSet;
use std::sync::Arc;

use tracing::{info, warn};
use zeroize::Zeroizing;

use super::failure::Failure;
use super::survey::{Survey, anchor_state};
use super::{Run, TEXT};
use crate::ca::{self, Ca, Material};
use crate::disk;
use crate::hooks;
use crate::report::chain;
use crate::setting::{Name, Secret, SecretSource};
use crate::trust::{AnchorSource, Anchors, Pin, Tls};

impl Run<'_> {
    /// Anchors that are not known yet come from the CA, over the connection that `tls` vouches for; the
    /// embedded CA is made here, once. What is held is judged again with what was learned.
    pub(super) async fn learn_anchors(&mut self, survey: &mut Survey, force: bool) {
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
