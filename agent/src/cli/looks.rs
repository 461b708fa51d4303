//! The looks of one command at the containers that it selects: what is selected is decided on the lists of
//! the runtimes, before anything is looked at; then a few looks at a time.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::container::ContainerKey;
use holdfast_core::coverage::ContainerStatus;
use holdfast_core::finding::Finding;
use holdfast_core::place::{self, Places};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval};

use super::complain;
use crate::inspect::{Depth, Inspector, Layers, LookError, Looked, Memory, Shared};
use crate::runtime::CallError;
use crate::runtime::containerd::{Containerd, Timing};
use crate::runtime::list::{Found, list};

/// Looks at one time.
const LOOKS_AT_ONCE: usize = 2;

/// Who waits longer at a terminal wants to see that something happens.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often the line about it is renewed.
const RENEWED: Duration = Duration::from_millis(500);

/// A running container, and who looks at those of its runtime.
#[derive(Debug)]
pub(super) struct Selected {
    inspector: Arc<Inspector<Containerd>>,
    found: Found,
}

impl Selected {
    pub(super) const fn key(&self) -> &ContainerKey {
        &self.found.record.key
    }
}

/// Everything that runs on these sockets.
pub(super) async fn running(
    sockets: Vec<PathBuf>,
    shared: &Arc<Shared>,
) -> Result<Vec<Selected>, (PathBuf, CallError)> {
    let mut all = Vec::new();
    for socket in sockets {
        let runtime = Arc::new(Containerd::new(socket.clone(), Timing::default()));
        let found = list(&runtime).await.map_err(|error| (socket, error))?;
        let inspector = Arc::new(Inspector::new(runtime, Arc::clone(shared)));
        all.extend(found.into_iter().map(|found| Selected {
            inspector: Arc::clone(&inspector),
            found,
        }));
    }
    Ok(all)
}

/// Looks at each of them, whole.
pub(super) async fn look_at(
    selected: Vec<Selected>,
    node: &str,
    layers: Layers,
) -> (Vec<ContainerStatus>, Vec<Finding>) {
    let mut looks = Looks {
        running: JoinSet::new(),
        containers: Vec::new(),
        findings: Vec::new(),
        progress: Progress::new(selected.len()),
    };
    for selected in selected {
        while looks.running.len() >= LOOKS_AT_ONCE {
            looks.join().await;
        }
        looks.running.spawn(look(selected, node.to_owned(), layers));
    }
    while !looks.running.is_empty() {
        looks.join().await;
    }
    (looks.containers, looks.findings)
}

async fn look(selected: Selected, node: String, layers: Layers) -> Result<Looked, LookError> {
    let mut memory = Memory::new(selected.found);
    let now = crate::now();
    let looked = selected
        .inspector
        .look(&mut memory, Depth::Whole, layers, now)
        .await;
    match looked {
        // A look that hangs says nothing about the container but that.
        Err(LookError::Deadline(_)) => Ok(memory.not_looked(&node, crate::now())),
        other => other,
    }
}

struct Looks {
    running: JoinSet<Result<Looked, LookError>>,
    containers: Vec<ContainerStatus>,
    findings: Vec<Finding>,
    progress: Progress,
}

impl Looks {
    /// Waits for one look, and shows meanwhile that it does.
    async fn join(&mut self) {
        let ended = loop {
            tokio::select! {
                ended = self.running.join_next() => break ended,
                _ = self.progress.timer.tick() => self.progress.show(),
            }
        };
        self.progress.done += 1;
        match ended {
            Some(Ok(Ok(looked))) => {
                let now = looked.status.observed_at;
                let findings = place::advance(&mut Places::new(), &looked.about, looked.look, now);
                self.findings.extend(findings);
                self.containers.push(looked.status);
            }
            // It has ended meanwhile: nothing runs that could be checked.
            Some(Ok(Err(LookError::Gone | LookError::Deadline(_)))) | None => {}
            Some(Err(error)) => complain(&error),
        }
    }
}

/// A line on the terminal for looks that take long; nothing where nobody sits. It goes when they are done.
struct Progress {
    timer: Interval,
    done: usize,
    all: usize,
    is_terminal: bool,
    is_shown: bool,
}

impl Progress {
    fn new(all: usize) -> Self {
        Self {
            timer: tokio::time::interval_at(Instant::now() + PATIENCE, RENEWED),
            done: 0,
            all,
            is_terminal: io::stderr().is_terminal(),
            is_shown: false,
        }
    }

    fn show(&mut self) {
        if self.is_terminal {
            self.is_shown = true;
            write(&format!("\rchecked {} of {} …\x1b[K", self.done, self.all));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            write("\r\x1b[K");
        }
    }
}

/// Best effort: a terminal that is gone is nobody's loss.
fn write(line: &str) {
    let mut terminal = io::stderr().lock();
    let _is_shown = terminal
        .write_all(line.as_bytes())
        .and_then(|()| terminal.flush())
        .is_ok();
}
