//! The rules for names: host name, node name, domain, FQDN. Pure.

use std::net::Ipv4Addr;

use super::{Fact, FactsError, Host, LeftOut, Settings, Sources, excerpt, parse};

/// The names of this host.
pub(super) struct Names {
    pub(super) hostname: Fact<String>,
    pub(super) domain: Option<Fact<String>>,
    pub(super) fqdn: Fact<String>,
    pub(super) nodename: Fact<String>,
    pub(super) left_out: Vec<LeftOut>,
}

/// A name and where it stands.
type Found<'a> = (&'a str, &'static str);

const SET_HOSTNAME: &str = "[node] hostname";
const SET_DOMAIN: &str = "[node] domain";
const KERNEL: &str = "kernel";
const ETC_HOSTNAME: &str = "/etc/hostname";

pub(super) fn choose(settings: &Settings, host: &Host, sources: &Sources) -> Result<Names, FactsError> {
    let (nodename, origin) = own_name(settings, host, sources)?;
    let short = nodename.split('.').next().unwrap_or(&nodename).to_owned();
    let (domain, left_out) = match &settings.domain {
        Some(domain) => (Some(configured_domain(domain, &short)?), Vec::new()),
        None => detected_domain(&short, settings, host, sources),
    };
    Ok(Names {
        fqdn: fqdn(&short, domain.as_ref()),
        hostname: fact(short, origin),
        nodename: fact(nodename, origin),
        domain,
        left_out,
    })
}

fn fact(value: String, source: &str) -> Fact<String> {
    Fact { value, source: source.to_owned() }
}

fn fqdn(hostname: &str, domain: Option<&Fact<String>>) -> Fact<String> {
    match domain {
        Some(domain) => {
            fact(format!("{hostname}.{}", domain.value), &format!("hostname, domain of {}", domain.source))
        }
        None => fact(hostname.to_owned(), "hostname alone, as no domain was found"),
    }
}

/// The whole name of this host, lower-cased and valid, and where it stands. One that is set and wrong is an error and
/// not passed over: the next source would name the host in a way that nobody meant.
fn own_name(
    settings: &Settings,
    host: &Host,
    sources: &Sources,
) -> Result<(String, &'static str), FactsError> {
    if let Some(name) = &settings.hostname {
        if is_placeholder(name.trim()) {
            return Err(bad_hostname(name, SET_HOSTNAME, "it names no host in particular".to_owned()));
        }
        return valid((name, SET_HOSTNAME));
    }
    let in_etc = sources.etc_hostname.as_deref().map(|text| parse::hostname(text).unwrap_or_default());
    let candidates = [(Some(host.nodename.as_str()), KERNEL), (in_etc, ETC_HOSTNAME)];
    let mut set = candidates.iter().filter_map(|(name, origin)| Some(((*name)?, *origin)));
    match set.find(|(name, _)| !is_placeholder(name.trim())) {
        Some(found) => valid(found),
        None => Err(FactsError::NoHostname { tried: tried(&candidates) }),
    }
}

/// What a host is called before it has a name: `(none)` is the kernel's own default, `localhost` that of systemd and
/// of many images.
fn is_placeholder(name: &str) -> bool {
    let name = parse::without_final_dot(name);
    let first = name.split('.').next().unwrap_or_default();
    name.is_empty()
        || name == "(none)"
        || ["localhost", "localhost4", "localhost6"].iter().any(|l| first.eq_ignore_ascii_case(l))
}

fn tried(candidates: &[(Option<&str>, &str)]) -> String {
    let say = |(name, origin): &(Option<&str>, &str)| match name {
        None => format!("{origin}: not there"),
        Some(name) if name.trim().is_empty() => format!("{origin}: empty"),
        Some(name) => format!("{origin}: {:?}", excerpt(name)),
    };
    candidates.iter().map(say).collect::<Vec<_>>().join(", ")
}

fn valid((name, origin): Found<'_>) -> Result<(String, &'static str), FactsError> {
    let name_of_host = parse::without_final_dot(name.trim()).to_ascii_lowercase();
    match fault(&name_of_host) {
        Some(why) => Err(bad_hostname(name, origin, why)),
        None => Ok((name_of_host, origin)),
    }
}

