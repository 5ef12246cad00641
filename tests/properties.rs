//! What holds for any facts, any valid configuration and any damage to the disk.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use nodecert::bundle::{Bundle, Pair, parse_chain};
use nodecert::clock::Clock;
use nodecert::config::{self, Config, Text};
use nodecert::facts::{self, Facts, Host, Interface, Sources};
use nodecert::identity::Identity;
use nodecert::key::{Csr, Dialect, Key};
use nodecert::node::{self, Node};
use nodecert::report::{Action, Exit};
use nodecert::root::Root;
use nodecert::run::{self, Ask, World};
use nodecert::trust::Anchors;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use rcgen::KeyPair;
use tempfile::TempDir;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509CertificationRequest};

// --- any facts and any valid configuration ---

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_host_is_to_hold_is_the_same_each_time_and_no_two_things_lie_in_one_place(
        (text, host) in (configuration(), machine()),
    ) {
        let Some((config, facts)) = read(&text, &host) else { return Ok(()) };
        let Ok(node) = node::expand(&config, &facts, &BTreeSet::new()) else { return Ok(()) };
        let again = node::expand(&config, &facts, &BTreeSet::new()).expect("expanded once, expanded twice");
        prop_assert_eq!(format!("{node:?}"), format!("{again:?}"));
        let paths = paths(&node);
        let distinct: BTreeSet<_> = paths.iter().collect();
        prop_assert_eq!(distinct.len(), paths.len(), "{:?}", paths);
        for certificate in node.certificates.values() {
            prop_assert!(certificate.identity.check().is_empty(), "{:?}", certificate.identity);
        }
    }

    #[test]
    fn a_request_names_what_the_plan_names_and_nothing_else((text, host) in (configuration(), machine())) {
        let Some((config, facts)) = read(&text, &host) else { return Ok(()) };
        let Ok(node) = node::expand(&config, &facts, &BTreeSet::new()) else { return Ok(()) };
        for certificate in node.certificates.values() {
            let wanted = &certificate.identity;
            let csr = Csr::new(&KEY, wanted, &Dialect::default()).expect("a request");
            prop_assert_eq!(asked(&csr), names(wanted));
        }
    }
}

/// A generator that makes nothing but faults would prove nothing.
#[test]
fn most_of_these_configurations_are_valid_and_hold_certificates() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let (mut valid, mut certificates) = (0, 0);
    for _ in 0..200 {
        let (text, host) = (configuration(), machine()).new_tree(&mut runner).unwrap().current();
        let Some((config, facts)) = read(&text, &host) else { continue };
        if let Ok(node) = node::expand(&config, &facts, &BTreeSet::new()) {
            valid += 1;
            certificates += node.certificates.len();
        }
    }
    assert!(valid > 80 && certificates > 400, "{valid} of 200 are valid, with {certificates} certificates");
}

static KEY: LazyLock<Key> =
    LazyLock::new(|| Key::parse(&KeyPair::generate().unwrap().serialize_pem()).unwrap());

const COMPONENTS: [&str; 8] = [
    "[etcd]\nca = \"one\"\ncluster = { node01 = \"10.0.0.11\", node02 = \"10.0.0.12\" }\n",
    "[kubelet]\nca = \"one\"\n",
    "[kube-proxy]\nca = \"two\"\n",
    "[kube-scheduler]\nca = \"one\"\n",
    "[kube-controller-manager]\nca = \"one\"\n",
    "[admin]\nca = \"one\"\n",
    "[etcd-client.backup]\nca = \"two\"\n",
    "[service-account]\n",
];
const SHARED: &str = r#"
[ca.one.local]
[ca.two.local]
[kubernetes]
api_server = "https://api.example.com:6443"
cluster_dns = ["10.96.0.10"]
cluster_cidr = "10.244.0.0/16"
service_cidr = "10.96.0.0/16"
etcd_servers = ["https://10.0.0.11:2379"]
"#;

fn configuration() -> impl Strategy<Value = String> {
    let components = subsequence(COMPONENTS.to_vec(), 0..=COMPONENTS.len());
    (components, vec(certificate(), 0..5), vec(file(), 0..3)).prop_map(|(components, certificates, files)| {
        let certificates = certificates.iter().enumerate().map(|(n, c)| format!("[certificate.c{n}]\n{c}"));
        let files = files.iter().enumerate().map(|(n, f)| format!("[file.f{n}]\n{f}"));
        SHARED.to_owned() + &components.concat() + &certificates.chain(files).collect::<String>()
    })
}

