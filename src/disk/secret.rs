//! Secrets of the configuration, read when they are needed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{DiskError, LIMIT};
use crate::root::{Read, Root};
use crate::setting::{Secret, SecretSource, chain};

/// Reads a secret. `run` runs a command and gives what it printed, or says why it cannot.
pub fn secret(
    root: &Root,
    source: &SecretSource,
    run: impl FnOnce(&[String]) -> Result<String, String>,
) -> Result<Secret, DiskError> {
    let found = match source {
        SecretSource::Literal(secret) => Ok(secret.clone()),
        SecretSource::File(path) => return secret_file(root, path),
        SecretSource::Credential(name) => from_credential(name),
        SecretSource::Env(name) => from_env(name),
        SecretSource::Command(argv) => run(argv).map(|printed| Secret::new(&printed)),
    };
    found.and_then(filled).map_err(|why| lacking(source.to_string(), why, false))
}

/// Reads one that lies in a file.
pub fn secret_file(root: &Root, path: &Path) -> Result<Secret, DiskError> {
    let from = || SecretSource::File(path.to_owned()).to_string();
    let fault = |why| lacking(from(), why, true);
    let read = root.read(path, LIMIT).map_err(|error| fault(chain(&error)))?;
    let shown = root.shown(path);
    let Some(read) = read else {
        let why = format!("there is no file {}; put the secret there, mode 0600", shown.display());
        return Err(lacking(from(), why, false));
    };
    if read.meta.mode & 0o077 != 0 {
        return Err(fault(format!(
            "its mode {:04o} lets others in; what they may have read is no secret: renew it, then chmod 600 {}",
            read.meta.mode,
            shown.display()
        )));
    }
    filled(text(&read).map_err(fault)?).map_err(|why| lacking(from(), why, false))
}

fn lacking(from: String, why: String, is_fault: bool) -> DiskError {
    DiskError::Secret { from, why, is_fault }
}

fn filled(secret: Secret) -> Result<Secret, String> {
    if secret.expose().is_empty() { Err("it is empty".to_owned()) } else { Ok(secret) }
}

/// Where cloud-init keeps what it was given as user-data, and what it made of it (cloud-init's documentation,
/// "Instance metadata" and "Logs"): for root's eyes, and for as long as the machine lives.
const CLOUD_INIT: [&str; 6] = [
    "/var/lib/cloud/instance",
    "/var/lib/cloud/instance/scripts",
    "/var/lib/cloud/seed/nocloud",
    "/var/lib/cloud/seed/nocloud-net",
    "/run/cloud-init",
    "/var/log",
];

/// The files of cloud-init that hold a secret, as it is or in base64, which write_files takes.
pub fn copies(root: &Root, secret: &Secret) -> Vec<PathBuf> {
    let plain = secret.expose().as_bytes();
    let encoded = BASE64.encode(plain);
    // Its end depends on whether a line feed follows.
    let encoded = &encoded.as_bytes()[..encoded.len().saturating_sub(4)];
    let holds = |text: &[u8]| [plain, encoded].iter().any(|form| form.len() >= 8 && contains(text, form));
    let mut found = Vec::new();
    for directory in CLOUD_INIT.map(Path::new) {
        let names = root.dir(directory).ok().flatten().and_then(|dir| dir.list().ok()).unwrap_or_default();
        let ours = |name: &&OsString| {
            directory != Path::new("/var/log") || name.as_encoded_bytes().starts_with(b"cloud-init")
        };
        for path in names.iter().filter(ours).map(|name| directory.join(name)) {
            if let Ok(Some(read)) = root.read(&path, LIMIT)
                && holds(&read.content)
            {
                found.push(path);
            }
        }
    }
    found
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// systemd.exec(5): `$CREDENTIALS_DIRECTORY` holds a file for each; only the unit's user can read it.
fn from_credential(name: &str) -> Result<Secret, String> {
    let directory = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or(
        "$CREDENTIALS_DIRECTORY is not set: it is there only in a unit with LoadCredential= or SetCredential=",
    )?;
    if Path::new(name).file_name().is_none_or(|plain| plain != name) {
        return Err("its name is not a plain file name".to_owned());
    }
    let host = Root::open(Path::new("/")).map_err(|error| chain(&error))?;
    let read = host.read(&Path::new(&directory).join(name), LIMIT).map_err(|error| chain(&error))?;
    text(&read.ok_or_else(|| {
        format!("systemd passes none of this name; add LoadCredential={name}:… to the unit")
    })?)
}

fn from_env(name: &str) -> Result<Secret, String> {
    // The error of a value that is no text holds the value.
    let value = std::env::var(name).map_err(|error| match error {
        std::env::VarError::NotPresent => "it is not set",
        std::env::VarError::NotUnicode(_) => "it is not text (UTF-8)",
    })?;
    Ok(Secret::new(&value))
}

fn text(read: &Read) -> Result<Secret, String> {
    std::str::from_utf8(&read.content).map(Secret::new).map_err(|_| "it is not text (UTF-8)".to_owned())
}
