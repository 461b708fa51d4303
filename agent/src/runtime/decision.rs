//! A decision about a container's identity while it is made: what each step found, in the order in which
//! [`super::identify::identify`] takes them. Pure.

use std::path::Path;
use std::sync::Arc;

use holdfast_core::digest::ChainId;
use holdfast_core::finding::{Check, Condition, ImageRef, Severity};
use holdfast_core::image::Image;

use super::about;
use super::candidates::Problem;
use super::conditions::{
    add, content_altered, root_moved, snapshot_mismatch, tag_moved, unmanaged,
};
use super::gather::{Facts, ImageFacts, KernelFacts, SnapshotFacts, TopWitness};
use super::identity::{Directories, FirstSight, Identified, Identity};
use super::kernel::{RootWitness, shown};
use super::mountinfo::MountEntry;
use super::overlay;
use super::rootfs::{RootForm, Rootfs};
use super::select::{ImageRefWitness, NameVerdict, Named, Question, judge_name, select};

pub(super) fn no_image(why: &str) -> Condition {
    unmanaged(
        "no-image",
        format!("A container runs without an image: {why}"),
    )
}

/// A decision while it is made.
pub(super) struct Decision<'a> {
    facts: &'a Facts,
    first: Option<&'a FirstSight>,
    next: FirstSight,
    image: Option<ImageRef>,
    conditions: Vec<Condition>,
    done: Vec<Check>,
}

impl<'a> Decision<'a> {
    pub(super) fn new(facts: &'a Facts, first: Option<&'a FirstSight>) -> Self {
        let record = &facts.record;
        let next = first.cloned().unwrap_or_else(|| FirstSight {
            image_name: record.image_name.clone(),
            target: None,
            image_ref: record.cri_image_ref,
            has_agreed: false,
            chain: None,
            root: None,
            upper: None,
        });
        Self {
            facts,
            first,
            next,
            image: None,
            conditions: Vec::new(),
            done: vec![Check::Identity],
        }
    }

    pub(super) fn wrong(&mut self, condition: Condition) {
        add(&mut self.conditions, condition);
    }

    /// A check that could not be done resolves nothing, so it is not among the done ones.
    pub(super) fn undone(
        &mut self,
        check: Check,
        severity: Severity,
        reason: &str,
        message: String,
    ) {
        self.done.retain(|done| *done != check);
        self.wrong(Condition::unverifiable(check, severity, reason, message));
    }

    /// The records can be rewritten while the container runs: it stands on what it stood on.
    pub(super) fn chain(&mut self, chain: ChainId) {
        match self.next.chain {
            Some(before) if before != chain => self.wrong(snapshot_mismatch(
                "snapshot-key",
                chain.to_string(),
                before.to_string(),
            )),
            _ => self.next.chain = Some(chain),
        }
    }

