//! What a run costs in instructions of the processor: unlike time the same on a busy machine, so that a slip is
//! seen the day it happens. Counted by callgrind; what the kernel does is not in it, see lean.rs for that.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test starts processes, prints figures and fails aloud"
)]

mod bed;
mod fake;

use std::process::Command;

use bed::{Host, provided};
use fake::{Fake, MOUNT, ROLE, TOKEN};

/// A twentieth above what was measured; processors differ a little in what the libraries choose for them.
const FIRST_ISSUE: u64 = 8_120_000;
const NOTHING_TO_DO: u64 = 3_771_000;

/// A host with so many certificates.
fn host(fake: &Fake, count: usize) -> Host {
    let certificates: String = (0..count).map(certificate).collect();
    let host = Host::new();
    host.write("/etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    host.write("/etc/nodecert/tls.pem", &fake.tls_pem());
    host.write("/etc/nodecert/anchors.pem", &fake.anchors_pem());
    host.write_secret("/var/lib/nodecert/secrets/ca", TOKEN);
    host.configure(&format!(
        r#"
[node]
hostname = "node01"
addresses = ["10.0.0.11"]

[ca.etcd]
tls.file = "/etc/nodecert/tls.pem"
anchors.file = "/etc/nodecert/anchors.pem"
[ca.etcd.vault]
urls = ["{}"]
mount = "{MOUNT}"
role = "{ROLE}"
auth = [{{ token = {{ file = "/var/lib/nodecert/secrets/ca" }} }}]
{certificates}"#,
        fake.url
    ));
    host
}

fn certificate(number: usize) -> String {
    format!(
        r#"
[certificate.web{number}]
ca = "etcd"
common_name = "node01"
dns = ["node01"]
usages = ["server", "client"]
directory = "/etc/web{number}/pki"
"#
    )
}

/// Debian 12's valgrind (3.19) does not know openat2(2); that of Debian 13 does, and it is of no moment to it
/// whose libraries the program it watches is linked with.
fn valgrind() -> Command {
    let root = provided("NODECERT_TEST_PUPPET_8");
    let mut command = Command::new(root.join("usr/bin/valgrind.bin"));
    command.env("VALGRIND_LIB", root.join("usr/libexec/valgrind"));
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command
}

fn instructions(host: &Host) -> u64 {
    let mut command = valgrind();
    command.arg(provided("NODECERT_BENCH_BINARY")).arg("--root").arg(host.root()).arg("run");
    // Cargo sets it for its tests, and the loader would look for every library there.
    let output = command.env_remove("LD_LIBRARY_PATH").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let counted = said.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, count)| count);
    counted.unwrap_or_else(|| panic!("no count in {said}")).trim().parse().unwrap()
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_first_issue_and_a_run_with_nothing_to_do_cost_no_more_than_they_did() {
    let fake = Fake::start();
    let host = host(&fake, 1);
    let counted = [instructions(&host), instructions(&host)];
    println!("instructions: first issue {}, nothing to do {}", counted[0], counted[1]);
    assert!(counted[0] <= FIRST_ISSUE && counted[1] <= NOTHING_TO_DO, "{counted:?}");
}

/// What grows with the square of their number shows here long before it is felt. A fortieth more is for what is
/// looked up among the others, in steps that grow with its logarithm.
#[test]
#[ignore = "needs servers: run tests/all"]
fn four_times_as_many_certificates_cost_four_times_as_much() {
    let fake = Fake::start();
    let (few, many) = (host(&fake, 60), host(&fake, 240));
    for what in ["first issue", "nothing to do"] {
        let counted = [instructions(&few), instructions(&many)];
        println!("instructions: {what}, 60 certificates {}, 240 certificates {}", counted[0], counted[1]);
        assert!(counted[1] * 10 <= counted[0] * 41, "{what}: {counted:?}");
    }
}
