//! What is said of each certificate and file, and what would be done about it.

use super::failure::Failure;
use super::load::known_crl;
use super::survey::Survey;
use super::{AS_CONFIGURED, TEXT, World};
use crate::bundle::Bundle;
use crate::certificate::{Certificate, Owner, too_short};
use crate::disk::{self, DiskError};
use crate::file::{Content, File, Fill, Part};
use crate::key::pem_block;
use crate::node::{self, TrustFile};
use crate::plan::{Reason, Verdict};
use crate::render;
use crate::report::{Action, CertificateLine, FileLine, Trouble};
use crate::setting::{Name, Secret};
use crate::trust::{AnchorSource, Anchors};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

impl Survey {
    pub(super) fn line(&self, certificate: &Certificate) -> CertificateLine {
        let verdict = self.verdicts.get(&certificate.name);
        let drift = self.drifts.get(&certificate.name).map(Vec::as_slice).unwrap_or_default();
        let pair = verdict.and_then(Verdict::pair);
        let (action, reason) = match verdict.and_then(Verdict::reason) {
            Some(reason @ Reason::Waits(..)) => (Action::Blocked, reason.to_string()),
            Some(reason) => match self.blocked(certificate) {
                Some(remedy) => (Action::Blocked, format!("{reason}; first {remedy} has to free its name")),
                None => (Action::Obtain, reason.to_string()),
            },
            None if !drift.is_empty() => (Action::Repair, drift.join("; ")),
            None => (Action::Keep, AS_CONFIGURED.to_owned()),
        };
        let trouble = self.trouble_of(certificate);
        let unread = trouble.as_ref().filter(|_| verdict.is_none());
        let reason = unread.map_or(reason, |trouble| trouble.message.clone());
        CertificateLine {
            name: certificate.name.clone(),
            ca: certificate.ca.clone(),
            state: verdict.map_or("unreadable", Verdict::state),
            usable: verdict.is_some_and(Verdict::is_usable) && !self.gone.contains(&certificate.name),
            action: if trouble.is_some() { Action::Blocked } else { action },
            reason,
            changed: false,
            trouble,
            renew_after: pair.map(|pair| certificate.due_at(pair.leaf(), pair.since())),
            leaf: pair.map(|pair| pair.leaf().clone()),
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
        let unseen = unseen.flat_map(|(name, _)| {
                let known = self.known_anchors(name).map(Anchors::describe).unwrap_or_default();
                known.into_iter().map(move |(subject, pin, _)| {
                    format!("CA {name}: {subject:?} was taken unseen (first_use = true); compare {pin} with what its operator says, then write tls.pins = [\"{pin}\"] instead")
                })
            });
        unseen
            .chain(self.node.certificates.values().filter_map(|certificate| self.short(certificate)))
            .collect()
    }

    /// A CA that gives less than is asked for, or is asked for nothing, is no fault of the configuration.
    fn short(&self, certificate: &Certificate) -> Option<String> {
        let leaf = self.verdicts.get(&certificate.name)?.pair()?.leaf();
        let why = too_short(leaf.lifetime(), certificate.interval)?;
        Some(format!(
            "certificate {}: CA {} gave {why}; or have it give more",
            certificate.name, certificate.ca
        ))
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
    fn trouble_of(&self, certificate: &Certificate) -> Option<Trouble> {
        let anchors = self.anchors.get(&certificate.ca).and_then(|known| known.as_ref().err());
        let failure = self.unreadable.get(&certificate.name).or(anchors)?;
        Some(self.trouble(failure, &["certificate", certificate.name.as_str()]))
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
        let difference = match self.trusted(trust).ok_or_else(|| self.unknown_anchors(trust)) {
            Ok(anchors) => {
                disk::trust_is(&world.root, &trust.path, &anchors, &Owner::default(), trust.replace)
                    .map_err(Failure::from)
            }
            Err(Some(failure)) => Err(failure.clone()),
            Err(None) => disk::trust_may_be(&world.root, &trust.path, trust.replace)
                .map(|why| why.map(str::to_owned))
                .map_err(Failure::from),
        };
        self.line_of("ca".to_owned(), &trust.path, difference, &table_of(trust))
    }

    pub(super) fn file_line(&self, world: &World, file: &File) -> FileLine {
        let difference = self
            .rendered(world, file)
            .and_then(|text| Ok(disk::differs(&world.root, file, text.as_bytes())?));
        let table = self.table_of(&file.name, &file.path);
        let mut line = self.line_of(file.name.to_string(), &file.path, difference, &table);
        let waits: Vec<_> =
            file.needs.iter().filter(|need| self.bundle(need).is_none()).map(Name::as_str).collect();
        if !waits.is_empty() && line.action != Action::Keep {
            line.reason = format!("{}; waits for {}", line.reason, waits.join(" and "));
        }
        line
    }

    /// Why the revocation lists that a file is to hold could not be read in this run.
    pub(super) fn unread_lists(&self, file: &File) -> Option<&Failure> {
        let Content::Crl(ca) = &file.content else { return None };
        self.unread.lists.get(ca).or_else(|| self.anchors.get(ca)?.as_ref().err())
    }

    pub(super) fn rendered(&self, world: &World, file: &File) -> Result<Zeroizing<String>, Failure> {
        let mut content = &file.content;
        let filled;
        if let Content::Filled(_, fills) = content {
            let value = |fill: &Fill| Ok((fill.mark(), self.filled(world, fill)?));
            let values = fills.iter().map(value).collect::<Result<Vec<_>, Failure>>()?;
            filled = render::fill(content, &values);
            content = &filled;
        }
        let template = match content {
            Content::Part(name, part) => match self.bundle(name) {
                Some(bundle) => self.part(name, bundle, *part),
                None => return Err(Failure::Waits(format!("certificate {name}"))),
            },
            Content::Crl(ca) => match known_crl(&world.root, ca)? {
                Some(lists) => lists,
                None => {
                    let waits = || Failure::Waits(format!("the revocation list of CA {ca}"));
                    return Err(self.unread_lists(file).cloned().unwrap_or_else(waits));
                }
            },
            Content::Template(path) => match disk::read_text(&world.root, path, TEXT)? {
                Some((text, _)) => text,
                None => {
                    let path = world.root.shown(path);
                    return Err(DiskError::Missing { path, by: "`template`" }.into());
                }
            },
            _ => String::new(),
        };
        let rendered = render::render(content, &template, &node::scope(&self.facts));
        rendered.map(Zeroizing::new).map_err(|error| Failure::Render(Arc::new(error)))
    }

    /// The line of a file that differs so from what is wanted.
    pub(super) fn line_of(
        &self,
        name: String,
        path: &Path,
        difference: Result<Option<String>, Failure>,
        table: &[&str],
    ) -> FileLine {
        let (action, reason, trouble) = match difference {
            Ok(None) => (Action::Keep, AS_CONFIGURED.to_owned(), None),
            Ok(Some(why)) if why == disk::ABSENT => (Action::Obtain, why, None),
            Ok(Some(why)) => (Action::Repair, why, None),
            Err(failure @ Failure::Waits(_)) => (Action::Obtain, failure.to_string(), None),
            Err(failure) => {
                let trouble = self.trouble(&failure, table);
                (Action::Blocked, trouble.message.clone(), Some(trouble))
            }
        };
        FileLine { name, path: path.to_owned(), action, reason, changed: false, trouble }
    }

    fn filled(&self, world: &World, fill: &Fill) -> Result<Secret, Failure> {
        let encoded = |text: &str| Secret::new(&Zeroizing::new(BASE64.encode(text)));
        let pair = |name: &Name| match self.bundle(name) {
            Some(bundle) => Ok(bundle.pair()),
            None => Err(Failure::Waits(format!("certificate {name}"))),
        };
        match fill {
            Fill::Key(name) => Ok(encoded(pair(name)?.key().pem())),
            Fill::Cert(name) => Ok(encoded(&pair(name)?.cert_pem())),
            Fill::Trust(path) => {
                let trust = self.node.trusts.iter().find(|trust| trust.path == *path);
                let anchors = trust.and_then(|trust| self.trusted(trust));
                let waits = || Failure::Waits(format!("the CA certificates of {}", path.display()));
                Ok(encoded(&anchors.ok_or_else(waits)?.pem()))
            }
            Fill::Keepsake(name) => {
                let keepsake = self.node.keepsakes.iter().find(|keepsake| keepsake.name == *name);
                let text = keepsake.map(|keepsake| disk::read_state(&world.root, &keepsake.state()));
                let text = text.transpose()?.flatten();
                let waits = || Failure::Waits(format!("keepsake {name}"));
                Ok(Secret::new(&text.ok_or_else(waits)?))
            }
        }
    }
}

/// The table that says what lies in a trust file, as far as one does.
pub(super) fn table_of(trust: &TrustFile) -> Vec<&str> {
    ["certificate"].into_iter().chain(trust.certificates.first().map(Name::as_str)).collect()
}
