//! What is owed: done at once, or when the cluster bears it.

use super::Run;
use super::survey::Survey;
use crate::component::Cluster;
use crate::deed::Deed;
use crate::hooks::{self, Unit};
use crate::quorum::{self, Asking, Patience};
use crate::report::{Exit, Trouble};
use crate::trust::Anchors;

/// What became of a deed.
pub(super) enum Told {
    Done,
    /// Its unit does not run: there was no one to tell, and nothing to say of it.
    Rests,
}

impl Run<'_> {
    /// Does one deed, unless there is no one to tell; the trouble says why it stays owed.
    pub(super) async fn perform(&self, survey: &Survey, deed: &Deed) -> Result<Told, Trouble> {
        let own = if let Deed::InTurn(own) = deed { own } else { deed };
        match hooks::unit(own, self.stop).map_err(|why| trouble(why, Exit::Fault))? {
            // It reads what is there when it starts.
            Unit::Rests => return Ok(Told::Rests),
            Unit::Starts => {
                return Err(trouble("waits until it has started".to_owned(), Exit::Temporary));
            }
            Unit::Runs => {}
        }
        if let Deed::InTurn(own) = deed {
            return self.in_turn(survey, own).await;
        }
        hooks::perform(deed, self.stop).map(|()| Told::Done).map_err(|why| trouble(why, Exit::Fault))
    }

    async fn in_turn(&self, survey: &Survey, deed: &Deed) -> Result<Told, Trouble> {
        let Some(cluster) = &survey.node.cluster else {
            return Err(trouble(
                "there is no [etcd] any more that says whose turn it is".to_owned(),
                Exit::Config,
            ));
        };
        let Some(bundle) = survey.bundle(&cluster.certificate) else {
            return Err(trouble(format!("waits for certificate {}", cluster.certificate), Exit::Temporary));
        };
        let asking = Asking {
            cluster,
            bundle,
            anchors: &anchors(survey, cluster),
            clock: &self.world.clock,
            patience: Patience::default(),
        };
        let turn = quorum::in_turn(&asking, self.deadline, || hooks::perform(deed, self.stop)).await;
        turn.map(|()| Told::Done).map_err(|error| {
            let exit = if error.is_temporary() { Exit::Temporary } else { Exit::Fault };
            trouble(error.to_string(), exit)
        })
    }
}

/// What the members' certificates lead to: the same that this member trusts.
fn anchors(survey: &Survey, cluster: &Cluster) -> Anchors {
    let mut anchors = Anchors::default();
    if let Some(certificate) = survey.node.certificates.get(&cluster.certificate) {
        let cas = certificate.trusts.iter().chain([&certificate.ca]);
        cas.filter_map(|ca| survey.known_anchors(ca)).for_each(|known| anchors.join(known));
    }
    anchors
}

/// Why a deed stays owed.
pub(super) fn trouble(message: String, exit: Exit) -> Trouble {
    Trouble { message, exit }
}
