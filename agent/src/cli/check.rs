//! `check`: every running container once, and what was found. What `diff` shares with it is here too.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_core::finding::Severity;
use holdfast_registry::Registries;

use super::interrupt::{self, State};
use super::looks::{self, Selected};
use super::report::Report;
use super::selection::{NotMeant, Selection, Wants};
use super::{Check, Exit, Output, complain};
use crate::config::Containerd as Expected;
use crate::files::history::History;
use crate::files::keep::Keep;
use crate::files::last_run::{self, Run};
use crate::files::tables::Tables;
use crate::inspect::{Content, Layers, Lists, Lowers, Shared};
use crate::runtime::CallError;
use crate::sources::Wanted;
use crate::telemetry::Metrics;
use crate::trust::{self, Missing, Trust, TrustError};
use crate::worker::Workers;

/// How long one look may take before it is reported as not done.
const LOOK_DEADLINE: std::time::Duration = std::time::Duration::from_mins(10);

/// Why nothing was checked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Selection(#[from] NotMeant),
    #[error("no containerd socket found; name one with --containerd SOCKET")]
    NoSocket,
    #[error("{0}: not permitted; run as root")]
    Permission(PathBuf),
    #[error("{0}: {1}")]
    Runtime(PathBuf, #[source] CallError),
    #[error(transparent)]
    Policy(#[from] TrustError),
    #[error("state folder {0}: {1}")]
    State(PathBuf, #[source] io::Error),
    #[error(transparent)]
    Start(io::Error),
}

impl Failure {
    pub(super) fn complain(&self) -> Exit {
        complain(self);
        match self {
            Self::Selection(_) => Exit::Usage,
            Self::Permission(_) => Exit::Permission,
            Self::NoSocket | Self::Runtime(..) => Exit::Runtime,
            Self::Policy(_) => Exit::Refused,
            Self::State(_, error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Exit::Permission
            }
            Self::State(..) | Self::Start(_) => Exit::Failure,
        }
    }
}

pub(super) fn run(arguments: &Check) -> Exit {
    let selection = Selection::of(arguments);
    let (output, fail_on) = (arguments.output, arguments.fail_on);
    looking(&selection, async |looked| {
        let Looked { report, .. } = looked;
        // A reader that does not read must not keep a signal from ending us.
        let printing = tokio::task::spawn_blocking(move || print(&report, output, fail_on));
        printing.await.unwrap_or(Exit::Failure)
    })
}

fn print(report: &Report, output: Output, fail_on: Severity) -> Exit {
    let mut out = io::stdout().lock();
    let printed = match output {
        Output::Table => report.print_table(&mut out),
        Output::Json => report.print_json(&mut out),
        Output::Jsonl => report.print_jsonl(&mut out),
    };
    match printed.and_then(|()| out.flush()) {
        Ok(()) => exit(report, fail_on),
        // Whoever reads only the beginning (`| head`) has what he wants.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => exit(report, fail_on),
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

/// What was seen of what is selected.
pub(super) struct Looked {
    pub(super) report: Report,
    /// Every change, where they were asked for.
    pub(super) lists: Lists,
}

/// Looks at what is selected and hands what was seen to `then`. A signal ends it; nothing is left behind.
pub(super) fn looking(selection: &Selection, then: impl AsyncFnOnce(Looked) -> Exit) -> Exit {
    with_state(selection, async |state| {
        let (shared, selected) = select(selection, state).await?;
        let looked = look(&shared, selected, Layers::CompareNow).await;
        if looked.report.containers.is_empty() {
            // They have ended since they were listed.
            selection.none()?;
        }
        Ok(then(looked).await)
    })
}

/// The same one container after the other, each without its layers: what is seen of many is not held at once.
pub(super) fn looking_at_each(
    selection: &Selection,
    mut each: impl FnMut(Looked),
    then: impl AsyncFnOnce() -> Exit,
) -> Exit {
    with_state(selection, async |state| {
        let (shared, selected) = select(selection, state).await?;
        for one in selected {
            each(look(&shared, vec![one], Layers::NotAsked).await);
        }
        Ok(then().await)
    })
}

fn with_state(
    selection: &Selection,
    command: impl AsyncFnOnce(&Path) -> Result<Exit, Failure>,
) -> Exit {
    let state = match State::new(selection.state.as_deref()) {
        Ok(state) => state,
        Err(error) => {
            let folder = selection.state.clone().unwrap_or_else(std::env::temp_dir);
            return Failure::State(folder, error).complain();
        }
    };
    let command = async {
        let ended = command(state.folder()).await;
        ended.unwrap_or_else(|failure| failure.complain())
    };
    let ended = interrupt::run(command);
    drop(state);
    ended.unwrap_or_else(|error| Failure::Start(error).complain())
}

async fn look(shared: &Shared, selected: Vec<Selected>, layers: Layers) -> Looked {
    let (containers, findings) = looks::look_at(selected, &shared.node, layers).await;
    say_what_is_not_direct(shared.content.lowers().not_direct());
    Looked {
        report: Report::new(containers, findings),
        lists: shared.content.listed(),
    }
}

async fn select(
    selection: &Selection,
    state: &Path,
) -> Result<(Arc<Shared>, Vec<Selected>), Failure> {
    let sockets = Wanted::new(&selection.sockets, PathBuf::from("/")).new_ones();
    if sockets.is_empty() {
        return Err(Failure::NoSocket);
    }
    let shared = shared(selection, state)?;
    let running = looks::running(sockets, &shared)
        .await
        .map_err(|(socket, error)| unreachable(socket, error))?;
    let selected = selection.narrow(running, Selected::key)?;
    Ok((shared, selected))
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

#[expect(
    clippy::print_stderr,
    reason = "the terminal is this command's interface"
)]
fn say_what_is_not_direct(files: u64) {
    if files > 0 {
        eprintln!(
            "holdfast-agent: {files} files were read through the page cache: their file system refuses direct reads"
        );
    }
}

/// Everything is written below `state`.
fn shared(selection: &Selection, state: &Path) -> Result<Arc<Shared>, Failure> {
    let agents = Some(selection.agent_state.as_path()).filter(|folder| folder.is_dir());
    let in_state = |error| Failure::State(state.to_owned(), error);
    let tables = Tables::new(state, agents).map_err(in_state)?;
    let tables = tables.with_skeletons(selection.skeletons.as_deref());
    let workers = Workers::default();
    let client = trust::client_of(&Registries::default(), &selection.insecure_registries)?;
    let run = Run::look(&selection.agent_state, &last_run::boot_id());
    let history = History::look(&selection.agent_state, &run);
    let lowers = Lowers::new(history).reading(selection.source);
    let content = Content::new(Arc::new(tables), workers.clone(), Arc::new(lowers));
    let content = match selection.wants {
        Wants::Findings => content,
        Wants::Changes | Wants::OwnChanges => content.listing(),
    };
    let trust = Trust::of(
        selection.policies.clone(),
        &selection.layouts,
        Some(client),
        Missing::IsRefused,
    )?;
    let trust = match selection.wants {
        Wants::Findings => trust,
        Wants::Changes | Wants::OwnChanges => trust.about_drift_alone(),
    };
    let shared = Shared {
        node: rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        content: Arc::new(content),
        workers,
        keep: Keep::new(state).map_err(in_state)?,
        trust,
        metrics: Metrics::default(),
        expected_namespaces: expected_namespaces(selection),
        deadline: LOOK_DEADLINE,
    };
    Ok(Arc::new(shared))
}

/// Somebody who names a namespace expects it.
fn expected_namespaces(selection: &Selection) -> Vec<String> {
    let mut expected = Expected::default().expected_namespaces;
    expected.extend(selection.namespace.clone());
    expected
}
