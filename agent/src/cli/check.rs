//! `check`: every running container once, and what was found.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use holdfast_core::coverage::ContainerStatus;
use holdfast_core::finding::{Finding, Severity};
use holdfast_core::place::{self, Places};
use holdfast_registry::{Client, Registries};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::report::Report;
use super::{Check, Exit, Output, Scope, complain};
use crate::config::Containerd as Expected;
use crate::files::keep::Keep;
use crate::files::tables::Tables;
use crate::inspect::{Content, Depth, Inspector, Layers, LookError, Looked, Memory, Shared};
use crate::runtime::CallError;
use crate::runtime::containerd::{Containerd, Timing};
use crate::runtime::list::{Found, list};
use crate::sources::Wanted;
use crate::telemetry::Metrics;
use crate::trust::{Missing, Trust, TrustError};
use crate::worker::Workers;

/// Looks at one time.
const LOOKS_AT_ONCE: usize = 2;

/// How long one look may take before it is reported as not done.
const LOOK_DEADLINE: std::time::Duration = std::time::Duration::from_mins(10);

/// Which containers are checked, and against what.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    sockets: Vec<PathBuf>,
    namespace: Option<String>,
    container: Option<String>,
    policies: Vec<PathBuf>,
    layouts: Vec<PathBuf>,
    insecure_registries: Vec<String>,
    state: Option<PathBuf>,
    agent_state: PathBuf,
    skeletons: Option<PathBuf>,
}

impl Selection {
    fn of(arguments: &Check) -> Self {
        Self {
            container: arguments.container.clone(),
            policies: arguments.policies.clone(),
            layouts: arguments.layouts.clone(),
            insecure_registries: arguments.insecure_registries.clone(),
            ..Self::scoped(&arguments.scope)
        }
    }

    /// One container, without policies.
    pub(super) fn only(scope: &Scope, container: &str) -> Self {
        Self {
            container: Some(container.to_owned()),
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
        }
    }

    fn takes(&self, found: &Found) -> bool {
        let key = &found.record.key;
        self.namespace
            .as_ref()
            .is_none_or(|namespace| *namespace == key.namespace)
            && self
                .container
                .as_ref()
                .is_none_or(|id| key.id.starts_with(id.as_str()))
    }
}

