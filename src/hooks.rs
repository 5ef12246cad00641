//! The processes that are started: always an argv, never a shell.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::deed::Deed;
use crate::facts;
use crate::stop::Stop;

/// A command that prints a secret has this long; a boot must not hang on it.
const OUTPUT_WAIT: Duration = Duration::from_secs(30);
/// What a hook may take; systemd's own default for a unit's start and stop.
const DEED_WAIT: Duration = Duration::from_secs(90);
/// What a process that has to go is given to end by itself.
const TO_END: Duration = Duration::from_millis(300);
const STEP: Duration = Duration::from_millis(5);
/// Bytes that are kept of what a process prints; what is over is read and dropped, so that none blocks.
const OUTPUT_SIZE: usize = 64 * 1024;
/// How long a pipe is listened to after its process has ended.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// How the states begin that a unit ends by, or waits in for its next start.
const RESTS: [&str; 5] = ["dead-", "failed-", "auto-restart", "stop-", "final-"];
/// Closed before the first child.
static INHERITED: Once = Once::new();
/// Lines of a failed hook that are worth showing: the last ones.
const SAID_LINES: usize = 5;

/// Does it, and waits for its end. The error says what was run and its last lines.
pub fn perform(deed: &Deed, stop: &Stop) -> Result<(), String> {
    let argv = argv(deed);
    let program = argv.first().map_or("", String::as_str);
    match finish(&argv, DEED_WAIT, stop)? {
        (status, _) if status.success() => Ok(()),
        (status, said) => {
            Err(format!("{program} ended with {status}: it said {:?}", last_lines(&said.concat())))
        }
    }
}

/// What a command prints. The error says which command and why, and nothing of its output.
pub fn output(argv: &[String], stop: &Stop) -> Result<String, String> {
    let program = argv.first().map_or("", String::as_str);
    match finish(argv, OUTPUT_WAIT, stop)? {
        (status, [out, _]) if status.success() => Ok(out),
        (status, _) => Err(format!("{program} ended with {status}; run it by hand to see why")),
    }
}

/// What becomes of a unit that a deed is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// It has read its files and is at work.
    Runs,
    /// It may have read them already, and a restart would be passed over (systemctl(1), try-restart).
    Starts,
    /// It will read them when it starts.
    Rests,
}

/// sd_booted(3): in a container or a chroot, and under another init, there is no systemd to tell.
pub fn has_systemd() -> bool {
    sd_notify::booted().unwrap_or(false)
}

/// How the unit of a deed is; a command is for something that runs.
pub fn unit(deed: &Deed, stop: &Stop) -> Result<Unit, String> {
    let unit = match deed {
        Deed::Run(_) => return Ok(Unit::Runs),
        _ if !has_systemd() => return Ok(Unit::Rests),
        Deed::Reload(unit) | Deed::Restart(unit) => unit,
        Deed::DaemonReload | Deed::InTurn(_) => return Ok(Unit::Runs),
    };
    let argv = [
        "systemctl",
        "--no-ask-password",
        "show",
        "--property=LoadState,ActiveState,SubState",
        unit.as_str(),
    ];
    Ok(standing(&output(&argv.map(str::to_owned), stop)?))
}

/// Of what `show` says. One that is masked or whose file is gone may run all the same, with what it has read; one of
/// another kind than a service has states of its own while it is active.
fn standing(shown: &str) -> Unit {
    let is = |said: &str| shown.lines().any(|line| line.trim() == said);
    match shown.lines().find_map(|line| line.trim().strip_prefix("SubState=")) {
        _ if is("ActiveState=active") => Unit::Runs,
        _ if is("LoadState=not-found") || is("LoadState=masked") || is("ActiveState=inactive") => Unit::Rests,
        state => by_state(state.unwrap_or_default()),
    }
}

/// By its SubState, systemctl(1) --state=help. What is not known to rest may run already, as in the many states of a
/// reload, and no restart is struck for it.
fn by_state(state: &str) -> Unit {
    match state {
        "running" | "reload" | "exited" => Unit::Runs,
        "dead" | "failed" | "condition" | "start-pre" | "stop" | "cleaning" => Unit::Rests,
        state if RESTS.iter().any(|rests| state.starts_with(rests)) => Unit::Rests,
        _ => Unit::Starts,
    }
}

