//! The runtime seam against a real containerd and runc: what it lists and hears, what it survives, and
//! what a container is found to be. Needs root and the Debian packages containerd, runc, busybox-static.
//!
//! Long because each case drives a real containerd through one story.

#![expect(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may panic, and reads what it made itself"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_agent::runtime::containerd::{Containerd, Timing};
use holdfast_agent::runtime::events::{Event, Lost};
use holdfast_agent::runtime::gather::Stop;
use holdfast_agent::runtime::identify::{
    ExtraKind, FirstSight, Identified, Identifier, Identity, bound,
};
use holdfast_agent::runtime::kernel::{Binding, WitnessFile, bind_lowers};
use holdfast_agent::runtime::{CallError, Runtime, TaskStatus, tasks_of};
use holdfast_core::container::ContainerKey;
use holdfast_core::digest::Digest;
use holdfast_core::finding::{Check, Detail, Severity};
use holdfast_core::image::{Image as Verified, MAX_DOCUMENT_BYTES};
use holdfast_tests::container::Container;
use holdfast_tests::containerd::Containerd as Daemon;
use holdfast_tests::image::{Digests, Image, Layout};
use holdfast_tests::layer::{Entry, Layer};
use holdfast_tests::wait;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const BASE: &str = "holdfast.invalid/base:1";
const OTHER: &str = "holdfast.invalid/other:1";

/// Quick enough for a test; a loaded machine only makes it slower, never wrong.
const TIMING: Timing = Timing {
    deadline: Duration::from_secs(10),
    probe_interval: Duration::from_millis(500),
    probe_deadline: Duration::from_secs(5),
    socket_interval: Duration::from_millis(50),
    backoff_first: Duration::from_millis(20),
    backoff_last: Duration::from_millis(200),
};

/// A daemon with the agent's view of it.
struct Node {
    daemon: Daemon,
    runtime: Arc<Containerd>,
    identifier: Identifier<Containerd>,
}

impl Node {
    async fn start() -> Self {
        let daemon = Daemon::start().await;
        let runtime = Arc::new(Containerd::new(daemon.socket(), TIMING));
        let expected = vec![daemon.namespace().to_owned()];
        let identifier = Identifier::new(Arc::clone(&runtime), expected);
        Self {
            daemon,
            runtime,
            identifier,
        }
    }

    /// With an image under each name.
    async fn with(images: &[(&str, &Image)]) -> (Self, Vec<Digests>) {
        let node = Self::start().await;
        let digests = images
            .iter()
            .map(|(name, image)| node.import(name, image))
            .collect();
        (node, digests)
    }

    fn import(&self, name: &str, image: &Image) -> Digests {
        let mut layout = Layout::new();
        let digests = layout.add(image, name);
        self.daemon.ctr().import(&layout);
        digests
    }

    fn key(&self, id: &str) -> ContainerKey {
        ContainerKey {
            namespace: self.daemon.namespace().to_owned(),
            id: id.to_owned(),
        }
    }

    async fn look(&self, id: &str) -> Identified {
        self.look_again(id, None, &[]).await
    }

    async fn look_again(
        &self,
        id: &str,
        first: Option<&FirstSight>,
        known: &[Arc<Verified>],
    ) -> Identified {
        self.identifier
            .look(&self.key(id), first, known)
            .await
            .unwrap()
    }

    fn watch(&self, tasks: &mut JoinSet<()>) -> mpsc::Receiver<Event> {
        let (events, receiver) = mpsc::channel(64);
        let runtime = Arc::clone(&self.runtime);
        tasks.spawn(async move { runtime.watch(events).await });
        receiver
    }
}

/// Waits for an event, passing over others.
async fn hear(events: &mut mpsc::Receiver<Event>, what: &str, is_wanted: impl Fn(&Event) -> bool) {
    let heard = async {
        while let Some(event) = events.recv().await {
            if is_wanted(&event) {
                return;
            }
        }
        panic!("{what}: the stream ended");
    };
    let heard = tokio::time::timeout(wait::LIMIT, heard).await;
    assert!(heard.is_ok(), "{what}: not heard");
}

