//! Drift policies: which paths of which containers may change, how bad each class is, which places are
//! volatile, and what is excused until when.
//!
//! A set is loaded whole or not at all, from files that are handed in as bytes. [`DriftPolicies::rules_for`]
//! selects what is said about one container; [`Rules::decide`] decides about one change.

mod document;
mod error;
mod exception;
mod pattern;
mod rule;
mod rules;
mod snippet;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use self::exception::Exception;
use self::rule::Rule;
use crate::digest::Digest;
use crate::drift::Class;
use crate::finding::{ImageRef, Severity};
use crate::trust::policy::{Glob, names_image};
use crate::yaml;

pub use error::{DriftPolicyError, Problem};
pub use pattern::{NamePattern, PathPattern, PatternError};
pub use rules::{Decision, Rules};
pub use snippet::{NoException, Snippet};

/// Most policies in one set: each is matched against the name of every image.
pub const MAX_POLICIES: usize = 1_000;

/// Whether a file holds policies of this kind; whatever else is wrong with it.
pub fn is_drift_policy(bytes: &[u8]) -> bool {
    yaml::holds_kind(bytes, document::KIND)
}

/// The policies in force. Order is that of the files, then that in each file, and decides nothing but which of
/// two rules that say the same is named.
#[derive(Clone, Debug, Default)]
pub struct DriftPolicies {
    policies: Vec<Arc<DriftPolicy>>,
}

/// One policy.
#[derive(Debug, PartialEq, Eq)]
struct DriftPolicy {
    name: String,
    images: Vec<Glob>,
    /// All, and containers without a pod, if none is named.
    namespaces: Option<Vec<NamePattern>>,
    volatile: Vec<PathPattern>,
    classes: BTreeMap<Class, Option<Severity>>,
    rules: Vec<Rule>,
    exceptions: Vec<Exception>,
}

impl DriftPolicies {
    /// Reads every file; the first problem refuses all of them, so that the last good set can stay.
    pub fn load<'a>(
        files: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Self, DriftPolicyError> {
        let mut set = Self::default();
        for (file, bytes) in files {
            for (policy, at) in document::read(file, bytes)? {
                set.add(policy)
                    .map_err(|problem| DriftPolicyError::new(file, at, problem))?;
            }
        }
        Ok(set)
    }

    fn add(&mut self, policy: DriftPolicy) -> Result<(), Problem> {
        if self.policies.iter().any(|other| other.name == policy.name) {
            return Err(Problem::DuplicateName(policy.name));
        }
        if self.policies.len() == MAX_POLICIES {
            return Err(Problem::TooManyPolicies);
        }
        self.policies.push(Arc::new(policy));
        Ok(())
    }

    /// These, with those of `others` in place of policies of their names, or added.
    #[must_use]
    pub fn with(mut self, others: &Self) -> Self {
        let is_kept = |policy: &Arc<DriftPolicy>| {
            let mut others = others.policies.iter();
            others.all(|other| other.name != policy.name)
        };
        self.policies.retain(is_kept);
        self.policies.extend(others.policies.iter().cloned());
        self
    }

    /// Whether no policy is loaded.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// How many policies are loaded.
    pub fn len(&self) -> usize {
        self.policies.len()
    }

    /// Exceptions that expire within this time from `now` on.
    pub fn expiring(&self, now: Timestamp, within: SignedDuration) -> usize {
        let exceptions = self.policies.iter().flat_map(|policy| &policy.exceptions);
        let left = exceptions.map(|exception| exception.expires.duration_since(now));
        left.filter(|left| left.is_positive() && *left <= within)
            .count()
    }

    /// What is said about a container: the policies whose images and pod namespaces fit.
    ///
    /// Images are selected by the name that the container was made from, which its findings show, and by no
    /// other name that the node has for the same content: whoever may run a pod may give any content a name,
    /// and would choose the policy of everybody who runs that content.
    pub fn rules_for(&self, image: Option<&ImageRef>, pod_namespace: Option<&str>) -> Rules {
        let name = image.and_then(|image| image.reference.as_deref());
        let fits = |policy: &&Arc<DriftPolicy>| {
            policy.is_for_namespace(pod_namespace)
                && names_image(&policy.images, name.unwrap_or_default())
        };
        let digests = image.into_iter().flat_map(|image| {
            let digests = [
                image.index_digest,
                image.manifest_digest,
                image.config_digest,
            ];
            digests.into_iter().flatten()
        });
        let digests: Vec<Digest> = digests.collect();
        let policies = self.policies.iter().filter(fits).cloned();
        Rules::new(policies.collect(), &digests)
    }
}

impl DriftPolicy {
    fn is_for_namespace(&self, pod_namespace: Option<&str>) -> bool {
        let Some(patterns) = &self.namespaces else {
            return true;
        };
        let mut patterns = patterns.iter();
        pod_namespace.is_some_and(|name| patterns.any(|it| it.matches(name.as_bytes())))
    }
}

#[cfg(test)]
mod tests;
