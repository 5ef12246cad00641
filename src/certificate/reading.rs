//! Reads one table: every fault in it, and what it means on this host.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use super::{Owner, Place, Settings, is_plain_path};
use crate::deed::{self, Hook};
use crate::identity::{Identity, Usage};
use crate::setting::{At, Fault, Mode, Name, Scope, Template};

/// The faults met while a table is read.
pub(super) struct Reading<'a> {
    pub(super) faults: Vec<Fault>,
    pub(super) name: &'a Name,
    pub(super) span: std::ops::Range<usize>,
    pub(super) scope: &'a Scope,
}

impl Reading<'_> {
    pub(super) fn fault(&mut self, span: Option<std::ops::Range<usize>>, message: impl std::fmt::Display) {
        let span = span.filter(|span| !span.is_empty()).unwrap_or_else(|| self.span.clone());
        self.faults.push(Fault::at(span, format!("certificate {} {message}", self.name)));
    }

    pub(super) fn identity(&mut self, settings: &Settings, certname: Option<&str>) -> Identity {
        let common_name =
            settings.common_name.as_ref().map(|cn| (cn.span(), cn.get_ref().render(self.scope)));
        let common_name = match common_name {
            Some((_, Ok(text))) => text,
            Some((span, Err(why))) => {
                self.fault(Some(span), format!("has a faulty common_name: {why}"));
                return self.identity(&Settings { common_name: None, ..settings.clone() }, certname);
            }
            None => certname.unwrap_or_default().to_owned(),
        };
        let usages = settings.usages.as_ref().map(|usages| usages.get_ref().clone());
        if usages.as_ref().is_some_and(BTreeSet::is_empty) {
            self.fault(
                settings.usages.as_ref().map(At::span),
                "has no usages; write \"server\", \"client\" or both",
            );
        }
        let before = self.faults.len();
        let identity = Identity {
            common_name,
            organization: settings
                .organization
                .as_ref()
                .map(|list| self.list("organization", list).into_iter().collect()),
            dns: self
                .names("dns", settings.dns.as_ref())
                .into_iter()
                .map(|name| name.to_ascii_lowercase())
                .collect(),
            ips: self.ips(settings.ips.as_ref()),
            uris: self.names("uris", settings.uris.as_ref()).into_iter().collect(),
            exact_usages: usages.is_some(),
            usages: usages.unwrap_or_else(|| [Usage::Server, Usage::Client].into()),
            key: settings.key.unwrap_or_default(),
            ttl: settings.ttl.as_ref().map(|span| span.get_ref().0),
        };
        if self.faults.len() == before {
            identity
                .check()
                .into_iter()
                .for_each(|why| self.fault(None, format!("cannot be asked for: {why}")));
        }
        identity
    }

    pub(super) fn certname(&mut self, settings: &Settings) -> Option<String> {
        let certname = settings.certname.as_ref()?;
        let rendered = certname.get_ref().render(self.scope);
        rendered
            .map_err(|why| self.fault(Some(certname.span()), format!("has a faulty certname: {why}")))
            .ok()
    }

    pub(super) fn hooks(&mut self, settings: &Settings) -> Vec<Hook> {
        let mut hooks = settings.hooks.clone().unwrap_or_default();
        match settings.reload.as_ref().map(|units| (units.span(), deed::reloads(units.get_ref()))) {
            Some((_, Ok(reloads))) => hooks.extend(reloads),
            Some((span, Err(why))) => self.fault(Some(span), format!("has a faulty reload: {why}")),
            None => {}
        }
        hooks
    }

    fn names(&mut self, key: &str, list: Option<&At<Vec<Template>>>) -> Vec<String> {
        list.map(|list| self.list(key, list)).unwrap_or_default()
    }

    fn list(&mut self, key: &str, list: &At<Vec<Template>>) -> Vec<String> {
        let mut texts = Vec::new();
        for template in list.get_ref() {
            match template.splice(self.scope) {
                Ok(found) => texts.extend(found),
                Err(why) => self.fault(Some(list.span()), format!("has a faulty {key}: {why}")),
            }
        }
        texts
    }

    fn ips(&mut self, list: Option<&At<Vec<Template>>>) -> BTreeSet<IpAddr> {
        let Some(list) = list else { return BTreeSet::new() };
        let mut ips = BTreeSet::new();
        for text in self.list("ips", list) {
            match text.parse() {
                Ok(ip) => drop(ips.insert(ip)),
                Err(_) => self
                    .fault(Some(list.span()), format!("has {text:?} among its ips, which is no IP address")),
            }
        }
        ips
    }

    pub(super) fn place(&mut self, settings: &Settings) -> Option<Place> {
        let Some(directory) = &settings.directory else {
            self.fault(None, "has no directory; say where its files are to lie");
            return None;
        };
        if !is_plain_path(directory.get_ref()) {
            self.fault(Some(directory.span()), "needs a directory that is an absolute path without '..'");
        }
        let span = settings.files.as_ref().map(At::span);
        let names = settings.files.as_ref().map(|files| files.get_ref().clone()).unwrap_or_default();
        let place = Place {
            directory: directory.get_ref().clone(),
            cert: names.cert.unwrap_or_else(|| format!("{}.crt", self.name)),
            key: names.key.unwrap_or_else(|| format!("{}.key", self.name)),
            chain: names.chain,
            combined: names.combined,
            layout: settings.layout.unwrap_or_default(),
            owner: Owner { user: settings.owner.clone(), group: settings.group.clone() },
            key_mode: settings.mode.and_then(|mode| mode.key).unwrap_or(Mode(0o600)),
            cert_mode: settings.mode.and_then(|mode| mode.cert).unwrap_or(Mode(0o644)),
            replace: settings.replace.unwrap_or(false),
        };
        let files = [Some(&place.cert), Some(&place.key), place.chain.as_ref(), place.combined.as_ref()];
        for file in files.into_iter().flatten().filter(|file| !is_file_name(file)) {
            self.fault(span.clone(), format!("has {file:?} among its files, which is not a plain file name"));
        }
        if place.key_mode.0 & 0o007 != 0 {
            self.fault(
                None,
                format!("has key mode {}, which lets every user in; at most 0660 can be", place.key_mode),
            );
        }
        Some(place)
    }
}

fn is_file_name(file: &str) -> bool {
    Path::new(file).file_name().is_some_and(|name| name == file) && !file.starts_with(".nodecert")
}
