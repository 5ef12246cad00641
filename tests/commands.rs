//! What the commands answer, and with which exit code: the contract that units, scripts and monitoring rely on.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod fake;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use nodecert::clock::Clock;
use nodecert::facts;
use nodecert::report::CertificateLine;
use nodecert::root::Root;
use nodecert::run::{self, World};
use serde_json::Value;
use tempfile::TempDir;

const CONFIGURATION: &str = r#"
[node]
hostname = "node01"
domain = "example.com"
addresses = ["10.0.0.11"]

[ca.lab.local]

[etcd]
ca = "lab"
cluster = { node01 = "10.0.0.11" }

[certificate.web]
ca = "lab"
common_name = "{{ fqdn }}"
dns = ["{{ fqdn }}"]
directory = "/etc/web/pki"
"#;

/// A CA whose file is not there.
const AWAY: &str = r#"
[node]
hostname = "node01"
addresses = ["10.0.0.11"]

[ca.etcd]
anchors.published = true
tls.file = "/etc/nodecert/none.pem"
[ca.etcd.vault]
urls = ["https://127.0.0.1:1"]
mount = "pki"
role = "node"
auth = [{ token = { file = "/etc/nodecert/token" } }]
"#;

struct Host {
    root: TempDir,
}

/// What a command answered.
struct Answer {
    exit: i32,
    out: String,
    err: String,
}

