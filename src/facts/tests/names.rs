//! Which name and domain a host gets.

use super::*;

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
