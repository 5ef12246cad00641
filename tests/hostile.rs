//! A CA that does what a real one will not. Every row of `hostile/cases.rs` goes through every protocol:
//! whatever is answered, the certificate in force stays in force, nothing unverified reaches the disk, no secret
//! goes astray, memory and time have bounds, and exit code and message say what was wrong.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

#[path = "hostile/cases.rs"]
mod cases;
mod fake;
#[path = "hostile/host.rs"]
mod host;
#[path = "hostile/servers.rs"]
mod servers;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Duration;

use cases::{Case, SAID, SIGNED};
use fake::{Fake, Fault, SECRET_ID};
use host::{DONE, Host, Protocol, REFUSED, TEMPORARY, expect};
use rstest::rstest;
use servers::SERVERS;

/// Rows go side by side, for most of their time is waiting.
const LANES: usize = 5;

#[rstest]
fn what_is_signed_wrong_is_not_installed(
    #[values(Protocol::Vault, Protocol::Puppet, Protocol::Cfssl)] protocol: Protocol,
) {
    side_by_side(protocol, SIGNED, protocol.signs());
}

#[rstest]
fn what_is_said_wrong_is_not_believed(
    #[values(Protocol::Vault, Protocol::Puppet, Protocol::Cfssl)] protocol: Protocol,
) {
    side_by_side(protocol, SAID, protocol.says());
}

/// The calls on the way to a signature.
#[rstest]
#[case::vault_login(Protocol::Vault, "/login")]
#[case::puppet_certificates(Protocol::Puppet, "GET /puppet-ca/v1/certificate/ca")]
#[case::puppet_request(Protocol::Puppet, "PUT /")]
#[case::puppet_lists(Protocol::Puppet, "GET /puppet-ca/v1/certificate_revocation_list")]
#[case::cfssl_info(Protocol::Cfssl, "/info")]
fn what_is_said_wrong_on_the_way_is_not_believed(#[case] protocol: Protocol, #[case] call: &str) {
    let worst = [
        "null",
        "10 MB",
        "chunks without end",
        "a letter a second",
        "307 to another host",
        "words with escapes",
    ];
    let fake = Fake::start();
    let host = Host::new(protocol, &fake);
    expect("honest", &host.run(60), DONE, "");
    for case in SAID.iter().filter(|case| worst.contains(&case.bend.name)) {
        fake.misbehave(call, Fault::Bent(case.bend), usize::MAX);
        fake.free("node01");
        let code = match protocol {
            // Any 200 will do where the body is not read.
            Protocol::Puppet if call == "PUT /" && case.bend.name == "null" => DONE,
            _ => case.codes[protocol as usize],
        };
        let before = host.held();
        let run = host.run(if code == TEMPORARY { 2 } else { 60 });
        let row = format!("{protocol:?} {call} {}", case.bend.name);
        expect(&row, &run, code, "");
        assert!(code == DONE || host.held() == before, "{row}");
        fake.behave();
    }
    assert_eq!(cases::visits(), 0, "a secret went to another host");
}

/// Each row against a host that holds a certificate and one that holds none.
fn side_by_side(protocol: Protocol, cases: &[Case], calls: &[&str]) {
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            let failed = &failed;
            scope.spawn(move || {
                let fake = Fake::start();
                let host = Host::new(protocol, &fake);
                expect("honest", &host.run(60), DONE, "");
                for case in cases.iter().skip(lane).step_by(LANES) {
                    calls.iter().for_each(|call| fake.misbehave(call, Fault::Bent(case.bend), usize::MAX));
                    let row = AssertUnwindSafe(|| {
                        stands(protocol, case, &fake, &host);
                        gets_nothing(protocol, case, &fake);
                    });
                    if catch_unwind(row).is_err() {
                        failed.lock().unwrap().push(case.bend.name);
                    }
                    fake.behave();
                }
                // Nothing of all that stands in the way of the next run.
                fake.free("node01");
                let before = host.held();
                expect("honest again", &host.run(60), DONE, "");
                assert_ne!(host.held(), before);
                assert!(fake.tokens() <= cases.len(), "tokens are given back where the CA lets us");
            });
        }
    });
    assert_eq!(failed.into_inner().unwrap(), [""; 0], "rows that failed, each shown above");
    assert_eq!(cases::visits(), 0, "a secret went to another host");
}

