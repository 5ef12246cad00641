//! nodecert against a real `cfssl serve`: authsign with the right and a wrong key, profiles, and what it
//! cannot sign.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod bed;

use bed::{Authority, Daemon, Host, blocks, eventually, free_port, inspect, must};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const KEY: &str = "/var/lib/nodecert/secrets/cfssl";
const AUTH_KEY: &str = "0123456789abcdef0123456789abcdef";

/// A running cfssl behind TLS. Killed when dropped.
struct Cfssl {
    _daemon: Daemon,
    directory: TempDir,
    listener: Authority,
    port: u16,
}

impl Cfssl {
    fn start() -> Self {
        Self::serve(|directory, port| {
            let at = |name: &str| directory.join(name).to_str().unwrap().to_owned();
            let argv = [
                "cfssl",
                "serve",
                "-address",
                "127.0.0.1",
                "-port",
                &port.to_string(),
                "-ca",
                &at("ca.pem"),
                "-ca-key",
                &at("ca-key.pem"),
                "-config",
                &at("config.json"),
            ];
            argv.map(str::to_owned).to_vec()
        })
    }

    /// Two signers, told apart by label; `blue` is the one that `ca.pem` is of.
    fn with_labels() -> Self {
        Self::serve(|directory, port| {
            let other = directory.join("other");
            std::fs::create_dir(&other).unwrap();
            authority(&other);
            let root = |label: &str, of: &Path| {
                let (of, config) = (of.display(), directory.join("config.json"));
                let config = config.display();
                format!(
                    "[{label}]\nprivate = file://{of}/ca-key.pem\ncertificate = {of}/ca.pem\nconfig = {config}\n"
                )
            };
            let roots = directory.join("roots.conf");
            std::fs::write(&roots, root("red", &other) + &root("blue", directory)).unwrap();
            let address = format!("127.0.0.1:{port}");
            ["multirootca", "-a", &address, "-l", "red", "-roots", roots.to_str().unwrap()]
                .map(str::to_owned)
                .to_vec()
        })
    }

    fn serve(argv: impl Fn(&Path, u16) -> Vec<String>) -> Self {
        let (directory, listener, port) = (TempDir::new().unwrap(), Authority::new("listener"), free_port());
        let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let server = listener.issue(&["127.0.0.1"]);
        std::fs::write(at("tls.pem"), server.certificate).unwrap();
        std::fs::write(at("tls.key"), server.key).unwrap();
        authority(directory.path());
        std::fs::write(at("config.json"), config()).unwrap();
        let mut argv = argv(directory.path(), port);
        argv.extend(["-tls-cert".to_owned(), at("tls.pem"), "-tls-key".to_owned(), at("tls.key")]);
        let argv: Vec<_> = argv.iter().map(String::as_str).collect();
        let daemon = Daemon::start(None, &argv, &directory.path().join("log"));
        eventually("cfssl", || TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string()));
        Self { _daemon: daemon, directory, listener, port }
    }

    fn ca_pem(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("ca.pem")).unwrap()
    }

    fn host(&self, profile: &str, key: &str, more: &str) -> Host {
        let host = Host::new();
        host.write("/etc/nodecert/cfssl-tls.pem", &self.listener.pem());
        host.write_secret(KEY, key);
        host.configure(&format!(
            r#"
[node]
hostname = "node01"
domain = "example.com"
addresses = ["10.99.0.11"]
[ca.lab]
tls.file = "/etc/nodecert/cfssl-tls.pem"
anchors.published = true
[ca.lab.cfssl]
urls = ["https://127.0.0.1:{}"]
key = {{ file = "{KEY}" }}
profile = "{profile}"
[certificate.web]
ca = "lab"
common_name = "{{{{ fqdn }}}}"
organization = ["ops"]
dns = ["{{{{ fqdn }}}}"]
ips = ["{{{{ addresses }}}}"]
directory = "/etc/web/pki"
{more}
"#,
            self.port
        ));
        host
    }
}

