//! Bytes of others to the readers of nodecert, one function a target. A reader must not panic, hang or grow,
//! and what it lets through must be what it says. The same functions read the corpus in tests/corpus.rs.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    reason = "a finding is a panic"
)]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use nodecert::bundle::{Bundle, Leaf, Pair, parse_chain};
use nodecert::ca::{cfssl as cfssl_ca, said, vault as vault_ca};
use nodecert::config::{self, Text};
use nodecert::facts::{self, Facts, Host, Interface, Sources};
use nodecert::file::Content;
use nodecert::identity::{Identity, KeyKind, Usage};
use nodecert::key::{Csr, Key, pem_block};
use nodecert::node;
use nodecert::render::render;
use nodecert::setting::{Scope, Template};
use nodecert::trust::{self, Anchors, Pin};
use rustls_pki_types::CertificateDer;

const ROOT: &str = include_str!("../held/root.crt");
const ISSUING: &str = include_str!("../held/issuing.crt");
const LEAF: &str = include_str!("../held/node01.crt");
const KEY: &str = include_str!("../held/node01.key");
const CSR: &str = include_str!("../held/node01.csr");

/// 2027-01-15T08:00:00Z.
const NOW: Duration = Duration::from_secs(1_800_000_000);

/// Texts of a configuration, a zero byte between them: read, and expanded twice.
pub fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let named = text.split('\0').enumerate().map(|(nth, text)| Text {
        path: PathBuf::from(format!("{nth}.toml")),
        text: text.to_owned(),
        private: nth % 2 == 0,
    });
    let config = match config::parse(named.collect()) {
        Ok(config) => config,
        Err(faults) => return one_line_each(faults.lines()),
    };
    let Ok(facts) = facts::gather(&config.node, &machine(), &Sources::default()) else { return };
    match (node::expand(&config, &facts, &BTreeSet::new()), node::expand(&config, &facts, &BTreeSet::new())) {
        (Ok(one), Ok(two)) => assert_eq!(format!("{one:?}"), format!("{two:?}")),
        (Err(one), Err(two)) => {
            assert_eq!(one, two);
            one_line_each(one.lines());
        }
        _ => panic!("expanded once and not twice"),
    }
}

/// A template of the configuration, and the same text as that of a file.
pub fn template(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // The engine makes a text of a list that is repeated before it counts it: a limit that the README states.
    if text.contains(['[', '(']) && text.contains('*') && text.contains(['~', '|']) {
        return;
    }
    let scope: &Scope = &SCOPE;
    if let Ok(template) = Template::new(text) {
        let _ = template.splice(scope);
        assert_eq!(template.render(scope).ok(), template.render(scope).ok());
    }
    let _ = render(&Content::Template("/t".into()), text, scope);
}

/// What a Vault answers to `sign`.
pub fn vault(data: &[u8]) {
    is_one_line(&said(data));
    let Ok(signed) = vault_ca::Signed::parse(data) else { return };
    if let Some(chain) = signed.chain() {
        judge(chain);
    }
}

/// What a cfssl answers to `authsign` and `info`.
pub fn cfssl(data: &[u8]) {
    is_one_line(&said(data));
    if let Ok(mut chain) = cfssl_ca::signed(data) {
        chain.extend(parse_chain(ISSUING).unwrap());
        judge(chain);
    }
}

/// What a Puppet CA answers: its certificates, a leaf, a stored request, or its revocation lists.
pub fn puppet(data: &[u8]) {
    is_one_line(&said(data));
    let text = String::from_utf8_lossy(data);
    let own = Csr::parse(CSR).unwrap();
    if let Ok(stored) = Csr::parse(&text) {
        assert!(stored.names().len() < data.len());
        let _ = (stored.has_key_of(&own), stored.public());
    }
    let known: Vec<_> = [ISSUING, ROOT].into_iter().flat_map(|pem| parse_chain(pem).unwrap()).collect();
    if let Ok(found) = parse_chain(&text) {
        let pins: Vec<_> = known.iter().map(|der| Pin::of(der)).collect();
        let with: Vec<_> = found.iter().chain(&known).cloned().collect();
        let vouched = Anchors::vouched(&with, &pins);
        let ours =
            |der: &CertificateDer<'_>| Leaf::parse(der).is_ok_and(|leaf| leaf.issuer.starts_with("CN=fuzz"));
        assert!(vouched.iter().all(ours), "vouched for a stranger");
        let _ = Anchors::new(found.clone()).map(|anchors| anchors.describe());
        judge(found);
    }
    let leaf = parse_chain(LEAF).unwrap().remove(0);
    // Only what the issuing CA signed can say so, and it signed one list that does.
    let revoked = trust::revokes(&text, &known, &leaf);
    assert!(revoked != Ok(true) || text.contains("X509 CRL"));
}

/// Files on disk: a key, a chain, anchors, a request that waits.
pub fn held(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = Csr::parse(&text).map(|csr| csr.names());
    let _ = Anchors::parse(data).map(|anchors| anchors.describe());
    if let Ok(chain) = parse_chain(&text) {
        judge(chain);
    }
    let Ok(key) = Key::parse(&text) else { return };
    assert!(!format!("{key:?}").contains("PRIVATE"));
    let _ = Pair::parse(Arc::new(key), &text).map(|pair| pair.cert_pem());
}

