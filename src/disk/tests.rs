//! As root these check owners too, by the numbers of a passwd file of the test's own.

use crate::plan::Held;
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

#[test]
fn a_pair_is_here_since_it_was_put_in_force_or_written() {
    let (ca, mut certificate) = (ca("ca"), certificate());
    for layout in [Layout::Links, Layout::Files] {
        let site = site();
        certificate.place.layout = layout;
        commit(&site.root, &certificate, &ca.bundle(), now()).unwrap();
        let written = now() + Duration::from_secs(7);
        let cert = File::options().write(true).open(site.path("etc/etcd/pki/server.crt")).unwrap();
        cert.set_modified(written).unwrap();
        let Held::Pair(pair) = held(&site.root, &certificate).unwrap() else { panic!("no pair") };
        let expected = if layout == Layout::Links { now() } else { written };
        assert_eq!(pair.since(), Some(expected), "{layout:?}");
    }
}

#[test]
fn a_commit_has_the_documented_layout() {
    let site = site();
    let (ca, mut certificate) = (ca("ca"), certificate());
    certificate.place.owner = Owner { user: Some("etcd".into()), group: Some("pki".into()) };
    certificate.place.key_mode = Mode(0o640);
    certificate.place.combined = Some("server.pem".into());
    certificate.place.chain = Some("chain.crt".into());
    let bundle = ca.bundle();
    assert!(matches!(held(&site.root, &certificate).unwrap(), Held::Absent));
    prove_writable(&site.root, &certificate, false).unwrap();
    commit(&site.root, &certificate, &bundle, now()).unwrap();

    assert_eq!(
        site.names("etc/etcd/pki"),
        [".nodecert", "chain.crt", "server.crt", "server.key", "server.pem"]
    );
    assert_eq!(site.link("etc/etcd/pki/server.key"), ".nodecert/etcd-server/current/server.key");
    assert_eq!(site.link(&format!("{OWN}/current")), "20261123T101500Z-1");
    assert_eq!(site.names(OWN), ["20261123T101500Z-1", "current"]);
    let generation = format!("{OWN}/20261123T101500Z-1");
    assert_eq!(site.names(&generation), ["chain.crt", "server.crt", "server.key", "server.pem"]);
    for (path, mode) in [
        ("etc/etcd", 0o755),
        ("etc/etcd/pki", 0o755),
        ("etc/etcd/pki/.nodecert", 0o755),
        (OWN, 0o755),
        (&generation, 0o755),
        (&format!("{generation}/server.key"), 0o640),
        (&format!("{generation}/server.pem"), 0o640),
        (&format!("{generation}/server.crt"), 0o644),
        (&format!("{generation}/chain.crt"), 0o644),
    ] {
        assert_eq!(site.mode(path), mode, "{path}");
    }
    let meta = fs::metadata(site.path("etc/etcd/pki/server.key")).unwrap();
    if nix::unistd::geteuid().is_root() {
        assert_eq!((meta.uid(), meta.gid()), (4242, 4444));
    } else {
        assert!(matches!(site.root.owners(), crate::root::Owners::LeftAlone(_)));
    }
    let key = bundle.pair().key().pem();
    assert_eq!(site.text("etc/etcd/pki/server.key"), key);
    assert_eq!(site.text("etc/etcd/pki/server.pem"), format!("{key}{}", bundle.pair().cert_pem()));
    assert_eq!(held_fingerprint(&site, &certificate), bundle.leaf().fingerprint.to_string());
    assert_eq!(drift(&site.root, &certificate, &bundle, now()).unwrap(), [""; 0]);
    let before = site.picture();
    assert_eq!(repair(&site.root, &certificate, &bundle, now()).unwrap(), [""; 0]);
    assert_eq!(site.picture(), before, "a repair of what is well touches nothing");
}

#[test]
fn the_umask_does_not_matter_to_modes() {
    // In a process of its own: the umask is the whole process's.
    let name = "disk::tests::a_commit_has_the_documented_layout";
    for umask in ["0000", "0377"] {
        let run = std::process::Command::new("sh")
            .args(["-c", "umask \"$1\" && exec \"$2\" --exact \"$3\"", "sh", umask])
            .arg(std::env::current_exe().unwrap())
            .arg(name)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stdout);
        // tempfile and the fixture need their own directories usable, which root is not bothered by.
        let usable = umask == "0000" || nix::unistd::geteuid().is_root();
        assert!(!usable || (run.status.success() && said.contains("1 passed")), "umask {umask}: {said}");
    }
}

