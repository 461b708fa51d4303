//! `holdfast-agent`: arguments in, exit codes out. No domain word here.

use std::process::ExitCode;

fn main() -> ExitCode {
    holdfast_agent::cli::run()
}