async fn connected(events: &mut mpsc::Receiver<Event>) {
    hear(events, "connected", |event| *event == Event::Connected).await;
}

/// Kind, severity and reason or witness of each condition.
fn told(look: &Identified) -> Vec<(&'static str, Severity, String)> {
    let word = |detail: &Detail| match detail {
        Detail::Unverifiable(detail) => detail.reason.clone(),
        Detail::SnapshotMismatch(detail) | Detail::MountDrift(detail) => detail.witness.clone(),
        Detail::UnmanagedContainer(detail) => detail.reason.clone(),
        _ => String::new(),
    };
    let conditions = look.conditions.iter();
    conditions
        .map(|it| (it.detail.kind().as_str(), it.severity, word(&it.detail)))
        .collect()
}

fn due(
    kind: &'static str,
    severity: Severity,
    word: &str,
) -> Vec<(&'static str, Severity, String)> {
    vec![(kind, severity, word.to_owned())]
}

/// One regular file of each layer.
fn witnesses(identity: &Identity, files: &[&str]) -> Vec<WitnessFile> {
    let pairs = identity.layers.iter().zip(files);
    pairs
        .map(|(layer, path)| WitnessFile {
            path: path.as_bytes().to_vec(),
            lower: layer.lower.clone(),
        })
        .collect()
}

fn bindings(identity: &Identity, witnesses: &[WitnessFile]) -> Vec<Binding> {
    bind_lowers(identity.root.unwrap(), &identity.uppers(), witnesses).unwrap()
}

fn lower_first(container: &Container) -> Vec<PathBuf> {
    let mut lowers = container.lowers();
    lowers.reverse();
    lowers
}

#[tokio::test]
async fn a_container_is_listed_heard_of_and_identified() {
    let image = Image::busybox([Entry::file("opt/two", "2")]);
    let (node, digests) = Node::with(&[(BASE, &image)]).await;
    let mut tasks = JoinSet::new();
    let mut events = node.watch(&mut tasks);
    connected(&mut events).await;

    let container = node.daemon.ctr().run(BASE, "one");

    let key = node.key("one");
    hear(&mut events, "start", |event| {
        *event == Event::TaskStarted(key.clone())
    })
    .await;
    assert!(
        node.runtime
            .namespaces()
            .await
            .unwrap()
            .contains(&key.namespace)
    );
    let listed = node.runtime.containers(&key.namespace).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0].key, listed[0].image_name.as_str()),
        (&key, BASE)
    );
    let task = node.runtime.task(&key).await.unwrap();
    assert_eq!(
        (task.pid, task.status),
        (container.pid(), TaskStatus::Running)
    );

    let look = node.look("one").await;

    assert_eq!(told(&look), []);
    assert_eq!(look.done, [Check::Identity, Check::Digests]);
    assert_eq!(
        look.image.as_ref().unwrap().manifest_digest,
        Some(digests[0].manifest)
    );
    let identity = look.identity.unwrap();
    assert_eq!(identity.image.config_digest(), digests[0].config);
    let lowers: Vec<_> = identity
        .layers
        .iter()
        .map(|layer| layer.lower.clone())
        .collect();
    assert_eq!(lowers, lower_first(&container));
    assert_eq!(identity.upper, Some(container.upper()));
    let blobs: Vec<_> = identity
        .layers
        .iter()
        .map(|layer| layer.blob.digest)
        .collect();
    assert_eq!(blobs, digests[0].layers);
    assert_eq!(identity.layers[1].chain_id.0, digests[0].chain_id());

    container.remove();
    hear(&mut events, "exit", |event| {
        *event == Event::TaskExited(key.clone())
    })
    .await;
    hear(&mut events, "delete", |event| {
        *event == Event::ContainerDeleted(key.clone())
    })
    .await;
    let gone = node.identifier.look(&key, None, &[]).await;
    assert_eq!(gone.unwrap_err(), Stop::Gone);
    assert_eq!(node.runtime.task(&key).await, Err(CallError::NotFound));
}

