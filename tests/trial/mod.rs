//! A small host that is put on trial: every state of it can be copied, run on, and looked at as a reader
//! of its files would.

// Each test target uses its own part of it.
#![allow(dead_code)]

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nodecert::clock::Clock;
use nodecert::facts::Host;
use nodecert::report::Report;
use nodecert::root::Root;
use nodecert::run::{self, Ask, World};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tempfile::TempDir;

/// The user and group of `web`, known nowhere else.
pub(crate) const WEB: u32 = 4302;
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:4302:4302::/:/bin/false\n";
const GROUP: &str = "root:x:0:\nweb:x:4302:\n";

/// `web` by links and owned by a user of its own, `plain` by files, and a rendered file, on a CA of its own.
pub(crate) const LOCAL: &str = r#"
[node]
hostname = "node01"
domain = "example.com"
addresses = ["10.0.0.11"]

[ca.lab.local]

[certificate.web]
ca = "lab"
common_name = "node01.example.com"
dns = ["node01.example.com"]
ips = ["10.0.0.11"]
directory = "/etc/web/pki"
files = { cert = "web.crt", key = "web.key", ca = "ca.crt", chain = "chain.crt", combined = "web.pem" }
owner = "web"
group = "web"
mode = { key = "0640" }

[certificate.plain]
ca = "lab"
common_name = "plain.example.com"
dns = ["plain.example.com"]
directory = "/etc/plain"
layout = "files"
files = { cert = "plain.crt", key = "plain.key", ca = "ca.crt" }

[file.web-tls]
path = "/etc/web/tls.conf"
template = "/etc/nodecert/tls.conf"
mode = "0640"
"#;

/// A host below a directory of its own.
pub(crate) struct Site {
    root: TempDir,
}

impl Site {
    /// In memory where there is such a place: a test that runs a thousand times is not about the disk.
    pub(crate) fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap();
        fs::set_permissions(root.path(), PermissionsExt::from_mode(0o755)).unwrap();
        Self { root }
    }

    /// With a configuration, users and a machine.
    pub(crate) fn with(configuration: &str) -> Self {
        let site = Self::new();
        furnish(site.root());
        site.write("etc/nodecert/config.toml", configuration);
        site
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.root().join(below)
    }

    /// Another one that is just the same.
    pub(crate) fn copy(&self) -> Self {
        let copy = Self::new();
        let status = Command::new("cp").arg("-a").arg(self.path(".")).arg(copy.root()).status().expect("cp");
        assert!(status.success(), "cannot copy {}", self.root().display());
        copy
    }

    /// Writes a file for its owner alone.
    pub(crate) fn write(&self, below: &str, text: &str) {
        write(&self.path(below), text);
    }

    pub(crate) fn read(&self, below: &str) -> Option<String> {
        fs::read_to_string(self.path(below)).ok()
    }

    /// A run in this process, at a time from now.
    pub(crate) fn run(&self, ask: &Ask, later: Duration) -> Report {
        run_below(self.root(), ask, later)
    }

    /// `nodecert --root HERE ARGUMENTS`.
    pub(crate) fn nodecert(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nodecert"));
        command.arg("--root").arg(self.root()).args(arguments);
        undisturbed(&mut command);
        command
    }
}

impl Site {
    /// `nodecert ARGUMENTS` on a host whose root this is: hooks and all. In a mount namespace and a root
    /// directory of its own, with the programs of the machine; `before` is put in front, as `strace`.
    pub(crate) fn live(&self, before: &[&str], arguments: &[&str]) -> Command {
        const ENTER: &str = r#"set -e
            for name in bin sbin lib lib64; do [ -L "$1/$name" ] || ln -s usr/$name "$1/$name"; done
            mkdir -p "$1/usr" "$1/proc" "$1/dev" "$1/tmp"; [ -e "$1/nodecert" ] || : >"$1/nodecert"
            mount --bind /usr "$1/usr"; mount --rbind /proc "$1/proc"; mount --rbind /dev "$1/dev"
            mount --bind "$2" "$1/nodecert"
            root=$1; shift 2
            exec chroot "$root" "$@""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", ENTER, "sh"]).arg(self.root());
        command.arg(env!("CARGO_BIN_EXE_nodecert")).args(before).arg("/nodecert").args(arguments);
        undisturbed(&mut command);
        command
    }
}

/// What the caller's shell exports decides nothing.
pub(crate) fn undisturbed(command: &mut Command) {
    for variable in ["LD_LIBRARY_PATH", "JOURNAL_STREAM", "NOTIFY_SOCKET"] {
        command.env_remove(variable);
    }
}

/// What a host has before the first run, but for its configuration.
pub(crate) fn furnish(root: &Path) {
    write(&root.join("etc/passwd"), PASSWD);
    write(&root.join("etc/group"), GROUP);
    write(&root.join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n");
    write(&root.join("etc/nodecert/tls.conf"), "server_name {{ fqdn }};\n");
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
}

/// A run of the library below a directory.
pub(crate) fn run_below(root: &Path, ask: &Ask, later: Duration) -> Report {
    let world = World {
        root: Arc::new(Root::open(root).unwrap()),
        host: Host::live().unwrap(),
        clock: Clock::new(move || SystemTime::now() + later),
        tells: false,
        config: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run::run(&world, ask)).expect("a run").0
}

/// Where the set of a certificate lies, and how a reader opens it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept {
    /// From the root.
    pub(crate) directory: &'static str,
    /// The fixed name of the generation in force; none where the files lie there themselves.
    pub(crate) current: Option<&'static str>,
    pub(crate) cert: &'static str,
    pub(crate) key: &'static str,
}

