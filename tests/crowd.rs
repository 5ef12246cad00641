//! Many hosts at once and many certificates on one host, for real: processes of the release binary against
//! a real OpenBao with a rate limit, a real puppetserver, and the fake. Prints its figures; `tests/bench` runs
//! it at full size.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measurement starts processes, reads files, prints and fails aloud"
)]
#![allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]

mod bed;
mod fake;
mod measure;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bed::{Host, Login, Openbao, PuppetConfig, Puppetserver, must, provided};
use fake::{Fake, MOUNT, ROLE, ROLE_ID, SECRET_ID};
use measure::{Fared, Spread, at_once, resident, sample};
use serde_json::json;
use tempfile::TempDir;

const SECRET: &str = "/var/lib/nodecert/secrets/ca";

/// How many hosts: as `tests/bench` says, or as many as are quickly served.
fn size(variable: &str, small: usize) -> usize {
    std::env::var(variable).map_or(small, |text| text.parse().unwrap())
}

/// A login, a signature, the token given back.
const REQUESTS: usize = 3;

#[test]
#[ignore = "needs servers: run tests/all, or tests/bench for all of it"]
fn hosts_that_boot_together_are_all_served_by_openbao_within_its_rate_limit() {
    let (hosts, rate) = (size("NODECERT_STORM_VAULT", 60), size("NODECERT_STORM_RATE", 45));
    let bao = Openbao::start();
    let pki = bao.pki("etcd");
    pki.role(ROLE, &json!({ "organization": ["ops"] }));
    let login = Login::AppRole { role_id: pki.role_id.clone(), file: SECRET };
    let ca = format!(
        "tls.file = \"/etc/nodecert/tls.pem\"\nanchors.file = \"/etc/nodecert/anchors.pem\"\n[ca.site.vault]\nurls = [\"{}\"]\nmount = \"{}\"\nrole = \"{ROLE}\"\nauth = [{}]\n",
        bao.url(),
        pki.mount,
        login.toml()
    );
    let secret_id = pki.secret_id();
    let crowd: Vec<_> = (0..hosts)
        .map(|nth| {
            let host = host(&ca, &certificate(0, &format!("node{nth}.example.com")));
            host.write("/etc/nodecert/tls.pem", &bao.tls_pem());
            host.write("/etc/nodecert/anchors.pem", &pki.root_pem);
            host.write_secret(SECRET, &secret_id);
            host
        })
        .collect();
    let quota = json!({ "rate": rate, "interval": "1s" });
    let (before, worked) = (pki.signed(), bao.cpu());
    bao.admin(reqwest::Method::POST, "sys/quotas/rate-limit/storm", &quota);
    let fared = boot(&crowd);
    bao.admin(reqwest::Method::DELETE, "sys/quotas/rate-limit/storm", &json!(null));
    let (signed, worked) = (pki.signed() - before, bao.cpu() - worked);
    let ideal = (hosts * REQUESTS) as f64 / rate as f64;
    print(&format!("OpenBao, {rate} requests/s"), &fared, Some(ideal), signed, worked);
    all_are_served(&crowd, &fared);
    assert!(fared.refused > 0, "the limit was never met");
    assert!(signed * 10 <= hosts * 11, "{signed} signatures for {hosts} hosts");
}

#[test]
#[ignore = "measures: run tests/bench"]
fn hosts_that_boot_together_are_all_served_by_puppetserver() {
    let hosts = size("NODECERT_STORM_PUPPET", 8);
    let server = Puppetserver::with(PuppetConfig::default());
    let ca = format!("tls.pins = [\"{}\"]\n[ca.site.puppet]\nurl = \"{}\"\n", server.pin(), server.url);
    let name = |nth: usize| format!("node{nth}.example.com");
    let crowd: Vec<_> = (0..hosts).map(|nth| host(&ca, &certificate(0, &name(nth)))).collect();
    let worked = server.cpu();
    let fared = boot(&crowd);
    let worked = server.cpu() - worked;
    let there = |nth: &usize| !server.get(&format!("certificate/{}", name(*nth))).is_empty();
    print("puppetserver", &fared, None, (0..hosts).filter(there).count(), worked);
    all_are_served(&crowd, &fared);
}

/// One host with ever more certificates, against the fake: what each of them takes must not grow. On a disk of its
/// own, with a journal as hosts have it: ext4 without one looks, for each new file, at every inode that was freed in the
/// last minute (`recently_deleted` in fs/ext4/ialloc.c), also at those of hosts that were measured before.
#[test]
#[ignore = "measures: run tests/bench"]
fn what_a_certificate_takes_does_not_grow_with_their_number() {
    let (fake, disk) = (Fake::start(), Disk::new());
    let ca = format!(
        "tls.file = \"/etc/nodecert/tls.pem\"\nanchors.file = \"/etc/nodecert/anchors.pem\"\n[ca.site.vault]\nurls = [\"{}\"]\nmount = \"{MOUNT}\"\nrole = \"{ROLE}\"\nauth = [{{ approle = {{ role_id = \"{ROLE_ID}\", secret_id = {{ file = \"{SECRET}\" }} }} }}]\n",
        fake.url
    );
    let grown = |count: usize| {
        let certificates: String =
            (0..count).map(|nth| certificate(nth, &format!("node{nth}.example.com"))).collect();
        let host = furnished(Host::below(&disk.root()), &ca, &certificates);
        host.write("/etc/nodecert/tls.pem", &fake.tls_pem());
        host.write("/etc/nodecert/anchors.pem", &fake.anchors_pem());
        host.write_secret(SECRET, SECRET_ID);
        host
    };
    println!("\n{:>13} {:>38} {:>38} {:>38}", "", "first issue", "nothing to do", "status");
    println!(
        "{:>13} {}",
        "certificates",
        format!("{:>12} {:>16} {:>8} ", "wall ms", "user+sys ms each", "RSS MB").repeat(3)
    );
    let rows = [1, 10, 100, 1000].map(|count| {
        let taken = take(count, || grown(count));
        println!("{count:>13} {}", taken.iter().map(|taken| taken.shown(count)).collect::<String>());
        taken
    });
    let [.., hundred, thousand] = &rows;
    for ((few, many), what) in hundred.iter().zip(thousand).zip(["first issue", "nothing to do", "status"]) {
        assert!(many.cpu <= few.cpu * 15.0, "{what}: {few:?}, {many:?}");
        assert!(many.resident <= 64.0, "{what}: {many:?}");
    }
}

