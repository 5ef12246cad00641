//! A canary of each kind of secret, and everywhere that one could show: what is printed and logged, in text,
//! JSON and to the journal, as loud as can be; command lines, environments and descriptors of children; a core
//! dump; files that others can read, and the raw disk.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod fake;
mod trial;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use fake::{Fake, Fault, JWT, MOUNT, ROLE, ROLE_ID, SECRET_ID, TOKEN};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nodecert::identity::KeyKind;
use nodecert::key::Key;
use nodecert::run::Ask;
use trial::{Site, WEB_SET, files};
use zeroize::{Zeroize, Zeroizing};

/// HMAC keys are hexadecimal.
const HMAC: &str = "5ca1ab1e0ddba11cafef00dfeedface5";
const CHALLENGE: &str = "challenge-canary";
const SECRETS: &str = "/var/lib/nodecert/secrets";

/// The ways to log in, and two CAs that do not answer; every secret in a file of its own, one in the environment.
fn site(fake: &Fake, auth: &str) -> Site {
    let site = Site::with(&format!(
        r#"
[node]
hostname = "node01"
addresses = ["10.0.0.11"]
[ca.etcd]
tls.file = "/etc/nodecert/tls.pem"
anchors.file = "/etc/nodecert/anchors.pem"
[ca.etcd.vault]
urls = ["{url}"]
mount = "{MOUNT}"
role = "{ROLE}"
auth = [{auth}]
[ca.site]
tls.file = "/etc/nodecert/tls.pem"
anchors.file = "/etc/nodecert/anchors.pem"
[ca.site.puppet]
url = "https://127.0.0.1:1"
attributes = {{ challengePassword = {{ file = "{SECRETS}/challenge" }} }}
[ca.lab]
tls.file = "/etc/nodecert/tls.pem"
anchors.file = "/etc/nodecert/anchors.pem"
[ca.lab.cfssl]
urls = ["https://127.0.0.1:1"]
key = {{ file = "{SECRETS}/hmac" }}
profile = "etcd"
[certificate.web]
ca = "etcd"
common_name = "node01"
dns = ["node01"]
directory = "/etc/web/pki"
hooks = [{{ run = ["/bin/sh", "-c", "cat /proc/self/cmdline /proc/$$/cmdline /proc/$PPID/cmdline /proc/self/environ >>/seen; echo >>/seen; ls -l /proc/self/fd >>/seen; umask >>/seen"] }}]
[certificate.agent]
ca = "site"
common_name = "agent.example.com"
dns = ["agent.example.com"]
directory = "/etc/agent"
[certificate.lab]
ca = "lab"
common_name = "node01"
dns = ["node01"]
directory = "/etc/lab"
"#,
        url = fake.url
    ));
    site.write("etc/nodecert/tls.pem", &fake.tls_pem());
    site.write("etc/nodecert/anchors.pem", &fake.anchors_pem());
    for (name, secret) in
        [("challenge", CHALLENGE), ("hmac", HMAC), ("id", SECRET_ID), ("jwt", JWT), ("token", TOKEN)]
    {
        site.write(&format!("var/lib/nodecert/secrets/{name}"), secret);
    }
    site
}

/// Every way to log in, with its secret from another kind of source.
fn logins(fake: &Fake) -> Vec<(&'static str, String)> {
    let file = |name: &str| format!("{{ file = \"{SECRETS}/{name}\" }}");
    let wrapping = fake.wrap("auth/approle/role/host/secret-id");
    vec![
        ("token", format!("{{ token = {} }}", file("token"))),
        ("token in the configuration", format!("{{ token = \"{TOKEN}\" }}")),
        ("token in the environment", "{ token = { env = \"CANARY\" } }".to_owned()),
        ("token by a command", format!("{{ token = {{ command = [\"/bin/cat\", \"{SECRETS}/token\"] }} }}")),
        ("approle", format!("{{ approle = {{ role_id = \"{ROLE_ID}\", secret_id = {} }} }}", file("id"))),
        (
            "wrapped",
            format!(
                "{{ approle = {{ role_id = \"{ROLE_ID}\", secret_id = \"{wrapping}\", wrapped = true }} }}"
            ),
        ),
        ("jwt", format!("{{ jwt = {{ role = \"host\", jwt = {} }} }}", file("jwt"))),
    ]
}

