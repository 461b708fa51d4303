//! A private containerd: its own root, state, socket and containerd namespace.
//!
//! runc keeps its state machine-wide by containerd namespace, so the namespace must be a new one each time,
//! and containers started here keep runc's state in our own folder besides. The folder lies below
//! `/var/tmp`: it has to be a filesystem that can hold overlay's upper directories.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use holdfast_core::digest::Digest;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::net::UnixStream;

use crate::container::Ctr;
use crate::image::{Image, Layout};
use crate::leftover;
use crate::process::Process;
use crate::wait;

/// The image that pod sandboxes run.
pub const PAUSE_IMAGE: &str = "holdfast.invalid/pause:1";

static NAMESPACES: AtomicU32 = AtomicU32::new(0);

/// What a private containerd does beside the ordinary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// With the CRI plug-in (containerd namespace `k8s.io`) and an image for sandboxes.
    pub cri: bool,
    /// Layer blobs that the CRI plug-in pulls are dropped once they are unpacked.
    pub discard_unpacked_layers: bool,
}

/// A running containerd. Dropping it ends its containers and removes all that it made.
#[derive(Debug)]
pub struct Containerd {
    process: Option<Process>,
    namespace: String,
    folder: TempDir,
}

impl Containerd {
    /// Starts one without the CRI plug-in.
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// Starts one.
    pub async fn start_with(options: Options) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("holdfast-containerd-")
            .tempdir_in("/var/tmp")
            .unwrap();
        let number = NAMESPACES.fetch_add(1, Ordering::Relaxed);
        let mut containerd = Self {
            process: None,
            namespace: format!("holdfast-{}-{number}", std::process::id()),
            folder,
        };
        let config = configuration(containerd.folder.path(), options);
        std::fs::write(containerd.path("config.toml"), config).unwrap();
        containerd.launch().await;
        if options.cri {
            let mut layout = Layout::new();
            layout.add(
                &Image::busybox([]).command(&["/bin/sleep", "1000000"]),
                PAUSE_IMAGE,
            );
            containerd.ctr_in("k8s.io").import(&layout);
        }
        containerd
    }

    /// The socket.
    pub fn socket(&self) -> PathBuf {
        self.path("containerd.sock")
    }

    /// Where content and snapshots are.
    pub fn root(&self) -> PathBuf {
        self.path("root")
    }

    /// The content store's file of a blob.
    pub fn blob(&self, digest: Digest) -> PathBuf {
        self.root()
            .join("io.containerd.content.v1.content/blobs/sha256")
            .join(digest.encoded())
    }

    /// The containerd namespace of this test.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// `ctr` in the namespace of this test.
    pub fn ctr(&self) -> Ctr {
        self.ctr_in(&self.namespace)
    }

    /// `ctr` in another namespace. Names of containers must then be new on the whole machine.
    pub fn ctr_in(&self, namespace: &str) -> Ctr {
        Ctr::new(self.socket(), self.path("state"), namespace)
    }

    /// Kills the daemon (-9); containers go on.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Starts the daemon again after [`kill`](Self::kill), on the same folders and with a new socket.
    pub async fn restart(&mut self) {
        self.kill();
        self.launch().await;
    }

    /// Stops the daemon in its tracks (`SIGSTOP`): connections stay open and nothing answers.
    pub fn freeze(&self) {
        self.daemon().signal(Signal::STOP);
    }

    /// Lets it go on after [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.daemon().signal(Signal::CONT);
    }

    /// Puts a dead socket in the place of the daemon's, which is kept aside and goes on serving.
    pub fn take_socket_away(&self) {
        std::fs::rename(self.socket(), self.path("aside.sock")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(self.socket()).unwrap());
    }

    /// Undoes [`take_socket_away`](Self::take_socket_away).
    pub fn put_socket_back(&self) {
        std::fs::rename(self.path("aside.sock"), self.socket()).unwrap();
    }

    /// The daemon's process.
    pub fn daemon(&self) -> &Process {
        self.process.as_ref().expect("containerd was killed")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn launch(&mut self) {
        let mut command = Command::new("containerd");
        command.arg("--config").arg(self.path("config.toml"));
        let mut process = Process::start("containerd", &mut command, &self.path("log"));
        let socket = self.socket();
        wait::until("containerd answers", async || {
            if let Some(status) = process.ended() {
                panic!("containerd ended: {status}");
            }
            UnixStream::connect(&socket).await.ok()
        })
        .await;
        self.process = Some(process);
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // First the daemon, so that it starts nothing more.
        self.process = None;
        leftover::end_tasks(&self.path("state"), &self.socket());
        leftover::unmount_below(self.folder.path());
        leftover::remove_namespaces(&self.path("state"));
    }
}

fn configuration(folder: &Path, options: Options) -> String {
    let Options {
        cri,
        discard_unpacked_layers,
    } = options;
    let at = folder.display();
    // By default nothing is collected before a hundred changes, or minutes.
    let collector = if discard_unpacked_layers {
        "[plugins.\"io.containerd.gc.v1.scheduler\"]\nmutation_threshold = 1\n"
    } else {
        ""
    };
    let disabled = if cri {
        ""
    } else {
        "\"io.containerd.grpc.v1.cri\""
    };
    format!(
        r#"version = 2
root = "{at}/root"
state = "{at}/state"
disabled_plugins = [{disabled}]

[grpc]
address = "{at}/containerd.sock"

{collector}
[plugins."io.containerd.internal.v1.opt"]
path = "{at}/opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
restrict_oom_score_adj = true
stream_server_port = "0"

[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = "{at}/cni"

[plugins."io.containerd.grpc.v1.cri".containerd]
discard_unpacked_layers = {discard_unpacked_layers}

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "{at}/state/runc"
"#
    )
}
