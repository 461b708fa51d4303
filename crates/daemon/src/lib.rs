//! What both long-running programs need around their work: an admin endpoint, logging, readiness,
//! shutdown, configuration, TLS files that are replaced while running.
//!
//! Nothing here knows a finding, a container or a store.

pub mod address;
pub mod admin;
pub mod capped;
pub mod config;
pub mod fail_point;
pub mod logging;
pub mod readiness;
pub mod service_manager;
pub mod shutdown;
pub mod tls;
