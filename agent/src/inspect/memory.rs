//! What is kept of one container between looks, and what must survive a restart of the agent.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_core::container::ContainerKey;
use holdfast_core::coverage::{CheckStatus, ContainerStatus, SCHEMA};
use holdfast_core::digest::Digest;
use holdfast_core::drift::policy::Rules;
use holdfast_core::finding::{Check, ImageRef, Kind, Severity};
use holdfast_core::image::Image;
use holdfast_core::place::{About, Look};
use holdfast_core::trust::Verdict;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Looked;
use super::content::Expectation;
use super::verdicts::Verdicts;
use crate::files::UpperScan;
use crate::files::keep::Keep;
use crate::files::layers::LayerKey;
use crate::runtime::about::about;
use crate::runtime::identify::{FirstSight, Identified, Identity};
use crate::runtime::kernel::{self, RootWitness};
use crate::runtime::list::Found;
use crate::runtime::mounts::Launch;
use crate::trust::Policies;

/// A status is recorded again after this, so that "still so" and "nobody looks" can be told apart.
const TOLD_AGAIN: SignedDuration = SignedDuration::from_hours(1);

/// What survives a restart of the agent, as the ledger keeps it.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    first_sight: FirstSight,
    /// Digests of the image's documents: index, manifest, config; the documents are in [`Keep`].
    documents: Vec<Digest>,
    /// What its runtime was given.
    #[serde(default)]
    launch: Option<Launch>,
}

/// One container, between looks.
#[derive(Debug)]
pub struct Memory {
    key: ContainerKey,
    found: Found,
    first_sight: Option<FirstSight>,
    documents: Vec<Digest>,
    identified: Option<Identified>,
    /// What its files are compared with, once that could be had.
    pub(super) expectation: Option<Arc<Expectation>>,
    /// The scans of its upper directories, lowest first; the container's own is last.
    pub(super) uppers: Vec<UpperScan>,
    /// What its runtime was given, as first seen of this task.
    launch: Option<Arc<Launch>>,
    /// What is to survive a restart has changed since it was recorded.
    is_to_be_remembered: bool,
    pub(super) judged: Option<Judged>,
    /// What policies say about its files, and of which set they are.
    rules: Option<(u64, Arc<Rules>)>,
    checks: BTreeMap<Check, CheckStatus>,
    open: Vec<(Kind, Severity)>,
    looked_at: Option<Timestamp>,
    told: Option<ContainerStatus>,
}

/// A verdict, and what it was made from.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) verdict: Verdict,
    pub(super) generation: u64,
    pub(super) config: Digest,
    pub(super) at: Instant,
}

impl Memory {
    /// A container seen for the first time.
    pub fn new(found: Found) -> Self {
        Self {
            key: found.record.key.clone(),
            found,
            first_sight: None,
            documents: Vec::new(),
            identified: None,
            expectation: None,
            uppers: Vec::new(),
            launch: None,
            is_to_be_remembered: false,
            judged: None,
            rules: None,
            checks: BTreeMap::new(),
            open: Vec::new(),
            looked_at: None,
            told: None,
        }
    }

    /// What an earlier run of the agent knew; bytes that are not ours are first sight again.
    pub fn recall(&mut self, bytes: &[u8]) {
        if let Ok(remembered) = serde_json::from_slice::<Remembered>(bytes) {
            self.first_sight = Some(remembered.first_sight);
            self.documents = remembered.documents;
            self.launch = remembered.launch.map(Arc::new);
        }
    }

    /// What the next run of the agent must know, unless it was [recorded](Self::remembered) already.
    pub fn to_remember(&self) -> Option<Vec<u8>> {
        if !self.is_to_be_remembered {
            return None;
        }
        let first_sight = self.first_sight.clone()?;
        serde_json::to_vec(&Remembered {
            first_sight,
            documents: self.documents.clone(),
            launch: self.launch.as_deref().cloned(),
        })
        .ok()
    }

    /// What [`Self::to_remember`] gave is recorded.
    pub const fn remembered(&mut self) {
        self.is_to_be_remembered = false;
    }

