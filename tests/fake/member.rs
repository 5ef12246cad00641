//! Members of an etcd cluster that do what real ones seldom do: `/health` and as much of the gateway as a
//! restart in turn needs, over mutual TLS on loopback.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{CertificateParams, DnType};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{DAY, Pki, Seen, Stream, endless, key, read_request, write};

/// How a member behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Well,
    /// It has no leader.
    Unwell,
    /// At work, in a cluster whose disk is full.
    Alarmed,
    /// It takes every request and answers none.
    Stalls,
    /// It answers as no etcd does.
    Garbage,
    Endless,
    /// Something in between sends its callers elsewhere.
    Redirects,
    /// It says that it is healthy, and with the status that it is not.
    Torn,
    /// Healthy, but gives no lock.
    StallsLocks,
    GatewayOff,
    WantsPassword,
    /// It says yes to a lock and names another.
    OtherLock,
    /// It has its own turn when it is first asked for the lock, and is back after.
    Restarts,
    /// The same, but it is not back at this address.
    Moves,
    /// Healthy until someone has the lock.
    FallsIll,
}

/// What the members have in common.
pub struct Cluster {
    pub pki: Pki,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
}

#[derive(Default)]
struct State {
    leases: Vec<i64>,
    /// Who waits for the lock, the holder first.
    queue: Vec<i64>,
    seen: Vec<(String, String)>,
}

impl Cluster {
    pub fn new() -> Self {
        Self { pki: Pki::new("etcd"), state: Arc::default(), stop: Arc::default() }
    }

    /// A member of this cluster; its host and port.
    pub fn member(&self, name: &str, mood: Mood) -> String {
        self.listen(config(&self.pki, &self.pki), name, mood)
    }

    /// The same address with a certificate of someone else.
    pub fn stranger(&self, name: &str) -> String {
        self.listen(config(&Pki::new("stranger"), &self.pki), name, Mood::Well)
    }

    /// A member that takes clients of another CA only.
    pub fn distrustful(&self, name: &str) -> String {
        self.listen(config(&self.pki, &Pki::new("other")), name, Mood::Well)
    }

    /// An address where nothing listens.
    pub fn away() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    }

    fn listen(&self, config: Arc<ServerConfig>, name: &str, mood: Mood) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let member = Arc::new(Member {
            name: name.to_owned(),
            mood,
            back: AtomicBool::new(false),
            state: self.state.clone(),
            stop: self.stop.clone(),
        });
        thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                let (config, member) = (config.clone(), member.clone());
                thread::spawn(move || {
                    let Ok(connection) = ServerConnection::new(config) else { return };
                    let mut stream = StreamOwned::new(connection, tcp);
                    while let Ok(Some(seen)) = read_request(&mut stream) {
                        if !member.answer(&mut stream, &seen).unwrap_or(false) {
                            return;
                        }
                    }
                });
            }
        });
        address
    }

    /// Someone else takes the lock.
    pub fn lock(&self, lease: i64) {
        let mut state = self.state.lock().unwrap();
        state.leases.push(lease);
        state.queue.push(lease);
    }

    /// The leases that live.
    pub fn leases(&self) -> Vec<i64> {
        self.state.lock().unwrap().leases.clone()
    }

    /// Member and path of each request but looks at health.
    pub fn calls(&self) -> Vec<(String, String)> {
        let seen = &self.state.lock().unwrap().seen;
        seen.iter().filter(|(_, path)| path != "/health").cloned().collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn config(shown: &Pki, clients: &Pki) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(clients.root.der().clone()).unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build().unwrap();
    let (leaf, key) = issue(shown);
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![leaf.der().clone(), shown.issuing.der().clone()], key)
        .unwrap();
    Arc::new(config)
}

/// A member's certificate and key, for 127.0.0.1.
pub fn issue(pki: &Pki) -> (rcgen::Certificate, String) {
    let key = key();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "node01");
    params.extended_key_usages =
        vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = OffsetDateTime::now_utc() - DAY;
    params.not_after = OffsetDateTime::now_utc() + 30 * DAY;
    (params.signed_by(&key, &pki.issuing).unwrap(), key.serialize_pem())
}

struct Member {
    name: String,
    mood: Mood,
    back: AtomicBool,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
}

