//! Trust files, rendered files, requests, state and secrets.

use super::*;

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
    let kept = crate::disk::keep_pending(&site.root, &name, &second).unwrap();
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