#[derive(Debug, Clone, Copy)]
struct Taken {
    /// Milliseconds.
    wall: f64,
    /// Milliseconds of the processors, which a busy machine does not change.
    cpu: f64,
    /// Megabytes.
    resident: f64,
}

impl Taken {
    fn by(commands: impl Iterator<Item = Command>, last: &Command) -> Self {
        let logs = TempDir::new().unwrap();
        let log = logs.path().join("log");
        let samples: Vec<_> = commands.map(|mut command| sample(&mut command, &log)).collect();
        Self {
            wall: Spread::of(samples.iter().map(|sample| sample.wall)).median,
            cpu: Spread::of(samples.iter().map(|sample| sample.cpu)).median,
            resident: resident(last, &log),
        }
    }

    fn shown(&self, count: usize) -> String {
        format!("{:>12.1} {:>16.3} {:>8.1} ", self.wall, self.cpu / count as f64, self.resident)
    }
}

/// What a first issue, a run with nothing to do and `status` take.
fn take(count: usize, make: impl Fn() -> Host) -> [Taken; 3] {
    let rounds = if count < 1000 { 5 } else { 1 };
    let hosts: Vec<_> = (0..=rounds).map(|_| make()).collect();
    let [held, others @ ..] = &hosts[..] else { unreachable!() };
    let first = Taken::by(others.iter().map(|host| nodecert(host, "run")), &nodecert(held, "run"));
    let again = |arguments: &str| {
        Taken::by((0..rounds).map(|_| nodecert(held, arguments)), &nodecert(held, arguments))
    };
    [first, again("run"), again("status")]
}

/// A new file system, for as long as it is used.
struct Disk(TempDir);

impl Disk {
    fn new() -> Self {
        let disk = Self(TempDir::new().unwrap());
        std::fs::create_dir(disk.root()).unwrap();
        let image = disk.0.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(1 << 30).unwrap();
        must(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
        must(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(disk.root()));
        disk
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("disk")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.root()).status();
    }
}

fn host(ca: &str, certificates: &str) -> Host {
    furnished(Host::new(), ca, certificates)
}

fn furnished(host: Host, ca: &str, certificates: &str) -> Host {
    host.configure(&format!(
        "[node]\nhostname = \"node01\"\ndomain = \"example.com\"\naddresses = [\"10.99.0.11\"]\n[ca.site]\n{ca}{certificates}"
    ));
    host
}

fn certificate(number: usize, name: &str) -> String {
    format!(
        "\n[certificate.web{number}]\nca = \"site\"\ncommon_name = \"{name}\"\ndirectory = \"/etc/web{number}/pki\"\n"
    )
}

fn nodecert(host: &Host, arguments: &str) -> Command {
    let mut command = Command::new(provided("NODECERT_BENCH_BINARY"));
    command.arg("--root").arg(host.root()).args(arguments.split_whitespace());
    command
}

fn boot(crowd: &[Host]) -> Fared {
    let logs = TempDir::new().unwrap();
    at_once(crowd.iter().map(|host| nodecert(host, "run --missing")).collect(), logs.path())
}

fn print(what: &str, fared: &Fared, ideal: Option<f64>, signed: usize, worked: Duration) {
    let (hosts, worked) = (fared.done.len() + fared.failed.len(), worked.as_secs_f64());
    println!("\n{hosts} hosts that boot together, {what}");
    println!("{:>8}  of them at the same moment", fared.at_once);
    println!("{:>8}  have their certificate", fared.done.len());
    let ideal = ideal.map(|ideal| format!("; {ideal:.1} s is what the limit allows")).unwrap_or_default();
    println!(
        "{:>8.1}  s until all have it (half of them: {:.1} s, 99 in 100: {:.1} s){ideal}",
        fared.at(100),
        fared.at(50),
        fared.at(99)
    );
    let each = |count: usize| count as f64 / hosts as f64;
    println!("{:>8.2}  signatures a certificate", each(signed));
    println!("{:>8.2}  requests a certificate that were refused for their rate", each(fared.refused));
    println!("{:>8.2}  requests a certificate that were made again for another reason", each(fared.retried));
    println!(
        "{:>8.0}  % of the processors' time was the server's: {worked:.1} s, and {:.1} s of all hosts, {:.1} ms each",
        100.0 * worked / (worked + fared.cpu),
        fared.cpu,
        1e3 * fared.cpu / hosts as f64
    );
}

/// Every host ended well, which it does only with a certificate that was verified, and has it.
fn all_are_served(crowd: &[Host], fared: &Fared) {
    assert!(fared.failed.is_empty(), "{} failed: {}", fared.failed.len(), fared.failed[0]);
    let without = crowd.iter().filter(|host| !host.path("/etc/web0/pki/web0.crt").exists()).count();
    assert_eq!(without, 0);
}
