//! From a request to a certificate, state by state.
//!
//! ```text
//! Look ─ nothing there ─> Submit ─ taken in ────────────────> Wait ─ signed ─┐
//!   │                       ├───── "already has a requested" > Compare ─ ours ┤
//!   │                       └───── "already has a signed" ──────┐             │
//!   └─ a certificate is there ──────────────────────────────────┴─> Signed <──┘─> ours, with our names,
//!                                                                                  not revoked: done
//! ```
//!
//! A 200 to a request says nothing: it is the same whether the request was signed, waits for a person, or
//! was turned down by the policy script. A 400 may have stored the request all the same.

use reqwest::Method;
use rustls_pki_types::CertificateDer;

use super::{Body, CaError, Issued, Known, Puppet, Request, Setting};
use crate::bundle::Leaf;
use crate::ca::Backoff;
use crate::ca::text::said;
use crate::ca::wire::entropy;
use crate::identity::Identity;
use crate::key::Csr;
use crate::trust::Pin;

/// Where an enrolment stands.
enum State {
    /// Nothing is known about the name.
    Look,
    /// The name is free: the request is to be sent.
    Submit,
    /// The CA has a request under the name, which may not be ours.
    Compare,
    /// The CA has our request.
    Wait,
    /// There is a certificate under the name, which may not be ours.
    Signed(CertificateDer<'static>),
}

pub(super) struct Enrolment<'a> {
    pub(super) puppet: &'a Puppet,
    pub(super) known: &'a Known,
    pub(super) request: &'a Request<'a>,
}

