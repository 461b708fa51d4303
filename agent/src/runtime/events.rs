//! containerd's event stream: a hint that something changed, never the truth about it.
//!
//! The stream has no replay and no veto, and anybody with the socket can publish into it. So: subscribe,
//! prove the subscription, say [`Event::Connected`], and let the caller list. It is drained eagerly into
//! a bounded channel, because a slow reader makes containerd's memory grow; what does not fit is counted
//! and becomes one [`Event::ListAgain`].
//!
//! containerd sends nothing when a subscription begins, so nobody could tell when it is safe to list.
//! A marker, published until it comes back, tells: its topic is ours, its content empty.

use std::hash::{BuildHasher, Hasher};
use std::pin::pin;
use std::time::Duration;

use containerd_client::services::v1 as api;
use containerd_client::tonic::transport::Channel;
use containerd_client::tonic::{Request, Streaming};
use containerd_client::types::Envelope;
use holdfast_core::container::ContainerKey;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::CallError;
use super::containerd::{Containerd, MAX_MESSAGE_BYTES, from_status, request, within};
use super::envelope::read;

/// Pause between two markers.
const MARKER_INTERVAL: Duration = Duration::from_millis(50);
/// Prefix of the markers' topics.
const MARKER_TOPIC: &str = "/holdfast/subscribed/";

/// What happened. Each is a reason to look, none is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Subscribed: list now, everything since the last list may have been missed.
    Connected,
    /// The connection is lost, or could not be made; more follow while it lasts, one for each cause.
    Disconnected {
        /// Why.
        reason: Lost,
    },
    /// Events were dropped because this channel was full: list again.
    ListAgain,
    /// A task started.
    TaskStarted(ContainerKey),
    /// A task's first process ended.
    TaskExited(ContainerKey),
    /// A container's definition changed.
    ContainerChanged(ContainerKey),
    /// A container was deleted.
    ContainerDeleted(ContainerKey),
    /// An image name was made, moved or deleted.
    ImageChanged {
        /// Namespace.
        namespace: String,
        /// The name.
        name: String,
    },
    /// A snapshot was removed.
    SnapshotRemoved {
        /// Namespace.
        namespace: String,
        /// Its key.
        key: String,
    },
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The stream ended or broke, or the subscription was refused.
    #[error("event stream: {0}")]
    Stream(CallError),
    /// The daemon does not answer: stopped, or hung.
    #[error("runtime does not answer: {0}")]
    Silent(CallError),
    /// Another daemon listens at the path.
    #[error("the socket was replaced")]
    SocketReplaced,
}

impl Lost {
    /// The name in findings, labels and `/readyz`.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Stream(_) => "event-stream",
            Self::Silent(_) => "runtime-silent",
            Self::SocketReplaced => "socket-replaced",
        }
    }
}

/// How a session ended.
enum End {
    ReceiverGone,
    Lost(Lost),
}

/// Keeps a subscription until the receiver is gone.
pub(super) async fn watch(containerd: &Containerd, events: &Sender<Event>) {
    let mut pause = containerd.timing.backoff_first;
    let mut told = None;
    loop {
        let reason = match session(containerd, events, &mut told).await {
            End::ReceiverGone => return,
            End::Lost(reason) => reason,
        };
        if told.is_none() {
            pause = containerd.timing.backoff_first;
        }
        if told.as_ref() != Some(&reason) {
            told = Some(reason.clone());
            if events.send(Event::Disconnected { reason }).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = events.closed() => return,
            () = tokio::time::sleep(jittered(pause)) => {}
        }
        pause = pause.saturating_mul(2).min(containerd.timing.backoff_last);
    }
}

/// One connection: subscribe, prove it, say so, drain until it is lost. `told` is cleared once it stands.
async fn session(containerd: &Containerd, events: &Sender<Event>, told: &mut Option<Lost>) -> End {
    let mut stream = match subscribe(containerd).await {
        Ok(stream) => stream,
        Err(error @ (CallError::Deadline { .. } | CallError::ShimSilent)) => {
            return End::Lost(Lost::Silent(error));
        }
        Err(error) => return End::Lost(Lost::Stream(error)),
    };
    *told = None;
    let mut alive = pin!(liveness(containerd));
    // The first thing to be sent: before it, the caller must believe nothing to be complete.
    let mut due = Some(Event::Connected);
    loop {
        tokio::select! {
            reason = &mut alive => return End::Lost(reason),
            () = events.closed() => return End::ReceiverGone,
            permit = events.reserve(), if due.is_some() => {
                if let (Ok(permit), Some(event)) = (permit, due.take()) {
                    permit.send(event);
                }
            }
            message = stream.message() => match message {
                Ok(Some(envelope)) => on_envelope(containerd, events, &mut due, &envelope),
                Ok(None) => return End::Lost(Lost::Stream(CallError::Unreachable {
                    message: "the stream ended".to_owned(),
                })),
                Err(status) => return End::Lost(Lost::Stream(from_status(&status, 0))),
            },
        }
    }
}

/// A full channel drops the event and asks for a list: an event only makes us faster.
fn on_envelope(
    containerd: &Containerd,
    events: &Sender<Event>,
    due: &mut Option<Event>,
    envelope: &Envelope,
) {
    if envelope.topic.starts_with(MARKER_TOPIC) {
        return;
    }
    let counts = &containerd.counts;
    let (topic, event) = read(envelope);
    counts.count(topic);
    // Whatever is dropped while a list is due is covered by that list.
    let Some(event) = event.filter(|_| due.is_none()) else {
        return;
    };
    if let Err(TrySendError::Full(_dropped)) = events.try_send(event) {
        counts.count_gap();
        *due = Some(Event::ListAgain);
    }
}

