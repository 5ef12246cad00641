//! A Puppet CA that does what a real puppetserver will not, or not soon: whatever it answers, nothing unverified
//! is installed, the run ends in time, the exit code says whose turn it is, and the message what to do.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod bed;
mod fake;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bed::{Host, Outcome, blocks, inspect};
use fake::{Fake, Fault};
use nodecert::clock::Clock;
use nodecert::facts;
use nodecert::report::Exit;
use nodecert::root::Root;
use nodecert::run::{Ask, World};
use nodecert::trust::Pin;
use rstest::rstest;

const TEMPORARY: i32 = 75;
const REFUSED: i32 = 77;

const CERT: &str = "/etc/web/pki/web.crt";
/// Key and certificate; revocation lists come anew whenever they are asked for.
const PAIR: &str = "/etc/web/pki/.nodecert";
const CRL: &str = "/etc/web/pki/crl.pem";
const CLEAN: &str = "puppetserver ca clean --certname web.example.com";

const BUNDLE: &str = "GET /puppet-ca/v1/certificate/ca";
const LOOK: &str = "GET /puppet-ca/v1/certificate/web.example.com";
const SUBMIT: &str = "PUT /puppet-ca/v1/certificate_request";
const LISTS: &str = "GET /puppet-ca/v1/certificate_revocation_list";
const RENEW: &str = "POST /puppet-ca/v1/certificate_renewal";

const EIGHT_YEARS: Duration = Duration::from_secs(8 * 366 * 86_400);

/// A host with one certificate of the CA, vouched for by the root's fingerprint.
fn host(fake: &Fake) -> Host {
    let host = Host::new();
    configure(&host, fake, "", "");
    host
}

fn configure(host: &Host, fake: &Fake, ca: &str, more: &str) {
    host.configure(&format!(
        r#"
[node]
hostname = "node01"
domain = "example.com"
addresses = ["10.99.0.11"]
[ca.site]
tls.pins = ["{}"]
[ca.site.puppet]
url = "{}"
{ca}
[certificate.web]
ca = "site"
common_name = "web.example.com"
directory = "/etc/web/pki"
files = {{ cert = "web.crt", key = "web.key", ca = "ca.crt", crl = "crl.pem" }}
{more}
"#,
        Pin::of(&fake.tls_root()),
        fake.url
    ));
}

/// A run that is to end soon after its deadline, whatever it meets.
fn run(host: &Host, arguments: &str) -> Outcome {
    let began = Instant::now();
    let outcome = host.nodecert(&format!("run --deadline 3s {arguments}"));
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    outcome
}

/// A run that the CA leaves in peace; a busy machine may take its time.
fn good_run(host: &Host, arguments: &str) -> Outcome {
    host.nodecert(&format!("run --deadline 60s {arguments}"))
}

/// What is refused ends by itself, what may come ends by the deadline.
fn failing(code: i32) -> fn(&Host, &str) -> Outcome {
    if code == REFUSED { good_run } else { run }
}

fn status(code: u16) -> Fault {
    Fault::Status(code, None, "the server's own words")
}

/// What puppetserver 7.9.5 and 8.7 say to a request that they do not take in.
fn says(words: &'static str) -> Fault {
    Fault::Status(400, None, words)
}

/// No certificate of the CA is anywhere, in force or half put there.
fn has_nothing(host: &Host) {
    assert!(!host.path(CERT).exists());
    assert!(!host.path("/etc/web/pki/web.key").exists());
}

