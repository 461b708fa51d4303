//! Layers read from their registries: once for the whole fleet, within an hour's bytes, and only from
//! repositories that the configuration lists. A node's question decides no more than which of them are
//! asked; blob digest and diff ID are checked in the pass, and nothing of a layer that is another is kept.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fmt;
use std::io::{self, Read, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_core::digest::{DiffId, Digest};
use holdfast_core::layer::skeleton::{self, Digests, Made, Unmade};
use holdfast_core::layer::{Limits, TableError, WantedContents, find_contents};
use holdfast_core::reference::Repository;
use holdfast_core::trust::policy::Glob;
use holdfast_daemon::shutdown::{Stop, stopped};
use holdfast_registry::{NotRead, Reading};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::shelf::{Card, Source};
use super::{Layer, Relay};
use crate::telemetry::Read as ReadOutcome;

/// Layers that wait to be read.
const QUEUE: usize = 64;

/// Layers that one node may make wait.
const MAX_OF_NODE: usize = 8;

/// Layers that are read at a time.
const MAX_READS: usize = 2;

/// What failed is not tried again for this long, whoever asks.
const AFTER_FAILURE: Duration = Duration::from_mins(10);

/// Failures that are remembered; those that are over are forgotten first.
const MAX_KNOWN: usize = 4096;

/// What is to be had of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Its skeleton.
    Skeleton,
    /// Contents of its files, and their lengths.
    Contents(BTreeMap<Digest, u64>),
}

/// How it stands with a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    UnderWay,
    /// And why.
    Failed(String),
}

#[derive(Clone, Debug)]
enum Entry {
    /// For whom.
    UnderWay(String),
    Failed(String, Instant),
}

/// The same for everybody who asks for the same: the contents by a digest over all of them.
type Key = (DiffId, Option<Digest>);

#[derive(Debug)]
struct Job {
    key: Key,
    layer: Layer,
    task: Task,
}

/// Where layers are asked for.
#[derive(Clone, Debug)]
pub struct Origin {
    queue: mpsc::Sender<Job>,
    book: Arc<Mutex<HashMap<Key, Entry>>>,
    allowed: Arc<[Glob]>,
}

/// The task that reads them.
#[derive(Debug)]
pub struct OriginTask {
    queue: mpsc::Receiver<Job>,
    origin: Origin,
    reading: Arc<Reading>,
}

