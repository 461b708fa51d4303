//! Short commands of others (`ctr`, `skopeo`), each bounded in time.

use std::ffi::OsStr;
use std::fmt;
use std::process::{Command, Stdio};

/// Seconds that one command may take; a hung shim must fail one test, not hang them all.
const LIMIT_SECONDS: u32 = 90;

/// What a command that failed has said.
#[derive(Debug)]
pub struct Failure {
    /// Program and arguments.
    pub command: String,
    /// Exit code; `None` when a signal ended it. 124 and 137: it took too long.
    pub code: Option<i32>,
    /// What it printed, both streams.
    pub output: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            command,
            code,
            output,
        } = self;
        write!(f, "{command}: exit code {code:?}: {}", output.trim_end())
    }
}

/// Runs a command to its end and gives what it printed on standard output.
pub fn run<A: AsRef<OsStr>>(program: &str, arguments: &[A]) -> Result<String, Failure> {
    run_within(LIMIT_SECONDS, program, arguments)
}

fn run_within<A: AsRef<OsStr>>(
    seconds: u32,
    program: &str,
    arguments: &[A],
) -> Result<String, Failure> {
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=5", &seconds.to_string(), program])
        .args(arguments)
        .stdin(Stdio::null());
    let output = command.output().expect("coreutils' timeout is installed");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    Err(Failure {
        command: format!("{command:?}"),
        code: output.status.code(),
        output: printed + &String::from_utf8_lossy(&output.stderr),
    })
}

/// Like [`run`], for a command that has to succeed.
#[track_caller]
pub fn must<A: AsRef<OsStr>>(program: &str, arguments: &[A]) -> String {
    run(program, arguments).unwrap_or_else(|failure| panic!("{failure}"))
}

/// Like [`must`], for a command that takes long.
#[track_caller]
pub fn must_within<A: AsRef<OsStr>>(seconds: u32, program: &str, arguments: &[A]) -> String {
    run_within(seconds, program, arguments).unwrap_or_else(|failure| panic!("{failure}"))
}
