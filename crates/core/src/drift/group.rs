//! From changes to conditions: what is worth a page of its own, what is one line among many, and how a
//! person reads it. It must not lose anything silently: every list that is cut says how many there were.
//!
//! Long because what is kept of the changes follows from the conditions that are made of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::accepted::Accepted;
use super::every::{Every, Listed};
use super::policy::{Decision, Rules};
use super::shown::{MAX_WORKLOAD, blank_title, layer_title, noun, title, weight};
use super::{Change, ChangeKind, Class};
use crate::digest::{ChainId, DiffId};
use crate::display::shorten;
use crate::finding::{
    Basis, Check, Condition, Detail, FileChange, FileDrift, LayerDrift, Severity, Subject,
};
use crate::layer::Entry;

/// Changes that one finding lists (DESIGN section 10).
pub const MAX_LISTED: usize = 1_000;

/// Conditions of one container (DESIGN section 10).
pub const MAX_CONDITIONS: usize = 10_000;

/// Programs changed in one container from which on they are one finding, such as a package upgrade.
pub const MASS_CHANGE: u64 = 20;

/// What such a finding is about.
const MASS_CHANGE_SUBJECT: &str = "mass-change";

/// Text that the list of one finding may hold: paths have up to 4 KiB, and a message at most 4 MiB.
const MAX_LISTED_BYTES: usize = 1 << 20;

/// Conditions left free for classes, the mass change and what is over [`MAX_CONDITIONS`].
const RESERVED: usize = 20;

/// How changes come together. The order is that of the conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    /// A condition each: trust anchors, privileged and redirected files, files of a layer.
    Alone,
    /// A condition each, up to [`MASS_CHANGE`].
    Programs,
    /// One condition for the class.
    OfClass(Class),
}

impl Group {
    const fn of(change: &Change) -> Self {
        match (change.class, change.kind) {
            (Class::TrustAnchor, _) | (_, ChangeKind::Redirected) => Self::Alone,
            _ if change.privileged => Self::Alone,
            (Class::Program, _) => Self::Programs,
            (class, _) => Self::OfClass(class),
        }
    }

    /// The subjects of the conditions that a change may be part of.
    fn subjects(self, change: &Change) -> Vec<Subject> {
        match self {
            Self::Alone => vec![Subject::path(&change.path)],
            Self::Programs => vec![
                Subject::path(&change.path),
                Subject::word(MASS_CHANGE_SUBJECT),
            ],
            Self::OfClass(class) => vec![Subject::word(class.as_str())],
        }
    }

    const fn capacity(self) -> usize {
        match self {
            Self::Alone => MAX_CONDITIONS,
            Self::Programs | Self::OfClass(_) => MAX_LISTED,
        }
    }
}

/// The worst changes of a group, and how many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Kept {
    changes: Vec<Change>,
    /// How many of the first ones are in order, and as many as there may be: those that the last cut left.
    cut_to: usize,
    totals: BTreeMap<Class, u64>,
}

/// The changes of one container or layer: the worst of each group, and how many there are of each class,
/// in bounded memory whatever a container does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    groups: BTreeMap<Group, Kept>,
    /// Where somebody asks for all of them.
    every: Option<Every>,
    /// What policies say about them, and at which time.
    rules: Option<(Arc<Rules>, Timestamp)>,
    accepted: Accepted,
}

impl Changes {
    /// Changes that also list every one.
    pub fn listing_every() -> Self {
        Self {
            every: Some(Every::default()),
            ..Self::default()
        }
    }

    /// The same, and policies decide about each change that is added.
    #[must_use]
    pub fn ruled_by(self, rules: Arc<Rules>, now: Timestamp) -> Self {
        Self {
            rules: Some((rules, now)),
            ..self
        }
    }

    /// What policies have accepted; once.
    pub fn take_accepted(&mut self) -> Accepted {
        std::mem::take(&mut self.accepted)
    }

    /// Whether every one is listed.
    pub const fn lists_every(&self) -> bool {
        self.every.is_some()
    }

    /// Every one, when they were listed; once.
    pub const fn take_every(&mut self) -> Option<Every> {
        self.every.take()
    }

