//! Which containers a command means, and against what it looks at them. Decided on the lists of what runs,
//! before anything is looked at.

use std::path::PathBuf;

use holdfast_core::container::ContainerKey;
use holdfast_core::display;
use holdfast_daemon::address::HostPort;

use super::{Check, Scope};
use crate::files::reading::Source;

/// Containers that a refusal names, when several are meant.
const MAX_NAMED: usize = 20;

/// How many containers may be meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// As many as there are.
    All,
    /// Exactly one.
    One,
}

/// What is to be seen of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wants {
    /// Findings.
    Findings,
    /// Every change besides, and what policies say of it; nobody asks for signatures.
    Changes,
    /// Every change of the containers' own, without policies.
    OwnChanges,
}

/// Which containers are checked, and against what.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    pub(super) sockets: Vec<PathBuf>,
    pub(super) namespace: Option<String>,
    container: Option<String>,
    pub(super) policies: Vec<PathBuf>,
    pub(super) layouts: Vec<PathBuf>,
    pub(super) insecure_registries: Vec<HostPort>,
    pub(super) state: Option<PathBuf>,
    pub(super) agent_state: PathBuf,
    pub(super) skeletons: Option<PathBuf>,
    pub(super) reach: Reach,
    /// Where the files of layers are read.
    pub(super) source: Source,
    pub(super) wants: Wants,
}

impl Selection {
    pub(super) fn of(arguments: &Check) -> Self {
        Self {
            container: arguments.container.clone(),
            policies: arguments.policies.clone(),
            layouts: arguments.layouts.clone(),
            insecure_registries: arguments.insecure_registries.clone(),
            source: if arguments.direct {
                Source::Disk
            } else {
                Source::Cache
            },
            ..Self::scoped(&arguments.scope)
        }
    }

    /// One container; every change of it is listed.
    pub(super) fn only(scope: &Scope, container: &str, policies: &[PathBuf]) -> Self {
        Self {
            container: Some(container.to_owned()),
            policies: policies.to_vec(),
            reach: Reach::One,
            wants: Wants::Changes,
            ..Self::scoped(scope)
        }
    }

    /// Every change of these containers, without policies.
    pub(super) fn unruled(scope: &Scope, container: Option<&str>, reach: Reach) -> Self {
        Self {
            container: container.map(str::to_owned),
            reach,
            wants: Wants::OwnChanges,
            ..Self::scoped(scope)
        }
    }

    fn scoped(scope: &Scope) -> Self {
        Self {
            sockets: scope.sockets.clone(),
            namespace: scope.namespace.clone(),
            container: None,
            policies: Vec::new(),
            layouts: Vec::new(),
            insecure_registries: Vec::new(),
            state: scope.state.clone(),
            agent_state: scope.agent_state.clone(),
            skeletons: scope.skeletons.clone(),
            reach: Reach::All,
            source: Source::Cache,
            wants: Wants::Findings,
        }
    }

    /// Those of `running` that are meant. A container that has the whole id is meant before those that only
    /// begin so.
    pub(super) fn narrow<T>(
        &self,
        mut running: Vec<T>,
        key: impl Fn(&T) -> &ContainerKey,
    ) -> Result<Vec<T>, NotMeant> {
        if let Some(namespace) = &self.namespace {
            running.retain(|one| key(one).namespace == *namespace);
        }
        if let Some(id) = &self.container {
            let is_whole = running.iter().any(|one| key(one).id == *id);
            running.retain(|one| {
                let own = &key(one).id;
                own == id || (!is_whole && own.starts_with(id.as_str()))
            });
        }
        if running.is_empty() {
            self.none()?;
        }
        if self.reach == Reach::One && running.len() > 1 {
            let keys = running.iter().map(|one| key(one).clone());
            return Err(NotMeant::Several(keys.collect()));
        }
        Ok(running)
    }

    /// A node without containers is fine; a selection that selects none has checked nothing.
    pub(super) fn none(&self) -> Result<(), NotMeant> {
        if self.namespace.is_none() && self.container.is_none() {
            return Ok(());
        }
        Err(NotMeant::None {
            namespace: self.namespace.clone(),
            container: self.container.clone(),
        })
    }
}

