//! Arguments, logging, runtime, the world, exit code and sd_notify; nothing else.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::{CommandFactory, Parser};
use nodecert::ca;
use nodecert::cli::{Cli, Command, Format, Global};
use nodecert::clock::Clock;
use nodecert::facts::{self, Host};
use nodecert::man;
use nodecert::report::{Action, Exit, Report};
use nodecert::root::Root;
use nodecert::run::{self, Ask, Error, World};
use nodecert::sandbox::Sandbox;
use nodecert::setting::{REPEATED, RETOLD, chain};
use nodecert::stop::Stop;
use tracing::{Level, error, info};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::fmt::writer::MakeWriterExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// sd_notify(3): a start asks for this much more than its deadline, for the lock and the hooks.
const MARGIN: Duration = Duration::from_secs(300);

/// `plan --exit-code` says with it that there is something to do.
const SOMETHING_TO_DO: u8 = 3;

/// What `plan --idle` leaves in its file.
const NOTHING_TO_DO: &[u8] = b"nothing to do\n";

/// The Nagios plugin convention for what cannot be told.
const UNKNOWN: u8 = 3;

fn main() -> ExitCode {
    seal();
    let cli = Cli::parse();
    let live = cli.global.root.as_os_str() == "/";
    start_logging(&cli.global, live);
    match answer(&cli, live) {
        Ok(code) => ExitCode::from(code),
        Err(failed) => {
            held_back();
            tell(&cli, &failed);
            ExitCode::from(if is_plugin(&cli) { UNKNOWN } else { failed.exit().code() })
        }
    }
}

/// No core file and no debugger of the same user shall see a key: core(5), prctl(2) PR_SET_DUMPABLE. And no
/// strange umask decides what others find.
fn seal() {
    // Where a sandbox forbids it, the unit's LimitCORE=0 stands.
    let _ = nix::sys::prctl::set_dumpable(false);
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
    // systemd's own default, whoever starts us: what a crash leaves between mkdir(2) and fchmod(2) can be entered.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
}

fn answer(cli: &Cli, live: bool) -> Result<u8, Error> {
    match &cli.command {
        Command::Run { only, missing, force, deadline } => {
            let ask = Ask {
                only: only.clone(),
                missing: *missing,
                force: *force,
                deadline: *deadline,
                stop: stop(),
            };
            bring(cli, &ask, live)
        }
        Command::Plan { only, exit_code, idle: told, read_write_paths } => {
            // First: whatever ends us before we know, no one is to take it for nothing to do.
            told.iter().try_for_each(|path| run::withdraw(path))?;
            let world = world(cli)?;
            let survey = run::survey(&world, false)?;
            if *read_write_paths {
                let sandbox = Sandbox::of(&survey.node);
                print(cli, &sandbox.text(), || sandbox.json());
                return Ok(0);
            }
            let report = run::plan(&survey, &world, only)?;
            print(cli, &report.plan(), || report.json(&survey.facts, true));
            let idle = report.is_idle();
            if let Some(path) = told.as_ref().filter(|_| idle) {
                run::publish(path, NOTHING_TO_DO)?;
            }
            Ok(if *exit_code { if idle { 0 } else { SOMETHING_TO_DO } } else { report.exit().code() })
        }
        Command::Status { names, check, usable, textfile } => {
            let world = world(cli)?;
            let survey = run::survey(&world, false)?;
            let mut report = run::status(&survey, &world, names)?;
            report.last_run = run::last_run(&world);
            if let Some(path) = textfile {
                run::publish(path, report.metrics(world.clock.now()).as_bytes())?;
            }
            Ok(status(cli, &report, &survey.facts, *check, *usable, world.clock.now()))
        }
        Command::Revoke { names, deadline } => {
            let done = wait_for(run::revoke(&world(cli)?, names, *deadline, &stop()))??;
            print(cli, &done.text(), || done.json());
            Ok(done.exit().code())
        }
        Command::Decommission { host, revoke, deadline } => {
            let done = wait_for(run::decommission(&world(cli)?, host, *revoke, *deadline, &stop()))??;
            print(cli, &done.text(), || done.json());
            Ok(done.exit().code())
        }
        Command::Facts => {
            let facts = run::detect(&world(cli)?)?;
            print(cli, &facts::describe(&facts), || serde_json::to_value(&facts).unwrap_or_default());
            Ok(0)
        }
        Command::Trust { url } => trust(cli, url),
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "nodecert", &mut std::io::stdout());
            Ok(0)
        }
        Command::Man { page, directory } => manual(page, directory.as_deref()),
    }
}

