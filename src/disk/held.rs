//! What a host holds of a certificate.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use zeroize::Zeroizing;

use super::commit::{MISSING, generation_path, leads_wrong};
use super::prune::made_at;
use super::{DiskError, LIMIT};
use crate::bundle::{Pair, Rejected};
use crate::certificate::Certificate;
use crate::key::Key;
use crate::plan::Held;
use crate::root::{Dir, Read, Root, RootError};

/// Reads certificate and key: through one generation directory where the fixed names are our links,
/// so that a swap cannot come in between, else at the fixed names themselves. An error means that
/// they are there or may be, and cannot be read.
pub fn held(root: &Root, certificate: &Certificate) -> Result<Held, DiskError> {
    let place = &certificate.place;
    let Some(dir) = root.dir(&place.directory)? else { return Ok(Held::Absent) };
    let generation = if linked(&dir, certificate)? {
        dir.below(Path::new(&generation_path(&certificate.name)))?
    } else {
        None
    };
    let read = |file: &str| match &generation {
        Some(generation) => generation.read(file, LIMIT),
        None => root.read(&place.path(file), LIMIT),
    };
    let shown = |file: &str| dir.shown(file).display().to_string();
    let (cert, key) = match (text(read(&place.cert))?, text(read(&place.key))?) {
        (Text::None, Text::None) => return Ok(Held::Absent),
        (Text::Some(cert), Text::Some(key)) => (cert, key),
        (Text::Faulty(why), _) | (_, Text::Faulty(why)) => return Ok(Held::Damaged(why)),
        (Text::None, _) => return Ok(missing(&shown(&place.cert), "key")),
        (_, Text::None) => return Ok(missing(&shown(&place.key), "certificate")),
    };
    let key = match Key::parse(&key) {
        Ok(key) => Arc::new(key),
        Err(why) => return Ok(Held::Damaged(format!("{}: {why}", shown(&place.key)))),
    };
    Ok(match Pair::parse(key, &cert) {
        Ok(pair) => Held::Pair(pair.here_since(since(&dir, certificate, generation.is_some())?)),
        Err(Rejected::KeyMismatch) => Held::Mixed(format!(
            "{} is not the key of {}: another program wrote one of them, or a copy was cut short",
            shown(&place.key),
            shown(&place.cert)
        )),
        Err(why) => Held::Damaged(format!("{}: {why}", shown(&place.cert))),
    })
}

/// A link that was lost does not hide the generation it led to.
fn linked(dir: &Dir, certificate: &Certificate) -> Result<bool, RootError> {
    let pair = [certificate.place.cert.as_str(), certificate.place.key.as_str()];
    let wrong = leads_wrong(dir, certificate)?;
    Ok(wrong.iter().all(|(file, why)| !pair.contains(file) || *why == MISSING))
}

/// When the pair came here: by the name of its generation, or when the certificate was written.
fn since(dir: &Dir, certificate: &Certificate, in_generation: bool) -> Result<Option<SystemTime>, RootError> {
    if !in_generation {
        return Ok(dir.stat(&certificate.place.cert)?.map(|meta| meta.modified));
    }
    let generation = dir.read_link(generation_path(&certificate.name))?;
    Ok(generation.and_then(|name| made_at(name.to_str()?)))
}

enum Text {
    None,
    Some(Zeroizing<String>),
    Faulty(String),
}

/// What cannot be a PEM file is damage, to be replaced; what cannot be read is an error.
fn text(read: Result<Option<Read>, RootError>) -> Result<Text, RootError> {
    match read {
        Ok(None) => Ok(Text::None),
        Ok(Some(read)) => Ok(Text::Some(Zeroizing::new(String::from_utf8_lossy(&read.content).into_owned()))),
        Err(error @ RootError::Io { .. }) => Err(error),
        Err(error) => Ok(Text::Faulty(error.to_string())),
    }
}

fn missing(path: &str, other: &str) -> Held {
    Held::Damaged(format!("{path} is missing, while its {other} is there"))
}
