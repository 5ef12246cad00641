//! nodecert against a real puppetserver: each way in which a Puppet CA says yes, no, not yet and nothing.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod bed;

use bed::{
    Autosign, Host, Openbao, Outcome, PASSWORD, PuppetConfig, PuppetRelease, Puppetserver, Renewal, blocks,
    eventually, fingerprint, inspect, must,
};
use reqwest::Method;
use serde_json::json;
use std::process::Command;
use std::sync::LazyLock;

const CERT: &str = "/etc/web/pki/web.crt";
const KEY: &str = "/etc/web/pki/web.key";
const ANCHORS: &str = "/etc/web/pki/ca.crt";

/// A host with one certificate under `certname`, and `more` keys of it.
fn host(server: &Puppetserver, certname: &str, more: &str) -> Host {
    let host = Host::new();
    configure(&host, &ca(server, ""), certname, more);
    host
}

fn configure(host: &Host, ca: &str, certname: &str, more: &str) {
    host.configure(&format!(
        r#"{ca}
[node]
hostname = "node01"
domain = "example.com"
addresses = ["10.99.0.11"]

[certificate.web]
ca = "site"
common_name = "{certname}"
directory = "/etc/web/pki"
{more}
"#
    ));
}

/// The CA of a configuration, vouched for by the fingerprint of its root.
fn ca(server: &Puppetserver, more: &str) -> String {
    format!(
        "[ca.site]\ntls.pins = [\"{}\"]\n[ca.site.puppet]\nurl = \"{}\"\n{more}\n",
        server.pin(),
        server.url
    )
}

const NAMES: &str = "dns = [\"{{ hostname }}\", \"{{ fqdn }}\"]\nips = [\"{{ addresses }}\"]";

/// What an outsider can check: openssl follows the chain from the trust file alone, for both usages, and
/// the key is the certificate's.
#[track_caller]
fn is_verified(host: &Host, server: &Puppetserver) {
    for purpose in ["sslserver", "sslclient"] {
        let mut command = Command::new("openssl");
        command.args(["verify", "-no-CApath", "-no-CAstore", "-purpose", purpose, "-CAfile"]);
        must(command.arg(host.path(ANCHORS)).arg("-untrusted").arg(host.path(CERT)).arg(host.path(CERT)));
    }
    let public =
        |arguments: &[&str], file: &str| must(Command::new("openssl").args(arguments).arg(host.path(file)));
    assert_eq!(public(&["x509", "-noout", "-pubkey", "-in"], CERT), public(&["pkey", "-pubout", "-in"], KEY));
    assert_eq!(blocks(&host.read(ANCHORS)), blocks(&server.root_pem()), "the pinned root and nothing else");
    assert_eq!(blocks(&host.read(CERT))[1..], blocks(&server.ca_pem())[..1], "leaf and intermediate");
}

/// Puppet Server 8, the one that renews. These come first in the order of their names, so that the one server
/// starts beside the other.
mod a_later_release_renews {
    use super::*;

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn and_keeps_key_and_names_and_blocks_new_ones() {
        let release = PuppetRelease::V8;
        let server = Puppetserver::with(PuppetConfig { release, ..PuppetConfig::default() });
        let host = host(&server, "renewed.example.com", NAMES);
        host.nodecert("run").exits(0);
        is_verified(&host, &server);
        let (first, key) = (inspect(&host.path(CERT)), host.read(KEY));
        host.nodecert("run --force").exits(0);
        is_verified(&host, &server);
        let second = inspect(&host.path(CERT));
        assert_ne!(second.fingerprint, first.fingerprint);
        assert_eq!((host.read(KEY), &second.ips), (key, &first.ips));
        assert!(second.not_after < first.not_after, "ten days, as its configuration says");
        host.nodecert("run").exits(0).says("nothing to do");

        let more = "dns = [\"more.example.com\"]";
        configure(&host, &ca(&server, ""), "renewed.example.com", more);
        let clean = "puppetserver ca clean --certname renewed.example.com";
        host.nodecert("plan").says("blocked").says(clean);
        host.nodecert("run").exits(77).says(clean);
        assert_eq!(inspect(&host.path(CERT)).fingerprint, second.fingerprint);
    }

