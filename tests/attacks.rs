//! What a local user can plant: links, FIFOs and devices at every name that is written, directories that are
//! exchanged in mid-run. Nothing is followed, nothing of root's is touched, nothing hangs, and where a
//! directory belongs to a stranger the run is refused with its path.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod trial;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;
use rstest::rstest;
use trial::{LOCAL, PLAIN_SET, Site, WEB, WEB_SET, files};

/// A user that no configuration names.
const MALLORY: u32 = 4309;
const FAULT: i32 = 70;
/// Far above what a run takes; far below a FIFO that no one writes to.
const PATIENCE: &str = "20";
const PRIVATE: &str = "root's own";

/// A host on which `web` and `plain` go below /srv.
fn site() -> Site {
    let below = |text: &str| text.replace("/etc/web/pki", "/srv/web/pki").replace("/etc/plain", "/srv/plain");
    let site = Site::with(&below(LOCAL));
    site.write("etc/private/file", PRIVATE);
    open_up(&site.path("srv/web/pki"));
    open_up(&site.path("srv/plain"));
    site
}

/// A directory that root has made, as packages do.
fn open_up(directory: &Path) {
    fs::create_dir_all(directory).unwrap();
    fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).unwrap();
}

/// Exit code and words of a run; -1 where it hung.
fn run(site: &Site, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", PATIENCE, env!("CARGO_BIN_EXE_nodecert"), "--root"]).arg(site.root());
    trial::undisturbed(&mut command);
    let output = command.args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
}

/// Content, mode, owner and links of what is root's own.
fn seal(site: &Site) -> (String, u32, u32, usize) {
    let meta = fs::metadata(site.path("etc/private/file")).unwrap();
    let names = fs::read_dir(site.path("etc/private")).unwrap().count();
    (fs::read_to_string(site.path("etc/private/file")).unwrap(), meta.mode(), meta.uid(), names)
}

/// Every name that a run writes in a directory that a service owns.
const NAMES: [&str; 17] = [
    "srv/web/pki/web.crt",
    "srv/web/pki/web.key",
    "srv/web/pki/web.pem",
    "srv/web/pki/chain.crt",
    "srv/web/pki/ca.crt",
    "srv/web/pki/.nodecert",
    "srv/web/pki/.web.crt.nodecert-new",
    "srv/web/pki/.web.key.nodecert-new",
    "srv/web/pki/.ca.crt.nodecert-new",
    "srv/plain/plain.crt",
    "srv/plain/plain.key",
    "srv/plain/ca.crt",
    "srv/plain/.probe.nodecert-new",
    "srv/plain/.plain.crt.nodecert-new",
    "srv/plain/.plain.key.nodecert-new",
    "srv/plain/.ca.crt.nodecert-new",
    "srv/plain/.nodecert",
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Plant {
    Link,
    LinkToDirectory,
    HardLink,
    Fifo,
    Device,
    Directory,
}

impl Plant {
    fn at(self, site: &Site, path: &Path) {
        let victim = site.path("etc/private/file");
        match self {
            Self::Link => symlink("/etc/private/file", path).unwrap(),
            Self::LinkToDirectory => symlink("/etc/private", path).unwrap(),
            Self::HardLink => fs::hard_link(victim, path).unwrap(),
            Self::Fifo => mkfifo(path, Mode::from_bits_truncate(0o666)).unwrap(),
            Self::Device => {
                mknod(path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3)).unwrap();
            }
            Self::Directory => fs::create_dir(path).unwrap(),
        }
        if self != Self::HardLink {
            lchown(path, Some(WEB), Some(WEB)).unwrap();
        }
    }
}