fn world(cli: &Cli) -> Result<World, Error> {
    // Only run makes anything, and so the root too.
    let root = match cli.command {
        Command::Run { .. } => Root::make(&cli.global.root),
        _ => Root::open(&cli.global.root),
    };
    let root = root.map_err(|error| Error::Disk(error.into()))?;
    Ok(World {
        host: Host::live().map_err(Error::Facts)?,
        clock: Clock::system(),
        tells: root.is_live(),
        config: cli.global.config.clone(),
        root: Arc::new(root),
    })
}

fn bring(cli: &Cli, ask: &Ask, live: bool) -> Result<u8, Error> {
    let world = world(cli)?;
    if live {
        notify(&[sd_notify::NotifyState::ExtendTimeoutUsec(micros(ask.deadline + MARGIN))]);
    }
    let (report, facts) = wait_for(run::run(&world, ask))??;
    if is_journal_alone() && cli.global.format == Format::Text {
        report.notes.iter().for_each(|note| info!("{note}"));
        report.last_word().map_or_else(|failed| aloud(&failed), |done| info!("{done}"));
    } else {
        print(cli, &report.done(), || report.json(&facts, true));
    }
    Ok(report.exit().code())
}

/// Where a sandbox forbids it, a signal ends the process as a crash does, and the next run mends.
fn stop() -> Stop {
    Stop::by_signals().unwrap_or_default()
}

/// One thread is enough: the program waits for one server, or for the disk.
fn wait_for<T>(work: impl Future<Output = T>) -> Result<T, Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Kernel)?;
    let done = runtime.block_on(work);
    // A name that is still being looked up must not hold the end up: getaddrinfo(3) cannot be stopped.
    runtime.shutdown_background();
    Ok(done)
}

/// Nagios plugin codes with `--check`; 0 or 1 with `--usable`.
fn status(
    cli: &Cli,
    report: &Report,
    facts: &facts::Facts,
    check: bool,
    usable: bool,
    now: std::time::SystemTime,
) -> u8 {
    if usable {
        for line in report.certificates.iter().filter(|line| !line.usable) {
            error!(certificate = %line.name, reason = line.reason, "{} is {}: {}", line.name, line.state, line.reason);
        }
        for line in
            report.files.iter().filter(|line| line.action == Action::Obtain || line.action == Action::Blocked)
        {
            error!(path = %line.path.display(), "{}: {}", line.path.display(), line.reason);
        }
        return u8::from(!report.is_usable());
    }
    if check {
        let (code, said) = report.check(now);
        print(cli, &said, || report.json(facts, false));
        return code;
    }
    print(cli, &report.status(now), || report.json(facts, false));
    0
}

fn manual(page: &str, directory: Option<&Path>) -> Result<u8, Error> {
    let pages = match man::pages(Cli::command()) {
        Ok(pages) => pages,
        Err(failed) => {
            error!("cannot make the man pages: {}", chain(&failed));
            return Ok(Exit::Fault.code());
        }
    };
    if let Some(directory) = directory {
        for page in &pages {
            run::publish(&directory.join(format!("{}.{}", page.name, page.section)), &page.text)?;
        }
        return Ok(0);
    }
    match pages.iter().find(|known| known.name == page) {
        Some(page) => {
            // A reader that went away, as `| head` does, is no fault.
            let _ = std::io::stdout().lock().write_all(&page.text);
            Ok(0)
        }
        None => {
            let there: Vec<_> = pages.iter().map(|page| page.name.as_str()).collect();
            error!("there is no page {page}: there are {}", there.join(", "));
            Ok(Exit::Usage.code())
        }
    }
}

fn trust(cli: &Cli, url: &str) -> Result<u8, Error> {
    match wait_for(ca::glance::presented(url))? {
        Ok(presented) => {
            print(cli, &presented.lines(), || presented.json());
            Ok(0)
        }
        Err(failed) => {
            error!("{}", chain(&failed));
            Ok(if failed.is_temporary() { Exit::Temporary.code() } else { Exit::Usage.code() })
        }
    }
}

fn print(cli: &Cli, text: &str, json: impl FnOnce() -> serde_json::Value) {
    let mut out = std::io::stdout().lock();
    // A reader that went away, as `| head` does, is no fault of the run.
    let _ = match cli.global.format {
        Format::Text => write!(out, "{text}"),
        Format::Json => writeln!(out, "{:#}", json()),
    };
}