impl Host {
    fn new() -> Self {
        let host = Self { root: TempDir::new().unwrap() };
        host.put("etc/nodecert/config.toml", CONFIGURATION);
        host.put("etc/passwd", "root:x:0:0::/:\netcd:x:4242:4242::/:\n");
        host.put("etc/group", "root:x:0:\netcd:x:4242:\n");
        host
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    fn put(&self, below: &str, text: &str) {
        fs::create_dir_all(self.path(below).parent().unwrap()).unwrap();
        fs::write(self.path(below), text).unwrap();
    }

    fn nodecert(&self, words: &str) -> Answer {
        let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_nodecert"));
        command.arg("--root").arg(self.root.path()).env_remove("JOURNAL_STREAM").env_remove("NOTIFY_SOCKET");
        let output =
            command.args(words.split_whitespace()).timeout(Duration::from_secs(60)).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Answer { exit: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    fn json(&self, words: &str) -> Value {
        serde_json::from_str(&self.nodecert(&format!("{words} --format json")).out).unwrap()
    }
}

#[test]
fn plan_tells_by_its_exit_code_whether_there_is_something_to_do_and_changes_nothing() {
    let host = Host::new();
    let before = host.nodecert("plan --exit-code");
    assert_eq!(before.exit, 3);
    assert!(
        before.out.contains("obtain    web") && before.out.contains("write     /etc/etcd/etcd.yaml"),
        "{}",
        before.out
    );
    assert!(!host.path("var").exists() && !host.path("etc/web").exists());
    assert_eq!(host.nodecert("run").exit, 0);
    assert_eq!(host.nodecert("plan --exit-code").exit, 0);
}

#[test]
fn a_configuration_that_others_can_write_is_not_followed() {
    let host = Host::new();
    let config = host.path("etc/nodecert/config.toml");
    fs::set_permissions(&config, fs::Permissions::from_mode(0o646)).unwrap();
    let run = host.nodecert("run");
    assert_eq!(run.exit, 70);
    for words in ["others can write to ", "etc/nodecert/config.toml (mode 0646)", "chmod go-w it"] {
        assert!(run.err.contains(words), "{words}: {}", run.err);
    }
    assert!(!host.path("var").exists());
}

/// What a unit goes by: a start is passed over only by a word that is of now.
#[test]
fn plan_leaves_word_only_where_there_is_nothing_to_do() {
    let host = Host::new();
    let word = host.path("idle");
    let ask = || {
        fs::write(&word, "nothing to do, as of yesterday\n").unwrap();
        let plan = host.nodecert(&format!("plan --idle {}", word.display()));
        (plan.exit, fs::read_to_string(&word).ok())
    };
    assert_eq!(ask(), (0, None), "there is something to do");
    assert_eq!(host.nodecert("run").exit, 0);
    assert_eq!(ask(), (0, Some("nothing to do\n".to_owned())));
    fs::create_dir(host.path("var/lib/nodecert/owed.json")).unwrap();
    assert_eq!(ask(), (0, None), "what is owed is not known");
    fs::remove_dir(host.path("var/lib/nodecert/owed.json")).unwrap();
    host.put("etc/nodecert/config.d/fault.toml", "colour = \"red\"\n");
    assert_eq!(ask(), (78, None), "no one knows");
}

#[test]
fn run_with_only_touches_and_names_nothing_else() {
    let host = Host::new();
    let run = host.nodecert("run --only web");
    assert_eq!(run.exit, 0);
    assert!(run.out.contains("obtained  web") && !run.out.contains("etcd-server"), "{}", run.out);
    assert!(!host.path("etc/etcd/pki").exists());
    let component = host.nodecert("run --only etcd");
    assert!(component.out.contains("etcd-peer") && !component.out.contains("web "), "{}", component.out);
    host.put("etc/nodecert/config.d/10-admin.toml", "[admin]\nca = \"lab\"\n");
    let unknown = host.nodecert("run --only wbe");
    assert_eq!(unknown.exit, 2);
    assert_eq!(unknown.err.matches("admin").count(), 1, "its certificate has its name: {}", unknown.err);
    assert!(
        unknown.err.contains("no certificate or component wbe") && unknown.err.contains("web"),
        "{}",
        unknown.err
    );
}

#[test]
fn a_unit_may_start_when_its_certificates_and_files_are_there() {
    let host = Host::new();
    assert_eq!(host.nodecert("status --usable etcd").exit, 1);
    host.nodecert("run");
    assert_eq!(host.nodecert("status --usable etcd").exit, 0);
    fs::remove_file(host.path("etc/etcd/etcd.yaml")).unwrap();
    let gone = host.nodecert("status --usable etcd");
    assert_eq!(gone.exit, 1);
    assert!(gone.err.contains("etcd.yaml"), "{}", gone.err);
    assert_eq!(host.nodecert("status --usable web").exit, 0, "another's file is no matter");
}

#[test]
fn check_speaks_to_nagios_in_one_line_and_four_codes() {
    let host = Host::new();
    let critical = host.nodecert("status --check");
    assert_eq!((critical.exit, critical.out.lines().count()), (2, 1));
    assert!(critical.out.starts_with("NODECERT CRITICAL - ") && critical.out.contains("web is missing"));
    host.nodecert("run");
    let fine = host.nodecert("status --check");
    assert!(
        fine.exit == 0 && fine.out.starts_with("NODECERT OK - 3 certificates, the first expires in 89 d")
    );
    let key = fs::canonicalize(host.path("etc/web/pki/web.key")).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let warning = host.nodecert("status --check");
    assert!(warning.exit == 1 && warning.out.contains("mode 0644, not 0600"), "{}", warning.out);
    host.put("etc/nodecert/config.toml", "[nod]\n");
    let unknown = host.nodecert("status --check");
    assert!(unknown.exit == 3 && unknown.out.starts_with("NODECERT UNKNOWN - "), "{}", unknown.out);
}

#[test]
fn status_in_json_has_what_the_contract_lists() {
    let host = Host::new();
    host.nodecert("run");
    let status = host.json("status web");
    let web = &status["certificates"][0];
    for key in [
        "name",
        "ca",
        "state",
        "reason",
        "subject",
        "dns",
        "ips",
        "uris",
        "not_before",
        "not_after",
        "renew_after",
        "fingerprint",
        "paths",
    ] {
        assert!(!web[key].is_null(), "{key}");
    }
    assert_eq!((&web["name"], &web["state"]), (&"web".into(), &"valid".into()));
    assert_eq!(web["paths"]["key"], "/etc/web/pki/web.key");
    assert_eq!(status["node"]["fqdn"], "node01.example.com");
    assert!(status["owed"].as_array().is_some_and(Vec::is_empty));
    let run = host.json("run --force --only web");
    assert_eq!(
        (&run["certificates"][0]["action"], &run["certificates"][0]["changed"]),
        (&"obtain".into(), &true.into())
    );
    let failed = host.json("status nothing");
    assert_eq!(failed["exit"], 2);
}

#[test]
fn a_host_that_was_decommissioned_says_so_to_people_and_programs() {
    let host = Host::new();
    assert_eq!(host.nodecert("run").exit, 0);
    assert!(host.json("status")["decommissioned"].is_null());
    let farewell = host.nodecert("decommission node01");
    assert_eq!(farewell.exit, 0, "{}{}", farewell.out, farewell.err);
    assert!(!farewell.out.contains("operator of CA"), "an embedded CA has none: {}", farewell.out);
    let paths = farewell.out.split_whitespace().map(|word| word.trim_end_matches([',', ';', '.', ':']));
    let outside: Vec<_> = paths
        .filter(|word| word.starts_with('/') && !word.starts_with(host.root.path().to_str().unwrap()))
        .collect();
    assert!(outside.is_empty() && !farewell.out.contains("systemctl"), "{}", farewell.out);

    let said = "this host was decommissioned 20";
    assert!(host.nodecert("status").out.contains(said), "{}", host.nodecert("status").out);
    assert!(host.json("status")["decommissioned"].as_str().is_some_and(|since| since.starts_with("20")));
    let check = host.nodecert("status --check");
    assert!(check.exit == 2 && check.out.starts_with("NODECERT CRITICAL - this host was decommissioned 20"));
    for command in ["run", "plan", "plan --exit-code"] {
        let refused = host.nodecert(command);
        assert!(refused.exit == 78 && refused.err.contains(said), "{command}: {}", refused.err);
        let mark = host.path("var/lib/nodecert/decommissioned").display().to_string();
        assert!(refused.err.contains(&mark), "{}", refused.err);
    }
    assert_eq!(host.nodecert("status --usable").exit, 1);
    let file = host.path("nodecert.prom");
    host.nodecert(&format!("status --textfile {}", file.display()));
    let text = fs::read_to_string(&file).unwrap();
    let values: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(values, ["nodecert_decommissioned 1"], "nothing that an alert waits for");
}

#[test]
fn metrics_are_written_whole_for_the_textfile_collector() {
    let host = Host::new();
    host.nodecert("run");
    let file = host.path("nodecert.prom");
    assert_eq!(host.nodecert(&format!("status --textfile {}", file.display())).exit, 0);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("nodecert_certificate_usable{certificate=\"web\",ca=\"lab\"} 1\n"), "{text}");
    assert!(text.contains("# TYPE nodecert_certificate_not_after_seconds gauge\n"));
}

#[test]
fn metrics_tell_how_the_last_run_ended_also_when_it_failed() {
    let host = Host::new();
    let file = host.path("nodecert.prom");
    let value = |name: &str| {
        host.nodecert(&format!("status --textfile {}", file.display()));
        let text = fs::read_to_string(&file).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).map(str::to_owned);
        value.map(|value| value.parse::<u64>().unwrap())
    };
    assert_eq!(value("nodecert_last_run_exit_code"), None, "no run yet");
    host.nodecert("run");
    assert_eq!(value("nodecert_last_run_exit_code"), Some(0));
    let (ended, now) = (value("nodecert_last_run_time_seconds"), value("nodecert_status_time_seconds"));
    assert!(ended > Some(1_700_000_000) && ended <= now, "{ended:?} {now:?}");
    let config = host.path("etc/nodecert/config.toml");
    let good = fs::read_to_string(&config).unwrap();
    fs::write(&config, "[nonsense]").unwrap();
    assert_eq!(host.nodecert("run").exit, 78);
    fs::write(&config, good).unwrap();
    assert_eq!(value("nodecert_last_run_exit_code"), Some(78));
    assert_eq!(host.json("status")["last_run"]["exit"], 78);
}

/// What an alert names and the program does not write would never fire.
#[test]
fn every_metric_that_an_alert_names_is_written_by_the_program() {
    let host = Host::new();
    host.nodecert("run");
    let file = host.path("nodecert.prom");
    host.nodecert(&format!("status --textfile {}", file.display()));
    let written = fs::read_to_string(&file).unwrap();
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/monitoring/nodecert.rules.yml");
    let rules = fs::read_to_string(rules).unwrap();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let named: BTreeSet<_> =
        rules.split(|c| !is_name(c)).filter(|word| word.starts_with("nodecert_")).collect();
    assert!(named.len() >= 7, "{named:?}");
    for name in named {
        let has = |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        assert!(written.lines().any(has), "{name} is not in\n{written}");
    }
}

#[test]
fn facts_say_where_each_was_found() {
    let host = Host::new();
    let facts = host.json("facts");
    assert_eq!(facts["fqdn"]["value"], "node01.example.com");
    assert_eq!(facts["hostname"]["source"], "[node] hostname");
}

#[test]
fn the_root_is_made_by_run_alone_and_a_missing_configuration_says_where_it_goes() {
    let scratch = TempDir::new().unwrap();
    let root = scratch.path().join("typo");
    let look = |command: &str| {
        let mut nodecert = assert_cmd::Command::new(env!("CARGO_BIN_EXE_nodecert"));
        nodecert.arg("--root").arg(&root).arg(command).output().unwrap()
    };
    assert_eq!(look("plan").status.code(), Some(70));
    assert!(!root.exists());
    let run = look("run");
    assert_eq!(run.status.code(), Some(78));
    let there = root.canonicalize().unwrap().join("etc/nodecert/config.toml");
    assert!(
        String::from_utf8_lossy(&run.stderr).contains(&format!("write {}, or", there.display())),
        "{run:?}"
    );
    let lost = Host::new().nodecert("plan --config nope.toml");
    assert_eq!(lost.exit, 78);
    assert!(lost.err.contains("there is no file nope.toml, which --config names"), "{}", lost.err);
}

#[test]
fn who_may_not_is_told_who_may() {
    let host = Host::new();
    let mut nobody = assert_cmd::Command::new("setpriv");
    nobody.args(["--reuid", "65534", "--clear-groups", env!("CARGO_BIN_EXE_nodecert"), "run", "--root"]);
    let run = nobody.arg(host.root.path()).output().unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(70), "{said}");
    assert!(said.contains("(run this as root, or with --root below a directory of your own)"), "{said}");
}

