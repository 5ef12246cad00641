//! A real puppetserver with its CA, from Debian's package, run from a directory of its own. It takes
//! seconds to start, so one of each release serves all the tests of a process: tests that want the same
//! configuration share it, and between configurations it is told to read them again (SIGHUP).

use super::process::{Daemon, ended, must};
use super::{eventually, free_port, provided};
use std::collections::VecDeque;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{ThreadId, current};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What its CA does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PuppetConfig {
    pub(crate) release: PuppetRelease,
    pub(crate) autosign: Autosign,
    /// `allow-subject-alt-names`
    pub(crate) names: bool,
    /// Whether and for whom it renews; release 8 alone can.
    pub(crate) renewal: Renewal,
    /// Whether it is for one test at a time.
    pub(crate) alone: bool,
}

impl Default for PuppetConfig {
    fn default() -> Self {
        Self {
            release: PuppetRelease::V7,
            autosign: Autosign::Everything,
            names: true,
            renewal: Renewal::On,
            alone: false,
        }
    }
}

/// Whether a certificate is renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewal {
    On,
    /// `allow-auto-renewal: false`, as it is by default.
    Off,
    /// It is on, and the server asks for no client certificate (`client-auth: none`), as behind something
    /// that ends TLS.
    Unseen,
}

/// A release of puppetserver, and what it is found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PuppetRelease {
    /// Debian 12's package, installed here. It renews nothing.
    V7,
    /// That of Debian 13, in a directory of its own that it takes for `/`.
    V8,
}

impl PuppetRelease {
    /// Its root directory.
    fn root(self) -> PathBuf {
        match self {
            Self::V7 => "/".into(),
            Self::V8 => provided("NODECERT_TEST_PUPPET_8"),
        }
    }
}

/// `autosign`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Autosign {
    Everything,
    Nothing,
    /// What this policy script says yes to; `$0.password` holds [`PASSWORD`].
    Policy(&'static str),
}

/// What the administrator has told the hosts.
pub(crate) const PASSWORD: &str = "sesame";

struct Server {
    daemon: Daemon,
    directory: TempDir,
    port: u16,
}

/// Whose turn it is at the server of a release.
struct Turn {
    server: Option<Server>,
    config: Option<PuppetConfig>,
    users: usize,
    /// Who waits for another configuration, in the order in which they came.
    queue: VecDeque<ThreadId>,
}

impl Turn {
    const fn new() -> Self {
        Self { server: None, config: None, users: 0, queue: VecDeque::new() }
    }

    fn lock(release: PuppetRelease) -> MutexGuard<'static, Self> {
        TURNS[release as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the server can be had as `config` now, by who is first in the queue or needs no change.
    fn is_for(&self, config: PuppetConfig) -> bool {
        let is_first = self.queue.front() == Some(&current().id());
        self.users == 0 && is_first || self.config == Some(config) && !config.alone
    }
}

static TURNS: [Mutex<Turn>; 2] = [Mutex::new(Turn::new()), Mutex::new(Turn::new())];
static NEXT: [Condvar; 2] = [Condvar::new(), Condvar::new()];
/// 16 s on two idle cores, and minutes on busy ones.
const START: Duration = Duration::from_secs(600);
const STARTED: &str = "Puppet Server has successfully started";

/// The right to the server under one configuration; given back when dropped.
pub(crate) struct Puppetserver {
    pub(crate) url: String,
    release: PuppetRelease,
    directory: PathBuf,
}

impl Puppetserver {
    /// Waits until the server is free, or runs as `config` already.
    pub(crate) fn with(config: PuppetConfig) -> Self {
        let mut turn = Turn::lock(config.release);
        turn.queue.push_back(current().id());
        while !turn.is_for(config) {
            turn = NEXT[config.release as usize].wait(turn).unwrap_or_else(PoisonError::into_inner);
        }
        turn.queue.retain(|&waiting| waiting != current().id());
        let as_it_is = turn.config.map(|there| PuppetConfig { alone: config.alone, ..there });
        match &mut turn.server {
            Some(_) if as_it_is == Some(config) => {}
            Some(server) => server.reload(config),
            None => turn.server = Some(Server::start(config)),
        }
        turn.config = Some(config);
        turn.users += 1;
        // Others may have waited for the same.
        NEXT[config.release as usize].notify_all();
        let server = turn.server.as_ref().unwrap();
        Self {
            url: format!("https://127.0.0.1:{}", server.port),
            release: config.release,
            directory: server.directory.path().to_owned(),
        }
    }

