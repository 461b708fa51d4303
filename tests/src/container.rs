//! Containers of a private containerd: run, look into, remove. Each call is one bounded `ctr`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::command::{self, Failure};
use crate::image::Layout;

static EXECS: AtomicU32 = AtomicU32::new(0);

/// containerd's own client, bound to one socket and one containerd namespace.
#[derive(Clone, Debug)]
pub struct Ctr {
    socket: PathBuf,
    state: PathBuf,
    namespace: String,
}

impl Ctr {
    pub(crate) fn new(socket: PathBuf, state: PathBuf, namespace: &str) -> Self {
        Self {
            socket,
            state,
            namespace: namespace.to_owned(),
        }
    }

    /// The containerd namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Runs `ctr` with these arguments.
    pub fn call(&self, arguments: &[&str]) -> Result<String, Failure> {
        let socket = self.socket.to_str().expect("a path of ours");
        let mut all = vec!["--address", socket, "--namespace", &self.namespace];
        all.extend(arguments);
        command::run("ctr", &all)
    }

    /// Like [`call`](Self::call), for what has to succeed.
    #[track_caller]
    pub fn must(&self, arguments: &[&str]) -> String {
        self.call(arguments)
            .unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// Imports and unpacks every image of a layout.
    #[track_caller]
    pub fn import(&self, layout: &Layout) {
        let archive = layout.archive();
        self.must(&[
            "images",
            "import",
            archive.to_str().expect("a path of ours"),
        ]);
    }

    /// Starts a container of `image` with the image's own command.
    #[track_caller]
    pub fn run(&self, image: &str, id: &str) -> Container {
        self.run_with(&[], image, id, &[])
    }

    /// Starts a container with options of `ctr run` and a command; no words: the image's own.
    #[track_caller]
    pub fn run_with(&self, options: &[&str], image: &str, id: &str, words: &[&str]) -> Container {
        self.try_run(options, image, id, words)
            .unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// Like [`run_with`](Self::run_with), for an image that may be refused.
    pub fn try_run(
        &self,
        options: &[&str],
        image: &str,
        id: &str,
        words: &[&str],
    ) -> Result<Container, Failure> {
        let runc = self.state.join("runc").join(&self.namespace);
        let runc = runc.to_str().expect("a path of ours");
        let mut arguments = vec!["run", "--detach", "--null-io", "--runc-root", runc];
        arguments.extend(options);
        arguments.extend([image, id]);
        arguments.extend(words);
        self.call(&arguments)?;
        Ok(self.container(id))
    }

    /// A container that somebody else has started.
    pub fn container(&self, id: &str) -> Container {
        Container {
            ctr: self.clone(),
            id: id.to_owned(),
        }
    }
}

/// A container. Dropping it does nothing: it ends with its containerd, or by [`remove`](Self::remove).
#[derive(Clone, Debug)]
pub struct Container {
    ctr: Ctr,
    id: String,
}

impl Container {
    /// containerd's container id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The `ctr` that started it.
    pub const fn ctr(&self) -> &Ctr {
        &self.ctr
    }

    /// Pid of its first process.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        let bundle = self.bundle();
        let text = std::fs::read_to_string(bundle.join("init.pid"))
            .unwrap_or_else(|error| panic!("{} has no task: {error}", self.id));
        text.trim().parse().expect("a pid")
    }

    /// Where the shim keeps what it was given.
    pub fn bundle(&self) -> PathBuf {
        self.ctr
            .state
            .join("io.containerd.runtime.v2.task")
            .join(&self.ctr.namespace)
            .join(&self.id)
    }

    /// Runs shell text inside it and gives what that printed.
    #[track_caller]
    pub fn exec(&self, script: &str) -> String {
        self.try_exec(script)
            .unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// Like [`exec`](Self::exec), for what may fail.
    pub fn try_exec(&self, script: &str) -> Result<String, Failure> {
        let exec_id = format!("exec-{}", EXECS.fetch_add(1, Ordering::Relaxed));
        // containerd 1.6 may lose the output of a process that ends at once; the pause drains it.
        let script = format!("({script}\n)\n_code=$?; sleep 0.1; exit $_code");
        self.ctr.call(&[
            "tasks",
            "exec",
            "--exec-id",
            &exec_id,
            &self.id,
            "/bin/sh",
            "-c",
            &script,
        ])
    }

    /// `path` of the container as the host reaches it through its first process.
    #[track_caller]
    pub fn inside(&self, path: &str) -> PathBuf {
        Path::new("/proc")
            .join(self.pid().to_string())
            .join("root")
            .join(path.trim_start_matches('/'))
    }

    /// The overlay's upper directory.
    #[track_caller]
    pub fn upper(&self) -> PathBuf {
        let upper = self.overlay_option("upperdir=");
        PathBuf::from(upper.unwrap_or_else(|| panic!("{} has no upper directory", self.id)))
    }

    /// The overlay's lower directories, topmost first.
    #[track_caller]
    pub fn lowers(&self) -> Vec<PathBuf> {
        let lowers = self.overlay_option("lowerdir=").unwrap_or_default();
        lowers.split(':').map(PathBuf::from).collect()
    }

    /// The host's path of an image file: in the topmost lower directory that has it.
    #[track_caller]
    pub fn lower_of(&self, path: &str) -> PathBuf {
        let path = path.trim_start_matches('/');
        self.lowers()
            .iter()
            .map(|lower| lower.join(path))
            .find(|candidate| candidate.symlink_metadata().is_ok())
            .unwrap_or_else(|| panic!("no layer of {} has {path}", self.id))
    }

    /// Freezes all its processes.
    #[track_caller]
    pub fn pause(&self) {
        self.ctr.must(&["tasks", "pause", &self.id]);
    }

    /// Lets them go on.
    #[track_caller]
    pub fn resume(&self) {
        self.ctr.must(&["tasks", "resume", &self.id]);
    }

    /// Kills its task and removes task, container and snapshot.
    #[track_caller]
    pub fn remove(&self) {
        // Delete with force kills first, and waits.
        self.ctr.must(&["tasks", "delete", "--force", &self.id]);
        self.ctr.must(&["containers", "delete", &self.id]);
    }

    fn overlay_option(&self, name: &str) -> Option<String> {
        // Asked of the snapshotter: the mount table's own strings are shortened when there are many layers.
        let mounts = self.ctr.must(&["snapshots", "mounts", "/mnt", &self.id]);
        mounts
            .split([',', ' ', '\n'])
            .find_map(|option| option.strip_prefix(name).map(str::to_owned))
    }
}
