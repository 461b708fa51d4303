//! A long-running program of a test: started with its output in a file, ended by its pid.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// Bytes of a log that a failure prints.
const TAIL: usize = 8 << 10;

/// A child process. Dropping it kills it and, when the test fails, prints the end of its log.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; both output streams are appended to `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let output = File::options().create(true).append(true).open(log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} cannot be started ({command:?}): {error}"));
        Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        }
    }

    /// The pid.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }

    /// How it ended, when it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Kills it (-9) and waits for its end.
    pub fn kill(&mut self) -> ExitStatus {
        // It may have ended by itself, which the status then shows.
        drop(self.child.kill());
        self.child.wait().unwrap()
    }

    /// Asks it to stop (SIGTERM) and gives how it did; one that does not within the limit fails the test.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        let what = format!("{} stops after SIGTERM", self.name);
        wait::until(&what, async || self.ended()).await
    }

    /// Waits for a program that ends by itself, and gives its exit code.
    pub async fn exit_code(&mut self) -> i32 {
        let what = format!("{} ends", self.name);
        let status = wait::until(&what, async || self.ended()).await;
        status
            .code()
            .unwrap_or_else(|| panic!("{} ended by signal {:?}", self.name, status.signal()))
    }

    /// Everything that it has printed.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// The TCP addresses that it listens on, as the kernel says: the way to learn a port that was asked
    /// for as 0, whatever the program logs.
    pub fn listening(&self) -> Vec<SocketAddr> {
        listening(self.id())
    }

    /// Waits until it listens on at least one TCP port, and gives the lowest address.
    pub async fn address(&mut self) -> SocketAddr {
        let what = format!("{} listens", self.name);
        wait::until(&what, async || {
            if let Some(status) = self.ended() {
                panic!("{} ended: {status}", self.name);
            }
            self.listening().into_iter().min()
        })
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // No panic here: this may run while another one unwinds.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            let log = std::fs::read(&self.log).unwrap_or_default();
            let tail = log.get(log.len().saturating_sub(TAIL)..).unwrap_or(&log);
            eprintln!("--- {}: end of its output", self.name);
            eprintln!("{}", String::from_utf8_lossy(tail));
        }
    }
}

/// Listening sockets of the network namespace that are open in `pid`.
fn listening(pid: u32) -> Vec<SocketAddr> {
    let sockets = open_sockets(pid);
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, local, _, "0A", .., _] = fields.as_slice() else {
                continue;
            };
            if fields
                .get(9)
                .is_some_and(|inode| sockets.iter().any(|s| s == inode))
                && let Some((_, port)) = local.rsplit_once(':')
                && let Ok(port) = u16::from_str_radix(port, 16)
            {
                found.push(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
            }
        }
    }
    found
}

fn open_sockets(pid: u32) -> Vec<String> {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    descriptors
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|target| {
            let inode = target
                .to_str()?
                .strip_prefix("socket:[")?
                .strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect()
}
