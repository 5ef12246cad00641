//! What consumers trust, over the years: anchors that are read again, join those that are there, and never leave by
//! what a CA says; and a CA that is not the one that was pinned any more.

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
use std::time::Duration;

use fake::bend::stranger;
use fake::{Fake, MOUNT, ca_params};
use nodecert::report::{Action, Exit, Report};
use nodecert::run::Ask;
use nodecert::trust::Pin;
use rcgen::CertifiedIssuer;
use site::{DAY, HOUR, Site, actions, configuration};

const DAYS: time::Duration = time::Duration::DAY;

#[test]
fn published_anchors_are_read_again_after_a_day_and_not_before() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    assert_eq!(site.run().exit(), Exit::Done);
    fake.forget();
    fake.add_root();

    site.later(&fake, 23 * HOUR);
    assert!(site.run().is_idle());
    assert_eq!(fake.asked(), [""; 0], "nothing is due");

    site.later(&fake, 25 * HOUR);
    let report = site.run();
    assert_eq!((report.exit(), actions(&report)), (Exit::Done, vec![Action::Keep]));
    assert_eq!(fake.asked(), [format!("GET /v1/{MOUNT}/ca_chain")], "the anchors alone");
    assert_eq!(site.anchors(), 2, "the new root is trusted beside the old one");

    fake.forget();
    site.later(&fake, 26 * HOUR);
    assert!(site.run().is_idle());
    assert_eq!(fake.asked(), [""; 0]);
}

#[test]
fn a_ca_that_is_away_when_its_anchors_are_to_be_read_again_leaves_what_is_there_in_force() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    site.run();
    site.later(&fake, 2 * DAY);
    drop(fake);
    let report = site.run();
    assert_eq!((report.exit(), actions(&report)), (Exit::Temporary, vec![Action::Keep]));
    assert_eq!(site.anchors(), 1);
    let boot = site.ask(&Ask { missing: true, deadline: Duration::from_secs(2), ..Ask::default() });
    assert!(boot.is_idle(), "a boot does not wait for what is merely due");
}

#[test]
fn no_leaf_comes_before_its_trust_file() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    fs::create_dir_all(site.path("etc/web/pki")).unwrap();
    fs::write(site.path("etc/web/pki/ca.crt"), "someone else's\n").unwrap();
    assert_eq!(site.run().exit(), Exit::Fault);
    assert!(!site.path("etc/web/pki/web.crt").exists(), "its trust file was refused");
    assert_eq!(fs::read_to_string(site.path("etc/web/pki/ca.crt")).unwrap(), "someone else's\n");
}

#[test]
fn an_anchor_that_has_ended_leaves_when_they_are_read_again() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    site.run();
    let mut ended = ca_params("ended");
    (ended.not_before, ended.not_after) = (ended.not_before - 2 * DAYS, ended.not_before - DAYS);
    let ended = CertifiedIssuer::self_signed(ended, stranger()).unwrap();
    let known = site.path("var/lib/nodecert/anchors/etcd.pem");
    fs::write(&known, fs::read_to_string(&known).unwrap() + &ended.pem()).unwrap();
    assert_eq!((site.run().exit(), site.anchors()), (Exit::Done, 2), "it was published once");
    site.later(&fake, 25 * HOUR);
    assert_eq!((site.run().exit(), site.anchors()), (Exit::Done, 1));
}

/// A host that trusts the first root alone, by the fingerprint or by a file, and a CA that has another.
fn moved(fake: &Fake, anchors: &str) -> Site {
    let site = Site::new(fake);
    site.reconfigure("anchors.published = true", anchors);
    fs::write(site.path("etc/nodecert/anchors.pem"), fake.anchors_pem()).unwrap();
    assert_eq!(site.run().exit(), Exit::Done);
    fake.add_root();
    fake.rotate();
    site
}

/// It stopped with 77, named the new root, and left what was in force.
fn is_refused(site: &Site, report: &Report, serial: &str, new: &Pin) {
    let said = report.done();
    assert!(report.exit() == Exit::Refused && said.contains(&new.to_string()), "{said}");
    assert_eq!((site.anchors(), site.serial("web").as_str()), (1, serial), "{said}");
    assert!(report.certificates[0].usable, "{said}");
}

