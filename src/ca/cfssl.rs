//! cfssl (`cfssl serve`), over its HTTP API `/api/v1/cfssl`: `authsign`, with an HMAC of the request.
//!
//! Measured on 1.2.0: usages and lifetime come from the profile; O is kept; URIs are dropped without a word;
//! the common name is not added to the SANs; Ed25519 is refused; an unknown profile is taken for the default one.

use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::Method;
use reqwest::header::HeaderMap;
use rustls_pki_types::CertificateDer;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::OnceCell;
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

use super::settings::{Faults, Server};
use super::text::{said, server_url};
use super::wire::{Answer, Body, Call, Wire};
use super::{CaError, Deadline, Issued, Lack, Material, Request, Setting};
use crate::bundle::{Pair, Rejected, parse_chain};
use crate::clock::Clock;
use crate::https::Trust;
use crate::identity::{Identity, KeyKind};
use crate::key::MAX_ORGANIZATIONS;
use crate::setting::{At, Name, Secret, SecretSource};

/// `[ca.NAME.cfssl]`, as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "packaging/config.toml is their reference")]
pub struct Table {
    pub urls: Option<At<Vec<String>>>,
    pub key: Option<At<SecretSource>>,
    pub profile: Option<String>,
    pub label: Option<String>,
}

/// A cfssl that can be asked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its server.
    pub server: Server,
    /// The key of the profile, in hexadecimal.
    pub key: SecretSource,
    /// The profile of certificates that name none as their role.
    pub profile: Option<String>,
    /// The signer, where a server has several.
    pub label: Option<String>,
}

impl Table {
    /// What the table means; `None` where a fault was added.
    pub(super) fn settings(self, server: Option<Server>, faults: &mut Faults<'_>) -> Option<Settings> {
        let urls = self.urls.filter(|urls| !urls.get_ref().is_empty());
        let urls = match urls {
            Some(urls) => {
                let span = urls.span();
                let checked = urls.into_inner().into_iter().map(|url| server_url(&url));
                checked.collect::<Result<Vec<_>, _>>().map_err(|why| faults.add(Some(span), why)).ok()
            }
            None => {
                faults.add(None, "has no urls; write urls = [\"https://HOST:8888\"]");
                None
            }
        };
        if self.key.is_none() {
            faults.add(
                None,
                "has no key; write key = { file = \"…\" }, the auth key of the profile in hexadecimal",
            );
        }
        Some(Settings {
            server: Server { urls: urls?, ..server? },
            key: self.key?.into_inner(),
            profile: self.profile,
            label: self.label,
        })
    }
}

