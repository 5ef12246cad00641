//! Child processes: commands that must end well, and servers that end with their test.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// What a command that ended left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end, with nothing on its standard input.
pub(crate) fn ended(command: &mut Command) -> Ended {
    let output =
        command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ended { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Runs a command that has to succeed; its standard output.
pub(crate) fn must(command: &mut Command) -> String {
    let ended = ended(command);
    assert!(ended.status.success(), "{command:?}: {}\n{}{}", ended.status, ended.stdout, ended.stderr);
    ended.stdout
}

/// A server of the bed: logs to a file, and never outlives the value or the thread that started it.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `argv` through `wrapper`, a command that must exec what is appended to it, so that the
    /// PID is the server's own; an empty wrapper is `setpriv` itself.
    pub(crate) fn start(wrapper: Option<Command>, argv: &[&str], log: &Path) -> Self {
        let out = File::create(log).unwrap();
        let mut command = match wrapper {
            Some(mut wrapper) => {
                wrapper.arg("setpriv");
                wrapper
            }
            None => Command::new("setpriv"),
        };
        command.args(["--pdeathsig", "KILL"]).args(argv);
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        let child = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        Self { child, log: log.to_owned() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// User and system time so far, by proc_pid_stat(5): the fourteenth and fifteenth field, in hundredths of a
    /// second.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // The second field is a name in brackets, which may hold anything.
        let fields = stat.rsplit(") ").next().unwrap().split(' ');
        let ticks = fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap());
        Duration::from_millis(10 * ticks.sum::<u64>())
    }

    /// Everything that it has said.
    pub(crate) fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Fails the test with the server's own words if it has ended.
    pub(crate) fn must_live(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "the server ended with {}:\n{}", ended.unwrap(), self.log());
    }

    /// Asks it to end, as systemd does, and waits until it has.
    pub(crate) fn end(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        // Fails only when it has already gone.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        for _ in 0..1_000 {
            if self.child.try_wait().unwrap().is_some() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
    }

    pub(crate) fn kill(&mut self) {
        // Either call fails only when the process has already gone, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}
