//! `[service-account]`: the key pair with which a control plane signs the tokens of pods. The same on every
//! host of it: a token of one that another does not know is refused there.

use serde::Deserialize;

use super::{
    Certificates, Component, Expanded, SERVICE_ACCOUNT_KEY, SERVICE_ACCOUNT_PUBLIC, Surroundings, kubeconfig,
    name,
};
use crate::file::File;
use crate::identity::KeyKind;
use crate::keepsake::{Keepsake, Origin};
use crate::setting::{At, Fault, Name, SecretSource};

/// `[service-account]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "packaging/config.toml is their reference")]
pub struct Settings {
    pub generate: Option<At<Generate>>,
    pub key: Option<At<SecretSource>>,
    #[serde(default = "default_kind")]
    pub kind: KeyKind,
    #[serde(default)]
    pub etcd_servers: Vec<At<String>>,
    #[serde(default)]
    pub replace: bool,
}

/// `generate`: whether this host makes the key, or which host does.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "true, false or the name of the host that makes the key")]
pub enum Generate {
    /// This host.
    Here(bool),
    /// The host of that name.
    On(String),
}

/// RS256: every verifier of tokens knows it.
fn default_kind() -> KeyKind {
    KeyKind::Rsa2048
}

impl Component for Settings {
    fn cas(&self) -> Vec<&At<Name>> {
        Vec::new()
    }

    fn certificates(&self, _: Surroundings<'_>) -> Result<Certificates, Vec<Fault>> {
        Ok(Vec::new())
    }

    fn files(&self, _: Surroundings<'_>, _: &Expanded) -> Result<Vec<File>, Vec<Fault>> {
        Ok(Vec::new())
    }

    fn keepsakes(&self, around: Surroundings<'_>) -> Result<Vec<Keepsake>, Vec<Fault>> {
        if self.kind == KeyKind::Ed25519 {
            let span = self.generate.as_ref().map(At::span).unwrap_or_default();
            return Err(vec![Fault::at(
                span,
                "[service-account] kind: Kubernetes signs with RSA and ECDSA only",
            )]);
        }
        Ok(vec![Keepsake {
            name: name("service-account-key"),
            path: SERVICE_ACCOUNT_KEY.into(),
            public: SERVICE_ACCOUNT_PUBLIC.into(),
            kind: self.kind,
            origin: self.origin(around)?,
            replace: self.replace,
        }])
    }
}

impl Settings {
    fn origin(&self, around: Surroundings<'_>) -> Result<Origin, Vec<Fault>> {
        let generate = self.generate.as_ref().filter(|generate| *generate.get_ref() != Generate::Here(false));
        match (generate, &self.key) {
            (Some(generate), Some(_)) => {
                let message = "[service-account] has both generate and key; keep one of them";
                Err(vec![Fault::at(generate.span(), message)])
            }
            (None, Some(key)) => Ok(Origin::Given(key.get_ref().clone())),
            (None, None) => Ok(Origin::Elsewhere("it is made where generate = true stands".to_owned())),
            (Some(generate), None) => match generate.get_ref() {
                Generate::On(host) if is_here(around, host) => Ok(Origin::Made),
                Generate::On(host) => Ok(Origin::Elsewhere(format!("{host} makes it"))),
                Generate::Here(_) => self.first(around),
            },
        }
    }

    /// Where hosts that hold etcd have one configuration, the first of them makes the key. Two keys would
    /// be a control plane that refuses its own tokens.
    fn first(&self, around: Surroundings<'_>) -> Result<Origin, Vec<Fault>> {
        let mut hosts = Vec::new();
        for server in &self.etcd_servers {
            hosts.push(kubeconfig::host("etcd_servers", server)?);
        }
        let here = hosts.iter().position(|host| is_here(around, host));
        Ok(match (here, hosts.first()) {
            (Some(1..), Some(first)) => {
                let why = "the first of etcd_servers, makes it; to have it made here, write generate = \"THIS HOST\"";
                Origin::Elsewhere(format!("{first}, {why}"))
            }
            _ => Origin::Made,
        })
    }
}

fn is_here(around: Surroundings<'_>, host: &str) -> bool {
    let facts = around.facts;
    let names = [&facts.hostname.value, &facts.fqdn.value, &facts.nodename.value];
    names.iter().any(|name| name.eq_ignore_ascii_case(host))
        || facts.addresses.iter().any(|address| host.parse() == Ok(address.ip))
}
