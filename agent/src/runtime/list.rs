//! What runs on one socket: definitions first, then each task on its own, so that a hung shim delays
//! nobody else.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_core::container::ContainerKey;
use tokio::task::JoinSet;

use super::{CallError, ContainerRecord, Runtime, Task, TaskStatus, tasks_of};

/// Tasks asked for at one time.
const TASKS_AT_ONCE: usize = 32;

/// A container that runs, or of which the runtime does not say whether it does.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its definition.
    pub record: ContainerRecord,
    /// Its task; an error when its shim gave no answer.
    pub task: Result<Task, CallError>,
}

/// Everything that runs on a socket, in all containerd namespaces.
pub async fn list<R: Runtime>(runtime: &Arc<R>) -> Result<Vec<Found>, CallError> {
    let mut records = BTreeMap::new();
    for namespace in runtime.namespaces().await? {
        for record in runtime.containers(&namespace).await? {
            records.insert(record.key.clone(), record);
        }
    }
    let keys: Vec<ContainerKey> = records.keys().cloned().collect();
    let mut found = Vec::new();
    for some in keys.chunks(TASKS_AT_ONCE) {
        let mut calls = JoinSet::new();
        let mut answers = tasks_of(runtime, some.to_vec(), &mut calls);
        while let Some((key, task)) = answers.recv().await {
            if let (true, Some(record)) = (is_running(&task), records.remove(&key)) {
                found.push(Found { record, task });
            }
        }
    }
    Ok(found)
}

/// One container by name; `None` when it does not run.
pub async fn find<R: Runtime>(runtime: &R, key: &ContainerKey) -> Result<Option<Found>, CallError> {
    let task = runtime.task(key).await;
    if !is_running(&task) {
        return Ok(None);
    }
    match runtime.container(key).await {
        Ok(record) => Ok(Some(Found { record, task })),
        Err(CallError::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A task that is only created is the runtime's own process: its root is not the container's yet, and
/// its start is an event. No answer is not a no.
fn is_running(task: &Result<Task, CallError>) -> bool {
    match task {
        Ok(task) => matches!(task.status, TaskStatus::Running | TaskStatus::Paused),
        Err(CallError::NotFound) => false,
        Err(_) => true,
    }
}