/// Why nothing was checked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("no containerd socket found; name one with --containerd SOCKET")]
    NoSocket,
    #[error("{0}: not permitted; run as root")]
    Permission(PathBuf),
    #[error("{0}: {1}")]
    Runtime(PathBuf, #[source] CallError),
    #[error(transparent)]
    Policy(#[from] TrustError),
    #[error("state folder: {0}")]
    State(#[from] io::Error),
}

impl Failure {
    pub(super) fn complain(&self) -> Exit {
        complain(self);
        match self {
            Self::Permission(_) => Exit::Permission,
            Self::NoSocket | Self::Runtime(..) => Exit::Runtime,
            Self::Policy(_) => Exit::Refused,
            Self::State(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Exit::Permission
            }
            Self::State(_) => Exit::Failure,
        }
    }
}

pub(super) fn run(arguments: &Check) -> Exit {
    let report = match checked(&Selection::of(arguments)) {
        Ok(report) => report,
        Err(failure) => return failure.complain(),
    };
    let mut out = io::stdout().lock();
    let printed = match arguments.output {
        Output::Table => report.print_table(&mut out),
        Output::Json => report.print_json(&mut out),
        Output::Jsonl => report.print_jsonl(&mut out),
    };
    match printed.and_then(|()| out.flush()) {
        Ok(()) => exit(&report, arguments.fail_on),
        // Whoever reads only the beginning (`| head`) has what he wants.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => exit(&report, arguments.fail_on),
        Err(error) => {
            complain(&error);
            Exit::Failure
        }
    }
}

fn exit(report: &Report, fail_on: Severity) -> Exit {
    if report
        .findings
        .iter()
        .any(|finding| finding.severity >= fail_on)
    {
        Exit::Findings
    } else if report.summary.incomplete > 0 {
        Exit::Incomplete
    } else {
        Exit::Clean
    }
}

/// Checks what is selected.
pub(super) fn checked(selection: &Selection) -> Result<Report, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(checked_async(selection))
}

async fn checked_async(selection: &Selection) -> Result<Report, Failure> {
    let sockets = Wanted::new(&selection.sockets, PathBuf::from("/")).new_ones();
    if sockets.is_empty() {
        return Err(Failure::NoSocket);
    }
    let (shared, _temporary) = shared(selection)?;
    let mut looks = Looks::default();
    for socket in sockets {
        let runtime = Arc::new(Containerd::new(socket.clone(), Timing::default()));
        let found = list(&runtime)
            .await
            .map_err(|error| unreachable(socket, error))?;
        let inspector = Arc::new(Inspector::new(runtime, Arc::clone(&shared)));
        for found in found.into_iter().filter(|found| selection.takes(found)) {
            looks.start(&inspector, &shared.node, found).await;
        }
    }
    let (containers, findings) = looks.finish().await;
    Ok(Report::new(containers, findings))
}

fn unreachable(socket: PathBuf, error: CallError) -> Failure {
    let is_forbidden = std::os::unix::net::UnixStream::connect(&socket)
        .is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    if is_forbidden {
        Failure::Permission(socket)
    } else {
        Failure::Runtime(socket, error)
    }
}

/// Everything is written below the state folder; without one, below a temporary folder that goes.
fn shared(selection: &Selection) -> Result<(Arc<Shared>, Option<TempDir>), Failure> {
    let (state, temporary) = if let Some(state) = &selection.state {
        (state.clone(), None)
    } else {
        let temporary = tempfile::Builder::new()
            .prefix("holdfast-check.")
            .tempdir()?;
        (temporary.path().to_owned(), Some(temporary))
    };
    let agents = Some(selection.agent_state.as_path()).filter(|folder| folder.is_dir());
    let tables = Tables::new(&state, agents)?.with_skeletons(selection.skeletons.as_deref());
    let workers = Workers::default();
    let access = Registries::default().access(&selection.insecure_registries);
    let client = Client::new(access).map_err(TrustError::from)?;
    let shared = Shared {
        node: rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        content: Arc::new(Content::new(tables, workers.clone())),
        workers,
        keep: Keep::new(&state)?,
        trust: Trust::of(
            selection.policies.clone(),
            &selection.layouts,
            Some(client),
            Missing::IsRefused,
        )?,
        metrics: Metrics::default(),
        expected_namespaces: expected_namespaces(selection),
        deadline: LOOK_DEADLINE,
    };
    Ok((Arc::new(shared), temporary))
}

/// Somebody who names a namespace expects it.
fn expected_namespaces(selection: &Selection) -> Vec<String> {
    let mut expected = Expected::default().expected_namespaces;
    expected.extend(selection.namespace.clone());
    expected
}

/// The looks, a few at a time.
#[derive(Debug, Default)]
struct Looks {
    running: JoinSet<Result<Looked, LookError>>,
    containers: Vec<ContainerStatus>,
    findings: Vec<Finding>,
}

impl Looks {
    async fn start(&mut self, inspector: &Arc<Inspector<Containerd>>, node: &str, found: Found) {
        while self.running.len() >= LOOKS_AT_ONCE {
            self.join().await;
        }
        let (inspector, node) = (Arc::clone(inspector), node.to_owned());
        self.running.spawn(async move {
            let mut memory = Memory::new(found);
            let now = crate::now();
            let looked = inspector
                .look(&mut memory, Depth::Whole, Layers::CompareNow, now)
                .await;
            match looked {
                // A look that hangs says nothing about the container but that.
                Err(LookError::Deadline(_)) => Ok(memory.not_looked(&node, now)),
                other => other,
            }
        });
    }

    async fn finish(mut self) -> (Vec<ContainerStatus>, Vec<Finding>) {
        while !self.running.is_empty() {
            self.join().await;
        }
        (self.containers, self.findings)
    }

    async fn join(&mut self) {
        match self.running.join_next().await {
            Some(Ok(Ok(looked))) => {
                let now = looked.status.observed_at;
                let findings = place::advance(&mut Places::new(), &looked.about, looked.look, now);
                self.findings.extend(findings);
                self.containers.push(looked.status);
            }
            // It has ended meanwhile: nothing runs that could be checked.
            Some(Ok(Err(LookError::Gone | LookError::Deadline(_)))) | None => {}
            Some(Err(error)) => complain(&error),
        }
    }
}
