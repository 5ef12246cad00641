//! Three real OpenBao nodes of one raft, ill-treated: leader killed, sealed, restarted, listener certificates
//! replaced, names that do not resolve, an answer that never comes. The certificate in force stays in force, and
//! a run that waits is done soon after a server is back.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod bed;

use bed::{Authority, Host, NAME, Openbao, Outcome, eventually, inspect};
use serde_json::json;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const SECRET: &str = "/var/lib/nodecert/secrets/etcd";
const CERT: &str = "/etc/web/pki/web.crt";

/// The longest wait between two tries of a run that met an outage of this length: six seconds, or a fifth of what it
/// has waited, and never more than half a minute. With what a busy machine adds.
fn one_interval(outage: Duration) -> Duration {
    (outage / 5).clamp(Duration::from_secs(6), Duration::from_secs(30)) + Duration::from_secs(8)
}

struct Site {
    nodes: [Openbao; 3],
    mount: String,
    role_id: String,
    secret_id: String,
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_ca_of_three_nodes_is_ill_treated_and_every_run_ends_right() {
    let mut site = Site::new();
    let urls: Vec<_> = site.nodes.iter().map(Openbao::url).collect();
    let host = site.host(&urls);
    host.nodecert("run").exits(0);

    site.the_leader_is_killed(&host);
    site.all_are_sealed(&host);
    site.the_certificate_of_the_listeners_is_replaced(&host);
    site.another_authority_is_not_believed(&host);
    site.an_answer_is_lost();
    site.names_do_not_resolve();
}

impl Site {
    fn new() -> Self {
        let nodes = Openbao::raft();
        let pki = nodes[0].pki("etcd");
        pki.role("member", &json!({"organization": ["ops"]}));
        let (mount, role_id, secret_id) = (pki.mount.clone(), pki.role_id.clone(), pki.secret_id());
        Self { nodes, mount, role_id, secret_id }
    }

    fn host(&self, urls: &[String]) -> Host {
        let host = Host::new();
        host.write("/etc/nodecert/vault-ca.pem", &self.nodes[0].tls_pem());
        host.write_secret(SECRET, &self.secret_id);
        host.configure(&format!(
            r#"
[node]
hostname = "node01"
addresses = ["10.99.0.11"]
[ca.etcd]
tls.file = "/etc/nodecert/vault-ca.pem"
anchors.published = true
[ca.etcd.vault]
urls = {urls:?}
mount = "{}"
role = "member"
auth = [{{ approle = {{ role_id = "{}", secret_id = {{ file = "{SECRET}" }} }} }}]
[certificate.web]
ca = "etcd"
common_name = "node01"
organization = ["ops"]
dns = ["node01"]
ips = ["10.99.0.11"]
directory = "/etc/web/pki"
"#,
            self.mount, self.role_id
        ));
        host
    }

    fn leader(&self) -> usize {
        eventually("a leader", || self.nodes.iter().position(Openbao::is_active).ok_or_else(String::new))
    }

    fn the_leader_is_killed(&mut self, host: &Host) {
        let leader = self.leader();
        self.nodes[leader].stop();
        let took = new_certificate(host, || {
            self.leader();
        });
        eprintln!("leader killed: done {took:?} after the next one was elected");
        self.nodes[leader].restart();
        self.nodes[leader].unseal_one_of_three();
        host.nodecert("run --force").exits(0);
    }

    fn all_are_sealed(&self, host: &Host) {
        self.seal_all();
        let before = inspect(&host.path(CERT)).fingerprint;
        host.nodecert("run --force --deadline 1s").exits(75).says("sealed");
        assert_eq!(inspect(&host.path(CERT)).fingerprint, before);
        let took = new_certificate(host, || self.unsealed_after(Duration::from_secs(3)));
        eprintln!("all sealed: done {took:?} after they were unsealed");
    }

    /// By an operator, while a run waits.
    fn the_certificate_of_the_listeners_is_replaced(&self, host: &Host) {
        self.seal_all();
        let took = new_certificate(host, || {
            self.nodes.iter().for_each(|node| node.show(node.authority()));
            self.unsealed_after(Duration::from_secs(2));
        });
        eprintln!("certificates replaced: done {took:?} after the servers were back");
    }

    fn another_authority_is_not_believed(&self, host: &Host) {
        let stranger = Authority::new("stranger");
        self.nodes.iter().for_each(|node| node.show(&stranger));
        eventually("the stranger's certificate", || match self.nodes.iter().any(Openbao::is_active) {
            true => Err("the old one is shown".to_owned()),
            false => Ok(()),
        });
        let before = inspect(&host.path(CERT)).fingerprint;
        host.nodecert("run --force").exits(77).says("sha256:");
        assert_eq!(inspect(&host.path(CERT)).fingerprint, before);
        self.nodes.iter().for_each(|node| node.show(node.authority()));
        self.leader();
        host.nodecert("run --force").exits(0);
    }

