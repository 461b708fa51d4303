//! The product's programs as processes: found, configured, started, killed, started again.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use tempfile::TempDir;

use crate::http;
use crate::process::Process;
use crate::wait;

/// With fail points or as released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// As users get it.
    Released,
    /// With points at which it can be told to end itself.
    FailPoints,
}

/// The path of one of our programs. `scripts/test` says where they are (`HOLDFAST_BIN`,
/// `HOLDFAST_BIN_FAIL_POINTS`); without it they are looked for where cargo has put this test.
pub fn path(name: &str, build: Build) -> PathBuf {
    let (variable, beside) = match build {
        Build::Released => ("HOLDFAST_BIN", "release"),
        Build::FailPoints => ("HOLDFAST_BIN_FAIL_POINTS", "fail-points"),
    };
    let folder = std::env::var_os(variable).map_or_else(
        || {
            let test = std::env::current_exe().unwrap();
            // TARGET/debug/deps/TEST
            test.ancestors().nth(3).unwrap().join(beside)
        },
        PathBuf::from,
    );
    let program = folder.join(name);
    assert!(
        program.exists(),
        "{} is not there: run scripts/build first, or scripts/test build",
        program.display()
    );
    program
}

/// What a command of ours printed, and how it ended.
#[derive(Clone, PartialEq, Eq)]
pub struct Printed {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub errors: String,
}

impl fmt::Debug for Printed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            code,
            output,
            errors,
        } = self;
        write!(f, "exit code {code}\n{output}\n{errors}")
    }
}

/// Runs one of our programs to its end; at most two minutes.
pub fn run(name: &str, arguments: &[&str]) -> Printed {
    let done = Command::new("timeout")
        .args(["--kill-after=5", "120"])
        .arg(path(name, Build::Released))
        .args(arguments)
        .output()
        .unwrap();
    Printed {
        code: done.status.code().expect("it was not killed"),
        output: String::from_utf8_lossy(&done.stdout).into_owned(),
        errors: String::from_utf8_lossy(&done.stderr).into_owned(),
    }
}

/// One of our programs while it runs, with a folder for its configuration, state and log.
#[derive(Debug)]
pub struct Program {
    name: &'static str,
    build: Build,
    variables: Vec<(String, String)>,
    process: Option<Process>,
    folder: TempDir,
}

impl Program {
    /// Starts `NAME run --config FILE`, where `config` writes the file for the folder that it is given.
    pub fn start(name: &'static str, build: Build, config: impl FnOnce(&Path) -> String) -> Self {
        let folder = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir_in("/var/tmp")
            .unwrap();
        std::fs::write(folder.path().join("config.toml"), config(folder.path())).unwrap();
        let mut program = Self {
            name,
            build,
            variables: Vec::new(),
            process: None,
            folder,
        };
        program.start_again();
        program
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes another configuration; what is running does not see it before it looks.
    pub fn configure(&self, config: &str) {
        std::fs::write(self.folder().join("config.toml"), config).unwrap();
    }

    /// Environment variables for the next start, in place of those before.
    pub fn set_variables(&mut self, variables: &[(&str, &str)]) {
        self.variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
    }

    /// Kills it (-9).
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Starts it again on the same folder.
    pub fn start_again(&mut self) {
        self.kill();
        let mut command = Command::new(path(self.name, self.build));
        command
            .arg("run")
            .arg("--config")
            .arg(self.folder().join("config.toml"))
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        let log = self.folder().join("log");
        self.process = Some(Process::start(self.name, &mut command, &log));
    }

    /// Asks it to stop and gives how it did.
    pub async fn stop(&mut self) -> ExitStatus {
        self.process().stop().await
    }

    /// Whether it has neither been killed nor ended by itself.
    pub fn is_running(&mut self) -> bool {
        let process = self.process.as_mut();
        process.is_some_and(|process| process.ended().is_none())
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it was killed")
    }

    /// The address that answers HTTP: the admin endpoint.
    pub async fn http(&mut self) -> SocketAddr {
        let what = format!("{} answers HTTP", self.name);
        let name = self.name;
        let process = self.process();
        wait::until(&what, async || {
            if let Some(status) = process.ended() {
                panic!("{name} ended: {status}");
            }
            answering(&process.listening()).await
        })
        .await
    }

    /// Waits until `/readyz` says yes, and gives the admin address.
    pub async fn ready(&mut self) -> SocketAddr {
        let address = self.http().await;
        wait::until(&format!("{} is ready", self.name), async || {
            let (status, _) = http::get(address, "/readyz").await?;
            (status == 200).then_some(())
        })
        .await;
        address
    }
}

async fn answering(addresses: &[SocketAddr]) -> Option<SocketAddr> {
    for address in addresses {
        if let Some((200, _)) = http::get(*address, "/livez").await {
            return Some(*address);
        }
    }
    None
}
