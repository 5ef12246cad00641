//! A Puppet CA, over the HTTP API `/puppet-ca/v1` of puppetserver.
//!
//! One certname is one certificate: the CA signs the first request under a name and no other until an
//! operator frees it. So what is there is looked at before anything is sent, and a request is kept until
//! its certificate is here.

use std::sync::Arc;

use reqwest::Method;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};
use rustls_pki_types::CertificateDer;
use tokio::sync::OnceCell;

use super::text::said;
use super::wire::{Answer, Body, Call, Wire};
use super::{CaError, Deadline, Issued, Lack, Material, Renewal, Request, Setting};
use crate::bundle::{Bundle, Leaf, parse_chain};
use crate::clock::Clock;
use crate::https::Trust;
use crate::key::Dialect;
use crate::setting::{Name, Secret};
use crate::trust::{Anchors, Pin, Tls};

mod enrolment;
mod oid;
mod renewal;
mod revocation;
mod settings;

use enrolment::Enrolment;
pub(super) use settings::way;
pub use settings::{Settings, Table};

/// A Puppet CA that is ready to be asked.
pub struct Puppet {
    ca: Name,
    settings: Settings,
    clock: Clock,
    deadline: Deadline,
    trust: Voucher,
    secrets: Vec<Result<Secret, Lack>>,
    known: OnceCell<Result<Known, Arc<CaError>>>,
}

/// What vouches for the server and for what it publishes.
enum Voucher {
    /// CA certificates, by fingerprint.
    Pins(Vec<Pin>),
    /// CA certificates of a file. The server presents its leaf alone, so that its intermediate, if the file
    /// has only the root, has to come from what it publishes.
    Anchors(Anchors),
    /// The roots of this system.
    System(Trust),
    /// Nothing yet: the first bundle is taken.
    FirstUse,
}

/// The CA as it was found to be in this run.
struct Known {
    trust: Trust,
    /// The verified connection.
    wire: Wire,
    /// Its CA certificates, vouched for.
    bundle: Vec<CertificateDer<'static>>,
}

impl Puppet {
    pub(super) fn open(
        ca: &Name,
        settings: &Settings,
        material: Material,
        clock: &Clock,
        deadline: Deadline,
    ) -> Result<Self, CaError> {
        let trust = match (&settings.server.tls, material.tls) {
            (Tls::Pins(pins), _) => Voucher::Pins(pins.clone()),
            (Tls::File(_) | Tls::FirstUse, Some(anchors)) => Voucher::Anchors(anchors),
            (Tls::FirstUse, None) => Voucher::FirstUse,
            (tls, file) => Trust::new(tls, file)
                .map(Voucher::System)
                .map_err(|why| CaError::Unusable { ca: ca.clone(), why })?,
        };
        Ok(Self {
            ca: ca.clone(),
            settings: settings.clone(),
            clock: clock.clone(),
            deadline,
            trust,
            secrets: material.secrets,
            known: OnceCell::new(),
        })
    }

    /// What goes into a request: names alone, and what the policy that signs may ask to see.
    pub(super) fn dialect(&self) -> Result<Dialect, CaError> {
        let secrets = self.secrets.iter().map(|secret| match secret {
            Ok(secret) => Ok(secret.clone()),
            Err(lack) => Err(CaError::NoSecret { ca: self.ca.clone(), lack: lack.clone() }),
        });
        let mut secrets = secrets.collect::<Result<Vec<_>, _>>()?.into_iter();
        let numbers = |of: &[(crate::key::Oid, _)]| of.iter().map(|(oid, _)| *oid).collect::<Vec<_>>();
        Ok(Dialect {
            usages: false,
            lone_name: false,
            attributes: numbers(&self.settings.attributes).into_iter().zip(secrets.by_ref()).collect(),
            extensions: numbers(&self.settings.extensions).into_iter().zip(secrets).collect(),
        })
    }

    /// Only an administrator of the CA can revoke, and by name.
    pub(super) fn revocation(&self, leaf: &Leaf) -> String {
        format!("`puppetserver ca revoke --certname {}` on the CA's server", leaf.common_names.join(" "))
    }

