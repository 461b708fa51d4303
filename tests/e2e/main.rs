//! End to end, with the real parts: one file a behaviour. Needs root; run by `scripts/test e2e`.

#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test may panic, and reads what it made itself"
)]

mod bad_files;
mod cli;
mod configuration;
mod diff;
mod drift;
mod drift_policy;
mod faults;
mod harness;
mod hostile;
mod identity;
mod kill_test;
mod layers;
mod life;
mod monitoring;
mod mounts;
mod native;
mod read;
mod registry;
mod relay;
mod roots;
mod scene;
mod scrub;
mod signatures;
mod skeletons;
mod unpack;
