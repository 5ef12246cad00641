//! `[ca.NAME.vault]`: what is written, what it means, and which option of a role is behind a rejection.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;

use super::rung::{self, Rung, RungTable};
use crate::bundle::Rejected;
use crate::ca::Setting;
use crate::ca::settings::{Faults, Server};
use crate::ca::text::server_url;
use crate::identity::Identity;
use crate::key::MAX_ORGANIZATIONS;
use crate::setting::{At, Name, SecretSource};

/// `[ca.NAME.vault]`, as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "packaging/config.toml is their reference")]
pub struct Table {
    pub urls: Option<At<Vec<String>>>,
    pub mount: Option<At<String>>,
    pub role: Option<At<String>>,
    #[serde(default)]
    pub endpoint: Endpoint,
    pub namespace: Option<At<String>>,
    pub auth: Option<At<Vec<At<RungTable>>>>,
}

/// How a request is signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Endpoint {
    /// By the limits of a role.
    #[default]
    Sign,
    /// As it is asked; the role's limits do not apply.
    SignVerbatim,
}

/// A Vault that can be asked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its server.
    pub server: Server,
    /// Path of the PKI mount, without slashes at its ends.
    pub mount: String,
    /// The role of certificates that name none.
    pub role: Option<String>,
    /// How requests are signed.
    pub endpoint: Endpoint,
    /// The namespace all paths lie in.
    pub namespace: Option<String>,
    /// Ways to log in, tried in order; there is at least one.
    pub auth: Vec<Rung>,
}

impl Table {
    /// What the table means; `None` where a fault was added.
    pub(in crate::ca) fn settings(self, server: Option<Server>, faults: &mut Faults<'_>) -> Option<Settings> {
        let urls = urls(self.urls, faults);
        let mount = match self.mount {
            Some(mount) => path("mount", &mount, faults),
            None => {
                faults.add(
                    None,
                    "has no mount; write the path of the PKI secrets engine, such as mount = \"pki\"",
                );
                None
            }
        };
        let role = self.role.map(|role| segment("role", &role, faults));
        let namespace = self.namespace.map(|namespace| path("namespace", &namespace, faults));
        let auth = rung::rungs(self.auth, faults);
        Some(Settings {
            server: Server { urls: urls?, ..server? },
            mount: mount?,
            role: role.map_or(Some(None), |role| role.map(Some))?,
            endpoint: self.endpoint,
            namespace: namespace.map_or(Some(None), |namespace| namespace.map(Some))?,
            auth: auth?,
        })
    }
}

fn urls(urls: Option<At<Vec<String>>>, faults: &mut Faults<'_>) -> Option<Vec<String>> {
    let Some(urls) = urls.filter(|urls| !urls.get_ref().is_empty()) else {
        faults.add(None, "has no urls; write urls = [\"https://HOST:8200\"]");
        return None;
    };
    let span = urls.span();
    let checked = urls.into_inner().into_iter().map(|url| server_url(&url));
    checked.collect::<Result<_, _>>().map_err(|why| faults.add(Some(span), why)).ok()
}

fn path(key: &str, value: &At<String>, faults: &mut Faults<'_>) -> Option<String> {
    let trimmed = value.get_ref().trim_matches('/');
    if trimmed.split('/').all(is_segment) {
        return Some(trimmed.to_owned());
    }
    faults.add(
        Some(value.span()),
        format!("has the faulty {key} {:?}; write a path such as \"etcd/prod/pki\"", value.get_ref()),
    );
    None
}

fn segment(key: &str, value: &At<String>, faults: &mut Faults<'_>) -> Option<String> {
    if is_segment(value.get_ref()) {
        return Some(value.get_ref().clone());
    }
    faults.add(Some(value.span()), format!("has the faulty {key} {:?}; {PLAIN}", value.get_ref()));
    None
}

const PLAIN: &str = "a name has letters, digits, '.', '_', '-' and '~'";