    /// Reads its configuration again, as a restart does: for a while nothing answers.
    pub(crate) fn restart(&self) {
        let mut turn = Turn::lock(self.release);
        let config = turn.config.unwrap();
        turn.server.as_mut().unwrap().reload(config);
    }

    /// Root, then intermediate: the CA's own certificates.
    pub(crate) fn ca_pem(&self) -> String {
        std::fs::read_to_string(self.directory.join("etc/ca/ca_crt.pem")).unwrap()
    }

    /// The fingerprint of the root, as a pin is written.
    pub(crate) fn pin(&self) -> String {
        format!("sha256:{}", fingerprint(&self.root_pem()))
    }

    pub(crate) fn root_pem(&self) -> String {
        let bundle = self.ca_pem();
        let last = bundle.rfind("-----BEGIN CERTIFICATE-----").unwrap();
        bundle[last..].to_owned()
    }

    /// Signs the stored request of a name, or revokes its certificate: `signed`, `revoked`.
    pub(crate) fn set(&self, certname: &str, state: &str) {
        let body = format!("{{\"desired_state\":\"{state}\"}}");
        self.admin(&["-X", "PUT", "-H", "Content-Type: application/json", "-d", &body], certname);
    }

    /// What `puppetserver ca clean` does: frees a name. A certificate is revoked first.
    pub(crate) fn clean(&self, certname: &str) {
        if !self.get(&format!("certificate/{certname}")).is_empty() {
            self.set(certname, "revoked");
        }
        self.admin(&["-X", "DELETE"], certname);
    }

    /// `puppetserver ca …`, as its operator runs it; its words. Of release 7 only.
    pub(crate) fn operator(&self, command: &str) -> String {
        let mut words = Command::new("sh");
        words.args([
            "-euc",
            &format!("{command} --config {}", self.directory.join("etc/puppet.conf").display()),
        ]);
        let ended = ended(&mut words);
        // 24: there was no certificate to revoke beside the request that was removed.
        assert!(matches!(ended.status.code(), Some(0 | 24)), "{command}: {ended:?}");
        ended.stdout
    }

    /// The stored request of a name, once it is there.
    pub(crate) fn stored(&self, certname: &str) -> String {
        let path = format!("certificate_request/{certname}");
        eventually("a request at the CA", || {
            Some(self.get(&path)).filter(|r| !r.is_empty()).ok_or("none".into())
        })
    }

    /// What stands at a path that needs no login; empty if nothing does.
    pub(crate) fn get(&self, path: &str) -> String {
        let ended = ended(self.curl(&["--fail"]).arg(format!("{}/puppet-ca/v1/{path}", self.url)));
        if ended.status.success() { ended.stdout } else { String::new() }
    }

    /// `puppet ACTION` of an agent of this server, whose files lie in `directory`.
    pub(crate) fn agent(&self, directory: &Path, certname: &str, action: &str) -> Command {
        let port = self.url.rsplit(':').next().unwrap();
        let mut command = Command::new("puppet");
        command.args(action.split(' ')).args(["--certname", certname, "--http_keepalive_timeout", "0"]);
        command.args(["--server", "127.0.0.1", "--serverport", port]);
        command.args(["--ca_server", "127.0.0.1", "--ca_port", port]);
        for (setting, below) in [("confdir", ""), ("vardir", "var"), ("ssldir", "ssl")] {
            command.arg(format!("--{setting}")).arg(directory.join(below));
        }
        command
    }

    /// User and system time of the server so far.
    pub(crate) fn cpu(&self) -> Duration {
        Turn::lock(self.release).server.as_ref().unwrap().daemon.cpu()
    }

