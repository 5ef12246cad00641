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

use bed::{Authority, Daemon, Debian, Gate, Guest, Lan, Openbao, Pki, eventually, must, provided};
use serde_json::json;
use std::path::Path;
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
    let secret = pki.wrapped_secret_id();
    let mut guest = clouded("unit", debian, &lan, &pki, &bao.tls_pem(), &secret);

    assert_eq!(guest.boot_fully(), "running", "{}", guest.journal(""));
    healthy(&guest);
    let asked = gate.asked();
    assert!(asked > 0, "the certificates came from the CA");
    let kept = guest.run(&format!("grep -rl {secret} /var/lib/cloud /run/cloud-init /var/log"));
    assert_eq!(kept.stdout, "", "the secret is still in what cloud-init keeps");
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
        consumer(&guest, name, wanted, "etcd");
    }
    guest.write("/etc/nodecert/config.d/web.toml", LONE);
    consumer(&guest, "usable", true, "web");

    guest.boot();
    eventually("a run that has given up", || {
        match guest.property("nodecert.service", "NRestarts").as_str() {
            "0" => Err(guest.journal("nodecert.service")),
            _ => Ok(()),
        }
    });
    let last = guest.last_word("nodecert.service");
    assert!(last.contains("Connection refused"), "{last:?}\n{}", guest.journal("nodecert.service"));
    assert_eq!(
        guest.property("usable.service", "ActiveState"),
        "active",
        "what another one lacks is not its concern"
    );
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

/// As on the first host of a site: what it asks for its certificates is started by the same boot, after nodecert has begun.
#[test]
#[ignore = "needs servers: run tests/all"]
fn a_vault_on_the_very_host_starts_and_signs_for_it() {
    let mut bao = Openbao::start();
    let lan = lan(1);
    let pki = authority(&bao);
    let mut guest = member(&lan, &bao, &pki, 1, 1);
    let here = configuration(&pki, 1).replace(&format!("https://{OUTSIDE}:8200"), &bao.url());
    guest.write("/etc/nodecert/config.toml", &here);
    let (binds, unit) = bao.moved();
    binds.iter().for_each(|bind| guest.option(bind));
    guest.write("/etc/systemd/system/openbao.service", &unit);
    guest.link("/etc/systemd/system/multi-user.target.wants/openbao.service", "../openbao.service");

    guest.boot();
    guest.wait_for("etcd.service", "active", Duration::from_secs(60));
    healthy(&guest);
    let number = |unit: &str, property: &str| guest.property(unit, property).parse::<u64>().unwrap();
    assert!(
        number("nodecert.service", "InactiveEnterTimestampMonotonic")
            > number("openbao.service", "ActiveEnterTimestampMonotonic"),
        "the one waited for the other: {}",
        guest.journal("")
    );
}

/// A real kubelet that the drop-in holds back. That it is right with kube-apiserver too is what `tests/kubernetes.rs` shows.
#[test]
#[ignore = "needs servers: run tests/all"]
fn a_kubelet_comes_up_within_a_minute_of_a_late_ca() {
    let bao = Openbao::start();
    let pki = authority(&bao);
    let node = |server: bool| json!({ "organization": ["system:nodes"], "server_flag": server, "client_flag": !server });
    pki.role("kubelet-client", &node(false));
    pki.role("kubelet-server", &node(true));
    let lan = lan(1);
    let gate = gate(&lan, &bao);
    gate.shut();
    let mut guest = worker(&lan, &bao, &pki);
    guest.drop_in("nodecert.service", &format!("{}RestartSec=3s\n", run_with("--missing --deadline 3s")));
    guest.boot();
    guest.wait_for("nodecert.service", "auto-restart", Duration::from_secs(60));
    guest.wait_for("kubelet.service", "auto-restart", Duration::from_secs(60));
    let said = guest.journal("kubelet.service");
    assert!(said.contains("kubelet-serving is missing"), "{said}");
    assert_eq!(guest.property("kubelet.service", "ExecMainStartTimestampMonotonic"), "0", "it did start");
    gate.open();
    guest.wait_for("kubelet.service", "running", Duration::from_secs(60));
    serves(&guest);
    let asked = gate.asked();
    guest.shut_down();

    gate.shut();
    guest.boot();
    guest.wait_for("kubelet.service", "running", Duration::from_secs(60));
    serves(&guest);
    assert_eq!(gate.asked(), asked, "a host with usable certificates asks the CA nothing");
}

