//! The agent under test: `holdfast-agent run` with what it has written, and its other commands.

use std::ops::{Deref, DerefMut};
use std::path::Path;

use holdfast_core::finding::Finding;

use crate::program::{self, Build, Printed, Program};
use crate::scenario;

const NAME: &str = "holdfast-agent";

/// The file sink, in the agent's folder: the configuration has to name it.
pub const SINK: &str = "findings.jsonl";

/// A running agent.
#[derive(Debug)]
pub struct Agent(Program);

impl Agent {
    /// Starts one; `config` writes its configuration for the folder that it is given.
    pub fn start(config: impl FnOnce(&Path) -> String) -> Self {
        Self(Program::start(NAME, Build::Released, config))
    }

    /// Starts one that can be told to end itself.
    pub fn with_fail_points(config: impl FnOnce(&Path) -> String) -> Self {
        Self(Program::start(NAME, Build::FailPoints, config))
    }

    /// Every document that the file sink holds, oldest first.
    pub fn documents(&self) -> Vec<Finding> {
        let sink = self.folder().join(SINK);
        let text = std::fs::read_to_string(sink).unwrap_or_default();
        // A line without its end is being written now.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(parse).collect()
    }

    /// What is open now, by the file sink.
    pub fn open(&self) -> Vec<Finding> {
        scenario::open(self.documents())
    }
}

impl Deref for Agent {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.0
    }
}

impl DerefMut for Agent {
    fn deref_mut(&mut self) -> &mut Program {
        &mut self.0
    }
}

/// Runs `holdfast-agent` with these arguments.
pub fn run(arguments: &[&str]) -> Printed {
    program::run(NAME, arguments)
}

/// Findings of `holdfast-agent check -o jsonl` on one containerd, with the exit code.
pub fn check(socket: &Path, arguments: &[&str]) -> (i32, Vec<Finding>) {
    let socket = socket.to_str().expect("a path of ours");
    let mut all = vec!["check", "-o", "jsonl", "--containerd", socket];
    all.extend(arguments);
    let printed = run(&all);
    assert!(matches!(printed.code, 0 | 1 | 3), "{printed:?}");
    (printed.code, printed.output.lines().map(parse).collect())
}

fn parse(line: &str) -> Finding {
    Finding::parse(line.as_bytes()).unwrap_or_else(|error| panic!("{error}: {line}"))
}