#[test]
fn a_change_against_the_pins_is_refused_with_the_new_fingerprint() {
    let fake = Fake::start();
    let (old, new) = (Pin::of(&fake.root()), Pin::of(&fake.second_root()));
    let site = moved(&fake, &format!("anchors.pins = [\"{old}\"]"));
    let serial = site.serial("web");

    site.later(&fake, 25 * HOUR);
    assert!(site.run().is_idle(), "what is pinned is published still, and nothing is due");
    site.later(&fake, 5 * DAY);
    is_refused(&site, &site.run(), &serial, &new);
    fake.drop_first_root();
    is_refused(&site, &site.ask(&Ask { force: true, ..Ask::default() }), &serial, &new);

    site.reconfigure(&format!("[\"{old}\"]"), &format!("[\"{old}\", \"{new}\"]"));
    let report = site.run();
    assert_eq!((report.exit(), actions(&report)), (Exit::Done, vec![Action::Obtain]), "{}", report.done());
    assert_eq!(site.anchors(), 2, "other hosts' certificates hang on the old one still");
    site.reconfigure(&format!("[\"{old}\", \"{new}\"]"), &format!("[\"{new}\"]"));
    assert_eq!(
        (site.run().exit(), site.anchors()),
        (Exit::Done, 1),
        "until the operator says that it is over"
    );
}

#[test]
fn pins_that_are_published_no_longer_are_named_by_the_run_that_reads_them_again() {
    let fake = Fake::start();
    let (old, new) = (Pin::of(&fake.root()), Pin::of(&fake.second_root()));
    let site = moved(&fake, &format!("anchors.pins = [\"{old}\"]"));
    fake.drop_first_root();
    assert!(site.run().is_idle());
    site.later(&fake, 25 * HOUR);
    is_refused(&site, &site.run(), &site.serial("web"), &new);
    let boot = site.ask(&Ask { missing: true, deadline: Duration::from_secs(2), ..Ask::default() });
    assert!(boot.is_idle(), "a boot does not ask for what it does not need: {}", boot.done());
}

#[test]
fn a_change_against_the_file_is_refused_with_the_new_fingerprint() {
    let fake = Fake::start();
    let new = Pin::of(&fake.second_root());
    let site = moved(&fake, "anchors.file = \"/etc/nodecert/anchors.pem\"");
    let serial = site.serial("web");
    site.later(&fake, 5 * DAY);
    is_refused(&site, &site.run(), &serial, &new);

    fs::write(site.path("etc/nodecert/anchors.pem"), fake.anchors_pem() + &fake.second_root_pem()).unwrap();
    let report = site.run();
    assert_eq!((report.exit(), actions(&report)), (Exit::Done, vec![Action::Obtain]), "{}", report.done());
    assert_eq!(site.anchors(), 2);
}

#[test]
fn what_one_ca_has_put_into_a_shared_trust_file_stays_while_another_is_served() {
    let (one, other) = (Fake::start(), Fake::start());
    let site = Site::new(&one);
    fs::write(site.path("etc/nodecert/other-ca.pem"), other.tls_pem()).unwrap();
    let second = configuration(&other.url)
        .replace("ca.etcd", "ca.other")
        .replace("vault-ca", "other-ca")
        .replace("certificate.web", "certificate.other")
        .replace("\"etcd\"", "\"other\"\ntrusts = [\"etcd\", \"other\"]\nfiles = { cert = \"other.crt\", key = \"other.key\", ca = \"ca.crt\" }");
    site.configure(&second.split_once("[ca.other]").map(|(_, rest)| format!("\n[ca.other]{rest}")).unwrap());
    site.reconfigure("ca = \"etcd\"", "ca = \"etcd\"\ntrusts = [\"etcd\", \"other\"]");
    let report = site.run();
    assert_eq!((report.exit(), site.anchors()), (Exit::Done, 2), "{}", report.done());

    site.later(&one, 25 * HOUR);
    site.later(&other, 25 * HOUR);
    one.add_root();
    // The other comes later, and then its answer does not come at all.
    other.misbehave("ca_chain", fake::Fault::Status(503, None, "sealed"), 1);
    other.misbehave("/sign", fake::Fault::Status(503, None, "sealed"), usize::MAX);
    let force = Ask { force: true, deadline: Duration::from_secs(3), ..Ask::default() };
    let mut seen = Vec::new();
    std::thread::scope(|scope| {
        let run = scope.spawn(|| site.ask(&force).exit());
        while !run.is_finished() {
            seen.push(site.anchors());
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(run.join().unwrap(), Exit::Temporary);
    });
    seen.dedup();
    assert_eq!(seen, [2, 3], "the new root never leaves it");
}
