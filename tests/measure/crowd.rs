//! Many hosts at once: each a process of its own, started as fast as this machine can.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::process::children;

/// Far above what the slowest crowd takes; one that hangs is ended and fails its test.
const PATIENCE: Duration = Duration::from_secs(660);

/// How a crowd fared.
#[derive(Debug)]
pub(crate) struct Fared {
    /// How many of them ran at the moment when the last had been started.
    pub(crate) at_once: usize,
    /// When each had ended well, in seconds after the first was started; sorted.
    pub(crate) done: Vec<f64>,
    /// What those said that did not end well.
    pub(crate) failed: Vec<String>,
    /// Requests that were made again: because the CA refused them for their rate, and for anything else.
    pub(crate) refused: usize,
    pub(crate) retried: usize,
    /// User and system time of all of them, in seconds.
    pub(crate) cpu: f64,
}

/// Runs commands side by side, each to its end, with their logs in `logs`.
pub(crate) fn at_once(commands: Vec<Command>, logs: &Path) -> Fared {
    let (before, began) = (children(), Instant::now());
    let start = |(nth, mut command): (usize, Command)| {
        let log = File::create(logs.join(nth.to_string())).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.env_remove("LD_LIBRARY_PATH").spawn().unwrap()
    };
    let mut running: Vec<_> = commands.into_iter().enumerate().map(start).enumerate().collect();
    let mut fared =
        Fared { at_once: 0, done: Vec::new(), failed: Vec::new(), refused: 0, retried: 0, cpu: 0.0 };
    fared.reap(&mut running, began, logs);
    fared.at_once = running.len();
    while !running.is_empty() {
        if began.elapsed() > PATIENCE {
            running.iter_mut().for_each(|(_, child)| child.kill().unwrap());
        }
        std::thread::sleep(Duration::from_millis(10));
        fared.reap(&mut running, began, logs);
    }
    fared.cpu = (children() - before) / 1e3;
    fared
}

impl Fared {
    fn reap(&mut self, running: &mut Vec<(usize, Child)>, began: Instant, logs: &Path) {
        running.retain_mut(|(nth, child)| {
            let Some(status) = child.try_wait().unwrap() else { return true };
            let said = std::fs::read_to_string(logs.join(nth.to_string())).unwrap();
            let again = said.lines().filter(|line| line.contains("; next try in"));
            let (refused, retried): (Vec<_>, Vec<_>) = again.partition(|line| line.contains(": 429"));
            self.refused += refused.len();
            self.retried += retried.len();
            match status.success() {
                true => self.done.push(began.elapsed().as_secs_f64()),
                false => self.failed.push(said),
            }
            false
        });
    }

    /// When that share of them had ended, in seconds.
    pub(crate) fn at(&self, percent: usize) -> f64 {
        self.done[(self.done.len() - 1) * percent / 100]
    }
}
