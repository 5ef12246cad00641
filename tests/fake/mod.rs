//! A CA for tests that does what a real one will not: an HTTPS server on loopback that speaks enough of
//! the APIs of Vault, Puppet and cfssl, and misbehaves as told.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops where it breaks")]

pub mod bend;
pub mod cfssl;
pub mod member;
mod puppet;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use bend::{Bend, Deed, Wire};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

pub const MOUNT: &str = "etcd/prod/pki";
pub const ROLE: &str = "member";
pub const ROLE_ID: &str = "host-role";
pub const SECRET_ID: &str = "host-secret";
pub const JWT: &str = "a.good.jwt";
/// A token that needs no login.
pub const TOKEN: &str = "given-token";

const DAY: time::Duration = time::Duration::days(1);

/// How the CA misbehaves.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    // in what is signed
    WrongKey,
    MissingSan,
    OtherCommonName,
    DroppedO,
    ExtraO,
    OtherCa,
    Expired,
    NotYetValid,
    Short,
    NoEku,
    CaTrueLeaf,
    // in how it is said
    TruncatedPem,
    NotPem,
    Html200,
    Empty204,
    HugeBody,
    EndlessBody,
    Redirect(String),
    // in whether it is said
    Hang,
    HalfClosed,
    Dropped,
    /// It does what it is asked, and hangs up.
    Unsaid,
    // in what a Puppet CA keeps
    /// It takes a request in, says so, and has none.
    Forgotten,
    /// It signs with a new intermediate certificate.
    Rotated,
    Status(u16, Option<String>, &'static str),
    // in any way at all
    Bent(Bend),
}

/// One request as the server saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub token: Option<String>,
    pub namespace: Option<String>,
    pub body: Value,
    /// The body where it is no JSON.
    pub text: String,
    pub at: Instant,
}

pub type Authority = CertifiedIssuer<'static, KeyPair>;

/// A root and the intermediate that signs.
pub struct Pki {
    pub root: Authority,
    pub issuing: Authority,
}

impl Pki {
    pub fn new(name: &str) -> Self {
        let root = Authority::self_signed(ca_params(&format!("{name} root")), key()).unwrap();
        let issuing = Authority::signed_by(ca_params(&format!("{name} issuing")), key(), &root).unwrap();
        Self { root, issuing }
    }

    fn chain(&self) -> Vec<String> {
        vec![self.issuing.pem(), self.root.pem()]
    }
}

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

/// A CA certificate as it should be.
pub fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = OffsetDateTime::now_utc() - DAY;
    params.not_after = OffsetDateTime::now_utc() + 3650 * DAY;
    params
}

/// The server. It ends when it is dropped.
pub struct Fake {
    pub url: String,
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    tls: Pki,
    server_leaf: CertificateDer<'static>,
    server_key: String,
    signing: Pki,
    other: Pki,
    has_issuer: AtomicBool,
    has_second_root: AtomicBool,
    ahead: AtomicI64,
    base: Mutex<Option<OffsetDateTime>>,
    signs_with_other: AtomicBool,
    publishes_first: AtomicBool,
    lifetime: AtomicI64,
    backdated: AtomicI64,
    script: Mutex<Vec<Scripted>>,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    tokens: Mutex<BTreeSet<String>>,
    secret_ids: Mutex<BTreeSet<String>>,
    wrappings: Mutex<BTreeMap<String, (String, String)>>,
    /// The first certificate that was signed.
    first: Mutex<Option<String>>,
    puppet: puppet::Shelf,
    counter: AtomicUsize,
    stop: AtomicBool,
}

impl State {
    /// What time it is there.
    fn now(&self) -> OffsetDateTime {
        let base = self.base.lock().unwrap().unwrap_or_else(OffsetDateTime::now_utc);
        base + time::Duration::seconds(self.ahead.load(Ordering::SeqCst))
    }

    fn published(&self) -> Vec<String> {
        let second = self.has_second_root.load(Ordering::SeqCst).then(|| self.other.root.pem());
        let first = self.publishes_first.load(Ordering::SeqCst).then(|| self.signing.chain());
        first.into_iter().flatten().chain(second).collect()
    }
}

/// The certificate that a server shows, before it is signed.
pub struct Showing<'a> {
    pub params: CertificateParams,
    /// Who signs it, instead of the server's own CA.
    pub issuer: Option<Authority>,
    /// What is sent with it.
    pub above: Vec<CertificateDer<'static>>,
    pub tls: &'a Pki,
}

