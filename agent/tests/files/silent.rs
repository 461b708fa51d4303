//! Who does not answer: a FUSE server that reads no request, and holders of leases. Nothing here may hang,
//! so every call that could runs beside a watch that ends the server.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use holdfast_agent::files::{Root, RootError};
use holdfast_agent::worker::{WorkError, Workers};
use holdfast_core::finding::Severity;
use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::container::Container;
use super::image::{EVIL, chmod};

/// Far longer than anything here takes that does not hang.
const LIMIT: Duration = Duration::from_mins(2);

/// A FUSE mount whose server never reads a request. Whoever asks it waits until the server is gone.
struct Silent {
    server: Option<OwnedFd>,
    at: PathBuf,
}

impl Silent {
    fn over(at: &Path) -> Self {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let server = open("/dev/fuse", flags, Mode::empty()).unwrap();
        let mode = if at.is_dir() { 0o040_000 } else { 0o100_000 };
        let number = server.as_raw_fd();
        let options = format!("fd={number},rootmode={mode:o},user_id=0,group_id=0");
        let options = std::ffi::CString::new(options).unwrap();
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("silent", at, "fuse", flags, options.as_c_str()).unwrap();
        Self {
            server: Some(server),
            at: at.to_owned(),
        }
    }

    /// Does what must not hang; if it does, the server is ended, which ends every request.
    fn beside<T: Send>(&mut self, act: impl FnOnce() -> T + Send) -> T {
        let (done, is_done) = mpsc::channel();
        std::thread::scope(|scope| {
            let acting = scope.spawn(move || {
                let acted = act();
                done.send(()).unwrap();
                acted
            });
            if is_done.recv_timeout(LIMIT).is_err() {
                self.server = None;
            }
            let acted = acting.join().unwrap();
            assert!(self.server.is_some(), "the server was asked");
            acted
        })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.server = None;
        unmount(&self.at, UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn a_directory_that_a_silent_server_answers_for_is_refused_and_the_server_never_asked() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("state");
    fs::create_dir(&at).unwrap();
    std::os::unix::fs::symlink("state/snapshots", folder.path().join("link")).unwrap();
    let mut silent = Silent::over(&at);
    for path in ["state", "state/snapshots/7/fs", "link/7/fs"] {
        let path = folder.path().join(path);
        let opened = silent.beside(|| Root::open(&path).map(|_root| ()));
        assert_eq!(opened, Err(RootError::Foreign("fuse".to_owned())));
    }
}

#[test]
fn a_silent_server_within_the_upper_directory_is_walked_around() {
    let mut container = Container::new();
    fs::write(container.upper("usr/bin/victim"), EVIL).unwrap();
    chmod(&container.upper("usr/bin/victim"), 0o755);
    let directory = container.upper("opt/app/");
    let file = container.upper("usr/bin/sh");
    fs::write(&file, "").unwrap();
    let mut over_directory = Silent::over(&directory);
    let _over_file = Silent::over(&file);
    let found = over_directory.beside(|| container.found());
    assert_eq!(
        found,
        [
            "critical modified program /usr/bin/victim",
            "unverifiable mounted /opt/app",
            "unverifiable mounted /usr/bin/sh",
        ]
    );
}

#[tokio::test]
async fn a_read_that_never_returns_costs_one_thread_and_delays_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let mut silent = Silent::over(folder.path());
    let file = folder.path().join("file");
    let workers = Workers::default();
    let read = {
        let file = file.clone();
        move |_: &_| fs::metadata(file).map(|_file| ())
    };
    let patience = Duration::from_millis(100);
    let left = workers.run("files of c1", patience, read).await;
    assert!(
        matches!(left, Err(WorkError::Stuck { stuck: 1 })),
        "{left:?}"
    );
    let again = workers.run("files of c1", LIMIT, |_| ()).await;
    assert!(
        matches!(again, Err(WorkError::Away { stuck: 1 })),
        "{again:?}"
    );
    workers.run("files of c2", LIMIT, |_| ()).await.unwrap();

    silent.server = None;
    while workers.stuck() > 0 {
        tokio::task::yield_now().await;
    }
    workers.run("files of c1", LIMIT, |_| ()).await.unwrap();
}

/// A process that holds a write lease, and ignores that somebody wants to read.
struct Leased(Child);

impl Leased {
    fn on(at: &Path) -> Self {
        let script = "import fcntl,signal,sys\n\
            signal.signal(signal.SIGIO, signal.SIG_IGN)\n\
            f=open(sys.argv[1],'r+b')\n\
            fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n\
            print('leased',flush=True)\n\
            sys.stdin.read()\n";
        let mut holder = Command::new("python3")
            .args(["-c", script, at.to_str().unwrap()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "leased");
        Self(holder)
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

#[test]
fn a_lease_that_a_container_holds_hides_nothing() {
    let mut container = Container::mounted();
    fs::write(container.root("usr/bin/victim"), EVIL).unwrap();
    let _lease = Leased::on(&container.root("usr/bin/victim"));
    let found = container.found();
    assert_eq!(found, ["critical modified program /usr/bin/victim"]);
}

#[test]
fn a_lease_on_the_upper_file_is_said_and_as_bad_as_the_change_it_hides() {
    let worst_under_lease = |path: &str| {
        let mut container = Container::new();
        fs::write(container.upper(path), EVIL).unwrap();
        let _lease = Leased::on(&container.upper(path));
        let outcome = container.scan();
        let shown = super::container::shown(&outcome);
        assert_eq!(shown, [format!("unverifiable leased /{path}")]);
        outcome.unverifiable.worst
    };
    assert_eq!(
        worst_under_lease("usr/bin/victim"),
        Some(Severity::Critical)
    );
    assert_eq!(
        worst_under_lease("etc/ld.so.preload"),
        Some(Severity::Critical)
    );
    assert_eq!(
        worst_under_lease("opt/app/data.bin"),
        Some(Severity::Warning)
    );
    assert_eq!(
        worst_under_lease("var/log/data.bin"),
        Some(Severity::Warning)
    );
}
