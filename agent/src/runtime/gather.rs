//! Gathers what is known about one container, for [`super::identify`] to decide on. Decides nothing.
//!
//! Long because what is asked of the runtime, the kernel and the bundle makes one record of facts.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::container::ContainerKey;
use holdfast_core::digest::{ChainId, Digest};
use holdfast_core::image::Image;

use super::candidates::{self, Freshness, Problem, Resolver, Summary};
use super::identify::is_inspected;
use super::identity::FirstSight;
use super::kernel::{self, KernelError, Root};
use super::mountinfo::MountEntry;
use super::overlay::{Defaults, OverlayError};
use super::rootfs::{self, RootForm, Rootfs, RootfsError};
use super::select::{ImageRefWitness, Named};
use super::{CallError, ContainerRecord, Mount, Runtime, Snapshot, Task, TaskStatus};
use crate::worker::{WorkError, Workers};

/// How long a look at `/proc` may take: a root on a filesystem that hangs must not hang us.
const KERNEL_DEADLINE: Duration = Duration::from_secs(10);

/// Everything that identification decides on.
#[derive(Debug)]
pub struct Facts {
    /// The container's definition.
    pub record: ContainerRecord,
    /// Labels of its pod's sandbox.
    pub sandbox_labels: BTreeMap<String, String>,
    /// Its root.
    pub rooted: Rooted,
}

/// What is known about a container's root.
#[derive(Debug)]
pub enum Rooted {
    /// Its runtime or snapshotter serves roots that the host kernel does not.
    NotInspected,
    /// The root is no snapshot.
    NoSnapshot,
    /// The root is a snapshot.
    Snapshot(Box<SnapshotFacts>),
}

/// What is known about a root that is a snapshot.
#[derive(Debug)]
pub struct SnapshotFacts {
    /// The snapshots, from the active one down.
    pub snapshots: Vec<Snapshot>,
    /// The directories that the snapshotter asks for.
    pub rootfs: Result<Rootfs, RootfsError>,
    /// What the kernel shows.
    pub kernel: Result<KernelFacts, KernelError>,
    /// Which images it can be; `None` when no snapshot of the chain has a chain ID for a key.
    pub images: Option<ImageFacts>,
}

/// What the kernel shows about a root.
#[derive(Clone, Debug)]
pub struct KernelFacts {
    /// The root mount.
    pub root: Root,
    /// Whether the mount's top directory is the snapshot's.
    pub top: TopWitness,
    /// What overlay does where it is not told.
    pub defaults: Defaults,
}

/// What the root mount says about the directory that it shows on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopWitness {
    /// It is the snapshot's.
    Same,
    /// It is another.
    Other,
    /// The mount is not visible, or is none of the snapshotter's.
    Unseen,
}

/// Which images a chain can belong to.
#[derive(Clone, Debug)]
pub struct ImageFacts {
    /// The chain.
    pub chain: ChainId,
    /// Every image whose layers give it.
    pub candidates: Vec<Arc<Image>>,
    /// What CRI resolved the image to.
    pub image_ref: ImageRefWitness,
    /// What the record's name means.
    pub named: Named,
    /// What stood in the way, of candidates and of what the name means.
    pub problems: Vec<Problem>,
}

/// Why nothing was gathered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// The container or its task is gone, or has not started.
    #[error("the container has ended")]
    Gone,
    /// The runtime does not answer.
    #[error(transparent)]
    Call(CallError),
    /// The process is running, says containerd, and is not in our `/proc`.
    #[error("its process is not in our process namespace")]
    ProcessNotVisible,
}

impl Stop {
    /// The reason's name.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Call(error) => error.reason(),
            Self::ProcessNotVisible => "process-not-visible",
        }
    }
}

impl From<CallError> for Stop {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NotFound => Self::Gone,
            other => Self::Call(other),
        }
    }
}

