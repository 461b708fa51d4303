//! What an envelope of containerd's event stream says. Pure. Anybody with the socket can publish one:
//! names are bounded, topics are counted in a closed set, and what does not decode is counted apart.

use std::sync::atomic::{AtomicU64, Ordering};

use containerd_client::events as wire;
use containerd_client::services::v1 as api;
use containerd_client::types::Envelope;
use holdfast_core::container::ContainerKey;
use prost::Message;

use super::events::Event;

/// Longest name in an event; containerd's own limit for ids is 76, for image names below this.
const MAX_NAME_BYTES: usize = 1024;

macro_rules! topics {
    ($($variant:ident = $name:literal,)*) => {
        /// Topics as they are counted: a closed set, because anybody can publish any topic.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the names say it: containerd's topics")]
        pub enum Topic { $($variant,)* }

        impl Topic {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in labels.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            fn of(topic: &str) -> Self {
                match topic { $($name => Self::$variant,)* _ => Self::Other }
            }
        }

        /// What came, by topic.
        #[derive(Debug, Default)]
        #[expect(non_snake_case, reason = "one counter for each variant")]
        struct ByTopic { $($variant: AtomicU64,)* }

        impl ByTopic {
            const fn of(&self, topic: Topic) -> &AtomicU64 {
                match topic { $(Topic::$variant => &self.$variant,)* }
            }
        }
    };
}

topics! {
    TaskCreate = "/tasks/create",
    TaskStart = "/tasks/start",
    TaskExit = "/tasks/exit",
    TaskDelete = "/tasks/delete",
    TaskPaused = "/tasks/paused",
    TaskResumed = "/tasks/resumed",
    TaskOom = "/tasks/oom",
    ExecAdded = "/tasks/exec-added",
    ExecStarted = "/tasks/exec-started",
    ContainerCreate = "/containers/create",
    ContainerUpdate = "/containers/update",
    ContainerDelete = "/containers/delete",
    ImageCreate = "/images/create",
    ImageUpdate = "/images/update",
    ImageDelete = "/images/delete",
    SnapshotPrepare = "/snapshot/prepare",
    SnapshotCommit = "/snapshot/commit",
    SnapshotRemove = "/snapshot/remove",
    Malformed = "malformed",
    Other = "other",
}

/// What the event stream brought.
#[derive(Debug, Default)]
pub struct Counts {
    received: ByTopic,
    gaps: AtomicU64,
}

