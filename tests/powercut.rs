//! A power cut: what was not yet on disk is gone. The image of a file system that commits by fsync(2) alone is
//! copied at once after the program was killed, and the copy is the disk that the host comes back with.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod trial;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nodecert::run::Ask;
use tempfile::TempDir;
use trial::{LOCAL, PLAIN_SET, Site, Standing, WEB_SET, drafts, exposed, furnish, run_below, undisturbed};

/// `NODECERT_TEST_FULL`: as many as were promised once.
const CUTS: (usize, usize) = (40, 200);
/// So often the disk is a new one, and the run a first issue.
const NEW_DISK: usize = 5;

/// A disk whose journal is written at an fsync(2) and not before; each cut makes it what was written by then.
struct Disk {
    scratch: TempDir,
    mounted: bool,
}

impl Disk {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let scratch = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap();
        fs::create_dir(scratch.path().join("disk")).unwrap();
        let mut disk = Self { scratch, mounted: false };
        let image = fs::File::create(disk.image()).unwrap();
        image.set_len(24 << 20).unwrap();
        must(Command::new("mkfs.ext4").args(["-q", "-F", "-N", "4096", "-J", "size=4"]).arg(disk.image()));
        disk.mount();
        fs::create_dir(disk.root()).unwrap();
        furnish(&disk.root());
        fs::write(disk.root().join("etc/nodecert/config.toml"), LOCAL).unwrap();
        // What was there before is on disk.
        must(Command::new("sync").arg("--file-system").arg(disk.root()));
        disk
    }

    fn image(&self) -> PathBuf {
        self.scratch.path().join("image")
    }

    fn root(&self) -> PathBuf {
        self.scratch.path().join("disk/root")
    }

    fn mount(&mut self) {
        let options = ["-o", "loop,commit=300"];
        must(Command::new("mount").args(options).arg(self.image()).arg(self.scratch.path().join("disk")));
        self.mounted = true;
    }

    fn unmount(&mut self) {
        must(Command::new("umount").arg(self.scratch.path().join("disk")));
        self.mounted = false;
    }

    /// The power goes, and comes back.
    fn cut(&mut self) {
        let (image, left) = (self.image(), self.scratch.path().join("left"));
        must(Command::new("cp").arg("--sparse=always").arg(&image).arg(&left));
        // Writes the rest, to an image that no one will see again.
        self.unmount();
        fs::rename(left, image).unwrap();
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount").arg("--lazy").arg(self.scratch.path().join("disk")).status();
        }
    }
}

fn must(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A run that has so much time; whether it came to its end.
fn run_for(root: &Path, time: Duration) -> bool {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodecert"));
    command.arg("--root").arg(root).args(["run", "--force"]).stdout(Stdio::null()).stderr(Stdio::null());
    undisturbed(&mut command);
    let mut run = command.spawn().unwrap();
    std::thread::sleep(time);
    let ended = run.try_wait().unwrap().is_some();
    let _ = run.kill();
    run.wait().unwrap();
    ended
}

/// Different each time and the same in each test: xorshift.
fn part_of(longest: Duration, state: &mut u64) -> Duration {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    longest.mul_f64((*state >> 11) as f64 / (1_u64 << 53) as f64)
}

/// How long a whole run takes here.
fn length_of_a_run() -> Duration {
    let site = Site::with(LOCAL);
    let began = Instant::now();
    must(&mut site.nodecert(&["run"]));
    began.elapsed()
}

#[test]
#[ignore = "mounts file systems: run tests/all"]
fn after_a_power_cut_readers_find_a_whole_set_and_the_next_run_goes_on() {
    let full = std::env::var_os("NODECERT_TEST_FULL").is_some();
    let cuts = if full { CUTS.1 } else { CUTS.0 };
    // With room for the disk, and for a machine that is busy.
    let longest = length_of_a_run() * 3 / 2;
    let (mut disk, mut random) = (Disk::new(), 0x1234_5678_9abc_def1);
    let (mut old, mut new, mut none, mut windows, mut ended) = (0, 0, 0, 0, 0);
    for cut in 0..cuts {
        if cut % NEW_DISK == 0 {
            disk = Disk::new();
        }
        let sets = [WEB_SET, PLAIN_SET];
        let before = sets.map(|kept| kept.find(&disk.root()).unwrap());
        let done = run_for(&disk.root(), part_of(longest, &mut random));
        ended += usize::from(done);
        disk.cut();
        for (kept, before) in sets.iter().zip(&before) {
            let found =
                kept.standing(&disk.root(), before.as_ref()).unwrap_or_else(|e| panic!("cut {cut}: {e}"));
            assert!(
                !done || found == Standing::New,
                "cut {cut}: the run said that it was done, and there is {found:?}"
            );
            match found {
                Standing::None => none += 1,
                Standing::Old => old += 1,
                Standing::New => new += 1,
                Standing::Window => windows += 1,
            }
        }
        assert_eq!(exposed(&disk.root(), &[]), Vec::<String>::new(), "cut {cut}");
        let next = run_below(&disk.root(), &Ask::default(), Duration::ZERO);
        assert_eq!(next.exit().code(), 0, "cut {cut}: {}", next.done());
        assert_eq!(drafts(&disk.root()), Vec::<PathBuf>::new(), "cut {cut}");
        for kept in sets {
            let set = kept.find(&disk.root()).unwrap().expect("a set after the next run");
            assert!(set.matches() && set.is_trusted(&kept.trust(&disk.root()).unwrap()), "cut {cut}");
        }
    }
    println!(
        "{cuts} power cuts, {} of them in the middle of a run: sets found: {none} none, {old} old, {new} new, 0 mixed, {windows} in the window of plain files",
        cuts - ended
    );
    assert!(old > 0 && new > 0 && none > 0 && ended < cuts, "the cuts hit too little");
}
