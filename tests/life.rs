//! The life of a host under a clock that the test sets: what a run does days later, and what it leaves alone.

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
use std::time::{Duration, SystemTime};

use fake::Fake;
use nodecert::report::{Action, Exit};
use nodecert::run::Ask;
use site::{DAY, HOUR, Site, actions, configuration};

#[test]
fn a_certificate_is_renewed_with_a_new_key_when_it_is_due_and_not_before() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    let report = site.run();
    let due =
        report.certificates[0].renew_after.unwrap().duration_since(SystemTime::now()).unwrap().as_secs();
    let key = || fs::read(site.path("etc/web/pki/web.key")).unwrap();
    let first = key();

    site.later(&fake, due - HOUR);
    assert_eq!(actions(&site.run()), [Action::Keep]);
    site.later(&fake, due + HOUR);
    let boot = site.ask(&Ask { missing: true, ..Ask::default() });
    assert_eq!((actions(&boot), key() == first), (vec![Action::Keep], true), "due is left to the timer");
    let report = site.run();
    assert_eq!((report.exit(), actions(&report)), (Exit::Done, vec![Action::Obtain]));
    assert_ne!(key(), first);
}

#[test]
fn a_certificate_that_expired_while_the_host_was_off_is_replaced_at_boot() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    let report = site.run();
    let end = report.certificates[0].leaf.as_ref().unwrap().not_after;
    site.later(&fake, end.duration_since(SystemTime::now()).unwrap().as_secs() + HOUR);
    let boot = site.ask(&Ask { missing: true, deadline: Duration::from_secs(2), ..Ask::default() });
    assert_eq!((boot.exit(), actions(&boot)), (Exit::Done, vec![Action::Obtain]));
}

#[test]
fn thirty_days_of_an_hourly_timer_ask_no_more_than_they_must() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    let mut unusable = 0;
    for hour in 0..29 * 24 {
        site.later(&fake, hour * HOUR);
        let report = site.run();
        assert_eq!(report.exit(), Exit::Done, "hour {hour}: {}", report.done());
        unusable += report.certificates.iter().filter(|line| !line.usable).count();
    }
    assert_eq!(unusable, 0);
    let asked = fake.asked();
    let signed = asked.iter().filter(|path| path.contains("/sign/")).count();
    let anchors = asked.iter().filter(|path| path.ends_with("/ca_chain")).count();
    // Six days each, renewed after four of them; anchors once a day.
    assert!(signed <= 29 / 4 + 1, "{signed} signatures");
    assert!(anchors <= 30, "{anchors} looks at the anchors");
    assert_eq!(asked.len(), signed + anchors, "and nothing else");
}

/// A hook of certificate web: a line in a file, while `allowed` is there.
fn hook(site: &Site) -> String {
    let (told, allowed) = (site.path("told"), site.path("allowed"));
    format!(
        "hooks = [{{ run = [\"/bin/sh\", \"-c\", \"test -e {} && echo told >>{}\"] }}]\n",
        allowed.display(),
        told.display()
    )
}

#[test]
fn a_consumer_is_told_of_a_change_once_and_of_nothing_else() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    site.configure(&hook(&site));
    fs::write(site.path("allowed"), "").unwrap();
    assert_eq!((site.run().exit(), site.told()), (Exit::Done, 1), "leaf and CA are one change");
    assert!(site.run().is_idle());
    assert_eq!(site.told(), 1);
    site.ask(&Ask { force: true, ..Ask::default() });
    assert_eq!(site.told(), 2);
    fake.behave();
    drop(fake);
    let failed = site.ask(&Ask { force: true, deadline: Duration::from_secs(1), ..Ask::default() });
    assert_eq!((failed.exit(), site.told()), (Exit::Temporary, 2), "what did not change is not owed");
}