pub(crate) const WEB_SET: Kept = Kept {
    directory: "etc/web/pki",
    current: Some(".nodecert/web/current"),
    cert: "web.crt",
    key: "web.key",
};
pub(crate) const PLAIN_SET: Kept =
    Kept { directory: "etc/plain", current: None, cert: "plain.crt", key: "plain.key" };

/// Which set is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    None,
    Old,
    New,
    /// Half of the new one, between the renames of plain files.
    Window,
}

/// Certificate and key as a reader finds them, through one directory descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Kept {
    /// What a reader finds; nothing where neither is there.
    pub(crate) fn find(&self, root: &Path) -> Result<Option<Set>, String> {
        let directory = root.join(self.directory);
        let directory = self.current.map_or(directory.clone(), |current| directory.join(current));
        let Ok(dir) = fs::File::open(&directory) else { return Ok(None) };
        match (read_at(&dir, self.cert), read_at(&dir, self.key)) {
            (Some(cert), Some(key)) => Ok(Some(Set { cert, key })),
            (None, None) => Ok(None),
            (cert, _) => Err(format!(
                "{} holds a {} alone",
                directory.display(),
                if cert.is_some() { "certificate" } else { "key" }
            )),
        }
    }

    /// What a reader finds after a run that did not end well: the old set or a new one, whole.
    pub(crate) fn standing(&self, root: &Path, before: Option<&Set>) -> Result<Standing, String> {
        // Plain files go one after the other, key first: the documented window of that layout.
        let window = |why: String| if self.current.is_none() { Ok(Standing::Window) } else { Err(why) };
        match self.find(root) {
            Err(half) if before.is_none() => window(half),
            Err(half) => Err(half),
            Ok(None) if before.is_none() => Ok(Standing::None),
            Ok(None) => Err(format!("{} is gone", self.directory)),
            Ok(now) if now.as_ref() == before => Ok(Standing::Old),
            Ok(Some(now)) if now.private_key().is_none() => Err(format!("{}: no key", self.directory)),
            Ok(Some(now)) if !now.matches() => window(format!("{}: mixed", self.directory)),
            Ok(Some(now)) if now.is_trusted(&self.trust(root).unwrap_or_default()) => Ok(Standing::New),
            Ok(Some(_)) => Err(format!("{}: the trust file does not vouch for it", self.directory)),
        }
    }

    /// Its trust file.
    pub(crate) fn trust(&self, root: &Path) -> Option<String> {
        fs::read_to_string(root.join(self.directory).join("ca.crt")).ok()
    }
}

fn read_at(dir: &fs::File, name: &str) -> Option<String> {
    use nix::fcntl::{OFlag, openat};
    // A FIFO that someone planted holds no one up.
    let fd = openat(
        dir,
        name,
        OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )
    .ok()?;
    let mut text = String::new();
    fs::File::from(fd).read_to_string(&mut text).ok()?;
    Some(text)
}

impl Set {
    fn private_key(&self) -> Option<PrivateKeyDer<'static>> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).ok()
    }

    /// Whether the key is that of the certificate.
    pub(crate) fn matches(&self) -> bool {
        let (Some(der), Ok(cert)) =
            (self.private_key(), CertificateDer::from_pem_slice(self.cert.as_bytes()))
        else {
            return false;
        };
        let Ok(key) = rcgen::KeyPair::try_from(&der) else { return false };
        let parsed = x509_parser::parse_x509_certificate(&cert);
        use rcgen::PublicKeyData;
        parsed.is_ok_and(|(_, cert)| cert.public_key().raw == key.subject_public_key_info())
    }

    /// Whether its certificate hangs on one of the trust file, as a TLS client sees it.
    pub(crate) fn is_trusted(&self, trust: &str) -> bool {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(self.cert.as_bytes()).flatten().collect();
        let anchors: Vec<_> = CertificateDer::pem_slice_iter(trust.as_bytes()).flatten().collect();
        let anchors: Vec<_> =
            anchors.iter().filter_map(|a| webpki::anchor_from_trusted_cert(a).ok()).collect();
        let Some((leaf, above)) = chain.split_first() else { return false };
        let Ok(leaf) = webpki::EndEntityCert::try_from(leaf) else { return false };
        let usage = webpki::KeyUsage::server_auth();
        leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            above,
            UnixTime::now(),
            usage,
            None,
            None,
        )
        .is_ok()
    }
}

/// Every file below a directory that is no link: path, metadata.
pub(crate) fn files(directory: &Path) -> Vec<(PathBuf, fs::Metadata)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let meta = entry.path().symlink_metadata().unwrap();
        if meta.is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push((entry.path(), meta));
        }
    }
    found
}

/// Private files that others than they should can read.
pub(crate) fn exposed(root: &Path, secrets: &[&str]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, meta) in files(root).into_iter().filter(|(_, meta)| meta.is_file()) {
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        let private = text.contains("PRIVATE KEY") || secrets.iter().any(|secret| text.contains(secret));
        let readers = meta.mode() & 0o077;
        // web's group may read its key, where it is that group already.
        let granted = path.starts_with(root.join("etc/web")) && meta.gid() == WEB && readers == 0o040;
        if private && readers != 0 && !granted {
            wrong.push(format!("{} {:o} {}:{}", path.display(), meta.mode(), meta.uid(), meta.gid()));
        }
    }
    wrong
}

/// What a run has left that is to have another name or none.
pub(crate) fn drafts(root: &Path) -> Vec<PathBuf> {
    let is_draft = |path: &PathBuf| path.to_string_lossy().ends_with(".nodecert-new");
    files(root).into_iter().map(|(path, _)| path).filter(is_draft).collect()
}