#[rstest]
// Stalls and half answers at each call: the CA may do better in a moment.
#[case::bundle_stalls(BUNDLE, 0, Fault::Hang, TEMPORARY, "no answer")]
#[case::look_stalls(LOOK, 0, Fault::Hang, TEMPORARY, "no answer")]
#[case::submission_stalls(SUBMIT, 0, Fault::Hang, TEMPORARY, "no answer")]
#[case::signature_stalls(LOOK, 1, Fault::Hang, TEMPORARY, "no answer")]
#[case::lists_stall(LISTS, 0, Fault::Hang, TEMPORARY, "no answer")]
#[case::bundle_is_cut(BUNDLE, 0, Fault::HalfClosed, TEMPORARY, "connection broken")]
#[case::look_is_cut(LOOK, 0, Fault::HalfClosed, TEMPORARY, "connection broken")]
#[case::submission_is_cut(SUBMIT, 0, Fault::HalfClosed, TEMPORARY, "connection broken")]
#[case::signature_is_cut(LOOK, 1, Fault::HalfClosed, TEMPORARY, "connection broken")]
#[case::lists_are_cut(LISTS, 0, Fault::HalfClosed, TEMPORARY, "connection broken")]
#[case::submission_hangs_up(SUBMIT, 0, Fault::Dropped, TEMPORARY, "connection broken")]
#[case::internal_error(SUBMIT, 0, status(500), TEMPORARY, "500 the server's own words")]
#[case::not_up_yet(BUNDLE, 0, status(503), TEMPORARY, "503 the server's own words")]
// Answers that hold something else than what was asked for.
#[case::bundle_is_no_pem(BUNDLE, 0, Fault::NotPem, REFUSED, "not a list of certificates")]
#[case::bundle_is_half_a_pem(BUNDLE, 0, Fault::TruncatedPem, REFUSED, "not a list of certificates")]
#[case::bundle_is_empty(BUNDLE, 0, Fault::Empty204, REFUSED, "not a list of certificates")]
#[case::bundle_of_another_ca(BUNDLE, 0, Fault::OtherCa, REFUSED, "put it into tls.pins")]
#[case::certificate_is_half_a_pem(LOOK, 1, Fault::TruncatedPem, REFUSED, "damaged")]
#[case::certificate_is_html(LOOK, 1, Fault::Html200, REFUSED, "no certificate in PEM")]
#[case::certificate_is_empty(LOOK, 1, Fault::Empty204, REFUSED, "no certificate in PEM")]
#[case::lists_are_no_pem(LISTS, 0, Fault::NotPem, REFUSED, "no list that this CA has signed")]
#[case::lists_are_half_a_pem(LISTS, 0, Fault::TruncatedPem, REFUSED, "no list of revocation lists")]
#[case::lists_of_another_ca(LISTS, 0, Fault::OtherCa, REFUSED, "no list that this CA has signed")]
#[case::lists_that_have_ended(LISTS, 0, Fault::Expired, REFUSED, "clock right")]
#[case::lists_are_not_there(LISTS, 0, status(404), REFUSED, "runs the CA")]
#[case::huge_bundle(BUNDLE, 0, Fault::HugeBody, REFUSED, "1048576")]
#[case::huge_certificate(LOOK, 1, Fault::HugeBody, REFUSED, "1048576")]
#[case::endless_certificate(LOOK, 1, Fault::EndlessBody, REFUSED, "1048576")]
#[case::endless_lists(LISTS, 0, Fault::EndlessBody, REFUSED, "1048576")]
#[case::redirected_bundle(BUNDLE, 0, Fault::Redirect("https://127.0.0.3:1/".into()), REFUSED, "write that as its URL")]
#[case::redirected_request(SUBMIT, 0, Fault::Redirect("https://127.0.0.3:1/".into()), REFUSED, "https://127.0.0.3:1")]
#[case::forbidden(SUBMIT, 0, status(403), REFUSED, "auth.conf")]
#[case::no_such_path(SUBMIT, 0, status(404), REFUSED, "runs the CA")]
#[case::forgotten(SUBMIT, 0, Fault::Forgotten, REFUSED, "not there any more")]
#[case::revoked_since(
    SUBMIT,
    0,
    says("already has a revoked certificate; ignoring certificate request"),
    REFUSED,
    CLEAN
)]
#[case::other_names(
    SUBMIT,
    0,
    says("contains subject alternative names (DNS:web), which are disallowed."),
    REFUSED,
    "allow-subject-alt-names: true"
)]
#[case::usages(
    SUBMIT,
    0,
    says("Found extensions that are not permitted: 2.5.29.37"),
    REFUSED,
    "Puppet's own arc only"
)]
#[case::authorization(
    SUBMIT,
    0,
    says("contains an authorization extension, or authorization extensions, which is disallowed"),
    REFUSED,
    "allow-authorization-extensions: true"
)]
fn a_bad_answer_installs_nothing_and_the_next_run_goes_on(
    #[case] call: &str,
    #[case] after: usize,
    #[case] fault: Fault,
    #[case] code: i32,
    #[case] word: &str,
) {
    let fake = Fake::start();
    let host = host(&fake);
    fake.misbehave_after(after, call, fault, usize::MAX);
    failing(code)(&host, "").exits(code).says(word);
    has_nothing(&host);
    fake.behave();
    good_run(&host, "").exits(0);
    is_in_force(&host, &fake);
    is_one(requests(&fake));
}

