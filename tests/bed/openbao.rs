//! A real OpenBao: one raft node behind TLS on loopback, initialised, unsealed and served by the static
//! binary itself, with PKI mounts and logins made over its HTTP API as an administrator would.

use super::process::{Daemon, must};
use super::x509::Authority;
use super::{eventually, free_port, provided};
use reqwest::{Method, StatusCode};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// What every listener's certificate is for besides loopback; no resolver knows it.
pub(crate) const NAME: &str = "vault.chaos.test";

/// A running server. Killed when dropped.
pub(crate) struct Openbao {
    daemon: Daemon,
    directory: TempDir,
    port: u16,
    authority: Arc<Authority>,
    http: reqwest::Client,
    root_token: String,
    unseal_key: String,
}

impl Openbao {
    /// A new server with empty storage, unsealed and active.
    pub(crate) fn start() -> Self {
        let mut server = Self::boot(Arc::new(Authority::new("OpenBao listener")), "bed");
        server.initialise();
        server.unseal();
        server
    }

    /// Three nodes of one raft; the first is the leader.
    pub(crate) fn raft() -> [Self; 3] {
        let first = Self::start();
        // A node that joins has no vote before it was stable for ten seconds.
        let autopilot = json!({"server_stabilization_time": "1s"});
        first.admin(Method::POST, "sys/storage/raft/autopilot/configuration", &autopilot);
        let others = ["second", "third"].map(|name| {
            let mut node = Self::boot(first.authority.clone(), name);
            (node.root_token, node.unseal_key) = (first.root_token.clone(), first.unseal_key.clone());
            let leader = json!({"leader_api_addr": first.url(), "leader_ca_cert": first.tls_pem()});
            let (status, body) = node.ask(Method::PUT, "sys/storage/raft/join", None, &leader);
            assert!(status.is_success(), "join: {status} {body}");
            node.unseal_one_of_three();
            node
        });
        let [second, third] = others;
        eventually("three nodes that vote", || {
            let raft = first.admin(Method::GET, "sys/storage/raft/configuration", &json!(null));
            let servers = raft["data"]["config"]["servers"].as_array().cloned().unwrap_or_default();
            match servers.iter().filter(|server| server["voter"] == true).count() {
                3 => Ok(()),
                votes => Err(format!("{votes} vote")),
            }
        });
        [first, second, third]
    }

    /// A server that answers and is neither initialised nor unsealed.
    fn boot(authority: Arc<Authority>, name: &str) -> Self {
        let (directory, port) = (TempDir::new().unwrap(), free_port());
        configure(directory.path(), name, port);
        show(directory.path(), &authority);
        let daemon = serve(directory.path());
        let http = client(&authority);
        let (root_token, unseal_key) = (String::new(), String::new());
        let mut server = Self { daemon, directory, port, authority, http, root_token, unseal_key };
        server.wait_until_it_answers();
        server
    }