    /// What the runtime says now. True when it is another task, or another record, than before.
    pub fn meet(&mut self, found: Found) -> bool {
        let is_other = match (&self.found.task, &found.task) {
            (Ok(before), Ok(now)) => before.pid != now.pid,
            (Err(_), Ok(_)) => true,
            (_, Err(_)) => false,
        } || self.found.record != found.record;
        self.found = found;
        is_other
    }

    pub(super) const fn key(&self) -> &ContainerKey {
        &self.key
    }

    pub(super) const fn first_sight(&self) -> Option<&FirstSight> {
        self.first_sight.as_ref()
    }

    pub(super) const fn identified(&self) -> Option<&Identified> {
        self.identified.as_ref()
    }

    pub(super) fn identity(&self) -> Option<Arc<Identity>> {
        self.identified.as_ref()?.identity.clone().map(Arc::new)
    }

    pub(super) fn verdict(&self) -> Option<&Verdict> {
        self.judged.as_ref().map(|judged| &judged.verdict)
    }

    /// What these policies say about its files.
    pub(super) fn rules(&mut self, policies: &Policies) -> Arc<Rules> {
        if let Some((generation, rules)) = &self.rules
            && *generation == policies.generation
        {
            return Arc::clone(rules);
        }
        let About {
            container, image, ..
        } = self.about("");
        let namespace = container.pod.as_ref().map(|pod| pod.namespace.as_str());
        let rules = Arc::new(policies.drift.rules_for(image.as_ref(), namespace));
        self.rules = Some((policies.generation, Arc::clone(&rules)));
        rules
    }

    /// Documents of its image from first sight: containerd forgets them when the name moves.
    pub(super) fn images(&self, keep: &Keep) -> Vec<Arc<Image>> {
        if let Some(identity) = self
            .identified
            .as_ref()
            .and_then(|identified| identified.identity.as_ref())
        {
            return vec![Arc::clone(&identity.image)];
        }
        keep.image(&self.documents)
            .map(Arc::new)
            .into_iter()
            .collect()
    }

    /// Whether the kernel shows the root mount of the last whole look.
    pub(super) fn root_is_as_before(&self) -> bool {
        let identity = self
            .identified
            .as_ref()
            .and_then(|identified| identified.identity.as_ref());
        let Some(before) = identity.and_then(|identity| identity.root) else {
            return false;
        };
        kernel::root_of(before.pid).is_ok_and(|root| root.witness == before)
    }

    /// What the runtime was given for the task with that root.
    pub(super) fn launch(&self, root: RootWitness) -> Option<Arc<Launch>> {
        let launch = self.launch.as_ref();
        launch.filter(|launch| launch.root == root).cloned()
    }

    pub(super) fn on_launch(&mut self, launch: Arc<Launch>) {
        self.launch = Some(launch);
        self.is_to_be_remembered = true;
    }

    pub(super) fn on_identified(&mut self, identified: Identified, keep: &Keep) {
        let first_sight = Some(identified.first_sight.clone());
        self.is_to_be_remembered |= self.first_sight != first_sight;
        self.first_sight = first_sight;
        if let Some(identity) = &identified.identity {
            keep.put(&identity.image);
            let documents = Keep::names(&identity.image);
            self.is_to_be_remembered |= self.documents != documents;
            self.documents = documents;
            self.rules = None; // another name or pod may have others
            let before = self
                .identified
                .as_ref()
                .and_then(|before| before.identity.as_ref());
            if !before.is_some_and(|before| has_same_files(before, identity)) {
                self.expectation = None;
                self.uppers.clear();
            }
        }
        self.identified = Some(identified);
    }

    /// Who findings are about.
    pub fn about(&self, node: &str) -> About {
        let node = node.to_owned();
        match &self.identified {
            Some(Identified {
                container,
                workload,
                image,
                ..
            }) => About {
                node,
                container: container.clone(),
                workload: workload.clone(),
                image: image.clone(),
            },
            None => self.about_unidentified(node),
        }
    }

