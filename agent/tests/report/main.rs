//! The ledger, the file sink and the uplink against real files, a real file system that fills up, real
//! kills and a real gRPC server. The oracle for transitions is the core's own `place::advance`.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may panic, and reads files that it has made"
)]

mod bounds;
mod damage;
mod kill;
mod ledger;
mod link;
mod model;
mod sink;
mod support;
mod uplink;
