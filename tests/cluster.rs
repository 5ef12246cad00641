//! A whole cluster's identities from a real OpenBao that `packaging/vault-setup` has set up: three CAs, one
//! run for each host, every certificate held against what its consumer is given, and no host another one's.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod bed;

use bed::{Host, Openbao, ended, inspect, must};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const PKI: &str = "/etc/kubernetes/pki";
/// What a certificate, the trust file of whoever it is shown to, and the purpose it is held against.
type Shown = (&'static str, &'static str, &'static str);

/// A control plane with its kubelet, as `kubernetes.md` of kubeadm lists it.
const CONTROL_PLANE: [Shown; 10] = [
    ("/etc/kubernetes/pki/apiserver.crt", "/etc/kubernetes/pki/ca.crt", "sslserver"),
    ("/etc/kubernetes/pki/apiserver-kubelet-client.crt", "/etc/kubernetes/pki/ca.crt", "sslclient"),
    ("/etc/kubernetes/pki/apiserver-etcd-client.crt", "/etc/kubernetes/pki/etcd/ca.crt", "sslclient"),
    ("/etc/kubernetes/pki/front-proxy-client.crt", "/etc/kubernetes/pki/front-proxy-ca.crt", "sslclient"),
    ("/etc/kubernetes/pki/controller-manager.crt", "/etc/kubernetes/pki/ca.crt", "sslclient"),
    ("/etc/kubernetes/pki/scheduler.crt", "/etc/kubernetes/pki/ca.crt", "sslclient"),
    ("/etc/kubernetes/pki/kube-proxy.crt", "/etc/kubernetes/pki/ca.crt", "sslclient"),
    ("/etc/kubernetes/pki/admin.crt", "/etc/kubernetes/pki/ca.crt", "sslclient"),
    ("/var/lib/kubelet/pki/kubelet-client.crt", "/etc/kubernetes/pki/ca.crt", "sslclient"),
    ("/var/lib/kubelet/pki/kubelet.crt", "/etc/kubernetes/pki/ca.crt", "sslserver"),
];

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_control_plane_of_three_authorities_comes_in_one_run() {
    let bao = Openbao::start();
    set_up(&bao);
    let (other, host) = (control_plane(&bao, "cp0", "10.0.0.4"), control_plane(&bao, "cp1", "10.0.0.5"));
    let took = |host: &Host, arguments| {
        let began = Instant::now();
        host.nodecert(arguments).exits(0);
        began.elapsed()
    };
    let (one, ten) = (took(&other, "run --only kube-scheduler"), took(&host, "run"));
    println!("one certificate in {one:?}, ten of three CAs in {ten:?}");

    let authorities = ["ca.crt", "etcd/ca.crt", "front-proxy-ca.crt"].map(|file| format!("{PKI}/{file}"));
    for (certificate, trust, purpose) in CONTROL_PLANE {
        assert!(verifies(&host, certificate, trust, purpose), "{certificate} against {trust}");
        let other = if purpose == "sslserver" { "sslclient" } else { "sslserver" };
        assert!(!verifies(&host, certificate, trust, other), "{certificate} as {other}");
        for wrong in authorities.iter().filter(|wrong| *wrong != trust) {
            assert!(!verifies(&host, certificate, wrong, purpose), "{certificate} against {wrong}");
        }
    }
    let apiserver = inspect(&host.path("/etc/kubernetes/pki/apiserver.crt"));
    let wanted = ["10.0.0.5", "10.96.0.1", "127.0.0.1", "FD00:10:96:0:0:0:0:1", "0:0:0:0:0:0:0:1"];
    assert_eq!(set(&apiserver.ips), wanted.map(str::to_owned).into());
    assert!(apiserver.dns.contains(&"api.example.com".to_owned()), "{apiserver:?}");
    for (file, subject) in [
        ("/etc/kubernetes/pki/apiserver-kubelet-client.crt", "CN=kube-apiserver-kubelet-client"),
        ("/etc/kubernetes/pki/controller-manager.crt", "CN=system:kube-controller-manager"),
        ("/etc/kubernetes/pki/scheduler.crt", "CN=system:kube-scheduler"),
        ("/etc/kubernetes/pki/admin.crt", "O=kubeadm:cluster-admins,CN=kubernetes-admin"),
        ("/var/lib/kubelet/pki/kubelet-client.crt", "O=system:nodes,CN=system:node:cp1"),
    ] {
        let said = inspect(&host.path(file)).subject.replace('+', ",");
        let (said, subject): (BTreeSet<_>, BTreeSet<_>) =
            (said.split(',').collect(), subject.split(',').collect());
        assert_eq!(said, subject, "{file}");
    }
    host.nodecert("run").exits(0).says("nothing to do");
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn an_etcd_member_gets_its_pairs_and_renews_with_its_own_certificate() {
    let bao = Openbao::start();
    set_up(&bao);
    let host = Host::new();
    let login = known(&bao, &host, "node01", &["etcd"]);
    let renewing = format!(r#"{{ cert = {{ certificate = "etcd-server", mount = "prod-etcd" }} }}, {login}"#);
    host.configure(&format!(
        "{}{}\n[etcd]\nca = \"etcd\"\nhealthcheck = true\ncluster = {{ node01 = \"10.0.0.11\" }}\n",
        node("node01", "10.0.0.11"),
        ca(&bao, "etcd", &renewing)
    ));
    host.nodecert("run").exits(0);
    for file in ["server", "peer"] {
        let file = format!("/etc/etcd/pki/{file}.crt");
        assert!(verifies(&host, &file, "/etc/etcd/pki/ca.crt", "sslserver"), "{file}");
        assert!(verifies(&host, &file, "/etc/etcd/pki/ca.crt", "sslclient"), "{file}");
    }
    assert!(verifies(&host, "/etc/etcd/pki/healthcheck-client.crt", "/etc/etcd/pki/ca.crt", "sslclient"));
    // Nothing but the held certificate is left to log in with.
    host.write_secret(SECRET, "11111111-2222-3333-4444-555555555555");
    host.nodecert("run --force").exits(0);
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn no_host_gets_what_is_another_hosts() {
    let bao = Openbao::start();
    set_up(&bao);
    let host = Host::new();
    known(&bao, &host, "node02", &["etcd", "control-plane", "worker"]);
    let login = known(&bao, &host, "node01", &["etcd", "worker"]);
    let token = token(&bao, &host, &login);
    for (path, subject, names, allowed) in [
        (
            "etcd/prod/pki/sign/etcd-server",
            "/CN=node01",
            "DNS:node01,DNS:node01.example.com,IP:10.0.0.11",
            true,
        ),
        ("etcd/prod/pki/sign/etcd-server", "/CN=node02", "DNS:node02", false),
        ("etcd/prod/pki/sign/etcd-server", "/CN=node01", "DNS:node01,DNS:node02.example.com", false),
        ("etcd/prod/pki/sign/etcd-peer", "/CN=node01", "DNS:node01,IP:192.0.2.1", false),
        ("etcd/prod/pki/sign/flanneld-etcd-client", "/CN=flanneld-node02", "", false),
        ("k8s/prod/pki/sign/kubelet-client", "/CN=system:node:node01", "", true),
        ("k8s/prod/pki/sign/kubelet-client", "/CN=system:node:node02", "", false),
        ("k8s/prod/pki/sign/kubelet-client", "/CN=kubernetes-admin", "", false),
        ("k8s/prod/pki/sign/kubelet-serving", "/CN=system:node:node01", "DNS:node02", false),
        // Parts that this host is not.
        ("k8s/prod/pki/sign/kube-apiserver-serving", "/CN=kube-apiserver", "DNS:kubernetes", false),
        ("k8s/prod/pki/sign/kube-scheduler", "/CN=system:kube-scheduler", "", false),
        ("k8s/prod/pki/sign/admin", "/CN=kubernetes-admin", "", false),
        ("k8s/prod/pki/sign/super-admin", "/CN=kubernetes-super-admin", "", false),
        ("etcd/prod/pki/sign/kube-apiserver-etcd-client", "/CN=kube-apiserver-etcd-client", "", false),
        ("front-proxy/prod/pki/sign/front-proxy-client", "/CN=front-proxy-client", "", false),
        // No way around the roles.
        ("k8s/prod/pki/sign-verbatim", "/CN=system:node:node01", "", false),
        ("k8s/prod/pki/issue/kubelet-client", "/CN=system:node:node01", "", false),
    ] {
        let (status, answer) =
            bao.ask(Method::POST, path, Some(&token), &json!({"csr": csr(subject, names)}));
        assert_eq!(status == StatusCode::OK, allowed, "{path} {subject} {names}: {status} {answer}");
    }
    // What it may get says what the role says, whatever the request said.
    let ask = json!({"csr": csr("/O=system:masters/CN=system:node:node01", "")});
    let (_, answer) = bao.ask(Method::POST, "k8s/prod/pki/sign/kubelet-client", Some(&token), &ask);
    host.write("/signed.pem", answer["data"]["certificate"].as_str().unwrap());
    let subject = inspect(&host.path("/signed.pem")).subject;
    assert!(subject.contains("system:nodes") && !subject.contains("masters"), "{subject}");
}

// --- hosts and their ways in ---

const SECRET: &str = "/var/lib/nodecert/secrets/vault";

fn control_plane(bao: &Openbao, name: &str, address: &str) -> Host {
    let host = Host::new();
    let login = known(bao, &host, name, &["control-plane", "worker", "admin"]);
    let cas = ["etcd", "k8s", "front-proxy"].map(|kind| ca(bao, kind, &login)).concat();
    host.configure(&format!(
        r#"{}{cas}
[kubernetes]
ca = "k8s"
etcd_ca = "etcd"
front_proxy_ca = "front-proxy"
api_server = "https://api.example.com:6443"
service_cidr = "10.96.0.0/12,fd00:10:96::/108"
etcd_servers = ["https://10.0.0.11:2379"]
[kube-apiserver]
[kube-controller-manager]
[kube-scheduler]
[kubelet]
[kube-proxy]
[admin]
"#,
        node(name, address)
    ));
    host
}

fn node(name: &str, address: &str) -> String {
    format!("[node]\nhostname = \"{name}\"\ndomain = \"example.com\"\naddresses = [\"{address}\"]\n")
}

fn ca(bao: &Openbao, kind: &str, auth: &str) -> String {
    format!(
        r#"
[ca.{kind}]
tls.file = "/etc/nodecert/vault-ca.pem"
anchors.published = true
vault = {{ urls = ["{}"], mount = "{kind}/prod/pki", auth = [{auth}] }}
"#,
        bao.url()
    )
}

fn set_up(bao: &Openbao) {
    vault_setup(bao, &["cluster", "prod", "--api", "api.example.com", "--addresses", "10.0.0.0/8,fd00::/8"]);
    // It can be repeated.
    vault_setup(bao, &["cluster", "prod", "--api", "api.example.com", "--addresses", "10.0.0.0/8,fd00::/8"]);
}

/// Makes a host known under its name, and gives it its secret_id; the rung of its ladder.
fn known(bao: &Openbao, host: &Host, name: &str, parts: &[&str]) -> String {
    host.write("/etc/nodecert/vault-ca.pem", &bao.tls_pem());
    let fqdn = format!("{name}.example.com");
    let said = vault_setup(bao, &[&["host", "prod", name, "--fqdn", &fqdn], parts].concat());
    let mut lines = said.lines();
    let role_id =
        lines.next().and_then(|line| line.strip_prefix("role_id = ")).expect("a role_id").to_owned();
    let secret_id = lines.next().and_then(|line| line.strip_prefix("secret_id: ")).expect("a secret_id");
    host.write_secret(SECRET, secret_id);
    format!(r#"{{ approle = {{ role_id = {role_id}, secret_id = {{ file = "{SECRET}" }} }} }}"#)
}

fn vault_setup(bao: &Openbao, arguments: &[&str]) -> String {
    let authority = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(authority.path(), bao.tls_pem()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/vault-setup");
    let mut command = Command::new(script);
    command.args(arguments).env("VAULT_ADDR", bao.url()).env("VAULT_TOKEN", bao.root_token());
    must(command.env("VAULT_CACERT", authority.path()).env_remove("VAULT_NAMESPACE"))
}

fn token(bao: &Openbao, host: &Host, login: &str) -> String {
    let role_id = login.split('"').nth(1).unwrap();
    let ask = json!({"role_id": role_id, "secret_id": host.read(SECRET)});
    let (_, answer) = bao.ask(Method::POST, "auth/approle/login", None, &ask);
    match &answer["auth"]["client_token"] {
        Value::String(token) => token.clone(),
        _ => panic!("no login: {answer}"),
    }
}

// --- openssl ---

fn verifies(host: &Host, certificate: &str, trust: &str, purpose: &str) -> bool {
    let mut command = Command::new("openssl");
    command.args(["verify", "-x509_strict", "-purpose", purpose, "-CAfile"]).arg(host.path(trust));
    ended(command.arg("-untrusted").arg(host.path(certificate)).arg(host.path(certificate))).status.success()
}

fn csr(subject: &str, names: &str) -> String {
    let mut command = Command::new("openssl");
    command.args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
    command.args(["-keyout", "/dev/null", "-subj", subject]);
    if !names.is_empty() {
        command.args(["-addext", &format!("subjectAltName={names}")]);
    }
    must(&mut command)
}

fn set(list: &[String]) -> BTreeSet<String> {
    list.iter().cloned().collect()
}
