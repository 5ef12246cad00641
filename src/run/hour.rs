//! A clock that is wrong: waited for, named, and no reason to throw a good pair away.

use std::time::Duration;

use tracing::warn;

use super::failure::Failure;
use super::{Run, World};
use crate::bundle::Rejected;
use crate::ca::Deadline;
use crate::clock::{Clock, at, release};

/// Gives whoever sets the clock time to do so: a host without a battery begins in 1970.
pub(super) async fn wait_for_clock(world: &World, deadline: Deadline) {
    let Some(why) = impossible(&world.clock) else { return };
    warn!("waiting: {why}");
    while impossible(&world.clock).is_some() && !deadline.left().is_zero() {
        tokio::time::sleep(Duration::from_secs(1).min(deadline.left())).await;
    }
}

/// What shows that the clock is wrong, whoever else says what.
fn impossible(clock: &Clock) -> Option<String> {
    let now = clock.now();
    let why = || {
        format!(
            "this host's clock says {}, which was before this program was made, {}",
            at(now),
            at(release())
        )
    };
    (now < release()).then(why)
}

impl Run<'_> {
    /// Nothing is asked for under a clock that is wrong for certain: what came would be judged by it.
    pub(super) fn prove_clock(&self) -> Result<(), Failure> {
        impossible(&self.world.clock).map_or(Ok(()), |why| Err(Failure::Clock(why)))
    }

    /// A certificate that has just come and is not valid now, while the CA's server has another time.
    pub(super) fn doubted(&self, why: &Rejected) -> Option<Failure> {
        let timely = matches!(
            why,
            Rejected::Expired(_)
                | Rejected::NotYetValid { .. }
                | Rejected::DueAtOnce(_)
                | Rejected::AnchorExpired { .. }
        );
        let doubt = self.world.clock.doubt().filter(|_| timely)?;
        Some(Failure::Clock(format!("{doubt}; of what it signed now, {why}")))
    }
}
