//! The acceptance set: attacks and controls that others have written, each judged by their key.
//!
//! `HOLDFAST_ACCEPTANCE` names its folder. It is copied first, because it writes beside itself. A range that
//! is due fails this test by one attack missed or one false alarm; one that falls due later is run and
//! printed. Run by `scripts/test acceptance`, which prints "not present" where the variable is not set.

#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test may panic, reads what it made itself, and shows the scorer's report"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use holdfast_tests::command;
use holdfast_tests::containerd::Containerd;
use holdfast_tests::debian;
use holdfast_tests::program::{self, Build};
use tempfile::TempDir;

/// Everything that is due is reported, and nothing else.
const DUE: &[&str] = &[
    "001-022", "050-061", "100-111", "150-156", "200-208", "232-236", "250-265", "350-352",
];

/// Run and printed; due with the next issue.
const LATER: &[&str] = &["230", "231"];

/// The containerd namespace: one that people expect. Container names in it carry a pid, so they are new.
const NAMESPACE: &str = "default";

/// `check` looks at everything each time it is asked, so a finding that it lacks does not come later.
const DEADLINE_SECONDS: &str = "5";

/// Seconds that all attacks of one list may take; the longest single one may take two minutes by its own rules.
const LIMIT_SECONDS: u32 = 3000;

#[tokio::test]
async fn what_is_due_is_reported_and_nothing_else() {
    let folder = tempfile::Builder::new()
        .prefix("holdfast-acceptance-")
        .tempdir_in("/var/tmp")
        .unwrap();
    let set = copy_of_set(&folder);
    let containerd = Containerd::start().await;
    let stage = Stage {
        set,
        containerd,
        folder,
    };
    stage.make_images();

    let held = stage.score("due", DUE);
    stage.score("falls due later, never fails", LATER);

    assert!(
        held,
        "see the lines above: something was missed, or was a false alarm"
    );
}

struct Stage {
    set: PathBuf,
    containerd: Containerd,
    folder: TempDir,
}

impl Stage {
    fn make_images(&self) {
        let root = self.folder.path().join("debian");
        std::fs::create_dir(&root).unwrap();
        let tar = debian::root_tar();
        command::must(
            "tar",
            &["-xpf", tar.to_str().unwrap(), "-C", root.to_str().unwrap()],
        );
        let mut script = self.command(&self.set.join("mkimages.sh"));
        script
            .env("OUT", self.folder.path().join("out"))
            .env("DEB", "1")
            .env("DEBROOT", root);
        let made = script.output().unwrap();
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(
            made.status.success(),
            "mkimages.sh: {}: {said}",
            made.status
        );
    }

    /// Runs the scorer; whether all was right.
    fn score(&self, title: &str, ranges: &[&str]) -> bool {
        println!("\nacceptance, {title}: {}", ranges.join(" "));
        let adapter = concat!(env!("CARGO_MANIFEST_DIR"), "/acceptance/adapter");
        let rows = self.folder.path().join("rows.tsv");
        let mut score = self.command(Path::new("python3"));
        score
            .arg(self.set.join("score.py"))
            .args(["--level", "scan", "--findings-cmd", adapter])
            .args(["--deadline", DEADLINE_SECONDS, "--work"])
            .arg(self.folder.path().join("work"))
            .args(["--out", rows.to_str().unwrap()])
            .args(ranges);
        let is_right = score.status().unwrap().success();
        // The scorer lets a script pass that says it cannot be done here; a part that is missing must fail.
        let rows = std::fs::read_to_string(rows).unwrap();
        let skipped: Vec<&str> = rows
            .lines()
            .filter(|row| row.split('\t').nth(3) == Some("skip"))
            .collect();
        println!("not done here: {skipped:#?}");
        is_right && skipped.is_empty()
    }

    fn command(&self, program: &Path) -> Command {
        let socket = self.containerd.socket();
        let content = self
            .containerd
            .root()
            .join("io.containerd.content.v1.content");
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=10", &LIMIT_SECONDS.to_string()])
            .arg(program)
            .env("CTR", format!("ctr --address {}", socket.display()))
            .env("NS", NAMESPACE)
            .env("CONTENT", content)
            .env("HOLDFAST_SOCKET", socket)
            .env(
                "HOLDFAST_AGENT",
                program::path("holdfast-agent", Build::Released),
            )
            .env("TMPDIR", self.folder.path());
        command
    }
}

fn copy_of_set(folder: &TempDir) -> PathBuf {
    let set = std::env::var_os("HOLDFAST_ACCEPTANCE")
        .map(PathBuf::from)
        .expect("HOLDFAST_ACCEPTANCE names the folder of the acceptance set");
    assert!(
        set.join("score.py").is_file(),
        "HOLDFAST_ACCEPTANCE is {}, where the acceptance set is not",
        set.display()
    );
    let copy = folder.path().join("set");
    // Read-only there, written to here.
    command::must(
        "cp",
        &[
            "-r",
            "--no-preserve=ownership",
            set.to_str().unwrap(),
            copy.to_str().unwrap(),
        ],
    );
    command::must("chmod", &["-R", "u+rwX", copy.to_str().unwrap()]);
    copy
}
