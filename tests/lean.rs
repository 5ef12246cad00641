//! What a run must not do when there is nothing to do, as the kernel sees it.

#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod fake;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use fake::{Fake, MOUNT, ROLE, TOKEN};
use tempfile::TempDir;

/// Of a debug build, which makes some more than a release; a slip is seen long before it costs a millisecond.
const MOST_CALLS: usize = 272;

/// A host with one certificate, and the command that runs `nodecert` there.
fn host(fake: &Fake) -> TempDir {
    let root = TempDir::new().unwrap();
    let write = |path: &str, text: &str| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    };
    write("etc/nodecert/tls.pem", &fake.tls_pem());
    write("etc/nodecert/anchors.pem", &fake.anchors_pem());
    write("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
    write("etc/nodecert/config.toml", &configuration(&fake.url));
    root
}

fn configuration(url: &str) -> String {
    format!(
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
auth = [{{ token = "{TOKEN}" }}]

[certificate.web]
ca = "etcd"
common_name = "node01"
dns = ["node01"]
directory = "/etc/web/pki"
"#
    )
}

/// Every system call of a run, a line each.
fn traced(root: &Path) -> Vec<String> {
    let log = root.join("strace");
    let mut strace = Command::new("strace");
    strace.args(["--follow-forks", "--quiet=all", "--signal=none", "--output"]).arg(&log);
    strace.arg(env!("CARGO_BIN_EXE_nodecert")).arg("--root").arg(root).arg("run");
    // Cargo sets it for its tests, and the loader would look for every library there.
    let output = strace.env_remove("LD_LIBRARY_PATH").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect()
}

fn of<'a>(calls: &'a [String], names: &[&str]) -> Vec<&'a String> {
    calls.iter().filter(|call| names.iter().any(|name| call.contains(&format!(" {name}(")))).collect()
}

#[test]
fn a_run_with_nothing_to_do_asks_no_one_writes_nothing_durably_and_starts_nothing() {
    let fake = Fake::start();
    let root = host(&fake);
    let first = traced(root.path());
    assert!(!of(&first, &["connect"]).is_empty() && !of(&first, &["fsync"]).is_empty(), "the trace sees all");
    let (asked, connections) = (fake.asked().len(), fake.connections());

    let calls = traced(root.path());
    // The pair is how tokio hears of signals; nobody asks for interfaces where addresses are configured.
    assert_eq!(of(&calls, &["socket"]), Vec::<&String>::new());
    assert!(of(&calls, &["socketpair"]).iter().all(|call| call.contains("AF_UNIX")));
    assert_eq!(of(&calls, &["connect"]), Vec::<&String>::new());
    assert_eq!(of(&calls, &["fsync", "fdatasync", "rename", "renameat"]), Vec::<&String>::new());
    assert_eq!(of(&calls, &["clone", "clone3", "fork", "vfork"]), Vec::<&String>::new(), "one thread");
    assert_eq!((fake.asked().len(), fake.connections()), (asked, connections));
    assert!(calls.len() <= MOST_CALLS, "{} system calls:\n{}", calls.len(), calls.join("\n"));
}