fn certificate() -> impl Strategy<Value = String> {
    let name =
        || select(vec!["{{ fqdn }}", "{{ hostname }}", "{{ nodename }}", "a.example.com", "*.example.org"]);
    let ip = || select(vec!["{{ addresses }}", "127.0.0.1", "fd00::1", "192.0.2.7"]);
    let uri = || select(vec!["spiffe://example.com/{{ hostname }}", "urn:x:y"]);
    let organization = select(vec!["[]", "[\"ops\"]", "[\"system:nodes\"]"]);
    let directory =
        select(vec!["/etc/a", "/etc/b", "/etc/c", "/etc/d/e", "/etc/etcd/pki", "/srv/{{ hostname }}"]);
    let key = select(vec!["p256", "p384", "ed25519", "rsa2048"]);
    let rest = select(vec![
        "",
        "layout = \"files\"\n",
        "files = { cert = \"x.crt\", key = \"x.key\", ca = \"x-ca.crt\", combined = \"x.pem\" }\n",
        "usages = [\"server\"]\n",
        "owner = \"web\"\nmode = { key = \"0640\" }\n",
        "rotate_key = false\n",
    ]);
    (name(), vec(name(), 0..4), vec(ip(), 0..4), vec(uri(), 0..2), organization, directory, key, rest).prop_map(
        |(common_name, dns, ips, uris, organization, directory, key, rest)| {
            // What renders at this time only does so in templates.
            let directory = directory.replace("{{ hostname }}", "host");
            format!("ca = \"one\"\ncommon_name = {common_name:?}\ndns = {dns:?}\nips = {ips:?}\nuris = {uris:?}\norganization = {organization}\ndirectory = {directory:?}\nkey = {key:?}\n{rest}")
        },
    )
}

fn file() -> impl Strategy<Value = String> {
    let path =
        select(vec!["/etc/f/one", "/etc/f/two", "/etc/a/c0.crt", "/etc/etcd/etcd.yaml", "/etc/a/ca.crt"]);
    path.prop_map(|path| format!("path = {path:?}\ntemplate = \"/etc/nodecert/t\"\n"))
}

fn machine() -> impl Strategy<Value = Host> {
    let name = prop_oneof![
        3 => "node0[1-3]", 2 => "[a-z][a-z0-9]{0,12}", 2 => "[a-z][a-z0-9-]{0,20}[a-z0-9]\\.[a-z]{2,9}\\.[a-z]{2,3}",
        1 => "[A-Za-z0-9_.-]{1,70}", 1 => any::<String>(),
    ];
    let address =
        prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)];
    (name, vec(address, 0..5)).prop_map(|(nodename, more)| {
        let addresses = std::iter::once("10.0.0.11".parse().unwrap()).chain(more).collect();
        let eth0 = Interface { name: "eth0".to_owned(), up: true, loopback: false, addresses };
        Host { nodename, interfaces: Some(vec![eth0]) }
    })
}

fn read(text: &str, host: &Host) -> Option<(Config, Facts)> {
    let texts = vec![Text { path: "config.toml".into(), text: text.to_owned(), private: true }];
    let config = config::parse(texts).unwrap_or_else(|faults| panic!("{faults}\n{text}"));
    let route = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\neth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
    let sources = Sources { route: Some(route.to_owned()), ..Sources::default() };
    let facts = facts::gather(&config.node, host, &sources).ok()?;
    Some((config, facts))
}

fn paths(node: &Node) -> Vec<PathBuf> {
    let certificates = node.certificates.values().flat_map(|certificate| certificate.place.paths());
    let certificates = certificates.map(|(_, path)| path);
    let files = node.files.iter().map(|file| file.path.clone());
    let trusts = node.trusts.iter().map(|trust| trust.path.clone());
    let keepsakes = node.keepsakes.iter().flat_map(|kept| kept.paths().map(Path::to_owned));
    certificates.chain(files).chain(trusts).chain(keepsakes).collect()
}