#[test]
fn who_may_not_read_the_state_is_told_what_there_is_all_the_same() {
    let host = Host::new();
    assert_eq!(host.nodecert("run").exit, 0);
    fs::set_permissions(host.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    for (command, said) in
        [("plan", "keep      /etc/etcd/etcd.yaml"), ("status", "current       /etc/etcd/etcd.yaml")]
    {
        let mut nobody = assert_cmd::Command::new("setpriv");
        nobody.args([
            "--reuid",
            "65534",
            "--clear-groups",
            env!("CARGO_BIN_EXE_nodecert"),
            command,
            "--root",
        ]);
        let asked = nobody.arg(host.root.path()).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&asked.stdout), String::from_utf8_lossy(&asked.stderr));
        assert!(out.contains(said) && !err.contains("cannot go on"), "{command}: {out}{err}");
    }
}

#[test]
fn a_configuration_is_read_through_a_link_that_leads_elsewhere() {
    let host = Host::new();
    host.put("elsewhere/real.toml", CONFIGURATION);
    std::os::unix::fs::symlink(host.path("elsewhere/real.toml"), host.path("link.toml")).unwrap();
    let link = host.path("link.toml");
    assert_eq!(host.nodecert(&format!("plan --config {}", link.display())).exit, 0);
    assert_eq!(host.nodecert("plan --config /nonexistent.toml").exit, 78);
}