    /// Starts again what was stopped, with the storage that it had; it is sealed then.
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.daemon = serve(self.directory.path());
        self.wait_until_it_answers();
    }

    /// Replaces the certificate of the listener by one of this authority, without a restart.
    pub(crate) fn show(&self, authority: &Authority) {
        show(self.directory.path(), authority);
        must(Command::new("kill").args(["-HUP", &self.daemon.pid().to_string()]));
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.try_ask(Method::GET, "sys/seal-status", None, &json!(null))
            .is_ok_and(|(_, body)| body["sealed"] == true)
    }

    /// Whether this node is the one that signs.
    pub(crate) fn is_active(&self) -> bool {
        matches!(self.try_ask(Method::GET, "sys/health", None, &json!(null)), Ok((StatusCode::OK, _)))
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The certificate of the authority that signed the listener's certificate.
    pub(crate) fn tls_pem(&self) -> String {
        self.authority.pem()
    }

    pub(crate) fn root_token(&self) -> &str {
        &self.root_token
    }

    pub(crate) fn seal(&self) {
        self.admin(Method::PUT, "sys/seal", &json!({}));
    }

    /// Returns when the node is active again.
    pub(crate) fn unseal(&self) {
        self.unseal_until("sys/health");
    }

    /// Returns when the node is a standby again, or active.
    pub(crate) fn unseal_one_of_three(&self) {
        self.unseal_until("sys/health?standbyok=true");
    }

    /// 200 from the health page is: initialised, unsealed, active.
    fn unseal_until(&self, page: &str) {
        let (status, body) = self.ask(Method::PUT, "sys/unseal", None, &json!({"key": self.unseal_key}));
        assert!(status.is_success(), "unseal: {status} {body}");
        eventually("an unsealed OpenBao", || match self.try_ask(Method::GET, page, None, &json!(null)) {
            Ok((StatusCode::OK, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }

    /// Ends the server for good; its port stays known.
    pub(crate) fn stop(&mut self) {
        self.daemon.kill();
    }

    /// Ends the server here, and gives what a guest needs to run it as it is: options for its systemd-nspawn and a unit,
    /// which unseals it too.
    pub(crate) fn moved(&mut self) -> ([String; 2], String) {
        self.stop();
        let (directory, program) = (self.directory.path().display(), provided("NODECERT_TEST_BAO"));
        let binds = [format!("--bind={directory}"), format!("--bind-ro={}:/opt/bao", program.display())];
        let unseal = format!(
            "/opt/bao operator unseal -address={} -ca-cert=/etc/nodecert/vault-ca.pem {}",
            self.url(),
            self.unseal_key
        );
        let unit = format!(
            "[Service]\nType=exec\nEnvironment=HOME=/root\nExecStart=/opt/bao server -config={directory}/bao.hcl\n\
             ExecStartPost=/bin/sh -c 'until {unseal}; do sleep 0.2; done'\n"
        );
        (binds, unit)
    }

    /// Calls the API with the root token; the body of the answer, which has to be a success.
    pub(crate) fn admin(&self, method: Method, path: &str, body: &Value) -> Value {
        let (status, answer) = self.ask(method, path, Some(&self.root_token), body);
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }

    /// Calls the API with a token or none; whatever it answers.
    pub(crate) fn ask(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: &Value,
    ) -> (StatusCode, Value) {
        self.try_ask(method, path, token, body)
            .unwrap_or_else(|e| panic!("{path}: {e}\n{}", self.daemon.log()))
    }

    /// User and system time of the server so far.
    pub(crate) fn cpu(&self) -> Duration {
        self.daemon.cpu()
    }

    /// How many tokens exist: a run that revokes its own leaves the number as it was.
    pub(crate) fn tokens(&self) -> usize {
        let list = Method::from_bytes(b"LIST").unwrap();
        self.admin(list, "auth/token/accessors", &json!(null))["data"]["keys"].as_array().unwrap().len()
    }

    /// How many certificates a mount has signed.
    pub(crate) fn certificates(&self, mount: &str) -> usize {
        let list = Method::from_bytes(b"LIST").unwrap();
        let listed = self.admin(list, &format!("{mount}/certs"), &json!(null));
        listed["data"]["keys"].as_array().unwrap().len()
    }

    /// A token with `policy` that no one has to log in for.
    pub(crate) fn token(&self, policy: &str) -> String {
        let made = self.admin(Method::POST, "auth/token/create", &json!({"policies": [policy], "ttl": "1h"}));
        text(&made["auth"]["client_token"])
    }

    /// A root and an intermediate mount, `NAME/root/pki` and `NAME/prod/pki`, a policy that may sign there
    /// and nothing else, and an AppRole with that policy.
    pub(crate) fn pki(&self, name: &str) -> Pki<'_> {
        let (root, mount) = (format!("{name}/root/pki"), format!("{name}/prod/pki"));
        let root_pem = self.root(&root, name);
        let intermediate_pem = self.intermediate(&root, &mount, name);
        let role_id = self.login(name, &mount);
        Pki { server: self, name: name.to_owned(), mount, root_pem, intermediate_pem, role_id }
    }

    /// The same with one mount, `NAME/prod/pki`, whose root signs.
    pub(crate) fn root_pki(&self, name: &str) -> Pki<'_> {
        let mount = format!("{name}/prod/pki");
        let root_pem = self.root(&mount, name);
        let role_id = self.login(name, &mount);
        Pki {
            server: self,
            name: name.to_owned(),
            mount,
            intermediate_pem: root_pem.clone(),
            root_pem,
            role_id,
        }
    }

    fn root(&self, mount: &str, name: &str) -> String {
        self.mount(mount);
        let ask = json!({"common_name": format!("{name} root"), "ttl": "87600h", "key_type": "ec", "key_bits": 256});
        text(
            &self.admin(Method::POST, &format!("{mount}/root/generate/internal"), &ask)["data"]["certificate"],
        )
    }

    /// Signed by the root mount and set together with its issuer, without which the `ca_chain` of every
    /// answer would lack the root.
    fn intermediate(&self, root: &str, mount: &str, name: &str) -> String {
        self.mount(mount);
        let ask = json!({"common_name": format!("{name} intermediate"), "key_type": "ec", "key_bits": 256});
        let csr = self.admin(Method::POST, &format!("{mount}/intermediate/generate/internal"), &ask);
        let ask = json!({"csr": csr["data"]["csr"], "common_name": format!("{name} intermediate"), "ttl": "43800h"});
        let signed = self.admin(Method::POST, &format!("{root}/root/sign-intermediate"), &ask);
        let (own, issuer) = (text(&signed["data"]["certificate"]), text(&signed["data"]["issuing_ca"]));
        let both = json!({"certificate": format!("{own}\n{issuer}")});
        self.admin(Method::POST, &format!("{mount}/intermediate/set-signed"), &both);
        own
    }

    fn mount(&self, path: &str) {
        let pki = json!({"type": "pki", "config": {"max_lease_ttl": "87600h"}});
        self.admin(Method::POST, &format!("sys/mounts/{path}"), &pki);
    }

    /// The policy `NAME-sign` and the AppRole `NAME`; the role_id.
    fn login(&self, name: &str, mount: &str) -> String {
        let policy = format!("path \"{mount}/sign/*\" {{\n  capabilities = [\"update\"]\n}}\n");
        self.admin(Method::PUT, &format!("sys/policies/acl/{name}-sign"), &json!({"policy": policy}));
        let (_, methods) = self.ask(Method::GET, "sys/auth", Some(&self.root_token), &json!(null));
        if methods["data"]["approle/"].is_null() {
            self.admin(Method::POST, "sys/auth/approle", &json!({"type": "approle"}));
        }
        let role =
            json!({"token_policies": [format!("{name}-sign")], "token_ttl": "5m", "token_max_ttl": "10m"});
        self.admin(Method::POST, &format!("auth/approle/role/{name}"), &role);
        let read = self.admin(Method::GET, &format!("auth/approle/role/{name}/role-id"), &json!(null));
        text(&read["data"]["role_id"])
    }

    fn initialise(&mut self) {
        let ask = json!({"secret_shares": 1, "secret_threshold": 1});
        let (status, made) = self.ask(Method::PUT, "sys/init", None, &ask);
        assert!(status.is_success(), "init: {status} {made}");
        self.root_token = text(&made["root_token"]);
        self.unseal_key = text(&made["keys_base64"][0]);
    }

    fn wait_until_it_answers(&mut self) {
        eventually("an OpenBao that answers", || {
            self.daemon.must_live();
            self.try_ask(Method::GET, "sys/seal-status", None, &json!(null)).map(drop)
        });
    }

    fn try_ask(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: &Value,
    ) -> Result<(StatusCode, Value), String> {
        self.wrapped_ask(method, path, token, body, None)
    }

    /// With `wrap`, a time to live, the answer comes as a single-use wrapping token.
    fn wrapped_ask(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: &Value,
        wrap: Option<&str>,
    ) -> Result<(StatusCode, Value), String> {
        let mut request = self.http.request(method, format!("{}/v1/{path}", self.url()));
        if let Some(token) = token {
            request = request.header("X-Vault-Token", token);
        }
        if let Some(ttl) = wrap {
            request = request.header("X-Vault-Wrap-TTL", ttl);
        }
        if !body.is_null() {
            request = request.json(body);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let answer = request.send().await.map_err(|e| format!("{e:?}"))?;
            let status = answer.status();
            let bytes = answer.bytes().await.map_err(|e| format!("{e:?}"))?;
            Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
        })
    }
}

/// A PKI of a server: a root and the intermediate below it that signs.
pub(crate) struct Pki<'a> {
    server: &'a Openbao,
    name: String,
    /// Where the intermediate is mounted: `etcd/prod/pki`.
    pub(crate) mount: String,
    pub(crate) root_pem: String,
    pub(crate) intermediate_pem: String,
    /// Of the AppRole that may sign here.
    pub(crate) role_id: String,
}

