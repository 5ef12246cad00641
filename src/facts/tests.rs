//! The rules of `[node]` and of detection, as tables.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod addresses;
mod names;

use super::*;
use proptest::prelude::*;

const ROUTE_HEADER: &str =
    "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";

fn route(interface: &str, metric: u32) -> String {
    format!("{interface}\t00000000\t0100000A\t0003\t0\t0\t{metric}\t00000000\t0\t0\t0\n")
}

fn route6(interface: &str, metric: u32) -> String {
    let zero = "0".repeat(32);
    format!(
        "{zero} 00 {zero} 00 fe800000000000000000000000000001 {metric:08x} 00000001 00000000 00000003 {interface}\n"
    )
}

fn interface(name: &str, addresses: &[&str]) -> Interface {
    let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
    Interface { name: name.to_owned(), up: true, loopback: name == "lo", addresses }
}

fn named(nodename: &str) -> Host {
    Host { nodename: nodename.to_owned(), interfaces: None }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

/// A Kubernetes worker: two uplinks, containers, IPv6 in every condition.
fn worker() -> (Host, Sources) {
    let interfaces = vec![
        interface("lo", &["127.0.0.1", "::1"]),
        interface("eth1", &["192.168.7.11"]),
        interface("eth0", &["10.0.0.11", "10.0.0.12", "169.254.9.9", "fd00::11", "fd00::dead", "fe80::1"]),
        Interface { up: false, ..interface("eth2", &["10.9.9.9"]) },
        interface("docker0", &["172.17.0.1", "fe80::42"]),
        interface("vxlan.calico", &["10.244.0.1"]),
    ];
    let sources = Sources {
        route: Some(format!("{ROUTE_HEADER}{}", route("eth0", 100))),
        ipv6_route: Some(route6("eth0", 1024)),
        if_inet6: some(
            "fd000000000000000000000000000011 02 40 00 80     eth0\n\
             fd00000000000000000000000000dead 02 40 00 01     eth0\n",
        ),
        etc_hosts: some("127.0.0.1 localhost\n10.0.0.11 node01.example.com node01\n"),
        machine_id: some("3d1219c7c4c5404aaa1f6d2a48adfda4\n"),
        ..Sources::default()
    };
    (Host { nodename: "Node01".to_owned(), interfaces: Some(interfaces) }, sources)
}

fn ips(facts: &Facts) -> Vec<String> {
    facts.addresses.iter().map(|address| address.ip.to_string()).collect()
}

fn why<'a>(facts: &'a Facts, what: &str) -> &'a str {
    &facts.left_out.iter().find(|l| l.what == what).unwrap_or_else(|| panic!("{what} is not left out")).why
}

#[test]
fn machine_ids() {
    let id = "3d1219c7c4c5404aaa1f6d2a48adfda4";
    assert_eq!(parse::machine_id(&format!("{id}\n")).as_deref(), Some(id));
    assert_eq!(parse::machine_id(&id.to_uppercase()).as_deref(), Some(id));
    for none in ["", "\n", "uninitialized\n", &id[1..], &format!("{id}0"), &"0".repeat(32), &"g".repeat(32)] {
        assert_eq!(parse::machine_id(none), None, "{none:?}");
    }
}

#[test]
fn settings_are_read_from_toml() {
    let text = r#"
        hostname = "node01"
        domain = "example.com"
        addresses = ["10.0.0.11", "fd00::11"]
        interfaces = ["eth0", "bond*"]
        exclude = ["172.17.0.0/16"]
    "#;
    let settings: Settings = toml::from_str(text).unwrap();
    assert_eq!(settings.addresses.len(), 2);
    assert_eq!(settings.exclude, [cidr("172.17.0.0/16")]);
    assert_eq!(toml::from_str::<Settings>("").unwrap(), Settings::default());
    for (text, reason) in [
        ("exclude = [\"172.17.0.1/16\"]", "the network is 172.17.0.0/16"),
        ("addresses = [\"ten\"]", "invalid IP address"),
        ("host = \"a\"", "unknown field `host`"),
    ] {
        let message = toml::from_str::<Settings>(text).unwrap_err().to_string();
        assert!(message.contains(reason), "{message}");
    }
}

#[test]
fn the_text_has_columns() {
    let (mut host, sources) = worker();
    host.interfaces.as_mut().unwrap().truncate(3);
    let facts = gather(&Settings::default(), &host, &sources).unwrap();
    let expected = "\
hostname    node01                            kernel
domain      example.com                       /etc/hosts
fqdn        node01.example.com                hostname, domain of /etc/hosts
nodename    node01                            kernel
machine id  3d1219c7c4c5404aaa1f6d2a48adfda4  /etc/machine-id
primary     10.0.0.11                         eth0, interface of the default route
addresses   10.0.0.11                         eth0, interface of the default route
            10.0.0.12                         eth0, interface of the default route
            fd00::11                          eth0, interface of the default route

left out
  127.0.0.1 (lo)       loopback
  ::1 (lo)             loopback
  192.168.7.11 (eth1)  not the interface of a default route; name it in [node] interfaces if it counts here
  169.254.9.9 (eth0)   link-local
  fd00::dead (eth0)    temporary IPv6 address: the kernel replaces it every day (RFC 8981)
  fe80::1 (eth0)       link-local
";
    assert_eq!(describe(&facts), expected);
}