    /// A difference that is not worth a finding: listed where every one is, and nowhere else.
    pub fn pass_over(
        &mut self,
        path: &[u8],
        kind: ChangeKind,
        expected: Option<&Entry>,
        actual: Option<&Entry>,
    ) {
        let rules = self.rules.as_ref();
        let may_be_raised = rules.is_some_and(|(rules, _)| rules.may_raise_volatile(path));
        if self.every.is_some() || may_be_raised {
            self.push(Change::of_volatile(path, kind, expected, actual));
        }
    }

    /// A difference of this class was not looked at closely, because a policy calls its place volatile.
    pub fn pass_over_by_policy(&mut self, class: Class) {
        self.accepted.excuse(Subject::word(class.as_str()));
    }

    /// How bad a change is in the end; `None` when it is no finding.
    pub fn severity_of(&self, change: &Change) -> Option<Severity> {
        self.decide(change).severity
    }

    fn decide(&self, change: &Change) -> Decision {
        let none = || Rules::default().decide(change, Timestamp::UNIX_EPOCH);
        let rules = self.rules.as_ref();
        rules.map_or_else(none, |(rules, now)| rules.decide(change, *now))
    }

    /// Those of two directories of one container.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        for (group, kept) in other.groups {
            let own = self.groups.entry(group).or_default();
            own.changes.extend(kept.changes);
            for (class, total) in kept.totals {
                *own.totals.entry(class).or_default() += total;
            }
        }
        self.accepted.join(other.accepted);
        match (&mut self.every, other.every) {
            (Some(own), Some(others)) => own.join(others),
            (own, others) => *own = own.take().or(others),
        }
        self.finished()
    }

    /// Adds a change of a container, as it is judged by default.
    pub fn push(&mut self, mut change: Change) {
        let decision = self.decide(&change);
        let is_accepted = decision.severity.is_none();
        if let Some(rule) = decision
            .ruled
            .as_ref()
            .and_then(|ruled| ruled.rule.as_ref())
            && is_accepted
        {
            self.accepted
                .count(rule, Group::of(&change).subjects(&change));
        }
        change.class = decision.class;
        change.severity = decision.severity.unwrap_or(change.severity);
        change.ruled = decision.ruled;
        if let Some(every) = &mut self.every {
            every.push(Listed {
                change: change.clone(),
                is_worth_a_finding: !is_accepted,
            });
        }
        if !is_accepted {
            self.push_into(Group::of(&change), change);
        }
    }

    /// Adds a change of a layer: each stands alone.
    pub fn push_of_layer(&mut self, change: Change) {
        self.push_into(Group::Alone, change);
    }

    fn push_into(&mut self, group: Group, change: Change) {
        let kept = self.groups.entry(group).or_default();
        *kept.totals.entry(change.class).or_default() += 1;
        if kept.is_behind_the_last(&change) {
            return;
        }
        kept.changes.push(change);
        // Sorting at twice the capacity costs little per change and never drops one that belongs.
        if kept.changes.len() >= group.capacity().saturating_mul(2) {
            kept.cut(group.capacity());
        }
    }

    /// Sorts each group, worst first, and cuts it to what is listed. Called once, after the last change.
    #[must_use]
    pub fn finished(mut self) -> Self {
        self.rules = None; // all is decided
        for (group, kept) in &mut self.groups {
            kept.cut(group.capacity());
        }
        self
    }

    /// All of them in one list, worst first.
    fn together(self) -> Kept {
        let mut together = Kept::default();
        for kept in self.groups.into_values() {
            together.join(kept);
        }
        together
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// How many there are, listed or not.
    pub fn total(&self) -> u64 {
        self.groups.values().map(Kept::total).sum()
    }

    /// The changes that are kept, group by group.
    pub fn iter(&self) -> impl Iterator<Item = &Change> {
        self.groups.values().flat_map(|kept| &kept.changes)
    }

    /// The worst severity.
    pub fn worst(&self) -> Option<Severity> {
        self.iter().map(|change| change.severity).max()
    }
}

impl Kept {
    fn total(&self) -> u64 {
        self.totals.values().sum()
    }

    fn cut(&mut self, capacity: usize) {
        sort(&mut self.changes);
        if self.changes.len() >= capacity {
            self.changes.truncate(capacity);
            self.cut_to = capacity;
        }
    }