/// Every request that was sent.
fn requests(fake: &Fake) -> Vec<String> {
    fake.seen().iter().filter(|seen| seen.method == "PUT").map(|seen| seen.text.clone()).collect()
}

/// Every try was the same request: what the CA may have kept of an earlier one is still ours.
fn is_one(mut requests: Vec<String>) {
    requests.dedup();
    assert_eq!(requests.len(), 1, "{requests:?}");
}

fn is_in_force(host: &Host, fake: &Fake) {
    assert_eq!(inspect(&host.path(CERT)).subject, "CN=web.example.com");
    assert_eq!(blocks(&host.read("/etc/web/pki/ca.crt")), blocks(&fake.tls_pem()));
    assert_eq!(
        host.read(CRL).matches("BEGIN X509 CRL").count(),
        2,
        "its own, and none that no one vouches for"
    );
}

/// What is signed under a name stays signed, so these are for the CA's operator to mend.
#[rstest]
#[case::for_another_key(Fault::WrongKey, "signed it for another key")]
#[case::by_another_ca(Fault::OtherCa, "holds no list of the CA that signed the certificate")]
fn a_bad_certificate_is_not_installed_until_its_name_is_freed(#[case] fault: Fault, #[case] word: &str) {
    let fake = Fake::start();
    let host = host(&fake);
    fake.misbehave(SUBMIT, fault, 1);
    good_run(&host, "").exits(REFUSED).says(word);
    good_run(&host, "").exits(REFUSED).says(word);
    has_nothing(&host);
    fake.free("web.example.com");
    good_run(&host, "").exits(0);
    is_in_force(&host, &fake);
}

#[test]
fn an_answer_that_is_lost_is_no_request_lost() {
    let fake = Fake::start();
    let host = host(&fake);
    fake.misbehave(SUBMIT, Fault::Unsaid, 1);
    good_run(&host, "").exits(0);
    is_in_force(&host, &fake);
    fake.free("web.example.com");

    fake.sign_nothing();
    let waiting = self::host(&fake);
    fake.misbehave(SUBMIT, Fault::Unsaid, 1);
    run(&waiting, "").exits(TEMPORARY).says("puppetserver ca sign --certname web.example.com");
    fake.sign_request("web.example.com");
    good_run(&waiting, "").exits(0);
    is_in_force(&waiting, &fake);
}

#[test]
fn a_certificate_that_never_comes_is_waited_for_and_the_request_stays_the_same() {
    let fake = Fake::start();
    fake.sign_nothing();
    let host = host(&fake);
    for _ in 0..2 {
        fake.forget();
        let told = run(&host, "").exits(TEMPORARY).says("puppetserver ca sign --certname web.example.com");
        has_nothing(&host);
        let shown = colons(&bed::fingerprint(&fake.request_of("web.example.com").expect("a request")));
        assert_eq!(
            (told.stderr.matches(&shown).count(), told.stdout.matches(&shown).count()),
            (1, 1),
            "when the wait begins, and when it ends: {told:?}"
        );
        // Every 250 ms at first on the average, and then ever more rarely.
        let polls = fake.asked().iter().filter(|call| *call == LOOK).count();
        assert!((2..30).contains(&polls), "{polls} polls in three seconds");
    }
    assert_eq!(requests(&fake).len(), 1, "the request of the first run, once more");
    is_one(vec![requests(&fake).remove(0), fake.request_of("web.example.com").unwrap()]);
    fake.misbehave("GET /puppet-ca/v1/certificate_request", Fault::NotPem, usize::MAX);
    good_run(&host, "").exits(REFUSED).says("no request in PEM");
    fake.behave();
    fake.sign_request("web.example.com");
    good_run(&host, "").exits(0);
    is_in_force(&host, &fake);
}

/// As `puppetserver ca list` shows it.
fn colons(fingerprint: &str) -> String {
    let pairs = fingerprint.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.collect::<Vec<_>>().join(":").to_uppercase()
}

