//! How long a CA is waited for, and how long between two tries.

use std::time::{Duration, Instant};

/// The moment at which a run gives up.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// So long from now.
    pub fn after(length: Duration) -> Self {
        #[allow(clippy::disallowed_methods, reason = "a length of waiting, not a time of day")]
        Self(Instant::now() + length)
    }

    /// What is left of it.
    pub fn left(&self) -> Duration {
        #[allow(clippy::disallowed_methods, reason = "a length of waiting, not a time of day")]
        self.0.saturating_duration_since(Instant::now())
    }
}

/// How long to wait before asking again: exponential with full jitter, so that hosts which failed together do not
/// return together (AWS Architecture Blog, "Exponential Backoff And Jitter"); but no longer than a share of what was
/// waited already, or those who are last would wait for long while the CA has nothing to do.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    attempts: u32,
    waited: Duration,
}

impl Backoff {
    const BASE: Duration = Duration::from_millis(500);
    const CAP: Duration = Duration::from_secs(30);
    /// Up to here it only doubles.
    const FREE: Duration = Duration::from_secs(6);
    const SHARE: u32 = 5;
    /// What is kept for the last attempt itself.
    const RESERVE: Duration = Duration::from_millis(300);

    /// The next wait: not before `after`, which is what the server asked for, and so that an attempt
    /// still fits into what is `left`. `None` where none fits.
    pub fn next(&mut self, after: Option<Duration>, left: Duration, entropy: u64) -> Option<Duration> {
        let least = after.unwrap_or_default();
        let most = left.checked_sub(Self::RESERVE).filter(|&most| most > least)?;
        let cap = (self.waited / Self::SHARE).clamp(Self::FREE, Self::CAP);
        let ceiling = Self::BASE.saturating_mul(1 << self.attempts.min(16)).min(cap);
        self.attempts += 1;
        let share = f64::from(u32::try_from(entropy >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX);
        let wait = (least + ceiling.mul_f64(share)).min(most);
        self.waited += wait;
        Some(wait)
    }
}
