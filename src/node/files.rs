//! The files that no component asks for: the user's own, those of a puppet agent, and revocation lists.

use std::collections::BTreeMap;
use std::path::Path;

use super::Expanding;
use crate::certificate::{Owner, is_plain_path};
use crate::deed::{self, Deed};
use crate::file::{self, Content, File, Part};
use crate::setting::{Fault, Mode, Name};

impl Expanding<'_> {
    pub(super) fn files(&mut self) {
        for (name, settings) in &self.config.files {
            let settings = settings.get_ref();
            for (what, path) in [("path", &settings.path), ("template", &settings.template)] {
                if !is_plain_path(path.get_ref()) {
                    let message = format!("file {name} needs a {what} that is an absolute path without '..'");
                    self.faults.push(Fault::at(path.span(), message));
                }
            }
            let unknown =
                settings.needs.iter().filter(|need| !self.node.certificates.contains_key(need.get_ref()));
            self.faults.extend(unknown.map(|need| {
                Fault::at(
                    need.span(),
                    format!(
                        "file {name} needs certificate {:?}, which is not there",
                        need.get_ref().as_str()
                    ),
                )
            }));
            self.node.files.push(File {
                name: name.clone(),
                path: settings.path.get_ref().clone(),
                content: Content::Template(settings.template.get_ref().clone()),
                needs: settings.needs.iter().map(|need| need.get_ref().clone()).collect(),
                owner: Owner { user: settings.owner.clone(), group: settings.group.clone() },
                mode: settings.mode.unwrap_or(Mode(0o644)),
                replace: settings.replace,
                deeds: deeds(name, settings, &mut self.faults),
                quiet: None,
            });
        }
    }

    /// What a puppet agent needs so that it does not enrol by itself: puppet's documentation, "ssldir".
    pub(super) fn ssldirs(&mut self) {
        for certificate in self.node.certificates.values_mut() {
            let Some(ssldir) = &certificate.ssldir else { continue };
            certificate.crl.get_or_insert_with(|| ssldir.join("crl.pem"));
            let own = format!("{}.pem", certificate.identity.common_name);
            let parts = [
                (Part::Key, ssldir.join("private_keys").join(&own), Mode(0o640)),
                (Part::Leaf, ssldir.join("certs").join(&own), Mode(0o644)),
                (Part::Authorities, ssldir.join("certs/ca.pem"), Mode(0o644)),
            ];
            self.node.files.extend(parts.map(|(part, path, mode)| File {
                name: certificate.name.clone(),
                path,
                content: Content::Part(certificate.name.clone(), part),
                needs: vec![certificate.name.clone()],
                owner: certificate.place.owner.clone(),
                mode,
                replace: certificate.place.replace,
                deeds: Vec::new(),
                quiet: None,
            }));
        }
    }

    /// A revocation list is a file that waits for what its CA publishes; certificates that name one path
    /// share it.
    pub(super) fn crls(&mut self) {
        let mut there: BTreeMap<&Path, &Name> = BTreeMap::new();
        for certificate in self.node.certificates.values() {
            let (Some(path), Some(ca)) = (&certificate.crl, self.config.cas.get(&certificate.ca)) else {
                continue;
            };
            if !ca.publishes_crl() {
                let message = format!(
                    "certificate {} has files.crl, and the revocation list of CA {} is not read; leave it out",
                    certificate.name, certificate.ca
                );
                self.faults.push(Fault { span: None, message });
            }
            if there.insert(path, &certificate.ca) == Some(&certificate.ca) {
                continue;
            }
            self.node.files.push(File {
                name: certificate.name.clone(),
                path: path.clone(),
                content: Content::Crl(certificate.ca.clone()),
                needs: Vec::new(),
                owner: certificate.place.owner.clone(),
                mode: Mode(0o644),
                // A list that puppet read is the CA's all the same.
                replace: certificate.place.replace || certificate.ssldir.is_some(),
                deeds: Vec::new(),
                quiet: None,
            });
        }
    }
}

fn deeds(name: &Name, settings: &file::Settings, faults: &mut Vec<Fault>) -> Vec<Deed> {
    let reload = settings.reload.as_ref().map(|units| (units.span(), deed::reloads(units.get_ref())));
    let reloads = match reload {
        Some((_, Ok(reloads))) => reloads,
        Some((span, Err(why))) => {
            faults.push(Fault::at(span, format!("file {name} has a faulty reload: {why}")));
            Vec::new()
        }
        None => Vec::new(),
    };
    settings.hooks.iter().chain(&reloads).map(|hook| hook.deed.clone()).collect()
}
