//! `[service-account]`: the key pair with which a control plane signs the tokens of pods. The same on every
//! host of it: a token of one that another does not know is refused there.

use serde::Deserialize;

use super::generate::{Generate, Wanted};
use super::{
    Certificates, Component, Expanded, SERVICE_ACCOUNT_KEY, SERVICE_ACCOUNT_PUBLIC, Surroundings, name,
};
use crate::file::File;
use crate::identity::KeyKind;
use crate::keepsake::{Form, Keepsake};
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
        let wanted = Wanted {
            table: "[service-account]",
            key: "key",
            generate: self.generate.as_ref(),
            given: self.key.as_ref(),
            etcd_servers: &self.etcd_servers,
        };
        Ok(vec![Keepsake {
            name: name("service-account-key"),
            form: Form::Pair { public: SERVICE_ACCOUNT_PUBLIC.into(), kind: self.kind },
            path: SERVICE_ACCOUNT_KEY.into(),
            trace: Some(SERVICE_ACCOUNT_PUBLIC.into()),
            origin: wanted.origin(around)?,
            setting: wanted.setting(),
            users: ["kube-apiserver-serving", "kube-controller-manager"].map(name).into(),
            replace: self.replace,
        }])
    }
}
