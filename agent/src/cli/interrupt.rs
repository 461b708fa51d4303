//! Runs a command that looks at containers so that SIGINT and SIGTERM end it at once and nothing of it stays:
//! no thread that still writes, no temporary folder.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use super::Exit;

/// Threads that are at work get this long after a signal; one that hangs ends with the process.
const GRACE: Duration = Duration::from_secs(2);

/// A thread that did not end in time may make a file while its folder is removed: then once more.
const MAX_REMOVALS: usize = 100;

/// Runs `command` to its end, or until a signal comes: then it is dropped where it waits.
pub(super) fn run(command: impl Future<Output = Exit>) -> io::Result<Exit> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        Ok(tokio::select! {
            biased;
            _ = interrupt.recv() => Exit::Interrupted,
            _ = terminate.recv() => Exit::Terminated,
            exit = command => exit,
        })
    });
    runtime.shutdown_timeout(GRACE);
    ended
}

/// Where a command writes: the folder that was named, else a temporary one, which goes with this.
#[derive(Debug)]
pub(super) struct State {
    folder: PathBuf,
    temporary: Option<TempDir>,
}

impl State {
    pub(super) fn new(named: Option<&Path>) -> io::Result<Self> {
        if let Some(named) = named {
            return Ok(Self {
                folder: named.to_owned(),
                temporary: None,
            });
        }
        let temporary = tempfile::Builder::new()
            .prefix("holdfast-check.")
            .tempdir()?;
        Ok(Self {
            folder: temporary.path().to_owned(),
            temporary: Some(temporary),
        })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if self.temporary.is_none() {
            return;
        }
        for _ in 0..MAX_REMOVALS {
            match std::fs::remove_dir_all(&self.folder) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                // What is left, `TempDir` tries once more.
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[test]
    fn a_command_that_ends_by_itself_says_how() {
        assert_eq!(run(async { Exit::Incomplete }).unwrap(), Exit::Incomplete);
    }

    #[test]
    fn a_signal_drops_the_command_and_tells_which_it_was() {
        for (signal, exit) in [
            (Signal::INT, Exit::Interrupted),
            (Signal::TERM, Exit::Terminated),
        ] {
            let command = async move {
                kill_process(getpid(), signal).unwrap();
                std::future::pending().await
            };
            assert_eq!(run(command).unwrap(), exit);
        }
    }

    #[test]
    fn a_temporary_folder_goes_with_what_is_in_it_and_a_named_one_stays() {
        let state = State::new(None).unwrap();
        let folder = state.folder().to_owned();
        std::fs::create_dir(folder.join("tables")).unwrap();
        drop(state);
        assert!(!folder.exists());

        let named = tempfile::tempdir().unwrap();
        drop(State::new(Some(named.path())).unwrap());
        assert!(named.path().exists());
    }
}
