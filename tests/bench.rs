//! How fast and how small: `nodecert` as whole processes, beside the programs that people use instead and
//! beside the floor, all in the same run. Figures are of the machine they were taken on; the ratios are not.
//!
//! In each round every scenario has its turn, so that a moment in which the machine is busy hits all of
//! them. Peers take turns less often, for they take longer. Prints a table, then the same as JSON.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measurement starts processes, reads files, prints and fails aloud"
)]

mod bed;
mod fake;
mod measure;

use std::path::{Path, PathBuf};
use std::process::Command;

use bed::{Host, Login, Openbao, Pki, PuppetConfig, Puppetserver, provided};
use fake::{Fake, MOUNT, ROLE, ROLE_ID, SECRET_ID, TOKEN};
use measure::{Calls, Floor, Kept, PIECES, Sample, Spread, calls, own, resident, sample};
use serde_json::{Value, json};
use tempfile::TempDir;

const SECRET: &str = "/var/lib/nodecert/secrets/ca";
const TLS: &str = "/etc/nodecert/tls.pem";
const ANCHORS: &str = "/etc/nodecert/anchors.pem";
/// A peer has its turn in every fourth round.
const PEER: usize = 4;
const SERVED: &str = "OpenBao's own: login, sign, give back";
const TOGETHER: &str = "together";

#[test]
#[ignore = "measures: run tests/bench"]
fn bench() {
    let rounds = std::env::var("NODECERT_BENCH_ROUNDS").map_or(40, |text| text.parse().unwrap());
    let scratch = TempDir::new().unwrap();
    let (fake, bao) = (Fake::start(), Openbao::start());
    let pki = bao.pki("etcd");
    let sites = [Site::fake(&fake), Site::bao(&bao, &pki)];
    let server = Puppetserver::with(PuppetConfig::default());
    let mut scenarios = scenarios(&sites, scratch.path());
    scenarios.extend(by_puppet(&server, scratch.path()));
    let floor = Floor::new(&fake);
    let (mut pieces, mut served): (Vec<[f64; PIECES.len()]>, _) = (Vec::new(), Vec::new());
    let login = json!({ "role_id": sites[1].role_id, "secret_id": sites[1].secret_id });
    let kept = Kept::new(&bao.url(), &bao.tls_pem(), &pki.mount, login);
    for round in 0..rounds {
        let turn: Vec<_> = scenarios.iter_mut().filter(|scenario| round % scenario.every == 0).collect();
        let mut ready: Vec<_> = turn.into_iter().map(|scenario| ((scenario.prepare)(), scenario)).collect();
        let floor_at = TempDir::new_in(scratch.path()).unwrap().keep();
        // What was prepared goes to disk now, and is no part of what the next fsync waits for.
        nix::unistd::sync();
        for (command, scenario) in &mut ready {
            scenario.samples.push(sample(command, &scratch.path().join("log")));
        }
        pieces.push(floor.once(&floor_at));
        served.push(kept.once());
    }
    agents_did_their_work(scratch.path());
    let mut floor: Vec<_> = (0..PIECES.len())
        .map(|nth| (PIECES[nth], Spread::of(pieces.iter().map(|piece| piece[nth]))))
        .collect();
    floor.push((TOGETHER, Spread::of(pieces.iter().map(|piece| piece.iter().sum()))));
    let rows = scenarios.iter_mut().map(|scenario| scenario.row(scratch.path())).collect();
    // What a client of OpenBao waits for, whoever it is.
    floor.push((SERVED, Spread::of(served)));
    let (ten, binary) = (ten_at_once(&fake, &sites[0]), std::fs::metadata(binary()).unwrap().len());
    Findings { rounds, rows, floor, ten, binary }.print();
}

/// A CA, and what a host has to know of it.
struct Site {
    name: &'static str,
    url: String,
    tls: String,
    anchors: String,
    mount: String,
    role_id: String,
    secret_id: String,
    token: String,
}

impl Site {
    fn fake(fake: &Fake) -> Self {
        Self {
            name: "fake",
            url: fake.url.clone(),
            tls: fake.tls_pem(),
            anchors: fake.anchors_pem(),
            mount: MOUNT.into(),
            role_id: ROLE_ID.into(),
            secret_id: SECRET_ID.into(),
            token: TOKEN.into(),
        }
    }