    pub(super) fn directories(&mut self, snapshot: &'a SnapshotFacts) -> Option<Directories<'a>> {
        let rootfs = match &snapshot.rootfs {
            Ok(rootfs) => rootfs,
            Err(error) => {
                self.undone(
                    Check::Identity,
                    Severity::Warning,
                    error.reason(),
                    error.to_string(),
                );
                return None;
            }
        };
        let directories = Directories::of(snapshot, rootfs);
        if directories.is_none() {
            let message = "the mount has not one directory for each snapshot".to_owned();
            self.undone(Check::Identity, Severity::Warning, "mount-form", message);
        }
        directories
    }

    pub(super) fn root(&mut self, snapshot: &SnapshotFacts) -> Option<RootWitness> {
        let kernel = match &snapshot.kernel {
            Ok(kernel) => kernel,
            Err(error) => {
                self.undone(
                    Check::Identity,
                    Severity::Warning,
                    error.reason(),
                    error.to_string(),
                );
                return None;
            }
        };
        let seen = kernel.root.witness;
        let rootfs = snapshot.rootfs.as_ref().ok();
        // A task that was started again has a new root mount: only the same process is held to it.
        let before = self.first.and_then(|first| first.root);
        let before = before.filter(|root| (root.pid, root.started) == (seen.pid, seen.started));
        if let Some(before) = before
            && before != seen
        {
            // A bind mount of the whole root onto another place still has the image's programs.
            let is_whole = match rootfs.map(|rootfs| rootfs.form) {
                Some(RootForm::Bind) => kernel.top == TopWitness::Same,
                _ => kernel
                    .root
                    .mount
                    .as_ref()
                    .is_some_and(|mount| mount.root == b"/"),
            };
            let severity = if is_whole && seen.device == before.device {
                Severity::Warning
            } else {
                Severity::Critical
            };
            self.wrong(root_moved(severity, shown_root(before), shown_root(seen)));
            return Some(seen);
        }
        let top = rootfs.and_then(Rootfs::top);
        let is_right = match (&kernel.root.mount, before) {
            (Some(mount), _) => self.is_snapshot_mounted(kernel, mount, rootfs),
            (None, Some(_)) => self.is_top_kept(top),
            (None, None) => {
                let message = "the root mount is not visible: the process has chrooted".to_owned();
                self.undone(
                    Check::Identity,
                    Severity::Warning,
                    "root-not-visible",
                    message,
                );
                false
            }
        };
        if is_right {
            self.next.root = Some(seen);
            self.next.upper = top.map(Path::to_owned);
        }
        Some(seen)
    }

    fn is_snapshot_mounted(
        &mut self,
        kernel: &KernelFacts,
        mount: &MountEntry,
        rootfs: Option<&Rootfs>,
    ) -> bool {
        // Already said: without the snapshot's own directory there is nothing to compare with.
        let Some((rootfs, top)) = rootfs.and_then(|rootfs| Some((rootfs, rootfs.top()?))) else {
            return false;
        };
        if kernel.top != TopWitness::Same {
            let option = mount.option(b"upperdir").unwrap_or(&mount.root);
            let found = format!("{} {}", shown(&mount.fs_type), shown(option));
            self.wrong(snapshot_mismatch(
                "root-mount",
                top.display().to_string(),
                found,
            ));
            return false;
        }
        if rootfs.form == RootForm::Bind {
            return true;
        }
        let options: Vec<_> = mount
            .super_options
            .iter()
            .map(|option| String::from_utf8_lossy(option))
            .collect();
        let as_mounted = |option| match option {
            // What follows makes none where nothing can be written, and Linux shows it so.
            "redirect_dir=on" if rootfs.upper.is_none() => "redirect_dir=follow",
            option => option,
        };
        let options: Vec<&str> = options.iter().map(|option| as_mounted(option)).collect();
        if let Err(error) = overlay::check_options(&options, kernel.defaults) {
            self.undone(
                Check::Identity,
                Severity::Warning,
                error.reason(),
                error.to_string(),
            );
        }
        true
    }

    /// The same mount as before, now out of sight: its top directory is still that of first sight, so the
    /// records have to name it too.
    fn is_top_kept(&mut self, top: Option<&Path>) -> bool {
        let kept = self.next.upper.as_deref();
        if let (Some(top), Some(kept)) = (top, kept)
            && top != kept
        {
            let (says, found) = (top.display().to_string(), kept.display().to_string());
            self.wrong(snapshot_mismatch("root-mount", says, found));
            return false;
        }
        top.is_some()
    }

    pub(super) fn image(&mut self, images: &ImageFacts) -> Vec<Arc<Image>> {
        let named_now = match &images.named {
            Named::Target { target, .. } => Some(*target),
            Named::NoName | Named::Unknown => None,
        };
        let question = Question {
            chain: images.chain,
            candidates: &images.candidates,
            image_ref: images.image_ref,
            named: &images.named,
            first_target: self.first.and_then(|first| first.target),
            has_agreed: self.first.is_some_and(|first| first.has_agreed),
            created_at: self.facts.record.created_at,
            architecture: about::architecture(),
        };
        let selected = select(&question);
        let verdict = judge_name(&question, selected.first().map(Arc::as_ref));
        let chosen = selected
            .first()
            .map(|image| image.config_digest().to_string());
        let runs = chosen.unwrap_or_else(|| images.chain.to_string());
        match &verdict {
            NameVerdict::Agrees => {
                self.next.has_agreed = true;
                self.next.target = self.next.target.or(named_now);
            }
            NameVerdict::NotCompared => {}
            NameVerdict::Moved { target } => {
                self.wrong(tag_moved(&self.facts.record.image_name, *target, &runs));
            }
            NameVerdict::Mismatch { witness, says } => {
                self.wrong(snapshot_mismatch(witness, says.to_string(), runs));
            }
        }
        match selected.len() {
            0 => self.no_candidate(images, &verdict),
            1 => {}
            count => {
                let message =
                    format!("{count} images have these layers, and no record chooses one");
                self.undone(Check::Identity, Severity::Info, "ambiguous-config", message);
            }
        }
        selected
    }

    /// Nothing gives the chain: a container without an image, unless something explains it.
    fn no_candidate(&mut self, images: &ImageFacts, verdict: &NameVerdict) {
        let refused = images.problems.iter().find_map(|problem| match problem {
            Problem::Altered { .. } => Some((
                "content-altered",
                "its image's documents were altered".to_owned(),
            )),
            Problem::Refused(refusal) => Some((refusal.reason(), refusal.to_string())),
            Problem::Absent => None,
        });
        let is_absent = images.problems.contains(&Problem::Absent);
        let (reason, message) = match (images.image_ref, refused) {
            (_, Some(refused)) => refused,
            (ImageRefWitness::Missing { digest }, None) => (
                "image-ref-missing",
                format!("its config {digest} is no longer in the store"),
            ),
            (_, None) if is_absent || *verdict != NameVerdict::NotCompared => (
                "config-missing",
                "its manifest and config are no longer in the store".to_owned(),
            ),
            (_, None) => {
                self.wrong(no_image("no image in the store has its layers"));
                return;
            }
        };
        self.undone(Check::Identity, Severity::Warning, reason, message);
    }

    /// An image that was selected has proved its documents; what is wrong in the store is told beside.
    pub(super) fn digests(&mut self, images: &ImageFacts, selected: &[Arc<Image>]) {
        if !selected.is_empty() {
            self.done.push(Check::Digests);
        }
        for problem in &images.problems {
            match problem {
                Problem::Altered {
                    part,
                    digest,
                    actual,
                } => self.wrong(content_altered(*part, *digest, *actual)),
                Problem::Refused(refusal) if selected.is_empty() => {
                    let message = refusal.to_string();
                    self.undone(Check::Digests, Severity::Warning, refusal.reason(), message);
                }
                Problem::Refused(_) | Problem::Absent => {}
            }
        }
    }

    /// Joins the image with the directories of its layers.
    pub(super) fn identity(
        &mut self,
        directories: Option<Directories<'_>>,
        selected: &[Arc<Image>],
        root: Option<RootWitness>,
    ) -> Option<Identity> {
        let (image, others) = selected.split_first()?;
        let directories = directories?;
        if let Err((says, found)) = directories.fit(image) {
            self.wrong(snapshot_mismatch("snapshot-parents", says, found));
            return None;
        }
        Some(directories.join(self.facts, image, others, root))
    }

    pub(super) fn image_of_findings(&mut self, selected: Option<&Image>) {
        let name = &self.next.image_name;
        self.image = Some(ImageRef {
            reference: (!name.is_empty()).then(|| shown(name.as_bytes())),
            index_digest: selected.and_then(Image::index_digest),
            manifest_digest: selected.map(Image::manifest_digest),
            config_digest: selected.map(Image::config_digest),
        });
    }

    pub(super) fn finish(self, identity: Option<Identity>) -> Identified {
        let (container, workload) = about::about(
            &self.facts.record,
            &self.facts.sandbox_labels,
            &self.next.image_name,
        );
        Identified {
            container,
            workload,
            image: self.image,
            identity,
            conditions: self.conditions,
            done: self.done,
            first_sight: self.next,
        }
    }
}

fn shown_root(root: RootWitness) -> String {
    format!("mount {} of device {}", root.mount_id, root.device)
}