    /// After the request was sent: what is lost is one certificate that no one has, and that is said.
    fn an_answer_is_lost(&self) {
        let leader = &self.nodes[self.leader()];
        let proxy = Proxy::start(leader.port());
        let host = self.host(std::slice::from_ref(&proxy.url));
        let before = leader.certificates(&self.mount);
        host.nodecert("run")
            .exits(0)
            .says("perhaps it was done all the same")
            .keeps_secret(&[&self.secret_id]);
        assert_eq!(proxy.cuts.load(Ordering::SeqCst), 1, "the connection was cut");
        let signed = leader.certificates(&self.mount) - before;
        assert_eq!(signed, 2, "one in force, one that no one has");
    }

    /// No resolver answers, and then /etc/hosts has the name: in a mount namespace of the run's own.
    fn names_do_not_resolve(&self) {
        let port = self.nodes[self.leader()].port();
        let host = self.host(&[format!("https://{NAME}:{port}")]);
        host.write("/hosts", "127.0.0.1 localhost\n");
        // Nothing listens there.
        host.write("/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");
        let run = |deadline: &str| {
            let script = "mount --bind $0/hosts /etc/hosts && mount --bind $0/resolv.conf /etc/resolv.conf && exec \"$@\"";
            let mut command = Command::new("timeout");
            command.args(["--signal=KILL", "120", "unshare", "--mount", "sh", "-c", script]).arg(host.root());
            command.arg(env!("CARGO_BIN_EXE_nodecert")).arg("--root").arg(host.root());
            command.args(["run", "--deadline", deadline]).stdin(Stdio::null());
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).env("NO_COLOR", "1").spawn().unwrap()
        };
        Outcome::wait(run("1s")).exits(75).says("cannot connect").says(NAME);
        let waiting = run("60s");
        thread::sleep(Duration::from_secs(2));
        host.write("/hosts", &format!("127.0.0.1 localhost {NAME}\n"));
        let back = Instant::now();
        Outcome::wait(waiting).exits(0);
        let took = back.elapsed();
        eprintln!("names gone: done {took:?} after they were back");
        assert!(took < one_interval(Duration::from_secs(3)), "{took:?}");
    }

    /// Two of them; the third cannot lead alone, nor be sealed by its API.
    fn seal_all(&self) {
        for _ in 0..2 {
            self.nodes[self.leader()].seal();
        }
        eventually("no leader", || match self.nodes.iter().any(Openbao::is_active) {
            true => Err("there is one".to_owned()),
            false => Ok(()),
        });
    }

    fn unsealed_after(&self, time: Duration) {
        thread::sleep(time);
        let sealed = self.nodes.iter().filter(|node| node.is_sealed());
        sealed.for_each(Openbao::unseal_one_of_three);
        self.leader();
    }
}

/// A forced run begins, an outage is ended, and the run with it. How long after. What counts is the outage as the run
/// met it: three nodes that are unsealed take seconds of their own to choose a leader.
fn new_certificate(host: &Host, end: impl FnOnce()) -> Duration {
    let before = inspect(&host.path(CERT)).fingerprint;
    let run = host.start_nodecert("run --force --deadline 90s");
    let began = Instant::now();
    end();
    let (outage, back) = (began.elapsed(), Instant::now());
    Outcome::wait(run).exits(0);
    let took = back.elapsed();
    assert_ne!(inspect(&host.path(CERT)).fingerprint, before);
    assert!(took < one_interval(outage), "{took:?} after an outage of {outage:?}");
    took
}

/// Passes everything on but the answer to the first long request, which is the one that holds a CSR.
struct Proxy {
    url: String,
    cuts: Arc<AtomicUsize>,
}

impl Proxy {
    fn start(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let cuts = Arc::new(AtomicUsize::new(0));
        let count = cuts.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten().take(16) {
                let count = count.clone();
                thread::spawn(move || pass(client, TcpStream::connect(("127.0.0.1", port))?, &count));
            }
        });
        Self { url, cuts }
    }
}

fn pass(mut client: TcpStream, mut server: TcpStream, cuts: &AtomicUsize) -> io::Result<()> {
    let (mut from, mut to) = (server.try_clone()?, client.try_clone()?);
    let cutting = Arc::new(AtomicUsize::new(0));
    let cut = cutting.clone();
    thread::spawn(move || {
        let mut part = [0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut part) {
            if cut.load(Ordering::SeqCst) == 1 {
                // It has answered.
                let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
                return;
            }
            if to.write_all(&part[..length]).is_err() {
                return;
            }
        }
    });
    // RFC 8446 section 5.1: type, version, length; 23 is application data.
    let mut head = [0; 5];
    loop {
        client.read_exact(&mut head)?;
        let mut body = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        client.read_exact(&mut body)?;
        if head[0] == 23 && body.len() > 700 && cuts.load(Ordering::SeqCst) == 0 {
            cuts.store(1, Ordering::SeqCst);
            cutting.store(1, Ordering::SeqCst);
        }
        server.write_all(&[&head[..], &body].concat())?;
    }
}