    /// The certificates of the CA, as vouched for.
    pub(super) async fn published(&self) -> Result<Vec<CertificateDer<'static>>, Arc<CaError>> {
        Ok(self.known().await?.bundle.clone())
    }

    /// Its revocation lists, over the verified connection.
    pub(super) async fn crl(&self) -> Result<String, Arc<CaError>> {
        self.revocations(self.known().await?).await.map_err(Arc::new)
    }

    pub(super) async fn obtain(&self, request: &Request<'_>) -> Result<Issued, Arc<CaError>> {
        let known = self.known().await?;
        Enrolment { puppet: self, known, request }.run().await.map_err(Arc::new)
    }

    pub(super) async fn renew(&self, renewal: &Renewal<'_>) -> Result<Option<Issued>, Arc<CaError>> {
        let known = self.known().await?;
        self.renewed(known, renewal).await.map_err(Arc::new)
    }

    /// Finds out once a run who the CA is, before anything that matters is said.
    async fn known(&self) -> Result<&Known, Arc<CaError>> {
        let known = self.known.get_or_init(|| async { self.learn().await.map_err(Arc::new) }).await;
        known.as_ref().map_err(Arc::clone)
    }

    async fn learn(&self) -> Result<Known, CaError> {
        if let Voucher::System(trust) = &self.trust {
            let wire = self.wire(trust.clone(), None)?;
            let (_, bundle) = self.bundle(&wire).await?;
            return Ok(Known { trust: trust.clone(), wire, bundle });
        }
        // Nothing secret is sent here, and nothing that comes is believed before it is vouched for.
        let (url, published) = self.bundle(&self.wire(Trust::Anyone, None)?).await?;
        let mut vouched = match &self.trust {
            Voucher::Pins(pins) => Anchors::vouched(&published, pins),
            Voucher::Anchors(anchors) => {
                let with: Vec<_> = anchors.certificates().iter().chain(&published).cloned().collect();
                let pins: Vec<_> = anchors.certificates().iter().map(|der| Pin::of(der)).collect();
                let vouched = Anchors::vouched(&with, &pins);
                if published.iter().any(|der| vouched.contains(der)) { vouched } else { Vec::new() }
            }
            Voucher::FirstUse | Voucher::System(_) => published.clone(),
        };
        let mut seen = Vec::new();
        vouched.retain(|der| {
            !seen.contains(&Pin::of(der)) && {
                seen.push(Pin::of(der));
                true
            }
        });
        let anchors = Anchors::new(vouched.clone()).map_err(|_| self.stranger(&url, &published))?;
        let trust = Trust::Anchors(anchors);
        let wire = self.wire(trust.clone(), None)?;
        Ok(Known { trust, wire, bundle: vouched })
    }

    fn stranger(&self, url: &str, published: &[CertificateDer<'static>]) -> CaError {
        let shown: Vec<_> = Anchors::new(published.to_vec())
            .map(|there| {
                there.describe().into_iter().map(|(name, pin, _)| format!("{name:?} {pin}")).collect()
            })
            .unwrap_or_default();
        CaError::Untrusted {
            ca: self.ca.clone(),
            url: url.to_owned(),
            why: format!(
                "it publishes {}, and none of these is what the configuration trusts; if one is right, put it into tls.pins",
                if shown.is_empty() { "no CA certificate".to_owned() } else { shown.join(", ") }
            ),
        }
    }

    async fn bundle(&self, wire: &Wire) -> Result<(String, Vec<CertificateDer<'static>>), CaError> {
        let call = self.call("read its CA certificates", "certificate/ca");
        let answer = self.checked(wire, &call).await?;
        let found = parse_chain(&String::from_utf8_lossy(&answer.body)).unwrap_or_default();
        if found.is_empty() {
            return Err(wire.bad_answer(
                &answer.url,
                &call,
                "it is not a list of certificates in PEM".to_owned(),
            ));
        }
        Ok((answer.url, found))
    }

    fn wire(&self, trust: Trust, identity: Option<&Bundle>) -> Result<Wire, CaError> {
        Wire::new(&self.ca, &self.settings.server, trust, identity, &self.clock, self.deadline)
    }

    fn call<'a>(&self, asked: &'a str, path: &str) -> Call<'a> {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("text/plain"))]);
        Call { asked, method: Method::GET, path: format!("/puppet-ca/v1/{path}"), headers, body: None }
    }

    /// Asks, and makes an error of every answer but yes.
    async fn checked(&self, wire: &Wire, call: &Call<'_>) -> Result<Answer, CaError> {
        let answer = wire.ask(call).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(self.refused(call, &answer)) }
    }

    /// Asks for what may not be there.
    async fn found(&self, wire: &Wire, call: &Call<'_>) -> Result<Option<Answer>, CaError> {
        let answer = wire.ask(call).await?;
        match answer.status.as_u16() {
            404 => Ok(None),
            200..300 => Ok(Some(answer)),
            _ => Err(self.refused(call, &answer)),
        }
    }

    /// The certificate under a name, if there is one. A revoked one is served like any other.
    async fn certificate(
        &self,
        known: &Known,
        certname: &str,
    ) -> Result<Option<CertificateDer<'static>>, CaError> {
        let call = self.call("read the certificate under a name", &format!("certificate/{certname}"));
        let Some(answer) = self.found(&known.wire, &call).await? else { return Ok(None) };
        self.leaf(known, &answer, &call).map(Some)
    }

    fn leaf(
        &self,
        known: &Known,
        answer: &Answer,
        call: &Call<'_>,
    ) -> Result<CertificateDer<'static>, CaError> {
        let found = parse_chain(&String::from_utf8_lossy(&answer.body)).unwrap_or_default();
        found.into_iter().next().ok_or_else(|| {
            let why = "it holds no certificate in PEM, or a damaged one".to_owned();
            known.wire.bad_answer(&answer.url, call, why)
        })
    }

    /// The leaf with what stands between it and the root: the CA answers with the leaf alone.
    fn issued(&self, known: &Known, leaf: CertificateDer<'static>) -> Issued {
        Issued { chain: std::iter::once(leaf).chain(known.bundle.iter().cloned()).collect() }
    }

    fn refused(&self, call: &Call<'_>, answer: &Answer) -> CaError {
        let said = said(&answer.body);
        let (status, lower) = (answer.status.as_u16(), said.to_ascii_lowercase());
        let advice = ADVICE.iter().find(|(code, words, _)| *code == status && lower.contains(words));
        CaError::Refused {
            ca: self.ca.clone(),
            asked: call.asked.to_owned(),
            url: answer.url.as_str().into(),
            said: format!("{status} {said}"),
            advice: advice.map(|(_, _, advice)| (*advice).to_owned()).unwrap_or_default(),
            setting: Setting::Table,
        }
    }

    fn taken(&self, certname: &str, why: impl Into<String>) -> CaError {
        CaError::Taken { ca: self.ca.clone(), certname: certname.to_owned(), why: why.into() }
    }
}

/// What to do about an answer: status, words in it (lower case), advice. The first that fits is given.
const ADVICE: [(u16, &str, &str); 5] = [
    (
        400,
        "subject alternative names",
        "set allow-subject-alt-names: true in ca.conf of the CA's server and restart it; the request is stored there, so then sign it with `puppetserver ca sign --certname NAME`, or ask for no names but the certname",
    ),
    (
        400,
        "extensions that are not permitted",
        "a Puppet CA signs extensions of Puppet's own arc only, 1.3.6.1.4.1.34380.1; see `extensions` of this CA",
    ),
    (
        400,
        "authorization extensions",
        "set allow-authorization-extensions: true in ca.conf of the CA's server and restart it, or leave pp_auth_role and its like out of `extensions`",
    ),
    (403, "", "see auth.conf of the CA's server: /puppet-ca/v1 must be allowed without a certificate"),
    (404, "", "is `url` the server that runs the CA? A compile server does not"),
];
