//! `run`: the collector itself. Exit code 78 when the configuration is refused.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use holdfast_collector::config::Config;
use holdfast_collector::{Collector, StartError};
use holdfast_daemon::config::{EXIT_REFUSED, load};
use holdfast_daemon::{logging, shutdown};

use super::refuse;

/// Run the collector.
#[derive(Debug, Args)]
pub(super) struct Run {
    /// Configuration file.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/holdfast/collector.toml"
    )]
    config: PathBuf,
}

impl Run {
    pub(super) fn execute(self) -> ExitCode {
        let config: Config = match load(&self.config) {
            Ok(config) => config,
            Err(error) => return refuse(&error, ExitCode::from(EXIT_REFUSED)),
        };
        if let Err(error) = logging::init(&config.log) {
            return refuse(&error, ExitCode::from(EXIT_REFUSED));
        }
        let runtime = match tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
        {
            Ok(runtime) => runtime,
            Err(error) => return refuse(&error, ExitCode::FAILURE),
        };
        shutdown::run_to_end(runtime, async {
            let collector = match Collector::start(config).await {
                Ok(collector) => collector,
                Err(error) => {
                    tracing::error!(%error, "Collector could not start.");
                    return exit_code(&error);
                }
            };
            match collector.run().await {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    tracing::error!(%error, "Collector stopped.");
                    ExitCode::FAILURE
                }
            }
        })
    }
}

/// What somebody has to change in the configuration, and what may pass.
fn exit_code(error: &StartError) -> ExitCode {
    match error {
        StartError::Tls { .. } | StartError::Registry(_) => ExitCode::from(EXIT_REFUSED),
        StartError::Store(_)
        | StartError::Grpc(_)
        | StartError::Api(_)
        | StartError::Client(_)
        | StartError::Relay { .. } => ExitCode::FAILURE,
    }
}
