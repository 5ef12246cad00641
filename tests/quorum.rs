//! Restarts in turn against members that are well, ill, silent or lying: the deed is done only with the
//! cluster's lock and with every other member healthy, and never because someone answered oddly.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod fake;

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use fake::member::{Cluster, Mood, issue};
use nodecert::bundle::{Bundle, Pair};
use nodecert::ca::Deadline;
use nodecert::clock::Clock;
use nodecert::component;
use nodecert::identity::{Identity, KeyKind, Usage};
use nodecert::key::Key;
use nodecert::quorum::{self, Asking, Patience, QuorumError};
use nodecert::setting::Name;
use nodecert::trust::Anchors;
use rstest::rstest;

/// The lease of a member is made of its name: a lock says whose it is.
const LEASE_OF_NODE02: i64 = 6_268_606_959_047_604_971;

/// Asks for a turn of node01 among these members, and says whether it had one.
fn turn(cluster: &Cluster, members: &[(&str, String)]) -> (usize, Result<(), QuorumError>) {
    turn_with(cluster, members, Duration::from_secs(60), || Ok(()))
}

fn turn_with(
    cluster: &Cluster,
    members: &[(&str, String)],
    deadline: Duration,
    act: impl FnOnce() -> Result<(), String>,
) -> (usize, Result<(), QuorumError>) {
    let done = Cell::new(0);
    let asking = Asking {
        cluster: &component::Cluster {
            certificate: Name::new("etcd-server").unwrap(),
            own: "node01".to_owned(),
            members: members.iter().map(|(name, at)| ((*name).to_owned(), urls(at))).collect(),
        },
        bundle: &bundle(cluster),
        anchors: &Anchors::parse(cluster.pki.root.pem().as_bytes()).unwrap(),
        clock: &Clock::system(),
        patience: Patience {
            others: Duration::from_secs(2),
            lock: Duration::from_secs(4),
            back: Duration::from_secs(2),
        },
    };
    let act = || {
        done.set(done.get() + 1);
        act()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let result = runtime.block_on(quorum::in_turn(&asking, Deadline::after(deadline), act));
    (done.get(), result)
}

/// One address, or several with a space between them.
fn urls(at: &str) -> Vec<String> {
    at.split(' ').map(|at| format!("https://{at}")).collect()
}

fn bundle(cluster: &Cluster) -> Bundle {
    let (certificate, key) = issue(&cluster.pki);
    let chain = vec![certificate.der().clone(), cluster.pki.issuing.der().clone()];
    let pair = Pair::new(Arc::new(Key::parse(&key).unwrap()), chain).unwrap();
    let wanted = Identity {
        common_name: "node01".to_owned(),
        organization: None,
        dns: [].into(),
        ips: ["127.0.0.1".parse().unwrap()].into(),
        uris: [].into(),
        usages: [Usage::Server, Usage::Client].into(),
        exact_usages: false,
        key: KeyKind::P256,
        ttl: None,
    };
    let anchors = Anchors::parse(cluster.pki.root.pem().as_bytes()).unwrap();
    Bundle::judge(pair, &wanted, &anchors, SystemTime::now()).map_err(|unfit| unfit.why).unwrap()
}

#[test]
fn a_lone_member_asks_no_one() {
    let cluster = Cluster::new();
    let (done, result) = turn(&cluster, &[("node01", Cluster::away())]);
    assert_eq!((done, result.is_ok()), (1, true));
}

#[test]
fn a_member_restarts_under_the_lock_that_another_gives_and_gives_it_back() {
    let cluster = Cluster::new();
    let members = ["node01", "node02", "node03"].map(|name| (name, cluster.member(name, Mood::Well)));
    let held = Cell::new(0);
    let (done, result) = turn_with(&cluster, &members, Duration::from_secs(60), || {
        held.set(cluster.leases().len());
        Ok(())
    });
    result.unwrap();
    assert_eq!((done, held.get(), cluster.leases()), (1, 1, vec![]));
    assert!(cluster.calls().iter().all(|(member, _)| member != "node01"), "it is about to go");
}

#[rstest]
#[case(Mood::Unwell, "node03 says that it is not healthy")]
#[case(Mood::Stalls, "node03 gives no answer (time-out")]
#[case(Mood::Garbage, "node03 gives no answer (200 <html>true</html>)")]
#[case(Mood::Endless, "node03 gives no answer (its answer is larger than any honest one)")]
#[case(Mood::Redirects, "node03 gives no answer (307 )")]
#[case(Mood::Torn, "node03 says that it is not healthy")]
fn it_waits_for_a_member_that_does_not_say_that_it_is_healthy(#[case] mood: Mood, #[case] said: &str) {
    let cluster = Cluster::new();
    let third = cluster.member("node03", mood);
    waits_for(&cluster, third, said);
}

#[test]
fn it_waits_for_a_member_that_is_not_there_or_is_someone_else() {
    let cluster = Cluster::new();
    waits_for(&cluster, Cluster::away(), "node03 gives no answer (cannot connect");
    waits_for(&cluster, cluster.stranger("node03"), "does not lead to a CA");
    waits_for(&cluster, Cluster::new().member("node03", Mood::Well), "does not lead to a CA");
    waits_for(
        &cluster,
        cluster.distrustful("node03"),
        "does not take the certificate of this host, TLS alert",
    );
}

#[test]
fn a_member_is_found_at_the_second_of_its_addresses() {
    let cluster = Cluster::new();
    let at = |name| format!("{} {}", Cluster::away(), cluster.member(name, Mood::Well));
    let (done, result) = turn(&cluster, &["node01", "node02", "node03"].map(|name| (name, at(name))));
    result.unwrap();
    assert_eq!((done, cluster.leases()), (1, vec![]));
}

#[test]
fn a_member_that_answers_oddly_at_one_of_its_addresses_may_be_at_work() {
    let cluster = Cluster::new();
    let own = format!("{} {}", cluster.member("node01", Mood::Garbage), Cluster::away());
    let (done, result) =
        turn(&cluster, &[("node01", own), ("node02", Cluster::away()), ("node03", Cluster::away())]);
    assert_eq!((done, result.is_ok()), (0, false));
}

fn waits_for(cluster: &Cluster, third: String, said: &str) {
    let members = [
        ("node01", cluster.member("node01", Mood::Well)),
        ("node02", cluster.member("node02", Mood::Well)),
        ("node03", third),
    ];
    let (done, result) = turn(cluster, &members);
    let error = result.expect_err("a member is not well");
    assert!(error.is_temporary() && error.to_string().contains(said), "{error}");
    assert!(!error.to_string().contains("node02"), "node02 is well: {error}");
    assert_eq!((done, cluster.calls().len()), (0, 0), "no lock without the health of all");
}

#[test]
fn it_waits_while_another_has_the_lock_and_says_who() {
    let cluster = Cluster::new();
    cluster.lock(LEASE_OF_NODE02);
    let members = ["node01", "node02", "node03"].map(|name| (name, cluster.member(name, Mood::Well)));
    let (done, result) = turn(&cluster, &members);
    let error = result.expect_err("the lock is taken");
    assert!(
        error.is_temporary() && error.to_string().contains("node02 has the lock nodecert/turn"),
        "{error}"
    );
    assert_eq!((done, cluster.leases()), (0, vec![LEASE_OF_NODE02]), "its own lease is gone");
}

#[test]
fn a_member_that_falls_ill_while_it_waited_for_the_lock_keeps_it_from_restarting() {
    let cluster = Cluster::new();
    let members = [
        ("node01", cluster.member("node01", Mood::Well)),
        ("node02", cluster.member("node02", Mood::Well)),
        ("node03", cluster.member("node03", Mood::FallsIll)),
    ];
    let (done, result) = turn(&cluster, &members);
    let error = result.expect_err("node03 is ill");
    assert!(error.is_temporary() && error.to_string().contains("node03 says"), "{error}");
    assert_eq!((done, cluster.leases()), (0, vec![]));
}

#[rstest]
#[case(Mood::StallsLocks)]
#[case(Mood::GatewayOff)]
#[case(Mood::OtherLock)]
fn a_member_that_gives_no_lock_is_passed_over(#[case] mood: Mood) {
    let cluster = Cluster::new();
    let members = [
        ("node01", cluster.member("node01", Mood::Well)),
        ("node02", cluster.member("node02", mood)),
        ("node03", cluster.member("node03", Mood::Well)),
    ];
    let (done, result) = turn(&cluster, &members);
    result.unwrap();
    assert_eq!((done, cluster.leases()), (1, vec![]));
}

#[test]
fn members_that_have_their_own_turn_are_asked_again() {
    let cluster = Cluster::new();
    let members = [
        ("node01", cluster.member("node01", Mood::Well)),
        ("node02", cluster.member("node02", Mood::Restarts)),
        ("node03", cluster.member("node03", Mood::Restarts)),
    ];
    let (done, result) = turn(&cluster, &members);
    result.unwrap();
    assert_eq!((done, cluster.leases()), (1, vec![]));
}

/// As where a cluster's clients turn to TLS, and with it to another port.
#[test]
fn a_member_that_is_back_at_another_of_its_addresses_is_found_there() {
    let cluster = Cluster::new();
    let at = |name| format!("{} {}", cluster.member(name, Mood::Moves), cluster.member(name, Mood::Well));
    let members = [
        ("node01", cluster.member("node01", Mood::Well)),
        ("node02", at("node02")),
        ("node03", at("node03")),
    ];
    let (done, result) = turn(&cluster, &members);
    result.unwrap();
    assert_eq!((done, cluster.leases()), (1, vec![]));
}

#[rstest]
#[case(Mood::StallsLocks, true, "node02: time-out")]
#[case(Mood::OtherLock, true, "gave another lock")]
#[case(Mood::GatewayOff, false, "enable-grpc-gateway")]
#[case(Mood::WantsPassword, false, "user name is empty")]
fn without_a_lock_nothing_is_restarted(#[case] mood: Mood, #[case] temporary: bool, #[case] said: &str) {
    let cluster = Cluster::new();
    let members = [
        ("node01", cluster.member("node01", Mood::Well)),
        ("node02", cluster.member("node02", mood)),
        ("node03", cluster.member("node03", mood)),
    ];
    let (done, result) = turn(&cluster, &members);
    let error = result.expect_err("no lock");
    assert_eq!((done, error.is_temporary()), (0, temporary), "{error}");
    assert!(error.to_string().contains(said), "{error}");
}

#[test]
fn a_member_that_does_not_come_back_keeps_the_lock() {
    let cluster = Cluster::new();
    let members = [
        ("node01", cluster.member("node01", Mood::FallsIll)),
        ("node02", cluster.member("node02", Mood::Well)),
        ("node03", cluster.member("node03", Mood::Well)),
    ];
    let (done, result) = turn(&cluster, &members);
    let error = result.expect_err("node01 is ill");
    assert!(
        !error.is_temporary() && error.to_string().contains("node01 was restarted and is not"),
        "{error}"
    );
    assert_eq!((done, cluster.leases().len()), (1, 1));
}

#[test]
fn what_fails_in_its_turn_gives_the_lock_back_and_says_why() {
    let cluster = Cluster::new();
    let members = ["node01", "node02", "node03"].map(|name| (name, cluster.member(name, Mood::Well)));
    let fails = || Err("systemctl ended with exit status: 1".to_owned());
    let (_, result) = turn_with(&cluster, &members, Duration::from_secs(60), fails);
    let error = result.expect_err("it failed");
    assert_eq!(error.to_string(), "systemctl ended with exit status: 1");
    assert_eq!((error.is_temporary(), cluster.leases()), (false, vec![]));
}

/// Where no quorum is left there is no lock; a member that serves no one takes nothing away.
#[rstest]
#[case::has_no_leader(Some(Mood::Unwell), 60, 1)]
#[case::is_at_work_with_a_full_disk(Some(Mood::Alarmed), 60, 0)]
#[case::is_not_there(None, 60, 1)]
#[case::is_well(Some(Mood::Well), 60, 0)]
#[case::may_be_at_work(Some(Mood::Garbage), 60, 0)]
#[case::was_looked_at_for_a_moment(Some(Mood::Unwell), 1, 0)]
fn without_a_quorum_only_a_member_that_is_apart_restarts(
    #[case] own: Option<Mood>,
    #[case] seconds: u64,
    #[case] restarts: usize,
) {
    let cluster = Cluster::new();
    let own = own.map_or_else(Cluster::away, |mood| cluster.member("node01", mood));
    let members = [("node01", own), ("node02", Cluster::away()), ("node03", Cluster::away())];
    let (done, result) = turn_with(&cluster, &members, Duration::from_secs(seconds), || Ok(()));
    assert_eq!((done, result.is_ok()), (restarts, restarts == 1), "{result:?}");
}

#[test]
fn a_deadline_that_is_over_ends_it_at_the_first_look() {
    let cluster = Cluster::new();
    let members = [
        ("node01", cluster.member("node01", Mood::Well)),
        ("node02", cluster.member("node02", Mood::Well)),
        ("node03", Cluster::away()),
    ];
    let began = Instant::now();
    let (done, result) = turn_with(&cluster, &members, Duration::ZERO, || Ok(()));
    assert!(result.is_err_and(|error| error.is_temporary()) && done == 0);
    assert!(began.elapsed() < Duration::from_secs(1));
}
