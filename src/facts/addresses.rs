//! The rules for addresses: which count, in which order, and which is the primary one. Pure.

use std::net::IpAddr;

use super::host::Interface;
use super::{Address, Fact, FactsError, Host, LeftOut, Settings, Sources, parse};

/// The addresses of this host.
pub(super) struct Addresses {
    pub(super) kept: Vec<Address>,
    pub(super) primary: Option<Fact<IpAddr>>,
    pub(super) left_out: Vec<LeftOut>,
}

pub(super) fn choose(settings: &Settings, host: &Host, sources: &Sources) -> Result<Addresses, FactsError> {
    if settings.detects() {
        Ok(detected(&Rules::new(settings, sources), host.interfaces.as_deref().unwrap_or_default()))
    } else {
        configured(&settings.addresses)
    }
}

fn configured(addresses: &[IpAddr]) -> Result<Addresses, FactsError> {
    let mut kept: Vec<Address> = Vec::new();
    for ip in addresses.iter().map(IpAddr::to_canonical) {
        if let Some(why) = nobodys(ip) {
            return Err(FactsError::BadAddress { ip, why });
        }
        if kept.iter().all(|other| other.ip != ip) {
            kept.push(Address { ip, source: "[node] addresses".to_owned() });
        }
    }
    let primary =
        kept.first().map(|first| Fact { value: first.ip, source: "first of [node] addresses".to_owned() });
    Ok(Addresses { kept, primary, left_out: Vec::new() })
}

/// What detection goes by.
struct Rules<'a> {
    settings: &'a Settings,
    v4_routes: Vec<&'a str>,
    v6_routes: Vec<&'a str>,
    inet6: Vec<parse::Inet6<'a>>,
    /// The IPv4 routes could not be read.
    unread: bool,
}

/// An address that counts, and what its order and its source are made of.
struct Candidate<'a> {
    ip: IpAddr,
    interface: &'a str,
    rank: usize,
    reason: String,
}

fn detected(rules: &Rules<'_>, interfaces: &[Interface]) -> Addresses {
    let (mut candidates, mut left_out) = sift(rules, interfaces);
    left_out.extend(rules.idle_patterns(interfaces));
    left_out.extend(rules.blind());
    candidates.sort_by_key(|candidate| (candidate.ip.is_ipv6(), candidate.rank));
    let primary = rules.primary(&candidates);
    if let Some((first, _)) = &primary {
        candidates[..=*first].rotate_right(1);
    }
    let mut kept: Vec<Address> = Vec::new();
    for Candidate { ip, interface, reason, .. } in &candidates {
        if kept.iter().all(|other| other.ip != *ip) {
            kept.push(Address { ip: *ip, source: format!("{interface}, {reason}") });
        }
    }
    Addresses { kept, primary: primary.map(|(_, fact)| fact), left_out }
}

/// Every address of every interface goes to one side or the other.
fn sift<'a>(rules: &Rules<'_>, interfaces: &'a [Interface]) -> (Vec<Candidate<'a>>, Vec<LeftOut>) {
    let (mut candidates, mut left_out) = (Vec::new(), Vec::new());
    for interface in interfaces {
        let admitted = rules.admit_interface(interface);
        for &ip in &interface.addresses {
            // The address first: to name the interface would not help one that is unfit itself.
            match rules.admit_address(ip, &interface.name).and_then(|()| admitted.clone()) {
                Err(why) => left_out.push(LeftOut { what: format!("{ip} ({})", interface.name), why }),
                Ok((rank, reason)) => {
                    candidates.push(Candidate { ip, interface: &interface.name, rank, reason });
                }
            }
        }
    }
    (candidates, left_out)
}

impl<'a> Rules<'a> {
    fn new(settings: &'a Settings, sources: &'a Sources) -> Self {
        let text = |source: &'a Option<String>| source.as_deref().unwrap_or_default();
        Self {
            settings,
            v4_routes: parse::default_interfaces_v4(text(&sources.route)),
            v6_routes: parse::default_interfaces_v6(text(&sources.ipv6_route)),
            inet6: parse::inet6(text(&sources.if_inet6)),
            unread: sources.route.is_none(),
        }
    }

    /// The interface's place in the order and why it counts; or why it does not.
    fn admit_interface(&self, interface: &Interface) -> Result<(usize, String), String> {
        let patterns = &self.settings.interfaces;
        if interface.loopback && !patterns.contains(&interface.name) {
            return Err("loopback".to_owned());
        }
        if !interface.up {
            return Err("the interface is down".to_owned());
        }
        if let Some((family, owner)) = family(&interface.name)
            && !patterns.iter().any(|pattern| spells(pattern, family, &interface.name))
        {
            return Err(format!("interface of {owner}; name it in [node] interfaces if it counts here"));
        }
        if patterns.is_empty() {
            self.by_route(&interface.name)
        } else {
            by_pattern(patterns, &interface.name)
        }
    }

    fn by_route(&self, interface: &str) -> Result<(usize, String), String> {
        let rank = self.v4_routes.iter().chain(&self.v6_routes).position(|route| *route == interface);
        rank.map(|rank| (rank, "interface of the default route".to_owned())).ok_or_else(|| {
            "not the interface of a default route; name it in [node] interfaces if it counts here".to_owned()
        })
    }