#[test]
fn a_second_commit_swaps_and_keeps_the_old_generation_for_ten_minutes() {
    let site = site();
    let (ca, certificate) = (ca("ca"), certificate());
    let (first, second, third) = (ca.bundle(), ca.bundle(), ca.bundle());
    commit(&site.root, &certificate, &first, now()).unwrap();
    let late = now() + 20 * DAY;
    commit(&site.root, &certificate, &second, late).unwrap();
    assert_eq!(site.names(OWN), ["20261123T101500Z-1", "20261213T101500Z-1", "current"]);
    assert_eq!(held_fingerprint(&site, &certificate), second.leaf().fingerprint.to_string());

    let soon = late + 9 * MINUTE;
    assert_eq!(drift(&site.root, &certificate, &second, soon).unwrap(), [""; 0]);
    commit(&site.root, &certificate, &third, soon).unwrap();
    assert_eq!(site.names(OWN).len(), 4, "nothing is pruned while a reader may be late");

    let later = soon + 11 * MINUTE;
    let lines = drift(&site.root, &certificate, &third, later).unwrap();
    assert!(lines.len() == 2 && lines.iter().all(|line| line.contains("no longer used")), "{lines:?}");
    assert_eq!(repair(&site.root, &certificate, &third, later).unwrap(), lines);
    assert_eq!(site.names(OWN), ["20261213T102400Z-1", "current"]);
    assert_eq!(drift(&site.root, &certificate, &third, later).unwrap(), [""; 0]);
}

#[test]
fn who_watches_a_fixed_name_is_told_when_it_leads_elsewhere() {
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
    let (site, certificate, ca) = (site(), certificate(), ca("etcd"));
    commit(&site.root, &certificate, &ca.bundle(), now()).unwrap();
    let watch = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
    // As fsnotify does, which follows the links to the file.
    watch.add_watch(&site.path("etc/etcd/pki/server.crt"), AddWatchFlags::IN_ATTRIB).unwrap();
    let second = ca.bundle();
    commit(&site.root, &certificate, &second, now() + Duration::from_secs(60)).unwrap();
    assert!(watch.read_events().is_ok_and(|events| !events.is_empty()), "no event");
    assert_eq!(site.text("etc/etcd/pki/server.crt"), second.pair().cert_pem());
}

#[test]
fn generations_of_a_wrong_clock_are_pruned_too() {
    let site = site();
    let (ca, certificate) = (ca("ca"), certificate());
    let bundle = ca.bundle();
    commit(&site.root, &certificate, &ca.bundle(), now() + 10_000 * DAY).unwrap();
    commit(&site.root, &certificate, &bundle, now()).unwrap();
    let later = now() + 11 * MINUTE;
    assert_eq!(repair(&site.root, &certificate, &bundle, later).unwrap().len(), 1);
    assert_eq!(site.names(OWN), ["20261123T101500Z-1", "current"]);
}

#[test]
fn a_reader_by_directory_descriptor_never_meets_a_mixed_pair() {
    let site = site();
    let (ca, certificate) = (ca("ca"), certificate());
    let bundles = [ca.bundle(), ca.bundle()];
    commit(&site.root, &certificate, &bundles[0], now()).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let reads = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (root, mut reads) = (Root::open(site.temp.path()).unwrap(), 0);
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                // `held` gives a pair only for a key that matches.
                let found = held(&root, &certificate).unwrap();
                assert!(matches!(found, Held::Pair(_)), "{found:?}");
                reads += 1;
            }
            reads
        });
        for round in 0..100 {
            commit(&site.root, &certificate, &bundles[round % 2], now()).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().unwrap()
    });
    assert!(reads > 0);
    assert_eq!(site.link(&format!("{OWN}/current")), "20261123T101500Z-101");
}

