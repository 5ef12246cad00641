//! The clock, passed in so that a test can live three years in a second; and how moments are written.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// What time it is. Read again before each judgement: a wait for a signature may be long.
#[derive(Clone)]
pub struct Clock {
    read: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    doubt: Arc<Mutex<Option<Doubt>>>,
}

/// Someone else's time that is not ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// Who says so.
    pub who: String,
    /// What time it is there.
    pub theirs: SystemTime,
    /// What time it was here then.
    pub ours: SystemTime,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { who, theirs, ours } = self;
        let (word, length) = match theirs.duration_since(*ours) {
            Ok(behind) => ("behind", behind),
            Err(ahead) => ("ahead", ahead.duration()),
        };
        write!(
            f,
            "this host's clock says {}, and {who} says {}: it is {} {word}, or theirs is wrong",
            at(*ours),
            at(*theirs),
            human(length)
        )
    }
}

/// No clock that says less is right: 2026-11-01, before this version was made. A date of its own for each build
/// would make no two builds alike.
pub fn release() -> SystemTime {
    from_seconds(1_793_491_200)
}

/// Clocks differ by less: a certificate is dated back by as much, or more.
const TOLERANCE: Duration = Duration::from_secs(300);

impl Clock {
    /// The clock of the host.
    pub fn system() -> Self {
        #[allow(clippy::disallowed_methods, reason = "this is the one place")]
        Self::new(SystemTime::now)
    }

    /// A clock that says what it is told to.
    pub fn new(read: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self { read: Arc::new(read), doubt: Arc::default() }
    }

    /// The time now.
    pub fn now(&self) -> SystemTime {
        (self.read)()
    }

    /// Takes note of the time that someone else has.
    pub fn hear(&self, who: &str, theirs: SystemTime) {
        let ours = self.now();
        let apart = theirs.duration_since(ours).unwrap_or_else(|error| error.duration());
        let doubt = (apart > TOLERANCE).then(|| Doubt { who: who.to_owned(), theirs, ours });
        if let Ok(mut known) = self.doubt.lock() {
            *known = doubt;
        }
    }

    /// Who last said that it is another time.
    pub fn doubt(&self) -> Option<Doubt> {
        self.doubt.lock().ok()?.clone()
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
    fn a_clock_that_differs_from_that_of_others_is_in_doubt_until_it_does_not() {
        let now = from_seconds(1_800_000_000);
        let clock = Clock::new(move || now);
        for (theirs, doubt) in
            [(300, None), (301, Some("5 min 1 s behind")), (-3_600, Some("1 h ahead")), (0, None)]
        {
            clock.hear("https://ca", from_seconds(1_800_000_000 + theirs));
            let said = clock.doubt().map(|doubt| doubt.to_string());
            assert_eq!(said.is_some(), doubt.is_some());
            assert!(doubt.is_none_or(|words| said.is_some_and(|said| said.contains(words))));
        }
    }

    #[test]
    fn the_release_is_in_the_past() {
        assert_eq!(at(release()), "2026-11-01T00:00:00Z");
        assert!(Clock::system().now() > release());
    }

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
