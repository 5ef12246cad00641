//! Pure readers of the texts in [`super::Sources`]. They take any text: a line that makes no sense is no line.

use std::net::{IpAddr, Ipv6Addr};

/// The name in /etc/hostname: the first line that is neither empty nor a comment (hostname(5)).
pub(super) fn hostname(text: &str) -> Option<&str> {
    text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))
}

/// The full names that /etc/hosts gives this short name: on each line that has the short name, the names that begin
/// with it and go on with a dot.
pub(super) fn full_names<'a>(hosts: &'a str, short: &str) -> Vec<&'a str> {
    let names = |line| {
        host_names(line).filter(|names: &Vec<&str>| names.iter().any(|n| n.eq_ignore_ascii_case(short)))
    };
    hosts.lines().filter_map(names).flatten().filter(|name| domain_after(name, short).is_some()).collect()
}

/// The names of a line of hosts(5): `ADDRESS NAME ALIAS… # comment`.
fn host_names(line: &str) -> Option<Vec<&str>> {
    let mut words = line.split('#').next()?.split_whitespace();
    // An address may carry a zone: fe80::1%eth0.
    words.next()?.split('%').next()?.parse::<IpAddr>().ok()?;
    Some(words.collect())
}

/// What follows `short` and a dot in `name`, if it does and is not nothing.
pub(super) fn domain_after<'a>(name: &'a str, short: &str) -> Option<&'a str> {
    let (first, rest) = name.split_once('.')?;
    let rest = without_final_dot(rest);
    (first.eq_ignore_ascii_case(short) && !rest.is_empty()).then_some(rest)
}

/// `example.com.` and `example.com` are the same name (RFC 1034, 3.1).
pub(super) fn without_final_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// `domain` of resolv.conf(5); of several, the last.
pub(super) fn resolver_domain(text: &str) -> Option<&str> {
    resolver_option(text, "domain")
}

/// The first entry of `search` of resolv.conf(5); of several lines, the last. systemd-resolved writes `search .` for
/// "none".
pub(super) fn resolver_search(text: &str) -> Option<&str> {
    resolver_option(text, "search")
}

fn resolver_option<'a>(text: &'a str, keyword: &str) -> Option<&'a str> {
    let value = |line: &'a str| {
        let mut words = line.split_whitespace();
        if words.next()? != keyword {
            None
        } else {
            words.map(without_final_dot).find(|word| !word.is_empty())
        }
    };
    text.lines().rev().find_map(value)
}

/// machine-id(5): 32 hexadecimal digits, not all of them 0. `uninitialized` and an empty file mean first boot.
pub(super) fn machine_id(text: &str) -> Option<String> {
    let id = text.trim();
    let valid = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()) && id.bytes().any(|b| b != b'0');
    valid.then(|| id.to_ascii_lowercase())
}

/// Route flags of linux/route.h.
const RTF_UP: u32 = 0x0001;
const RTF_REJECT: u32 = 0x0200;

/// The interfaces of the IPv4 default routes in /proc/net/route, lowest metric first.
///
/// `Iface Destination Gateway Flags RefCnt Use Metric Mask …`; the metric is decimal, the rest hexadecimal.
pub(super) fn default_interfaces_v4(text: &str) -> Vec<&str> {
    by_metric(text.lines().filter_map(default_route_v4))
}

fn default_route_v4(line: &str) -> Option<(u32, &str)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let &[interface, destination, _gateway, flags, _references, _use, metric, mask, ..] = words.as_slice()
    else {
        return None;
    };
    (hex(destination)? == 0 && hex(mask)? == 0 && carries(hex(flags)?))
        .then_some((metric.parse().ok()?, interface))
}

/// The interfaces of the IPv6 default routes in /proc/net/ipv6_route, lowest metric first.
///
/// `destination length source length gateway metric references use flags interface`, all hexadecimal. The kernel
/// always has a rejecting ::/0 on lo.
pub(super) fn default_interfaces_v6(text: &str) -> Vec<&str> {
    by_metric(text.lines().filter_map(default_route_v6))
}

fn default_route_v6(line: &str) -> Option<(u32, &str)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let &[destination, length, _, _, _gateway, metric, _references, _use, flags, interface] =
        words.as_slice()
    else {
        return None;
    };
    let everywhere = u128::from_str_radix(destination, 16).ok()? == 0 && hex(length)? == 0;
    (everywhere && carries(hex(flags)?) && interface != "lo").then_some((hex(metric)?, interface))
}

fn carries(flags: u32) -> bool {
    flags & RTF_UP != 0 && flags & RTF_REJECT == 0
}

/// The sort is stable: of equal metrics the kernel's first stays first.
fn by_metric<'a>(routes: impl Iterator<Item = (u32, &'a str)>) -> Vec<&'a str> {
    let mut routes: Vec<_> = routes.collect();
    routes.sort_by_key(|(metric, _)| *metric);
    let mut interfaces: Vec<&str> = Vec::new();
    for (_, interface) in routes {
        if !interfaces.contains(&interface) {
            interfaces.push(interface);
        }
    }
    interfaces
}

/// An IPv6 address and its flags, from a line of /proc/net/if_inet6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inet6<'a> {
    pub(super) ip: Ipv6Addr,
    pub(super) interface: &'a str,
    flags: u32,
}

impl Inet6<'_> {
    /// Why this address is not one to rely on, by the flags of linux/if_addr.h.
    pub(super) fn unfit(&self) -> Option<&'static str> {
        const UNFIT: [(u32, &str); 4] = [
            (0x08, "IPv6 address that another host has too (duplicate address detection failed)"),
            (0x40, "tentative IPv6 address: it may turn out to belong to another host"),
            (0x20, "deprecated IPv6 address: the network is giving it up"),
            (0x01, "temporary IPv6 address: the kernel replaces it every day (RFC 8981)"),
        ];
        UNFIT.iter().find(|(flag, _)| self.flags & flag != 0).map(|(_, why)| *why)
    }
}

/// The lines of /proc/net/if_inet6: `address index length scope flags interface`, all hexadecimal.
pub(super) fn inet6(text: &str) -> Vec<Inet6<'_>> {
    text.lines().filter_map(inet6_line).collect()
}

fn inet6_line(line: &str) -> Option<Inet6<'_>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let &[address, _index, _length, _scope, flags, interface] = words.as_slice() else { return None };
    if address.len() != 32 {
        return None;
    }
    let ip = u128::from_str_radix(address, 16).ok()?.into();
    Some(Inet6 { ip, interface, flags: hex(flags)? })
}

fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 16).ok()
}

/// Whether a name matches a pattern in which `*` is any text and `?` one character.
///
/// On a mismatch only the last `*` takes one character more: the time is at most the product of the lengths.
pub(super) fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        if pattern.get(p) == Some(&'*') {
            star = Some((p, n));
            p += 1;
        } else if pattern.get(p).is_some_and(|c| *c == '?' || *c == name[n]) {
            (p, n) = (p + 1, n + 1);
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            (p, n) = (at + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// The text of a pattern before its first wildcard.
pub(super) fn literal_start(pattern: &str) -> &str {
    pattern.split(['*', '?']).next().unwrap_or(pattern)
}
