//! What `journalctl -u nodecert` shows: the program's records as journald gets them, in a mount namespace where
//! this test is journald.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Command;

use nix::sys::stat::fstat;
use tempfile::TempDir;

const MEMBER: &str = r#"
[node]
hostname = "node01"
addresses = ["10.0.0.11"]
[ca.lab.local]
[etcd]
ca = "lab"
cluster = { node01 = "10.0.0.11" }
"#;

/// No record: nothing comes after it.
const END: &[u8] = b"end";

/// One record: its fields by name.
type Entry = BTreeMap<String, String>;

/// What a run left behind.
struct Told {
    journal: Vec<Entry>,
    stdout: String,
    stderr: String,
    exit: Option<i32>,
}

impl Told {
    fn story(&self) -> String {
        self.journal.iter().map(|entry| entry["MESSAGE"].clone() + "\n").collect()
    }

    fn entry(&self, part: &str) -> &Entry {
        let found = self.journal.iter().find(|entry| entry["MESSAGE"].contains(part));
        found.unwrap_or_else(|| panic!("no {part:?} in\n{}", self.story()))
    }
}

/// Runs it below `root` as systemd does: both outputs are streams to the journal, whose own socket is there.
fn told(root: &TempDir, config: &str, arguments: &[&str]) -> Told {
    let site = TempDir::new().unwrap();
    let socket = UnixDatagram::bind(site.path().join("socket")).unwrap();
    // A reader from the first record on: the kernel queues but ten, unix(7), and the writer waits.
    let reader = std::thread::spawn(move || entries(&socket));
    let file = root.path().join("config.toml");
    fs::write(&file, config).unwrap();
    let ((mut out, to_out), (mut err, to_err)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
    let stat = fstat(&to_err).unwrap();
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-ec"]);
    unshare.arg("mount -t tmpfs none /run; mkdir -p /run/systemd/journal; mount --bind \"$0\" /run/systemd/journal; exec \"$@\"");
    unshare.arg(site.path()).arg(env!("CARGO_BIN_EXE_nodecert")).arg("--root").arg(root.path());
    unshare.arg("--config").arg(&file).args(arguments);
    unshare.env("JOURNAL_STREAM", format!("{}:{}", stat.st_dev, stat.st_ino));
    unshare.stdout(OwnedFd::from(to_out)).stderr(OwnedFd::from(to_err));
    let exit = unshare.status().unwrap().code();
    let last = UnixDatagram::unbound().unwrap();
    last.send_to(END, site.path().join("socket")).unwrap();
    // The command holds the other ends of the streams.
    drop(unshare);
    let (mut stdout, mut stderr) = (String::new(), String::new());
    out.read_to_string(&mut stdout).unwrap();
    err.read_to_string(&mut stderr).unwrap();
    Told { journal: reader.join().unwrap(), stdout, stderr, exit }
}

fn entries(socket: &UnixDatagram) -> Vec<Entry> {
    let mut record = vec![0; 65_536];
    let mut entries = Vec::new();
    loop {
        let length = socket.recv(&mut record).unwrap();
        match &record[..length] {
            END => return entries,
            // By which the program asks whether anyone is there.
            [] => {}
            record => entries.push(parse(record)),
        }
    }
}

/// systemd's JOURNAL_NATIVE_PROTOCOL: `NAME=value\n`, or `NAME\n`, eight bytes of length, value, `\n`.
fn parse(mut record: &[u8]) -> Entry {
    let mut entry = Entry::new();
    while !record.is_empty() {
        let end = record.iter().position(|byte| *byte == b'\n').unwrap();
        let line = std::str::from_utf8(&record[..end]).unwrap();
        record = &record[end + 1..];
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => {
                let length = usize::try_from(u64::from_le_bytes(record[..8].try_into().unwrap())).unwrap();
                let value = String::from_utf8(record[8..8 + length].to_vec()).unwrap();
                record = &record[8 + length + 1..];
                (line, value)
            }
        };
        entry.insert(name.to_owned(), value);
    }
    entry
}

#[test]
fn a_first_issue_reads_as_a_story_of_at_most_a_dozen_lines() {
    let root = TempDir::new().unwrap();
    let told = told(&root, MEMBER, &["run"]);
    assert_eq!(told.exit, Some(0), "{}", told.stderr);
    let beginnings = [
        "CA lab: made the embedded CA's key",
        "CA lab: trusts \"CN=nodecert lab CA\" sha256:",
        "/etc/etcd/pki/ca.crt: trust file written",
        "etcd-peer: asking CA lab: absent",
        "etcd-peer: installed, valid until 20",
        "etcd-server: asking CA lab: absent",
        "etcd-server: installed, valid until 20",
        "/etc/etcd/etcd.yaml: written: absent",
        "/etc/systemd/system/etcd.service.d/50-nodecert.conf: written: absent",
        "owners were left alone: ",
        "done: 2 certificates and 3 files changed",
    ];
    let story = told.story();
    assert_eq!(story.lines().count(), beginnings.len(), "{story}");
    for beginning in beginnings {
        // Certificates of one CA are got side by side, so that their lines may lie between each other's.
        let said = story.lines().filter(|line| line.starts_with(beginning)).count();
        assert_eq!(said, 1, "{beginning:?} in\n{story}");
    }
    assert!(story.starts_with(beginnings[0]) && story.ends_with("3 files changed\n"), "{story}");
    // Each thing once: what the journal has by its own protocol does not come by the streams again.
    assert_eq!((told.stdout.as_str(), told.stderr.as_str()), ("", ""));
}

