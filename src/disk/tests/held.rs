//! What is found at a certificate's place, and what is made of it.

use super::*;

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
