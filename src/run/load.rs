//! What every command reads first: the configuration, the host, and what the state knows of its CAs.

use super::dated::Dated;
use super::failure::{Error, Failure};
use super::{TEXT, World};
use crate::ca;
use crate::config::{self, Config, Faults, Text};
use crate::disk::{self, DiskError};
use crate::facts::{self, Facts};
use crate::root::Root;
use crate::setting::Name;
use crate::trust::{AnchorSource, Anchors, TrustError};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Reads the configuration: one file as the caller sees it, or the files below the root.
pub(super) fn load(world: &World) -> Result<Config, Error> {
    let texts = match &world.config {
        Some(path) => {
            let (text, private) = disk::read_outside(path).map_err(Error::Disk)?;
            vec![Text { path: path.clone(), text, private }]
        }
        None => texts(&world.root)?,
    };
    config::parse(texts).map_err(Error::Config)
}

fn texts(root: &Root) -> Result<Vec<Text>, Error> {
    let mut paths = vec![PathBuf::from(config::MAIN)];
    let listed =
        config::DROP_INS.map(|directory| (directory, disk::list_dropins(root, Path::new(directory))));
    let listed = listed.into_iter().map(|(directory, names)| Ok((directory, names.map_err(Error::Disk)?)));
    paths.extend(config::order(listed.collect::<Result<Vec<_>, Error>>()?));
    let mut texts = Vec::new();
    for path in paths {
        if let Some((text, private)) = disk::read_text(root, &path, TEXT).map_err(Error::Disk)? {
            texts.push(Text { path: root.shown(&path), text, private });
        }
    }
    if texts.is_empty() {
        let main = root.shown(Path::new(config::MAIN));
        let message =
            format!("there is no configuration: write {}, or name a file with --config", main.display());
        return Err(Error::Config(Faults::plain(vec![message])));
    }
    Ok(texts)
}

pub(super) fn gather(world: &World, config: &Config) -> Result<Facts, Error> {
    let unread = Cell::new(None);
    let host = world.host.clone().completed(&config.node).map_err(Error::Facts)?;
    let sources = facts::Sources::read(&config.node, |path| {
        match disk::read_text(&world.root, Path::new(path), TEXT) {
            Ok(found) => found.map(|(text, _)| text),
            Err(error) => {
                unread.set(Some(error).filter(DiskError::is_failure));
                None
            }
        }
    });
    // Other names than the host's would be asked for by other certificates.
    if let Some(error) = unread.into_inner() {
        return Err(Error::Disk(error));
    }
    facts::gather(&config.node, &host, &sources).map_err(Error::Facts)
}

/// What is detected of this host, under the configuration's `[node]`, if there is a configuration.
pub fn detect(world: &World) -> Result<Facts, Error> {
    match load(world) {
        Ok(config) => gather(world, &config),
        Err(Error::Config(faults)) if world.config.is_some() => Err(Error::Config(faults)),
        Err(_) => {
            let config = config::parse(Vec::new()).map_err(Error::Config)?;
            gather(world, &config)
        }
    }
}

pub(super) fn authority_state(ca: &Name) -> String {
    format!("ca/{ca}/authority.pem")
}

/// The revocation lists that a CA published when they were read last.
pub(super) fn known_crl(root: &Root, ca: &Name) -> Result<Option<String>, DiskError> {
    Ok(disk::read_state(root, &crl_state(ca))?.map(|kept| Dated::text(&kept)))
}

/// The fingerprint of the certificate that this host has had revoked.
pub(super) fn given_up(root: &Root, certificate: &Name) -> Result<Option<String>, DiskError> {
    Ok(disk::read_state(root, &given_up_state(certificate))?.map(|text| text.trim().to_owned()))
}

pub(super) fn given_up_state(certificate: &Name) -> String {
    format!("revoked/{certificate}")
}

pub(super) fn crl_state(ca: &Name) -> String {
    format!("crl/{ca}.pem")
}

pub(super) fn anchor_state(ca: &Name) -> String {
    format!("anchors/{ca}.pem")
}

/// What is known of a CA's anchors without asking it.
pub(super) fn known_anchors(
    root: &Root,
    name: &Name,
    ca: &ca::Settings,
    now: SystemTime,
) -> Result<Option<Anchors>, Failure> {
    // What is damaged in the state is asked for again.
    let kept = |state: &str| {
        Ok::<_, Failure>(disk::read_state(root, state)?.and_then(|text| Anchors::parse(text.as_bytes()).ok()))
    };
    match ca.anchors() {
        Some(AnchorSource::File(path)) => ca_file(root, name, "anchors.file", path, Ok).map(Some),
        Some(AnchorSource::Pins(pins)) => {
            let known = kept(&anchor_state(name))?;
            Ok(known.and_then(|known| Anchors::pinned(known.certificates(), pins).ok()))
        }
        Some(AnchorSource::Published | AnchorSource::FirstUse) => kept(&anchor_state(name)),
        None => Ok(kept(&authority_state(name))?.filter(|own| own.unexpired(now) == *own)),
    }
}

/// The certificates of `tls.file`, by which a CA's server is known now.
pub(super) fn server_file(world: &World, ca: &Name, path: &Path) -> Result<Anchors, Failure> {
    let now = world.clock.now();
    ca_file(&world.root, ca, "tls.file", path, |anchors| anchors.in_time(now))
}

fn ca_file(
    root: &Root,
    ca: &Name,
    key: &'static str,
    path: &Path,
    check: impl FnOnce(Anchors) -> Result<Anchors, TrustError>,
) -> Result<Anchors, Failure> {
    let (ca, shown) = (ca.clone(), root.shown(path));
    match disk::read_text(root, path, TEXT)? {
        Some((text, _)) => Anchors::parse(text.as_bytes()).and_then(check).map_err(|source| {
            let source = Arc::new(source);
            Failure::CaFile { ca, key, path: shown, source }
        }),
        None => Err(Failure::NoCaFile { ca, key, path: shown }),
    }
}
