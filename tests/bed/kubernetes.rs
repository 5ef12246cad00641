//! A real Kubernetes control plane, built from Debian's source package: each program inside a host's own
//! root directory and network namespace, started with the command line that nodecert wrote.

use super::etcd::inside;
use super::host::Host;
use super::lan::Netns;
use super::process::{Daemon, Ended, ended, must};
use super::provided;
use std::path::PathBuf;
use std::process::Command;

/// A host of the control plane and its place in the network.
pub(crate) struct Kubernetes<'a> {
    pub(crate) host: &'a Host,
    pub(crate) netns: &'a Netns,
    programs: PathBuf,
}

impl<'a> Kubernetes<'a> {
    pub(crate) fn new(host: &'a Host, netns: &'a Netns) -> Self {
        Self { host, netns, programs: provided("NODECERT_TEST_KUBERNETES") }
    }

    /// `program` with what `variable` of the environment file says, split at blanks as systemd splits it.
    pub(crate) fn start(&self, program: &str, environment_file: &str, variable: &str) -> Daemon {
        let text = self.host.read(environment_file);
        let value = text.lines().find_map(|line| line.strip_prefix(variable)?.strip_prefix("=\""));
        let value = value.and_then(|value| value.strip_suffix('"')).expect("the command line");
        let program_path = format!("/opt/kubernetes/{program}");
        let mut argv = vec![program_path.as_str()];
        argv.extend(value.split(' '));
        Daemon::start(Some(self.inside()), &argv, &self.host.path(&format!("/{program}.log")))
    }

    /// `kubectl ARGUMENTS` inside the host, as who the kubeconfig says.
    pub(crate) fn kubectl(&self, kubeconfig: &str, arguments: &str) -> Ended {
        let mut command = self.inside();
        command.args(["/usr/bin/kubectl", "--kubeconfig", kubeconfig, "--cache-dir", "/tmp/kubectl"]);
        ended(command.args(arguments.split_whitespace()))
    }

    /// The status of `GET PATH` with a pair of the host.
    pub(crate) fn get(&self, url: &str, pair: &str, headers: &[&str]) -> String {
        let mut command = self.inside();
        command.args(["/usr/bin/curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}"]);
        // A JSON library that this release carries panics when it is built with Go 1.18 or later.
        command.args(["--header", "Accept: application/vnd.kubernetes.protobuf"]);
        command.args(["--max-time", "20", "--cacert", "/etc/kubernetes/pki/ca.crt"]);
        command.args(["--cert", &format!("{pair}.crt"), "--key", &format!("{pair}.key")]);
        for header in headers {
            command.args(["--header", header]);
        }
        must(command.arg(url))
    }

    fn inside(&self) -> Command {
        inside(self.host, self.netns, &self.programs, "opt/kubernetes", "")
    }
}
