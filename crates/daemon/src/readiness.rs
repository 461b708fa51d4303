//! Whether the program does its work, as named conditions. `/readyz` and the heartbeat read them.
//!
//! All conditions are named when the program starts: one that nobody has set yet is not ready, so a
//! part that never came up cannot be forgotten.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_core::display;

/// A reason is cut here: it goes into a line and a heartbeat.
const MAX_REASON_BYTES: usize = 300;

type Conditions = BTreeMap<&'static str, Result<(), String>>;

/// The conditions of one program. Clones share them.
#[derive(Clone, Debug)]
pub struct Readiness {
    conditions: Arc<Mutex<Conditions>>,
}

impl Readiness {
    /// Names the conditions; none of them holds yet.
    pub fn new(names: &[&'static str]) -> Self {
        let starting = |name: &&'static str| (*name, Err("not yet".to_owned()));
        Self {
            conditions: Arc::new(Mutex::new(names.iter().map(starting).collect())),
        }
    }

    /// Says whether a condition holds, and if not, why.
    pub fn set(&self, name: &'static str, state: Result<(), String>) {
        let state = state.map_err(|reason| bounded(&reason));
        let mut conditions = self
            .conditions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        conditions.insert(name, state);
    }

    /// Why the program is not ready, `name: reason` each; empty when it is.
    pub fn reasons(&self) -> Vec<String> {
        let conditions = self
            .conditions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        conditions
            .iter()
            .filter_map(|(name, state)| Some(format!("{name}: {}", state.as_ref().err()?)))
            .collect()
    }

    /// Whether every condition holds.
    pub fn is_ready(&self) -> bool {
        self.reasons().is_empty()
    }
}

/// A reason on one line: an error text can quote what a peer has sent.
fn bounded(reason: &str) -> String {
    let mut reason = display::escape(reason.as_bytes());
    if reason.len() > MAX_REASON_BYTES {
        reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
        reason.push('…');
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_nobody_has_set_is_not_ready() {
        let readiness = Readiness::new(&["containerd", "spool"]);
        readiness.set("spool", Ok(()));

        assert_eq!(readiness.reasons(), ["containerd: not yet"]);

        readiness.set("containerd", Ok(()));
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_condition_can_fail_again_and_its_reason_stays_on_one_line() {
        let readiness = Readiness::new(&["containerd"]);
        readiness.set("containerd", Ok(()));
        readiness.set("containerd", Err("gone\nok".into()));

        assert_eq!(readiness.reasons(), ["containerd: gone\\x0aok"]);
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let readiness = Readiness::new(&[]);
        readiness.set("x", Err("ä".repeat(1000)));

        assert!(readiness.reasons()[0].len() < MAX_REASON_BYTES + 10);
    }
}
