//! `[kube-apiserver.tokens.NAME]`: a line each of the file that `--token-auth-file` names, and a kubeconfig to
//! hand out with it.
//!
//! Source: kubernetes.io "Authenticating", static token file; kube-apiserver reads it at its start only.

use serde::Deserialize;
use serde_json::json;

use super::generate::{Generate, Wanted};
use super::{Surroundings, open_file, read_once};
use crate::deed::Deed;
use crate::file::{Content, File, Fill};
use crate::keepsake::{self, Form, Keepsake};
use crate::setting::{At, Fault, Mode, Name, SecretSource};
use std::path::{Path, PathBuf};

/// `[kube-apiserver.tokens.NAME]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "packaging/config.toml is their reference")]
pub struct Settings {
    pub user: Option<At<String>>,
    pub uid: Option<At<String>>,
    #[serde(default)]
    pub groups: Vec<At<String>>,
    pub generate: Option<At<Generate>>,
    pub token: Option<At<SecretSource>>,
    pub kubeconfig: Option<At<PathBuf>>,
    #[serde(default)]
    pub replace: bool,
}

pub(super) const TOKENS: &str = "/etc/kubernetes/tokens.csv";

/// One of them, by its name.
pub(super) struct Token<'a> {
    pub(super) name: &'a Name,
    pub(super) settings: &'a Settings,
}

impl Token<'_> {
    fn keepsake_name(&self) -> Result<Name, Vec<Fault>> {
        Name::new(&format!("token-{}", self.name)).map_err(|message| vec![Fault { span: None, message }])
    }

    pub(super) fn keepsake(
        &self,
        around: Surroundings<'_>,
        wanted: Wanted<'_>,
    ) -> Result<Keepsake, Vec<Fault>> {
        let table = format!("[kube-apiserver.tokens.{}]", self.name);
        let wanted = Wanted {
            table: &table,
            key: "token",
            generate: self.settings.generate.as_ref(),
            given: self.settings.token.as_ref(),
            ..wanted
        };
        let name = self.keepsake_name()?;
        Ok(Keepsake {
            path: keepsake::place(&name),
            name,
            form: Form::Token,
            trace: None,
            origin: wanted.origin(around)?,
            setting: wanted.setting(),
            users: vec![super::name("kube-apiserver-serving")],
            replace: self.settings.replace,
        })
    }

    /// `token,user,uid,"group1,group2"`, with a mark for the token.
    fn line(&self) -> Result<(String, Fill), Vec<Fault>> {
        let fill = Fill::Keepsake(self.keepsake_name()?);
        let settings = self.settings;
        for text in settings.user.iter().chain(&settings.uid).chain(&settings.groups) {
            if text.get_ref().is_empty()
                || text.get_ref().contains(|c: char| c.is_control() || "\",".contains(c))
            {
                let message = format!(
                    "{:?} cannot stand in {TOKENS}: it is empty, or holds a comma or a quote",
                    text.get_ref()
                );
                return Err(vec![Fault::at(text.span(), message)]);
            }
        }
        let user = settings.user.as_ref().map_or(self.name.as_str(), |user| user.get_ref());
        let uid = settings.uid.as_ref().map_or(user, |uid| uid.get_ref());
        let groups: Vec<_> = settings.groups.iter().map(|group| group.get_ref().as_str()).collect();
        let groups = if groups.is_empty() { String::new() } else { format!(",\"{}\"", groups.join(",")) };
        Ok((format!("{},{user},{uid}{groups}\n", fill.mark()), fill))
    }

    /// Made to be copied to where there is nothing yet: it holds the CA certificates too.
    pub(super) fn kubeconfig(
        &self,
        server: &str,
        trust: &Path,
        replace: bool,
    ) -> Result<Option<File>, Vec<Fault>> {
        let Some(path) = &self.settings.kubeconfig else { return Ok(None) };
        if !crate::certificate::is_plain_path(path.get_ref()) {
            let message = "kubeconfig needs an absolute path without '..'";
            return Err(vec![Fault::at(path.span(), message)]);
        }
        let (token, trust) = (Fill::Keepsake(self.keepsake_name()?), Fill::Trust(trust.to_owned()));
        let user = self.settings.user.as_ref().map_or(self.name.as_str(), |user| user.get_ref());
        let value = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "default", "cluster": {
                "certificate-authority-data": trust.mark(),
                "server": server,
            }}],
            "users": [{"name": user, "user": {"token": token.mark()}}],
            "contexts": [{"name": "default", "context": {"cluster": "default", "user": user}}],
            "current-context": "default",
        });
        let content = Content::Yaml(value.as_object().cloned().unwrap_or_default());
        Ok(Some(secret_file(
            &format!("{}-kubeconfig", self.keepsake_name()?),
            path.get_ref(),
            Content::Filled(Box::new(content), vec![token, trust]),
            replace,
        )))
    }
}

/// The file of all of them.
pub(super) fn file(
    tokens: &[Token<'_>],
    told: Option<Deed>,
    replace: bool,
) -> Result<Option<File>, Vec<Fault>> {
    if tokens.is_empty() {
        return Ok(None);
    }
    let lines = tokens.iter().map(Token::line).collect::<Result<Vec<_>, _>>()?;
    let (texts, fills): (Vec<_>, Vec<_>) = lines.into_iter().unzip();
    // A line of it is a token: it knows no comments.
    let content = Content::Filled(Box::new(Content::Bare(texts.concat())), fills);
    let file = secret_file("kube-apiserver-tokens", Path::new(TOKENS), content, replace);
    Ok(Some(read_once(told, file)))
}

/// A file that only root may read, and that kube-apiserver cannot start without.
pub(super) fn secret_file(name: &str, path: &Path, content: Content, replace: bool) -> File {
    let needs = [super::name("kube-apiserver-serving")];
    File { mode: Mode(0o600), ..open_file(name, &path.display().to_string(), content, &needs, replace) }
}
