//! Three years of a host on its timer alone, with all that happens to a host in three years.
//!
//! Each run is a whole one: survey, CA over TLS, commit. Where nothing can happen the clock goes on to the next
//! run of the timer at which something is due, and now and then the run before that one is asked what it would do.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod fake;
mod site;

use std::time::{Duration, SystemTime};

use fake::{Fake, Fault};
use nodecert::report::{Action, Exit, Report};
use nodecert::run::Ask;
use rstest::rstest;
use site::{DAY, HOUR, Site};

const MINUTE: u64 = 60;
const YEARS: u64 = 3 * 365 * DAY;
/// How often anchors are read again.
const REFRESH: u64 = 7 * DAY;
/// How long another address must have held.
const SETTLE: u64 = 10 * MINUTE;

/// What happens, at a second of those years.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// The CA answers that it is sealed.
    Away,
    Back,
    /// The root of a CA to come is published; its CA signs; the old one is published no longer.
    SecondRoot,
    Rotate,
    DropFirstRoot,
    /// The kernel says another address from now on.
    Address(&'static str),
    /// A reboot, after that many seconds off.
    Boot(u64),
}
use Event::{Address, Away, Back, Boot, DropFirstRoot, Rotate, SecondRoot};

/// Outages of hours, days and weeks, a rotation in the order of the manual, a new address, reboots.
fn three_years() -> Vec<(u64, Event)> {
    let day = |day: u64| day * DAY;
    vec![
        (day(20), Boot(5 * MINUTE)),
        (day(40) + 7 * HOUR, Away),
        (day(40) + 12 * HOUR, Back),
        (day(100), Away),
        (day(103), Back),
        (day(150), Boot(3 * DAY)),
        (day(300), SecondRoot),
        (day(330), Rotate),
        (day(420), DropFirstRoot),
        (day(500), Address("10.0.0.12")),
        (day(520), Boot(45 * DAY)),
        (day(600), Away),
        (day(601), Boot(MINUTE)),
        (day(602), Back),
        (day(700), Away),
        (day(709), Back),
        (day(800), Boot(MINUTE)),
        (day(1_000), Boot(10 * DAY)),
    ]
}

/// The same for a lifetime that is over in an hour, with the host on for a day after each event only.
fn a_day_now_and_then() -> Vec<(u64, Event)> {
    let events = three_years();
    let ends = events.iter().map(|(at, event)| if let Boot(after) = event { at + after } else { *at });
    let from = std::iter::once(0).chain(ends).map(|end| end + DAY);
    let until = events.iter().map(|(at, _)| *at).chain([YEARS]).map(|next| next - HOUR);
    let pauses = from.zip(until).filter(|(from, until)| from + DAY < *until);
    let mut all: Vec<_> = pauses.map(|(from, until)| (from, Boot(until - from))).collect();
    all.extend(events);
    all.sort_by_key(|(at, _)| *at);
    all
}

#[rstest]
#[case::of_an_hour_with_its_drop_in(HOUR, "5m", 5 * MINUTE, a_day_now_and_then(), false, 30)]
#[case::of_an_hour_in_turn(HOUR, "5m", 5 * MINUTE, a_day_now_and_then(), true, 30)]
#[case::of_a_day(DAY, "1h", HOUR, three_years(), false, 30)]
#[case::of_a_day_in_turn(DAY, "1h", HOUR, three_years(), true, 30)]
#[case::of_23_hours_in_turn_dated_back_by_one(23 * HOUR, "1h", HOUR, three_years(), true, HOUR)]
#[case::of_thirty_days(30 * DAY, "1h", HOUR, three_years(), false, 30)]
#[case::of_thirty_days_in_turn(30 * DAY, "1h", HOUR, three_years(), true, 30)]
#[case::of_a_year(365 * DAY, "1h", HOUR, three_years(), false, 30)]
#[case::of_a_year_in_turn(365 * DAY, "1h", HOUR, three_years(), true, 30)]
fn certificates_live_on_the_timer_alone(
    #[case] lifetime: u64,
    #[case] interval: &str,
    #[case] tick: u64,
    #[case] events: Vec<(u64, Event)>,
    #[case] in_turn: bool,
    #[case] backdated: u64,
) {
    let mut life = Life::new([lifetime, backdated], interval, tick, in_turn);
    let least = [life.used_for, REFRESH].map(|lasts| life.least(&events, lasts));
    let mut events = events.into_iter().peekable();
    while life.now < YEARS {
        while let Some((_, event)) = events.next_if(|(at, _)| *at <= life.now) {
            life.meet(event);
        }
        let report = life.run(false);
        let next = life.next(&report).min(events.peek().map_or(YEARS, |(at, _)| life.rounded(*at)));
        life.must_last_until(&report, next);
        life.must_be_idle_before(next);
        life.now = next;
    }
    // It comes to its turn at the first, and goes back to it whenever it left it.
    life.must_have_asked_little(least, if in_turn { 1 + life.left_turn } else { 0 });
    assert_eq!(life.site.anchors(), 2, "the first root is trusted until its end");
}

