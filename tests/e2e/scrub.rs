//! The scrub of a running agent: how much it reads and when, what a restart does to it, what a power cut has
//! done to a layer, and whether containers see the files that it has hashed.
//!
//! What differs from the signed layer, and on whom that is a finding, is in `layers.rs`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use holdfast_core::finding::Transition;
use holdfast_tests::agent::{Agent, check};
use holdfast_tests::container::Container;
use holdfast_tests::image::Image;
use holdfast_tests::layer::{Entry, Layer};
use holdfast_tests::{scenario, wait};

use crate::scene::{IMAGE, LIMIT, Scene, assert_open, look_again, metric, transitions};

const TOOL: &str = "layer-tampered modified program /usr/bin/tool critical one";

/// As many bytes as one part of a compare reads, and some more.
const PART: usize = 17 << 20;

async fn scene() -> Scene {
    let scene = Scene::with(&Image::busybox([
        Entry::program("usr/bin/tool", "#!/bin/sh\necho tool\n"),
        Entry::file("etc/service.conf", "safe=yes\n"),
        Entry::file("etc/limits.conf", "many=no\n"),
    ]))
    .await;
    scene.run("one");
    scene
}

/// The scene's configuration with another interval and another budget of bytes.
fn config(scene: &Scene, folder: &Path, interval: &str, bytes: &str) -> String {
    let config = scene.config(folder);
    let interval = format!("lower-interval = \"{interval}\"");
    let config = config.replace("lower-interval = \"1s\"", &interval);
    let bytes = format!("scrub-bytes-per-second = \"{bytes}\"");
    config.replace("scrub-bytes-per-second = 0", &bytes)
}

async fn scrubbed(address: SocketAddr, what: &str) -> f64 {
    let name = format!("holdfast_agent_scrub_{what} ");
    metric(address, &name, "").await.unwrap_or_default()
}

async fn bytes_read(address: SocketAddr) -> f64 {
    scrubbed(address, "read_bytes_total").await
}

async fn until_a_pass_has_ended(agent: &mut Agent) -> SocketAddr {
    let address = agent.http().await;
    wait::until_within(LIMIT, "a pass has ended", async || {
        (scrubbed(address, "pass_seconds").await > 0.0).then_some(())
    })
    .await;
    address
}

/// Bytes of all regular files below the container's lower directories.
fn bytes_below(container: &Container) -> f64 {
    let lowers = container.lowers();
    let du = lowers.iter().map(|lower| bytes_of(lower));
    u32::try_from(du.sum::<u64>()).unwrap().into()
}

fn bytes_of(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let size = |entry: std::fs::DirEntry| {
        let metadata = entry.metadata().unwrap();
        match () {
            () if metadata.is_dir() => bytes_of(&entry.path()),
            () if metadata.is_file() => metadata.len(),
            () => 0,
        }
    };
    entries.map(size).sum()
}

#[tokio::test]
async fn what_nobody_has_seen_right_is_read_at_once_and_the_rest_within_the_budget() {
    let scene = scene().await;
    let one = scene.containerd.ctr().container("one");
    std::fs::write(one.lower_of("/usr/bin/tool"), "#!/bin/sh\nevil\n").unwrap();
    let whole = bytes_below(&one);
    // A byte a second: all that the budget has to give is used up by the first part.
    let mut agent = Agent::start(|folder| config(&scene, folder, "1s", "1"));
    agent.ready().await;

    assert_open(&mut agent, &[TOOL]).await;

    let address = agent.http().await;
    wait::until_within(LIMIT, "the scrub says that it is late", async || {
        (scrubbed(address, "late").await > 0.0).then_some(())
    })
    .await;
    look_again(&mut agent).await;
    let read = bytes_read(address).await;
    assert!(read >= whole, "{read} of {whole} at first sight");
    assert!(
        read < 2.0 * whole,
        "{read} of twice {whole} within the budget"
    );
    assert_open(&mut agent, &[TOOL]).await;
}

/// As if the node had started again: what the agent wrote down was in another boot.
fn reboot(agent: &Agent) {
    let file = agent.folder().join("state/last-run");
    let line = std::fs::read_to_string(&file).unwrap();
    let (_, rest) = line.split_once(' ').unwrap();
    std::fs::write(file, format!("an-earlier-boot {rest}")).unwrap();
}

/// A file of zeros, an empty file, and one with another content.
struct Damage([(PathBuf, Vec<u8>); 3]);