#[test]
fn leftovers_of_a_crash_do_not_stop_a_commit_and_go_in_time() {
    let site = site();
    let (ca, certificate) = (ca("ca"), certificate());
    let generation = format!("{OWN}/20261123T101500Z-1");
    fs::create_dir_all(site.path(&generation)).unwrap();
    site.write(&format!("{generation}/server.key"), "half a k");
    symlink("gone", site.path(&format!("{OWN}/.current.nodecert-new"))).unwrap();
    symlink("gone", site.path("etc/etcd/pki/.server.crt.nodecert-new")).unwrap();
    site.write("etc/etcd/pki/.probe.nodecert-new", "");
    assert!(matches!(held(&site.root, &certificate).unwrap(), Held::Absent));

    let bundle = ca.bundle();
    prove_writable(&site.root, &certificate, false).unwrap();
    commit(&site.root, &certificate, &bundle, now() + MINUTE).unwrap();
    assert_eq!(site.names(OWN), ["20261123T101500Z-1", "20261123T101600Z-1", "current"]);
    let lines = repair(&site.root, &certificate, &bundle, now() + 12 * MINUTE).unwrap();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(site.names(OWN), ["20261123T101600Z-1", "current"]);
    assert_eq!(held_fingerprint(&site, &certificate), bundle.leaf().fingerprint.to_string());
}

#[test]
fn a_foreign_file_is_refused_and_replaced_only_with_a_backup() {
    let site = site();
    let (ca, mut certificate) = (ca("ca"), certificate());
    site.write("etc/etcd/pki/server.key", "somebody's");
    let before = site.text("etc/etcd/pki/server.key");
    let refused = prove_writable(&site.root, &certificate, false).unwrap_err();
    assert!(matches!(refused, DiskError::Foreign { .. }) && !refused.is_temporary());
    assert!(refused.to_string().contains("replace = true"), "{refused}");
    assert_eq!(site.text("etc/etcd/pki/server.key"), before);
    let found = held(&site.root, &certificate).unwrap();
    assert!(matches!(&found, Held::Damaged(why) if why.contains("server.crt is missing")), "{found:?}");

    certificate.place.replace = true;
    for (layout, number) in [(Layout::Links, ""), (Layout::Files, "-2")] {
        certificate.place.layout = layout;
        let _ = fs::remove_file(site.path("etc/etcd/pki/server.key"));
        site.write("etc/etcd/pki/server.key", "somebody's");
        let _ = fs::remove_file(site.path("var/lib/nodecert/written"));
        prove_writable(&site.root, &certificate, false).unwrap();
        commit(&site.root, &certificate, &ca.bundle(), now()).unwrap();
        let backup = format!("etc/etcd/pki/server.key.nodecert-backup-20261123T101500Z{number}");
        assert_eq!(site.text(&backup), "somebody's");
        assert!(matches!(held(&site.root, &certificate).unwrap(), Held::Pair(_)));
    }
    fs::remove_file(site.path("etc/etcd/pki/server.crt")).unwrap();
    fs::create_dir(site.path("etc/etcd/pki/server.crt")).unwrap();
    let refused = prove_writable(&site.root, &certificate, false).unwrap_err();
    assert!(matches!(refused, DiskError::InTheWay { .. }), "{refused}");
}

#[test]
fn a_usable_pair_at_the_place_is_adopted() {
    for layout in [Layout::Links, Layout::Files] {
        let site = site();
        let (ca, mut certificate) = (ca("ca"), certificate());
        certificate.place.layout = layout;
        let bundle = ca.bundle();
        site.write("etc/etcd/pki/server.crt", &format!("# ours\n{}", bundle.pair().cert_pem()));
        site.write("etc/etcd/pki/server.key", bundle.pair().key().pem());
        assert_eq!(held_fingerprint(&site, &certificate), bundle.leaf().fingerprint.to_string());
        assert!(prove_writable(&site.root, &certificate, false).is_err());
        prove_writable(&site.root, &certificate, true).unwrap();
        let lines = drift(&site.root, &certificate, &bundle, now()).unwrap();
        assert!(!lines.is_empty());
        assert_eq!(repair(&site.root, &certificate, &bundle, now()).unwrap(), lines);
        assert_eq!(drift(&site.root, &certificate, &bundle, now()).unwrap(), [""; 0]);
        assert_eq!(held_fingerprint(&site, &certificate), bundle.leaf().fingerprint.to_string());
        assert_eq!(fs::metadata(site.path("etc/etcd/pki/server.key")).unwrap().mode() & 0o777, 0o600);
        prove_writable(&site.root, &certificate, false).unwrap();
    }
}

