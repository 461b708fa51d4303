//! What a look at a container's identity gives: the image, and the directory of each layer.
//!
//! Values only. That they agree with each other is decided in [`super::identify`].

use std::path::PathBuf;
use std::sync::Arc;

use holdfast_core::container::{ContainerRef, Workload};
use holdfast_core::digest::{ChainId, DiffId, Digest};
use holdfast_core::finding::{Check, Condition, ImageRef};
use holdfast_core::image::{Descriptor, Image};
use holdfast_core::layer::Snapshotter;
use holdfast_core::reference::Reference;
use serde::{Deserialize, Serialize};

use super::Snapshot;
use super::gather::{Facts, SnapshotFacts};
use super::kernel::{RootWitness, shown};
use super::rootfs::{RootForm, Rootfs};
use super::spec::Spec;

/// What fixes a container's identity, kept from first sight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstSight {
    /// The name in its record.
    pub image_name: String,
    /// What the name meant.
    pub target: Option<Digest>,
    /// What CRI resolved it to.
    pub image_ref: Option<Digest>,
    /// Whether name and chain have been seen to agree.
    pub has_agreed: bool,
    /// The chain that it stands on.
    pub chain: Option<ChainId>,
    /// Its root, once it was seen to be right.
    pub root: Option<RootWitness>,
    /// The topmost directory of that root.
    pub upper: Option<PathBuf>,
}

/// What a look at one container's identity gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Identified {
    /// The container.
    pub container: ContainerRef,
    /// Its workload.
    pub workload: Workload,
    /// Its image as findings show it.
    pub image: Option<ImageRef>,
    /// The image and where its files are; `None` when nothing below can be compared.
    pub identity: Option<Identity>,
    /// What is wrong.
    pub conditions: Vec<Condition>,
    /// Which of [`Check::Identity`] and [`Check::Digests`] were done to their end.
    pub done: Vec<Check>,
    /// To be kept for the next look.
    pub first_sight: FirstSight,
}

/// An image and where a container has its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The image, with the bytes that are to be kept.
    pub image: Arc<Image>,
    /// Others that it could as well be: every verdict is the worst over all of them.
    pub others: Vec<Arc<Image>>,
    /// The name in the container's record, if it is one.
    pub reference: Option<Reference>,
    /// The layers, lowest first.
    pub layers: Vec<LayerRef>,
    /// Snapshots between the image's layers and the upper directory, lowest first.
    pub extra_uppers: Vec<ExtraUpper>,
    /// Who made the directories.
    pub snapshotter: Snapshotter,
    /// How its root is mounted.
    pub form: RootForm,
    /// The writable directory, on `native` the whole root; none where the container can write nothing.
    pub upper: Option<PathBuf>,
    /// Overlay's own attributes are `user.*`.
    pub userxattr: bool,
    /// Paths that the runtime made where the image lacks them.
    pub stubs: Vec<Vec<u8>>,
    /// The container's runtime spec.
    pub spec: Spec,
    /// The root, where the kernel showed it.
    pub root: Option<RootWitness>,
}

impl Identity {
    /// Every directory that can hide what the layers have; on `native` each is a whole root.
    pub fn uppers(&self) -> Vec<PathBuf> {
        let extra = self.extra_uppers.iter().map(|extra| &extra.directory);
        extra.chain(&self.upper).cloned().collect()
    }
}

/// One layer of the image, and where it is unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerRef {
    /// Digest of its tar.
    pub diff_id: DiffId,
    /// The chain up to and with it: the key of its snapshot.
    pub chain_id: ChainId,
    /// Its blob.
    pub blob: Descriptor,
    /// The directory it is unpacked in.
    pub lower: PathBuf,
}

/// A snapshot above the image's layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraUpper {
    /// Its key.
    pub key: String,
    /// What made it.
    pub kind: ExtraKind,
    /// Its directory.
    pub directory: PathBuf,
}

