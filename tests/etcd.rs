//! The main job: three hosts with nothing on them get their certificates from a real OpenBao, and three
//! real etcd members, each in a network namespace with an address of its own, form a cluster from the
//! files that nodecert wrote.
//!
//! `etcdctl endpoint health` alone is a weak proof: it is content with a peer certificate without a SAN,
//! without clientAuth or with a wrong address, since peer links work in one direction. So every port is
//! dialled from every host, and the members' logs are searched for refused connections.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod bed;

use bed::{
    Authority, Autosign, Etcd, EtcdRelease, Host, Lan, Login, Member, Openbao, Pki, PuppetConfig,
    PuppetRelease, Puppetserver, ended, eventually, inspect, must,
};
use serde_json::json;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

const SECRET: &str = "/var/lib/nodecert/secrets/etcd";
const ADDRESSES: [&str; 3] = ["10.99.0.11", "10.99.0.12", "10.99.0.13"];
const CONFIG: &str = "/etc/etcd/etcd.yaml";

#[test]
#[ignore = "needs servers: run tests/all"]
fn three_members_of_etcd_3_4_form_a_cluster() {
    three_members_form_a_cluster(&EtcdRelease::v3_4());
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn three_members_of_etcd_3_5_form_a_cluster() {
    three_members_form_a_cluster(&EtcdRelease::v3_5());
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_lone_member_of_etcd_3_4_runs_from_the_environment_file() {
    a_lone_member_runs_from_the_environment_file(&EtcdRelease::v3_4());
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_lone_member_of_etcd_3_5_runs_from_the_environment_file() {
    a_lone_member_runs_from_the_environment_file(&EtcdRelease::v3_5());
}

/// Client and peer port share the certificate, and its addresses come from a Puppet CA that signs SANs.
#[test]
#[ignore = "needs servers: run tests/all"]
fn three_members_with_certificates_of_a_puppet_ca_form_a_cluster() {
    let server = Puppetserver::with(PuppetConfig {
        release: PuppetRelease::V7,
        autosign: Autosign::Everything,
        names: true,
        ..PuppetConfig::default()
    });
    let release = EtcdRelease::v3_4();
    let lan = Lan::of(&ADDRESSES);
    let hosts = ADDRESSES.map(|_| Host::new());
    let cluster = Cluster { release: &release, lan: &lan, hosts: &hosts };
    for (nth, host) in hosts.iter().enumerate() {
        cluster.etcd(nth).install();
        let (pin, url, number, address) = (server.pin(), &server.url, nth + 1, ADDRESSES[nth]);
        let [one, two, three] = ADDRESSES;
        host.configure(&format!(
            r#"
[node]
hostname = "node0{number}"
domain = "example.com"
addresses = ["{address}"]
[ca.site]
tls.pins = ["{pin}"]
[ca.site.puppet]
url = "{url}"
[etcd]
ca = "site"
cluster = {{ node01 = "{one}", node02 = "{two}", node03 = "{three}" }}
[certificate.etcd-server]
certname = "etcd.{{{{ fqdn }}}}"
"#
        ));
        host.nodecert("run").exits(0);
        assert!(!host.path("/etc/etcd/pki/peer.crt").exists());
    }
    let mut members = cluster.start();
    cluster.serves(&mut members);
    no_connection_was_refused(&members);
}

/// From nothing, through a renewal, to a restart of every member.
fn three_members_form_a_cluster(release: &EtcdRelease) {
    let bao = Openbao::start();
    let pki = bao.pki("etcd");
    pki.role("member", &json!({}));
    let lan = Lan::of(&ADDRESSES);
    let hosts = ADDRESSES.map(|_| Host::new());
    let cluster = Cluster { release, lan: &lan, hosts: &hosts };
    for (nth, host) in hosts.iter().enumerate() {
        cluster.etcd(nth).install();
        configure(host, nth, &ADDRESSES, "yaml", &bao, &pki);
        host.nodecert("run").exits(0);
        belongs_to_etcd(host);
    }

    let mut members = cluster.start();
    cluster.serves(&mut members);
    no_connection_was_refused(&members);

    let before = [0, 1, 2].map(|nth| cluster.served(nth));
    for host in &hosts {
        host.nodecert("run --force --only etcd-server --only etcd-peer").exits(0);
    }
    for (nth, old) in before.iter().enumerate() {
        let held = inspect(&hosts[nth].path("/etc/etcd/pki/server.crt")).fingerprint;
        assert_eq!(cluster.served(nth), held, "a renewed certificate is served without a restart");
        assert_ne!(&held, old);
    }
    cluster.serves(&mut members);
    no_connection_was_refused(&members);

    // The data directory is there now: the files say `existing`, and the same cluster comes up from them.
    drop(members);
    for host in &hosts {
        host.nodecert("run").exits(0);
        assert!(host.read(CONFIG).contains("existing"), "{}", host.read(CONFIG));
    }
    let mut members = cluster.start();
    cluster.serves(&mut members);
    no_connection_was_refused(&members);

    cluster.turns_strangers_away();
}

/// The form that Debian's unit reads: a forgotten variable would leave a port open.
fn a_lone_member_runs_from_the_environment_file(release: &EtcdRelease) {
    let bao = Openbao::start();
    let pki = bao.pki("etcd");
    pki.role("member", &json!({}));
    let lan = Lan::of(&ADDRESSES[..1]);
    let hosts = [Host::new()];
    let cluster = Cluster { release, lan: &lan, hosts: &hosts };
    cluster.etcd(0).install();
    configure(&hosts[0], 0, &ADDRESSES[..1], "env", &bao, &pki);
    hosts[0].nodecert("run").exits(0);

    let mut members = vec![cluster.etcd(0).start_with_environment("/etc/default/etcd")];
    cluster.serves(&mut members);
    no_connection_was_refused(&members);
    cluster.turns_strangers_away();
}

/// The hosts of one cluster and what joins them.
struct Cluster<'a> {
    release: &'a EtcdRelease,
    lan: &'a Lan,
    hosts: &'a [Host],
}

impl Cluster<'_> {
    fn etcd(&self, nth: usize) -> Etcd<'_> {
        Etcd { host: &self.hosts[nth], netns: self.lan.host(nth), release: self.release }
    }

    fn start(&self) -> Vec<Member> {
        (0..self.hosts.len()).map(|nth| self.etcd(nth).start(CONFIG)).collect()
    }

    /// All are healthy, every port answers every host over mutual TLS, and what is put through one member
    /// is got through each.
    fn serves(&self, members: &mut [Member]) {
        eventually("a healthy cluster", || {
            members.iter_mut().for_each(Member::must_live);
            let health = ended(&mut self.etcdctl(0, &self.endpoints(), "endpoint health"));
            if health.status.success() { Ok(()) } else { Err(format!("{health:#?}")) }
        });
        for from in 0..self.hosts.len() {
            for to in 0..self.hosts.len() {
                self.dial(from, to, "server", "2379/health", "true");
                self.dial(from, to, "peer", "2380/version", self.release.version);
            }
        }
        for nth in 0..self.hosts.len() {
            self.puts_and_gets(nth);
        }
    }

    fn dial(&self, from: usize, to: usize, pair: &str, page: &str, answer: &str) {
        let said = must(&mut self.introduced(from, to, pair, page));
        assert!(said.contains(answer), "{page} of member {to} said {said}");
    }

    fn puts_and_gets(&self, through: usize) {
        let put = format!("put key{through} value{through}");
        must(&mut self.etcdctl(through, &endpoint(through), &put));
        for reader in 0..self.hosts.len() {
            let got = must(&mut self.etcdctl(reader, &endpoint(reader), &format!("get key{through}")));
            assert_eq!(got, format!("key{through}\nvalue{through}\n"));
        }
    }

    /// Neither port of any member lets in a client without a certificate, or with one of another
    /// authority of the same name: the listener breaks the connection off with a TLS alert.
    fn turns_strangers_away(&self) {
        let stranger = Stranger::new("etcd intermediate");
        for to in 0..self.hosts.len() {
            for page in ["2379/health", "2380/version"] {
                breaks_off(&mut self.curl(0, to, page));
                breaks_off(
                    self.curl(0, to, page)
                        .arg("--cert")
                        .arg(&stranger.certificate)
                        .arg("--key")
                        .arg(&stranger.key),
                );
            }
        }
    }

    /// The SHA-256 fingerprint of the certificate that a member's client port shows.
    fn served(&self, nth: usize) -> String {
        let host = Host::new();
        host.write(
            "/shown.crt",
            &must(self.introduced(nth, nth, "server", "2379/health").args(["--write-out", "%{certs}"])),
        );
        inspect(&host.path("/shown.crt")).fingerprint
    }

    /// `curl` with the caller's own certificate.
    fn introduced(&self, from: usize, to: usize, pair: &str, page: &str) -> Command {
        // Where one certificate serves both it is the server's.
        let own = self.hosts[from].path(&format!("/etc/etcd/pki/{pair}.crt")).exists();
        let pair = if own { pair } else { "server" };
        let file = |kind: &str| self.hosts[from].path(&format!("/etc/etcd/pki/{pair}.{kind}"));
        let mut curl = self.curl(from, to, page);
        curl.arg("--cert").arg(file("crt")).arg("--key").arg(file("key"));
        curl
    }

    /// `curl` from one host to a page of another, whose certificate has to name the address dialled.
    fn curl(&self, from: usize, to: usize, page: &str) -> Command {
        let mut curl = self.lan.host(from).command("curl");
        // The peer port ends an HTTP/2 stream in a way that curl complains of.
        curl.args([
            "--http1.1",
            "--silent",
            "--show-error",
            "--fail",
            "--noproxy",
            "*",
            "--max-time",
            "10",
            "--cacert",
        ]);
        curl.arg(self.hosts[from].path("/etc/etcd/pki/ca.crt"))
            .arg(format!("https://{}:{page}", ADDRESSES[to]));
        curl
    }

    fn etcdctl(&self, nth: usize, endpoints: &str, rest: &str) -> Command {
        let tls =
            "--cacert /etc/etcd/pki/ca.crt --cert /etc/etcd/pki/server.crt --key /etc/etcd/pki/server.key";
        self.etcd(nth).etcdctl(&format!("--endpoints {endpoints} {tls} {rest}"))
    }

    fn endpoints(&self) -> String {
        (0..self.hosts.len()).map(endpoint).collect::<Vec<_>>().join(",")
    }
}

