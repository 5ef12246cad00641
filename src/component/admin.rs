//! `[admin]`: an administrator's kubeconfig on this host, and one that no authorization stops. Neither is
//! made unless it is asked for.
//!
//! Source: kubeadm `phases/kubeconfig`. `kubeadm:cluster-admins` is a group like any other and needs a
//! ClusterRoleBinding; `system:masters` passes every check, cannot be taken back, and is for emergencies.

use serde::Deserialize;

use super::kubeconfig::Kubeconfig;
use super::{Certificates, Component, Expanded, Surroundings, kubernetes, literal, local_server, name, own};
use crate::certificate;
use crate::file::File;
use crate::identity::Usage;
use crate::setting::{At, Fault, Name, Template};

/// `[admin]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "packaging/config.toml is their reference")]
pub struct Settings {
    pub ca: At<Name>,
    pub server: Option<At<String>>,
    #[serde(default = "default_organization")]
    pub organization: Vec<Template>,
    #[serde(default)]
    pub super_admin: bool,
    #[serde(default)]
    pub embed: bool,
    #[serde(default)]
    pub replace: bool,
}

fn default_organization() -> Vec<Template> {
    vec![literal("kubeadm:cluster-admins")]
}

const ADMIN: &str = "kubernetes-admin";
const SUPER_ADMIN: &str = "kubernetes-super-admin";

impl Component for Settings {
    fn cas(&self) -> Vec<&At<Name>> {
        vec![&self.ca]
    }

    fn certificates(&self, _: Surroundings<'_>) -> Result<Certificates, Vec<Fault>> {
        let identity = |user: &str, file: &str, groups: &[Template]| certificate::Settings {
            organization: Some(own(groups.to_vec())),
            ..kubernetes(&self.ca, user, Usage::Client, file, "ca.crt")
        };
        let mut certificates = vec![(name("admin"), identity(ADMIN, "admin", &self.organization))];
        if self.super_admin {
            let masters = [literal("system:masters")];
            certificates.push((name("super-admin"), identity(SUPER_ADMIN, "super-admin", &masters)));
        }
        Ok(certificates)
    }

    fn files(&self, around: Surroundings<'_>, expanded: &Expanded) -> Result<Vec<File>, Vec<Fault>> {
        let server = local_server(around, self.server.as_ref(), self.ca.span())?;
        let kubeconfig = |certificate, file, path, user| {
            Kubeconfig {
                file,
                path,
                server: &server,
                user,
                certificate,
                embed: self.embed,
                told: None,
                replace: self.replace,
            }
            .render(expanded)
        };
        let admin = kubeconfig("admin", "admin-kubeconfig", "/etc/kubernetes/admin.conf", ADMIN);
        let above = kubeconfig(
            "super-admin",
            "super-admin-kubeconfig",
            "/etc/kubernetes/super-admin.conf",
            SUPER_ADMIN,
        );
        Ok(admin.into_iter().chain(above).collect())
    }
}