#[test]
fn a_signed_certificate_that_the_ca_does_not_have_is_freed_by_its_operator() {
    let fake = Fake::start();
    host(&fake).nodecert("run").exits(0);
    let host = host(&fake);
    fake.misbehave(LOOK, status(404), usize::MAX);
    good_run(&host, "").exits(REFUSED).says("does not have").says(CLEAN);
    has_nothing(&host);
    fake.behave();
    fake.free("web.example.com");
    good_run(&host, "").exits(0);
    is_in_force(&host, &fake);
}

/// The CA gets a new intermediate certificate after the bundle was read and before the certificate is signed.
#[test]
fn a_bundle_that_changes_within_a_run_is_read_again_by_the_next() {
    let fake = Fake::start();
    let host = host(&fake);
    fake.misbehave(SUBMIT, Fault::Rotated, 1);
    good_run(&host, "").exits(REFUSED);
    has_nothing(&host);
    good_run(&host, "").exits(0);
    assert_eq!(inspect(&host.path(CERT)).subject, "CN=web.example.com");
    assert_eq!(fake.seen().iter().filter(|seen| seen.method == "PUT").count(), 1);
}

/// The one that was read first is pinned by it, though no one vouched for it.
#[test]
fn a_bundle_of_another_ca_in_a_later_run_is_refused_and_what_is_there_stays() {
    let fake = Fake::start();
    let host = Host::new();
    configure(&host, &fake, "first_use = true", "");
    let pins = format!("tls.pins = [\"{}\"]\n", Pin::of(&fake.tls_root()));
    host.configure(&host.read("/etc/nodecert/config.toml").replace(&pins, ""));
    good_run(&host, "").exits(0);
    let before = host.snapshot(PAIR);
    fake.misbehave(BUNDLE, Fault::OtherCa, usize::MAX);
    good_run(&host, "--force").exits(REFUSED).says("none of these is what the configuration trusts");
    assert_eq!(host.snapshot(PAIR), before);
}

#[rstest]
#[case::stalls(Fault::Hang, TEMPORARY, "no answer")]
#[case::is_cut(Fault::HalfClosed, TEMPORARY, "connection broken")]
#[case::is_switched_off(status(404), REFUSED, "allow-auto-renewal: true in its ca.conf, and a restart of it")]
#[case::sees_no_client_certificate(status(403), REFUSED, "client-auth: want")]
#[case::fails(status(400), REFUSED, "log of the CA's server")]
#[case::is_no_pem(Fault::NotPem, REFUSED, "no certificate in PEM")]
#[case::is_half_a_pem(Fault::TruncatedPem, REFUSED, "damaged")]
#[case::is_for_another_key(Fault::WrongKey, REFUSED, "public key")]
#[case::is_of_another_ca(Fault::OtherCa, REFUSED, "trusted CA certificate")]
#[case::is_huge(Fault::HugeBody, REFUSED, "1048576")]
#[case::is_redirected(Fault::Redirect("https://127.0.0.3:1/".into()), REFUSED, "https://127.0.0.3:1")]
fn a_renewal_that_goes_wrong_leaves_the_certificate_in_force(
    #[case] fault: Fault,
    #[case] code: i32,
    #[case] word: &str,
) {
    let fake = Fake::start();
    let host = host(&fake);
    good_run(&host, "").exits(0);
    let before = host.snapshot(PAIR);
    fake.misbehave(RENEW, fault, usize::MAX);
    failing(code)(&host, "--force").exits(code).says(word);
    assert_eq!(host.snapshot(PAIR), before);
    host.nodecert("status --usable web").exits(0);
}

#[test]
fn a_renewal_is_a_new_certificate_for_the_same_key_and_its_lost_answer_is_found_again() {
    let fake = Fake::start();
    let host = host(&fake);
    good_run(&host, "").exits(0);
    let (first, key) = (inspect(&host.path(CERT)).fingerprint, host.read("/etc/web/pki/web.key"));
    fake.misbehave(RENEW, Fault::Unsaid, usize::MAX);
    run(&host, "--force").exits(TEMPORARY).says("perhaps it was done all the same");
    assert_eq!(inspect(&host.path(CERT)).fingerprint, first);
    fake.behave();
    fake.renew_nothing();
    good_run(&host, "--force").exits(0);
    assert_ne!(inspect(&host.path(CERT)).fingerprint, first);
    assert_eq!(host.read("/etc/web/pki/web.key"), key);
    good_run(&host, "--force").exits(REFUSED).says("allow-auto-renewal: true").says("stays until");
}

