//! Whether this program is asked to end before its time: by systemd (SIGTERM) or by a person (SIGINT).
//!
//! Whoever waits, for a CA, the lock or a hook, looks here; what writes takes milliseconds and is not
//! interrupted. So nothing is left half done.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};

/// How often it is looked for.
const STEP: Duration = Duration::from_millis(50);

/// The word to end; by default no one can give it.
#[derive(Debug, Clone, Default)]
pub struct Stop(Option<Arc<AtomicBool>>);

impl Stop {
    /// From now on SIGTERM and SIGINT end nothing by themselves; what we start has them as ever, for
    /// execve(2) takes handlers away.
    pub fn by_signals() -> io::Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            signal_hook::flag::register(signal, asked.clone())?;
        }
        Ok(Self(Some(asked)))
    }

    /// Whether it was given.
    pub fn is_asked(&self) -> bool {
        self.0.as_ref().is_some_and(|asked| asked.load(Ordering::Relaxed))
    }

    /// Waits until it is given.
    pub async fn asked(&self) {
        if self.0.is_none() {
            return std::future::pending().await;
        }
        while !self.is_asked() {
            tokio::time::sleep(STEP).await;
        }
    }
}
