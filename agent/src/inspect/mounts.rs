//! Step 6: the mount tables of one container against what its runtime was asked for and against its image.
//! Reading the tables blocks, so it runs on a thread for that.

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::finding::{Check, Condition, Kind, Severity};
use holdfast_core::layer::TreeError;
use holdfast_core::mounts;
use tokio::time::Instant;

use super::content::Expectation;
use super::verdicts::Verdicts;
use super::{LookError, Memory};
use crate::runtime::identify::Identity;
use crate::runtime::kernel::KernelError;
use crate::runtime::mounts::{Gap, Launch};
use crate::worker::{Progress, WorkError, Workers};

/// How long the tables of one container may take: its processes choose what is mounted.
const PATIENCE: Duration = Duration::from_mins(1);

/// What the blocking part gave back.
struct Worked {
    conditions: Vec<Condition>,
    gap: Option<Gap>,
}

/// Why mounts could not be judged.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cannot {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("expected tree: {0}")]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Work(#[from] WorkError),
}

impl Cannot {
    const fn reason(&self) -> &'static str {
        match self {
            Self::Kernel(error) => error.reason(),
            Self::Tree(_) => "tree",
            Self::Work(error) => error.reason(),
        }
    }

    /// What the container can cause is at least a warning.
    const fn severity(&self) -> Severity {
        match self {
            Self::Kernel(KernelError::TableTooLarge | KernelError::Malformed)
            | Self::Tree(_)
            | Self::Work(_) => Severity::Warning,
            Self::Kernel(_) => Severity::Info,
        }
    }
}

/// Fixes what the runtime was given for this task, once: whoever can write its records explains nothing later.
pub(super) async fn fix_launch(
    memory: &mut Memory,
    identity: &Arc<Identity>,
    workers: &Workers,
) -> Result<(), Cannot> {
    let Some(root) = identity.root else {
        return Ok(());
    };
    if memory.launch(root).is_some() {
        return Ok(());
    }
    let (id, subject) = (memory.key().id.clone(), subject(memory));
    let identity = Arc::clone(identity);
    let read = move |_: &Progress| Launch::of(&identity.spec, &id, root, identity.form);
    memory.on_launch(Arc::new(workers.run(&subject, PATIENCE, read).await??));
    Ok(())
}

/// Judges the mounts. What hides what is known from the expected tree, so without one nothing is: the finding
/// about the files says why.
pub(super) async fn check(
    memory: &mut Memory,
    identity: &Identity,
    (launch, workers): (Result<(), Cannot>, &Workers),
    verdicts: &mut Verdicts,
) -> Result<(), LookError> {
    let started = Instant::now();
    let (Some(expectation), Some(root)) = (memory.expectation.clone(), identity.root) else {
        verdicts.depends_on_another(&[Check::Mounts], "no-expected-tree");
        return Ok(());
    };
    if has_lost_its_root(memory) {
        verdicts.depends_on_another(&[Check::Mounts], "root-moved");
        return Ok(());
    }
    let worked = match (launch, memory.launch(root)) {
        (Ok(()), Some(launch)) => {
            let workload = memory.about("").workload;
            let work = move |_: &Progress| work(&launch, &expectation, workload.as_str());
            let worked = workers.run(&subject(memory), PATIENCE, work).await;
            worked.unwrap_or_else(|error| Err(error.into()))
        }
        (Ok(()), None) => Err(KernelError::Gone.into()),
        (Err(cannot), _) => Err(cannot),
    };
    match worked {
        Ok(worked) => report(worked.conditions, worked.gap, verdicts),
        Err(Cannot::Kernel(KernelError::Gone)) => return Err(LookError::Gone),
        Err(cannot) => verdicts.not_done(
            Check::Mounts,
            cannot.severity(),
            cannot.reason(),
            cannot.to_string(),
        ),
    }
    verdicts.took(&[Check::Mounts], started.elapsed());
    Ok(())
}

fn subject(memory: &Memory) -> String {
    let key = memory.key();
    format!("mounts of {}/{}", key.namespace, key.id)
}

/// Whether its first process stands on another mount than that of the image: then its table says nothing about
/// the image, and the finding of the identity says so.
fn has_lost_its_root(memory: &Memory) -> bool {
    let is_lost = |condition: &Condition| {
        condition.detail.kind() == Kind::MountDrift && condition.severity == Severity::Critical
    };
    let identified = memory.identified();
    identified.is_some_and(|identified| identified.conditions.iter().any(is_lost))
}

fn work(launch: &Launch, expectation: &Expectation, workload: &str) -> Result<Worked, Cannot> {
    let shown = launch.look()?;
    let tree = expectation.tree();
    let conditions = mounts::conditions(tree, &launch.declared, &shown.views, workload)?;
    Ok(Worked {
        conditions,
        gap: shown.gap,
    })
}

/// What was seen counts; what was not seen any more may be where nobody looked.
fn report(conditions: Vec<Condition>, gap: Option<Gap>, verdicts: &mut Verdicts) {
    let Some(gap) = gap else {
        verdicts.done(Check::Mounts, None, conditions);
        return;
    };
    let severity = if gap.is_containers_fault() {
        Severity::Warning
    } else {
        Severity::Info
    };
    verdicts.partly_done(Check::Mounts, None, conditions);
    verdicts.not_done(Check::Mounts, severity, gap.reason(), gap.to_string());
}

#[cfg(test)]
mod tests {
    use holdfast_core::coverage::Outcome;
    use jiff::Timestamp;

    use super::*;

    fn outcome(gap: Option<Gap>) -> (Outcome, usize) {
        let mut verdicts = Verdicts::new(Timestamp::UNIX_EPOCH);
        report(Vec::new(), gap, &mut verdicts);
        let outcome = verdicts.outcomes()[0].1;
        (outcome, verdicts.into_parts().0.conditions.len())
    }

    #[test]
    fn a_namespace_that_was_not_looked_at_makes_the_check_unverifiable() {
        assert_eq!(outcome(None), (Outcome::Clean, 0));
        assert_eq!(outcome(Some(Gap::NoGroup)), (Outcome::Unverifiable, 1));
        assert_eq!(outcome(Some(Gap::Namespaces)), (Outcome::Unverifiable, 1));
    }
}