#[tokio::test]
async fn blobs_are_read_within_their_bound_and_found_on_disk() {
    let (node, digests) = Node::with(&[(BASE, &Image::busybox([]))]).await;
    let (namespace, config) = (node.daemon.namespace(), digests[0].config);

    let bytes = node
        .runtime
        .read_blob(namespace, config, MAX_DOCUMENT_BYTES)
        .await
        .unwrap();

    assert_eq!(Digest::of(&bytes), config);
    let small = node.runtime.read_blob(namespace, config, 10).await;
    assert_eq!(small, Err(CallError::TooLarge { limit: 10 }));
    let none = node
        .runtime
        .read_blob(namespace, Digest::of(b"none"), 10)
        .await;
    assert_eq!(none, Err(CallError::NotFound));
    let roots = node.runtime.roots().await.unwrap();
    assert_eq!(roots.blob_path(config), Some(node.daemon.blob(config)));
    assert!(roots.snapshotters["overlayfs"].starts_with(node.daemon.root()));
}

#[tokio::test]
async fn a_killed_daemon_is_found_again_and_nothing_started_meanwhile_is_missed() {
    let (mut node, _) = Node::with(&[(BASE, &Image::busybox([]))]).await;
    let mut tasks = JoinSet::new();
    let mut events = node.watch(&mut tasks);
    connected(&mut events).await;
    node.daemon.ctr().run(BASE, "before");

    node.daemon.kill();
    hear(&mut events, "loss", |event| {
        matches!(event, Event::Disconnected { .. })
    })
    .await;
    let unreachable = node.runtime.namespaces().await.unwrap_err();
    assert!(
        matches!(unreachable, CallError::Unreachable { .. }),
        "{unreachable}"
    );
    node.daemon.restart().await;
    connected(&mut events).await;

    assert_eq!(told(&node.look("before").await), []);
    node.daemon.ctr().run(BASE, "after");
    let key = node.key("after");
    hear(&mut events, "start", |event| {
        *event == Event::TaskStarted(key.clone())
    })
    .await;
}

#[tokio::test]
async fn a_daemon_stopped_in_its_tracks_is_noticed_and_so_is_its_return() {
    let node = Node::start().await;
    let mut tasks = JoinSet::new();
    let mut events = node.watch(&mut tasks);
    connected(&mut events).await;

    node.daemon.freeze();
    hear(&mut events, "silence", |event| {
        matches!(
            event,
            Event::Disconnected {
                reason: Lost::Silent(_)
            }
        )
    })
    .await;
    node.daemon.thaw();

    connected(&mut events).await;
}

#[tokio::test]
async fn another_socket_at_the_path_is_noticed_though_the_old_daemon_still_serves() {
    let node = Node::start().await;
    let mut tasks = JoinSet::new();
    let mut events = node.watch(&mut tasks);
    connected(&mut events).await;

    node.daemon.take_socket_away();
    hear(&mut events, "replacement", |event| {
        *event
            == Event::Disconnected {
                reason: Lost::SocketReplaced,
            }
    })
    .await;
    node.daemon.put_socket_back();

    connected(&mut events).await;
}

#[tokio::test]
async fn one_hung_shim_delays_nobody_else() {
    let (node, _) = Node::with(&[(BASE, &Image::busybox([]))]).await;
    let hung = node.daemon.ctr().run(BASE, "hung");
    node.daemon.ctr().run(BASE, "well");
    let shim = parent_of(hung.pid());
    kill_process(shim, Signal::STOP).unwrap();

    let mut calls = JoinSet::new();
    let keys = vec![node.key("hung"), node.key("well")];
    let mut answers = tasks_of(&node.runtime, keys, &mut calls);
    let first = answers.recv().await.unwrap();
    let second = answers.recv().await.unwrap();
    kill_process(shim, Signal::CONT).unwrap();

    assert_eq!(first.0.id, "well");
    assert!(first.1.is_ok());
    assert!(
        matches!(
            second.1,
            Err(CallError::ShimSilent | CallError::Deadline { .. })
        ),
        "{second:?}"
    );
    assert!(answers.recv().await.is_none());
    assert_eq!(told(&node.look("hung").await), []);
}