struct Scripted {
    call: String,
    fault: Fault,
    after: usize,
    times: usize,
}

impl Fake {
    /// Starts on a free port of 127.0.0.1.
    pub fn start() -> Self {
        Self::start_on("127.0.0.1")
    }

    /// Starts with a certificate of its own that outlives all that it signs.
    pub fn lasting() -> Self {
        Self::start_as(|showing| showing.params.not_after = OffsetDateTime::now_utc() + 3_600 * DAY)
    }

    /// Starts on another address; its certificate is for 127.0.0.1 and localhost all the same.
    pub fn start_on(ip: &str) -> Self {
        Self::start_with(ip, |_| {})
    }

    /// Starts with a server certificate of another shape.
    pub fn start_as(shape: impl FnOnce(&mut Showing<'_>)) -> Self {
        Self::start_with("127.0.0.1", shape)
    }

    fn start_with(ip: &str, shape: impl FnOnce(&mut Showing<'_>)) -> Self {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (tls, signing, other) = (Pki::new("tls"), Pki::new("etcd"), Pki::new("stranger"));
        let server_key = key();
        let mut params =
            CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = OffsetDateTime::now_utc() - DAY;
        params.not_after = OffsetDateTime::now_utc() + 30 * DAY;
        let above = vec![tls.issuing.der().clone()];
        let mut showing = Showing { params, issuer: None, above, tls: &tls };
        shape(&mut showing);
        let issuer = showing.issuer.as_ref().unwrap_or(&tls.issuing);
        let server_leaf = showing.params.signed_by(&server_key, issuer).unwrap().der().clone();
        let presented = [vec![server_leaf.clone()], showing.above].concat();
        let config = server_config(&tls, &signing, presented, &server_key);
        let puppet = puppet::Shelf::new(&tls);
        let state = Arc::new(State {
            puppet,
            tls,
            server_leaf,
            server_key: server_key.serialize_pem(),
            signing,
            other,
            has_issuer: AtomicBool::new(true),
            has_second_root: AtomicBool::new(false),
            ahead: AtomicI64::new(0),
            base: Mutex::default(),
            signs_with_other: AtomicBool::new(false),
            publishes_first: AtomicBool::new(true),
            lifetime: AtomicI64::new(0),
            backdated: AtomicI64::new(30),
            script: Mutex::default(),
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            tokens: Mutex::new([TOKEN.to_owned()].into()),
            secret_ids: Mutex::new([SECRET_ID.to_owned()].into()),
            wrappings: Mutex::default(),
            first: Mutex::default(),
            counter: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let shared = state.clone();
        thread::spawn(move || accept(&listener, &config, &shared));
        Self { url: format!("https://{address}"), address, state }
    }

    /// Certificate and key of the server, PEM.
    pub fn server_pem(&self) -> (String, String) {
        let chain = self.presented().iter().map(|der| bend::pem("CERTIFICATE", der)).collect();
        (chain, self.state.server_key.clone())
    }

    /// The root that the server's own certificate leads to.
    pub fn tls_pem(&self) -> String {
        self.state.tls.root.pem()
    }

    /// The certificates that the server sends: leaf, then intermediate.
    pub fn presented(&self) -> [CertificateDer<'static>; 2] {
        [self.state.server_leaf.clone(), self.state.tls.issuing.der().clone()]
    }

    pub fn tls_root(&self) -> CertificateDer<'static> {
        self.state.tls.root.der().clone()
    }

    /// The root of what it signs.
    pub fn anchors_pem(&self) -> String {
        self.state.signing.root.pem()
    }

    pub fn root(&self) -> CertificateDer<'static> {
        self.state.signing.root.der().clone()
    }

    /// The root of a CA to come.
    pub fn second_root(&self) -> CertificateDer<'static> {
        self.state.other.root.der().clone()
    }

    pub fn second_root_pem(&self) -> String {
        self.state.other.root.pem()
    }

    /// What it signs with, to make certificates aside from the server.
    pub fn signing(&self) -> &Pki {
        &self.state.signing
    }

    /// From now on every request whose method and path, `GET /v1/…`, hold `call` meets the fault, so many times.
    pub fn misbehave(&self, call: &str, fault: Fault, times: usize) {
        self.misbehave_after(0, call, fault, times);
    }

    /// The same from the request on that comes after so many of them.
    pub fn misbehave_after(&self, after: usize, call: &str, fault: Fault, times: usize) {
        self.state.script.lock().unwrap().push(Scripted { call: call.to_owned(), fault, after, times });
    }

    /// From now on it does its best.
    pub fn behave(&self) {
        self.state.script.lock().unwrap().clear();
    }

    /// A mount without a CA certificate.
    pub fn lose_issuer(&self) {
        self.state.has_issuer.store(false, Ordering::SeqCst);
    }

    /// Signs as if it were that many seconds later.
    pub fn later(&self, seconds: i64) {
        self.state.ahead.store(seconds, Ordering::SeqCst);
    }

    /// Says that what it signs was valid that many seconds before; half a minute where nothing is said.
    pub fn date_back(&self, seconds: u64) {
        self.state.backdated.store(i64::try_from(seconds).unwrap(), Ordering::SeqCst);
    }

    /// Signs for that many seconds, whatever is asked for.
    pub fn sign_for(&self, seconds: u64) {
        self.state.lifetime.store(i64::try_from(seconds).unwrap(), Ordering::SeqCst);
    }

    /// Publishes a second root beside the one that signs, as before a rotation.
    pub fn add_root(&self) {
        self.state.has_second_root.store(true, Ordering::SeqCst);
    }

    /// Signs with that root's intermediate from now on.
    pub fn rotate(&self) {
        self.state.signs_with_other.store(true, Ordering::SeqCst);
    }

    /// Publishes the first root no longer, as after a rotation.
    pub fn drop_first_root(&self) {
        self.state.publishes_first.store(false, Ordering::SeqCst);
    }

    /// Its clock stands still, but for what [`Fake::later`] says.
    pub fn stand_still(&self, base: SystemTime) {
        *self.state.base.lock().unwrap() = Some(base.into());
    }

    /// Wraps a new secret_id; the path is what `sys/wrapping/lookup` will say.
    pub fn wrap(&self, creation_path: &str) -> String {
        let (token, secret_id) = (self.state.fresh("wrapping"), self.state.fresh("secret"));
        self.state.secret_ids.lock().unwrap().insert(secret_id.clone());
        let wrapped = (creation_path.to_owned(), secret_id);
        self.state.wrappings.lock().unwrap().insert(token.clone(), wrapped);
        token
    }

    /// A secret_id is good no more.
    pub fn revoke_secret_id(&self, secret_id: &str) {
        self.state.secret_ids.lock().unwrap().remove(secret_id);
    }

    /// The tokens that are good now, without the given one.
    pub fn tokens(&self) -> usize {
        self.state.tokens.lock().unwrap().len() - 1
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// Method and path of each request.
    pub fn asked(&self) -> Vec<String> {
        self.seen().iter().map(|seen| format!("{} {}", seen.method, seen.path)).collect()
    }

    pub fn forget(&self) {
        self.state.seen.lock().unwrap().clear();
    }

    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        // Wakes the accept loop.
        let _ = TcpStream::connect(self.address);
    }
}

impl State {
    fn fresh(&self, kind: &str) -> String {
        format!("{kind}-{}", self.counter.fetch_add(1, Ordering::SeqCst))
    }

