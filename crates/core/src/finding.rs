//! Findings: kinds, severity, fingerprint, and the document that leaves the node (`holdfast.finding/v1`).
//!
//! A [`Condition`] is what one look saw. A [`Place`](crate::place::Place) is one problem on one container
//! over time. A [`Finding`] is the document about one transition of a place; the collector joins the
//! places of one [`Fingerprint`].
//!
//! Long because the whole vocabulary of the document is in one place.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::container::{ContainerRef, Workload};
use crate::digest::{ChainId, DiffId, Digest};
use crate::display;
use crate::drift::{ChangeKind, Class, Ruled};

/// The name of the schema, in every document.
pub const SCHEMA: &str = "holdfast.finding/v1";

/// Prometheus' usual three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Worth a look in working hours.
    Warning,
    /// Worth a page.
    Critical,
}

impl Severity {
    /// All of them, mildest first.
    pub const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Critical];

    /// The name in documents, labels and arguments.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Severity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|severity| severity.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no severity; expected info, warning or critical"))
    }
}

/// The checks of one look at a container, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// Which image the root really is (DESIGN section 4, step 1).
    Identity,
    /// Index, manifest, config and diff IDs hash to their names.
    Digests,
    /// Somebody whom the policy trusts has signed it.
    Signature,
    /// The upper directory against the expected tree.
    Files,
    /// The lower directories against the expected tree.
    Layers,
    /// The mount tables against the runtime's spec and the expected tree.
    Mounts,
}

impl Check {
    /// All of them, in the order in which a look does them.
    pub const ALL: [Self; 6] = [
        Self::Identity,
        Self::Digests,
        Self::Signature,
        Self::Files,
        Self::Layers,
        Self::Mounts,
    ];

    /// The name in documents and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Digests => "digests",
            Self::Signature => "signature",
            Self::Files => "files",
            Self::Layers => "layers",
            Self::Mounts => "mounts",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How the file table was proved, so how much a verdict about files says. The worst is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// The layer's blob in the content store, digest and diff ID checked while reading.
    LocalBlob,
    /// The same blob from the image's registry, digest and diff ID checked as it came.
    RegistryBlob,
    /// A skeleton from anybody and the node's own unpacked files, which together hash to the diff ID: the
    /// same, without the blob.
    Reassembled,
    /// A skeleton whose proof failed: nothing, a lead.
    Reported,
    /// There is no table.
    None,
}

/// What happened to a place or a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transition {
    /// Seen for the first time.
    Opened,
    /// Still there, with another digest, path or severity.
    Updated,
    /// Gone; the reason says why.
    Resolved,
    /// Back after it had been resolved.
    Reopened,
}

impl Transition {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Opened, Self::Updated, Self::Resolved, Self::Reopened];

    /// The name in documents and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Updated => "updated",
            Self::Resolved => "resolved",
            Self::Reopened => "reopened",
        }
    }
}

/// Why a place is resolved. Never "the list was empty".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resolution {
    /// A look found it gone.
    Gone,
    /// The container has ended or was deleted.
    ContainerEnded,
    /// A full report of the node no longer names it.
    NotReported,
    /// It is still so, and a policy accepts it.
    Policy,
}

impl Resolution {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Gone,
        Self::ContainerEnded,
        Self::NotReported,
        Self::Policy,
    ];

    /// The name in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::ContainerEnded => "container-ended",
            Self::NotReported => "not-reported",
            Self::Policy => "policy",
        }
    }
}

/// What makes two findings the same: the first 128 bits of SHA-256 over kind, workload and subject.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// The fingerprint of `kind` in `workload` about `subject`. Fields are separated by a zero byte,
    /// which none of them can hold.
    pub fn new(kind: Kind, workload: &Workload, subject: &Subject) -> Self {
        let mut hasher = Sha256::new();
        for field in [
            kind.as_str(),
            "\0",
            workload.as_str(),
            "\0",
            subject.as_str(),
        ] {
            hasher.update(field.as_bytes());
        }
        let full: [u8; 32] = hasher.finalize().into();
        let mut first = [0; 16];
        first.iter_mut().zip(full).for_each(|(to, from)| *to = from);
        Self(first)
    }

    /// The 16 raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// A fingerprint that another process has worked out.
    pub const fn from_bytes(raw: [u8; 16]) -> Self {
        Self(raw)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, hex::FromHexError> {
        let mut raw = [0; 16];
        hex::decode_to_slice(text, &mut raw)?;
        Ok(Self(raw))
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// What a finding is about, within its kind and workload: a path, a class, an authority, a check.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Subject(String);

impl Subject {
    /// A path, in the reversible form.
    pub fn path(relative: &[u8]) -> Self {
        Self(display::path(relative))
    }

    /// A fixed word of ours, such as a class or a check.
    pub fn word(word: &str) -> Self {
        Self(word.to_owned())
    }

    /// The subject as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One file in a finding: the state of one side of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    /// `file`, `directory`, `symlink`, `char-device`, `block-device`, `fifo`, `socket`.
    #[serde(rename = "type")]
    pub node_type: String,
    /// Digest of a regular file's content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Length of a regular file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Target of a symbolic link, in the reversible form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// `major:minor` of a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Permission bits in octal, four digits.
    pub mode: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Extended attributes: name in the reversible form, value in hex.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub xattrs: std::collections::BTreeMap<String, String>,
}

/// One change in a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// The path, in the reversible form.
    pub path: String,
    /// What happened.
    pub change: ChangeKind,
    /// What kind of file it is.
    pub class: Class,
    /// How bad this one is.
    pub severity: Severity,
    /// What the image says.
    pub expected: Option<FileState>,
    /// What is there.
    pub actual: Option<FileState>,
    /// What the digests do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What a policy says about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Ruled>,
}

/// Detail of `file-drift`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDrift {
    /// The changes, worst first, at most 1,000.
    pub changes: Vec<FileChange>,
    /// How many there are.
    pub changes_total: u64,
}

