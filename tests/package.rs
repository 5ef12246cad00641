//! The packages on hosts that run: what they do to one when they come, are replaced, and go. `tests/package`
//! builds them and says where they are.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod bed;

use std::path::PathBuf;
use std::process::Command;

use bed::{Debian, Guest, Lan};

const UNITS: [&str; 2] = ["nodecert.service", "nodecert-renew.timer"];
const KEY: &str = "/etc/etcd/pki/server.key";
const CONFIGURATION: &str = r#"
[node]
addresses = ["10.99.0.11"]
[ca.lab.local]
[etcd]
ca = "lab"
cluster = { node12 = "10.99.0.11", node13 = "10.99.0.13" }
[certificate.etcd-server]
hooks = [{ run = ["/usr/bin/true"] }]
"#;

#[test]
#[ignore = "needs servers: run tests/all"]
fn debian_12_installs_runs_upgrades_and_purges_it() {
    comes_and_goes(Debian::Bookworm, "node12");
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn debian_13_installs_runs_upgrades_and_purges_it() {
    comes_and_goes(Debian::Trixie, "node13");
}

fn comes_and_goes(debian: Debian, name: &str) {
    let lan = Lan::of(&["10.99.0.1", "10.99.0.11"]);
    let mut guest = Guest::new(debian, name, lan.host(1));
    // As in an image: etcd is there, and is started when it has certificates.
    guest.link("/etc/systemd/system/etcd.service", "/dev/null");
    assert_eq!(guest.boot_fully(), "running", "{}", guest.journal(""));
    installs_without_a_configuration(&guest);
    runs_and_tells_a_story(&guest);
    guest.must("rm /etc/systemd/system/etcd.service");
    guest.must("cp -r /usr/share/nodecert/systemd/etcd.service.d /etc/systemd/system/");
    let key = guest.must(&format!("sha256sum {KEY}"));
    upgrades_as_the_administrator_left_it(&guest);
    goes_and_says_what_stays(&guest);
    assert_eq!(guest.must(&format!("sha256sum {KEY}")), key);
}

/// Nothing has failed, and nothing is waited for.
fn installs_without_a_configuration(guest: &Guest) {
    bring(guest, "old.deb");
    guest.must("dpkg --install /root/old.deb");
    for unit in UNITS {
        assert_eq!(guest.run(&format!("systemctl is-enabled {unit}")).stdout.trim(), "enabled", "{unit}");
    }
    assert_eq!(guest.property("nodecert-renew.timer", "ActiveState"), "active");
    guest.must("systemctl start nodecert.service nodecert-renew.service");
    assert_eq!(guest.run("systemctl is-system-running").stdout.trim(), "running", "{}", guest.journal(""));
    // tmpfiles.d: where the sandbox lets it write.
    guest.must("test -d /etc/kubernetes");
    guest.must("nodecert --version");
    guest.must("test -s /usr/share/man/man5/nodecert.toml.5.gz");
}

/// A first issue by the packaged unit: about a dozen lines of ours, which can be searched by field.
fn runs_and_tells_a_story(guest: &Guest) {
    guest.write("/etc/nodecert/config.toml", CONFIGURATION);
    guest.must("systemctl start nodecert.service");
    let story = guest.must("journalctl --boot --output=cat --identifier=nodecert --unit nodecert.service");
    assert!((8..=12).contains(&story.lines().count()), "{story}");
    assert!(story.ends_with("done: 2 certificates and 3 files changed\n"), "{story}");
    let found =
        guest.must("journalctl --boot --output=cat NODECERT_CERTIFICATE=etcd-peer NODECERT_REASON=absent");
    assert_eq!(found, "etcd-peer: asking CA lab: absent\n");
    assert_eq!(guest.must(&format!("stat --dereference --format=%U:%a {KEY}")).trim(), "etcd:600");
}

/// A timer that was switched off stays off; one that was not goes on.
fn upgrades_as_the_administrator_left_it(guest: &Guest) {
    bring(guest, "new.deb");
    guest.must("systemctl disable --now nodecert-renew.timer");
    guest.must("dpkg --install /root/new.deb");
    assert_eq!(guest.run("systemctl is-enabled nodecert-renew.timer").stdout.trim(), "disabled");
    assert_eq!(guest.property("nodecert-renew.timer", "ActiveState"), "inactive");
    assert_eq!(guest.run("systemctl is-enabled nodecert.service").stdout.trim(), "enabled");
    guest.must("systemctl enable nodecert-renew.timer");
    guest.must("dpkg --install /root/old.deb");
    assert_eq!(guest.property("nodecert-renew.timer", "ActiveState"), "inactive", "stopped, and so it stays");
    guest.must("systemctl start nodecert-renew.timer");
    guest.must("dpkg --install /root/new.deb");
    assert_eq!(guest.property("nodecert-renew.timer", "ActiveState"), "active");
    assert!(guest.must("nodecert plan").contains("nothing to do"));
}

fn goes_and_says_what_stays(guest: &Guest) {
    let removed = guest.run("dpkg --remove nodecert");
    assert!(removed.status.success(), "{}{}", removed.stdout, removed.stderr);
    assert!(
        removed.stdout.contains("  /etc/systemd/system/etcd.service.d/10-nodecert.conf\n"),
        "{}",
        removed.stdout
    );
    assert_ne!(guest.property("nodecert-renew.timer", "ActiveState"), "active");
    guest.must(&format!("test -s {KEY}"));

    let purged = guest.run("dpkg --purge nodecert");
    assert!(purged.status.success(), "{}{}", purged.stdout, purged.stderr);
    assert!(purged.stdout.contains("deleted no key"), "{}", purged.stdout);
    for kept in ["/etc/etcd/pki/.nodecert", "/etc/nodecert", "/var/lib/nodecert"] {
        assert!(purged.stdout.contains(&format!("  {kept}\n")), "{kept} is not in\n{}", purged.stdout);
        guest.must(&format!("test -d {kept}"));
    }
    assert_eq!(guest.run("dpkg-query --list nodecert").status.code(), Some(1));
    let links = guest.must("find /etc/systemd /var/lib/systemd/deb-systemd-helper-enabled -name nodecert*");
    assert_eq!(links, "", "left by the package");
    guest.must("test ! -e /run/nodecert");
}

/// What Fedora and RHEL enable by themselves: nothing but what a preset names, systemd.preset(5).
const NOTHING_BY_DEFAULT: (&str, &str) =
    ("/usr/lib/systemd/system-preset/99-default-disable.preset", "disable *\n");
/// rpm is not in the image: the machine's own, with its libraries beside it. No database knows Debian's packages.
const RPM: &str = "#!/bin/sh\nLD_LIBRARY_PATH=/opt/rpm exec /opt/rpm/rpm --force-debian --nodeps \"$@\"\n";

#[test]
#[ignore = "needs servers: run tests/all"]
fn the_rpm_installs_runs_upgrades_and_goes() {
    let lan = Lan::of(&["10.99.0.1", "10.99.0.11"]);
    let mut guest = Guest::new(Debian::Bookworm, "node12", lan.host(1));
    guest.link("/etc/systemd/system/etcd.service", "/dev/null");
    guest.write(NOTHING_BY_DEFAULT.0, NOTHING_BY_DEFAULT.1);
    give_rpm_to(&guest);
    assert_eq!(guest.boot_fully(), "running", "{}", guest.journal(""));
    let is = |what: &str, unit: &str| guest.run(&format!("systemctl {what} {unit}")).stdout.trim().to_owned();

    bring(&guest, "old.rpm");
    guest.must("rpm --install /root/old.rpm");
    guest.must("rpm --verify nodecert");
    for unit in UNITS {
        assert_eq!(is("is-enabled", unit), "enabled", "{unit}");
    }
    assert_eq!(is("is-active", "nodecert-renew.timer"), "active");
    assert_eq!(is("is-active", "nodecert.service"), "inactive", "an installation waits for no CA");
    guest.must("test -d /etc/kubernetes");
    runs_and_tells_a_story(&guest);
    let key = guest.must(&format!("sha256sum {KEY}"));

    bring(&guest, "new.rpm");
    guest.must("systemctl disable --now nodecert-renew.timer");
    guest.must("rpm --upgrade /root/new.rpm");
    assert_eq!(is("is-enabled", "nodecert-renew.timer"), "disabled");
    assert_eq!(is("is-active", "nodecert-renew.timer"), "inactive");
    assert_eq!(is("is-enabled", "nodecert.service"), "enabled");
    guest.must("systemctl enable --now nodecert-renew.timer");
    guest.must("rpm --upgrade --oldpackage /root/old.rpm");
    assert_eq!(is("is-active", "nodecert-renew.timer"), "active");

    guest.must("cp -r /usr/share/nodecert/systemd/etcd.service.d /etc/systemd/system/");
    let gone = guest.must("rpm --erase nodecert");
    assert!(gone.contains("  /etc/systemd/system/etcd.service.d/10-nodecert.conf\n"), "{gone}");
    assert!(gone.contains("deleted no key"), "{gone}");
    assert_eq!(is("is-active", "nodecert-renew.timer"), "inactive");
    assert_eq!(guest.must("find /etc/systemd/system/multi-user.target.wants /etc/systemd/system/timers.target.wants /usr -name *nodecert*"), "");
    assert_eq!(guest.must(&format!("sha256sum {KEY}")), key);
}

/// The C library is the guest's, which is of the same release.
fn give_rpm_to(guest: &Guest) {
    guest.write("/usr/local/bin/rpm", RPM);
    guest.write("/opt/rpm/empty", "");
    let script = r#"
        chmod 0755 "$1/usr/local/bin/rpm"
        cp -r /usr/lib/rpm "$1/usr/lib/"
        cp /usr/bin/rpm "$1/opt/rpm/"
        cp $(ldd /usr/bin/rpm | awk '$3 ~ "^/" && $1 !~ "^lib(c|m)\\." { print $3 }') "$1/opt/rpm/"
    "#;
    let status = Command::new("sh").args(["-euc", script, "sh"]).arg(guest.path("/")).status().unwrap();
    assert!(status.success());
}

/// A package of `tests/package`, into the guest.
fn bring(guest: &Guest, name: &str) {
    let packages =
        std::env::var_os("NODECERT_TEST_PACKAGES").expect("NODECERT_TEST_PACKAGES: run tests/package");
    let content = std::fs::read(PathBuf::from(packages).join(name)).unwrap();
    std::fs::write(guest.path("/root").join(name), content).unwrap();
}
