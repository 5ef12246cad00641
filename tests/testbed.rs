//! The test bed itself: where these fail, the fault is the bed's and not nodecert's.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod bed;

use bed::{Authority, Etcd, EtcdRelease, Host, Lan, Openbao, blocks, ended, eventually, inspect, must};
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::process::Command;

#[test]
#[ignore = "needs servers: run tests/all"]
fn openbao_signs_a_csr_of_openssl_for_an_approle() {
    let bao = Openbao::start();
    let pki = bao.pki("etcd");
    pki.role("member", &json!({}));
    let (status, answer) = pki.sign("member", &csr("/CN=node01", "DNS:node01,IP:10.99.0.11"));
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["data"]["ca_chain"].as_array().unwrap().len(), 2, "intermediate and root");

    let host = Host::new();
    host.write("/leaf.crt", answer["data"]["certificate"].as_str().unwrap());
    let leaf = inspect(&host.path("/leaf.crt"));
    assert_eq!(
        (leaf.subject.as_str(), leaf.ips.as_slice()),
        ("CN=node01", ["10.99.0.11".to_owned()].as_slice())
    );
    assert_eq!(leaf.usages.len(), 2, "{leaf:?}");
    assert_eq!(blocks(&pki.root_pem).len(), 1);
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn an_approle_may_sign_in_its_own_mount_and_nothing_else() {
    let bao = Openbao::start();
    let (etcd, k8s) = (bao.pki("etcd"), bao.pki("k8s"));
    k8s.role("kubelet", &json!({}));
    let token = bao.token(&etcd.policy());
    for path in
        ["k8s/prod/pki/sign/kubelet", "etcd/root/pki/sign/member", "etcd/prod/pki/issue/member", "sys/seal"]
    {
        let (status, answer) = bao.ask(Method::POST, path, Some(&token), &json!({}));
        assert_eq!(status, StatusCode::FORBIDDEN, "{path}: {answer}");
    }
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn roles_drop_organizations_and_names_without_a_word() {
    let bao = Openbao::start();
    let pki = bao.pki("etcd");
    pki.role("nameless", &json!({"use_csr_sans": false}));
    let (status, answer) = pki.sign("nameless", &csr("/CN=node01/O=ops", "DNS:node02,IP:10.99.0.11"));
    assert_eq!(status, StatusCode::OK, "{answer}");
    let host = Host::new();
    host.write("/leaf.crt", answer["data"]["certificate"].as_str().unwrap());
    let leaf = inspect(&host.path("/leaf.crt"));
    assert_eq!((leaf.subject.as_str(), leaf.ips.len()), ("CN=node01", 0), "no O, no address");
    assert!(answer["warnings"].is_null(), "{answer}");
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_wrapped_secret_id_can_be_unwrapped_once() {
    let bao = Openbao::start();
    let pki = bao.pki("etcd");
    let wrapping = pki.wrapped_secret_id();
    assert!(pki.still_wrapped(&wrapping));
    assert!(pki.admits(&pki.unwrap(&wrapping)));
    assert!(!pki.still_wrapped(&wrapping));
    assert!(
        pki.admits(&pki.unwrap(&pki.forged_wrapped_secret_id())),
        "the forgery works for those who do not look"
    );
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_sealed_openbao_answers_503_until_it_is_unsealed() {
    let bao = Openbao::start();
    bao.seal();
    let (status, _) = bao.ask(Method::GET, "sys/health", None, &json!(null));
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    bao.unseal();
    let (status, _) = bao.ask(Method::GET, "sys/health", None, &json!(null));
    assert_eq!(status, StatusCode::OK);
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn hosts_of_a_lan_see_each_other_by_their_own_addresses_and_nobody_else() {
    let lan = Lan::of(&["10.99.0.11", "10.99.0.12"]);
    let route = must(lan.host(0).command("ip").args(["route", "get", "10.99.0.12"]));
    assert!(route.contains("src 10.99.0.11"), "{route}");
    // A refusal is an answer: the packet went to the other host and came back.
    eventually("an answer from the other host", || {
        let answer = ended(lan.host(0).command("bash").args(["-c", "</dev/tcp/10.99.0.12/9"]));
        if answer.stderr.contains("refused") { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    let routes = must(lan.host(0).command("ip").args(["route", "show", "default"]));
    assert_eq!(routes, "", "no way out");
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn etcd_of_each_release_runs_inside_a_host_as_its_user() {
    for release in [EtcdRelease::v3_4(), EtcdRelease::v3_5()] {
        let (host, lan) = (Host::new(), Lan::of(&["10.99.0.11"]));
        let member = Etcd { host: &host, netns: lan.host(0), release: &release };
        member.install();
        lone_member(&host);
        let mut running = member.start("/etc/etcd/etcd.yaml");
        eventually("a healthy member", || {
            running.must_live();
            let health = ended(&mut member.etcdctl("--endpoints https://10.99.0.11:2379 --cacert /etc/etcd/ca.crt --cert /etc/etcd/server.crt --key /etc/etcd/server.key endpoint health"));
            if health.status.success() { Ok(()) } else { Err(format!("{health:?}")) }
        });
        let version = must(&mut member.etcdctl("version"));
        assert!(version.contains(&format!("etcdctl version: {}.", release.version)), "{version}");
    }
}

/// The files of a cluster of one, made with rcgen.
fn lone_member(host: &Host) {
    let authority = Authority::new("lone");
    let pair = authority.issue(&["10.99.0.11"]);
    host.write("/etc/etcd/ca.crt", &authority.pem());
    host.write("/etc/etcd/server.crt", &pair.certificate);
    host.write("/etc/etcd/server.key", &pair.key);
    host.write("/etc/etcd/etcd.yaml", include_str!("bed/lone-member.yaml"));
    must(Command::new("chown").arg("4301").arg(host.path("/etc/etcd/server.key")));
}

/// A CSR as `openssl req` makes it.
fn csr(subject: &str, names: &str) -> String {
    let arguments = "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /dev/null";
    let mut command = Command::new("openssl");
    must(command.args(arguments.split(' ')).args([
        "-subj",
        subject,
        "-addext",
        &format!("subjectAltName={names}"),
    ]))
}