impl Counts {
    pub(super) fn count(&self, topic: Topic) {
        self.received.of(topic).fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_gap(&self) {
        self.gaps.fetch_add(1, Ordering::Relaxed);
    }

    /// Events of a topic.
    pub fn received(&self, topic: Topic) -> u64 {
        self.received.of(topic).load(Ordering::Relaxed)
    }

    /// How often events were dropped because the channel was full.
    pub fn gaps(&self) -> u64 {
        self.gaps.load(Ordering::Relaxed)
    }
}

/// Topic and event of an envelope; no event for topics that change nothing we look at.
pub(super) fn read(envelope: &Envelope) -> (Topic, Option<Event>) {
    let topic = Topic::of(&envelope.topic);
    let content = envelope.event.as_ref();
    let content = content.map_or(&[][..], |any| any.value.as_slice());
    match decode(topic, &envelope.namespace, content) {
        Decoded::Event(event) => (topic, Some(event)),
        Decoded::Unused => (topic, None),
        Decoded::Malformed => (Topic::Malformed, None),
    }
}

/// What an envelope holds.
#[derive(Debug, PartialEq, Eq)]
enum Decoded {
    Event(Event),
    /// Nothing that we look at.
    Unused,
    /// Not what its topic says.
    Malformed,
}

fn decode(topic: Topic, namespace: &str, content: &[u8]) -> Decoded {
    match topic {
        Topic::TaskStart
        | Topic::TaskExit
        | Topic::ContainerUpdate
        | Topic::ContainerDelete
        | Topic::ImageCreate
        | Topic::ImageUpdate
        | Topic::ImageDelete
        | Topic::SnapshotRemove => {
            let Some(subject) = subject(topic, content) else {
                return Decoded::Malformed;
            };
            event(topic, namespace, subject)
        }
        _ => Decoded::Unused,
    }
}

/// What an event is about: the name in its first field, and the process of an exit.
struct About {
    name: String,
    process: Option<String>,
}

fn subject(topic: Topic, content: &[u8]) -> Option<About> {
    let mut process = None;
    let name = match topic {
        Topic::TaskStart => wire::TaskStart::decode(content).ok()?.container_id,
        Topic::TaskExit => {
            let exit = wire::TaskExit::decode(content).ok()?;
            process = Some(exit.id);
            exit.container_id
        }
        Topic::ContainerUpdate => wire::ContainerUpdate::decode(content).ok()?.id,
        Topic::ContainerDelete => wire::ContainerDelete::decode(content).ok()?.id,
        Topic::ImageCreate => api::ImageCreate::decode(content).ok()?.name,
        Topic::ImageUpdate => api::ImageUpdate::decode(content).ok()?.name,
        Topic::ImageDelete => api::ImageDelete::decode(content).ok()?.name,
        Topic::SnapshotRemove => wire::SnapshotRemove::decode(content).ok()?.key,
        _ => return None,
    };
    Some(About { name, process })
}

fn event(topic: Topic, namespace: &str, about: About) -> Decoded {
    let About { name, process } = about;
    if !is_bounded(namespace) || !is_bounded(&name) {
        return Decoded::Malformed;
    }
    // The end of a process that was started beside the first one.
    if process.is_some_and(|process| process != name) {
        return Decoded::Unused;
    }
    let namespace = namespace.to_owned();
    let key = |id| ContainerKey {
        namespace: namespace.clone(),
        id,
    };
    Decoded::Event(match topic {
        Topic::TaskStart => Event::TaskStarted(key(name)),
        Topic::TaskExit => Event::TaskExited(key(name)),
        Topic::ContainerUpdate => Event::ContainerChanged(key(name)),
        Topic::ContainerDelete => Event::ContainerDeleted(key(name)),
        Topic::SnapshotRemove => Event::SnapshotRemoved {
            namespace,
            key: name,
        },
        _ => Event::ImageChanged { namespace, name },
    })
}

fn is_bounded(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME_BYTES
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn envelope(topic: &str, event: &impl Message) -> Envelope {
        Envelope {
            timestamp: None,
            namespace: "n".into(),
            topic: topic.into(),
            event: Some(prost_types::Any {
                type_url: String::new(),
                value: event.encode_to_vec(),
            }),
        }
    }

    fn key(id: &str) -> ContainerKey {
        ContainerKey {
            namespace: "n".into(),
            id: id.into(),
        }
    }

    #[test]
    fn the_end_of_an_exec_is_not_the_end_of_the_task() {
        let exit = |id: &str| wire::TaskExit {
            container_id: "c".into(),
            id: id.into(),
            ..wire::TaskExit::default()
        };

        let of_task = read(&envelope("/tasks/exit", &exit("c")));
        assert_eq!(
            of_task,
            (Topic::TaskExit, Some(Event::TaskExited(key("c"))))
        );
        assert_eq!(
            read(&envelope("/tasks/exit", &exit("e"))),
            (Topic::TaskExit, None)
        );
    }

    #[test]
    fn what_anybody_may_publish_is_bounded_and_counted_apart() {
        let start = |id: String| wire::TaskStart {
            container_id: id,
            pid: 1,
        };

        let unknown = read(&envelope("/x/y", &start("c".into())));
        assert_eq!(unknown, (Topic::Other, None));
        let long = read(&envelope(
            "/tasks/start",
            &start("c".repeat(MAX_NAME_BYTES + 1)),
        ));
        assert_eq!(long, (Topic::Malformed, None));
        let empty = read(&envelope("/tasks/start", &start(String::new())));
        assert_eq!(empty, (Topic::Malformed, None));
        assert_eq!(Topic::of("other"), Topic::Other);
    }

    fn name(event: &Event) -> &str {
        match event {
            Event::TaskStarted(key)
            | Event::TaskExited(key)
            | Event::ContainerChanged(key)
            | Event::ContainerDeleted(key) => &key.id,
            Event::SnapshotRemoved { key: name, .. } | Event::ImageChanged { name, .. } => name,
            other => panic!("no envelope gives {other:?}"),
        }
    }

    proptest! {
        /// Mutations of a genuine event: random bytes alone hardly ever decode.
        #[test]
        fn a_damaged_event_is_malformed_or_within_its_bounds(
            id in prop_oneof!["[a-z]{0,20}", "[a-z]{1000,1100}"],
            topic in 0..Topic::ALL.len(),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        ) {
            let exit = wire::TaskExit { container_id: id.clone(), id, pid: 7, ..wire::TaskExit::default() };
            let mut content = exit.encode_to_vec();
            for (at, byte) in flips {
                let at = at.index(content.len());
                content[at] = byte;
            }
            if let Decoded::Event(event) = decode(Topic::ALL[topic], "n", &content) {
                prop_assert!(is_bounded(name(&event)));
            }
        }

        #[test]
        fn no_content_makes_the_decoder_panic(content: Vec<u8>, topic in 0..Topic::ALL.len()) {
            let topic = Topic::ALL[topic];
            let is_event = matches!(decode(topic, "n", &content), Decoded::Event(_));
            prop_assert!(!is_event || decode(topic, "", &content) == Decoded::Malformed);
        }
    }
}
