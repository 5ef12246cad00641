//! `generate`: which host of a control plane makes what is random and the same on all of them.
//!
//! Two that each make their own are a control plane that refuses its own tokens. At boot no one can be asked, so
//! `true` is taken only where the configuration itself shows that this host is the first or the only one;
//! elsewhere the host has a name.

use std::net::IpAddr;

use serde::Deserialize;

use super::{Surroundings, kubeconfig};
use crate::keepsake::Origin;
use crate::setting::{At, Fault, SecretSource};

/// `generate`: whether this host makes it, or which host does.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "true, false or the name of the host that makes it")]
pub enum Generate {
    /// This host.
    Here(bool),
    /// The host of that name.
    On(String),
}

/// What a table says of a keepsake, and what the configuration knows of the control plane.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// The table, for messages.
    pub(super) table: &'a str,
    /// The key by which an operator gives it, the same.
    pub(super) key: &'a str,
    pub(super) generate: Option<&'a At<Generate>>,
    pub(super) given: Option<&'a At<SecretSource>>,
    pub(super) etcd_servers: &'a [At<String>],
    pub(super) api_server: Option<&'a At<String>>,
}

impl Wanted<'_> {
    /// The setting by which the operator gives it.
    pub(super) fn setting(&self) -> String {
        format!("{} {}", self.table, self.key)
    }

    pub(super) fn origin(&self, around: Surroundings<'_>) -> Result<Origin, Vec<Fault>> {
        let generate = self.generate.filter(|generate| *generate.get_ref() != Generate::Here(false));
        match (generate, self.given) {
            (Some(generate), Some(_)) => {
                let message = format!("{} has both generate and {}; keep one of them", self.table, self.key);
                Err(vec![Fault::at(generate.span(), message)])
            }
            (None, Some(given)) => Ok(Origin::Given(given.get_ref().clone())),
            (None, None) => Ok(Origin::Elsewhere("it is made where generate says so".to_owned())),
            (Some(generate), None) => match generate.get_ref() {
                Generate::On(host) if is_here(around, host) => Ok(Origin::Made),
                Generate::On(host) => Ok(Origin::Elsewhere(format!("{host} makes it"))),
                Generate::Here(_) => self.first(around),
            },
        }
    }

    /// Where hosts that hold etcd have one configuration, the first of them makes it; otherwise the host at
    /// which the control plane is reached.
    fn first(&self, around: Surroundings<'_>) -> Result<Origin, Vec<Fault>> {
        let mut hosts = Vec::new();
        for server in self.etcd_servers {
            hosts.push(kubeconfig::host("etcd_servers", server)?);
        }
        let api = self.api_server.map(|url| kubeconfig::host("api_server", url)).transpose()?;
        hosts.retain(|host| !is_loopback(host));
        // Each host may name its own member first: what is the same on all of them is the set.
        hosts.sort_by_cached_key(|host| (host.parse::<IpAddr>().ok(), host.to_ascii_lowercase()));
        // Or each may name its own member alone; of [etcd] each names them all.
        if hosts.len() < around.members.len() {
            hosts = around.members.to_vec();
        }
        Ok(match (hosts.iter().position(|host| is_here(around, host)), hosts.first()) {
            (Some(0), _) => Origin::Made,
            (Some(_), Some(first)) => {
                Origin::Elsewhere(format!("{first}, the first of etcd's members, makes it"))
            }
            _ if api.is_some_and(|api| is_own(around, api)) => Origin::Made,
            _ => Origin::Elsewhere(format!(
                "with generate = true every host of the control plane would make its own, for neither etcd_servers, [etcd] cluster nor api_server names this one: write generate = {:?}, the same on all of them",
                around.facts.hostname.value
            )),
        })
    }
}

/// Every host of a control plane may call itself so.
fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn is_here(around: Surroundings<'_>, host: &str) -> bool {
    is_own(around, host) || around.facts.addresses.iter().any(|address| host.parse() == Ok(address.ip))
}

/// Not every address that is here is this host's own: a virtual one is here while this host holds it.
fn is_own(around: Surroundings<'_>, host: &str) -> bool {
    let facts = around.facts;
    let names = [&facts.hostname.value, &facts.fqdn.value, &facts.nodename.value];
    names.iter().any(|name| name.eq_ignore_ascii_case(host))
        || facts.primary.as_ref().is_some_and(|primary| host.parse() == Ok(primary.value))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::facts::{self, Host, Interface, Sources};
    use crate::node;

    /// Whether a host with these addresses makes it, where that is left to the configuration.
    fn is_first(addresses: &[&str], servers: &[&str], api: Option<&str>, members: &[&str]) -> bool {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let eth0 = Interface { name: "eth0".to_owned(), up: true, loopback: false, addresses };
        let host = Host { nodename: "cp1.example.com".to_owned(), interfaces: Some(vec![eth0]) };
        let settings = toml::from_str("interfaces = [\"eth0\"]").unwrap();
        let facts = facts::gather(&settings, &host, &Sources::default()).unwrap();
        let around = Surroundings {
            table: "service-account",
            facts: &facts,
            scope: &node::scope(&facts),
            present: &BTreeSet::new(),
            keeping: &BTreeSet::new(),
            tables: &BTreeSet::new(),
            members,
        };
        let url = |host: &str| At::new(0..0, format!("https://{host}:2379"));
        let api = api.map(url);
        let wanted = Wanted {
            table: "[service-account]",
            key: "key",
            generate: Some(&At::new(0..0, Generate::Here(true))),
            given: None,
            etcd_servers: &servers.iter().map(|host| url(host)).collect::<Vec<_>>(),
            api_server: api.as_ref(),
        };
        wanted.origin(around).unwrap() == Origin::Made
    }

    #[test]
    fn one_host_is_the_first_however_each_orders_its_servers() {
        let orders = [["10.0.0.5", "10.0.0.11"], ["10.0.0.11", "10.0.0.5"]];
        for servers in orders {
            assert!(is_first(&["10.0.0.5"], &servers, None, &[]), "{servers:?}");
            assert!(!is_first(&["10.0.0.11"], &servers, None, &[]), "{servers:?}");
        }
        for servers in [["CP2.example.com", "cp1.example.com"], ["cp1.example.com", "CP2.example.com"]] {
            assert!(is_first(&["10.0.0.5"], &servers, None, &[]), "{servers:?}");
        }
        assert!(!is_first(&["10.0.0.5"], &["cp1.example.com", "cp0.example.com"], None, &[]));
        assert!(!is_first(&["10.0.0.5"], &[], None, &["10.0.0.9", "10.0.0.5"]), "the order is [etcd]'s");
        for (own, first) in [("10.0.0.9", true), ("10.0.0.5", false)] {
            assert_eq!(
                is_first(&[own], &[own], None, &["10.0.0.9", "10.0.0.5"]),
                first,
                "its own alone: {own}"
            );
        }
    }

    #[test]
    fn a_virtual_address_makes_no_host_the_first() {
        assert!(is_first(&["10.0.0.5", "10.0.0.100"], &[], Some("10.0.0.5"), &[]));
        assert!(is_first(&["10.0.0.5"], &[], Some("cp1.example.com"), &[]));
        assert!(!is_first(&["10.0.0.5", "10.0.0.100"], &[], Some("10.0.0.100"), &[]));
    }
}
