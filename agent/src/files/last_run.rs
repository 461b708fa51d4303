//! How the node has gone down: in order, which includes the agent, or as in a power cut.
//!
//! One line in the state folder says in which boot the agent runs and whether it was stopped since; at its
//! next start in another boot that tells one from the other. An agent that is killed before an orderly
//! restart of the node counts as a power cut: what that may excuse is a warning all the same.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use holdfast_daemon::capped;

use super::atomic::write_beside;

/// Where the kernel names its boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The line's file, below the state folder.
const FILE: &str = "last-run";

/// One line: a boot's name, a word, a number.
const MAX_BYTES: u64 = 256;

/// The name that the kernel has given to this boot; empty, and so like no other, where it has given none.
pub fn boot_id() -> String {
    let read = capped::read_file(BOOT_ID.as_ref(), MAX_BYTES).unwrap_or_default();
    String::from_utf8_lossy(&read).trim().to_owned()
}

/// Whether the agent ran when it was last heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Stopped,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

/// The run of the agent that is now.
#[derive(Debug)]
pub struct Run {
    path: PathBuf,
    boot_id: String,
    abrupt: u64,
}

impl Run {
    /// What an agent would know that started now; writes nothing.
    pub fn look(state: &Path, boot_id: &str) -> Self {
        let path = state.join(FILE);
        let last = capped::read_file(&path, MAX_BYTES).ok();
        let last = last.and_then(|line| parse(std::str::from_utf8(&line).ok()?));
        let abrupt = last.map_or(0, |(last_boot, state, abrupt)| {
            let is_abrupt = last_boot != boot_id && state == State::Running;
            abrupt.saturating_add(u64::from(is_abrupt))
        });
        Self {
            path,
            boot_id: boot_id.to_owned(),
            abrupt,
        }
    }

    /// The agent starts: from now on it counts as running.
    pub fn begin(state: &Path, boot_id: &str) -> io::Result<Self> {
        let run = Self::look(state, boot_id);
        run.write(State::Running)?;
        Ok(run)
    }

    /// The agent was told to stop.
    pub fn stop(&self) -> io::Result<()> {
        self.write(State::Stopped)
    }

    /// How often the node has gone down abruptly, as far as this state folder knows.
    pub const fn abrupt(&self) -> u64 {
        self.abrupt
    }

    fn write(&self, state: State) -> io::Result<()> {
        write_beside(&self.path, |out| {
            writeln!(out, "{} {} {}", self.boot_id, state.as_str(), self.abrupt)
        })
    }
}

fn parse(line: &str) -> Option<(String, State, u64)> {
    let mut words = line.trim_end().split(' ');
    let boot_id = words.next()?.to_owned();
    let word = words.next()?;
    let state = [State::Running, State::Stopped]
        .into_iter()
        .find(|state| state.as_str() == word)?;
    Some((boot_id, state, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn begin(folder: &tempfile::TempDir, boot_id: &str) -> Run {
        Run::begin(folder.path(), boot_id).unwrap()
    }

    #[test]
    fn a_node_that_goes_down_while_the_agent_runs_has_gone_down_abruptly() {
        let folder = folder();
        assert_eq!(begin(&folder, "boot-1").abrupt(), 0);
        assert_eq!(Run::look(folder.path(), "boot-2").abrupt(), 1);
        assert_eq!(begin(&folder, "boot-2").abrupt(), 1);
        assert_eq!(begin(&folder, "boot-3").abrupt(), 2);
    }

    #[test]
    fn an_agent_that_was_stopped_first_has_seen_it_coming() {
        let folder = folder();
        begin(&folder, "boot-1").stop().unwrap();
        assert_eq!(begin(&folder, "boot-2").abrupt(), 0);
    }

    #[test]
    fn an_agent_that_dies_and_starts_again_in_one_boot_is_no_power_cut() {
        let folder = folder();
        drop(begin(&folder, "boot-1"));
        assert_eq!(begin(&folder, "boot-1").abrupt(), 0);
        // And a stop before counts for its own boot alone.
        begin(&folder, "boot-1").stop().unwrap();
        drop(begin(&folder, "boot-1"));
        assert_eq!(begin(&folder, "boot-2").abrupt(), 1);
    }

    #[test]
    fn a_line_that_is_not_ours_is_a_first_run() {
        for line in ["", "boot-1", "boot-1 asleep 3", "boot-1 running many"] {
            let folder = folder();
            std::fs::write(folder.path().join(FILE), line).unwrap();
            assert_eq!(begin(&folder, "boot-2").abrupt(), 0, "{line:?}");
        }
    }

    #[test]
    fn the_kernel_names_this_boot() {
        assert_eq!(boot_id().len(), 36);
        assert_eq!(boot_id(), boot_id());
    }
}
