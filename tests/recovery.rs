//! Every way in which a host can be damaged, as a case: before, command, after, exit code, message.

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
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use fake::Fake;
use nodecert::clock::Clock;
use nodecert::report::{Action, Exit};
use nodecert::run::Ask;
use rstest::rstest;
use site::{DAY, HOUR, Site};

const KEY: &str = "etc/web/pki/web.key";
const CERT: &str = "etc/web/pki/web.crt";

/// What the command is to leave.
#[derive(Debug, PartialEq)]
enum After {
    /// Another key, with a certificate.
    NewPair,
    /// The pair that was there before the damage.
    SamePair,
    /// Nothing that a consumer could use, and nothing that was good thrown away.
    AsDamaged,
}
use After::{AsDamaged, NewPair, SamePair};

type Damage = fn(&mut Site, &Fake);

/// Before: a host in order, then the damage. Command: `run` or, at boot, `run --missing`.
#[rstest]
#[case::expired_while_off(|s: &mut Site, f: &Fake| s.later(f, 7 * DAY), "boot", NewPair, Exit::Done, "it expired 20")]
#[case::key_lost(|s: &mut Site, _: &Fake| fs::remove_file(real(s, KEY)).unwrap(), "boot", NewPair, Exit::Done, "web.key is missing, while its certificate is there")]
#[case::certificate_lost(|s: &mut Site, _: &Fake| fs::remove_file(real(s, CERT)).unwrap(), "boot", NewPair, Exit::Done, "web.crt is missing, while its key is there")]
#[case::links_lost(|s: &mut Site, _: &Fake| { fs::remove_file(s.path(KEY)).unwrap(); fs::remove_file(s.path(CERT)).unwrap(); }, "boot", SamePair, Exit::Done, "web.key is missing")]
#[case::directory_lost(|s: &mut Site, _: &Fake| fs::remove_dir_all(s.path("etc/web/pki")).unwrap(), "boot", NewPair, Exit::Done, "absent")]
#[case::key_empty(|s: &mut Site, _: &Fake| fs::write(real(s, KEY), "").unwrap(), "boot", NewPair, Exit::Done, "web.key: no usable private key")]
#[case::key_garbage(|s: &mut Site, _: &Fake| fs::write(real(s, KEY), "\0\u{fffd}garbage\n").unwrap(), "boot", NewPair, Exit::Done, "web.key: no usable private key")]
#[case::certificate_empty(|s: &mut Site, _: &Fake| fs::write(real(s, CERT), "").unwrap(), "boot", NewPair, Exit::Done, "it holds no certificate")]
#[case::certificate_cut(|s: &mut Site, _: &Fake| cut(s, CERT), "boot", NewPair, Exit::Done, "web.crt: it cannot be read as a certificate chain")]
#[case::wrong_pair(|s: &mut Site, f: &Fake| fs::write(real(s, KEY), other_key(f)).unwrap(), "boot", NewPair, Exit::Done, "is not the key of")]
#[case::torn_by_another_tool(|s: &mut Site, f: &Fake| torn(s, f), "boot", AsDamaged, Exit::Fault, "web.key was not written by nodecert; set replace = true")]
#[case::torn_by_another_tool_that_may_be_replaced(|s: &mut Site, f: &Fake| { torn(s, f); s.configure("replace = true\n"); }, "boot", NewPair, Exit::Done, "is not the key of")]
#[case::state_lost(|s: &mut Site, _: &Fake| fs::remove_dir_all(s.path("var/lib/nodecert")).unwrap(), "boot", SamePair, Exit::Done, "as configured")]
#[case::state_damaged(|s: &mut Site, _: &Fake| fs::write(s.path("var/lib/nodecert/anchors/etcd.pem"), "garbage").unwrap(), "boot", SamePair, Exit::Done, "as configured")]
#[case::trust_file_lost(|s: &mut Site, _: &Fake| fs::remove_file(s.path("etc/web/pki/ca.crt")).unwrap(), "boot", SamePair, Exit::Done, "the CA's certificates")]
#[case::machine_copied(|s: &mut Site, _: &Fake| machine(s, "fedcba9876543210fedcba9876543210"), "boot", NewPair, Exit::Done, "made on another machine, of which this one is a copy")]
#[case::host_made_anew_under_its_name(|s: &mut Site, _: &Fake| anew(s), "boot", NewPair, Exit::Done, "absent")]
#[case::ca_away_while_valid(|s: &mut Site, f: &Fake| { away(f); s.later(f, 5 * DAY); }, "run", SamePair, Exit::Temporary, "run again when it answers")]
#[case::ca_away_while_valid_at_boot(|s: &mut Site, f: &Fake| { away(f); s.later(f, 5 * DAY); }, "boot", SamePair, Exit::Done, "left to the timer")]
#[case::ca_away_too_long(|s: &mut Site, f: &Fake| { away(f); s.later(f, 7 * DAY); }, "run", AsDamaged, Exit::Temporary, "503 sealed")]
#[case::clock_of_1970(|s: &mut Site, _: &Fake| clock_at(s, 10), "boot", AsDamaged, Exit::Temporary, "this host's clock says 1970-01-01T00:00:10Z, which was before this program was made")]
#[case::clock_ahead_of_the_ca(|s: &mut Site, _: &Fake| s.ahead.store(20 * DAY, Ordering::SeqCst), "boot", AsDamaged, Exit::Temporary, "ahead, or theirs is wrong; of what it signed now, it expired")]
#[case::clock_ahead_of_the_servers_own_certificate(|s: &mut Site, _: &Fake| s.ahead.store(60 * DAY, Ordering::SeqCst), "boot", AsDamaged, Exit::Temporary, "and this host's clock says")]
#[case::clock_behind_the_certificate(|s: &mut Site, f: &Fake| behind(s, f), "boot", AsDamaged, Exit::Temporary, "behind, or theirs is wrong; of what it signed now, it is valid only from")]
fn each_damage_is_mended_or_named(
    #[case] damage: Damage,
    #[case] command: &str,
    #[case] after: After,
    #[case] exit: Exit,
    #[case] message: &str,
) {
    let fake = Fake::start();
    let mut site = Site::new(&fake);
    machine(&site, "0123456789abcdef0123456789abcdef");
    assert_eq!(site.run().exit(), Exit::Done);
    let before = (content(&site, KEY), content(&site, CERT));

    damage(&mut site, &fake);
    let damaged = (content(&site, KEY), content(&site, CERT));
    let report =
        site.ask(&Ask { missing: command == "boot", deadline: Duration::from_secs(1), ..Ask::default() });

    let said = report.done();
    assert_eq!(report.exit(), exit, "{said}");
    assert!(said.contains(message), "{said}");
    let now = (content(&site, KEY), content(&site, CERT));
    match after {
        SamePair => assert!(now == before && report.certificates[0].usable, "{said}"),
        AsDamaged => assert!(now == damaged && !report.certificates[0].usable, "{said}"),
        NewPair => {
            assert!(now.0 != before.0 && report.certificates[0].usable, "{said}");
            assert!(site.look().is_idle(), "and then there is nothing to do");
        }
    }
}