#[test]
fn trust_shows_what_a_server_presents_and_sends_it_nothing() {
    let host = Host::new();
    let fake = fake::Fake::start();
    let shown = host.nodecert(&format!("trust {}/{}", fake.url, fake::MOUNT));
    assert_eq!(shown.exit, 0);
    assert!(
        shown.out.contains("NOT VERIFIED")
            && shown.out.contains("tls.pins = [\"sha256:")
            && shown.out.contains("anchors.pins")
    );
    assert!(!shown.out.contains("gone with its renewal"), "its CA stands above it: {}", shown.out);
    assert_eq!(fake.asked(), [format!("GET /v1/{}/ca_chain", fake::MOUNT)]);
    assert_eq!(host.nodecert("trust http://127.0.0.1:1").exit, 2);
    let nobody = host.nodecert("trust https://127.0.0.1:1");
    assert_eq!(nobody.exit, 75);
    assert!(nobody.err.contains("https://127.0.0.1:1") && !nobody.err.contains("reqwest"), "{}", nobody.err);
    assert!(nobody.err.contains("is it the right port? Vault listens on 8200"), "{}", nobody.err);
}

/// A host that asks the fake, with these changes to what is right.
fn of_vault(fake: &fake::Fake, changes: &[(&str, &str)]) -> Host {
    let host = Host::new();
    let mut text = VAULT.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replacen(from, to, 1);
    }
    for (from, to) in [("URL", fake.url.as_str()), ("MOUNT", fake::MOUNT), ("ROLE", fake::ROLE)] {
        text = text.replace(from, to);
    }
    host.put("etc/nodecert/config.toml", &text);
    host.put("etc/nodecert/vault-ca.pem", &fake.tls_pem());
    host.put("etc/nodecert/token", fake::TOKEN);
    fs::set_permissions(host.path("etc/nodecert/token"), fs::Permissions::from_mode(0o600)).unwrap();
    host
}

const VAULT: &str = r#"[node]
hostname = "node01"
addresses = ["10.0.0.11"]
[ca.etcd]
tls.file = "/etc/nodecert/vault-ca.pem"
anchors.published = true
[ca.etcd.vault]
urls = ["URL"]
mount = "MOUNT"
role = "ROLE"
auth = [{ token = { file = "/etc/nodecert/token" } }]
[certificate.web]
ca = "etcd"
common_name = "node01"
dns = ["node01"]
directory = "/etc/web/pki"
"#;

#[test]
fn a_fault_names_the_setting_that_is_behind_it_and_where_it_stands() {
    let fake = fake::Fake::start();
    let role = ("role = \"ROLE\"\n", "");
    for (changes, line, setting) in [
        (vec![("URL", "https://127.0.0.1:1")], 8, "ca.etcd.vault.urls"),
        (vec![("MOUNT", "nope")], 9, "ca.etcd.vault.mount"),
        (vec![("ROLE", "nope")], 10, "ca.etcd.vault.role"),
        (vec![role, ("ca = \"etcd\"\n", "ca = \"etcd\"\nrole = \"nope\"\n")], 13, "certificate.web.role"),
        (
            vec![
                role,
                (
                    "[certificate.web]\n",
                    "[etcd]\nca = \"etcd\"\nrole = \"nope\"\npeer_role = \"nope\"\ncluster = { node01 = \"10.0.0.11\" }\n[certificate.web]\nrole = \"ROLE\"\n",
                ),
            ],
            14,
            "etcd.peer_role",
        ),
        (vec![("vault-ca.pem", "none.pem")], 5, "ca.etcd.tls.file"),
        (vec![("anchors.published = true", "anchors.file = \"/none.pem\"")], 6, "ca.etcd.anchors.file"),
        (vec![("nodecert/token", "nodecert/none")], 11, "ca.etcd.vault.auth"),
        (
            vec![("anchors.published = true", "anchors.file = \"/etc/nodecert/vault-ca.pem\"")],
            6,
            "ca.etcd.anchors",
        ),
        (vec![("dns = ", "owner = \"wbe\"\ndns = ")], 15, "certificate.web.owner"),
    ] {
        let host = of_vault(&fake, &changes);
        let run = host.nodecert("run --deadline 1s");
        let place = format!("({}:{line}, {setting})", host.path("etc/nodecert/config.toml").display());
        assert!(run.exit != 0 && run.out.contains(&place), "{place} in\n{}", run.out);
    }
}