#[test]
fn a_foreign_chain_is_not_replaced_by_a_repair() {
    let site = site();
    let (ca, mut certificate) = (ca("ca"), certificate());
    let bundle = ca.bundle();
    commit(&site.root, &certificate, &bundle, now()).unwrap();
    site.write("etc/etcd/pki/chain.crt", "somebody's");
    certificate.place.chain = Some("chain.crt".into());
    for refused in [
        drift(&site.root, &certificate, &bundle, now()).unwrap_err(),
        repair(&site.root, &certificate, &bundle, now()).unwrap_err(),
    ] {
        assert!(
            matches!(&refused, DiskError::Foreign { paths } if paths[0].ends_with("chain.crt")),
            "{refused}"
        );
    }
    assert_eq!(site.text("etc/etcd/pki/chain.crt"), "somebody's");
}

#[test]
fn drift_is_named_and_mended() {
    for layout in [Layout::Links, Layout::Files] {
        let site = site();
        let (ca, mut certificate) = (ca("ca"), certificate());
        certificate.place.layout = layout;
        let bundle = ca.bundle();
        commit(&site.root, &certificate, &bundle, now()).unwrap();
        let real = fs::canonicalize(site.path("etc/etcd/pki/server.key")).unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o644)).unwrap();
        let lines = repair(&site.root, &certificate, &bundle, now()).unwrap();
        assert!(lines.len() == 1 && lines[0].ends_with("server.key has mode 0644, not 0600"), "{lines:?}");
        assert_eq!(fs::metadata(&real).unwrap().mode() & 0o777, 0o600);

        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&real, Some(4242), None).unwrap();
            let lines = repair(&site.root, &certificate, &bundle, now()).unwrap();
            assert!(lines.len() == 1 && lines[0].contains("belongs to 4242:0, not 0:0"), "{lines:?}");
            assert_eq!(fs::metadata(&real).unwrap().uid(), 0);
        }

        certificate.place.combined = Some("server.pem".into());
        let lines = repair(&site.root, &certificate, &bundle, now()).unwrap();
        assert!(lines.iter().all(|line| line.ends_with("server.pem is missing")), "{lines:?}");
        assert!(site.text("etc/etcd/pki/server.pem").contains("PRIVATE KEY"));
        assert_eq!(drift(&site.root, &certificate, &bundle, now()).unwrap(), [""; 0]);
    }
}

