//! nodecert against a real OpenBao over TLS: a raft node, a root and an intermediate mount, and each way
//! in which it says yes, no, and not now.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod bed;

use bed::{Authority, Host, Login, Openbao, Outcome, Pki, blocks, free_port, inspect, must};
use reqwest::Method;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const SECRET: &str = "/var/lib/nodecert/secrets/etcd";
const CERT: &str = "/etc/web/pki/web.crt";
const KEY: &str = "/etc/web/pki/web.key";
const ANCHORS: &str = "/etc/web/pki/ca.crt";

/// The certificate of these tests, with everything that a role can drop.
const WEB: &str = r#"
[node]
hostname = "node01"
domain = "example.com"
addresses = ["10.99.0.11"]

[certificate.web]
ca = "etcd"
common_name = "{{ fqdn }}"
organization = ["ops"]
dns = ["{{ hostname }}", "{{ fqdn }}"]
ips = ["{{ addresses }}"]
usages = ["server", "client"]
ttl = "24h"
directory = "/etc/web/pki"
files = { cert = "web.crt", key = "web.key", ca = "ca.crt" }
owner = "web"
group = "web"
"#;

// --- the ways in ---

#[test]
#[ignore = "needs servers: run tests/all"]
fn an_approle_gets_a_certificate_and_leaves_no_token_behind() {
    let bao = Openbao::start();
    let pki = generous(&bao);
    let host = host(&bao, &pki, &approle(&pki));
    host.write_secret(SECRET, &pki.secret_id());
    let tokens = bao.tokens();
    host.nodecert("run").exits(0).keeps_secret(&[&host.read(SECRET)]);
    is_verified(&host, &pki);
    assert_eq!(bao.tokens(), tokens, "the token of the run is revoked at its end");
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_token_gets_a_certificate_and_is_still_good_afterwards() {
    let bao = Openbao::start();
    let pki = generous(&bao);
    let host = host(&bao, &pki, &Login::Token { file: SECRET });
    let token = bao.token(&pki.policy());
    host.write_secret(SECRET, &token);
    host.nodecert("run").exits(0).keeps_secret(&[&token]);
    is_verified(&host, &pki);
    // The operator's token is not ours to revoke: the next run needs it.
    host.nodecert("run --force").exits(0);
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_wrapped_secret_id_is_unwrapped_once_and_kept() {
    let bao = Openbao::start();
    let pki = generous(&bao);
    let host = host(&bao, &pki, &wrapped(&pki));
    let wrapping = pki.wrapped_secret_id();
    host.write_secret(SECRET, &wrapping);
    host.nodecert("run").exits(0).keeps_secret(&[&wrapping]);
    is_verified(&host, &pki);
    assert!(!pki.still_wrapped(&wrapping), "consumed");
    let kept = stored_secret_ids(&host, &pki);
    assert_eq!(kept, ["600 0:0"], "the secret_id is stored once, for root's eyes only");
    // Nothing is left to unwrap: only what was stored lets the next run in.
    host.nodecert("run --force").exits(0);
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_wrapping_token_that_someone_else_has_used_is_refused() {
    let bao = Openbao::start();
    let pki = generous(&bao);
    let host = host(&bao, &pki, &wrapped(&pki));
    let wrapping = pki.wrapped_secret_id();
    pki.unwrap(&wrapping);
    host.write_secret(SECRET, &wrapping);
    // The server answers the same for used and expired: both have to be named, for one is an alarm.
    host.nodecert("run").exits(77).says("used").says("expired").keeps_secret(&[&wrapping]);
    assert!(!host.path(CERT).exists());
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_wrapping_token_of_another_origin_is_refused_and_not_unwrapped() {
    let bao = Openbao::start();
    let pki = generous(&bao);
    let host = host(&bao, &pki, &wrapped(&pki));
    let forged = pki.forged_wrapped_secret_id();
    host.write_secret(SECRET, &forged);
    host.nodecert("run").exits(77).says("sys/wrapping/wrap").keeps_secret(&[&forged]);
    assert!(pki.still_wrapped(&forged), "evidence is left as it was");
    assert!(!host.path(CERT).exists());
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_wrong_secret_id_is_refused() {
    let bao = Openbao::start();
    let pki = generous(&bao);
    let host = host(&bao, &pki, &approle(&pki));
    host.write_secret(SECRET, "11111111-2222-3333-4444-555555555555");
    host.nodecert("run").exits(77).says("approle").keeps_secret(&["11111111-2222"]);
    assert!(!host.path(CERT).exists());
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn the_ladder_goes_on_where_a_rung_breaks() {
    let bao = Openbao::start();
    let pki = generous(&bao);
    let host = Host::new();
    host.write("/etc/nodecert/vault-ca.pem", &bao.tls_pem());
    host.write_secret(SECRET, &pki.secret_id());
    host.write_secret("/var/lib/nodecert/secrets/token", "s.nothing");
    let rungs = [Login::Token { file: "/var/lib/nodecert/secrets/token" }, approle(&pki)];
    let ladder = rungs.iter().map(Login::toml).collect::<Vec<_>>().join(", ");
    host.configure(&format!("{WEB}\n{}", ca(&[&bao.url()], &pki, "member", &ladder)));
    host.nodecert("run").exits(0);
    is_verified(&host, &pki);
}

// --- roles that do not give what is wanted ---

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_role_that_drops_the_organization_changes_nothing() {
    drops(&json!({"organization": []}), "organization");
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_role_that_adds_an_organization_changes_nothing() {
    drops(&json!({"organization": ["ops", "system:masters"]}), "organization");
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_role_that_drops_the_names_changes_nothing() {
    drops(&json!({"organization": ["ops"], "use_csr_sans": false}), "use_csr_sans");
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_role_that_drops_a_usage_changes_nothing() {
    drops(&json!({"organization": ["ops"], "client_flag": false}), "client_flag");
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn an_unknown_role_is_refused() {
    let bao = Openbao::start();
    let pki = generous(&bao);
    let host = host(&bao, &pki, &approle(&pki));
    host.write_secret(SECRET, &pki.secret_id());
    host.configure(&format!(
        "{WEB}role = \"nobody\"\n{}",
        ca(&[&bao.url()], &pki, "member", &approle(&pki).toml())
    ));
    host.nodecert("run").exits(77).says("nobody");
    assert!(!host.path(CERT).exists());
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_mount_outside_the_policy_is_refused() {
    let bao = Openbao::start();
    let (pki, other) = (generous(&bao), bao.pki("k8s"));
    let host = host(&bao, &pki, &approle(&pki));
    host.write_secret(SECRET, &pki.secret_id());
    host.configure(&format!("{WEB}\n{}", ca(&[&bao.url()], &other, "member", &approle(&pki).toml())));
    host.nodecert("run").exits(77).says("k8s/prod/pki");
}

// --- not now ---

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_sealed_openbao_is_waited_for() {
    let bao = Openbao::start();
    let pki = generous(&bao);
    let host = host(&bao, &pki, &approle(&pki));
    host.write_secret(SECRET, &pki.secret_id());
    bao.seal();
    let mut waiting = host.start_nodecert("run --deadline 60s");
    std::thread::sleep(Duration::from_secs(2));
    assert!(waiting.try_wait().unwrap().is_none(), "it gave up at once: {:?}", Outcome::wait(waiting));
    bao.unseal();
    Outcome::wait(waiting).exits(0);
    is_verified(&host, &pki);
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_sealed_openbao_is_waited_for_no_longer_than_the_deadline() {
    let bao = Openbao::start();
    let pki = generous(&bao);
    let host = issued(&bao, &pki, &approle(&pki));
    let before = host.snapshot("/etc/web");
    bao.seal();
    let began = Instant::now();
    host.nodecert("run --force --deadline 3s").exits(75).says("sealed");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(host.snapshot("/etc/web"), before, "the old certificate stays in force");
    bao.unseal();
    host.nodecert("run --force").exits(0);
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn the_second_url_serves_while_the_first_is_down() {
    let bao = Openbao::start();
    let pki = generous(&bao);
    let host = host(&bao, &pki, &approle(&pki));
    host.write_secret(SECRET, &pki.secret_id());
    let down = format!("https://127.0.0.1:{}", free_port());
    host.configure(&format!("{WEB}\n{}", ca(&[&down, &bao.url()], &pki, "member", &approle(&pki).toml())));
    host.nodecert("run").exits(0);
    is_verified(&host, &pki);
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn the_second_url_serves_while_the_first_is_sealed() {
    let (sealed, bao) = (Openbao::start(), Openbao::start());
    sealed.seal();
    let pki = generous(&bao);
    let host = host(&bao, &pki, &approle(&pki));
    host.write_secret(SECRET, &pki.secret_id());
    // One trust file for both listeners, as for two nodes of one cluster.
    host.write("/etc/nodecert/vault-ca.pem", &format!("{}{}", sealed.tls_pem(), bao.tls_pem()));
    host.configure(&format!(
        "{WEB}\n{}",
        ca(&[&sealed.url(), &bao.url()], &pki, "member", &approle(&pki).toml())
    ));
    host.nodecert("run").exits(0);
    is_verified(&host, &pki);
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn nothing_listening_is_temporary() {
    let mut bao = Openbao::start();
    let (down, url) = (bao.port(), bao.url());
    let host = {
        let pki = generous(&bao);
        let host = host(&bao, &pki, &approle(&pki));
        host.write_secret(SECRET, &pki.secret_id());
        host
    };
    bao.stop();
    host.nodecert("run --deadline 2s").exits(75).says(&url).says(&down.to_string());
    assert!(!host.path(CERT).exists());
}

// --- whom it trusts ---

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_listener_of_another_authority_hears_no_secret() {
    let bao = Openbao::start();
    let pki = generous(&bao);
    let host = host(&bao, &pki, &wrapped(&pki));
    let wrapping = pki.wrapped_secret_id();
    host.write_secret(SECRET, &wrapping);
    host.write("/etc/nodecert/vault-ca.pem", &Authority::new("someone else").pem());
    host.nodecert("run --deadline 2s").gets_nothing().says(&bao.url());
    assert!(pki.still_wrapped(&wrapping));
    assert!(!host.path(CERT).exists());
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn anchors_of_a_file_are_what_the_trust_file_holds() {
    let bao = Openbao::start();
    let pki = generous(&bao);
    let host = host(&bao, &pki, &approle(&pki));
    host.write_secret(SECRET, &pki.secret_id());
    host.write("/etc/nodecert/etcd-ca.pem", &pki.root_pem);
    host.configure(&with_file_anchors(&host));
    // The root vouches for others than the intermediate too, which is said once.
    host.nodecert("run").exits(0).says("stands above CA etcd");
    is_verified(&host, &pki);
    assert_eq!(blocks(&host.read(ANCHORS)), blocks(&pki.root_pem));
    assert!(!host.nodecert("run --force").exits(0).stdout.contains("stands above"));
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_certificate_that_leads_to_no_anchor_of_the_file_is_refused() {
    let bao = Openbao::start();
    let pki = generous(&bao);
    let host = host(&bao, &pki, &approle(&pki));
    host.write_secret(SECRET, &pki.secret_id());
    host.write("/etc/nodecert/etcd-ca.pem", &Authority::new("etcd root").pem());
    host.configure(&with_file_anchors(&host));
    host.nodecert("run").exits(77).says("anchor");
    assert!(!host.path(CERT).exists());
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn trust_prints_a_pin_with_which_a_host_gets_its_certificate() {
    let bao = Openbao::start();
    let pki = generous(&bao);
    let host = host(&bao, &pki, &approle(&pki));
    host.write_secret(SECRET, &pki.secret_id());
    let printed = host.nodecert(&format!("trust {}", bao.url())).exits(0).stdout;
    let pin = printed.split(['"', '\'']).find(|word| word.starts_with("sha256:")).expect("a pin to copy");
    let config = host.read("/etc/nodecert/config.toml");
    let pinned =
        config.replace("tls.file = \"/etc/nodecert/vault-ca.pem\"", &format!("tls.pins = [\"{pin}\"]"));
    assert_ne!(config, pinned);
    host.configure(&pinned);
    host.nodecert("run").exits(0);
    is_verified(&host, &pki);
}

// --- afterwards ---

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_second_run_changes_nothing_and_asks_no_one() {
    let mut bao = Openbao::start();
    let host = {
        let pki = generous(&bao);
        issued(&bao, &pki, &approle(&pki))
    };
    let before = host.snapshot("/etc");
    bao.stop();
    // In the server's place: whoever still came would be seen.
    let ear = TcpListener::bind(("127.0.0.1", bao.port())).unwrap();
    ear.set_nonblocking(true).unwrap();
    let told = host.nodecert("run --format json").exits(0).json();
    let web = named(&told["certificates"], "web");
    assert_eq!((&web["action"], &web["changed"]), (&json!("keep"), &json!(false)), "{told}");
    host.nodecert("run --missing").exits(0);
    host.nodecert("plan --exit-code").exits(0);
    host.nodecert("status --check").exits(0);
    host.nodecert("status --usable web").exits(0);
    assert!(ear.accept().is_err(), "someone was asked");
    assert_eq!(host.snapshot("/etc"), before);
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_forced_run_renews_with_a_new_key() {
    let bao = Openbao::start();
    let pki = generous(&bao);
    let host = issued(&bao, &pki, &approle(&pki));
    let (cert, key, anchors) = (host.read(CERT), host.read(KEY), host.read(ANCHORS));
    host.nodecert("run --force").exits(0);
    is_verified(&host, &pki);
    assert_ne!(host.read(CERT), cert);
    assert_ne!(host.read(KEY), key);
    assert_eq!(host.read(ANCHORS), anchors);
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn after_the_first_login_no_secret_is_left_and_the_certificate_is_enough() {
    let bao = Openbao::start();
    let pki = generous(&bao);
    bao.admin(Method::POST, "sys/auth/cert", &json!({"type": "cert"}));
    let trusted = json!({"certificate": pki.intermediate_pem, "token_policies": [pki.policy()]});
    bao.admin(Method::POST, "auth/cert/certs/node", &trusted);
    let host = Host::new();
    host.write("/etc/nodecert/vault-ca.pem", &bao.tls_pem());
    let once = wrapped(&pki).toml().replace("wrapped = true", "wrapped = true, wipe = true");
    let ladder = format!("{{ cert = {{ certificate = \"web\" }} }}, {once}");
    host.configure(&format!("{WEB}\n{}", ca(&[&bao.url()], &pki, "member", &ladder)));
    let tokens = bao.tokens();
    let wrapping = pki.wrapped_secret_id();
    host.write_secret(SECRET, &wrapping);
    host.write("/var/lib/cloud/instance/user-data.txt", &format!("#cloud-config\n# {wrapping}\n"));
    host.nodecert("run")
        .exits(0)
        .says("stands still in /var/lib/cloud/instance/user-data.txt")
        .keeps_secret(&[&wrapping]);
    is_verified(&host, &pki);
    assert!(!host.path(SECRET).exists() && stored_secret_ids(&host, &pki).is_empty());
    assert_eq!(bao.tokens(), tokens, "that of the trial is given back too");

    host.nodecert("run --force").exits(0);
    // Its names are not those wanted any more, and Vault knows it by those it has.
    let moved = host.read("/etc/nodecert/config.toml").replace("10.99.0.11", "10.99.0.12");
    host.configure(&moved);
    host.nodecert("run").exits(0);
    assert_eq!(inspect(&host.path(CERT)).ips, ["10.99.0.12"]);
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_certificate_is_revoked_by_a_host_that_may_and_the_next_run_gets_another() {
    let bao = Openbao::start();
    let pki = generous(&bao);
    let host = issued(&bao, &pki, &approle(&pki));
    let told = host.nodecert("status --format json").json();
    let serial = named(&told["certificates"], "web")["serial"].as_str().unwrap().to_owned();
    let by_hand = format!("`bao write {}/revoke serial_number={serial}`", pki.mount);
    host.nodecert("revoke web").exits(77).says(&by_hand);
    host.nodecert("status --usable web").exits(0);

    let policy = format!(
        "path \"{0}/sign/*\" {{\n  capabilities = [\"update\"]\n}}\npath \"{0}/revoke\" {{\n  capabilities = [\"update\"]\n}}\n",
        pki.mount
    );
    bao.admin(Method::PUT, &format!("sys/policies/acl/{}", pki.policy()), &json!({"policy": policy}));
    host.nodecert("revoke web").exits(0).says(&serial);
    let seen = bao.admin(Method::GET, &format!("{}/cert/{serial}", pki.mount), &json!(null));
    assert!(seen["data"]["revocation_time"].as_i64().is_some_and(|time| time > 0), "{seen}");
    host.nodecert("revoke web").exits(0).says("was revoked before");
    host.nodecert("status --usable web").exits(1).says("revoked");
    let key = host.read(KEY);
    host.nodecert("run --missing").exits(0);
    is_verified(&host, &pki);
    assert_ne!(host.read(KEY), key);

    host.nodecert("decommission node01 --revoke").exits(0).says("etc/web/pki/web.key");
    assert!(!host.path(KEY).exists() && !host.path(SECRET).exists());
    host.nodecert("run").exits(78).says("was decommissioned");
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn status_and_openssl_agree() {
    let bao = Openbao::start();
    let pki = generous(&bao);
    let host = issued(&bao, &pki, &approle(&pki));
    let told = host.nodecert("status --format json").exits(0).json();
    let web = named(&told["certificates"], "web");
    let seen = inspect(&host.path(CERT));

    assert_eq!((&web["state"], &web["ca"]), (&json!("valid"), &json!("etcd")), "{web}");
    for part in ["CN=node01.example.com", "O=ops"] {
        assert!(
            seen.subject.contains(part) && web["subject"].as_str().unwrap().contains(part),
            "{seen:?} {web}"
        );
    }
    assert_eq!(sorted(&web["dns"]), ["node01", "node01.example.com"]);
    assert_eq!(sorted(&json!(seen.dns)), sorted(&web["dns"]));
    assert_eq!(web["ips"], json!(seen.ips));
    assert_eq!(instant(&web["not_before"]), instant(&json!(seen.not_before)));
    assert_eq!(instant(&web["not_after"]), instant(&json!(seen.not_after)));
    let between = instant(&web["not_before"])..instant(&web["not_after"]);
    assert!(between.contains(&instant(&web["renew_after"])), "{web}");
    assert!(
        web["fingerprint"].as_str().unwrap().replace(':', "").to_lowercase().ends_with(&seen.fingerprint),
        "{web}"
    );
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn modes_and_owners_are_as_asked_and_are_put_right() {
    let bao = Openbao::start();
    let pki = generous(&bao);
    let host = issued(&bao, &pki, &approle(&pki));
    let as_asked = |host: &Host| {
        assert_eq!(host.mode(KEY), "600 4302:4302");
        assert_eq!(host.mode(CERT), "644 4302:4302");
        assert_eq!(host.mode(ANCHORS).split(' ').next(), Some("644"));
        assert!(!host.read(CERT).contains("PRIVATE KEY"));
    };
    as_asked(&host);
    std::fs::set_permissions(host.path(KEY), PermissionsExt::from_mode(0o644)).unwrap();
    must(Command::new("chown").args(["0:0"]).arg(host.path(CERT)));
    let key = host.read(KEY);
    host.nodecert("run").exits(0);
    as_asked(&host);
    assert_eq!(host.read(KEY), key, "repaired, not renewed");
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn kubectl_reads_the_kubeconfig_of_a_kubelet() {
    let bao = Openbao::start();
    let pki = bao.pki("k8s");
    let nodes = |changes: Value| {
        let mut role = json!({"organization": ["system:nodes"]});
        role.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        role
    };
    // Usages come from the role alone, and each certificate has one.
    pki.role("serving", &nodes(json!({"client_flag": false})));
    pki.role("client", &nodes(json!({"server_flag": false})));
    let host = Host::new();
    host.write("/etc/nodecert/vault-ca.pem", &bao.tls_pem());
    host.write_secret(SECRET, &pki.secret_id());
    let ca = ca(&[&bao.url()], &pki, "client", &approle(&pki).toml()).replace("[ca.etcd", "[ca.k8s");
    host.configure(&format!("{KUBELET}\n{ca}"));
    host.nodecert("run").exits(0);

    let client = inspect(&host.path("/var/lib/kubelet/pki/kubelet-client.crt"));
    assert_eq!(client.subject, "CN=system:node:node01,O=system:nodes");
    assert_eq!(client.usages, ["TLS Web Client Authentication"]);
    let serving = inspect(&host.path("/var/lib/kubelet/pki/kubelet.crt"));
    assert_eq!(serving.usages, ["TLS Web Server Authentication"]);
    assert_eq!(serving.ips, ["10.99.0.11"]);

    let shown = must(
        Command::new("kubectl")
            .args(["config", "view", "--output=json", "--kubeconfig"])
            .arg(host.path("/etc/kubernetes/kubelet.conf")),
    );
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["clusters"][0]["cluster"]["server"], "https://10.99.0.1:6443", "{shown}");
    assert_eq!(shown["clusters"][0]["cluster"]["certificate-authority"], "/etc/kubernetes/pki/ca.crt");
    assert_eq!(shown["users"][0]["user"]["client-certificate"], "/var/lib/kubelet/pki/kubelet-client.crt");
    assert_eq!(shown["users"][0]["user"]["client-key"], "/var/lib/kubelet/pki/kubelet-client.key");
    let current = shown["contexts"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["name"] == shown["current-context"])
        .expect("a current context");
    assert_eq!(current["context"]["user"], shown["users"][0]["name"]);
    assert_eq!(current["context"]["cluster"], shown["clusters"][0]["name"]);
}

const KUBELET: &str = r#"
[node]
hostname = "node01"
domain = "example.com"
addresses = ["10.99.0.11"]

[kubelet]
ca = "k8s"
api_server = "https://10.99.0.1:6443"
cluster_dns = ["10.96.0.10"]
node_name = "node01"

[certificate.kubelet-serving]
role = "serving"
"#;

// --- the scenes ---

/// The PKI `etcd` with a role `member` that gives the certificate `web` all it wants.
fn generous(bao: &Openbao) -> Pki<'_> {
    let pki = bao.pki("etcd");
    pki.role("member", &json!({"organization": ["ops"]}));
    pki
}

/// A host that is configured for `web`, with one way to log in. The secret is the test's to put there.
fn host(bao: &Openbao, pki: &Pki<'_>, login: &Login) -> Host {
    let host = Host::new();
    host.write("/etc/nodecert/vault-ca.pem", &bao.tls_pem());
    host.configure(&format!("{WEB}\n{}", ca(&[&bao.url()], pki, "member", &login.toml())));
    host
}

/// A host that holds its certificate.
fn issued(bao: &Openbao, pki: &Pki<'_>, login: &Login) -> Host {
    let host = host(bao, pki, login);
    host.write_secret(SECRET, &pki.secret_id());
    host.nodecert("run").exits(0);
    is_verified(&host, pki);
    host
}

fn approle(pki: &Pki<'_>) -> Login {
    Login::AppRole { role_id: pki.role_id.clone(), file: SECRET }
}

fn wrapped(pki: &Pki<'_>) -> Login {
    Login::Wrapped { role_id: pki.role_id.clone(), file: SECRET }
}

/// The CA `etcd` of a configuration.
fn ca(urls: &[&str], pki: &Pki<'_>, role: &str, ladder: &str) -> String {
    let mount = &pki.mount;
    format!(
        r#"
[ca.etcd]
tls.file = "/etc/nodecert/vault-ca.pem"
anchors.published = true

[ca.etcd.vault]
urls = {urls:?}
mount = "{mount}"
role = "{role}"
auth = [{ladder}]
"#
    )
}

/// The host's configuration, with its anchors taken from a file instead of the CA's word.
fn with_file_anchors(host: &Host) -> String {
    let config = host.read("/etc/nodecert/config.toml");
    let changed = config.replace("anchors.published = true", "anchors.file = \"/etc/nodecert/etcd-ca.pem\"");
    assert_ne!(config, changed);
    changed
}

/// A role that once was generous and now is as `changed`: a forced run is refused, names the role's
/// `option`, and leaves the certificate that it holds in force.
fn drops(changed: &Value, option: &str) {
    let bao = Openbao::start();
    let pki = generous(&bao);
    let host = issued(&bao, &pki, &approle(&pki));
    let before = host.snapshot("/etc/web");
    pki.role("member", changed);
    host.nodecert("run --force").exits(77).says(option);
    assert_eq!(host.snapshot("/etc/web"), before, "the old certificate stays in force");
    host.nodecert("status --usable web").exits(0);
    // Once the role is mended nothing stands in the way.
    pki.role("member", &json!({"organization": ["ops"]}));
    host.nodecert("run --force").exits(0);
    is_verified(&host, &pki);
}

/// What an outsider can check of `web`: openssl follows the chain from the trust file alone, for both
/// usages, the key is the certificate's, the names are there, and the root is in `ca.crt` and nowhere else.
#[track_caller]
fn is_verified(host: &Host, pki: &Pki<'_>) {
    let (cert, anchors) = (host.path(CERT), host.path(ANCHORS));
    for purpose in ["sslserver", "sslclient"] {
        verify(&cert, &anchors, &["-purpose", purpose]);
    }
    verify(&cert, &anchors, &["-verify_hostname", "node01.example.com"]);
    verify(&cert, &anchors, &["-verify_ip", "10.99.0.11"]);
    let public =
        |arguments: &[&str], file: &str| must(Command::new("openssl").args(arguments).arg(host.path(file)));
    assert_eq!(public(&["x509", "-noout", "-pubkey", "-in"], CERT), public(&["pkey", "-pubout", "-in"], KEY));
    let (root, chain) = (blocks(&pki.root_pem), blocks(&host.read(CERT)));
    assert!(blocks(&host.read(ANCHORS)).contains(&root[0]), "the root is an anchor");
    assert_eq!(chain[1..], blocks(&pki.intermediate_pem), "leaf and intermediate, never the root");
}

/// `openssl verify` with the trust file and nothing of this machine's.
#[track_caller]
fn verify(cert: &Path, anchors: &Path, options: &[&str]) {
    let mut command = Command::new("openssl");
    command.args(["verify", "-x509_strict", "-no-CApath", "-no-CAstore", "-CAfile"]).arg(anchors);
    must(command.args(options).arg("-untrusted").arg(cert).arg(cert));
}

/// Mode and owner of every file of the state directory that holds a secret_id with which one can log in.
fn stored_secret_ids(host: &Host, pki: &Pki<'_>) -> Vec<String> {
    let files: Vec<_> = host.snapshot("/var/lib/nodecert").into_keys().collect();
    let holds = |text: &str| {
        let words = text.split(|c: char| !(c.is_ascii_hexdigit() || c == '-'));
        words.filter(|w| w.len() == 36).any(|w| pki.admits(w))
    };
    let found = files.iter().filter(|f| std::fs::read_to_string(f).is_ok_and(|text| holds(&text)));
    found.map(|f| host.mode(f.strip_prefix(host.root()).unwrap().to_str().unwrap())).collect()
}

/// The entry of a JSON list with this name.
fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    list.as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["name"] == name)
        .unwrap_or_else(|| panic!("no {name} in {list}"))
}

fn sorted(list: &Value) -> Vec<String> {
    let mut names: Vec<String> =
        list.as_array().unwrap().iter().map(|n| n.as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

fn instant(value: &Value) -> OffsetDateTime {
    OffsetDateTime::parse(value.as_str().unwrap(), &Rfc3339).unwrap()
}
