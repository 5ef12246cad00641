//! The clock, passed in so that a test can live three years in a second; and how moments are written.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// What time it is. Read again before each judgement: a wait for a signature may be long.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    /// The clock of the host.
    pub fn system() -> Self {
        #[allow(clippy::disallowed_methods, reason = "this is the one place")]
        Self(Arc::new(SystemTime::now))
    }

    /// A clock that says what it is told to.
    pub fn new(read: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// The time now.
    pub fn now(&self) -> SystemTime {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock(..)")
    }
}

/// The moment so many seconds after 1970 began; earlier ones are taken for that.
pub fn from_seconds(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// How many whole seconds after 1970 began that is; before, none.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A moment as RFC 3339, in UTC.
pub fn at(time: SystemTime) -> String {
    let time = time::OffsetDateTime::from(time);
    let format = time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    time.format(format).unwrap_or_else(|_| "at an unknown time".to_owned())
}

/// A length of time in its two largest units.
pub fn human(length: Duration) -> String {
    let seconds = length.as_secs();
    let units = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)];
    let Some(first) = units.iter().position(|(_, unit)| seconds >= *unit) else { return "0 s".to_owned() };
    let mut rest = seconds;
    let mut said = Vec::new();
    for (name, unit) in &units[first..units.len().min(first + 2)] {
        if rest / unit > 0 {
            said.push(format!("{} {name}", rest / unit));
        }
        rest %= unit;
    }
    said.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_and_moments_read_well() {
        let rows = [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3_661, "1 h 1 min"),
            (90_000, "1 d 1 h"),
            (86_400, "1 d"),
        ];
        for (seconds, said) in rows {
            assert_eq!(human(Duration::from_secs(seconds)), said);
        }
        assert_eq!(at(from_seconds(1_800_000_000)), "2027-01-15T08:00:00Z");
        assert_eq!(at(from_seconds(-5)), "1970-01-01T00:00:00Z");
    }
}