/// Why a layer was not read.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error(transparent)]
    Registry(#[from] NotRead<TableError>),
    #[error("no skeleton can be made: {0}")]
    Unmade(#[from] Unmade),
    #[error("{0} of {1} contents are not in the layer")]
    Missing(usize, usize),
    #[error("it cannot be kept: {0}")]
    Io(#[from] io::Error),
    #[error("the layer has no name that leads to a registry")]
    NoName,
}

impl Origin {
    /// Reads from repositories that one of `allowed` names.
    pub fn new(reading: Reading, allowed: Vec<Glob>) -> (Self, OriginTask) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let origin = Self {
            queue: sender,
            book: Arc::default(),
            allowed: allowed.into(),
        };
        let task = OriginTask {
            queue,
            origin: origin.clone(),
            reading: Arc::new(reading),
        };
        (origin, task)
    }

    /// Has a layer read, and says how it stands. Waits for nothing.
    pub(super) fn ask(&self, node: &str, layer: &Layer, task: Task) -> Standing {
        let allowed = layer.repositories.iter().filter(|name| self.allows(name));
        let layer = Layer {
            repositories: allowed.cloned().collect(),
            ..layer.clone()
        };
        if layer.repositories.is_empty() {
            let why = "the collector may not read the layer's repository";
            return Standing::Failed(why.to_owned());
        }
        let (key, now) = (key(&layer, &task), Instant::now());
        let mut book = self.book();
        match book.get(&key) {
            Some(Entry::UnderWay(_)) => return Standing::UnderWay,
            Some(Entry::Failed(why, again)) if now < *again => {
                return Standing::Failed(why.clone());
            }
            Some(Entry::Failed(..)) | None => {}
        }
        if book.len() >= MAX_KNOWN {
            book.retain(|_, entry| !matches!(entry, Entry::Failed(_, again) if *again <= now));
        }
        let of_node = book
            .values()
            .filter(|entry| matches!(entry, Entry::UnderWay(of) if of == node));
        let has_room = book.len() < MAX_KNOWN && of_node.count() < MAX_OF_NODE;
        // One that has to wait is asked for again.
        if has_room && self.queue.try_send(Job { key, layer, task }).is_ok() {
            book.insert(key, Entry::UnderWay(node.to_owned()));
        }
        Standing::UnderWay
    }

    fn allows(&self, repository: &Repository) -> bool {
        let names = [repository.to_string(), repository.familiar()];
        let mut globs = self.allowed.iter();
        globs.any(|glob| names.iter().any(|name| glob.matches(name)))
    }

    fn done(&self, key: Key, result: Result<(), Unread>) -> ReadOutcome {
        let mut book = self.book();
        match result {
            Ok(()) => {
                book.remove(&key);
                ReadOutcome::Succeeded
            }
            Err(error) => {
                tracing::warn!(layer = %key.0, %error, "Layer gave nothing from its registry.");
                let again = Instant::now().checked_add(AFTER_FAILURE);
                let again = again.unwrap_or_else(Instant::now);
                book.insert(key, Entry::Failed(error.to_string(), again));
                ReadOutcome::Failed
            }
        }
    }

    fn book(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(layer: &Layer, task: &Task) -> Key {
    let contents = match task {
        Task::Skeleton => None,
        Task::Contents(wanted) => {
            let digests: Vec<&[u8]> = wanted.keys().map(|it| it.as_bytes().as_slice()).collect();
            Some(Digest::of(&digests.concat()))
        }
    };
    (layer.diff_id, contents)
}

impl OriginTask {
    /// Reads what is asked for until stopped; what comes goes to the relay.
    pub async fn run(mut self, relay: Relay, mut stop: Stop) -> Result<(), Infallible> {
        let mut reads = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = stopped(&mut stop) => return Ok(()),
                Some(_) = reads.join_next() => {}
                Some(job) = self.queue.recv(), if reads.len() < MAX_READS => {
                    let (origin, reading) = (self.origin.clone(), Arc::clone(&self.reading));
                    let (relay, stop) = (relay.clone(), stop.clone());
                    reads.spawn_blocking(move || {
                        let result = read(&reading, &relay, &job, &stop);
                        relay.read_ended(origin.done(job.key, result));
                    });
                }
            }
        }
    }
}

/// Reads a layer at the first repository that has it.
fn read(reading: &Reading, relay: &Relay, job: &Job, stop: &Stop) -> Result<(), Unread> {
    let mut first = None;
    for repository in &job.layer.repositories {
        let pass = Pass {
            reading,
            relay,
            layer: &job.layer,
            repository,
            stop,
        };
        let done = match &job.task {
            Task::Skeleton => pass.make_skeleton(),
            Task::Contents(wanted) => pass.contents(wanted),
        };
        match done {
            Err(error @ Unread::Registry(NotRead::Fetch(_))) => {
                first.get_or_insert(error);
            }
            done => return done,
        }
    }
    Err(first.unwrap_or(Unread::NoName))
}

/// One layer at one repository.
struct Pass<'a> {
    reading: &'a Reading,
    relay: &'a Relay,
    layer: &'a Layer,
    repository: &'a Repository,
    stop: &'a Stop,
}

impl fmt::Debug for Pass<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pass").finish_non_exhaustive()
    }
}