    fn bao(bao: &Openbao, pki: &Pki<'_>) -> Self {
        pki.role(ROLE, &json!({ "organization": ["ops"], "key_type": "ec", "key_bits": 256 }));
        // What the agent's pkiCert calls, beside what the others call.
        let policy = ["sign", "issue"]
            .map(|call| format!("path \"{}/{call}/*\" {{\n  capabilities = [\"update\"]\n}}\n", pki.mount));
        let policy = json!({ "policy": policy.concat() });
        bao.admin(reqwest::Method::PUT, &format!("sys/policies/acl/{}", pki.policy()), &policy);
        Self {
            name: "OpenBao",
            url: bao.url(),
            tls: bao.tls_pem(),
            anchors: pki.root_pem.clone(),
            mount: pki.mount.clone(),
            role_id: pki.role_id.clone(),
            secret_id: pki.secret_id(),
            token: bao.token(&pki.policy()),
        }
    }

    /// A host that knows this CA and has nothing yet.
    fn host(&self, login: How, certificates: usize) -> Host {
        let host = Host::new();
        // Of the image: /run is in memory, and fsync(2) costs nothing there.
        std::fs::create_dir_all(host.path("/run/nodecert")).unwrap();
        host.write("/etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        host.write(TLS, &self.tls);
        host.write(ANCHORS, &self.anchors);
        let login = match login {
            How::AppRole => {
                host.write_secret(SECRET, &self.secret_id);
                Login::AppRole { role_id: self.role_id.clone(), file: SECRET }
            }
            How::Token => {
                host.write_secret(SECRET, &self.token);
                Login::Token { file: SECRET }
            }
        };
        let certificates: String = (0..certificates).map(certificate).collect();
        host.configure(&format!("{NODE}{}{certificates}", self.ca(&login)));
        host
    }

    fn ca(&self, login: &Login) -> String {
        format!(
            "[ca.etcd]\ntls.file = \"{TLS}\"\nanchors.file = \"{ANCHORS}\"\n[ca.etcd.vault]\nurls = [\"{}\"]\nmount = \"{}\"\nrole = \"{ROLE}\"\nauth = [{}]\n",
            self.url,
            self.mount,
            login.toml()
        )
    }
}

#[derive(Debug, Clone, Copy)]
enum How {
    AppRole,
    Token,
}

const NODE: &str = r#"
[node]
hostname = "node01"
domain = "example.com"
addresses = ["10.99.0.11"]
"#;

fn certificate(number: usize) -> String {
    format!(
        r#"
[certificate.web{number}]
ca = "etcd"
common_name = "{{{{ fqdn }}}}"
organization = ["ops"]
dns = ["{{{{ hostname }}}}", "{{{{ fqdn }}}}"]
ips = ["{{{{ addresses }}}}"]
usages = ["server", "client"]
ttl = "24h"
directory = "/etc/web{number}/pki"
files = {{ cert = "web.crt", key = "web.key", ca = "ca.crt" }}
owner = "web"
group = "web"
"#
    )
}

type Prepare<'a> = Box<dyn FnMut() -> Command + 'a>;

/// Something to be measured: what is made ready aside from the measurement, and the command.
struct Scenario<'a> {
    name: String,
    every: usize,
    prepare: Prepare<'a>,
    samples: Vec<Sample>,
}

/// What was measured.
struct Row {
    name: String,
    wall: Spread,
    cpu: Spread,
    resident: f64,
    own: f64,
    calls: Calls,
}

impl<'a> Scenario<'a> {
    fn new(name: impl Into<String>, every: usize, prepare: impl FnMut() -> Command + 'a) -> Self {
        Self { name: name.into(), every, prepare: Box::new(prepare), samples: Vec::new() }
    }

    fn row(&mut self, scratch: &Path) -> Row {
        let log = scratch.join("log");
        Row {
            name: self.name.clone(),
            wall: Spread::of(self.samples.iter().map(|sample| sample.wall)),
            cpu: Spread::of(self.samples.iter().map(|sample| sample.cpu)),
            resident: Spread::of((0..5).map(|_| resident(&(self.prepare)(), &log))).median,
            own: Spread::of((0..5).map(|_| own(&mut (self.prepare)(), &log))).median,
            calls: calls(&(self.prepare)(), &log),
        }
    }
}

