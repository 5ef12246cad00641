//! Hosts that boot: Debian with systemd as PID 1, in an overlay over an image that `tests/all` makes once.
//!
//! A guest is `systemd-nspawn` in a cgroup, a mount and a PID namespace of its own. The mounts end with the mount
//! namespace, and the kernel ends every process of a PID namespace with its first one: pid_namespaces(7). So one
//! `kill -9` is a power cut, and a killed test leaves at most an empty cgroup behind.
//!
//! What a guest shares with the machine: kernel, clock, and what was written before a power cut, synced or not.

use super::lan::Netns;
use super::process::{Ended, ended, must};
use super::{eventually, machine, provided};
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Becomes the guest's systemd-nspawn. `$1` the guest's directory, `$2` its image, `$3` its cgroup, `$4` its network
/// namespace; then what nspawn is given.
///
/// nspawn takes its cgroups to be where a host with systemd has them, hence the mount of cgroup2 alone.
const START: &str = r#"
directory=$1 image=$2 cgroup=$3 network=$4
shift 4
echo 0 >"$cgroup/cgroup.procs"
mount --bind "$network" "$directory/network"
mount -t proc proc /proc
umount -R /sys/fs/cgroup 2>/dev/null || umount -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t overlay overlay -o "lowerdir=$image,upperdir=$directory/upper,workdir=$directory/work" "$directory/root"
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
exec systemd-nspawn --quiet --boot --register=no --keep-unit --link-journal=no --console=read-only --resolv-conf=off --timezone=off \
    --capability=CAP_NET_ADMIN --network-namespace-path="$directory/network" --directory="$directory/root" "$@"
"#;

/// A release of Debian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Debian {
    Bookworm,
    Trixie,
    /// Debian 12 with a kernel of its own, for [`Guest::boot_machine`].
    Machine,
}

impl Debian {
    fn image(self) -> PathBuf {
        let name = match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Machine => "machine",
        };
        provided("NODECERT_TEST_GUESTS").join(name)
    }
}

/// A host, off or on. Its power is cut when it is dropped.
pub(crate) struct Guest<'a> {
    name: String,
    image: PathBuf,
    netns: &'a Netns,
    directory: TempDir,
    /// More arguments of systemd-nspawn, such as credentials.
    options: Vec<String>,
    power: Option<Power>,
}

/// The processes of a guest that is on.
struct Power {
    /// unshare, which waits for `nspawn`.
    holder: Child,
    /// The first of the PID namespace.
    nspawn: u32,
    /// The guest's systemd.
    leader: u32,
    cgroup: PathBuf,
}

