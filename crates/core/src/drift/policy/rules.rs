//! What all policies together say about the changes of one container. Pure: a change and `now` in, a decision
//! out.

use std::sync::Arc;

use jiff::Timestamp;

use super::exception::{Exception, Needs};
use super::rule::Rule;
use super::{DriftPolicy, PathPattern};
use crate::digest::Digest;
use crate::drift::accounts::AccountFile;
use crate::drift::{Change, ChangeKind, Class, Expired, Ruled};
use crate::finding::Severity;

/// The policies that speak of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    policies: Vec<Arc<DriftPolicy>>,
    /// Of the container's image: the policy, and the exception's place in it.
    exceptions: Vec<(Arc<DriftPolicy>, usize)>,
}

/// What becomes of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// How bad it is; `None`: accepted, no finding.
    pub severity: Option<Severity>,
    /// Its class.
    pub class: Class,
    /// Which rule says so, if one does.
    pub ruled: Option<Ruled>,
}

/// What one statement says, and its name.
type Said = (Option<Severity>, String);

impl Rules {
    pub(super) fn new(policies: Vec<Arc<DriftPolicy>>, image: &[Digest]) -> Self {
        let of_image = |policy: &Arc<DriftPolicy>| {
            let exceptions = policy.exceptions.iter().enumerate();
            let own = exceptions.filter(|(_, exception)| image.contains(&exception.image));
            let own = own.map(|(index, _)| (Arc::clone(policy), index));
            own.collect::<Vec<_>>()
        };
        Self {
            exceptions: policies.iter().flat_map(of_image).collect(),
            policies,
        }
    }

    /// Decides about a change, as it is judged by default.
    ///
    /// 1. Class: data and configuration below a place that some policy calls volatile is volatile.
    /// 2. Exceptions: one that fits and has not expired excuses the change, whatever else is said.
    /// 3. What gives a right keeps its severity: no rule and no class reaches it.
    /// 4. Rules: of each policy the first that fits; of several policies the strictest.
    /// 5. Classes: of several policies the strictest.
    /// 6. Else it stays as it is by default.
    pub fn decide(&self, change: &Change, now: Timestamp) -> Decision {
        let default = default_severity(change);
        // (1) First, because rules and classes speak of classes.
        let place = self.volatile_place(change);
        let class = if place.is_some() {
            Class::Volatile
        } else {
            change.class
        };
        // (2)
        let needs = needs(change);
        let (excused, expired) = self.exception(change, needs, now);
        let said = if let Some(exception) = excused {
            Some((None, exception.name.clone()))
        } else if needs == Needs::ExactContent {
            // (3) Else a rule for all paths would let every set-id file pass.
            None
        } else {
            // (4) (5) A rule names paths, so it knows more than a class.
            self.rule(change, class)
                .or_else(|| self.class(class))
                .or_else(|| place.map(|policy| (None, format!("{policy}:volatile"))))
        };
        // (6)
        let (severity, rule) = match said {
            Some((severity, rule)) => (severity, Some(rule)),
            None => (default, None),
        };
        let is_changed = severity != default || class != change.class;
        let rule = rule.filter(|_| is_changed);
        let ruled = Ruled {
            rule,
            default,
            expired,
        };
        let says_something = ruled.rule.is_some() || ruled.expired.is_some();
        Decision {
            severity,
            class,
            ruled: says_something.then_some(ruled),
        }
    }

    /// Whether data and configuration at `path` is volatile by some policy.
    pub fn is_volatile(&self, path: &[u8]) -> bool {
        self.place(path).is_some()
    }

    /// Whether something volatile at `path` could be worth a finding all the same.
    pub fn may_raise_volatile(&self, path: &[u8]) -> bool {
        self.policies.iter().any(|policy| {
            let class = policy.classes.get(&Class::Volatile);
            let mut rules = policy.rules.iter();
            class.is_some_and(Option::is_some)
                || rules.any(|rule| rule.raises_volatile() && rule.is_at(path))
        })
    }