fn scenarios<'a>(sites: &'a [Site; 2], scratch: &'a Path) -> Vec<Scenario<'a>> {
    let mut all = vec![Scenario::new("/bin/true", 1, || Command::new("/bin/true"))];
    for site in sites {
        let name = |what: &str| format!("{what}, {}", site.name);
        all.push(first(name("first issue, AppRole"), site, How::AppRole, 1));
        all.push(first(name("first issue, token"), site, How::Token, 1));
        all.push(again(name("renewal, AppRole"), site, "run --force"));
        all.push(first(name("ten certificates, AppRole"), site, How::AppRole, 10));
    }
    let fake = &sites[0];
    all.push(again("run with nothing to do".into(), fake, "run"));
    all.push(again("status".into(), fake, "status"));
    for site in sites {
        all.push(Scenario::new(format!("openssl+curl+jq, AppRole, {}", site.name), PEER, move || {
            script(site, scratch)
        }));
    }
    all.push(Scenario::new("bao agent, AppRole, OpenBao", PEER, move || agent(&sites[1], scratch)));
    let done = script(fake, scratch);
    sample(&mut { done }, &scratch.join("log"));
    let held = scratch.join("pki");
    all.push(Scenario::new("openssl -checkend and key match", PEER, move || {
        let mut check = Command::new(peer("check.sh"));
        check.arg(&held).arg("28800");
        check
    }));
    all
}

const ENROLMENT: &str = "enrolment, puppetserver";
const SAME_KEY: &str = "enrolment with RSA 4096, puppetserver";
const BOOTSTRAP: &str = "puppet ssl bootstrap, puppetserver";
const NOTHING: &str = "run with nothing to do, puppetserver";
const VERIFY: &str = "puppet ssl verify, puppetserver";

/// Enrolment with a Puppet CA that signs at once, beside puppet's own. Its agent makes an RSA key of 4096 bits
/// (it cannot make another on Debian 12), so there is a row with that key too.
fn by_puppet<'a>(server: &'a Puppetserver, scratch: &'a Path) -> Vec<Scenario<'a>> {
    let enrolment = |name: &str, key: &'static str| {
        let mut hosts = Vec::new();
        Scenario::new(name, PEER, move || {
            hosts.push(puppet_host(server, &format!("{key}-{}.example.com", hosts.len()), key));
            nodecert(hosts.last().unwrap(), "run")
        })
    };
    let host = puppet_host(server, "held.example.com", "p256");
    host.nodecert("run").exits(0);
    let own = scratch.join("puppet");
    let bootstrap = "ssl bootstrap --waitforcert 0";
    sample(&mut server.agent(&own, "agent.example.com", bootstrap), &scratch.join("log"));
    let mut agents = 0;
    vec![
        enrolment(ENROLMENT, "p256"),
        enrolment(SAME_KEY, "rsa4096"),
        Scenario::new(BOOTSTRAP, PEER, move || {
            agents += 1;
            let at = TempDir::new_in(scratch).unwrap().keep();
            server.agent(&at, &format!("agent{agents}.example.com"), bootstrap)
        }),
        Scenario::new(NOTHING, PEER, move || nodecert(&host, "run")),
        Scenario::new(VERIFY, PEER, move || server.agent(&own, "agent.example.com", "ssl verify")),
    ]
}

fn puppet_host(server: &Puppetserver, certname: &str, key: &str) -> Host {
    let host = Host::new();
    std::fs::create_dir_all(host.path("/run/nodecert")).unwrap();
    host.write("/etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    host.configure(&format!(
        r#"{NODE}
[ca.site]
tls.pins = ["{}"]
[ca.site.puppet]
url = "{}"
[certificate.web]
ca = "site"
common_name = "{certname}"
key = "{key}"
directory = "/etc/web/pki"
files = {{ cert = "web.crt", key = "web.key", ca = "ca.crt", crl = "crl.pem" }}
"#,
        server.pin(),
        server.url
    ));
    host
}

/// A new host each time.
fn first(name: String, site: &Site, how: How, certificates: usize) -> Scenario<'_> {
    let mut hosts = Vec::new();
    Scenario::new(name, 1, move || {
        hosts.push(site.host(how, certificates));
        nodecert(hosts.last().unwrap(), "run")
    })
}