impl Member {
    fn answer(&self, stream: &mut Stream, seen: &Seen) -> std::io::Result<bool> {
        self.state.lock().unwrap().seen.push((self.name.clone(), seen.path.clone()));
        let health = seen.path == "/health";
        match self.mood {
            Mood::Moves if self.back.load(Ordering::SeqCst) => return Ok(false),
            Mood::Stalls => return self.stall(|_| false),
            Mood::StallsLocks if !health => return self.stall(|_| false),
            Mood::Garbage => {
                return write(stream, OffsetDateTime::now_utc(), 200, "text/html", "", b"<html>true</html>");
            }
            Mood::Endless => return endless(stream, &self.stop),
            Mood::Redirects => {
                return write(
                    stream,
                    OffsetDateTime::now_utc(),
                    307,
                    "",
                    "Location: https://127.0.0.1:1/health\r\n",
                    b"",
                );
            }
            Mood::GatewayOff if !health => {
                return write(
                    stream,
                    OffsetDateTime::now_utc(),
                    404,
                    "text/plain",
                    "",
                    b"404 page not found\n",
                );
            }
            Mood::WantsPassword if !health => {
                let body = br#"{"error":"etcdserver: user name is empty","code":3}"#;
                return write(stream, OffsetDateTime::now_utc(), 400, "application/json", "", body);
            }
            _ => {}
        }
        let (code, body) = if health { self.health() } else { self.call(seen)? };
        write(stream, OffsetDateTime::now_utc(), code, "application/json", "", body.to_string().as_bytes())
    }

    fn health(&self) -> (u16, Value) {
        let ill = match self.mood {
            Mood::Unwell => true,
            Mood::FallsIll => !self.state.lock().unwrap().queue.is_empty(),
            _ => false,
        };
        match (ill, self.mood) {
            (true, _) => (503, json!({ "health": "false", "reason": "RAFT NO LEADER" })),
            (false, Mood::Alarmed) => (503, json!({ "health": "false" })),
            (false, Mood::Torn) => (503, json!({ "health": "true" })),
            (false, _) => (200, json!({ "health": "true" })),
        }
    }

    fn call(&self, seen: &Seen) -> std::io::Result<(u16, Value)> {
        let number = |value: &Value| value.as_str().and_then(|text| text.parse::<i64>().ok()).unwrap();
        let mut state = self.state.lock().unwrap();
        Ok(match seen.path.as_str() {
            "/v3/lease/revoke" => {
                let lease = number(&seen.body["ID"]);
                let there = state.leases.contains(&lease);
                state.leases.retain(|other| *other != lease);
                state.queue.retain(|other| *other != lease);
                if there { (200, json!({})) } else { missing() }
            }
            "/v3/lease/grant" => {
                let lease = number(&seen.body["ID"]);
                assert!(number(&seen.body["TTL"]) > 200, "a lease outlives the restart");
                assert!(!state.leases.contains(&lease), "granted twice");
                state.leases.push(lease);
                (200, json!({ "ID": lease.to_string(), "TTL": seen.body["TTL"] }))
            }
            "/v3/lock/lock"
                if matches!(self.mood, Mood::Restarts | Mood::Moves)
                    && !self.back.swap(true, Ordering::SeqCst) =>
            {
                (503, json!({ "error": "transport is closing" }))
            }
            "/v3/lock/lock" => {
                let lease = number(&seen.body["lease"]);
                state.queue.push(lease);
                drop(state);
                self.stall(|state| state.queue.first() == Some(&lease) || !state.queue.contains(&lease))?;
                let name = seen.body["name"].as_str().unwrap();
                let name = String::from_utf8(BASE64.decode(name).unwrap()).unwrap();
                let lease = if self.mood == Mood::OtherLock { 7 } else { lease };
                (200, json!({ "key": BASE64.encode(format!("{name}/{lease:x}")) }))
            }
            "/v3/maintenance/status" if self.mood == Mood::Unwell => {
                (200, json!({ "raftTerm": "7", "errors": ["etcdserver: no leader"] }))
            }
            "/v3/maintenance/status" => (200, json!({ "leader": "13668033151171901709", "raftTerm": "7" })),
            "/v3/kv/range" => {
                let first = state.queue.first().map(|lease| json!({ "lease": lease.to_string() }));
                (200, json!({ "kvs": first.into_iter().collect::<Vec<_>>() }))
            }
            _ => (404, json!({ "error": "no such call" })),
        })
    }

    /// Waits until something is so, or for as long as any test waits.
    fn stall(&self, until: impl Fn(&State) -> bool) -> std::io::Result<bool> {
        for _ in 0..1_000 {
            if self.stop.load(Ordering::SeqCst) || until(&self.state.lock().unwrap()) {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(false)
    }
}

fn missing() -> (u16, Value) {
    (404, json!({ "error": "etcdserver: requested lease not found", "code": 5 }))
}