/// Why a selection is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotMeant {
    #[error("no running container{}", meant(namespace.as_deref(), container.as_deref()))]
    None {
        namespace: Option<String>,
        container: Option<String>,
    },
    #[error("{} running containers are meant, expected one: {}", .0.len(), named(.0))]
    Several(Vec<ContainerKey>),
}

fn meant(namespace: Option<&str>, container: Option<&str>) -> String {
    let namespace = namespace.map(|name| format!(" in containerd namespace {name:?}"));
    let container = container.map(|id| format!(" has an id that begins with {id:?}"));
    namespace.unwrap_or_default() + &container.unwrap_or_default()
}

fn named(keys: &[ContainerKey]) -> String {
    let name = |key: &ContainerKey| {
        let (namespace, id) = (key.namespace.as_bytes(), key.id.as_bytes());
        format!("{}/{}", display::escape(namespace), display::escape(id))
    };
    let mut names: Vec<String> = keys.iter().take(MAX_NAMED).map(name).collect();
    if keys.len() > MAX_NAMED {
        names.push("…".to_owned());
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(namespace: Option<&str>, container: Option<&str>, reach: Reach) -> Selection {
        Selection {
            sockets: Vec::new(),
            namespace: namespace.map(str::to_owned),
            container: container.map(str::to_owned),
            policies: Vec::new(),
            layouts: Vec::new(),
            insecure_registries: Vec::new(),
            state: None,
            agent_state: PathBuf::new(),
            skeletons: None,
            reach,
            source: Source::Cache,
            wants: Wants::Findings,
        }
    }

    fn narrowed(selection: &Selection, running: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let key = |(namespace, id): &(&str, &str)| ContainerKey {
            namespace: (*namespace).to_owned(),
            id: (*id).to_owned(),
        };
        let keys = running.iter().map(key).collect();
        let narrowed = selection.narrow(keys, |key| key);
        let name = |key: &ContainerKey| format!("{}/{}", key.namespace, key.id);
        narrowed
            .map(|keys| keys.iter().map(name).collect())
            .map_err(|error| error.to_string())
    }

    const RUNNING: &[(&str, &str)] = &[("a", "web"), ("a", "web-2"), ("b", "web-3")];

    #[test]
    fn a_whole_id_is_meant_before_those_that_begin_so() {
        let ids = |id| narrowed(&selection(None, Some(id), Reach::All), RUNNING).unwrap();
        assert_eq!(ids("web"), ["a/web"]);
        assert_eq!(ids("web-"), ["a/web-2", "b/web-3"]);
        let all = narrowed(&selection(Some("a"), None, Reach::All), RUNNING).unwrap();
        assert_eq!(all, ["a/web", "a/web-2"]);
    }

    #[test]
    fn a_selection_that_selects_none_is_refused_and_no_selection_is_not() {
        let all = selection(None, None, Reach::All);
        assert_eq!(narrowed(&all, &[]), Ok(Vec::new()));
        for (namespace, container, due) in [
            (
                None,
                Some("x"),
                "no running container has an id that begins with \"x\"",
            ),
            (
                Some("c"),
                None,
                "no running container in containerd namespace \"c\"",
            ),
            (
                Some("a"),
                Some("web-3"),
                "no running container in containerd namespace \"a\" has an id that begins with \"web-3\"",
            ),
        ] {
            let refused = narrowed(&selection(namespace, container, Reach::All), RUNNING);
            assert_eq!(refused.unwrap_err(), due);
        }
    }

    #[test]
    fn who_wants_one_is_told_which_there_are() {
        let one = selection(None, Some("web-"), Reach::One);
        let due = "2 running containers are meant, expected one: a/web-2, b/web-3";
        assert_eq!(narrowed(&one, RUNNING).unwrap_err(), due);
        let many: Vec<(&str, &str)> = std::iter::repeat_n(("a", "web-\n"), 30).collect();
        let refused = narrowed(&one, &many).unwrap_err();
        assert!(refused.ends_with(", a/web-\\x0a, …"), "{refused}");
    }
}
