//! Readers while a set is renewed again and again: through one directory descriptor no one ever meets a mixed
//! set; by two paths one can, and how often is measured.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod trial;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nodecert::run::Ask;
use trial::{Kept, LOCAL, PLAIN_SET, Set, Site, WEB_SET};

/// `NODECERT_TEST_FULL`: as many as were promised once.
const RENEWALS: (usize, usize) = (300, 10_000);

/// What one kind of reader met.
#[derive(Default)]
struct Met {
    reads: AtomicUsize,
    mixed: AtomicUsize,
    /// Mixed once more when it tried again at once, as a consumer does at its next handshake.
    again: AtomicUsize,
    gone: AtomicUsize,
}

impl Met {
    fn read(&self, find: impl Fn() -> Option<Set>) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        match find() {
            None => drop(self.gone.fetch_add(1, Ordering::Relaxed)),
            Some(set) if !set.matches() => {
                self.mixed.fetch_add(1, Ordering::Relaxed);
                if find().is_none_or(|set| !set.matches()) {
                    self.again.fetch_add(1, Ordering::Relaxed);
                }
            }
            Some(_) => {}
        }
    }

    fn counts(&self) -> [usize; 4] {
        [&self.reads, &self.mixed, &self.again, &self.gone].map(|count| count.load(Ordering::Relaxed))
    }

    fn say(&self, who: &str) {
        let [reads, mixed, again, gone] = self.counts();
        println!("{who}: {reads} reads, {mixed} mixed, {again} mixed again at once, {gone} not there");
    }
}

/// Opens the certificate, then the key, each by its path.
fn by_two_paths(root: &Path, kept: &Kept) -> Option<Set> {
    let read = |name: &str| std::fs::read_to_string(root.join(kept.directory).join(name)).ok();
    Some(Set { cert: read(kept.cert)?, key: read(kept.key)? })
}

#[test]
#[ignore = "takes its time: run tests/all"]
fn a_reader_by_one_descriptor_never_meets_a_mixed_set() {
    let renewals = if std::env::var_os("NODECERT_TEST_FULL").is_some() { RENEWALS.1 } else { RENEWALS.0 };
    let site = Site::with(LOCAL);
    assert_eq!(site.run(&Ask::default(), Duration::ZERO).exit().code(), 0);
    let force = Ask { force: true, ..Ask::default() };
    let (stop, began) = (AtomicBool::new(false), Instant::now());
    let (held, paths, plain) = (Met::default(), Met::default(), Met::default());
    std::thread::scope(|scope| {
        let (root, stop) = (site.root(), &stop);
        let read = |met: &Met, find: &dyn Fn() -> Option<Set>| {
            while !stop.load(Ordering::Relaxed) {
                met.read(find);
                // Or the readers would leave the writer no time.
                std::thread::sleep(Duration::from_micros(100));
            }
        };
        let (held, paths, plain) = (&held, &paths, &plain);
        scope.spawn(move || read(held, &|| WEB_SET.find(root).expect("both or none")));
        scope.spawn(move || read(paths, &|| by_two_paths(root, &WEB_SET)));
        scope.spawn(move || read(plain, &|| by_two_paths(root, &PLAIN_SET)));
        for _ in 0..renewals {
            let report = site.run(&force, Duration::ZERO);
            if report.exit().code() != 0 {
                stop.store(true, Ordering::Relaxed);
                panic!("{}", report.done());
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{renewals} renewals of two certificates in {} s", began.elapsed().as_secs());
    held.say("by one descriptor, links");
    paths.say("by two paths, links");
    plain.say("by two paths, files");
    let [reads, mixed, _, gone] = held.counts();
    assert!(reads > renewals && mixed == 0 && gone == 0, "{reads} {mixed} {gone}");
    assert_eq!([paths.counts()[3], plain.counts()[3]], [0, 0], "never a moment without");
}
