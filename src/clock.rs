//! The clock, passed in so that a test can live three years in a second.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

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