struct Life {
    fake: Fake,
    site: Site,
    base: SystemTime,
    tick: u64,
    /// Seconds since the beginning.
    now: u64,
    away_since: Option<u64>,
    /// How long a certificate is used before it is due.
    used_for: u64,
    signed: u64,
    /// When it is due, and how often it got a certificate at another time: its CA was away then or itself, or it has
    /// another address.
    due: u64,
    left_turn: u64,
    /// How often the anchors were read, and when they were last.
    anchors: u64,
    read: u64,
    runs: u64,
}

impl Life {
    fn new([lifetime, backdated]: [u64; 2], interval: &str, tick: u64, in_turn: bool) -> Self {
        let fake = Fake::lasting();
        fake.date_back(backdated);
        let mut site = Site::detecting(&fake);
        site.reconfigure("[node]", &format!("[node]\ninterval = \"{interval}\""));
        site.reconfigure(
            "ttl = \"6d\"\nspread = false",
            &format!("ttl = \"{lifetime}s\"\nspread = {in_turn}"),
        );
        site.reconfigure(
            "anchors.published = true",
            &format!("anchors.published = true\nrefresh = \"{REFRESH}s\""),
        );
        let base = site.stand_still(&fake);
        let mut life = Self {
            fake,
            site,
            base,
            tick,
            now: 0,
            away_since: None,
            // Two thirds of the time since it is valid, and that is before it is there.
            used_for: 2 * (lifetime + backdated) / 3 - backdated,
            signed: 0,
            due: 0,
            left_turn: 0,
            anchors: 0,
            read: 0,
            runs: 0,
        };
        let report = life.run(false);
        let due = life.second(report.certificates[0].renew_after.unwrap());
        let early = if in_turn { life.used_for } else { 1 };
        assert!(due <= life.used_for && due + early >= life.used_for, "{due}");
        life.now = tick;
        life
    }

    /// As the timer does it, or a boot.
    fn run(&mut self, missing: bool) -> Report {
        self.site.later(&self.fake, self.now);
        // While the CA is away no wait fits: the next run of the timer is the next try.
        let deadline =
            if self.away_since.is_some() { Duration::from_millis(50) } else { Duration::from_secs(20) };
        let report = self.site.ask(&Ask { missing, deadline, ..Ask::default() });
        if self.away_since.is_none() {
            assert_eq!(report.exit(), Exit::Done, "at {}: {}", self.now, report.done());
            assert!(report.certificates[0].usable, "at {}: {}", self.now, report.done());
            let asked = self.fake.asked();
            let signed = asked.iter().filter(|asked| asked.contains("/sign/")).count() as u64;
            self.left_turn += u64::from(signed > 0 && self.now >= self.due + 2 * self.tick);
            self.signed += signed;
            self.due = self.second(report.certificates[0].renew_after.unwrap());
            let read = asked.iter().filter(|asked| asked.ends_with("/ca_chain")).count() as u64;
            self.anchors += read;
            self.read = if read > 0 { self.now } else { self.read };
        }
        self.fake.forget();
        self.runs += 1;
        report
    }