impl Settings {
    pub(super) fn admits(&self, wanted: &Identity) -> Result<(), String> {
        if !wanted.uris.is_empty() {
            return Err("cfssl drops URIs without a word; leave uris out, or use another CA".to_owned());
        }
        if wanted.key == KeyKind::Ed25519 {
            return Err("cfssl signs no Ed25519 keys; write key = \"p256\"".to_owned());
        }
        match wanted.organization.as_ref().map_or(0, std::collections::BTreeSet::len) {
            count if count > MAX_ORGANIZATIONS => {
                Err(format!("asks for {count} organizations; a request carries {MAX_ORGANIZATIONS}"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn hint(&self, why: &Rejected) -> Option<String> {
        let option = match why {
            Rejected::MissingUsage(_) | Rejected::ExtraUsage(_) => "`usages`",
            Rejected::DueAtOnce(_) => "`expiry`",
            Rejected::NotYetValid { .. } => "`backdate`",
            Rejected::Organization { .. } | Rejected::CommonName { .. } => "`csr_whitelist`",
            Rejected::MissingDns(_) | Rejected::MissingIp(_) => "`name_whitelist` and `csr_whitelist`",
            Rejected::CaCertificate => "`ca_constraint`",
            _ => return None,
        };
        Some(format!(
            "see {option} of the profile in cfssl's configuration, which takes its default for a profile that it does not know"
        ))
    }
}

/// A cfssl that is ready to be asked.
pub struct Cfssl {
    ca: Name,
    settings: Settings,
    wire: Wire,
    key: Option<Result<Secret, Lack>>,
    issuer: OnceCell<Result<Vec<CertificateDer<'static>>, Arc<CaError>>>,
}

/// Where a setting stands in the table of the CA.
pub(super) fn way(setting: Setting) -> Option<&'static [&'static str]> {
    match setting {
        Setting::Urls => Some(&["cfssl", "urls"]),
        Setting::Auth => Some(&["cfssl", "key"]),
        Setting::Role => Some(&["cfssl", "profile"]),
        Setting::Label => Some(&["cfssl", "label"]),
        _ => None,
    }
}

impl Cfssl {
    pub(super) fn open(
        ca: &Name,
        settings: &Settings,
        material: Material,
        clock: &Clock,
        deadline: Deadline,
    ) -> Result<Self, CaError> {
        let trust = Trust::new(&settings.server.tls, material.tls)
            .map_err(|why| CaError::Unusable { ca: ca.clone(), why })?;
        Ok(Self {
            ca: ca.clone(),
            settings: settings.clone(),
            wire: Wire::new(ca, &settings.server, trust, None, clock, deadline)?,
            key: material.secrets.into_iter().next(),
            issuer: OnceCell::new(),
        })
    }

    /// The certificate that signs; what stands above it cfssl does not say.
    pub(super) async fn published(&self) -> Result<Vec<CertificateDer<'static>>, Arc<CaError>> {
        self.issuer.get_or_init(|| async { self.info().await.map_err(Arc::new) }).await.clone()
    }

    pub(super) async fn obtain(&self, request: &Request<'_>) -> Result<Issued, Arc<CaError>> {
        let mut chain = self.sign(request).await.map_err(Arc::new)?;
        chain.extend(self.published().await?);
        Ok(Issued { chain })
    }

    /// Its API revokes for whoever asks, so that a server that is open to hosts has no database for it; the
    /// operator has.
    pub(super) fn revocation(&self, pair: &Pair) -> String {
        let parsed = pair.chain().first().and_then(|der| X509Certificate::from_der(der).ok());
        let (serial, issuer) =
            parsed.map(|(_, leaf)| (leaf.serial.to_string(), key_id(&leaf))).unwrap_or_default();
        format!(
            "`cfssl revoke -db-config DB.json -serial {serial} -aki {issuer} -reason unspecified` on the CA's server"
        )
    }

    async fn info(&self) -> Result<Vec<CertificateDer<'static>>, CaError> {
        let label = self.settings.label.as_deref().unwrap_or_default();
        self.certificates("read its CA certificate", "info", json!({ "label": label })).await
    }

    async fn sign(&self, request: &Request<'_>) -> Result<Vec<CertificateDer<'static>>, CaError> {
        let text = self.request(request);
        let key = self.hmac_key()?;
        let signed = json!({
            "token": BASE64.encode(hmac::sign(&key, text.as_bytes())),
            "request": BASE64.encode(&text),
        });
        let asked = format!("sign the certificate {}", request.name);
        self.certificates(&asked, "authsign", signed).await
    }

    fn request(&self, request: &Request<'_>) -> String {
        let mut body = Map::from_iter([("certificate_request".to_owned(), Value::from(request.csr.pem()))]);
        let profile = request.role.or(self.settings.profile.as_deref());
        body.extend(profile.map(|profile| ("profile".to_owned(), profile.into())));
        body.extend(self.settings.label.iter().map(|label| ("label".to_owned(), label.as_str().into())));
        Value::Object(body).to_string()
    }

    fn hmac_key(&self) -> Result<hmac::Key, CaError> {
        let missing = |lack| CaError::NoSecret { ca: self.ca.clone(), lack };
        let secret = match &self.key {
            Some(Ok(secret)) => secret.expose(),
            Some(Err(lack)) => return Err(missing(lack.clone())),
            None => return Err(missing(Lack::absent("its key was not read"))),
        };
        let bytes = hex(secret).ok_or_else(|| CaError::Unusable {
            ca: self.ca.clone(),
            why: format!("the key from {} is not hexadecimal", self.settings.key),
        })?;
        Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
    }

    async fn certificates(
        &self,
        asked: &str,
        path: &str,
        body: Value,
    ) -> Result<Vec<CertificateDer<'static>>, CaError> {
        let call = Call {
            asked,
            method: Method::POST,
            path: format!("/api/v1/cfssl/{path}"),
            headers: HeaderMap::new(),
            body: Some(Body::Json(body)),
        };
        let answer = self.wire.ask(&call).await?;
        if !answer.status.is_success() {
            return Err(self.refused(&answer, &call));
        }
        signed(&answer.body).map_err(|why| self.wire.bad_answer(&answer.url, &call, why.to_owned()))
    }

    fn refused(&self, answer: &Answer, call: &Call<'_>) -> CaError {
        let said = said(&answer.body);
        let lower = said.to_ascii_lowercase();
        let advice = ADVICE.iter().find(|(words, ..)| lower.contains(words));
        CaError::Refused {
            ca: self.ca.clone(),
            asked: call.asked.to_owned(),
            url: answer.url.as_str().into(),
            said: format!("{} {said}", answer.status.as_u16()),
            advice: advice.map(|(_, _, advice)| (*advice).to_owned()).unwrap_or_default(),
            setting: advice.map_or(Setting::Table, |(_, setting, _)| *setting),
        }
    }
}

/// What to do about an answer: words in it (lower case), setting, advice.
const ADVICE: [(&str, Setting, &str); 4] = [
    ("invalid token", Setting::Auth, "`key` is not the auth key of that profile in cfssl's configuration"),
    ("label", Setting::Label, "`label` names none of that server's signers"),
    ("profile", Setting::Role, "see `profile` of this CA and `role` of the certificate"),
    (
        "policy",
        Setting::Role,
        "see `profile` of this CA and `role` of the certificate, and what that profile admits",
    ),
];

/// The authority key identifier as cfssl's database has it: hexadecimal, lower case.
fn key_id(leaf: &X509Certificate<'_>) -> String {
    let identifier = leaf.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(found) => found.key_identifier.as_ref(),
        _ => None,
    });
    identifier.map(|id| id.0.iter().map(|byte| format!("{byte:02x}")).collect()).unwrap_or_default()
}

fn hex(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() || !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// The certificates of an answer; the error says why there are none.
pub fn signed(body: &[u8]) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let signed: Signed = serde_json::from_slice(body).map_err(|_| "it is not the JSON of cfssl")?;
    let chain = parse_chain(&signed.result.certificate).ok().filter(|chain| !chain.is_empty());
    chain.ok_or("it holds no certificate in PEM, or a damaged one")
}

#[derive(Deserialize)]
struct Signed {
    result: Signature,
}

#[derive(Deserialize)]
struct Signature {
    certificate: String,
}
