//! Which runtimes are watched: those that are configured, else every socket that exists, now or later. A
//! node's runtime can be installed after the agent, or start after it.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_daemon::shutdown::{Stop, stopped};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::inspect::{Inspector, Shared};
use crate::reconcile::Watching;
use crate::runtime::Runtime as _;
use crate::runtime::containerd::{Containerd, Timing};
use crate::runtime::events::Event;
use crate::runtime::sockets;

/// Events that wait for the main loop; more and it lists again.
pub const EVENT_QUEUE: usize = 4096;

/// How often sockets are looked for.
const DISCOVERY: Duration = Duration::from_secs(2);

/// Which sockets are watched.
#[derive(Debug)]
pub struct Wanted {
    /// Those of the configuration, or `None` where the usual places are looked through.
    configured: Option<Vec<PathBuf>>,
    /// Where the usual places are: `/` on a node.
    root: PathBuf,
    known: Vec<PathBuf>,
}

impl Wanted {
    /// The configured sockets; without any, those that are found below `root`.
    pub fn new(configured: &[PathBuf], root: PathBuf) -> Self {
        Self {
            configured: Some(configured.to_vec()).filter(|sockets| !sockets.is_empty()),
            root,
            known: Vec::new(),
        }
    }

    /// Sockets that were not given before. A runtime that we do not understand is said, never silently
    /// left out.
    pub fn new_ones(&mut self) -> Vec<PathBuf> {
        let (containerd, unsupported) = self.configured.clone().map_or_else(
            || {
                let found = sockets::find(&self.root);
                (found.containerd, found.unsupported)
            },
            |configured| (configured, Vec::new()),
        );
        for socket in self.unknown(unsupported) {
            tracing::warn!(
                socket = %socket.display(),
                "This container runtime is not supported: its containers are not checked."
            );
        }
        self.unknown(containerd)
    }

    fn unknown(&mut self, mut sockets: Vec<PathBuf>) -> Vec<PathBuf> {
        sockets.retain(|socket| !self.known.contains(socket));
        self.known.extend_from_slice(&sockets);
        sockets
    }
}

/// The event streams of all runtimes, and what the main loop is handed of each.
#[derive(Debug)]
pub struct Sources {
    shared: Arc<Shared>,
    timing: Timing,
    events: mpsc::Sender<(usize, Event)>,
    streams: JoinSet<()>,
}

impl Sources {
    /// No source yet; their events go to `events`, each with the number of its source.
    pub fn new(shared: Arc<Shared>, timing: Timing, events: mpsc::Sender<(usize, Event)>) -> Self {
        Self {
            shared,
            timing,
            events,
            streams: JoinSet::new(),
        }
    }

    /// Hands runtimes to the main loop, in the order of their numbers, until stopped. Those that are there at
    /// the start come together: what none of them runs has ended.
    pub async fn run(
        mut self,
        mut wanted: Wanted,
        runtimes: mpsc::Sender<Vec<Watching<Containerd>>>,
        mut stop: Stop,
    ) -> Result<(), Infallible> {
        let mut again = tokio::time::interval(DISCOVERY);
        loop {
            tokio::select! {
                () = stopped(&mut stop) => return Ok(()),
                _ = again.tick() => {}
            }
            let sockets = wanted.new_ones();
            if !sockets.is_empty() {
                self.watch(sockets, &runtimes).await;
            }
        }
    }

    /// The loop has the runtimes before their first events: it takes runtimes first.
    async fn watch(
        &mut self,
        sockets: Vec<PathBuf>,
        runtimes: &mpsc::Sender<Vec<Watching<Containerd>>>,
    ) {
        let watching: Vec<_> = sockets
            .into_iter()
            .map(|socket| self.watching(socket))
            .collect();
        let streams: Vec<_> = watching.iter().map(|it| Arc::clone(&it.runtime)).collect();
        // Refused only when the loop has ended, and then all of this ends.
        if runtimes.send(watching).await.is_ok() {
            for runtime in streams {
                let index = self.streams.len();
                self.streams
                    .spawn(forward(runtime, index, self.events.clone()));
            }
        }
    }

    fn watching(&self, socket: PathBuf) -> Watching<Containerd> {
        tracing::info!(socket = %socket.display(), "Watching a container runtime.");
        let name = socket.display().to_string();
        let runtime = Arc::new(Containerd::new(socket, self.timing));
        let inspector = Inspector::new(Arc::clone(&runtime), Arc::clone(&self.shared));
        Watching {
            name,
            runtime,
            inspector: Arc::new(inspector),
        }
    }
}

/// The events of one runtime, with its number. Never ends before the loop does.
async fn forward(runtime: Arc<Containerd>, index: usize, events: mpsc::Sender<(usize, Event)>) {
    let (own_in, mut own) = mpsc::channel(EVENT_QUEUE);
    let passing_on = async {
        while let Some(event) = own.recv().await {
            if events.send((index, event)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = runtime.watch(own_in) => {}
        () = passing_on => {}
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_socket_that_appears_later_is_watched_once() {
        let root = tempfile::tempdir().unwrap();
        let mut wanted = Wanted::new(&[], root.path().to_owned());
        assert!(wanted.new_ones().is_empty());

        let path = root.path().join("run/k0s/containerd.sock");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _listening = UnixListener::bind(&path).unwrap();
        let crio = root.path().join("run/crio/crio.sock");
        std::fs::create_dir_all(crio.parent().unwrap()).unwrap();
        let _other = UnixListener::bind(&crio).unwrap();

        assert_eq!(wanted.new_ones(), [path]);
        assert!(wanted.new_ones().is_empty());
    }

    #[test]
    fn configured_sockets_are_watched_whether_they_exist_or_not_and_no_others() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("run/containerd/containerd.sock");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _listening = UnixListener::bind(&path).unwrap();
        let configured = [PathBuf::from("/nowhere/a.sock")];

        let mut wanted = Wanted::new(&configured, root.path().to_owned());

        assert_eq!(wanted.new_ones(), configured);
        assert!(wanted.new_ones().is_empty());
    }
}
