//! As root these check owners too, by the numbers of a passwd file of the test's own.

mod commit;
mod held;
mod kept;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls_pki_types::CertificateDer;
use tempfile::TempDir;

use super::*;
use crate::bundle::{Bundle, Pair};
use crate::certificate::{Certificate, Layout, Place};
use crate::identity::{Identity, KeyKind, Usage};
use crate::key::{Dialect, Key, Pending, purpose};
use crate::plan::Held;
use crate::setting::{Mode, Name, Secret, SecretSource};
use crate::trust::Anchors;

fn prove_writable(root: &Root, certificate: &Certificate, adopted: bool) -> Result<(), DiskError> {
    super::prove_writable(root, certificate, adopted)?.finish()
}

fn keep_pending(root: &Root, name: &Name, pending: &Pending) -> Result<(), DiskError> {
    super::keep_pending(root, name, pending)?.settle()
}

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// 2026-11-23T10:15:00Z
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_428_900)
}

struct Site {
    temp: TempDir,
    root: Root,
}

fn site() -> Site {
    let temp = TempDir::new().unwrap();
    fs::create_dir(temp.path().join("etc")).unwrap();
    // Whatever the umask: root does not write where others can.
    fs::set_permissions(temp.path().join("etc"), PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(temp.path().join("etc/passwd"), "root:x:0:0::/:\netcd:x:4242:4343::/:/bin/false\n").unwrap();
    fs::write(temp.path().join("etc/group"), "root:x:0:\npki:x:4444:etcd\n").unwrap();
    Site { root: Root::open(temp.path()).unwrap(), temp }
}

impl Site {
    fn path(&self, path: &str) -> PathBuf {
        self.temp.path().join(path)
    }

    fn write(&self, path: &str, content: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), content).unwrap();
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    fn mode(&self, path: &str) -> u32 {
        fs::symlink_metadata(self.path(path)).unwrap().permissions().mode() & 0o7777
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(dir)).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn link(&self, path: &str) -> String {
        fs::read_link(self.path(path)).unwrap().to_str().unwrap().to_owned()
    }

    /// Path, type, mode, size and time of everything, to see that nothing was touched.
    fn picture(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut open = vec![self.temp.path().to_owned()];
        while let Some(path) = open.pop() {
            let meta = fs::symlink_metadata(&path).unwrap();
            lines.push(format!("{path:?} {:o} {} {}", meta.mode(), meta.ino(), meta.ctime_nsec()));
            if meta.is_dir() {
                open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        lines.sort();
        lines
    }
}

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    anchors: Anchors,
}

fn ca(name: &str) -> Ca {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params.not_before, params.not_after) = ((now() - DAY).into(), (now() + 1000 * DAY).into());
    let cert = params.self_signed(&key).unwrap();
    let anchors = Anchors::new(vec![cert.der().clone()]).unwrap();
    Ca { issuer: Issuer::new(params, key), anchors }
}

impl Ca {
    fn bundle(&self) -> Bundle {
        let key = Arc::new(Key::generate(KeyKind::P256).unwrap());
        let mut params = CertificateParams::new(vec!["node01".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "node01");
        params.extended_key_usages = vec![purpose(Usage::Server), purpose(Usage::Client)];
        (params.not_before, params.not_after) = ((now() - DAY).into(), (now() + 30 * DAY).into());
        let leaf = params.signed_by(key.signer(), &self.issuer).unwrap();
        let chain: Vec<CertificateDer<'static>> = vec![leaf.der().clone()];
        let pair = Pair::new(key, chain).unwrap();
        Bundle::judge(pair, &identity(), &self.anchors, now()).unwrap()
    }
}

fn identity() -> Identity {
    Identity {
        common_name: "node01".into(),
        organization: None,
        dns: ["node01".to_owned()].into(),
        ips: [].into(),
        uris: [].into(),
        usages: [Usage::Server, Usage::Client].into(),
        exact_usages: true,
        key: KeyKind::P256,
        ttl: None,
    }
}

fn certificate() -> Certificate {
    Certificate {
        name: Name::new("etcd-server").unwrap(),
        ca: Name::new("etcd").unwrap(),
        trusts: vec![Name::new("etcd").unwrap()],
        role: None,
        identity: identity(),
        certname: None,
        crl: None,
        ssldir: None,
        rotate_key: true,
        renew_at: 0.66,
        interval: crate::certificate::INTERVAL,
        place_in_turn: None,
        backdated: Duration::ZERO,
        place: Place {
            directory: "/etc/etcd/pki".into(),
            cert: "server.crt".into(),
            key: "server.key".into(),
            chain: None,
            combined: None,
            layout: Layout::Links,
            owner: Owner::default(),
            key_mode: Mode(0o600),
            cert_mode: Mode(0o644),
            replace: false,
        },
        trust: None,
        hooks: Vec::new(),
    }
}

fn held_fingerprint(site: &Site, certificate: &Certificate) -> String {
    match held(&site.root, certificate).unwrap() {
        Held::Pair(pair) => pair.leaf().fingerprint.to_string(),
        other => panic!("no pair: {other:?}"),
    }
}

const OWN: &str = "etc/etcd/pki/.nodecert/etcd-server";
