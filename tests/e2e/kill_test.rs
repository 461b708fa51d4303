//! Agent, collector and containerd are killed in mixed order, some in the midst of a commit or between a
//! commit and its confirmation; nothing may be lost and nothing may be stored twice.
//!
//! ```text
//!  oracle (fsync) ─▶ change in a container ─▶ agent ─▶ collector's database ─▶ judge ◀─ oracle, from the oldest
//!                                              └───────── killed (-9) ───────┘
//! ```
//! The same with the collector's dedupe switched off must be found wanting, or the judge proves nothing.
//!
//! `HOLDFAST_KILL_ROUNDS` says how many rounds, `HOLDFAST_KILL_SEED` which: what is done, and to whom,
//! follows from the seed; when a kill comes within the work of another process does not.

mod chance;
mod changes;
mod judge;
mod oracle;
mod store;
mod world;

use chance::Chance;
use judge::{Fault, judge};
use world::World;

/// Rounds of an ordinary run.
const ROUNDS: u64 = 10;

const SEED: u64 = 1;

const AGENT_POINTS: [&str; 4] = [
    "ledger-before-commit",
    "ledger-after-commit",
    "uplink-before-send",
    "uplink-after-confirmation",
];

const COLLECTOR_POINTS: [&str; 2] = ["before-commit", "after-commit"];

/// What a round does, each once, in any order.
#[derive(Clone, Copy, Debug)]
enum Step {
    KillAgent,
    KillCollector,
    KillContainerd,
    EndAgentAt(&'static str),
    EndCollectorAt(&'static str),
    RepeatAFinding,
}

#[tokio::test]
async fn kills_lose_no_change_and_store_none_twice() {
    let rounds = number("HOLDFAST_KILL_ROUNDS", ROUNDS);
    let mut world = World::new(None).await;

    for round in 0..rounds {
        run_round(&mut world, round).await;
    }
    let faults = judged(&mut world).await;

    assert!(faults.is_empty(), "{faults:#?}");
    // Otherwise the rounds have not tried what they are there for.
    let points = AGENT_POINTS.iter().chain(&COLLECTOR_POINTS);
    let few = rounds < 4;
    for what in points.chain(&["agent", "collector", "containerd"]) {
        assert!(few || world.ended.contains_key(*what), "{what}: never");
    }
}

#[tokio::test]
async fn a_collector_that_does_not_drop_repeats_is_found_out() {
    let mut world = World::new(Some("skip-dedupe")).await;

    run_round(&mut world, 0).await;
    let faults = judged(&mut world).await;

    let is_twice = |fault: &Fault| matches!(fault, Fault::Twice(_));
    assert!(faults.iter().any(is_twice), "{faults:#?}");
    let is_life = |fault: &Fault| matches!(fault, Fault::Life(..));
    assert!(faults.iter().any(is_life), "{faults:#?}");
}

async fn run_round(world: &mut World, round: u64) {
    let seed = number("HOLDFAST_KILL_SEED", SEED).wrapping_add(round);
    eprintln!("round {round}, seed {seed}");
    world.round = round;
    world.chance = Chance::new(seed);
    let nth = usize::try_from(round).unwrap();
    let mut steps = [
        Step::KillAgent,
        Step::KillCollector,
        Step::KillContainerd,
        Step::EndAgentAt(AGENT_POINTS[nth % AGENT_POINTS.len()]),
        Step::EndCollectorAt(COLLECTOR_POINTS[nth % COLLECTOR_POINTS.len()]),
        Step::RepeatAFinding,
    ];
    world.chance.shuffle(&mut steps);
    for step in steps {
        world.change();
        take(world, step).await;
        world.change();
        // Else the next one finds it dead.
        if world.chance.one_in(2) {
            world.revive().await;
        }
    }
}

async fn take(world: &mut World, step: Step) {
    let time = 1 + world.chance.below(3);
    match step {
        Step::KillAgent => world.kill_agent().await,
        Step::KillCollector => world.kill_collector().await,
        Step::KillContainerd => world.kill_containerd().await,
        Step::EndAgentAt(point) => world.end_agent_at(point, time).await,
        Step::EndCollectorAt(point) => world.end_collector_at(point, time).await,
        Step::RepeatAFinding => world.repeat_a_finding().await,
    }
}

async fn judged(world: &mut World) -> Vec<Fault> {
    world.settle().await;
    let open = world.stop().await;
    let stored = store::history(&world.database()).await;
    let lines = world.changes.oracle().read();
    let undone = lines.iter().filter(|line| line.act == oracle::Act::Undo);
    eprintln!(
        "{} changes and {} undone, {} open, {} transitions stored; ended: {:?}",
        lines.len() - undone.clone().count(),
        undone.count(),
        open.len(),
        stored.len(),
        world.ended,
    );
    judge(&lines, &stored, &open)
}

/// A variable that `scripts/test` or a person has set.
fn number(variable: &str, default: u64) -> u64 {
    let text = std::env::var(variable);
    text.map_or(default, |text| text.parse().expect("a number"))
}