#[test]
fn a_hook_is_called_for_what_it_names_alone() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    let (leaf, ca) = (site.path("leaf"), site.path("ca"));
    let run = |file: &std::path::Path| format!("[\"/bin/sh\", \"-c\", \"echo told >>{}\"]", file.display());
    let (of_leaf, of_ca) = (run(&leaf), run(&ca));
    site.configure(&format!(
        "hooks = [{{ on = [\"leaf\"], run = {of_leaf} }}, {{ on = [\"ca\"], run = {of_ca} }}]\n"
    ));
    let told = || [&leaf, &ca].map(|file| fs::read_to_string(file).unwrap_or_default().lines().count());
    site.run();
    assert_eq!(told(), [1, 1]);
    site.ask(&Ask { force: true, ..Ask::default() });
    assert_eq!(told(), [2, 1]);
    fake.add_root();
    site.later(&fake, 25 * HOUR);
    assert_eq!((site.run().exit(), site.anchors(), told()), (Exit::Done, 2, [2, 2]));
}

#[test]
fn a_consumer_is_told_when_all_that_it_reads_is_there() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    let reads = ["etc/web/pki/web.crt", "etc/web/pki/web.key", "etc/web/pki/ca.crt", "etc/web/tls.conf"];
    let reads = reads.map(|file| site.path(file).display().to_string()).join(" ");
    let seen = site.path("seen");
    let hook = |on| format!("[{{ {on}run = [\"/bin/sh\", \"-c\", \"cat {reads} >{}\"] }}]\n", seen.display());
    fs::write(site.path("etc/nodecert/tls.conf"), "server_name {{ hostname }};\n").unwrap();
    let file = "path = \"/etc/web/tls.conf\"\ntemplate = \"/etc/nodecert/tls.conf\"\nneeds = [\"web\"]\n";
    site.configure(&format!("hooks = {}[file.tls]\n{file}hooks = {}", hook("on = [\"leaf\"], "), hook("")));
    let now = || reads.split(' ').flat_map(|file| fs::read(file).unwrap()).collect::<Vec<_>>();
    let is_there = || fs::read(&seen).unwrap() == now();
    let report = site.run();
    assert!(report.exit() == Exit::Done && is_there(), "{}", report.done());
    assert_eq!(report.owed.len(), 1, "leaf and file are one deed");

    fs::remove_file(&seen).unwrap();
    site.ask(&Ask { force: true, ..Ask::default() });
    assert!(is_there(), "of a certificate");
    fs::remove_file(&seen).unwrap();
    fs::write(site.path("etc/nodecert/tls.conf"), "# and more\nserver_name {{ hostname }};\n").unwrap();
    assert_eq!(site.run().exit(), Exit::Done);
    assert!(is_there(), "of a file");
    fs::remove_file(&seen).unwrap();
    assert!(site.run().is_idle() && !seen.exists());
}

#[test]
fn a_hook_that_fails_stays_owed_until_it_is_done() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    site.configure(&hook(&site));
    let report = site.run();
    assert_eq!((report.exit(), report.certificates[0].action), (Exit::Fault, Action::Obtain));
    assert_eq!(site.look().owed.len(), 1);
    let again = site.run();
    assert_eq!(
        (again.exit(), again.certificates[0].action),
        (Exit::Fault, Action::Keep),
        "nothing changed, and it is owed"
    );
    fs::write(site.path("allowed"), "").unwrap();
    assert_eq!((site.run().exit(), site.told()), (Exit::Done, 1));
    assert!(site.run().is_idle() && site.look().owed.is_empty());
    assert_eq!(site.told(), 1);
}

#[test]
fn what_will_be_owed_is_written_down_before_anything_changes() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    site.configure(&hook(&site).replace("run =", "on = [\"leaf\"], run ="));
    let owed = while_the_ca_is_asked(&fake, &site, || {
        fs::read_to_string(site.path("var/lib/nodecert/owed.json")).unwrap_or_default()
    });
    assert!(owed.contains("echo told"), "{owed}");
    assert!(site.look().owed.is_empty(), "nothing has changed");
}

