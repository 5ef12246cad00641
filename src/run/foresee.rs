//! What a run will be refused for, as far as it shows without changing anything or asking anyone.

use std::path::Path;

use super::World;
use super::failure::Failure;
use super::load::server_file;
use super::survey::Survey;
use crate::ca;
use crate::disk;
use crate::report::{Action, Report, Trouble};
use crate::setting::Name;
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
            return self.may_ask(world, &certificate.ca);
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
