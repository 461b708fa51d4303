//! The command line. One file a command.

mod ca;
mod config;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Central collector of Holdfast: takes what agents report, keeps it, and tells people.
#[derive(Debug, Parser)]
#[command(name = "holdfast-collector", version, about)]
pub(crate) struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Run the collector.
    Run(run::Run),
    /// Make a small certificate authority, and certificates for nodes and collectors.
    Ca(ca::Ca),
    /// Look at a configuration file.
    Config(config::Config),
}

impl Command {
    /// Does what was asked.
    pub(crate) fn execute(self) -> ExitCode {
        match self.action {
            Action::Run(run) => run.execute(),
            Action::Ca(ca) => ca.execute(),
            Action::Config(config) => config.execute(),
        }
    }
}

/// Says on standard error why nothing was done.
#[expect(
    clippy::print_stderr,
    reason = "the one place where a command speaks of its failure"
)]
fn refuse(error: &dyn std::fmt::Display, code: ExitCode) -> ExitCode {
    eprintln!("holdfast-collector: {error}");
    code
}

/// Says on standard output what was done.
#[expect(
    clippy::print_stdout,
    reason = "the one place where a command speaks of its result"
)]
fn say(line: &str) {
    println!("{line}");
}