fn parent_of(pid: u32) -> Pid {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .unwrap();
    Pid::from_raw(parent.trim().parse().unwrap()).unwrap()
}

#[tokio::test]
async fn sixty_layers_are_bound_one_by_one() {
    let mut layers = vec![holdfast_tests::image::BUSYBOX.clone()];
    let names: Vec<String> = (1..60).map(|number| format!("opt/app/l{number}")).collect();
    layers.extend(
        names
            .iter()
            .map(|name| Layer::new([Entry::file(name, name.as_str())])),
    );
    let (node, _) = Node::with(&[(BASE, &Image::new(layers))]).await;
    let container = node.daemon.ctr().run(BASE, "deep");
    let table = std::fs::read_to_string(format!("/proc/{}/mountinfo", container.pid())).unwrap();
    assert!(
        !table.contains("lowerdir=/"),
        "the mount table is to show relative directories"
    );

    let look = node.look("deep").await;

    assert_eq!(told(&look), []);
    let identity = look.identity.unwrap();
    let mut files = vec!["bin/busybox"];
    files.extend(names.iter().map(String::as_str));
    let witnesses = witnesses(&identity, &files);
    assert_eq!(bindings(&identity, &witnesses), vec![Binding::Same; 60]);
}

#[tokio::test]
async fn two_images_with_the_same_layers_are_told_apart() {
    let base = Image::busybox([]);
    let twin = base.clone().command(&["/bin/sleep", "3601"]);
    let (node, digests) = Node::with(&[(BASE, &base), (OTHER, &twin)]).await;
    node.daemon.ctr().run(BASE, "base");
    node.daemon.ctr().run(OTHER, "twin");

    for (id, digests) in [("base", &digests[0]), ("twin", &digests[1])] {
        let look = node.look(id).await;
        assert_eq!(told(&look), []);
        assert_eq!(look.identity.unwrap().image.config_digest(), digests.config);
    }
}

#[tokio::test]
async fn a_tag_that_moves_leaves_the_identity_alone() {
    let (base, next) = (
        Image::busybox([]),
        Image::busybox([Entry::file("opt/new", "new")]),
    );
    let (node, digests) = Node::with(&[(BASE, &base)]).await;
    node.daemon.ctr().run(BASE, "one");
    let before = node.look("one").await;
    let known = [Arc::clone(&before.identity.as_ref().unwrap().image)];

    node.import(BASE, &next);
    let moved = due("tag-moved", Severity::Info, "");
    let after = node
        .look_again("one", Some(&before.first_sight), &known)
        .await;
    assert_eq!(told(&after), moved);
    assert_eq!(
        after.identity.unwrap().image.config_digest(),
        digests[0].config
    );

    // Without a memory, once containerd has collected what the tag named: the image cannot be told.
    let gone = wait::until("the old config is collected", async || {
        node.daemon.ctr().must(&["content", "prune", "references"]);
        let read = node.runtime.read_blob(
            node.daemon.namespace(),
            digests[0].config,
            MAX_DOCUMENT_BYTES,
        );
        read.await.err()
    });
    assert_eq!(gone.await, CallError::NotFound);
    let anew = node.look("one").await;
    let missing = due("unverifiable", Severity::Warning, "config-missing");
    assert_eq!(told(&anew), [moved, missing].concat());
    assert_eq!(anew.identity, None);
    let kept = node
        .look_again("one", Some(&before.first_sight), &known)
        .await;
    assert_eq!(kept.identity.unwrap().image, known[0]);
}