#[test]
fn a_fault_is_told_once_by_hand_and_a_wait_when_it_begins() {
    let fake = fake::Fake::start();
    let count =
        |answer: &Answer, part: &str| [&answer.out, &answer.err].map(|text| text.matches(part).count());
    let refused = of_vault(&fake, &[("ROLE", "nope")]);
    let (run, why) = (refused.nodecert("run"), "unknown role");
    assert_eq!(count(&run, why), [1, 0], "{}{}", run.out, run.err);
    assert_eq!(count(&refused.nodecert("run -v"), why), [1, 1]);
    // Who reads JSON with a program reads the faults on stderr.
    assert_eq!(count(&refused.nodecert("run --format json"), why), [1, 1]);

    let away = of_vault(&fake, &[("URL", "https://127.0.0.1:1")]);
    let waited = away.nodecert("run --deadline 3s");
    assert_eq!(waited.exit, 75);
    assert_eq!(count(&waited, "127.0.0.1:1: "), [1, 1], "{}{}", waited.out, waited.err);
    assert!(away.nodecert("run --deadline 3s -v").err.matches("; next try in ").count() > 2);
}

/// The server's end of TLS on a port of its own: the alert internal_error, RFC 8446, 6.2.
#[test]
fn who_answers_with_an_alert_may_be_the_wrong_port() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::io::Write::write_all(&mut &stream, b"\x15\x03\x03\x00\x02\x02\x50").ok();
        }
    });
    let host = of_vault(&fake::Fake::start(), &[("URL", &url)]);
    let run = host.nodecert("run --deadline 1s");
    assert!(run.exit == 75 && run.out.contains("InternalError; is it the right port?"), "{}", run.out);
}

/// By the time of this thread on a processor: the square of their number would be sixteen times as much.
#[test]
fn four_times_as_many_failures_are_explained_in_not_more_than_eight_times_the_time() {
    let certificate = |n| {
        format!(
            "[certificate.web{n}]\nca = \"etcd\"\ncommon_name = \"node01\"\ndirectory = \"/etc/web{n}\"\n"
        )
    };
    let explained = |count: usize| {
        let host = Host::new();
        let certificates: String = (0..count).map(certificate).collect();
        host.put("etc/nodecert/config.toml", &format!("{AWAY}{certificates}"));
        let world = World {
            root: Arc::new(Root::open(host.root.path()).unwrap()),
            host: facts::Host::live().unwrap(),
            clock: Clock::system(),
            tells: false,
            config: None,
        };
        let spent = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
        let before = spent();
        let report = run::plan(&run::survey(&world, false).unwrap(), &world, &[]).unwrap();
        let took = spent() - before;
        let why = |line: &&CertificateLine| {
            line.trouble
                .as_ref()
                .is_some_and(|trouble| trouble.message.contains("config.toml:8, ca.etcd.tls.file"))
        };
        assert_eq!(report.certificates.iter().filter(why).count(), count, "{}", report.plan());
        took
    };
    let (few, many) = (explained(100), explained(400));
    assert!(many < 8 * few, "100 in {few:?}, 400 in {many:?}");
}

