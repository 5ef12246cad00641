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
                Generate::On(host) if host.parse::<IpAddr>().is_ok() => {
                    let message =
                        format!("{} generate takes the name of a host; an address can move", self.table);
                    Err(vec![Fault::at(generate.span(), message)])
                }
                Generate::On(host) if is_name(around, host) => Ok(Origin::Made),
                Generate::On(host) => Ok(Origin::Elsewhere(format!("{host} makes it"))),
                Generate::Here(_) => self.first(around),
            },
        }
    }

    /// The first of the hosts that hold etcd makes it. `[etcd]` names them all; a list of servers does if it has
    /// more than one, for each host may name its own member alone. Whom `api_server` names says nothing: each
    /// host may name itself, and a virtual address is here while this host holds it.
    fn first(&self, around: Surroundings<'_>) -> Result<Origin, Vec<Fault>> {
        let mut hosts = around.members.to_vec();
        if hosts.is_empty() {
            for server in self.etcd_servers {
                hosts.push(kubeconfig::host("etcd_servers", server)?);
            }
            hosts.retain(|host| !is_loopback(host));
        }
        // Each host may name its own member first: what is the same on all of them is the set.
        hosts.sort_by_cached_key(|host| (host.parse::<IpAddr>().ok(), host.to_ascii_lowercase()));
        hosts.dedup();
        let place = hosts.iter().position(|host| is_here(around, host));
        Ok(match place.filter(|_| hosts.len() > 1) {
            Some(0) => Origin::Made,
            Some(_) => Origin::Elsewhere(format!("{}, the first of etcd's members, makes it", hosts[0])),
            // It is this host, or [etcd] would have no place for it.
            None if around.members.len() == 1 => Origin::Made,
            None => Origin::Elsewhere(format!(
                "with generate = true every host of the control plane could make its own, for neither [etcd] cluster nor a list of etcd_servers says which is the first of them: write generate = {:?}, the same on all",
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
    is_name(around, host) || around.facts.addresses.iter().any(|address| host.parse() == Ok(address.ip))
}

fn is_name(around: Surroundings<'_>, host: &str) -> bool {
    let facts = around.facts;
    let names = [&facts.hostname.value, &facts.fqdn.value, &facts.nodename.value];
    names.iter().any(|name| name.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::facts::{self, Host, Interface, Sources};
    use crate::node;

    /// Whether cp1 with these addresses makes it, by what `generate` and the lists of etcd's members say.
    fn is_first(generate: Generate, addresses: &[&str], servers: &[&str], members: &[&str]) -> bool {
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
        let url = |host: &&str| At::new(0..0, format!("https://{host}:2379"));
        let wanted = Wanted {
            table: "[service-account]",
            key: "key",
            generate: Some(&At::new(0..0, generate)),
            given: None,
            etcd_servers: &servers.iter().map(url).collect::<Vec<_>>(),
        };
        wanted.origin(around).is_ok_and(|origin| origin == Origin::Made)
    }

    fn by_lists(addresses: &[&str], servers: &[&str], members: &[&str]) -> bool {
        is_first(Generate::Here(true), addresses, servers, members)
    }

    #[test]
    fn one_host_is_the_first_however_each_orders_its_servers() {
        let orders = [["10.0.0.5", "10.0.0.11"], ["10.0.0.11", "10.0.0.5"]];
        for servers in orders {
            assert!(by_lists(&["10.0.0.5"], &servers, &[]), "{servers:?}");
            assert!(!by_lists(&["10.0.0.11"], &servers, &[]), "{servers:?}");
        }
        for servers in [["CP2.example.com", "cp1.example.com"], ["cp1.example.com", "CP2.example.com"]] {
            assert!(by_lists(&["10.0.0.5"], &servers, &[]), "{servers:?}");
        }
        assert!(!by_lists(&["10.0.0.5"], &["cp1.example.com", "cp0.example.com"], &[]));
        let all = ["10.0.0.9", "10.0.0.5"];
        for (own, servers) in
            [("10.0.0.9", vec!["10.0.0.9"]), ("10.0.0.9", all.to_vec()), ("10.0.0.9", vec![])]
        {
            assert!(!by_lists(&[own], &servers, &all), "{servers:?}: [etcd] names them all");
            assert!(by_lists(&["10.0.0.5"], &servers, &all), "{servers:?}: [etcd] names them all");
        }
        assert!(by_lists(&["10.0.0.5"], &["127.0.0.1"], &["etcd.internal"]), "a cluster of one");
    }

    /// Another host can say the same of itself.
    #[test]
    fn no_host_is_the_first_where_each_may_name_itself() {
        for (addresses, servers) in [
            // etcd is elsewhere.
            (&["10.0.0.5"][..], &["10.0.0.11", "10.0.0.12"][..]),
            (&["10.0.0.5"], &[]),
            // Its own member alone.
            (&["10.0.0.5"], &["10.0.0.5"]),
            (&["10.0.0.5"], &["10.0.0.5", "127.0.0.1"]),
            (&["10.0.0.5"], &["10.0.0.5", "10.0.0.5", "localhost"]),
            // A virtual address, which is here for now, also as the primary one.
            (&["10.0.0.5", "10.0.0.100"], &["10.0.0.100"]),
            (&["10.0.0.100", "10.0.0.5"], &["10.0.0.100"]),
        ] {
            assert!(!by_lists(addresses, servers, &[]), "{addresses:?} {servers:?}");
        }
    }

    #[test]
    fn the_host_that_is_named_makes_it_and_an_address_names_no_host() {
        let named = |name: &str| is_first(Generate::On(name.to_owned()), &["10.0.0.5"], &[], &[]);
        assert!(named("cp1") && named("CP1.example.com"));
        assert!(!named("cp2") && !named("10.0.0.5"));
    }
}
