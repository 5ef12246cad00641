//! Whether a member of an etcd cluster may restart now.
//!
//! etcd reads CA certificates and its configuration at its start only, and the timers of a fleet may fire in
//! the same second. So a member has its turn when
//!
//! 1. every other member says that it is healthy: `/health`, over mutual TLS, with the certificate that this
//!    host holds;
//! 2. it holds a lock of the whole cluster, taken through one of the others: `/v3/lock/lock` of etcd's own
//!    gateway, under a lease that outlives any restart and ends by itself should this program die;
//! 3. the others are healthy still, now that no one else can begin.
//!
//! The lock is given back when the member is healthy again; else its lease keeps it for a while, and what
//! was to be done stays owed.
//!
//! There is one way without the lock. Where the others are not healthy, and this member has been no part of
//! any quorum for as long as it is worth waiting (it says itself that it has no leader, or nothing listens),
//! its restart takes nothing away, and may be what mends it: this is how a cluster comes back whose peers
//! stopped trusting one another. A member that does not let us in, or is unhealthy for another reason, is
//! not such a one: it may be at work.

mod member;

use std::time::Duration;

use futures_util::future::{join, join_all};
use serde_json::json;

use crate::bundle::Bundle;
use crate::ca::Deadline;
use crate::clock::Clock;
use crate::component::Cluster;
use crate::https::{Trust, client_config, lenient_client};
use crate::trust::{Anchors, Pin};

use member::{Health, Member, Trouble, encoded};

/// Seconds. Longer than all of [`Patience`] and a hook together.
const LEASE: u64 = 360;
const LOCK: &str = "nodecert/turn";
/// The first key after those of the lock: '0' comes after '/'.
const LOCK_END: &str = "nodecert/turn0";
/// Between two looks at the same members.
const PAUSE: Duration = Duration::from_millis(500);
/// A round of asking for the lock that is shorter would find nothing but its own end.
const ROUND: Duration = Duration::from_secs(2);
/// A call that does not wait for anyone else.
const CALL: Duration = Duration::from_secs(5);

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the others to be healthy: longer than an election and the restart of one of them.
    pub others: Duration,
    /// For the lock, while others have their turn.
    pub lock: Duration,
    /// For this member to be healthy again.
    pub back: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            others: Duration::from_secs(30),
            lock: Duration::from_secs(120),
            back: Duration::from_secs(60),
        }
    }
}

/// Why it was not this member's turn, or what went wrong in it.
#[derive(Debug, thiserror::Error)]
pub enum QuorumError {
    /// There is no way to ask.
    #[error("the members of the cluster cannot be asked: {0}")]
    Unusable(String),
    /// Others are not healthy.
    #[error("waits until every other member is healthy: {0}")]
    Waits(String),
    /// Someone else has the lock, or no one gives it.
    #[error("waits for its turn: {0}")]
    Busy(String),
    /// The cluster gives no lock.
    #[error("the cluster gives no lock: {0}; restart its members by hand, one after the other")]
    NoLock(String),
    /// What was to be done in turn failed.
    #[error("{0}")]
    Deed(String),
    /// It was done, and the member is not what it was.
    #[error("{own} was restarted and is not healthy after {} s: {why}; see its log", .waited.as_secs())]
    Lost {
        /// This member.
        own: String,
        /// How long it had.
        waited: Duration,
        /// What it says.
        why: String,
    },
}

impl QuorumError {
    /// Whether it passes without anyone doing anything here.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Waits(_) | Self::Busy(_))
    }
}

/// As whom the members are asked, and whom to believe.
#[derive(Debug)]
pub struct Asking<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// What this host shows.
    pub bundle: &'a Bundle,
    /// What the members' certificates must lead to.
    pub anchors: &'a Anchors,
    /// What time it is.
    pub clock: &'a Clock,
    /// How long to wait for what.
    pub patience: Patience,
}

/// Does it when it is this member's turn, and waits for that no longer than the deadline allows.
pub async fn in_turn(
    asking: &Asking<'_>,
    deadline: Deadline,
    act: impl FnOnce() -> Result<(), String>,
) -> Result<(), QuorumError> {
    let ring = Ring::new(asking)?;
    let deed = |act: Result<(), String>| act.map_err(QuorumError::Deed);
    if ring.others.is_empty() {
        return deed(act());
    }
    match ring.others_well(deadline).await {
        Ok(()) => {}
        Err(waiting) if waiting.nothing_to_lose => {
            tracing::warn!(
                "{} is no part of a quorum, and is restarted without a lock: {}",
                asking.cluster.own,
                waiting.whom
            );
            return deed(act());
        }
        Err(waiting) => return Err(QuorumError::Waits(waiting.whom)),
    }
    let through = ring.lock(deadline).await?;
    if let Err(waiting) = ring.others_well(deadline).await {
        ring.release(through).await;
        return Err(QuorumError::Waits(waiting.whom));
    }
    let acted = act();
    let back = ring.own_well().await;
    if back.is_ok() {
        ring.release(through).await;
    }
    deed(acted)?;
    back
}

/// The members, from where one of them stands.
struct Ring {
    own: Member,
    others: Vec<Member>,
    patience: Patience,
}

/// For whom it waits.
struct Waiting {
    whom: String,
    /// Whether this member has been no part of a quorum all the time.
    nothing_to_lose: bool,
}

impl Ring {
    fn new(asking: &Asking<'_>) -> Result<Self, QuorumError> {
        let cluster = asking.cluster;
        let tls = client_config(Trust::Anchors(asking.anchors.clone()), Some(asking.bundle), asking.clock);
        let client = tls.and_then(lenient_client).map_err(QuorumError::Unusable)?;
        let member = |(name, urls): (&String, &Vec<String>)| Member::new(name, urls, &client);
        let (own, others): (Vec<_>, Vec<_>) =
            cluster.members.iter().map(member).partition(|member| member.name == cluster.own);
        let nameless = || QuorumError::Unusable(format!("{} is none of them", cluster.own));
        Ok(Self { own: own.into_iter().next().ok_or_else(nameless)?, others, patience: asking.patience })
    }

