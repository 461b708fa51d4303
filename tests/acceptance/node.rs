//! One node that the set is run on: a private containerd with the set's images, with their layer blobs or
//! without.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use holdfast_tests::containerd::Containerd;
use holdfast_tests::program::{self, Build};

use crate::set::Set;

/// Beside this file.
const ADAPTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/acceptance/adapter");
const CTR_WITHOUT_BLOBS: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/acceptance/ctr-without-blobs");

/// `check` looks at everything each time it is asked, so a finding that it lacks does not come later.
const DEADLINE_SECONDS: &str = "5";

/// Seconds that all attacks of one list may take; the longest single one may take two minutes by its own rules.
const LIMIT_SECONDS: u32 = 3000;

/// What becomes of layer blobs once they are unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blobs {
    Kept,
    Removed,
}

/// A node.
pub(crate) struct Node<'a> {
    set: &'a Set,
    containerd: Containerd,
    blobs: Blobs,
}

/// What the scorer said.
pub(crate) struct Scored {
    pub(crate) is_right: bool,
    pub(crate) report: String,
    /// Scripts that could not be run here.
    pub(crate) skipped: Vec<String>,
    /// For each script on which bases the checks of files stood that could be done.
    pub(crate) bases: BTreeMap<String, Vec<String>>,
}

impl<'a> Node<'a> {
    pub(crate) async fn start(set: &'a Set, blobs: Blobs) -> Self {
        Self {
            set,
            containerd: Containerd::start().await,
            blobs,
        }
    }

    /// Makes the images of the set, and imports them.
    pub(crate) fn make_images(&self) {
        let mut script = self.command(&self.set.path("set/mkimages.sh"));
        script
            .env("OUT", self.set.path("out"))
            .env("DEB", "1")
            .env("DEBROOT", self.set.path("debian"));
        must(&mut script);
    }

    /// Imports the images that another node has made.
    pub(crate) fn import_images(&self) {
        let files = std::fs::read_dir(self.set.path("out")).unwrap();
        let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        files.retain(|file| file.extension().is_some_and(|end| end == "tar"));
        files.sort();
        assert!(!files.is_empty());
        for file in files {
            let import = "$CTR -n $NS images import --snapshotter overlayfs \"$0\"";
            let mut command = self.command(Path::new("sh"));
            must(command.args(["-c", import]).arg(file));
        }
    }

    /// Runs the scorer.
    pub(crate) fn score(&self, ranges: &[&str]) -> Scored {
        let own = |name: &str| self.set.path(&format!("{name}-{:?}", self.blobs));
        let (rows, bases) = (own("rows"), self.bases());
        std::fs::write(&bases, "").unwrap();
        let mut score = self.command(Path::new("python3"));
        score
            .arg(self.set.path("set/score.py"))
            .args(["--level", "scan", "--findings-cmd", ADAPTER])
            .args(["--deadline", DEADLINE_SECONDS, "--work"])
            .arg(own("work"))
            .arg("--out")
            .arg(&rows)
            .args(ranges);
        let done = score.output().unwrap();
        let rows = std::fs::read_to_string(rows).unwrap();
        let notes = std::fs::read_to_string(bases).unwrap();
        Scored {
            is_right: done.status.success(),
            report: [done.stdout, done.stderr]
                .map(|text| String::from_utf8_lossy(&text).into_owned())
                .concat(),
            skipped: skipped(&rows),
            bases: bases_by_script(&rows, &notes),
        }
    }

    fn bases(&self) -> PathBuf {
        self.set.path(&format!("bases-{:?}", self.blobs))
    }

    fn command(&self, program: &Path) -> Command {
        let socket = self.containerd.socket();
        let content = self
            .containerd
            .root()
            .join("io.containerd.content.v1.content");
        // Namespaces that people expect. runc knows containers of all nodes here by namespace and name.
        let (ctr, namespace) = match self.blobs {
            Blobs::Kept => ("ctr", "default"),
            Blobs::Removed => (CTR_WITHOUT_BLOBS, "moby"),
        };
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=10", &LIMIT_SECONDS.to_string()])
            .arg(program)
            .env("CTR", format!("{ctr} --address {}", socket.display()))
            .env("NS", namespace)
            .env("CONTENT", content)
            .env("HOLDFAST_SOCKET", socket)
            .env("HOLDFAST_BASES", self.bases())
            .env(
                "HOLDFAST_AGENT",
                program::path("holdfast-agent", Build::Released),
            )
            .env("TMPDIR", self.set.path(""));
        if self.blobs == Blobs::Removed {
            command.env("HOLDFAST_SKELETONS", self.set.path("skeletons"));
        }
        command
    }
}

fn must(command: &mut Command) {
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success(),
        "{command:?}: {}: {said}",
        done.status
    );
}

/// The scorer lets a script pass that says it cannot be done here; a part that is missing must fail.
fn skipped(rows: &str) -> Vec<String> {
    let is_skipped = |row: &&str| row.split('\t').nth(3) == Some("skip");
    rows.lines().filter(is_skipped).map(str::to_owned).collect()
}

/// What the adapter has noted of each script, without the checks that could not be done.
fn bases_by_script(rows: &str, notes: &str) -> BTreeMap<String, Vec<String>> {
    let scripts = rows
        .lines()
        .skip(1)
        .filter_map(|row| row.split('\t').next());
    let mut scripts: BTreeMap<String, Vec<String>> = scripts
        .map(|script| (script.to_owned(), Vec::new()))
        .collect();
    for note in notes.lines() {
        let fields: Vec<&str> = note.split('\t').collect();
        let &[script, _, _, outcome, basis] = fields.as_slice() else {
            panic!("{note}");
        };
        if outcome != "unverifiable" {
            scripts
                .get_mut(script)
                .expect("it was run")
                .push(basis.to_owned());
        }
    }
    scripts
}