/// What is to be seen in the middle of a run: the CA has the request, and says nothing.
fn while_the_ca_is_asked<T>(fake: &Fake, site: &Site, look: impl FnOnce() -> T) -> T {
    fake.forget();
    fake.misbehave("/sign", fake::Fault::Hang, 1);
    let is_asked = || fake.asked().iter().any(|asked| asked.contains("/sign"));
    std::thread::scope(|scope| {
        let run = scope.spawn(|| site.ask(&Ask { deadline: Duration::from_secs(5), ..Ask::default() }));
        while !is_asked() && !run.is_finished() {
            std::thread::sleep(Duration::from_millis(2));
        }
        let seen = look();
        assert_eq!(run.join().unwrap().exit(), Exit::Temporary);
        seen
    })
}

#[test]
fn a_list_of_owed_hooks_that_cannot_be_read_owes_all() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    site.configure(&hook(&site));
    fs::write(site.path("allowed"), "").unwrap();
    site.run();
    fs::write(site.path("var/lib/nodecert/owed.json"), "[{\"deed\":").unwrap();
    assert_eq!((site.run().exit(), site.told()), (Exit::Done, 2));
    assert!(site.run().is_idle());
}

/// A second CA beside `etcd`, and a certificate of it.
fn second(url: &str) -> String {
    configuration(url)
        .split("[ca.etcd]")
        .nth(1)
        .map(|rest| format!("[ca.etcd]{rest}"))
        .unwrap()
        .replace("[ca.etcd", "[ca.away")
        .replace("ca = \"etcd\"", "ca = \"away\"")
        .replace("certificate.web", "certificate.other")
        .replace("/etc/web/pki", "/etc/other/pki")
}

#[test]
fn a_ca_that_hangs_holds_up_no_other() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    let hangs = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    site.configure(&second(&format!("https://{}", hangs.local_addr().unwrap())));
    let report = site.run();
    assert_eq!(report.exit(), Exit::Temporary);
    let state =
        |name: &str| report.certificates.iter().find(|line| line.name.as_str() == name).unwrap().state;
    assert_eq!((state("web"), state("other")), ("valid", "missing"));
    let only = Ask { only: vec![nodecert::setting::Name::new("web").unwrap()], ..Ask::default() };
    assert!(site.ask(&only).is_idle(), "with --only the other is not asked");
}