    /// Whether a change would be cut again: most of a hundred thousand are, and need no sorting.
    fn is_behind_the_last(&self, change: &Change) -> bool {
        let last = self.cut_to.checked_sub(1);
        let last = last.and_then(|last| self.changes.get(last));
        last.is_some_and(|last| order(last) <= order(change))
    }
}

/// Worst first; the path decides the rest, so that two nodes list the same.
fn sort(changes: &mut [Change]) {
    changes.sort_unstable_by(|a, b| order(a).cmp(&order(b)));
}

fn order(change: &Change) -> (Reverse<Severity>, Class, &[u8], ChangeKind) {
    (
        Reverse(change.severity),
        change.class,
        &change.path,
        change.kind,
    )
}

/// The conditions of one container. `workload` is how titles call it.
pub fn conditions(changes: Changes, workload: &str, basis: Option<Basis>) -> Vec<Condition> {
    let place = Place {
        workload: shorten(workload, MAX_WORKLOAD),
        basis,
    };
    let mut conditions = Vec::new();
    let mut classes: BTreeMap<Class, Kept> = BTreeMap::new();
    for (group, kept) in changes.finished().groups {
        match group {
            Group::Alone => place.each(kept, &mut conditions, &mut classes),
            Group::Programs if kept.total() > MASS_CHANGE => {
                conditions.push(place.mass_change(&kept));
            }
            Group::Programs => conditions.extend(kept.changes.iter().map(|c| place.alone(c))),
            Group::OfClass(class) => classes.entry(class).or_default().join(kept),
        }
    }
    conditions.extend(
        classes
            .into_iter()
            .map(|(class, kept)| place.of_class(class, &kept)),
    );
    conditions
}

/// One unpacked layer with its changes.
#[derive(Clone, Debug)]
pub struct TamperedLayer {
    /// Which snapshot directory.
    pub chain_id: ChainId,
    /// Which layer.
    pub diff_id: DiffId,
    /// Where it is on the node, in the reversible form.
    pub directory: String,
    /// What differs there.
    pub changes: Changes,
    /// What a power cut has left without content.
    pub corrupt: Changes,
    /// How its table was proved.
    pub basis: Basis,
}

/// The conditions of the layers below one container, topmost first: what differs from the signed layer on
/// the node's disk, critical whatever it is but for what a power cut does.
pub fn layer_conditions(layers: Vec<TamperedLayer>, workload: &str) -> Vec<Condition> {
    let workload = shorten(workload, MAX_WORKLOAD);
    let mut conditions: Vec<Condition> = Vec::new();
    let mut taken = BTreeSet::new();
    for mut layer in layers {
        let place = Place {
            workload: workload.clone(),
            basis: Some(layer.basis),
        };
        let tampered = std::mem::take(&mut layer.changes).together();
        let corrupt = std::mem::take(&mut layer.corrupt).together();
        for (of, changes) in [(InLayer::Tampered, tampered), (InLayer::Corrupt, corrupt)] {
            conditions.extend(place.of_layer(of, &layer, &changes, &mut taken));
        }
    }
    conditions
}

/// What is wrong with files of a layer: two kinds of finding in one shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InLayer {
    Tampered,
    Corrupt,
}

impl InLayer {
    const fn severity(self) -> Severity {
        match self {
            Self::Tampered => Severity::Critical,
            Self::Corrupt => Severity::Warning,
        }
    }

    fn one(self, change: &Change, workload: &str) -> String {
        match self {
            Self::Tampered => layer_title(change, workload),
            Self::Corrupt => blank_title(change, workload),
        }
    }

    fn many(self, total: u64, workload: &str) -> String {
        let what = match self {
            Self::Tampered => "were changed on the node's disk",
            Self::Corrupt => "lost their content in a power cut",
        };
        format!("{total} files of a layer of {workload} {what}")
    }

    fn detail(self, layer: &TamperedLayer, changes: &[Change], changes_total: u64) -> Detail {
        let drift = LayerDrift {
            chain_id: layer.chain_id,
            diff_id: layer.diff_id,
            directory: Some(layer.directory.clone()),
            changes: list(changes),
            changes_total,
        };
        match self {
            Self::Tampered => Detail::LayerTampered(drift),
            Self::Corrupt => Detail::LayerCorrupt(drift),
        }
    }
}

