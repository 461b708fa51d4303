//! Which digests, paths and reasons a finding has shown since it was opened, as short hashes.
//!
//! Only to know whether something is new. The set is bounded: once it is full, everything that is not
//! in it stays news, so filling it hides nothing.

use std::collections::BTreeSet;

use holdfast_core::finding::{Detail, FileChange};
use sha2::{Digest as _, Sha256};

/// A set takes at most 32 KiB in its row. A finding lists at most 1,000 changes at a time.
const MAX_MEMBERS: usize = 4096;

/// A set of members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Members(BTreeSet<u64>);

impl Members {
    /// Adds what a finding shows.
    pub(super) fn add(&mut self, detail: &Detail) {
        match detail {
            Detail::FileDrift(drift) => self.changes(&drift.changes),
            Detail::LayerTampered(drift) | Detail::LayerCorrupt(drift) => {
                self.changes(&drift.changes);
            }
            Detail::ContentAltered(content) => {
                self.member(&[&content.digest.to_string(), &content.actual.to_string()]);
            }
            Detail::SnapshotMismatch(disagreement)
            | Detail::TagMoved(disagreement)
            | Detail::MountDrift(disagreement) => {
                self.member(&[&disagreement.witness, &disagreement.found]);
            }
            Detail::ImageUntrusted(untrusted)
            | Detail::ImageUnsigned(untrusted)
            | Detail::ImageUncovered(untrusted) => {
                for policy in &untrusted.policies {
                    self.member(&[policy]);
                }
            }
            Detail::Unverifiable(unverifiable) => self.member(&[&unverifiable.reason]),
            Detail::UnmanagedContainer(unmanaged) => self.member(&[&unmanaged.reason]),
            Detail::CoverageGap(gap) => self.member(&[&gap.from.to_string()]),
            Detail::AgentSilent(silence) => self.member(&[&silence.last_heard.to_string()]),
            Detail::AgentAltered(altered) => {
                for word in &altered.words {
                    self.member(&[&word.digest.to_string()]);
                }
            }
        }
    }

    fn changes(&mut self, changes: &[FileChange]) {
        for change in changes {
            let actual = change.actual.as_ref();
            let content =
                actual.and_then(|state| state.sha256.as_deref().or(state.target.as_deref()));
            self.member(&[&change.path, content.unwrap_or_default()]);
        }
    }

    fn member(&mut self, fields: &[&str]) {
        let mut hasher = Sha256::new();
        for field in fields {
            hasher.update(field.len().to_be_bytes());
            hasher.update(field.as_bytes());
        }
        let first = hasher.finalize().into_iter().take(8);
        self.0
            .insert(first.fold(0, |sum, byte| sum << 8 | u64::from(byte)));
    }

    /// Takes in another set; true when something in it is new.
    pub(super) fn join(&mut self, other: &Self) -> bool {
        let new: Vec<u64> = other.0.difference(&self.0).copied().collect();
        let room = MAX_MEMBERS.saturating_sub(self.0.len());
        self.0.extend(new.iter().take(room));
        !new.is_empty()
    }

    /// The set as its row keeps it.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let members = self.0.iter().take(MAX_MEMBERS);
        members.flat_map(|member| member.to_be_bytes()).collect()
    }

    /// The set from its row.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let (members, _rest) = bytes.as_chunks::<8>();
        Self(members.iter().copied().map(u64::from_be_bytes).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(members: std::ops::Range<u64>) -> Members {
        Members(members.collect())
    }

    #[test]
    fn a_set_survives_its_row() {
        assert_eq!(Members::from_bytes(&set(0..5).to_bytes()), set(0..5));
    }

    #[test]
    fn only_what_is_not_there_yet_is_new() {
        let mut members = set(0..5);
        assert!(!members.join(&set(2..4)));
        assert!(members.join(&set(4..6)));
        assert!(!members.join(&set(4..6)));
    }

    #[test]
    fn a_full_set_does_not_grow_and_hides_nothing() {
        let mut members = set(0..4096);
        assert!(members.join(&set(5000..5001)));
        assert!(members.join(&set(5000..5001)));
        assert_eq!(members.to_bytes().len(), 4096 * 8);
    }

    #[test]
    fn fields_cannot_be_shifted_into_each_other() {
        let (mut a, mut b) = (Members::default(), Members::default());
        a.member(&["ab", "c"]);
        b.member(&["a", "bc"]);
        assert_ne!(a, b);
    }
}