/// What facts are gathered with.
#[derive(Debug)]
pub struct Means<'a, R> {
    /// The runtime that has the container.
    pub runtime: &'a R,
    /// What image names mean.
    pub resolver: &'a Resolver,
    /// Threads for looks at the kernel: a process chooses its own root.
    pub workers: &'a Workers,
}

impl<R> Clone for Means<'_, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Means<'_, R> {}

/// Gathers the facts about one container with a task.
pub async fn gather<R: Runtime>(
    means: Means<'_, R>,
    key: &ContainerKey,
    first: Option<&FirstSight>,
    known: &[Arc<Image>],
) -> Result<Facts, Stop> {
    let runtime = means.runtime;
    let record = runtime.container(key).await?;
    let sandbox_labels = sandbox_labels(runtime, &record).await?;
    let rooted = if record.snapshot_key.is_empty() {
        Rooted::NoSnapshot
    } else if is_inspected(&record).is_err() {
        Rooted::NotInspected
    } else {
        let facts = snapshot(means, &record, first, known).await?;
        Rooted::Snapshot(Box::new(facts))
    };
    Ok(Facts {
        record,
        sandbox_labels,
        rooted,
    })
}

/// The annotation that names a container's sandbox.
pub const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";

async fn sandbox_labels<R: Runtime>(
    runtime: &R,
    record: &ContainerRecord,
) -> Result<BTreeMap<String, String>, Stop> {
    let annotations = record.spec.as_ref().map(|spec| &spec.annotations);
    let Some(id) = annotations.and_then(|annotations| annotations.get(SANDBOX_ID)) else {
        return Ok(BTreeMap::new());
    };
    let key = ContainerKey {
        namespace: record.key.namespace.clone(),
        id: id.clone(),
    };
    match runtime.container(&key).await {
        Ok(sandbox) => Ok(sandbox.labels),
        Err(CallError::NotFound) => Ok(BTreeMap::new()),
        Err(error) => Err(Stop::Call(error)),
    }
}

async fn snapshot<R: Runtime>(
    means: Means<'_, R>,
    record: &ContainerRecord,
    first: Option<&FirstSight>,
    known: &[Arc<Image>],
) -> Result<SnapshotFacts, Stop> {
    let Means {
        runtime, resolver, ..
    } = means;
    let (namespace, snapshotter) = (&record.key.namespace, &record.snapshotter);
    let snapshots = runtime
        .chain(namespace, snapshotter, &record.snapshot_key)
        .await?;
    let mounts = runtime
        .mounts(namespace, snapshotter, &record.snapshot_key)
        .await?;
    let (rootfs, kernel) = look(means, record, (&snapshots, mounts)).await?;
    let chain = snapshots.iter().find_map(Snapshot::chain_id);
    let images = match chain {
        Some(chain) => {
            let store = Store {
                runtime,
                resolver,
                record,
                chain,
            };
            Some(store.images(first, known).await?)
        }
        None => None,
    };
    Ok(SnapshotFacts {
        snapshots,
        rootfs,
        kernel,
        images,
    })
}

/// What the snapshotter asks for, and what the kernel shows of it.
type Looked = (
    Result<Rootfs, RootfsError>,
    Result<KernelFacts, KernelError>,
);

