//! Processes: everything that is started, always from an argv, never through a shell.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A command that prints a secret has this long; a boot must not hang on it.
const OUTPUT_WAIT: Duration = Duration::from_secs(30);
/// Secrets are short; a command that prints more is not what was meant.
const OUTPUT_SIZE: u64 = 64 * 1024;

/// What a command prints. The error says which command and why, and nothing of its output.
pub fn output(argv: &[String]) -> Result<String, String> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err("the command is empty".to_owned());
    };
    #[allow(clippy::disallowed_methods, reason = "this is the room")]
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    let text = collect(&mut child, program);
    if text.is_err() {
        // It may be gone already; then there is nothing to end.
        let _ = child.kill();
        let _ = child.wait();
    }
    text
}

fn collect(child: &mut std::process::Child, program: &str) -> Result<String, String> {
    let Some(pipe) = child.stdout.take() else { return Err(format!("{program} has no output")) };
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        pipe.take(OUTPUT_SIZE).read_to_string(&mut text).map(|_| text)
    });
    let end = Instant::now() + OUTPUT_WAIT;
    let status = loop {
        match child.try_wait().map_err(|error| format!("cannot wait for {program}: {error}"))? {
            Some(status) => break status,
            None if Instant::now() >= end => {
                return Err(format!("{program} did not end within {} s", OUTPUT_WAIT.as_secs()));
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    if !status.success() {
        return Err(format!("{program} ended with {status}; run it by hand to see why"));
    }
    match reader.join() {
        Ok(Ok(text)) => Ok(text),
        _ => Err(format!("{program} printed something that is no text")),
    }
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
}