    fn next_fault(&self, seen: &Seen) -> Option<Fault> {
        let call = format!("{} {}", seen.method, seen.path);
        let mut script = self.script.lock().unwrap();
        let scripted = script.iter_mut().find(|s| s.times > 0 && call.contains(&s.call))?;
        if scripted.after > 0 {
            scripted.after -= 1;
            return None;
        }
        scripted.times -= 1;
        Some(scripted.fault.clone())
    }
}

fn server_config(
    tls: &Pki,
    signing: &Pki,
    presented: Vec<CertificateDer<'static>>,
    key: &KeyPair,
) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut clients = RootCertStore::empty();
    clients.add(signing.root.der().clone()).unwrap();
    clients.add(tls.root.der().clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(clients.into(), provider.clone())
        .allow_unauthenticated()
        .build()
        .unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let key = provider.key_provider.load_private_key(key).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        // Whatever it is: rustls would not take each that a test shows.
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(presented, key))));
    Arc::new(config)
}

fn accept(listener: &TcpListener, config: &Arc<ServerConfig>, state: &Arc<State>) {
    for stream in listener.incoming() {
        if state.stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        state.connections.fetch_add(1, Ordering::SeqCst);
        let (config, state) = (config.clone(), state.clone());
        thread::spawn(move || {
            let _ = serve(stream, config, &state);
        });
    }
}

type Stream = StreamOwned<ServerConnection, TcpStream>;

