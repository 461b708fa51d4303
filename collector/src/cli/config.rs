//! `config check`: says what `run` would refuse, without running.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use holdfast_collector::config::Config as Configuration;
use holdfast_daemon::config::{EXIT_REFUSED, load};

use super::{refuse, say};

/// Look at a configuration file.
#[derive(Debug, Args)]
pub(super) struct Config {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Parse the file; what it names is not opened. Exit code 78 when it is refused.
    Check {
        /// The file.
        file: PathBuf,
    },
}

impl Config {
    pub(super) fn execute(self) -> ExitCode {
        let Action::Check { file } = self.action;
        if let Err(error) = load::<Configuration>(&file) {
            return refuse(&error, ExitCode::from(EXIT_REFUSED));
        }
        say(&format!("{}: good", file.display()));
        ExitCode::SUCCESS
    }
}
