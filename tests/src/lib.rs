//! The real parts that the tests run against: a private containerd, images made from a description, a
//! registry, Prometheus, Alertmanager, and the product's own programs.
//!
//! Nothing here stands in for anything: what a test sees is what a node would see. It must not touch the
//! system's own containerd, must not use a fixed port, and leaves nothing behind: every process that it
//! started is ended by its pid, every mount below its folders is removed, every folder is temporary.
//!
//! A part that cannot be had fails the test that wants it. Harness functions panic with what went wrong
//! and the tail of the log of the process concerned.

#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test may panic, wait, and read what it made itself"
)]

pub mod agent;
pub mod alertmanager;
pub mod collector;
pub mod command;
pub mod container;
pub mod containerd;
pub mod cri;
pub mod dashboard;
pub mod debian;
pub mod forge;
pub mod http;
pub mod image;
pub mod layer;
mod leftover;
pub mod odd;
pub mod process;
pub mod program;
pub mod prometheus;
pub mod promql;
pub mod rawtar;
pub mod registry;
pub mod scenario;
pub mod snapshot;
pub mod unpacked;
pub mod wait;

pub use leftover::{mounts_below, processes_naming};