#[test]
fn a_lost_link_and_a_closed_generation_need_no_ca() {
    let site = site();
    let (ca, certificate) = (ca("ca"), certificate());
    let bundle = ca.bundle();
    commit(&site.root, &certificate, &bundle, now()).unwrap();
    fs::remove_file(site.path("etc/etcd/pki/server.crt")).unwrap();
    let generation = format!("{OWN}/20261123T101500Z-1");
    fs::set_permissions(site.path(&generation), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(held_fingerprint(&site, &certificate), bundle.leaf().fingerprint.to_string());
    fs::set_permissions(site.path("etc/etcd/pki/.nodecert"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(repair(&site.root, &certificate, &bundle, now()).unwrap().len(), 3);
    assert_eq!(drift(&site.root, &certificate, &bundle, now()).unwrap(), [""; 0]);
    assert_eq!(site.names(OWN), ["20261123T101500Z-1", "current"], "no new generation");
    assert_eq!(site.mode(&generation), 0o755);
    assert_eq!(site.link("etc/etcd/pki/server.crt"), ".nodecert/etcd-server/current/server.crt");
}

#[test]
fn the_layout_can_change_both_ways() {
    let site = site();
    let (ca, mut certificate) = (ca("ca"), certificate());
    let bundle = ca.bundle();
    for (layout, kind) in [(Layout::Links, true), (Layout::Files, false), (Layout::Links, true)] {
        certificate.place.layout = layout;
        match held(&site.root, &certificate).unwrap() {
            Held::Absent => commit(&site.root, &certificate, &bundle, now()).unwrap(),
            _ => assert!(!repair(&site.root, &certificate, &bundle, now()).unwrap().is_empty()),
        }
        let meta = fs::symlink_metadata(site.path("etc/etcd/pki/server.key")).unwrap();
        assert_eq!(meta.file_type().is_symlink(), kind);
        assert_eq!(held_fingerprint(&site, &certificate), bundle.leaf().fingerprint.to_string());
        assert_eq!(drift(&site.root, &certificate, &bundle, now()).unwrap(), [""; 0]);
    }
}

#[test]
fn what_is_no_pair_is_damaged_and_says_where() {
    let site = site();
    let (ca, certificate) = (ca("ca"), certificate());
    let (one, other) = (ca.bundle(), ca.bundle());
    let say = |key: &str, cert: &str| {
        site.write("etc/etcd/pki/server.key", key);
        site.write("etc/etcd/pki/server.crt", cert);
        match held(&site.root, &certificate).unwrap() {
            Held::Damaged(why) | Held::Mixed(why) => why,
            found => panic!("{found:?}"),
        }
    };
    let (key, cert) = (one.pair().key().pem(), one.pair().cert_pem());
    for (key, cert, why) in [
        (key, other.pair().cert_pem(), "server.key is not the key of "),
        ("", cert.clone(), "server.key: no usable private key"),
        (key, String::new(), "server.crt: it cannot be read as a certificate chain"),
        (key, cert[..cert.len() / 2].to_owned(), "server.crt: it cannot be read as a certificate chain"),
        (key, "x".repeat(LIMIT + 1), "server.crt has more than"),
        (key, "\0\u{fffd}".to_owned(), "server.crt: it cannot be read"),
    ] {
        let said = say(key, &cert);
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn a_fifo_is_refused_and_does_not_hang() {
    let site = site();
    let certificate = certificate();
    fs::create_dir_all(site.path("etc/etcd/pki")).unwrap();
    for file in ["server.key", "server.crt"] {
        let path = site.path("etc/etcd/pki").join(file);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    let found = held(&site.root, &certificate).unwrap();
    assert!(matches!(&found, Held::Damaged(why) if why.contains("FIFO")), "{found:?}");
    assert!(matches!(prove_writable(&site.root, &certificate, true), Ok(())), "adopted may go");
    assert!(matches!(prove_writable(&site.root, &certificate, false), Err(DiskError::Foreign { .. })));
    let anchors = ca("ca").anchors;
    let path = Path::new("/etc/etcd/pki/server.crt");
    let refused = widen(&site.root, path, &anchors, &Owner::default(), false, now());
    assert!(matches!(refused, Err(DiskError::Foreign { .. })));
    assert!(matches!(read_text(&site.root, path, LIMIT), Err(DiskError::Root(RootError::NotRegular { .. }))));
}

#[test]
fn an_unknown_user_is_temporary_and_named() {
    let site = site();
    let mut certificate = certificate();
    if !nix::unistd::geteuid().is_root() {
        certificate.place.owner.user = Some("nobody-here".into());
        assert!(prove_writable(&site.root, &certificate, false).is_ok(), "owners are left alone");
        return;
    }
    for owner in [
        Owner { user: Some("nobody-here".into()), group: None },
        Owner { user: Some("etcd".into()), group: Some("nobody-here".into()) },
    ] {
        certificate.place.owner = owner;
        let error = prove_writable(&site.root, &certificate, false).unwrap_err();
        assert!(error.is_temporary() && error.to_string().contains("\"nobody-here\""), "{error}");
    }
    assert!(!site.path("etc/etcd").exists());
    certificate.place.owner = Owner { user: Some("etcd".into()), group: None };
    commit(&site.root, &certificate, &ca("ca").bundle(), now()).unwrap();
    let meta = fs::metadata(site.path("etc/etcd/pki/server.key")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (4242, 4343), "the group is the user's own");
}

#[test]
fn owners_are_left_alone_where_no_one_is_known() {
    let site = site();
    fs::remove_file(site.path("etc/passwd")).unwrap();
    let mut certificate = certificate();
    certificate.place.owner.user = Some("etcd".into());
    prove_writable(&site.root, &certificate, false).unwrap();
    commit(&site.root, &certificate, &ca("ca").bundle(), now()).unwrap();
    assert!(matches!(site.root.owners(), crate::root::Owners::LeftAlone(why) if !why.is_empty()));
}

#[test]
fn a_trust_file_holds_exactly_the_anchors() {
    let site = site();
    let (one, two, three) = (ca("one").anchors, ca("two").anchors, ca("three").anchors);
    let mut both = one.clone();
    both.join(&two);
    let (path, owner) = (Path::new("/etc/etcd/pki/ca.crt"), Owner::default());
    let set = |wanted: &Anchors, replace| widen(&site.root, path, wanted, &owner, replace, now());
    let says = |wanted: &Anchors| trust_is(&site.root, path, wanted, &owner, false);
    assert_eq!(says(&one).unwrap().as_deref(), Some(ABSENT));
    assert!(set(&one, false).unwrap());
    assert_eq!(site.text("etc/etcd/pki/ca.crt"), one.pem());
    assert_eq!(site.mode("etc/etcd/pki/ca.crt"), 0o644);
    let before = site.picture();
    assert!(!set(&one, false).unwrap() && says(&one).unwrap().is_none());
    assert_eq!(site.picture(), before);
    assert!(set(&both, false).unwrap());
    assert!(set(&three, false).unwrap(), "ours by the record");
    assert_eq!(site.names("etc/etcd/pki"), ["ca.crt"]);

    fs::set_permissions(site.path("etc/etcd/pki/ca.crt"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(says(&three).unwrap().unwrap().contains("mode 0600, not 0644"));
    assert!(set(&three, false).unwrap() && says(&three).unwrap().is_none());

    fs::remove_file(site.path("var/lib/nodecert/written")).unwrap();
    for refused in [set(&both, false).map(drop), says(&both).map(drop)] {
        assert!(matches!(refused, Err(DiskError::Foreign { .. })), "other anchors, no record");
    }
    assert!(set(&both, true).unwrap());
    assert_eq!(site.text("etc/etcd/pki/ca.crt.nodecert-backup-20261123T101500Z"), three.pem());
    fs::remove_file(site.path("var/lib/nodecert/written")).unwrap();
    assert!(set(&one, false).is_err(), "it holds an anchor that is not wanted");
    site.write("etc/etcd/pki/ca.crt", &one.pem());
    assert!(set(&both, false).unwrap(), "nothing but what is wanted was in it");
}

fn file(path: &str) -> crate::file::File {
    crate::file::File {
        name: Name::new("etcd").unwrap(),
        path: path.into(),
        content: crate::file::Content::Text(String::new()),
        needs: Vec::new(),
        owner: Owner::default(),
        mode: Mode(0o640),
        replace: false,
        deeds: Vec::new(),
        quiet: None,
    }
}

#[test]
fn a_rendered_file_is_written_only_if_it_differs() {
    let site = site();
    let mut wanted = file("/etc/default/etcd");
    assert!(differs(&site.root, &wanted, b"a").unwrap().is_some());
    assert!(put(&site.root, &wanted, b"a", now()).unwrap());
    assert_eq!((site.text("etc/default/etcd"), site.mode("etc/default/etcd")), ("a".into(), 0o640));
    let before = site.picture();
    assert!(!put(&site.root, &wanted, b"a", now()).unwrap());
    assert!(differs(&site.root, &wanted, b"a").unwrap().is_none());
    assert_eq!(site.picture(), before);
    assert!(put(&site.root, &wanted, b"bc", now()).unwrap());

    site.write("etc/default/kubelet", "theirs");
    wanted.path = "/etc/default/kubelet".into();
    assert!(matches!(put(&site.root, &wanted, b"a", now()), Err(DiskError::Foreign { .. })));
    assert!(matches!(differs(&site.root, &wanted, b"a"), Err(DiskError::Foreign { .. })));
    assert_eq!(site.text("etc/default/kubelet"), "theirs");
    site.write("etc/default/kubelet", "# Written by nodecert; do not edit\nx");
    assert!(put(&site.root, &wanted, b"a", now()).unwrap(), "ours by its first line");

    fs::remove_file(site.path("var/lib/nodecert/written")).unwrap();
    assert!(!put(&site.root, &wanted, b"a", now()).unwrap());
    assert!(put(&site.root, &wanted, b"b", now()).unwrap(), "what was identical had become ours");

    symlink("/etc/shadow", site.path("etc/default/link")).unwrap();
    wanted.path = "/etc/default/link".into();
    assert!(matches!(put(&site.root, &wanted, b"a", now()), Err(DiskError::Foreign { .. })));
    wanted.replace = true;
    assert!(put(&site.root, &wanted, b"a", now()).unwrap());
    assert_eq!(site.link("etc/default/link.nodecert-backup-20261123T101500Z"), "/etc/shadow");
    assert!(!site.path("etc/shadow").exists());
}

#[test]
fn a_pending_request_comes_back_as_it_was() {
    let site = site();
    let (name, dialect) = (Name::new("etcd-server").unwrap(), Dialect::default());
    assert!(pending(&site.root, &name).unwrap().is_none());
    let key = Arc::new(Key::generate(KeyKind::P256).unwrap());
    let made = Pending::new(key, &identity(), &dialect).unwrap();
    keep_pending(&site.root, &name, &made).unwrap();
    let found = pending(&site.root, &name).unwrap().unwrap();
    assert_eq!((found.key.pem(), found.csr.der()), (made.key.pem(), made.csr.der()));
    let path = "var/lib/nodecert/pending/etcd-server.pem";
    assert_eq!(site.mode(path), 0o600);
    for dir in ["var/lib/nodecert", "var/lib/nodecert/pending"] {
        assert_eq!(site.mode(dir), 0o700);
    }
    assert_eq!(site.mode("var/lib"), 0o755);
    let text = site.text(path);
    for damaged in [&text[..text.len() / 3], &text[..text.len() - 30], "", "\0"] {
        site.write(path, damaged);
        assert!(pending(&site.root, &name).unwrap().is_none(), "{damaged}");
    }
    fs::write(site.path(path), [0xff, 0xfe]).unwrap();
    assert!(pending(&site.root, &name).unwrap().is_none());
    drop_pending(&site.root, &name).unwrap();
    drop_pending(&site.root, &name).unwrap();
    assert_eq!(site.names("var/lib/nodecert/pending"), [""; 0]);
}

#[test]
fn a_pending_request_stays_until_the_one_that_replaces_it_is_whole() {
    let site = site();
    let name = Name::new("web").unwrap();
    let key = Arc::new(Key::generate(KeyKind::P256).unwrap());
    let made = |cn: &str| {
        let wanted = Identity { common_name: cn.to_owned(), ..identity() };
        Pending::new(key.clone(), &wanted, &Dialect::default()).unwrap()
    };
    let there = || pending(&site.root, &name).unwrap().unwrap().csr.der().to_vec();
    let (first, second) = (made("first"), made("second"));
    keep_pending(&site.root, &name, &first).unwrap();
    let kept = super::keep_pending(&site.root, &name, &second).unwrap();
    assert_eq!(there(), first.csr.der());
    kept.settle().unwrap();
    assert_eq!(there(), second.csr.der());
    assert_eq!(site.names("var/lib/nodecert/pending"), ["web.pem"]);
    assert_eq!(site.mode("var/lib/nodecert/pending/web.pem"), 0o600);
}

#[test]
fn state_is_kept_read_and_dropped() {
    let site = site();
    assert!(read_state(&site.root, "ca/lab/ca.key").unwrap().is_none());
    drop_state(&site.root, "ca/lab/ca.key").unwrap();
    keep_state(&site.root, "ca/lab/ca.key", b"longer").unwrap();
    keep_state(&site.root, "ca/lab/ca.key", b"short").unwrap();
    assert_eq!(read_state(&site.root, "ca/lab/ca.key").unwrap().unwrap().as_str(), "short");
    assert_eq!(site.mode("var/lib/nodecert/ca/lab/ca.key"), 0o600);
    assert_eq!(site.names("var/lib/nodecert/ca/lab"), ["ca.key"]);
    drop_state(&site.root, "ca/lab/ca.key").unwrap();
    assert!(read_state(&site.root, "ca/lab/ca.key").unwrap().is_none());
}

#[test]
fn one_writer_at_a_time() {
    let site = site();
    let held = lock(&site.root).unwrap();
    assert!(held.was_left(), "nothing is known of the run before");
    let error = lock(&site.root).unwrap_err();
    assert!(error.is_temporary());
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    assert_eq!(site.mode("run/nodecert/lock"), 0o600);
    drop(held);
    let after_a_crash = lock(&site.root).unwrap();
    assert!(after_a_crash.was_left());
    after_a_crash.release();
    assert!(!lock(&site.root).unwrap().was_left());
}

#[test]
fn secrets_come_from_where_no_one_else_can_read() {
    let site = site();
    let none = |_: &[String]| Err("no command here".to_owned());
    let source = SecretSource::File("/var/lib/nodecert/secrets/etcd".into());
    let why = |error: DiskError| error.to_string();
    assert!(why(secret(&site.root, &source, none).unwrap_err()).contains("there is no file"));
    site.write("var/lib/nodecert/secrets/etcd", "s3cret\n");
    let said = why(secret(&site.root, &source, none).unwrap_err());
    assert!(said.contains("chmod 600") && !said.contains("s3cret"), "{said}");
    let private = fs::Permissions::from_mode(0o600);
    fs::set_permissions(site.path("var/lib/nodecert/secrets/etcd"), private).unwrap();
    assert_eq!(secret(&site.root, &source, none).unwrap().expose(), "s3cret");
    fs::write(site.path("var/lib/nodecert/secrets/etcd"), " \n").unwrap();
    assert!(why(secret(&site.root, &source, none).unwrap_err()).contains("empty"));

    let command = SecretSource::Command(vec!["pass".into(), "show".into()]);
    let given = secret(&site.root, &command, |argv| Ok(argv.join(" "))).unwrap();
    assert_eq!(given.expose(), "pass show");
    assert!(why(secret(&site.root, &command, none).unwrap_err()).contains("no command here"));
    let literal = SecretSource::Literal(Secret::new("x"));
    assert_eq!(secret(&site.root, &literal, none).unwrap().expose(), "x");
    let unset = SecretSource::Env("NODECERT_TEST_UNSET".into());
    assert!(why(secret(&site.root, &unset, none).unwrap_err()).contains("NODECERT_TEST_UNSET"));
}

#[test]
fn texts_say_whether_they_are_private_and_masks_are_empty() {
    let site = site();
    site.write("etc/nodecert/config.d/b.toml", "b");
    site.write("etc/nodecert/config.d/a.toml", "a");
    symlink("/dev/null", site.path("etc/nodecert/config.d/c.toml")).unwrap();
    let dir = Path::new("/etc/nodecert/config.d");
    assert_eq!(list_dropins(&site.root, dir).unwrap(), ["a.toml", "b.toml", "c.toml"]);
    assert_eq!(list_dropins(&site.root, Path::new("/nowhere")).unwrap(), [""; 0]);
    let read = |name: &str| read_text(&site.root, &dir.join(name), 10).unwrap();
    fs::set_permissions(site.path("etc/nodecert/config.d/a.toml"), fs::Permissions::from_mode(0o600))
        .unwrap();
    fs::set_permissions(site.path("etc/nodecert/config.d/b.toml"), fs::Permissions::from_mode(0o640))
        .unwrap();
    assert_eq!(read("a.toml"), Some(("a".into(), true)));
    assert_eq!(read("b.toml"), Some(("b".into(), false)));
    assert_eq!(read("c.toml"), Some((String::new(), false)));
    assert_eq!(read("d.toml"), None);
    let live = Root::open(Path::new("/")).unwrap();
    let masked = read_text(&live, &site.path("etc/nodecert/config.d/c.toml"), 10).unwrap();
    assert_eq!(masked, Some((String::new(), false)));
}

#[test]
fn a_commit_that_fails_leaves_no_key_behind() {
    for layout in [Layout::Links, Layout::Files] {
        let site = site();
        let (ca, mut certificate) = (ca("ca"), certificate());
        let bundle = ca.bundle();
        certificate.place.layout = layout;
        commit(&site.root, &certificate, &bundle, now()).unwrap();
        let before = (site.names("etc/etcd/pki"), fs::read_dir(site.path(OWN)).map(Iterator::count).ok());
        let mut too_long = certificate.clone();
        too_long.place.cert = "x".repeat(256);
        commit(&site.root, &too_long, &ca.bundle(), now()).unwrap_err();
        let after = (site.names("etc/etcd/pki"), fs::read_dir(site.path(OWN)).map(Iterator::count).ok());
        assert_eq!(after, before);
        assert_eq!(held_fingerprint(&site, &certificate), bundle.leaf().fingerprint.to_string());
    }
}

#[test]
fn a_destination_that_cannot_be_is_found_before_anyone_signs() {
    let site = site();
    let certificate = certificate();
    site.write("etc/etcd", "a file where a directory is to be");
    let error = prove_writable(&site.root, &certificate, false).unwrap_err();
    assert!(matches!(error, DiskError::Root(RootError::Io { .. })) && !error.is_temporary(), "{error}");
    assert!(error.to_string().contains("etc/etcd"), "{error}");
}