#[test]
fn plan_says_what_the_run_will_be_refused_for_all_at_once_and_names_the_table_of_replace() {
    let fake = fake::Fake::start();
    let web = (
        "directory = \"/etc/web/pki\"\n",
        "directory = \"/etc/web/pki\"\nfiles = { cert = \"web.crt\", key = \"web.key\", chain = \"chain.crt\" }\n[etcd]\nca = \"etcd\"\ncluster = { node01 = \"10.0.0.11\" }\n[file.motd]\npath = \"/etc/motd\"\ntemplate = \"/etc/motd.tpl\"\n",
    );
    let host = of_vault(&fake, &[web]);
    for foreign in [
        "etc/web/pki/web.crt",
        "etc/web/pki/chain.crt",
        "etc/etcd/etcd.yaml",
        "etc/motd",
        "etc/etcd/pki/peer.key",
    ] {
        host.put(foreign, "someone else's");
    }
    host.put("etc/motd.tpl", "{{ hostname }}");
    let config = host.path("etc/nodecert/config.toml").display().to_string();
    let shown = |below: &str| host.path(below).display().to_string();
    let tables = [
        (
            format!("{}, {} were not", shown("etc/web/pki/chain.crt"), shown("etc/web/pki/web.crt")),
            format!("({config}:12, certificate.web)"),
        ),
        (
            format!("{} was not", shown("etc/etcd/pki/peer.key")),
            "(in a table [certificate.etcd-peer])".to_owned(),
        ),
        (format!("{} was not", shown("etc/etcd/etcd.yaml")), format!("({config}:18, etcd)")),
        (format!("{} was not", shown("etc/motd")), format!("({config}:21, file.motd)")),
    ];
    for (command, word) in [("plan", "blocked "), ("run", "failed ")] {
        let said = host.nodecert(command);
        assert_eq!(said.exit, 70, "{}", said.out);
        for (foreign, table) in &tables {
            let line = said
                .out
                .lines()
                .find(|line| line.contains(foreign))
                .unwrap_or_else(|| panic!("{foreign}: {}", said.out));
            assert!(line.starts_with(word) && line.ends_with(table), "{table}: {line}");
        }
    }
    assert_eq!(host.nodecert("plan --exit-code").exit, 3);
    let plan = host.json("plan");
    let web = plan["certificates"].as_array().unwrap().iter().find(|line| line["name"] == "web").unwrap();
    assert_eq!((&web["action"], &web["exit"]), (&"blocked".into(), &70.into()));
}

#[test]
fn status_says_that_a_file_is_someone_elses_and_what_stands_in_the_way_of_a_directory() {
    let host = Host::new();
    host.put("etc/web/pki/web.crt", "someone else's");
    let shown = |below: &str| host.path(below).display().to_string();
    let foreign = format!("{} was not written by nodecert; set replace = true", shown("etc/web/pki/web.crt"));
    let status = host.nodecert("status web");
    assert!(status.out.lines().next().unwrap().contains(&foreign), "{}", status.out);
    assert!(host.nodecert("status --check").out.contains(&foreign));

    fs::remove_dir_all(host.path("etc/web")).unwrap();
    host.put("etc/web", "");
    let barred =
        format!("{} (something else stands where a directory belongs: move it away", shown("etc/web"));
    for command in ["status web", "status --check", "plan --only web", "run"] {
        let said = host.nodecert(command);
        assert!(said.out.contains(&barred), "{command}: {}", said.out);
        assert_eq!(said.err.matches("a directory belongs").count(), 0, "{command}: {}", said.err);
    }
    let run = host.nodecert("run");
    assert_eq!((run.exit, run.out.matches(&barred).count()), (70, 1), "{}", run.out);
}

#[test]
fn plan_says_that_a_ca_file_is_missing_and_that_a_directory_is_read_only() {
    let fake = fake::Fake::start();
    let lost = of_vault(&fake, &[("vault-ca.pem", "none.pem")]);
    let plan = lost.nodecert("plan");
    assert_eq!(plan.exit, 75, "{}", plan.out);
    let why = "names LOST, and there is no such file"
        .replace("LOST", &lost.path("etc/nodecert/none.pem").display().to_string());
    assert!(plan.out.starts_with("blocked   web") && plan.out.contains(&why), "{}", plan.out);
    assert!(plan.out.contains("blocked   /etc/web/pki/ca.crt"), "{}", plan.out);

    let host = of_vault(&fake, &[]);
    fs::create_dir_all(host.path("etc/web")).unwrap();
    let script = "mount --bind \"$1/etc/web\" \"$1/etc/web\" && mount -o remount,bind,ro \"$1/etc/web\" && exec \"$0\" --root \"$1\" plan";
    let mut command = assert_cmd::Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_nodecert")]).arg(host.root.path());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(70), "{output:?}");
    let why = format!("cannot write in {}", host.path("etc/web").display());
    assert!(said.lines().all(|line| line.starts_with("blocked ")), "{said}");
    assert!(said.contains(&why) && said.contains("Read-only file system"), "{said}");
}