#[test]
fn a_pair_that_was_good_is_good_again_when_the_clock_is_right_and_no_one_is_asked() {
    let fake = Fake::start();
    let mut site = Site::new(&fake);
    site.run();
    let before = content(&site, KEY);
    let own = site.world.clock.clone();
    for (seconds, said) in
        [(10, "before this program was made"), (3_000_000_000, "this host's clock says 2065")]
    {
        fake.forget();
        clock_at(&mut site, seconds);
        let report = site.ask(&Ask { deadline: Duration::from_secs(1), force: true, ..Ask::default() });
        assert!(report.exit() == Exit::Temporary && report.done().contains(said), "{}", report.done());
        assert!(fake.asked().is_empty(), "{:?}", fake.asked());
        site.world.clock = own.clone();
        assert!(site.look().is_idle());
        assert_eq!(content(&site, KEY), before);
    }
}

#[test]
fn an_embedded_ca_is_not_made_anew_under_a_clock_that_is_wrong() {
    let fake = Fake::start();
    let mut site = Site::new(&fake);
    let config = "[node]\nhostname = \"node01\"\n[ca.lab.local]\n[certificate.web]\nca = \"lab\"\ncommon_name = \"node01\"\ndirectory = \"/etc/web/pki\"\n";
    fs::write(site.path("config.toml"), config).unwrap();
    assert_eq!(site.run().exit(), Exit::Done);
    let before = (content(&site, KEY), content(&site, "var/lib/nodecert/ca/lab/authority.pem"));
    clock_at(&mut site, 10);
    assert_eq!(site.ask(&Ask { deadline: Duration::from_secs(1), ..Ask::default() }).exit(), Exit::Temporary);
    assert!((content(&site, KEY), content(&site, "var/lib/nodecert/ca/lab/authority.pem")) == before);
}