    /// Waits until all the others are healthy at one look.
    async fn others_well(&self, deadline: Deadline) -> Result<(), Waiting> {
        let patience = Deadline::after(self.patience.others);
        let mut nothing_to_lose = true;
        loop {
            let (own, others) = join(self.own.look(), join_all(self.others.iter().map(Member::look))).await;
            let unwell = self.others.iter().zip(&others).filter(|(_, health)| !health.is_well());
            let whom: Vec<_> = unwell.map(|(member, health)| format!("{} {health}", member.name)).collect();
            if whom.is_empty() {
                return Ok(());
            }
            nothing_to_lose = nothing_to_lose && self.own.is_apart(&own).await;
            if deadline.left() < PAUSE || patience.left() < PAUSE {
                // What was looked at for a shorter time may have been an election.
                let nothing_to_lose = nothing_to_lose && patience.left() < PAUSE;
                return Err(Waiting { whom: whom.join(", "), nothing_to_lose });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn own_well(&self) -> Result<(), QuorumError> {
        let patience = Deadline::after(self.patience.back);
        loop {
            match self.own.look().await {
                Health::Well => return Ok(()),
                health if patience.left() < PAUSE => {
                    let (own, waited) = (self.own.name.clone(), self.patience.back);
                    return Err(QuorumError::Lost { own, waited, why: health.to_string() });
                }
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Takes the lock through one of the others, for this member is about to go. One that gives none, as it
    /// has its own turn or stalls, is not the end: the next has its share of the time, and so on in rounds.
    async fn lock(&self, deadline: Deadline) -> Result<&Member, QuorumError> {
        let patience = Deadline::after(self.patience.lock.min(deadline.left()));
        loop {
            let mut waits = Vec::new();
            let mut refusals = Vec::new();
            for (nth, member) in self.others.iter().enumerate() {
                let share = patience.left() / u32::try_from(self.others.len() - nth).unwrap_or(1);
                match self.lock_through(member, share).await {
                    Ok(()) => return Ok(member),
                    Err(Trouble::Later(why)) => waits.push(format!("{}: {why}", member.name)),
                    Err(Trouble::Refused(why)) => refusals.push(format!("{}: {why}", member.name)),
                }
            }
            if waits.is_empty() {
                return Err(QuorumError::NoLock(refusals.join("; ")));
            }
            if patience.left() < ROUND {
                return Err(QuorumError::Busy(waits.join("; ")));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn lock_through(&self, member: &Member, share: Duration) -> Result<(), Trouble> {
        let until = Deadline::after(share);
        // One that has restarted since may serve at another port now.
        let health = member.look().await;
        if !health.is_well() {
            return Err(Trouble::Later(health.to_string()));
        }
        let lease = self.lease(&self.own.name);
        let id = json!({ "ID": lease.to_string() });
        // An earlier run that was killed may have left it; this host has one run at a time.
        match member.call("/v3/lease/revoke", &id, CALL.min(share)).await {
            Err(silence @ Trouble::Later(_)) => return Err(silence),
            Ok(_) | Err(Trouble::Refused(_)) => {}
        }
        let grant = json!({ "ID": lease.to_string(), "TTL": LEASE.to_string() });
        member.call("/v3/lease/grant", &grant, CALL.min(until.left())).await?;
        let lock = json!({ "name": encoded(LOCK), "lease": lease.to_string() });
        let key = json!(encoded(&format!("{LOCK}/{lease:x}")));
        let trouble = match member.call("/v3/lock/lock", &lock, until.left()).await {
            Ok(locked) if locked["key"] == key => return Ok(()),
            Ok(_) => Trouble::Later("gave another lock than it was asked for".to_owned()),
            Err(trouble) => match self.holder(member).await {
                Some(holder) => Trouble::Later(format!("{holder} has the lock {LOCK}")),
                None => trouble,
            },
        };
        self.release(member).await;
        Err(trouble)
    }

    /// Who has the lock: its first key is under that member's lease.
    async fn holder(&self, member: &Member) -> Option<String> {
        let range = json!({
            "key": encoded(&format!("{LOCK}/")), "range_end": encoded(LOCK_END),
            "sort_target": "CREATE", "sort_order": "ASCEND", "limit": "1",
        });
        let found = member.call("/v3/kv/range", &range, CALL).await.ok()?;
        let lease = found["kvs"][0]["lease"].as_str()?.to_owned();
        let of = |other: &&Member| self.lease(&other.name).to_string() == lease;
        Some(
            self.others
                .iter()
                .find(of)
                .map_or_else(|| format!("someone (lease {lease})"), |other| other.name.clone()),
        )
    }

    /// Ends the lease, and with it the lock. Where that fails it ends by itself.
    async fn release(&self, through: &Member) {
        let lease = json!({ "ID": self.lease(&self.own.name).to_string() });
        if let Err(trouble) = through.call("/v3/lease/revoke", &lease, CALL).await {
            tracing::debug!("{}: lease not revoked: {trouble}", through.name);
        }
    }

    /// The number of a member's lease, always the same, so that a lock says whose it is. etcd's leases are
    /// positive 64-bit numbers.
    fn lease(&self, name: &str) -> i64 {
        let [a, b, c, d, e, f, g, h, ..] = Pin::of(format!("{LOCK}/{name}").as_bytes()).bytes();
        (i64::from_be_bytes([a, b, c, d, e, f, g, h]) & i64::MAX).max(1)
    }
}
