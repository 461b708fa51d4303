//! A small client of the Container Runtime Interface: pods and their containers as the kubelet makes them.
//!
//! Pods are on the host's network, so that no network plug-in is needed.

use std::collections::HashMap;
use std::path::Path;

use containerd_client::tonic::transport::Channel;

use self::v1::image_service_client::ImageServiceClient;
use self::v1::runtime_service_client::RuntimeServiceClient;
use crate::wait;

#[allow(
    warnings,
    clippy::allow_attributes,
    clippy::all,
    clippy::pedantic,
    reason = "generated"
)]
mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// A pod as the kubelet describes it.
#[derive(Clone, Debug)]
pub struct PodSpec {
    /// Pod name.
    pub name: String,
    /// Pod namespace.
    pub namespace: String,
    /// Pod UID.
    pub uid: String,
    /// The pod's own labels.
    pub labels: HashMap<String, String>,
}

impl PodSpec {
    /// A pod with these names and labels.
    pub fn new(namespace: &str, name: &str, labels: &[(&str, &str)]) -> Self {
        Self {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            uid: format!("uid-of-{namespace}-{name}"),
            labels: labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    /// What the kubelet adds to labels of a sandbox and, with `container`, of a container.
    fn kubelet_labels(&self, container: Option<&str>) -> HashMap<String, String> {
        let mut labels = HashMap::from([
            ("io.kubernetes.pod.name".to_owned(), self.name.clone()),
            (
                "io.kubernetes.pod.namespace".to_owned(),
                self.namespace.clone(),
            ),
            ("io.kubernetes.pod.uid".to_owned(), self.uid.clone()),
        ]);
        match container {
            Some(name) => {
                labels.insert("io.kubernetes.container.name".to_owned(), name.to_owned());
            }
            None => labels.extend(self.labels.clone()),
        }
        labels
    }

    fn sandbox_config(&self) -> v1::PodSandboxConfig {
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: self.name.clone(),
                uid: self.uid.clone(),
                namespace: self.namespace.clone(),
                attempt: 0,
            }),
            labels: self.kubelet_labels(None),
            linux: Some(v1::LinuxPodSandboxConfig {
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(host_network()),
                }),
            }),
            ..v1::PodSandboxConfig::default()
        }
    }
}

/// A running pod sandbox.
#[derive(Clone, Debug)]
pub struct Pod {
    /// containerd's container id of the sandbox.
    pub id: String,
    /// What it was made from.
    pub spec: PodSpec,
}

/// A volume, or a file, as the kubelet asks for it.
#[derive(Clone, Debug)]
pub struct PodMount(v1::Mount);

impl PodMount {
    /// What the host has at `source`, writable, taking no mounts from the host.
    pub fn new(source: impl AsRef<Path>, destination: &str) -> Self {
        let source = source.as_ref().to_str().expect("a path of ours");
        Self(v1::Mount {
            container_path: destination.to_owned(),
            host_path: source.to_owned(),
            ..v1::Mount::default()
        })
    }

    /// Not writable.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.0.readonly = true;
        self
    }

    /// Mounts that the host makes below it later appear in the container.
    #[must_use]
    pub fn taking_mounts_of_the_host(mut self) -> Self {
        self.0
            .set_propagation(v1::MountPropagation::PropagationHostToContainer);
        self
    }
}

/// A connection to containerd's CRI plug-in.
#[derive(Clone, Debug)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

impl Cri {
    /// Connects, and waits until the plug-in knows the image that sandboxes run.
    pub async fn connect(socket: &Path) -> Self {
        let channel = containerd_client::connect(socket).await.unwrap();
        let mut cri = Self {
            runtime: RuntimeServiceClient::new(channel.clone()),
            images: ImageServiceClient::new(channel),
        };
        cri.known(crate::containerd::PAUSE_IMAGE).await;
        cri
    }

    /// Waits until the plug-in knows an image that was imported, and gives its image ID.
    pub async fn known(&mut self, image: &str) -> String {
        let what = format!("the CRI plug-in knows {image}");
        wait::until(&what, async || {
            let request = v1::ImageStatusRequest {
                image: Some(spec(image)),
            };
            let response = self.images.image_status(request).await.ok()?;
            Some(response.into_inner().image?.id)
        })
        .await
    }