#[test]
fn a_clock_that_is_set_while_a_run_waits_for_it_is_enough() {
    let fake = Fake::start();
    let mut site = Site::new(&fake);
    let began = std::time::Instant::now();
    site.world.clock = Clock::new(move || match began.elapsed() < Duration::from_millis(1_500) {
        true => SystemTime::UNIX_EPOCH + began.elapsed(),
        false => SystemTime::now(),
    });
    let report = site.ask(&Ask { missing: true, deadline: Duration::from_secs(60), ..Ask::default() });
    assert_eq!(report.exit(), Exit::Done, "{}", report.done());
}

#[test]
fn a_usable_pair_that_was_made_by_other_means_is_adopted() {
    let fake = Fake::start();
    let (other, site) = (Site::new(&fake), Site::new(&fake));
    other.run();
    fs::create_dir_all(site.path("etc/web/pki")).unwrap();
    for file in [KEY, CERT] {
        fs::write(site.path(file), content(&other, file).unwrap()).unwrap();
    }
    fake.forget();
    let report = site.run();
    assert_eq!(report.exit(), Exit::Done, "{}", report.done());
    assert!(content(&site, KEY) == content(&other, KEY) && report.certificates[0].usable);
    assert!(fake.asked().iter().all(|asked| asked.ends_with("/ca_chain")), "{:?}", fake.asked());
    site.later(&fake, 5 * DAY);
    assert_eq!(site.run().certificates[0].action, Action::Obtain, "and renewed in its time");
}

#[test]
fn while_a_ca_is_away_for_days_the_timer_goes_on_and_finds_it_when_it_is_back() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    site.run();
    away(&fake);
    for hour in (4 * 24 + 1..6 * 24).step_by(8) {
        site.later(&fake, hour * HOUR);
        let report = site.ask(&Ask { deadline: Duration::from_millis(400), ..Ask::default() });
        assert_eq!((report.exit(), report.certificates[0].usable), (Exit::Temporary, true), "hour {hour}");
    }
    fake.behave();
    assert_eq!(site.run().exit(), Exit::Done);
}

#[test]
fn a_host_that_was_off_while_its_ca_got_another_root_comes_back_at_boot() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    site.run();
    fake.add_root();
    fake.rotate();
    site.later(&fake, 20 * DAY);
    let boot = site.ask(&Ask { missing: true, deadline: Duration::from_secs(20), ..Ask::default() });
    assert_eq!(boot.exit(), Exit::Done, "{}", boot.done());
    assert!(boot.certificates[0].usable && site.anchors() == 2);
}

fn away(fake: &Fake) {
    fake.misbehave("/v1/", fake::Fault::Status(503, None, "sealed"), usize::MAX);
}

/// Where a link leads.
fn real(site: &Site, file: &str) -> std::path::PathBuf {
    fs::canonicalize(site.path(file)).unwrap()
}

fn content(site: &Site, file: &str) -> Option<String> {
    fs::read(site.path(file)).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn cut(site: &Site, file: &str) {
    let path = real(site, file);
    let text = fs::read(&path).unwrap();
    fs::write(path, &text[..text.len() / 3]).unwrap();
}

fn other_key(fake: &Fake) -> String {
    let other = Site::new(fake);
    other.run();
    content(&other, KEY).unwrap()
}

/// Another program has put its key in the place of our link, and was cut short before its certificate.
fn torn(site: &Site, fake: &Fake) {
    fs::remove_file(site.path(KEY)).unwrap();
    fs::write(site.path(KEY), other_key(fake)).unwrap();
}

fn machine(site: &Site, id: &str) {
    fs::write(site.path("etc/machine-id"), format!("{id}\n")).unwrap();
}

/// The disk is new, the name is the old one, and so is the configuration.
fn anew(site: &Site) {
    fs::remove_dir_all(site.path("etc/web")).unwrap();
    fs::remove_dir_all(site.path("var")).unwrap();
    machine(site, "fedcba9876543210fedcba9876543210");
}

fn clock_at(site: &mut Site, seconds: u64) {
    site.world.clock = Clock::new(move || SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
}

/// What is held was got ten days later than it is now by this host's clock.
fn behind(site: &mut Site, fake: &Fake) {
    site.later(fake, 10 * DAY);
    site.run();
    site.ahead.store(0, Ordering::SeqCst);
}
