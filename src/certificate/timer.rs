//! How long a certificate lives, and how often someone looks.

use std::time::Duration;

use crate::clock::human;

/// How often nodecert-renew.timer runs as it is shipped; a test holds them together.
pub const INTERVAL: Duration = Duration::from_secs(3_600);

/// What systemd.time(7) can say as "every so often" without a remainder at the end of an hour or a day.
const MINUTES: [u64; 11] = [30, 20, 15, 12, 10, 6, 5, 4, 3, 2, 1];
const HOURS: [u64; 6] = [12, 8, 6, 4, 3, 2];

/// What is wrong with a lifetime into which three runs of the timer do not fit: one that is early, one that
/// fails, and one that renews. Names the drop-in that the timer needs.
pub fn too_short(lifetime: Duration, interval: Duration) -> Option<String> {
    if lifetime >= 3 * interval {
        return None;
    }
    let (said, every) = (human(lifetime), human(interval));
    let Some((calendar, length)) = fitting(lifetime / 3) else {
        return Some(format!("a lifetime of {said} is too short for a timer; ask for 3 minutes or more"));
    };
    Some(format!(
        "a lifetime of {said}, and three runs of the timer, which runs every {every}, must fit into it; put the lines \"[Timer]\", \"OnCalendar=\", \"OnBootSec=5min\", \"OnCalendar={calendar}\", \"RandomizedDelaySec={length}\" into /etc/systemd/system/nodecert-renew.timer.d/interval.conf, and interval = \"{length}\" into [node]"
    ))
}

/// The longest interval that fits, for OnCalendar= and as a length.
fn fitting(most: Duration) -> Option<(String, String)> {
    let minutes = most.as_secs() / 60;
    let hours = HOURS.iter().find(|hours| **hours * 60 <= minutes);
    let hours = hours.map(|hours| (format!("0/{hours}:00"), format!("{hours}h")));
    let hourly = || (minutes >= 60).then(|| ("hourly".to_owned(), "1h".to_owned()));
    let within = || {
        let fits = MINUTES.iter().find(|fits| **fits <= minutes)?;
        Some((format!("*:0/{fits}"), format!("{fits}m")))
    };
    hours.or_else(hourly).or_else(within)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_runs_of_the_timer_fit_into_a_lifetime_or_the_drop_in_is_named() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        for (lifetime, interval) in [(180, 60), (24 * 60, 60), (60, 20), (3, 1)] {
            assert_eq!(too_short(minutes(lifetime), minutes(interval)), None);
        }
        for (lifetime, interval, needed) in [
            (179, 60, "\"OnCalendar=*:0/30\", \"RandomizedDelaySec=30m\""),
            (60, 60, "interval = \"20m\""),
            (59, 20, "OnCalendar=*:0/15"),
            (3, 60, "OnCalendar=*:0/1\""),
            // An empty OnCalendar= takes back every timer, systemd.timer(5).
            (3, 60, "\"OnCalendar=\", \"OnBootSec=5min\", \"OnCalendar="),
            (2, 60, "ask for 3 minutes or more"),
            (300, 1_440, "OnCalendar=hourly"),
            (2 * 1_440, 1_440, "OnCalendar=0/12:00"),
        ] {
            let said = too_short(minutes(lifetime), minutes(interval)).unwrap();
            assert!(said.contains(needed), "{said}");
        }
    }
}