#[test]
fn a_copied_machine_makes_each_certificate_anew_once_even_while_one_ca_is_away() {
    let (fake, away) = (Fake::start(), Fake::start());
    let site = Site::new(&fake);
    let own = away.tls_pem();
    fs::write(site.path("etc/nodecert/away-ca.pem"), own).unwrap();
    site.configure(&second(&away.url).replace("vault-ca.pem", "away-ca.pem"));
    fs::write(site.path("etc/machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
    assert_eq!(site.run().exit(), Exit::Done);
    let web = site.serial("web");

    drop(away);
    fs::write(site.path("etc/machine-id"), "fedcba9876543210fedcba9876543210\n").unwrap();
    assert_eq!(site.run().exit(), Exit::Temporary);
    let anew = site.serial("web");
    assert_ne!(anew, web);
    assert_eq!(site.run().exit(), Exit::Temporary);
    assert_eq!(site.serial("web"), anew, "made anew once");
    let other = &site.look().certificates[0];
    assert_eq!((other.name.as_str(), other.state, other.usable), ("other", "mismatched", false));
}

#[test]
fn a_copied_machine_knows_its_keys_for_another_s_also_when_the_power_goes_in_the_middle() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    fs::write(site.path("etc/machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
    site.run();
    let own = "fedcba9876543210fedcba9876543210\n";
    fs::write(site.path("etc/machine-id"), own).unwrap();
    let state = ["machine-id", "cloned"].map(|file| site.path("var/lib/nodecert").join(file));
    let seen = while_the_ca_is_asked(&fake, &site, || state.map(|file| fs::read_to_string(file).unwrap()));
    assert_eq!(seen, [own, "web"]);
}

#[test]
fn what_drifted_is_mended_in_the_run_that_learns_the_anchors() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    site.run();
    fs::remove_file(site.path("var/lib/nodecert/anchors/etcd.pem")).unwrap();
    let key = fs::canonicalize(site.path("etc/web/pki/web.key")).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let report = site.run();
    assert_eq!((report.exit(), actions(&report)), (Exit::Done, vec![Action::Repair]));
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn what_drifted_is_mended_while_the_ca_is_away_too_and_that_it_is_away_is_said() {
    use std::os::unix::fs::PermissionsExt;
    let fake = Fake::start();
    let site = Site::new(&fake);
    site.run();
    let key = fs::canonicalize(site.path("etc/web/pki/web.key")).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    site.later(&fake, 5 * DAY);
    fake.misbehave("/v1/", fake::Fault::Status(503, None, "sealed"), usize::MAX);
    let report = site.ask(&Ask { deadline: Duration::from_secs(1), ..Ask::default() });
    assert!(report.exit() == Exit::Temporary && report.certificates[0].usable, "{}", report.done());
    assert!(report.certificates[0].changed);
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn what_cannot_be_mended_is_said_while_the_ca_is_away_too() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    site.run();
    // A directory in what is no longer used is not ours, and stops its removal.
    let stale = "etc/web/pki/.nodecert/web/20200101T000000Z-0000/theirs";
    fs::create_dir_all(site.path(stale)).unwrap();
    site.later(&fake, 5 * DAY);
    fake.misbehave("/v1/", fake::Fault::Status(503, None, "sealed"), usize::MAX);
    let report = site.ask(&Ask { deadline: Duration::from_secs(1), ..Ask::default() });
    let line = &report.certificates[0];
    assert!(report.exit() == Exit::Fault && line.usable && !line.changed, "{}", report.done());
    assert!(report.done().contains("20200101T000000Z-0000"), "{}", report.done());
}

#[test]
fn a_name_too_few_does_not_keep_a_consumer_from_starting_and_a_file_too_few_does() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    site.run();
    let config = site.path("config.toml");
    let text =
        fs::read_to_string(&config).unwrap().replace("dns = [\"node01\"]", "dns = [\"node01\", \"new\"]");
    fs::write(&config, text).unwrap();
    let line = &site.look().certificates[0];
    assert_eq!((line.state, line.usable), ("mismatched", true));
    site.run();
    fs::remove_file(site.path("etc/web/pki/web.key")).unwrap();
    assert!(!site.look().is_usable());
    assert_eq!(actions(&site.run()), [Action::Repair]);
    assert!(site.look().is_usable());
}

#[test]
fn a_request_that_a_power_cut_brings_back_does_not_bring_back_its_key() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    site.run();
    let (pending, key) = (site.path("var/lib/nodecert/pending/web.pem"), site.path("etc/web/pki/web.key"));
    fake.misbehave("/sign", fake::Fault::Status(503, None, "sealed"), usize::MAX);
    let force = Ask { force: true, deadline: Duration::from_secs(1), ..Ask::default() };
    assert_eq!(site.ask(&force).exit(), Exit::Temporary);
    let lost = fs::read(&pending).unwrap();
    fake.behave();
    assert_eq!(site.ask(&force).exit(), Exit::Done);
    let second = fs::read(&key).unwrap();
    assert!(lost.starts_with(&second), "the open request was gone on with");

    fs::write(&pending, lost).unwrap();
    assert_eq!(site.ask(&force).exit(), Exit::Done);
    assert_ne!(fs::read(&key).unwrap(), second);
}

#[test]
fn a_changed_address_leads_to_a_new_certificate_once_it_has_held() {
    let fake = Fake::start();
    let mut site = Site::detecting(&fake);
    site.stand_still(&fake);
    assert_eq!(
        (site.run().exit(), actions(&site.look())),
        (Exit::Done, vec![Action::Keep]),
        "the first waits for nothing"
    );
    let first = site.serial("web");

    site.has_addresses("10.0.0.12");
    site.later(&fake, HOUR);
    fake.forget();
    let planned = site.look().plan();
    assert!(planned.contains("it lacks the address 10.0.0.12; waits until"), "{planned}");
    let report = site.run();
    assert_eq!((report.exit(), actions(&report)), (Exit::Done, vec![Action::Blocked]), "{}", report.done());
    let line = &report.certificates[0];
    assert!(line.usable && line.reason.contains("waits until"), "{}", line.reason);
    assert!(fake.asked().is_empty() && site.serial("web") == first);

    site.later(&fake, HOUR + 599);
    assert_eq!(actions(&site.run()), [Action::Blocked]);
    site.later(&fake, HOUR + 600);
    assert_eq!(actions(&site.run()), [Action::Obtain]);
    let leaf = site.look().certificates[0].leaf.clone().unwrap();
    assert_eq!(leaf.ips, ["10.0.0.12".parse().unwrap()].into());
}

#[test]
fn an_address_that_flaps_leads_to_nothing_and_a_person_can_have_it_at_once() {
    let fake = Fake::start();
    let mut site = Site::detecting(&fake);
    site.run();
    let first = site.serial("web");
    fake.forget();
    for hour in 1..=12 {
        site.has_addresses(if hour % 2 == 0 { "10.0.0.11" } else { "10.0.0.12" });
        site.later(&fake, hour * HOUR);
        assert_eq!(site.run().exit(), Exit::Done);
    }
    assert_eq!((fake.asked().len(), site.serial("web")), (0, first), "nobody was asked");
    site.has_addresses("10.0.0.12");
    site.later(&fake, 13 * HOUR);
    assert_eq!(actions(&site.ask(&Ask { force: true, ..Ask::default() })), [Action::Obtain]);
}

#[test]
fn an_address_that_went_and_names_that_the_ca_added_lead_to_nothing() {
    let fake = Fake::start();
    let mut site = Site::detecting(&fake);
    site.has_addresses("10.0.0.11 10.0.0.12");
    site.run();
    fake.forget();
    // As when one of them is deprecated: it is no longer among the facts.
    site.has_addresses("10.0.0.11");
    for hour in [1, 2, 3] {
        site.later(&fake, hour * HOUR);
        assert!(site.run().is_idle());
    }
    assert_eq!(fake.asked(), [""; 0]);
}

#[test]
fn what_the_configuration_asks_for_waits_for_nothing() {
    let fake = Fake::start();
    let mut site = Site::detecting(&fake);
    site.run();
    site.reconfigure("dns = [\"node01\"]", "dns = [\"node01\", \"new\"]");
    assert_eq!(actions(&site.run()), [Action::Obtain]);
    // And with settle as short as can be, neither does the host.
    site.reconfigure("[node]", "[node]\nsettle = \"1s\"");
    site.has_addresses("10.0.0.12");
    site.later(&fake, 60);
    assert_eq!(actions(&site.run()), [Action::Blocked], "it is seen for the first time");
    site.later(&fake, 61);
    assert_eq!(actions(&site.run()), [Action::Obtain]);
}

#[test]
fn an_address_of_the_configuration_waits_for_nothing_either() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    site.reconfigure("ips = [\"10.0.0.11\"]", "ips = [\"{{ addresses }}\"]");
    site.run();
    site.reconfigure("addresses = [\"10.0.0.11\"]", "addresses = [\"10.0.0.12\"]");
    assert_eq!(actions(&site.run()), [Action::Obtain]);
}

