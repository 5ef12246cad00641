//! How a host proves to Vault who it is: up the ladder, one login a run.

use std::collections::BTreeMap;
use std::sync::Arc;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::rung::{AppRole, Cert, Rung};
use super::{TOKEN, Vault};
use crate::bundle::Bundle;
use crate::ca::wire::{Body, Wire};
use crate::ca::{CaError, Lack, Setting};
use crate::https::one_line;
use crate::setting::{Name, Secret};

/// Bytes; those of Vault have about a hundred, batch tokens some hundreds.
const MAX_TOKEN: usize = 8 * 1024;

/// What we are known by for the rest of the run.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) secret: Secret,
    /// Whether it comes from our own login, and is to be revoked.
    pub(super) ours: bool,
    /// Whether that login was by a certificate that this host holds.
    pub(super) by_certificate: bool,
}

/// Why a rung did not bear.
enum Missed {
    /// What it needs is not on this host.
    Absent(Lack),
    /// The CA said no, or there is no use in going on.
    Error(CaError),
}

impl From<CaError> for Missed {
    fn from(error: CaError) -> Self {
        Self::Error(error)
    }
}

impl Vault {
    /// The token of this run: one login, and a failed one is not tried again.
    pub(super) async fn token(&self) -> Result<Token, Arc<CaError>> {
        self.login.get_or_init(|| async { self.climb().await.map_err(Arc::new) }).await.clone()
    }

    async fn climb(&self) -> Result<Token, CaError> {
        let mut secrets = self.secrets.iter();
        let (mut reasons, mut refused, mut is_fault) = (Vec::new(), false, false);
        for rung in &self.settings.auth {
            let secret = rung.secret().and_then(|_| secrets.next());
            let is_last = reasons.len() + 1 == self.settings.auth.len();
            match self.step(rung, secret, is_last).await {
                Ok(token) => {
                    tracing::info!(ca = %self.ca, way = %rung, "CA {}: going in with {rung}", self.ca);
                    return Ok(token);
                }
                Err(Missed::Absent(lack)) => {
                    is_fault |= lack.is_fault;
                    reasons.push(format!("{rung}: {}", lack.why));
                }
                Err(Missed::Error(error))
                    if error.is_temporary() || error.is_fault() || self.settings.auth.len() == 1 =>
                {
                    return Err(error);
                }
                Err(Missed::Error(error)) => {
                    refused = true;
                    reasons.push(format!("{rung}: {error}"));
                }
            }
        }
        Err(CaError::NoLogin { ca: self.ca.clone(), reasons: reasons.join("; "), refused, is_fault })
    }

    async fn step(
        &self,
        rung: &Rung,
        secret: Option<&Result<Secret, Lack>>,
        is_last: bool,
    ) -> Result<Token, Missed> {
        let secret = || match secret {
            Some(Ok(secret)) => Ok(secret),
            Some(Err(lack)) => Err(Missed::Absent(lack.clone())),
            None => Err(Missed::Absent(Lack::absent("its secret was not read"))),
        };
        match rung {
            Rung::Token(_) => self.given(secret()?, is_last).await,
            Rung::AppRole(approle) if approle.wrapped => self.unwrapped(approle, secret).await,
            Rung::AppRole(approle) => Ok(self.approle(approle, secret()?).await?),
            Rung::Cert(cert) => self.certificate(cert, &self.bundles).await,
            Rung::Jwt(jwt) => {
                let body = json!({ "role": jwt.role, "jwt": secret()?.expose() });
                Ok(self.log_in(&self.wire, &jwt.mount, body).await?)
            }
        }
    }

    /// A token is taken as it is. Only where another way is left it is tried first; a token without the
    /// default policy may not look itself up, so nothing is lost by asking only then.
    async fn given(&self, token: &Secret, is_last: bool) -> Result<Token, Missed> {
        if !is_last {
            let mut call = self.call("look the token up", "auth/token/lookup-self");
            call.headers.insert(TOKEN, self.header(token)?);
            self.checked(&self.wire, &call).await?;
        }
        Ok(Token { secret: token.clone(), ours: false, by_certificate: false })
    }