/// Kind and value of each name.
type Names = BTreeSet<(&'static str, String)>;

fn names(wanted: &Identity) -> Names {
    let common_name = Some(("CN", wanted.common_name.clone())).filter(|(_, name)| !name.is_empty());
    let organization = wanted.organization.iter().flatten().map(|name| ("O", name.clone()));
    let dns = wanted.dns.iter().map(|name| ("DNS", name.clone()));
    let ips = wanted.ips.iter().map(|ip| ("IP", ip.to_string()));
    let uris = wanted.uris.iter().map(|uri| ("URI", uri.clone()));
    common_name.into_iter().chain(organization).chain(dns).chain(ips).chain(uris).collect()
}

fn asked(csr: &Csr) -> Names {
    let (_, request) = X509CertificationRequest::from_der(csr.der()).unwrap();
    let subject = &request.certification_request_info.subject;
    let mut names: Names =
        subject.iter_common_name().map(|name| ("CN", name.as_str().unwrap().to_owned())).collect();
    names.extend(subject.iter_organization().map(|name| ("O", name.as_str().unwrap().to_owned())));
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(san) = extension else { continue };
        names.extend(san.general_names.iter().map(|name| match name {
            GeneralName::DNSName(name) => ("DNS", (*name).to_owned()),
            GeneralName::URI(uri) => ("URI", (*uri).to_owned()),
            GeneralName::IPAddress(bytes) => ("IP", address(bytes).to_string()),
            other => ("other", other.to_string()),
        }));
    }
    names
}

fn address(bytes: &[u8]) -> IpAddr {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .unwrap_or_else(|_| <[u8; 16]>::try_from(bytes).expect("4 or 16 bytes").into())
}

// --- any damage to the disk ---

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_befalls_the_disk_no_pair_is_kept_that_cannot_be_used(damages in vec(damage(), 1..5)) {
        let host = Holder::copied();
        for (what, which, other) in &damages {
            host.suffer(what, which.index(usize::MAX), other.index(usize::MAX));
        }
        if let Ok(survey) = run::survey(&host.world(), false) {
            let report = run::status(&survey, &host.world(), &[]).expect("a report");
            for line in report.certificates.iter().filter(|line| line.action == Action::Keep && line.usable) {
                host.is_usable(line.name.as_str())?;
            }
        }
        // And what a run calls done is done.
        if let Ok((report, _)) = host.run() && report.exit() == Exit::Done {
            HOLDER.names.iter().try_for_each(|name| host.is_usable(name))?;
        }
    }
}

#[derive(Debug, Clone)]
enum Damage {
    Cut(usize),
    Flip(usize),
    Garbage(Vec<u8>),
    Gone,
    Exchanged,
    Directory,
    Link,
    Dangling,
    Mode(u32),
    Tail,
}

type Blow = (Damage, proptest::sample::Index, proptest::sample::Index);

fn damage() -> impl Strategy<Value = Blow> {
    let what = prop_oneof![
        1 => (0..2_000_usize).prop_map(Damage::Cut),
        4 => (0..2_000_usize).prop_map(Damage::Flip),
        1 => vec(any::<u8>(), 0..300).prop_map(Damage::Garbage),
        2 => Just(Damage::Gone),
        4 => Just(Damage::Exchanged),
        1 => Just(Damage::Directory),
        1 => Just(Damage::Link),
        1 => Just(Damage::Dangling),
        1 => select(vec![0o000, 0o400, 0o666, 0o777]).prop_map(Damage::Mode),
        1 => Just(Damage::Tail),
    ];
    (what, any::<proptest::sample::Index>(), any::<proptest::sample::Index>())
}

/// A host that holds two certificates and a component's, made once and copied for each blow.
struct Made {
    root: TempDir,
    names: Vec<String>,
    wanted: BTreeMap<String, (Identity, PathBuf, PathBuf)>,
    anchors: Anchors,
}

static HOLDER: LazyLock<Made> = LazyLock::new(|| {
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("config.toml"), HELD).unwrap();
    let world = world(root.path());
    let (report, _) = wait_for(run::run(&world, &Ask::default())).expect("a first run");
    assert_eq!(report.exit(), Exit::Done);
    let node = run::survey(&world, false).expect("a survey").node;
    let wanted: BTreeMap<_, _> = node
        .certificates
        .values()
        .map(|certificate| {
            let place = &certificate.place;
            let files = (certificate.identity.clone(), place.path(&place.cert), place.path(&place.key));
            (certificate.name.to_string(), files)
        })
        .collect();
    let anchors = Anchors::parse(&fs::read(root.path().join("etc/one/ca.crt")).unwrap()).unwrap();
    Made { names: wanted.keys().cloned().collect(), root, wanted, anchors }
});

const HELD: &str = r#"
[node]
hostname = "node01"
addresses = ["10.0.0.11"]
[ca.lab.local]
[certificate.one]
ca = "lab"
common_name = "one"
dns = ["one"]
directory = "/etc/one"
[certificate.two]
ca = "lab"
common_name = "two"
dns = ["two"]
directory = "/etc/two"
layout = "files"
[etcd]
ca = "lab"
cluster = { node01 = "10.0.0.11" }
"#;

struct Holder {
    root: TempDir,
}

