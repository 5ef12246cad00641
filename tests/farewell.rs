//! The end of a certificate and of a host, and two runs at once.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod fake;
mod site;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fake::{Fake, Fault, MOUNT, ROLE_ID, TOKEN};
use nodecert::disk;
use nodecert::report::{Action, Exit, Farewell};
use nodecert::run::{self, Ask, Error};
use nodecert::setting::Name;
use nodecert::stop::Stop;
use site::{Site, actions};

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn revoke(site: &Site) -> Farewell {
    wait(run::revoke(&site.world, &[Name::new("web").unwrap()], Duration::from_secs(1), &Stop::default()))
        .unwrap()
}

fn revoke_all(site: &Site) -> Farewell {
    wait(run::revoke(&site.world, &[], Duration::from_secs(1), &Stop::default())).unwrap()
}

fn decommission(site: &Site, revoke: bool) -> Farewell {
    wait(run::decommission(&site.world, "node01", revoke, Duration::from_secs(1), &Stop::default())).unwrap()
}

/// Everything below the root that holds a private key or the token, by path.
fn secrets(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                directories.push(path);
            } else if meta.is_file() {
                let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
                found.extend((text.contains("PRIVATE KEY") || text.contains(TOKEN)).then_some(path));
            }
        }
    }
    found
}

/// The token is in a file of its own, so that the configuration holds none.
fn with_secret_file(fake: &Fake) -> Site {
    let site = Site::new(fake);
    site.reconfigure(&format!("token = \"{TOKEN}\""), "token = { file = \"/etc/nodecert/token\" }");
    fs::write(site.path("etc/nodecert/token"), TOKEN).unwrap();
    fs::set_permissions(site.path("etc/nodecert/token"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    site
}

#[test]
fn what_is_revoked_is_not_usable_and_the_next_run_gets_another_with_a_new_key() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    site.configure("rotate_key = false\n");
    site.run();
    let (serial, key) = (site.serial("web"), fs::read(site.path("etc/web/pki/web.key")).unwrap());
    fake.forget();
    let done = revoke(&site);
    assert!(done.exit() == Exit::Done && done.text().contains(&serial), "{}", done.text());
    let asked = fake.seen();
    assert_eq!(
        asked.iter().map(|seen| seen.path.as_str()).collect::<Vec<_>>(),
        [format!("/v1/{MOUNT}/revoke")]
    );
    assert_eq!(asked[0].body, serde_json::json!({ "serial_number": serial }), "the key is not sent");

    assert!(revoke(&site).text().contains("was revoked before") && fake.seen().len() == 1, "once is enough");
    let line = &site.look().certificates[0];
    assert_eq!((line.state, line.usable), ("revoked", false));
    assert_eq!(actions(&site.ask(&Ask { missing: true, ..Ask::default() })), [Action::Obtain]);
    assert_ne!(fs::read(site.path("etc/web/pki/web.key")).unwrap(), key, "whatever rotate_key says");
    assert!(site.run().is_idle());
}

#[test]
fn a_key_that_was_revoked_is_not_certified_again_whatever_else_has_changed() {
    let other_name: fn(&Fake, &Site) =
        |_, site| site.reconfigure("dns = [\"node01\"]", "dns = [\"node01\", \"new\"]");
    let open_request: fn(&Fake, &Site) = |fake, site| {
        fake.misbehave("/sign", Fault::Status(503, None, "sealed"), usize::MAX);
        site.ask(&Ask { force: true, deadline: Duration::from_millis(500), ..Ask::default() });
        assert!(site.path("var/lib/nodecert/pending/web.pem").exists());
        fake.behave();
    };
    for change in [other_name, open_request] {
        let fake = Fake::start();
        let site = Site::new(&fake);
        site.configure("rotate_key = false\n");
        site.run();
        let key = fs::read(site.path("etc/web/pki/web.key")).unwrap();
        change(&fake, &site);
        assert_eq!(revoke(&site).exit(), Exit::Done);
        assert_eq!(site.look().certificates[0].state, "revoked");
        assert_eq!(actions(&site.run()), [Action::Obtain]);
        assert_ne!(fs::read(site.path("etc/web/pki/web.key")).unwrap(), key);
    }
}

#[test]
fn a_ca_that_does_not_revoke_leaves_the_certificate_in_force_and_names_the_operators_command() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    assert!(revoke(&site).text().contains("nothing that could be revoked is held"));
    site.run();
    let serial = site.serial("web");
    fake.misbehave("/revoke", Fault::Status(403, None, "1 error occurred:\n\t* permission denied\n\n"), 1);
    let refused = revoke(&site);
    assert_eq!(refused.exit(), Exit::Refused);
    for words in [
        format!("a policy of the token must allow `update` on {MOUNT}/revoke, "),
        format!("`bao write {MOUNT}/revoke serial_number={serial}`"),
        "`nodecert run --force --only web` gets another".to_owned(),
        ", ca.etcd.vault.auth)".to_owned(),
    ] {
        assert!(refused.text().contains(&words), "{words}: {}", refused.text());
    }
    assert!(!refused.text().contains("role"), "{}", refused.text());
    fake.misbehave("/revoke", Fault::Status(503, None, "sealed"), usize::MAX);
    assert_eq!(revoke(&site).exit(), Exit::Temporary);
    assert!(site.look().is_usable() && site.run().is_idle());
}

