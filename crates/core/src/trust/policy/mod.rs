//! Trust policies: which images have to be signed, and by whom.
//!
//! A set is loaded whole or not at all, from files that are handed in as bytes. What cannot be
//! evaluated is refused here, with file, line and column: a field that is read and not honoured would
//! be a promise that nobody keeps.

mod cluster_image_policy;
mod error;
mod glob;
mod key;

use crate::reference::Reference;

pub use error::{PolicyError, Problem};
pub use glob::{Glob, GlobError};
pub use key::{Key, KeyError};

pub use crate::yaml::MAX_FILE;

/// Most policies in one set: each is matched against every name of every image.
pub const MAX_POLICIES: usize = 1000;

/// The policies in force. Order is that of the files, then that in each file.
#[derive(Clone, Debug, Default)]
pub struct PolicySet {
    policies: Vec<Policy>,
}

impl PolicySet {
    /// Reads every file; the first problem refuses all of them, so that the last good set can stay.
    pub fn load<'a>(
        files: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Self, PolicyError> {
        let mut set = Self::default();
        for (file, bytes) in files {
            for (policy, at) in cluster_image_policy::read(file, bytes)? {
                set.add(policy)
                    .map_err(|problem| at.problem(file, problem))?;
            }
        }
        Ok(set)
    }

    fn add(&mut self, policy: Policy) -> Result<(), Problem> {
        if self.policies.iter().any(|other| other.name == policy.name) {
            return Err(Problem::DuplicateName(policy.name));
        }
        if self.policies.len() == MAX_POLICIES {
            return Err(Problem::TooManyPolicies);
        }
        self.policies.push(policy);
        Ok(())
    }

    /// Whether no policy is loaded.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// How many policies are loaded.
    pub fn len(&self) -> usize {
        self.policies.len()
    }

    /// The policies that name the image: one of `names` is enough for each.
    pub fn matching<N: AsRef<str>>(&self, names: &[N]) -> Vec<&Policy> {
        let names: Vec<Name> = names.iter().map(|name| Name::new(name.as_ref())).collect();
        self.policies
            .iter()
            .filter(|policy| names.iter().any(|name| policy.names(name)))
            .collect()
    }

    /// Whether the verdict about an image of these names depends on signatures. If not, nobody has to
    /// look for them.
    pub fn needs_signatures<N: AsRef<str>>(&self, names: &[N]) -> bool {
        self.matching(names)
            .iter()
            .any(|policy| policy.authorities.iter().any(Authority::needs_signature))
    }
}

/// One policy: images, and who may vouch for them.
#[derive(Clone, Debug)]
pub struct Policy {
    pub(crate) name: String,
    pub(crate) globs: Vec<Glob>,
    pub(crate) authorities: Vec<Authority>,
    pub(crate) mode: Mode,
}

impl Policy {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn names(&self, name: &Name<'_>) -> bool {
        self.globs.iter().any(|glob| name.matches(glob))
    }
}

/// What happens when a policy is not satisfied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The finding has its full severity.
    Enforce,
    /// One lower.
    Warn,
}

/// Who may vouch; one authority of a policy is enough.
#[derive(Clone, Debug)]
pub(crate) struct Authority {
    pub(crate) name: String,
    pub(crate) rule: Rule,
}

impl Authority {
    const fn needs_signature(&self) -> bool {
        match self.rule {
            Rule::Keys(_) => true,
            Rule::Pass | Rule::Fail { .. } => false,
        }
    }
}

/// What satisfies an authority.
#[derive(Clone, Debug)]
pub(crate) enum Rule {
    /// A signature by one of these keys.
    Keys(Vec<Key>),
    /// Everything (`static: pass`).
    Pass,
    /// Nothing (`static: fail`).
    Fail {
        /// What the policy's author says about it.
        message: Option<String>,
    },
}

/// Whether one of `globs` names an image.
pub fn names_image(globs: &[Glob], name: &str) -> bool {
    let name = Name::new(name);
    globs.iter().any(|glob| name.matches(glob))
}

/// A name as policies see it: qualified, and as it was written.
struct Name<'a> {
    written: &'a str,
    qualified: Option<String>,
}

impl<'a> Name<'a> {
    /// A name that is no reference has no qualified form, and so has an image ID (`sha256:…`, which
    /// CRI puts into the store as a name): read as a reference it would mean an image of Docker Hub.
    fn new(written: &'a str) -> Self {
        let is_image_id = written.parse::<crate::digest::Digest>().is_ok();
        let qualified = if is_image_id {
            None
        } else {
            written
                .parse::<Reference>()
                .ok()
                .map(|name| name.to_string())
        };
        Self { written, qualified }
    }

    fn matches(&self, glob: &Glob) -> bool {
        let qualified = self.qualified.as_deref();
        qualified.is_some_and(|qualified| glob.matches(qualified)) || glob.matches(self.written)
    }
}

#[cfg(test)]
mod tests;
