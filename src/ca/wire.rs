//! HTTP to a CA's server: bounded in time and size, over one connection, failing over and coming back.

use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, LOCATION};
use reqwest::{Client, Method, StatusCode, Url};
use serde_json::Value;
use tokio::sync::Mutex;
use tracing::warn;

use super::text::{date, retry_after, said};
use super::{Backoff, CaError, Deadline, Server, Setting};
use crate::bundle::Bundle;
use crate::clock::Clock;
use crate::https::{
    Distrust, MAX_BODY, Trust, Unread, alert, bounded, client, client_config, lack, root_cause,
};
use crate::setting::{Name, REPEATED};

const REQUEST: Duration = Duration::from_secs(30);

/// The connection to a CA. Requests take turns on it; waits between them overlap.
pub(super) struct Wire {
    ca: Name,
    urls: Vec<String>,
    client: Client,
    clock: Clock,
    deadline: Deadline,
    /// Whether we show a certificate of ours.
    shows_identity: bool,
    /// Which URL answered last: there the next request begins.
    turn: Mutex<usize>,
    /// Why it is waited for, as was said last.
    waits: RefCell<String>,
}

/// One thing to ask.
#[derive(Debug, Clone)]
pub(super) struct Call<'a> {
    /// For messages: what is to be done.
    pub asked: &'a str,
    pub method: Method,
    /// Path below the URL, with its slash.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Option<Body>,
}

/// What is sent along.
#[derive(Debug, Clone)]
pub(super) enum Body {
    Json(Value),
    Text(String),
}

/// What a server that could answer said.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: StatusCode,
    /// The URL asked.
    pub url: String,
    pub body: Vec<u8>,
}

/// Why one URL gave no answer.
enum Trouble {
    /// It may answer later; perhaps not before a time it named.
    Later { why: String, after: Option<Duration> },
    /// It has had too many requests; another URL is no way around that.
    Throttled { why: String, after: Option<Duration> },
    /// A clock is wrong, and may be set at any moment.
    Clock(String),
    /// It will not answer differently in this run.
    Final(CaError),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Later { why, .. } | Self::Throttled { why, .. } | Self::Clock(why) => f.write_str(why),
            Self::Final(error) => error.fmt(f),
        }
    }
}

impl Wire {
    pub(super) fn new(
        ca: &Name,
        server: &Server,
        trust: Trust,
        identity: Option<&Bundle>,
        clock: &Clock,
        deadline: Deadline,
    ) -> Result<Self, CaError> {
        let client = client_config(trust, identity, clock)
            .and_then(|tls| client(tls, server.proxy.as_deref()))
            .map_err(|why| CaError::Unusable { ca: ca.clone(), why })?;
        let (urls, clock) = (server.urls.clone(), clock.clone());
        Ok(Self {
            ca: ca.clone(),
            urls,
            client,
            clock,
            deadline,
            shows_identity: identity.is_some(),
            turn: Mutex::new(0),
            waits: RefCell::default(),
        })
    }

    /// Asks one URL after the other, waits, and begins again until the deadline. What comes back is
    /// an answer: 2xx, or a 4xx that asking again would not change.
    pub(super) async fn ask(&self, call: &Call<'_>) -> Result<Answer, CaError> {
        let mut backoff = Backoff::default();
        loop {
            let round = match self.round(call).await {
                Ok(answer) => {
                    // Whatever it is waited for after this is news.
                    self.waits.take();
                    return Ok(answer);
                }
                Err(round) => round,
            };
            let why = round.conclude()?;
            let left = self.deadline.left();
            let Some(wait) = backoff.next(why.after, left, entropy()) else {
                return Err(self.gave_up(call, why));
            };
            self.say(call, &why.text, wait);
            tokio::time::sleep(wait).await;
        }
    }

