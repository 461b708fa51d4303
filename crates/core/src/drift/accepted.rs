//! What policies have let pass in one look at one container: how many changes by which rule, and which findings
//! they would have been. Bounded; what is accepted is counted, never forgotten.

use std::collections::{BTreeMap, BTreeSet};

use crate::finding::Subject;

/// Rules that are counted by name; the rest together.
const MAX_RULES: usize = 1_000;

/// The name that counts the rest.
const OTHERS: &str = "others";

/// Subjects that are kept, as many as a container has findings (DESIGN section 10). What is over is resolved as
/// gone, and counted all the same.
const MAX_EXCUSED: usize = 10_000;

/// What was let pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    by: BTreeMap<String, u64>,
    excused: BTreeSet<Subject>,
}

impl Accepted {
    /// A rule has accepted a change that would have been part of these findings.
    pub(super) fn count(&mut self, rule: &str, subjects: Vec<Subject>) {
        self.add(rule, 1);
        for subject in subjects {
            self.excuse(subject);
        }
    }

    /// A finding that may be closed because of a policy.
    pub(super) fn excuse(&mut self, subject: Subject) {
        if self.excused.len() < MAX_EXCUSED {
            self.excused.insert(subject);
        }
    }

    pub(super) fn join(&mut self, other: Self) {
        for (rule, count) in other.by {
            self.add(&rule, count);
        }
        for subject in other.excused {
            self.excuse(subject);
        }
    }

    fn add(&mut self, rule: &str, changes: u64) {
        let is_known = self.by.contains_key(rule) || self.by.len() < MAX_RULES;
        let name = if is_known { rule } else { OTHERS };
        let count = self.by.entry(name.to_owned()).or_default();
        *count = count.saturating_add(changes);
    }

    /// How many, by rule, and the subjects of what would have been found.
    pub fn into_parts(self) -> (BTreeMap<String, u64>, BTreeSet<Subject>) {
        (self.by, self.excused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_is_counted_also_by_more_rules_than_are_named() {
        let mut accepted = Accepted::default();
        for number in 0..MAX_RULES + 5 {
            accepted.count(&format!("p/{number}"), vec![Subject::word("data")]);
        }
        let mut other = Accepted::default();
        other.count("p/0", vec![Subject::word("program")]);
        accepted.join(other);
        let (by, excused) = accepted.into_parts();
        let total: u64 = by.values().sum();
        assert_eq!(usize::try_from(total).unwrap(), MAX_RULES + 6);
        assert_eq!((by["p/0"], by[OTHERS], excused.len()), (2, 5, 2));
    }
}