impl Pass<'_> {
    fn make_skeleton(&self) -> Result<(), Unread> {
        let (blob, diff_id) = (self.layer.blob, self.layer.diff_id);
        let limits = Limits::default();
        let made = self
            .reading
            .read(self.repository, blob, self.stop, |coming| {
                let mut first = Some(coming);
                let open = || -> io::Result<Box<dyn Read + '_>> {
                    match first.take() {
                        Some(coming) => Ok(Box::new(coming)),
                        None => Ok(Box::new(self.again()?)),
                    }
                };
                skeleton::make(open, blob.digest, diff_id, &limits, Digests::Carried)
            });
        let Made { skeleton, .. } = made?;
        let skeleton = skeleton?;
        let skeletons = &self.relay.parts.skeletons;
        let mut file = skeletons.begin(&self.card())?;
        file.write_all(skeleton.encoded())?;
        // What nodes have given of this layer is of no use any more.
        for given in skeletons.of(diff_id) {
            skeletons.remove(given.digest)?;
        }
        skeletons.put(file, skeleton.digest())?;
        self.relay.measure();
        Ok(())
    }

    /// A layer that hides contents of its own is read twice.
    fn again(&self) -> io::Result<holdfast_registry::Coming<'_>> {
        self.reading
            .again(self.repository, self.layer.blob, self.stop)
    }

    fn contents(&self, wanted: &BTreeMap<Digest, u64>) -> Result<(), Unread> {
        let (blob, diff_id) = (self.layer.blob, self.layer.diff_id);
        let wanted: WantedContents = wanted.iter().map(|(of, length)| (*of, *length)).collect();
        let missing = self
            .reading
            .read(self.repository, blob, self.stop, |coming| {
                let names = (blob.digest, diff_id);
                find_contents(coming, names, &Limits::default(), &wanted, |of, content| {
                    self.keep_content(of, content)
                })
            })?;
        match missing.len() {
            0 => Ok(()),
            missing => Err(Unread::Missing(missing, wanted.len())),
        }
    }

    fn keep_content(&self, digest: Digest, content: &[u8]) -> io::Result<()> {
        let contents = &self.relay.parts.contents;
        let mut file = contents.begin(&self.card())?;
        file.write_all(content)?;
        contents.put(file, digest)
    }

    const fn card(&self) -> Card {
        Card {
            layer: self.layer.diff_id,
            source: Source::Registry,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use holdfast_registry::{Access, Allowance, Blob, Client};
    use tokio::runtime::Handle;

    use super::*;

    fn origin(allowed: &[&str]) -> (Origin, OriginTask) {
        let client = Client::new(Access::default()).unwrap();
        let allowance = Allowance::new(NonZeroU64::MIN);
        let reading = Reading::new(client, allowance, Handle::current());
        let globs = allowed.iter().map(|glob| Glob::parse(glob).unwrap());
        Origin::new(reading, globs.collect())
    }

    fn layer(number: u8, repository: &str) -> Layer {
        let digest = Digest::of(&[number]);
        Layer {
            diff_id: DiffId(digest),
            blob: Blob { digest, size: 1 },
            repositories: vec![repository.parse().unwrap()],
        }
    }

    #[tokio::test]
    async fn only_repositories_that_are_listed_are_asked() {
        let (origin, mut task) = origin(&["r.example/shop/*", "docker.io/library/*"]);
        for (name, is_asked) in [
            ("r.example/shop/api", true),
            ("nginx", true),
            ("r.example/other/api", false),
            ("r.example.evil/shop/api", false),
        ] {
            let standing = origin.ask("n-1", &layer(1, name), Task::Skeleton);
            assert_eq!(standing == Standing::UnderWay, is_asked, "{name}");
            let job = task.queue.try_recv();
            assert_eq!(job.is_ok(), is_asked, "{name}");
            let _ended = job.map(|job| origin.done(job.key, Ok(())));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_layer_is_read_once_whoever_asks_and_again_only_later() {
        let (origin, mut task) = origin(&["r.example/**"]);
        let layer = layer(1, "r.example/a");
        for node in ["n-1", "n-2"] {
            let standing = origin.ask(node, &layer, Task::Skeleton);
            assert_eq!(standing, Standing::UnderWay);
        }
        let job = task.queue.try_recv().unwrap();
        assert!(task.queue.try_recv().is_err());

        origin.done(job.key, Err(Unread::NoName));
        let standing = origin.ask("n-2", &layer, Task::Skeleton);
        assert_eq!(standing, Standing::Failed(Unread::NoName.to_string()));
        tokio::time::advance(AFTER_FAILURE).await;
        let standing = origin.ask("n-2", &layer, Task::Skeleton);
        assert_eq!(standing, Standing::UnderWay);
        assert!(task.queue.try_recv().is_ok());
    }

    #[tokio::test]
    async fn one_node_does_not_fill_the_queue() {
        let (origin, mut task) = origin(&["r.example/**"]);
        for number in 0..20 {
            origin.ask("n-1", &layer(number, "r.example/a"), Task::Skeleton);
        }
        origin.ask("n-2", &layer(99, "r.example/a"), Task::Skeleton);
        let asked = std::iter::from_fn(|| task.queue.try_recv().ok()).count();
        assert_eq!(asked, MAX_OF_NODE + 1);
    }
}
