//! kubeconfigs: whom a client of kube-apiserver talks to, and as whom.
//!
//! They name paths: client-go reads a pair again every five minutes; the CA's certificates (before 1.36) and a
//! changed kubeconfig never. Where they hold the pair itself (`embed`), that is with each new certificate.

use serde_json::{Map, Value, json};

use super::{Expanded, name, open_file, path};
use crate::certificate::Owner;
use crate::deed::Deed;
use crate::file::{Content, File, Fill};
use crate::setting::{At, Fault, Mode};

/// One kubeconfig that is wanted.
pub(super) struct Kubeconfig<'a> {
    /// What reports call the file.
    pub(super) file: &'a str,
    /// Where it lies.
    pub(super) path: &'a str,
    /// kube-apiserver's URL.
    pub(super) server: &'a str,
    /// As whom it is talked to: a name within the file.
    pub(super) user: &'a str,
    /// The certificate that proves it.
    pub(super) certificate: &'a str,
    /// Whether it holds certificate, key and CA certificates itself.
    pub(super) embed: bool,
    /// How the program that reads it is told, if one is.
    pub(super) told: Option<Deed>,
    /// Whether a file that someone else wrote may be replaced.
    pub(super) replace: bool,
}

impl Kubeconfig<'_> {
    /// The file; `None` where its certificate is not known.
    pub(super) fn render(&self, expanded: &Expanded) -> Option<File> {
        let certificate = expanded.get(&name(self.certificate))?;
        let place = &certificate.place;
        let mut fills = Vec::new();
        let mut entry = |key: &str, path: String, fill: Fill| {
            if !self.embed {
                return (key.to_owned(), Value::String(path));
            }
            let mark = fill.mark();
            fills.push(fill);
            (format!("{key}-data"), Value::String(mark))
        };
        let of = certificate.name.clone();
        let user: Map<_, _> = [
            entry("client-certificate", path(&place.path(&place.cert)), Fill::Cert(of.clone())),
            entry("client-key", path(&place.path(&place.key)), Fill::Key(of)),
        ]
        .into_iter()
        .collect();
        let trust = certificate.trust.as_ref();
        let trust =
            trust.map(|trust| entry("certificate-authority", path(trust), Fill::Trust(trust.clone())));
        let server = ("server".to_owned(), json!(self.server));
        let cluster: Map<_, _> = trust.into_iter().chain([server]).collect();
        let value = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "default", "cluster": cluster}],
            "users": [{"name": self.user, "user": user}],
            "contexts": [{"name": "default", "context": {"cluster": "default", "user": self.user}}],
            "current-context": "default",
        });
        let mut content = Content::Yaml(value.as_object().cloned().unwrap_or_default());
        if self.embed {
            content = Content::Filled(Box::new(content), fills);
        }
        Some(File {
            mode: Mode(0o600),
            owner: Owner::default(),
            deeds: self.told.iter().cloned().collect(),
            ..open_file(self.file, self.path, content, std::slice::from_ref(&certificate.name), self.replace)
        })
    }
}

/// The host of a server's URL, without port and brackets.
pub(super) fn host<'a>(key: &str, url: &'a At<String>) -> Result<&'a str, Vec<Fault>> {
    let authority = url.get_ref().strip_prefix("https://").map(|rest| rest.trim_end_matches('/'));
    let authority =
        authority.filter(|authority| !authority.is_empty() && !authority.contains(['/', '@', ' ', ',']));
    let Some(authority) = authority else {
        let message = format!("{key} {:?} is not a server's URL; write https://HOST:PORT", url.get_ref());
        return Err(vec![Fault::at(url.span(), message)]);
    };
    Ok(match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((ip, _)) => ip,
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    })
}
