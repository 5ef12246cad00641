//! What one certificate is to say: whose it is, under which names, and for what.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The identity a certificate is wanted for. Its names are valid: [`Identity::check`] made sure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Subject common name; may be empty where the SANs say it all.
    pub common_name: String,
    /// Subject organizations, exactly these. `None` states nothing, and whatever the CA adds is taken.
    pub organization: Option<BTreeSet<String>>,
    /// DNS names wanted among the SANs, lower case.
    pub dns: BTreeSet<String>,
    /// Addresses wanted among the SANs.
    pub ips: BTreeSet<IpAddr>,
    /// URIs wanted among the SANs.
    pub uris: BTreeSet<String>,
    /// Extended key usages: at least these, and exactly these where `exact_usages`.
    pub usages: BTreeSet<Usage>,
    /// Whether a usage that was not asked for is a fault.
    pub exact_usages: bool,
    /// The kind of key.
    pub key: KeyKind,
    /// The lifetime to ask for; the CA decides.
    pub ttl: Option<Duration>,
}

/// An extended key usage of TLS, RFC 5280 section 4.2.1.12.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Usage {
    /// id-kp-serverAuth
    Server,
    /// id-kp-clientAuth
    Client,
}

/// The kinds of key a host can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names of the field say it")]
pub enum KeyKind {
    #[default]
    P256,
    P384,
    P521,
    Ed25519,
    Rsa2048,
    Rsa3072,
    Rsa4096,
}

impl Identity {
    /// Says every way in which the names could not stand in a certificate.
    pub fn check(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        wrong.extend(text("common name", &self.common_name).err());
        wrong.extend(self.organization.iter().flatten().filter_map(|o| {
            if o.is_empty() {
                Some("an organization is empty".to_owned())
            } else {
                text("organization", o).err()
            }
        }));
        wrong.extend(self.dns.iter().filter_map(|name| dns_name(name).err()));
        wrong.extend(self.ips.iter().filter_map(|ip| address(ip).err()));
        wrong.extend(self.uris.iter().filter_map(|name| uri(name).err()));
        if self.common_name.is_empty() && self.dns.is_empty() && self.ips.is_empty() && self.uris.is_empty() {
            wrong.push("it has no name at all; give common_name, dns, ips or uris".to_owned());
        }
        wrong
    }
}

/// RFC 5280 appendix A: ub-common-name and ub-organization-name are 64 characters.
fn text(what: &str, value: &str) -> Result<(), String> {
    if value.chars().count() > 64 {
        return Err(format!("the {what} {value:?} has more than 64 characters (RFC 5280)"));
    }
    match value.chars().find(|c| c.is_control()) {
        Some(c) => Err(format!("the {what} {value:?} holds the control character {c:?}")),
        None => Ok(()),
    }
}

/// RFC 1123 section 2.1 host names, with one leading wildcard label (RFC 6125 section 6.4.3).
pub fn dns_name(name: &str) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("{name:?} is not a DNS name: {why}"));
    let host = name.strip_prefix("*.").unwrap_or(name);
    if host.is_empty() || name.len() > 253 {
        return wrong("it must have 1 to 253 characters");
    }
    if host.parse::<IpAddr>().is_ok() {
        return wrong("it is an address; put it into ips");
    }
    for label in host.split('.') {
        if label.is_empty() || label.len() > 63 {
            return wrong("each label must have 1 to 63 characters");
        }
        if let Some(c) = label.chars().find(|c| !(c.is_ascii_alphanumeric() || *c == '-')) {
            return wrong(&format!(
                "it holds {c:?}; write letters, digits and hyphens, other scripts as punycode"
            ));
        }
        if label.starts_with('-') || label.ends_with('-') {
            return wrong("a label must not begin or end with a hyphen");
        }
    }
    Ok(())
}

fn address(ip: &IpAddr) -> Result<(), String> {
    match ip.is_unspecified() || ip.is_multicast() {
        true => Err(format!("{ip} is not the address of a host")),
        false => Ok(()),
    }
}

/// RFC 3986 section 3: an absolute URI, in ASCII, as an IA5String can hold it.
fn uri(name: &str) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("{name:?} is not a URI: {why}"));
    let Some((scheme, rest)) = name.split_once(':') else {
        return wrong("it has no scheme, as spiffe://… has");
    };
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        || !scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    {
        return wrong("its scheme is not one");
    }
    if rest.is_empty() || !name.chars().all(|c| c.is_ascii_graphic()) {
        return wrong("what follows the scheme must be printable ASCII without blanks");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_stand_in_a_certificate_are_refused_with_the_reason() {
        for (name, why) in [
            ("", "1 to 253"),
            ("*.", "1 to 253"),
            ("a..b", "1 to 63"),
            ("node_1", "'_'"),
            ("-a", "hyphen"),
            ("a-", "hyphen"),
            ("10.0.0.1", "ips"),
            ("bücher.example", "punycode"),
            ("a b", "' '"),
            ("*.*.example", "'*'"),
            ("a\0.example", "'\\0'"),
        ] {
            let said = dns_name(name).expect_err(name);
            assert!(said.contains(why), "{name:?}: {said}");
        }
    }

    #[test]
    fn names_of_real_hosts_are_taken() {
        for name in ["node01", "etcd.example.com", "*.example.com", "xn--bcher-kva.example", "1.example"] {
            assert_eq!(dns_name(name), Ok(()));
        }
        assert_eq!(uri("spiffe://example.org/node/1"), Ok(()));
        assert!(uri("example.org/node").is_err() && uri("http:").is_err() && uri("a b:c").is_err());
    }
}