    fn admin(&self, arguments: &[&str], certname: &str) {
        let ssl = self.directory.join("etc/ssl");
        let mut command = self.curl(&["--fail-with-body", "--cert"]);
        command.arg(ssl.join("certs/puppet.example.com.pem")).arg("--key");
        command.arg(ssl.join("private_keys/puppet.example.com.pem")).args(arguments);
        must(command.arg(format!("{}/puppet-ca/v1/certificate_status/{certname}", self.url)));
    }

    fn curl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "30", "--noproxy", "*", "--cacert"]);
        command.arg(self.directory.join("etc/ca/ca_crt.pem")).args(arguments);
        command
    }
}

impl Drop for Puppetserver {
    fn drop(&mut self) {
        Turn::lock(self.release).users -= 1;
        NEXT[self.release as usize].notify_all();
    }
}

impl Server {
    fn start(config: PuppetConfig) -> Self {
        let system = config.release.root();
        let directory = TempDir::new_in(system.join("tmp")).unwrap();
        let root = directory.path().to_owned();
        let port = free_port();
        install(&root, &system);
        configure(&root, config, port);
        let conf = inside(&root, &system).join("etc/puppet.conf");
        must(&mut enter(&system, &["puppetserver", "ca", "setup", "--config", conf.to_str().unwrap()]));
        let mut server = Self { daemon: serve(root, system), directory, port };
        server.is_up(1);
        server
    }

    fn reload(&mut self, config: PuppetConfig) {
        let before = self.starts();
        configure(self.directory.path(), config, self.port);
        must(Command::new("kill").args(["-HUP", &self.daemon.pid().to_string()]));
        self.is_up(before + 1);
    }

