//! containerd over its socket: the one implementation of [`Runtime`].
//!
//! Every call has a deadline, every answer a bound. `Tasks.List` is never called: one hung shim blocks
//! it for all. A gRPC channel reconnects by itself, but to whatever it was made for: the event loop
//! ([`super::events`]) replaces it when the socket file is another.
//!
//! Long because every call of the seam stands here with its deadline and its bound.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use containerd_client::services::v1 as api;
use containerd_client::tonic::transport::{Channel, Endpoint};
use containerd_client::tonic::{Code, Request, Response, Status, Streaming};
use holdfast_core::container::ContainerKey;
use holdfast_core::digest::Digest;
use tokio::sync::mpsc;

use super::envelope::Counts;
use super::events::{self, Event};
use super::kernel::shown;
use super::sockets::SocketFile;
use super::{
    CallError, ContainerRecord, ImageRecord, Mount, Roots, Runtime, Snapshot, SnapshotKind, Task,
    convert,
};

/// Largest message that we take: what containerd sends at most.
pub(super) const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// Containers of one namespace, an order above what a kubelet allows.
const MAX_CONTAINERS: usize = 10_000;
/// Snapshots of one chain: an image's layers, and what may stand above them.
const MAX_CHAIN: usize = holdfast_core::image::MAX_LAYERS + 16;

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Of every call.
    pub deadline: Duration,
    /// Between two questions whether the daemon still answers: a stopped one closes no stream.
    pub probe_interval: Duration,
    /// Of that question.
    pub probe_deadline: Duration,
    /// Between two looks at the socket file.
    pub socket_interval: Duration,
    /// First pause before connecting again; doubles.
    pub backoff_first: Duration,
    /// Longest pause.
    pub backoff_last: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            probe_interval: Duration::from_secs(5),
            probe_deadline: Duration::from_secs(5),
            socket_interval: Duration::from_secs(1),
            backoff_first: Duration::from_millis(100),
            backoff_last: Duration::from_secs(5),
        }
    }
}

/// A containerd.
#[derive(Debug)]
pub struct Containerd {
    socket: PathBuf,
    pub(super) timing: Timing,
    pub(super) counts: Counts,
    link: Mutex<Link>,
}

/// A channel and the socket file that it was made for.
#[derive(Clone, Debug)]
struct Link {
    channel: Channel,
    file: Option<SocketFile>,
}