/// Where its lists are not wanted as a file, they are read before a name is asked for again all the same.
#[test]
fn what_was_revoked_or_given_to_another_key_is_not_renewed() {
    let fake = Fake::start();
    let host = host(&fake);
    let config = host.read("/etc/nodecert/config.toml");
    host.configure(&config.replace(", crl = \"crl.pem\"", ""));
    good_run(&host, "").exits(0);
    let before = host.snapshot(PAIR);
    fake.revoke("web.example.com");
    good_run(&host, "--force").exits(REFUSED).says("is revoked").says(CLEAN);
    fake.free("web.example.com");
    good_run(&self::host(&fake), "").exits(0);
    good_run(&host, "--force").exits(REFUSED).says("since signed it for another key").says(CLEAN);
    assert!(fake.asked().iter().all(|call| call != RENEW), "{:?}", fake.asked());
    assert_eq!(host.snapshot(PAIR), before);
}

/// Lists are read again as often as anchors; what cannot be verified never takes the place of what was.
#[rstest]
#[case::of_another_ca(Fault::OtherCa)]
#[case::that_have_ended(Fault::Expired)]
#[case::that_are_no_pem(Fault::NotPem)]
#[case::that_are_half_a_pem(Fault::TruncatedPem)]
fn bad_lists_do_not_replace_good_ones(#[case] fault: Fault) {
    let fake = Fake::start();
    let host = host(&fake);
    good_run(&host, "").exits(0);
    let before = (host.snapshot(PAIR), host.read(CRL));
    fake.misbehave(LISTS, fault, usize::MAX);
    good_run(&host, "--force").exits(REFUSED).says("asked to read its revocation list");
    assert_eq!((host.snapshot(PAIR), host.read(CRL)), before);
}

/// The server takes no second request under a name, and its policy has looked at the first.
#[test]
fn a_password_that_changes_while_a_request_waits_changes_neither_key_nor_request() {
    let fake = Fake::start();
    fake.sign_nothing();
    let host = Host::new();
    let secret = "/var/lib/nodecert/secrets/autosign";
    configure(&host, &fake, &format!("attributes = {{ challengePassword = {{ file = \"{secret}\" }} }}"), "");
    host.write_secret(secret, "old-sesame");
    run(&host, "").exits(TEMPORARY);
    let stored = fake.request_of("web.example.com").expect("a stored request");
    host.write_secret(secret, "new-sesame");
    for _ in 0..2 {
        let told = run(&host, "").exits(TEMPORARY).says("other `attributes`").says(CLEAN);
        told.keeps_secret(&["old-sesame", "new-sesame"]);
    }
    assert_eq!(fake.request_of("web.example.com").as_ref(), Some(&stored));
    fake.sign_request("web.example.com");
    good_run(&host, "").exits(0);
    is_in_force(&host, &fake);
}

/// Before the CA has it, a request is made anew with what the configuration has now.
#[test]
fn a_password_that_changes_before_the_ca_has_the_request_goes_into_it() {
    let fake = Fake::start();
    let host = Host::new();
    let secret = "/var/lib/nodecert/secrets/autosign";
    configure(&host, &fake, &format!("attributes = {{ challengePassword = {{ file = \"{secret}\" }} }}"), "");
    host.write_secret(secret, "old-sesame");
    fake.misbehave(SUBMIT, status(503), usize::MAX);
    run(&host, "").exits(TEMPORARY);
    fake.behave();
    host.write_secret(secret, "new-sesame");
    good_run(&host, "").exits(0);
    let last = fake.seen().iter().rfind(|seen| seen.method == "PUT").unwrap().text.clone();
    let holds =
        |word: &str| pem::parse(&last).unwrap().contents().windows(word.len()).any(|w| w == word.as_bytes());
    assert!(holds("new-sesame") && !holds("old-sesame"));
}

#[test]
fn names_that_change_while_a_request_waits_are_the_operators_to_decide() {
    let fake = Fake::start();
    fake.sign_nothing();
    let host = host(&fake);
    run(&host, "").exits(TEMPORARY);
    configure(&host, &fake, "", "dns = [\"new.example.com\"]");
    good_run(&host, "").exits(REFUSED).says("an earlier request for").says("new.example.com").says(CLEAN);
    fake.free("web.example.com");
    run(&host, "").exits(TEMPORARY);
    fake.sign_request("web.example.com");
    good_run(&host, "").exits(0);
    assert!(inspect(&host.path(CERT)).dns.contains(&"new.example.com".to_owned()));
}

