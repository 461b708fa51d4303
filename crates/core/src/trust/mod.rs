//! Trust: whether somebody whom the policy names vouches for the image that runs.
//!
//! [`policy`] says who has to, [`evidence`] is what was found, [`verify()`] decides, and
//! [`condition()`] says what that means for people.

pub mod classic;
mod condition;
pub mod evidence;
#[cfg(test)]
pub(crate) mod forge;
mod json;
mod payload;
pub mod policy;
mod verdict;
mod verify;

pub use condition::condition;
pub use evidence::{Cause, Evidence, Looked, Missed, SignatureObject};
pub use json::JsonRefusal;
pub use payload::{MAX_PAYLOAD, Payload, PayloadRefusal};
pub use policy::{PolicyError, PolicySet};
pub use verdict::{ErrorReason, Refusal, Refused, Verdict, VerdictName};
pub use verify::{ImageDigests, verify};