impl Containerd {
    /// A client of the daemon behind `socket`; connects at the first call.
    pub fn new(socket: PathBuf, timing: Timing) -> Self {
        let link = Link {
            channel: lazy_channel(&socket),
            file: None,
        };
        Self {
            socket,
            timing,
            counts: Counts::default(),
            link: Mutex::new(link),
        }
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What the event stream brought.
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Asks the daemon for its version: the cheapest question that proves an answer.
    pub async fn version(&self, deadline: Duration) -> Result<String, CallError> {
        let mut client = api::version_client::VersionClient::new(self.channel());
        let answer = within(deadline, client.version(request((), None, deadline)?)).await?;
        Ok(shown(answer.version.as_bytes()))
    }

    /// Makes a new channel, for the socket file that is there now.
    pub(super) fn reconnect(&self) -> Result<(), CallError> {
        let file = SocketFile::at(&self.socket).ok_or_else(|| CallError::Unreachable {
            message: "no socket at the path".to_owned(),
        })?;
        *self.lock() = Link {
            channel: lazy_channel(&self.socket),
            file: Some(file),
        };
        Ok(())
    }

    /// Whether the socket file is no longer the one that the channel was made for.
    pub(super) fn is_socket_replaced(&self) -> bool {
        SocketFile::at(&self.socket) != self.lock().file
    }

    pub(super) fn channel(&self) -> Channel {
        self.lock().channel.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    const fn deadline(&self) -> Duration {
        self.timing.deadline
    }

    fn ask<T>(&self, message: T, namespace: &str) -> Result<Request<T>, CallError> {
        request(message, Some(namespace), self.deadline())
    }

    fn containers_client(&self) -> api::containers_client::ContainersClient<Channel> {
        api::containers_client::ContainersClient::new(self.channel())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    fn snapshots_client(&self) -> api::snapshots::snapshots_client::SnapshotsClient<Channel> {
        api::snapshots::snapshots_client::SnapshotsClient::new(self.channel())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    async fn stat(
        &self,
        namespace: &str,
        snapshotter: &str,
        key: &str,
    ) -> Result<(Snapshot, String), CallError> {
        let message = api::snapshots::StatSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
        };
        let mut client = self.snapshots_client();
        let answer = within(self.deadline(), client.stat(self.ask(message, namespace)?)).await?;
        let info = answer.info.ok_or(CallError::Malformed { field: "info" })?;
        let kind = match info.kind() {
            api::snapshots::Kind::Active => SnapshotKind::Active,
            api::snapshots::Kind::Committed => SnapshotKind::Committed,
            api::snapshots::Kind::View => SnapshotKind::View,
            api::snapshots::Kind::Unknown => return Err(CallError::Malformed { field: "kind" }),
        };
        let snapshot = Snapshot {
            key: info.name,
            kind,
        };
        Ok((snapshot, info.parent))
    }
}

impl Runtime for Containerd {
    async fn namespaces(&self) -> Result<Vec<String>, CallError> {
        let mut client = api::namespaces_client::NamespacesClient::new(self.channel())
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let message = api::ListNamespacesRequest::default();
        let asked = request(message, None, self.deadline())?;
        let answer = within(self.deadline(), client.list(asked)).await?;
        Ok(answer
            .namespaces
            .into_iter()
            .map(|each| each.name)
            .collect())
    }

    async fn containers(&self, namespace: &str) -> Result<Vec<ContainerRecord>, CallError> {
        let asked = self.ask(api::ListContainersRequest::default(), namespace)?;
        let mut client = self.containers_client();
        let listing = async {
            let mut stream = client.list_stream(asked).await?.into_inner();
            collect_containers(&mut stream, namespace).await
        };
        bounded(self.deadline(), listing).await?
    }

    async fn container(&self, key: &ContainerKey) -> Result<ContainerRecord, CallError> {
        let message = api::GetContainerRequest { id: key.id.clone() };
        let asked = self.ask(message, &key.namespace)?;
        let mut client = self.containers_client();
        let answer = within(self.deadline(), client.get(asked)).await?;
        let container = answer
            .container
            .ok_or(CallError::Malformed { field: "container" })?;
        Ok(convert::container(&key.namespace, container))
    }

    async fn task(&self, key: &ContainerKey) -> Result<Task, CallError> {
        let message = api::GetRequest {
            container_id: key.id.clone(),
            exec_id: String::new(),
        };
        let asked = self.ask(message, &key.namespace)?;
        let mut client = api::tasks_client::TasksClient::new(self.channel());
        let answer = within(self.deadline(), client.get(asked)).await?;
        convert::task(
            &answer
                .process
                .ok_or(CallError::Malformed { field: "process" })?,
        )
    }

    async fn chain(
        &self,
        namespace: &str,
        snapshotter: &str,
        snapshot_key: &str,
    ) -> Result<Vec<Snapshot>, CallError> {
        let mut chain = Vec::new();
        let mut key = snapshot_key.to_owned();
        while !key.is_empty() {
            // Also the way out of a chain that leads back into itself.
            if chain.len() >= MAX_CHAIN {
                return Err(too_large(MAX_CHAIN));
            }
            let (snapshot, parent) = self.stat(namespace, snapshotter, &key).await?;
            chain.push(snapshot);
            key = parent;
        }
        Ok(chain)
    }

    async fn mounts(
        &self,
        namespace: &str,
        snapshotter: &str,
        snapshot_key: &str,
    ) -> Result<Vec<Mount>, CallError> {
        let message = api::snapshots::MountsRequest {
            snapshotter: snapshotter.to_owned(),
            key: snapshot_key.to_owned(),
        };
        let mut client = self.snapshots_client();
        let asked = self.ask(message, namespace)?;
        let answer = within(self.deadline(), client.mounts(asked)).await?;
        Ok(answer.mounts.into_iter().map(convert::mount).collect())
    }

    async fn images(&self, namespace: &str) -> Result<Vec<ImageRecord>, CallError> {
        let mut client = api::images_client::ImagesClient::new(self.channel())
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let asked = self.ask(api::ListImagesRequest::default(), namespace)?;
        let answer = within(self.deadline(), client.list(asked)).await?;
        // A record whose target is no SHA-256 digest cannot be a candidate, and hides no other.
        Ok(answer
            .images
            .into_iter()
            .filter_map(convert::image)
            .collect())
    }

    async fn read_blob(
        &self,
        namespace: &str,
        digest: Digest,
        limit: u64,
    ) -> Result<Vec<u8>, CallError> {
        let message = api::ReadContentRequest {
            digest: digest.to_string(),
            offset: 0,
            size: 0,
        };
        let asked = self.ask(message, namespace)?;
        let mut client = api::content_client::ContentClient::new(self.channel())
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let reading = async {
            let mut stream = client.read(asked).await?.into_inner();
            collect(&mut stream, limit).await
        };
        bounded(self.deadline(), reading).await?
    }

    async fn roots(&self) -> Result<Roots, CallError> {
        let message = api::PluginsRequest {
            filters: vec![
                "type==io.containerd.content.v1".to_owned(),
                "type==io.containerd.snapshotter.v1".to_owned(),
            ],
        };
        let mut client = api::introspection_client::IntrospectionClient::new(self.channel());
        let asked = request(message, None, self.deadline())?;
        let answer = within(self.deadline(), client.plugins(asked)).await?;
        Ok(convert::roots(answer.plugins))
    }

    async fn watch(&self, events: mpsc::Sender<Event>) {
        events::watch(self, &events).await;
    }
}

async fn collect_containers(
    stream: &mut Streaming<api::ListContainerMessage>,
    namespace: &str,
) -> Result<Result<Vec<ContainerRecord>, CallError>, Status> {
    let mut records = Vec::new();
    while let Some(message) = stream.message().await? {
        if records.len() >= MAX_CONTAINERS {
            return Ok(Err(too_large(MAX_CONTAINERS)));
        }
        records.push(convert::container(
            namespace,
            message.container.unwrap_or_default(),
        ));
    }
    Ok(Ok(records))
}

async fn collect(
    stream: &mut Streaming<api::ReadContentResponse>,
    limit: u64,
) -> Result<Result<Vec<u8>, CallError>, Status> {
    let mut content = Vec::new();
    while let Some(part) = stream.message().await? {
        content.extend_from_slice(&part.data);
        if u64::try_from(content.len()).is_ok_and(|length| length > limit) {
            return Ok(Err(CallError::TooLarge { limit }));
        }
    }
    Ok(Ok(content))
}

fn too_large(limit: usize) -> CallError {
    CallError::TooLarge {
        limit: u64::try_from(limit).unwrap_or(u64::MAX),
    }
}

fn lazy_channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    // The URI is never looked at: the connector knows where to go.
    Endpoint::from_static("http://containerd").connect_with_connector_lazy(tower::service_fn(
        move |_uri| {
            let socket = socket.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(socket).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        },
    ))
}

/// A request with its namespace, and a deadline that containerd knows too: it gives up when we do.
pub(super) fn request<T>(
    message: T,
    namespace: Option<&str>,
    deadline: Duration,
) -> Result<Request<T>, CallError> {
    let mut request = Request::new(message);
    if let Some(namespace) = namespace {
        let value = namespace
            .parse()
            .map_err(|_not_ascii| CallError::Malformed { field: "namespace" })?;
        request.metadata_mut().insert("containerd-namespace", value);
    }
    request.set_timeout(deadline);
    Ok(request)
}

/// One answer within the deadline.
pub(super) async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CallError> {
    bounded(deadline, call).await.map(Response::into_inner)
}

async fn bounded<T>(
    deadline: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, CallError> {
    let seconds = deadline.as_secs();
    match tokio::time::timeout(deadline, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(status)) => Err(from_status(&status, seconds)),
        Err(_elapsed) => Err(CallError::Deadline { seconds }),
    }
}

/// The error of a call that failed.
pub(super) fn from_status(status: &Status, seconds: u64) -> CallError {
    let message = || shown(status.message().as_bytes());
    match status.code() {
        Code::NotFound => CallError::NotFound,
        Code::Unavailable => CallError::Unreachable { message: message() },
        Code::DeadlineExceeded | Code::Cancelled => CallError::Deadline { seconds },
        code => CallError::Refused {
            code: code.into(),
            message: message(),
        },
    }
}
