//! OpenBao and HashiCorp Vault: the PKI secrets engine over its HTTP API.
//!
//! The key never leaves the host: only `sign` and `sign-verbatim` are spoken, not `issue`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use rustls_pki_types::CertificateDer;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::OnceCell;

use super::text::said;
use super::wire::{Answer, Body, Call, Wire};
use super::{CaError, Deadline, Issued, Keep, Lack, Material, Request, Setting};
use crate::bundle::{Bundle, Leaf, parse_chain};
use crate::clock::Clock;
use crate::https::{Trust, one_line};
use crate::identity::{KeyKind, Usage};
use crate::setting::{Name, Secret};

mod advice;
mod login;
mod rung;
mod settings;

use login::Token;
pub use rung::{AppRole, Cert, Jwt, Rung, RungTable};
pub(super) use settings::way;
pub use settings::{Endpoint, Settings, Table};

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
/// The API asks for it on some paths, against request forgery by way of a proxy.
const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");
/// How long giving a token back may hold up the end of a run.
const FAREWELL: Duration = Duration::from_secs(2);

/// A Vault that is ready to be asked.
pub struct Vault {
    ca: Name,
    settings: Settings,
    wire: Wire,
    trust: Trust,
    clock: Clock,
    deadline: Deadline,
    secrets: Vec<Result<Secret, Lack>>,
    stored: Option<Secret>,
    bundles: BTreeMap<Name, Bundle>,
    keep: Keep,
    login: OnceCell<Result<Token, Arc<CaError>>>,
}

impl Vault {
    pub(super) fn open(
        ca: &Name,
        settings: &Settings,
        material: Material,
        clock: &Clock,
        deadline: Deadline,
    ) -> Result<Self, CaError> {
        let trust = Trust::new(&settings.server.tls, material.tls)
            .map_err(|why| CaError::Unusable { ca: ca.clone(), why })?;
        if settings.endpoint == Endpoint::SignVerbatim {
            tracing::warn!(ca = %ca, "CA {ca}: endpoint = \"sign-verbatim\": no role limits what it signs");
        }
        Ok(Self {
            ca: ca.clone(),
            settings: settings.clone(),
            wire: Wire::new(ca, &settings.server, trust.clone(), None, clock, deadline)?,
            trust,
            clock: clock.clone(),
            deadline,
            secrets: material.secrets,
            stored: material.stored,
            bundles: material.bundles,
            keep: material.keep,
            login: OnceCell::new(),
        })
    }