impl<'a> Guest<'a> {
    /// A new host, off, with the image's programs and no nodecert; cloud-init is off until it gets user-data.
    pub(crate) fn new(debian: Debian, name: &str, netns: &'a Netns) -> Self {
        let directory = TempDir::new().unwrap();
        for part in ["upper", "work", "root"] {
            std::fs::create_dir(directory.path().join(part)).unwrap();
        }
        // What an overlay's upper directory is, its merged one is too.
        std::fs::set_permissions(directory.path().join("upper"), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(directory.path().join("network"), "").unwrap();
        let guest = Self {
            name: name.to_owned(),
            image: debian.image(),
            netns,
            directory,
            options: Vec::new(),
            power: None,
        };
        guest.write("/etc/hostname", &format!("{name}\n"));
        guest.write("/etc/cloud/cloud-init.disabled", "");
        // The network is there before the guest is.
        guest.write("/etc/cloud/cloud.cfg.d/99-bed.cfg", "network: {config: disabled}\nlocale: C.UTF-8\n");
        guest
    }

    /// The program alone.
    pub(crate) fn install_program(&self) {
        let program = self.made("/usr/bin/nodecert");
        match packaged() {
            Some(package) => unpack(&package, "./usr/bin/nodecert", &self.path("/")),
            None => std::fs::hard_link(env!("CARGO_BIN_EXE_nodecert"), &program)
                .or_else(|_| std::fs::copy(env!("CARGO_BIN_EXE_nodecert"), &program).map(drop))
                .unwrap(),
        }
    }

    /// nodecert as the package and its README leave it: units enabled, directories of its consumers made, gates
    /// put before them. The package that tests/all has built, or, by hand, what would be in it.
    pub(crate) fn install(&self) {
        self.install_program();
        let (systemd, tmpfiles) = ("/usr/lib/systemd/system", "/usr/lib/tmpfiles.d");
        match packaged() {
            Some(package) => unpack(&package, ".", &self.path("/")),
            None => {
                self.copy(&project("systemd"), systemd);
                self.copy(&project("packaging/tmpfiles.d"), tmpfiles);
            }
        }
        self.copy(&project("systemd/etcd.service.d"), "/etc/systemd/system/etcd.service.d");
        for (target, unit) in [("multi-user", "nodecert.service"), ("timers", "nodecert-renew.timer")] {
            self.link(
                &format!("/etc/systemd/system/{target}.target.wants/{unit}"),
                &format!("{systemd}/{unit}"),
            );
        }
        for directory in ["/etc/etcd", "/etc/kubernetes", "/var/lib/kubelet"] {
            std::fs::create_dir_all(self.path(directory)).unwrap();
        }
    }

    /// cloud-init's NoCloud seed.
    pub(crate) fn user_data(&self, text: &str) {
        let _ = std::fs::remove_file(self.path("/etc/cloud/cloud-init.disabled"));
        self.write("/var/lib/cloud/seed/nocloud/user-data", text);
        let meta = format!("instance-id: {name}\nlocal-hostname: {name}\n", name = self.name);
        self.write("/var/lib/cloud/seed/nocloud/meta-data", &meta);
    }

    /// Takes a file of the image away, from a host that is off: a whiteout, as the kernel's overlayfs.rst has it.
    pub(crate) fn remove(&self, path: &str) {
        must(Command::new("mknod").arg(self.made(path)).args(["c", "0", "0"]));
    }

    /// A drop-in of the administrator's.
    pub(crate) fn drop_in(&self, unit: &str, text: &str) {
        self.write(&format!("/etc/systemd/system/{unit}.d/90-test.conf"), text);
    }

    /// One more argument for systemd-nspawn(1).
    pub(crate) fn option(&mut self, option: &str) {
        self.options.push(option.to_owned());
    }

    /// Where a file of the host lies for the test: of a host that is off, only what is not the image's.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        let root = match &self.power {
            // What an overlay does whose upper directory changes is undefined.
            Some(power) => PathBuf::from(format!("/proc/{}/root", power.leader)),
            None => self.directory.path().join("upper"),
        };
        root.join(path.trim_start_matches('/'))
    }

    pub(crate) fn read(&self, path: &str) -> String {
        let path = self.path(path);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        std::fs::write(self.made(path), text).unwrap();
    }

    /// A secret, where only root reads it.
    pub(crate) fn write_secret(&self, path: &str, text: &str) {
        let path = self.made(path);
        std::fs::set_permissions(path.parent().unwrap(), PermissionsExt::from_mode(0o700)).unwrap();
        // Fails only where there is none yet.
        let _ = std::fs::remove_file(&path);
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn link(&self, path: &str, target: &str) {
        std::os::unix::fs::symlink(target, self.made(path)).unwrap();
    }

    /// Switches it on; returns when its systemd takes commands.
    pub(crate) fn boot(&mut self) {
        assert!(self.power.is_none(), "{} is on already", self.name);
        let cgroup = cgroup_of_its_own(&self.name);
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"]);
        command.args(["--pid", "--fork", "--kill-child", "bash", "-euc", START, "guest"]);
        command.args([self.directory.path(), &self.image, &cgroup, &self.netns.namespace_path()]);
        command.args(["--machine", &self.name]).args(&self.options);
        let console = std::fs::File::create(self.console_path()).unwrap();
        command.stdin(Stdio::null()).stdout(console.try_clone().unwrap()).stderr(console);
        let mut holder = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        let (nspawn, leader) = eventually("a guest's systemd", || {
            if let Some(status) = holder.try_wait().unwrap() {
                panic!("{} did not start: {status}\n{}", self.name, self.console());
            }
            let nspawn = children(holder.id()).first().copied().ok_or("no nspawn")?;
            let leader = children(nspawn).into_iter().find(|&pid| is_up(pid));
            Ok((nspawn, leader.ok_or("no systemd")?))
        });
        self.power = Some(Power { holder, nspawn, leader, cgroup });
    }

    /// Switches it on; returns when there is nothing left to start. `running`, or `degraded` if a unit failed.
    pub(crate) fn boot_fully(&mut self) -> String {
        self.boot();
        self.wait_until_booted()
    }

    /// Runs it as a machine of its own until it has switched itself off; what it said on its serial line. `options` are
    /// of qemu-system(1).
    pub(crate) fn boot_machine(&self, options: &[&str]) -> String {
        assert!(self.power.is_none(), "{} is on already", self.name);
        machine::run(self.directory.path(), &self.image, self.netns, options)
    }

    pub(crate) fn wait_until_booted(&self) -> String {
        eventually("a guest that has booted", || {
            let ended = self.run("systemctl is-system-running --wait");
            let said = ended.stdout.trim().to_owned();
            let up = ["running", "degraded"].contains(&said.as_str());
            if up { Ok(said) } else { Err(format!("{said}{}", ended.stderr)) }
        })
    }

    /// As if the cable were pulled: nothing of it runs any more when this returns.
    pub(crate) fn cut_power(&mut self) {
        let Some(mut power) = self.power.take() else { return };
        let nspawn = nix::unistd::Pid::from_raw(power.nspawn.cast_signed());
        // Fails only where it has gone already.
        let _ = nix::sys::signal::kill(nspawn, nix::sys::signal::Signal::SIGKILL);
        // The holder ends after the whole PID namespace has.
        let _ = power.holder.wait();
        remove_cgroup(&power.cgroup);
    }

    /// Shuts it down in order.
    pub(crate) fn shut_down(&mut self) {
        self.run("systemctl --no-block poweroff");
        eventually("a guest that is off", || {
            let power = self.power.as_mut().expect("a guest that is on");
            power.holder.try_wait().unwrap().map(drop).ok_or_else(|| "it still runs".to_owned())
        });
        self.cut_power();
    }

    /// A command line inside, split at blanks, to its end.
    pub(crate) fn run(&self, line: &str) -> Ended {
        ended(self.command().args(line.split_whitespace()))
    }

    /// One that must succeed; its standard output.
    #[track_caller]
    pub(crate) fn must(&self, line: &str) -> String {
        let ended = self.run(line);
        assert!(
            ended.status.success(),
            "{}: {line}: {}\n{}{}",
            self.name,
            ended.status,
            ended.stdout,
            ended.stderr
        );
        ended.stdout
    }

    /// A text for the shell inside; it must succeed.
    #[track_caller]
    pub(crate) fn shell(&self, script: &str) -> String {
        let ended = ended(self.command().args(["sh", "-euc", script]));
        assert!(
            ended.status.success(),
            "{}: {script}: {}\n{}{}",
            self.name,
            ended.status,
            ended.stdout,
            ended.stderr
        );
        ended.stdout
    }

    /// A property of a unit, systemctl(1) show.
    pub(crate) fn property(&self, unit: &str, property: &str) -> String {
        self.must(&format!("systemctl show --value --property {property} {unit}")).trim().to_owned()
    }

    /// Waits until a unit is in `state`, of ActiveState or SubState; fails with the journal.
    #[track_caller]
    pub(crate) fn wait_for(&self, unit: &str, state: &str, patience: Duration) {
        let began = Instant::now();
        loop {
            let is = self.must(&format!("systemctl show --value --property ActiveState,SubState {unit}"));
            if is.lines().any(|is| is == state) {
                return;
            }
            let (name, waited) = (&self.name, began.elapsed());
            assert!(
                waited < patience,
                "{name}: {unit} is {is:?}, not {state} after {waited:?}\n{}",
                self.journal("")
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The `nodecert run` that systemd has started, by the machine's own number for it.
    pub(crate) fn running(&self) -> Option<u32> {
        let is_run = |pid: &u32| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|argv| argv.starts_with(b"/usr/bin/nodecert\0run\0"))
        };
        children(self.power.as_ref()?.leader).into_iter().find(is_run)
    }

    /// What a unit, or with an empty name the whole host, has written in this boot, oldest first.
    pub(crate) fn journal(&self, unit: &str) -> String {
        let mut line = String::from("journalctl --boot --no-pager --quiet --output=short-monotonic");
        if !unit.is_empty() {
            write!(line, " --unit {unit}").unwrap();
        }
        self.run(&line).stdout
    }

    /// The last thing that nodecert itself has said through a unit in this boot.
    pub(crate) fn last_word(&self, unit: &str) -> String {
        let said = self.must(&format!(
            "journalctl --boot --no-pager --quiet --output=cat --identifier=nodecert --unit {unit}"
        ));
        said.lines().last().unwrap_or_default().to_owned()
    }

    /// What a person would have seen on the screen since the power came.
    pub(crate) fn console(&self) -> String {
        std::fs::read(self.console_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn console_path(&self) -> PathBuf {
        self.directory.path().join("console")
    }

    /// What is appended runs inside; one that hangs fails its test instead of holding all others up.
    fn command(&self) -> Command {
        let power = self.power.as_ref().unwrap_or_else(|| panic!("{} is off", self.name));
        let mut command = Command::new("timeout");
        command.args([
            "--signal=KILL",
            "150",
            "nsenter",
            "--all",
            "--target",
            &power.leader.to_string(),
            "--",
        ]);
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("LC_ALL", "C.UTF-8");
        command
    }

    /// The path for the test, below directories that are there.
    fn made(&self, path: &str) -> PathBuf {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn copy(&self, from: &Path, to: &str) {
        for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
            let to = format!("{to}/{}", entry.file_name().to_str().unwrap());
            match entry.file_type().unwrap().is_dir() {
                true => self.copy(&entry.path(), &to),
                false => drop(std::fs::copy(entry.path(), self.made(&to)).unwrap()),
            }
        }
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        #[allow(clippy::print_stderr, reason = "shown with the failure, by the test harness")]
        if std::thread::panicking() && self.power.is_some() {
            eprintln!("journal of {}:\n{}", self.name, self.journal(""));
        }
        self.cut_power();
    }
}

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn packaged() -> Option<PathBuf> {
    std::env::var_os("NODECERT_TEST_DEB").map(|path| project("").join(path))
}

/// A file of a package or, by `.`, all of it.
fn unpack(package: &Path, what: &str, root: &Path) {
    let mut files =
        Command::new("dpkg-deb").arg("--fsys-tarfile").arg(package).stdout(Stdio::piped()).spawn().unwrap();
    let from = files.stdout.take().unwrap();
    let status = Command::new("tar").arg("-xC").arg(root).arg(what).stdin(from).status().unwrap();
    assert!(status.success() && files.wait().unwrap().success(), "{}: {what}", package.display());
}

/// Beside the machine's own groups, in the hierarchy of version 2: cgroups(7).
fn cgroup_of_its_own(name: &str) -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let version_2 =
        mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|mount| mount[2] == "cgroup2");
    let hierarchy = version_2.expect("a mounted cgroup2 hierarchy")[1].to_owned();
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let cgroup = Path::new(&hierarchy).join(format!("nodecert-{}-{number}-{name}", std::process::id()));
    std::fs::create_dir(&cgroup).unwrap();
    cgroup
}

/// The guest's systemd has made many below its own.
fn remove_cgroup(cgroup: &Path) {
    for entry in std::fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    // One that still has a process in it stays, and is empty soon.
    let _ = std::fs::remove_dir(cgroup);
}

fn children(pid: u32) -> Vec<u32> {
    let listed = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    listed.split_whitespace().map(|child| child.parse().unwrap()).collect()
}

/// Whether it is a guest's systemd that systemctl can speak to.
fn is_up(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "systemd\n")
        && Path::new(&format!("/proc/{pid}/root/run/systemd/private")).exists()
}
