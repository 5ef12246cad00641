//! `auth`: the ladder of ways to log in, tried in order.

use std::fmt;
use std::path::Path;

use serde::Deserialize;

use super::settings::is_segment;
use crate::ca::settings::Faults;
use crate::setting::{At, Name, SecretSource};

/// One entry of `auth`, as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "packaging/config.toml is their reference")]
pub struct RungTable {
    pub token: Option<SecretSource>,
    pub approle: Option<AppRole>,
    pub cert: Option<Cert>,
    pub jwt: Option<Jwt>,
}

/// A way to log in.
#[derive(Debug, Clone)]
pub enum Rung {
    /// A token that someone else made; it is not revoked at the end.
    Token(SecretSource),
    /// AppRole: role_id and secret_id.
    AppRole(AppRole),
    /// A certificate that this host holds.
    Cert(Cert),
    /// A signed statement of a third party.
    Jwt(Jwt),
}

/// `{ approle = { … } }`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "packaging/config.toml is their reference")]
pub struct AppRole {
    pub role_id: String,
    pub secret_id: SecretSource,
    #[serde(default)]
    pub wrapped: bool,
    #[serde(default)]
    pub wipe: bool,
    #[serde(default = "approle")]
    pub mount: String,
}

/// `{ cert = { … } }`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "packaging/config.toml is their reference")]
pub struct Cert {
    pub certificate: At<Name>,
    pub role: Option<String>,
    #[serde(default = "cert")]
    pub mount: String,
}

/// `{ jwt = { … } }`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "packaging/config.toml is their reference")]
pub struct Jwt {
    pub role: String,
    pub jwt: SecretSource,
    #[serde(default = "jwt")]
    pub mount: String,
}

fn approle() -> String {
    "approle".to_owned()
}

fn cert() -> String {
    "cert".to_owned()
}

fn jwt() -> String {
    "jwt".to_owned()
}

/// Reads the ladder; `None` where a fault was added.
pub(super) fn rungs(auth: Option<At<Vec<At<RungTable>>>>, faults: &mut Faults<'_>) -> Option<Vec<Rung>> {
    let span = auth.as_ref().map(At::span);
    let tables = auth.map(At::into_inner).unwrap_or_default();
    if tables.is_empty() {
        faults.add(span, "has no auth; write auth = [{ approle = { role_id = \"…\", secret_id = { file = \"…\" } } }], or token, cert, jwt");
        return None;
    }
    let rungs: Vec<_> = tables
        .into_iter()
        .filter_map(|table| {
            let span = table.span();
            rung(table.into_inner()).map_err(|why| faults.add(Some(span), why)).ok()
        })
        .collect();
    if rungs.iter().filter(|rung| rung.is_wrapped()).count() > 1 {
        faults.add(span, "has two wrapped secrets in auth; what is unwrapped is kept, and only one can be");
        return None;
    }
    if rungs.iter().any(|rung| rung.wipes().is_some())
        && rungs.iter().all(|rung| rung.certificate().is_none())
    {
        faults.add(span, "has wipe = true in auth and no other way to log in afterwards; add { cert = { certificate = \"…\" } } before it");
        return None;
    }
    Some(rungs)
}

fn rung(table: RungTable) -> Result<Rung, String> {
    let rung = match table {
        RungTable { token: Some(token), approle: None, cert: None, jwt: None } => Rung::Token(token),
        RungTable { token: None, approle: Some(approle), cert: None, jwt: None } => Rung::AppRole(approle),
        RungTable { token: None, approle: None, cert: Some(cert), jwt: None } => Rung::Cert(cert),
        RungTable { token: None, approle: None, cert: None, jwt: Some(jwt) } => Rung::Jwt(jwt),
        _ => {
            return Err(
                "has an auth entry that is not exactly one of token, approle, cert and jwt".to_owned()
            );
        }
    };
    if let Rung::AppRole(AppRole { wipe: true, secret_id, .. }) = &rung
        && !matches!(secret_id, SecretSource::File(_))
    {
        return Err("has wipe = true in auth for a secret that is no { file }".to_owned());
    }
    match rung.mount() {
        Some(mount) if !mount.split('/').all(is_segment) => Err(format!(
            "has the faulty auth mount {mount:?}; write it without auth/ and outer slashes, such as \"approle\""
        )),
        _ => Ok(rung),
    }
}

impl Rung {
    pub(super) fn secret(&self) -> Option<&SecretSource> {
        match self {
            Self::Token(secret) => Some(secret),
            Self::AppRole(approle) => Some(&approle.secret_id),
            Self::Cert(_) => None,
            Self::Jwt(jwt) => Some(&jwt.jwt),
        }
    }

    pub(super) fn certificate(&self) -> Option<&At<Name>> {
        match self {
            Self::Cert(cert) => Some(&cert.certificate),
            _ => None,
        }
    }

    pub(super) fn is_wrapped(&self) -> bool {
        matches!(self, Self::AppRole(approle) if approle.wrapped)
    }

    /// The file that is erased once it is not needed.
    pub(super) fn wipes(&self) -> Option<&Path> {
        match self {
            Self::AppRole(AppRole { wipe: true, secret_id: SecretSource::File(path), .. }) => Some(path),
            _ => None,
        }
    }

    fn mount(&self) -> Option<&str> {
        match self {
            Self::Token(_) => None,
            Self::AppRole(approle) => Some(&approle.mount),
            Self::Cert(cert) => Some(&cert.mount),
            Self::Jwt(jwt) => Some(&jwt.mount),
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(secret) => write!(f, "token of {secret}"),
            Self::AppRole(approle) => write!(f, "AppRole (auth/{})", approle.mount),
            Self::Cert(cert) => write!(f, "certificate {} (auth/{})", cert.certificate.get_ref(), cert.mount),
            Self::Jwt(jwt) => write!(f, "JWT (auth/{})", jwt.mount),
        }
    }
}