    /// The chain of the mount, or its one certificate where it has no chain.
    pub(super) async fn published(&self) -> Result<Vec<CertificateDer<'static>>, CaError> {
        for last in ["ca_chain", "ca/pem"] {
            let call = self.call("list its CA certificates", &format!("{}/{last}", self.settings.mount));
            let answer = self.checked(&self.wire, &call).await?;
            let found = parse_chain(&String::from_utf8_lossy(&answer.body));
            match found {
                Ok(found) if !found.is_empty() => return Ok(found),
                Ok(_) if answer.body.trim_ascii().is_empty() => {}
                _ => return Err(self.bad(&answer, &call, "it is not a list of certificates in PEM")),
            }
        }
        Err(CaError::BadAnswer {
            ca: self.ca.clone(),
            asked: "list its CA certificates".to_owned(),
            url: self.settings.server.urls.join(", "),
            why: format!("{NO_ISSUER}: {}", self.settings.mount),
        })
    }

    pub(super) async fn obtain(&self, request: &Request<'_>) -> Result<Issued, Arc<CaError>> {
        let token = self.token().await?;
        self.sign(request, &token).await.map_err(Arc::new)
    }

    async fn sign(&self, request: &Request<'_>, token: &Token) -> Result<Issued, CaError> {
        let role = request.role.or(self.settings.role.as_deref());
        let endpoint = match self.settings.endpoint {
            Endpoint::Sign => "sign",
            Endpoint::SignVerbatim => "sign-verbatim",
        };
        let tail = role.map_or_else(String::new, |role| format!("/{role}"));
        let asked = format!("sign the certificate {}", request.name);
        let mut call = self.call(&asked, &format!("{}/{endpoint}{tail}", self.settings.mount));
        call.method = Method::POST;
        call.headers.insert(TOKEN, self.header(&token.secret)?);
        call.body = Some(Body::Json(self.body(request)));
        let answer = self.checked(&self.wire, &call).await?;
        self.issued(&answer, &call)
    }

    /// By its serial number, which takes a policy for MOUNT/revoke. Not by `revoke-with-key`, which would need
    /// none: it is sent the private key, and that never leaves this host.
    pub(super) async fn revoke(&self, name: &Name, leaf: &Leaf) -> Result<(), Arc<CaError>> {
        let token = self.token().await?;
        let asked = format!("revoke the certificate {name}");
        let mut call = self.call(&asked, &format!("{}/revoke", self.settings.mount));
        call.method = Method::POST;
        call.headers.insert(TOKEN, self.header(&token.secret)?);
        call.body = Some(Body::Json(json!({ "serial_number": leaf.serial })));
        let answer = self.checked(&self.wire, &call).await.map(drop);
        answer.map_err(|error| Arc::new(self.unrevoked(error, leaf)))
    }

    /// A role is no matter here, and its operator needs no policy of ours.
    fn unrevoked(&self, error: CaError, leaf: &Leaf) -> CaError {
        let CaError::Refused { ca, asked, url, said, advice, setting } = error else { return error };
        let path = format!("{}/revoke", self.settings.mount);
        let (advice, setting) = match setting {
            Setting::Role => (format!("a policy of the token must allow `update` on {path}"), Setting::Auth),
            _ => (advice, setting),
        };
        let or = if advice.is_empty() { "" } else { ", or " };
        let by_hand = format!("have its operator run `bao write {path} serial_number={}`", leaf.serial);
        CaError::Refused { ca, asked, url, said, advice: advice + or + &by_hand, setting }
    }

    /// The names come from the CSR (`use_csr_sans`). The common name is sent beside it for roles that
    /// do not read it there (`use_csr_common_name = false`).
    fn body(&self, request: &Request<'_>) -> Value {
        let wanted = request.identity;
        let mut body = Map::new();
        body.insert("csr".into(), request.csr.pem().into());
        body.insert("format".into(), "pem".into());
        if !wanted.common_name.is_empty() {
            body.insert("common_name".into(), wanted.common_name.clone().into());
        }
        if let Some(ttl) = wanted.ttl {
            body.insert("ttl".into(), format!("{}s", ttl.as_secs()).into());
        }
        if self.settings.endpoint == Endpoint::SignVerbatim {
            body.insert("ext_key_usage".into(), wanted.usages.iter().map(|&u| usage_name(u)).collect());
            body.insert("key_usage".into(), key_usage(wanted.key));
        }
        Value::Object(body)
    }

    fn issued(&self, answer: &Answer, call: &Call<'_>) -> Result<Issued, CaError> {
        if answer.body.is_empty() {
            return Err(self.bad(answer, call, &format!("{NO_ISSUER}: {}", self.settings.mount)));
        }
        let signed: Signed = self.read(answer, call)?;
        for warning in signed.warnings() {
            // We always send it: a role with use_csr_common_name=false asks for it, and the others warn.
            if !warning.starts_with("the common_name field was provided") {
                tracing::warn!(ca = %self.ca, "CA {} warns: {}", self.ca, one_line(warning));
            }
        }
        let unread = "it holds a certificate that is no PEM, or a damaged one";
        signed.chain().map(|chain| Issued { chain }).ok_or_else(|| self.bad(answer, call, unread))
    }

    /// Gives the token of our own login back, so that it does not outlive the run.
    pub(super) async fn close(&self) {
        if let Some(Ok(token)) = self.login.get() {
            self.give_back(token).await;
        }
    }

    async fn give_back(&self, token: &Token) {
        let (true, Ok(header)) = (token.ours, self.header(&token.secret)) else { return };
        let mut call = self.call("give the token back", "auth/token/revoke-self");
        call.method = Method::POST;
        call.headers.insert(TOKEN, header);
        let gone = self.wire.ask_once(&call, FAREWELL).await.is_some_and(|answer| answer.status.is_success());
        tracing::debug!(ca = %self.ca, revoked = gone, "token given back");
    }

    fn call<'a>(&self, asked: &'a str, path: &str) -> Call<'a> {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST, HeaderValue::from_static("true"));
        let namespace = self.settings.namespace.as_deref().map(HeaderValue::from_str);
        if let Some(Ok(namespace)) = namespace {
            headers.insert(NAMESPACE, namespace);
        }
        Call { asked, method: Method::GET, path: format!("/v1/{path}"), headers, body: None }
    }

    fn header(&self, token: &Secret) -> Result<HeaderValue, CaError> {
        let mut header = HeaderValue::from_str(token.expose()).map_err(|_| CaError::Unusable {
            ca: self.ca.clone(),
            why: "the token holds characters that no token has; see where it comes from".to_owned(),
        })?;
        header.set_sensitive(true);
        Ok(header)
    }

    /// Asks, and makes an error of every answer but yes.
    async fn checked(&self, wire: &Wire, call: &Call<'_>) -> Result<Answer, CaError> {
        let answer = wire.ask(call).await?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        let said = said(&answer.body);
        let (advice, setting) = advice::of(answer.status.as_u16(), &said, call, &self.settings.mount);
        Err(CaError::Refused {
            ca: self.ca.clone(),
            asked: call.asked.to_owned(),
            advice,
            setting,
            said: format!("{} {said}", answer.status.as_u16()),
            url: answer.url.into(),
        })
    }

    /// A page of HTML is shown, for it tells who answered; any other body may hold a secret.
    fn read<T: for<'de> Deserialize<'de>>(&self, answer: &Answer, call: &Call<'_>) -> Result<T, CaError> {
        serde_json::from_slice(&answer.body).map_err(|_| {
            let page = answer.body.trim_ascii_start().starts_with(b"<");
            let shown = if page { format!(", but {:?}", said(&answer.body)) } else { String::new() };
            self.bad(answer, call, &format!("it is not the JSON that was expected{shown}"))
        })
    }

    fn bad(&self, answer: &Answer, call: &Call<'_>, why: &str) -> CaError {
        self.wire.bad_answer(&answer.url, call, format!("{} {why}", answer.status.as_u16()))
    }
}