/// One certificate, request or list without its PEM.
pub fn der(data: &[u8]) {
    if let Ok(leaf) = Leaf::parse(data) {
        let names = leaf.common_names.iter().chain(&leaf.organizations).chain(&leaf.dns).chain(&leaf.uris);
        names.chain([&leaf.subject, &leaf.issuer, &leaf.serial]).for_each(|text| is_one_line(text));
        let _ = (leaf.lifetime(), leaf.has_key_kind(KeyKind::P256));
    }
    let own = CertificateDer::from(data.to_vec());
    judge(vec![own.clone()]);
    if let Ok(anchors) = Anchors::new(vec![own]) {
        let now = SystemTime::UNIX_EPOCH + NOW;
        anchors.describe().iter().for_each(|(name, _, _)| is_one_line(name));
        let _ = (anchors.live(now).len(), anchors.expired(now), anchors.pem());
    }
    let _ = Csr::parse(&pem_block("CERTIFICATE REQUEST", data)).map(|csr| csr.names());
    let leaf = parse_chain(LEAF).unwrap().remove(0);
    let issuers = parse_chain(ISSUING).unwrap();
    let _ = trust::revokes(&pem_block("X509 CRL", data), &issuers, &leaf);
}

/// The texts of /etc and /proc in the order of [`Sources`], a zero byte between them.
pub fn host(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut texts = text.split('\0').map(|text| Some(text.to_owned()).filter(|text| !text.is_empty()));
    let mut next = || texts.next().flatten();
    let (nodename, name, pattern) = (next(), next(), next());
    let sources = Sources {
        etc_hostname: next(),
        etc_hosts: next(),
        resolv_conf: next(),
        machine_id: next(),
        route: next(),
        ipv6_route: next(),
        if_inet6: next(),
    };
    let host = Host { nodename: nodename.unwrap_or_default(), ..machine() };
    let settings = facts::Settings {
        hostname: name,
        interfaces: pattern.into_iter().collect(),
        ..facts::Settings::default()
    };
    match facts::gather(&settings, &host, &sources) {
        Ok(facts) => {
            let names = [&facts.hostname.value, &facts.fqdn.value, &facts.nodename.value];
            assert!(names.iter().all(|name| nodecert::identity::dns_name(name).is_ok()), "{names:?}");
            assert!(facts.addresses.iter().all(|address| !address.ip.is_unspecified()));
            let _ = facts::describe(&facts);
        }
        Err(error) => drop(error.to_string()),
    }
}

/// Whatever comes with it, nothing passes but what the CA of this page has signed: a fuzzer forges nothing.
fn judge(chain: Vec<CertificateDer<'static>>) {
    let (key, anchors, wanted): &(Arc<Key>, Anchors, Identity) = &JUDGE;
    let now = SystemTime::UNIX_EPOCH + NOW;
    match Pair::new(key.clone(), chain).map(|pair| Bundle::judge(pair, wanted, anchors, now)) {
        Ok(Ok(bundle)) => {
            let leaf = bundle.leaf();
            assert!(leaf.subject == "O=nodes, CN=node01" && leaf.dns.contains("node01"), "{leaf:?}");
            assert!(!bundle.pair().cert_pem().is_empty());
        }
        Ok(Err(unfit)) => is_one_line(&unfit.why.to_string()),
        Err(why) => is_one_line(&why.to_string()),
    }
}

static JUDGE: LazyLock<(Arc<Key>, Anchors, Identity)> = LazyLock::new(|| {
    let wanted = Identity {
        common_name: "node01".to_owned(),
        organization: Some(["nodes".to_owned()].into()),
        dns: ["node01".to_owned()].into(),
        ips: ["10.0.0.11".parse().unwrap()].into(),
        uris: BTreeSet::new(),
        usages: [Usage::Server, Usage::Client].into(),
        exact_usages: true,
        key: KeyKind::P256,
        ttl: None,
    };
    (Arc::new(Key::parse(KEY).unwrap()), Anchors::parse(ROOT.as_bytes()).unwrap(), wanted)
});

static SCOPE: LazyLock<Scope> = LazyLock::new(|| node::scope(&facts()));

fn facts() -> Facts {
    facts::gather(&facts::Settings::default(), &machine(), &Sources::default()).unwrap()
}

fn machine() -> Host {
    let addresses = vec!["10.0.0.11".parse().unwrap(), "fd00::11".parse().unwrap()];
    let eth0 = Interface { name: "eth0".to_owned(), up: true, loopback: false, addresses };
    let lo = Interface { name: "lo".to_owned(), up: true, loopback: true, addresses: Vec::new() };
    Host { nodename: "node01.example.com".to_owned(), interfaces: Some(vec![lo, eth0]) }
}

fn one_line_each(lines: &[String]) {
    assert!(!lines.is_empty());
    lines.iter().for_each(|line| is_one_line(line));
}

fn is_one_line(text: &str) {
    assert!(!text.contains(|c: char| c.is_control()), "{text:?}");
}
