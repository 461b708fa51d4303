//! Trust: whether somebody whom the policy names vouches for the image that runs.

mod verdict;

pub use verdict::{Verdict, VerdictName};
