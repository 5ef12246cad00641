//! What a host that goes out of service must not keep: keys, tokens, state. What someone else wrote stays, and so
//! does what cannot be had again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::DECOMMISSIONED;
use crate::bundle::Pair;
use crate::certificate::Certificate;
use crate::clock::at;
use crate::disk::{self, DiskError, Erased};
use crate::file::{Content, File, Fill, Part};
use crate::keepsake::{Form, Keepsake, Origin};
use crate::plan::Verdict;
use crate::report::Farewell;
use crate::run::failure::{Error, Failure};
use crate::run::load::given_up;
use crate::run::{Run, Survey};
use crate::setting::{Name, SecretSource};

impl Run<'_> {
    /// First the mark: from then on no run brings back what is erased, however far this comes.
    pub(super) fn erase(&self, survey: &Survey, farewell: &mut Farewell) -> Result<(), Error> {
        let failed = Error::Disk;
        let mark = format!("{}\n", at(survey.now));
        if disk::read_state(self.root(), DECOMMISSIONED).map_err(failed)?.is_none() {
            disk::keep_state(self.root(), DECOMMISSIONED, mark.as_bytes()).map_err(failed)?;
        }
        for certificate in survey.node.certificates.values() {
            farewell.left.extend(self.good_still(survey, certificate).map_err(failed)?);
            let held = survey.holds(&certificate.name);
            self.note(farewell, disk::erase(self.root(), certificate, held));
        }
        for path in survey.written() {
            self.note(farewell, disk::erase_file(self.root(), path, false));
        }
        for path in survey.sources() {
            self.note(farewell, disk::erase_file(self.root(), path, true));
        }
        let kept: Vec<_> = survey.kept().map(Keepsake::state).collect();
        let but: Vec<_> = kept.iter().map(String::as_str).chain([DECOMMISSIONED]).map(Path::new).collect();
        disk::erase_state(self.root(), &but).map_err(failed)?;
        farewell
            .done
            .push("erased the state of nodecert: secrets, open requests, the embedded CA".to_owned());
        for kept in survey.kept() {
            let own = BTreeSet::from([kept.path.clone(), Path::new(disk::STATE).join(kept.state())]);
            let files: Vec<_> = survey.files_with(kept).cloned().chain(own).collect();
            let there = disk::present(self.root(), &files).map_err(failed)?;
            let there: Vec<_> = there.iter().map(|path| self.shown(path)).collect();
            farewell.left.extend(copy_first(kept, &there));
        }
        farewell.left.extend(self.left_to_a_person(survey));
        Ok(())
    }

    /// Of a certificate that is held and that its CA has not revoked.
    fn good_still(&self, survey: &Survey, certificate: &Certificate) -> Result<Option<String>, DiskError> {
        let pair = survey.verdicts.get(&certificate.name).and_then(Verdict::pair);
        let Some(leaf) = pair.map(Pair::leaf) else { return Ok(None) };
        if given_up(self.root(), &certificate.name)? == Some(leaf.fingerprint.to_string()) {
            return Ok(None);
        }
        let (name, serial, ca, end) = (&certificate.name, &leaf.serial, &certificate.ca, at(leaf.not_after));
        Ok(Some(format!("{name}: serial number {serial} of CA {ca} was not revoked and is good until {end}")))
    }

    /// One that cannot be erased keeps no other from it.
    fn note(&self, farewell: &mut Farewell, erased: Result<Erased, DiskError>) {
        let erased = match erased {
            Ok(erased) => erased,
            Err(error) => return farewell.failed.push(Failure::from(error).trouble()),
        };
        farewell.done.extend(erased.gone.iter().map(|path| format!("erased {}", self.shown(path))));
        for (link, target) in erased.links {
            let shown = if target.is_absolute() { self.shown(&target) } else { target.display().to_string() };
            let (link, target) = (self.shown(&link), shown);
            farewell.done.push(format!("removed {link}, a link"));
            farewell
                .left
                .push(format!("{link} was a link; the key it led to stays: {target}, unless others need it"));
        }
        let foreign = |path: &PathBuf| {
            let path = self.shown(path);
            format!("{path} was not written by nodecert and stays; remove it if it is a key of this host")
        };
        farewell.left.extend(erased.foreign.iter().map(foreign));
    }

    fn left_to_a_person(&self, survey: &Survey) -> Vec<String> {
        // Below another root no unit runs, and those of the caller's host are not meant.
        let timer = match self.world.tells {
            true => "`systemctl disable --now nodecert.service nodecert-renew.timer`, ",
            false => "",
        };
        let mut left = vec![
            format!(
                "this host: {timer}stop what used the certificates, and remove {} and the file of metrics, if one is written",
                self.shown(Path::new("/etc/nodecert"))
            ),
            format!(
                "to bring it back instead: remove {} and give it the secrets it needs",
                self.shown(&Path::new(disk::STATE).join(DECOMMISSIONED))
            ),
        ];
        // An embedded CA has no operator, and is gone.
        let asked = survey.config.cas.iter().filter(|(_, ca)| ca.tls().is_some());
        let names: Vec<_> = asked.map(|(name, _)| name.as_str()).collect();
        if !names.is_empty() {
            left.push(format!(
                "the operator of CA {}: take back what lets this host log in (secret_id, token, role)",
                names.join(", ")
            ));
        }
        if !survey.node.keepsakes.iter().all(is_kept) {
            left.push("the keys that other hosts share with this one live on there".to_owned());
        }
        left
    }

    /// A path as whoever calls has to write it.
    fn shown(&self, path: &Path) -> String {
        self.root().shown(path).display().to_string()
    }
}

