//! The command line: arguments → library calls → exit codes. One file a command.

mod check;
mod debug;
mod diff;
mod interrupt;
mod looks;
mod policy;
mod report;
mod selection;
mod serve;
mod skeleton;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use holdfast_core::finding::Severity;
use holdfast_daemon::address::HostPort;

use crate::config;

/// Is what runs here, byte for byte, what was signed?
#[derive(Debug, Parser)]
#[command(name = "holdfast-agent", version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check every running container once, and say what was found.
    #[command(after_help = CHECK_EXIT_CODES)]
    Check(Check),
    /// Show every path that a container changed, compared with its image.
    #[command(after_help = DIFF_EXIT_CODES)]
    Diff(Diff),
    /// Watch this node until stopped.
    Run(Run),
    /// Drift policies: what one would change on this node, ready-made exceptions.
    Policy {
        #[command(subcommand)]
        command: policy::Policy,
    },
    /// Make the skeletons of layers, by which nodes without layer blobs prove their file tables.
    Skeleton(skeleton::Arguments),
    /// Look at the configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Internals, for benchmarks and reports of defects.
    #[command(hide = true)]
    Debug {
        #[command(subcommand)]
        command: debug::Debug,
    },
}

const CHECK_EXIT_CODES: &str = "\
Exit codes:
  0   every container was checked, nothing at or above --fail-on
  1   findings at or above --fail-on
  2   wrong arguments, or no container that they mean
  3   some check could not be done
  4   containerd was not reachable
  5   not permitted (run as root)
  78  the policy was refused
  130 interrupted (143: terminated); the temporary folder is gone";

const DIFF_EXIT_CODES: &str = "\
Exit codes: 0 everything is listed; 2 no container, or several, begin so; 3 something could not be
compared or listed; 4, 5, 130, 143 as for check";

/// Which containers, and on what terms.
#[derive(Debug, Args)]
struct Scope {
    /// containerd's socket; may be given several times [default: the usual ones that exist]
    #[arg(long = "containerd", value_name = "SOCKET")]
    sockets: Vec<PathBuf>,
    /// Only containers of this containerd namespace
    #[arg(long, value_name = "NS")]
    namespace: Option<String>,
    /// A folder of the agent's own for tables [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The running agent's state, whose tables are used when they are there
    #[arg(long, value_name = "DIR", default_value = config::DEFAULT_STATE)]
    agent_state: PathBuf,
    /// A folder with skeletons of layers whose blobs are not on this node
    #[arg(long, value_name = "DIR")]
    skeletons: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Check {
    #[command(flatten)]
    scope: Scope,
    /// Only this container: its id, or the beginning of it
    #[arg(long, value_name = "ID")]
    container: Option<String>,
    /// A policy file, or a folder of them; may be given several times
    #[arg(long = "policy", value_name = "PATH")]
    policies: Vec<PathBuf>,
    /// An OCI layout folder with signatures; may be given several times
    #[arg(long = "layout", value_name = "DIR")]
    layouts: Vec<PathBuf>,
    /// A registry that is asked over plain HTTP; may be given several times
    #[arg(long = "insecure-registry", value_name = "HOST:PORT")]
    insecure_registries: Vec<HostPort>,
    /// Read the files of layers around the page cache: what the disk holds, instead of what runs
    #[arg(long)]
    direct: bool,
    /// Exit with 1 from this severity on
    #[arg(long, value_name = "SEVERITY", default_value = "warning")]
    fail_on: Severity,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// One object: containers, findings, summary
    Json,
    /// One finding a line
    Jsonl,
}

#[derive(Debug, Args)]
struct Diff {
    #[command(flatten)]
    scope: Scope,
    /// The container's id, or the beginning of it
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// A policy file, or a folder of them, whose drift policies are told; may be given several times
    #[arg(long = "policy", value_name = "PATH")]
    policies: Vec<PathBuf>,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

#[derive(Debug, Args)]
struct Run {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Read a configuration file and its policies, and say what is wrong with them
    Check {
        /// The file
        #[arg(value_name = "FILE", default_value = config::DEFAULT_PATH)]
        file: PathBuf,
    },
}

/// How a command ends; the numbers are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Clean = 0,
    Findings = 1,
    Usage = 2,
    Incomplete = 3,
    Runtime = 4,
    Permission = 5,
    Failure = 70,
    Refused = 78,
    Interrupted = 130,
    Terminated = 143,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        let code: u8 = match exit {
            Exit::Clean => 0,
            Exit::Findings => 1,
            Exit::Usage => 2,
            Exit::Incomplete => 3,
            Exit::Runtime => 4,
            Exit::Permission => 5,
            Exit::Failure => 70,
            Exit::Refused => 78,
            Exit::Interrupted => 130,
            Exit::Terminated => 143,
        };
        Self::from(code)
    }
}

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let exit = match arguments.command {
        Command::Check(check) => check::run(&check),
        Command::Diff(diff) => diff::run(&diff),
        Command::Run(run) => serve::run(&run.config),
        Command::Policy { command } => policy::run(&command),
        Command::Skeleton(arguments) => skeleton::run(&arguments),
        Command::Config {
            command: ConfigCommand::Check { file },
        } => serve::check_config(&file),
        Command::Debug { command } => debug::run(&command),
    };
    exit.into()
}

/// Tells a person why a command could not do its work.
#[expect(
    clippy::print_stderr,
    reason = "the terminal is this command's interface"
)]
fn complain(error: &dyn std::error::Error) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    eprintln!("holdfast-agent: {text}");
}
