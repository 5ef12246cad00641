//! A host below a directory of its own, under a clock that the test sets, with a fake CA; runs in this process.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test uses a part of it")]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use nodecert::clock::Clock;
use nodecert::facts::{Host, Interface};
use nodecert::report::{Action, Report};
use nodecert::root::Root;
use nodecert::run::{self, Ask, World};
use tempfile::TempDir;

use crate::fake::{Fake, MOUNT, ROLE, TOKEN};

pub const HOUR: u64 = 3_600;
pub const DAY: u64 = 24 * HOUR;

/// A host below a directory of its own, whose clock runs ahead as told.
pub struct Site {
    pub world: World,
    pub ahead: Arc<AtomicU64>,
    pub root: TempDir,
}

impl Site {
    pub fn new(fake: &Fake) -> Self {
        // Where syncing costs nothing: what is durable is another test's matter.
        let root = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        let config = root.path().join("config.toml");
        fs::create_dir_all(root.path().join("etc/nodecert")).unwrap();
        fs::write(root.path().join("etc/nodecert/vault-ca.pem"), fake.tls_pem()).unwrap();
        fs::write(&config, configuration(&fake.url)).unwrap();
        fs::set_permissions(&config, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let ahead = Arc::new(AtomicU64::new(0));
        let reading = ahead.clone();
        let world = World {
            root: Arc::new(Root::open(root.path()).unwrap()),
            host: Host::live().unwrap(),
            clock: Clock::new(move || {
                SystemTime::now() + Duration::from_secs(reading.load(Ordering::SeqCst))
            }),
            tells: true,
            config: Some(config),
        };
        Self { world, ahead, root }
    }

    /// The addresses of its certificate are those that are detected.
    pub fn detecting(fake: &Fake) -> Self {
        let mut site = Self::new(fake);
        site.reconfigure("addresses = [\"10.0.0.11\"]", "interfaces = [\"lan0\"]");
        site.reconfigure("ips = [\"10.0.0.11\"]", "ips = [\"{{ addresses }}\"]");
        site.has_addresses("10.0.0.11");
        site
    }

    /// What the kernel says from now on.
    pub fn has_addresses(&mut self, addresses: &str) {
        self.world.host.interfaces = Some(vec![Interface {
            name: "lan0".to_owned(),
            up: true,
            loopback: false,
            addresses: addresses.split(' ').map(|ip| ip.parse().unwrap()).collect(),
        }]);
    }

    /// The clocks of host and CA stand still, but for what [`Site::later`] says; the time they stand at.
    pub fn stand_still(&mut self, fake: &Fake) -> SystemTime {
        let base = SystemTime::now();
        fake.stand_still(base);
        let ahead = self.ahead.clone();
        self.world.clock = Clock::new(move || base + Duration::from_secs(ahead.load(Ordering::SeqCst)));
        base
    }

    /// Moves the clocks of host and CA.
    pub fn later(&self, fake: &Fake, seconds: u64) {
        fake.later(i64::try_from(seconds).unwrap());
        self.ahead.store(seconds, Ordering::SeqCst);
    }

    pub fn run(&self) -> Report {
        self.ask(&Ask { deadline: Duration::from_secs(2), ..Ask::default() })
    }

    pub fn ask(&self, ask: &Ask) -> Report {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run::run(&self.world, ask)).expect("a run").0
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    /// Adds to the configuration.
    pub fn configure(&self, more: &str) {
        let config = self.path("config.toml");
        fs::write(&config, fs::read_to_string(&config).unwrap() + more).unwrap();
    }

    /// Changes the configuration in one place.
    pub fn reconfigure(&self, from: &str, to: &str) {
        let config = self.path("config.toml");
        let text = fs::read_to_string(&config).unwrap();
        assert!(text.contains(from), "{from}");
        fs::write(&config, text.replacen(from, to, 1)).unwrap();
    }

    /// How often the hook has run.
    pub fn told(&self) -> usize {
        fs::read_to_string(self.path("told")).unwrap_or_default().lines().count()
    }

    pub fn serial(&self, name: &str) -> String {
        let report = self.look();
        let line = report.certificates.iter().find(|line| line.name.as_str() == name).unwrap();
        line.leaf.as_ref().map(|leaf| leaf.serial.clone()).unwrap_or_default()
    }

    pub fn look(&self) -> Report {
        let survey = run::survey(&self.world, false).expect("a survey");
        run::status(&survey, &self.world, &[]).expect("a status")
    }

    pub fn anchors(&self) -> usize {
        fs::read_to_string(self.path("etc/web/pki/ca.crt")).unwrap().matches("BEGIN CERTIFICATE").count()
    }
}

pub fn configuration(url: &str) -> String {
    format!(
        r#"
[node]
hostname = "node01"
addresses = ["10.0.0.11"]

[ca.etcd]
tls.file = "/etc/nodecert/vault-ca.pem"
anchors.published = true
[ca.etcd.vault]
urls = ["{url}"]
mount = "{MOUNT}"
role = "{ROLE}"
auth = [{{ token = "{TOKEN}" }}]

[certificate.web]
ca = "etcd"
common_name = "node01"
dns = ["node01"]
ips = ["10.0.0.11"]
ttl = "6d"
spread = false
directory = "/etc/web/pki"
"#
    )
}

/// What was done, or would be: one that was to be got and was not is no such thing.
pub fn actions(report: &Report) -> Vec<Action> {
    let lines = report.certificates.iter();
    lines
        .inspect(|line| assert!(line.action != Action::Obtain || line.trouble.is_none(), "{line:?}"))
        .map(|line| line.action)
        .collect()
}