/// By the service itself, in directories of its own: the most that anyone but root can do there.
#[rstest]
#[case(Plant::Link)]
#[case(Plant::LinkToDirectory)]
#[case(Plant::HardLink)]
#[case(Plant::Fifo)]
#[case(Plant::Device)]
#[case(Plant::Directory)]
fn what_is_planted_at_a_name_is_never_followed(#[case] plant: Plant) {
    let (mut refused, mut done) = (0, 0);
    for name in NAMES {
        let site = site();
        for directory in ["srv/web", "srv/web/pki", "srv/plain"] {
            chown(site.path(directory), Some(WEB), Some(WEB)).unwrap();
        }
        plant.at(&site, &site.path(name));
        let before = seal(&site);
        let links = fs::metadata(site.path("etc/private/file")).unwrap().nlink();
        let (code, said) = run(&site, &["run"]);
        assert_eq!(seal(&site), before, "{plant:?} at {name}: {said}");
        assert!(fs::metadata(site.path("etc/private/file")).unwrap().nlink() <= links);
        assert!(!said.contains(PRIVATE) && !said.contains("panicked"), "{said}");
        let plain_name =
            name.rsplit('/').next().unwrap().trim_end_matches(".nodecert-new").trim_start_matches('.');
        match code {
            0 => done += 1,
            FAULT if said.contains(plain_name) => refused += 1,
            _ => panic!("{plant:?} at {name}: exit {code}\n{said}"),
        }
        let sets = [("srv/web/pki", WEB_SET), ("srv/plain", PLAIN_SET)];
        for (directory, kept) in sets.map(|(directory, kept)| (directory, trial::Kept { directory, ..kept }))
        {
            let found = kept.find(site.root()).ok().flatten();
            assert!(code != 0 || found.is_some_and(|set| set.matches()), "{directory}: {said}");
        }
    }
    println!(
        "{plant:?} at {} names: {refused} refused with the path, {done} replaced, 0 followed",
        NAMES.len()
    );
}

/// Who owns /srv/web, its mode, and what is said of it.
#[rstest]
#[case::of_a_stranger(MALLORY, MALLORY, 0o755, FAULT, "belongs to user 4309")]
#[case::open_to_all(0, 0, 0o777, FAULT, "mode 0777")]
#[case::open_to_all_and_sticky(0, 0, 0o1777, FAULT, "mode 1777")]
#[case::open_to_a_strange_group(0, MALLORY, 0o775, FAULT, "mode 0775")]
#[case::of_the_service(WEB, WEB, 0o755, 0, "obtained")]
#[case::open_to_the_group_of_the_service(WEB, WEB, 0o775, 0, "obtained")]
fn a_directory_on_the_way_is_of_root_or_of_the_service(
    #[case] user: u32,
    #[case] group: u32,
    #[case] mode: u32,
    #[case] code: i32,
    #[case] word: &str,
) {
    for on_the_way in ["srv/web", "srv/web/pki"] {
        let site = site();
        chown(site.path(on_the_way), Some(user), Some(group)).unwrap();
        fs::set_permissions(site.path(on_the_way), PermissionsExt::from_mode(mode)).unwrap();
        let (exit, said) = run(&site, &["run", "--only", "web"]);
        assert_eq!(exit, code, "{on_the_way}: {said}");
        assert!(said.contains(word), "{on_the_way}: {said}");
        if code != 0 {
            assert!(said.contains(on_the_way), "{said}");
            let there = files(&site.path("srv/web"));
            assert!(there.is_empty(), "{there:?}");
        }
    }
}

/// A link on the way, by whom, to whose directory.
#[rstest]
#[case::of_root(0, "/etc/private", 0)]
#[case::of_a_stranger(MALLORY, "/etc/private", FAULT)]
#[case::of_the_service_to_what_is_roots(WEB, "/etc/private", FAULT)]
#[case::of_the_service_to_its_own(WEB, "/srv/own", 0)]
#[case::of_the_service_out_of_the_tree(WEB, "../../../../../../etc/private", FAULT)]
fn a_link_on_the_way_leads_no_one_but_its_owner_into_his_own(
    #[case] user: u32,
    #[case] target: &str,
    #[case] code: i32,
) {
    let site = site();
    open_up(&site.path("srv/own"));
    chown(site.path("srv/own"), Some(WEB), Some(WEB)).unwrap();
    chown(site.path("srv/web"), Some(WEB), Some(WEB)).unwrap();
    fs::remove_dir(site.path("srv/web/pki")).unwrap();
    symlink(target, site.path("srv/web/pki")).unwrap();
    lchown(site.path("srv/web/pki"), Some(user), Some(user)).unwrap();
    let before = seal(&site);
    let (exit, said) = run(&site, &["run", "--only", "web"]);
    assert_eq!(exit, code, "{said}");
    if code != 0 {
        assert!(said.contains("srv/web/pki"), "{said}");
        assert_eq!(seal(&site), before);
    }
}