const NO_ISSUER: &str = "an empty body: the mount has no issuer, make or import a CA certificate there";

fn usage_name(usage: Usage) -> Value {
    match usage {
        Usage::Server => "ServerAuth".into(),
        Usage::Client => "ClientAuth".into(),
    }
}

fn key_usage(key: KeyKind) -> Value {
    match key {
        KeyKind::Rsa2048 | KeyKind::Rsa3072 | KeyKind::Rsa4096 => {
            json!(["DigitalSignature", "KeyEncipherment"])
        }
        KeyKind::P256 | KeyKind::P384 | KeyKind::P521 | KeyKind::Ed25519 => json!(["DigitalSignature"]),
    }
}

/// The answer to a request for a signature.
#[derive(Debug, Deserialize)]
pub struct Signed {
    data: SignedData,
    warnings: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct SignedData {
    certificate: String,
    issuing_ca: Option<String>,
    ca_chain: Option<Vec<String>>,
}

impl Signed {
    /// Reads the JSON.
    pub fn parse(body: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(body)
    }

    /// What the server warns of, in its own words.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.warnings.iter().flatten().map(String::as_str)
    }

    /// The chain, leaf first; `None` where a part of it is no certificate. Read one by one: in one text a
    /// certificate that was cut short would vanish before the next.
    pub fn chain(&self) -> Option<Vec<CertificateDer<'static>>> {
        let above = self.data.ca_chain.as_deref().filter(|chain| !chain.is_empty());
        let above = above.unwrap_or(self.data.issuing_ca.as_slice());
        let mut chain = Vec::new();
        for pem in std::iter::once(&self.data.certificate).chain(above) {
            chain.extend(parse_chain(pem).ok().filter(|found| !found.is_empty())?);
        }
        Some(chain)
    }
}
