//! A host below a directory of its own, and what its runs did.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nodecert::bundle::Pair;
use nodecert::key::Key;
use tempfile::TempDir;

use crate::fake::cfssl::AUTH_KEY;
use crate::fake::{Fake, MOUNT, ROLE, ROLE_ID, SECRET_ID};

pub(crate) const DONE: i32 = 0;
pub(crate) const TEMPORARY: i32 = 75;
pub(crate) const REFUSED: i32 = 77;

/// Bytes of resident memory that no run may need, whatever comes.
const MEMORY: u64 = 16 << 20;
/// What the release build needs of them where all is well. A debug build has more of code in memory, and may need as
/// much beside that.
const HONEST: u64 = 8_800 << 10;

/// How the CA is spoken to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Protocol {
    Vault,
    Puppet,
    Cfssl,
}

impl Protocol {
    /// The calls in which a certificate is signed.
    pub(crate) fn signs(self) -> &'static [&'static str] {
        match self {
            Self::Vault => &["/sign/"],
            Self::Puppet => &["PUT /", "POST /"],
            Self::Cfssl => &["/authsign"],
        }
    }

    /// The calls in which a certificate is answered.
    pub(crate) fn says(self) -> &'static [&'static str] {
        match self {
            Self::Puppet => &["GET /puppet-ca/v1/certificate/node01"],
            other => other.signs(),
        }
    }

    fn tables(self, url: &str) -> String {
        match self {
            Self::Vault => format!(
                r#"
anchors.file = "/etc/nodecert/ca.pem"
[ca.test.vault]
urls = ["{url}"]
mount = "{MOUNT}"
role = "{ROLE}"
auth = [{{ approle = {{ role_id = "{ROLE_ID}", secret_id = {{ file = "/var/lib/nodecert/secrets/test" }} }} }}]
"#
            ),
            Self::Puppet => format!(
                r#"
[ca.test.puppet]
url = "{url}"
agent = false
attributes = {{ challengePassword = {{ file = "/var/lib/nodecert/secrets/test" }} }}
"#
            ),
            Self::Cfssl => format!(
                r#"
anchors.file = "/etc/nodecert/ca.pem"
[ca.test.cfssl]
urls = ["{url}"]
key = {{ file = "/var/lib/nodecert/secrets/test" }}
"#
            ),
        }
    }
}

pub(crate) struct Host {
    root: TempDir,
}

/// What a run did.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) said: String,
    pub(crate) took: Duration,
    /// Bytes.
    pub(crate) memory: u64,
}

impl Host {
    pub(crate) fn new(protocol: Protocol, fake: &Fake) -> Self {
        Self::at(protocol, fake, &fake.url)
    }

