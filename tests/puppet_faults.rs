//! A Puppet CA that does what a real puppetserver will not: whatever it answers, nothing unverified is
//! installed, the run ends in time, the exit code says whose turn it is, and the message what to do.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod bed;
mod fake;

use std::time::{Duration, Instant};

use bed::{Host, Outcome, blocks, inspect};
use fake::{Fake, Fault};
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
    let sent = fake.seen().iter().filter(|seen| seen.method == "PUT").map(|seen| seen.text.clone()).collect();
    is_one(sent);
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
        run(&host, "").exits(TEMPORARY).says("puppetserver ca sign --certname web.example.com");
        has_nothing(&host);
    }
    is_one(fake.seen().iter().filter(|seen| seen.method == "PUT").map(|seen| seen.text.clone()).collect());
    fake.misbehave("GET /puppet-ca/v1/certificate_request", Fault::NotPem, usize::MAX);
    good_run(&host, "").exits(REFUSED).says("no request in PEM");
    fake.behave();
    fake.sign_request("web.example.com");
    good_run(&host, "").exits(0);
    is_in_force(&host, &fake);
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
#[case::is_switched_off(status(404), REFUSED, "allow-auto-renewal: true")]
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
    fake.misbehave(RENEW, Fault::Unsaid, 1);
    good_run(&host, "--force").exits(0);
    assert_ne!(inspect(&host.path(CERT)).fingerprint, first);
    assert_eq!(host.read("/etc/web/pki/web.key"), key);
    fake.renew_nothing();
    good_run(&host, "--force").exits(REFUSED).says("allow-auto-renewal: true").says("stays until");
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
