//! A CA that does what a real one will not: whatever it answers, the certificate in force stays in
//! force, nothing unverified reaches the disk, and the exit code says whose turn it is.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod fake;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use fake::{Fake, Fault, MOUNT, ROLE, ROLE_ID, SECRET_ID};
use rstest::rstest;
use tempfile::TempDir;

const DONE: i32 = 0;
const TEMPORARY: i32 = 75;
const REFUSED: i32 = 77;

/// A host below a directory of its own, and its configuration.
struct Host {
    root: TempDir,
}

impl Host {
    fn new(fake: &Fake) -> Self {
        let host = Self { root: TempDir::new().unwrap() };
        host.put("etc/nodecert/vault-ca.pem", &fake.tls_pem());
        host.put("etc/nodecert/etcd-ca.pem", &fake.anchors_pem());
        host.put("var/lib/nodecert/secrets/etcd", SECRET_ID);
        host.put(
            "config.toml",
            &format!(
                r#"
[node]
hostname = "node01"
addresses = ["10.0.0.11"]

[ca.etcd]
tls.file = "/etc/nodecert/vault-ca.pem"
anchors.file = "/etc/nodecert/etcd-ca.pem"
[ca.etcd.vault]
urls = ["{url}"]
mount = "{MOUNT}"
role = "{ROLE}"
auth = [{{ approle = {{ role_id = "{ROLE_ID}", secret_id = {{ file = "/var/lib/nodecert/secrets/etcd" }} }} }}]

[certificate.web]
ca = "etcd"
common_name = "node01"
organization = ["web"]
dns = ["node01"]
ips = ["10.0.0.11"]
usages = ["server", "client"]
directory = "/etc/web/pki"
"#,
                url = fake.url
            ),
        );
        host
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    fn put(&self, below: &str, text: &str) {
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.path(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    }

    fn run(&self) -> Output {
        assert_cmd::Command::new(env!("CARGO_BIN_EXE_nodecert"))
            .arg("--root")
            .arg(self.root.path())
            .arg("--config")
            .arg(self.path("config.toml"))
            .args(["run", "--force", "--deadline", "3s"])
            .timeout(Duration::from_secs(60))
            .output()
            .unwrap()
    }

    /// Certificate, key and trust file as consumers read them.
    fn held(&self) -> Option<[Vec<u8>; 3]> {
        let read = |file: &str| fs::read(self.path("etc/web/pki").join(file)).ok();
        Some([read("web.crt")?, read("web.key")?, read("ca.crt")?])
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn expect(output: &Output, code: i32, word: &str) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(word), "{word:?} is not in:\n{said}");
    for secret in [SECRET_ID, "token-", "PRIVATE KEY"] {
        assert!(!said.contains(secret), "{secret:?} is in:\n{said}");
    }
}

/// Every file below a directory that holds a certificate or key.
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

fn status(code: u16, retry_after: Option<&str>) -> Fault {
    Fault::Status(code, retry_after.map(str::to_owned), "the server's own words")
}

#[rstest]
#[case::wrong_key(Fault::WrongKey, REFUSED, "public key")]
#[case::missing_san(Fault::MissingSan, REFUSED, "use_csr_sans")]
#[case::other_common_name(Fault::OtherCommonName, REFUSED, "common name")]
#[case::dropped_o(Fault::DroppedO, REFUSED, "`organization`")]
#[case::extra_o(Fault::ExtraO, REFUSED, "system:masters")]
#[case::other_ca(Fault::OtherCa, REFUSED, "trusted CA certificate")]
#[case::expired(Fault::Expired, REFUSED, "expired")]
#[case::not_yet_valid(Fault::NotYetValid, TEMPORARY, "valid only from")]
#[case::due_at_once(Fault::Short, REFUSED, "max_ttl")]
#[case::no_eku(Fault::NoEku, REFUSED, "extended key usage")]
#[case::ca_true_leaf(Fault::CaTrueLeaf, REFUSED, "CA:TRUE")]
#[case::truncated_pem(Fault::TruncatedPem, REFUSED, "damaged")]
#[case::not_pem(Fault::NotPem, REFUSED, "no PEM")]
#[case::html(Fault::Html200, REFUSED, "Please log in")]
#[case::empty(Fault::Empty204, REFUSED, "no issuer")]
#[case::huge_body(Fault::HugeBody, REFUSED, "1048576")]
#[case::endless_body(Fault::EndlessBody, REFUSED, "1048576")]
#[case::redirect(Fault::Redirect("https://127.0.0.3:1/".into()), REFUSED, "https://127.0.0.3:1")]
#[case::hang(Fault::Hang, TEMPORARY, "no answer")]
#[case::half_closed(Fault::HalfClosed, TEMPORARY, "connection broken")]
#[case::dropped(Fault::Dropped, TEMPORARY, "connection broken")]
#[case::unavailable(status(503, None), TEMPORARY, "503 the server's own words")]
#[case::unavailable_for_an_hour(status(503, Some("3600")), TEMPORARY, "503 the server's own words")]
#[case::throttled(status(429, None), TEMPORARY, "429 the server's own words")]
#[case::internal_error(status(500, None), TEMPORARY, "500 the server's own words")]
#[case::bad_request(status(400, None), REFUSED, "400 the server's own words")]
#[case::unauthorized(status(401, None), REFUSED, "401 the server's own words")]
#[case::forbidden(status(403, None), REFUSED, "policy")]
#[case::not_found(status(404, None), REFUSED, "`mount`")]
fn the_old_certificate_stays_in_force(#[case] fault: Fault, #[case] code: i32, #[case] word: &str) {
    let fake = Fake::start();
    let host = Host::new(&fake);
    expect(&host.run(), DONE, "");
    let before = host.held().expect("the first run obtains a certificate");

    fake.misbehave("/sign/", fault.clone(), usize::MAX);
    expect(&host.run(), code, word);
    assert_eq!(host.held().as_ref(), Some(&before));

    // Nothing is left behind that would stand in the way of the next run.
    fake.behave();
    expect(&host.run(), DONE, "");
    let after = host.held().expect("the third run renews");
    assert!(after[0] != before[0] && after[2] == before[2]);

    // A host that holds nothing gets nothing.
    fake.misbehave("/sign/", fault, usize::MAX);
    let bare = Host::new(&fake);
    expect(&bare.run(), code, word);
    assert!(bare.held().is_none());
    let mut found = Vec::new();
    pem_files(&bare.path("etc/web"), &mut found);
    found.retain(|path| !path.ends_with("ca.crt"));
    assert_eq!(found, Vec::<PathBuf>::new());
}

/// The same on the way to the signature.
#[rstest]
#[case::hang("/login", Fault::Hang, TEMPORARY, "no answer")]
#[case::html("/login", Fault::Html200, REFUSED, "Please log in")]
#[case::wrong_secret("/login", Fault::Status(400, None, "invalid role or secret ID"), REFUSED, "secret ID")]
#[case::sealed("", Fault::Status(503, None, "Vault is sealed"), TEMPORARY, "Vault is sealed")]
#[case::redirect("/login", Fault::Redirect("/ui/".into()), REFUSED, "redirect")]
fn a_login_that_fails_leaves_everything_as_it_was(
    #[case] path: &str,
    #[case] fault: Fault,
    #[case] code: i32,
    #[case] word: &str,
) {
    let fake = Fake::start();
    let host = Host::new(&fake);
    expect(&host.run(), DONE, "");
    let before = host.held();
    fake.misbehave(path, fault, usize::MAX);
    expect(&host.run(), code, word);
    assert_eq!(host.held(), before);
}

#[test]
fn a_ca_that_comes_back_within_the_deadline_is_a_success() {
    let fake = Fake::start();
    fake.misbehave("/sign/", status(503, Some("1")), 1);
    fake.misbehave("/login", Fault::HalfClosed, 1);
    let host = Host::new(&fake);
    expect(&host.run(), DONE, "");
    assert!(host.held().is_some());
    assert_eq!(fake.tokens(), 0, "the token is given back");
}

#[test]
fn a_server_of_another_ca_is_refused_and_learns_nothing() {
    let (fake, stranger) = (Fake::start(), Fake::start());
    let host = Host::new(&fake);
    host.put("etc/nodecert/vault-ca.pem", &stranger.tls_pem());
    expect(&host.run(), REFUSED, "sha256:");
    assert_eq!(fake.asked(), [""; 0]);
}

#[test]
fn a_ca_that_is_not_there_is_temporary() {
    let fake = Fake::start();
    let host = Host::new(&fake);
    drop(fake);
    expect(&host.run(), TEMPORARY, "cannot connect");
}
