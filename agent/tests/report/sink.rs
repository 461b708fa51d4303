//! The file sink: every finding is a line, over rotation, crashes and files that are none.

use std::fs;
use std::path::Path;

use holdfast_agent::report::{Bounds, Consumers, LedgerError, Sink, SinkError, SinkState};
use holdfast_core::finding::Finding;
use rustix::fs::{CWD, Mode};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::{Open, copy, open_as, opened, told};

const SINK: Consumers = Consumers {
    collector: false,
    sink: true,
};

struct Running {
    state: watch::Receiver<SinkState>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), LedgerError>>,
}

fn run(open: &Open, path: &Path) -> Running {
    let (sink, state) = Sink::new(open.ledger.clone(), path.to_owned());
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(sink.run(stopped));
    Running { state, stop, task }
}

impl Running {
    async fn has_written(&mut self, lines: u64) {
        let written = self.state.wait_for(|state| state.lines >= lines);
        assert_eq!(written.await.unwrap().lines, lines);
    }

    async fn stop(self) {
        self.stop.send(true).unwrap();
        self.task.await.unwrap().unwrap();
    }
}

fn lines(path: &Path) -> Vec<Finding> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .filter_map(|line| Finding::parse(line.as_bytes()).ok())
        .collect()
}

#[tokio::test]
async fn each_finding_is_one_line_in_order_and_then_leaves_the_spool() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("findings.jsonl");
    let open = open_as(directory.path(), Bounds::default(), SINK);
    let first = open.look("c", &["a", "b"]).await;
    let mut sink = run(&open, &path);
    sink.has_written(2).await;
    let second = open.look("c", &["a"]).await;
    sink.has_written(3).await;

    assert_eq!(lines(&path), [first, second].concat());
    assert_eq!(open.ledger.stats().borrow().records, 0);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o600);
    sink.stop().await;
}

#[tokio::test]
async fn a_file_that_was_rotated_away_is_followed_by_a_new_one() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("findings.jsonl");
    let old = directory.path().join("findings.jsonl.1");
    let open = open_as(directory.path(), Bounds::default(), SINK);
    let mut sink = run(&open, &path);
    open.look("c", &["a"]).await;
    sink.has_written(1).await;
    fs::rename(&path, &old).unwrap();
    open.look("c", &["a", "b"]).await;
    sink.has_written(2).await;

    assert_eq!(told(&lines(&old)), [opened("a")]);
    assert_eq!(told(&lines(&path)), [opened("b")]);
    sink.stop().await;
}

#[tokio::test]
async fn a_crash_before_the_cursor_moved_repeats_lines_and_loses_none() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("findings.jsonl");
    let before = open_as(directory.path(), Bounds::default(), SINK);
    before.look("c", &["a", "b"]).await;
    let after = copy(directory.path());
    let mut sink = run(&before, &path);
    sink.has_written(2).await;
    sink.stop().await;
    before.close();

    let after_crash = open_as(after.path(), Bounds::default(), SINK);
    after_crash.look("c", &["a", "b", "c"]).await;
    let mut sink = run(&after_crash, &path);
    sink.has_written(3).await;

    let due = ["a", "b", "a", "b", "c"].map(opened);
    assert_eq!(told(&lines(&path)), due);
    sink.stop().await;
}

#[tokio::test]
async fn a_torn_line_is_ended_before_the_next() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("findings.jsonl");
    fs::write(&path, b"{\"schema\":\"hold").unwrap();
    let open = open_as(directory.path(), Bounds::default(), SINK);
    let mut sink = run(&open, &path);
    open.look("c", &["a"]).await;
    sink.has_written(1).await;
    assert_eq!(told(&lines(&path)), [opened("a")]);
    sink.stop().await;
}

#[tokio::test]
async fn a_fifo_is_an_error_that_is_counted_and_blocks_nothing() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("findings.jsonl");
    rustix::fs::mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
    let open = open_as(directory.path(), Bounds::default(), SINK);
    let mut sink = run(&open, &path);
    open.look("c", &["a"]).await;
    let failed = sink.state.wait_for(|state| state.errors > 0).await;
    assert_eq!(failed.unwrap().error, Some(SinkError::NotRegular));

    assert_eq!(told(&open.look("c", &["a", "b"]).await), [opened("b")]);
    fs::remove_file(&path).unwrap();
    sink.has_written(2).await;
    assert_eq!(told(&lines(&path)), [opened("a"), opened("b")]);
    sink.stop().await;
}

#[tokio::test]
async fn a_folder_that_is_missing_delays_lines_and_loses_none() {
    let directory = TempDir::new().unwrap();
    let folder = directory.path().join("log");
    let path = folder.join("findings.jsonl");
    let open = open_as(directory.path(), Bounds::default(), SINK);
    let mut sink = run(&open, &path);
    open.look("c", &["a"]).await;
    let failed = sink.state.wait_for(|state| state.errors > 0).await;
    assert!(matches!(failed.unwrap().error, Some(SinkError::Io(_))));
    fs::create_dir(&folder).unwrap();
    sink.has_written(1).await;
    assert_eq!(told(&lines(&path)), [opened("a")]);
    sink.stop().await;
}