#[tokio::test]
async fn a_snapshot_of_another_image_is_a_mismatch() {
    let (base, other) = (
        Image::busybox([]),
        Image::busybox([Entry::file("opt/evil", "evil")]),
    );
    let (node, digests) = Node::with(&[(BASE, &base), (OTHER, &other)]).await;
    let ctr = node.daemon.ctr();
    let chain = digests[1].chain_id().to_string();
    ctr.must(&["containers", "create", BASE, "swapped", "/bin/sleep", "300"]);
    ctr.must(&["snapshots", "rm", "swapped"]);
    ctr.must(&["snapshots", "prepare", "swapped", &chain]);
    ctr.must(&["tasks", "start", "--detach", "--null-io", "swapped"]);

    let look = node.look("swapped").await;

    assert_eq!(
        told(&look),
        due("snapshot-mismatch", Severity::Critical, "image-name")
    );
    assert_eq!(
        look.identity.unwrap().image.config_digest(),
        digests[1].config
    );
}

#[tokio::test]
async fn a_remapped_root_has_the_shifted_copy_above_the_images_layers() {
    let (node, digests) = Node::with(&[(BASE, &Image::busybox([]))]).await;
    let map = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"];
    node.daemon.ctr().run_with(&map, BASE, "shifted", &[]);

    let look = node.look("shifted").await;

    assert_eq!(told(&look), []);
    let identity = look.identity.unwrap();
    assert_eq!(identity.layers.len(), digests[0].layers.len());
    let kinds: Vec<_> = identity
        .extra_uppers
        .iter()
        .map(|extra| extra.kind)
        .collect();
    assert_eq!(
        kinds,
        [ExtraKind::Remap {
            uid: 100_000,
            gid: 100_000
        }]
    );
    assert!(identity.extra_uppers[0].directory.join("bin").is_dir());
    assert_eq!(identity.spec.linux.uid_mappings[0].host_id, 100_000);
}

#[tokio::test]
async fn a_container_on_a_bare_directory_has_no_image() {
    let node = Node::start().await;
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    for name in ["bin", "proc", "sys", "dev", "run"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    std::fs::copy("/bin/busybox", folder.path().join("bin/sleep")).unwrap();
    let root = folder.path().to_str().unwrap();
    node.daemon
        .ctr()
        .run_with(&["--rootfs"], root, "bare", &["/bin/sleep", "300"]);

    let look = node.look("bare").await;

    assert_eq!(
        told(&look),
        due("unmanaged-container", Severity::Warning, "no-image")
    );
    assert_eq!(look.identity, None);
}

#[tokio::test]
async fn a_namespace_that_nobody_expects_is_a_finding() {
    let (node, _) = Node::with(&[(BASE, &Image::busybox([]))]).await;
    node.daemon.ctr().run(BASE, "one");
    let identifier = Identifier::new(Arc::clone(&node.runtime), vec!["k8s.io".to_owned()]);

    let look = identifier.look(&node.key("one"), None, &[]).await.unwrap();

    let unexpected = due(
        "unmanaged-container",
        Severity::Warning,
        "unexpected-namespace",
    );
    assert_eq!(told(&look), unexpected);
}

#[tokio::test]
async fn a_config_that_is_altered_in_the_store_is_found_with_and_without_a_memory() {
    let (node, digests) = Node::with(&[(BASE, &Image::busybox([]))]).await;
    node.daemon.ctr().run(BASE, "one");
    let before = node.look("one").await;
    let known = [Arc::clone(&before.identity.as_ref().unwrap().image)];
    let blob = node.daemon.blob(digests[0].config);
    let altered = std::fs::read_to_string(&blob)
        .unwrap()
        .replace("3600", "3601");
    replace(&blob, &altered);

    let again = node
        .look_again("one", Some(&before.first_sight), &known)
        .await;
    assert_eq!(told(&again), due("content-altered", Severity::Critical, ""));
    assert_eq!(again.identity.unwrap().image, known[0]);

    let expected = vec![node.daemon.namespace().to_owned()];
    let fresh = Identifier::new(Arc::clone(&node.runtime), expected);
    let look = fresh.look(&node.key("one"), None, &[]).await.unwrap();
    let undone = due("unverifiable", Severity::Warning, "content-altered");
    assert_eq!(
        told(&look),
        [undone, due("content-altered", Severity::Critical, "")].concat()
    );
}

fn replace(path: &Path, content: &str) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, content).unwrap();
}