#[test]
fn the_json_has_the_stated_shape() {
    let (host, sources) = worker();
    let facts = gather(&Settings::default(), &host, &sources).unwrap();
    let json = serde_json::to_value(&facts).unwrap();
    assert_eq!(json["hostname"], serde_json::json!({ "value": "node01", "source": "kernel" }));
    let eth0 = "eth0, interface of the default route";
    assert_eq!(json["addresses"][0], serde_json::json!({ "ip": "10.0.0.11", "source": eth0 }));
    assert_eq!(json["primary"], serde_json::json!({ "value": "10.0.0.11", "source": eth0 }));
    assert_eq!(json["left_out"][0], serde_json::json!({ "what": "127.0.0.1 (lo)", "why": "loopback" }));
    let bare = gather(&Settings::default(), &named("a"), &Sources::default()).unwrap();
    assert_eq!(serde_json::to_value(&bare).unwrap()["domain"], serde_json::Value::Null);
}

#[test]
fn the_live_host_answers() {
    let host = Host::live().unwrap();
    assert!(!host.nodename.is_empty());
    let configured = Settings { addresses: vec!["10.0.0.1".parse().unwrap()], ..Settings::default() };
    assert_eq!(host.clone().completed(&configured).unwrap().interfaces, None, "no one needs them");
    let host = host.completed(&Settings::default()).unwrap();
    let interfaces = host.interfaces.as_ref().unwrap();
    assert!(interfaces.iter().any(|interface| interface.loopback && interface.name == "lo"));
    let mut names: Vec<_> = interfaces.iter().map(|interface| &interface.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), interfaces.len(), "each interface once");

    let read = |settings: &Settings| {
        Sources::read(settings, |path| (path == "/etc/hostname").then(|| "node01.example.com".to_owned()))
    };
    assert_eq!(read(&configured).route, None, "no one needs it");
    let sources = read(&Settings::default());
    assert!(sources.route.is_some() && sources.etc_hosts.is_none());
    let settings = Settings { hostname: some("node01"), ..Settings::default() };
    let facts = gather(&settings, &host, &sources).unwrap();
    assert_eq!(facts.fqdn.value, "node01.example.com");
    assert_eq!(facts.primary.map(|fact| fact.value), facts.addresses.first().map(|address| address.ip));
}

/// Text that looks enough like the real thing to get deep into the parsers.
fn text() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("0".repeat(32)),
        Just("00000000".to_owned()),
        Just("0003".to_owned()),
        Just("eth0".to_owned()),
        Just("search".to_owned()),
        Just("domain".to_owned()),
        Just("10.0.0.1".to_owned()),
        "[0-9a-f]{0,40}",
        "[a-z.*?:/%#-]{0,12}",
        "\\PC{0,8}",
    ];
    let space = prop_oneof![Just(" "), Just("\t"), Just("\n"), Just("."), Just("")];
    let words = proptest::collection::vec((word, space), 0..40);
    prop_oneof![
        words.prop_map(|words| words.into_iter().flat_map(|(w, s)| [w, s.to_owned()]).collect()),
        any::<String>()
    ]
}

proptest! {
    #[test]
    fn no_text_makes_gather_panic(
        texts in proptest::collection::vec(proptest::option::of(text()), 7),
        nodename in text(),
        pattern in text(),
        network in text(),
    ) {
        let mut texts = texts.into_iter();
        let mut next = || texts.next().flatten();
        let sources = Sources {
            etc_hostname: next(), etc_hosts: next(), resolv_conf: next(), machine_id: next(),
            route: next(), ipv6_route: next(), if_inet6: next(),
        };
        let interfaces = vec![interface("eth0", &["10.0.0.1", "::"]), interface(&nodename, &["fd00::1"])];
        let host = Host { nodename, interfaces: Some(interfaces) };
        let settings = Settings {
            hostname: None,
            interfaces: vec![pattern],
            exclude: network.parse().into_iter().collect(),
            ..Settings::default()
        };
        match gather(&settings, &host, &sources) {
            Ok(facts) => prop_assert!(describe(&facts).starts_with("hostname") && facts.fqdn.value.len() <= 253),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
        let named = Settings { hostname: Some("node01".to_owned()), ..Settings::default() };
        let facts = gather(&named, &host, &sources).unwrap();
        prop_assert_eq!(facts.primary.map(|fact| fact.value), facts.addresses.first().map(|address| address.ip));
    }
}
