//! OpenBao and HashiCorp Vault: the PKI secrets engine over its HTTP API.
//!
//! The key never leaves the host: only `sign` and `sign-verbatim` are spoken, not `issue`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use rustls_pki_types::CertificateDer;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::OnceCell;

use super::tls::Trust;
use super::wire::{Answer, Call, Wire, one_line, said, server_url};
use super::{CaError, Deadline, Faults, Issued, Keep, Material, Request, Server};
use crate::bundle::{Bundle, Rejected, parse_chain};
use crate::clock::Clock;
use crate::identity::{Identity, KeyKind, Usage};
use crate::key::MAX_ORGANIZATIONS;
use crate::setting::{At, Name, Secret, SecretSource};

mod login;

use login::Token;
pub use login::{AppRole, Cert, Jwt, Rung, RungTable};

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
/// The API asks for it on some paths, against request forgery by way of a proxy.
const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");
/// How long giving a token back may hold up the end of a run.
const FAREWELL: Duration = Duration::from_secs(2);

/// `[ca.NAME.vault]`, as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "packaging/config.toml is their reference")]
pub struct Table {
    pub urls: Option<At<Vec<String>>>,
    pub mount: Option<At<String>>,
    pub role: Option<At<String>>,
    #[serde(default)]
    pub endpoint: Endpoint,
    pub namespace: Option<At<String>>,
    pub auth: Option<At<Vec<At<RungTable>>>>,
}

/// How a request is signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Endpoint {
    /// By the limits of a role.
    #[default]
    Sign,
    /// As it is asked; the role's limits do not apply.
    SignVerbatim,
}

/// A Vault that can be asked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its server.
    pub server: Server,
    /// Path of the PKI mount, without slashes at its ends.
    pub mount: String,
    /// The role of certificates that name none.
    pub role: Option<String>,
    /// How requests are signed.
    pub endpoint: Endpoint,
    /// The namespace all paths lie in.
    pub namespace: Option<String>,
    /// Ways to log in, tried in order; there is at least one.
    pub auth: Vec<Rung>,
}

impl Table {
    /// What the table means; `None` where a fault was added.
    pub(super) fn settings(self, server: Option<Server>, faults: &mut Faults<'_>) -> Option<Settings> {
        let urls = urls(self.urls, faults);
        let mount = match self.mount {
            Some(mount) => path("mount", &mount, faults),
            None => {
                faults.add(
                    None,
                    "has no mount; write the path of the PKI secrets engine, such as mount = \"pki\"",
                );
                None
            }
        };
        let role = self.role.map(|role| segment("role", &role, faults));
        let namespace = self.namespace.map(|namespace| path("namespace", &namespace, faults));
        let auth = login::rungs(self.auth, faults);
        Some(Settings {
            server: Server { urls: urls?, ..server? },
            mount: mount?,
            role: role.map_or(Some(None), |role| role.map(Some))?,
            endpoint: self.endpoint,
            namespace: namespace.map_or(Some(None), |namespace| namespace.map(Some))?,
            auth: auth?,
        })
    }
}

fn urls(urls: Option<At<Vec<String>>>, faults: &mut Faults<'_>) -> Option<Vec<String>> {
    let Some(urls) = urls.filter(|urls| !urls.get_ref().is_empty()) else {
        faults.add(None, "has no urls; write urls = [\"https://HOST:8200\"]");
        return None;
    };
    let span = urls.span();
    let checked = urls.into_inner().into_iter().map(|url| server_url(&url));
    checked.collect::<Result<_, _>>().map_err(|why| faults.add(Some(span), why)).ok()
}

fn path(key: &str, value: &At<String>, faults: &mut Faults<'_>) -> Option<String> {
    let trimmed = value.get_ref().trim_matches('/');
    if trimmed.split('/').all(is_segment) {
        return Some(trimmed.to_owned());
    }
    faults.add(
        Some(value.span()),
        format!("has the faulty {key} {:?}; write a path such as \"etcd/prod/pki\"", value.get_ref()),
    );
    None
}

