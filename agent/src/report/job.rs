//! A piece of work for the writer, with the answer that it owes. The answer is given after the commit
//! that holds the work, or says why there is none.

use tokio::sync::oneshot;

use super::error::{Fault, LedgerError};
use super::transaction::Transaction;

/// How the transaction ended.
type Committed = Result<(), LedgerError>;
/// Gives the answer.
pub(super) type Reply = Box<dyn FnOnce(Committed) + Send>;
/// What is done in a transaction, or with the reason why there is none.
type Work = dyn FnOnce(Result<&mut Transaction<'_>, LedgerError>) -> (Reply, Result<(), redb::Error>)
    + Send;

/// A piece of work, with the answer that it owes.
pub(super) struct Job(Box<Work>);

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Job")
    }
}

impl Job {
    pub(super) fn new<T: Send + 'static>(
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, Fault> + Send + 'static,
        answer: oneshot::Sender<Result<T, LedgerError>>,
    ) -> Self {
        Self(Box::new(move |transaction| {
            let (value, storage) = match transaction.map(work) {
                Ok(Ok(value)) => (Ok(value), Ok(())),
                Ok(Err(Fault::Refused(error))) | Err(error) => (Err(error), Ok(())),
                Ok(Err(Fault::Storage(error))) => (Err(LedgerError::of(&error)), Err(error)),
            };
            let reply: Reply = Box::new(move |committed| {
                // A caller that no longer waits loses only the answer.
                drop(answer.send(committed.and(value)));
            });
            (reply, storage)
        }))
    }

    /// Does the work. A storage error means that the whole transaction is lost.
    pub(super) fn run(
        self,
        transaction: Result<&mut Transaction<'_>, LedgerError>,
    ) -> (Reply, Result<(), redb::Error>) {
        (self.0)(transaction)
    }
}
