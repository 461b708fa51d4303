//! The life of a place with the running agent: opened once, updated, resolved with its reason, reopened; over
//! restarts of the agent, and over damage to what it keeps.

use std::path::{Path, PathBuf};

use holdfast_core::finding::Resolution;
use holdfast_core::finding::Transition::{Opened, Reopened, Resolved, Updated};
use holdfast_tests::agent::Agent;
use holdfast_tests::image::Image;

use crate::scene::{Scene, assert_open, flip_a_bit, transitions};

const EVIL: &str = "file-drift moved program /usr/bin/evil warning one";

async fn scene() -> Scene {
    let scene = Scene::with(&Image::busybox([])).await;
    scene.run("one");
    scene.run("control");
    scene
}

fn reasons(agent: &Agent) -> Vec<Resolution> {
    agent.documents().iter().filter_map(|f| f.reason).collect()
}

#[tokio::test]
async fn a_place_is_opened_updated_resolved_and_reopened_and_ends_with_its_container() {
    /// In no image, unlike a copy.
    const DROP: &str = "(cat /bin/busybox; echo own) > /usr/bin/evil";
    const OWN: &str = "file-drift added program /usr/bin/evil warning one";
    let scene = scene().await;
    let one = scene.containerd.ctr().container("one");
    let mut agent = scene.agent().await;
    assert_open(&mut agent, &[]).await;
    let mut life = Vec::new();
    for (script, transition, due) in [
        (DROP, Opened, [OWN].as_slice()),
        ("echo >> /usr/bin/evil", Updated, &[OWN]),
        ("rm /usr/bin/evil", Resolved, &[]),
        (DROP, Reopened, &[OWN]),
    ] {
        one.exec(script);
        life.push(transition);
        holdfast_tests::wait::until(&format!("{transition:?} after {script}"), async || {
            (transitions(&agent, OWN) == life).then_some(())
        })
        .await;
        assert_open(&mut agent, due).await;
    }

    one.remove();

    assert_open(&mut agent, &[]).await;
    life.push(Resolved);
    assert_eq!(transitions(&agent, OWN), life);
    assert_eq!(
        reasons(&agent),
        [Resolution::Gone, Resolution::ContainerEnded]
    );
    let first_seen: Vec<_> = agent.documents().iter().map(|f| f.first_seen).collect();
    assert_eq!(
        first_seen[0], first_seen[2],
        "an update keeps its beginning"
    );
    assert!(
        first_seen[3] > first_seen[0],
        "a reopened place begins anew"
    );
}

#[tokio::test]
async fn events_tell_of_a_start_and_an_end_long_before_the_next_list() {
    let scene = scene().await;
    let mut agent = Agent::start(|folder| {
        let config = scene.config(folder);
        config.replace("list-interval = \"2s\"", "list-interval = \"1h\"")
    });
    agent.ready().await;
    assert_open(&mut agent, &[]).await;
    let words = [
        "/bin/sh",
        "-c",
        "cp /bin/busybox /usr/bin/evil; exec sleep 3600",
    ];
    let ctr = scene.containerd.ctr();
    let late = ctr.run_with(&[], crate::scene::IMAGE, "late", &words);
    let due = "file-drift moved program /usr/bin/evil warning late";
    assert_open(&mut agent, &[due]).await;
    late.remove();
    assert_open(&mut agent, &[]).await;
    assert_eq!(transitions(&agent, due), [Opened, Resolved]);
    assert_eq!(reasons(&agent), [Resolution::ContainerEnded]);
}

#[tokio::test]
async fn a_container_that_is_started_again_is_another_one_with_the_same_name() {
    let scene = scene().await;
    let mut agent = scene.agent().await;
    let one = scene.containerd.ctr().container("one");
    one.exec("cp /bin/busybox /usr/bin/evil");
    assert_open(&mut agent, &[EVIL]).await;
    one.remove();
    scene.run("one");
    assert_open(&mut agent, &[]).await;
    assert_eq!(transitions(&agent, EVIL), [Opened, Resolved]);
}

#[tokio::test]
async fn a_killed_agent_opens_nothing_twice_and_resolves_what_was_undone_meanwhile() {
    restart(async |agent| agent.kill()).await;
}

#[tokio::test]
async fn an_agent_that_was_asked_to_stop_goes_on_where_it_was() {
    restart(async |agent| {
        let status = agent.stop().await;
        assert_eq!(status.code(), Some(0));
    })
    .await;
}