#[test]
fn where_only_an_operator_can_revoke_the_exact_command_is_said() {
    let fake = Fake::start();
    let (issued, site) = (Site::new(&fake), Site::new(&fake));
    issued.run();
    let leaf = issued.look().certificates[0].leaf.clone().unwrap();
    fs::create_dir_all(site.path("etc/web/pki")).unwrap();
    for file in ["etc/web/pki/web.key", "etc/web/pki/web.crt"] {
        fs::write(site.path(file), fs::read(issued.path(file)).unwrap()).unwrap();
    }
    fs::write(site.path("etc/nodecert/ca.pem"), fake.anchors_pem()).unwrap();
    let serial = u64::from_str_radix(&leaf.serial.replace(':', ""), 16).unwrap();
    let config = fs::read_to_string(site.path("config.toml")).unwrap();
    let (node, certificate) =
        (config.split("[ca.etcd]").next().unwrap(), config.split("[certificate.web]").nth(1).unwrap());
    for (kind, command) in [
        (
            "[ca.etcd.cfssl]\nurls = [\"https://127.0.0.1:1\"]\nkey = \"00\"",
            format!("cfssl revoke -db-config DB.json -serial {serial} -aki "),
        ),
        (
            "[ca.etcd.puppet]\nurl = \"https://127.0.0.1:1\"\nagent = false",
            "puppetserver ca revoke --certname node01`".to_owned(),
        ),
    ] {
        fs::write(
            site.path("config.toml"),
            format!("{node}[ca.etcd]\ntls.file = \"/etc/nodecert/ca.pem\"\nanchors.file = \"/etc/nodecert/ca.pem\"\n{kind}\n[certificate.web]{certificate}"),
        )
        .unwrap();
        let done = revoke(&site);
        assert!(done.exit() == Exit::Refused, "{}", done.text());
        assert_eq!(done.text().matches(&command).count(), 1, "{}", done.text());
        assert_eq!(done.text().lines().count(), 1, "{}", done.text());
        assert!(!done.text().contains("-aki  "), "the issuer's key is named: {}", done.text());
    }
}