    /// Pulls an image from a registry and gives the reference that the plug-in has resolved.
    pub async fn pull(&mut self, image: &str) -> String {
        let request = v1::PullImageRequest {
            image: Some(spec(image)),
        };
        let response = self.images.pull_image(request).await.unwrap();
        response.into_inner().image_ref
    }

    /// Removes an image with all its names.
    pub async fn remove_image(&mut self, image: &str) {
        let request = v1::RemoveImageRequest {
            image: Some(spec(image)),
        };
        self.images.remove_image(request).await.unwrap();
    }

    /// Starts a sandbox.
    pub async fn run_pod(&mut self, spec: &PodSpec) -> Pod {
        let request = v1::RunPodSandboxRequest {
            config: Some(spec.sandbox_config()),
        };
        let response = self.runtime.run_pod_sandbox(request).await.unwrap();
        Pod {
            id: response.into_inner().pod_sandbox_id,
            spec: spec.clone(),
        }
    }

    /// Starts a container with the image's own command in a pod, and gives its id.
    pub async fn run_container(&mut self, pod: &Pod, name: &str, image: &str) -> String {
        self.run_container_with(pod, name, image, &[]).await
    }

    /// Like [`run_container`](Self::run_container), with volumes.
    pub async fn run_container_with(
        &mut self,
        pod: &Pod,
        name: &str,
        image: &str,
        mounts: &[PodMount],
    ) -> String {
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: name.to_owned(),
                attempt: 0,
            }),
            image: Some(spec(image)),
            mounts: mounts.iter().map(|mount| mount.0.clone()).collect(),
            labels: pod.spec.kubelet_labels(Some(name)),
            linux: Some(v1::LinuxContainerConfig {
                security_context: Some(v1::LinuxContainerSecurityContext {
                    namespace_options: Some(host_network()),
                }),
            }),
            ..v1::ContainerConfig::default()
        };
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.spec.sandbox_config()),
        };
        let response = self.runtime.create_container(request).await.unwrap();
        let container_id = response.into_inner().container_id;
        let request = v1::StartContainerRequest {
            container_id: container_id.clone(),
        };
        self.runtime.start_container(request).await.unwrap();
        container_id
    }

    /// Runs shell text in a container and gives what it printed.
    pub async fn exec(&mut self, container_id: &str, script: &str) -> String {
        let request = v1::ExecSyncRequest {
            container_id: container_id.to_owned(),
            cmd: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            timeout: 30,
        };
        let response = self.runtime.exec_sync(request).await.unwrap().into_inner();
        let printed = String::from_utf8_lossy(&response.stdout).into_owned();
        let said = String::from_utf8_lossy(&response.stderr);
        assert_eq!(response.exit_code, 0, "{script}: {printed}{said}");
        printed
    }

    /// Kills and removes a container.
    pub async fn remove_container(&mut self, container_id: &str) {
        let container_id = container_id.to_owned();
        let request = v1::StopContainerRequest {
            container_id: container_id.clone(),
            timeout: 0,
        };
        self.runtime.stop_container(request).await.unwrap();
        let request = v1::RemoveContainerRequest { container_id };
        self.runtime.remove_container(request).await.unwrap();
    }

    /// Stops and removes a sandbox with its containers.
    pub async fn remove_pod(&mut self, pod: &Pod) {
        let pod_sandbox_id = pod.id.clone();
        let request = v1::StopPodSandboxRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
        };
        self.runtime.stop_pod_sandbox(request).await.unwrap();
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id };
        self.runtime.remove_pod_sandbox(request).await.unwrap();
    }
}

fn spec(image: &str) -> v1::ImageSpec {
    v1::ImageSpec {
        image: image.to_owned(),
    }
}

fn host_network() -> v1::NamespaceOption {
    v1::NamespaceOption {
        network: v1::NamespaceMode::Node.into(),
        pid: v1::NamespaceMode::Container.into(),
        ipc: v1::NamespaceMode::Pod.into(),
    }
}