impl Kept {
    fn join(&mut self, other: Self) {
        self.changes.extend(other.changes);
        for (class, total) in other.totals {
            *self.totals.entry(class).or_default() += total;
        }
        self.cut(MAX_LISTED);
    }
}

/// What all conditions of one container share.
struct Place {
    workload: String,
    basis: Option<Basis>,
}

impl Place {
    /// A condition for each change, and what is over the limit by class with its count.
    fn each(
        &self,
        mut kept: Kept,
        conditions: &mut Vec<Condition>,
        classes: &mut BTreeMap<Class, Kept>,
    ) {
        let limit = MAX_CONDITIONS.saturating_sub(RESERVED);
        let over = kept.changes.split_off(limit.min(kept.changes.len()));
        for change in &kept.changes {
            kept.totals
                .entry(change.class)
                .and_modify(|left| *left = left.saturating_sub(1));
            conditions.push(self.alone(change));
        }
        for change in over {
            let class = classes.entry(change.class).or_default();
            class.changes.push(change);
        }
        for (class, total) in kept.totals.into_iter().filter(|(_, total)| *total > 0) {
            classes.entry(class).or_default().join(Kept {
                totals: BTreeMap::from([(class, total)]),
                ..Kept::default()
            });
        }
    }

    fn alone(&self, change: &Change) -> Condition {
        let title = title(change, &self.workload);
        let subject = Subject::path(&change.path);
        self.drift(subject, title, std::slice::from_ref(change), 1)
    }

    fn mass_change(&self, kept: &Kept) -> Condition {
        let total = kept.total();
        let title = format!(
            "{total} programs changed in {}: a package upgrade, or a mass replacement",
            self.workload
        );
        self.drift(
            Subject::word(MASS_CHANGE_SUBJECT),
            title,
            &kept.changes,
            total,
        )
    }

    fn of_class(&self, class: Class, kept: &Kept) -> Condition {
        let total = kept.total();
        let title = match kept.changes.as_slice() {
            [only] if total == 1 => title(only, &self.workload),
            _ => format!("{total} {} changed in {}", noun(class).1, self.workload),
        };
        self.drift(Subject::word(class.as_str()), title, &kept.changes, total)
    }

    fn drift(
        &self,
        subject: Subject,
        title: String,
        changes: &[Change],
        changes_total: u64,
    ) -> Condition {
        // Sorted worst first. An empty list is one whose members did not fit anywhere: all of them
        // stood alone, so they were not worth less.
        let severity = changes
            .first()
            .map_or(Severity::Critical, |worst| worst.severity);
        Condition {
            check: Check::Files,
            subject,
            severity,
            title,
            basis: self.basis,
            detail: Detail::FileDrift(FileDrift {
                changes: list(changes),
                changes_total,
            }),
        }
    }

    /// The conditions of one layer; `taken` are the paths that have one.
    fn of_layer(
        &self,
        of: InLayer,
        layer: &TamperedLayer,
        changes: &Kept,
        taken: &mut BTreeSet<Vec<u8>>,
    ) -> Vec<Condition> {
        let total = changes.total();
        if total > u64::try_from(MAX_LISTED).unwrap_or(u64::MAX) {
            let title = of.many(total, &self.workload);
            let subject = Subject::word(&format!("layer {}", layer.diff_id));
            let detail = of.detail(layer, &changes.changes, total);
            return vec![self.in_layer(subject, of.severity(), title, detail)];
        }
        let mut alone = |change: &Change| {
            let mut subject = Subject::path(&change.path);
            // The same path in a lower layer too: one condition for each subject.
            if !taken.insert(change.path.clone()) {
                subject = Subject::word(&format!("{} in {}", subject.as_str(), layer.diff_id));
            }
            let title = of.one(change, &self.workload);
            let detail = of.detail(layer, std::slice::from_ref(change), 1);
            self.in_layer(subject, of.severity(), title, detail)
        };
        changes.changes.iter().map(&mut alone).collect()
    }

    fn in_layer(
        &self,
        subject: Subject,
        severity: Severity,
        title: String,
        detail: Detail,
    ) -> Condition {
        Condition {
            check: Check::Layers,
            subject,
            severity,
            title,
            basis: self.basis,
            detail,
        }
    }
}