#[test]
fn a_host_that_is_taken_out_of_service_keeps_no_key_and_no_timer_brings_one_back() {
    let fake = Fake::start();
    let site = with_secret_file(&fake);
    site.reconfigure("[certificate.web]", "[ca.lab.local]\n[certificate.own]\nca = \"lab\"\ncommon_name = \"own\"\ndirectory = \"/etc/own\"\nlayout = \"files\"\nfiles = { combined = \"own.pem\" }\n[certificate.web]");
    assert_eq!(site.run().exit(), Exit::Done);
    fake.misbehave("/sign", Fault::Status(503, None, "sealed"), usize::MAX);
    site.ask(&Ask { force: true, deadline: Duration::from_millis(500), ..Ask::default() });
    assert!(
        secrets(site.root.path()).len() >= 6,
        "keys, an open request, a CA, a token: {:?}",
        secrets(site.root.path())
    );

    let another =
        wait(run::decommission(&site.world, "node02", false, Duration::from_secs(1), &Stop::default()));
    assert!(matches!(&another, Err(error @ Error::AnotherHost { .. }) if error.exit() == Exit::Usage));
    assert!(site.look().is_usable(), "nothing was touched");

    let done = decommission(&site, false);
    assert_eq!((done.exit(), secrets(site.root.path())), (Exit::Done, vec![]), "{}", done.text());
    for words in [
        &format!("erased {}", site.path("etc/web/pki/web.key").display()),
        "was not revoked and is good until",
        "systemctl disable --now nodecert.service",
        "take back what lets this host log in",
    ] {
        assert!(done.text().contains(words), "{words}: {}", done.text());
    }
    let timer = wait(run::run(&site.world, &Ask::default()));
    assert!(matches!(&timer, Err(error @ Error::Decommissioned { .. }) if error.exit() == Exit::Config));

    assert!(decommission(&site, false).exit() == Exit::Done && secrets(site.root.path()).is_empty(), "again");
    fs::remove_file(site.path("var/lib/nodecert/decommissioned")).unwrap();
    fs::write(site.path("etc/nodecert/token"), TOKEN).unwrap();
    fs::set_permissions(site.path("etc/nodecert/token"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    fake.behave();
    assert_eq!(site.run().exit(), Exit::Done);
}

#[test]
fn nothing_is_erased_before_what_was_to_be_revoked_is() {
    let fake = Fake::start();
    let site = with_secret_file(&fake);
    site.run();
    fake.misbehave("/revoke", Fault::Status(503, None, "sealed"), usize::MAX);
    let before = secrets(site.root.path());
    let failed = decommission(&site, true);
    assert_eq!((failed.exit(), secrets(site.root.path())), (Exit::Temporary, before));
    assert!(failed.text().contains("nothing was erased") && site.run().is_idle(), "{}", failed.text());
    fake.behave();
    let done = decommission(&site, true);
    assert!(done.exit() == Exit::Done && !done.text().contains("was not revoked"), "{}", done.text());
    assert_eq!(secrets(site.root.path()), [""; 0].map(PathBuf::from));
}

#[test]
fn nothing_is_erased_where_the_ca_was_never_asked() {
    let fake = Fake::start();
    let site = with_secret_file(&fake);
    site.run();
    let before = secrets(site.root.path());
    fake.misbehave("/revoke", Fault::Status(403, None, "1 error occurred:\n\t* permission denied\n\n"), 1);
    let refused = decommission(&site, true);
    assert_eq!(refused.exit(), Exit::Refused, "{}", refused.text());
    assert!(refused.text().contains("nothing was erased"), "{}", refused.text());
    assert_eq!(secrets(site.root.path()), before);
}

#[test]
fn what_only_an_operator_revokes_is_erased_and_said_to_be_good_still() {
    let fake = Fake::start();
    let (issued, site) = (Site::new(&fake), Site::new(&fake));
    issued.run();
    fs::create_dir_all(site.path("etc/web/pki")).unwrap();
    for file in ["etc/web/pki/web.key", "etc/web/pki/web.crt"] {
        fs::write(site.path(file), fs::read(issued.path(file)).unwrap()).unwrap();
    }
    fs::write(site.path("etc/nodecert/ca.pem"), fake.anchors_pem()).unwrap();
    let config = fs::read_to_string(site.path("config.toml")).unwrap();
    let (node, certificate) =
        (config.split("[ca.etcd]").next().unwrap(), config.split("[certificate.web]").nth(1).unwrap());
    fs::write(
        site.path("config.toml"),
        format!("{node}[ca.etcd]\ntls.file = \"/etc/nodecert/ca.pem\"\nanchors.file = \"/etc/nodecert/ca.pem\"\n[ca.etcd.puppet]\nurl = \"https://127.0.0.1:1\"\nagent = false\n[certificate.web]{certificate}"),
    )
    .unwrap();
    let done = decommission(&site, true);
    assert!(!site.path("etc/web/pki/web.key").exists(), "{}", done.text());
    for words in ["puppetserver ca revoke", "was not revoked and is good until"] {
        assert!(done.text().contains(words), "{words}: {}", done.text());
    }
}

/// Its certificate is all it logs in with, as the policy of Vault allows it; the first secret was a wrapped one.
fn on_its_own_certificate(fake: &Fake, options: &str) -> Site {
    let site = Site::new(fake);
    let ladder = format!(
        "{{ cert = {{ certificate = \"web\" }} }}, {{ approle = {{ role_id = \"{ROLE_ID}\", secret_id = {{ file = \"/etc/nodecert/once\" }}, wrapped = true{options} }} }}"
    );
    site.reconfigure(&format!("{{ token = \"{TOKEN}\" }}"), &ladder);
    give(&site, fake);
    assert_eq!(site.run().exit(), Exit::Done);
    assert!(!site.path("var/lib/nodecert/unwrapped/etcd").exists(), "it is of no use any more");
    site
}

fn give(site: &Site, fake: &Fake) {
    fs::write(site.path("etc/nodecert/once"), fake.wrap("auth/approle/role/etcd/secret-id")).unwrap();
    fs::set_permissions(site.path("etc/nodecert/once"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
}

#[test]
fn the_certificate_that_a_host_logs_in_with_is_not_revoked_before_there_is_another_way_in() {
    let fake = Fake::start();
    for (options, lacks) in [("", "what was in it is used and erased"), (", wipe = true", "there is no file")]
    {
        let site = on_its_own_certificate(&fake, options);
        let serial = site.serial("web");
        fake.forget();
        let refused = revoke(&site);
        assert_eq!(refused.exit(), Exit::Refused, "{}", refused.text());
        for words in
            ["not revoked: this host logs in to CA etcd with it", lacks, "decommission HOSTNAME --revoke"]
        {
            assert!(refused.text().contains(words), "{words}: {}", refused.text());
        }
        assert!(fake.seen().is_empty() && site.run().is_idle() && site.serial("web") == serial);

        give(&site, &fake);
        let done = revoke(&site);
        assert_eq!(done.exit(), Exit::Done, "{}", done.text());
        assert!(done.text().contains("if what else it has still logs in to CA etcd"), "{}", done.text());
        assert_eq!(actions(&site.run()), [Action::Obtain]);
        assert_ne!(site.serial("web"), serial);
    }
}

#[test]
fn no_one_is_accused_of_opening_what_this_host_has_opened() {
    let fake = Fake::start();
    let site = on_its_own_certificate(&fake, "");
    fake.misbehave("auth/cert/login", Fault::Status(400, None, "invalid certificate"), usize::MAX);
    fake.forget();
    let report = site.ask(&Ask { force: true, deadline: Duration::from_secs(2), ..Ask::default() });
    let said = report.done();
    assert!(said.contains("this host opened that wrapping token") && !said.contains("intercepted"), "{said}");
    assert!(fake.seen().iter().all(|seen| !seen.path.contains("wrapping")), "there is nothing to open");
}

#[test]
fn a_host_that_ends_revokes_what_it_logs_in_with_last_and_is_promised_no_other() {
    let fake = Fake::start();
    let site = on_its_own_certificate(&fake, "");
    site.configure("[certificate.api]\nca = \"etcd\"\ncommon_name = \"node01\"\ndirectory = \"/etc/api\"\n");
    site.run();
    let web = site.serial("web");
    fake.forget();
    let done = decommission(&site, true);
    assert_eq!(done.exit(), Exit::Done, "{}", done.text());
    assert!(!done.text().contains("next run"), "{}", done.text());
    let revoked: Vec<_> =
        fake.seen().into_iter().filter(|seen| seen.path.ends_with("/revoke")).map(|seen| seen.body).collect();
    assert_eq!(revoked.len(), 2);
    assert_eq!(revoked[1], serde_json::json!({ "serial_number": web }));
}

#[test]
fn a_host_that_could_not_revoke_all_keeps_the_way_in_until_it_can() {
    let fake = Fake::start();
    let site = on_its_own_certificate(&fake, "");
    site.configure("[certificate.api]\nca = \"etcd\"\ncommon_name = \"node01\"\ndirectory = \"/etc/api\"\n");
    site.run();
    fake.misbehave("/revoke", Fault::Status(403, None, "no"), 1);
    let failed = decommission(&site, true);
    assert_eq!(failed.exit(), Exit::Refused, "{}", failed.text());
    for words in
        ["web: not revoked yet, for this host logs in to CA etcd with it", "mend that and run it again"]
    {
        assert!(failed.text().contains(words), "{words}: {}", failed.text());
    }
    let done = decommission(&site, true);
    assert_eq!(done.exit(), Exit::Done, "{}", done.text());
}

#[test]
fn what_is_said_of_a_ca_that_did_not_revoke_can_help() {
    let fake = Fake::start();
    let site = with_secret_file(&fake);
    site.run();
    let operator = "have the operators of the CAs revoke what failed, then run it without --revoke";
    for (status, again) in [(503, "run it again, or"), (403, "mend that and run it again, or")] {
        fake.misbehave("/revoke", Fault::Status(status, None, "no"), usize::MAX);
        let failed = decommission(&site, true).text();
        assert!(failed.contains(&format!("nothing was erased: {again} {operator}")), "{failed}");
        fake.behave();
    }
    // As after an end that was cut short.
    fs::write(site.path("var/lib/nodecert/decommissioned"), "2026-11-23T10:00:00Z\n").unwrap();
    fs::remove_file(site.path("etc/nodecert/token")).unwrap();
    let failed = decommission(&site, true).text();
    assert!(failed.contains(operator) && !failed.contains("run it again"), "{failed}");
    assert_eq!(decommission(&site, false).exit(), Exit::Done);
}

#[test]
fn a_component_without_certificates_has_nothing_to_revoke() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    site.configure("[service-account]\ngenerate = \"node01\"\nkind = \"p256\"\n");
    for name in ["service-account", "service-account-key"].map(|name| Name::new(name).unwrap()) {
        let none = wait(run::revoke(&site.world, &[name], Duration::from_secs(1), &Stop::default()));
        assert!(
            matches!(&none, Err(error @ Error::NoCertificate(_)) if error.exit() == Exit::Usage),
            "{none:?}"
        );
    }
    assert_eq!(revoke_all(&site).exit(), Exit::Fault, "the certificate is not held, and the key is none");
}

#[test]
fn root_erases_nothing_on_a_way_that_someone_else_can_change() {
    let fake = Fake::start();
    let site = with_secret_file(&fake);
    site.run();
    let pki = site.path("etc/web/pki");
    fs::rename(&pki, site.path("etc/theirs")).unwrap();
    std::os::unix::fs::symlink("/etc/theirs", &pki).unwrap();
    std::os::unix::fs::lchown(&pki, Some(4_999), Some(4_999)).unwrap();
    let done = decommission(&site, false);
    assert_eq!(done.exit(), Exit::Fault, "{}", done.text());
    assert!(done.text().contains("belongs to user 4999"), "{}", done.text());
    assert!(!site.path("etc/nodecert/token").exists(), "it keeps nothing else from being erased");
    assert!(fs::read_to_string(site.path("etc/theirs/web.key")).unwrap().contains("PRIVATE KEY"));
}

#[test]
fn who_ends_a_certificate_is_heard_when_asked_to_stop_and_gives_the_lock_back() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    site.run();
    revoke(&site);
    assert!(!disk::lock(&site.world.root).unwrap().was_left(), "it came to its end");
    site.run();
    fake.misbehave("/revoke", Fault::Hang, usize::MAX);
    let began = Instant::now();
    let stop = Stop::by_signals().unwrap();
    let signal = std::thread::spawn(|| {
        std::thread::sleep(Duration::from_millis(500));
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
    });
    let names = [Name::new("web").unwrap()];
    let stopped = wait(run::revoke(&site.world, &names, Duration::from_secs(60), &stop));
    signal.join().unwrap();
    assert!(matches!(stopped, Err(Error::Stopped)), "{stopped:?}");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

#[test]
fn what_someone_else_wrote_is_not_erased() {
    let fake = Fake::start();
    let site = with_secret_file(&fake);
    fs::create_dir_all(site.path("etc/web/pki")).unwrap();
    fs::write(site.path("etc/web/pki/web.key"), "someone else's\n").unwrap();
    assert_eq!(site.run().exit(), Exit::Fault);
    decommission(&site, false);
    assert_eq!(fs::read_to_string(site.path("etc/web/pki/web.key")).unwrap(), "someone else's\n");
}

#[test]
fn a_second_run_waits_for_the_first_a_bounded_time() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    let lock = disk::lock(&site.world.root).unwrap();
    let began = Instant::now();
    let ask = Ask { deadline: Duration::from_millis(700), ..Ask::default() };
    let refused = wait(run::run(&site.world, &ask)).unwrap_err();
    assert_eq!(refused.exit(), Exit::Temporary);
    let waited = Duration::from_millis(650)..Duration::from_secs(30);
    assert!(waited.contains(&began.elapsed()), "{:?}", began.elapsed());
    let said = nodecert::setting::chain(&refused);
    assert!(said.contains(&format!("process {}", std::process::id())), "{said}");
    assert_eq!(
        wait(run::revoke(&site.world, &[Name::new("web").unwrap()], ask.deadline, &ask.stop))
            .unwrap_err()
            .exit(),
        Exit::Temporary
    );

    let first = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        drop(lock);
    });
    assert_eq!(site.ask(&Ask { deadline: Duration::from_secs(30), ..Ask::default() }).exit(), Exit::Done);
    first.join().unwrap();
}

