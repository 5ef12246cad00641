//! The rules of `[node]` and of detection, as tables.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

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
fn the_host_name_comes_from_the_first_source_that_has_one() {
    for (setting, kernel, etc, hostname, nodename, source) in [
        ("", "node01", "other", "node01", "node01", "kernel"),
        ("", "Node01.Example.COM", "", "node01", "node01.example.com", "kernel"),
        (
            "",
            "localhost",
            "# a comment\n\n node02.example.com. \n",
            "node02",
            "node02.example.com",
            "/etc/hostname",
        ),
        ("", "(none)", "node02", "node02", "node02", "/etc/hostname"),
        ("", "localhost.localdomain", "node02", "node02", "node02", "/etc/hostname"),
        ("", "", "node02", "node02", "node02", "/etc/hostname"),
        ("NODE03.example.org", "node01", "node01", "node03", "node03.example.org", "[node] hostname"),
        ("", "42", "", "42", "42", "kernel"),
    ] {
        let settings = Settings { hostname: some(setting), ..Settings::default() };
        let sources = Sources { etc_hostname: some(etc), ..Sources::default() };
        let facts = gather(&settings, &named(kernel), &sources).unwrap();
        assert_eq!((facts.hostname.value.as_str(), facts.hostname.source.as_str()), (hostname, source));
        assert_eq!((facts.nodename.value.as_str(), facts.nodename.source.as_str()), (nodename, source));
    }
}

