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
use std::time::{Duration, Instant, SystemTime};

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

/// An hour in short: the CA is away until nodecert has given up and is started again.
#[test]
#[ignore = "needs servers: run tests/all"]
fn etcd_comes_up_within_a_minute_of_a_late_ca() {
    let bao = Openbao::start();
    let pki = authority(&bao);
    let lan = lan(1);
    let gate = gate(&lan, &bao);
    gate.shut();
    let mut guest = member(&lan, &bao, &pki, 1, 1);
    guest.drop_in("nodecert.service", &run_with("--missing --deadline 3s"));
    for (name, wanted) in [("stopped", true), ("disabled", false)] {
        consumer(&guest, name, wanted);
    }

    guest.boot();
    eventually("a run that has given up", || {
        match guest.property("nodecert.service", "NRestarts").as_str() {
            "0" => Err(guest.journal("nodecert.service")),
            _ => Ok(()),
        }
    });
    let last = guest.last_word("nodecert.service");
    assert!(last.contains("Connection refused"), "{last:?}\n{}", guest.journal("nodecert.service"));
    guest.must("systemctl stop stopped.service");
    assert_ne!(guest.property("etcd.service", "ActiveState"), "active");
    gate.open();
    guest.wait_for("etcd.service", "active", Duration::from_secs(60));
    healthy(&guest);
    for name in ["stopped.service", "disabled.service"] {
        assert_eq!(guest.property(name, "ActiveState"), "inactive", "{name}");
    }

    // What is there is enough, and no CA is waited for.
    guest.shut_down();
    gate.shut();
    let began = Instant::now();
    assert_eq!(guest.boot_fully(), "running", "{}", guest.journal(""));
    healthy(&guest);
    println!("a boot with usable certificates and no CA: {:?}", began.elapsed());
}

/// What is due waits for the timer, what is missing is got at boot, and neither stands in its consumers' way.
#[test]
#[ignore = "needs servers: run tests/all"]
fn the_timer_renews_and_the_running_consumer_is_told() {
    let lan = lan(1);
    let mut guest = Guest::new(Debian::Bookworm, "node01", lan.host(1));
    guest.install();
    let wants = |rest: &str| {
        format!(
            "[ca.lab.local]\n[certificate.web]\nca = \"lab\"\nfiles = {{ cert = \"web.crt\", key = \"web.key\" }}\n\
             directory = \"/etc/etcd/web\"\ndns = [\"{{{{ hostname }}}}\"]\nreload = [\"running.service\", \"idle.service\"]\n{rest}\n"
        )
    };
    guest.write("/etc/nodecert/config.toml", &wants("ttl = \"3m\""));
    guest.drop_in("nodecert-renew.timer", "[Timer]\nRandomizedDelaySec=0\n");
    consumer(&guest, "running", true);
    consumer(&guest, "idle", false);
    guest.boot_fully();
    assert_eq!(guest.property("running.service", "ActiveState"), "active", "{}", guest.journal(""));
    let first = guest.must("sha256sum /etc/etcd/web/web.crt");
    guest.shut_down();

    // Two thirds of three minutes are not over, but a fifth is.
    guest.write("/etc/nodecert/config.toml", &wants("ttl = \"30d\"\nrenew_at = 0.2"));
    let stamp =
        std::fs::File::open(guest.path("/var/lib/systemd/timers/stamp-nodecert-renew.timer")).unwrap();
    stamp.set_modified(SystemTime::now() - Duration::from_secs(86_400)).unwrap();
    guest.boot_fully();
    let done = |unit: &str| guest.property(unit, "ExecMainExitTimestampMonotonic") != "0";
    eventually("a renewal", || if done("nodecert-renew.service") { Ok(()) } else { Err(guest.journal("")) });
    assert_eq!(guest.property("nodecert-renew.service", "Result"), "success");
    assert_ne!(guest.must("sha256sum /etc/etcd/web/web.crt"), first);
    assert!(guest.journal("nodecert-renew.service").contains("due since"), "{}", guest.journal(""));
    assert_eq!(reloads(&guest, "running"), 1);
    assert_eq!(guest.property("idle.service", "ActiveState"), "inactive");

    // By hand, from a unit that is ordered before the one it tells.
    guest.must("rm -r /etc/etcd/web");
    let began = Instant::now();
    guest.must("systemctl start nodecert.service");
    assert!(began.elapsed() < Duration::from_secs(30), "the hook waited for {:?}", began.elapsed());
    assert_eq!(reloads(&guest, "running"), 2);
}

