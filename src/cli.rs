//! The command line, from which man pages and completions are made too.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::setting::{Name, parse_duration};

/// Takes a host, at boot, from nothing to verified certificates and working configuration.
#[derive(Debug, Parser)]
#[command(name = "nodecert", version, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 done, 77 refused by the CA or by our verification, 75 temporary: run again,\n70 a fault of the host, 78 configuration, 2 usage."
)]
pub struct Cli {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows its fields")]
    pub global: Global,
    #[command(subcommand)]
    #[allow(missing_docs, reason = "clap shows its variants")]
    pub command: Command,
}

/// What every command understands.
#[derive(Debug, Args)]
pub struct Global {
    /// Read this file alone, instead of /etc/nodecert/config.toml and its drop-ins
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The directory below which every path of the configuration lies
    #[arg(long, global = true, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// How to print the answer: text or json
    #[arg(long, global = true, value_enum, default_value_t = Format::Text, hide_possible_values = true)]
    pub format: Format,
    /// Log more; twice: everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "they say themselves")]
pub enum Format {
    Text,
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring this host to what the configuration asks for; safe to repeat at any moment
    Run {
        /// Only this certificate, or those of this component, and the files that need no certificate; may be
        /// repeated
        #[arg(long, value_name = "NAME", value_parser = Name::new)]
        only: Vec<Name>,
        /// Get only what is absent or unusable; leave what is merely due to the timer
        #[arg(long)]
        missing: bool,
        /// Get new certificates although the held ones are fine
        #[arg(long, conflicts_with = "missing")]
        force: bool,
        /// How long to try before giving up for now, such as 90s or 10m
        #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
        deadline: Duration,
    },
    /// Say what run would do and why; changes nothing, asks no CA
    Plan {
        /// Only this certificate, or those of this component, and the files that need no certificate; may be
        /// repeated
        #[arg(long, value_name = "NAME", value_parser = Name::new)]
        only: Vec<Name>,
        /// Exit with 3 if there is something to do, blocked or not, and else with 0. Without this: with what a run would be
        /// refused for
        #[arg(long)]
        exit_code: bool,
        /// Have FILE there only if there is nothing to do, for a condition of a unit
        #[arg(long, value_name = "FILE", conflicts_with = "only")]
        idle: Option<PathBuf>,
        /// Print the drop-in that nodecert's own units need to write where this configuration does
        #[arg(long, conflicts_with_all = ["only", "exit_code", "idle"])]
        read_write_paths: bool,
    },
    /// Say what is there, until when, and whether it is usable
    Status {
        /// A certificate or a component; all of them if none is named
        #[arg(value_name = "NAME", value_parser = Name::new)]
        names: Vec<Name>,
        /// Answer as a Nagios plugin: 0 fine, 1 due or owed, 2 not usable
        #[arg(long)]
        check: bool,
        /// For units: 0 if the consumer may start, 1 if not
        #[arg(long, conflicts_with = "check")]
        usable: bool,
        /// Also write Prometheus metrics to FILE, for node_exporter's textfile collector
        #[arg(long, value_name = "FILE")]
        textfile: Option<PathBuf>,
    },
    /// Have Vault revoke held certificates, and the next run get others with new keys; of Puppet and cfssl say the
    /// command for their operators
    Revoke {
        /// Certificates, or components for all of theirs
        #[arg(value_name = "NAME", value_parser = Name::new, required = true)]
        names: Vec<Name>,
        /// How long to try before giving up for now, such as 90s or 10m
        #[arg(long, value_name = "TIME", default_value = "1m", value_parser = parse_duration)]
        deadline: Duration,
    },
    /// Take this host out of service: erase its keys, secrets and state, but not what it made for others too, and
    /// let no run bring them back
    Decommission {
        /// This host's own name, so that it is meant
        #[arg(value_name = "HOSTNAME")]
        host: String,
        /// Have Vault revoke its certificates first; if it does not, nothing is erased. Of Puppet and cfssl the
        /// command for their operators is said
        #[arg(long)]
        revoke: bool,
        /// How long to try before giving up for now, such as 90s or 10m
        #[arg(long, value_name = "TIME", default_value = "1m", value_parser = parse_duration)]
        deadline: Duration,
    },
    /// Show what was detected of this host, from where, and what was left out and why
    Facts,
    /// Fetch a CA's certificates without trusting them and print the lines for the configuration
    Trust {
        /// HTTPS address of the server; with the path of a Vault mount, that mount's CA is shown too
        url: String,
    },
    /// Print the completions of a shell
    Completions {
        /// bash, zsh, fish, elvish or powershell
        #[arg(hide_possible_values = true)]
        shell: clap_complete::Shell,
    },
    /// Print a man page, or write all of them
    Man {
        /// nodecert, nodecert-run and so on, or nodecert.toml
        #[arg(value_name = "PAGE", default_value = "nodecert")]
        page: String,
        /// Write every page into this directory, as PAGE.SECTION
        #[arg(long, value_name = "DIR", conflicts_with = "page")]
        directory: Option<PathBuf>,
    },
}