impl Damage {
    fn make(one: &Container) -> Self {
        let files = ["/etc/service.conf", "/etc/limits.conf", "/usr/bin/tool"];
        let files = files.map(|file| one.lower_of(file));
        let genuine = files.map(|file| {
            let content = std::fs::read(&file).unwrap();
            (file, content)
        });
        let [(zeros, content), (empty, _), (other, _)] = &genuine;
        std::fs::write(zeros, vec![0; content.len()]).unwrap();
        std::fs::write(empty, "").unwrap();
        std::fs::write(other, "#!/bin/sh\nevil\n").unwrap();
        Self(genuine)
    }

    fn undo(&self) {
        for (file, content) in &self.0 {
            std::fs::write(file, content).unwrap();
        }
    }
}

#[tokio::test]
async fn files_without_content_are_corrupt_after_a_power_cut_and_tampered_otherwise() {
    const TAMPERED: [&str; 3] = [
        "layer-tampered modified configuration /etc/service.conf critical one",
        "layer-tampered modified configuration /etc/limits.conf critical one",
        TOOL,
    ];
    const CORRUPT: [&str; 3] = [
        "layer-corrupt modified configuration /etc/service.conf warning one",
        "layer-corrupt modified configuration /etc/limits.conf warning one",
        TOOL,
    ];
    let scene = scene().await;
    let one = scene.containerd.ctr().container("one");

    // In the same boot nothing but a person does this.
    let mut agent = scene.agent().await;
    assert_open(&mut agent, &[]).await;
    let damage = Damage::make(&one);
    assert_open(&mut agent, &TAMPERED).await;
    damage.undo();
    assert_open(&mut agent, &[]).await;

    // An agent that was stopped first has seen the node go down in order.
    assert!(agent.stop().await.success());
    reboot(&agent);
    let damage = Damage::make(&one);
    agent.start_again();
    assert_open(&mut agent, &TAMPERED).await;
    damage.undo();
    assert_open(&mut agent, &[]).await;

    // One that was not has not.
    agent.kill();
    reboot(&agent);
    let damage = Damage::make(&one);
    agent.start_again();
    assert_open(&mut agent, &CORRUPT).await;
    let (state, policies) = (agent.folder().join("state"), scene.policies());
    let mut arguments = vec!["--namespace", scene.containerd.namespace()];
    arguments.extend(["--policy", policies.to_str().unwrap()]);
    arguments.extend(["--agent-state", state.to_str().unwrap()]);
    let (_, checked) = check(&scene.containerd.socket(), &arguments);
    scenario::assert_exactly(&checked, &CORRUPT);

    // Whoever never saw the layer right cannot say what a power cut has done.
    scene.assert_checked(&TAMPERED);
    damage.undo();
    assert_open(&mut agent, &[]).await;
}

/// One layer that takes several parts, with a program before and one behind them.
fn large_image() -> Image {
    let large = |name: &str, content: u8| Entry::file(name, vec![content; PART]);
    let busybox = std::fs::read("/bin/busybox").unwrap();
    let entries = [
        Entry::program("bin/busybox", busybox),
        Entry::program("bin/first", "#!/bin/sh\necho first\n"),
        large("data/1", 1),
        large("data/2", 2),
        large("data/3", 3),
        large("data/4", 4),
        Entry::program("usr/bin/tool", "#!/bin/sh\necho tool\n"),
    ];
    Image::new([Layer::new(entries)]).command(&["/bin/busybox", "sleep", "3600"])
}

#[tokio::test]
async fn what_a_pass_has_found_before_its_end_outlives_a_kill_and_is_never_resolved() {
    const FIRST: &str = "layer-tampered modified program /bin/first critical one";
    let scene = Scene::with(&large_image()).await;
    let one = scene.run("one");
    let mut agent = Agent::start(|folder| config(&scene, folder, "1h", "none"));
    agent.ready().await;
    until_a_pass_has_ended(&mut agent).await;
    assert_open(&mut agent, &[]).await;
    agent.kill();

    std::fs::write(one.lower_of("/bin/first"), "#!/bin/sh\nevil\n").unwrap();
    agent.configure(&config(&scene, agent.folder(), "1h", "2MiB"));
    agent.start_again();
    wait::until_within(LIMIT, "the first part's finding", async || {
        transitions(&agent, FIRST).first().copied()
    })
    .await;
    let address = agent.http().await;
    assert!(
        scrubbed(address, "progress_ratio").await < 1.0,
        "a pass under way"
    );
    agent.kill();

    agent.start_again();
    assert_open(&mut agent, &[FIRST]).await;
    assert_eq!(transitions(&agent, FIRST), [Transition::Opened]);
}

