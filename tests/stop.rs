//! Asked to end in the middle: it does so within a second and leaves a host that readers and the next run can
//! live with.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod fake;
mod trial;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use fake::{Fake, Fault, MOUNT, ROLE, TOKEN};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use trial::{LOCAL, Site, WEB_SET, drafts};

const TEMPORARY: Option<i32> = Some(75);
/// Far above what a start takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn by_vault(fake: &Fake, more: &str) -> Site {
    let site = Site::with(&format!(
        r#"
[node]
hostname = "node01"
addresses = ["10.0.0.11"]
[ca.etcd]
tls.file = "/etc/nodecert/tls.pem"
anchors.file = "/etc/nodecert/anchors.pem"
[ca.etcd.vault]
urls = ["{url}"]
mount = "{MOUNT}"
role = "{ROLE}"
auth = [{{ token = "{TOKEN}" }}]
[certificate.web]
ca = "etcd"
common_name = "node01"
dns = ["node01"]
directory = "/etc/web/pki"
{more}
"#,
        url = fake.url
    ));
    site.write("etc/nodecert/tls.pem", &fake.tls_pem());
    site.write("etc/nodecert/anchors.pem", &fake.anchors_pem());
    site
}

fn start(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Asks a run to end once it is where it is to be met; how it ended, and after how long.
fn ended(run: Child, signal: Signal, is_there: impl Fn() -> bool) -> (Output, Duration) {
    let began = Instant::now();
    while !is_there() {
        assert!(began.elapsed() < PATIENCE, "it does not get there");
        std::thread::sleep(Duration::from_millis(10));
    }
    let asked = Instant::now();
    kill(Pid::from_raw(run.id().cast_signed()), signal).unwrap();
    let output = run.wait_with_output().unwrap();
    (output, asked.elapsed())
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Within a second, with the word for "run again", no draft left and the lock given back.
fn is_clean(site: &Site, output: &Output, took: Duration) {
    assert_eq!(output.status.code(), TEMPORARY, "{}", said(output));
    assert!(said(output).contains("asked to end"), "{}", said(output));
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(drafts(site.root()), Vec::<PathBuf>::new());
    let lock = fs::File::open(site.path("run/nodecert/lock")).unwrap();
    lock.try_lock().expect("the lock is given back");
    println!("asked to end: gone after {} ms", took.as_millis());
}

#[test]
fn a_run_that_waits_for_an_answer_ends_at_once_and_the_old_set_stays_in_force() {
    let fake = Fake::start();
    let site = by_vault(&fake, "");
    assert!(site.nodecert(&["run"]).output().unwrap().status.success());
    let before = WEB_SET.find(site.root()).unwrap();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        fake.misbehave("/sign/", Fault::Hang, 1);
        fake.forget();
        let run = start(site.nodecert(&["run", "--force"]));
        let asked = || fake.asked().iter().any(|call| call.contains("/sign/"));
        let (output, took) = ended(run, signal, asked);
        is_clean(&site, &output, took);
        assert_eq!(WEB_SET.find(site.root()).unwrap(), before);
    }
    fake.behave();
    assert!(site.nodecert(&["run", "--force"]).output().unwrap().status.success());
    assert_ne!(WEB_SET.find(site.root()).unwrap(), before);
}

#[test]
fn a_run_that_is_to_ask_again_later_ends_at_once() {
    let fake = Fake::start();
    fake.misbehave("/sign/", Fault::Status(503, Some("30".to_owned()), "sealed"), usize::MAX);
    let site = by_vault(&fake, "");
    let run = start(site.nodecert(&["run"]));
    let (output, took) =
        ended(run, Signal::SIGTERM, || fake.asked().iter().any(|call| call.contains("/sign/")));
    is_clean(&site, &output, took);
    assert_eq!(WEB_SET.find(site.root()).unwrap(), None);
}

#[test]
fn what_failed_before_a_run_was_asked_to_end_is_told_for_there_is_no_report() {
    let fake = Fake::start();
    fake.misbehave("/sign/", Fault::Status(503, Some("30".to_owned()), "sealed"), usize::MAX);
    let other = format!(
        r#"
[ca.other]
anchors.file = "/etc/nodecert/anchors.pem"
tls.file = "/etc/nodecert/none.pem"
[ca.other.vault]
urls = ["{url}"]
mount = "{MOUNT}"
role = "{ROLE}"
auth = [{{ token = "{TOKEN}" }}]
[certificate.a]
ca = "other"
common_name = "node01"
directory = "/etc/a/pki"
"#,
        url = fake.url
    );
    let site = by_vault(&fake, &other);
    let run = start(site.nodecert(&["run"]));
    let (output, took) =
        ended(run, Signal::SIGINT, || fake.asked().iter().any(|call| call.contains("/sign/")));
    is_clean(&site, &output, took);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let of_a: Vec<_> = told.lines().filter(|line| line.contains(" a: ")).collect();
    assert!(
        matches!(of_a[..], [line] if line.contains("none.pem") && line.contains("ca.other.tls.file")),
        "{told}"
    );
}

#[test]
fn a_run_that_waits_for_another_ends_at_once() {
    let site = Site::with(LOCAL);
    assert!(site.nodecert(&["run"]).output().unwrap().status.success());
    let lock = fs::File::open(site.path("run/nodecert/lock")).unwrap();
    lock.lock().unwrap();
    let (run, began) = (start(site.nodecert(&["run"])), Instant::now());
    // Nothing shows that it waits; it has come so far by then.
    let (output, took) = ended(run, Signal::SIGTERM, || began.elapsed() > Duration::from_secs(1));
    drop(lock);
    is_clean(&site, &output, took);
}

#[test]
#[ignore = "mounts: run tests/all"]
fn a_hook_is_ended_with_all_that_it_started_and_stays_owed() {
    let hook = r#"hooks = [{ run = ["/bin/sh", "-c", "echo >>/first"] }, { run = ["/bin/sh", "-c", "test -e /calm && exit; echo $$ >>/hook; sleep 300 & echo $! >>/hook; wait"] }]"#;
    let fake = Fake::start();
    let site = by_vault(&fake, hook);
    let hooked = || site.read("hook").unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
    let run = start(site.live(&[], &["run"]));
    let (output, took) = ended(run, Signal::SIGTERM, || hooked().len() == 2);
    is_clean(&site, &output, took);
    // One that has ended and that no one has waited for has no command line, proc(5).
    let is_there = |pid: &String| !fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().is_empty();
    assert!(!hooked().iter().any(is_there), "{:?}", hooked());
    assert!(WEB_SET.find(site.root()).unwrap().is_some_and(|set| set.matches()), "the new set is in force");
    let debts = site.read("var/lib/nodecert/owed.json").unwrap();
    assert!(debts.contains("/hook") && !debts.contains("/first"), "what was done is not owed: {debts}");

    site.write("calm", "");
    let next = site.live(&[], &["run"]).output().unwrap();
    assert_eq!(next.status.code(), Some(0), "{}", said(&next));
    assert_eq!(site.read("var/lib/nodecert/owed.json"), None, "the next run did what was owed");
    assert_eq!((hooked().len(), site.read("first").unwrap().as_str()), (2, "\n"));
}

#[test]
fn a_secret_command_is_ended() {
    let fake = Fake::start();
    let site = by_vault(&fake, "");
    let configuration = site.read("etc/nodecert/config.toml").unwrap();
    let mark = site.path("started");
    let command = format!("{{ command = [\"/bin/sh\", \"-c\", \"touch {}; sleep 300\"] }}", mark.display());
    site.write("etc/nodecert/config.toml", &configuration.replace(&format!("\"{TOKEN}\""), &command));
    let run = start(site.nodecert(&["run"]));
    let (output, took) = ended(run, Signal::SIGTERM, || mark.exists());
    is_clean(&site, &output, took);
}
