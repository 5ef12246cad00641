//! [I/O: host] What is true of this host now: its names, its machine id and its addresses.
//!
//! [`Host::live`] and [`Sources::read`] do the reading; [`gather`] is a function of what they read, so every rule
//! below can be tried with plain values. Nothing here asks the network: no DNS query, no connection. Facts are
//! therefore fast, and the same at early boot as later, as long as the files are the same.
//!
//! **Host name**: `[node] hostname`, else the kernel's name, else /etc/hostname; its first label, lower-cased.
//! `localhost` and the like mean "not set yet" and are passed over.
//!
//! **Domain**, the first that is found: `[node] domain`; a dotted `[node] hostname`; a dotted kernel name; a dotted
//! /etc/hostname; the full name beside the host name in /etc/hosts; `domain`, then the first `search` entry of
//! /etc/resolv.conf. A dotted name of the kernel or of /etc/hostname counts only if it is a name of this host name:
//! where `[node] hostname` renames the host, the old name's domain says nothing.
//!
//! **Node name**: the whole name that the host name was taken from, lower-cased. This is the kubelet's own rule
//! (`nodeutil.GetHostname`: `--hostname-override`, else the kernel's name; trimmed, lower-cased, not shortened).
//!
//! **Addresses**: `[node] addresses` as they stand; else those of the interfaces that `[node] interfaces` matches;
//! else those of the interfaces that hold a default route. What is left out is listed with its reason.
//!
//! **Primary address**: the first of `[node] addresses`; else the first kept address on the interface of the default
//! route of lowest metric, IPv4 before IPv6; else the first kept. The kernel would use the same as source address
//! unless the route names another (`ip route … src`), which only netlink tells; then set `[node] addresses`.

mod addresses;
mod cidr;
mod describe;
mod host;
mod names;
mod parse;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::setting::Span;

pub use cidr::Cidr;
pub use describe::describe;
pub use host::{Host, Interface, Sources, inherited};

/// `[node]` of the configuration. All of it is optional: what is not set is detected.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The host's name, short or full. It is also the node name, so a dotted one makes a dotted node name.
    pub hostname: Option<String>,
    /// The domain that, after the short host name, makes the FQDN.
    pub domain: Option<String>,
    /// Replaces detection. The first is the primary address.
    pub addresses: Vec<IpAddr>,
    /// Names of the interfaces whose addresses count, instead of those of the default routes. Globs: `*` is any text,
    /// `?` one character. Loopback must be named in full, and an interface of containers or overlays needs a pattern
    /// that spells its kind: `docker*` reaches docker0, `*` does not.
    pub interfaces: Vec<String>,
    /// Networks whose addresses are never detected. `addresses` is not subject to it.
    pub exclude: Vec<Cidr>,
    /// How often the timer runs on this host; as it is shipped, where this says nothing.
    pub interval: Option<Span>,
    /// How long changed names and addresses must hold before certificates follow them.
    pub settle: Option<Span>,
}

impl Settings {
    /// Whether addresses are to be detected.
    pub(crate) fn detects(&self) -> bool {
        self.addresses.is_empty()
    }
}

/// A value and where it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fact<T> {
    /// What is so.
    pub value: T,
    /// Where it was found, in words for a person: `kernel`, `/etc/hostname`, `[node] hostname`.
    pub source: String,
}

/// An address that certificates of this host may carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Why it counts: `eth0, interface of the default route`.
    pub source: String,
}

/// Something that was seen and not used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// What was seen: `172.17.0.1 (docker0)`.
    pub what: String,
    /// Why it does not count, and how to make it count where that is sensible.
    pub why: String,
}

/// All that is known of this host. Serializes to the JSON of `nodecert facts`; [`describe`] is its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// The short name, lower-cased, a valid DNS label.
    pub hostname: Fact<String>,
    /// The domain, lower-cased, without a final dot.
    pub domain: Option<Fact<String>>,
    /// `hostname.domain`, or the host name alone where no domain was found.
    pub fqdn: Fact<String>,
    /// The name of the Kubernetes node.
    pub nodename: Fact<String>,
    /// /etc/machine-id, 32 lower-case hexadecimal digits; none while it is `uninitialized`.
    pub machine_id: Option<Fact<String>>,
    /// The primary address first, then IPv4, then IPv6; as configured, where configured. May be empty.
    pub addresses: Vec<Address>,
    /// The address that others reach this host at; one of `addresses`, none if that is empty.
    pub primary: Option<Fact<IpAddr>>,
    /// What was seen and not used.
    pub left_out: Vec<LeftOut>,
}

/// Why the facts of this host, or a setting of `[node]`, cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// No name is set yet. Temporary: at early boot another unit may still be about to set it.
    #[error(
        "this host has no name yet: {tried}; set it with `hostnamectl set-hostname NAME`, or as `hostname` in [node]"
    )]
    NoHostname {
        /// Where it was looked for, and what stood there.
        tried: String,
    },
    /// A name is set, and no certificate could carry it.
    #[error(
        "{value:?} ({origin}) cannot be the name of this host: {why}; correct it, or set `hostname` in [node]"
    )]
    BadHostname {
        /// The name as it was found, cut to a readable length.
        value: String,
        /// Where it was found, as in [`Fact::source`].
        origin: &'static str,
        /// The rule it breaks.
        why: String,
    },
    /// `[node] domain` is not a domain name. (One that was detected is left out, and said so, instead.)
    #[error("{value:?} ([node] domain) is not a domain name: {why}")]
    BadDomain {
        /// The domain as configured, cut to a readable length.
        value: String,
        /// The rule it breaks.
        why: String,
    },
    /// An entry of `[node] addresses` that no host can have as its own.
    #[error("{ip} ([node] addresses) cannot be an address of this host: it is {why}")]
    BadAddress {
        /// The entry.
        ip: IpAddr,
        /// What it is instead.
        why: &'static str,
    },
    /// Text that is not a network in CIDR notation.
    #[error("{value:?} is not a network: {why}")]
    BadNetwork {
        /// The text, cut to a readable length.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// The kernel refused to say.
    #[error("cannot ask the kernel for {what}")]
    Kernel {
        /// What was asked, and by which call.
        what: &'static str,
        /// The kernel's answer.
        source: nix::Error,
    },
}

impl FactsError {
    /// Whether it may be otherwise in a moment: at early boot a name may still be coming.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::NoHostname { .. })
    }
}

/// Puts together what is true of this host. Pure: the same arguments give the same facts, in the same order.
///
/// # Errors
/// [`FactsError::NoHostname`] (temporary), and `BadHostname`, `BadDomain`, `BadAddress`, which last until someone
/// corrects the setting or the host. A host without an address is no error.
pub fn gather(settings: &Settings, host: &Host, sources: &Sources) -> Result<Facts, FactsError> {
    let names = names::choose(settings, host, sources)?;
    let addresses = addresses::choose(settings, host, sources)?;
    Ok(Facts {
        hostname: names.hostname,
        domain: names.domain,
        fqdn: names.fqdn,
        nodename: names.nodename,
        machine_id: sources.machine_id.as_deref().and_then(parse::machine_id).map(machine_id_fact),
        addresses: addresses.kept,
        primary: addresses.primary,
        left_out: [names.left_out, addresses.left_out].concat(),
    })
}

fn machine_id_fact(value: String) -> Fact<String> {
    Fact { value, source: "/etc/machine-id".to_owned() }
}

/// Foreign text for a message: its beginning, so that a file full of rubbish does not become a screen full of it.
fn excerpt(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