/// What must not show: what was given, what the CA gave, and the keys that were made.
fn canaries(site: &Site, fake: &Fake) -> Vec<String> {
    let given = [TOKEN, SECRET_ID, JWT, CHALLENGE, HMAC].map(str::to_owned);
    let sent = fake.seen().into_iter().flat_map(|seen| {
        let body = ["token", "secret_id", "jwt"].map(|key| seen.body[key].as_str().map(str::to_owned));
        body.into_iter().chain([seen.token]).flatten()
    });
    let keys = keys(site.root());
    let mut all: Vec<_> = given.into_iter().chain(sent).chain(keys).collect();
    all.sort();
    all.dedup();
    all
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn none_of(canaries: &[String], where_: &str, text: &str) {
    for canary in canaries {
        assert!(!text.contains(canary.as_str()), "{canary:?} shows in {where_}:\n{text}");
    }
}

/// What makes each step of a login and an issue fail.
fn faults() -> Vec<(&'static str, Fault)> {
    let status = |code| Fault::Status(code, None, "the server's own words");
    vec![
        ("", status(403)),
        ("/login", status(400)),
        ("/login", Fault::Html200),
        ("/login", Fault::Redirect("https://127.0.0.1:1/".to_owned())),
        ("wrapping", status(400)),
        ("/sign/", status(500)),
        ("/sign/", Fault::NotPem),
        ("/sign/", Fault::WrongKey),
        ("/sign/", Fault::HalfClosed),
        ("/ca", Fault::Empty204),
    ]
}

#[test]
#[ignore = "mounts: run tests/all"]
fn no_secret_shows_in_what_is_said_or_in_a_child() {
    let (mut looked, mut number) = (0, 0);
    let fake = Fake::start();
    for (login, auth) in logins(&fake) {
        let site = site(&fake, &auth);
        let failing = faults().into_iter().map(Some).chain([None]);
        for (fault, format) in failing.zip(["text", "json"].into_iter().cycle()) {
            fake.behave();
            if let Some((path, fault)) = &fault {
                fake.misbehave(path, fault.clone(), usize::MAX);
            }
            // What may pass is waited for; then the CAs that do not answer are asked too.
            let passes = matches!(fault, Some((_, Fault::Status(500, ..) | Fault::HalfClosed)));
            let mut arguments = vec!["-vv", "--format", format, "run", "--force", "--deadline"];
            arguments.extend(if passes { vec!["1s"] } else { vec!["60s", "--only", "web"] });
            // Its own caller may have left open what is no one's business.
            let careless = ["/bin/sh", "-c", "umask 0; exec 7<>/etc/passwd 9</etc/group \"$@\"", "sh"];
            let mut command = site.live(&careless, &arguments);
            // The one who gives it so has it in his own environment; no child of ours does.
            command.env("CANARY", TOKEN).env("LD_BIND_NOW", TOKEN).env("HTTPS_PROXY", "http://127.0.0.1:1");
            let output = command.output().unwrap();
            assert!(!said(&output).contains("panicked"), "{}", said(&output));
            none_of(&canaries(&site, &fake), login, &said(&output));
            number += 1;
        }
        assert!(WEB_SET.find(site.root()).unwrap().is_some_and(|set| set.matches()), "{login}");
        let seen = String::from_utf8_lossy(&fs::read(site.path("seen")).unwrap()).into_owned();
        let of_children = canaries(&site, &fake);
        none_of(&of_children, "command lines and environments of children", &seen);
        // Neither of ours nor of the caller's: 3 is the listing itself.
        let open = seen.lines().filter_map(|line| line.split_once(" -> ")?.0.split(' ').next_back());
        assert_eq!(open.collect::<BTreeSet<_>>(), BTreeSet::from(["0", "1", "2", "3"]), "{seen}");
        let masks = seen.lines().filter(|line| line.len() == 4 && line.starts_with('0'));
        assert_eq!(masks.collect::<BTreeSet<_>>(), BTreeSet::from(["0022"]), "{seen}");
        assert!(!seen.contains("LD_BIND_NOW") && !seen.contains("HTTPS_PROXY"), "{seen}");
        for words in [
            vec!["status", "--format", "json"],
            vec!["-vv", "plan"],
            vec!["status", "--check"],
            vec!["facts"],
        ] {
            none_of(
                &of_children,
                "the answer to a question",
                &said(&site.nodecert(&words).output().unwrap()),
            );
            number += 1;
        }
        looked += of_children.len();
    }
    println!("{looked} canaries in {number} runs, loud, good and bad, and in their hooks: 0 shown");
}

#[test]
#[ignore = "mounts: run tests/all"]
fn no_secret_goes_to_the_journal() {
    let fake = Fake::start();
    let site = site(
        &fake,
        &format!("{{ approle = {{ role_id = \"{ROLE_ID}\", secret_id = {{ file = \"{SECRETS}/id\" }} }} }}"),
    );
    fs::create_dir_all(site.path("run/systemd/journal")).unwrap();
    let journal = UnixDatagram::bind(site.path("run/systemd/journal/socket")).unwrap();
    journal.set_nonblocking(true).unwrap();
    let mut logged = String::new();
    let mut entry = vec![0; 256 * 1024];
    let mut listen = |logged: &mut String| {
        while let Ok(length) = journal.recv(&mut entry) {
            *logged += &String::from_utf8_lossy(&entry[..length]);
        }
    };
    for fault in [None, Some(Fault::Status(403, None, "permission denied"))] {
        fake.behave();
        if let Some(fault) = fault {
            fake.misbehave("/sign/", fault, usize::MAX);
        }
        // systemd.exec(5): the stream is known by device and inode.
        let stream = fs::File::create(site.path("stream")).unwrap();
        let meta = stream.metadata().unwrap();
        let mut command = site.live(&[], &["-vv", "run", "--force", "--deadline", "1s"]);
        command.env("JOURNAL_STREAM", format!("{}:{}", meta.dev(), meta.ino())).stderr(stream);
        command.stdout(Stdio::null());
        let mut run = command.spawn().unwrap();
        while run.try_wait().unwrap().is_none() {
            listen(&mut logged);
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    listen(&mut logged);
    assert!(logged.contains("PRIORITY") && logged.contains("asking CA etcd"), "the journal hears: {logged}");
    none_of(&canaries(&site, &fake), "the journal", &logged);
    println!("{} bytes to the journal: 0 secrets", logged.len());
}

#[test]
fn a_crash_leaves_no_core_and_no_one_looks_into_the_process() {
    let fake = Fake::start();
    for signal in [Signal::SIGSEGV, Signal::SIGQUIT, Signal::SIGABRT] {
        let site = site(&fake, &format!("{{ token = \"{TOKEN}\" }}"));
        let chown = Command::new("chown").args(["-R", "4309:4309"]).arg(site.root()).status().unwrap();
        assert!(chown.success());
        let program = [PathBuf::from(env!("CARGO_BIN_EXE_nodecert")), site.path("program")];
        assert!(Command::new("cp").args(program).status().unwrap().success());
        fake.behave();
        fake.misbehave("/sign/", Fault::Hang, 1);
        fake.forget();
        // As a user who may have cores, and whose other processes could look into this one.
        let mut command = Command::new("sh");
        let shell = "ulimit -c unlimited; cd \"$1\"; exec setpriv --reuid 4309 --regid 4309 --clear-groups env --default-signal ./program --root . run --only web";
        command.args(["-c", shell, "sh"]).arg(site.root()).stdout(Stdio::null()).stderr(Stdio::null());
        trial::undisturbed(&mut command);
        let mut run = command.spawn().unwrap();
        let began = Instant::now();
        while !fake.asked().iter().any(|call| call.contains("/sign/")) {
            assert!(began.elapsed() < Duration::from_secs(30), "it does not get there");
            std::thread::sleep(Duration::from_millis(10));
        }
        let process = PathBuf::from(format!("/proc/{}", run.id()));
        // proc(5): what belongs to root is that of a process that is not dumpable.
        assert_eq!(fs::metadata(process.join("environ")).unwrap().uid(), 0);
        let limits = fs::read_to_string(process.join("limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().skip(4).collect::<Vec<_>>(), ["0", "0", "bytes"]);
        let look = Command::new("setpriv")
            .args(["--reuid", "4309", "--regid", "4309", "--clear-groups", "cat"])
            .arg(process.join("mem"))
            .output()
            .unwrap();
        assert!(
            !look.status.success() && String::from_utf8_lossy(&look.stderr).contains("Permission denied")
        );
        // The first SIGSEGV goes to the handler that tells a stack overflow; the next one ends it.
        while run.try_wait().unwrap().is_none() {
            kill(Pid::from_raw(run.id().cast_signed()), signal).unwrap();
            std::thread::sleep(Duration::from_millis(50));
        }
        let ended = run.wait().unwrap();
        assert_eq!((ended.signal(), ended.core_dumped()), (Some(signal as i32), false));
        let core = files(site.root()).into_iter().find(|(path, _)| path.to_string_lossy().contains("core"));
        assert!(core.is_none(), "{core:?}");
    }
    println!("3 crashes in the middle of a request: no core, memory closed to others");
}

/// What a login gives is for this run and never on disk; what was given lies where it was put.
#[test]
#[ignore = "mounts file systems: run tests/all"]
fn the_raw_disk_holds_no_token_that_a_login_gave() {
    let fake = Fake::start();
    let disk = Disk::new();
    let login =
        format!("{{ approle = {{ role_id = \"{ROLE_ID}\", secret_id = {{ file = \"{SECRETS}/id\" }} }} }}");
    let site = site(&fake, &login);
    let copied = Command::new("cp").arg("-a").arg(site.path(".")).arg(disk.root()).status().unwrap();
    assert!(copied.success());
    for _ in 0..5 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nodecert"));
        trial::undisturbed(&mut command);
        let output = command
            .arg("--root")
            .arg(disk.root())
            .args(["run", "--force", "--only", "web"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    }
    let tokens: Vec<_> = fake.seen().into_iter().filter_map(|seen| seen.token).collect();
    let holds = |needle: &str| disk.holds(needle);
    assert!(holds(SECRET_ID), "the search finds what is there");
    assert!(tokens.len() >= 5, "{tokens:?}");
    assert!(!tokens.iter().any(|token| holds(token)), "{tokens:?}");
    println!("{} tokens of logins in the raw disk, freed blocks too: 0 found", tokens.len());
}

/// Requests that were answered, and keys that were replaced by links: what is unlinked is overwritten first.
#[test]
#[ignore = "mounts file systems: run tests/all"]
fn the_raw_disk_holds_each_key_as_often_as_files_do() {
    let disk = Disk::new();
    let site = Site::with(trial::LOCAL);
    let copied = Command::new("cp").arg("-a").arg(site.path(".")).arg(disk.root()).status().unwrap();
    assert!(copied.success());
    let force = Ask { force: true, ..Ask::default() };
    let mut ever = BTreeSet::new();
    for nth in 0..12 {
        // Time enough that no reader is left at the set before the last.
        let report = trial::run_below(&disk.root(), &force, Duration::from_secs(660 * nth));
        assert_eq!(report.exit().code(), 0, "{}", report.done());
        ever.extend(keys(&disk.root()));
    }
    let held: BTreeSet<_> = keys(&disk.root()).into_iter().collect();
    let stand: Vec<_> = keys(&disk.root());
    disk.unmount();
    let retired: Vec<_> = ever.difference(&held).collect();
    assert!(held.len() >= 3 && retired.len() >= 9, "{} held, {} retired", held.len(), retired.len());
    for key in &ever {
        let files = stand.iter().filter(|other| *other == key).count();
        assert_eq!(disk.count(key), files, "{} {key}", if files == 0 { "retired" } else { "held" });
    }
    println!("{} keys that were replaced, freed blocks too: 0 found; {} held", retired.len(), held.len());
}

/// A rename takes nothing from a consumer that is between its open(2) and its read(2), and nor does wiping.
#[test]
fn who_has_just_opened_a_key_reads_it_whole() {
    let site = Site::with(trial::LOCAL);
    let run = |nth: u64, force| {
        let ask = Ask { force, ..Ask::default() };
        assert_eq!(trial::run_below(site.root(), &ask, Duration::from_secs(660 * nth)).exit().code(), 0);
    };
    run(0, false);
    for path in ["etc/plain/plain.key", "etc/web/pki/web.key"] {
        let path = site.root().join(path);
        let (before, mut opened) = (fs::read_to_string(&path).unwrap(), fs::File::open(&path).unwrap());
        run(1, true);
        let mut read = String::new();
        opened.read_to_string(&mut read).unwrap();
        assert!(read == before && fs::read_to_string(&path).unwrap() != before, "{}", path.display());
    }
}

/// The second lines of the keys that lie below a directory, one for each file: the first is the same for all. Not of
/// plain files that consumers read, which are not overwritten under their eyes.
fn keys(root: &Path) -> Vec<String> {
    let key = |path: &Path| {
        let text = fs::read_to_string(path).ok()?;
        text.split_once("PRIVATE KEY-----\n")?.1.lines().nth(1).map(str::to_owned)
    };
    let ours = |path: &Path| !path.starts_with(root.join("etc/plain"));
    let files = files(root);
    files
        .iter()
        .filter(|(path, meta)| meta.is_file() && ours(path))
        .filter_map(|(path, _)| key(path))
        .collect()
}

struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Self {
        let disk = Self(tempfile::TempDir::new().unwrap());
        fs::create_dir(disk.root()).unwrap();
        fs::File::create(disk.image()).unwrap().set_len(24 << 20).unwrap();
        for (program, arguments) in [("mkfs.ext4", vec!["-q", "-F"]), ("mount", vec!["-o", "loop"])] {
            let mut command = Command::new(program);
            command.args(arguments).arg(disk.image());
            if program == "mount" {
                command.arg(disk.root());
            }
            assert!(command.status().unwrap().success(), "{command:?}");
        }
        disk
    }

    fn image(&self) -> PathBuf {
        self.0.path().join("image")
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("disk")
    }

    /// Whether it stands in anything that was ever written and not overwritten.
    fn holds(&self, needle: &str) -> bool {
        assert!(Command::new("sync").arg("--file-system").arg(self.root()).status().unwrap().success());
        self.count(needle) > 0
    }

    fn count(&self, needle: &str) -> usize {
        let found = Command::new("grep").args(["-oaF", "-e", needle]).arg(self.image()).output().unwrap();
        found.stdout.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).count()
    }

    fn unmount(&self) {
        assert!(Command::new("umount").arg(self.root()).status().unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.root()).stderr(Stdio::null()).status();
    }
}

/// Descriptors 0 to 2 that are closed are filled before anything is opened: no message goes into a key file.
#[test]
fn nothing_is_written_into_a_file_that_took_the_place_of_a_closed_stream() {
    let site = Site::with(trial::LOCAL);
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" --root \"$1\" -vv run <&- >&- 2>&-", env!("CARGO_BIN_EXE_nodecert")]);
    trial::undisturbed(&mut command);
    let output = command.arg(site.root()).output().unwrap();
    assert_eq!((output.status.code(), said(&output)), (Some(0), String::new()));
    for (path, _) in files(site.root()) {
        let text = fs::read_to_string(&path).unwrap_or_default();
        assert!(!text.contains("INFO") && !text.contains("obtained"), "{}: {text}", path.display());
    }
    for kept in [WEB_SET, trial::PLAIN_SET] {
        assert!(kept.find(site.root()).unwrap().is_some_and(|set| set.matches()));
    }
}

/// How often these bytes, given inverted so that the search itself holds them nowhere, are in this process' memory.
fn in_memory(inverted: &[u8]) -> usize {
    let mut memory = fs::File::open("/proc/self/mem").unwrap();
    let mut found = 0;
    for line in fs::read_to_string("/proc/self/maps").unwrap().lines() {
        let mut words = line.split(' ');
        let (range, mode) = (words.next().unwrap(), words.next().unwrap());
        let (from, to) = range.split_once('-').unwrap();
        let [from, to] = [from, to].map(|end| u64::from_str_radix(end, 16).unwrap());
        if !mode.starts_with("rw") || to - from > 1 << 30 {
            continue;
        }
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        // A region may be gone by now: the other tests have threads of their own.
        if memory.seek(SeekFrom::Start(from)).is_err() || memory.read_exact(&mut bytes).is_err() {
            continue;
        }
        let is_there = |window: &[u8]| window.iter().zip(inverted).all(|(byte, other)| *byte == !*other);
        found += bytes.windows(inverted.len()).filter(|window| is_there(window)).count();
        bytes.zeroize();
    }
    found
}

#[test]
fn a_key_that_was_made_or_read_and_dropped_is_nowhere_in_memory() {
    for kind in [KeyKind::P256, KeyKind::Ed25519, KeyKind::Rsa2048] {
        for of_a_file in [false, true] {
            let mut key = Key::generate(kind).unwrap();
            if of_a_file {
                let text = Zeroizing::new(key.pem().to_owned());
                key = Key::parse(&text).unwrap();
            }
            let masked = |bytes: &[u8]| bytes.iter().map(|byte| !byte).collect::<Vec<_>>();
            // Where what is secret of it begins, RFC 5958 and RFC 8017; a line holds 48 bytes.
            let begins = if kind == KeyKind::Rsa2048 { 624 } else { 36 };
            let line = key.pem().lines().nth(1 + begins / 48).unwrap();
            let der = Zeroizing::new(BASE64.decode(line).unwrap());
            let (text, bytes) = (masked(&line.as_bytes()[48..]), masked(&der[begins % 48..][..12]));
            drop(der);
            assert!(
                in_memory(&text) > 0 && in_memory(&bytes) > 0,
                "{kind:?}: the search finds what is there"
            );
            drop(key);
            assert_eq!(in_memory(&bytes), 0, "{kind:?} {of_a_file}");
            assert_eq!(in_memory(&text), 0, "{kind:?} {of_a_file}");
        }
    }
}
