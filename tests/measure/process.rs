//! One process from start to end.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// What one run took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// From posix_spawn(3) to the answer of waitpid(2), in milliseconds.
    pub(crate) wall: f64,
    /// User and system time of it and its children, in milliseconds.
    pub(crate) cpu: f64,
}

/// What one run asked of the kernel, with its children.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Calls {
    pub(crate) all: usize,
    pub(crate) fsyncs: usize,
    pub(crate) threads: usize,
    pub(crate) processes: usize,
}

/// Runs a command that has to succeed. It must be the only child that ends meanwhile.
pub(crate) fn sample(command: &mut Command, log: &Path) -> Sample {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(log).unwrap());
    // Cargo sets it for its tests, and every program that is started would look for its libraries there.
    command.env_remove("LD_LIBRARY_PATH");
    let before = children();
    let began = Instant::now();
    let status = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}")).wait().unwrap();
    let wall = began.elapsed().as_secs_f64() * 1e3;
    let cpu = children() - before;
    assert!(status.success(), "{command:?}: {status}\n{}", std::fs::read_to_string(log).unwrap());
    Sample { wall, cpu }
}

/// User and system time of all children that have ended, in milliseconds.
pub(super) fn children() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    #[allow(clippy::cast_precision_loss, reason = "a week of microseconds fits")]
    let micros = (usage.user_time() + usage.system_time()).num_microseconds() as f64;
    micros / 1e3
}

/// Peak resident memory of the largest process of a run, in megabytes. By way of time(1), which is small:
/// exec(2) counts the memory of whoever starts a process as the process's own.
pub(crate) fn resident(command: &Command, log: &Path) -> f64 {
    let out = log.with_extension("rss");
    let mut time = Command::new("/usr/bin/time");
    time.args(["--format=%M", "--output"]).arg(&out);
    sample(&mut within(time, command), log);
    let kilobytes: f64 = std::fs::read_to_string(&out).unwrap().trim().parse().unwrap();
    kilobytes / 1024.0
}

/// Peak of the memory of a process's own, in megabytes: what is no page of a file, which every process that has
/// the file open shares, and of which the kernel maps sixteen where one is touched. Looked at all the time, for
/// the kernel keeps no peak of it.
pub(crate) fn own(command: &mut Command, log: &Path) -> f64 {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(log).unwrap());
    let mut child = command.env_remove("LD_LIBRARY_PATH").spawn().unwrap();
    let (status, mut most) = (format!("/proc/{}/status", child.id()), 0.0_f64);
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")?.strip_suffix("kB"));
        most = most.max(line.map_or(0.0, |kilobytes| kilobytes.trim().parse().unwrap()));
        // Under `chrt -f` whoever does not sleep takes the processor from those that it looks at.
        std::thread::sleep(Duration::from_micros(200));
    }
    most / 1024.0
}

/// Counted by strace(1), in a run of its own.
pub(crate) fn calls(command: &Command, log: &Path) -> Calls {
    let out = log.with_extension("strace");
    let mut strace = Command::new("strace");
    strace.args(["--follow-forks", "--quiet=all", "--signal=none", "--output"]).arg(&out);
    sample(&mut within(strace, command), log);
    let text = std::fs::read_to_string(&out).unwrap();
    let begun: Vec<_> = text.lines().filter(|line| !line.contains(" resumed>")).collect();
    let of = |names: &[&str]| {
        let named = |line: &str| names.iter().any(|name| line.contains(&format!(" {name}(")));
        begun.iter().filter(|line| named(line)).count()
    };
    let born = of(&["clone", "clone3", "fork", "vfork"]);
    let threads = begun.iter().filter(|line| line.contains("CLONE_THREAD")).count();
    Calls {
        all: begun.len(),
        fsyncs: of(&["fsync", "fdatasync", "sync", "syncfs"]),
        threads: threads + 1,
        processes: born - threads + 1,
    }
}

/// A command started by another.
fn within(mut outer: Command, inner: &Command) -> Command {
    outer.arg(inner.get_program()).args(inner.get_args());
    outer
}
