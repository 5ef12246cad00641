//! Who is told of a change, and the processes that are started for it: always an argv, never a shell.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};

/// A command that prints a secret has this long; a boot must not hang on it.
const OUTPUT_WAIT: Duration = Duration::from_secs(30);
/// What a hook may take; systemd's own default for a unit's start and stop.
const DEED_WAIT: Duration = Duration::from_secs(90);
/// Bytes that are kept of what a process prints; what is over is read and dropped, so that none blocks.
const OUTPUT_SIZE: u64 = 64 * 1024;
/// Lines of a failed hook that are worth showing: the last ones.
const SAID_LINES: usize = 5;

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// A certificate and its key.
    Leaf,
    /// The CA certificates that go with it.
    Ca,
}

/// One way to tell a consumer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deed {
    /// systemd is to read its units again.
    DaemonReload,
    /// `systemctl try-reload-or-restart`: a unit that was stopped stays so.
    Reload(String),
    /// `systemctl try-restart`: the same.
    Restart(String),
    /// A command.
    Run(Vec<String>),
}

/// A deed and what calls for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// What calls for it.
    pub on: BTreeSet<Event>,
    /// What is to be done.
    pub deed: Deed,
}

/// An entry of `hooks`: `{ on = ["ca"], restart = "x.service" }`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct HookTable {
    on: Option<BTreeSet<Event>>,
    reload: Option<String>,
    restart: Option<String>,
    run: Option<Vec<String>>,
}

impl<'de> Deserialize<'de> for Hook {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let table = HookTable::deserialize(deserializer)?;
        let deed = match (table.reload, table.restart, table.run) {
            (Some(unit), None, None) => Deed::Reload(unit),
            (None, Some(unit), None) => Deed::Restart(unit),
            (None, None, Some(argv)) => Deed::Run(argv),
            _ => return Err(de::Error::custom("a hook needs exactly one of reload, restart and run")),
        };
        let on = table.on.unwrap_or_else(|| [Event::Leaf, Event::Ca].into());
        deed.check().map_err(de::Error::custom)?;
        Ok(Self { on, deed })
    }
}

/// `reload = ["x.service"]`: short for hooks on leaf and CA.
pub fn reloads(units: &[String]) -> Result<Vec<Hook>, String> {
    let hook = |unit: &String| {
        let hook = Hook { on: [Event::Leaf, Event::Ca].into(), deed: Deed::Reload(unit.clone()) };
        hook.deed.check().map(|()| hook)
    };
    units.iter().map(hook).collect()
}

impl Deed {
    /// Whether it can be done at all: a unit has a name and a type, a command is an absolute path.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::DaemonReload => Ok(()),
            Self::Reload(unit) | Self::Restart(unit) => {
                let plain = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
                let named =
                    unit.split_once('.').is_some_and(|(name, kind)| !name.is_empty() && !kind.is_empty());
                if named && !unit.starts_with('-') && unit.chars().all(plain) {
                    return Ok(());
                }
                Err(format!(
                    "{unit:?} is not the name of a unit; write it with its type, such as nginx.service"
                ))
            }
            Self::Run(argv) => match argv.first() {
                Some(program) if program.starts_with('/') => Ok(()),
                _ => Err("run needs an absolute path and its arguments; there is no shell".to_owned()),
            },
        }
    }

    /// Reloads of units that are only told when systemd already knows their new form.
    fn argv(&self) -> Vec<String> {
        // Without ignore-dependencies a deed for a unit that is ordered after us waits for us: systemctl(1).
        let systemctl = |verb: &str, unit: &str| {
            ["systemctl", "--no-ask-password", "--job-mode=ignore-dependencies", verb, unit]
                .map(str::to_owned)
                .to_vec()
        };
        match self {
            Self::DaemonReload => {
                ["systemctl", "--no-ask-password", "daemon-reload"].map(str::to_owned).to_vec()
            }
            Self::Reload(unit) => systemctl("try-reload-or-restart", unit),
            Self::Restart(unit) => systemctl("try-restart", unit),
            Self::Run(argv) => argv.clone(),
        }
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DaemonReload => f.write_str("reload systemd's units"),
            Self::Reload(unit) => write!(f, "reload {unit}"),
            Self::Restart(unit) => write!(f, "restart {unit}"),
            Self::Run(argv) => write!(f, "run {}", argv.join(" ")),
        }
    }
}