/// What is due waits for the timer, what is missing is got at boot, and neither stands in its consumers' way.
#[test]
#[ignore = "needs servers: run tests/all"]
fn the_timer_renews_and_the_running_consumer_is_told() {
    let lan = lan(1);
    let told = "reload = [\"running.service\", \"idle.service\"]";
    let mut guest = lone(&lan, &format!("{told}\nttl = \"3m\"\n[node]\ninterval = \"20s\""));
    guest.drop_in("nodecert-renew.timer", "[Timer]\nRandomizedDelaySec=0\n");
    consumer(&guest, "idle", false, "web");
    guest.boot_fully();
    assert_eq!(guest.property("running.service", "ActiveState"), "active", "{}", guest.journal(""));
    let first = guest.must("sha256sum /etc/etcd/web/web.crt");
    guest.shut_down();

    // Two thirds of three minutes are not over, but a fifth is.
    guest.write(
        "/etc/nodecert/config.d/later.toml",
        "[certificate.web]\nttl = \"30d\"\nrenew_at = 0.2\n[node]\ninterval = \"1h\"\n",
    );
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

/// What it has read while it started may be the old certificate, and a reload would be refused.
#[test]
#[ignore = "needs servers: run tests/all"]
fn a_consumer_that_is_still_starting_is_told_once_it_has_started() {
    let lan = lan(1);
    let mut guest = lone(&lan, "reload = [\"slow.service\"]");
    let unit = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'until test -e /run/go; do sleep 0.1; done'\n\
                ExecReload=/bin/sh -c 'echo told >>/run/slow.told'\n";
    guest.write("/etc/systemd/system/slow.service", unit);
    guest.boot_fully();
    guest.must("systemctl start --no-block slow.service");
    guest.wait_for("slow.service", "activating", Duration::from_secs(60));

    let run = guest.run("nodecert run --force");
    assert_eq!(run.status.code(), Some(75), "{}{}", run.stdout, run.stderr);
    assert!(
        run.stdout.contains("owed      reload slow.service  waits until it has started"),
        "{}",
        run.stdout
    );
    guest.must("touch /run/go");
    guest.wait_for("slow.service", "active", Duration::from_secs(60));
    guest.must("nodecert run");
    assert_eq!(reloads(&guest, "slow"), 1);
    assert!(guest.must("nodecert run").contains("nothing to do"));
}

/// A host that is not ready when nodecert is: how so, what the journal says last, and what makes it ready.
struct Unready {
    prepare: fn(&mut Guest<'_>),
    says: &'static str,
    mend: &'static str,
}

/// In each case its consumer comes up when the host is as it should be, and nobody starts it.
#[test]
#[ignore = "needs servers: run tests/all"]
fn a_host_that_is_not_ready_yet_says_why_and_comes_up_when_it_is() {
    let cases = [
        Unready {
            prepare: |guest| {
                guest.option("--hostname=localhost");
                guest.write("/etc/hostname", "localhost\n");
            },
            says: "this host has no name yet",
            mend: "hostname node01",
        },
        Unready {
            prepare: |guest| {
                guest.write("/etc/nodecert/config.d/owner.toml", "[certificate.web]\nowner = \"web\"\n");
            },
            says: "the user \"web\" is not known here",
            mend: "useradd web",
        },
        Unready {
            prepare: |guest| guest.write("/etc/fstab", "tmpfs /etc/etcd tmpfs size=4k 0 0\n"),
            says: "No space left on device",
            mend: "mount -o remount,size=1m /etc/etcd",
        },
        Unready {
            prepare: |guest| guest.write("/etc/fstab", "/etc /etc none bind,ro 0 0\n"),
            says: "Read-only file system",
            mend: "mount -o remount,bind,rw /etc",
        },
    ];
    let lan = lan(1);
    for case in cases {
        let mut guest = lone(&lan, "");
        (case.prepare)(&mut guest);
        guest.drop_in("nodecert.service", "[Service]\nRestartSec=3s\n");
        guest.boot();
        guest.wait_for("nodecert.service", "auto-restart", Duration::from_secs(60));
        let last = guest.last_word("nodecert.service");
        assert!(
            last.contains(case.says),
            "{last:?} does not say {:?}\n{}",
            case.says,
            guest.journal("nodecert.service")
        );
        let seen = || if guest.console().contains(case.says) { Ok(()) } else { Err(guest.console()) };
        eventually("its last word on the console", seen);
        assert_ne!(guest.property("running.service", "ActiveState"), "active");
        guest.must(case.mend);
        guest.wait_for("running.service", "active", Duration::from_secs(60));
    }
}

/// What only a person can mend is not tried again and again, and the host boots all the same.
#[test]
#[ignore = "needs servers: run tests/all"]
fn a_fault_of_the_configuration_is_said_once() {
    let lan = lan(1);
    let mut guest = lone(&lan, "colour = \"red\"");
    guest.drop_in("nodecert.service", "[Service]\nRestartSec=1s\n");
    guest.boot();
    guest.wait_for("multi-user.target", "active", Duration::from_secs(60));
    // Longer than it would take to be tried again.
    std::thread::sleep(Duration::from_secs(3));
    let is = |property: &str| guest.property("nodecert.service", property);
    assert_eq!([is("ActiveState"), is("ExecMainStatus"), is("NRestarts")], ["failed", "78", "0"]);
    assert!(guest.console().contains("config.toml"), "{}", guest.console());

    let configuration = guest.read("/etc/nodecert/config.toml").replace("colour = \"red\"", "");
    guest.write("/etc/nodecert/config.toml", &configuration);
    guest.must("systemctl start nodecert.service");
    guest.wait_for("running.service", "active", Duration::from_secs(60));
}

/// While the kernel asks whether another host has it (RFC 4862, 5.4), an address is tentative. Here it asks for long.
#[test]
#[ignore = "needs servers: run tests/all"]
fn an_address_that_may_be_another_hosts_is_in_no_certificate() {
    let lan = lan(1);
    let inside = |script: &str| must(lan.host(1).command("sh").args(["-euc", script]));
    inside("echo 10000 >/proc/sys/net/ipv6/conf/eth0/dad_transmits; ip address add fd99::11/64 dev eth0");
    let mut guest = lone(&lan, "ips = [\"{{ addresses }}\"]\n[node]\nsettle = \"1s\"");
    guest.boot_fully();
    let names = || guest.must("openssl x509 -noout -ext subjectAltName -in /etc/etcd/web/web.crt");
    assert!(names().ends_with("IP Address:10.99.0.11\n"), "{}", names());
    let facts = guest.must("nodecert facts");
    assert!(facts.contains("fd99::11 (eth0)") && facts.contains("tentative"), "{facts}");

    inside("ip address delete fd99::11/64 dev eth0; ip address add fd99::11/64 dev eth0 nodad");
    eventually("a certificate with both addresses", || {
        guest.must("systemctl start nodecert-renew.service");
        if names().contains("IP Address:FD99:0:0:0:0:0:0:11") { Ok(()) } else { Err(names()) }
    });
}

/// Without what a network brings, a CA that is there cannot be reached.
#[test]
#[ignore = "needs servers: run tests/all"]
fn a_late_network_and_a_late_dns_hold_nothing_up_for_good() {
    let bao = Openbao::start();
    let pki = authority(&bao);
    let lan = lan(2);
    let _gate = gate(&lan, &bao);
    for late in ["address", "name"] {
        let mut guest = member(&lan, &bao, &pki, 1, 1);
        guest.drop_in("nodecert.service", &format!("{}RestartSec=3s\n", run_with("--missing --deadline 3s")));
        let ip = |arguments: &str| must(lan.host(1).command("ip").args(arguments.split(' ')));
        match late {
            "address" => drop(ip("address flush dev eth0")),
            _ => guest.write(
                "/etc/nodecert/config.d/name.toml",
                "[ca.etcd.vault]\nurls = [\"https://vault.example.com:8200\"]\n",
            ),
        }
        guest.boot();
        guest.wait_for("nodecert.service", "auto-restart", Duration::from_secs(60));
        let last = guest.last_word("nodecert.service");
        let mut dns = None;
        if late == "address" {
            assert!(last.contains("Network is unreachable"), "{last}");
            ip(&format!("address add {}/24 dev eth0", address(1)));
            ip(&format!("route add default via {OUTSIDE}"));
        } else {
            assert!(last.contains("failed to lookup address"), "{last}");
            dns = Some(name_server(&lan));
            guest.write("/etc/resolv.conf", &format!("nameserver {OUTSIDE}\n"));
        }
        guest.wait_for("etcd.service", "active", Duration::from_secs(60));
        healthy(&guest);
        drop(dns);
    }
}

/// A guest has the clock of the machine, so here it is the server that lives in another time: to the host it is
/// the same as if its own clock stood in the past.
#[test]
#[ignore = "needs servers: run tests/all"]
fn a_wrong_clock_is_called_by_its_name() {
    let lan = lan(1);
    let tomorrow = SystemTime::now() + Duration::from_secs(86_400);
    let authority = Authority::new("tomorrow");
    let certificate = authority.issue_from(&[OUTSIDE], tomorrow);
    let directory = tempfile::TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(directory.path().join(name), text).unwrap();
        directory.path().join(name).to_str().unwrap().to_owned()
    };
    let (cert, key) = (file("crt", &certificate.certificate), file("key", &certificate.key));
    let address = format!("{OUTSIDE}:8200");
    let argv = ["openssl", "s_server", "-accept", &address, "-cert", &cert, "-key", &key, "-quiet"];
    let _server = Daemon::start(Some(lan.host(0).command("env")), &argv, &directory.path().join("log"));

    let mut guest = lone(&lan, "");
    let ca = format!(
        "[ca.lab]\ntls.file = \"/etc/nodecert/tls.pem\"\nanchors.published = true\n\
         [ca.lab.vault]\nurls = [\"https://{address}\"]\nmount = \"pki\"\nrole = \"web\"\nauth = [{{ token = \"none\" }}]\n"
    );
    let configuration = guest.read("/etc/nodecert/config.toml").replace("[ca.lab.local]\n", &ca);
    guest.write_secret("/etc/nodecert/config.toml", &configuration);
    guest.write("/etc/nodecert/tls.pem", &authority.pem());
    // A deadline that is longer than systemd would wait: nodecert asks for more time.
    guest
        .drop_in("nodecert.service", &format!("{}TimeoutStartSec=4s\n", run_with("--missing --deadline 5s")));
    guest.boot();
    guest.wait_for("nodecert.service", "auto-restart", Duration::from_secs(60));
    let last = guest.last_word("nodecert.service");
    assert!(last.contains("this host's clock says"), "{last}");
    assert_eq!(guest.property("nodecert.service", "ExecMainStatus"), "75");
}

/// nodecert's state lies on a disk that is there some seconds after all others: the run waits for it, and so
/// nothing lies hidden below the place where it is mounted.
#[test]
#[ignore = "needs servers: run tests/all"]
fn state_on_a_late_disk_is_waited_for() {
    let lan = lan(1);
    let mut guest = lone(&lan, "");
    guest.write(
        "/etc/systemd/system/disk.service",
        "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=/bin/sleep 2\nRemainAfterExit=yes\n",
    );
    guest.write("/etc/fstab", "tmpfs /var/lib/nodecert tmpfs nofail,x-systemd.requires=disk.service 0 0\n");
    guest.boot_fully();
    guest.wait_for("running.service", "active", Duration::from_secs(60));
    guest.must("umount /var/lib/nodecert");
    assert_eq!(guest.must("ls -A /var/lib/nodecert"), "");
}

/// nodecert itself says what its units have to be let do, for a place that is not there and one that they hide.
#[test]
#[ignore = "needs servers: run tests/all"]
fn a_configuration_that_writes_elsewhere_works_with_the_drop_in_it_asks_for() {
    let lan = lan(1);
    let mut guest = lone(&lan, "");
    guest.write(
        "/etc/nodecert/config.d/elsewhere.toml",
        "[certificate.web]\ndirectory = \"/srv/web/pki\"\n\
         [file.note]\npath = \"/root/notes/note\"\ntemplate = \"/etc/nodecert/note\"\n",
    );
    guest.write("/etc/nodecert/note", "{{ hostname }}\n");
    guest.boot_fully();
    let last = guest.last_word("nodecert.service");
    assert!(last.contains("nodecert plan --read-write-paths"), "{last}");

    let drop_in = guest.must("nodecert plan --read-write-paths");
    for unit in ["nodecert.service", "nodecert-renew.service"] {
        guest.drop_in(unit, &drop_in);
    }
    guest.must("systemctl daemon-reload");
    // Not start, which waits until the unit's own next attempt.
    guest.must("systemctl restart nodecert.service");
    guest.wait_for("running.service", "active", Duration::from_secs(60));
    assert_eq!(guest.must("cat /root/notes/note"), "node01\n");
    assert_eq!(guest.must("stat --format=%a /srv/web").trim(), "755");
    guest.must("rm -r /srv/web");
    guest.must("systemctl start nodecert-renew.service");
    guest.must("nodecert status --usable web");
}

/// What a command of `hooks` finds out about the sandbox that it runs in.
const PROBE: &str = r#"
import os, socket
out = open("/var/lib/nodecert/probe", "w")
def tries(what, deed):
    try:
        deed()
        out.write(f"{what}: done\n")
    except OSError as error:
        out.write(f"{what}: {error.strerror}\n")
def sends(to):
    return lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"", (to, 9))
