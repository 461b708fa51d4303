//! containerd's messages into our own values: the only place that knows their fields.

use containerd_client::services::v1 as api;
use containerd_client::types;
use containerd_client::types::v1 as task;
use holdfast_core::container::ContainerKey;
use jiff::Timestamp;

use super::spec::{self, Spec};
use super::{CallError, ContainerRecord, ImageRecord, Mount, Roots, Task, TaskStatus};

pub(super) fn container(namespace: &str, container: api::Container) -> ContainerRecord {
    let cri = container.extensions.get(spec::CRI_EXTENSION);
    ContainerRecord {
        key: ContainerKey {
            namespace: namespace.to_owned(),
            id: container.id,
        },
        image_name: container.image,
        snapshotter: container.snapshotter,
        snapshot_key: container.snapshot_key,
        runtime_name: container
            .runtime
            .map(|runtime| runtime.name)
            .unwrap_or_default(),
        labels: container.labels.into_iter().collect(),
        created_at: container.created_at.and_then(timestamp),
        updated_at: container.updated_at.and_then(timestamp),
        spec: container.spec.and_then(|any| Spec::parse(&any.value)),
        cri_image_ref: cri.and_then(|any| spec::cri_image_ref(&any.value)),
    }
}

/// containerd 1.6 answers for a silent shim after two seconds, with an unknown status and no pid.
pub(super) fn task(process: &task::Process) -> Result<Task, CallError> {
    let status = match process.status() {
        task::Status::Created => TaskStatus::Created,
        task::Status::Running => TaskStatus::Running,
        task::Status::Paused | task::Status::Pausing => TaskStatus::Paused,
        task::Status::Stopped => TaskStatus::Stopped,
        task::Status::Unknown => return Err(CallError::ShimSilent),
    };
    if process.pid == 0 && status != TaskStatus::Stopped {
        return Err(CallError::ShimSilent);
    }
    Ok(Task {
        pid: process.pid,
        status,
    })
}

pub(super) fn mount(mount: types::Mount) -> Mount {
    Mount {
        kind: mount.r#type,
        source: mount.source,
        options: mount.options,
    }
}

pub(super) fn image(image: api::Image) -> Option<ImageRecord> {
    Some(ImageRecord {
        name: image.name,
        target: image.target?.digest.parse().ok()?,
        created_at: image.created_at.and_then(timestamp),
        updated_at: image.updated_at.and_then(timestamp),
    })
}

pub(super) fn roots(plugins: Vec<api::Plugin>) -> Roots {
    let mut roots = Roots::default();
    for mut plugin in plugins {
        let Some(path) = plugin.exports.remove("root") else {
            continue;
        };
        if plugin.r#type == "io.containerd.snapshotter.v1" {
            roots.snapshotters.insert(plugin.id, path.into());
        } else if plugin.r#type == "io.containerd.content.v1" {
            roots.content = Some(path.into());
        }
    }
    roots
}

fn timestamp(time: prost_types::Timestamp) -> Option<Timestamp> {
    Timestamp::new(time.seconds, time.nanos).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_without_a_status_or_a_pid_is_no_task() {
        let process = |pid, status: task::Status| task::Process {
            pid,
            status: status.into(),
            ..task::Process::default()
        };

        let running = task(&process(7, task::Status::Running)).unwrap();
        assert_eq!((running.pid, running.status), (7, TaskStatus::Running));
        assert_eq!(
            task(&process(0, task::Status::Unknown)),
            Err(CallError::ShimSilent)
        );
        assert_eq!(
            task(&process(0, task::Status::Running)),
            Err(CallError::ShimSilent)
        );
    }

    #[test]
    fn a_definition_that_cannot_be_read_is_still_a_container() {
        let record = container(
            "n",
            api::Container {
                id: "c".into(),
                spec: Some(prost_types::Any {
                    type_url: String::new(),
                    value: b"{".to_vec(),
                }),
                created_at: Some(prost_types::Timestamp {
                    seconds: i64::MAX,
                    nanos: 0,
                }),
                ..api::Container::default()
            },
        );

        assert_eq!(record.key.id, "c");
        assert_eq!(record.spec, None);
        assert_eq!(record.created_at, None);
    }

    #[test]
    fn an_image_whose_target_is_no_digest_is_left_out() {
        assert_eq!(image(api::Image::default()), None);
    }
}
