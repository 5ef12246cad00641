//! A network in CIDR notation.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::Deserialize;

use super::{FactsError, excerpt};

/// A network, as `172.17.0.0/16` or `fd00::/8`; a plain address is the network of that address alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// Whether the address lies in this network. An IPv4 address written as IPv6 (`::ffff:10.0.0.1`) is the IPv4 one.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_ipv4() == self.network.is_ipv4() && first_address(ip, self.prefix) == self.network
    }
}

impl Cidr {
    /// The first address after that of the network itself; none where there is only that one. Kubernetes
    /// gives it to the service `kubernetes`.
    #[must_use]
    pub fn first_host(&self) -> Option<IpAddr> {
        match self.network {
            IpAddr::V4(network) if self.prefix < 32 => Some(IpAddr::V4((network.to_bits() + 1).into())),
            IpAddr::V6(network) if self.prefix < 128 => Some(IpAddr::V6((network.to_bits() + 1).into())),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        }
    }
}

impl FromStr for Cidr {
    type Err = FactsError;

    /// Refuses a network with host bits set: `10.0.0.5/8` is more often a slip than a way to write `10.0.0.0/8`.
    fn from_str(text: &str) -> Result<Self, FactsError> {
        parse(text).map_err(|why| FactsError::BadNetwork { value: excerpt(text), why })
    }
}

impl TryFrom<String> for Cidr {
    type Error = FactsError;

    fn try_from(text: String) -> Result<Self, FactsError> {
        text.parse()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

fn parse(text: &str) -> Result<Cidr, String> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let network: IpAddr = address
        .parse()
        .map_err(|_| "it is written ADDRESS/LENGTH, as in 172.17.0.0/16 or fd00::/8".to_owned())?;
    let longest = if network.is_ipv4() { 32 } else { 128 };
    let prefix = length.map_or(Ok(longest), |length| prefix_length(length, longest))?;
    let first = first_address(network, prefix);
    if first != network {
        return Err(format!("bits are set after the first {prefix}; the network is {first}/{prefix}"));
    }
    Ok(Cidr { network, prefix })
}

fn prefix_length(text: &str, longest: u8) -> Result<u8, String> {
    // Digits only: the standard parser would take "+8" as well.
    let length = if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None };
    length
        .filter(|length| *length <= longest)
        .ok_or_else(|| format!("the length after / is a number from 0 to {longest}"))
}

fn first_address(ip: IpAddr, prefix: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V4((ip.to_bits() & mask_v4(prefix)).into()),
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & mask_v6(prefix)).into()),
    }
}

/// A shift by the whole width is no shift at all in Rust, hence `checked_shl`: the mask of length 0 is 0.
fn mask_v4(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32_u32.saturating_sub(prefix.into())).unwrap_or(0)
}

fn mask_v6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128_u32.saturating_sub(prefix.into())).unwrap_or(0)
}