fn tell(cli: &Cli, failed: &Error) {
    let said = chain(failed);
    if is_plugin(cli) {
        return print(cli, &format!("NODECERT UNKNOWN - {}\n", said.replace('\n', "; ")), || {
            json_of(failed, &said)
        });
    }
    let loud = matches!(cli.command, Command::Run { .. }) && is_journal_alone();
    said.lines().for_each(|line| if loud { aloud(line) } else { error!("{line}") });
    if cli.global.format == Format::Json {
        print(cli, "", || json_of(failed, &said));
    }
}

fn json_of(failed: &Error, said: &str) -> serde_json::Value {
    serde_json::json!({ "error": said, "exit": failed.exit().code() })
}

/// Whether the answer is for Nagios, which knows four exit codes and reads one line.
fn is_plugin(cli: &Cli) -> bool {
    matches!(cli.command, Command::Status { check: true, .. })
}

/// To journald with priorities and fields; to a terminal for a person; else with time stamps.
fn start_logging(global: &Global, live: bool) {
    let level = [Level::INFO, Level::DEBUG, Level::TRACE][usize::from(global.verbose.min(2))];
    let journal = under_journald().then(tracing_journald::layer).and_then(Result::ok);
    let reported = journal.is_none() && is_report_read(global);
    let repeated = if reported { LevelFilter::OFF } else { level.into() };
    let ours = Targets::new().with_target("nodecert", level).with_target(REPEATED, repeated);
    let registry = tracing_subscriber::registry().with(live.then_some(Progress)).with(ours);
    let journal = journal.map(|layer| layer.with_field_prefix(Some("NODECERT".to_owned())));
    let terminal = std::io::stderr().is_terminal();
    // Names stand in the messages; the fields are for the journal.
    let message = debug_fn(|writer, field, value| match field.name() {
        "message" => write!(writer, "{value:?}"),
        _ => Ok(()),
    });
    let at_once = std::io::stderr.with_filter(move |record| !reported || record.target() != RETOLD);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(at_once.or_else(|| Held))
        .with_target(false)
        .fmt_fields(message);
    match journal {
        Some(journal) => registry.with(journal).init(),
        None if terminal => {
            registry.with(lines.without_time().with_ansi(std::env::var_os("NO_COLOR").is_none())).init();
        }
        None => registry.with(lines.with_ansi(false)).init(),
    }
}

/// What the report will say, in case there comes none: [`RETOLD`].
static HELD: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Held;

impl Write for Held {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        HELD.lock().map_err(|_| std::io::ErrorKind::Other)?.write(line)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// There is no report to say it.
fn held_back() {
    if let Ok(held) = HELD.lock() {
        let _ = std::io::stderr().write_all(&held);
    }
}

/// Whether what is said at the end is for a person, and is not thrown away as in a crontab.
fn is_report_read(global: &Global) -> bool {
    use nix::sys::stat::{fstat, makedev};
    // null(4)
    let is_null = || fstat(std::io::stdout()).is_ok_and(|stat| stat.st_rdev == makedev(1, 3));
    global.verbose == 0 && global.format == Format::Text && !is_null()
}

/// Whether no one but the journal hears us, so that each thing is to be said once.
fn is_journal_alone() -> bool {
    use nix::sys::stat::{SFlag, fstat};
    // The stream of its own that stdout may have is not named anywhere, but it is a socket too.
    let is_stream = fstat(std::io::stdout())
        .is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFSOCK);
    is_stream && under_journald()
}

/// By the stream and not journald's own protocol: StandardError=journal+console then shows it on the console too.
fn aloud(line: &str) {
    // sd-daemon(3): the priority is an error's.
    let _ = writeln!(std::io::stderr(), "<3>{}", line.replace('\n', " "));
}

/// systemd.exec(5) `$JOURNAL_STREAM`: device and inode of the stream that goes to the journal.
fn under_journald() -> bool {
    let Some((device, inode)) = std::env::var("JOURNAL_STREAM").ok().and_then(|s| {
        let (device, inode) = s.split_once(':')?;
        Some((device.parse::<u64>().ok()?, inode.parse::<u64>().ok()?))
    }) else {
        return false;
    };
    nix::sys::stat::fstat(std::io::stderr()).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (device, inode))
}

/// What is logged is also what `systemctl status` shows while the unit starts.
struct Progress;

impl<S: tracing::Subscriber> Layer<S> for Progress {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        struct Message(String);
        impl tracing::field::Visit for Message {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        // A newline would begin another assignment, sd_notify(3).
        notify(&[sd_notify::NotifyState::Status(&message.0.replace('\n', " "))]);
    }
}

fn notify(state: &[sd_notify::NotifyState<'_>]) {
    // Without systemd there is no one to tell; a lost status line is no fault.
    let _ = sd_notify::notify(state);
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}