/// A host that has its certificate already.
fn again(name: String, site: &Site, arguments: &'static str) -> Scenario<'static> {
    let host = site.host(How::AppRole, 1);
    host.nodecert("run").exits(0);
    Scenario::new(name, 1, move || nodecert(&host, arguments))
}

/// The binary as it is shipped.
fn binary() -> PathBuf {
    provided("NODECERT_BENCH_BINARY")
}

fn nodecert(host: &Host, arguments: &str) -> Command {
    let mut command = Command::new(binary());
    command.arg("--root").arg(host.root()).args(arguments.split_whitespace());
    command
}

fn peer(script: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(script)
}

fn script(site: &Site, scratch: &Path) -> Command {
    let at = known(site, scratch);
    let mut command = Command::new(peer("issue.sh"));
    command.arg(&site.url).arg(at.join("tls.pem")).args([&site.mount, ROLE, &site.role_id]);
    command.arg(at.join("secret")).arg(at.join("anchors.pem"));
    // One that is kept for the check, new ones from then on.
    let held = scratch.join("pki");
    command.arg(if held.exists() { at.join("pki") } else { held });
    command
}

/// What a peer has to know, as files in a new directory.
fn known(site: &Site, scratch: &Path) -> PathBuf {
    let at = TempDir::new_in(scratch).unwrap().keep();
    std::fs::write(at.join("tls.pem"), &site.tls).unwrap();
    std::fs::write(at.join("anchors.pem"), &site.anchors).unwrap();
    std::fs::write(at.join("secret"), &site.secret_id).unwrap();
    std::fs::write(at.join("role"), &site.role_id).unwrap();
    at
}

/// Logs in with AppRole, has key and certificate made by the server (`issue`), writes one file, ends.
fn agent(site: &Site, scratch: &Path) -> Command {
    let at = known(site, scratch);
    let path = |name: &str| at.join(name).to_str().unwrap().to_owned();
    let configuration = format!(
        r#"exit_after_auth = true
vault {{
  address = "{}"
  ca_cert = "{}"
}}
auto_auth {{
  method "approle" {{
    config = {{
      role_id_file_path = "{}"
      secret_id_file_path = "{}"
      remove_secret_id_file_after_reading = false
    }}
  }}
}}
template {{
  destination = "{}"
  perms = "0640"
  contents = <<EOT
{{{{ with pkiCert "{}/issue/{ROLE}" "common_name=node01.example.com" "alt_names=node01" "ip_sans=10.99.0.11" "ttl=24h" }}}}{{{{ .Cert }}}}{{{{ .CA }}}}{{{{ .Key }}}}{{{{ end }}}}
EOT
}}
"#,
        site.url,
        path("tls.pem"),
        path("role"),
        path("secret"),
        path("web.pem"),
        site.mount
    );
    std::fs::write(at.join("agent.hcl"), configuration).unwrap();
    // It would go on trying for ever.
    let mut command = Command::new("timeout");
    command.arg("60").arg(provided("NODECERT_TEST_BAO"));
    command.args(["agent", "-log-level=error", &format!("-config={}", path("agent.hcl"))]);
    command
}

/// The agent says 0 too when it has rendered nothing.
fn agents_did_their_work(scratch: &Path) {
    let at = std::fs::read_dir(scratch).unwrap().map(|entry| entry.unwrap().path());
    let agents: Vec<_> = at.filter(|at| at.join("agent.hcl").exists()).collect();
    assert!(!agents.is_empty());
    for agent in agents {
        let rendered = std::fs::read_to_string(agent.join("web.pem")).unwrap_or_default();
        assert!(rendered.contains("PRIVATE KEY"), "{}: {rendered:?}", agent.display());
    }
}

/// What ten certificates in one configuration ask of the CA.
fn ten_at_once(fake: &Fake, site: &Site) -> Value {
    let host = site.host(How::AppRole, 10);
    fake.forget();
    let before = fake.connections();
    assert!(nodecert(&host, "run").output().unwrap().status.success());
    json!({ "requests": fake.asked().len(), "connections": fake.connections() - before })
}

/// Everything that was found out.
struct Findings {
    rounds: usize,
    rows: Vec<Row>,
    /// The pieces of the floor, all of them together, and what a server takes.
    floor: Vec<(&'static str, Spread)>,
    ten: Value,
    binary: u64,
}

impl Findings {
    fn row(&self, name: &str) -> &Row {
        self.rows.iter().find(|row| row.name == name).unwrap_or_else(|| panic!("no row {name}"))
    }

    fn piece(&self, name: &str) -> f64 {
        let piece = self.floor.iter().find(|(piece, _)| *piece == name);
        piece.map(|(_, spread)| spread.median).unwrap_or_else(|| panic!("no piece {name}"))
    }

    fn wall(&self, name: &str) -> f64 {
        self.row(name).wall.median
    }

    /// How many times what nodecert takes a peer takes, of time, of the processors and of memory.
    fn beside_puppet(&self) -> Vec<(String, f64)> {
        let pairs = [(BOOTSTRAP, ENROLMENT), (BOOTSTRAP, SAME_KEY), (VERIFY, NOTHING)];
        let each = pairs.map(|(peer, own)| {
            let (theirs, ours) = (self.row(peer), self.row(own));
            [
                (format!("{peer} / {own}"), theirs.wall.median / ours.wall.median),
                (format!("{peer} / {own}: user+sys"), theirs.cpu.median / ours.cpu.median),
                (format!("{peer} / {own}: RSS"), theirs.resident / ours.resident),
                (format!("{peer} / {own}: memory of its own"), theirs.own / ours.own),
            ]
        });
        each.into_iter().flatten().collect()
    }

    fn ratios(&self) -> Vec<(String, f64)> {
        let floor = self.piece(TOGETHER) + self.wall("/bin/true");
        let own = |name| self.wall(name) - self.piece(SERVED);
        let beside_bao = ["openssl+curl+jq, AppRole, OpenBao", "bao agent, AppRole, OpenBao"].map(|peer| {
            let first = "first issue, AppRole, OpenBao";
            (format!("{peer} / {first}: without OpenBao's own"), own(peer) / own(first))
        });
        let pairs = [
            ("openssl+curl+jq, AppRole, fake", "first issue, AppRole, fake"),
            ("openssl+curl+jq, AppRole, OpenBao", "first issue, AppRole, OpenBao"),
            ("bao agent, AppRole, OpenBao", "first issue, AppRole, OpenBao"),
            ("openssl -checkend and key match", "run with nothing to do"),
            ("run with nothing to do", "/bin/true"),
            ("ten certificates, AppRole, fake", "first issue, AppRole, fake"),
        ];
        let to_floor = ["first issue, token, fake", "first issue, AppRole, fake"]
            .map(|row| (format!("{row} / floor and /bin/true"), self.wall(row) / floor));
        let others = pairs.map(|(a, b)| (format!("{a} / {b}"), self.wall(a) / self.wall(b)));
        to_floor.into_iter().chain(others).chain(beside_bao).chain(self.beside_puppet()).collect()
    }

    fn print(&self) {
        println!("\n{} rounds, peers in every {PEER}th. ms: median (p10-p90)\n", self.rounds);
        println!(
            "{:<40} {:>24} {:>24} {:>7} {:>7} {:>6} {:>6} {:>7} {:>9}",
            "", "wall", "user+sys", "RSS MB", "own MB", "calls", "fsyncs", "threads", "processes"
        );
        for Row { name, wall, cpu, resident, own, calls } in &self.rows {
            let Calls { all, fsyncs, threads, processes } = calls;
            let (wall, cpu) = (shown(*wall), shown(*cpu));
            println!(
                "{name:<40} {wall:>24} {cpu:>24} {resident:>7.1} {own:>7.1} {all:>6} {fsyncs:>6} {threads:>7} {processes:>9}"
            );
        }
        println!("\nthe floor");
        self.floor.iter().for_each(|(name, spread)| println!("{name:<40} {:>24}", shown(*spread)));
        println!();
        self.ratios().iter().for_each(|(name, ratio)| println!("{ratio:8.2}  {name}"));
        println!("\nten certificates, AppRole, fake: {}\nbinary: {} bytes\n", self.ten, self.binary);
        println!("{}", self.json());
    }

    fn json(&self) -> Value {
        let spread =
            |spread: &Spread| json!({ "p10": spread.low, "median": spread.median, "p90": spread.high });
        let row = |row: &Row| {
            json!({
                "name": row.name, "wall_ms": spread(&row.wall), "cpu_ms": spread(&row.cpu),
                "rss_mb": row.resident, "own_mb": row.own, "calls": row.calls.all, "fsyncs": row.calls.fsyncs,
                "threads": row.calls.threads, "processes": row.calls.processes,
            })
        };
        let floor = self.floor.iter().map(|(name, ms)| json!({ "name": name, "ms": spread(ms) }));
        let ratios = self.ratios().into_iter().map(|(name, ratio)| json!({ "name": name, "ratio": ratio }));
        json!({
            "rounds": self.rounds, "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "floor": floor.collect::<Vec<_>>(), "ratios": ratios.collect::<Vec<_>>(),
            "ten_certificates": self.ten, "binary_bytes": self.binary,
        })
    }
}

fn shown(spread: Spread) -> String {
    format!("{:.2} ({:.2}-{:.2})", spread.median, spread.low, spread.high)
}