/// One connection, request after request, until either side ends it.
fn serve(tcp: TcpStream, config: Arc<ServerConfig>, state: &State) -> io::Result<()> {
    tcp.set_read_timeout(Some(Duration::from_secs(20)))?;
    tcp.set_nodelay(true)?;
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, tcp);
    while let Some(seen) = read_request(&mut stream)? {
        state.seen.lock().unwrap().push(seen.clone());
        let fault = state.next_fault(&seen);
        if !answer(&mut stream, state, &seen, fault)? {
            return Ok(());
        }
    }
    Ok(())
}

fn read_request(stream: &mut Stream) -> io::Result<Option<Seen>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > 64 * 1024 || stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
    let headers: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Some(Seen {
        method: first.next().unwrap_or_default(),
        path: first.next().unwrap_or_default(),
        token: headers.get("x-vault-token").cloned(),
        namespace: headers.get("x-vault-namespace").cloned(),
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        text: String::from_utf8_lossy(&body).into_owned(),
        at: Instant::now(),
    }))
}

/// Answers; false where the connection is to end.
fn answer(stream: &mut Stream, state: &State, seen: &Seen, fault: Option<Fault>) -> io::Result<bool> {
    match fault {
        Some(Fault::Html200) => {
            write(stream, state.now(), 200, "text/html", "", b"<html><b>Please log in</b></html>")
        }
        Some(Fault::Empty204) => write(stream, state.now(), 204, "", "", b""),
        Some(Fault::HugeBody) => {
            write(stream, state.now(), 200, "application/json", "", &vec![b' '; 10 << 20])
        }
        Some(Fault::EndlessBody) => endless(stream, &state.stop),
        Some(Fault::Redirect(to)) => write(stream, state.now(), 307, "", &format!("Location: {to}\r\n"), b""),
        Some(Fault::Hang) => hang(state),
        Some(Fault::HalfClosed) => half_close(stream),
        Some(Fault::Dropped) => Ok(false),
        Some(Fault::Status(code, retry_after, error)) => {
            let header = retry_after.map(|after| format!("Retry-After: {after}\r\n")).unwrap_or_default();
            let body = json!({ "errors": [error] }).to_string();
            write(stream, state.now(), code, "application/json", &header, body.as_bytes())
        }
        fault => {
            let peer = stream.conn.peer_certificates().is_some();
            let (code, body) = match seen.path.strip_prefix("/puppet-ca/v1/") {
                Some(path) => puppet::route(state, seen, path, peer, fault.as_ref()),
                None => route(state, seen, peer, fault.as_ref()),
            };
            if fault == Some(Fault::Unsaid) {
                return Ok(false);
            }
            if let Some(Fault::Bent(Bend { deed, .. })) = &fault {
                return bent(stream, state, *deed, code, &body);
            }
            let kind = if body.starts_with('{') { "application/json" } else { "application/pkix-cert" };
            write(stream, state.now(), code, kind, "", body.as_bytes())
        }
    }
}

/// Says an honest answer in a bent way.
fn bent(stream: &mut Stream, state: &State, deed: Deed, code: u16, body: &str) -> io::Result<bool> {
    match deed {
        Deed::Signed(_) | Deed::Pems(_) => {
            write(stream, state.now(), code, "text/plain", "", body.as_bytes())
        }
        Deed::Body(bend) => write(stream, state.now(), code, "text/plain", "", &bend(body)),
        Deed::Spoken(speak) => {
            let mut wire = Wire { stream, state };
            speak(&mut wire, code, body)?;
            wire.linger();
            Ok(false)
        }
    }
}

