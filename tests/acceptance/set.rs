//! A copy of the acceptance set, which writes beside itself, and what its images are made from.

use std::path::PathBuf;

use holdfast_tests::{command, debian};
use tempfile::TempDir;

/// The copy, in a folder for all that its run leaves.
pub(crate) struct Set {
    folder: TempDir,
}

impl Set {
    pub(crate) fn copied() -> Self {
        let set = std::env::var_os("HOLDFAST_ACCEPTANCE")
            .map(PathBuf::from)
            .expect("HOLDFAST_ACCEPTANCE names the folder of the acceptance set");
        assert!(
            set.join("score.py").is_file(),
            "HOLDFAST_ACCEPTANCE is {}, where the acceptance set is not",
            set.display()
        );
        let folder = tempfile::Builder::new()
            .prefix("holdfast-acceptance-")
            .tempdir_in("/var/tmp")
            .unwrap();
        let copy = Self { folder };
        // Read-only there, written to here.
        let (from, to) = (set.to_str().unwrap(), copy.text("set"));
        command::must("cp", &["-r", "--no-preserve=ownership", from, &to]);
        command::must("chmod", &["-R", "u+rwX", &to]);
        std::fs::create_dir(copy.path("debian")).unwrap();
        let tar = debian::root_tar();
        command::must(
            "tar",
            &["-xpf", tar.to_str().unwrap(), "-C", &copy.text("debian")],
        );
        copy
    }

    /// Something in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }
}
