//! When it is a host's turn to renew: at moments of its own, a period apart, for ever.
//!
//! Hosts that were issued certificates in the same minute, as at the birth of a fleet or after an outage, would else
//! come back together. A share of each interval that is chance mixes them over years; a moment that is the host's
//! own does at once, for the price of one renewal that comes early.

use std::time::{Duration, SystemTime};

/// One in so many of the time that a certificate can be used is given up, so that a host which comes to its moment a
/// little late, or to a CA whose clock is, still reaches the next one.
const SLACK: u32 = 32;

/// How long a certificate can be used: as long as is `assumed`, so that moments do not move with the seconds that a
/// CA takes, unless so much less was `left` when it came that a moment before that could be the last.
pub(super) fn used(assumed: Duration, left: Duration) -> Duration {
    let is_about = left >= assumed.mul_f64(1.0 - 0.5 / f64::from(SLACK));
    if is_about { assumed } else { left }
}

/// The last of a host's moments that is not after `latest`. They are a little less apart than a certificate can be
/// `used`; `place`, from 0 to 1, is where they lie.
pub(super) fn turn(latest: SystemTime, used: Duration, place: f64) -> SystemTime {
    let period = period(used.as_secs());
    let (Some(period), Ok(since)) = (period, latest.duration_since(SystemTime::UNIX_EPOCH)) else {
        return latest;
    };
    let own = Duration::from_secs(period).mul_f64(place).as_secs();
    let late = (since.as_secs() + period - own.min(period)) % period;
    latest - Duration::from_secs(late)
}

/// To seven binary digits: the lifetimes that a CA gives differ by a second now and then, and moments that are
/// counted from 1970 would all move.
fn period(used: u64) -> Option<u64> {
    let period = used - used / u64::from(SLACK);
    let unit = 1 << period.checked_ilog2()?.saturating_sub(6);
    Some(period / unit * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    #[test]
    fn a_host_that_keeps_its_moments_renews_once_a_period_however_late_its_timer_is() {
        for (used, place) in [(20 * DAY, 0.3), (243 * DAY, 0.999), (2_370, 0.0), (16 * 3_600, 1.0)] {
            let mut now = 1_800_000_000;
            let (mut first, mut count) = (None, 0);
            while count < 100 {
                let due = turn(at(now + used), Duration::from_secs(used), place);
                let due = due.duration_since(at(0)).unwrap().as_secs();
                assert!((now + used / 40..=now + used).contains(&due), "{used}: {now}, {due}");
                let first = *first.get_or_insert(due);
                assert!((due - first) * 21 >= count * used * 20, "{used}: {count} in {}", due - first);
                // A CA may give a second less; the timer's run is late by what is left of the slack at most.
                now = due + used / 50 * (count % 2);
                count += 1;
            }
        }
    }

    #[test]
    fn moments_do_not_move_with_a_second_of_lifetime() {
        for used in [20 * DAY, 30 * DAY - 7, 2_370, 16 * 3_600 + 20] {
            let turn = |used: u64| turn(at(1_800_000_000), Duration::from_secs(used), 0.5);
            assert_eq!(turn(used), turn(used + 1));
        }
    }

    #[test]
    fn what_can_be_used_for_no_time_is_due_at_the_latest() {
        assert_eq!(turn(at(7), Duration::ZERO, 0.5), at(7));
    }
}
