//! One supervisor owns all tasks of a program: the first that ends, ends the process; a signal ends
//! them all in order.
//!
//! A security agent that is half alive is worse than one that systemd restarts.

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};

/// Turns true once, when the program is to end. Tasks select on `changed()`.
pub type Stop = watch::Receiver<bool>;

/// What a task may fail with.
pub type TaskError = Box<dyn Error + Send + Sync>;

/// Tasks get this long after the signal; systemd's own limit is 90 s.
const GRACE: Duration = Duration::from_secs(20);

/// What blocks a thread gets this long after the tasks have ended: a read from a disk that is gone ends
/// never, and SIGTERM must end the program all the same.
const BLOCKING_GRACE: Duration = Duration::from_secs(5);

/// Why the program ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// A task ended with an error.
    #[error("task {name} failed: {error}")]
    Failed {
        /// The task.
        name: &'static str,
        /// Its error.
        error: TaskError,
    },
    /// A task ended although nobody asked it to.
    #[error("task {name} ended")]
    Ended {
        /// The task.
        name: &'static str,
    },
    /// A task panicked.
    #[error("task {name} panicked")]
    Panicked {
        /// The task.
        name: &'static str,
    },
    /// Tasks were still running after the grace period.
    #[error("tasks did not stop in time: {}", names.join(", "))]
    Stuck {
        /// The tasks.
        names: Vec<&'static str>,
    },
    /// Signals cannot be received.
    #[error("signals: {0}")]
    Signals(#[from] std::io::Error),
}

/// Owns the tasks of a program.
#[derive(Debug)]
pub struct Supervisor {
    tasks: JoinSet<Result<(), TaskError>>,
    names: HashMap<Id, &'static str>,
    stop: watch::Sender<bool>,
    grace: Duration,
}

/// Runs a program to its end. A thread that blocks is not waited for without end: dropping the runtime
/// would.
pub fn run_to_end<T>(runtime: Runtime, program: impl Future<Output = T>) -> T {
    let ended = runtime.block_on(program);
    runtime.shutdown_timeout(BLOCKING_GRACE);
    ended
}

/// Ends when `stop` turns true, or when nobody can say so any more.
pub async fn stopped(stop: &mut Stop) {
    drop(stop.wait_for(|stop| *stop).await);
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

impl Supervisor {
    /// A supervisor without tasks.
    pub fn new() -> Self {
        Self {
            tasks: JoinSet::new(),
            names: HashMap::new(),
            stop: watch::Sender::new(false),
            grace: GRACE,
        }
    }

    /// What each task watches to know when to end.
    pub fn stop(&self) -> Stop {
        self.stop.subscribe()
    }

    /// Starts a task, which is to run until [`Supervisor::stop`] turns true.
    pub fn spawn<E: Into<TaskError>>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let handle = self.tasks.spawn(async { task.await.map_err(Into::into) });
        self.names.insert(handle.id(), name);
    }

    /// Runs until SIGTERM or SIGINT, or until a task ends.
    pub async fn run(self) -> Result<(), SupervisorError> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        self.run_until(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await
    }

    /// Runs until `asked` is done, or until a task ends.
    pub async fn run_until(
        mut self,
        asked: impl Future<Output = ()>,
    ) -> Result<(), SupervisorError> {
        let first = tokio::select! {
            biased;
            () = asked => Ok(()),
            Some(ended) = self.tasks.join_next_with_id() => Err(self.unasked(ended)),
        };
        crate::service_manager::stopping();
        self.stop.send_replace(true);
        let rest = self.drain().await;
        first.and(rest)
    }

    async fn drain(&mut self) -> Result<(), SupervisorError> {
        let names = &mut self.names;
        let tasks = &mut self.tasks;
        let all = async {
            let mut outcome = Ok(());
            while let Some(ended) = tasks.join_next_with_id().await {
                outcome = outcome.and(after_stop(names, ended).map(drop));
            }
            outcome
        };
        if let Ok(outcome) = tokio::time::timeout(self.grace, all).await {
            return outcome;
        }
        let names = self.names.values().copied().collect();
        self.tasks.shutdown().await;
        Err(SupervisorError::Stuck { names })
    }

    fn unasked(
        &mut self,
        ended: Result<(Id, Result<(), TaskError>), JoinError>,
    ) -> SupervisorError {
        match after_stop(&mut self.names, ended) {
            Err(error) => error,
            Ok(name) => SupervisorError::Ended { name },
        }
    }
}

/// The name of a task that ended well, or how it did not.
fn after_stop(
    names: &mut HashMap<Id, &'static str>,
    ended: Result<(Id, Result<(), TaskError>), JoinError>,
) -> Result<&'static str, SupervisorError> {
    let id = match &ended {
        Ok((id, _)) => *id,
        Err(error) => error.id(),
    };
    let name = names.remove(&id).unwrap_or("unnamed");
    match ended {
        Ok((_, Ok(()))) => Ok(name),
        Ok((_, Err(error))) => Err(SupervisorError::Failed { name, error }),
        Err(_panic) => Err(SupervisorError::Panicked { name }),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::{pending, ready};

    use super::*;

    async fn until_stopped(mut stop: Stop) -> Result<(), Infallible> {
        stop.wait_for(|stopped| *stopped).await.unwrap();
        Ok(())
    }

    fn jump() -> Result<(), Infallible> {
        panic!("jumped")
    }

    #[tokio::test]
    async fn a_signal_stops_all_tasks_in_order() {
        let mut supervisor = Supervisor::new();
        supervisor.spawn("a", until_stopped(supervisor.stop()));
        supervisor.spawn("b", until_stopped(supervisor.stop()));

        assert!(supervisor.run_until(ready(())).await.is_ok());
    }

    #[tokio::test]
    async fn the_first_task_that_ends_ends_the_process() {
        let mut supervisor = Supervisor::new();
        supervisor.spawn("quitter", ready(Ok::<_, Infallible>(())));
        supervisor.spawn("worker", until_stopped(supervisor.stop()));

        let ended = supervisor.run_until(pending()).await;

        assert!(matches!(
            ended,
            Err(SupervisorError::Ended { name: "quitter" })
        ));
    }

    #[tokio::test]
    async fn an_error_and_a_panic_are_told_apart_with_the_name_of_the_task() {
        let mut supervisor = Supervisor::new();
        supervisor.spawn("loser", ready(Err(std::io::Error::other("disk full"))));
        let failed = supervisor.run_until(pending()).await.unwrap_err();
        assert_eq!(failed.to_string(), "task loser failed: disk full");

        let mut supervisor = Supervisor::new();
        supervisor.spawn("jumper", async { jump() });
        let panicked = supervisor.run_until(pending()).await;
        assert!(matches!(
            panicked,
            Err(SupervisorError::Panicked { name: "jumper" })
        ));
    }

    #[tokio::test]
    async fn a_task_that_ignores_the_stop_is_named_and_ended() {
        let mut supervisor = Supervisor::new();
        supervisor.grace = Duration::ZERO;
        supervisor.spawn("deaf", pending::<Result<(), Infallible>>());

        let stuck = supervisor.run_until(ready(())).await;

        assert!(matches!(stuck, Err(SupervisorError::Stuck { names }) if names == ["deaf"]));
    }
    #[test]
    fn a_thread_that_blocks_for_ever_does_not_keep_the_program() {
        let runtime = Runtime::new().unwrap();
        let (never, nobody) = std::sync::mpsc::channel::<()>();
        let _blocked = runtime.spawn_blocking(move || nobody.recv());

        assert_eq!(run_to_end(runtime, async { 1 }), 1);
        drop(never);
    }
}