tries("make a directory", lambda: os.mkdir("/etc/etcd/probe"))
tries("give it away", lambda: os.chown("/etc/etcd/probe", 4242, 4242))
tries("change its mode", lambda: os.chmod("/etc/etcd/probe", 0o751))
tries("rename it", lambda: os.rename("/etc/etcd/probe", "/etc/etcd/probed"))
tries("send to a host", sends("10.99.0.1"))
tries("send to a group", sends("239.1.2.3"))
tries("let others act as root", lambda: os.chmod("/etc/etcd/probed", 0o4751))
tries("change a program", lambda: open("/usr/bin/probe", "w"))
tries("read another's home", lambda: open("/root/.profile"))
tries("become someone else", lambda: os.setuid(4242))
"#;

/// With all that a machine's own systemd may do, so that it can filter addresses, too.
#[test]
#[ignore = "needs servers: run tests/all"]
fn the_sandbox_holds_and_lets_a_hook_do_its_work() {
    let lan = lan(1);
    let hook = "hooks = [{ on = [\"leaf\"], run = [\"/usr/bin/python3\", \"/etc/nodecert/probe.py\"] }]";
    let mut guest = lone(&lan, hook);
    guest.write("/etc/nodecert/probe.py", PROBE);
    guest.option("--capability=all");
    guest.option("--system-call-filter=bpf");
    guest.boot();
    guest.wait_for("running.service", "active", Duration::from_secs(60));
    assert_eq!(
        guest.read("/var/lib/nodecert/probe").lines().collect::<Vec<_>>(),
        [
            "make a directory: done",
            "give it away: done",
            "change its mode: done",
            "rename it: done",
            "send to a host: done",
            "send to a group: Operation not permitted",
            "let others act as root: Operation not permitted",
            "change a program: Read-only file system",
            "read another's home: No such file or directory",
            "become someone else: Operation not permitted",
        ]
    );
    assert_eq!(guest.property("nodecert.service", "Result"), "success");
}