    /// The same, with another server at the CA's place.
    pub(crate) fn at(protocol: Protocol, fake: &Fake, url: &str) -> Self {
        let host = Self { root: TempDir::new().unwrap() };
        host.put("etc/nodecert/tls.pem", &fake.tls_pem());
        host.put("etc/nodecert/ca.pem", &fake.anchors_pem());
        let secret = if protocol == Protocol::Cfssl { AUTH_KEY } else { SECRET_ID };
        host.put("var/lib/nodecert/secrets/test", secret);
        let organization = if protocol == Protocol::Puppet { "[]" } else { "[\"web\"]" };
        host.put(
            "config.toml",
            &format!(
                r#"
[node]
hostname = "node01"
addresses = ["10.0.0.11"]
[ca.test]
tls.file = "/etc/nodecert/tls.pem"
{ca}
[certificate.web]
ca = "test"
common_name = "node01"
organization = {organization}
dns = ["node01"]
ips = ["10.0.0.11"]
usages = ["server", "client"]
directory = "/etc/web/pki"
"#,
                ca = protocol.tables(url)
            ),
        );
        host
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    fn put(&self, below: &str, text: &str) {
        let path = self.path(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    }

    /// Runs with a deadline in seconds; by way of time(1), for exec(2) counts the memory of whoever starts a
    /// process as the process's own.
    pub(crate) fn run(&self, deadline: u64) -> Ran {
        let (out, log) = (self.path("memory"), self.path("log"));
        let mut command = Command::new("/usr/bin/time");
        command.args(["--quiet", "--format=%M", "--output"]).arg(&out).arg(program());
        command.arg("--root").arg(self.root.path()).arg("--config").arg(self.path("config.toml"));
        command.args(["run", "--force", "-vv", "--deadline", &format!("{deadline}s")]);
        command.stdin(Stdio::null()).env_remove("LD_LIBRARY_PATH");
        let file = fs::File::create(&log).unwrap();
        command.stdout(file.try_clone().unwrap()).stderr(file);
        let began = Instant::now();
        let status = command.status().expect("time(1)");
        let took = began.elapsed();
        let memory = fs::read_to_string(&out).unwrap();
        Ran {
            code: status.code(),
            said: String::from_utf8(fs::read(&log).unwrap()).expect("UTF-8"),
            took,
            memory: memory.trim().parse::<u64>().unwrap() * 1024,
        }
    }

    /// Certificate, key and trust file as consumers read them.
    pub(crate) fn held(&self) -> Option<[Vec<u8>; 3]> {
        let read = |file: &str| fs::read(self.path("etc/web/pki").join(file)).ok();
        Some([read("web.crt")?, read("web.key")?, read("ca.crt")?])
    }

    /// The pair in force is one, and says what was wanted.
    pub(crate) fn holds_what_is_wanted(&self, row: &str) {
        let [cert, key, _] = self.held().unwrap_or_else(|| panic!("{row}: nothing was installed"));
        let key = Key::parse(&String::from_utf8(key).unwrap()).unwrap();
        let pair = Pair::parse(key.into(), &String::from_utf8(cert).unwrap()).unwrap();
        let leaf = pair.leaf();
        assert!(leaf.common_names == ["node01"] && leaf.dns.contains("node01"), "{row}: {leaf:?}");
        assert!(leaf.ips.contains(&"10.0.0.11".parse().unwrap()), "{row}: {leaf:?}");
    }

    /// What lies at the certificate's place besides the trust file.
    pub(crate) fn certificates_and_keys(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        pem_files(&self.path("etc/web"), &mut found);
        found.retain(|path| !path.ends_with("ca.crt"));
        found
    }
}

/// The release build where there is one to try.
fn program() -> PathBuf {
    release().unwrap_or_else(|| env!("CARGO_BIN_EXE_nodecert").into())
}

fn release() -> Option<PathBuf> {
    std::env::var_os("NODECERT_TEST_RELEASE").map(PathBuf::from)
}

/// The bytes that the program may need.
fn most() -> u64 {
    static MOST: OnceLock<u64> = OnceLock::new();
    let honest = || Host::new(Protocol::Puppet, &Fake::start()).run(60).memory;
    let more = || if release().is_some() { 0 } else { honest().saturating_sub(HONEST) };
    *MOST.get_or_init(|| MEMORY + more())
}

pub(crate) fn expect(row: &str, run: &Ran, code: i32, word: &str) {
    let said = &run.said;
    assert_eq!(run.code, Some(code), "{row}\n{said}");
    assert!(said.contains(word), "{row}: {word:?} is not in:\n{said}");
    let control = said.chars().find(|&c| c != '\n' && (c.is_control() || is_bidi(c)));
    assert_eq!(control, None, "{row}: {said:?}");
    for secret in [SECRET_ID, AUTH_KEY, "token-", "PRIVATE KEY"] {
        assert!(!said.contains(secret), "{row}: {secret:?} is in:\n{said}");
    }
    let longest = said.lines().map(str::len).max().unwrap_or(0);
    assert!(longest < 4_000, "{row}: a line of {longest} bytes");
    let most = most();
    assert!(run.memory <= most, "{row}: {} of {most} bytes of memory", run.memory);
}

/// What makes a terminal show text in another order than it has (UAX #9).
fn is_bidi(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn pem_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => pem_files(&entry.path(), found),
            _ if fs::read_to_string(entry.path()).is_ok_and(|text| text.contains("-----BEGIN")) => {
                found.push(entry.path());
            }
            _ => {}
        }
    }
}
