//! The hosts of one etcd cluster, each with a supervisor that does for its member what systemd would, so that
//! nodecert can run as on a live host: below no `--root`, with hooks that reach the member.
//!
//! `systemctl` is a script of the bed, mounted over /usr/local/sbin: it asks the supervisor, a thread of the
//! test, which ends the member by PID and starts it again. Before each restart the supervisor looks whether
//! all the other members are healthy, and keeps a complaint if one is not.

use super::etcd::{Etcd, EtcdRelease, Member, inside};
use super::gate::Gate;
use super::host::{Host, Outcome};
use super::lan::Lan;
use super::process::{Daemon, Ended, ended};
use super::{PATIENCE, eventually, must};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What systemd's `systemctl` would do, as far as nodecert asks it.
const SYSTEMCTL: &str = r#"#!/bin/sh
case "$*" in
*" show "*) if [ -e /run/bed/running ]; then echo SubState=running; else echo SubState=dead; fi ;;
*" try-restart etcd.service")
    [ -e /run/bed/running ] || exit 0
    echo restart >/run/bed/asked.new
    mv /run/bed/asked.new /run/bed/asked
    i=0
    while [ -e /run/bed/asked ]; do
        i=$((i + 1))
        [ $i -lt 1200 ] || exit 1
        sleep 0.05
    done ;;
*daemon-reload) ;;
*) exit 1 ;;
esac
"#;

/// Writes one key after the other, and says when each was taken.
const WRITER: &str = r#"
export ETCDCTL_API=3
n=0
while [ ! -e /run/bed/enough ]; do
    if out=$(/opt/etcd/etcdctl --command-timeout=3s $(cat /run/bed/flags) put "writer/$n" "$n" 2>&1); then
        echo "ok $EPOCHREALTIME"
        n=$((n + 1))
    else
        echo "no $EPOCHREALTIME" $out
    fi
    sleep 0.1
done
echo enough
"#;

/// Longer than an election and a client's own time-out, on a machine with much else to do.
const GAP: f64 = 10.0;

/// Hosts with a member each. Everything ends when it is dropped.
pub(crate) struct Fleet {
    inner: Arc<Inner>,
    supervisors: Vec<JoinHandle<()>>,
    gates: Vec<Gate>,
}

struct Inner {
    release: EtcdRelease,
    addresses: Vec<String>,
    lan: Lan,
    hosts: Vec<Host>,
    restarts: Vec<AtomicUsize>,
    complaints: Mutex<Vec<String>>,
    over: AtomicBool,
}

impl Fleet {
    /// Hosts with nothing on them but etcd's package, which reach the server at `port` of the test's own
    /// loopback at the same port of theirs.
    pub(crate) fn new(release: EtcdRelease, addresses: &[&str], port: u16) -> Self {
        let inner = Arc::new(Inner {
            release,
            addresses: addresses.iter().map(|&address| address.to_owned()).collect(),
            lan: Lan::of(addresses),
            hosts: addresses.iter().map(|_| Host::new()).collect(),
            restarts: addresses.iter().map(|_| AtomicUsize::new(0)).collect(),
            complaints: Mutex::default(),
            over: AtomicBool::new(false),
        });
        let server = SocketAddr::from(([127, 0, 0, 1], port));
        let gates = (0..addresses.len()).map(|nth| Gate::new(inner.lan.host(nth), server, server)).collect();
        (0..addresses.len()).for_each(|nth| inner.furnish(nth));
        let supervise = |nth| {
            let inner = inner.clone();
            std::thread::spawn(move || inner.supervise(nth))
        };
        let supervisors = (0..addresses.len()).map(supervise).collect();
        Self { inner, supervisors, gates }
    }

    pub(crate) fn host(&self, nth: usize) -> &Host {
        &self.inner.hosts[nth]
    }

    pub(crate) fn address(&self, nth: usize) -> &str {
        &self.inner.addresses[nth]
    }

    pub(crate) fn all(&self) -> std::ops::Range<usize> {
        0..self.inner.hosts.len()
    }

