//! From "the look found this" to "the collector has it".
//!
//! ```text
//!  main loop ──look──▶ Ledger ──(one transaction: places + spool)──▶ redb file
//!                        │                                             │
//!                        │◀── next_findings / sink_passed ── sink ─────┤──▶ JSON lines
//!                        │◀── next_batch / confirm ─────── uplink ─────┘──▶ collector
//! ```
//!
//! Places and spool live in **one** redb database and change in **one** transaction (a transactional
//! outbox). Kept apart, a kill between "place remembered as open" and "finding spooled" would lose the
//! transition for ever, and the other order would make it twice. So a look is either recorded whole,
//! with the records of all its transitions, or not at all; what was not recorded is found again by the
//! next look, because conditions are level-triggered. Nothing may stand between the look and this
//! transaction, and nobody may tell a person of a transition before it is committed.
//!
//! A record leaves the spool when each consumer has passed it: the collector by its confirmation, the
//! file sink by its own cursor, which is kept in the same database. Both are at-least-once towards the
//! outside; the collector drops repeats by (node, epoch, sequence), so it stores exactly once.
//!
//! | file | is |
//! |---|---|
//! | `ledger.rs` | what the main loop, sink and uplink call |
//! | `job.rs`, `writer.rs`, `commit.rs` | the one thread that touches the database: group commit, re-opening |
//! | `transaction.rs` | what a look, an end, a full report does to state and spool |
//! | `file.rs` | opening the database file; a damaged one is set aside, never a reason not to start |
//! | `witness.rs` | notices a commit that the file has lost |
//! | `spool.rs`, `record.rs`, `counts.rs` | the records: order, bounds, what is dropped first |
//! | `document.rs` | a finding as bytes of bounded length |
//! | `sink.rs`, `uplink.rs` | the two consumers |

mod commit;
mod counts;
mod document;
mod error;
mod file;
mod job;
mod ledger;
mod record;
mod sink;
mod spool;
mod transaction;
mod uplink;
mod witness;
mod writer;

pub use counts::{Bounds, Consumers, SpoolStats};
pub use error::LedgerError;
pub use ledger::{Ledger, Opened};
pub use record::{RecordKind, SpoolBatch, SpoolRecord};
pub use sink::{Sink, SinkError, SinkState};
pub use uplink::{Pace, Uplink, UplinkState, Vitals};
