#![allow(clippy::disallowed_methods, reason = "a test plants files")]

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

fn tree() -> (tempfile::TempDir, Root) {
    let temp = tempfile::TempDir::new().unwrap();
    let tree = temp.path().join("tree");
    fs::create_dir_all(tree.join("etc")).unwrap();
    fs::write(temp.path().join("secret"), "outside").unwrap();
    let root = Root::open(&tree).unwrap();
    (temp, root)
}

#[test]
fn a_link_never_leads_out_of_the_root() {
    let (temp, root) = tree();
    let etc = temp.path().join("tree/etc");
    let outside = temp.path().join("secret");
    symlink(&outside, etc.join("absolute")).unwrap();
    symlink("../../secret", etc.join("relative")).unwrap();
    symlink(temp.path(), etc.join("dir")).unwrap();
    symlink("../../../../../..", etc.join("up")).unwrap();
    for path in ["/etc/absolute", "/etc/relative", "/etc/dir/secret", "/../secret"] {
        assert!(root.read(Path::new(path), 100).unwrap().is_none(), "{path}");
    }
    fs::write(temp.path().join("tree/secret"), "inside").unwrap();
    for path in ["/etc/relative", "/etc/up/secret", "/../secret", "secret"] {
        let read = root.read(Path::new(path), 100).unwrap().unwrap();
        assert_eq!(*read.content, b"inside", "{path}");
    }
    fs::create_dir(temp.path().join("tree/inner")).unwrap();
    symlink("/inner", etc.join("made")).unwrap();
    root.make_dir(Path::new("/etc/made/deep/er")).unwrap();
    assert!(temp.path().join("tree/inner/deep/er").is_dir());
}

#[test]
fn the_live_host_is_known_by_any_name() {
    assert!(Root::open(Path::new("/")).unwrap().is_live());
    assert!(Root::open(Path::new("/usr/..")).unwrap().is_live());
    let (_temp, root) = tree();
    assert!(!root.is_live());
    assert!(root.shown(Path::new("/etc/x")).ends_with("tree/etc/x"));
}

#[test]
fn errors_say_what_was_tried_on_what() {
    let (temp, root) = tree();
    fs::write(temp.path().join("tree/etc/file"), "x").unwrap();
    let error = root.make_dir(Path::new("/etc/file/below")).unwrap_err();
    assert!(error.to_string().starts_with("cannot open directory /"), "{error}");
    let barred = "tree/etc/file (something else stands where a directory belongs: move it away";
    assert!(error.to_string().contains(barred), "{error}");
    let error = root.dir(Path::new("/etc/file/below/it")).unwrap_err();
    assert!(error.to_string().contains(barred), "what is in the way, not what is below it: {error}");
    let error = root.read(Path::new("/etc"), 100).unwrap_err();
    assert!(error.to_string().ends_with("is a directory, not a regular file"), "{error}");
    let error = root.read(Path::new("/etc/file"), 0).unwrap_err();
    assert!(matches!(error, RootError::TooLarge { limit: 0, .. }));
    let _socket = std::os::unix::net::UnixListener::bind(temp.path().join("tree/etc/s")).unwrap();
    let error = root.read(Path::new("/etc/s"), 100).unwrap_err();
    assert!(matches!(error, RootError::NotRegular { kind: Kind::Special, .. }), "{error}");
    let missing = Root::open(&temp.path().join("nowhere")).unwrap_err();
    assert!(missing.to_string().starts_with("cannot open directory /"), "{missing}");
    assert!(!Root::make(&temp.path().join("now/here")).unwrap().is_live());
}

#[test]
fn a_file_is_read_to_its_end_whatever_its_length_is_said_to_be() {
    let root = Root::open(Path::new("/")).unwrap();
    let said = root.read(Path::new("/proc/sys/kernel/ostype"), 100).unwrap().unwrap();
    assert_eq!((said.meta.size, said.content.as_slice()), (0, &b"Linux\n"[..]));
    let (temp, root) = tree();
    for content in ["", "x", "two\nlines"] {
        fs::write(temp.path().join("tree/etc/x"), content).unwrap();
        let read = root.read(Path::new("/etc/x"), 9).unwrap().unwrap();
        assert_eq!(*read.content, content.as_bytes());
    }
}

#[test]
fn a_file_that_took_the_name_of_the_one_seen_is_not_mended() {
    let (temp, root) = tree();
    let (etc, path) = (root.dir(Path::new("/etc")).unwrap().unwrap(), temp.path().join("tree/etc/x"));
    fs::write(&path, "x").unwrap();
    let seen = etc.stat("x").unwrap().unwrap();
    fs::rename(&path, temp.path().join("aside")).unwrap();
    fs::write(&path, "other").unwrap();
    assert!(etc.mend("x", &seen, 0o666, None).is_err());
    fs::remove_file(&path).unwrap();
    fs::hard_link(temp.path().join("aside"), &path).unwrap();
    etc.mend("x", &seen, 0o604, None).unwrap();
    assert_eq!(etc.stat("x").unwrap().unwrap().mode, 0o604);
}

#[test]
fn what_is_overwritten_has_no_other_name() {
    let (temp, root) = tree();
    let etc = root.dir(Path::new("/etc")).unwrap().unwrap();
    let (path, other) = (temp.path().join("tree/etc/key"), temp.path().join("other"));
    let make = || etc.put("key", b"secret", 0o600, None).unwrap();
    let open = || fs::File::open(&path).unwrap();
    let replace = || etc.draft("key", b"another", 0o600, None).and_then(|draft| etc.replace(draft, "key"));
    type Go<'a> = &'a dyn Fn() -> Result<(), RootError>;
    let ways: [Go<'_>; 3] = [&|| etc.wipe("key").map(drop), &|| etc.discard("key"), &replace];
    for (way, go) in ways.iter().enumerate() {
        make();
        let held = open();
        go().unwrap();
        assert_eq!(io::read_to_string(held).unwrap(), "\0".repeat(6), "way {way}");
        make();
        fs::hard_link(&path, &other).unwrap();
        go().unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "secret", "way {way}");
        fs::remove_file(&path).ok();
        symlink(&other, &path).unwrap();
        go().unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "secret", "way {way}");
        fs::remove_file(&other).unwrap();
    }
}