/// Does it, and waits for its end. The error says what was run and its last lines.
pub fn perform(deed: &Deed) -> Result<(), String> {
    // sd_booted(3): in a container or a chroot no one reads units, and there is no one to tell.
    if *deed == Deed::DaemonReload && !sd_notify::booted().unwrap_or(false) {
        return Ok(());
    }
    finish(&deed.argv(), DEED_WAIT).map(drop)
}

/// What a command prints. The error says which command and why, and nothing of its output.
pub fn output(argv: &[String]) -> Result<String, String> {
    finish(argv, OUTPUT_WAIT).map_err(|error| error.split(": it said").next().unwrap_or_default().to_owned())
}

fn finish(argv: &[String], patience: Duration) -> Result<String, String> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err("the command is empty".to_owned());
    };
    #[allow(clippy::disallowed_methods, reason = "this is the room")]
    let mut child = Command::new(program)
        .args(arguments)
        // Nothing of ours is a child's business: a secret may have come by an environment variable.
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    let (out, err) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let ended = wait(&mut child, program, patience);
    if ended.is_err() {
        // It may be gone already; then there is nothing to end.
        let _ = child.kill();
        let _ = child.wait();
    }
    let status = ended?;
    let (out, err) =
        (out.recv_timeout(patience).unwrap_or_default(), err.recv_timeout(patience).unwrap_or_default());
    match status.success() {
        true => Ok(out),
        false => {
            Err(format!("{program} ended with {status}: it said {:?}", last_lines(&[out, err].concat())))
        }
    }
}

fn wait(
    child: &mut std::process::Child,
    program: &str,
    patience: Duration,
) -> Result<std::process::ExitStatus, String> {
    let end = Instant::now() + patience;
    loop {
        match child.try_wait().map_err(|error| format!("cannot wait for {program}: {error}"))? {
            Some(status) => return Ok(status),
            None if Instant::now() >= end => {
                return Err(format!("{program} did not end within {} s and was ended", patience.as_secs()));
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Reads a pipe to its end beside us, so that a process that prints much does not stand still.
fn drain(pipe: Option<impl Read + Send + 'static>) -> std::sync::mpsc::Receiver<String> {
    let (sender, receiver) = std::sync::mpsc::channel();
    if let Some(mut pipe) = pipe {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = pipe.by_ref().take(OUTPUT_SIZE).read_to_end(&mut bytes);
            // The receiver may have given up waiting.
            let _ =
                sender.send(read.map(|_| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default());
            let _ = std::io::copy(&mut pipe, &mut std::io::sink());
        });
    }
    receiver
}

fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(SAID_LINES)..].join(" | ");
    last.chars().map(|c| if c.is_control() { ' ' } else { c }).take(600).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn a_command_gives_what_it_prints() {
        assert_eq!(output(&argv(&["echo", "s3cret"])), Ok("s3cret\n".to_owned()));
    }

    #[test]
    fn a_command_that_fails_is_named_and_its_output_is_not_shown() {
        let said = output(&argv(&["sh", "-c", "echo s3cret; exit 3"])).expect_err("exit 3");
        assert!(said.contains("sh ended with exit status: 3") && !said.contains("s3cret"), "{said}");
        assert!(output(&argv(&["/nonexistent"])).expect_err("no such file").contains("/nonexistent"));
        assert!(output(&[]).is_err());
    }

    #[test]
    fn a_hook_that_fails_says_its_last_lines() {
        let said = perform(&Deed::Run(argv(&["/bin/sh", "-c", "seq 100; echo oops >&2; exit 1"])))
            .expect_err("exit 1");
        assert!(said.contains("100 | oops") && !said.contains("42"), "{said}");
    }

    #[test]
    fn a_hook_that_prints_much_and_a_child_without_our_environment_end_well() {
        perform(&Deed::Run(argv(&["/bin/sh", "-c", "yes | head -c 300000"]))).expect("it is read to its end");
        perform(&Deed::Run(argv(&["/bin/sh", "-c", "test -z \"$CARGO_PKG_NAME\""])))
            .expect("an empty environment");
    }

    #[test]
    fn what_is_no_unit_and_no_command_is_refused() {
        for unit in ["nginx", "-x.service", "a b.service", ".service", "x;y.service"] {
            assert!(Deed::Reload(unit.to_owned()).check().is_err(), "{unit}");
        }
        assert!(Deed::Run(argv(&["after"])).check().is_err() && Deed::Run(Vec::new()).check().is_err());
        assert_eq!(Deed::Restart("etcd@a.service".to_owned()).check(), Ok(()));
    }
}