#[test]
fn plan_says_that_a_first_run_finds_no_secret_or_someone_elses_file_and_ends_as_that_run_does() {
    let fake = fake::Fake::start();
    for (mode, exit, words) in
        [(None, 75, "there is no file"), (Some(0o644), 70, "its mode 0644 lets others in")]
    {
        let host = of_vault(&fake, &[]);
        let token = host.path("etc/nodecert/token");
        match mode {
            Some(mode) => fs::set_permissions(&token, fs::Permissions::from_mode(mode)).unwrap(),
            None => fs::remove_file(&token).unwrap(),
        }
        let place = format!("({}:11, ca.etcd.vault.auth)", host.path("etc/nodecert/config.toml").display());
        for (command, word) in [("plan", "blocked   web"), ("run", "failed    web")] {
            let said = host.nodecert(command);
            assert_eq!(said.exit, exit, "{command}: {}", said.out);
            let line = said.out.lines().find(|line| line.starts_with(word)).unwrap_or_default();
            assert!(line.contains(words) && line.ends_with(&place), "{command}: {}", said.out);
        }
    }
    for (stands, exit) in [("someone else's", 70), ("", 70)] {
        let host = of_vault(&fake, &[]);
        host.put("etc/web/pki/ca.crt", stands);
        for (command, word) in [("plan", "blocked   "), ("run", "failed    ")] {
            let (said, path) = (host.nodecert(command), host.path("etc/web/pki/ca.crt"));
            assert_eq!(said.exit, exit, "{command}: {}", said.out);
            let line = said.out.lines().find(|line| line.contains("ca.crt")).unwrap_or_default();
            assert!(line.starts_with(word), "{command}: {}", said.out);
            assert!(line.contains(&format!("{} was not written by nodecert", path.display())), "{line}");
        }
    }
    let host = of_vault(&fake, &[]);
    fs::create_dir_all(host.path("var/lib")).unwrap();
    fs::set_permissions(host.path("var/lib"), fs::Permissions::from_mode(0o777)).unwrap();
    for command in ["plan", "run"] {
        let said = host.nodecert(command);
        let barred = format!("others can write to {}", host.path("var/lib").display());
        assert!(said.exit == 70 && said.out.contains(&barred), "{command}: {}", said.out);
    }
    let host = of_vault(&fake, &[]);
    host.put("etc/web/pki/ca.crt", &fake.anchors_pem());
    assert_eq!(host.nodecert("plan").exit, 0, "it may be what the CA publishes");
    assert_eq!(host.nodecert("run").exit, 0);
}

/// A CA certificate whose time was over in 2001.
fn expired_ca() -> String {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "old CA");
    (params.not_before, params.not_after) =
        (rcgen::date_time_ymd(2000, 1, 1), rcgen::date_time_ymd(2001, 1, 1));
    params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
}

#[test]
fn a_ca_certificate_that_has_expired_is_said_with_its_file_and_date() {
    let fake = fake::Fake::start();
    let host = of_vault(&fake, &[]);
    host.put("etc/nodecert/vault-ca.pem", &expired_ca());
    let file = host.path("etc/nodecert/vault-ca.pem").display().to_string();
    for command in ["plan", "run"] {
        let said = host.nodecert(command);
        assert_eq!(said.exit, 75, "{}", said.out);
        let named = said.out.contains(&format!("tls.file names {file}"));
        assert!(named && said.out.contains("old CA\" in it expired 2001-01-01T00:00:00Z"), "{}", said.out);
    }
    assert_eq!(fake.asked(), Vec::<String>::new(), "by what has expired no server is known");

    let anchors = ("anchors.published = true", "anchors.file = \"/etc/nodecert/anchors.pem\"");
    let host = of_vault(&fake, &[anchors]);
    host.put("etc/nodecert/anchors.pem", &(fake.anchors_pem() + &expired_ca()));
    let run = host.nodecert("run");
    assert_eq!(run.exit, 0, "{}", run.out);
    assert!(run.out.contains("note      CA etcd: \"C"), "{}", run.out);
    assert!(run.out.contains("old CA\" expired 2001-01-01T00:00:00Z"), "{}", run.out);
}

/// A crontab that wants to hear of faults alone.
#[test]
fn a_report_that_no_one_reads_leaves_the_faults_on_stderr() {
    let fake = fake::Fake::start();
    let host = of_vault(&fake, &[("ROLE", "nope")]);
    let shell = "exec \"$0\" --root \"$1\" run >/dev/null";
    let mut command = assert_cmd::Command::new("sh");
    command.args(["-c", shell, env!("CARGO_BIN_EXE_nodecert")]).arg(host.root.path());
    let output = command.env_remove("JOURNAL_STREAM").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("unknown role"), "{output:?}");
}

#[test]
fn man_page_and_completions_come_from_the_same_source() {
    let host = Host::new();
    assert!(host.nodecert("man").out.contains(".TH nodecert 1"));
    assert!(host.nodecert("completions bash").out.contains("_nodecert()"));
}

/// A control plane and a worker on one host, and a key that another host makes.
const CONTROL_PLANE: &str = r#"
[node]
hostname = "cp2"
addresses = ["10.0.0.6"]
[ca.lab.local]
[kubernetes]
ca = "lab"
api_server = "https://10.0.0.6:6443"
service_cidr = "10.96.0.0/12"
etcd_servers = ["https://10.0.0.5:2379", "https://10.0.0.6:2379"]
[kube-apiserver]
[kube-controller-manager]
[kube-scheduler]
[kubelet]
[service-account]
generate = "cp1"
"#;