    /// `nodecert ARGUMENTS` on a host, to its end.
    pub(crate) fn nodecert(&self, nth: usize, arguments: &str) -> Outcome {
        Outcome::wait(self.start_nodecert(nth, arguments))
    }

    pub(crate) fn start_nodecert(&self, nth: usize, arguments: &str) -> Child {
        let mut command = self.inner.nodecert(nth);
        command.args(arguments.split_whitespace());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// `nodecert run` on every host, all started at once, again and again until none has anything left.
    pub(crate) fn run_together(&self) {
        for _ in 0..4 {
            let runs: Vec<_> = self.all().map(|nth| self.start_nodecert(nth, "run")).collect();
            let codes: Vec<_> = runs.into_iter().map(|run| Outcome::wait(run).is_one_of(&[0, 75])).collect();
            if codes.iter().all(|code| *code == 0) {
                return;
            }
        }
        panic!("four runs were not enough on {:?}", self.inner.addresses);
    }

    /// Starts or stops a member, as an operator by systemctl.
    pub(crate) fn order(&self, nth: usize, what: &str) {
        self.host(nth).write("/run/bed/asked.new", what);
        let asked = self.host(nth).path("/run/bed/asked");
        std::fs::rename(self.host(nth).path("/run/bed/asked.new"), &asked).unwrap();
        eventually("an order that is carried out", || match asked.exists() {
            true => Err(what.to_owned()),
            false => Ok(()),
        });
    }

    /// The host is lost, and another takes its name and address: nothing is on it but etcd's package.
    pub(crate) fn replace(&self, nth: usize) {
        let host = self.host(nth);
        for directory in ["etc/etcd", "etc/nodecert", "etc/systemd", "var/lib/etcd", "var/lib/nodecert"] {
            std::fs::remove_dir_all(host.path(directory)).unwrap();
        }
        self.inner.furnish(nth);
    }

    pub(crate) fn restarts(&self) -> Vec<usize> {
        self.inner.restarts.iter().map(|restarts| restarts.load(Ordering::SeqCst)).collect()
    }

    /// Waits until every member says that it is healthy.
    pub(crate) fn settles(&self) {
        for nth in self.all() {
            eventually("a healthy member", || self.inner.well(nth, nth));
        }
    }

    /// No member was restarted while another was away.
    pub(crate) fn never_two_were_away(&self) {
        assert_eq!(*self.inner.complaints.lock().unwrap(), Vec::<String>::new());
    }

    /// How much each member has said so far.
    pub(crate) fn mark(&self) -> Vec<usize> {
        self.all().map(|nth| self.inner.log(nth).len()).collect()
    }

    /// From the mark on no member turned another or a client away. A client that goes while it dials a second
    /// member, as etcdctl does, is no such: the member says EOF or that the client has reset the connection.
    pub(crate) fn no_connection_was_refused_since(&self, mark: &[usize]) {
        for nth in self.all() {
            let log = self.inner.log(nth);
            for words in ["rejected connection", "remote error: tls", "x509:", "bad certificate"] {
                let gone = [r#""error":"EOF""#, "connection reset by peer"];
                let mut lines =
                    log[mark[nth]..].lines().filter(|line| !gone.iter().any(|gone| line.contains(gone)));
                let line = lines.find(|line| line.contains(words));
                assert_eq!(line, None, "member {nth}");
            }
        }
    }

    /// `etcdctl ARGUMENTS` on a host.
    pub(crate) fn etcdctl(&self, nth: usize, arguments: &str) -> String {
        must(&mut self.inner.etcd(nth).etcdctl(arguments))
    }

    /// The same, whether it ends well or not.
    pub(crate) fn etcdctl_ends(&self, nth: usize, arguments: &str) -> Ended {
        ended(&mut self.inner.etcd(nth).etcdctl(arguments))
    }

    /// Flags of etcdctl for all members.
    pub(crate) fn flags(&self, scheme: &str) -> String {
        self.flags_for(scheme, self.all())
    }

    pub(crate) fn flags_for(&self, scheme: &str, members: impl Iterator<Item = usize>) -> String {
        let urls: Vec<_> = members.map(|nth| format!("{scheme}://{}:2379", self.address(nth))).collect();
        let mut flags = format!("--endpoints={}", urls.join(","));
        if scheme == "https" {
            for (flag, file) in [("cacert", "ca.crt"), ("cert", "server.crt"), ("key", "server.key")] {
                write!(flags, " --{flag}=/etc/etcd/pki/{file}").unwrap();
            }
        }
        flags
    }

    /// A client on the first host that writes without a pause.
    pub(crate) fn write(&self, flags: &str) -> Writer<'_> {
        let writer = Writer { fleet: self, daemon: None };
        writer.turn_to(flags);
        Writer { daemon: Some(self.inner.etcd(0).shell(WRITER, "/writer.log")), ..writer }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.inner.over.store(true, Ordering::SeqCst);
        for supervisor in self.supervisors.drain(..) {
            // One that panicked has said so.
            let _ = supervisor.join();
        }
    }
}

/// A client that writes keys, one after the other.
pub(crate) struct Writer<'a> {
    fleet: &'a Fleet,
    daemon: Option<Daemon>,
}

