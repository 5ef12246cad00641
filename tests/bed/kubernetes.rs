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

    /// A kubelet, its containerd and a kube-proxy on a Debian of their own, with the host's files, as systemd
    /// starts them there.
    pub(crate) fn start_node(&self) -> Daemon {
        let [kubelet, proxy] =
            ["/etc/default/kubelet", "/etc/kubernetes/proxy"].map(|file| self.host.read(file));
        let arguments = |text: &str| text.split('"').nth(1).expect("the command line").to_owned();
        let mut command = self.netns.command("unshare");
        command.args("--mount --pid --uts --ipc --cgroup --propagation private".split(' '));
        // Whoever ends it ends all that runs in it.
        command.args(["--fork", "--kill-child=KILL", "sh", "-euc", GUEST, "guest"]);
        command.args([&self.programs.join("node"), self.host.root(), &self.programs]);
        let argv = ["sh", "-euc", NODE, "node", &arguments(&kubelet), &arguments(&proxy)];
        Daemon::start(Some(command), &argv, &self.host.path("/kubelet.log"))
    }

    /// `kubectl ARGUMENTS` inside the host, as who the kubeconfig says.
    pub(crate) fn kubectl(&self, kubeconfig: &str, arguments: &str) -> Ended {
        let mut command = self.inside();
        command.args(["/usr/bin/kubectl", "--kubeconfig", kubeconfig, "--cache-dir", "/tmp/kubectl"]);
        ended(command.args(arguments.split_whitespace()))
    }

    /// The status of `GET URL` of kube-apiserver with a pair of the host.
    pub(crate) fn get(&self, url: &str, pair: &str, headers: &[&str]) -> String {
        self.get_from(url, "/etc/kubernetes/pki/ca.crt", pair, headers)
    }

    /// The same of any server, which a trust file of the host vouches for.
    pub(crate) fn get_from(&self, url: &str, trust: &str, pair: &str, headers: &[&str]) -> String {
        let mut command = self.curl(trust);
        command.args(["--cert", &format!("{pair}.crt"), "--key", &format!("{pair}.key")]);
        for header in headers {
            command.args(["--header", header]);
        }
        must(command.arg(url))
    }

    /// The status of `GET URL` of kube-apiserver with a token and no certificate.
    pub(crate) fn get_with_token(&self, url: &str, token: &str) -> String {
        let mut command = self.curl("/etc/kubernetes/pki/ca.crt");
        must(command.args(["--header", &format!("Authorization: Bearer {token}"), url]))
    }

    fn curl(&self, trust: &str) -> Command {
        let mut command = self.inside();
        command.args(["/usr/bin/curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}"]);
        // A JSON library that this release carries panics when it is built with Go 1.18 or later.
        command.args(["--header", "Accept: application/vnd.kubernetes.protobuf"]);
        command.args(["--max-time", "20", "--cacert", trust]);
        command
    }

    fn inside(&self) -> Command {
        inside(self.host, self.netns, &self.programs, "opt/kubernetes", "")
    }
}

/// A guest of `$1`, which stays as it is, with the files of host `$2` and the programs of `$3`. What a kubelet
/// sets for a whole machine, kernel settings and cgroups, it sets on copies or not at all.
const GUEST: &str = r#"image=$1 host=$2 programs=$3; shift 3
hold=/mnt; mount -t tmpfs tmpfs $hold
mkdir $hold/upper $hold/work $hold/root $hold/kernel; root=$hold/root
mount -t overlay overlay -o "lowerdir=$image,upperdir=$hold/upper,workdir=$hold/work" $root
mkdir -p $root/opt/kubernetes $root/host; mount --bind "$programs" $root/opt/kubernetes; mount --bind "$host" $root/host
for tree in etc/kubernetes var/lib/kubelet var/lib/kube-proxy; do mkdir -p $root/$tree; mount --bind "$host/$tree" $root/$tree; done
mount -t proc proc $root/proc; mount -t sysfs -o ro sysfs $root/sys
mount --rbind /dev $root/dev; mount --rbind /sys/fs/cgroup $root/sys/fs/cgroup
cut -d' ' -f5 /proc/self/mountinfo | grep "^$root/sys/fs/cgroup" | while read -r tree; do mount -o remount,ro,bind "$tree"; done
for setting in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
    copy=$hold/kernel/${setting##*/}; cat /proc/sys/$setting >$copy; mount --bind $copy $root/proc/sys/$setting
done
mkdir -p $root/var/lib/containerd
for tree in run tmp var/lib/containerd; do mount -t tmpfs tmpfs $root/$tree; done
exec chroot $root "$@""#;

/// As `kubelet.service`, kubeadm's drop-in and `kube-proxy.service` say it; the arguments are what nodecert adds.
const NODE: &str = r#"containerd >/host/containerd.log 2>&1 &
tries=0; until [ -S /run/containerd/containerd.sock ] || [ $tries = 300 ]; do sleep 0.1; tries=$((tries + 1)); done
/opt/kubernetes/kube-proxy $2 >/host/kube-proxy.log 2>&1 &
exec /opt/kubernetes/kubelet --config=/var/lib/kubelet/config.yaml --kubeconfig=/etc/kubernetes/kubelet.conf $1"#;