fn bad_hostname(name: &str, origin: &'static str, why: String) -> FactsError {
    FactsError::BadHostname { value: excerpt(name), origin, why }
}

fn configured_domain(domain: &str, hostname: &str) -> Result<Fact<String>, FactsError> {
    valid_domain(domain, hostname)
        .map(|value| fact(value, SET_DOMAIN))
        .map_err(|why| FactsError::BadDomain { value: excerpt(domain), why })
}

/// The first candidate that is a domain name; those before it are left out with their reason.
fn detected_domain(
    hostname: &str,
    settings: &Settings,
    host: &Host,
    sources: &Sources,
) -> (Option<Fact<String>>, Vec<LeftOut>) {
    let mut left_out = Vec::new();
    for (domain, source) in domain_candidates(hostname, settings, host, sources) {
        let why = match valid_domain(domain, hostname) {
            Ok(value) => return (Some(fact(value, source)), left_out),
            Err(why) => why,
        };
        left_out.push(LeftOut { what: format!("domain {:?} ({source})", excerpt(domain)), why });
    }
    (None, left_out)
}

/// Every domain that something gives this host, in the order of the module's text.
fn domain_candidates<'a>(
    hostname: &str,
    settings: &'a Settings,
    host: &'a Host,
    sources: &'a Sources,
) -> Vec<Found<'a>> {
    let after = |name: Option<&'a str>, source| Some((parse::domain_after(name?.trim(), hostname)?, source));
    let resolv_conf = sources.resolv_conf.as_deref().unwrap_or_default();
    let hosts = sources.etc_hosts.as_deref().unwrap_or_default();
    let mut found: Vec<Found<'a>> = Vec::new();
    found.extend(after(settings.hostname.as_deref(), SET_HOSTNAME));
    found.extend(after(Some(&host.nodename), KERNEL));
    found.extend(after(sources.etc_hostname.as_deref().and_then(parse::hostname), ETC_HOSTNAME));
    found.extend(
        parse::full_names(hosts, hostname).into_iter().filter_map(|name| after(Some(name), "/etc/hosts")),
    );
    found.extend(parse::resolver_domain(resolv_conf).map(|domain| (domain, "/etc/resolv.conf domain")));
    found.extend(parse::resolver_search(resolv_conf).map(|domain| (domain, "/etc/resolv.conf search")));
    found
}

/// The domain lower-cased and without its final dot, or what is wrong with it. The FQDN it makes must be valid too.
fn valid_domain(domain: &str, hostname: &str) -> Result<String, String> {
    let domain = parse::without_final_dot(domain.trim()).to_ascii_lowercase();
    if domain == "localdomain" {
        return Err("it stands for having no domain".to_owned());
    }
    match fault(&domain).or_else(|| fault(&format!("{hostname}.{domain}"))) {
        Some(why) => Err(why),
        None => Ok(domain),
    }
}

/// Why a name is not one of a host, by RFC 1123, 2.1 and RFC 1035, 2.3.4.
fn fault(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("it is empty".to_owned());
    }
    if name.len() > 253 {
        return Some(format!("it has {} bytes, at most 253 are allowed", name.len()));
    }
    if looks_like_ipv4(name) {
        return Some("it looks like an IPv4 address".to_owned());
    }
    name.split('.').find_map(label_fault)
}

fn label_fault(label: &str) -> Option<String> {
    if label.is_empty() {
        return Some("there is nothing before, after or between its dots".to_owned());
    }
    if let Some(odd) = label.chars().find(|c| !c.is_ascii_alphanumeric() && *c != '-') {
        return Some(format!("{odd:?} is not allowed, only letters, digits and hyphens are"));
    }
    if label.len() > 63 {
        return Some(format!("a label of it has {} characters, at most 63 are allowed", label.len()));
    }
    (label.starts_with('-') || label.ends_with('-'))
        .then(|| format!("{label:?} begins or ends with a hyphen"))
}

/// Also the short forms such as 10.1, which inet_aton(3) takes for addresses. A single number is a valid label.
fn looks_like_ipv4(name: &str) -> bool {
    let numeric = name.contains('.') && name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    numeric || name.parse::<Ipv4Addr>().is_ok()
}