/// Without ignore-dependencies a deed for a unit that is ordered after us waits for us: systemctl(1).
fn argv(deed: &Deed) -> Vec<String> {
    let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    let systemctl =
        |verb, unit| owned(&["systemctl", "--no-ask-password", "--job-mode=ignore-dependencies", verb, unit]);
    match deed {
        Deed::DaemonReload => owned(&["systemctl", "--no-ask-password", "daemon-reload"]),
        Deed::Reload(unit) => systemctl("try-reload-or-restart", unit),
        Deed::Restart(unit) => systemctl("try-restart", unit),
        Deed::Run(argv) => argv.clone(),
        Deed::InTurn(deed) => argv(deed),
    }
}

/// Runs a command to its end: how it ended, and what it said on its two streams.
fn finish(argv: &[String], patience: Duration, stop: &Stop) -> Result<(ExitStatus, [String; 2]), String> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err("the command is empty".to_owned());
    };
    INHERITED.call_once(shut_inherited);
    #[allow(clippy::disallowed_methods, reason = "this is the room")]
    let mut child = Command::new(program)
        .args(arguments)
        // Nothing of ours is a child's business: a secret may have come by an environment variable.
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own, so that what it started can be ended with it.
        .process_group(0)
        .spawn()
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    let pipes = [drain(child.stdout.take()), drain(child.stderr.take())];
    let ended = wait(&mut child, program, patience, stop);
    if ended.is_err() {
        end(&mut child);
    }
    Ok((ended?, pipes.map(|pipe| collect(&pipe))))
}

/// Whoever started us may have left something open that is no child's business either, as a lock or a secret. Nothing
/// here uses it, not even a socket that systemd passed; only a child makes it worth looking for.
fn shut_inherited() {
    for descriptor in facts::inherited() {
        // What is gone already needs no closing.
        let _ = nix::unistd::close(descriptor);
    }
}

/// With a moment to end by itself. It may be gone already; then there is nothing to end.
fn end(child: &mut Child) {
    let group = Pid::from_raw(child.id().cast_signed());
    let _ = killpg(group, Signal::SIGTERM);
    let last = Instant::now() + TO_END;
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < last {
        std::thread::sleep(STEP);
    }
    let _ = killpg(group, Signal::SIGKILL);
    let _ = child.wait();
}

fn wait(child: &mut Child, program: &str, patience: Duration, stop: &Stop) -> Result<ExitStatus, String> {
    let end = Instant::now() + patience;
    loop {
        match child.try_wait().map_err(|error| format!("cannot wait for {program}: {error}"))? {
            Some(status) => return Ok(status),
            None if Instant::now() >= end => {
                return Err(format!("{program} did not end within {} s and was ended", patience.as_secs()));
            }
            None if stop.is_asked() => return Err(format!("{program} was ended: we are asked to end")),
            None => std::thread::sleep(STEP),
        }
    }
}

/// Reads a pipe to its end beside us, so that a process that prints much does not stand still.
fn drain(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(OUTPUT_SIZE / 64);
    if let Some(mut pipe) = pipe {
        std::thread::spawn(move || {
            let mut block = [0; 4_096];
            while let Ok(length @ 1..) = pipe.read(&mut block) {
                // A receiver that has enough, or has gone, does not keep the process from printing on.
                let _ = sender.try_send(block[..length].to_vec());
            }
        });
    }
    receiver
}

