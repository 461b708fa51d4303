//! What a container is called in findings, and which workload it belongs to.
//!
//! Pod facts come from the spec's annotations, which CRI writes; labels only fill what is missing, and
//! only in a container that CRI made: an image's author can put `io.kubernetes.pod.name` among an
//! image's labels, and they become the container's.

use std::collections::BTreeMap;

use holdfast_core::container::{ContainerRef, Pod, Workload};
use holdfast_core::reference::Reference;

use super::ContainerRecord;
use super::kernel::shown;

/// Says that CRI made the container, and as what.
const KIND: &str = "io.kubernetes.cri.container-type";
/// The name of a sandbox: no container of a pod can have one with capitals.
const SANDBOX_NAME: &str = "POD";

/// The architecture of this program, as images spell it.
pub(super) const fn architecture() -> &'static str {
    match std::env::consts::ARCH.as_bytes() {
        b"x86_64" => "amd64",
        b"aarch64" => "arm64",
        _ => std::env::consts::ARCH,
    }
}

/// The container and its workload, from its definition and the labels of its pod's sandbox.
pub(crate) fn about(
    record: &ContainerRecord,
    sandbox_labels: &BTreeMap<String, String>,
    image_name: &str,
) -> (ContainerRef, Workload) {
    let key = &record.key;
    let in_pod = pod(record);
    let name = in_pod
        .as_ref()
        .map_or_else(|| key.id.clone(), |(_, name)| name.clone());
    let workload = match &in_pod {
        Some((pod, name)) => Workload::of_pod(pod, name, &labels(sandbox_labels)),
        None => Workload::of_image(&shown(key.namespace.as_bytes()), &repository(image_name)),
    };
    let container = ContainerRef {
        id: shown(key.id.as_bytes()),
        namespace: shown(key.namespace.as_bytes()),
        name: shown(name.as_bytes()),
        pod: in_pod.map(|(pod, _)| pod),
    };
    (container, workload)
}

/// Never the container's id: it changes with each replica, and the workload must not.
fn repository(image_name: &str) -> String {
    match image_name.parse::<Reference>() {
        Ok(reference) => reference.repository().familiar(),
        Err(_) if image_name.is_empty() => "no-image".to_owned(),
        Err(_) => "no-reference".to_owned(),
    }
}

fn pod(record: &ContainerRecord) -> Option<(Pod, String)> {
    let annotations = &record.spec.as_ref()?.annotations;
    let kind = annotations.get(KIND)?;
    let fact = |annotation: &str, label: &str| {
        let value = annotations
            .get(annotation)
            .or_else(|| record.labels.get(label))?;
        Some(shown(value.as_bytes()))
    };
    let pod = Pod {
        name: fact("io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name")?,
        namespace: fact(
            "io.kubernetes.cri.sandbox-namespace",
            "io.kubernetes.pod.namespace",
        )?,
        uid: fact("io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid").unwrap_or_default(),
    };
    let name = if kind == "sandbox" {
        SANDBOX_NAME.to_owned()
    } else {
        fact(
            "io.kubernetes.cri.container-name",
            "io.kubernetes.container.name",
        )?
    };
    Some((pod, name))
}

fn labels(labels: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let shown = labels
        .iter()
        .map(|(key, value)| (key.clone(), shown(value.as_bytes())));
    shown.collect()
}
