//! `[kube-scheduler]`: its identity, kubeconfig and flags.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::flags::{self, Format, Program};
use super::kubeconfig::Kubeconfig;
use super::static_pod::Pod;
use super::{
    Certificates, Component, Expanded, Surroundings, client, local_server, name, path, restarted, yes,
};
use crate::file::File;
use crate::setting::{At, Fault, Name};

/// `[kube-scheduler]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "packaging/config.toml is their reference")]
pub struct Settings {
    pub ca: At<Name>,
    pub server: Option<At<String>>,
    #[serde(default)]
    pub format: Format,
    pub image: Option<At<String>>,
    #[serde(default = "yes")]
    pub render: bool,
    pub args: Option<At<Map<String, Value>>>,
    #[serde(default)]
    pub embed: bool,
    #[serde(default)]
    pub replace: bool,
}

const NAME: &str = "kube-scheduler";
/// Without the `system:` the scheduler may do nothing, whatever its organization says.
const USER: &str = "system:kube-scheduler";
const KUBECONFIG: &str = "/etc/kubernetes/scheduler.conf";

/// Flags that the user's `args` may set otherwise.
const OPEN: [&str; 2] = ["bind-address", "leader-elect"];

impl Component for Settings {
    fn cas(&self) -> Vec<&At<Name>> {
        vec![&self.ca]
    }

    fn certificates(&self, _: Surroundings<'_>) -> Result<Certificates, Vec<Fault>> {
        Ok(vec![(name(NAME), client(&self.ca, restarted(NAME, self.format), USER, "scheduler"))])
    }

    /// kubeconfig and command line, unless `render = false`.
    fn files(&self, around: Surroundings<'_>, expanded: &Expanded) -> Result<Vec<File>, Vec<Fault>> {
        let Some(certificate) = expanded.get(&name(NAME)).filter(|_| self.render) else {
            return Ok(Vec::new());
        };
        let server = local_server(around, self.server.as_ref(), self.ca.span())?;
        let kubeconfig = Kubeconfig {
            file: "kube-scheduler-kubeconfig",
            path: KUBECONFIG,
            server: &server,
            user: USER,
            certificate: NAME,
            embed: self.embed,
            told: restarted(NAME, self.format),
            replace: self.replace,
        };
        let flags = json!({
            "kubeconfig": KUBECONFIG,
            "authentication-kubeconfig": KUBECONFIG,
            "authorization-kubeconfig": KUBECONFIG,
            "client-ca-file": certificate.trust.as_deref().map(path),
            "bind-address": "127.0.0.1",
            "leader-elect": true,
        });
        let flags = flags::with_args(flags::set(&flags), self.args.as_ref(), &OPEN)?;
        let program = Program {
            name: NAME,
            table: self.ca.span(),
            env: ["/etc/kubernetes/scheduler", "KUBE_SCHEDULER_ARGS"],
            flags,
            args: self.args.as_ref(),
            needs: std::slice::from_ref(&certificate.name),
            told: restarted(NAME, self.format),
            replace: self.replace,
        };
        let pod = Pod { image: self.image.as_ref(), probe: (10259, "/healthz") };
        let arguments = program.render(self.format, Some(pod))?;
        Ok(kubeconfig.render(expanded).into_iter().chain([arguments]).collect())
    }
}
