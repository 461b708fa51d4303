//! The sentences in which a failed identification is told, and how bad each is.

use holdfast_core::digest::Digest;
use holdfast_core::finding::{
    AlteredContent, Check, Condition, Detail, Disagreement, Severity, Subject, Unmanaged,
};

use super::candidates::Part;
use super::kernel::shown;

/// The root is not the image that the records name.
pub(super) fn snapshot_mismatch(witness: &str, says: String, found: String) -> Condition {
    identity(
        Subject::word(witness),
        Severity::Critical,
        format!("The root is not what the {witness} says: {says}, found {found}"),
        Detail::SnapshotMismatch(disagreement(witness, says, found)),
    )
}

/// The name means another image than the one that runs.
pub(super) fn tag_moved(name: &str, says: Digest, found: &str) -> Condition {
    let name = shown(name.as_bytes());
    identity(
        Subject::word("image-name"),
        Severity::Info,
        format!("{name} now means {says}, the container runs {found}"),
        Detail::TagMoved(disagreement(&name, says.to_string(), found.to_owned())),
    )
}

/// The root mount is another than at first sight.
pub(super) fn root_moved(severity: Severity, says: String, found: String) -> Condition {
    identity(
        Subject::path(b""),
        severity,
        format!("The root mount was replaced while the container ran: {says}, now {found}"),
        Detail::MountDrift(disagreement("root-mount", says, found)),
    )
}

/// A container that no image explains, or where nobody expects one.
pub(super) fn unmanaged(reason: &str, title: String) -> Condition {
    identity(
        Subject::word(reason),
        Severity::Warning,
        title,
        Detail::UnmanagedContainer(Unmanaged {
            reason: reason.to_owned(),
        }),
    )
}

/// A blob in the content store that does not hash to its name.
pub(super) fn content_altered(part: Part, digest: Digest, actual: Digest) -> Condition {
    Condition {
        check: Check::Digests,
        subject: Subject::word(part.as_str()),
        severity: Severity::Critical,
        title: format!(
            "The image's {} {digest} was altered in the content store",
            part.as_str()
        ),
        basis: None,
        detail: Detail::ContentAltered(AlteredContent { digest, actual }),
    }
}

/// Adds a condition. Kind and subject name a place, so of two about the same one the worse stays.
pub(super) fn add(conditions: &mut Vec<Condition>, new: Condition) {
    let same = conditions
        .iter_mut()
        .find(|old| old.detail.kind() == new.detail.kind() && old.subject == new.subject);
    match same {
        Some(old) if old.severity < new.severity => *old = new,
        Some(_) => {}
        None => conditions.push(new),
    }
}

fn identity(subject: Subject, severity: Severity, title: String, detail: Detail) -> Condition {
    Condition {
        check: Check::Identity,
        subject,
        severity,
        title,
        basis: None,
        detail,
    }
}

fn disagreement(witness: &str, says: String, found: String) -> Disagreement {
    Disagreement {
        witness: witness.to_owned(),
        says,
        found,
        path: None,
    }
}
