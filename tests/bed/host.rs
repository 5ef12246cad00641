//! A host with nothing on it: a directory that `nodecert --root` takes for the host's own file system.

use super::process::{Ended, ended};
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// Users that a host's packages have made. Their numbers exist nowhere else, so that an owner taken
/// from the live host's /etc/passwd shows.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\netcd:x:4301:4301::/var/lib/etcd:/bin/false\nweb:x:4302:4302::/:/bin/false\n";
const GROUP: &str = "root:x:0:\netcd:x:4301:\nweb:x:4302:\n";

/// The root directory of a host.
pub(crate) struct Host {
    root: TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    /// The same in a directory, which may be a disk of its own.
    pub(crate) fn below(directory: &Path) -> Self {
        let host = Self { root: TempDir::new_in(directory).unwrap() };
        // A root file system can be entered by everyone; a temporary directory by its owner only.
        std::fs::set_permissions(host.root.path(), PermissionsExt::from_mode(0o755)).unwrap();
        host.write("/etc/passwd", PASSWD);
        host.write("/etc/group", GROUP);
        host
    }

    /// Where a path of the host lies for the test.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path.trim_start_matches('/'))
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn read(&self, path: &str) -> String {
        let path = self.path(path);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Puts a secret where only root reads it.
    pub(crate) fn write_secret(&self, path: &str, text: &str) {
        self.write(path, text);
        std::fs::set_permissions(self.path(path).parent().unwrap(), PermissionsExt::from_mode(0o700))
            .unwrap();
        std::fs::set_permissions(self.path(path), PermissionsExt::from_mode(0o600)).unwrap();
    }

    /// The whole configuration of the host.
    pub(crate) fn configure(&self, toml: &str) {
        self.write("/etc/nodecert/config.toml", toml);
    }

    /// `nodecert --root HOST ARGUMENTS`, to its end.
    pub(crate) fn nodecert(&self, arguments: &str) -> Outcome {
        Outcome::of(ended(&mut self.command(arguments)), arguments)
    }

    /// `nodecert --root HOST ARGUMENTS`, started and left to itself.
    pub(crate) fn start_nodecert(&self, arguments: &str) -> Child {
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Mode bits and numeric owner and group of what a path leads to: `640 4301:4301`.
    pub(crate) fn mode(&self, path: &str) -> String {
        let meta = std::fs::metadata(self.path(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        format!("{:o} {}:{}", meta.mode() & 0o7777, meta.uid(), meta.gid())
    }

    /// Every regular file below a path: mode as in `mode`, inode, time of change and content.
    pub(crate) fn snapshot(&self, path: &str) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut directories = vec![self.path(path)];
        while let Some(directory) = directories.pop() {
            for entry in
                std::fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()))
            {
                let path = entry.unwrap().path();
                let meta = std::fs::symlink_metadata(&path).unwrap();
                if meta.is_dir() {
                    directories.push(path);
                } else {
                    let what = if meta.is_symlink() {
                        std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
                    } else {
                        std::fs::read(&path).unwrap()
                    };
                    let seen = format!(
                        "{:o} {} {}.{} {:?}",
                        meta.mode(),
                        meta.ino(),
                        meta.ctime(),
                        meta.ctime_nsec(),
                        String::from_utf8_lossy(&what)
                    );
                    found.insert(path, seen);
                }
            }
        }
        found
    }

    fn command(&self, arguments: &str) -> Command {
        // A run that never ends fails its test (exit code 137) instead of holding all the others up.
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", "120", env!("CARGO_BIN_EXE_nodecert")]);
        command.arg("--root").arg(self.root()).args(arguments.split_whitespace());
        // What the developer's shell exports must not decide: no proxy, no colour.
        for variable in
            ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "JOURNAL_STREAM", "NOTIFY_SOCKET"]
        {
            command.env_remove(variable);
        }
        command.env("NO_COLOR", "1");
        command
    }
}

/// What one call of `nodecert` came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    arguments: String,
    code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Of a child that `start_nodecert` started.
    pub(crate) fn wait(child: Child) -> Self {
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self::of(
            Ended { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) },
            "run",
        )
    }

    fn of(ended: Ended, arguments: &str) -> Self {
        let Ended { status, stdout, stderr } = ended;
        Self { arguments: arguments.to_owned(), code: status.code(), stdout, stderr }
    }

    /// Fails unless the exit code is `code`; everything that was said is shown.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "nodecert {}\n{}\n{}", self.arguments, self.stdout, self.stderr);
        self
    }

    /// Its exit code, which has to be one of these.
    #[track_caller]
    pub(crate) fn is_one_of(&self, codes: &[i32]) -> i32 {
        let code = self.code.filter(|code| codes.contains(code));
        code.unwrap_or_else(|| panic!("{self:#?}"))
    }

    /// Fails unless it failed, whether refused or to be tried again.
    #[track_caller]
    pub(crate) fn gets_nothing(self) -> Self {
        assert!(matches!(self.code, Some(75 | 77)), "{self:#?}");
        self
    }

    /// Fails unless the human was told `words`, on either stream.
    #[track_caller]
    pub(crate) fn says(self, words: &str) -> Self {
        let said = format!("{}\n{}", self.stdout, self.stderr);
        assert!(said.contains(words), "nodecert {} does not say {words:?}:\n{said}", self.arguments);
        self
    }

    /// Fails if any of `secrets` was said, on either stream.
    #[track_caller]
    pub(crate) fn keeps_secret(self, secrets: &[&str]) -> Self {
        let leaked = secrets.iter().any(|s| self.stdout.contains(s) || self.stderr.contains(s));
        assert!(!leaked, "nodecert {} printed a secret", self.arguments);
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("{e} in {}\n{}", self.stdout, self.stderr))
    }
}
