//! Hosts that boot: Debian with systemd as PID 1 gets its certificates from a real OpenBao before etcd starts.
//!
//! What is Debian's own runs as it is installed: systemd, cloud-init, etcd. Only a firmware, a kernel and a clock of
//! its own are missing: a guest shares those of the machine.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod bed;

use bed::{Debian, Gate, Guest, Lan, Openbao, Pki, eventually, must};
use serde_json::json;
use std::time::Duration;

/// Where the CA is; members follow from .11 on.
const OUTSIDE: &str = "10.99.0.1";
const SECRET: &str = "/var/lib/nodecert/secrets/etcd";

#[test]
#[ignore = "needs servers: run tests/all"]
fn debian_12_boots_into_a_healthy_etcd() {
    boots_into_a_healthy_etcd(Debian::Bookworm);
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn debian_13_boots_into_a_healthy_etcd() {
    boots_into_a_healthy_etcd(Debian::Trixie);
}

/// From an image and user-data to a member that serves; and the next boot asks no one.
fn boots_into_a_healthy_etcd(debian: Debian) {
    let bao = Openbao::start();
    let pki = authority(&bao);
    let lan = lan(1);
    let gate = gate(&lan, &bao);
    let mut guest = Guest::new(debian, "node01", lan.host(1));
    guest.install();
    guest.user_data(&user_data(&configuration(&pki, 1), &bao.tls_pem(), &pki.wrapped_secret_id()));

    assert_eq!(guest.boot_fully(), "running", "{}", guest.journal(""));
    healthy(&guest);
    let asked = gate.asked();
    assert!(asked > 0, "the certificates came from the CA");
    guest.shut_down();

    assert_eq!(guest.boot_fully(), "running", "{}", guest.journal(""));
    healthy(&guest);
    assert_eq!(gate.asked(), asked, "a host with usable certificates asks the CA nothing");
}

/// The unit is in the image; cloud-init brings what it is to do.
fn user_data(configuration: &str, tls_pem: &str, secret: &str) -> String {
    let file =
        |path: &str, mode: &str, text: &str| json!({"path": path, "permissions": mode, "content": text});
    let files = [
        file("/etc/nodecert/config.toml", "0644", configuration),
        file("/etc/nodecert/vault-ca.pem", "0644", tls_pem),
        file(SECRET, "0600", secret),
    ];
    // JSON is YAML.
    format!("#cloud-config\n{}\n", json!({"write_files": files}))
}

/// A PKI with a role that signs whatever a member asks for.
fn authority(bao: &Openbao) -> Pki<'_> {
    let pki = bao.pki("etcd");
    pki.role("member", &json!({}));
    pki
}

/// The place of the CA and so many members, each with a default route, which names its address.
fn lan(members: usize) -> Lan {
    let addresses: Vec<String> = [OUTSIDE.to_owned()].into_iter().chain((1..=members).map(address)).collect();
    let lan = Lan::of(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
    for nth in 1..=members {
        must(lan.host(nth).command("ip").args(["route", "add", "default", "via", OUTSIDE]));
    }
    lan
}

fn address(nth: usize) -> String {
    format!("10.99.0.{}", 10 + nth)
}

fn gate(lan: &Lan, bao: &Openbao) -> Gate {
    Gate::new(lan.host(0), format!("{OUTSIDE}:8200").parse().unwrap(), ([127, 0, 0, 1], bao.port()).into())
}

/// A member of an etcd cluster of so many, with a wrapped secret_id.
fn configuration(pki: &Pki<'_>, members: usize) -> String {
    let (mount, role_id) = (&pki.mount, &pki.role_id);
    let cluster: Vec<String> =
        (1..=members).map(|nth| format!("node0{nth} = \"{}\"", address(nth))).collect();
    format!(
        r#"
[ca.etcd]
tls.file = "/etc/nodecert/vault-ca.pem"
anchors.published = true
[ca.etcd.vault]
urls = ["https://{OUTSIDE}:8200"]
mount = "{mount}"
role = "member"
auth = [{{ approle = {{ role_id = "{role_id}", secret_id = {{ file = "{SECRET}" }}, wrapped = true }} }}]
[etcd]
ca = "etcd"
cluster = {{ {} }}
"#,
        cluster.join(", ")
    )
}

/// The unit runs, and a client with the member's own certificate gets an answer.
fn healthy(guest: &Guest<'_>) {
    guest.wait_for("etcd.service", "active", Duration::from_secs(60));
    eventually("a healthy etcd", || {
        let ended = guest.run(
            "env ETCDCTL_API=3 etcdctl --endpoints https://127.0.0.1:2379 --cacert /etc/etcd/pki/ca.crt \
             --cert /etc/etcd/pki/server.crt --key /etc/etcd/pki/server.key endpoint health",
        );
        if ended.status.success() { Ok(()) } else { Err(ended.stderr) }
    });
}
