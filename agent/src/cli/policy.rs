//! `policy`: what a drift policy would change on this node, and exceptions ready-made. They look at containers as
//! `diff` does, without policies, and hold each change against two sets of them; they change nothing.

mod except;
mod judge;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use holdfast_core::coverage::{ContainerStatus, Outcome};
use holdfast_core::drift::policy::{DriftPolicies, Rules};
use holdfast_core::finding::Check;

use super::check::Failure;
use super::{Exit, Output, Scope};
use crate::config;
use crate::trust::{self, Missing, TrustError};

const TEST_EXIT_CODES: &str = "\
Exit codes:
  0   every change would be judged as it is
  1   some change would be judged otherwise
  2   wrong arguments, or no container that they mean
  3   some container could not be looked at whole
  78  a policy was refused
  4, 5, 130, 143 as for check";

const EXCEPT_EXIT_CODES: &str = "\
Exit codes: 0 every finding about files is excused; 2 no container, or several, begin so; 3 some finding
cannot be excused, or some file not be looked at; 78, 4, 5, 130, 143 as for check";

/// What is done with policies.
#[derive(Debug, Subcommand)]
pub(super) enum Policy {
    /// Say what a drift policy would change on this node
    #[command(after_help = TEST_EXIT_CODES)]
    Test(Test),
    /// Print exceptions for what one container has changed, as it is now
    #[command(after_help = EXCEPT_EXIT_CODES)]
    Except(Except),
}

/// The policies in force, and which containers.
#[derive(Debug, Args)]
struct Present {
    #[command(flatten)]
    scope: Scope,
    /// The policies in force, a file or a folder; one that is missing holds none
    #[arg(long, value_name = "PATH", default_value = config::DEFAULT_POLICIES)]
    present: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Test {
    #[command(flatten)]
    present: Present,
    /// Only this container: its id, or the beginning of it
    #[arg(long, value_name = "ID")]
    container: Option<String>,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Output,
    /// A file, tried as if it were added (its policies in place of present ones of their names); or a folder,
    /// tried in place of all present ones
    #[arg(value_name = "FILE")]
    tried: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Except {
    #[command(flatten)]
    present: Present,
    /// Only changes at these paths: a pattern such as "/opt/app/**"
    #[arg(long, value_name = "PATTERN")]
    path: Option<String>,
    /// Why they may stay
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    reason: String,
    /// In how many days they may no more
    #[arg(long, value_name = "DAYS", default_value = "30", value_parser = clap::value_parser!(u16).range(1..))]
    days: u16,
    /// The container's id, or the beginning of it
    #[arg(value_name = "CONTAINER")]
    container: String,
}

pub(super) fn run(command: &Policy) -> Exit {
    let ended = match command {
        Policy::Test(arguments) => judge::run(arguments),
        Policy::Except(arguments) => except::run(arguments),
    };
    ended.unwrap_or_else(|error| Failure::Policy(error).complain())
}

impl Present {
    fn policies(&self) -> Result<DriftPolicies, TrustError> {
        trust::drift_policies(&self.present, Missing::HoldsNone)
    }
}

/// The policies as they would be.
fn tried(present: &DriftPolicies, path: &Path) -> Result<DriftPolicies, TrustError> {
    let tried = trust::drift_policies(path, Missing::IsRefused)?;
    if path.is_dir() {
        return Ok(tried);
    }
    if tried.is_empty() {
        return Err(TrustError::HoldsNone(path.to_owned()));
    }
    Ok(present.clone().with(&tried))
}

/// What these policies say about a container.
fn rules_for(policies: &DriftPolicies, status: &ContainerStatus) -> Rules {
    let namespace = status
        .container
        .pod
        .as_ref()
        .map(|pod| pod.namespace.as_str());
    policies.rules_for(status.image.as_ref(), namespace)
}

/// Whether all of its files were looked at.
fn is_whole(status: &ContainerStatus) -> bool {
    let files = status.checks.iter().find(|done| done.check == Check::Files);
    files.is_some_and(|files| files.outcome != Outcome::Unverifiable)
}
