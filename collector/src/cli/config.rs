//! `config check`: says what `run` would refuse, without running.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use holdfast_collector::config::Config as Configuration;
use holdfast_daemon::config::{EXIT_REFUSED, load};
use holdfast_daemon::tls::TlsFiles;

use super::{refuse, say};

/// Look at a configuration file.
#[derive(Debug, Args)]
pub(super) struct Config {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Parse the file and read the certificates that it names. Exit code 78 when something is refused.
    Check {
        /// The file.
        file: PathBuf,
    },
}

/// Where systemd hands a service copies of what it may not read itself, as long as it runs.
const CREDENTIALS: &str = "/run/credentials";

/// A file that the service manager has not handed over yet.
fn not_handed_over(files: &TlsFiles) -> Option<&Path> {
    [&files.certificate, &files.key, &files.ca]
        .into_iter()
        .find(|file| file.starts_with(CREDENTIALS) && !file.exists())
        .map(PathBuf::as_path)
}

impl Config {
    pub(super) fn execute(self) -> ExitCode {
        let Action::Check { file } = self.action;
        let refused = ExitCode::from(EXIT_REFUSED);
        let config: Configuration = match load(&file) {
            Ok(config) => config,
            Err(error) => return refuse(&error, refused),
        };
        let file = file.display();
        if let Some(missing) = not_handed_over(&config.tls.files()) {
            let missing = missing.display();
            say(&format!(
                "{file}: good; [tls] was not checked: {missing} is there only while the unit runs"
            ));
            return ExitCode::SUCCESS;
        }
        if let Err(source) = config.tls.files().check_server() {
            let key = config.tls.blamed(&source);
            return refuse(&format!("{file}: {key}: {source}"), refused);
        }
        say(&format!("{file}: good"));
        ExitCode::SUCCESS
    }
}