/// One part of a URL path that needs no escaping, RFC 3986 section 2.3.
pub(super) fn is_segment(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    !text.is_empty() && text.chars().all(plain) && !text.chars().all(|c| c == '.')
}

/// Where a setting stands in the table of the CA.
pub(in crate::ca) fn way(setting: Setting) -> Option<&'static [&'static str]> {
    match setting {
        Setting::Urls => Some(&["vault", "urls"]),
        Setting::Auth => Some(&["vault", "auth"]),
        Setting::Mount => Some(&["vault", "mount"]),
        Setting::Role => Some(&["vault", "role"]),
        _ => None,
    }
}

impl Settings {
    pub(in crate::ca) fn admits(&self, wanted: &Identity, role: Option<&str>) -> Result<(), String> {
        let count = wanted.organization.as_ref().map_or(0, BTreeSet::len);
        match (self.endpoint, role.or(self.role.as_deref())) {
            (_, Some(role)) if !is_segment(role) => Err(format!("has the faulty role {role:?}; {PLAIN}")),
            (Endpoint::Sign, None) => {
                Err("it has no role, and neither has its CA; write role = \"…\" at one of them".to_owned())
            }
            (Endpoint::SignVerbatim, _) if count > MAX_ORGANIZATIONS => Err(format!(
                "asks for {count} organizations; a request carries {MAX_ORGANIZATIONS}, so use endpoint = \"sign\" with a role that sets `organization`"
            )),
            _ => Ok(()),
        }
    }

    pub(in crate::ca) fn hint(&self, why: &Rejected) -> Option<String> {
        let mount = &self.mount;
        match why {
            Rejected::DueAtOnce(_) => Some(format!(
                "see `max_ttl` and `ttl` of the role at {mount}/roles, and the mount's own max_lease_ttl"
            )),
            Rejected::NotYetValid { .. } => Some(format!(
                "see the clocks of both hosts, and `not_before_duration` of the role at {mount}/roles"
            )),
            Rejected::Untrusted(_) | Rejected::AnchorExpired { .. } => Some(format!(
                "what {mount} signs with is at {mount}/ca_chain; is it what `anchors` of this CA says?"
            )),
            _ if self.endpoint == Endpoint::SignVerbatim => None,
            _ => role_option(why).map(|options| format!("see {options} of the role at {mount}/roles")),
        }
    }

    pub(in crate::ca) fn secrets(&self) -> Vec<&SecretSource> {
        self.auth.iter().filter_map(Rung::secret).collect()
    }

    pub(in crate::ca) fn wrapped(&self) -> Option<&SecretSource> {
        self.auth.iter().filter(|rung| rung.is_wrapped()).find_map(Rung::secret)
    }

    pub(in crate::ca) fn wipes(&self) -> Vec<&Path> {
        self.auth.iter().filter_map(Rung::wipes).collect()
    }

    pub(in crate::ca) fn logs_in_with(&self) -> Vec<&At<Name>> {
        self.auth.iter().filter_map(Rung::certificate).collect()
    }
}

/// `sign` takes the organization and usages from the role, never from the request, and says nothing.
fn role_option(why: &Rejected) -> Option<&'static str> {
    match why {
        Rejected::Organization { .. } => Some("`organization`"),
        Rejected::MissingUsage(_) | Rejected::ExtraUsage(_) => {
            Some("`server_flag`, `client_flag` and `ext_key_usage`")
        }
        Rejected::MissingDns(_) => Some("`use_csr_sans` and `allowed_domains`"),
        Rejected::MissingIp(_) => Some("`use_csr_sans` and `allow_ip_sans`"),
        Rejected::MissingUri(_) => Some("`use_csr_sans` and `allowed_uri_sans`"),
        Rejected::CommonName { .. } => Some("`use_csr_common_name` and `require_cn`"),
        Rejected::KeyKind(_) => Some("`key_type` and `key_bits`"),
        Rejected::CaCertificate => Some("`basic_constraints_valid_for_non_ca`"),
        _ => None,
    }
}