/// What the CA holds under the name is another's, though the name is ours too.
#[test]
fn a_stored_request_with_another_key_is_not_waited_for() {
    let fake = Fake::start();
    fake.sign_nothing();
    run(&host(&fake), "").exits(TEMPORARY);
    let theirs = fake.request_of("web.example.com");
    let host = host(&fake);
    good_run(&host, "").exits(REFUSED).says("another key").says(CLEAN);
    let told = good_run(&host, "--format json").exits(REFUSED).json();
    assert_eq!(told["certificates"][0]["action"], "blocked", "{told}");
    assert_eq!(fake.request_of("web.example.com"), theirs);
    fake.sign_request("web.example.com");
    good_run(&host, "").exits(REFUSED).says("signed it for another key").says(CLEAN);
    has_nothing(&host);
}

#[test]
fn extensions_that_change_while_a_request_waits_are_the_operators_to_decide() {
    let fake = Fake::start();
    fake.sign_nothing();
    let host = Host::new();
    configure(&host, &fake, "extensions = { pp_role = \"etcd\" }", "");
    run(&host, "").exits(TEMPORARY);
    configure(&host, &fake, "extensions = { pp_role = \"web\" }", "");
    good_run(&host, "").exits(REFUSED).says("other `extensions`").says(CLEAN);
}

#[test]
fn a_certificate_that_was_signed_before_the_names_changed_is_not_installed() {
    let fake = Fake::start();
    fake.sign_nothing();
    let host = host(&fake);
    run(&host, "").exits(TEMPORARY);
    fake.sign_request("web.example.com");
    configure(&host, &fake, "", "dns = [\"new.example.com\"]");
    good_run(&host, "").exits(REFUSED).says("signed it without new.example.com").says(CLEAN);
    has_nothing(&host);
    configure(&host, &fake, "", "");
    good_run(&host, "").exits(0);
    is_in_force(&host, &fake);
}

#[test]
fn a_certificate_that_was_revoked_before_it_was_fetched_is_not_installed() {
    let fake = Fake::start();
    fake.sign_nothing();
    let host = host(&fake);
    run(&host, "").exits(TEMPORARY);
    fake.sign_request("web.example.com");
    fake.revoke("web.example.com");
    good_run(&host, "").exits(REFUSED).says("is revoked").says(CLEAN);
    has_nothing(&host);
}

/// New names and a new key are not the CA's to give under a name that is taken: the plan says so, and no run
/// sends what can only be refused.
#[rstest]
#[case::names("dns = [\"new.example.com\"]", "")]
#[case::key("rotate_key = true", "--force")]
#[case::kind_of_key("key = \"p384\"", "")]
fn what_the_ca_cannot_renew_is_blocked_and_not_asked_for(#[case] change: &str, #[case] how: &str) {
    let fake = Fake::start();
    let host = host(&fake);
    good_run(&host, "").exits(0);
    let (before, first) = (host.snapshot(PAIR), inspect(&host.path(CERT)).fingerprint);
    fake.forget();
    configure(&host, &fake, "", change);
    if how.is_empty() {
        let planned = host.nodecert("plan --format json").exits(0).json();
        assert_eq!(planned["certificates"][0]["action"], "blocked", "{planned}");
        host.nodecert("plan").says(CLEAN);
    }
    for _ in 0..2 {
        good_run(&host, how).exits(REFUSED).says("names and key cannot be changed").says(CLEAN);
        let told = good_run(&host, &format!("{how} --format json")).exits(REFUSED).json();
        assert_eq!(told["certificates"][0]["action"], "blocked", "{told}");
    }
    assert!(fake.asked().iter().all(|call| call.starts_with("GET ")), "{:?}", fake.asked());
    assert_eq!(host.snapshot(PAIR), before);
    fake.clean("web.example.com");
    good_run(&host, how).exits(0);
    assert_ne!(inspect(&host.path(CERT)).fingerprint, first);
}

/// The server signs no names unless it is told to, and adds the common name unasked.
#[test]
fn the_certname_alone_is_not_asked_for_as_a_name() {
    let fake = Fake::start();
    let host = Host::new();
    configure(&host, &fake, "", "dns = [\"web.example.com\"]");
    good_run(&host, "").exits(0);
    let sent = nodecert::key::Csr::parse(&requests(&fake)[0]).unwrap();
    assert_eq!(sent.names().into_iter().collect::<Vec<_>>(), ["CN=web.example.com"]);
    assert_eq!(inspect(&host.path(CERT)).dns, ["web.example.com"]);
}