/// Three hosts, of which one loses its power twenty times, ten in the run that gets its certificates and ten in one
/// that renews them. Only what a wrapping token held is lost with the answer that it came in.
#[test]
#[ignore = "needs servers: run tests/all"]
fn a_member_whose_power_is_cut_twenty_times_comes_back_by_itself() {
    let bao = Openbao::start();
    let pki = authority(&bao);
    let lan = lan(3);
    let _gate = gate(&lan, &bao);
    let mut guests: Vec<_> = (1..=3).map(|nth| member(&lan, &bao, &pki, nth, 3)).collect();
    guests.iter_mut().for_each(Guest::boot);
    guests.iter().for_each(|guest| healthy(guest));

    let mut last = guests.pop().unwrap();
    let (mut during, mut lost) = (0, 0);
    for round in 0..20 {
        let enrols = round < 10;
        if enrols {
            last.cut_power();
            forget(&last, &pki);
            last.boot();
        } else {
            last.drop_in("nodecert-renew.service", &run_with("--force"));
            last.must("systemctl daemon-reload");
            last.must("systemctl start --no-block nodecert-renew.service");
        }
        let unit = if enrols { "nodecert.service" } else { "nodecert-renew.service" };
        wait_for_start(&last, unit);
        std::thread::sleep(random(Duration::from_millis(400)));
        during += usize::from(last.property(unit, "ActiveState") == "activating");
        last.cut_power();

        last.boot();
        last.wait_until_booted();
        let why = last.last_word("nodecert.service");
        if last.property("nodecert.service", "Result") != "success" {
            // The one exception: it was opened, and what was in it never came to the disk.
            assert!(enrols && why.contains("wrapping token"), "round {round}: {why}");
            lost += 1;
            last.write_secret(SECRET, &pki.wrapped_secret_id());
            last.must("systemctl start nodecert.service");
        }
        healthy(&last);
        last.must("nodecert status --check etcd");
        is_a_pair(&last);
    }
    println!("{during} of 20 cuts in the middle of a run, {lost} answers lost");
    assert!(during >= 5, "{during} of 20 cuts in the middle of a run prove little");
    for guest in &guests {
        healthy(guest);
    }
}

/// As new: no certificate, no state, another secret. What etcd itself has on disk stays.
fn forget(guest: &Guest<'_>, pki: &Pki<'_>) {
    for directory in ["/etc/etcd/pki", "/var/lib/nodecert"] {
        std::fs::remove_dir_all(guest.path(directory)).unwrap();
    }
    guest.write_secret(SECRET, &pki.wrapped_secret_id());
}

fn wait_for_start(guest: &Guest<'_>, unit: &str) {
    let process = || guest.property(unit, "ExecMainStartTimestampMonotonic") != "0";
    eventually("the start of a run", || if process() { Ok(()) } else { Err(guest.journal(unit)) });
}

/// From nothing up to `most`, another each time.
fn random(most: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    most.mul_f64(RandomState::new().hash_one(()) as f64 / u64::MAX as f64)
}

/// Key and certificate belong together, as openssl sees them.
fn is_a_pair(guest: &Guest<'_>) {
    let show =
        |arguments: &str, file: &str| guest.must(&format!("openssl {arguments} -in /etc/etcd/pki/{file}"));
    for name in ["server", "peer"] {
        let certified = show("x509 -noout -pubkey", &format!("{name}.crt"));
        assert_eq!(show("pkey -pubout", &format!("{name}.key")), certified, "{name}");
    }
}

/// A unit that runs once its certificate `web` is usable, and counts how often it is told of a new one.
fn consumer(guest: &Guest<'_>, name: &str, enabled: bool) {
    let unit = format!(
        "[Service]\nExecStart=/bin/sleep infinity\nExecReload=/bin/sh -c 'echo told >>/run/{name}.told'\n\
         [Install]\nWantedBy=multi-user.target\n"
    );
    guest.write(&format!("/etc/systemd/system/{name}.service"), &unit);
    let etcd = std::fs::read_to_string("systemd/etcd.service.d/10-nodecert.conf").unwrap();
    guest.drop_in(&format!("{name}.service"), &etcd.replace("--usable etcd", "--usable"));
    if enabled {
        let wanted = format!("/etc/systemd/system/multi-user.target.wants/{name}.service");
        guest.link(&wanted, &format!("../{name}.service"));
    }
}

fn reloads(guest: &Guest<'_>, name: &str) -> usize {
    guest.read(&format!("/run/{name}.told")).lines().count()
}

/// A drop-in that has `nodecert run` do something else.
fn run_with(arguments: &str) -> String {
    format!("[Service]\nExecStart=\nExecStart=/usr/bin/nodecert run {arguments}\n")
}

/// The nth of so many members, off, with all that it needs for its first boot.
fn member<'a>(lan: &'a Lan, bao: &Openbao, pki: &Pki<'_>, nth: usize, members: usize) -> Guest<'a> {
    let guest = Guest::new(Debian::Bookworm, &format!("node0{nth}"), lan.host(nth));
    guest.install();
    guest.write("/etc/nodecert/config.toml", &configuration(pki, members));
    guest.write("/etc/nodecert/vault-ca.pem", &bao.tls_pem());
    guest.write_secret(SECRET, &pki.wrapped_secret_id());
    guest
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