#[tokio::test]
async fn a_layer_hidden_by_a_bind_mount_while_the_root_was_mounted_is_unmasked() {
    let image = Image::busybox([Entry::file("opt/two", "2")]);
    let (node, _) = Node::with(&[(BASE, &image)]).await;
    let honest = node.daemon.ctr().run(BASE, "honest");
    let lower = honest.lower_of("/opt/two");
    let layer = lower.parent().unwrap().parent().unwrap().to_owned();
    let evil = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::create_dir(evil.path().join("opt")).unwrap();
    std::fs::write(evil.path().join("opt/two"), "2").unwrap();

    rustix::mount::mount_bind(evil.path(), &layer).unwrap();
    let fooled = node.daemon.ctr().run(BASE, "fooled");
    rustix::mount::unmount(&layer, rustix::mount::UnmountFlags::empty()).unwrap();

    assert_eq!(honest.lowers(), fooled.lowers());
    for (id, second) in [("honest", Binding::Same), ("fooled", Binding::Differs)] {
        let look = node.look(id).await;
        assert_eq!(told(&look), []); // every record and option says the same
        let identity = look.identity.unwrap();
        let witnesses = witnesses(&identity, &["bin/busybox", "opt/two"]);
        let bindings = bindings(&identity, &witnesses);
        assert_eq!(bindings, [Binding::Same, second], "{id}");
        assert_eq!(bound(&witnesses, &bindings).is_some(), id == "fooled");
    }
    fooled.exec("echo 3 > /opt/two");
    let identity = node.look("fooled").await.identity.unwrap();
    let hidden = bindings(
        &identity,
        &witnesses(&identity, &["bin/busybox", "opt/two"]),
    );
    assert_eq!(hidden[1], Binding::Hidden);
}

#[tokio::test]
async fn an_upper_directory_that_is_moved_aside_is_a_mismatch() {
    let (node, _) = Node::with(&[(BASE, &Image::busybox([]))]).await;
    let container = node.daemon.ctr().run(BASE, "one");
    let first = node.look("one").await.first_sight;
    let upper = container.upper();
    let aside = upper.with_file_name("aside");

    // The mount goes on with the directory that it has; the records and options name an empty one.
    std::fs::rename(&upper, &aside).unwrap();
    std::fs::create_dir(&upper).unwrap();
    let mismatch = due("snapshot-mismatch", Severity::Critical, "root-mount");
    assert_eq!(
        told(&node.look_again("one", Some(&first), &[]).await),
        mismatch
    );
    assert_eq!(told(&node.look("one").await), mismatch);

    std::fs::remove_dir(&upper).unwrap();
    std::fs::rename(&aside, &upper).unwrap();
    assert_eq!(told(&node.look("one").await), []);
}

#[tokio::test]
async fn an_init_that_chroots_is_a_fact_and_no_finding() {
    let program = std::fs::read("/bin/busybox").unwrap();
    let jail = Image::busybox([
        Entry::directory("jail"),
        Entry::directory("jail/bin"),
        Entry::program("jail/bin/sleep", program),
    ])
    .command(&["/bin/sh", "-c", "exec chroot /jail /bin/sleep 3600"]);
    let (node, _) = Node::with(&[(BASE, &jail)]).await;
    let container = node.daemon.ctr().run(BASE, "jailed");
    let inside = format!("/proc/{}/root", container.pid());
    wait::until("the init chroots", async || {
        std::fs::read_link(&inside)
            .ok()
            .filter(|root| root.ends_with("jail"))
    })
    .await;

    let look = node.look("jailed").await;

    assert_eq!(told(&look), []);
    assert!(look.identity.unwrap().root.is_some());
}

#[tokio::test]
async fn a_paused_container_is_looked_at_like_any_other() {
    let (node, _) = Node::with(&[(BASE, &Image::busybox([]))]).await;
    let container = node.daemon.ctr().run(BASE, "one");
    container.pause();

    let look = node.look("one").await;

    container.resume();
    assert_eq!(told(&look), []);
}