/// The host's full name is its puppet agent's, unless there is none.
#[test]
fn the_hosts_own_name_is_for_its_agent_unless_there_is_none() {
    let fake = Fake::start();
    let host = Host::new();
    let own = |ca: &str| {
        configure(&host, &fake, ca, "certname = \"{{ fqdn }}\"");
        good_run(&host, "")
    };
    own("").exits(78).says("puppet agent").says("agent = false");
    own("agent = false").exits(0);
    assert_eq!(inspect(&host.path(CERT)).subject, "CN=node01.example.com");
}

#[test]
fn the_first_use_is_said_on_every_run_until_the_root_is_pinned() {
    let fake = Fake::start();
    let host = Host::new();
    let line = format!("tls.pins = [\"{}\"]", Pin::of(&fake.tls_root()));
    configure(&host, &fake, "first_use = true", "");
    host.configure(&host.read("/etc/nodecert/config.toml").replace(&format!("{line}\n"), ""));
    for _ in 0..2 {
        good_run(&host, "").exits(0).says("was taken unseen (first_use = true)").says(&line);
    }
    configure(&host, &fake, "", "");
    let quiet = good_run(&host, "").exits(0);
    assert!(!format!("{quiet:?}").contains("first_use"), "{quiet:?}");
}

/// The file has the root alone, and the CA publishes its intermediate; what no certificate of the file vouches
/// for is not believed, and nothing is sent.
#[test]
fn a_file_vouches_for_what_its_certificates_have_signed_and_for_nothing_else() {
    let fake = Fake::start();
    let host = host(&fake);
    let pins = format!("tls.pins = [\"{}\"]", Pin::of(&fake.tls_root()));
    let config = host.read("/etc/nodecert/config.toml");
    host.configure(&config.replace(&pins, "tls.file = \"/etc/nodecert/puppet-ca.pem\""));
    let stranger = Fake::start();
    for (pem, published) in [(stranger.tls_pem(), None), (fake.tls_pem(), Some(Fault::OtherCa))] {
        host.write("/etc/nodecert/puppet-ca.pem", &pem);
        published.into_iter().for_each(|other| fake.misbehave(BUNDLE, other, usize::MAX));
        good_run(&host, "").exits(REFUSED).says("none of these is what the configuration trusts");
        assert!(fake.asked().iter().all(|call| call == BUNDLE), "{:?}", fake.asked());
        has_nothing(&host);
    }
    fake.behave();
    good_run(&host, "").exits(0);
    is_in_force(&host, &fake);
}

/// As puppet's own agent would have it, below its ssldir.
const AGENT: &str = "certname = \"{{ fqdn }}\"\nssldir = \"/puppet/ssl\"";
const AGENTS_KEY: &str = "/puppet/ssl/private_keys/node01.example.com.pem";
const AGENTS_CERT: &str = "/puppet/ssl/certs/node01.example.com.pem";

/// A host that a puppet agent has enrolled: what a host of ours got, in the agent's places and nowhere else.
fn enrolled(fake: &Fake) -> Host {
    let (host, other) = (Host::new(), Host::new());
    configure(&other, fake, "", AGENT);
    good_run(&other, "").exits(0);
    for file in [AGENTS_KEY, AGENTS_CERT, "/puppet/ssl/certs/ca.pem", "/puppet/ssl/crl.pem"] {
        host.write(file, &other.read(file.replace("/puppet/ssl/crl.pem", CRL).as_str()));
    }
    configure(&host, fake, "", AGENT);
    host
}

