//! The oracle: what was really done to the containers, on disk before it is done.
//!
//! It knows nothing of agent or collector. A change that is on disk here and was not made cannot happen
//! in a run that ends; one that was made and is not here cannot happen at all.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What becomes of one path of one container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Act {
    /// A program that the image does not have.
    Add,
    /// Other content in the image's program.
    Modify,
    /// The image's program is taken away.
    Remove,
    /// As the image has it again.
    Undo,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) round: u64,
    pub(crate) container: String,
    pub(crate) path: String,
    pub(crate) act: Act,
}

/// The file.
#[derive(Debug)]
pub(crate) struct Oracle {
    path: PathBuf,
    file: File,
}

impl Oracle {
    pub(crate) fn new(folder: &Path) -> Self {
        let path = folder.join("oracle.jsonl");
        let file = File::create_new(&path).unwrap();
        Self { path, file }
    }

    /// Says what is done next. On disk when this returns.
    pub(crate) fn write(&mut self, line: &Line) {
        let mut text = serde_json::to_vec(line).unwrap();
        text.push(b'\n');
        self.file.write_all(&text).unwrap();
        self.file.sync_data().unwrap();
    }

    /// Every line, the oldest first, as the disk has them.
    pub(crate) fn read(&self) -> Vec<Line> {
        let text = std::fs::read_to_string(&self.path).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}
