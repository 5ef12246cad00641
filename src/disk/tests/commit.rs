//! What a commit leaves on disk, at once and later.

use super::*;

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
    let name = "disk::tests::commit::a_commit_has_the_documented_layout";
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