/// From the machine below, from a file, and encrypted to this host: systemd.exec(5), "Credentials".
#[test]
#[ignore = "needs servers: run tests/all"]
fn a_secret_comes_as_a_credential_in_each_way_that_systemd_has() {
    let bao = Openbao::start();
    let pki = authority(&bao);
    let lan = lan(1);
    let _gate = gate(&lan, &bao);
    let token = bao.token(&pki.policy());
    let mut guest = member(&lan, &bao, &pki, 1, 1);
    guest.write(
        "/etc/nodecert/config.d/login.toml",
        "[ca.etcd.vault]\nauth = [{ token = { credential = \"vault-token\" } }]\n",
    );
    guest.option(&format!("--set-credential=vault-token:{token}"));
    guest.drop_in("nodecert.service", "[Service]\nLoadCredential=vault-token\n");
    guest.boot_fully();
    healthy(&guest);

    guest.write_secret("/etc/credstore/vault-token", &token);
    guest.shell(
        "systemd-creds encrypt --with-key=host --name=vault-token /etc/credstore/vault-token /etc/credstore/vault-token.cred",
    );
    for source in [
        "LoadCredential=vault-token:/etc/credstore/vault-token",
        "LoadCredentialEncrypted=vault-token:/etc/credstore/vault-token.cred",
    ] {
        guest.drop_in("nodecert.service", &format!("[Service]\n{source}\n"));
        guest.must("systemctl daemon-reload");
        guest.must("rm -r /etc/etcd/pki");
        guest.must("systemctl start nodecert.service");
        guest.must("nodecert status --usable etcd");
    }
    assert!(!guest.journal("").contains(&token));
}