/// Asks the snapshotter's folder and the kernel about the task's root.
async fn look<R: Runtime>(
    means: Means<'_, R>,
    record: &ContainerRecord,
    (snapshots, mounts): (&[Snapshot], Vec<Mount>),
) -> Result<Looked, Stop> {
    let key = &record.key;
    let task = means.runtime.task(key).await?;
    let is_alive = |task: Task| matches!(task.status, TaskStatus::Running | TaskStatus::Paused);
    if !is_alive(task) {
        return Err(Stop::Gone);
    }
    let subject = format!("root of {}/{}", key.namespace, key.id);
    let (record, snapshots) = (record.clone(), snapshots.to_vec());
    let looking = means
        .workers
        .run(&subject, KERNEL_DEADLINE, move |_progress| {
            let defaults = kernel::overlay_defaults();
            let rootfs = rootfs(&record, &snapshots, &mounts, defaults);
            let kernel = kernel::root_of(task.pid)
                .map(|root| facts_of(root, rootfs.as_ref().ok(), defaults));
            (rootfs, kernel)
        });
    match looking.await {
        Ok((_, Err(KernelError::Gone))) => {
            // Gone, or in a process namespace that we do not see: containerd still having it tells.
            let again = means.runtime.task(key).await?;
            let is_hidden = is_alive(again) && again.pid == task.pid;
            Err(if is_hidden {
                Stop::ProcessNotVisible
            } else {
                Stop::Gone
            })
        }
        Ok(seen) => Ok(seen),
        Err(error) => {
            tracing::debug!(container = %key.id, %error, "Root could not be looked at.");
            let kernel = match error {
                WorkError::Defect => KernelError::Malformed,
                _ => KernelError::Other(rustix::io::Errno::TIMEDOUT),
            };
            Ok((Err(OverlayError::Form.into()), Err(kernel)))
        }
    }
}

fn rootfs(
    record: &ContainerRecord,
    snapshots: &[Snapshot],
    mounts: &[Mount],
    defaults: Defaults,
) -> Result<Rootfs, RootfsError> {
    // Others are not gathered.
    let snapshotter = rootfs::snapshotter(&record.snapshotter).ok_or(OverlayError::Form)?;
    let namespace = &record.key.namespace;
    Rootfs::of(snapshotter, namespace, snapshots, mounts, defaults)
}

fn facts_of(mut root: Root, rootfs: Option<&Rootfs>, defaults: Defaults) -> KernelFacts {
    let top = match rootfs {
        Some(rootfs) => top_witness(&root, rootfs),
        None => TopWitness::Unseen,
    };
    // A superblock that the whole node uses says nothing about a process that has chrooted.
    let is_bind = rootfs.is_some_and(|rootfs| rootfs.form == RootForm::Bind);
    if root.top.is_none() && is_bind {
        root.mount = None;
    }
    KernelFacts {
        root,
        top,
        defaults,
    }
}

/// The top directory of a root has the inode of its snapshot's directory; what the mount's options say is only
/// a hint, which a rename after mounting makes lie. It counts where the process has chrooted below the top of
/// an overlay.
fn top_witness(root: &Root, rootfs: &Rootfs) -> TopWitness {
    let is_overlay = |mount: &&MountEntry| mount.fs_type == b"overlay";
    let mount = match rootfs.form {
        RootForm::Overlay => root.mount.as_ref().filter(is_overlay),
        RootForm::Bind => root.mount.as_ref().filter(|_| root.top.is_some()),
    };
    let (Some(mount), Some(directory)) = (mount, rootfs.top()) else {
        return TopWitness::Unseen;
    };
    let is_same = match (root.top, kernel::directory_on(directory)) {
        (Some(top), Some((own, device))) => {
            let is_on_same = rootfs.form == RootForm::Overlay || device == root.witness.device;
            top.is_same(own) && is_on_same
        }
        (Some(_), None) => false,
        (None, _) => {
            let named = rootfs.upper.as_ref();
            let named = named.map(|upper| upper.as_os_str().as_bytes());
            mount.option(b"upperdir") == named
        }
    };
    if is_same {
        TopWitness::Same
    } else {
        TopWitness::Other
    }
}

/// The image store as one container sees it.
struct Store<'a, R> {
    runtime: &'a R,
    resolver: &'a Resolver,
    record: &'a ContainerRecord,
    chain: ChainId,
}