#[tokio::test]
async fn a_restart_goes_on_where_the_scrub_was_and_reads_nothing_twice() {
    let scene = Scene::with(&large_image()).await;
    let one = scene.run("one");
    let whole = bytes_below(&one);
    let mut agent = Agent::start(|folder| config(&scene, folder, "1h", "none"));
    agent.ready().await;
    let address = until_a_pass_has_ended(&mut agent).await;
    assert!(bytes_read(address).await >= whole);
    assert_open(&mut agent, &[]).await;
    assert!(agent.stop().await.success());

    // Half a minute at least for what is there; it is stopped as soon as it has come a part further.
    agent.configure(&config(&scene, agent.folder(), "1h", "2MiB"));
    agent.start_again();
    let address = agent.http().await;
    wait::until_within(LIMIT, "a part was compared", async || {
        (scrubbed(address, "progress_ratio").await > 0.0).then_some(())
    })
    .await;
    assert!(agent.stop().await.success());

    std::fs::write(one.lower_of("/usr/bin/tool"), "#!/bin/sh\nevil\n").unwrap();
    agent.configure(&config(&scene, agent.folder(), "1h", "none"));
    agent.start_again();
    let address = until_a_pass_has_ended(&mut agent).await;
    let read = bytes_read(address).await;
    let part = f64::from(u32::try_from(PART).unwrap());
    assert!(read <= whole - part, "{read} of {whole}");
    assert_open(&mut agent, &[TOOL]).await;
}

#[tokio::test]
async fn around_the_page_cache_check_finds_the_same() {
    let scene = scene().await;
    let one = scene.containerd.ctr().container("one");
    let direct = |due: &[&str]| {
        let printed = scene.printed(&["--direct", "-o", "jsonl"]);
        scenario::assert_exactly(&scene.check(&["--direct"]).1, due);
        printed
    };
    assert_eq!(direct(&[]).code, 0);
    std::fs::write(one.lower_of("/usr/bin/tool"), "#!/bin/sh\nevil\n").unwrap();
    assert_eq!(direct(&[TOOL]).code, 1);

    let mut agent = Agent::start(|folder| {
        let config = scene.config(folder);
        config.replace("[scan]\n", "[scan]\nscrub-direct = true\n")
    });
    agent.ready().await;
    assert_open(&mut agent, &[TOOL]).await;
}

#[tokio::test]
async fn a_container_that_sees_another_file_than_was_hashed_is_a_mismatch_until_it_sees_it() {
    const MISMATCH: &str = "snapshot-mismatch - critical one";
    // So many that the look's own random witness finds the one only seldom.
    let others = (0..500).map(|n| Entry::file(format!("data/{n}"), "x"));
    let program = std::fs::read("/bin/busybox").unwrap();
    let program = Entry::program("usr/bin/busybox-service", program);
    let scene = Scene::with(&Image::busybox(others.chain([program]))).await;
    let ctr = scene.containerd.ctr();
    // A running program keeps its file, whatever then has its name.
    let words = ["/usr/bin/busybox-service", "sleep", "3600"];
    let one = ctr.run_with(&[], IMAGE, "one", &words);
    scene.run("other");
    let mut agent = scene.agent().await;
    assert_open(&mut agent, &[]).await;

    let file = one.lower_of("/usr/bin/busybox-service");
    let beside = tempfile::tempdir_in(one.lowers()[0].parent().unwrap()).unwrap();
    let (genuine, copy) = (beside.path().join("genuine"), beside.path().join("copy"));
    std::fs::copy(&file, &copy).unwrap();
    std::fs::hard_link(&file, &genuine).unwrap();
    std::fs::rename(&copy, &file).unwrap();
    wait::until_within(LIMIT, "the mismatch", async || {
        transitions(&agent, MISMATCH).first().copied()
    })
    .await;

    std::fs::rename(&genuine, &file).unwrap();
    assert_open(&mut agent, &[]).await;
    let life = transitions(&agent, MISMATCH);
    assert_eq!(life, [Transition::Opened, Transition::Resolved]);
}