    fn meet(&mut self, event: Event) {
        match event {
            Away => {
                self.fake.misbehave("/v1/", Fault::Status(503, None, "sealed"), usize::MAX);
                self.away_since = Some(self.now);
            }
            Back => {
                self.fake.behave();
                self.away_since = None;
            }
            SecondRoot => self.fake.add_root(),
            Rotate => self.fake.rotate(),
            DropFirstRoot => self.fake.drop_first_root(),
            Address(address) => {
                self.site.has_addresses(address);
                self.left_turn += 1;
            }
            Boot(after) => {
                self.now = self.rounded(self.now + after);
                self.run(true);
            }
        }
    }

    /// The run of the timer at which something is due next.
    fn next(&self, report: &Report) -> u64 {
        let line = &report.certificates[0];
        let waits = line.reason.contains("waits until");
        let due = line.renew_after.map_or(0, |due| self.second(due));
        let next = if waits { 0 } else { due.min(self.read + REFRESH) };
        self.rounded(next).max(self.now + self.tick)
    }

    fn second(&self, time: SystemTime) -> u64 {
        time.duration_since(self.base).map_or(0, |since| since.as_secs())
    }

    /// The first run of the timer that is not before.
    fn rounded(&self, second: u64) -> u64 {
        second.div_ceil(self.tick) * self.tick
    }

    /// Until the next run what is held stays good, unless the CA has been away since before it was due.
    fn must_last_until(&self, report: &Report, next: u64) {
        let line = &report.certificates[0];
        let (end, due) = (line.leaf.as_ref().unwrap().not_after, self.second(line.renew_after.unwrap()));
        let excused = self.away_since.is_some_and(|since| since <= self.rounded(due));
        assert!(self.second(end) > next || excused, "at {}: ends at {}", self.now, self.second(end));
    }

    /// The run before that has nothing to do, and so have those that were left out.
    fn must_be_idle_before(&self, next: u64) {
        if next > self.now + self.tick && self.runs.is_multiple_of(8) && self.away_since.is_none() {
            self.site.later(&self.fake, next - self.tick);
            let report = self.site.look();
            // What was replaced is tidied away by the run after, which asks no one.
            let tidy = matches!(report.certificates[0].action, Action::Keep | Action::Repair);
            assert!(tidy && report.is_usable(), "at {}: {}", next - self.tick, report.plan());
        }
    }

    /// The least that a host on its timer can ask for what lasts so long: it, then it again at the first run at which it
    /// is due and the CA is there, and a certificate for another address as soon as that has settled.
    fn least(&self, events: &[(u64, Event)], lasts: u64) -> u64 {
        let (mut times, mut due, mut away, mut now) = (1, self.rounded(lasts), false, 0);
        for (at, event) in events.iter().copied().chain([(YEARS, Back)]) {
            let at = self.rounded(at).max(now);
            while !away && due < at {
                (times, due) = (times + 1, self.rounded(due + lasts));
            }
            now = at;
            match event {
                Away => away = true,
                Back => away = false,
                Boot(after) => now = self.rounded(at + after),
                Address(_) if lasts == self.used_for => {
                    (times, due) = (times + 1, self.rounded(self.rounded(at + SETTLE) + lasts));
                }
                _ => {}
            }
            if !away && due < now {
                (times, due) = (times + 1, self.rounded(now + lasts));
            }
        }
        times
    }

    /// No more than five in a hundred above that.
    fn must_have_asked_little(&self, [certificates, anchors]: [u64; 2], turns: u64) {
        println!(
            "{} runs, {} signatures of at least {certificates} and {turns}, {} looks at the anchors of at least {anchors}",
            self.runs, self.signed, self.anchors
        );
        let within =
            |asked: u64, least: u64, turns: u64| (least..=least + least / 20 + turns).contains(&asked);
        assert!(within(self.signed, certificates, turns) && within(self.anchors, anchors, 0));
    }
}