    /// What is in force stays, and the message names what is needed.
    fn stays(renewal: Renewal, certname: &str, needed: &str) {
        let config = PuppetConfig { release: PuppetRelease::V8, renewal, ..PuppetConfig::default() };
        let server = Puppetserver::with(config);
        let host = host(&server, certname, NAMES);
        host.nodecert("run").exits(0);
        is_verified(&host, &server);
        let before = host.snapshot("/etc/web");
        for _ in 0..2 {
            let told = host.nodecert("run --force").exits(77).says(needed).says("stays until");
            told.says(&format!("puppetserver ca clean --certname {certname}"));
        }
        assert_eq!(host.snapshot("/etc/web"), before);
        host.nodecert("status --usable web").exits(0);
        host.nodecert("run").exits(0).says("nothing to do");
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn unless_it_is_switched_off() {
        stays(
            Renewal::Off,
            "off.example.com",
            "(404 Not Found): that needs Puppet Server 8 or later with allow-auto-renewal: true",
        );
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn unless_no_client_certificate_reaches_it() {
        stays(Renewal::Unseen, "unseen.example.com", "client-auth: want");
    }
}

mod all_is_signed {
    use super::*;

    fn server() -> Puppetserver {
        Puppetserver::with(PuppetConfig { ..PuppetConfig::default() })
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn a_certificate_has_its_names_and_a_second_run_changes_nothing() {
        let server = server();
        let host = host(&server, "Web.node01.example.com", NAMES);
        host.nodecert("run").exits(0);
        is_verified(&host, &server);
        let leaf = inspect(&host.path(CERT));
        assert_eq!(
            (leaf.subject.as_str(), leaf.ips.as_slice()),
            ("CN=web.node01.example.com", &["10.99.0.11".to_owned()][..])
        );
        assert!(
            leaf.dns.contains(&"node01.example.com".to_owned()) && leaf.dns.contains(&"node01".to_owned())
        );
        let before = host.snapshot("/etc");
        host.nodecert("run").exits(0).says("nothing to do");
        assert_eq!(host.snapshot("/etc"), before);
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn hosts_that_enrol_at_the_same_time_are_all_signed() {
        let server = server();
        let hosts: Vec<_> =
            (0..8).map(|nth| host(&server, &format!("crowd{nth}.example.com"), NAMES)).collect();
        let runs: Vec<_> = hosts.iter().map(|host| host.start_nodecert("run --deadline 100s")).collect();
        for (run, host) in runs.into_iter().zip(&hosts) {
            Outcome::wait(run).exits(0);
            is_verified(host, &server);
        }
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn other_pins_are_refused_before_anything_is_sent() {
        let server = server();
        let host = Host::new();
        let other = ca(&server, "").replace(&server.pin()[7..20], "0000000000000");
        configure(&host, &other, "unpinned.example.com", "");
        host.nodecert("run").exits(77).says(&server.pin()).says("tls.pins");
        assert!(server.get("certificate/unpinned.example.com").is_empty());
        assert!(!host.path(CERT).exists());
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn a_file_with_the_root_alone_vouches_for_the_intermediate() {
        let server = server();
        let host = Host::new();
        host.write("/etc/nodecert/puppet-ca.pem", &server.root_pem());
        let by_file = ca(&server, "").replace(
            &format!("tls.pins = [\"{}\"]", server.pin()),
            "anchors.file = \"/etc/nodecert/puppet-ca.pem\"",
        );
        configure(&host, &by_file, "by-file.example.com", "");
        host.nodecert("run").exits(0);
        is_verified(&host, &server);
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn the_first_use_is_said_on_every_run_until_the_root_is_pinned() {
        let server = server();
        let host = Host::new();
        let unseen =
            ca(&server, "first_use = true").replace(&format!("tls.pins = [\"{}\"]", server.pin()), "");
        configure(&host, &unseen, "first.example.com", "");
        let line = format!("tls.pins = [\"{}\"]", server.pin());
        host.nodecert("run").exits(0).says("first_use").says(&line);
        is_verified(&host, &server);
        host.nodecert("run").exits(0).says("first_use").says(&line);
        configure(&host, &ca(&server, ""), "first.example.com", "");
        let quiet = host.nodecert("run").exits(0);
        assert!(!quiet.stdout.contains("first_use"), "{quiet:?}");
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn trust_prints_the_pin_of_the_root() {
        let server = server();
        let printed = Host::new().nodecert(&format!("trust {}", server.url)).exits(0);
        printed.says(&format!("tls.pins = [\"{}\"]", server.pin()));
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn extensions_are_in_the_certificate_by_name_and_by_number() {
        let server = server();
        let host = Host::new();
        let extended =
            ca(&server, "extensions = { pp_role = \"etcd\", \"1.3.6.1.4.1.34380.1.2.7\" = \"rack 9\" }");
        configure(&host, &extended, "extended.example.com", "");
        host.nodecert("run").exits(0);
        let text =
            must(Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(host.path(CERT)));
        for (number, value) in [("1.3.6.1.4.1.34380.1.1.13", "etcd"), ("1.3.6.1.4.1.34380.1.2.7", "rack 9")] {
            let rest = text.split(number).nth(1).unwrap_or_else(|| panic!("no {number} in {text}"));
            assert!(rest.lines().nth(1).unwrap().contains(value), "{rest}");
        }
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn every_kind_of_key_is_signed() {
        let server = server();
        for kind in ["p256", "p384", "ed25519", "rsa2048"] {
            let host = host(&server, &format!("{kind}.example.com"), &format!("key = \"{kind}\""));
            host.nodecert("run").exits(0);
            is_verified(&host, &server);
        }
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn a_name_that_another_key_has_is_refused_until_it_is_freed() {
        let server = server();
        host(&server, "taken.example.com", "").nodecert("run").exits(0);
        let again = host(&server, "taken.example.com", "");
        let told = again.nodecert("run --format json");
        assert_eq!(told.exits(77).json()["certificates"][0]["action"], json!("blocked"));
        again
            .nodecert("run")
            .exits(77)
            .says("another key")
            .says("puppetserver ca clean --certname taken.example.com");
        server.clean("taken.example.com");
        again.nodecert("run").exits(0);
        is_verified(&again, &server);
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn new_names_are_blocked_until_the_name_is_freed_and_the_old_certificate_stays() {
        let server = server();
        let host = host(&server, "names.example.com", "");
        host.nodecert("run").exits(0);
        let before = host.read(CERT);
        configure(&host, &ca(&server, ""), "names.example.com", NAMES);
        let planned = host.nodecert("plan --format json").exits(0).json();
        assert_eq!(planned["certificates"][0]["action"], json!("blocked"), "{planned}");
        let clean = "puppetserver ca clean --certname names.example.com";
        host.nodecert("plan").says("lacks the DNS name node01").says(clean);
        host.nodecert("run").exits(77).says(clean);
        assert_eq!(host.read(CERT), before);
        server.clean("names.example.com");
        host.nodecert("run").exits(0);
        is_verified(&host, &server);
        assert_eq!(inspect(&host.path(CERT)).ips, ["10.99.0.11"]);
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn a_server_that_renews_nothing_leaves_the_certificate_in_force_and_is_no_success() {
        let server = server();
        let host = host(&server, "due.example.com", "");
        host.nodecert("run").exits(0);
        let before = host.snapshot("/etc/web");
        host.nodecert("run --force").exits(77).says("allow-auto-renewal").says("stays until");
        assert_eq!(host.snapshot("/etc/web"), before);
        host.nodecert("status --usable web").exits(0);
        configure(&host, &ca(&server, ""), "due.example.com", "rotate_key = true");
        host.nodecert("run --force").exits(77).says("puppetserver ca clean --certname due.example.com");
        server.clean("due.example.com");
        host.nodecert("run --force").exits(0);
        is_verified(&host, &server);
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn the_revocation_list_lies_beside_the_certificate_and_is_heeded() {
        let server = server();
        let files = "files = { cert = \"web.crt\", key = \"web.key\", ca = \"ca.crt\", crl = \"crl.pem\" }";
        let host = host(&server, "crl.example.com", files);
        host.nodecert("run").exits(0);
        is_verified(&host, &server);
        assert_eq!(host.read("/etc/web/pki/crl.pem").matches("BEGIN X509 CRL").count(), 2);
        host.nodecert("run").exits(0).says("nothing to do");
        server.set("crl.example.com", "revoked");
        host.nodecert("run --force").exits(77).says("puppetserver ca clean --certname crl.example.com");
        let told = host.nodecert("status --format json").json();
        assert_eq!(told["certificates"][0]["state"], json!("revoked"), "{told}");
        host.nodecert("plan").says("its CA has revoked it");
        server.clean("crl.example.com");
        host.nodecert("run").exits(0);
        is_verified(&host, &server);
        host.nodecert("run").exits(0).says("nothing to do");
    }

    /// `puppet ACTION` of a host's own agent; its words.
    fn puppet(server: &Puppetserver, host: &Host, certname: &str, action: &str) -> String {
        must(&mut server.agent(&host.path("/puppet"), certname, action))
    }

    /// Where there is a user puppet, a puppet agent that root starts gives it all these files.
    const AGENT: &str = "ssldir = \"/puppet/ssl\"\nowner = \"puppet\"\ngroup = \"puppet\"";

    fn agents_host(server: &Puppetserver, certname: &str) -> Host {
        let host = host(server, certname, AGENT);
        for file in ["/etc/passwd", "/etc/group"] {
            let there = std::fs::read_to_string(file).unwrap();
            let own = there.lines().find(|line| line.starts_with("puppet:")).expect("the package's user");
            host.write(file, &format!("root:x:0:0:root:/root:/bin/sh\n{own}\n"));
        }
        host
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn a_puppet_agent_accepts_what_lies_in_its_directory() {
        let server = server();
        let host = agents_host(&server, "node01.example.com");
        host.nodecert("run").exits(0);
        is_verified(&host, &server);
        assert_eq!(
            host.mode("/puppet/ssl/private_keys/node01.example.com.pem").split(' ').next(),
            Some("640")
        );
        let said = puppet(&server, &host, "node01.example.com", "ssl verify");
        assert!(said.contains("Verified client certificate"), "{said}");
        // A whole run of it: with the certificate it gets a catalog, which here is empty.
        let run = "agent --test --noop --color=false";
        let said = puppet(&server, &host, "node01.example.com", run);
        assert!(said.contains("Applied catalog") && !said.contains("Creating a new"), "{said}");
        host.nodecert("run").exits(0).says("nothing to do");
        server.clean("node01.example.com");
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn what_a_puppet_agent_got_is_taken_over() {
        let server = server();
        let host = agents_host(&server, "enrolled.example.com");
        puppet(&server, &host, "enrolled.example.com", "ssl bootstrap --waitforcert 0");
        let theirs = host.read("/puppet/ssl/private_keys/enrolled.example.com.pem");
        configure(&host, &ca(&server, ""), "enrolled.example.com", &format!("{AGENT}\nkey = \"rsa4096\""));
        host.nodecert("run").exits(0).says("agent has it already");
        is_verified(&host, &server);
        assert_eq!(host.read(KEY), theirs);
        host.nodecert("run").exits(0).says("nothing to do");
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn an_etcd_member_has_one_certificate_for_clients_and_peers() {
        let server = server();
        let host = Host::new();
        host.configure(&format!(
            "{}\n[node]\nhostname = \"node01\"\ndomain = \"example.com\"\naddresses = [\"10.99.0.11\"]\n[etcd]\nca = \"site\"\ncluster = {{ node01 = \"10.99.0.11\" }}\n",
            ca(&server, "")
        ));
        host.nodecert("run").exits(0);
        let leaf = inspect(&host.path("/etc/etcd/pki/server.crt"));
        assert_eq!(leaf.subject, "CN=node01");
        assert!(leaf.ips.contains(&"10.99.0.11".to_owned()), "{leaf:?}");
        assert_eq!(host.read("/etc/etcd/etcd.yaml").matches("/etc/etcd/pki/server.crt").count(), 2);
        assert!(!host.path("/etc/etcd/pki/peer.crt").exists());
    }
}

/// Runs until it waits for a signature, and says so in `words`; a busy machine may not get that far in one.
fn waits(host: &Host, words: &str) -> Outcome {
    for _ in 0..10 {
        let run = host.nodecert("run --deadline 2s").exits(75);
        if run.stdout.contains(words) {
            return run;
        }
    }
    panic!("no run came to say {words:?}");
}

mod a_person_signs {
    use super::*;

    fn server() -> Puppetserver {
        Puppetserver::with(PuppetConfig { autosign: Autosign::Nothing, ..PuppetConfig::default() })
    }

    /// As `puppetserver ca list` shows it.
    fn shown(server: &Puppetserver, certname: &str) -> String {
        let digits = fingerprint(&server.stored(certname)).to_uppercase();
        digits
            .as_bytes()
            .chunks(2)
            .map(|pair| std::str::from_utf8(pair).unwrap())
            .collect::<Vec<_>>()
            .join(":")
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn a_signature_during_the_wait_is_seen() {
        let server = server();
        let host = host(&server, "waits.example.com", NAMES);
        let run = host.start_nodecert("run --deadline 60s");
        let shown = shown(&server, "waits.example.com");
        server.set("waits.example.com", "signed");
        let told = Outcome::wait(run).exits(0);
        is_verified(&host, &server);
        assert!(told.stderr.matches(&shown).count() <= 1, "{told:?}");
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn a_signature_between_two_runs_is_for_the_request_of_the_first() {
        let server = server();
        let host = host(&server, "later.example.com", NAMES);
        let sign = "puppetserver ca sign --certname later.example.com";
        let first = waits(&host, "ca sign --certname later.example.com").says(sign);
        let shown = shown(&server, "later.example.com");
        assert_eq!(
            (first.stderr.matches(&shown).count(), first.stdout.matches(&shown).count()),
            (1, 1),
            "once when the wait begins, once when it ends: {first:?}"
        );
        waits(&host, &shown);
        server.set("later.example.com", "signed");
        host.nodecert("run").exits(0);
        is_verified(&host, &server);
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn a_stored_request_of_another_host_or_with_other_names_is_not_waited_for() {
        let server = server();
        let first = host(&server, "stored.example.com", "");
        waits(&first, "ca sign --certname stored.example.com");
        let second = host(&server, "stored.example.com", "");
        let clean = "puppetserver ca clean --certname stored.example.com";
        second.nodecert("run --deadline 30s").exits(77).says("another key").says(clean);
        configure(&first, &ca(&server, ""), "stored.example.com", NAMES);
        first.nodecert("run --deadline 30s").exits(77).says(clean);
        server.clean("stored.example.com");
        waits(&first, "ca sign --certname stored.example.com");
        server.set("stored.example.com", "signed");
        first.nodecert("run").exits(0);
        is_verified(&first, &server);
    }

    /// A command that was said, between backticks.
    fn said<'a>(told: &'a Outcome, verb: &str) -> &'a str {
        let command =
            told.stdout.split('`').find(|part| part.starts_with(&format!("puppetserver ca {verb}")));
        command.unwrap_or_else(|| panic!("no {verb} in {told:?}"))
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn the_commands_that_are_said_show_sign_and_free() {
        let server = server();
        let first = host(&server, "said.example.com", NAMES);
        let told = waits(&first, "ca sign");
        let listed = server.operator(said(&told, "list"));
        assert!(listed.contains(&shown(&server, "said.example.com")), "{listed}");
        let second = host(&server, "said.example.com", NAMES);
        let refused = second.nodecert("run --deadline 60s").exits(77);
        assert!(refused.stdout.contains("request with another key"), "{refused:?}");
        // It takes a request out; and then a certificate.
        server.operator(said(&refused, "clean"));
        server.operator(said(&waits(&second, "ca sign"), "sign"));
        second.nodecert("run").exits(0);
        is_verified(&second, &server);
        server.operator(said(&first.nodecert("run --deadline 60s").exits(77), "clean"));
        server.operator(said(&waits(&first, "ca sign"), "sign"));
        first.nodecert("run").exits(0);
        is_verified(&first, &server);
    }

    /// Puppet's own table of them.
    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn every_name_of_an_extension_stands_for_puppets_own_number() {
        let table = std::fs::read_to_string("/usr/lib/ruby/vendor_ruby/puppet/ssl/oids.rb").unwrap();
        let quoted =
            |row: &str| row.split(['"', '\'']).skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        let rows = table.lines().filter(|line| line.contains("\"1.3.6.1.4.1.34380.1.")).map(quoted);
        let names: Vec<_> = rows.filter(|row| row[1].starts_with("pp_")).collect();
        assert!(names.len() >= 28, "{names:?}");
        let server = server();
        let host = Host::new();
        let each = names.iter().map(|row| format!("{} = \"as {}\"", row[1], row[1])).collect::<Vec<_>>();
        let extended = ca(&server, &format!("extensions = {{ {} }}", each.join(", ")));
        configure(&host, &extended, "everything.example.com", "");
        waits(&host, "ca sign");
        host.write("/stored.pem", &server.stored("everything.example.com"));
        let text = must(
            Command::new("openssl").args(["req", "-noout", "-text", "-in"]).arg(host.path("/stored.pem")),
        );
        for row in names {
            let there = text.split(&format!(" {}:", row[0])).nth(1);
            let own =
                there.unwrap_or_else(|| panic!("no {row:?} in {text}")).split(" 1.3.6.").next().unwrap();
            assert!(own.contains(&format!("as {}\n", row[1])), "{row:?}: {own}");
        }
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn a_request_that_a_person_takes_out_is_refused() {
        let server = server();
        let host = host(&server, "rejected.example.com", "");
        let run = host.start_nodecert("run --deadline 60s");
        server.stored("rejected.example.com");
        server.clean("rejected.example.com");
        Outcome::wait(run).exits(77).says("took it out");
        assert!(!host.path(CERT).exists());
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn a_revoked_certificate_is_served_and_not_installed() {
        let server = server();
        let host = host(&server, "revoked.example.com", "");
        waits(&host, "ca sign --certname revoked.example.com");
        server.set("revoked.example.com", "signed");
        server.set("revoked.example.com", "revoked");
        assert!(!server.get("certificate/revoked.example.com").is_empty(), "it is served all the same");
        host.nodecert("run")
            .exits(77)
            .says("revoked")
            .says("puppetserver ca clean --certname revoked.example.com");
        assert!(!host.path(CERT).exists());
        server.clean("revoked.example.com");
        waits(&host, "ca sign --certname revoked.example.com");
        server.set("revoked.example.com", "signed");
        host.nodecert("run").exits(0);
        is_verified(&host, &server);
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn when_the_server_restarts_during_a_wait_that_is_waited_out() {
        let server = Puppetserver::with(PuppetConfig {
            autosign: Autosign::Nothing,
            alone: true,
            ..PuppetConfig::default()
        });
        let host = host(&server, "restart.example.com", "");
        let run = host.start_nodecert("run --deadline 90s");
        server.stored("restart.example.com");
        server.restart();
        eventually("the signature", || match server.get("status").is_empty() {
            _ if !server.stored("restart.example.com").is_empty() => Ok(()),
            _ => Err("no request".to_owned()),
        });
        server.set("restart.example.com", "signed");
        Outcome::wait(run).exits(0);
        is_verified(&host, &server);
    }
}

mod a_policy_signs {
    use super::*;

    const ATTRIBUTES: &str =
        "attributes = { challengePassword = { file = \"/var/lib/nodecert/secrets/autosign\" } }";
    const SECRET: &str = "/var/lib/nodecert/secrets/autosign";
    /// What the policy of the README admits, and what an etcd member asks for.
    const ADMITTED: &str = "dns = [\"{{ hostname }}\", \"{{ fqdn }}\", \"localhost\"]\nips = [\"10.0.0.11\", \"127.0.0.1\", \"::1\"]";

    /// The script of the README, letter for letter.
    fn of_the_readme() -> Autosign {
        static SCRIPT: LazyLock<String> = LazyLock::new(|| {
            let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
            let from = readme.find("#!/bin/sh\n# Signs what knows the password").expect("the policy");
            readme[from..].split("```").next().unwrap().to_owned()
        });
        Autosign::Policy(&SCRIPT)
    }

    fn asked_with(password: &str, certname: &str) -> (Puppetserver, Host) {
        let server =
            Puppetserver::with(PuppetConfig { autosign: of_the_readme(), ..PuppetConfig::default() });
        let host = Host::new();
        host.write_secret(SECRET, password);
        configure(&host, &ca(&server, ATTRIBUTES), certname, ADMITTED);
        (server, host)
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn the_right_password_is_signed_at_once() {
        let (server, host) = asked_with(PASSWORD, "policy.example.com");
        host.nodecert("run").exits(0).keeps_secret(&[PASSWORD]);
        is_verified(&host, &server);
    }

    /// `packaging/examples/puppet-etcd.toml`, with this server in the place of the site's.
    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn the_example_of_an_etcd_member_is_signed_as_it_stands() {
        let (server, host) = asked_with(PASSWORD, "unused.example.com");
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/examples/puppet-etcd.toml");
        let example = std::fs::read_to_string(example).unwrap();
        let example = example.replace(&format!("sha256:{}", "0".repeat(64)), &server.pin());
        let node = "[node]\nhostname = \"node02\"\ndomain = \"example.com\"\naddresses = [\"10.0.0.12\"]\n";
        host.configure(&(example.replace("https://puppet.example.com:8140", &server.url) + node));
        host.nodecert("run").exits(0).keeps_secret(&[PASSWORD]);
        let leaf = inspect(&host.path("/etc/etcd/pki/server.crt"));
        assert_eq!(leaf.subject, "CN=etcd.node02.example.com");
        assert!(leaf.ips.contains(&"10.0.0.12".to_owned()), "{leaf:?}");
        let yaml = host.read("/etc/etcd/etcd.yaml");
        assert_eq!(yaml.matches("/etc/etcd/pki/server.crt").count(), 2, "{yaml}");
        assert_eq!(host.mode("/etc/etcd/pki/server.key"), "600 4301:4301");
        host.nodecert("run").exits(0).says("nothing to do");
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn a_wrong_password_leaves_the_request_to_a_person() {
        let (server, host) = asked_with("simsalabim", "wrong.example.com");
        waits(&host, "ca sign").keeps_secret(&["simsalabim"]);
        server.set("wrong.example.com", "signed");
        host.nodecert("run").exits(0);
        is_verified(&host, &server);
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn names_and_addresses_that_the_policy_does_not_admit_are_left_to_a_person() {
        for (certname, names) in [
            ("address.example.com", "ips = [\"10.99.0.11\"]"),
            ("name.example.com", "dns = [\"www.example.org\"]"),
            ("master.example.com", "dns = [\"{{ fqdn }}\", \"kubernetes.default\"]\nips = [\"10.0.0.11\"]"),
        ] {
            let (server, host) = asked_with(PASSWORD, certname);
            configure(&host, &ca(&server, ATTRIBUTES), certname, names);
            waits(&host, "ca sign");
            assert!(server.get(&format!("certificate/{certname}")).is_empty());
        }
    }

    /// The stored request was judged with the old password, and no other is taken in before it is gone.
    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn a_password_that_changes_while_the_request_waits_is_said_and_loses_nothing() {
        let (server, host) = asked_with("simsalabim", "changed.example.com");
        waits(&host, "ca sign");
        let stored = server.stored("changed.example.com");
        host.write_secret(SECRET, PASSWORD);
        let clean = "puppetserver ca clean --certname changed.example.com";
        waits(&host, "other `attributes`").says(clean).keeps_secret(&[PASSWORD]);
        assert_eq!(server.stored("changed.example.com"), stored);
        server.set("changed.example.com", "signed");
        host.nodecert("run").exits(0);
        is_verified(&host, &server);

        let (server, host) = asked_with("simsalabim", "cleaned.example.com");
        waits(&host, "ca sign");
        host.write_secret(SECRET, PASSWORD);
        server.clean("cleaned.example.com");
        host.nodecert("run").exits(0);
        is_verified(&host, &server);
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn a_password_that_is_not_there_yet_is_waited_for() {
        let (server, host) = asked_with(PASSWORD, "early.example.com");
        std::fs::remove_file(host.path("/var/lib/nodecert/secrets/autosign")).unwrap();
        host.nodecert("run").exits(75).says("/var/lib/nodecert/secrets/autosign");
        assert!(server.get("certificate_request/early.example.com").is_empty());
    }
}

mod another_policy_signs {
    use super::*;

    const SECRET: &str = "/var/lib/nodecert/secrets/rack";
    /// Signs what has both, and looks at nothing else.
    const BY_NUMBER: &str = "#!/bin/sh
csr=$(openssl req -noout -text) || exit 1
echo \"$csr\" | grep -q '1.3.6.1.4.1.34380.1.2.1 *:rack 9$' || exit 1
echo \"$csr\" | grep -A1 '1.3.6.1.4.1.34380.1.2.7:' | grep -q 'row 5$'
";

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn an_attribute_and_an_extension_by_number_reach_the_policy() {
        let autosign = Autosign::Policy(BY_NUMBER);
        let server = Puppetserver::with(PuppetConfig { autosign, ..PuppetConfig::default() });
        let asked = |certname: &str, rack: &str| {
            let host = Host::new();
            let with = format!(
                "attributes = {{ \"1.3.6.1.4.1.34380.1.2.1\" = {{ file = \"{SECRET}\" }} }}\nextensions = {{ \"1.3.6.1.4.1.34380.1.2.7\" = \"row 5\" }}"
            );
            host.write_secret(SECRET, rack);
            configure(&host, &ca(&server, &with), certname, "");
            host
        };
        waits(&asked("rack8.example.com", "rack 8"), "ca sign");
        let host = asked("rack9.example.com", "rack 9");
        host.nodecert("run").exits(0);
        is_verified(&host, &server);
    }
}

mod names_are_not_signed {
    use super::*;

    fn server() -> Puppetserver {
        Puppetserver::with(PuppetConfig { names: false, ..PuppetConfig::default() })
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn the_certname_alone_is_signed() {
        let server = server();
        let host = host(&server, "alone.example.com", "dns = [\"alone.example.com\"]");
        host.nodecert("run").exits(0);
        is_verified(&host, &server);
    }

    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn other_names_are_refused_with_the_setting_that_admits_them() {
        let server = server();
        let host = host(&server, "sans.example.com", NAMES);
        host.nodecert("run").exits(77).says("allow-subject-alt-names: true");
        // The refusal has stored the request all the same, and it is still ours.
        waits(&host, "ca sign --certname sans.example.com");
    }

    /// The way for Kubernetes identities on a Puppet site: the Puppet CA says who the host is, and with that it
    /// logs in to the CA that may write `system:node:NAME` and an organization. One run, in two waves.
    #[test]
    #[ignore = "needs servers: run tests/all"]
    fn a_certificate_of_puppet_logs_in_to_vault_for_the_identities_of_a_kubelet() {
        let server = server();
        let bao = Openbao::start();
        let pki = bao.pki("k8s");
        for (role, other) in [("serving", "client_flag"), ("client", "server_flag")] {
            pki.role(role, &json!({"organization": ["system:nodes"], other: false}));
        }
        bao.admin(Method::POST, "sys/auth/cert", &json!({"type": "cert"}));
        let trusted = json!({
            "certificate": server.ca_pem(), "allowed_common_names": ["*.example.com"], "token_policies": [pki.policy()],
        });
        bao.admin(Method::POST, "auth/cert/certs/puppet", &trusted);

        let host = Host::new();
        host.write("/etc/nodecert/vault-ca.pem", &bao.tls_pem());
        let k8s = format!(
            r#"
    [ca.k8s]
    tls.file = "/etc/nodecert/vault-ca.pem"
    anchors.published = true
    [ca.k8s.vault]
    urls = ["{}"]
    mount = "{}"
    auth = [{{ cert = {{ certificate = "web" }} }}]
    [kubelet]
    ca = "k8s"
    role = "client"
    serving_role = "serving"
    api_server = "https://10.99.0.1:6443"
    node_name = "node01"
    "#,
            bao.url(),
            pki.mount
        );
        configure(&host, &format!("{}{k8s}", ca(&server, "")), "login.node01.example.com", "");
        host.nodecert("run").exits(0);
        is_verified(&host, &server);
        let client = inspect(&host.path("/var/lib/kubelet/pki/kubelet-client.crt"));
        assert_eq!(client.subject, "CN=system:node:node01,O=system:nodes");
    }
}
