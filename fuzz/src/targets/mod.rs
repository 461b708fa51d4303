//! The targets, one a file. A new one is its file, and its two lines here.

mod accounts;
mod config;
mod display;
mod drift;
mod drift_policy;
mod finding;
mod frames;
mod manifest;
mod mounts;
mod pax;
mod place;
mod policy;
mod proof;
mod reference;
mod signature;
mod skeleton;
mod spec;
mod table;
mod tar;
mod tree;
mod xattrs;

use crate::Target;

/// All of them, by name.
pub const ALL: &[Target] = &[
    accounts::TARGET,
    config::TARGET,
    display::TARGET,
    drift::TARGET,
    drift_policy::TARGET,
    finding::TARGET,
    frames::TARGET,
    manifest::TARGET,
    mounts::TARGET,
    pax::TARGET,
    place::TARGET,
    policy::TARGET,
    proof::TARGET,
    reference::TARGET,
    signature::TARGET,
    skeleton::TARGET,
    spec::TARGET,
    table::TARGET,
    tar::TARGET,
    tree::TARGET,
    xattrs::TARGET,
];