#[test]
fn what_is_got_here_lies_where_a_puppet_agent_looks() {
    let fake = Fake::start();
    let host = Host::new();
    host.write("/etc/passwd", "root:x:0:0::/:/bin/sh\npuppet:x:4303:4303::/:/bin/false\n");
    host.write("/etc/group", "root:x:0:\npuppet:x:4303:\n");
    configure(&host, &fake, "", &format!("{AGENT}\nowner = \"puppet\"\ngroup = \"puppet\""));
    let config = host.read("/etc/nodecert/config.toml").replace(", crl = \"crl.pem\"", "");
    host.configure(&config);
    good_run(&host, "").exits(0);
    let places = [AGENTS_KEY, AGENTS_CERT, "/puppet/ssl/certs/ca.pem", "/puppet/ssl/crl.pem"];
    let modes = places.map(|place| host.mode(place));
    assert_eq!(modes, ["640 4303:4303", "644 4303:4303", "644 4303:4303", "644 4303:4303"]);
    assert_eq!(host.read(AGENTS_KEY), host.read("/etc/web/pki/web.key"));
    assert_eq!(blocks(&host.read(AGENTS_CERT)), blocks(&host.read(CERT))[..1], "the leaf alone");
    let authorities = blocks(&host.read("/puppet/ssl/certs/ca.pem"));
    assert_eq!(authorities, [&blocks(&host.read(CERT))[1..], &blocks(&fake.tls_pem())].concat());
    assert_eq!(host.read("/puppet/ssl/crl.pem").matches("BEGIN X509 CRL").count(), 2);
    good_run(&host, "").exits(0).says("nothing to do");
}

/// A renewal keeps the agent's key, and puppet finds the new certificate where the old one was.
#[test]
fn what_a_puppet_agent_got_is_taken_over_and_renewed_in_its_place() {
    let fake = Fake::start();
    let host = enrolled(&fake);
    let (key, cert) = (host.read(AGENTS_KEY), host.read(AGENTS_CERT));
    good_run(&host, "").exits(0).says("agent has it already");
    assert_eq!((host.read("/etc/web/pki/web.key"), requests(&fake).len()), (key.clone(), 1));
    good_run(&host, "").exits(0).says("nothing to do");
    good_run(&host, "--force").exits(0);
    assert_eq!(host.read(AGENTS_KEY), key);
    assert_ne!(host.read(AGENTS_CERT), cert);
    assert_eq!(blocks(&host.read(AGENTS_CERT)), blocks(&host.read(CERT))[..1]);
    good_run(&host, "").exits(0).says("nothing to do");
}

#[test]
fn a_due_certificate_of_a_puppet_agent_is_taken_over_and_then_renewed() {
    let fake = Fake::start();
    let host = enrolled(&fake);
    let key = host.read(AGENTS_KEY);
    // Two of its seven years have passed.
    configure(&host, &fake, "", &format!("{AGENT}\nrenew_at = 0.2"));
    let old = fake.aged("node01.example.com", &host.read(AGENTS_CERT));
    host.write(AGENTS_CERT, &old);
    good_run(&host, "").exits(0).says("agent has it already");
    assert_eq!(host.read("/etc/web/pki/web.key"), key);
    host.nodecert("status --usable web").exits(0);
    good_run(&host, "").exits(0);
    assert_eq!(host.read("/etc/web/pki/web.key"), key);
    assert_ne!(host.read(AGENTS_CERT), old);
    good_run(&host, "").exits(0).says("nothing to do");
}

#[test]
fn a_revoked_certificate_of_a_puppet_agent_is_not_taken_over() {
    let fake = Fake::start();
    let host = enrolled(&fake);
    fake.revoke("node01.example.com");
    good_run(&host, "")
        .exits(REFUSED)
        .says("the puppet agent's certificate is not used: its CA has revoked it")
        .says("puppetserver ca clean --certname node01.example.com");
    has_nothing(&host);
}

#[test]
fn a_certificate_of_a_puppet_agent_that_ended_while_the_ca_was_asked_is_not_taken_over() {
    let fake = Fake::start();
    let host = enrolled(&fake);
    // Longer than it lives, from when the CA's own certificates are known.
    let known = host.path("/var/lib/nodecert/anchors/site.pem");
    let clock =
        Clock::new(move || SystemTime::now() + if known.exists() { EIGHT_YEARS } else { Duration::ZERO });
    let root = Arc::new(Root::open(&host.path("/")).unwrap());
    let world = World { root, host: facts::Host::live().unwrap(), clock, tells: false, config: None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ask = Ask { deadline: Duration::from_secs(2), ..Ask::default() };
    let (report, _) = runtime.block_on(nodecert::run::run(&world, &ask)).unwrap();
    assert_ne!(report.exit(), Exit::Done, "{}", report.done());
    assert!(host.path("/var/lib/nodecert/anchors/site.pem").exists(), "{}", report.done());
    has_nothing(&host);
}
