//! `holdfast-collector`: arguments to library calls, results to exit codes. No domain word in it.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    holdfast_daemon::fail_point::arm();
    cli::Command::parse().execute()
}