/// Subscribes, and publishes markers until something comes back: from then on nothing is missed.
async fn subscribe(containerd: &Containerd) -> Result<Streaming<Envelope>, CallError> {
    containerd.reconnect()?;
    let mut client = events_client(containerd);
    // No deadline on the request: the stream is to stay.
    let subscribing = async move {
        let message = api::SubscribeRequest::default();
        client.subscribe(Request::new(message)).await
    };
    let mut subscribing = pin!(subscribing);
    let deadline = containerd.timing.probe_deadline;
    let seconds = deadline.as_secs();
    let marking = mark(containerd);
    let proving = async {
        tokio::select! {
            stream = &mut subscribing => stream.map_err(|status| from_status(&status, seconds)),
            error = marking => Err(error),
        }
    };
    let stream = tokio::time::timeout(deadline, proving)
        .await
        .map_err(|_elapsed| CallError::Deadline { seconds })??;
    Ok(stream.into_inner())
}

/// Publishes markers; ends only with an error.
async fn mark(containerd: &Containerd) -> CallError {
    let deadline = containerd.timing.probe_deadline;
    loop {
        let message = api::PublishRequest {
            topic: format!("{MARKER_TOPIC}n{:x}", random()),
            event: Some(prost_types::Any {
                type_url: "google.protobuf.Empty".to_owned(),
                value: Vec::new(),
            }),
        };
        let asked = match request(message, Some("holdfast"), deadline) {
            Ok(asked) => asked,
            Err(error) => return error,
        };
        let mut client = events_client(containerd);
        if let Err(error) = within(deadline, client.publish(asked)).await {
            return error;
        }
        tokio::time::sleep(MARKER_INTERVAL).await;
    }
}

fn events_client(containerd: &Containerd) -> api::events_client::EventsClient<Channel> {
    api::events_client::EventsClient::new(containerd.channel())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
}

/// Ends when the daemon no longer answers or is another. A stopped daemon's stream just stays silent.
async fn liveness(containerd: &Containerd) -> Lost {
    let timing = containerd.timing;
    let answering = async {
        loop {
            tokio::time::sleep(timing.probe_interval).await;
            if let Err(error) = containerd.version(timing.probe_deadline).await {
                return Lost::Silent(error);
            }
        }
    };
    let staying = async {
        while !containerd.is_socket_replaced() {
            tokio::time::sleep(timing.socket_interval).await;
        }
        Lost::SocketReplaced
    };
    tokio::select! {
        lost = answering => lost,
        lost = staying => lost,
    }
}

/// Between half of `pause` and all of it, so that many agents do not come back at once.
fn jittered(pause: Duration) -> Duration {
    let half = pause / 2;
    let nanos = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).max(1);
    half.saturating_add(Duration::from_nanos(random() % nanos))
}

/// Not for secrets: spreads pauses and tells markers apart.
fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::runtime::containerd::Timing;
    use crate::runtime::envelope::Topic;

    fn key(id: &str) -> ContainerKey {
        ContainerKey {
            namespace: "n".into(),
            id: id.into(),
        }
    }

    #[tokio::test]
    async fn a_full_channel_becomes_one_gap_and_one_list() {
        let containerd = Containerd::new("/nonexistent".into(), Timing::default());
        let (events, mut receiver) = tokio::sync::mpsc::channel(1);
        let started = containerd_client::events::TaskStart {
            container_id: "c".into(),
            pid: 1,
        };
        let start = Envelope {
            topic: Topic::TaskStart.as_str().into(),
            namespace: "n".into(),
            timestamp: None,
            event: Some(prost_types::Any {
                type_url: String::new(),
                value: started.encode_to_vec(),
            }),
        };
        let mut due = None;

        for _ in 0..3 {
            on_envelope(&containerd, &events, &mut due, &start);
        }

        assert_eq!(due, Some(Event::ListAgain));
        assert_eq!(containerd.counts().gaps(), 1);
        assert_eq!(containerd.counts().received(Topic::TaskStart), 3);
        assert_eq!(receiver.recv().await, Some(Event::TaskStarted(key("c"))));
    }

    #[tokio::test]
    async fn a_cause_is_said_once_however_long_it_lasts() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let timing = Timing {
            backoff_first: Duration::from_millis(1),
            backoff_last: Duration::from_millis(1),
            ..Timing::default()
        };
        let containerd = Containerd::new(socket.clone(), timing);
        let (events, mut receiver) = tokio::sync::mpsc::channel(8);
        let watching = watch(&containerd, &events);
        let hearing = async {
            let absent = receiver.recv().await.unwrap();
            // From now on the cause is another: nobody listens behind the file.
            drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
            let refused = receiver.recv().await.unwrap();
            (absent, refused)
        };

        let (absent, refused) = tokio::select! {
            () = watching => unreachable!("the receiver is there"),
            heard = hearing => heard,
        };

        assert_ne!(absent, refused);
        for event in [absent, refused] {
            let is_lost = matches!(
                event,
                Event::Disconnected {
                    reason: Lost::Stream(_)
                }
            );
            assert!(is_lost, "{event:?}");
        }
    }

    proptest! {
        #[test]
        fn a_pause_stays_within_its_bounds(millis in 1_u64..10_000) {
            let pause = Duration::from_millis(millis);
            let jittered = jittered(pause);
            prop_assert!(jittered >= pause / 2 && jittered <= pause);
        }
    }
}
