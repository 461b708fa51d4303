//! `run` and `config check`: the long-running agent and what it would refuse.

use std::path::Path;

use holdfast_daemon::{fail_point, logging, shutdown};
use tokio::runtime::Builder;

use super::{Exit, complain};
use crate::config::Config;
use crate::trust::{self, Trust};
use crate::{AgentError, node};

/// Threads that wait for disks: looks, compares, and a few that hang.
const BLOCKING_THREADS: usize = 16;

pub(super) fn run(file: &Path) -> Exit {
    let config: Config = match holdfast_daemon::config::load(file) {
        Ok(config) => config,
        Err(error) => {
            complain(&error);
            return Exit::Refused;
        }
    };
    if let Err(error) = logging::init(&config.log) {
        complain(&error);
        return Exit::Refused;
    }
    fail_point::arm();
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => shutdown::run_to_end(runtime, crate::run(config)),
        Err(error) => {
            complain(&error);
            return Exit::Failure;
        }
    };
    match ended {
        Ok(()) => Exit::Clean,
        Err(error) => {
            tracing::error!(%error, "Agent stopped.");
            complain(&error);
            match error {
                AgentError::Trust(_) | AgentError::Node(_) | AgentError::Collector(_) => {
                    Exit::Refused
                }
                AgentError::State(..)
                | AgentError::Ledger(_)
                | AgentError::Admin(_)
                | AgentError::Task(_) => Exit::Failure,
            }
        }
    }
}

#[expect(
    clippy::print_stdout,
    reason = "the terminal is this command's interface"
)]
pub(super) fn check_config(file: &Path) -> Exit {
    let config: Config = match holdfast_daemon::config::load(file) {
        Ok(config) => config,
        Err(error) => {
            complain(&error);
            return Exit::Refused;
        }
    };
    if let Err(error) = node::name(&config) {
        complain(&error);
        return Exit::Refused;
    }
    let trust = trust::client(&config).and_then(|client| Trust::load(&config.trust, &client));
    match trust.map(|trust| trust.policies()) {
        Ok(policies) => {
            println!(
                "{}: ok, {} policies in {}",
                file.display(),
                policies.set.len() + policies.drift.len(),
                config.trust.policy_directory.display()
            );
            Exit::Clean
        }
        Err(error) => {
            complain(&error);
            Exit::Refused
        }
    }
}