#[test]
fn a_host_without_a_name_is_told_where_it_was_looked_for() {
    for (kernel, etc, tried) in [
        ("localhost", None, r#"kernel: "localhost", /etc/hostname: not there"#),
        ("(none)", Some("LocalHost\n"), r#"kernel: "(none)", /etc/hostname: "LocalHost""#),
        ("", Some("# only a comment\n"), "kernel: empty, /etc/hostname: empty"),
        ("localhost.", Some("localhost6.localdomain6"), "/etc/hostname: \"localhost6.localdomain6\""),
    ] {
        let sources = Sources { etc_hostname: etc.map(str::to_owned), ..Sources::default() };
        let error = gather(&Settings::default(), &named(kernel), &sources).unwrap_err();
        assert!(matches!(error, FactsError::NoHostname { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(tried) && text.contains("hostnamectl") && text.contains("[node]"), "{text}");
    }
}

#[test]
fn a_name_no_certificate_could_carry_is_refused() {
    let label_64 = "a".repeat(64);
    let long = format!("{}.com", "a.".repeat(130));
    for (name, reason) in [
        ("10.0.0.11", "looks like an IPv4 address"),
        ("10.1", "looks like an IPv4 address"),
        ("node_01", "'_' is not allowed"),
        ("nöde", "'ö' is not allowed"),
        ("-node", "begins or ends with a hyphen"),
        ("node-.example.com", "begins or ends with a hyphen"),
        ("node..com", "between its dots"),
        ("node 01", "' ' is not allowed"),
        ("fd00::11", "':' is not allowed"),
        (&label_64, "64 characters"),
        (&long, "at most 253"),
        ("\u{1b}[31mred", "'\\u{1b}' is not allowed"),
    ] {
        let error = gather(&Settings::default(), &named(name), &Sources::default()).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, FactsError::BadHostname { origin: "kernel", .. }), "{error:?}");
        assert!(text.contains(reason) && text.contains("(kernel)"), "{text}");
        assert!(!text.contains('\u{1b}') && text.chars().count() < 300, "{text}");
    }
}

#[test]
fn a_bad_setting_is_refused_even_where_the_kernel_has_a_name() {
    for name in ["", "localhost", "(none)", "localhost.localdomain", "10.0.0.11", "a_b"] {
        let settings = Settings { hostname: Some(name.to_owned()), ..Settings::default() };
        let error = gather(&settings, &named("node01"), &Sources::default()).unwrap_err();
        assert!(
            matches!(error, FactsError::BadHostname { origin: "[node] hostname", .. }),
            "{name}: {error:?}"
        );
    }
    for domain in ["", ".", ".example.com", "a_b.com", "localdomain", &"a.".repeat(125)] {
        let settings = Settings { domain: Some(domain.to_owned()), ..Settings::default() };
        let error = gather(&settings, &named("node01"), &Sources::default()).unwrap_err();
        assert!(matches!(error, FactsError::BadDomain { .. }), "{domain}: {error:?}");
    }
}

#[test]
fn the_domain_comes_from_the_first_source_in_the_stated_order() {
    let all = |settings: &mut Settings, host: &mut Host, sources: &mut Sources| {
        settings.domain = some("Set.example.");
        settings.hostname = some("node01.dotted.example");
        host.nodename = "node01.kernel.example".to_owned();
        sources.etc_hostname = some("node01.file.example\n");
        sources.etc_hosts = some("10.0.0.1 node01 node01.hosts.example # node01.comment.example\n");
        sources.resolv_conf = some("search first.example second.example\ndomain one.example.\n");
    };
    type Strike = fn(&mut Settings, &mut Host, &mut Sources);
    let strikes: [(Strike, &str, &str); 7] = [
        (|_, _, _| (), "set.example", "[node] domain"),
        (|s, _, _| s.domain = None, "dotted.example", "[node] hostname"),
        (|s, _, _| s.hostname = None, "kernel.example", "kernel"),
        (|_, h, _| h.nodename = "node01".to_owned(), "file.example", "/etc/hostname"),
        (|_, _, o| o.etc_hostname = None, "hosts.example", "/etc/hosts"),
        (|_, _, o| o.etc_hosts = None, "one.example", "/etc/resolv.conf domain"),
        (
            |_, _, o| o.resolv_conf = some("search first.example x\n"),
            "first.example",
            "/etc/resolv.conf search",
        ),
    ];
    let (mut settings, mut host, mut sources) = (Settings::default(), named(""), Sources::default());
    all(&mut settings, &mut host, &mut sources);
    for (strike, domain, source) in strikes {
        strike(&mut settings, &mut host, &mut sources);
        let facts = gather(&settings, &host, &sources).unwrap();
        assert_eq!(facts.domain, Some(Fact { value: domain.to_owned(), source: source.to_owned() }));
        assert_eq!(facts.fqdn.value, format!("node01.{domain}"));
        assert_eq!(facts.hostname.value, "node01");
    }
    sources.resolv_conf = None;
    let facts = gather(&settings, &host, &sources).unwrap();
    assert_eq!((facts.domain, facts.fqdn.value.as_str()), (None, "node01"));
    assert_eq!(facts.fqdn.source, "hostname alone, as no domain was found");
}

#[test]
fn a_name_that_the_setting_replaced_gives_no_domain() {
    let settings = Settings { hostname: some("node07"), ..Settings::default() };
    let sources = Sources { etc_hostname: some("builder.corp.example"), ..Sources::default() };
    let facts = gather(&settings, &named("builder.corp.example"), &sources).unwrap();
    assert_eq!(facts.fqdn.value, "node07");
}

#[test]
fn a_detected_domain_that_is_none_is_left_out_and_the_next_one_taken() {
    let sources = Sources {
        etc_hosts: some(
            "127.0.1.1 node01.localdomain node01\n10.0.0.1 node01.a_b.example node01.example.com node01\n",
        ),
        ..Sources::default()
    };
    let facts = gather(&Settings::default(), &named("node01"), &sources).unwrap();
    assert_eq!(facts.fqdn.value, "node01.example.com");
    assert_eq!(why(&facts, "domain \"localdomain\" (/etc/hosts)"), "it stands for having no domain");
    assert!(why(&facts, "domain \"a_b.example\" (/etc/hosts)").starts_with("'_' is not allowed"));
}

#[test]
fn the_default_route_chooses_and_everything_else_has_its_reason() {
    let (host, sources) = worker();
    let facts = gather(&Settings::default(), &host, &sources).unwrap();
    assert_eq!(ips(&facts), ["10.0.0.11", "10.0.0.12", "fd00::11"]);
    assert_eq!(facts.addresses[0].source, "eth0, interface of the default route");
    assert_eq!(facts.primary.as_ref().unwrap().value.to_string(), "10.0.0.11");
    for (what, reason) in [
        ("127.0.0.1 (lo)", "loopback"),
        ("::1 (lo)", "loopback"),
        (
            "192.168.7.11 (eth1)",
            "not the interface of a default route; name it in [node] interfaces if it counts here",
        ),
        ("169.254.9.9 (eth0)", "link-local"),
        ("fe80::1 (eth0)", "link-local"),
        ("fd00::dead (eth0)", "temporary IPv6 address: the kernel replaces it every day (RFC 8981)"),
        ("10.9.9.9 (eth2)", "the interface is down"),
        ("fe80::42 (docker0)", "link-local"),
        ("172.17.0.1 (docker0)", "interface of Docker; name it in [node] interfaces if it counts here"),
        ("10.244.0.1 (vxlan.calico)", "interface of Calico; name it in [node] interfaces if it counts here"),
    ] {
        assert_eq!(why(&facts, what), reason);
    }
    assert_eq!(facts.left_out.len(), 10);
}

#[test]
fn patterns_steer_the_choice() {
    let (host, sources) = worker();
    for (patterns, addresses, primary) in [
        (&["eth1", "eth0"][..], &["10.0.0.11", "192.168.7.11", "10.0.0.12", "fd00::11"][..], "10.0.0.11"),
        (&["eth1"], &["192.168.7.11"], "192.168.7.11"),
        (&["*"], &["10.0.0.11", "192.168.7.11", "10.0.0.12", "fd00::11"], "10.0.0.11"),
        (&["d*0", "eth1"], &["192.168.7.11"], "192.168.7.11"),
        (&["docker*"], &["172.17.0.1"], "172.17.0.1"),
        (&["vxlan.calico"], &["10.244.0.1"], "10.244.0.1"),
    ] {
        let interfaces = patterns.iter().map(|&p| p.to_owned()).collect();
        let facts = gather(&Settings { interfaces, ..Settings::default() }, &host, &sources).unwrap();
        assert_eq!(ips(&facts), addresses, "{patterns:?}");
        assert_eq!(facts.primary.unwrap().value.to_string(), primary, "{patterns:?}");
    }
}

#[test]
fn loopback_counts_only_by_its_full_name_and_never_127() {
    let host = Host {
        nodename: "a".to_owned(),
        interfaces: Some(vec![interface("lo", &["127.0.0.1", "10.255.0.1"])]),
    };
    for (pattern, addresses) in [("lo", &["10.255.0.1"][..]), ("lo*", &[]), ("*", &[])] {
        let settings = Settings { interfaces: vec![pattern.to_owned()], ..Settings::default() };
        assert_eq!(ips(&gather(&settings, &host, &Sources::default()).unwrap()), addresses, "{pattern}");
    }
}

#[test]
fn a_pattern_without_an_interface_and_an_excluded_network_are_told() {
    let (host, sources) = worker();
    let settings = Settings {
        interfaces: vec!["eth0".to_owned(), "bond*".to_owned()],
        exclude: vec![cidr("10.0.0.12"), cidr("fd00::/8")],
        ..Settings::default()
    };
    let facts = gather(&settings, &host, &sources).unwrap();
    assert_eq!(ips(&facts), ["10.0.0.11"]);
    assert_eq!(why(&facts, "10.0.0.12 (eth0)"), "in 10.0.0.12/32 of [node] exclude");
    assert_eq!(why(&facts, "fd00::11 (eth0)"), "in fd00::/8 of [node] exclude");
    assert_eq!(why(&facts, "\"bond*\" of [node] interfaces"), "no interface has such a name");
}

#[test]
fn the_lowest_metric_leads_and_ipv4_before_ipv6() {
    let host = Host {
        nodename: "a".to_owned(),
        interfaces: Some(vec![
            interface("eth0", &["fd00::1", "10.0.0.1"]),
            interface("eth1", &["fd01::1", "10.1.0.1"]),
            interface("eth2", &["fd02::1", "10.1.0.1"]),
        ]),
    };
    let gather = |route: String, ipv6_route: String| {
        let sources = Sources { route: Some(route), ipv6_route: Some(ipv6_route), ..Sources::default() };
        gather(&Settings::default(), &host, &sources).unwrap()
    };
    let both = gather(route("eth0", 200) + &route("eth1", 100), String::new());
    assert_eq!(ips(&both), ["10.1.0.1", "10.0.0.1", "fd01::1", "fd00::1"]);
    let six = gather(String::new(), route6("eth2", 1) + &route6("eth0", 2));
    assert_eq!(ips(&six), ["fd02::1", "10.1.0.1", "10.0.0.1", "fd00::1"]);
    assert_eq!(six.primary.unwrap().value.to_string(), "fd02::1");
    let twice = gather(route("eth1", 1) + &route("eth2", 2), String::new());
    assert_eq!(ips(&twice), ["10.1.0.1", "fd01::1", "fd02::1"]);
}

#[test]
fn configured_addresses_replace_detection() {
    let (host, sources) = worker();
    let addresses = ["fd00::5", "127.0.0.1", "::ffff:10.0.0.5", "10.0.0.5", "fd00::5"];
    let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
    let settings = Settings { addresses, exclude: vec![cidr("10.0.0.0/8")], ..Settings::default() };
    let facts = gather(&settings, &host, &sources).unwrap();
    assert_eq!(ips(&facts), ["fd00::5", "127.0.0.1", "10.0.0.5"]);
    assert_eq!(facts.primary.unwrap().value.to_string(), "fd00::5");
    for ip in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"] {
        let settings = Settings { addresses: vec![ip.parse().unwrap()], ..Settings::default() };
        let error = gather(&settings, &host, &sources).unwrap_err();
        assert!(error.to_string().starts_with(&format!("{ip} ([node] addresses)")), "{error}");
    }
}

#[test]
fn no_address_is_no_error() {
    let facts = gather(&Settings::default(), &named("node01"), &Sources::default()).unwrap();
    assert!(facts.addresses.is_empty() && facts.primary.is_none());
    assert!(why(&facts, "IPv4 default routes").contains("cannot be read"));
    assert!(describe(&facts).contains("addresses   -       none found; set addresses"));
}

#[test]
fn interfaces_of_containers_and_overlays_are_known_by_name() {
    let left_out = [
        "docker0",
        "docker_gwbridge",
        "br-1a2b3c4d5e6f",
        "cni0",
        "cni-podman0",
        "flannel.1",
        "cali12345",
        "vxlan.calico",
        "tunl0",
        "cilium_host",
        "cilium_vxlan",
        "lxc_health",
        "veth1a2b",
        "virbr0",
        "wg0",
        "kube-ipvs0",
        "nodelocaldns",
    ];
    let kept = [
        "eth0",
        "enp3s0",
        "ens192",
        "bond0",
        "bond0.100",
        "br0",
        "vmbr0",
        "wlan0",
        "wlp2s0",
        "vlan7",
        "team0",
    ];
    for (names, count) in [(&left_out[..], 0), (&kept[..], 1)] {
        for name in names {
            let host =
                Host { nodename: "a".to_owned(), interfaces: Some(vec![interface(name, &["10.0.0.1"])]) };
            let sources = Sources { route: Some(route(name, 0)), ..Sources::default() };
            let facts = gather(&Settings::default(), &host, &sources).unwrap();
            assert_eq!(facts.addresses.len(), count, "{name}");
            let settings = Settings { interfaces: vec![(*name).to_owned()], ..Settings::default() };
            assert_eq!(gather(&settings, &host, &sources).unwrap().addresses.len(), 1, "{name}, named");
        }
    }
}

#[test]
fn ipv6_flags_speak() {
    for (flags, reason) in [
        ("80", None),
        ("00", None),
        ("82", None),
        ("40", Some("tentative")),
        ("c0", Some("tentative")),
        ("48", Some("duplicate address detection failed")),
        ("20", Some("deprecated")),
        ("01", Some("temporary")),
    ] {
        let line = format!("fd000000000000000000000000000011 02 40 00 {flags}     eth0\n");
        let found = parse::inet6(&line);
        assert_eq!(found[0].ip.to_string(), "fd00::11");
        let unfit = found[0].unfit();
        assert_eq!(unfit.is_some(), reason.is_some(), "{flags}");
        assert!(unfit.unwrap_or_default().contains(reason.unwrap_or_default()), "{flags}: {unfit:?}");
    }
}

#[test]
fn only_real_default_routes_count() {
    let header = ROUTE_HEADER;
    let subnet = "eth0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
    let half = "tun0\t00000000\t00000000\t0003\t0\t0\t0\t00000080\t0\t0\t0\n";
    let down = "eth1\t00000000\t0100000A\t0002\t0\t0\t0\t00000000\t0\t0\t0\n";
    let reject = "*\t00000000\t00000000\t0201\t0\t0\t0\t00000000\t0\t0\t0\n";
    for not_one in [
        header,
        subnet,
        half,
        down,
        reject,
        "",
        "\n",
        "eth0",
        "eth0 zz zz zz zz zz zz zz",
        "eth0\t00000000\t0\t3",
    ] {
        assert!(parse::default_interfaces_v4(not_one).is_empty(), "{not_one:?}");
    }
    let huge = format!("eth0\t00000000\t0\t0003\t0\t0\t{}\t00000000\t0", "9".repeat(400));
    assert!(parse::default_interfaces_v4(&huge).is_empty());
    let lines = format!("{header}{}{}{}{}", route("b", 5), route("a", 5), route("c", 1), route("b", 0));
    assert_eq!(parse::default_interfaces_v4(&lines), ["b", "c", "a"]);

    let zero = "0".repeat(32);
    let on_lo = format!("{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n");
    let subnet =
        format!("fd{} 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001 eth0\n", "0".repeat(30));
    let reject = format!("{zero} 00 {zero} 00 {zero} 00000400 00000001 00000000 00000201 eth0\n");
    for not_one in [&on_lo, &subnet, &reject, &zero, ""] {
        assert!(parse::default_interfaces_v6(not_one).is_empty(), "{not_one:?}");
    }
    let lines = on_lo + &route6("eth1", 0x400) + &route6("eth0", 0x64);
    assert_eq!(parse::default_interfaces_v6(&lines), ["eth0", "eth1"]);
}

#[test]
fn hosts_gives_full_names_only_on_lines_of_the_host() {
    for (text, names) in [
        ("127.0.1.1\tNode01.Example.com\tnode01\n", &["Node01.Example.com"][..]),
        ("10.0.0.1 node01.example.com\n", &[]),
        ("10.0.0.1 node011.example.com node011\n", &[]),
        ("#10.0.0.1 node01.example.com node01\n", &[]),
        ("rubbish node01.example.com node01\n", &[]),
        ("fe80::1%eth0 node01.example.com node01\n", &["node01.example.com"]),
        ("10.0.0.1 node01 web.example.com node01. node01.example.com", &["node01.example.com"]),
    ] {
        assert_eq!(parse::full_names(text, "node01"), names, "{text}");
    }
}

#[test]
fn resolver_options_are_read_as_the_resolver_reads_them() {
    for (text, domain, search) in [
        ("domain a.example\nsearch b.example c.example\n", Some("a.example"), Some("b.example")),
        ("search a.example\nsearch b.example\n", None, Some("b.example")),
        ("search .\n", None, None),
        ("search\ndomain\n", None, None),
        ("# search a.example\n; domain b.example\nsearchx c.example\nnameserver 127.0.0.53", None, None),
        ("search\ta.example.\n", None, Some("a.example")),
    ] {
        assert_eq!((parse::resolver_domain(text), parse::resolver_search(text)), (domain, search), "{text}");
    }
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
fn globs() {
    for (pattern, name, matches) in [
        ("eth0", "eth0", true),
        ("eth0", "eth00", false),
        ("eth?", "eth0", true),
        ("eth?", "eth", false),
        ("*", "", true),
        ("", "", true),
        ("", "a", false),
        ("bond*", "bond", true),
        ("*.*", "bond0.100", true),
        ("*a*b", "xaxxab", true),
        ("*a*b", "xaxxac", false),
        ("[e]th0", "eth0", false),
    ] {
        assert_eq!(parse::glob(pattern, name), matches, "{pattern} {name}");
    }
    assert!(!parse::glob(&"*a".repeat(2000), &"a".repeat(1999)), "and it comes to an end");
}

#[test]
fn networks() {
    for (text, inside, outside) in [
        ("172.17.0.0/16", "172.17.255.255", "172.18.0.0"),
        ("fd00::/8", "fdff::1", "fe00::1"),
        ("0.0.0.0/0", "255.255.255.255", "::"),
        ("::/0", "ffff::", "0.0.0.0"),
        ("10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2"),
        ("::1/128", "::1", "::2"),
    ] {
        assert!(cidr(text).contains(inside.parse().unwrap()), "{text}");
        assert!(!cidr(text).contains(outside.parse().unwrap()), "{text}");
    }
    for (text, reason) in [
        ("172.17.0.0/33", "from 0 to 32"),
        ("fd00::/129", "from 0 to 128"),
        ("10.0.0.0/+8", "from 0 to 32"),
        ("10.0.0.0/", "from 0 to 32"),
        ("10.0.0.0/99999999999", "from 0 to 32"),
        ("10.0.0.5/8", "the network is 10.0.0.0/8"),
        ("docker0", "ADDRESS/LENGTH"),
        ("", "ADDRESS/LENGTH"),
    ] {
        let message = text.parse::<Cidr>().unwrap_err().to_string();
        assert!(message.contains(reason) && message.contains(&format!("{text:?}")), "{message}");
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
fn an_alias_is_its_interface() {
    assert_eq!(host::without_alias("eth0:1"), "eth0");
    assert_eq!(host::without_alias("bond0.100"), "bond0.100");
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

#[test]
fn the_first_host_of_a_network_is_the_one_after_its_own_address() {
    for (network, first) in [
        ("10.96.0.0/12", Some("10.96.0.1")),
        ("10.0.255.248/29", Some("10.0.255.249")),
        ("10.0.0.4/31", Some("10.0.0.5")),
        ("10.0.0.4/32", None),
        ("fd00:10:96::/108", Some("fd00:10:96::1")),
        ("fd00::1/128", None),
        ("0.0.0.0/0", Some("0.0.0.1")),
    ] {
        let network: Cidr = network.parse().unwrap();
        assert_eq!(network.first_host(), first.map(|first| first.parse().unwrap()), "{network}");
    }
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