#[test]
fn a_clock_that_was_ahead_holds_a_new_address_back_no_longer_than_another() {
    let fake = Fake::start();
    let mut site = Site::detecting(&fake);
    site.run();
    site.has_addresses("10.0.0.12");
    for (clock, action) in [(DAY, Action::Blocked), (HOUR, Action::Blocked), (HOUR + 600, Action::Obtain)] {
        site.later(&fake, clock);
        assert_eq!(actions(&site.run()), [action], "{clock}");
    }
}

#[test]
fn a_name_that_is_due_anyway_and_a_boot_go_by_their_own_rules() {
    let fake = Fake::start();
    let mut site = Site::detecting(&fake);
    site.run();
    site.has_addresses("10.0.0.12");
    site.later(&fake, HOUR);
    let boot = site.ask(&Ask { missing: true, ..Ask::default() });
    assert_eq!(actions(&boot), [Action::Blocked], "a boot does not hurry it");
    assert!(site.look().is_usable(), "and starts what is there");
    site.has_addresses("10.0.0.13");
    site.later(&fake, 5 * DAY);
    assert_eq!(actions(&site.run()), [Action::Obtain], "due after four days");
}

#[test]
fn a_ca_that_gives_less_than_three_runs_of_the_timer_is_said_to_and_served_all_the_same() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    fake.sign_for(HOUR);
    let report = site.run();
    assert_eq!(report.exit(), Exit::Done);
    assert!(
        report.done().contains("CA etcd gave a lifetime of 1 h")
            && report.done().contains("OnCalendar=*:0/20"),
        "{}",
        report.done()
    );
    assert_eq!(actions(&site.run()), [Action::Keep], "not at once again");
    site.later(&fake, HOUR / 3);
    assert_eq!(actions(&site.run()), [Action::Obtain]);
}