impl<R: Runtime> Store<'_, R> {
    fn namespace(&self) -> &str {
        &self.record.key.namespace
    }

    async fn images(
        &self,
        first: Option<&FirstSight>,
        known: &[Arc<Image>],
    ) -> Result<ImageFacts, CallError> {
        let records = self.runtime.images(self.namespace()).await?;
        let mut problems = Vec::new();
        let named = self.named(&records, &mut problems).await?;
        let mut matching: Vec<Summary> = Vec::new();
        let mut targets: Vec<Digest> = records.iter().map(|record| record.target).collect();
        targets.sort();
        targets.dedup();
        for target in targets {
            let resolution = self.resolve(target, Freshness::Cached).await?;
            let fits = |summary: &&Summary| summary.chain == Some(self.chain);
            matching.extend(resolution.summaries.iter().filter(fits).cloned());
        }
        let mut candidates: Vec<Arc<Image>> = known
            .iter()
            .filter(|image| image.chain().last() == Some(&self.chain))
            .map(Arc::clone)
            .collect();
        // Ours are as they were; those in the store are looked at all the same.
        for image in known {
            let is_read = |summary: &Summary| summary.manifest == image.manifest_digest();
            if !matching.iter().any(is_read) {
                let namespace = self.namespace();
                problems.extend(candidates::altered(self.runtime, namespace, image).await?);
            }
        }
        for summary in matching {
            match candidates::load(self.runtime, self.namespace(), &summary).await? {
                Ok(image) => candidates.push(Arc::new(image)),
                Err(problem) => problems.push(problem),
            }
        }
        candidates.sort_by_key(|image| (image.target(), image.manifest_digest()));
        candidates.dedup_by_key(|image| (image.target(), image.manifest_digest()));
        let image_ref = self.image_ref(first, &candidates, &mut problems).await?;
        Ok(ImageFacts {
            chain: self.chain,
            candidates,
            image_ref,
            named,
            problems,
        })
    }

    async fn named(
        &self,
        records: &[super::ImageRecord],
        problems: &mut Vec<Problem>,
    ) -> Result<Named, CallError> {
        let name = &self.record.image_name;
        if name.is_empty() {
            return Ok(Named::NoName);
        }
        let Some(record) = records.iter().find(|record| record.name == *name) else {
            return Ok(Named::Unknown);
        };
        let mut resolution = self.resolve(record.target, Freshness::Cached).await?;
        let is_explained = |resolution: &candidates::Resolution| {
            resolution
                .summaries
                .iter()
                .any(|each| each.chain == Some(self.chain))
        };
        // What was absent can have come since.
        if !is_explained(&resolution) && !resolution.problems.is_empty() {
            resolution = self.resolve(record.target, Freshness::Again).await?;
        }
        if !is_explained(&resolution) {
            problems.extend(resolution.problems.iter().cloned());
        }
        Ok(Named::Target {
            target: record.target,
            updated_at: record.updated_at,
            summaries: resolution.summaries.clone(),
        })
    }

    /// A config that we kept, one of a candidate, or one in the store.
    async fn image_ref(
        &self,
        first: Option<&FirstSight>,
        candidates: &[Arc<Image>],
        problems: &mut Vec<Problem>,
    ) -> Result<ImageRefWitness, CallError> {
        // Fixed when the container was made: what the record says later does not count.
        let Some(digest) = first.map_or(self.record.cri_image_ref, |first| first.image_ref) else {
            return Ok(ImageRefWitness::None);
        };
        let is_candidate = candidates
            .iter()
            .any(|image| image.config_digest() == digest);
        let chain = if is_candidate {
            Some(self.chain)
        } else {
            match candidates::config(self.runtime, self.namespace(), digest).await? {
                Ok(config) => config.chain().last().copied(),
                Err(problem) => {
                    problems.push(problem);
                    return Ok(ImageRefWitness::Missing { digest });
                }
            }
        };
        Ok(ImageRefWitness::Config { digest, chain })
    }

    async fn resolve(
        &self,
        target: Digest,
        freshness: Freshness,
    ) -> Result<Arc<candidates::Resolution>, CallError> {
        self.resolver
            .resolve(self.runtime, self.namespace(), target, freshness)
            .await
    }
}