fn endpoint(nth: usize) -> String {
    format!("https://{}:2379", ADDRESSES[nth])
}

/// node01 and so on, each with the whole cluster and a wrapped secret_id of its own.
fn configure(host: &Host, nth: usize, addresses: &[&str], format: &str, bao: &Openbao, pki: &Pki<'_>) {
    host.write("/etc/nodecert/vault-ca.pem", &bao.tls_pem());
    host.write_secret(SECRET, &pki.wrapped_secret_id());
    let mut cluster = String::new();
    for (nth, address) in addresses.iter().enumerate() {
        write!(cluster, "{} = \"{address}\", ", name(nth)).unwrap();
    }
    let (name, address, url, mount) = (name(nth), addresses[nth], bao.url(), &pki.mount);
    let login = Login::Wrapped { role_id: pki.role_id.clone(), file: SECRET }.toml();
    host.configure(&format!(
        r#"
[node]
hostname = "{name}"
domain = "example.com"
addresses = ["{address}"]

[ca.etcd]
tls.file = "/etc/nodecert/vault-ca.pem"
anchors.published = true

[ca.etcd.vault]
urls = ["{url}"]
mount = "{mount}"
role = "member"
auth = [{login}]

[etcd]
ca = "etcd"
cluster = {{ {} }}
format = "{format}"
"#,
        cluster.trim_end_matches(", ")
    ));
}

