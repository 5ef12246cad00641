//! Reading: the kernel's names and interfaces, and the texts that tell the rest.

use std::net::IpAddr;
use std::os::fd::RawFd;

use nix::fcntl::OFlag;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;
use nix::sys::utsname::uname;

use super::{FactsError, Settings};

/// What the live kernel says of this host, as values, so that the rest is a function of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// uname(2)'s node name, as it is.
    pub nodename: String,
    /// The interfaces of our network namespace, in the kernel's order; none where nobody has asked yet.
    pub interfaces: Option<Vec<Interface>>,
}

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// `eth0`; never an alias such as `eth0:1`.
    pub name: String,
    /// Set up by an administrator (`IFF_UP`). Whether a cable is in is not asked: names in a certificate do not
    /// follow a loose plug.
    pub up: bool,
    /// A loopback interface (`IFF_LOOPBACK`).
    pub loopback: bool,
    /// Its addresses of both families, in the kernel's order: the primary one of a subnet before its secondaries.
    pub addresses: Vec<IpAddr>,
}

impl Host {
    /// Asks the kernel for the name alone, uname(2): interfaces take longer, and often no one needs them.
    ///
    /// # Errors
    /// [`FactsError::Kernel`].
    pub fn live() -> Result<Self, FactsError> {
        let name = uname().map_err(|source| FactsError::Kernel { what: "its name (uname)", source })?;
        Ok(Self { nodename: name.nodename().to_string_lossy().into_owned(), interfaces: None })
    }

    /// Asks the kernel for the interfaces too, getifaddrs(3), unless `[node]` names the addresses or they are
    /// known already.
    ///
    /// # Errors
    /// [`FactsError::Kernel`], which in practice means that a sandbox forbids the call
    /// (`RestrictAddressFamilies=` without `AF_NETLINK`).
    pub fn completed(self, settings: &Settings) -> Result<Self, FactsError> {
        if self.interfaces.is_some() || !settings.detects() {
            return Ok(self);
        }
        let what = "the network interfaces (getifaddrs)";
        let entries = getifaddrs().map_err(|source| FactsError::Kernel { what, source })?;
        Ok(Self { interfaces: Some(interfaces(entries)), ..self })
    }
}

/// The kernel tells one address an entry, and each interface once more without one.
fn interfaces(entries: impl Iterator<Item = InterfaceAddress>) -> Vec<Interface> {
    let mut found: Vec<Interface> = Vec::new();
    for entry in entries {
        let name = without_alias(&entry.interface_name);
        let position = found.iter().position(|interface| interface.name == name).unwrap_or_else(|| {
            found.push(Interface {
                name: name.to_owned(),
                up: entry.flags.contains(InterfaceFlags::IFF_UP),
                loopback: entry.flags.contains(InterfaceFlags::IFF_LOOPBACK),
                addresses: Vec::new(),
            });
            found.len() - 1
        });
        found[position].addresses.extend(entry.address.as_ref().and_then(ip));
    }
    found
}

/// getifaddrs(3) answers with an IPv4 address' label, which may be `eth0:1` (`ip address add … label`, ifupdown).
pub(super) fn without_alias(label: &str) -> &str {
    label.split_once(':').map_or(label, |(name, _)| name)
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
}

/// The texts that facts are read from; none where a file is missing or cannot be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// /etc/hostname, hostname(5).
    pub etc_hostname: Option<String>,
    /// /etc/hosts, hosts(5).
    pub etc_hosts: Option<String>,
    /// /etc/resolv.conf, resolv.conf(5).
    pub resolv_conf: Option<String>,
    /// /etc/machine-id, machine-id(5).
    pub machine_id: Option<String>,
    /// /proc/self/net/route: the IPv4 routes of the main table.
    pub route: Option<String>,
    /// /proc/self/net/ipv6_route: the IPv6 routes.
    pub ipv6_route: Option<String>,
    /// /proc/self/net/if_inet6: the IPv6 addresses with their flags, which getifaddrs does not tell.
    pub if_inet6: Option<String>,
}

impl Sources {
    /// Reads what `[node]` leaves to detection. `below_root` answers for the files of /etc, by their absolute path as
    /// this host sees it; /proc is always the live kernel's.
    pub fn read(settings: &Settings, below_root: impl Fn(&str) -> Option<String>) -> Self {
        let proc = |path| settings.detects().then(|| proc(path)).flatten();
        Self {
            etc_hostname: below_root("/etc/hostname"),
            etc_hosts: below_root("/etc/hosts"),
            resolv_conf: below_root("/etc/resolv.conf"),
            machine_id: below_root("/etc/machine-id"),
            route: proc("/proc/self/net/route"),
            ipv6_route: proc("/proc/self/net/ipv6_route"),
            if_inet6: proc("/proc/self/net/if_inet6"),
        }
    }
}

/// The descriptors that this process was started with, besides the three that it uses, and that its children would
/// get: all that it opens itself are close-on-exec, which the flags in fdinfo tell, proc(5) and open(2). None where
/// /proc is not to be read.
pub fn inherited() -> Vec<RawFd> {
    let open = std::fs::read_dir("/proc/self/fdinfo").into_iter().flatten().flatten();
    let numbers = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(|&number| number > 2 && is_passed_on(number)).collect()
}

fn is_passed_on(number: RawFd) -> bool {
    let flags = proc(&format!("/proc/self/fdinfo/{number}")).and_then(|info| {
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        i32::from_str_radix(flags.trim(), 8).ok()
    });
    flags.is_some_and(|flags| !OFlag::from_bits_retain(flags).contains(OFlag::O_CLOEXEC))
}

/// Missing is normal: a kernel without IPv6 has no ipv6_route. /proc/net is a link to self/net, which is asked for
/// directly because systemd's `ProcSubset=pid` hides the link.
fn proc(path: &str) -> Option<String> {
    #[allow(clippy::disallowed_methods, reason = "/proc is the live host, whatever the root")]
    std::fs::read_to_string(path).ok()
}