    async fn approle(&self, approle: &AppRole, secret_id: &Secret) -> Result<Token, CaError> {
        let body = json!({ "role_id": approle.role_id, "secret_id": secret_id.expose() });
        self.log_in(&self.wire, &approle.mount, body).await
    }

    /// Tried with the certificate itself, unless this run came in by one.
    pub(in crate::ca) async fn needs_no_secret(&self, held: &BTreeMap<Name, Bundle>) -> bool {
        if matches!(self.login.get(), Some(Ok(token)) if token.by_certificate) {
            return true;
        }
        for rung in &self.settings.auth {
            let Rung::Cert(cert) = rung else { continue };
            match self.certificate(cert, held).await {
                Ok(token) => {
                    self.give_back(&token).await;
                    return true;
                }
                Err(Missed::Absent(_)) => {}
                Err(Missed::Error(error)) => {
                    tracing::warn!(ca = %self.ca, "CA {}: the secret of the first login is kept, for {rung} does not work yet: {error}", self.ca);
                }
            }
        }
        false
    }

    async fn certificate(&self, cert: &Cert, held: &BTreeMap<Name, Bundle>) -> Result<Token, Missed> {
        let Some(bundle) = held.get(cert.certificate.get_ref()) else {
            return Err(Missed::Absent(Lack::absent("it is not held, or not usable any more")));
        };
        let (server, trust) = (&self.settings.server, self.trust.clone());
        let wire = Wire::new(&self.ca, server, trust, Some(bundle), &self.clock, self.deadline)?;
        let body = cert.role.as_ref().map_or_else(|| json!({}), |role| json!({ "name": role }));
        let token = self.log_in(&wire, &cert.mount, body).await?;
        Ok(Token { by_certificate: true, ..token })
    }