/// As many of `changes`, which are sorted, as one finding lists.
fn list(changes: &[Change]) -> Vec<FileChange> {
    let mut bytes = 0_usize;
    changes
        .iter()
        .map(FileChange::from)
        .take_while(|change| {
            let is_first = bytes == 0;
            bytes = bytes.saturating_add(weight(change));
            is_first || bytes <= MAX_LISTED_BYTES
        })
        .take(MAX_LISTED)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::layer::{Marker, Node};

    fn file(content: &[u8], mode: u32) -> Entry {
        Entry {
            node: Node::File {
                size: u64::try_from(content.len()).unwrap(),
                digest: Digest::of(content),
                marker: Marker::of(content),
            },
            mode,
            uid: 0,
            gid: 0,
            xattrs: Vec::new(),
            hard_link: None,
        }
    }

    fn added(path: &str, mode: u32) -> Change {
        let entry = file(b"x", mode);
        super::super::class::judge(path.as_bytes(), ChangeKind::Added, None, Some(&entry), &[])
            .unwrap()
    }

    fn grouped(changes: impl IntoIterator<Item = Change>) -> Vec<Condition> {
        let mut all = Changes::default();
        changes.into_iter().for_each(|change| all.push(change));
        conditions(all, "shop/api", Some(Basis::LocalBlob))
    }

    /// Subject, severity, how many are listed, how many there are.
    fn summary(conditions: &[Condition]) -> Vec<(&str, Severity, usize, u64)> {
        conditions
            .iter()
            .map(|condition| {
                let json = serde_json::to_value(&condition.detail).unwrap();
                let listed = json["detail"]["changes"].as_array().unwrap().len();
                let total = json["detail"]["changes_total"].as_u64().unwrap();
                (
                    condition.subject.as_str(),
                    condition.severity,
                    listed,
                    total,
                )
            })
            .collect()
    }

    #[test]
    fn programs_and_anchors_stand_alone_and_other_classes_come_together() {
        let conditions = grouped([
            added("srv/b", 0o644),
            added("etc/ld.so.preload", 0o644),
            added("usr/bin/evil", 0o755),
            added("srv/a", 0o644),
            added("etc/app/x", 0o644),
            added("tmp/suid", 0o4755),
        ]);
        assert_eq!(
            summary(&conditions),
            [
                ("/etc/ld.so.preload", Severity::Critical, 1, 1),
                ("/tmp/suid", Severity::Critical, 1, 1),
                ("/usr/bin/evil", Severity::Warning, 1, 1),
                ("configuration", Severity::Warning, 1, 1),
                ("data", Severity::Info, 2, 2),
            ]
        );
        assert_eq!(
            conditions[2].title,
            "New program /usr/bin/evil in shop/api, not in the image"
        );
        assert_eq!(conditions[4].title, "2 data files changed in shop/api");
    }

    #[test]
    fn more_than_twenty_programs_are_one_finding_and_what_must_page_still_does() {
        let programs = |count: usize| (0..count).map(|n| added(&format!("usr/bin/p{n:02}"), 0o755));
        assert_eq!(grouped(programs(20)).len(), 20);
        let mut suid = added("usr/bin/p05", 0o4755);
        suid.kind = ChangeKind::Metadata;
        let conditions = grouped(programs(21).chain([suid]));
        assert_eq!(
            summary(&conditions),
            [
                ("/usr/bin/p05", Severity::Critical, 1, 1),
                ("mass-change", Severity::Warning, 21, 21),
            ]
        );
    }

    #[test]
    fn a_mass_change_has_its_worst_members_severity_and_shows_it_first() {
        let mut worst = added("zzz/last", 0o755);
        worst.severity = Severity::Critical;
        let many = (0..3_000).map(|n| added(&format!("usr/bin/p{n}"), 0o755));
        let conditions = grouped(many.chain([worst]));
        assert_eq!(
            summary(&conditions),
            [("mass-change", Severity::Critical, 1_000, 3_001)]
        );
        let Detail::FileDrift(drift) = &conditions[0].detail else {
            panic!("{:?}", conditions[0].detail);
        };
        assert_eq!(drift.changes[0].path, "/zzz/last");
    }

    #[test]
    fn the_order_of_changes_does_not_matter() {
        let changes: Vec<Change> = (0..2_500)
            .map(|n| added(&format!("srv/{n}"), 0o644))
            .chain((0..30).map(|n| added(&format!("bin/{n}"), 0o755)))
            .collect();
        let forward = grouped(changes.clone());
        assert_eq!(forward, grouped(changes.into_iter().rev()));
    }

    #[test]
    fn what_is_listed_of_many_changes_does_not_depend_on_their_order() {
        let mut changes: Vec<Change> = (0..5_000)
            .map(|n| added(&format!("srv/{n:04}"), 0o644))
            .collect();
        let forwards = grouped(changes.clone());
        changes.reverse();
        assert_eq!(forwards, grouped(changes.clone()));
        changes.rotate_left(2_345);
        assert_eq!(forwards, grouped(changes));
        assert_eq!(
            summary(&forwards),
            [("data", Severity::Info, MAX_LISTED, 5_000)]
        );
    }

    #[test]
    fn what_is_over_the_limit_of_conditions_is_counted_by_class() {
        let many = (0..25_000).map(|n| added(&format!("etc/ssh/{n:05}"), 0o644));
        let conditions = grouped(many);
        assert_eq!(conditions.len(), MAX_CONDITIONS - RESERVED + 1);
        let last = summary(&conditions).pop().unwrap();
        assert_eq!(
            (last.0, last.1, last.3),
            ("trust-anchor", Severity::Critical, 25_000 - 9_980)
        );
    }

    #[test]
    fn a_list_of_long_paths_stays_within_a_message() {
        let many = (0..1_000).map(|n| added(&format!("srv/{}{n}", "\u{1}".repeat(4_000)), 0o644));
        let conditions = grouped(many);
        let [(_, _, listed, 1_000)] = summary(&conditions)[..] else {
            panic!("{} conditions", conditions.len());
        };
        assert!(listed > 10 && listed < 100, "{listed}");
    }

    #[test]
    fn layers_are_critical_stand_alone_and_share_no_subject() {
        let (chain_id, diff_id) = (ChainId(Digest::of(b"c")), DiffId(Digest::of(b"d")));
        let layer = |paths: usize| {
            let mut changes = Changes::default();
            for n in 0..paths {
                let path = format!("usr/bin/p{n}");
                let entry = file(b"x", 0o755);
                changes.push_of_layer(super::super::class::judge_in_layer(
                    path.as_bytes(),
                    ChangeKind::Modified,
                    Some(&entry),
                    Some(&entry),
                ));
            }
            TamperedLayer {
                chain_id,
                diff_id,
                directory: "/snapshots/1/fs".to_owned(),
                changes,
                corrupt: Changes::default(),
                basis: Basis::Reassembled,
            }
        };
        let two = layer_conditions(vec![layer(1), layer(1)], "shop/api");
        assert_eq!(two[0].subject.as_str(), "/usr/bin/p0");
        assert_eq!(two[0].basis, Some(Basis::Reassembled));
        assert_ne!(two[0].subject, two[1].subject);
        assert_eq!(
            two[0].title,
            "Layer file /usr/bin/p0 of shop/api was modified on the node's disk"
        );
        assert_eq!(layer_conditions(vec![layer(1_000)], "w").len(), 1_000);
        let many = layer_conditions(vec![layer(1_001)], "w");
        assert_eq!(
            summary(&many),
            [(
                format!("layer {diff_id}").as_str(),
                Severity::Critical,
                1_000,
                1_001
            )]
        );
    }

    /// Rules of one policy for every image; the tail of its `spec`.
    fn rules(spec: &str) -> Arc<Rules> {
        let text = format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: DriftPolicy\nmetadata: {{name: p}}\n\
             spec:\n  match: {{images: [\"**\"]}}\n{spec}\n"
        );
        let set = super::super::policy::DriftPolicies::load([("p", text.as_bytes())]).unwrap();
        Arc::new(set.rules_for(None, None))
    }

    #[test]
    fn what_a_policy_accepts_is_counted_and_listed_and_no_finding() {
        let mut changes = Changes::listing_every().ruled_by(
            rules("  classes: {data: none, program: info}"),
            Timestamp::UNIX_EPOCH,
        );
        for number in 0..3 {
            changes.push(added(&format!("opt/{number}"), 0o644));
        }
        changes.push(added("opt/tool", 0o755));
        let mut changes = changes.and(Changes::default());

        let (by, excused) = changes.take_accepted().into_parts();
        assert_eq!(by, BTreeMap::from([("p:data".to_owned(), 3)]));
        assert_eq!(excused, BTreeSet::from([Subject::word("data")]));
        let listed = changes.take_every().unwrap().into_listed();
        let accepted = listed.iter().filter(|listed| !listed.is_worth_a_finding);
        let rule = |listed: &Listed| listed.change.ruled.clone()?.rule;
        assert!(
            accepted
                .clone()
                .all(|it| rule(it).as_deref() == Some("p:data"))
        );
        assert_eq!((listed.len(), accepted.count()), (4, 3));
        assert_eq!(
            summary(&conditions(changes, "w", None)),
            [("/opt/tool", Severity::Info, 1, 1)]
        );
    }

    #[test]
    fn what_is_volatile_is_a_finding_only_where_a_policy_says_so() {
        let file = file(b"x", 0o644);
        let passed_over = |spec: &str| {
            let mut changes = Changes::default().ruled_by(rules(spec), Timestamp::UNIX_EPOCH);
            changes.pass_over(b"tmp/x", ChangeKind::Added, None, Some(&file));
            changes.pass_over(b"run/x", ChangeKind::Added, None, Some(&file));
            changes.total()
        };
        assert_eq!(passed_over("  classes: {data: critical}"), 0);
        assert_eq!(passed_over("  classes: {volatile: info}"), 2);
        let rule = "  rules: [{paths: [/tmp/**], classes: [volatile], severity: info}]";
        assert_eq!(passed_over(rule), 1);
    }

    #[test]
    fn who_asks_for_every_change_gets_them_all_and_findings_do_not_change() {
        let file = file(b"x", 0o644);
        let with_all = |mut changes: Changes| {
            for number in 0..2_500 {
                changes.push(added(&format!("opt/{number}"), 0o644));
            }
            changes.pass_over(b"tmp/x", ChangeKind::Added, None, Some(&file));
            changes
        };
        let mut all = with_all(Changes::listing_every()).and(with_all(Changes::listing_every()));
        let every = all.take_every().unwrap();

        assert_eq!(every.left_out(), 0);
        let listed = every.into_listed();
        assert_eq!(listed.len(), 2 * 2_501);
        let is_passed_over = |listed: &&Listed| !listed.is_worth_a_finding;
        assert_eq!(listed.iter().filter(is_passed_over).count(), 2);

        let usual = with_all(Changes::default()).and(with_all(Changes::default()));
        assert!(!usual.lists_every());
        assert_eq!(usual, all);
        assert_eq!(
            summary(&conditions(usual, "w", None)),
            [("data", Severity::Info, 1_000, 5_000)]
        );
    }

    #[test]
    fn what_a_power_cut_has_emptied_is_a_warning_of_another_kind() {
        let blank = Change {
            severity: Severity::Warning,
            ..super::super::class::judge_in_layer(
                b"etc/x",
                ChangeKind::Modified,
                Some(&file(b"due", 0o644)),
                Some(&file(b"", 0o644)),
            )
        };
        let mut corrupt = Changes::default();
        corrupt.push_of_layer(blank);
        let layer = TamperedLayer {
            chain_id: ChainId(Digest::of(b"c")),
            diff_id: DiffId(Digest::of(b"d")),
            directory: "/snapshots/1/fs".to_owned(),
            changes: Changes::default(),
            corrupt,
            basis: Basis::LocalBlob,
        };
        let conditions = layer_conditions(vec![layer], "shop/api");
        assert_eq!(summary(&conditions), [("/etc/x", Severity::Warning, 1, 1)]);
        assert!(matches!(&conditions[0].detail, Detail::LayerCorrupt(drift)
            if drift.directory.as_deref() == Some("/snapshots/1/fs")));
        assert_eq!(
            conditions[0].title,
            "Layer file /etc/x of shop/api has lost its content in a power cut"
        );
    }
}