/// Detail of `layer-tampered` and `layer-corrupt`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerDrift {
    /// Which snapshot directory.
    pub chain_id: ChainId,
    /// Which layer.
    pub diff_id: DiffId,
    /// Where it is on the node, in the reversible form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// The changes, worst first, at most 1,000.
    pub changes: Vec<FileChange>,
    /// How many there are.
    pub changes_total: u64,
}

/// Detail of `content-altered`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlteredContent {
    /// The name of the blob.
    pub digest: Digest,
    /// What it hashes to.
    pub actual: Digest,
}

/// Detail of `snapshot-mismatch`, `tag-moved` and `mount-drift`: what the records say and what is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disagreement {
    /// Which witness is believed less: a name, a record, a path.
    pub witness: String,
    /// What it says.
    pub says: String,
    /// What is there.
    pub found: String,
    /// Which path of the container it is about, in the reversible form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// Detail of `image-untrusted`, `image-unsigned` and `image-uncovered`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Untrusted {
    /// The policies that name the image and are not satisfied.
    pub policies: Vec<String>,
    /// Each signature that does not count, with its refusal.
    pub refusals: Vec<String>,
}

/// Detail of `unverifiable`: a check that could not be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unverifiable {
    /// Which check.
    pub check: Check,
    /// The reason's name.
    pub reason: String,
    /// The reason in full.
    pub message: String,
}

/// Detail of `unmanaged-container`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmanaged {
    /// `no-image` or `unexpected-namespace`.
    pub reason: String,
}

/// Detail of `coverage-gap`: what happened in this time may not have been seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Start of the gap.
    pub from: Timestamp,
    /// Its end, when it has one.
    pub until: Option<Timestamp>,
    /// What was away.
    pub cause: String,
}

/// Detail of `agent-silent`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// When the collector last heard from the node.
    pub last_heard: Timestamp,
}

/// Detail of `agent-altered`: nodes that should say the same say otherwise of a layer's table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Altered {
    /// The layer.
    pub diff_id: DiffId,
    /// Of the table's format.
    pub version: u32,
    /// What they say, what most of them say first.
    pub words: Vec<Word>,
}