fn stands(protocol: Protocol, case: &Case, fake: &Fake, host: &Host) {
    fake.free("node01");
    let before = host.held().expect("a certificate in force");
    outcome(protocol, case, host);
    if case.codes[protocol as usize] == DONE {
        host.holds_what_is_wanted(case.bend.name);
    } else {
        assert_eq!(host.held(), Some(before), "{protocol:?}: {}", case.bend.name);
    }
}

fn gets_nothing(protocol: Protocol, case: &Case, fake: &Fake) {
    fake.free("node01");
    let host = Host::new(protocol, fake);
    outcome(protocol, case, &host);
    if case.codes[protocol as usize] == DONE {
        return host.holds_what_is_wanted(case.bend.name);
    }
    let held = host.certificates_and_keys();
    assert!(held.is_empty(), "{protocol:?}: {}: {held:?}", case.bend.name);
}

fn outcome(protocol: Protocol, case: &Case, host: &Host) {
    let code = case.codes[protocol as usize];
    let deadline = if code == TEMPORARY { 2 } else { 60 };
    let run = host.run(deadline);
    let row = format!("{protocol:?}: {}", case.bend.name);
    let most = Duration::from_secs(deadline + 8);
    assert!(code == DONE || run.took < most, "{row}: it took {:?}", run.took);
    let says = if protocol == Protocol::Puppet { case.puppet } else { case.says };
    expect(&row, &run, code, if code == DONE { "" } else { says });
}

#[rstest]
fn a_server_that_is_not_the_cas_learns_nothing(
    #[values(Protocol::Vault, Protocol::Puppet, Protocol::Cfssl)] protocol: Protocol,
) {
    for server in SERVERS {
        let fake = Fake::start_as(server.shape);
        let host = Host::new(protocol, &fake);
        let run = host.run(if server.code == TEMPORARY { 2 } else { 60 });
        expect(&format!("{protocol:?}: {}", server.name), &run, server.code, server.says);
        let asked = fake.asked();
        // A Puppet CA's own certificates are read before it is known, and mean nothing until they are.
        let secret = asked.iter().filter(|call| !call.ends_with("/certificate/ca")).count();
        assert_eq!(secret, 0, "{protocol:?}: {}: {asked:?}", server.name);
    }
}

#[rstest]
#[case::tls_1_0(&["-tls1", "-cipher", "ALL:@SECLEVEL=0"], "TLS 1.2")]
#[case::tls_1_1(&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], "TLS 1.2")]
#[case::cbc(&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"], "TLS 1.2")]
#[case::no_encryption(&["-tls1_2", "-cipher", "ECDHE-ECDSA-NULL-SHA:@SECLEVEL=0"], "TLS 1.2")]
#[case::anonymous(&["-tls1_2", "-cipher", "AECDH-AES256-SHA:@SECLEVEL=0"], "TLS 1.2")]
fn a_weaker_tls_is_not_spoken(#[case] options: &[&str], #[case] says: &str) {
    for protocol in [Protocol::Vault, Protocol::Puppet, Protocol::Cfssl] {
        let fake = Fake::start();
        let server = servers::openssl(&fake, options);
        let host = Host::at(protocol, &fake, &server.url);
        expect(&format!("{protocol:?}: {options:?}"), &host.run(60), REFUSED, says);
    }
}