    /// A wrapping token opens once. So what was kept from an earlier run goes first, and what is in the
    /// wrapping is kept before it is used.
    async fn unwrapped<'s>(
        &self,
        approle: &AppRole,
        wrapping: impl Fn() -> Result<&'s Secret, Missed>,
    ) -> Result<Token, Missed> {
        let kept = match &self.stored {
            None => None,
            Some(stored) => match self.approle(approle, stored).await {
                Ok(token) => return Ok(token),
                Err(refused @ CaError::Refused { .. }) => Some(refused),
                Err(error) => return Err(error.into()),
            },
        };
        let secret_id = match wrapping() {
            Ok(wrapping) => self.unwrap(approle, wrapping).await.map_err(Missed::from),
            Err(absent) => Err(absent),
        };
        match (secret_id, kept) {
            (Ok(secret_id), _) => Ok(self.approle(approle, &secret_id).await?),
            // The wrapping is spent because an earlier run of ours opened it; the kept secret is the matter.
            (Err(Missed::Absent(_) | Missed::Error(CaError::Refused { .. })), Some(refused)) => {
                Err(refused.into())
            }
            (Err(missed), _) => Err(missed),
        }
    }

    async fn unwrap(&self, approle: &AppRole, wrapping: &Secret) -> Result<Secret, CaError> {
        self.look_into(approle, wrapping).await?;
        let mut call = self.call("unwrap the secret_id", "sys/wrapping/unwrap");
        call.method = Method::POST;
        call.headers.insert(TOKEN, self.header(wrapping)?);
        let answer = self.checked(&self.wire, &call).await.map_err(|e| spent(e, approle))?;
        let opened: Opened = self.read(&answer, &call)?;
        let secret_id = Secret::new(&opened.data.secret_id);
        (self.keep)(&secret_id).map_err(|why| CaError::Unusable {
            ca: self.ca.clone(),
            why: format!("the unwrapped secret_id cannot be kept, and its wrapping is spent: {why}; mend that and make a new one: {}", make_new(approle)),
        })?;
        Ok(secret_id)
    }

    /// Before it is opened a wrapping says by which path it was made; one made elsewhere was slipped in
    /// (Vault, "Response wrapping token validation").
    async fn look_into(&self, approle: &AppRole, wrapping: &Secret) -> Result<(), CaError> {
        let mut call = self.call("look into the wrapping token", "sys/wrapping/lookup");
        call.method = Method::POST;
        call.body = Some(Body::Json(json!({ "token": wrapping.expose() })));
        let answer = self.checked(&self.wire, &call).await.map_err(|e| spent(e, approle))?;
        let lookup: Lookup = self.read(&answer, &call)?;
        if self.made_by(approle, &lookup.data.creation_path) {
            return Ok(());
        }
        Err(CaError::Exchanged {
            ca: self.ca.clone(),
            found: one_line(&lookup.data.creation_path),
            wanted: format!("auth/{}/role/ROLE/secret-id", approle.mount),
            advice: format!("make a new one: {}", make_new(approle)),
        })
    }

    fn made_by(&self, approle: &AppRole, path: &str) -> bool {
        let path = path.trim_matches('/');
        let namespace = self.settings.namespace.as_deref().unwrap_or_default();
        let path = path.strip_prefix(namespace).map_or(path, |rest| rest.trim_start_matches('/'));
        let role = path
            .strip_prefix("auth/")
            .and_then(|rest| rest.strip_prefix(approle.mount.as_str()))
            .and_then(|rest| rest.strip_prefix("/role/"))
            .and_then(|rest| rest.strip_suffix("/secret-id"));
        role.is_some_and(|role| !role.is_empty() && !role.contains('/'))
    }

    async fn log_in(&self, wire: &Wire, mount: &str, body: Value) -> Result<Token, CaError> {
        let asked = format!("log in at auth/{mount}");
        let mut call = self.call(&asked, &format!("auth/{mount}/login"));
        call.method = Method::POST;
        call.body = Some(Body::Json(body));
        let answer = self.checked(wire, &call).await?;
        let login: Login = self.read(&answer, &call)?;
        let secret = Secret::new(&login.auth.client_token);
        let length = secret.expose().len();
        if length == 0 || length > MAX_TOKEN || self.header(&secret).is_err() {
            return Err(self.bad(&answer, &call, "the token in it is none"));
        }
        Ok(Token { secret, ours: true, by_certificate: false })
    }
}

/// Used and expired wrapping tokens, and what is none, give the same 400.
fn spent(error: CaError, approle: &AppRole) -> CaError {
    match error {
        CaError::Refused { ca, asked, url, said, .. } => CaError::Refused {
            ca,
            asked,
            url,
            said,
            setting: Setting::Auth,
            advice: format!(
                "the wrapping token from {} is used, expired or not a wrapping token at all. Not one: it was made without -wrap-ttl. Expired: this host came up later than its -wrap-ttl after it was made, or its clock or the CA's is wrong. Used: was the state of this host lost since, which kept what was in it? If not, someone else opened it: treat it as intercepted, and revoke the secret_id. Then make a new one: {}",
                approle.secret_id,
                make_new(approle)
            ),
        },
        other => other,
    }
}

fn make_new(approle: &AppRole) -> String {
    format!("`bao write -wrap-ttl=1h -field=wrapping_token -f auth/{}/role/ROLE/secret-id`", approle.mount)
}

#[derive(Deserialize)]
struct Login {
    auth: LoginAuth,
}

#[derive(Deserialize)]
struct LoginAuth {
    client_token: String,
}

#[derive(Deserialize)]
struct Lookup {
    data: LookupData,
}

#[derive(Deserialize)]
struct LookupData {
    creation_path: String,
}

#[derive(Deserialize)]
struct Opened {
    data: OpenedData,
}

#[derive(Deserialize)]
struct OpenedData {
    secret_id: String,
}