    /// Whether a scan that was made for `other` has seen all that these rules could want to know. What only
    /// decides about changes that were seen does not count.
    pub fn sees_as_much_as(&self, other: &Self) -> bool {
        self.policies == other.policies || self.seen() == other.seen()
    }

    /// What decides whether a file is looked at closely: volatile places, and what raises what is there.
    fn seen(&self) -> (Vec<&PathPattern>, bool, Vec<&Rule>) {
        let policies = || self.policies.iter();
        let raises = |policy: &Arc<DriftPolicy>| {
            let level = policy.classes.get(&Class::Volatile);
            level.is_some_and(Option::is_some)
        };
        let rules = policies().flat_map(|policy| &policy.rules);
        (
            policies().flat_map(|policy| &policy.volatile).collect(),
            policies().any(raises),
            rules.filter(|rule| rule.raises_volatile()).collect(),
        )
    }

    /// The policy by which the place of a change is volatile, where that matters.
    fn volatile_place(&self, change: &Change) -> Option<&str> {
        let may_be = matches!(change.class, Class::Configuration | Class::Data)
            && !change.privileged
            && change.kind != ChangeKind::Redirected;
        if may_be {
            self.place(&change.path)
        } else {
            None
        }
    }

    fn place(&self, path: &[u8]) -> Option<&str> {
        let mut policies = self.policies.iter();
        let policy = policies.find(|policy| {
            let mut places = policy.volatile.iter();
            places.any(|place| place.matches(path))
        });
        policy.map(|policy| policy.name.as_str())
    }

    /// The exception that excuses a change, else the one that did so for the longest.
    fn exception(
        &self,
        change: &Change,
        needs: Needs,
        now: Timestamp,
    ) -> (Option<&Exception>, Option<Expired>) {
        let exceptions = self.exceptions.iter();
        let fitting: Vec<&Exception> = exceptions
            .filter_map(|(policy, index)| policy.exceptions.get(*index))
            .filter(|exception| exception.covers(change, needs))
            .collect();
        let in_force = fitting.iter().find(|exception| now < exception.expires);
        if let Some(exception) = in_force {
            return (Some(exception), None);
        }
        let last = fitting
            .into_iter()
            .max_by_key(|exception| exception.expires);
        let expired = last.map(|exception| Expired {
            exception: exception.name.clone(),
            at: exception.expires,
        });
        (None, expired)
    }

    fn rule(&self, change: &Change, class: Class) -> Option<Said> {
        let first = |policy: &Arc<DriftPolicy>| {
            let mut rules = policy.rules.iter();
            let rule = rules.find(|rule| rule.fits(change, class))?;
            Some((rule.level, rule.name.clone()))
        };
        strictest(self.policies.iter().filter_map(first))
    }

    fn class(&self, class: Class) -> Option<Said> {
        let level = |policy: &Arc<DriftPolicy>| {
            let level = policy.classes.get(&class)?;
            Some((*level, format!("{}:{}", policy.name, class.as_str())))
        };
        strictest(self.policies.iter().filter_map(level))
    }
}

/// The first of the strictest: who may loosen one policy must not loosen another.
fn strictest(said: impl Iterator<Item = Said>) -> Option<Said> {
    said.reduce(|first, next| if next.0 > first.0 { next } else { first })
}

/// How bad a change is without policies. What is volatile is none, unless it gives a right.
fn default_severity(change: &Change) -> Option<Severity> {
    let is_none = change.class == Class::Volatile
        && !change.privileged
        && change.kind != ChangeKind::Redirected;
    (!is_none).then_some(change.severity)
}

/// What gives a right, or hides what is read, is excused by its exact content alone: a planted redirect, a
/// set-id bit, a capability, and an account file whose entries are critical.
pub(super) fn needs(change: &Change) -> Needs {
    let is_account = AccountFile::at(&change.path).is_some();
    if change.privileged
        || change.kind == ChangeKind::Redirected
        || (is_account && change.severity == Severity::Critical)
    {
        Needs::ExactContent
    } else {
        Needs::AnyContent
    }
}