    fn is_up(&mut self, starts: usize) {
        let began = Instant::now();
        while self.starts() < starts {
            self.daemon.must_live();
            assert!(began.elapsed() < START, "puppetserver: not within {START:?}: {}", self.daemon.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn starts(&self) -> usize {
        self.daemon.log().matches(STARTED).count()
    }
}

/// Starts the server from a thread that lives as long as the process: a test's own thread ends with it,
/// and would take the server along.
fn serve(root: PathBuf, system: PathBuf) -> Daemon {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let argv = argv(&inside(&root, &system));
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let wrapper = enter(&system, &[]);
        sender.send(Daemon::start(Some(wrapper), &argv, &root.join("log"))).unwrap();
        loop {
            std::thread::park();
        }
    });
    receiver.recv().unwrap()
}

/// A command in a root directory, to which `argv` may be appended. Each step execs the next, and the mounts
/// end with it. Who is run by nohup ignores SIGHUP, and what it starts does: the server would not be reloaded.
fn enter(system: &Path, argv: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-euc", ENTER, "enter"]);
    command.arg(system).args(argv);
    command
}

const ENTER: &str = r#"root=$1; shift
[ "$root" = / ] || for tree in proc dev; do mount --rbind "/$tree" "$root/$tree"; done
exec env --default-signal=HUP chroot "$root" "$@""#;

/// A path as the server sees it.
fn inside(path: &Path, system: &Path) -> PathBuf {
    Path::new("/").join(path.strip_prefix(system).unwrap())
}

/// Without the flags for the compiler a start takes three times as long.
fn argv(root: &Path) -> Vec<String> {
    let share = "/usr/share/puppetserver";
    let at = |name: &str| root.join(name).display().to_string();
    [
        "env",
        "-C",
        share,
        "java",
        "-Xms512m",
        "-Xmx512m",
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        "-Djruby.logger.class=com.puppetlabs.jruby_utils.jruby.Slf4jLogger",
        "-Djruby.lib=/usr/share/jruby/lib",
        "-jar",
        "puppetserver.jar",
        "--config",
        &at("conf.d"),
        "--bootstrap-config",
        &at("services.d"),
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Everything but what `configure` writes.
fn install(root: &Path, system: &Path) {
    let environment = "code/environments/production/manifests";
    for directory in ["etc", "conf.d", "services.d", "log.d", "var", environment, "run"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    let package = system.join("etc/puppet/puppetserver");
    assert!(package.exists(), "no puppetserver: run `tests/all`, which installs it");
    for file in ["conf.d/auth.conf", "conf.d/web-routes.conf"] {
        std::fs::copy(package.join(file), root.join(file)).unwrap();
    }
    let services = std::fs::read_to_string(package.join("services.d/bootstrap.cfg")).unwrap();
    let ca = std::fs::read_to_string(package.join("services.d/ca.cfg")).unwrap();
    // It reports to its makers; a test speaks to no one.
    let lines =
        services.lines().chain(ca.lines()).filter(|l| !l.starts_with('#') && !l.contains("analytics"));
    write(root, "services.d/bootstrap.cfg", &lines.collect::<Vec<_>>().join("\n"));
    let at = inside(root, system);
    let at = at.display();
    write(
        root,
        "conf.d/global.conf",
        &format!("global: {{ logging-config: {at}/logback.xml }}\nmetrics: {{ server-id: localhost }}"),
    );
    write(
        root,
        "logback.xml",
        "<configuration><appender name=\"out\" class=\"ch.qos.logback.core.ConsoleAppender\"><encoder><pattern>%d %-5p %c{2} %m%n</pattern></encoder></appender><root level=\"info\"><appender-ref ref=\"out\"/></root></configuration>",
    );
    write(
        root,
        "conf.d/puppetserver.conf",
        &format!(
            r#"jruby-puppet: {{
  ruby-load-path: [/usr/lib/puppetserver/ruby/vendor_ruby], gem-home: {at}/gems
  gem-path: [{at}/gems, "/usr/lib/puppetserver/vendored-jruby-gems"], max-active-instances: 1
  server-conf-dir: {at}/etc, server-code-dir: {at}/code, server-var-dir: {at}/var
  server-run-dir: {at}/run, server-log-dir: {at}/log.d
}}
http-client: {{}}
profiler: {{}}
"#
        ),
    );
}

fn configure(root: &Path, config: PuppetConfig, port: u16) {
    let at = inside(root, &config.release.root());
    let at = at.display();
    let autosign = match config.autosign {
        Autosign::Everything => "true".to_owned(),
        Autosign::Nothing => "false".to_owned(),
        Autosign::Policy(script) => {
            write(root, "policy", script);
            write(root, "policy.password", PASSWORD);
            std::fs::set_permissions(root.join("policy"), PermissionsExt::from_mode(0o755)).unwrap();
            format!("{at}/policy")
        }
    };
    write(
        root,
        "etc/puppet.conf",
        &format!(
            r"[main]
confdir = {at}/etc
ssldir = {at}/etc/ssl
vardir = {at}/var
logdir = {at}/log.d
rundir = {at}/run
codedir = {at}/code
certname = puppet.example.com
ca_server = localhost
ca_port = {port}
[server]
dns_alt_names = localhost,IP:127.0.0.1
cadir = {at}/etc/ca
autosign = {autosign}
"
        ),
    );
    let client_auth = if config.renewal == Renewal::Unseen { "none" } else { "want" };
    write(
        root,
        "conf.d/webserver.conf",
        &format!("webserver: {{ client-auth: {client_auth}, ssl-host: 127.0.0.1, ssl-port: {port} }}"),
    );
    let (names, renews) = (config.names, config.renewal != Renewal::Off);
    // A release that does not know the last two passes them over.
    write(
        root,
        "conf.d/ca.conf",
        &format!(
            "certificate-authority: {{ allow-subject-alt-names: {names}, allow-auto-renewal: {renews}, auto-renewal-cert-ttl: \"10d\" }}"
        ),
    );
}

fn write(root: &Path, name: &str, text: &str) {
    std::fs::write(root.join(name), text).unwrap();
}

/// SHA-256 of what a PEM block holds, in hexadecimal.
pub(crate) fn fingerprint(pem: &str) -> String {
    let body = pem::parse(pem).unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body.contents());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