async fn restart(end: impl AsyncFnOnce(&mut Agent)) {
    let scene = scene().await;
    let ctr = scene.containerd.ctr();
    let (one, two, three) = (ctr.container("one"), scene.run("two"), scene.run("three"));
    one.exec("cp /bin/busybox /usr/bin/evil && echo x > /opt/app/app.conf");
    two.exec("rm /opt/app/data.txt");
    three.exec("chmod 4755 /opt/app/run.sh");
    let kept = "file-drift modified configuration /opt/app/app.conf warning one";
    let removed = "file-drift removed data /opt/app/data.txt warning two";
    let set_id = "file-drift metadata program /opt/app/run.sh critical three";
    let mut agent = scene.agent().await;
    assert_open(&mut agent, &[EVIL, kept, removed, set_id]).await;

    end(&mut agent).await;
    one.exec("rm /usr/bin/evil");
    two.exec("ln -s /bin/busybox /usr/bin/new");
    three.remove();
    agent.start_again();
    agent.ready().await;

    let new = "file-drift added program /usr/bin/new warning two";
    assert_open(&mut agent, &[kept, removed, new]).await;
    assert_eq!(transitions(&agent, EVIL), [Opened, Resolved]);
    assert_eq!(transitions(&agent, kept), [Opened]);
    assert_eq!(transitions(&agent, removed), [Opened]);
    assert_eq!(transitions(&agent, set_id), [Opened, Resolved]);
    assert_eq!(transitions(&agent, new), [Opened]);
    let mut ended = reasons(&agent);
    ended.sort_by_key(|reason| reason.as_str());
    assert_eq!(ended, [Resolution::ContainerEnded, Resolution::Gone]);
}

/// What happens to a file of the agent's while it is away.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Bit,
    Cut,
    Empty,
    Directory,
    Garbage,
}

impl Harm {
    const ALL: [Self; 5] = [
        Self::Bit,
        Self::Cut,
        Self::Empty,
        Self::Directory,
        Self::Garbage,
    ];

    fn befall(self, file: &Path) {
        let length = std::fs::metadata(file).unwrap().len();
        match self {
            Self::Bit => flip_a_bit(file),
            Self::Cut => {
                let opened = std::fs::File::options().write(true).open(file).unwrap();
                opened.set_len(length / 2).unwrap();
            }
            Self::Empty => std::fs::write(file, "").unwrap(),
            Self::Directory => {
                std::fs::remove_file(file).unwrap();
                std::fs::create_dir(file).unwrap();
            }
            Self::Garbage => std::fs::write(file, vec![0x5a; 70_000]).unwrap(),
        }
    }
}

/// The regular files of the agent's state folder below `folder`.
fn files(agent: &Agent, folder: &str) -> Vec<PathBuf> {
    let folder = agent.folder().join("state").join(folder);
    let entries = std::fs::read_dir(&folder).unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        // What was set aside is kept for a person and read by nobody.
        .filter(|path| path.is_file() && !path.to_string_lossy().contains("damaged"))
        .collect()
}

/// With the files of `folder` harmed in each way in turn, the agent starts and still says what is so.
async fn harmed(folder: &str) {
    let scene = scene().await;
    scene
        .containerd
        .ctr()
        .container("one")
        .exec("cp /bin/busybox /usr/bin/evil");
    let mut agent = scene.agent().await;
    assert_open(&mut agent, &[EVIL]).await;
    for harm in Harm::ALL {
        agent.stop().await;
        let files = files(&agent, folder);
        assert!(
            !files.is_empty(),
            "{folder} holds something before {harm:?}"
        );
        for file in &files {
            harm.befall(file);
        }
        if folder == "tables" {
            // Nobody asks a table while the tree that was made from it is there.
            for tree in self::files(&agent, "trees") {
                std::fs::remove_file(tree).unwrap();
            }
        }
        agent.start_again();
        agent.ready().await;
        assert_open(&mut agent, &[EVIL]).await;
        let healed = files.iter().all(|file| file.is_file());
        assert!(healed, "what was harmed by {harm:?} was written anew");
    }
}

#[tokio::test]
async fn a_damaged_ledger_never_stops_the_start() {
    harmed(".").await;
}

#[tokio::test]
async fn damaged_tables_never_stop_the_start() {
    harmed("tables").await;
}

#[tokio::test]
async fn damaged_trees_never_stop_the_start() {
    harmed("trees").await;
}

#[tokio::test]
async fn damaged_documents_never_stop_the_start() {
    harmed("documents").await;
}
