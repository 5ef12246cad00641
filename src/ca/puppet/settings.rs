//! `[ca.NAME.puppet]`: what is written, what it means, and what no Puppet CA could ever sign.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::oid;
use crate::bundle::Rejected;
use crate::ca::Setting;
use crate::ca::settings::{Faults, Server};
use crate::ca::text::server_url;
use crate::identity::{Identity, Usage};
use crate::key::Oid;
use crate::setting::{At, SecretSource};

/// `[ca.NAME.puppet]`, as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "packaging/config.toml is their reference")]
pub struct Table {
    pub url: Option<At<String>>,
    #[serde(default)]
    pub first_use: bool,
    #[serde(default)]
    pub attributes: BTreeMap<String, At<SecretSource>>,
    #[serde(default)]
    pub extensions: BTreeMap<String, At<SecretSource>>,
    #[serde(default = "yes")]
    pub agent: bool,
}

fn yes() -> bool {
    true
}

/// A Puppet CA that can be asked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its server.
    pub server: Server,
    /// Attributes of each request, such as challengePassword, for the policy that signs.
    pub attributes: Vec<(Oid, SecretSource)>,
    /// Extensions that each request asks for, such as pp_role.
    pub extensions: Vec<(Oid, SecretSource)>,
    /// Whether puppet's own agent is to keep this host's name for itself.
    pub agent: bool,
}

impl Table {
    /// What the table means; `None` where a fault was added.
    pub(in crate::ca) fn settings(self, server: Option<Server>, faults: &mut Faults<'_>) -> Option<Settings> {
        let url = match &self.url {
            Some(url) => server_url(url.get_ref()).map_err(|why| faults.add(Some(url.span()), why)).ok(),
            None => {
                faults.add(None, "has no url; write url = \"https://HOST:8140\"");
                None
            }
        };
        let attributes = identified("attribute", self.attributes, oid::attribute, faults);
        let extensions = identified("extension", self.extensions, oid::extension, faults);
        Some(Settings {
            server: Server { urls: vec![url?], ..server? },
            attributes: attributes?,
            extensions: extensions?,
            agent: self.agent,
        })
    }
}

fn identified(
    what: &str,
    written: BTreeMap<String, At<SecretSource>>,
    known: fn(&str) -> Result<Oid, String>,
    faults: &mut Faults<'_>,
) -> Option<Vec<(Oid, SecretSource)>> {
    let (mut found, mut seen) = (Some(Vec::new()), BTreeSet::new());
    for (name, value) in written {
        let checked = known(&name).and_then(|oid| match seen.insert(oid) {
            true => Ok(oid),
            false => Err(format!("has the {what} {name:?} twice, by its name and by its number")),
        });
        match (checked, &mut found) {
            (Ok(oid), Some(found)) => found.push((oid, value.into_inner())),
            (Ok(_), None) => {}
            (Err(why), _) => {
                faults.add(Some(value.span()), why);
                found = None;
            }
        }
    }
    found
}

/// Where a setting stands in the table of the CA.
pub(in crate::ca) fn way(setting: Setting) -> Option<&'static [&'static str]> {
    match setting {
        Setting::Urls => Some(&["puppet", "url"]),
        Setting::Auth => Some(&["puppet", "attributes"]),
        _ => None,
    }
}

impl Settings {
    /// The name a certificate has at the CA, which is its common name too: what is written, or else the
    /// common name. Puppet's agent of this host keeps `host` for itself.
    pub(in crate::ca) fn certname(
        &self,
        certname: Option<&str>,
        common_name: &str,
        host: &str,
    ) -> Result<String, String> {
        let name = certname.unwrap_or(common_name).to_ascii_lowercase();
        check(&name)?;
        if self.agent && name.eq_ignore_ascii_case(host) {
            return Err(format!(
                "{name:?} is the certname of this host's own puppet agent, and one certname is one certificate; write a certname of its own, such as \"etcd.{{{{ fqdn }}}}\", or agent = false at the CA if no puppet agent runs here"
            ));
        }
        Ok(name)
    }

    pub(in crate::ca) fn admits(&self, wanted: &Identity, role: Option<&str>) -> Result<(), String> {
        check(&wanted.common_name)?;
        if wanted.organization.as_ref().is_some_and(|organization| !organization.is_empty()) {
            return Err("a Puppet CA signs the common name only and drops every organization; leave organization out, or use another CA".to_owned());
        }
        if wanted.exact_usages && !wanted.usages.is_superset(&[Usage::Server, Usage::Client].into()) {
            return Err("a Puppet CA always certifies both usages; write usages = [\"server\", \"client\"], or leave them out".to_owned());
        }
        match role {
            Some(role) => Err(format!("a Puppet CA knows no roles, and role is {role:?}; leave it out")),
            None => Ok(()),
        }
    }

    pub(in crate::ca) fn hint(&self, why: &Rejected) -> Option<String> {
        let free = "`puppetserver ca clean --certname NAME` on the CA's server frees the name";
        match why {
            Rejected::DueAtOnce(_) => Some(format!("see `ca_ttl` in the CA's puppet.conf; {free}")),
            Rejected::MissingDns(_) | Rejected::MissingIp(_) | Rejected::MissingUri(_) => {
                Some(format!("see allow-subject-alt-names in the CA's ca.conf; {free}"))
            }
            Rejected::Untrusted(_) | Rejected::AnchorExpired { .. } => Some(
                "is what the server publishes at /puppet-ca/v1/certificate/ca what `tls` and `anchors` say?"
                    .to_owned(),
            ),
            _ => None,
        }
    }

    pub(in crate::ca) fn secrets(&self) -> Vec<&SecretSource> {
        self.attributes.iter().chain(&self.extensions).map(|(_, source)| source).collect()
    }

    /// Those of the secrets that stay secret: an extension is part of the certificate.
    pub(in crate::ca) fn private(&self) -> Vec<&SecretSource> {
        self.attributes.iter().map(|(_, source)| source).collect()
    }
}

/// Puppet's documentation, "certname": lower-case letters, digits, periods, underscores and dashes. The
/// server answers 404 to a ':' in the URL and 400 to upper case.
fn check(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("it has no certname; write certname or common_name".to_owned());
    }
    if name.contains(':') {
        return Err(format!(
            "a Puppet CA knows no name with ':', and this one is {name:?}. Let another CA sign it, such as a Vault that a certificate of this Puppet CA logs in to (auth = [{{ cert = … }}]); or write a certname without ':' and no organization, and bind it by RBAC, without the Node authorizer"
        ));
    }
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    match name.chars().find(|&c| !plain(c)) {
        Some(c) => Err(format!(
            "a certname has lower-case letters, digits, '.', '_' and '-', and {name:?} holds {c:?}; write another certname"
        )),
        None if name == "ca" || name.starts_with('.') => {
            Err(format!("a Puppet CA keeps {name:?} for itself; write another certname"))
        }
        None if name.len() > 64 => {
            Err(format!("the certname {name:?} has more than 64 characters (RFC 5280)"))
        }
        None => Ok(()),
    }
}