#[test]
fn a_directory_that_is_exchanged_for_a_link_in_mid_run_leads_nowhere() {
    let site = site();
    for directory in ["srv/web", "srv/web/pki"] {
        chown(site.path(directory), Some(WEB), Some(WEB)).unwrap();
    }
    let (pki, link) = (site.path("srv/web/pki"), site.path("srv/web/link"));
    symlink("/etc/private", &link).unwrap();
    lchown(&link, Some(WEB), Some(WEB)).unwrap();
    let before = seal(&site);
    let (stop, swaps) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (mut refused, mut done) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                renameat2(AT_FDCWD, &pki, AT_FDCWD, &link, RenameFlags::RENAME_EXCHANGE).unwrap();
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        });
        for _ in 0..60 {
            let (code, said) = run(&site, &["run", "--force", "--only", "web"]);
            assert!(matches!(code, 0 | FAULT), "exit {code}: {said}");
            *(if code == 0 { &mut done } else { &mut refused }) += 1;
            if seal(&site) != before {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(seal(&site), before, "something was written through the link");
    println!("{} exchanges during 60 runs: {done} done, {refused} refused, 0 followed", swaps.into_inner());
}

#[test]
fn no_one_else_reads_a_private_key_at_any_moment() {
    let site = site();
    let began = Instant::now();
    let (mut looks, mut runs) = (0, 0);
    while began.elapsed() < Duration::from_secs(3) {
        let mut renewal = site.nodecert(&["run", "--force"]);
        let mut renewal =
            renewal.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        while renewal.try_wait().unwrap().is_none() {
            looks += 1;
            assert_eq!(keys_that_mallory_reads(site.root()), Vec::<String>::new());
        }
        runs += 1;
    }
    println!("{looks} looks of another user during {runs} runs: 0 private keys");
}

fn keys_that_mallory_reads(root: &Path) -> Vec<String> {
    let id = MALLORY.to_string();
    let mut look = Command::new("setpriv");
    look.args(["--reuid", &id, "--regid", &id, "--clear-groups", "grep", "-rsl", "PRIVATE KEY"]).arg(root);
    let output = look.output().unwrap();
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn a_user_without_rights_runs_it_below_a_directory_of_his_own() {
    let site = site();
    for (path, _) in files(site.root()) {
        lchown(path, Some(MALLORY), Some(MALLORY)).unwrap();
    }
    let status = Command::new("chown").args(["-R", "4309:4309"]).arg(site.root()).status().unwrap();
    assert!(status.success());
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "4309", "--regid", "4309", "--clear-groups"]);
    command.args(["--bounding-set=-all", "--no-new-privs"]);
    let program: PathBuf = env!("CARGO_BIN_EXE_nodecert").into();
    // The program may lie where that user cannot come.
    let open = site.path("nodecert");
    // By a process of its own: a descriptor open for writing that a fork here takes along is "text file busy".
    assert!(Command::new("cp").arg(program).arg(&open).status().unwrap().success());
    fs::set_permissions(&open, PermissionsExt::from_mode(0o755)).unwrap();
    trial::undisturbed(&mut command);
    let output = command.arg(open).arg("--root").arg(site.root()).arg("run").output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("owners were left alone: not running as root"), "{said}");
}

#[test]
fn one_place_that_has_become_read_only_keeps_nothing_from_the_others() {
    let site = site();
    assert_eq!(run(&site, &["run"]).0, 0);
    let plain = site.path("srv/plain");
    let forced = || {
        let script = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && exec \"$2\" --root \"$3\" run --force";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(&plain).arg(env!("CARGO_BIN_EXE_nodecert"));
        trial::undisturbed(&mut command);
        let output = command.arg(site.root()).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), said)
    };
    let certificate = || fs::read(site.path("srv/web/pki/web.crt")).unwrap();
    // What the first leaves undone, the second finds and has to get past.
    for _ in 0..2 {
        let before = certificate();
        let (code, said) = forced();
        assert_eq!(code, Some(FAULT), "{said}");
        assert!(said.contains("/srv/plain"), "{said}");
        assert_ne!(certificate(), before, "{said}");
    }
}