    /// By its definition alone, and by the name that the first look has seen, if there was one: what is
    /// said of it now and what is said once it is identified are about one workload.
    fn about_unidentified(&self, node: String) -> About {
        let record = &self.found.record;
        let image_name = self
            .first_sight
            .as_ref()
            .map_or(&record.image_name, |first| &first.image_name);
        let (container, workload) = about(record, &BTreeMap::new(), image_name);
        let name = holdfast_core::display::escape(image_name.as_bytes());
        About {
            node,
            workload,
            container,
            image: Some(ImageRef {
                reference: Some(name),
                ..ImageRef::default()
            }),
        }
    }

    /// What is said about a container whose look did not end in time.
    pub fn not_looked(&self, node: &str, now: Timestamp) -> Looked {
        let mut verdicts = Verdicts::new(now);
        verdicts.timed_out();
        let about = self.about(node);
        let (look, checks) = verdicts.into_parts();
        let status = ContainerStatus {
            schema: SCHEMA.to_owned(),
            node: about.node.clone(),
            container: about.container.clone(),
            workload: about.workload.clone(),
            image: about.image.clone(),
            signature: self.verdict().map(Verdict::name),
            checks,
            running: true,
            observed_at: now,
        };
        Looked {
            about,
            look,
            status,
        }
    }

    /// The layers that it stands on, as far as they are known.
    pub fn layers(&self) -> Vec<LayerKey> {
        let identity = self
            .identified
            .as_ref()
            .and_then(|identified| identified.identity.as_ref());
        identity.map(layer_keys).unwrap_or_default()
    }

    /// Whether a status says more than the last one that was recorded; an hour later it is news again.
    pub fn is_news(&self, status: &ContainerStatus) -> bool {
        let Some(told) = &self.told else { return true };
        // How much a rule lets pass changes all the time: that it does is news.
        let rules = |status: &CheckStatus| {
            let by = status.accepted_by.iter();
            by.map(|by| by.rule.clone()).collect::<Vec<_>>()
        };
        let same = |a: &CheckStatus, b: &CheckStatus| {
            (a.check, a.outcome, a.severity, a.basis, &a.reason)
                == (b.check, b.outcome, b.severity, b.basis, &b.reason)
                && rules(a) == rules(b)
        };
        let is_same = told.checks.len() == status.checks.len()
            && told
                .checks
                .iter()
                .zip(&status.checks)
                .all(|(a, b)| same(a, b))
            && (told.signature, &told.image, &told.workload)
                == (status.signature, &status.image, &status.workload);
        !is_same || status.observed_at.duration_since(told.observed_at) >= TOLD_AGAIN
    }

    /// A status was recorded.
    pub fn told(&mut self, status: ContainerStatus) {
        self.told = Some(status);
    }

    /// What is open, by kind and severity.
    pub fn open(&self) -> &[(Kind, Severity)] {
        &self.open
    }

    /// When it was last looked at.
    pub const fn looked_at(&self) -> Option<Timestamp> {
        self.looked_at
    }

    /// The statuses of this look, with those of checks that it did not touch.
    pub(super) fn remember_checks(&mut self, checks: Vec<CheckStatus>) -> Vec<CheckStatus> {
        self.checks
            .extend(checks.into_iter().map(|status| (status.check, status)));
        self.checks.values().cloned().collect()
    }

    pub(super) fn on_looked(&mut self, look: &Look, now: Timestamp) {
        let kind = |condition: &holdfast_core::finding::Condition| {
            (condition.detail.kind(), condition.severity)
        };
        self.open = look.conditions.iter().map(kind).collect();
        self.looked_at = Some(now);
    }
}

/// The snapshot directories of an image, lowest first.
pub(super) fn layer_keys(identity: &Identity) -> Vec<LayerKey> {
    let key = |layer: &crate::runtime::identify::LayerRef| LayerKey {
        chain_id: layer.chain_id,
        lower: layer.lower.clone(),
    };
    identity.layers.iter().map(key).collect()
}

fn has_same_files(before: &Identity, now: &Identity) -> bool {
    before.snapshotter == now.snapshotter
        && before.layers == now.layers
        && before.uppers() == now.uppers()
}