#[test]
fn a_consumer_is_told_of_anchors_that_the_run_itself_learns() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    site.configure(&hook(&site).replace("{ run", "{ on = [\"ca\"], run"));
    fs::write(site.path("allowed"), "").unwrap();
    assert_eq!((site.run().exit(), site.told()), (Exit::Done, 1));
    site.later(&fake, 25 * HOUR);
    assert_eq!((site.run().exit(), site.told()), (Exit::Done, 1), "read again, and no other");
    fake.add_root();
    site.later(&fake, 50 * HOUR);
    assert_eq!((site.run().exit(), site.anchors(), site.told()), (Exit::Done, 2, 2));
    assert!(site.run().is_idle());
}

/// A certificate of a Puppet CA, whose revocation lists are wanted as a file.
fn with_lists(fake: &Fake) -> String {
    format!(
        "[node]\nhostname = \"node01\"\ndomain = \"example.com\"\n[ca.etcd]\ntls.file = \"/etc/nodecert/vault-ca.pem\"\nanchors.published = true\n[ca.etcd.puppet]\nurl = \"{}\"\n[certificate.web]\nca = \"etcd\"\ncommon_name = \"web.example.com\"\ndirectory = \"/etc/web/pki\"\nfiles = {{ cert = \"web.crt\", key = \"web.key\", ca = \"ca.crt\", crl = \"crl.pem\" }}\n",
        fake.url
    )
}

#[test]
fn what_cannot_be_read_when_it_is_judged_again_is_said() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    fs::write(site.path("config.toml"), with_lists(&fake)).unwrap();
    assert_eq!(site.run().exit(), Exit::Done);
    fs::remove_file(site.path("var/lib/nodecert/crl/etcd.pem")).unwrap();
    fake.forget();
    fake.misbehave("certificate_revocation_list", fake::Fault::Status(503, None, "busy"), 1);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| site.ask(&Ask { deadline: Duration::from_secs(10), ..Ask::default() }));
        while fake.asked().is_empty() && !run.is_finished() {
            std::thread::sleep(Duration::from_millis(2));
        }
        fs::create_dir_all(site.path("var/lib/nodecert/revoked/web")).unwrap();
        let report = run.join().unwrap();
        assert_eq!((report.exit(), actions(&report)), (Exit::Fault, vec![Action::Keep]), "{}", report.done());
        let trouble = report.certificates[0].trouble.as_ref().unwrap();
        assert!(trouble.message.contains("revoked/web"), "{}", trouble.message);
    });
}