/// A control plane of this host alone: keys and tokens inside of files, and a key to what is in etcd.
const CONTROL_PLANE: &str = r#"
[ca.lab.local]
[kubernetes]
ca = "lab"
api_server = "https://10.0.0.11:6443"
service_cidr = "10.96.0.0/12"
etcd_servers = ["https://10.0.0.11:2379"]
[kube-apiserver]
[kube-apiserver.tokens.monitor]
token = { file = "/etc/nodecert/monitor" }
kubeconfig = "/etc/kubernetes/monitor.conf"
[kube-apiserver.encryption]
generate = "node01"
[kube-controller-manager]
[kube-scheduler]
embed = true
[service-account]
generate = "node01"
kind = "p256"
"#;

#[test]
fn keys_and_tokens_inside_of_files_go_too_and_the_key_to_what_is_in_etcd_waits_for_a_copy() {
    let fake = Fake::start();
    let mut site = with_secret_file(&fake);
    site.world.tells = false;
    site.configure(CONTROL_PLANE);
    let monitor = site.path("etc/nodecert/monitor");
    fs::write(&monitor, "a-token-for-monitor\n").unwrap();
    fs::set_permissions(&monitor, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let report = site.run();
    assert_eq!(report.exit(), Exit::Done, "{}", report.done());
    let embedded = fs::read_to_string(site.path("etc/kubernetes/scheduler.conf")).unwrap();
    assert!(embedded.contains("client-key-data"), "{embedded}");
    let cipher = site.path("var/lib/nodecert/keepsakes/encryption-key");
    let before = fs::read(&cipher).unwrap();

    let done = decommission(&site, false);
    let kept = ["etc/kubernetes/pki/sa.key", "var/lib/nodecert/keepsakes/service-account-key.pem"];
    let there: BTreeSet<_> = secrets(site.root.path()).into_iter().collect();
    assert_eq!(
        (done.exit(), there),
        (Exit::Done, kept.map(|file| site.path(file)).into()),
        "{}",
        done.text()
    );
    for gone in ["scheduler.conf", "monitor.conf", "tokens.csv"] {
        assert!(!site.path("etc/kubernetes").join(gone).exists(), "{gone}: {}", done.text());
        assert!(
            done.text()
                .contains(&format!("erased {}", site.path(&format!("etc/kubernetes/{gone}")).display())),
            "{gone}: {}",
            done.text()
        );
    }
    assert!(!monitor.exists() && !site.path("var/lib/nodecert/keepsakes/token-monitor").exists());
    assert_eq!(fs::read(&cipher).unwrap(), before);
    assert!(site.path("etc/kubernetes/encryption.yaml").exists());
    for copy in [
        "encryption-key: this host made it, and what is in etcd cannot be read without it: take a copy first, then remove /etc/kubernetes/encryption.yaml and /var/lib/nodecert/keepsakes/encryption-key",
        "service-account-key: this host made it, and the tokens of all service accounts are void without it: take a copy first, then remove /etc/kubernetes/pki/sa.key and /var/lib/nodecert/keepsakes/service-account-key.pem",
    ] {
        let copy = copy.replace(" /", &format!(" {}/", site.root.path().display()));
        assert!(done.text().contains(&copy), "{}", done.text());
        assert!(decommission(&site, false).text().contains(&copy), "until there is one");
    }
}

#[test]
fn only_a_key_that_another_host_made_is_said_to_live_on_there() {
    let fake = Fake::start();
    let lives_on = "the keys that other hosts share with this one live on there";
    for (maker, only_copy) in [("node01", true), ("node02", false)] {
        let site = with_secret_file(&fake);
        site.configure(&format!("[service-account]\ngenerate = \"{maker}\"\nkind = \"p256\"\n"));
        let key = site.path("etc/kubernetes/pki/sa.key");
        if !only_copy {
            fs::create_dir_all(key.parent().unwrap()).unwrap();
            fs::write(&key, nodecert::key::Key::generate(nodecert::identity::KeyKind::P256).unwrap().pem())
                .unwrap();
        }
        site.run();
        let done = decommission(&site, false);
        assert!(key.exists() && done.text().contains(lives_on) != only_copy, "{}", done.text());
    }
}

#[test]
fn a_file_with_a_key_that_someone_else_wrote_stays_and_is_named() {
    let fake = Fake::start();
    let site = with_secret_file(&fake);
    fs::write(site.path("etc/nodecert/ca.pem"), fake.anchors_pem()).unwrap();
    site.configure("[ca.puppet]\ntls.file = \"/etc/nodecert/ca.pem\"\nanchors.file = \"/etc/nodecert/ca.pem\"\n[ca.puppet.puppet]\nurl = \"https://127.0.0.1:1\"\nagent = false\n[certificate.agent]\nca = \"puppet\"\ncommon_name = \"node01\"\ndirectory = \"/etc/agent\"\nssldir = \"/puppet/ssl\"\n");
    site.configure("[ca.lab.local]\n[kubernetes]\nca = \"lab\"\napi_server = \"https://10.0.0.11:6443\"\n[kube-scheduler]\nembed = true\n");
    for (file, text) in [
        ("puppet/ssl/private_keys/node01.pem", "puppet's own\n"),
        ("etc/kubernetes/scheduler.conf", "someone's own\n"),
    ] {
        fs::create_dir_all(site.path(file).parent().unwrap()).unwrap();
        fs::write(site.path(file), text).unwrap();
    }
    site.run();
    let done = decommission(&site, false);
    for file in ["puppet/ssl/private_keys/node01.pem", "etc/kubernetes/scheduler.conf"] {
        assert!(
            fs::read_to_string(site.path(file)).is_ok_and(|text| text.contains("own")),
            "{}",
            done.text()
        );
        assert!(
            done.text()
                .contains(&format!("left      {} was not written by nodecert", site.path(file).display())),
            "{}",
            done.text()
        );
    }
}

#[test]
fn of_an_adopted_key_behind_a_link_only_the_link_goes_and_that_is_said() {
    let fake = Fake::start();
    let (issued, site) = (Site::new(&fake), with_secret_file(&fake));
    issued.run();
    fs::create_dir_all(site.path("etc/web/pki")).unwrap();
    fs::create_dir_all(site.path("etc/store")).unwrap();
    fs::write(site.path("etc/store/key"), fs::read(issued.path("etc/web/pki/web.key")).unwrap()).unwrap();
    fs::write(site.path("etc/web/pki/web.crt"), fs::read(issued.path("etc/web/pki/web.crt")).unwrap())
        .unwrap();
    std::os::unix::fs::symlink("/etc/store/key", site.path("etc/web/pki/web.key")).unwrap();
    let done = decommission(&site, false);
    assert!(fs::symlink_metadata(site.path("etc/web/pki/web.key")).is_err(), "{}", done.text());
    assert!(site.path("etc/store/key").exists());
    assert!(
        done.text().contains(&format!("the key it led to stays: {}", site.path("etc/store/key").display())),
        "{}",
        done.text()
    );
    assert!(
        !done.text().contains(&format!("erased {}", site.path("etc/web/pki/web.key").display())),
        "{}",
        done.text()
    );
}
