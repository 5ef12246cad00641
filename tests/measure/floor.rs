//! The floor: the steps that no program can leave out, each with the same libraries and nothing around it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use nodecert::bundle::{Bundle, Pair, parse_chain};
use nodecert::identity::{Identity, KeyKind, Usage};
use nodecert::key::{Csr, Dialect, Key};
use nodecert::trust::Anchors;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::fake::{Fake, MOUNT, ROLE, TOKEN};

/// The steps, in the order of [`Floor::once`].
pub(crate) const PIECES: [&str; 6] =
    ["P-256 key", "CSR", "TCP and TLS 1.3", "POST and answer", "chain and names", "files on disk"];

/// A client of the fake CA that is no program.
pub(crate) struct Floor {
    address: String,
    tls: Arc<ClientConfig>,
    anchors: Anchors,
    identity: Identity,
}

impl Floor {
    pub(crate) fn new(fake: &Fake) -> Self {
        Self {
            address: fake.url.trim_start_matches("https://").to_owned(),
            tls: trusting(fake.tls_root()),
            anchors: Anchors::parse(fake.anchors_pem().as_bytes()).unwrap(),
            identity: identity(),
        }
    }

    /// Every step once, into a new directory; each in milliseconds.
    pub(crate) fn once(&self, directory: &Path) -> [f64; 6] {
        let mut lap = Lap(Instant::now());
        let key = Arc::new(Key::generate(KeyKind::P256).unwrap());
        let a = lap.ms();
        let csr = csr(&key, &self.identity);
        let b = lap.ms();
        let mut stream = self.connect();
        let c = lap.ms();
        let answer = post(&mut stream, &csr);
        let d = lap.ms();
        let chain = ["certificate", "issuing_ca"].map(|part| answer["data"][part].as_str().unwrap());
        let chain: Vec<_> = chain.iter().flat_map(|pem| parse_chain(pem).unwrap()).collect();
        let pair = Pair::new(key.clone(), chain).unwrap();
        let bundle = Bundle::judge(pair, &self.identity, &self.anchors, SystemTime::now());
        let bundle = bundle.map_err(|unfit| unfit.why).unwrap();
        let e = lap.ms();
        put(directory, key.pem(), &bundle.pair().cert_pem(), &self.anchors.pem());
        [a, b, c, d, e, lap.ms()]
    }

    fn connect(&self) -> Stream {
        connect(&self.address, &self.tls)
    }
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A client that keeps its connection, for what the server's own work takes.
pub(crate) struct Kept {
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
    url: String,
    login: Value,
    sign: String,
    csr: Csr,
}

impl Kept {
    /// Signs at MOUNT and logs in with AppRole by `login`.
    pub(crate) fn new(url: &str, tls: &str, mount: &str, login: Value) -> Self {
        let tls = trusting(CertificateDer::from_pem_slice(tls.as_bytes()).unwrap());
        let builder = reqwest::Client::builder().tls_backend_preconfigured((*tls).clone()).no_proxy();
        let csr = csr(&Key::generate(KeyKind::P256).unwrap(), &identity());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (client, sign) = (builder.build().unwrap(), format!("{mount}/sign/{ROLE}"));
        let kept = Self { runtime, client, url: url.to_owned(), login, sign, csr };
        kept.once();
        kept
    }

    /// Login, signature, the token given back; in milliseconds.
    pub(crate) fn once(&self) -> f64 {
        let mut lap = Lap(Instant::now());
        let login = self.post("auth/approle/login", "", &self.login);
        let token = login["auth"]["client_token"].as_str().unwrap();
        let body = json!({ "csr": self.csr.pem(), "common_name": "node01.example.com" });
        let signed = self.post(&self.sign, token, &body);
        assert!(signed["data"]["certificate"].is_string(), "{signed}");
        self.post("auth/token/revoke-self", token, &json!({}));
        lap.ms()
    }

    fn post(&self, path: &str, token: &str, body: &Value) -> Value {
        let request = self.client.post(format!("{}/v1/{path}", self.url)).header("x-vault-token", token);
        let asked = request.timeout(std::time::Duration::from_secs(30)).json(body);
        self.runtime.block_on(async {
            let answer = asked.send().await.unwrap().error_for_status().unwrap();
            serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default()
        })
    }
}

fn trusting(root: CertificateDer<'static>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    // A new process has no session to resume.
    tls.resumption = rustls::client::Resumption::disabled();
    Arc::new(tls)
}

fn connect(address: &str, tls: &Arc<ClientConfig>) -> Stream {
    let mut tcp = TcpStream::connect(address).unwrap();
    tcp.set_nodelay(true).unwrap();
    let mut tls = ClientConnection::new(tls.clone(), "127.0.0.1".try_into().unwrap()).unwrap();
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp).unwrap();
    }
    StreamOwned::new(tls, tcp)
}

fn csr(key: &Key, identity: &Identity) -> Csr {
    let dialect = Dialect { usages: true, lone_name: true, attributes: Vec::new(), extensions: Vec::new() };
    Csr::new(key, identity, &dialect).unwrap()
}

fn identity() -> Identity {
    Identity {
        common_name: "node01.example.com".into(),
        organization: Some(["ops".to_owned()].into()),
        dns: ["node01".to_owned(), "node01.example.com".to_owned()].into(),
        ips: ["10.99.0.11".parse().unwrap()].into(),
        uris: std::collections::BTreeSet::new(),
        usages: [Usage::Server, Usage::Client].into(),
        exact_usages: true,
        key: KeyKind::P256,
        ttl: None,
    }
}

fn post(stream: &mut Stream, csr: &Csr) -> Value {
    let body = json!({ "csr": csr.pem() }).to_string();
    let head = format!(
        "POST /v1/{MOUNT}/sign/{ROLE} HTTP/1.1\r\nhost: ca\r\nx-vault-token: {TOKEN}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all([head, body].concat().as_bytes()).unwrap();
    let (mut answer, mut part) = (Vec::new(), [0; 16 * 1024]);
    loop {
        let length = stream.read(&mut part).unwrap();
        answer.extend_from_slice(&part[..length]);
        let text = String::from_utf8_lossy(&answer);
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
        if let Ok(value) = serde_json::from_str(body) {
            return value;
        }
    }
}

/// The least that is both durable and seen at once: three files and their directory on disk, then a link
/// swapped, and its directory on disk.
fn put(directory: &Path, key: &str, cert: &str, ca: &str) {
    let generation = directory.join("1");
    fs::create_dir(&generation).unwrap();
    let write = |name: &str, content: &str| {
        let mut file = File::create_new(generation.join(name)).unwrap();
        file.write_all(content.as_bytes()).unwrap();
        file
    };
    let files = [write("web.key", key), write("web.crt", cert), write("ca.crt", ca)];
    files.iter().for_each(|file| file.sync_all().unwrap());
    File::open(&generation).unwrap().sync_all().unwrap();
    symlink("1", directory.join("new")).unwrap();
    fs::rename(directory.join("new"), directory.join("current")).unwrap();
    File::open(directory).unwrap().sync_all().unwrap();
}

struct Lap(Instant);

impl Lap {
    fn ms(&mut self) -> f64 {
        let now = Instant::now();
        let taken = now.duration_since(self.0).as_secs_f64() * 1e3;
        self.0 = now;
        taken
    }
}
