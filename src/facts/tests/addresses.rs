//! Which addresses and interfaces count, and what a network is.

use super::*;

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
fn an_alias_is_its_interface() {
    assert_eq!(host::without_alias("eth0:1"), "eth0");
    assert_eq!(host::without_alias("bond0.100"), "bond0.100");
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
