//! Secrets for one use: they outlive every failure until they have been of use, and nothing after that; and from
//! then on the held certificate is all that a host needs.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod fake;
mod site;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use base64::Engine as _;
use fake::{Fake, Fault, ROLE_ID, TOKEN};
use nodecert::report::{Action, Exit};
use nodecert::run::{self, Ask};
use site::{DAY, Site, actions};

const FILE: &str = "var/lib/nodecert/secrets/etcd";
const KEPT: &str = "var/lib/nodecert/unwrapped/etcd";
const SEALED: Fault = Fault::Status(503, None, "sealed");

/// The held certificate first, then a wrapped secret_id, which is in its file.
fn site(fake: &Fake, options: &str) -> Site {
    let site = Site::new(fake);
    let ladder = format!(
        "{{ cert = {{ certificate = \"web\" }} }}, {{ approle = {{ role_id = \"{ROLE_ID}\", secret_id = {{ file = \"/{FILE}\" }}, wrapped = true{options} }} }}"
    );
    site.reconfigure(&format!("{{ token = \"{TOKEN}\" }}"), &ladder);
    give(&site, &fake.wrap("auth/approle/role/etcd/secret-id"));
    site
}

fn give(site: &Site, secret: &str) {
    fs::create_dir_all(site.path(FILE).parent().unwrap()).unwrap();
    fs::write(site.path(FILE), format!("{secret}\n")).unwrap();
    fs::set_permissions(site.path(FILE), fs::Permissions::from_mode(0o600)).unwrap();
}

fn paths(fake: &Fake) -> Vec<String> {
    fake.asked().iter().map(|asked| asked.rsplit("/v1/").next().unwrap().to_owned()).collect()
}

#[test]
fn a_wrapped_secret_outlives_each_failure_before_the_first_certificate_and_nothing_after_it() {
    let fake = Fake::start();
    let site = site(&fake, ", wipe = true");
    for after_the_unwrapping in ["/approle/login", "/sign"] {
        fake.misbehave(after_the_unwrapping, SEALED, usize::MAX);
        assert_eq!(site.run().exit(), Exit::Temporary);
        assert!(site.path(KEPT).exists() && site.path(FILE).exists(), "{after_the_unwrapping}");
        fake.behave();
    }
    let report = site.run();
    assert_eq!(report.exit(), Exit::Done, "{}", report.done());
    assert!(!site.path(KEPT).exists() && !site.path(FILE).exists());
    assert_eq!(fake.tokens(), 0, "the token of the trial is given back too");
    let unwrapped = paths(&fake).iter().filter(|path| path.ends_with("wrapping/unwrap")).count();
    assert_eq!(unwrapped, 1);

    // As after a reboot, and days later: the certificate is all it needs.
    fake.forget();
    site.later(&fake, 5 * DAY);
    assert_eq!(actions(&site.run()), [Action::Obtain]);
    assert!(
        paths(&fake).iter().all(|path| !path.contains("approle") && !path.contains("wrapping")),
        "{:?}",
        paths(&fake)
    );
    assert_eq!(
        paths(&fake).iter().filter(|path| path.ends_with("cert/login")).count(),
        1,
        "no trial is needed"
    );
}

#[test]
fn a_changed_address_does_not_take_the_way_in_away() {
    let fake = Fake::start();
    let site = site(&fake, ", wipe = true");
    site.run();
    fake.forget();
    site.reconfigure("ips = [\"10.0.0.11\"]", "ips = [\"10.0.0.12\"]");
    assert_eq!(actions(&site.run()), [Action::Obtain], "logged in with the certificate of the old address");
    assert!(paths(&fake).iter().all(|path| !path.contains("approle")));
}

#[test]
fn what_was_unwrapped_gives_way_to_another_token_that_came_since() {
    let fake = Fake::start();
    let site = site(&fake, "");
    fake.misbehave("/approle/login", SEALED, usize::MAX);
    assert_eq!(site.run().exit(), Exit::Temporary);
    fake.behave();
    fake.forget();
    give(&site, &fake.wrap("auth/approle/role/etcd/secret-id"));
    assert_eq!(site.run().exit(), Exit::Done);
    assert!(paths(&fake).iter().any(|path| path.ends_with("wrapping/unwrap")), "{:?}", paths(&fake));
}

