//! What a run will be refused for, as far as it shows without changing anything or asking anyone.

use std::path::Path;
use std::sync::Arc;

use super::World;
use super::failure::Failure;
use super::load::server_file;
use super::signers::{lack_of, unwrapped_state};
use super::survey::Survey;
use crate::ca::{self, CaError, Lack};
use crate::certificate::Certificate;
use crate::disk;
use crate::plan::Verdict;
use crate::report::{Action, Report, Trouble};
use crate::setting::{Name, SecretSource};
use crate::trust::Tls;

impl Survey {
    /// Marks what is to be done and cannot be.
    pub(super) fn foresee(&self, world: &World, report: &mut Report) {
        disk::admit(&world.root, &self.node);
        for line in report.certificates.iter_mut().filter(|line| is_to_come(line.action, &line.trouble)) {
            if let Err(failure) = self.may_come(world, &line.name, line.action) {
                line.trouble = Some(self.trouble(&failure, &["certificate", line.name.as_str()]));
                line.action = Action::Blocked;
            }
        }
        for line in report.files.iter_mut().filter(|line| is_to_come(line.action, &line.trouble)) {
            if let Err(failure) = self.may_be_written(world, &line.path) {
                line.trouble = Some(self.trouble(&failure, &[]));
                line.action = Action::Blocked;
            }
        }
    }

    fn may_come(&self, world: &World, name: &Name, action: Action) -> Result<(), Failure> {
        let certificate = &self.node.certificates[name];
        if action == Action::Obtain {
            disk::may_commit(&world.root, certificate, self.bundle(name).is_some())?;
            disk::may_write(&world.root, Path::new(disk::STATE))?;
            self.may_ask(world, &certificate.ca)?;
            return self.may_log_in(world, certificate);
        }
        Ok(disk::may_write(&world.root, &certificate.place.directory)?)
    }

    /// Whether there is what a CA's server is known by.
    fn may_ask(&self, world: &World, ca: &Name) -> Result<(), Failure> {
        match self.config.cas.get(ca).and_then(ca::Settings::tls) {
            Some(Tls::File(path)) => server_file(world, ca, path).map(drop),
            _ => Ok(()),
        }
    }

    /// Whether there is a secret to log in with, as far as files show: another may be there for a unit alone.
    fn may_log_in(&self, world: &World, certificate: &Certificate) -> Result<(), Failure> {
        let ca = &certificate.ca;
        let Some(settings) = self.config.cas.get(ca) else { return Ok(()) };
        // Taken over from puppet's agent, or renewed by what it has.
        let needs_none = certificate.ssldir.is_some() || self.bundle(&certificate.name).is_some();
        if settings.keeps_names() && needs_none || self.has_login(world, ca, settings)? {
            return Ok(());
        }
        let sources = settings.secrets();
        let lack = |source: &&SecretSource| match source {
            SecretSource::File(path) => disk::secret_file(&world.root, path).err(),
            _ => None,
        };
        let lacks: Vec<_> = sources.iter().filter_map(lack).map(|error| lack_of(&error)).collect();
        // Of a ladder one rung is enough.
        if lacks.is_empty() || matches!(settings.kind, ca::Kind::Vault(_)) && lacks.len() < sources.len() {
            return Ok(());
        }
        let is_fault = lacks.iter().any(|lack| lack.is_fault);
        let why = lacks.into_iter().map(|lack| lack.why).collect::<Vec<_>>().join("; ");
        Err(Arc::new(CaError::NoSecret { ca: ca.clone(), lack: Lack { why, is_fault } }).into())
    }

    /// Whether a CA knows this host by what it holds, or will hold when that CA is asked.
    fn has_login(&self, world: &World, ca: &Name, settings: &ca::Settings) -> Result<bool, Failure> {
        let comes = |login: &Name| {
            let held = self.verdicts.get(login).and_then(Verdict::credential).is_some();
            held || self.node.certificates.get(login).is_some_and(|login| login.ca != *ca)
        };
        let kept = disk::read_state(&world.root, &unwrapped_state(ca))?;
        Ok(kept.is_some() || settings.logs_in_with().into_iter().any(|login| comes(login.get_ref())))
    }

    fn may_be_written(&self, world: &World, path: &Path) -> Result<(), Failure> {
        disk::may_write(&world.root, path.parent().unwrap_or(path))?;
        let trust = self.node.trusts.iter().find(|trust| trust.path == path);
        let mut unknown =
            trust.into_iter().flat_map(|trust| &trust.cas).filter(|ca| self.known_anchors(ca).is_none());
        unknown.try_for_each(|ca| self.may_ask(world, ca))
    }
}

fn is_to_come(action: Action, trouble: &Option<Trouble>) -> bool {
    matches!(action, Action::Obtain | Action::Repair) && trouble.is_none()
}
