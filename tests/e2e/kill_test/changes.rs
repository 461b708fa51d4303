//! Changes to the files of running containers, each in the oracle before it is made.
//!
//! They go through the container's own mount, not through containerd, so that they go on while it is dead.
//! Each is one rename or one unlink: a look sees it whole or not at all.

use std::collections::BTreeMap;
use std::path::Path;

use holdfast_tests::container::Container;
use holdfast_tests::image::Image;
use holdfast_tests::layer::Entry;

use super::chance::Chance;
use super::oracle::{Act, Line, Oracle};

/// Changes that stand in one container at a time, with room for [`LAST`]: more than 20 would become one
/// finding.
const MAX_STANDING: usize = 12;

/// Programs of the image; when they are used up, what happens is only `Add` and `Undo`.
const TOOLS: usize = 400;

/// Where all of it happens.
const FOLDER: &str = "/usr/local/bin";

/// The path of the last change in each container.
const LAST: &str = "/usr/local/bin/last.sh";

/// Where a file is made before it is moved: not executable, no program by its name, and so no drift.
const STAGED: &str = "/tmp/staged";

/// One container and what was done to it.
#[derive(Debug)]
struct Target {
    container: Container,
    used: usize,
    standing: BTreeMap<String, Act>,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Changes {
    oracle: Oracle,
    targets: Vec<Target>,
}

/// The image whose programs are changed. They are programs by their suffix alone.
pub(crate) fn image() -> Image {
    let tools = (0..TOOLS).map(|number| Entry::file(&tool(number)[1..], original(&tool(number))));
    Image::busybox(tools)
}

fn tool(number: usize) -> String {
    format!("{FOLDER}/tool-{number}.sh")
}

fn original(path: &str) -> String {
    format!("{path} of the image\n")
}

impl Changes {
    pub(crate) fn new(folder: &Path, containers: Vec<Container>) -> Self {
        let target = |container| Target {
            container,
            used: 0,
            standing: BTreeMap::new(),
        };
        Self {
            oracle: Oracle::new(folder),
            targets: containers.into_iter().map(target).collect(),
        }
    }

    /// One change somewhere.
    pub(crate) fn make(&mut self, round: u64, chance: &mut Chance) {
        let index = chance.below(self.targets.len());
        let target = &mut self.targets[index];
        let standing: Vec<&String> = target.standing.keys().collect();
        let is_full = standing.len() >= MAX_STANDING;
        let (path, act) = if is_full || (!standing.is_empty() && chance.one_in(3)) {
            (standing[chance.below(standing.len())].clone(), Act::Undo)
        } else {
            target.used += 1;
            let acts: &[Act] = if target.used < TOOLS {
                &[Act::Add, Act::Modify, Act::Remove]
            } else {
                &[Act::Add]
            };
            match chance.pick(acts) {
                Act::Add => (format!("{FOLDER}/new-{}.sh", target.used), Act::Add),
                act => (tool(target.used), act),
            }
        };
        self.act(index, round, path, act);
    }

    /// A change that is there to be waited for.
    pub(crate) fn add(&mut self, round: u64, name: &str) -> String {
        let path = format!("{FOLDER}/{name}.sh");
        self.act(0, round, path.clone(), Act::Add);
        path
    }

    /// The last change in each container: whoever knows it knows all that was done before.
    pub(crate) fn finish(&mut self, round: u64) {
        for index in 0..self.targets.len() {
            self.act(index, round, LAST.to_owned(), Act::Add);
        }
    }

    /// Containers and their last paths.
    pub(crate) fn last(&self) -> impl Iterator<Item = (String, String)> {
        let targets = self.targets.iter();
        targets.map(|target| (target.container.id().to_owned(), LAST.to_owned()))
    }

    /// What was done.
    pub(crate) fn oracle(&self) -> &Oracle {
        &self.oracle
    }

    fn act(&mut self, index: usize, round: u64, path: String, act: Act) {
        let target = &mut self.targets[index];
        self.oracle.write(&Line {
            round,
            container: target.container.id().to_owned(),
            path: path.clone(),
            act,
        });
        match act {
            Act::Add => put(&target.container, &path, &format!("{path} is new\n")),
            Act::Modify => put(&target.container, &path, &format!("{path} is another\n")),
            Act::Remove => remove(&target.container, &path),
            Act::Undo if target.standing.get(&path) == Some(&Act::Add) => {
                remove(&target.container, &path);
            }
            Act::Undo => put(&target.container, &path, &original(&path)),
        }
        if act == Act::Undo {
            target.standing.remove(&path);
        } else {
            target.standing.insert(path, act);
        }
    }
}

fn put(container: &Container, path: &str, content: &str) {
    let staged = container.inside(STAGED);
    std::fs::write(&staged, content).unwrap();
    std::fs::rename(&staged, container.inside(path)).unwrap();
}

fn remove(container: &Container, path: &str) {
    std::fs::remove_file(container.inside(path)).unwrap();
}
