//! What happens between beginning and committing a transaction: load an opened database, or do a group of
//! work. Nothing here opens a file, retries, or answers.

use holdfast_daemon::fail_point;
use redb::{Database, WriteTransaction};

use super::counts::{Bounds, Consumers, Counts};
use super::error::LedgerError;
use super::file;
use super::job::{Job, Reply};
use super::spool::Spool;
use super::transaction::Transaction;
use super::witness::Testimony;
use crate::state::State;

/// What a transaction left.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) is_committed: bool,
    pub(super) counts: Counts,
    pub(super) damaged_rows: u64,
}

/// What a transaction has to know.
pub(super) type Known = (Bounds, Consumers, Counts);

/// Reads a database that has just been opened; true when it is new.
pub(super) fn load(
    database: &Database,
    (bounds, consumers, earlier): Known,
    witness: Option<Testimony>,
) -> Result<(Counts, bool), redb::Error> {
    let write = database.begin_write()?;
    let mut spool = Spool::open(&write, bounds, consumers, earlier)?;
    let is_new = spool.load(file::random(), witness)?;
    // The tables of the state are made here too, so that no later transaction does.
    let state = State::open(&write)?;
    spool.finish()?;
    let counts = spool.counts;
    drop((spool, state));
    write.commit()?;
    Ok((counts, is_new))
}

/// Does a group of work in one transaction, and commits it if it changed anything. Pushes the answers that
/// the work owes, also when it fails.
pub(super) fn commit(
    write: WriteTransaction,
    known: Known,
    group: Vec<Job>,
    replies: &mut Vec<Reply>,
) -> Result<Done, redb::Error> {
    let done = work(&write, known, group, replies)?;
    if done.is_committed {
        fail_point::hit("ledger-before-commit");
        write.commit()?;
        fail_point::hit("ledger-after-commit");
    } else {
        write.abort()?;
    }
    Ok(done)
}

fn work(
    write: &WriteTransaction,
    (bounds, consumers, counts): Known,
    group: Vec<Job>,
    replies: &mut Vec<Reply>,
) -> Result<Done, redb::Error> {
    let mut transaction = Transaction {
        state: State::open(write)?,
        spool: Spool::open(write, bounds, consumers, counts)?,
    };
    let mut failure = None;
    for job in group {
        // After a failure the rest is not done, but owes its answers too.
        let (reply, result) = match &failure {
            None => job.run(Ok(&mut transaction)),
            Some(error) => job.run(Err(LedgerError::of(error))),
        };
        replies.push(reply);
        failure = failure.or(result.err());
    }
    if let Some(error) = failure {
        return Err(error);
    }
    let Transaction { state, mut spool } = transaction;
    if state.damaged > 0 {
        spool.want_documents();
    }
    Ok(Done {
        is_committed: spool.finish()? || state.is_changed,
        counts: spool.counts,
        damaged_rows: state.damaged,
    })
}
