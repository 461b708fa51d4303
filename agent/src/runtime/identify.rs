//! Which image a container's root really is: the first step of every look.
//!
//! containerd's records, the kernel's mount table and the image's own digests must agree; none is
//! believed alone. [`identify`] is pure: it decides on gathered facts and opens nothing. What it cannot
//! decide is `unverifiable` with its reason, never a pass.

use std::sync::Arc;

use holdfast_core::container::ContainerKey;
use holdfast_core::finding::{Check, Condition, Severity};
use holdfast_core::image::Image;

use super::candidates::Resolver;
use super::conditions::{snapshot_mismatch, unmanaged};
use super::decision::{Decision, no_image};
use super::gather::{self, Facts, Rooted, Stop};
use super::kernel::{Binding, WitnessFile, shown};
use super::{ContainerRecord, Runtime, rootfs};

pub use super::identity::{ExtraKind, ExtraUpper, FirstSight, Identified, Identity, LayerRef};
use crate::worker::Workers;

/// Shims whose containers run on the host's kernel.
const RUNTIMES: &[&str] = &[
    "io.containerd.runc.v2",
    "io.containerd.runc.v1",
    "io.containerd.runtime.v1.linux",
];

/// Identifies containers.
#[derive(Debug)]
pub struct Identifier<R> {
    runtime: Arc<R>,
    resolver: Resolver,
    workers: Workers,
    expected_namespaces: Vec<String>,
}

impl<R: Runtime> Identifier<R> {
    /// Identifies the containers of `runtime`; those outside `expected_namespaces` are findings.
    pub fn new(runtime: Arc<R>, expected_namespaces: Vec<String>) -> Self {
        Self {
            runtime,
            resolver: Resolver::default(),
            workers: Workers::default(),
            expected_namespaces,
        }
    }

    /// The same, with threads that are counted elsewhere.
    #[must_use]
    pub fn with_workers(self, workers: Workers) -> Self {
        Self { workers, ..self }
    }

    /// Looks at one container with a task. `known` are images kept in our own state.
    pub async fn look(
        &self,
        key: &ContainerKey,
        first: Option<&FirstSight>,
        known: &[Arc<Image>],
    ) -> Result<Identified, Stop> {
        let means = gather::Means {
            runtime: &*self.runtime,
            resolver: &self.resolver,
            workers: &self.workers,
        };
        let facts = gather::gather(means, key, first, known).await?;
        Ok(identify(&facts, first, &self.expected_namespaces))
    }
}

/// Decides what a container is.
///
/// 1. It is where containers are expected.
/// 2. Its runtime and snapshotter serve a root that the host's kernel shows us.
/// 3. Its root is a snapshot on a chain of layers.
/// 4. The snapshotter's mount is one that we understand, with one directory for each layer.
/// 5. The kernel's root mount is that one, and the one of first sight.
/// 6. An image gives the chain, snapshot for snapshot, and the name agrees or has moved.
/// 7. Its documents hash to their names.
pub fn identify(facts: &Facts, first: Option<&FirstSight>, expected: &[String]) -> Identified {
    let mut look = Decision::new(facts, first);
    // (1)
    let namespace = &facts.record.key.namespace;
    if !is_expected(namespace, expected) {
        let title = format!(
            "A container runs in the unexpected namespace {}",
            shown(namespace.as_bytes())
        );
        look.wrong(unmanaged("unexpected-namespace", title));
    }
    // (2)
    if let Err((reason, message)) = is_inspected(&facts.record)
        && !matches!(facts.rooted, Rooted::NoSnapshot)
    {
        look.undone(Check::Identity, Severity::Info, reason, message);
        return look.finish(None);
    }
    // (3)
    let Rooted::Snapshot(snapshot) = &facts.rooted else {
        look.wrong(no_image("its root is no snapshot"));
        return look.finish(None);
    };
    let Some(images) = &snapshot.images else {
        look.wrong(no_image("its snapshot stands on no layers"));
        return look.finish(None);
    };
    look.chain(images.chain);
    // (4)
    let directories = look.directories(snapshot);
    // (5)
    let root = look.root(snapshot);
    // (6)
    let selected = look.image(images);
    // (7)
    look.digests(images, &selected);
    let identity = look.identity(directories, &selected, root);
    look.image_of_findings(selected.first().map(Arc::as_ref));
    look.finish(identity)
}

/// Whether host and kernel see this container's root.
pub(super) fn is_inspected(record: &ContainerRecord) -> Result<(), (&'static str, String)> {
    if !RUNTIMES.contains(&record.runtime_name.as_str()) {
        let message = format!(
            "runtime {} is not inspected",
            shown(record.runtime_name.as_bytes())
        );
        return Err(("runtime", message));
    }
    if rootfs::snapshotter(&record.snapshotter).is_none() {
        let message = format!(
            "snapshotter {} is not inspected",
            shown(record.snapshotter.as_bytes())
        );
        return Err(("snapshotter", message));
    }
    Ok(())
}

/// Docker adds `-UID.GID` to its namespace when it shifts users.
fn is_expected(namespace: &str, expected: &[String]) -> bool {
    let is_shifted = |suffix: &str| {
        let digits = suffix.strip_prefix(['-', '.']).unwrap_or(suffix);
        digits.split_once('.').is_some_and(|(uid, gid)| {
            [uid, gid]
                .iter()
                .all(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()))
        })
    };
    expected.iter().any(|name| {
        namespace == name
            || (name == "moby" && namespace.strip_prefix("moby").is_some_and(is_shifted))
    })
}

/// The condition when witness files show that a layer's directory is not the one that was mounted.
pub fn bound(witnesses: &[WitnessFile], bindings: &[Binding]) -> Option<Condition> {
    witnesses
        .iter()
        .zip(bindings)
        .find_map(|(witness, binding)| {
            let found = match binding {
                Binding::Differs => "another file",
                Binding::Missing => "no file",
                Binding::Same | Binding::Hidden | Binding::AbsentBelow => return None,
            };
            let says = format!("{} of {}", shown(&witness.path), witness.lower.display());
            Some(snapshot_mismatch("lower-directory", says, found.to_owned()))
        })
}

#[cfg(test)]
mod tests;
