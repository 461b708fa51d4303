//! containerd killed, hung, exchanged or not there yet, and a hung shim: nothing is resolved by not knowing,
//! `/readyz` says what is wrong, and what happened meanwhile is found when it is over.

use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use holdfast_core::finding::Transition;
use holdfast_tests::agent::Agent;
use holdfast_tests::container::Container;
use holdfast_tests::image::Image;
use holdfast_tests::{http, processes_naming, wait};
use rustix::process::{Pid, Signal, kill_process};

use crate::scene::{IMAGE, Scene, assert_open, open_lines};

const EVIL: &str = "file-drift moved program /usr/bin/evil warning one";
const LATE: &str = "file-drift added program /usr/bin/evil warning late";

/// How long the daemon is stopped: longer than the agent waits for an answer, so that it must notice.
const FROZEN: Duration = Duration::from_secs(30);

async fn scene() -> Scene {
    let scene = Scene::with(&Image::busybox([])).await;
    let one = scene.run("one");
    one.exec("cp /bin/busybox /usr/bin/evil");
    scene.run("control");
    scene
}

/// A container that does the same as its first act.
fn run_late(scene: &Scene) -> Container {
    let words = [
        "/bin/sh",
        "-c",
        // In one step, so that no look sees it half written.
        "ln -s /bin/busybox /usr/bin/evil; exec sleep 3600",
    ];
    scene.containerd.ctr().run_with(&[], IMAGE, "late", &words)
}

/// Waits until `/readyz` is 503 and its reason names containerd.
async fn unready(agent: &mut Agent) -> String {
    let address = agent.http().await;
    wait::until("the agent is not ready", async || {
        let (status, reason) = http::get(address, "/readyz").await?;
        (status == 503 && reason.contains("containerd")).then_some(reason)
    })
    .await
}

/// What is due is open, was opened once, and nothing was ever resolved.
async fn assert_unshaken(agent: &mut Agent, due: &[&str]) {
    assert_open(agent, due).await;
    let all = agent.documents();
    let transitions: Vec<Transition> = all.iter().map(|finding| finding.transition).collect();
    assert_eq!(transitions, vec![Transition::Opened; due.len()]);
}

#[tokio::test]
async fn a_killed_containerd_resolves_nothing_and_what_starts_with_it_is_found() {
    let mut scene = scene().await;
    let mut agent = scene.agent().await;
    assert_open(&mut agent, &[EVIL]).await;

    scene.containerd.kill();
    let reason = unready(&mut agent).await;
    assert!(reason.contains("containerd.sock"), "{reason}");
    assert_eq!(open_lines(&agent), [EVIL]);
    scene.containerd.restart().await;
    run_late(&scene);

    agent.ready().await;
    assert_unshaken(&mut agent, &[EVIL, LATE]).await;
}

#[tokio::test]
async fn what_started_while_the_agent_slept_through_an_exchange_is_found() {
    let mut scene = scene().await;
    let mut agent = scene.agent().await;
    assert_open(&mut agent, &[EVIL]).await;

    agent.process().signal(Signal::STOP);
    scene.containerd.restart().await;
    run_late(&scene);
    agent.process().signal(Signal::CONT);

    assert_unshaken(&mut agent, &[EVIL, LATE]).await;
    agent.ready().await;
}

#[tokio::test]
async fn a_hung_containerd_is_noticed_and_resolves_nothing() {
    let scene = scene().await;
    let mut agent = scene.agent().await;
    assert_open(&mut agent, &[EVIL]).await;

    scene.containerd.freeze();
    let thaw_at = tokio::time::Instant::now() + FROZEN;
    let reason = unready(&mut agent).await;
    // What needs no containerd goes on meanwhile.
    let one = scene.containerd.ctr().container("one");
    // Empty, so that no look sees it half written.
    std::fs::write(one.inside("/opt/app/new.sh"), "").unwrap();
    let new = "file-drift added program /opt/app/new.sh warning one";
    wait::until("a change is seen while containerd hangs", async || {
        open_lines(&agent).contains(&new.to_owned()).then_some(())
    })
    .await;
    tokio::time::sleep_until(thaw_at).await;
    assert_eq!(agent.documents().len(), 2, "{reason}");
    scene.containerd.thaw();

    agent.ready().await;
    run_late(&scene);
    assert_unshaken(&mut agent, &[EVIL, new, LATE]).await;
}

#[tokio::test]
async fn a_replaced_socket_is_noticed_and_resolves_nothing() {
    let scene = scene().await;
    let mut agent = scene.agent().await;
    assert_open(&mut agent, &[EVIL]).await;

    scene.containerd.take_socket_away();
    unready(&mut agent).await;
    assert_eq!(open_lines(&agent), [EVIL]);
    scene.containerd.put_socket_back();
    run_late(&scene);

    agent.ready().await;
    assert_unshaken(&mut agent, &[EVIL, LATE]).await;
}

#[tokio::test]
async fn an_agent_that_was_there_before_containerd_waits_for_it() {
    let mut scene = scene().await;
    scene.containerd.kill();
    let mut agent = Agent::start(|folder| scene.config(folder));
    let reason = unready(&mut agent).await;
    assert!(reason.contains("containerd.sock"), "{reason}");

    scene.containerd.restart().await;

    agent.ready().await;
    assert_open(&mut agent, &[EVIL]).await;
}

#[tokio::test]
async fn a_hung_shim_delays_nobody_else_and_is_said_to_hang() {
    let scene = scene().await;
    let hung = scene.run("hung");
    let mut agent = Agent::start(|folder| {
        let config = scene.config(folder);
        config.replace("[scan]", "call-deadline = \"2s\"\n[scan]")
    });
    agent.ready().await;
    assert_open(&mut agent, &[EVIL]).await;

    let shim = shim_of(&scene, hung.id());
    kill_process(shim, Signal::STOP).unwrap();
    run_late(&scene);
    std::fs::write(hung.inside("/usr/bin/evil"), "#!/bin/sh\n").unwrap();
    // Known before: it is looked at without its shim.
    let drift = "file-drift added program /usr/bin/evil warning hung";
    assert_open(&mut agent, &[EVIL, LATE, drift]).await;
    // At first sight the shim would have to say which process it is.
    let due = [EVIL, LATE, "unverifiable identity shim-silent - info hung"];
    let (code, found) = scene.check(&[]);
    kill_process(shim, Signal::CONT).unwrap();

    holdfast_tests::scenario::assert_exactly(&found, &due);
    assert_eq!(code, 1);
    assert_unshaken(&mut agent, &[EVIL, LATE, drift]).await;
}

/// The shim of a container.
fn shim_of(scene: &Scene, id: &str) -> Pid {
    let shims = processes_naming(&scene.containerd.socket());
    let own = shims.into_iter().find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.any(|word| word == std::ffi::OsStr::new(id).as_bytes())
    });
    Pid::from_raw(own.unwrap()).unwrap()
}