fn copy_first(kept: &Keepsake, paths: &[String]) -> Option<String> {
    (!paths.is_empty()).then(|| {
        let paths = paths.join(" and ");
        let why = match kept.form {
            Form::CipherKey => "what is in etcd cannot be read without it",
            Form::Pair { .. } => "the tokens of all service accounts are void without it",
            Form::Token => "who logs in with it is a stranger without it",
        };
        format!("{}: this host made it, and {why}: take a copy first, then remove {paths}", kept.name)
    })
}

impl Survey {
    /// Keepsakes that were made here, perhaps the only copy of what other hosts need.
    fn kept(&self) -> impl Iterator<Item = &Keepsake> {
        self.node.keepsakes.iter().filter(|keepsake| is_kept(keepsake))
    }

    /// Files outside the certificates' own places that hold a key or a token, if this program wrote them.
    fn written(&self) -> impl Iterator<Item = &Path> {
        let files = self.node.files.iter().filter(|file| self.is_secret(file)).map(|file| &file.path);
        let erased = |keepsake: &&Keepsake| !is_kept(keepsake) && !keepsake.path.starts_with(disk::STATE);
        let keepsakes = self.node.keepsakes.iter().filter(erased);
        files.chain(keepsakes.map(|keepsake| &keepsake.path)).map(PathBuf::as_path)
    }

    fn is_secret(&self, file: &File) -> bool {
        match &file.content {
            Content::Part(_, part) => *part == Part::Key,
            Content::Filled(_, fills) => {
                let kept = |fill: &Fill| self.kept().any(|kept| is_of(fill, &kept.name));
                let secret = |fill: &Fill| matches!(fill, Fill::Key(_) | Fill::Keepsake(_));
                fills.iter().any(secret) && !fills.iter().any(kept)
            }
            _ => false,
        }
    }

    /// Where a keepsake is written into.
    fn files_with(&self, keepsake: &Keepsake) -> impl Iterator<Item = &PathBuf> {
        let holds = |file: &&File| match &file.content {
            Content::Filled(_, fills) => fills.iter().any(|fill| is_of(fill, &keepsake.name)),
            _ => false,
        };
        self.node.files.iter().filter(holds).map(|file| &file.path)
    }

    /// Files that the configuration names as secrets.
    fn sources(&self) -> impl Iterator<Item = &Path> {
        let of_cas = self.config.cas.values().flat_map(crate::ca::Settings::secrets);
        let given = self.node.keepsakes.iter().filter_map(|keepsake| match &keepsake.origin {
            Origin::Given(source) => Some(source),
            Origin::Made | Origin::Elsewhere(_) => None,
        });
        of_cas.chain(given).filter_map(|source| match source {
            SecretSource::File(path) => Some(path.as_path()),
            _ => None,
        })
    }
}

fn is_kept(keepsake: &Keepsake) -> bool {
    keepsake.origin == Origin::Made
}

fn is_of(fill: &Fill, keepsake: &Name) -> bool {
    matches!(fill, Fill::Keepsake(name) if name == keepsake)
}