impl Writer<'_> {
    /// From now on it connects with these flags.
    pub(crate) fn turn_to(&self, flags: &str) {
        let host = self.fleet.host(0);
        host.write("/run/bed/flags.new", flags);
        std::fs::rename(host.path("/run/bed/flags.new"), host.path("/run/bed/flags")).unwrap();
    }

    /// How many keys were taken so far.
    pub(crate) fn count(&self) -> usize {
        self.log().lines().filter(|line| line.starts_with("ok ")).count()
    }

    /// Waits until it has written some more.
    pub(crate) fn goes_on(&self) {
        let before = self.count();
        eventually("a client that writes", || match self.count() > before + 5 {
            true => Ok(()),
            false => Err(self.log().lines().rev().take(3).collect()),
        });
    }

    /// Ends it. Every key that was taken is there, through each member, and it never had to wait for longer
    /// than an election.
    #[allow(clippy::print_stderr, reason = "the figures of a test")]
    pub(crate) fn lost_nothing(self, flags: &str) {
        let host = self.fleet.host(0);
        host.write("/run/bed/enough", "");
        eventually("the writer's end", || {
            let log = self.log();
            if log.ends_with("enough\n") { Ok(()) } else { Err("it writes".to_owned()) }
        });
        std::fs::remove_file(host.path("/run/bed/enough")).unwrap();
        let log = self.log();
        let times = log.lines().filter_map(|line| line.strip_prefix("ok ")?.parse::<f64>().ok());
        let times: Vec<_> = times.collect();
        let gap = times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        let failed: Vec<_> = log.lines().filter(|line| line.starts_with("no ")).collect();
        eprintln!("{} keys written, {} attempts failed, longest gap {gap:.2} s", times.len(), failed.len());
        assert!(times.len() > 20, "{log}");
        assert!(gap < GAP, "no key was taken for {gap} s:\n{}", failed.join("\n"));
        let wanted: Vec<_> = (0..times.len()).map(|n| n.to_string()).collect();
        for nth in self.fleet.all() {
            let single =
                self.fleet.flags_for(if flags.contains("https") { "https" } else { "http" }, nth..=nth);
            let there = self.fleet.etcdctl(0, &format!("{single} get writer/ --prefix --print-value-only"));
            let mut there: Vec<_> = there.split_whitespace().map(str::to_owned).collect();
            there.sort_by_key(|text| text.parse::<usize>().unwrap());
            // The last one may have been taken without the client's hearing of it.
            assert_eq!(there[..wanted.len().min(there.len())], wanted, "through member {nth}");
        }
    }

    fn log(&self) -> String {
        self.daemon.as_ref().map(Daemon::log).unwrap_or_default()
    }
}