#[rstest]
#[case::http(b"HTTP/1.1 400 Bad Request\r\n\r\nThis is plain HTTP\x1b[2J\r\n")]
#[case::ssh(b"SSH-2.0-OpenSSH_9.2p1\r\n")]
#[case::noise(&[0x16, 3, 3, 0xff, 0xff, 2, 0xff, 0xff, 0xff])]
#[case::alert(&[0x15, 3, 3, 0, 2, 2, 80])]
#[case::silence(&[])]
fn what_speaks_no_tls_is_asked_again_later(#[case] bytes: &'static [u8]) {
    for protocol in [Protocol::Vault, Protocol::Puppet, Protocol::Cfssl] {
        let fake = Fake::start();
        let host = Host::at(protocol, &fake, &servers::says(bytes));
        expect(&format!("{protocol:?}: {bytes:?}"), &host.run(2), TEMPORARY, "");
    }
}

#[test]
fn a_ca_that_comes_back_within_the_deadline_is_a_success() {
    let fake = Fake::start();
    fake.misbehave("/sign/", Fault::Status(503, Some("1".to_owned()), "sealed"), 1);
    fake.misbehave("/login", Fault::HalfClosed, 1);
    let host = Host::new(Protocol::Vault, &fake);
    expect("back", &host.run(60), DONE, "");
    assert!(host.held().is_some());
    assert_eq!(fake.tokens(), 0, "the token is given back");
}

#[test]
fn a_ca_that_is_not_there_is_temporary() {
    let fake = Fake::start();
    let host = Host::new(Protocol::Vault, &fake);
    drop(fake);
    expect("away", &host.run(2), TEMPORARY, "cannot connect");
}

/// What Vault says at login is sent on as a header; a wrong one is Vault's fault.
#[rstest]
#[case::sealed(Fault::Status(503, None, "Vault is sealed"), TEMPORARY, "Vault is sealed")]
#[case::wrong_secret(Fault::Status(400, None, "invalid role or secret ID"), REFUSED, "secret ID")]
#[case::token_of_many_lines(token(r#"a\r\nX-Vault-Token: root"#), REFUSED, "token")]
#[case::empty_token(token(""), REFUSED, "token")]
#[case::long_token(token("LONG"), REFUSED, "token")]
fn a_login_that_fails_leaves_everything_as_it_was(
    #[case] fault: Fault,
    #[case] code: i32,
    #[case] word: &str,
) {
    let fake = Fake::start();
    let host = Host::new(Protocol::Vault, &fake);
    expect("honest", &host.run(60), DONE, "");
    let before = host.held();
    fake.misbehave("/login", fault, usize::MAX);
    expect(word, &host.run(2), code, word);
    assert_eq!(host.held(), before);
    assert!(!fake.seen().iter().any(|seen| seen.token.as_deref() == Some("root")), "no header slips in");
}

fn token(text: &'static str) -> Fault {
    use fake::bend::{Bend, Deed};
    let deed = match text {
        "" => Deed::Body(|_| br#"{"auth":{"client_token":""}}"#.to_vec()),
        "LONG" => {
            Deed::Body(|_| format!(r#"{{"auth":{{"client_token":"{}"}}}}"#, "a".repeat(900_000)).into_bytes())
        }
        _ => Deed::Body(|_| br#"{"auth":{"client_token":"a\r\nX-Vault-Token: root"}}"#.to_vec()),
    };
    Fault::Bent(Bend { name: text, deed })
}

#[test]
fn a_secret_is_in_no_message_even_if_the_ca_repeats_it() {
    let fake = Fake::start();
    let host = Host::new(Protocol::Vault, &fake);
    fake.misbehave("/login", Fault::Status(200, None, SECRET_ID), usize::MAX);
    expect("repeated", &host.run(60), REFUSED, "JSON");
}

#[test]
fn the_corpus_is_as_large_as_it_says() {
    let rows = SIGNED.len() + SAID.len() + SERVERS.len();
    let mut names: Vec<_> = SIGNED.iter().chain(SAID).map(|case| case.bend.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len() + SERVERS.len(), rows, "each row has a name of its own");
    println!("{rows} hostile answers and servers");
    assert!(rows >= 140, "{rows} rows");
}