fn segment(key: &str, value: &At<String>, faults: &mut Faults<'_>) -> Option<String> {
    if is_segment(value.get_ref()) {
        return Some(value.get_ref().clone());
    }
    faults.add(Some(value.span()), format!("has the faulty {key} {:?}; {PLAIN}", value.get_ref()));
    None
}

const PLAIN: &str = "a name has letters, digits, '.', '_', '-' and '~'";

/// One part of a URL path that needs no escaping, RFC 3986 section 2.3.
fn is_segment(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    !text.is_empty() && text.chars().all(plain) && !text.chars().all(|c| c == '.')
}

impl Settings {
    pub(super) fn admits(&self, wanted: &Identity, role: Option<&str>) -> Result<(), String> {
        let count = wanted.organization.as_ref().map_or(0, BTreeSet::len);
        match (self.endpoint, role.or(self.role.as_deref())) {
            (_, Some(role)) if !is_segment(role) => Err(format!("has the faulty role {role:?}; {PLAIN}")),
            (Endpoint::Sign, None) => {
                Err("has no role, and neither has its CA; write role = \"…\" at one of them".to_owned())
            }
            (Endpoint::SignVerbatim, _) if count > MAX_ORGANIZATIONS => Err(format!(
                "asks for {count} organizations; a request carries {MAX_ORGANIZATIONS}, so use endpoint = \"sign\" with a role that sets `organization`"
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn hint(&self, why: &Rejected) -> Option<String> {
        let mount = &self.mount;
        match why {
            Rejected::DueAtOnce(_) => Some(format!(
                "see `max_ttl` and `ttl` of the role at {mount}/roles, and the mount's own max_lease_ttl"
            )),
            Rejected::NotYetValid { .. } => Some(format!(
                "see the clocks of both hosts, and `not_before_duration` of the role at {mount}/roles"
            )),
            Rejected::Untrusted(_) | Rejected::AnchorExpired { .. } => Some(format!(
                "what {mount} signs with is at {mount}/ca_chain; is it what `anchors` of this CA says?"
            )),
            _ if self.endpoint == Endpoint::SignVerbatim => None,
            _ => role_option(why).map(|options| format!("see {options} of the role at {mount}/roles")),
        }
    }

    pub(super) fn secrets(&self) -> Vec<&SecretSource> {
        self.auth.iter().filter_map(Rung::secret).collect()
    }

    pub(super) fn wrapped(&self) -> Option<&SecretSource> {
        self.auth.iter().filter(|rung| rung.is_wrapped()).find_map(Rung::secret)
    }

    pub(super) fn logs_in_with(&self) -> Vec<&At<Name>> {
        self.auth.iter().filter_map(Rung::certificate).collect()
    }
}

/// `sign` takes the organization and usages from the role, never from the request, and says nothing.
fn role_option(why: &Rejected) -> Option<&'static str> {
    match why {
        Rejected::Organization { .. } => Some("`organization`"),
        Rejected::MissingUsage(_) | Rejected::ExtraUsage(_) => {
            Some("`server_flag`, `client_flag` and `ext_key_usage`")
        }
        Rejected::MissingDns(_) => Some("`use_csr_sans` and `allowed_domains`"),
        Rejected::MissingIp(_) => Some("`use_csr_sans` and `allow_ip_sans`"),
        Rejected::MissingUri(_) => Some("`use_csr_sans` and `allowed_uri_sans`"),
        Rejected::CommonName { .. } => Some("`use_csr_common_name` and `require_cn`"),
        Rejected::KeyKind(_) => Some("`key_type` and `key_bits`"),
        Rejected::CaCertificate => Some("`basic_constraints_valid_for_non_ca`"),
        _ => None,
    }
}

/// A Vault that is ready to be asked.
pub struct Vault {
    ca: Name,
    settings: Settings,
    wire: Wire,
    trust: Trust,
    clock: Clock,
    deadline: Deadline,
    secrets: Vec<Result<Secret, String>>,
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
            tracing::warn!(ca = %ca, "endpoint = \"sign-verbatim\": no role limits what this CA signs");
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
        call.body = Some(self.body(request));
        let answer = self.checked(&self.wire, &call).await?;
        self.issued(&answer, &call)
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
        for warning in signed.warnings.iter().flatten() {
            tracing::warn!(ca = %self.ca, warning = one_line(warning), "the CA warns");
        }
        // Read one by one: in one text a certificate that was cut short would vanish before the next.
        let above = signed.data.ca_chain.filter(|chain| !chain.is_empty());
        let above = above.unwrap_or_else(|| signed.data.issuing_ca.into_iter().collect());
        let mut chain = Vec::new();
        for pem in std::iter::once(&signed.data.certificate).chain(&above) {
            match parse_chain(pem) {
                Ok(found) if !found.is_empty() => chain.extend(found),
                _ => {
                    return Err(self.bad(
                        answer,
                        call,
                        "it holds a certificate that is no PEM, or a damaged one",
                    ));
                }
            }
        }
        Ok(Issued { chain })
    }

    /// Gives the token of our own login back, so that it does not outlive the run.
    pub(super) async fn close(&self) {
        let Some(Ok(token)) = self.login.get() else { return };
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
        Err(CaError::Refused {
            ca: self.ca.clone(),
            asked: call.asked.to_owned(),
            advice: self.advice(answer.status.as_u16(), &said, call),
            said: format!("{} {said}", answer.status.as_u16()),
            url: answer.url,
        })
    }

    fn advice(&self, status: u16, said: &str, call: &Call<'_>) -> String {
        let path = call.path.trim_start_matches("/v1/");
        let known = ADVICE
            .iter()
            .find(|(code, words, _)| *code == status && said.to_ascii_lowercase().contains(words));
        known.map_or_else(String::new, |(_, _, advice)| {
            advice.replace("PATH", path).replace("MOUNT", &self.settings.mount)
        })
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, answer: &Answer, call: &Call<'_>) -> Result<T, CaError> {
        serde_json::from_slice(&answer.body).map_err(|_| {
            self.bad(
                answer,
                call,
                &format!("it is not the JSON that was expected, but {:?}", said(&answer.body)),
            )
        })
    }

    fn bad(&self, answer: &Answer, call: &Call<'_>, why: &str) -> CaError {
        self.wire.bad_answer(&answer.url, call, format!("{} {why}", answer.status.as_u16()))
    }
}

const NO_ISSUER: &str = "an empty body: the mount has no issuer, make or import a CA certificate there";

/// What to do about an answer: status, words in it (lower case), advice.
const ADVICE: [(u16, &str, &str); 11] = [
    (400, "unknown role", "set `role` to one of those that `bao list MOUNT/roles` shows"),
    (
        400,
        "common name",
        "see allowed_domains, allow_subdomains, allow_bare_domains, allow_any_name of the role",
    ),
    (400, "subject alternate name", "see allowed_domains, allow_subdomains, allow_any_name of the role"),
    (400, "ip subject alternative name", "see allow_ip_sans of the role"),
    (400, "uri subject alternative name", "see allowed_uri_sans of the role"),
    (400, "key type", "see key_type of the role, or set `key` of the certificate"),
    (400, "keys of type", "see key_type of the role, or set `key` of the certificate"),
    (400, "bits", "see key_bits of the role, or set `key` of the certificate"),
    (401, "", "see `auth` of this CA"),
    (403, "", "a policy of the token must allow it on PATH, and `mount` and `namespace` must be right"),
    (404, "", "nothing is mounted there; see `mount` and `namespace`"),
];

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

#[derive(Deserialize)]
struct Signed {
    data: SignedData,
    warnings: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct SignedData {
    certificate: String,
    issuing_ca: Option<String>,
    ca_chain: Option<Vec<String>>,
}

/// The span of a list, for faults about the whole of it.
fn span_of<T>(list: Option<&At<T>>) -> Option<Range<usize>> {
    list.map(At::span)
}