/// What some nodes say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// The digest of the table.
    pub digest: Digest,
    /// The nodes, or some of them.
    pub nodes: Vec<String>,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident($detail:ty) = $name:literal,)*) => {
        /// What a finding says.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $($(#[$doc])* $variant,)* }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in documents and labels.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }

        /// What a finding says, with its evidence: the kind decides the shape, so they cannot disagree.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(tag = "kind", content = "detail")]
        pub enum Detail { $($(#[$doc])* #[serde(rename = $name)] $variant($detail),)* }

        impl Detail {
            /// The kind of this detail.
            pub const fn kind(&self) -> Kind {
                match self { $(Self::$variant(_) => Kind::$variant,)* }
            }
        }
    };
}

kinds! {
    /// The container's writable layer differs from the image.
    FileDrift(FileDrift) = "file-drift",
    /// An unpacked layer on the node differs from what was signed.
    LayerTampered(LayerDrift) = "layer-tampered",
    /// Files of an unpacked layer have lost their content in a power cut.
    LayerCorrupt(LayerDrift) = "layer-corrupt",
    /// A blob in the content store does not hash to its name.
    ContentAltered(AlteredContent) = "content-altered",
    /// The root is not the image that the records name.
    SnapshotMismatch(Disagreement) = "snapshot-mismatch",
    /// The name now means another digest than the one that runs.
    TagMoved(Disagreement) = "tag-moved",
    /// A mount hides image files or came after the start, or the root mount is another.
    MountDrift(Disagreement) = "mount-drift",
    /// Signatures exist, none satisfies the policy.
    ImageUntrusted(Untrusted) = "image-untrusted",
    /// Looked everywhere, no signature there.
    ImageUnsigned(Untrusted) = "image-unsigned",
    /// No policy names the image.
    ImageUncovered(Untrusted) = "image-uncovered",
    /// A check could not be done.
    Unverifiable(Unverifiable) = "unverifiable",
    /// No image, or an unexpected containerd namespace.
    UnmanagedContainer(Unmanaged) = "unmanaged-container",
    /// Nobody looked for a while.
    CoverageGap(Gap) = "coverage-gap",
    /// The collector hears nothing from a node.
    AgentSilent(Silence) = "agent-silent",
    /// Nodes disagree on what should be the same everywhere.
    AgentAltered(Altered) = "agent-altered",
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The image that a finding is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRef {
    /// The name that the container was made from, in the reversible form.
    pub reference: Option<String>,
    /// Digest of the index, where there is one.
    pub index_digest: Option<Digest>,
    /// Digest of the manifest.
    pub manifest_digest: Option<Digest>,
    /// Digest of the config ("image ID").
    pub config_digest: Option<Digest>,
}

/// What one look saw wrong with one container, before anybody asked whether it is new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The check that saw it: only this check can find it gone.
    pub check: Check,
    /// What it is about.
    pub subject: Subject,
    /// How bad it is.
    pub severity: Severity,
    /// One sentence for people, bounded.
    pub title: String,
    /// How the file table was proved, for conditions about files.
    pub basis: Option<Basis>,
    /// Kind and evidence.
    pub detail: Detail,
}

/// The message of a check that could not be done, as far as its title shows it; all of it is in the detail.
const MAX_TITLE_MESSAGE: usize = 90;

impl Condition {
    /// A check that could not be done.
    pub fn unverifiable(check: Check, severity: Severity, reason: &str, message: String) -> Self {
        let shown = display::shorten(&message, MAX_TITLE_MESSAGE);
        Self {
            check,
            subject: Subject::word(check.as_str()),
            severity,
            title: format!("The {check} check could not be done: {shown}"),
            basis: None,
            detail: Detail::Unverifiable(Unverifiable {
                check,
                reason: reason.to_owned(),
                message,
            }),
        }
    }
}

/// The document about one transition: `holdfast.finding/v1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// What makes two findings the same.
    pub fingerprint: Fingerprint,
    /// What happened.
    pub transition: Transition,
    /// Why it is resolved.
    pub reason: Option<Resolution>,
    /// How bad it is.
    pub severity: Severity,
    /// One sentence for people.
    pub title: String,
    /// The node's name.
    pub node: String,
    /// The container; `null` for findings about a node.
    pub container: Option<ContainerRef>,
    /// The workload.
    pub workload: Workload,
    /// What it is about, within kind and workload.
    pub subject: Subject,
    /// The image.
    pub image: Option<ImageRef>,
    /// How the file table was proved.
    pub basis: Option<Basis>,
    /// Kind and evidence.
    #[serde(flatten)]
    pub detail: Detail,
    /// Who did it; not known yet.
    pub actor: Option<String>,
    /// When the place was opened.
    pub first_seen: Timestamp,
    /// When it was last seen.
    pub last_seen: Timestamp,
    /// When this transition was made.
    pub observed_at: Timestamp,
}

/// Why a document is not one of ours.
#[derive(Debug, thiserror::Error)]
pub enum FindingError {
    /// No JSON, or not of this shape.
    #[error("not a finding: {0}")]
    Shape(#[from] serde_json::Error),
    /// Another schema.
    #[error("schema is not {SCHEMA}")]
    Schema,
    /// The fingerprint is not that of kind, workload and subject.
    #[error("fingerprint does not belong to kind, workload and subject")]
    Fingerprint,
}

impl Finding {
    /// Reads a document from another process and checks what can be checked.
    pub fn parse(json: &[u8]) -> Result<Self, FindingError> {
        let finding: Self = serde_json::from_slice(json)?;
        if finding.schema != SCHEMA {
            return Err(FindingError::Schema);
        }
        let due = Fingerprint::new(finding.kind(), &finding.workload, &finding.subject);
        if finding.fingerprint != due {
            return Err(FindingError::Fingerprint);
        }
        Ok(finding)
    }

    /// What it says.
    pub const fn kind(&self) -> Kind {
        self.detail.kind()
    }
}

/// `now` as documents carry it: milliseconds.
pub fn to_millis(now: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}