#[test]
fn who_signs_tokens_may_not_start_without_the_key_and_who_does_not_may() {
    let host = Host::new();
    host.put("etc/nodecert/config.toml", CONTROL_PLANE);
    let answer = host.nodecert("run");
    assert_eq!(answer.exit, 75, "{}", answer.err);
    assert!(answer.out.contains("sa.key is not there, and cp1 makes it"), "{}", answer.out);
    let usable = |component: &str| host.nodecert(&format!("status --usable {component}")).exit;
    let all = ["kube-apiserver", "kube-controller-manager", "service-account", "kube-scheduler", "kubelet"];
    assert_eq!(all.map(usable), [1, 1, 1, 0, 0]);
    assert_eq!(host.nodecert("run --only kubelet").exit, 0, "what it does not need is not its trouble");
    let key = nodecert::key::Key::generate(nodecert::identity::KeyKind::P256).unwrap();
    host.put("etc/kubernetes/pki/sa.key", key.pem());
    assert_eq!(host.nodecert("run").exit, 0);
    assert_eq!(all.map(usable), [0; 5]);
    fs::remove_file(host.path("etc/kubernetes/pki/sa.pub")).unwrap();
    assert_eq!(all.map(usable), [1, 1, 1, 0, 0], "nor without its public half");
}

#[test]
fn a_key_that_is_given_replaces_a_damaged_or_another_one_with_its_public_half() {
    let host = Host::new();
    let given = "key = { file = \"/etc/nodecert/sa\" }\nreplace = true";
    host.put("etc/nodecert/config.toml", &CONTROL_PLANE.replace("generate = \"cp1\"", given));
    let path = |file: &str| host.path(&format!("etc/kubernetes/pki/{file}"));
    let mut halves = Vec::new();
    for before in [None, Some("rubbish"), None] {
        let key = nodecert::key::Key::generate(nodecert::identity::KeyKind::P256).unwrap();
        host.put("etc/nodecert/sa", key.pem());
        fs::set_permissions(host.path("etc/nodecert/sa"), PermissionsExt::from_mode(0o600)).unwrap();
        before.iter().for_each(|text| fs::write(path("sa.key"), text).unwrap());
        let answer = host.nodecert("run");
        assert_eq!(answer.exit, 0, "{}{}", answer.out, answer.err);
        assert!(fs::read_to_string(path("sa.key")).unwrap().starts_with(key.pem()));
        halves.push(fs::read(path("sa.pub")).unwrap());
        assert_eq!(answer.out.matches("sa.pub").count(), 1, "{}", answer.out);
    }
    assert!(halves[0] != halves[1] && halves[1] != halves[2], "each has its own");
}

#[test]
fn what_was_made_once_is_never_made_again() {
    let host = Host::new();
    let named = CONTROL_PLANE.replace("[kube-apiserver]", "[kube-apiserver]\n[kube-apiserver.tokens.a]\ngenerate = \"cp2\"\nkubeconfig = \"/etc/kubernetes/a.conf\"\n[kube-apiserver.encryption]\ngenerate = \"cp2\"");
    host.put(
        "etc/nodecert/config.toml",
        &named.replace("generate = \"cp1\"", "generate = true\nkind = \"p256\""),
    );
    assert_eq!(host.nodecert("run").exit, 75, "the first of etcd_servers makes the key");
    host.put("etc/nodecert/config.toml", &named.replace("\"cp1\"", "\"cp2\"\nkind = \"p256\""));
    let files = ["pki/sa.key", "tokens.csv", "a.conf", "encryption.yaml"]
        .map(|file| format!("etc/kubernetes/{file}"));
    let said = host.nodecert("run");
    assert_eq!(said.exit, 0, "{}", said.err);
    let read = || files.clone().map(|file| fs::read_to_string(host.path(&file)).unwrap());
    let first = read();
    for file in &files {
        assert_eq!(fs::metadata(host.path(file)).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
    let token = first[1].split(',').next().unwrap();
    assert!(token.len() == 32 && first[2].contains(token), "{first:?}");
    assert!(![&said.out, &said.err].iter().any(|text| text.contains(token)), "a token is shown nowhere");

    host.nodecert("run --force");
    files.iter().for_each(|file| fs::remove_file(host.path(file)).unwrap());
    assert_eq!(host.nodecert("run").exit, 0);
    assert_eq!(read(), first, "what was lost at its place comes back as it was");

    // The state is gone, and what was made with it is not.
    fs::remove_dir_all(host.path("var/lib/nodecert/keepsakes")).unwrap();
    fs::remove_file(host.path("etc/kubernetes/pki/sa.key")).unwrap();
    let lost = host.nodecert("run");
    assert_eq!(lost.exit, 78, "{}", lost.err);
    for trace in ["sa.pub is, which was made with it", "encryption.yaml is, which was made with it"] {
        assert!(lost.out.contains(trace), "{}", lost.out);
    }
    assert_eq!(fs::read_to_string(host.path("etc/kubernetes/encryption.yaml")).unwrap(), first[3]);
}
