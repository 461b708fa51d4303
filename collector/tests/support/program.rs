//! A program beside the test: started with its standard error in a file, and never left behind.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use super::eventually;

/// A program that this test runs beside it; it ends with this value.
pub struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts it with its standard error in a file of `folder`.
    pub fn start(command: &mut Command, folder: &Path) -> Self {
        let log = tempfile::NamedTempFile::new_in(folder).unwrap();
        let (file, log) = log.keep().unwrap();
        let child = command.stderr(Stdio::from(file)).spawn();
        Self {
            child: child.unwrap_or_else(|error| panic!("{command:?}: {error}")),
            log,
        }
    }

    /// The first line of its log for which `find` gives something.
    pub async fn says<T>(&self, find: impl Fn(&str) -> Option<T>) -> T {
        eventually("the program says it", async || {
            let file = File::open(&self.log).unwrap();
            let bytes = holdfast_daemon::capped::read(file, 1 << 20).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            whole.lines().find_map(&find)
        })
        .await
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Asks it to end, as systemd does.
    pub fn terminate(&self) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(sent.unwrap().success());
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _has_ended = self.child.kill().is_err();
        let _is_unknown = self.child.wait().is_err();
    }
}