    fn admit_address(&self, ip: IpAddr, interface: &str) -> Result<(), String> {
        if let Some(why) = nobodys(ip).or_else(|| local_only(ip)) {
            return Err(why.to_owned());
        }
        let is_this = |line: &&parse::Inet6<'_>| IpAddr::V6(line.ip) == ip && line.interface == interface;
        if let Some(why) = self.inet6.iter().find(is_this).and_then(parse::Inet6::unfit) {
            return Err(why.to_owned());
        }
        match self.settings.exclude.iter().find(|network| network.contains(ip)) {
            Some(network) => Err(format!("in {network} of [node] exclude")),
            None => Ok(()),
        }
    }

    /// The primary address and its index. `candidates` is in order, so the first of an interface is its best.
    fn primary(&self, candidates: &[Candidate<'_>]) -> Option<(usize, Fact<IpAddr>)> {
        let v4 = self.v4_routes.iter().map(|route| (*route, true));
        let v6 = self.v6_routes.iter().map(|route| (*route, false));
        let on_route = |(route, is_v4): (&str, bool)| {
            candidates.iter().position(|c| c.interface == route && c.ip.is_ipv4() == is_v4)
        };
        let (index, why) = match v4.chain(v6).find_map(on_route) {
            Some(index) => (index, "interface of the default route"),
            None => (0, "first of the addresses, as none is on a default route"),
        };
        let first = candidates.get(index)?;
        Some((index, Fact { value: first.ip, source: format!("{}, {why}", first.interface) }))
    }

    /// Without its file, "not the interface of a default route" would be a guess.
    fn blind(&self) -> Option<LeftOut> {
        (self.unread && self.settings.interfaces.is_empty()).then(|| LeftOut {
            what: "IPv4 default routes".to_owned(),
            why: "/proc/self/net/route cannot be read; set interfaces or addresses in [node]".to_owned(),
        })
    }

    /// A pattern that matches nothing is most often a slip.
    fn idle_patterns(&self, interfaces: &[Interface]) -> impl Iterator<Item = LeftOut> {
        let idle =
            |pattern: &&String| !interfaces.iter().any(|interface| parse::glob(pattern, &interface.name));
        self.settings.interfaces.iter().filter(idle).map(|pattern| LeftOut {
            what: format!("{pattern:?} of [node] interfaces"),
            why: "no interface has such a name".to_owned(),
        })
    }
}

fn by_pattern(patterns: &[String], interface: &str) -> Result<(usize, String), String> {
    match patterns.iter().enumerate().find(|(_, pattern)| parse::glob(pattern, interface)) {
        Some((rank, pattern)) => Ok((rank, format!("{pattern:?} of [node] interfaces"))),
        None => Err("no pattern of [node] interfaces matches the interface".to_owned()),
    }
}

/// Interfaces that others make for their own traffic: what lies on them is the same on every host, or changes with
/// a pod. The first that matches counts.
const FAMILIES: [(&str, &str); 36] = [
    ("docker*", "Docker"),
    ("br-*", "a container network"),
    ("podman*", "Podman"),
    ("nerdctl*", "containerd"),
    ("cni*", "a CNI bridge"),
    ("cbr0", "kubenet"),
    ("flannel*", "Flannel"),
    ("cali*", "Calico"),
    ("vxlan.calico", "Calico"),
    ("vxlan-v6.calico", "Calico"),
    ("wireguard.cali", "Calico"),
    ("wg-v6.cali", "Calico"),
    ("tunl*", "an IP-in-IP tunnel"),
    ("ip6tnl*", "an IPv6 tunnel"),
    ("cilium_*", "Cilium"),
    ("cilium-*", "Cilium"),
    ("antrea-*", "Antrea"),
    ("weave*", "Weave"),
    ("kube-bridge", "kube-router"),
    ("kube-ipvs0", "kube-proxy"),
    ("nodelocaldns", "the node-local DNS cache"),
    ("ovn-k8s-*", "OVN-Kubernetes"),
    ("genev_sys_*", "Geneve"),
    ("vxlan_sys_*", "VXLAN"),
    ("lxc*", "LXC or Cilium"),
    ("lxd*", "LXD"),
    ("incus*", "Incus"),
    ("veth*", "a container"),
    ("ve-*", "systemd-nspawn"),
    ("vb-*", "systemd-nspawn"),
    ("virbr*", "libvirt"),
    ("vnet*", "a virtual machine"),
    ("vboxnet*", "VirtualBox"),
    ("vmnet*", "VMware"),
    ("wg*", "WireGuard"),
    ("tailscale*", "Tailscale"),
];

fn family(interface: &str) -> Option<(&'static str, &'static str)> {
    FAMILIES.iter().find(|(family, _)| parse::glob(family, interface)).copied()
}

/// Whether a pattern means this family, and not merely everything: `wg*` and `wg0` spell WireGuard, `w*` does not.
fn spells(pattern: &str, family: &str, interface: &str) -> bool {
    parse::glob(pattern, interface) && parse::literal_start(pattern).starts_with(parse::literal_start(family))
}

/// Addresses that no host has as its own.
fn nobodys(ip: IpAddr) -> Option<&'static str> {
    match ip {
        _ if ip.is_unspecified() => Some("the unspecified address"),
        _ if ip.is_multicast() => Some("a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        _ => None,
    }
}

/// Addresses that mean another host elsewhere. Configured ones are the operator's business.
fn local_only(ip: IpAddr) -> Option<&'static str> {
    match ip {
        _ if ip.is_loopback() => Some("loopback"),
        IpAddr::V4(v4) if v4.is_link_local() => Some("link-local"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("link-local"),
        _ => None,
    }
}