#[test]
fn a_consumer_is_told_of_a_certificate_that_the_run_itself_finds_revoked() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    // The list alone is read again: what the server's own certificate leads to are the anchors too.
    let config = with_lists(&fake).replace("anchors.published = true\n", "");
    fs::write(site.path("config.toml"), config + &hook(&site)).unwrap();
    fs::write(site.path("allowed"), "").unwrap();
    assert_eq!((site.run().exit(), site.told()), (Exit::Done, 1));
    let first = site.serial("web");
    fake.clean("web.example.com");
    site.later(&fake, 25 * HOUR);
    let report = site.run();
    assert_eq!((report.exit(), actions(&report)), (Exit::Done, vec![Action::Obtain]), "{}", report.done());
    assert_ne!(site.serial("web"), first);
    assert_eq!(site.told(), 2);
    assert!(site.run().is_idle());
}

#[test]
fn a_list_that_an_earlier_version_kept_is_heeded_while_the_ca_is_away() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    fs::write(site.path("config.toml"), with_lists(&fake)).unwrap();
    assert_eq!(site.run().exit(), Exit::Done);
    fake.clean("web.example.com");
    fake.misbehave("/certificate_request/", fake::Fault::Status(503, None, "busy"), usize::MAX);
    site.later(&fake, 25 * HOUR);
    site.ask(&Ask { deadline: Duration::from_secs(2), ..Ask::default() });
    let state = site.path("var/lib/nodecert/crl/etcd.pem");
    let kept = fs::read_to_string(&state).unwrap();
    let (_, lists) = kept.split_once('\n').unwrap();
    fs::write(&state, format!("# read at 1700000000\n{lists}")).unwrap();
    drop(fake);
    let line = &site.look().certificates[0];
    assert!(line.reason.contains("revoked"), "{}", line.reason);
}

/// There is no systemd here, so etcd rests: it reads what is there when it starts.
#[test]
fn a_unit_that_rests_is_told_nothing_and_nothing_is_said_of_it() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    site.configure(
        "[ca.lab.local]\n[etcd]\nca = \"lab\"\ncluster = { node01 = \"10.0.0.11\", node02 = \"10.0.0.12\" }\n",
    );
    let report = site.run();
    let told: Vec<_> = report.owed.iter().map(|line| line.deed.as_str()).collect();
    assert_eq!((report.exit(), told), (Exit::Done, vec![]), "{}", report.done());
    assert!(site.look().owed.is_empty() && site.run().is_idle(), "it is not owed either");
}

/// A scheduler whose kubeconfig holds its certificate, and a kubelet that reads its own at its start only.
const EMBEDDED: &str = r#"
[ca.k8s.local]
[kube-scheduler]
ca = "k8s"
server = "https://10.0.0.5:6443"
embed = true
[kubelet]
ca = "k8s"
api_server = "https://10.0.0.5:6443"
version = "1.30"
"#;

#[test]
fn what_is_embedded_is_written_again_with_a_new_certificate() {
    let fake = Fake::start();
    let mut site = Site::new(&fake);
    site.world.tells = false;
    let config = site.path("config.toml");
    fs::write(&config, fs::read_to_string(&config).unwrap() + EMBEDDED).unwrap();
    assert_eq!(site.run().exit(), Exit::Done);
    let kubeconfig = || fs::read_to_string(site.path("etc/kubernetes/scheduler.conf")).unwrap();
    let first = kubeconfig();
    assert!(first.contains("client-key-data: ") && !first.contains("/etc/kubernetes/pki"), "{first}");
    assert!(site.run().is_idle());
    site.ask(&Ask { force: true, ..Ask::default() });
    assert_ne!(kubeconfig(), first);

    // There is no systemd here, and so no unit that runs: no restart is said to be done.
    site.world.tells = true;
    assert!(site.run().is_idle());
    let second = fs::read_to_string(site.path("etc/kubernetes/scheduler.conf")).unwrap();
    let report = site.ask(&Ask { force: true, ..Ask::default() });
    let third = fs::read_to_string(site.path("etc/kubernetes/scheduler.conf")).unwrap();
    let owed: Vec<_> = report.owed.iter().map(|line| line.deed.as_str()).collect();
    assert_eq!((owed, second == third), (vec![], false));
    assert!(site.look().owed.is_empty() && site.run().is_idle(), "nor is it owed");
}

