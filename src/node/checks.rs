//! What only shows when everything is expanded: two things in one place or under one name, and in which order
//! certificates can be had.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::Expanding;
use crate::ca;
use crate::setting::{At, Fault, Name};

impl Expanding<'_> {
    /// No two things in one place.
    pub(super) fn collisions(&mut self) {
        let mut there: BTreeMap<PathBuf, String> = BTreeMap::new();
        let certificates = self.node.certificates.values().flat_map(|certificate| {
            let paths = certificate.place.paths().into_iter();
            paths.map(move |(usage, path)| (path, format!("the {usage} of certificate {}", certificate.name)))
        });
        let files = self.node.files.iter().map(|file| (file.path.clone(), format!("file {}", file.name)));
        let trusts =
            self.node.trusts.iter().map(|trust| (trust.path.clone(), "the CA certificates".to_owned()));
        let keepsakes = self.node.keepsakes.iter().flat_map(|keepsake| {
            keepsake.paths().map(|path| (path.to_owned(), format!("keepsake {}", keepsake.name)))
        });
        for (path, what) in certificates.chain(files).chain(trusts).chain(keepsakes) {
            if let Some(other) = there.get(&path) {
                let message =
                    format!("{other} and {what} have one path, {}; give one of them another", path.display());
                self.faults.push(Fault { span: None, message });
            }
            there.insert(path, what);
        }
    }

    /// Where a CA keeps one certificate a name, no two can have one.
    pub(super) fn names(&mut self) {
        let mut there: BTreeMap<(&[String], &str), &Name> = BTreeMap::new();
        for certificate in self.node.certificates.values() {
            let ca = self.config.cas.get(&certificate.ca).filter(|ca| ca.keeps_names());
            let Some(ca) = ca else { continue };
            let name = &certificate.identity.common_name;
            if let Some(other) = there.insert((ca.urls(), name), &certificate.name) {
                let message = format!(
                    "certificates {other} and {} have one certname at CA {}, {name:?}, and one certname is one certificate; give one of them another, such as certname = \"{}.{{{{ fqdn }}}}\"",
                    certificate.name, certificate.ca, certificate.name
                );
                self.faults.push(Fault { span: None, message });
            }
        }
    }

    /// A CA can be logged in to only with a certificate that is there.
    pub(super) fn logins_exist(&mut self) {
        // What is at fault may be what was to have that certificate.
        if !self.faults.is_empty() {
            return;
        }
        let there = &self.node.certificates;
        let logins = self
            .config
            .cas
            .iter()
            .flat_map(|(ca, settings)| settings.logs_in_with().into_iter().map(move |login| (ca, login)));
        let unknown = logins.filter(|(_, login)| !there.contains_key(login.get_ref()));
        let names = there.keys().map(Name::as_str).collect::<Vec<_>>().join(", ");
        let fault = |(ca, login): (&Name, &At<Name>)| {
            let message = format!(
                "CA {ca} is logged in to with certificate {:?}, which is not there: there are {names}",
                login.get_ref().as_str()
            );
            Fault::at(login.span(), message)
        };
        self.faults.extend(unknown.map(fault));
    }

    /// A certificate waits for those that its CA can only be logged in to with.
    pub(super) fn waves(&mut self) {
        let mut waiting: BTreeSet<Name> = self.node.certificates.keys().cloned().collect();
        while !waiting.is_empty() {
            let ready = |strict: bool| {
                let free = |name: &&Name| !self.logins(name, strict).any(|login| waiting.contains(login));
                waiting.iter().filter(free).cloned().collect::<Vec<_>>()
            };
            let wave = Some(ready(true)).filter(|wave| !wave.is_empty()).unwrap_or_else(|| ready(false));
            if wave.is_empty() {
                let names = waiting.iter().map(Name::as_str).collect::<Vec<_>>().join(", ");
                let message = format!(
                    "certificates {names} wait for one another: each is signed by a CA that is logged in to with another of them. Add a second way to log in, such as approle"
                );
                return self.faults.push(Fault { span: None, message });
            }
            wave.iter().for_each(|name| drop(waiting.take(name)));
            self.node.waves.push(wave);
        }
    }

    /// The certificates that the CA of a certificate is logged in to with. Where that CA has another way
    /// too, they are worth waiting for, but not for ever (`strict`).
    fn logins(&self, name: &Name, strict: bool) -> impl Iterator<Item = &Name> {
        let ca =
            self.node.certificates.get(name).and_then(|certificate| self.config.cas.get(&certificate.ca));
        let ca = ca.filter(|ca| strict || !ca.logs_in_otherwise());
        ca.into_iter().flat_map(ca::Settings::logs_in_with).map(At::get_ref)
    }
}
