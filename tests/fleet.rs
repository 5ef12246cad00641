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

use bed::{EtcdRelease, Fleet, Login, Openbao, Pki};
use serde_json::json;

const ADDRESSES: [&str; 3] = ["10.99.0.11", "10.99.0.12", "10.99.0.13"];
const TOKEN: &str = "/var/lib/nodecert/secrets/token";

/// What of a host's configuration a test changes in its course.
#[derive(Clone)]
struct Config {
    /// `anchors.…` and `refresh` of the CA.
    anchors: String,
    /// Lines of `[etcd]`.
    etcd: String,
    /// More tables.
    more: String,
}

impl Config {
    fn new() -> Self {
        Self { anchors: "anchors.published = true".to_owned(), etcd: String::new(), more: String::new() }
    }

    fn put(&self, fleet: &Fleet, nth: usize, bao: &Openbao, pki: &Pki<'_>) {
        let host = fleet.host(nth);
        host.write("/etc/nodecert/vault-ca.pem", &bao.tls_pem());
        host.write_secret(TOKEN, &bao.token(&pki.policy()));
        let login = Login::Token { file: TOKEN }.toml();
        let (Self { anchors, etcd, more }, url, mount) = (self, bao.url(), &pki.mount);
        let (number, address, [one, two, three]) = (nth + 1, fleet.address(nth), ADDRESSES);
        host.configure(&format!(
            r#"
[node]
hostname = "node0{number}"
domain = "example.com"
addresses = ["{address}"]

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

{more}
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
