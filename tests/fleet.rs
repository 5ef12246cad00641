//! etcd clusters that live: three real members under a client that writes all the while, and everything that
//! happens to their certificates over the years. No key is lost, and never two members are away at once.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod bed;

use bed::{EtcdRelease, Fleet, Login, Openbao, Outcome, Pki, Writer, inspect};
use reqwest::Method;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const ADDRESSES: [&str; 3] = ["10.99.0.11", "10.99.0.12", "10.99.0.13"];
const TOKEN: &str = "/var/lib/nodecert/secrets/token";

/// What of a host's configuration a test changes in its course.
#[derive(Clone)]
struct Config {
    /// Lines of `[node]`.
    node: String,
    /// `anchors.…` and `refresh` of the CA.
    anchors: String,
    /// Lines of `[etcd]`.
    etcd: String,
}

impl Config {
    fn new() -> Self {
        Self { node: String::new(), anchors: "anchors.published = true".to_owned(), etcd: String::new() }
    }

    fn put(&self, fleet: &Fleet, nth: usize, bao: &Openbao, pki: &Pki<'_>) {
        let host = fleet.host(nth);
        host.write("/etc/nodecert/vault-ca.pem", &bao.tls_pem());
        host.write_secret(TOKEN, &bao.token(&pki.policy()));
        let login = Login::Token { file: TOKEN }.toml();
        let (Self { node, anchors, etcd }, url, mount) = (self, bao.url(), &pki.mount);
        let (number, address, [one, two, three]) = (nth + 1, fleet.address(nth), ADDRESSES);
        host.configure(&format!(
            r#"
[node]
hostname = "node0{number}"
domain = "example.com"
addresses = ["{address}"]
{node}

[ca.etcd]
tls.file = "/etc/nodecert/vault-ca.pem"
{anchors}
[ca.etcd.vault]
urls = ["{url}"]
mount = "{mount}"
role = "member"
auth = [{login}]

[etcd]
ca = "etcd"
cluster = {{ node01 = "{one}", node02 = "{two}", node03 = "{three}" }}
{etcd}
"#
        ));
    }
}