/// A name server for `vault.example.com`, where the CA is.
fn name_server(lan: &Lan) -> Daemon {
    let argv = [
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-hosts",
        "--no-resolv",
        "--user=root",
        "--pid-file=",
        &format!("--listen-address={OUTSIDE}"),
        "--bind-interfaces",
        &format!("--address=/vault.example.com/{OUTSIDE}"),
    ];
    Daemon::start(Some(lan.host(0).command("env")), &argv, Path::new("/dev/null"))
}

/// A CA of the host's own, and a certificate of it.
const LONE: &str = r#"
[ca.lab.local]
[certificate.web]
ca = "lab"
dns = ["{{ hostname }}"]
files = { cert = "web.crt", key = "web.key" }
directory = "/etc/etcd/web"
"#;

/// A host with a CA of its own, the certificate `web` and its consumer `running.service`.
fn lone<'a>(lan: &'a Lan, rest: &str) -> Guest<'a> {
    let guest = Guest::new(Debian::Bookworm, "node01", lan.host(1));
    guest.install();
    guest.write("/etc/nodecert/config.toml", &format!("{LONE}{rest}\n"));
    consumer(&guest, "running", true, "web");
    guest
}

/// Three hosts, of which one loses its power twenty times, or `NODECERT_TEST_CUTS` times, in turn in the run that gets
/// its certificates and in one that renews them. Only what a wrapping token held is lost with the answer that it came in.
#[test]
#[ignore = "needs servers: run tests/all"]
fn a_member_whose_power_is_cut_again_and_again_comes_back_by_itself() {
    let bao = Openbao::start();
    let pki = authority(&bao);
    let lan = lan(3);
    let _gate = gate(&lan, &bao);
    let mut guests: Vec<_> = (1..=3).map(|nth| member(&lan, &bao, &pki, nth, 3)).collect();
    guests.iter_mut().for_each(Guest::boot);
    guests.iter().for_each(|guest| healthy(guest));

    let mut last = guests.pop().unwrap();
    // In mid-run, and how late at most, which follows the length of a run: of those that enrol, of those that renew.
    let (mut during, mut latest) = ([0, 0], [Duration::from_millis(100); 2]);
    let (mut rounds, mut lost) = (0, 0);
    let least = std::env::var("NODECERT_TEST_CUTS").map_or(20, |cuts| cuts.parse().unwrap());
    while rounds < least || during.iter().any(|&met| met < 5) {
        assert!(rounds < 2 * least, "{during:?} of {rounds} cuts in the middle of a run prove little");
        let enrols = rounds % 2 == 0;
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
        let run = wait_for_run(&last, unit);
        std::thread::sleep(random(latest[rounds % 2]));
        let met = run.is_some() && last.running() == run;
        last.cut_power();
        during[rounds % 2] += usize::from(met);
        latest[rounds % 2] = latest[rounds % 2].mul_f64(if met { 1.3 } else { 0.7 });

        last.boot();
        last.wait_until_booted();
        let why = last.last_word("nodecert.service");
        // Or passed over: nothing was left to do.
        if last.property("nodecert.service", "Result") != "success" {
            // The one exception: it was opened, and what was in it never came to the disk.
            assert!(enrols && why.contains("wrapping token"), "round {rounds}: {why}");
            lost += 1;
            last.write_secret(SECRET, &pki.wrapped_secret_id());
            last.must("systemctl restart nodecert.service");
        }
        healthy(&last);
        last.must("nodecert status --check etcd");
        is_a_pair(&last);
        rounds += 1;
    }
    println!("{during:?} of {rounds} cuts in the middle of a run: 0 mixed sets, {lost} answers lost");
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

/// The run that a unit starts, as soon as it is there; none if it was over before anyone could look.
fn wait_for_run(guest: &Guest<'_>, unit: &str) -> Option<u32> {
    eventually("the start of a run", || {
        for _ in 0..200 {
            if let Some(run) = guest.running() {
                return Ok(Some(run));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let missed = guest.property(unit, "ExecMainExitTimestampMonotonic") != "0";
        if missed { Ok(None) } else { Err(guest.journal(unit)) }
    })
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

/// A unit that runs once what it needs is usable, and counts how often it is told of a change.
fn consumer(guest: &Guest<'_>, name: &str, enabled: bool, needs: &str) {
    let unit = format!(
        "[Service]\nExecStart=/bin/sleep infinity\nExecReload=/bin/sh -c 'echo told >>/run/{name}.told'\n\
         [Install]\nWantedBy=multi-user.target\n"
    );
    guest.write(&format!("/etc/systemd/system/{name}.service"), &unit);
    let etcd = std::fs::read_to_string("systemd/etcd.service.d/10-nodecert.conf").unwrap();
    guest.drop_in(&format!("{name}.service"), &etcd.replace("--usable etcd", &format!("--usable {needs}")));
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

/// How long nodecert.service, and the check before it, hold up what comes after them, and how much of that systemd itself
/// takes for the sandbox: a unit of the same settings that runs /bin/true. Processor time hardly depends on what else
/// the machine does.
#[test]
#[ignore = "needs servers: run tests/all"]
fn a_boot_is_held_up_for_moments_only() {
    let bao = Openbao::start();
    let pki = authority(&bao);
    let lan = lan(1);
    let _gate = gate(&lan, &bao);
    let mut guest = member(&lan, &bao, &pki, 1, 1);
    idle_in_the_sandbox(&guest);
    let (mut first, mut later, mut idle) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        for (held, runs) in [(&mut first, "yes"), (&mut later, "no")] {
            guest.boot_fully();
            assert_eq!(guest.property("nodecert.service", "ConditionResult"), runs);
            held.push(held_up(&guest, &["nodecert-check.service", "nodecert.service"]));
            idle.push(held_up(&guest, &["idle.service"]));
            // A cluster that is there is not to be founded again: that changes etcd's configuration, once.
            healthy(&guest);
            guest.must("nodecert run");
            guest.cut_power();
        }
        forget(&guest, &pki);
    }
    let [first, later, idle] = [first, later, idle].map(median);
    for (what, (held, busy)) in
        [("two certificates to get", first), ("nothing to do", later), ("/bin/true in the sandbox", idle)]
    {
        println!("{what}: a boot is held up for {held:?}, of processor time {busy:?}");
    }
    assert!(first.0 < Duration::from_secs(3) && later.0 < Duration::from_millis(500), "{first:?}, {later:?}");
    // A build for tests is five times as slow.
    if std::env::var_os("NODECERT_TEST_DEB").is_some() {
        assert!(first.1 < idle.1 * 5 / 2 && later.1 < idle.1 / 4, "{first:?}, {later:?}, {idle:?}");
    }
}

/// A unit beside nodecert.service that does nothing, just as well protected.
fn idle_in_the_sandbox(guest: &Guest<'_>) {
    let unit = std::fs::read_to_string("systemd/nodecert.service").unwrap();
    let sandbox = &unit[unit.find("ProtectSystem=strict").unwrap()..unit.find("[Install]").unwrap()];
    let unit =
        format!("[Unit]\nAfter=nodecert.service\n[Service]\nType=oneshot\nExecStart=/bin/true\n{sandbox}");
    guest.write("/etc/systemd/system/idle.service", &unit);
    guest.link("/etc/systemd/system/multi-user.target.wants/idle.service", "../idle.service");
}

/// From the begin of the first one's start to the last one's end, and the processor time of them all. A unit that is passed
/// over ends when its condition was looked at.
fn held_up(guest: &Guest<'_>, units: &[&str]) -> (Duration, Duration) {
    let number = |unit: &&str, property: &str| guest.property(unit, property).parse::<u64>().unwrap_or(0);
    let ends = |unit: &&str| {
        ["InactiveEnterTimestampMonotonic", "ConditionTimestampMonotonic"]
            .map(|property| number(unit, property))
            .into_iter()
            .max()
    };
    let began = number(&units[0], "InactiveExitTimestampMonotonic");
    let ended = units.iter().filter_map(ends).max().unwrap();
    let busy = units.iter().map(|unit| number(unit, "CPUUsageNSec")).sum();
    assert!(began > 0 && ended > began && busy > 0, "{units:?} did not run");
    (Duration::from_micros(ended - began), Duration::from_nanos(busy))
}

fn median(all: Vec<(Duration, Duration)>) -> (Duration, Duration) {
    let (mut held, mut busy): (Vec<_>, Vec<_>) = all.into_iter().unzip();
    let middle = |all: &mut Vec<Duration>| {
        all.sort_unstable();
        all[all.len() / 2]
    };
    (middle(&mut held), middle(&mut busy))
}

/// The two other ways; the first is that of the first tests.
#[test]
#[ignore = "needs servers: run tests/all"]
fn bootcmd_and_runcmd_of_cloud_init_end_in_a_healthy_etcd_too() {
    let bao = Openbao::start();
    let pki = authority(&bao);
    let lan = lan(1);
    let _gate = gate(&lan, &bao);
    for way in ["bootcmd", "runcmd"] {
        let mut guest = clouded(way, Debian::Bookworm, &lan, &pki, &bao.tls_pem(), &pki.wrapped_secret_id());
        for boot in ["first", "second"] {
            assert_eq!(guest.boot_fully(), "running", "{way}, {boot} boot: {}", guest.journal(""));
            healthy(&guest);
            guest.shut_down();
        }
    }
}

/// A host whose image is as an example of packaging/examples/cloud-init wants it, with that example as user-data.
fn clouded<'a>(
    way: &str,
    debian: Debian,
    lan: &'a Lan,
    pki: &Pki<'_>,
    tls_pem: &str,
    secret: &str,
) -> Guest<'a> {
    let folder = Path::new("packaging/examples/cloud-init");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 3, "a way that no test boots");
    let example = std::fs::read_to_string(folder.join(format!("{way}.yaml"))).unwrap();
    let guest = Guest::new(debian, "node01", lan.host(1));
    guest.write("/etc/hosts", &format!("127.0.0.1 localhost\n{OUTSIDE} vault.example.com\n"));
    guest.user_data(&filled_in(&example, pki, tls_pem, secret));
    if way == "bootcmd" {
        guest.install_program();
    } else {
        guest.install();
    }
    if way == "runcmd" {
        for unit in ["multi-user.target.wants/nodecert.service", "timers.target.wants/nodecert-renew.timer"] {
            std::fs::remove_file(guest.path(&format!("/etc/systemd/system/{unit}"))).unwrap();
        }
        guest.remove("/etc/systemd/system/multi-user.target.wants/etcd.service");
    }
    guest
}

/// An example with what is the site's own put in.
fn filled_in(example: &str, pki: &Pki<'_>, tls_pem: &str, secret: &str) -> String {
    let (before, rest) = example.split_once("-----BEGIN CERTIFICATE-----").unwrap();
    let (_, after) = rest.split_once("-----END CERTIFICATE-----").unwrap();
    let indent = &before[before.rfind('\n').unwrap()..];
    let example = format!("{before}{}{after}", tls_pem.trim().replace('\n', indent));
    assert!(example.contains("s.WRAPPING-TOKEN-FOR-THIS-HOST"));
    example
        .replace("s.WRAPPING-TOKEN-FOR-THIS-HOST", secret)
        .replace("a6c00c00-7b4d-e909-5eca-3e95985e4e46", &pki.role_id)
        .replace("10.0.0.11", &address(1))
}

/// A node with a kubelet and containerd of Kubernetes' release and Debian's, off, and its CA but no control plane.
fn worker<'a>(lan: &'a Lan, bao: &Openbao, pki: &Pki<'_>) -> Guest<'a> {
    let mut guest = Guest::new(Debian::Bookworm, "node01", lan.host(1));
    guest.install();
    let programs = provided("NODECERT_TEST_KUBERNETES");
    guest.option(&format!("--bind-ro={}:/opt/kubernetes", programs.canonicalize().unwrap().display()));
    guest.write("/etc/nodecert/config.toml", &format!("{}{NODE}", vault(pki, "kubelet-client")));
    guest.write("/etc/nodecert/vault-ca.pem", &bao.tls_pem());
    guest.write_secret(SECRET, &pki.wrapped_secret_id());
    for (name, unit) in [("containerd", CONTAINERD), ("kubelet", KUBELET)] {
        guest.write(&format!("/etc/systemd/system/{name}.service"), unit);
        let wanted = format!("/etc/systemd/system/multi-user.target.wants/{name}.service");
        guest.link(&wanted, &format!("../{name}.service"));
    }
    let gate = std::fs::read_to_string("systemd/kubelet.service.d/10-nodecert.conf").unwrap();
    guest.write("/etc/systemd/system/kubelet.service.d/10-nodecert.conf", &gate);
    guest
}

/// The machine's swap and cgroups are not the guest's.
const NODE: &str = r#"
[kubelet]
ca = "etcd"
serving_role = "kubelet-server"
version = "1.20"
api_server = "https://10.99.0.1:6443"
cluster_dns = ["10.96.0.10"]
args = { node-ip = "10.99.0.11" }
settings = { cgroupsPerQOS = false, enforceNodeAllocatable = [], failSwapOn = false }
"#;

/// The kernel's settings and messages are the machine's too: a kubelet that sets them sets copies, and reads none.
const CONTAINERD: &str = r#"
[Service]
Environment=PATH=/opt/kubernetes/node/usr/bin:/opt/kubernetes/node/usr/sbin:/usr/sbin:/usr/bin
ExecStartPre=/bin/sh -euc 'for setting in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do \
    copy=/run/$(basename $$setting); cat /proc/sys/$$setting >$$copy; mount --bind $$copy /proc/sys/$$setting; done; ln -sf null /dev/kmsg'
ExecStart=/opt/kubernetes/node/usr/bin/containerd
"#;

/// As kubeadm's package and its drop-in have it.
const KUBELET: &str = r#"
[Unit]
After=containerd.service
[Service]
EnvironmentFile=-/etc/default/kubelet
ExecStart=/opt/kubernetes/kubelet --kubeconfig=/etc/kubernetes/kubelet.conf --config=/var/lib/kubelet/config.yaml $KUBELET_EXTRA_ARGS
"#;

/// The kubelet answers with the certificate that it was given.
fn serves(guest: &Guest<'_>) {
    eventually("a kubelet that serves", || {
        let ended = guest.run(
            "openssl s_client -connect 10.99.0.11:10250 -verify_return_error -verify_ip 10.99.0.11 \
             -CAfile /etc/kubernetes/pki/ca.crt",
        );
        if ended.status.success() { Ok(()) } else { Err(ended.stderr + &guest.journal("kubelet.service")) }
    });
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
    let cluster: Vec<String> =
        (1..=members).map(|nth| format!("node0{nth} = \"{}\"", address(nth))).collect();
    format!("{}[etcd]\nca = \"etcd\"\ncluster = {{ {} }}\n", vault(pki, "member"), cluster.join(", "))
}

/// The CA `etcd`, and how this host logs in to it.
fn vault(pki: &Pki<'_>, role: &str) -> String {
    let (mount, role_id) = (&pki.mount, &pki.role_id);
    format!(
        r#"
[ca.etcd]
tls.file = "/etc/nodecert/vault-ca.pem"
anchors.published = true
[ca.etcd.vault]
urls = ["https://{OUTSIDE}:8200"]
mount = "{mount}"
role = "{role}"
auth = [{{ approle = {{ role_id = "{role_id}", secret_id = {{ file = "{SECRET}" }}, wrapped = true }} }}]
"#
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
