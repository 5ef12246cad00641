//! Whether the CA has revoked what it still serves.

use super::{CaError, Known, Puppet};
use crate::trust::{proven, revokes};

impl Puppet {
    /// The revocation lists that the CA publishes, PEM: one for each of its certificates. They are held
    /// against these, for a consumer that reads another's, or one that has ended, refuses everyone.
    pub(super) async fn revocations(&self, known: &Known) -> Result<String, CaError> {
        let call = self.call("read its revocation list", "certificate_revocation_list/ca");
        let answer = self.checked(&known.wire, &call).await?;
        let lists = String::from_utf8_lossy(&answer.body);
        proven(&lists, &known.bundle, self.clock.now())
            .map_err(|why| known.wire.bad_answer(&answer.url, &call, why))
    }

    pub(super) async fn is_revoked(&self, known: &Known, leaf: &[u8]) -> Result<bool, CaError> {
        let lists = self.revocations(known).await?;
        revokes(&lists, &known.bundle, leaf).map_err(|why| CaError::BadAnswer {
            ca: self.ca.clone(),
            asked: "read its revocation list".to_owned(),
            url: self.settings.server.urls.join(", "),
            why,
        })
    }
}