    fn say(&self, call: &Call<'_>, why: &str, wait: Duration) {
        let (ca, asked, left) = (&self.ca, call.asked, self.deadline.left().as_secs());
        let wait = wait.as_secs_f64();
        if self.waits.replace(why.to_owned()) == why {
            warn!(target: REPEATED, %ca, wait_s = wait, "CA {ca}: cannot {asked} yet: {why}; next try in {wait:.1} s");
        } else {
            warn!(%ca, wait_s = wait, "CA {ca}: cannot {asked} yet: {why}; next try in {wait:.1} s, and so on for {left} s");
        }
    }

    /// Asks the URL that answered last, once, and lets a failure be.
    pub(super) async fn ask_once(&self, call: &Call<'_>, patience: Duration) -> Option<Answer> {
        let turn = self.turn.lock().await;
        self.attempt(&self.urls[*turn], call, patience).await.ok()
    }

    async fn round(&self, call: &Call<'_>) -> Result<Answer, Round> {
        let mut round = Round::default();
        let start = *self.turn.lock().await;
        for nth in 0..self.urls.len() {
            let mut turn = self.turn.lock().await;
            let at = (start + nth) % self.urls.len();
            let url = &self.urls[at];
            // A URL that hangs leaves the others their share of the time.
            let share = self.deadline.left() / u32::try_from(self.urls.len() - nth).unwrap_or(1);
            match self.attempt(url, call, share.min(REQUEST)).await {
                Ok(answer) => {
                    *turn = at;
                    return Ok(answer);
                }
                Err(trouble) => {
                    tracing::debug!(ca = %self.ca, url, asked = call.asked, reason = %trouble, "no answer");
                    let throttled = matches!(trouble, Trouble::Throttled { .. });
                    round.note(url, trouble);
                    if throttled {
                        break;
                    }
                }
            }
        }
        Err(round)
    }

    async fn attempt(&self, base: &str, call: &Call<'_>, patience: Duration) -> Result<Answer, Trouble> {
        if patience.is_zero() {
            return Err(Trouble::Later { why: "the deadline is over".to_owned(), after: None });
        }
        let url = format!("{base}{}", call.path);
        let mut request = self.client.request(call.method.clone(), &url).headers(call.headers.clone());
        request = match &call.body {
            Some(Body::Json(body)) => request.json(body),
            Some(Body::Text(body)) => request.header(CONTENT_TYPE, "text/plain").body(body.clone()),
            None => request,
        };
        let response =
            request.timeout(patience).send().await.map_err(|e| self.broken(base, call, &e, patience))?;
        let status = response.status();
        if let Some(theirs) = date(response.headers()) {
            self.clock.hear(base, theirs);
        }
        let after = retry_after(response.headers(), self.clock.now());
        if status.is_redirection() {
            return Err(Trouble::Final(self.redirected(&url, call, response.headers(), status)));
        }
        let body = match bounded(response).await {
            Ok(body) => body,
            Err(Unread::TooLarge) => {
                let why = format!("it has more than {MAX_BODY} bytes");
                return Err(Trouble::Final(self.bad_answer(&url, call, why)));
            }
            Err(Unread::Cut(error)) => return Err(self.broken(base, call, &error, patience)),
        };
        let said = || format!("{} {}", status.as_u16(), said(&body));
        match status.as_u16() {
            429 => Err(Trouble::Throttled { why: said(), after }),
            // 412: a standby that has not caught up yet (Vault, "Eventual consistency").
            408 | 412 | 500.. => Err(Trouble::Later { why: said(), after }),
            _ => Ok(Answer { status, url, body }),
        }
    }

