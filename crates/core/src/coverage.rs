//! Coverage is data: for each container and check, when it was last done, on which basis, with which
//! outcome, or why it could not be done. Document `holdfast.container/v1`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::container::{ContainerRef, Workload};
use crate::finding::{Basis, Check, ImageRef, Severity};
use crate::trust::VerdictName;

/// The name of the schema, in every document.
pub const SCHEMA: &str = "holdfast.container/v1";

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Done, nothing wrong.
    Clean,
    /// Done, something wrong.
    Findings,
    /// Could not be done. Never a pass.
    Unverifiable,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Clean, Self::Findings, Self::Unverifiable];

    /// The name in documents and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Findings => "findings",
            Self::Unverifiable => "unverifiable",
        }
    }
}

/// One check of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// Which check.
    pub check: Check,
    /// How it ended.
    pub outcome: Outcome,
    /// The worst severity among its findings.
    pub severity: Option<Severity>,
    /// On which basis, for checks of files.
    pub basis: Option<Basis>,
    /// Why it could not be done.
    pub reason: Option<String>,
    /// What policies let pass, by rule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accepted_by: Vec<AcceptedBy>,
    /// When this was so for the last time.
    pub at: Timestamp,
}

/// Changes that one rule of a policy let pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedBy {
    /// `POLICY/RULE`, `POLICY/EXCEPTION` or `POLICY:CLASS`.
    pub rule: String,
    /// How many.
    pub changes: u64,
}

/// One container as its node last saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// The node's name.
    pub node: String,
    /// The container.
    pub container: ContainerRef,
    /// Its workload.
    pub workload: Workload,
    /// Its image, as far as it is known.
    pub image: Option<ImageRef>,
    /// The verdict about its signature.
    pub signature: Option<VerdictName>,
    /// The checks that were tried.
    pub checks: Vec<CheckStatus>,
    /// False once it has ended.
    pub running: bool,
    /// When the node said so.
    pub observed_at: Timestamp,
}