#[test]
fn records_have_fields_to_search_by() {
    let root = TempDir::new().unwrap();
    let told = told(&root, MEMBER, &["run"]);
    let asked = told.entry("etcd-server: asking");
    let field = |name: &str| asked.get(name).map(String::as_str);
    assert_eq!(field("NODECERT_CERTIFICATE"), Some("etcd-server"));
    assert_eq!(field("NODECERT_CA"), Some("lab"));
    assert_eq!(field("NODECERT_REASON"), Some("absent"));
    assert_eq!(field("PRIORITY"), Some("5"));
    assert_eq!(field("SYSLOG_IDENTIFIER"), Some("nodecert"));
    let installed = told.entry("etcd-server: installed");
    assert!(installed["MESSAGE"].ends_with(&installed["NODECERT_NOT_AFTER"]), "{installed:?}");
    assert_eq!(told.entry("/etc/etcd/etcd.yaml").get("NODECERT_PATH").unwrap(), "/etc/etcd/etcd.yaml");
}

#[test]
fn a_run_without_work_is_one_line() {
    let root = TempDir::new().unwrap();
    told(&root, MEMBER, &["run"]);
    let again = told(&root, MEMBER, &["run"]);
    assert!(again.story().ends_with("nothing to do: everything is as configured\n"), "{}", again.story());
    assert_eq!(again.journal.len(), 2, "{}", again.story());
}

#[test]
fn the_last_word_of_a_failure_says_why_as_an_error_that_the_console_shows_too() {
    let root = TempDir::new().unwrap();
    // For a CA certificate to trust.
    told(&root, MEMBER, &["run"]);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!(
        r#"
[node]
hostname = "node01"
addresses = ["10.0.0.11"]
[ca.away]
tls.file = "/etc/etcd/pki/ca.crt"
anchors.file = "/etc/etcd/pki/ca.crt"
[ca.away.vault]
urls = ["https://127.0.0.1:{port}"]
mount = "pki"
role = "web"
auth = [{{ token = {{ command = ["/bin/echo", "t"] }} }}]
[certificate.web]
ca = "away"
dns = ["node01"]
directory = "/etc/web/pki"
"#
    );
    let told = told(&root, &config, &["run", "--deadline", "1s"]);
    assert_eq!(told.exit, Some(75), "{}\n{}", told.story(), told.stderr);
    let failed =
        told.journal.iter().rev().find(|entry| entry.contains_key("NODECERT_EXIT")).expect("a failure");
    assert_eq!(failed["NODECERT_EXIT"], "75");
    assert_eq!(failed["NODECERT_CERTIFICATE"], "web");
    assert_eq!(failed["PRIORITY"], "4");
    assert!(failed["MESSAGE"].contains(&failed["NODECERT_REASON"]), "{failed:?}");
    // The stream, which StandardError=journal+console copies to the console; sd-daemon(3) for the mark.
    let last: Vec<_> = told.stderr.lines().collect();
    let [last] = last[..] else { panic!("not one line: {:?}", told.stderr) };
    assert!(last.starts_with("<3>not done: "), "{last}");
    assert!(last.contains(&format!("127.0.0.1:{port}")), "{last}");
    assert_eq!(told.stdout, "");
}

#[test]
fn faults_of_the_configuration_are_errors_on_the_console_too() {
    let root = TempDir::new().unwrap();
    let told = told(&root, "[etcd]\nca = 1\nzz = 2\n", &["run"]);
    assert_eq!(told.exit, Some(78));
    assert!(told.stderr.lines().count() >= 2, "{}", told.stderr);
    assert!(told.stderr.lines().all(|line| line.starts_with("<3>")), "{}", told.stderr);
    assert!(told.journal.is_empty(), "{}", told.story());
}

#[test]
fn an_answer_that_someone_asked_for_is_printed_whatever_hears_it() {
    let root = TempDir::new().unwrap();
    told(&root, MEMBER, &["run"]);
    let asked = told(&root, MEMBER, &["run", "--format", "json"]);
    assert!(asked.stdout.starts_with('{'), "{}", asked.stdout);
    assert!(told(&root, MEMBER, &["status"]).stdout.contains("valid"));
}