    fn broken(&self, url: &str, call: &Call<'_>, error: &reqwest::Error, patience: Duration) -> Trouble {
        // The server has looked at our certificate and does not want it: asking again changes nothing.
        if let Some(alert) = alert(error).filter(|_| self.shows_identity) {
            return Trouble::Final(CaError::Refused {
                ca: self.ca.clone(),
                asked: call.asked.to_owned(),
                url: url.into(),
                said: format!("TLS alert {alert}"),
                setting: Setting::Auth,
                advice: "it does not accept the certificate of this host: does the auth method trust its CA?"
                    .to_owned(),
            });
        }
        match Distrust::within(error) {
            Some(Distrust::Time(why)) => Trouble::Clock(why.clone()),
            Some(Distrust::Other(why)) => Trouble::Final(CaError::Untrusted {
                ca: self.ca.clone(),
                url: url.to_owned(),
                why: why.clone(),
            }),
            None if error.is_timeout() && !error.is_connect() => {
                let why = format!("no answer in {:.1} s{}", patience.as_secs_f64(), perhaps_done(call));
                Trouble::Later { why, after: None }
            }
            None => match lack(error) {
                Some(lack) => Trouble::Final(CaError::Untrusted {
                    ca: self.ca.clone(),
                    url: url.to_owned(),
                    why: format!("{}; {lack}", root_cause(error)),
                }),
                // Vault's own port for its cluster, the next one, says no more than that.
                None if error.is_connect() => {
                    let port = alert(error).map_or("", |_| "; is it the right port?");
                    Trouble::Later { why: root_cause(error) + port, after: None }
                }
                None => Trouble::Later { why: root_cause(error) + perhaps_done(call), after: None },
            },
        }
    }

    /// A redirect is never followed: the token would go with it.
    fn redirected(&self, url: &str, call: &Call<'_>, headers: &HeaderMap, status: StatusCode) -> CaError {
        let target = headers.get(LOCATION).and_then(|to| to.to_str().ok()).unwrap_or_default();
        let host = Url::parse(url).and_then(|base| base.join(target)).ok();
        let host = host.map_or_else(|| "an unnamed place".to_owned(), |to| to.origin().ascii_serialization());
        CaError::Refused {
            ca: self.ca.clone(),
            asked: call.asked.to_owned(),
            url: url.into(),
            said: format!("{} redirect to {host}", status.as_u16()),
            setting: Setting::Urls,
            advice: format!(
                "redirects are not followed, a secret could go astray; if {host} is the CA, write that as its URL"
            ),
        }
    }

    pub(super) fn bad_answer(&self, url: &str, call: &Call<'_>, why: String) -> CaError {
        CaError::BadAnswer { ca: self.ca.clone(), asked: call.asked.to_owned(), url: url.to_owned(), why }
    }

    fn gave_up(&self, call: &Call<'_>, why: Why) -> CaError {
        let (ca, asked) = (self.ca.clone(), call.asked.to_owned());
        match why.clock {
            true => CaError::Clock { ca, asked, why: why.text },
            false => CaError::Temporary { ca, asked, why: why.text },
        }
    }
}

/// What a lost answer leaves open: a CA that signed twice has one certificate that no one uses.
fn perhaps_done(call: &Call<'_>) -> &'static str {
    if call.method == Method::GET { "" } else { "; perhaps it was done all the same" }
}

/// What went wrong at each URL.
#[derive(Default)]
struct Round {
    said: Vec<String>,
    after: Option<Duration>,
    clock: bool,
    last: Vec<CaError>,
}

/// Why a round led to nothing, where another may lead to more.
struct Why {
    text: String,
    after: Option<Duration>,
    clock: bool,
}

impl Round {
    fn note(&mut self, url: &str, trouble: Trouble) {
        match trouble {
            Trouble::Later { why, after } | Trouble::Throttled { why, after } => {
                self.said.push(format!("{url}: {why}"));
                self.after = self.after.max(after);
            }
            Trouble::Clock(why) => {
                self.said.push(format!("{url}: {why}"));
                self.clock = true;
            }
            Trouble::Final(error) => self.last.push(error),
        }
    }

    /// Only where no URL may still answer is a refusal the last word.
    fn conclude(mut self) -> Result<Why, CaError> {
        if self.said.is_empty() && !self.last.is_empty() {
            return Err(self.last.swap_remove(0));
        }
        let said = self.said.into_iter().chain(self.last.iter().map(ToString::to_string));
        Ok(Why { text: said.collect::<Vec<_>>().join("; "), after: self.after, clock: self.clock })
    }
}

/// Chance for the waits.
pub(super) fn entropy() -> u64 {
    let mut bytes = [0; 8];
    // Without chance a wait is at its shortest, which is no harm.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}