/// A control plane with a token that the operator gives.
const TOKENS: &str = r#"
[ca.k8s.local]
[kube-apiserver]
ca = "k8s"
service_cidr = "10.96.0.0/12"
etcd_servers = ["https://10.0.0.5:2379"]
[kube-apiserver.tokens.monitor]
token = { file = "/etc/nodecert/monitor" }
replace = true
"#;

#[test]
fn a_token_that_is_given_anew_is_in_the_file_and_no_unit_is_said_to_be_told_where_there_is_none() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    site.configure(TOKENS);
    let give = |token: &str| {
        fs::write(site.path("etc/nodecert/monitor"), token).unwrap();
        fs::set_permissions(site.path("etc/nodecert/monitor"), PermissionsExt::from_mode(0o600)).unwrap();
    };
    give("the-first");
    assert_eq!(site.run().exit(), Exit::Done);
    assert!(site.run().is_idle());
    give("the-second");
    let report = site.run();
    let told: Vec<_> = report.owed.iter().map(|line| line.deed.as_str()).collect();
    // There is no systemd here: what would be told is in tests/restarts.rs.
    assert_eq!((report.exit(), told), (Exit::Done, vec![]));
    let tokens = fs::read_to_string(site.path("etc/kubernetes/tokens.csv")).unwrap();
    assert_eq!(tokens, "the-second,monitor,monitor\n");
    assert!(site.run().is_idle());
}

/// A control plane whose key of service accounts the operator gives. A hook that comes last shows what is owed.
fn with_key(site: &Site) -> String {
    let owed = site.path("var/lib/nodecert/owed.json");
    format!(
        "hooks = [{{ run = [\"/bin/cp\", \"{}\", \"{}\"] }}]\n[ca.k8s.local]\n[kubernetes]\nca = \"k8s\"\napi_server = \"https://10.0.0.5:6443\"\n[kube-apiserver]\nservice_cidr = \"10.96.0.0/12\"\netcd_servers = [\"https://10.0.0.5:2379\"]\n[kube-controller-manager]\n[service-account]\nkey = {{ file = \"/etc/nodecert/sa.key\" }}\nkind = \"p256\"\nreplace = true\n",
        owed.display(),
        site.path("seen").display()
    )
}

#[test]
fn a_key_pair_that_is_given_anew_restarts_who_reads_it_at_its_start_only() {
    let fake = Fake::start();
    let site = Site::new(&fake);
    let given = site.path("etc/nodecert/sa.key");
    let give = || {
        fs::write(&given, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        fs::set_permissions(&given, PermissionsExt::from_mode(0o600)).unwrap();
    };
    site.configure(&with_key(&site));
    give();
    assert_eq!(site.run().exit(), Exit::Done);
    assert!(site.run().is_idle());
    let forced = Ask { force: true, ..Ask::default() };
    let owed = |report: nodecert::report::Report| {
        assert_eq!(report.exit(), Exit::Done, "{}", report.done());
        let debts: Vec<serde_json::Value> =
            serde_json::from_slice(&fs::read(site.path("seen")).unwrap()).unwrap();
        let of_key = debts.iter().filter(|debt| debt["subject"]["file"] == "/etc/kubernetes/pki/sa.key");
        of_key.map(|debt| debt["deed"]["restart"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(owed(site.ask(&forced)), [""; 0], "the same key");
    give();
    assert_eq!(owed(site.ask(&forced)), ["kube-apiserver.service", "kube-controller-manager.service"]);
    assert!(site.look().owed.is_empty() && site.run().is_idle());
}
