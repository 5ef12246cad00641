//! `[etcd-client.NAME]`: flanneld, etcdctl, a backup, or whatever else talks to etcd from this host.

use std::path::PathBuf;

use serde::Deserialize;

use super::{
    Certificates, Component, Expanded, Surroundings, kubeconfig, literal, name, open_file, own, path,
};
use crate::certificate::{self, Certificate, Names, is_plain_path};
use crate::file::{Content, File};
use crate::identity::Usage;
use crate::setting::{At, Fault, Name, Template};

/// `[etcd-client.NAME]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "packaging/config.toml is their reference")]
pub struct Settings {
    pub ca: At<Name>,
    pub common_name: Option<At<Template>>,
    pub directory: Option<At<PathBuf>>,
    pub owner: Option<String>,
    #[serde(default)]
    pub endpoints: Vec<At<String>>,
    pub env: Option<At<PathBuf>>,
    pub variables: Option<Variables>,
    #[serde(default)]
    pub replace: bool,
}

/// Its certificate and file are named after it, and a common name has 64 characters at most (RFC 5280).
const MAX_NAME: usize = 40;

/// `variables`: how the client's environment names endpoints and files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variables {
    /// `FLANNELD_ETCD_ENDPOINTS` … as flanneld makes them of its flags.
    Flanneld,
    /// `ETCDCTL_ENDPOINTS` …, etcdctl's own.
    Etcdctl,
}

impl Variables {
    fn names(self) -> [&'static str; 4] {
        match self {
            Self::Flanneld => [
                "FLANNELD_ETCD_ENDPOINTS",
                "FLANNELD_ETCD_CAFILE",
                "FLANNELD_ETCD_CERTFILE",
                "FLANNELD_ETCD_KEYFILE",
            ],
            Self::Etcdctl => ["ETCDCTL_ENDPOINTS", "ETCDCTL_CACERT", "ETCDCTL_CERT", "ETCDCTL_KEY"],
        }
    }
}

impl Component for Settings {
    fn cas(&self) -> Vec<&At<Name>> {
        vec![&self.ca]
    }

    /// One client certificate; etcd knows a user by its CN alone.
    fn certificates(&self, around: Surroundings<'_>) -> Result<Certificates, Vec<Fault>> {
        let client = around.table;
        if client.len() > MAX_NAME {
            let message = format!("the name {client:?} has more than {MAX_NAME} characters");
            return Err(vec![Fault::at(self.ca.span(), message)]);
        }
        let common_name = literal(&format!("{client}-{}", around.facts.hostname.value));
        let certificate = certificate::Settings {
            ca: Some(self.ca.clone()),
            common_name: Some(self.common_name.clone().unwrap_or_else(|| own(common_name))),
            usages: Some(own([Usage::Client].into())),
            directory: Some(
                self.directory.clone().unwrap_or_else(|| own(format!("/etc/{client}/pki").into())),
            ),
            files: Some(own(Names {
                cert: Some("etcd-client.crt".to_owned()),
                key: Some("etcd-client.key".to_owned()),
                ca: Some("etcd-ca.crt".into()),
                ..Names::default()
            })),
            owner: self.owner.clone(),
            ..certificate::Settings::default()
        };
        Ok(vec![(certificate_name(client), certificate)])
    }

    /// The client's environment, where it is to have one: with `endpoints`.
    fn files(&self, around: Surroundings<'_>, expanded: &Expanded) -> Result<Vec<File>, Vec<Fault>> {
        let client = around.table;
        if client.len() > MAX_NAME {
            return Ok(Vec::new());
        }
        let certificate = expanded.get(&certificate_name(client)).filter(|_| !self.endpoints.is_empty());
        let Some(certificate) = certificate else { return Ok(Vec::new()) };
        for endpoint in &self.endpoints {
            kubeconfig::host("endpoints", endpoint)?;
        }
        let flanneld = if client == "flanneld" { Variables::Flanneld } else { Variables::Etcdctl };
        let variables = self.variables.unwrap_or(flanneld);
        let env = self.env.clone().unwrap_or_else(|| own(format!("/etc/default/{client}").into()));
        if !is_plain_path(env.get_ref()) {
            return Err(vec![Fault::at(env.span(), "env needs an absolute path without '..'")]);
        }
        let content = Content::Env(self.environment(variables, certificate));
        let needs = std::slice::from_ref(&certificate.name);
        Ok(vec![open_file(
            &format!("{client}-environment"),
            &path(env.get_ref()),
            content,
            needs,
            self.replace,
        )])
    }
}

impl Settings {
    fn environment(&self, variables: Variables, certificate: &Certificate) -> Vec<(String, String)> {
        let endpoints: Vec<_> = self.endpoints.iter().map(|endpoint| endpoint.get_ref().as_str()).collect();
        let place = &certificate.place;
        let values = [
            endpoints.join(","),
            certificate.trust.as_deref().map(path).unwrap_or_default(),
            path(&place.path(&place.cert)),
            path(&place.path(&place.key)),
        ];
        variables.names().map(str::to_owned).into_iter().zip(values).collect()
    }
}

fn certificate_name(client: &str) -> Name {
    name(&format!("{client}-etcd-client"))
}
