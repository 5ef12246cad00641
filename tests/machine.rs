//! Machines with firmware and a kernel of their own, for what the guests of `tests/boot.rs` share with their host.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod bed;

use bed::{Debian, Gate, Guest, Lan, Openbao};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

/// Where the CA is.
const OUTSIDE: &str = "10.99.0.1";

/// systemd(1), "System credentials": in the strings of the firmware's tables, which no user of the machine can read.
#[test]
#[ignore = "needs servers: run tests/all"]
fn a_secret_comes_from_the_firmware() {
    let bao = Openbao::start();
    let pki = bao.pki("web");
    pki.role("web", &json!({}));
    let token = bao.token(&pki.policy());
    let lan = Lan::of(&[OUTSIDE, "10.99.0.11"]);
    let _gate = Gate::new(
        lan.host(0),
        format!("{OUTSIDE}:8200").parse().unwrap(),
        ([127, 0, 0, 1], bao.port()).into(),
    );
    let guest = Guest::new(Debian::Machine, "node01", lan.host(1));
    guest.install();
    guest.write("/etc/nodecert/vault-ca.pem", &bao.tls_pem());
    guest.write("/etc/nodecert/config.toml", &configuration(&pki.mount));
    guest.drop_in("nodecert.service", "[Service]\nLoadCredential=vault-token\n");
    guest.write("/etc/systemd/network/10-dhcp.network", "[Match]\nName=en*\n[Network]\nDHCP=yes\n");
    let units = [("network-online", "systemd-networkd-wait-online"), ("multi-user", "systemd-networkd")];
    for (target, unit) in units {
        let wanted = format!("/etc/systemd/system/{target}.target.wants/{unit}.service");
        guest.link(&wanted, &format!("/usr/lib/systemd/system/{unit}.service"));
    }
    guest.write("/etc/systemd/system/tell.service", TELL);
    guest.link("/etc/systemd/system/multi-user.target.wants/tell.service", "../tell.service");

    let firmware = TempDir::new().unwrap();
    let strings = firmware.path().join("strings");
    std::fs::write(&strings, format!("io.systemd.credential:vault-token={token}")).unwrap();
    std::fs::set_permissions(&strings, PermissionsExt::from_mode(0o600)).unwrap();
    let said = guest.boot_machine(&["-smbios", &format!("type=11,path={}", strings.display())]);
    for line in
        ["going in with token of credential vault-token", "1 certificate and 1 file changed", "usable: 0"]
    {
        assert!(said.contains(line), "{line:?} is not in:\n{said}");
    }
    assert!(!said.contains(&token), "the token is in the journal");
}

fn configuration(mount: &str) -> String {
    format!(
        r#"
[ca.web]
tls.file = "/etc/nodecert/vault-ca.pem"
anchors.published = true
[ca.web.vault]
urls = ["https://{OUTSIDE}:8200"]
mount = "{mount}"
role = "web"
auth = [{{ token = {{ credential = "vault-token" }} }}]

[certificate.web]
ca = "web"
common_name = "node01.example.com"
directory = "/etc/etcd/pki"
"#
    )
}

/// Says what there is to say once everything has started, and switches the machine off.
const TELL: &str = r#"
[Unit]
After=multi-user.target
[Service]
Type=oneshot
StandardOutput=tty
TTYPath=/dev/ttyS0
ExecStart=-/bin/journalctl --no-pager --output=cat
ExecStart=-/bin/sh -c "nodecert status --usable web; echo usable: $$?"
ExecStartPost=/bin/systemctl --no-block poweroff
"#;
