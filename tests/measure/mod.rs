//! Measuring: whole processes by the kernel's own account, and what no program that does the job can save.

// Each measurement uses its own part of it.
#![allow(dead_code, unused_imports)]

mod crowd;
mod floor;
mod process;

pub(crate) use crowd::{Fared, at_once};
pub(crate) use floor::{Floor, Kept, PIECES};
pub(crate) use process::{Calls, Sample, calls, own, resident, sample};

/// Median and spread of samples.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// The tenth, fiftieth and ninetieth hundredth.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<_> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |share: usize| sorted.get((sorted.len().max(1) - 1) * share / 100).copied().unwrap_or(0.0);
        Self { low: at(10), median: at(50), high: at(90) }
    }
}