/// What came through a pipe. A daemon that the process left behind may hold it open for ever: after a moment
/// without a word it is enough.
fn collect(pipe: &Receiver<Vec<u8>>) -> String {
    let mut bytes = Vec::new();
    while let Ok(block) = pipe.recv_timeout(LAST_WORDS) {
        if bytes.len() < OUTPUT_SIZE {
            bytes.extend(block);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(SAID_LINES)..].join(" | ");
    last.chars().map(|c| if c.is_control() { ' ' } else { c }).take(600).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn a_unit_rests_only_where_its_state_says_so() {
        let standing = |state: &str| standing(&format!("LoadState=loaded\nSubState={state}\n"));
        let of = |states: &str| states.split(' ').map(standing).collect::<Vec<_>>();
        assert_eq!(of("running reload exited"), [Unit::Runs; 3]);
        let starts =
            "start start-post reload-signal reload-notify reload-post refresh-extensions of-tomorrow";
        assert_eq!(of(starts), [Unit::Starts; 7]);
        assert_eq!(standing(""), Unit::Starts, "no answer is no proof");
        let rests = "dead failed condition start-pre stop cleaning auto-restart auto-restart-queued \
            dead-before-auto-restart failed-before-auto-restart dead-resources-pinned stop-watchdog stop-sigterm \
            stop-sigkill stop-post final-watchdog final-sigterm final-sigkill";
        let rests: Vec<_> = rests.split_whitespace().map(|state| (state, standing(state))).collect();
        assert_eq!(rests.len(), 18);
        rests.iter().for_each(|(state, unit)| assert_eq!(*unit, Unit::Rests, "{state}"));
    }

    #[test]
    fn a_unit_that_is_not_there_or_masked_rests_and_one_of_another_kind_runs() {
        let said = |load: &str, active: &str, sub: &str| {
            standing(&format!("LoadState={load}\nActiveState={active}\nSubState={sub}\n"))
        };
        assert_eq!(said("not-found", "inactive", "dead"), Unit::Rests);
        assert_eq!(said("masked", "active", "running"), Unit::Runs, "it was masked while it ran");
        assert_eq!(said("masked", "inactive", "dead"), Unit::Rests);
        assert_eq!(said("not-found", "active", "running"), Unit::Runs, "its file went while it ran");
        assert_eq!(said("loaded", "active", "listening"), Unit::Runs, "a socket");
        assert_eq!(said("loaded", "inactive", "dead"), Unit::Rests);
        assert_eq!(said("loaded", "activating", "start"), Unit::Starts, "a restart would be passed over");
        assert_eq!(said("loaded", "activating", "auto-restart"), Unit::Rests);
        assert_eq!(standing(""), Unit::Starts, "no answer is no proof");
    }

    #[test]
    fn a_command_gives_what_it_prints() {
        assert_eq!(output(&words(&["echo", "s3cret"]), &Stop::default()), Ok("s3cret\n".to_owned()));
    }

    #[test]
    fn a_command_that_fails_is_named_and_its_output_is_not_shown() {
        let said =
            output(&words(&["sh", "-c", "echo s3cret; exit 3"]), &Stop::default()).expect_err("exit 3");
        assert!(said.contains("sh ended with exit status: 3") && !said.contains("s3cret"), "{said}");
        assert!(
            output(&words(&["/nonexistent"]), &Stop::default())
                .expect_err("no such file")
                .contains("/nonexistent")
        );
        assert!(output(&[], &Stop::default()).is_err());
    }

    #[test]
    fn a_hook_that_fails_says_its_last_lines() {
        let said = perform(
            &Deed::Run(words(&["/bin/sh", "-c", "seq 100; echo oops >&2; exit 1"])),
            &Stop::default(),
        )
        .expect_err("exit 1");
        assert!(said.contains("100 | oops") && !said.contains("42"), "{said}");
    }

    #[test]
    fn a_hook_that_prints_much_and_a_child_without_our_environment_end_well() {
        perform(&Deed::Run(words(&["/bin/sh", "-c", "yes | head -c 300000"])), &Stop::default())
            .expect("it is read to its end");
        perform(&Deed::Run(words(&["/bin/sh", "-c", "test -z \"$CARGO_PKG_NAME\""])), &Stop::default())
            .expect("an empty environment");
    }

    #[test]
    fn a_command_that_does_not_end_in_its_time_is_ended() {
        let began = Instant::now();
        let hangs = words(&["/bin/sh", "-c", "trap '' TERM; sleep 60; sleep 60"]);
        let said = finish(&hangs, Duration::from_millis(200), &Stop::default()).expect_err("it hangs");
        assert!(said.starts_with("/bin/sh did not end within"), "{said}");
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_unit_is_told_by_what_starts_nothing_and_waits_for_no_one() {
        let told = |deed| argv(&deed).join(" ");
        let systemctl = "systemctl --no-ask-password --job-mode=ignore-dependencies";
        assert_eq!(
            told(Deed::Reload("a.service".into())),
            format!("{systemctl} try-reload-or-restart a.service")
        );
        let restart = Deed::Restart("a.service".into());
        assert_eq!(told(restart.clone()), format!("{systemctl} try-restart a.service"));
        assert_eq!(told(Deed::InTurn(Box::new(restart.clone()))), told(restart));
    }

    #[test]
    fn a_daemon_that_a_command_leaves_behind_does_not_hold_us() {
        let began = Instant::now();
        assert_eq!(
            output(&words(&["/bin/sh", "-c", "sleep 20 & echo token"]), &Stop::default()),
            Ok("token\n".to_owned())
        );
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}
