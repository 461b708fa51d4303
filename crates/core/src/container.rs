//! What a container is called, and which workload it belongs to.
//!
//! Names here are chosen by whoever created the container: they label findings, they never decide one.

use serde::{Deserialize, Serialize};

/// A container as containerd names it: ids are unique only within a containerd namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerKey {
    /// containerd namespace: `k8s.io`, `moby`, `default`, …
    pub namespace: String,
    /// containerd's container id.
    pub id: String,
}

/// The pod that a container belongs to, from labels and spec annotations that the kubelet passes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Pod name.
    pub name: String,
    /// Pod namespace (the Kubernetes one).
    pub namespace: String,
    /// Pod UID.
    pub uid: String,
}

/// A container as findings show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRef {
    /// containerd's container id.
    pub id: String,
    /// containerd namespace.
    pub namespace: String,
    /// Container name of the pod, else the id.
    pub name: String,
    /// The pod, where there is one.
    pub pod: Option<Pod>,
}

impl ContainerRef {
    /// What identifies the container on its node.
    pub fn key(&self) -> ContainerKey {
        ContainerKey {
            namespace: self.namespace.clone(),
            id: self.id.clone(),
        }
    }
}

/// The thing that a team deploys: replicas and restarts of one workload share their findings.
///
/// Written `POD-NAMESPACE/OWNER/CONTAINER`, or `POD-NAMESPACE/CONTAINER` where owner and container have
/// one name, and `NAMESPACE:REPOSITORY` for a container without a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Workload(String);

impl Workload {
    /// The workload of a container in a pod.
    pub fn of_pod(pod: &Pod, container: &str, pod_labels: &[(String, String)]) -> Self {
        let owner = owner(&pod.name, pod_labels);
        if owner == container {
            Self(format!("{}/{container}", pod.namespace))
        } else {
            Self(format!("{}/{owner}/{container}", pod.namespace))
        }
    }

    /// The workload of a container that no pod owns.
    pub fn of_image(namespace: &str, repository: &str) -> Self {
        Self(format!("{namespace}:{repository}"))
    }

    /// A workload that another process has worked out.
    pub fn from_text(text: String) -> Self {
        Self(text)
    }

    /// The workload as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The controller's name, by the suffixes that Kubernetes' controllers give to pod names:
///
/// | pod label | pod name | owner |
/// |---|---|---|
/// | `pod-template-hash=H` | `OWNER-H-xxxxx` | Deployment |
/// | `controller-revision-hash`, `apps.kubernetes.io/pod-index=N` | `OWNER-N` | StatefulSet |
/// | `controller-revision-hash` | `OWNER-xxxxx` | DaemonSet |
/// | `job-name`, `batch.kubernetes.io/job-name` | `OWNER-xxxxx` | Job; a CronJob's minutes are dropped |
/// | none of these | `OWNER` | the pod itself |
fn owner(pod_name: &str, pod_labels: &[(String, String)]) -> String {
    let label = |name: &str| {
        pod_labels
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    };
    if let Some(hash) = label("pod-template-hash")
        && let Some((owner, _)) = pod_name.rsplit_once(&format!("-{hash}"))
    {
        return owner.to_owned();
    }
    if let Some(job) = label("batch.kubernetes.io/job-name").or_else(|| label("job-name")) {
        let scheduled = job.rsplit_once('-').filter(|(_, minutes)| {
            minutes.len() >= 8 && minutes.bytes().all(|byte| byte.is_ascii_digit())
        });
        return scheduled.map_or(job, |(cron_job, _)| cron_job).to_owned();
    }
    if label("controller-revision-hash").is_some()
        && let Some((owner, _)) = pod_name.rsplit_once('-')
    {
        return owner.to_owned();
    }
    pod_name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(pod_name: &str, container: &str, labels: &[(&str, &str)]) -> String {
        let pod = Pod {
            name: pod_name.into(),
            namespace: "shop".into(),
            uid: "u".into(),
        };
        let labels: Vec<_> = labels
            .iter()
            .map(|(k, v)| ((*k).into(), (*v).into()))
            .collect();
        Workload::of_pod(&pod, container, &labels)
            .as_str()
            .to_owned()
    }

    #[test]
    fn replicas_of_one_controller_are_one_workload() {
        let hash = [("pod-template-hash", "7d4b9c")];
        assert_eq!(workload("api-7d4b9c-x2x4z", "api", &hash), "shop/api");
        assert_eq!(
            workload("api-7d4b9c-x2x4z", "proxy", &hash),
            "shop/api/proxy"
        );
        assert_eq!(
            workload("db-0", "pg", &[("controller-revision-hash", "db-6")]),
            "shop/db/pg"
        );
        assert_eq!(
            workload(
                "sweep-29384710-abcde",
                "c",
                &[("job-name", "sweep-29384710")]
            ),
            "shop/sweep/c"
        );
        assert_eq!(workload("alone", "c", &[]), "shop/alone/c");
    }

    #[test]
    fn a_container_without_a_pod_belongs_to_its_repository() {
        assert_eq!(
            Workload::of_image("default", "docker.io/library/nginx").as_str(),
            "default:docker.io/library/nginx"
        );
    }
}
