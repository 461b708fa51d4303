//! Every change of a container, for somebody who asks for all of them: also those that are not worth a
//! finding. In the order in which they were seen, bounded, and it counts what it leaves out.

use super::Change;
use crate::layer::{Entry, Node};

/// Changes that are listed at most. A root that was unpacked over another one has some hundred thousand.
pub const MAX_EVERY: usize = 1_000_000;

/// What they may hold together besides the fixed part of each: paths and attributes have up to 4 KiB and
/// 64 KiB, and a container chooses them.
const MAX_BYTES: usize = 256 << 20;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What differs. Its severity counts only where it is worth a finding.
    pub change: Change,
    /// Whether it is worth one.
    pub is_worth_a_finding: bool,
}

/// All of them, up to the bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Every {
    listed: Vec<Listed>,
    bytes: usize,
    left_out: u64,
}

impl Every {
    /// Adds one, or counts it.
    pub fn push(&mut self, listed: Listed) {
        let bytes = self.bytes.saturating_add(weight(&listed.change));
        if self.listed.len() < MAX_EVERY && bytes <= MAX_BYTES {
            self.bytes = bytes;
            self.listed.push(listed);
        } else {
            self.left_out = self.left_out.saturating_add(1);
        }
    }

    /// Adds those of another.
    pub fn join(&mut self, other: Self) {
        other
            .listed
            .into_iter()
            .for_each(|listed| self.push(listed));
        self.leave_out(other.left_out);
    }

    /// Counts changes that nobody has at hand.
    pub const fn leave_out(&mut self, count: u64) {
        self.left_out = self.left_out.saturating_add(count);
    }

    /// How many there are besides those that are listed.
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Those that are listed.
    pub fn into_listed(self) -> Vec<Listed> {
        self.listed
    }
}

/// The bytes that the container chose.
fn weight(change: &Change) -> usize {
    let entry = |entry: &Entry| {
        let target = if let Node::Symlink { target } = &entry.node {
            target.len()
        } else {
            0
        };
        let xattrs = entry.xattrs.iter();
        let xattrs: usize = xattrs.map(|(name, value)| name.len() + value.len()).sum();
        target + xattrs
    };
    let states = [&change.expected, &change.actual].into_iter().flatten();
    change.path.len() + states.map(entry).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drift::{ChangeKind, Class};
    use crate::finding::Severity;

    fn listed(path: &[u8]) -> Listed {
        Listed {
            change: Change {
                path: path.to_vec(),
                kind: ChangeKind::Added,
                class: Class::Data,
                severity: Severity::Info,
                privileged: false,
                expected: None,
                actual: None,
                note: None,
                ruled: None,
            },
            is_worth_a_finding: true,
        }
    }

    #[test]
    fn what_is_over_the_bound_is_counted_also_when_lists_are_joined() {
        let long = vec![b'a'; MAX_BYTES / 2];
        let mut every = Every::default();
        every.push(listed(&long));
        every.push(listed(b"b"));
        assert_eq!(every.left_out(), 0);
        every.push(listed(&long));
        assert_eq!(every.left_out(), 1);

        let mut other = Every::default();
        other.push(listed(b"c"));
        other.leave_out(3);
        every.join(other);

        assert_eq!(every.left_out(), 4);
        let paths: Vec<usize> = every
            .into_listed()
            .iter()
            .map(|listed| listed.change.path.len())
            .collect();
        assert_eq!(paths, [MAX_BYTES / 2, 1, 1]);
    }
}