/// What made a snapshot above the image's layers. The key says it, and anybody can choose a key: the
/// content is compared all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtraKind {
    /// The layers with owners shifted into a user namespace.
    Remap {
        /// Added to every user.
        uid: u32,
        /// Added to every group.
        gid: u32,
    },
    /// Stubs for mount points.
    Init,
    /// Anything else.
    Other,
}

/// The directories of a root, each with the snapshot that it belongs to.
pub(super) struct Directories<'a> {
    /// The image's layers, lowest first.
    layers: Vec<(&'a Snapshot, &'a PathBuf)>,
    /// What stands above them, lowest first.
    extra: Vec<ExtraUpper>,
    rootfs: &'a Rootfs,
}

impl<'a> Directories<'a> {
    /// Snapshots are listed from the active one down, lower directories from the top down. `None` when
    /// there is not one directory for each parent.
    pub(super) fn of(snapshot: &'a SnapshotFacts, rootfs: &'a Rootfs) -> Option<Self> {
        let (_active, parents) = snapshot.snapshots.split_first()?;
        if parents.len() != rootfs.lowers.len() {
            return None;
        }
        let top = parents
            .iter()
            .position(|parent| parent.chain_id().is_some())?;
        let mut pairs: Vec<_> = parents.iter().zip(&rootfs.lowers).rev().collect();
        let above = pairs.split_off(parents.len().checked_sub(top)?);
        let extra = above.into_iter().map(|(snapshot, directory)| ExtraUpper {
            key: snapshot.key.clone(),
            kind: extra_kind(&snapshot.key),
            directory: directory.clone(),
        });
        Some(Self {
            layers: pairs,
            extra: extra.collect(),
            rootfs,
        })
    }

    /// Whether each layer's snapshot is named by its chain ID. A snapshot can be given any parent: the
    /// name at the top alone does not say what is below it.
    pub(super) fn fit(&self, image: &Image) -> Result<(), (String, String)> {
        let due = image.chain();
        if due.len() != self.layers.len() {
            let layers = |count: usize| format!("{count} layers");
            return Err((layers(due.len()), layers(self.layers.len())));
        }
        for (due, (snapshot, _)) in due.iter().zip(&self.layers) {
            if snapshot.chain_id() != Some(*due) {
                return Err((due.to_string(), shown(snapshot.key.as_bytes())));
            }
        }
        Ok(())
    }

    /// The identity of a container whose image [fits](Self::fit).
    pub(super) fn join(
        self,
        facts: &Facts,
        image: &Arc<Image>,
        others: &[Arc<Image>],
        root: Option<RootWitness>,
    ) -> Identity {
        let ids = image.config().diff_ids.iter().zip(image.chain());
        let parts = ids.zip(&image.manifest().layers).zip(self.layers);
        let layers = parts.map(|(((diff_id, chain_id), blob), (_, lower))| LayerRef {
            diff_id: *diff_id,
            chain_id: *chain_id,
            blob: blob.clone(),
            lower: lower.clone(),
        });
        let spec = facts.record.spec.clone().unwrap_or_default();
        Identity {
            image: Arc::clone(image),
            others: others.to_vec(),
            reference: facts.record.image_name.parse().ok(),
            layers: layers.collect(),
            extra_uppers: self.extra,
            snapshotter: self.rootfs.snapshotter,
            form: self.rootfs.form,
            upper: self.rootfs.upper.clone(),
            userxattr: self.rootfs.userxattr,
            stubs: spec.stubs(),
            spec,
            root,
        }
    }
}

fn extra_kind(key: &str) -> ExtraKind {
    let shift = || {
        let (rest, gid) = key.rsplit_once('-')?;
        let (below, uid) = rest.rsplit_once('-')?;
        below.parse::<ChainId>().ok()?;
        Some(ExtraKind::Remap {
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
        })
    };
    if key.ends_with("-init") {
        ExtraKind::Init
    } else {
        shift().unwrap_or(ExtraKind::Other)
    }
}
