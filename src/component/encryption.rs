//! `[kube-apiserver.encryption]`: the key with which kube-apiserver encrypts what it keeps in etcd.
//!
//! Source: kubernetes.io "Encrypting Confidential Data at Rest", `EncryptionConfiguration`
//! apiserver.config.k8s.io/v1. What was written before is read as it is: `identity` comes last.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::generate::{Generate, Wanted};
use super::{Surroundings, name, read_once, tokens};
use crate::deed::Deed;
use crate::file::{Content, File, Fill};
use crate::keepsake::{self, Form, Keepsake};
use crate::setting::{At, Fault, SecretSource};

/// `[kube-apiserver.encryption]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "packaging/config.toml is their reference")]
pub struct Settings {
    pub generate: Option<At<Generate>>,
    pub key: Option<At<SecretSource>>,
    #[serde(default)]
    pub provider: Provider,
    #[serde(default = "default_resources")]
    pub resources: Vec<String>,
}

/// `provider`: the cipher.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// XSalsa20 and Poly1305.
    #[default]
    Secretbox,
    /// AES-CBC, which Kubernetes itself advises against.
    Aescbc,
}

fn default_resources() -> Vec<String> {
    vec!["secrets".to_owned()]
}

pub(super) const CONFIG: &str = "/etc/kubernetes/encryption.yaml";
const KEEPSAKE: &str = "encryption-key";

impl Settings {
    /// Never replaced: what is in etcd could not be read again. Another key takes a file of one's own with both.
    pub(super) fn keepsake(
        &self,
        around: Surroundings<'_>,
        wanted: Wanted<'_>,
    ) -> Result<Keepsake, Vec<Fault>> {
        let wanted = Wanted {
            table: "[kube-apiserver.encryption]",
            key: "key",
            generate: self.generate.as_ref(),
            given: self.key.as_ref(),
            ..wanted
        };
        Ok(Keepsake {
            name: name(KEEPSAKE),
            form: Form::CipherKey,
            path: keepsake::place(&name(KEEPSAKE)),
            trace: Some(CONFIG.into()),
            origin: wanted.origin(around)?,
            setting: wanted.setting(),
            users: vec![name("kube-apiserver-serving")],
            replace: false,
        })
    }

    pub(super) fn file(&self, told: Option<Deed>, replace: bool) -> File {
        let key = Fill::Keepsake(name(KEEPSAKE));
        let provider = match self.provider {
            Provider::Secretbox => "secretbox",
            Provider::Aescbc => "aescbc",
        };
        let keys = json!({"keys": [{"name": "key1", "secret": key.mark()}]});
        let cipher: Map<String, Value> = [(provider.to_owned(), keys)].into_iter().collect();
        let value = json!({
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "EncryptionConfiguration",
            "resources": [{
                "resources": self.resources,
                "providers": [cipher, {"identity": {}}],
            }],
        });
        let content = Content::Yaml(value.as_object().cloned().unwrap_or_default());
        let content = Content::Filled(Box::new(content), vec![key]);
        let file = tokens::secret_file("kube-apiserver-encryption", Path::new(CONFIG), content, replace);
        read_once(told, file)
    }
}