impl Inner {
    fn etcd(&self, nth: usize) -> Etcd<'_> {
        Etcd { host: &self.hosts[nth], netns: self.lan.host(nth), release: &self.release }
    }

    fn furnish(&self, nth: usize) {
        self.etcd(nth).install();
        let host = &self.hosts[nth];
        for directory in ["run/systemd/system", "run/bed", "usr/local/sbin", "var/lib/nodecert/secrets"] {
            std::fs::create_dir_all(host.path(directory)).unwrap();
        }
        std::fs::set_permissions(host.path("var/lib/nodecert"), PermissionsExt::from_mode(0o700)).unwrap();
        host.write("/opt/bed/systemctl", SYSTEMCTL);
        std::fs::set_permissions(host.path("/opt/bed/systemctl"), PermissionsExt::from_mode(0o755)).unwrap();
    }

    fn nodecert(&self, nth: usize) -> Command {
        let program = Path::new(env!("CARGO_BIN_EXE_nodecert"));
        let wrapper = r#"sh -euc 'mount --bind /opt/bed /usr/local/sbin; exec "$@"' sh timeout --signal=KILL 300 /opt/nodecert/nodecert"#;
        let place = "opt/nodecert";
        let mut command =
            inside(&self.hosts[nth], self.lan.host(nth), program.parent().unwrap(), place, wrapper);
        for variable in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "JOURNAL_STREAM", "NOTIFY_SOCKET"] {
            command.env_remove(variable);
        }
        command.env("NO_COLOR", "1");
        command
    }

    fn supervise(&self, nth: usize) {
        let host = &self.hosts[nth];
        let (asked, running) = (host.path("/run/bed/asked"), host.path("/run/bed/running"));
        let mut member: Option<Member> = None;
        let mut starts = 0;
        while !self.over.load(Ordering::SeqCst) {
            if let Ok(order) = std::fs::read_to_string(&asked) {
                if order.trim() == "restart" {
                    self.restarts[nth].fetch_add(1, Ordering::SeqCst);
                    self.complain_of_the_others(nth);
                }
                if let Some(mut member) = member.take() {
                    member.end();
                    std::fs::remove_file(&running).unwrap();
                }
                if order.trim() != "stop" {
                    starts += 1;
                    member = Some(self.etcd(nth).start_as_unit(&format!("/etcd.{starts}.log")));
                    std::fs::write(&running, "").unwrap();
                }
                std::fs::remove_file(&asked).unwrap();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn complain_of_the_others(&self, nth: usize) {
        for other in (0..self.hosts.len()).filter(|other| *other != nth) {
            // A client of a busy machine may need a second look; a member that is away is so for longer.
            if let Err(why) = self.well(nth, other).or_else(|_| self.well(nth, other)) {
                let complaint = format!("{nth} is restarted while {other} is not healthy: {why}");
                self.complaints.lock().unwrap().push(complaint);
            }
        }
    }

    fn well(&self, from: usize, to: usize) -> Result<(), String> {
        let own = |file: &str| self.hosts[from].path(&format!("/etc/etcd/pki/{file}"));
        let mut said = Vec::new();
        for scheme in ["https", "http"] {
            let mut curl = self.lan.host(from).command("curl");
            curl.args([
                "--http1.1",
                "--silent",
                "--show-error",
                "--fail",
                "--noproxy",
                "*",
                "--max-time",
                "3",
            ]);
            if scheme == "https" {
                curl.arg("--cacert").arg(own("ca.crt")).arg("--cert").arg(own("server.crt"));
                curl.arg("--key").arg(own("server.key"));
            }
            let ended = ended(curl.arg(format!("{scheme}://{}:2379/health", self.addresses[to])));
            if ended.stdout.contains("\"health\":\"true\"") {
                return Ok(());
            }
            said.push(format!("{scheme}: {} {}", ended.stdout, ended.stderr));
        }
        Err(said.join("; "))
    }

    /// Everything that a member has said, over all its starts.
    fn log(&self, nth: usize) -> String {
        let logs = (1..).map(|start| self.hosts[nth].path(&format!("/etcd.{start}.log")));
        let texts = logs.map_while(|log| std::fs::read(log).ok());
        texts.map(|text| String::from_utf8_lossy(&text).into_owned()).collect()
    }
}
