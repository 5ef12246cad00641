//! One member of a cluster: how it is, and what it is asked through etcd's gateway.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::https::{Distrust, Unread, alert, bounded, one_line, root_cause};

/// A healthy member answers within milliseconds; etcd itself gives a request 5 s and two elections.
const LOOK: Duration = Duration::from_secs(7);

pub(super) struct Member {
    pub(super) name: String,
    /// Where it may be found, the best first.
    urls: Vec<String>,
    /// Where it was found: at work, or able to say at least that it is not.
    found: AtomicUsize,
    client: Client,
}

/// How a member is.
#[derive(Debug)]
pub(super) enum Health {
    Well,
    /// It says itself that it is not.
    Unwell(String),
    /// Nothing listens there.
    Away(String),
    /// It does not let us in, or cannot be understood: it may be at work all the same.
    Unknown(String),
}

/// Why a call came to nothing.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It may come to something later.
    Later(String),
    /// It will not, before someone changes the member.
    Refused(String),
}

impl Health {
    pub(super) fn is_well(&self) -> bool {
        matches!(self, Self::Well)
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Well => f.write_str("is healthy"),
            Self::Unwell(said) => write!(f, "says that it is not healthy ({said})"),
            Self::Away(why) | Self::Unknown(why) => write!(f, "gives no answer ({why})"),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Later(why) | Self::Refused(why) => f.write_str(why),
        }
    }
}

impl Member {
    pub(super) fn new(name: &str, urls: &[String], client: &Client) -> Self {
        Self {
            name: name.to_owned(),
            urls: urls.to_vec(),
            found: AtomicUsize::new(0),
            client: client.clone(),
        }
    }

    /// The best that is found at any of its URLs. It is away where nothing listens at all of them.
    pub(super) async fn look(&self) -> Health {
        let mut best = Health::Away("no address".to_owned());
        for (nth, url) in self.urls.iter().enumerate() {
            let health = self.look_at(url).await;
            if matches!(health, Health::Well | Health::Unwell(_)) {
                self.found.store(nth, Ordering::Relaxed);
                return health;
            }
            if matches!(best, Health::Away(_)) {
                best = health;
            }
        }
        best
    }

    /// etcd `etcdserver/api/etcdhttp/metrics.go`: 200 and `{"health":"true"}`, or 503 and `"false"`.
    async fn look_at(&self, url: &str) -> Health {
        let answer = send(self.client.get(format!("{url}/health")), LOOK).await;
        let (status, body) = match answer {
            Ok(answer) => answer,
            Err(Silence { why, refused: true }) => return Health::Away(why),
            Err(Silence { why, refused: false }) => return Health::Unknown(why),
        };
        let said = one_line(&String::from_utf8_lossy(&body[..body.len().min(4_096)]));
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        match &json["health"] {
            Value::String(word) if word == "true" && status == StatusCode::OK => Health::Well,
            Value::Bool(true) if status == StatusCode::OK => Health::Well,
            Value::String(_) | Value::Bool(_) => Health::Unwell(said),
            _ => Health::Unknown(format!("{} {said}", status.as_u16())),
        }
    }

    /// Whether it is no part of a quorum: nothing listens, or it has no leader. Merely unhealthy is also a
    /// member at work whose cluster has an alarm, such as NOSPACE.
    pub(super) async fn is_apart(&self, health: &Health) -> bool {
        match health {
            Health::Away(_) => true,
            Health::Unwell(_) => {
                let status = self.call("/v3/maintenance/status", &json!({}), LOOK).await;
                let leaderless =
                    |status: &Value| status["leader"].as_str().is_none_or(|leader| leader == "0");
                status.is_ok_and(|status| status["raftTerm"].is_string() && leaderless(&status))
            }
            Health::Well | Health::Unknown(_) => false,
        }
    }

    /// Calls etcd's gateway, where the member was found.
    pub(super) async fn call(&self, path: &str, body: &Value, patience: Duration) -> Result<Value, Trouble> {
        let base = self.urls.get(self.found.load(Ordering::Relaxed)).map_or("", String::as_str);
        let request = self.client.post(format!("{base}{path}")).json(body);
        let (status, body) = send(request, patience).await.map_err(|silence| Trouble::Later(silence.why))?;
        let json: Option<Value> = serde_json::from_slice(&body).ok();
        match (status.as_u16(), json) {
            (200, Some(json)) => Ok(json),
            (404, None) => Err(Trouble::Refused(
                "its gateway is off: etcd needs enable-grpc-gateway: true, which counts from its next start on"
                    .to_owned(),
            )),
            (code, json) => {
                let said = json.and_then(|json| Some(json["error"].as_str()?.to_owned()));
                let said = said.unwrap_or_else(|| String::from_utf8_lossy(&body).into_owned());
                let said = format!("{code} {}", one_line(&said));
                Err(if (400..500).contains(&code) { Trouble::Refused(said) } else { Trouble::Later(said) })
            }
        }
    }
}

/// How the gateway has bytes: keys, names, values.
pub(super) fn encoded(text: &str) -> String {
    BASE64.encode(text)
}

/// There was no answer.
struct Silence {
    why: String,
    /// Nothing listens there.
    refused: bool,
}

async fn send(request: RequestBuilder, patience: Duration) -> Result<(StatusCode, Vec<u8>), Silence> {
    let broken = |error: &reqwest::Error| Silence { why: cause(error), refused: is_refused(error) };
    let response = request.timeout(patience).send().await.map_err(|error| broken(&error))?;
    let status = response.status();
    match bounded(response).await {
        Ok(body) => Ok((status, body)),
        Err(Unread::Cut(error)) => Err(broken(&error)),
        Err(Unread::TooLarge) => {
            Err(Silence { why: "its answer is larger than any honest one".to_owned(), refused: false })
        }
    }
}

fn cause(error: &reqwest::Error) -> String {
    if let Some(alert) = alert(error) {
        return format!(
            "it does not take the certificate of this host, TLS alert {alert}: restart it by hand if it runs with older CA certificates than it has"
        );
    }
    Distrust::within(error).map_or_else(|| root_cause(error), ToString::to_string)
}

fn is_refused(error: &reqwest::Error) -> bool {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(cause) = next {
        if cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::ConnectionRefused) {
            return true;
        }
        next = cause.source();
    }
    false
}