/// A healthy cluster whose certificates come from this PKI.
fn cluster(release: EtcdRelease, config: &Config, bao: &Openbao, pki: &Pki<'_>) -> Fleet {
    let fleet = Fleet::new(release, &ADDRESSES, bao.port());
    for nth in fleet.all() {
        config.put(&fleet, nth, bao, pki);
        fleet.nodecert(nth, "run").exits(0);
    }
    fleet.all().for_each(|nth| fleet.order(nth, "start"));
    fleet.settles();
    fleet
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn members_of_etcd_3_4_restart_in_turn() {
    members_restart_in_turn(EtcdRelease::v3_4());
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn members_of_etcd_3_5_restart_in_turn() {
    members_restart_in_turn(EtcdRelease::v3_5());
}

/// Three timers that fire in the same second after a change of the CA.
fn members_restart_in_turn(release: EtcdRelease) {
    let bao = Openbao::start();
    let (pki, other) = (bao.pki("etcd"), bao.pki("other"));
    pki.role("member", &json!({}));
    let mut config = Config::new();
    let fleet = cluster(release, &config, &bao, &pki);

    fleet.run_together();
    assert!(fleet.host(0).read("/etc/etcd/etcd.yaml").contains("existing"));
    assert_eq!(fleet.restarts(), [0, 0, 0], "what counts for a new member only restarts none");

    let flags = fleet.flags("https");
    let writer = fleet.write(&flags);
    writer.goes_on();
    "anchors.file = \"/etc/nodecert/etcd-ca.pem\"".clone_into(&mut config.anchors);
    for nth in fleet.all() {
        fleet
            .host(nth)
            .write("/etc/nodecert/etcd-ca.pem", &format!("{}\n{}\n", pki.root_pem, other.root_pem));
        config.put(&fleet, nth, &bao, &pki);
    }
    fleet.run_together();
    assert_eq!(fleet.restarts(), [1, 1, 1]);

    // The first waits for the third, says so, and restarts when that one is back.
    fleet.order(2, "stop");
    "settings = { snapshot-count = 50000 }".clone_into(&mut config.etcd);
    config.put(&fleet, 0, &bao, &pki);
    fleet
        .nodecert(0, "run --deadline 3s")
        .exits(75)
        .says("waits until every other member is healthy: node03");
    fleet.nodecert(0, "status").exits(0).says("restart etcd.service in turn");
    assert_eq!(fleet.restarts(), [1, 1, 1]);
    fleet.order(2, "start");
    fleet.nodecert(0, "run").exits(0);
    assert_eq!(fleet.restarts(), [2, 1, 1]);
    fleet.nodecert(0, "run").exits(0).says("nothing to do");

    fleet.settles();
    let mark = fleet.mark();
    writer.goes_on();
    fleet.no_connection_was_refused_since(&mark);
    writer.lost_nothing(&flags);
    fleet.never_two_were_away();
}

/// The steps of packaging/etcd.md, "A new root".
#[test]
#[ignore = "needs servers: run tests/all"]
fn a_cluster_moves_to_a_new_root() {
    let bao = Openbao::start();
    let pki = bao.root_pki("etcd");
    pki.role("member", &json!({}));
    let mut config = Config::new();
    "anchors.published = true\nrefresh = \"1s\"".clone_into(&mut config.anchors);
    let fleet = cluster(EtcdRelease::v3_4(), &config, &bao, &pki);
    let flags = fleet.flags("https");
    let writer = fleet.write(&flags);

    // 1. The CA publishes the new root beside the old one.
    let ask = json!({"common_name": "etcd root 2", "key_type": "ec", "ttl": "87600h", "issuer_name": "next"});
    let made = bao.admin(Method::POST, &format!("{}/root/rotate/internal", pki.mount), &ask);
    let next = made["data"]["certificate"].as_str().unwrap();
    let both = json!({"manual_chain": ["self", "next"]});
    bao.admin(Method::POST, &format!("{}/issuer/default", pki.mount), &both);
    // 2. Every host trusts both, and every member has read them.
    std::thread::sleep(Duration::from_secs(1));
    fleet.run_together();
    assert_eq!((trusted(&fleet), fleet.restarts()), ([2; 3], vec![1; 3]));
    settled(&fleet, &writer);
    // 3. The new root signs.
    bao.admin(Method::POST, &format!("{}/config/issuers", pki.mount), &json!({"default": "next"}));
    for nth in fleet.all() {
        fleet.nodecert(nth, "run --force").exits(0);
        let status = fleet.nodecert(nth, "status --format json").exits(0).json();
        let issuers =
            status["certificates"].as_array().unwrap().iter().map(|line| line["issuer"].to_string());
        assert!(issuers.into_iter().all(|issuer| issuer.contains("etcd root 2")), "{status}");
    }
    assert_eq!((trusted(&fleet), fleet.restarts()), ([2; 3], vec![1; 3]), "a leaf restarts no one");
    settled(&fleet, &writer);
    // 4. The old root leaves.
    config.anchors = format!("anchors.pins = [\"sha256:{}\"]", bed::fingerprint(next));
    fleet.all().for_each(|nth| config.put(&fleet, nth, &bao, &pki));
    fleet.run_together();
    assert_eq!((trusted(&fleet), fleet.restarts()), ([1; 3], vec![2; 3]));
    settled(&fleet, &writer);

    writer.lost_nothing(&flags);
    fleet.never_two_were_away();
}

/// How many CA certificates each member's trust file holds.
fn trusted(fleet: &Fleet) -> [usize; 3] {
    [0, 1, 2].map(|nth| fleet.host(nth).read("/etc/etcd/pki/ca.crt").matches("BEGIN CERTIFICATE").count())
}

/// Nothing is under way any more, the client writes, and no member turns anyone away.
fn settled(fleet: &Fleet, writer: &Writer<'_>) {
    fleet.settles();
    let mark = fleet.mark();
    std::thread::sleep(Duration::from_secs(1));
    writer.goes_on();
    fleet.no_connection_was_refused_since(&mark);
}

/// Twenty seconds are the whole life of a certificate, and the timer comes every other second.
#[test]
#[ignore = "needs servers: run tests/all"]
fn certificates_are_renewed_under_a_cluster_at_work() {
    let bao = Openbao::start();
    let pki = bao.pki("etcd");
    pki.role("member", &json!({"ttl": "20s", "max_ttl": "20s", "not_before_duration": "1s"}));
    let mut config = Config::new();
    "interval = \"2s\"".clone_into(&mut config.node);
    let fleet = cluster(EtcdRelease::v3_5(), &config, &bao, &pki);
    let flags = fleet.flags("https");
    let writer = fleet.write(&flags);
    let mark = fleet.mark();
    let held = || fleet.all().map(|nth| inspect(&fleet.host(nth).path("/etc/etcd/pki/peer.crt")).fingerprint);
    let mut seen: Vec<BTreeSet<_>> = vec![BTreeSet::new(); 3];
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(30) {
        let runs: Vec<_> = fleet.all().map(|nth| fleet.start_nodecert(nth, "run")).collect();
        runs.into_iter().for_each(|run| drop(Outcome::wait(run).exits(0)));
        seen.iter_mut().zip(held()).for_each(|(seen, held)| seen.extend([held]));
        std::thread::sleep(Duration::from_secs(2));
    }
    assert!(seen.iter().all(|seen| seen.len() >= 3), "renewed twice: {seen:?}");
    assert_eq!(fleet.restarts(), [0; 3], "a leaf restarts no one");
    fleet.no_connection_was_refused_since(&mark);
    writer.lost_nothing(&flags);
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_plain_cluster_of_etcd_3_4_moves_to_tls_and_a_member_is_replaced() {
    a_plain_cluster_moves_to_tls(EtcdRelease::v3_4());
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_plain_cluster_of_etcd_3_5_moves_to_tls_and_a_member_is_replaced() {
    a_plain_cluster_moves_to_tls(EtcdRelease::v3_5());
}

/// The steps of packaging/etcd.md, "From plain HTTP to TLS" and "A new host for a lost one".
fn a_plain_cluster_moves_to_tls(release: EtcdRelease) {
    let bao = Openbao::start();
    let pki = bao.pki("etcd");
    pki.role("member", &json!({}));
    let fleet = Fleet::new(release, &ADDRESSES, bao.port());
    for nth in fleet.all() {
        fleet.host(nth).write("/etc/default/etcd", &plain_environment(nth));
        fleet.order(nth, "start");
    }
    fleet.settles();
    let writer = fleet.write(&fleet.flags("http"));
    writer.goes_on();
    let mut config = Config::new();

    // 1. Certificates are there, clients may come by TLS, members still speak HTTP to one another.
    "plain = [\"clients\", \"peers\"]".clone_into(&mut config.etcd);
    fleet.all().for_each(|nth| config.put(&fleet, nth, &bao, &pki));
    fleet.run_together();
    assert_eq!(fleet.restarts(), [1; 3]);
    // 2. One member after the other speaks TLS to its peers.
    "plain = [\"clients\"]".clone_into(&mut config.etcd);
    for nth in fleet.all() {
        fleet.settles();
        let update = format!("member update {} --peer-urls=https://{}:2380", id(&fleet, nth), ADDRESSES[nth]);
        fleet.etcdctl(nth, &update);
        config.put(&fleet, nth, &bao, &pki);
        fleet.nodecert(nth, "run").exits(0);
    }
    assert_eq!(fleet.restarts(), [2; 3]);
    settled(&fleet, &writer);
    // 3. The clients turn to TLS.
    let flags = fleet.flags("https");
    let urls =
        [2378, 2379].map(|port| ADDRESSES.map(|address| format!("https://{address}:{port}")).join(","));
    writer.turn_to(&flags.replacen(&urls[1], &urls.join(","), 1));
    writer.goes_on();
    // 4. No one is let in without it.
    config.etcd.clear();
    fleet.all().for_each(|nth| config.put(&fleet, nth, &bao, &pki));
    fleet.run_together();
    assert_eq!(fleet.restarts(), [3; 3]);
    writer.turn_to(&flags);
    settled(&fleet, &writer);
    let members = fleet.etcdctl(0, &format!("{flags} member list"));
    assert!(!members.contains("http://") && members.matches("started").count() == 3, "{members}");
    for nth in fleet.all() {
        let plain = format!("--endpoints=http://{}:2379 --command-timeout=2s get x", ADDRESSES[nth]);
        assert!(!fleet.etcdctl_ends(nth, &plain).status.success(), "member {nth} speaks HTTP");
    }

    a_lost_member_is_replaced(&fleet, &config, &bao, &pki);
    settled(&fleet, &writer);
    writer.lost_nothing(&flags);
    fleet.never_two_were_away();
}

fn a_lost_member_is_replaced(fleet: &Fleet, config: &Config, bao: &Openbao, pki: &Pki<'_>) {
    fleet.order(2, "stop");
    fleet.replace(2);
    // 1. The cluster forgets the lost one and expects the new.
    let flags = fleet.flags_for("https", 0..2);
    let lost = members(fleet, &flags).into_iter().find(|(_, name)| name == "node03").expect("node03").0;
    fleet.etcdctl(0, &format!("{flags} member remove {lost}"));
    fleet.etcdctl(0, &format!("{flags} member add node03 --peer-urls=https://{}:2380", ADDRESSES[2]));
    // 2. The new host joins what is there.
    let joining = Config { etcd: "state = \"existing\"".to_owned(), ..config.clone() };
    joining.put(fleet, 2, bao, pki);
    fleet.nodecert(2, "run").exits(0);
    fleet.order(2, "start");
    fleet.settles();
    // 3. From now on it is as the others.
    config.put(fleet, 2, bao, pki);
    fleet.nodecert(2, "run").exits(0);
    assert_eq!(fleet.restarts(), [3; 3]);
}

/// As Debian's administrator has written it.
fn plain_environment(nth: usize) -> String {
    let (number, address, [one, two, three]) = (nth + 1, ADDRESSES[nth], ADDRESSES);
    format!(
        r#"ETCD_NAME="node0{number}"
ETCD_DATA_DIR="/var/lib/etcd/default"
ETCD_LISTEN_PEER_URLS="http://{address}:2380"
ETCD_LISTEN_CLIENT_URLS="http://{address}:2379,http://127.0.0.1:2379"
ETCD_ADVERTISE_CLIENT_URLS="http://{address}:2379"
ETCD_INITIAL_ADVERTISE_PEER_URLS="http://{address}:2380"
ETCD_INITIAL_CLUSTER="node01=http://{one}:2380,node02=http://{two}:2380,node03=http://{three}:2380"
ETCD_INITIAL_CLUSTER_STATE="new"
"#
    )
}

fn id(fleet: &Fleet, nth: usize) -> String {
    let all = members(fleet, &fleet.flags("http"));
    all.into_iter().find(|(_, name)| *name == format!("node0{}", nth + 1)).expect("a member").0
}

/// Number and name of each member.
fn members(fleet: &Fleet, flags: &str) -> Vec<(String, String)> {
    let list = fleet.etcdctl(0, &format!("{flags} member list"));
    let row = |line: &str| {
        let mut cells = line.split(", ").map(str::to_owned);
        (cells.next().unwrap(), cells.nth(1).unwrap())
    };
    list.lines().map(row).collect()
}