fn write(
    stream: &mut Stream,
    date: OffsetDateTime,
    code: u16,
    kind: &str,
    headers: &str,
    body: &[u8],
) -> io::Result<bool> {
    let kind = if kind.is_empty() { String::new() } else { format!("Content-Type: {kind}\r\n") };
    let date = date.format(&Rfc2822).unwrap().replace("+0000", "GMT");
    let length = if code == 204 { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    write!(stream, "HTTP/1.1 {code} X\r\nDate: {date}\r\n{kind}{headers}{length}\r\n")?;
    stream.write_all(body)?;
    stream.flush()?;
    Ok(true)
}

/// A body without a length that does not end before 10 MB.
fn endless(stream: &mut Stream, stop: &AtomicBool) -> io::Result<bool> {
    write!(stream, "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    for _ in 0..160 {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        write!(stream, "10000\r\n")?;
        stream.write_all(&[b' '; 0x10000])?;
        write!(stream, "\r\n")?;
    }
    Ok(false)
}

/// Says nothing for as long as any test waits.
fn hang(state: &State) -> io::Result<bool> {
    for _ in 0..3_000 {
        if state.stop.load(Ordering::SeqCst) {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(false)
}

/// Begins an answer and closes its own half in the middle of it.
fn half_close(stream: &mut Stream) -> io::Result<bool> {
    write!(stream, "HTTP/1.1 200 X\r\nContent-Length: 5000\r\n\r\n{{\"data\":")?;
    stream.flush()?;
    stream.sock.shutdown(Shutdown::Write)?;
    thread::sleep(Duration::from_millis(200));
    Ok(false)
}

fn refuse(code: u16, error: &str) -> (u16, String) {
    (code, json!({ "errors": [error] }).to_string())
}

fn route(state: &State, seen: &Seen, peer: bool, fault: Option<&Fault>) -> (u16, String) {
    let bend = match fault {
        Some(Fault::Bent(bend)) => Some(*bend),
        _ => None,
    };
    if let Some(path) = seen.path.strip_prefix("/api/v1/cfssl/") {
        return cfssl::route(state, seen, path, bend);
    }
    let Some(path) = seen.path.strip_prefix("/v1/") else { return refuse(404, "no such path") };
    match path {
        "auth/approle/login" => {
            let good = seen.body["role_id"] == ROLE_ID
                && state.secret_ids.lock().unwrap().contains(seen.body["secret_id"].as_str().unwrap_or(""));
            log_in(state, good, "invalid role or secret ID")
        }
        "auth/cert/login" => log_in(state, peer, "client certificate must be supplied"),
        "auth/jwt/login" => log_in(state, seen.body["jwt"] == JWT, "error validating token"),
        "sys/wrapping/lookup" => {
            let token = seen.body["token"].as_str().unwrap_or("").to_owned();
            match state.wrappings.lock().unwrap().get(&token) {
                Some((path, _)) => (200, json!({ "data": { "creation_path": path } }).to_string()),
                None => refuse(400, "wrapping token is not valid or does not exist"),
            }
        }
        "sys/wrapping/unwrap" => {
            let token = seen.token.clone().unwrap_or_default();
            match state.wrappings.lock().unwrap().remove(&token) {
                Some((_, secret)) => (200, json!({ "data": { "secret_id": secret } }).to_string()),
                None => refuse(400, "wrapping token is not valid or does not exist"),
            }
        }
        "auth/token/lookup-self" if known(state, seen) => (200, json!({ "data": {} }).to_string()),
        "auth/token/revoke-self" if known(state, seen) => {
            state.tokens.lock().unwrap().remove(seen.token.as_deref().unwrap_or(""));
            (204, String::new())
        }
        path if path == format!("{MOUNT}/ca_chain") || path == format!("{MOUNT}/ca/pem") => {
            match state.has_issuer.load(Ordering::SeqCst) {
                true => (200, state.published().join("")),
                false => (204, String::new()),
            }
        }
        path if path.starts_with(&format!("{MOUNT}/sign")) && known(state, seen) => {
            sign(state, path, &seen.body, fault)
        }
        path if path == format!("{MOUNT}/revoke") && known(state, seen) => {
            (200, json!({ "data": { "revocation_time": 1 } }).to_string())
        }
        _ => refuse(403, "permission denied"),
    }
}

fn known(state: &State, seen: &Seen) -> bool {
    seen.token.as_ref().is_some_and(|token| state.tokens.lock().unwrap().contains(token))
}

fn log_in(state: &State, good: bool, error: &str) -> (u16, String) {
    if !good {
        return refuse(400, error);
    }
    let token = state.fresh("token");
    state.tokens.lock().unwrap().insert(token.clone());
    (200, json!({ "auth": { "client_token": token, "lease_duration": 3600 } }).to_string())
}

fn sign(state: &State, path: &str, body: &Value, fault: Option<&Fault>) -> (u16, String) {
    let tail = path.trim_start_matches(MOUNT);
    if ![format!("/sign/{ROLE}"), "/sign-verbatim".to_owned(), format!("/sign-verbatim/{ROLE}")]
        .contains(&tail.to_owned())
    {
        return refuse(400, &format!("unknown role: {}", tail.rsplit('/').next().unwrap_or("")));
    }
    let csr = body["csr"].as_str().unwrap_or("");
    let Ok(der) = CertificateSigningRequestDer::from_pem_slice(csr.as_bytes()) else {
        return refuse(400, "csr contains no data");
    };
    let mut request = CertificateSigningRequestParams::from_der(&der).expect("the CSR is good");
    let asked = body["ttl"].as_str().and_then(|ttl| ttl.strip_suffix('s')?.parse().ok());
    let asked = Some(state.lifetime.load(Ordering::SeqCst)).filter(|&given| given > 0).or(asked);
    complete(state, &mut request.params, asked.map(time::Duration::seconds));
    distort(&mut request.params, fault);
    let other = fault == Some(&Fault::OtherCa) || state.signs_with_other.load(Ordering::SeqCst);
    let pki = if other { &state.other } else { &state.signing };
    if let Some(Fault::Bent(bend)) = fault {
        return said(&bend::signed(state, request, pki, pki.chain(), Some(*bend)));
    }
    let signed = match fault {
        Some(Fault::WrongKey) => request.params.signed_by(&key(), &pki.issuing),
        _ => request.signed_by(&pki.issuing),
    };
    let mut certificate = signed.unwrap().pem();
    state.first.lock().unwrap().get_or_insert_with(|| certificate.clone());
    match fault {
        Some(Fault::TruncatedPem) => certificate.truncate(certificate.len() / 2),
        Some(Fault::NotPem) => certificate = "certificate".to_owned(),
        _ => {}
    }
    said(&[vec![certificate], pki.chain()].concat())
}

/// Vault's way to say a chain; its PEM ends without a newline.
fn said(chain: &[String]) -> (u16, String) {
    let chain: Vec<_> = chain.iter().map(|pem| pem.trim_end()).collect();
    let data = json!({ "certificate": chain[0], "issuing_ca": chain.get(1), "ca_chain": chain[1..] });
    (200, json!({ "data": data, "warnings": null }).to_string())
}

/// Dates, a serial number and the like, which a request does not have.
fn complete(state: &State, params: &mut CertificateParams, ttl: Option<time::Duration>) {
    let now = state.now();
    params.not_before = now - time::Duration::seconds(state.backdated.load(Ordering::SeqCst));
    params.not_after = now + ttl.unwrap_or(30 * DAY);
    params.use_authority_key_identifier_extension = true;
    params.serial_number =
        Some(u64::try_from(1000 + state.counter.fetch_add(1, Ordering::SeqCst)).unwrap().into());
}

fn distort(params: &mut CertificateParams, fault: Option<&Fault>) {
    let now = OffsetDateTime::now_utc();
    let name = &mut params.distinguished_name;
    match fault {
        Some(Fault::MissingSan) => drop(params.subject_alt_names.pop()),
        Some(Fault::OtherCommonName) => name.push(DnType::CommonName, "other"),
        Some(Fault::DroppedO) => drop(name.remove(DnType::OrganizationName)),
        Some(Fault::ExtraO) => name.push(DnType::CustomDnType(vec![2, 5, 4, 10]), "system:masters"),
        Some(Fault::Expired) => (params.not_before, params.not_after) = (now - 2 * DAY, now - DAY),
        Some(Fault::NotYetValid) => params.not_before = now + DAY,
        Some(Fault::Short) => {
            (params.not_before, params.not_after) = (now - 10 * DAY, now + time::Duration::seconds(30));
        }
        Some(Fault::NoEku) => params.extended_key_usages.clear(),
        Some(Fault::CaTrueLeaf) => params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        _ => {}
    }
}

/// An HTTP proxy on loopback: counts what it is asked to connect to, and connects.
pub struct Proxy {
    pub url: String,
    connects: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let connects = Arc::new(Mutex::new(Vec::new()));
        let log = connects.clone();
        thread::spawn(move || {
            for stream in listener.incoming().take(16).flatten() {
                let log = log.clone();
                thread::spawn(move || tunnel(stream, &log));
            }
        });
        Self { url, connects }
    }

    /// The hosts and ports that it connected to.
    pub fn connects(&self) -> Vec<String> {
        self.connects.lock().unwrap().clone()
    }
}

fn tunnel(mut client: TcpStream, log: &Mutex<Vec<String>>) -> io::Result<()> {
    client.set_read_timeout(Some(Duration::from_secs(20)))?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
    log.lock().unwrap().push(target.clone());
    let mut server = TcpStream::connect(target)?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || io::copy(&mut from, &mut to));
    io::copy(&mut server, &mut client).map(drop)
}