/// A way to log in, as the `auth` ladder of a configuration writes it.
pub(crate) enum Login {
    /// AppRole with a secret_id in the file.
    AppRole { role_id: String, file: &'static str },
    /// AppRole with a response-wrapped secret_id in the file.
    Wrapped { role_id: String, file: &'static str },
    /// A token in the file.
    Token { file: &'static str },
}

impl Login {
    pub(crate) fn toml(&self) -> String {
        let approle = |role_id: &str, file: &str, wrapped: &str| {
            format!(
                "{{ approle = {{ role_id = \"{role_id}\", secret_id = {{ file = \"{file}\" }}{wrapped} }} }}"
            )
        };
        match self {
            Self::AppRole { role_id, file } => approle(role_id, file, ""),
            Self::Wrapped { role_id, file } => approle(role_id, file, ", wrapped = true"),
            Self::Token { file } => format!("{{ token = {{ file = \"{file}\" }} }}"),
        }
    }
}

impl Pki<'_> {
    /// Makes or replaces a role: any name and address, both usages, any key, and then `changes`.
    pub(crate) fn role(&self, name: &str, changes: &Value) {
        let mut role = json!({
            "allow_any_name": true, "enforce_hostnames": false, "cn_validations": ["disabled"],
            "allow_ip_sans": true, "server_flag": true, "client_flag": true, "key_type": "any",
            "ttl": "720h", "max_ttl": "720h",
        });
        role.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        self.server.admin(Method::POST, &format!("{}/roles/{name}", self.mount), &role);
    }

    /// How many certificates this mount has signed. Where there is none, the list is not found.
    pub(crate) fn signed(&self) -> usize {
        let (list, path) = (Method::from_bytes(b"LIST").unwrap(), format!("{}/certs", self.mount));
        let (_, there) = self.server.ask(list, &path, Some(&self.server.root_token), &json!(null));
        there["data"]["keys"].as_array().map_or(0, Vec::len)
    }

    /// The policy that may sign here and nothing else.
    pub(crate) fn policy(&self) -> String {
        format!("{}-sign", self.name)
    }

    /// A new secret_id of the AppRole.
    pub(crate) fn secret_id(&self) -> String {
        let made = self.server.admin(Method::POST, &self.secret_id_path(), &json!({}));
        text(&made["data"]["secret_id"])
    }

    /// A wrapping token that holds a new secret_id and can be unwrapped once.
    pub(crate) fn wrapped_secret_id(&self) -> String {
        self.wrapped(&self.secret_id_path(), &json!({}))
    }

    /// A wrapping token that holds a secret_id but was made by `sys/wrapping/wrap`, which every token may
    /// call: what someone who stole the real one would put in its place.
    pub(crate) fn forged_wrapped_secret_id(&self) -> String {
        self.wrapped("sys/wrapping/wrap", &json!({"secret_id": self.secret_id()}))
    }

    /// Whether a wrapping token can still be unwrapped.
    pub(crate) fn still_wrapped(&self, token: &str) -> bool {
        let (status, _) = self.server.ask(Method::PUT, "sys/wrapping/lookup", None, &json!({"token": token}));
        status.is_success()
    }

    /// Unwraps a wrapping token as another holder of it would.
    pub(crate) fn unwrap(&self, token: &str) -> String {
        let (status, answer) = self.server.ask(Method::PUT, "sys/wrapping/unwrap", Some(token), &json!(null));
        assert!(status.is_success(), "unwrap: {status} {answer}");
        text(&answer["data"]["secret_id"])
    }

    /// Whether the AppRole lets this secret_id in.
    pub(crate) fn admits(&self, secret_id: &str) -> bool {
        let ask = json!({"role_id": self.role_id, "secret_id": secret_id});
        self.server.ask(Method::POST, "auth/approle/login", None, &ask).0.is_success()
    }

    /// Signs a CSR the way a node does: logs in with the AppRole, then asks the role.
    pub(crate) fn sign(&self, role: &str, csr: &str) -> (StatusCode, Value) {
        let ask = json!({"role_id": self.role_id, "secret_id": self.secret_id()});
        let (_, login) = self.server.ask(Method::POST, "auth/approle/login", None, &ask);
        let token = text(&login["auth"]["client_token"]);
        self.server.ask(
            Method::POST,
            &format!("{}/sign/{role}", self.mount),
            Some(&token),
            &json!({"csr": csr}),
        )
    }

    fn secret_id_path(&self) -> String {
        format!("auth/approle/role/{}/secret-id", self.name)
    }

    fn wrapped(&self, path: &str, body: &Value) -> String {
        let token = Some(self.server.root_token());
        let (status, answer) = self.server.wrapped_ask(Method::POST, path, token, body, Some("10m")).unwrap();
        assert!(status.is_success(), "{path}: {status} {answer}");
        text(&answer["wrap_info"]["token"])
    }
}

fn serve(directory: &Path) -> Daemon {
    let program = provided("NODECERT_TEST_BAO");
    let configuration = format!("-config={}", directory.join("bao.hcl").display());
    Daemon::start(None, &[program.to_str().unwrap(), "server", &configuration], &directory.join("bao.log"))
}

/// Puts the certificate there that the listener shows.
fn show(directory: &Path, authority: &Authority) {
    // The middle two: as guests reach it, through a gate.
    let listener = authority.issue(&["127.0.0.1", "localhost", "10.99.0.1", "vault.example.com", NAME]);
    std::fs::write(directory.join("listener.crt"), listener.certificate).unwrap();
    std::fs::write(directory.join("listener.key"), listener.key).unwrap();
}

fn configure(directory: &Path, name: &str, port: u16) {
    let at = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(at("raft")).unwrap();
    let text = configuration(name, &at("raft"), &at("listener.crt"), &at("listener.key"), port);
    std::fs::write(at("bao.hcl"), text).unwrap();
}

/// `performance_multiplier = 1`: a single node then elects itself in one second instead of seven.
fn configuration(name: &str, storage: &str, certificate: &str, key: &str, port: u16) -> String {
    let cluster = free_port();
    format!(
        r#"storage "raft" {{
  path = "{storage}"
  node_id = "{name}"
  performance_multiplier = "1"
}}
listener "tcp" {{
  address = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{cluster}"
  tls_cert_file = "{certificate}"
  tls_key_file = "{key}"
}}
api_addr = "https://127.0.0.1:{port}"
cluster_addr = "https://127.0.0.1:{cluster}"
"#
    )
}

/// An administrator's client that trusts the listener's authority and nothing else.
fn client(authority: &Authority) -> reqwest::Client {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    // A session that goes on would not look at a certificate that was replaced.
    tls.resumption = rustls::client::Resumption::disabled();
    // Each call runs on a runtime of its own, which takes its connections with it: keep none.
    let builder =
        reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().pool_max_idle_per_host(0);
    builder.timeout(Duration::from_secs(30)).build().unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a string: {value}")).to_owned()
}