#[test]
fn a_secret_is_kept_for_as_long_as_the_certificate_is_not_enough() {
    let fake = Fake::start();
    let site = site(&fake, ", wipe = true");
    fake.misbehave(
        "auth/cert/login",
        Fault::Status(400, None, "failed to match all constraints for this login certificate"),
        1,
    );
    assert_eq!(site.run().exit(), Exit::Done);
    assert!(site.path(KEPT).exists() && site.path(FILE).exists());
    // The next one that works clears up.
    fake.forget();
    assert_eq!(site.ask(&Ask { force: true, ..Ask::default() }).exit(), Exit::Done);
    assert!(!site.path(KEPT).exists() && !site.path(FILE).exists());
    let logins = paths(&fake).iter().filter(|path| path.ends_with("cert/login")).count();
    assert_eq!(logins, 1, "it came in by the certificate, and tries it no second time");
}

#[test]
fn the_file_stays_where_the_configuration_does_not_say_otherwise() {
    let fake = Fake::start();
    let site = site(&fake, "");
    assert_eq!(site.run().exit(), Exit::Done);
    assert!(!site.path(KEPT).exists() && site.path(FILE).exists());
}

#[test]
fn what_cloud_init_keeps_of_the_secret_is_named() {
    let fake = Fake::start();
    let site = site(&fake, ", wipe = true");
    let secret = fs::read_to_string(site.path(FILE)).unwrap();
    let encoded = base64::engine::general_purpose::STANDARD.encode(&secret);
    for (path, text) in [
        (
            "var/lib/cloud/instances/i-1/user-data.txt",
            format!("#cloud-config\nwrite_files:\n- content: {secret}"),
        ),
        ("var/lib/cloud/instances/i-1/cloud-config.txt", format!("encoding: b64\ncontent: {encoded}\n")),
        ("var/lib/cloud/instances/i-1/vendor-data.txt", "nothing\n".to_owned()),
        ("var/log/syslog", secret.clone()),
    ] {
        fs::create_dir_all(site.path(path).parent().unwrap()).unwrap();
        fs::write(site.path(path), text).unwrap();
    }
    std::os::unix::fs::symlink("instances/i-1", site.path("var/lib/cloud/instance")).unwrap();
    let said = site.run().done();
    let named = "stands still in /var/lib/cloud/instance/cloud-config.txt, /var/lib/cloud/instance/user-data.txt, where cloud-init put it";
    assert!(said.contains(named) && !said.contains(secret.trim()), "{said}");
}

#[test]
fn a_secret_that_was_opened_elsewhere_or_too_late_says_what_to_look_at() {
    let fake = Fake::start();
    let site = site(&fake, "");
    give(&site, "wrapping-of-another-time");
    let report = site.run();
    assert_eq!(report.exit(), Exit::Refused);
    for words in [
        "file /var/lib/nodecert/secrets/etcd is used, expired or not a wrapping token",
        "-wrap-ttl",
        "state of this host lost",
        "revoke the secret_id",
        "bao write -wrap-ttl=1h",
    ] {
        assert!(report.done().contains(words), "{words}: {}", report.done());
    }
    site.configure(
        "[certificate.www]\nca = \"etcd\"\ncommon_name = \"www.example.com\"\ndirectory = \"/etc/www\"\n",
    );
    let told = site.run().done();
    assert_eq!(told.matches("revoke the secret_id").count(), 1, "{told}");
    assert!(told.contains("  the same as web\n") && told.ends_with("\nnot done: 2 failed\n"), "{told}");
}

#[test]
fn a_secret_is_not_wiped_where_nothing_else_lets_the_host_in() {
    let fake = Fake::start();
    for (from, to, why) in [
        ("{ cert = { certificate = \"web\" } }, ", "", "no other way to log in afterwards"),
        ("{ file = \"/var/lib/nodecert/secrets/etcd\" }", "{ env = \"SECRET\" }", "that is no { file }"),
    ] {
        let site = site(&fake, ", wipe = true");
        site.reconfigure(from, to);
        let faults = run::survey(&site.world, false).unwrap_err().to_string();
        assert!(faults.contains(why), "{faults}");
    }
}