impl Enrolment<'_> {
    pub(super) async fn run(&self) -> Result<Issued, CaError> {
        let mut state = State::Look;
        loop {
            state = match state {
                State::Look => self.there().await?.map_or(State::Submit, State::Signed),
                State::Submit => self.submit().await?,
                State::Compare => self.compare().await?,
                State::Wait => State::Signed(self.signature().await?),
                State::Signed(leaf) => return self.accept(leaf).await,
            }
        }
    }

    async fn submit(&self) -> Result<State, CaError> {
        let asked = format!("take in a request for {}", self.certname());
        let mut call = self.puppet.call(&asked, &format!("certificate_request/{}", self.certname()));
        call.method = Method::PUT;
        call.body = Some(Body::Text(self.request.csr.pem()));
        let answer = self.known.wire.ask(&call).await?;
        if answer.status.is_success() {
            return Ok(State::Wait);
        }
        let said = said(&answer.body).to_ascii_lowercase();
        let has =
            |what: &str| answer.status == 400 && said.contains(&format!("already has a {what} certificate"));
        if has("requested") {
            Ok(State::Compare)
        } else if has("revoked") {
            Err(self.taken(REVOKED))
        } else if has("signed") {
            self.there().await?.map(State::Signed).ok_or_else(|| self.taken(VANISHED))
        } else {
            Err(self.puppet.refused(&call, &answer))
        }
    }

    /// The stored request is as good as ours if it has our key and our names: an earlier run sent it.
    async fn compare(&self) -> Result<State, CaError> {
        let Some(stored) = self.stored().await? else {
            // It was signed or taken out since.
            return self.there().await?.map(State::Signed).ok_or_else(|| self.rejected());
        };
        let ours = &self.request.csr;
        if !stored.has_key_of(ours) {
            return Err(self.taken("the CA holds a request with another key, of another host or from before this host was set up anew"));
        }
        if stored.names() != ours.names() {
            let (theirs, ours) = (listed(&stored), listed(ours));
            return Err(self
                .taken(format!("the CA holds an earlier request for {theirs}, and now {ours} are wanted")));
        }
        match stored.says_same(ours) {
            true => Ok(State::Wait),
            false => Err(self.taken("the CA holds an earlier request with other `extensions`")),
        }
    }

    /// Polls until a person or the policy has signed.
    async fn signature(&self) -> Result<CertificateDer<'static>, CaError> {
        let mut backoff = Backoff::default();
        let mut told = false;
        loop {
            if let Some(leaf) = self.there().await? {
                return Ok(leaf);
            }
            let Some(stored) = self.stored().await? else {
                // Signed between the two questions, or taken out by a person, which is a no.
                return self.there().await?.ok_or_else(|| self.rejected());
            };
            let waits = self.waits(&stored);
            if !told {
                tracing::warn!(ca = %self.puppet.ca, certificate = %self.request.name, "{waits}");
                told = true;
            }
            let Some(wait) = backoff.next(None, self.puppet.deadline.left(), entropy()) else {
                return Err(CaError::Pending { ca: self.puppet.ca.clone(), why: waits });
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn accept(&self, leaf: CertificateDer<'static>) -> Result<Issued, CaError> {
        let read = Leaf::parse(&leaf).map_err(|why| CaError::BadAnswer {
            ca: self.puppet.ca.clone(),
            asked: format!("give the certificate {}", self.certname()),
            url: self.puppet.settings.server.urls.join(", "),
            why: why.to_string(),
        })?;
        if self.request.held == Some(&read) {
            return Err(self.taken("it is the name of the certificate that this host holds, whose names and key cannot be changed"));
        }
        if !read.is_for(self.request.csr) {
            return Err(self.taken("the CA has signed it for another key: of another host, or of this one before it was set up anew"));
        }
        if let Some(lacking) = lacking(&read, self.request.identity) {
            return Err(self
                .taken(format!("the CA has signed it without {lacking}, and one name is one certificate")));
        }
        if self.puppet.is_revoked(self.known, &leaf).await? {
            return Err(self.taken(REVOKED));
        }
        Ok(self.puppet.issued(self.known, leaf))
    }

    async fn there(&self) -> Result<Option<CertificateDer<'static>>, CaError> {
        self.puppet.certificate(self.known, self.certname()).await
    }

    async fn stored(&self) -> Result<Option<Csr>, CaError> {
        let path = format!("certificate_request/{}", self.certname());
        let call = self.puppet.call("read the stored request", &path);
        let Some(answer) = self.puppet.found(&self.known.wire, &call).await? else { return Ok(None) };
        let csr = Csr::parse(&String::from_utf8_lossy(&answer.body));
        let unread = |_| self.known.wire.bad_answer(&answer.url, &call, "it is no request in PEM".to_owned());
        csr.map(Some).map_err(unread)
    }

    fn waits(&self, stored: &Csr) -> String {
        let name = self.certname();
        // The server takes no second request under a name, and its policy looks once: when one comes in.
        let earlier = match stored.is_same(self.request.csr) {
            true => String::new(),
            false => format!(
                ". It was stored with other `attributes` than the configuration has now, which no policy will see before it is taken out with `puppetserver ca clean --certname {name}`"
            ),
        };
        format!(
            "{name} waits for a signature: compare (SHA256) {} with `puppetserver ca list` on the CA's server, sign it there with `puppetserver ca sign --certname {name}`; the next run goes on with this request{earlier}",
            fingerprint(stored)
        )
    }

    fn rejected(&self) -> CaError {
        CaError::Refused {
            ca: self.puppet.ca.clone(),
            asked: format!("sign the request for {}", self.certname()),
            url: self.puppet.settings.server.urls.join(", ").into(),
            said: "the request is not there any more".to_owned(),
            advice: "someone took it out; ask the CA's operator, then run again".to_owned(),
            setting: Setting::Table,
        }
    }

    fn certname(&self) -> &str {
        &self.request.identity.common_name
    }

    fn taken(&self, why: impl Into<String>) -> CaError {
        self.puppet.taken(self.certname(), why)
    }
}

pub(super) const REVOKED: &str = "the certificate that the CA holds is revoked";
const VANISHED: &str = "the CA speaks of a signed certificate that it does not have";

/// The names that are wanted and that a certificate lacks.
fn lacking(leaf: &Leaf, wanted: &Identity) -> Option<String> {
    let dns = wanted.dns.difference(&leaf.dns).cloned();
    let ips = wanted.ips.difference(&leaf.ips).map(ToString::to_string);
    let lacking: Vec<_> = dns.chain(ips).chain(wanted.uris.difference(&leaf.uris).cloned()).collect();
    (!lacking.is_empty()).then(|| lacking.join(", "))
}

fn listed(csr: &Csr) -> String {
    csr.names().into_iter().collect::<Vec<_>>().join(", ")
}

/// As `puppetserver ca list` shows it: upper case, with colons.
fn fingerprint(csr: &Csr) -> String {
    let digits = Pin::of(csr.der()).to_string().trim_start_matches("sha256:").to_ascii_uppercase();
    let pairs: Vec<_> = (0..digits.len()).step_by(2).map(|at| &digits[at..at + 2]).collect();
    pairs.join(":")
}