/// That of the README, with a profile for servers alone.
fn config() -> String {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let block = readme.split("```json\n").find(|block| block.contains("auth_keys")).expect("cfssl's own");
    let mut config: serde_json::Value = serde_json::from_str(block.split("```").next().unwrap()).unwrap();
    assert_eq!(config["auth_keys"]["host"]["key"], AUTH_KEY);
    config["signing"]["profiles"]["server"] = config["signing"]["default"].clone();
    config.to_string()
}

/// `ca.pem` and `ca-key.pem`, as `openssl` makes them.
fn authority(directory: &Path) {
    let mut command = Command::new("openssl");
    command.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "30",
    ]);
    command.args(["-subj", "/CN=lab CA", "-keyout"]).arg(directory.join("ca-key.sec8"));
    must(command.arg("-out").arg(directory.join("ca.pem")));
    // cfssl 1.2.0 reads no PKCS #8.
    let mut command = Command::new("openssl");
    command.args(["ec", "-in"]).arg(directory.join("ca-key.sec8"));
    must(command.arg("-out").arg(directory.join("ca-key.pem")));
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_certificate_is_signed_with_its_names_and_organization() {
    let cfssl = Cfssl::start();
    let host = cfssl.host("etcd", AUTH_KEY, "");
    host.nodecert("run").exits(0).keeps_secret(&[AUTH_KEY]);
    let leaf = inspect(&host.path("/etc/web/pki/web.crt"));
    assert_eq!((leaf.subject.as_str(), leaf.ips.len()), ("CN=node01.example.com,O=ops", 1), "{leaf:?}");
    assert_eq!(blocks(&host.read("/etc/web/pki/ca.crt")), blocks(&cfssl.ca_pem()));
    let mut verify = Command::new("openssl");
    verify.args(["verify", "-no-CApath", "-no-CAstore", "-CAfile"]).arg(host.path("/etc/web/pki/ca.crt"));
    must(verify.arg(host.path("/etc/web/pki/web.crt")));
    host.nodecert("run").exits(0).says("nothing to do");
    host.nodecert("run --force").exits(0);
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_wrong_key_is_refused_and_one_that_is_no_key_is_a_fault_of_this_host() {
    let cfssl = Cfssl::start();
    let host = cfssl.host("etcd", "ffffffffffffffffffffffffffffffff", "");
    host.nodecert("run").exits(77).says("invalid token").says("auth key");
    cfssl.host("etcd", "no hexadecimal", "").nodecert("run").exits(70).says("not hexadecimal");
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn an_unknown_profile_or_one_that_gives_other_usages_is_refused() {
    let cfssl = Cfssl::start();
    // cfssl takes its default profile for one that it does not know, and says nothing.
    cfssl.host("nowhere", AUTH_KEY, "").nodecert("run").exits(77).says("client").says("`usages`");
    cfssl.host("server", AUTH_KEY, "").nodecert("run").exits(77).says("client").says("`usages`");
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_certificate_may_name_a_profile_of_its_own() {
    let cfssl = Cfssl::start();
    cfssl.host("server", AUTH_KEY, "role = \"etcd\"").nodecert("run").exits(0);
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn what_cfssl_drops_is_refused_before_it_is_asked() {
    let cfssl = Cfssl::start();
    let by_uri = cfssl.host("etcd", AUTH_KEY, "uris = [\"spiffe://example.com/node01\"]");
    by_uri.nodecert("run").exits(78).says("drops URIs");
    cfssl.host("etcd", AUTH_KEY, "key = \"ed25519\"").nodecert("run").exits(78).says("Ed25519");
}

#[test]
#[ignore = "needs servers: run tests/all"]
fn of_several_signers_the_labelled_one_signs() {
    let cfssl = Cfssl::with_labels();
    let labelled = |label: &str| {
        let host = cfssl.host("etcd", AUTH_KEY, "");
        let config = host.read("/etc/nodecert/config.toml");
        host.configure(&config.replace("profile = ", &format!("label = \"{label}\"\nprofile = ")));
        host
    };
    let host = labelled("blue");
    host.nodecert("run").exits(0);
    assert_eq!(blocks(&host.read("/etc/web/pki/ca.crt")), blocks(&cfssl.ca_pem()));
    labelled("green").nodecert("run").exits(77).says("`label`");
}