fn name(nth: usize) -> String {
    format!("node0{}", nth + 1)
}

/// Keys that only etcd reads, with the user of the host's own /etc/passwd.
fn belongs_to_etcd(host: &Host) {
    for key in ["/etc/etcd/pki/server.key", "/etc/etcd/pki/peer.key"] {
        assert_eq!(host.mode(key), "600 4301:4301", "{key}");
    }
}

/// What a member says when TLS fails, in the words of both releases.
fn no_connection_was_refused(members: &[Member]) {
    for (nth, member) in members.iter().enumerate() {
        let log = member.log();
        for words in ["rejected connection", "remote error: tls", "x509:", "bad certificate"] {
            let line = log.lines().find(|line| line.contains(words));
            assert_eq!(line, None, "member {nth}");
        }
    }
}

/// The connection is made and then ended by the other side's alert, not by silence or a closed port.
fn breaks_off(curl: &mut Command) {
    let ended = ended(curl);
    assert!(!ended.status.success() && ended.stderr.contains("alert"), "{curl:?} {ended:#?}");
}

/// A client certificate of an authority that nobody here trusts.
struct Stranger {
    certificate: PathBuf,
    key: PathBuf,
    _home: Host,
}

impl Stranger {
    fn new(authority: &str) -> Self {
        let home = Host::new();
        let pair = Authority::new(authority).issue(&["10.99.0.11"]);
        home.write("/stranger.crt", &pair.certificate);
        home.write("/stranger.key", &pair.key);
        Self { certificate: home.path("/stranger.crt"), key: home.path("/stranger.key"), _home: home }
    }
}
