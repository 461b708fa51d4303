//! Every change of one container, for a person who asks for all of them: besides the findings, which keep
//! the worst. Without such a person nothing is kept here.

use std::sync::{Arc, Mutex, PoisonError};

use holdfast_core::drift::every::{Every, Listed};
use holdfast_core::drift::group::Changes;

use crate::files::layers::Compared;

/// The changes of one container, by where they are.
#[derive(Debug, Default)]
pub struct Lists {
    /// In its own layer, on the node's disk the upper directory.
    pub container: Every,
    /// In the unpacked layers of its image. Each layer keeps ten thousand; the rest is counted.
    pub layers: Every,
}

/// What is listed so far.
#[derive(Debug, Default)]
pub(super) struct Listing(Mutex<Lists>);

impl Listing {
    /// What the scan of upper directories has seen.
    pub(super) fn add(&self, changes: &mut Changes) {
        if let Some(every) = changes.take_every() {
            self.lists(|lists| lists.container.join(every));
        }
    }

    /// What the compares of the layers have seen.
    pub(super) fn add_layers(&self, results: &[Arc<Compared>]) {
        self.lists(|lists| {
            for compared in results {
                add_kept(&compared.tampered.changes, &mut lists.layers);
                add_kept(&compared.tampered.corrupt, &mut lists.layers);
            }
        });
    }

    pub(super) fn take(&self) -> Lists {
        let mut taken = Lists::default();
        self.lists(|lists| std::mem::swap(lists, &mut taken));
        taken
    }

    fn lists(&self, work: impl FnOnce(&mut Lists)) {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn add_kept(changes: &Changes, every: &mut Every) {
    let mut kept = 0_u64;
    for change in changes.iter() {
        kept += 1;
        every.push(Listed {
            change: change.clone(),
            is_worth_a_finding: true,
        });
    }
    every.leave_out(changes.total().saturating_sub(kept));
}