impl Holder {
    fn copied() -> Self {
        let root = TempDir::new().unwrap();
        let from = HOLDER.root.path().join(".");
        assert!(Command::new("cp").arg("-a").arg(from).arg(root.path()).status().unwrap().success());
        Self { root }
    }

    fn world(&self) -> World {
        world(self.root.path())
    }

    fn run(&self) -> Result<(nodecert::report::Report, Facts), run::Error> {
        wait_for(run::run(&self.world(), &Ask { deadline: Duration::from_secs(5), ..Ask::default() }))
    }

    /// Every file and link but the configuration, in a fixed order.
    fn files(&self) -> Vec<PathBuf> {
        let (mut found, mut directories) = (Vec::new(), vec![self.root.path().to_owned()]);
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                match entry.file_type().unwrap().is_dir() {
                    true => directories.push(entry.path()),
                    false => found.push(entry.path()),
                }
            }
        }
        found.retain(|path| !path.ends_with("config.toml"));
        found.sort();
        found
    }

    /// What cannot be done any more is not done.
    fn suffer(&self, damage: &Damage, which: usize, other: usize) {
        let files = self.files();
        if files.is_empty() {
            return;
        }
        let (path, other) = (&files[which % files.len()], &files[other % files.len()]);
        let bytes = fs::read(path).unwrap_or_default();
        let write = |bytes: &[u8]| drop(fs::write(path, bytes));
        match damage {
            Damage::Cut(at) => write(&bytes[..(*at).min(bytes.len())]),
            Damage::Flip(at) if !bytes.is_empty() => {
                let mut bytes = bytes;
                let at = at % bytes.len();
                bytes[at] ^= 1;
                write(&bytes);
            }
            Damage::Flip(_) => {}
            Damage::Garbage(bytes) => write(bytes),
            Damage::Gone => drop(fs::remove_file(path)),
            Damage::Exchanged => {
                let theirs = fs::read(other).unwrap_or_default();
                write(&theirs);
                let _ = fs::write(other, bytes);
            }
            Damage::Directory => {
                let _ = fs::remove_file(path);
                let _ = fs::create_dir(path);
            }
            Damage::Link => {
                let _ = fs::remove_file(path);
                let _ = symlink(other, path);
            }
            Damage::Dangling => {
                let _ = fs::remove_file(path);
                let _ = symlink("nowhere", path);
            }
            Damage::Mode(mode) => drop(fs::set_permissions(path, PermissionsExt::from_mode(*mode))),
            Damage::Tail => write(&[bytes.clone(), bytes].concat()),
        }
    }

    /// The files of a certificate, as its consumer opens them, are what was wanted, by the CA there was.
    fn is_usable(&self, name: &str) -> Result<(), TestCaseError> {
        let (wanted, cert, key) = &HOLDER.wanted[name];
        let read = |path: &Path| {
            fs::read_to_string(self.root.path().join(path.strip_prefix("/").unwrap())).unwrap_or_default()
        };
        let fail = |why: String| TestCaseError::fail(format!("{name}: {why}"));
        let key = Key::parse(&read(key)).map_err(|why| fail(why.to_string()))?;
        let chain = parse_chain(&read(cert)).map_err(|why| fail(why.to_string()))?;
        // Not by what is tried here.
        let leaf = chain.first().ok_or_else(|| fail("no certificate".to_owned()))?;
        let (_, leaf) = x509_parser::parse_x509_certificate(leaf).map_err(|why| fail(why.to_string()))?;
        prop_assert_eq!(leaf.public_key().raw, key.public(), "{}: another key", name);
        let pair = Pair::new(Arc::new(key), chain.clone()).map_err(|why| fail(why.to_string()))?;
        let anchors = self.anchors();
        match Bundle::judge(pair, wanted, &anchors, SystemTime::now()) {
            Ok(_) => Ok(()),
            Err(unfit) => Err(fail(unfit.why.to_string())),
        }
    }

    /// The CA's, and one that it was made anew with because its own was lost.
    fn anchors(&self) -> Anchors {
        let mut anchors = HOLDER.anchors.clone();
        let known =
            fs::read(self.root.path().join("var/lib/nodecert/ca/lab/authority.pem")).unwrap_or_default();
        Anchors::parse(&known).iter().for_each(|more| anchors.join(more));
        anchors
    }
}

fn world(root: &Path) -> World {
    World {
        root: Arc::new(Root::make(root).unwrap()),
        host: Host { nodename: "node01".to_owned(), interfaces: Some(Vec::new()) },
        clock: Clock::system(),
        tells: false,
        config: Some(root.join("config.toml")),
    }
}

fn wait_for<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}
