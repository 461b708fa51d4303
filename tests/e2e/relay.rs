//! Nodes without blobs that a collector helps: with skeletons that another node has made, or that it makes
//! from the registry's blob, and with the contents that name what was tampered with before the first
//! sight. And what it does when nodes disagree on a table.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use holdfast_core::digest::Digest;
use holdfast_core::finding::{Basis, Kind};
use holdfast_tests::agent::{self, Agent};
use holdfast_tests::collector::{self, Collector};
use holdfast_tests::image::{Digests, Layout};
use holdfast_tests::registry::Registry;
use holdfast_tests::wait;
use tempfile::TempDir;

use crate::scene::{LIMIT, Scene, assert_open, metric};
use crate::skeletons::{assert_basis, forget_blobs, image, replace};

const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// Layers of the image.
const LAYERS: f64 = 3.0;

/// A collector, and certificates for the nodes.
struct Fleet {
    collector: Collector,
    ingest: SocketAddr,
    pki: TempDir,
}

impl Fleet {
    async fn start(more: &str) -> Self {
        let pki = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = pki.path().to_str().unwrap();
        let made = |arguments: &[&str]| {
            let printed = collector::run(&[&["ca"], arguments].concat());
            assert_eq!(printed.code, 0, "{arguments:?}: {printed:?}");
        };
        made(&["init", path, "--domain", "test.invalid"]);
        made(&["collector", path, "--ip", "127.0.0.1"]);
        for node in NODES {
            made(&["node", path, "--name", node]);
        }
        let mut collector = Collector::start(|folder| {
            format!(
                "[grpc]\nlisten = \"127.0.0.1:0\"\n[api]\nlisten = \"127.0.0.1:0\"\n\
                 [tls]\ncertificate = \"{path}/collector.pem\"\nkey = \"{path}/collector-key.pem\"\n\
                 client-ca = \"{path}/ca.pem\"\n[store]\npath = \"{}/collector.db\"\n{more}",
                folder.display()
            )
        });
        let ingest = collector.ingest().await;
        Self {
            collector,
            ingest,
            pki,
        }
    }

    /// One that may read a registry.
    async fn reading(registry: &Registry) -> Self {
        let address = registry.address();
        Self::start(&format!(
            "[registry]\nrepositories = [\"{address}/shop/*\"]\ninsecure-registries = [\"{address}\"]\n"
        ))
        .await
    }

    fn agent(&self, scene: &Scene, node: &str) -> Agent {
        Agent::start(|folder| self.config(scene, node, folder, &folder.join("state")))
    }

    fn config(&self, scene: &Scene, node: &str, folder: &Path, state: &Path) -> String {
        let (pki, ingest) = (self.pki.path().display(), self.ingest);
        let config = scene.config(folder);
        let state = format!("directory = \"{}\"", state.display());
        let config = config.replace(
            &format!("directory = \"{}/state\"", folder.display()),
            &state,
        );
        format!(
            "node-name = \"{node}\"\n{config}\
             [report.collector]\naddress = \"{ingest}\"\ncertificate = \"{pki}/{node}.pem\"\n\
             key = \"{pki}/{node}-key.pem\"\nca = \"{pki}/ca.pem\"\n"
        )
    }

    /// Waits until a metric of the collector has this value, at least.
    async fn until(&mut self, name: &str, with: &str, value: f64) {
        let address = self.collector.http().await;
        let name = format!("holdfast_collector_{name}");
        wait::until_within(LIMIT, &format!("{name}{with} is {value}"), async || {
            (metric(address, &name, with).await? >= value).then_some(())
        })
        .await;
    }

    async fn open(&mut self, kind: Kind) -> Vec<serde_json::Value> {
        let kind = kind.as_str();
        self.collector
            .list("findings", &[("state", "open"), ("kind", kind)])
            .await
    }
}

/// A node that runs the image as the container `one`.
async fn node(name: &str) -> (Scene, Digests) {
    let scene = Scene::start().await;
    let digests = scene.import(&image(), name);
    scene.containerd.ctr().run(name, "one");
    (scene, digests)
}

/// One that has lost its blobs.
async fn blind_node(name: &str) -> Scene {
    let (scene, digests) = node(name).await;
    forget_blobs(&scene, &digests).await;
    scene
}

fn lower(scene: &Scene, path: &str) -> PathBuf {
    scene.containerd.ctr().container("one").lower_of(path)
}

fn tamper(scene: &Scene, count: usize) -> Vec<String> {
    let names = (0..count).map(|n| format!("/usr/lib/l{n:02}.so"));
    let names = names.inspect(|name| replace(&lower(scene, name), "evil"));
    names
        .map(|name| format!("layer-tampered modified program {name} critical one"))
        .collect()
}

async fn assert_open_strings(agent: &mut Agent, due: &[String]) {
    let due: Vec<&str> = due.iter().map(String::as_str).collect();
    assert_open(agent, &due).await;
}

const UNPROVED: [&str; 2] = [
    "unverifiable files proof-failed - warning one",
    "unverifiable layers proof-failed - warning one",
];

#[tokio::test]
async fn a_node_without_blobs_gets_the_skeletons_that_another_node_has_made() {
    let mut fleet = Fleet::start("").await;
    let (first, _) = node(crate::scene::IMAGE).await;
    let mut giving = fleet.agent(&first, "node-1");
    giving.ready().await;
    fleet.until("skeletons ", "", LAYERS).await;

    let second = blind_node(crate::scene::IMAGE).await;
    let one = second.containerd.ctr().container("one");
    one.exec("rm /usr/lib/l00.so");
    let mut agent = fleet.agent(&second, "node-2");
    agent.ready().await;
    let mut due = vec!["file-drift removed program /usr/lib/l00.so warning one".to_owned()];
    assert_open_strings(&mut agent, &due).await;
    assert_basis(&agent.open(), Basis::Reassembled);

    replace(&lower(&second, "/usr/lib/l07.so"), "evil");
    due.push("layer-tampered modified program /usr/lib/l07.so critical one".to_owned());
    assert_open_strings(&mut agent, &due).await;
    assert_open(&mut giving, &[]).await;
    assert!(fleet.open(Kind::AgentAltered).await.is_empty());
}

#[tokio::test]
async fn what_was_tampered_with_before_the_first_sight_is_named_with_the_registrys_contents() {
    let registry = Registry::start().await;
    let name = registry.reference("shop/api:1");
    let mut layout = Layout::new();
    layout.add(&image(), &name);
    registry.push(&layout, &name, "shop/api:1").await;
    let mut fleet = Fleet::reading(&registry).await;
    for (count, id) in [1, 50].into_iter().zip(NODES) {
        let scene = blind_node(&name).await;
        let due = tamper(&scene, count);
        let mut agent = fleet.agent(&scene, id);
        agent.ready().await;
        assert_open_strings(&mut agent, &due).await;
        assert_basis(&agent.open(), Basis::Reassembled);
    }
    // One read a layer for its skeleton, and one for the contents of each node.
    fleet
        .until("registry_reads_total", "succeeded", LAYERS + 2.0)
        .await;
    let address = fleet.collector.http().await;
    let reads = metric(address, "holdfast_collector_registry_reads_total", "").await;
    assert_eq!(reads, Some(LAYERS + 2.0));
}

#[tokio::test]
async fn without_a_registry_a_failed_proof_stays_a_warning_and_a_skeleton_that_fails_twice_is_dropped()
 {
    let mut fleet = Fleet::start("").await;
    let (first, _) = node(crate::scene::IMAGE).await;
    let mut giving = fleet.agent(&first, "node-1");
    giving.ready().await;
    fleet.until("skeletons ", "", LAYERS).await;
    giving.stop().await;

    let mut agents = Vec::new();
    for id in &NODES[1..] {
        let scene = blind_node(crate::scene::IMAGE).await;
        drop(tamper(&scene, 1));
        let mut agent = fleet.agent(&scene, id);
        agent.ready().await;
        assert_open(&mut agent, &UNPROVED).await;
        assert_basis(&agent.open(), Basis::Reported);
        let told = wait::until("why it stays so is told", async || {
            let open = serde_json::to_string(&agent.open()).unwrap();
            open.contains("the collector reads no registry")
                .then_some(())
        });
        told.await;
        agents.push((agent, scene));
    }

    fleet
        .until("skeletons_dropped_total", "proof_failed", 1.0)
        .await;
    for (agent, _) in &agents {
        let kinds = agent.documents();
        let mut kinds = kinds.iter().map(holdfast_core::finding::Finding::kind);
        assert!(kinds.all(|kind| kind != Kind::LayerTampered));
    }
}

/// The skeleton of one layer, which says that it is of another one.
fn forged(layout: &Layout, of: Digest, says: Digest) -> Vec<u8> {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let (path, out) = (layout.path(), folder.path());
    let arguments = [
        "skeleton",
        path.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ];
    let printed = agent::run(&arguments);
    assert_eq!(printed.code, 0, "{printed:?}");
    let mut skeleton = std::fs::read(out.join(format!("{}.skeleton", of.encoded()))).unwrap();
    skeleton[8..40].copy_from_slice(says.as_bytes());
    let body = skeleton.len() - 32;
    let digest = Digest::of(&skeleton[..body]);
    skeleton[body..].copy_from_slice(digest.as_bytes());
    skeleton
}

#[tokio::test]
async fn a_forged_skeleton_from_a_node_gives_way_to_that_of_the_registrys_blob() {
    let registry = Registry::start().await;
    let name = registry.reference("shop/api:1");
    let mut layout = Layout::new();
    let digests = layout.add(&image(), &name);
    registry.push(&layout, &name, "shop/api:1").await;
    let mut fleet = Fleet::reading(&registry).await;
    let state = tempfile::tempdir_in("/var/tmp").unwrap();
    let (victim, other) = (digests.diff_ids[1], digests.diff_ids[2]);
    let folder = state.path().join("skeletons");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join(format!("{}.skeleton", victim.encoded()));
    std::fs::write(file, forged(&layout, other, victim)).unwrap();
    let nothing = Scene::start().await;
    let mut evil = Agent::start(|folder| fleet.config(&nothing, "node-1", folder, state.path()));
    evil.ready().await;
    fleet.until("skeletons ", "", 1.0).await;

    let scene = blind_node(&name).await;
    let due = tamper(&scene, 1);
    let mut agent = fleet.agent(&scene, "node-2");
    agent.ready().await;
    assert_open_strings(&mut agent, &due).await;
    assert_basis(&agent.open(), Basis::Reassembled);
    fleet.until("skeletons ", "", LAYERS).await;
}

#[tokio::test]
async fn nodes_that_disagree_on_a_table_are_a_finding_until_they_agree() {
    let mut fleet = Fleet::start("").await;
    let name = crate::scene::IMAGE;
    let ((first, _), (second, _)) = (node(name).await, node(name).await);
    let mut one = fleet.agent(&first, "node-1");
    one.ready().await;
    assert_open(&mut one, &[]).await;
    let state = tempfile::tempdir_in("/var/tmp").unwrap();
    let config = |fleet: &Fleet| {
        Agent::start(|folder| fleet.config(&second, "node-2", folder, state.path()))
    };
    let mut two = config(&fleet);
    two.ready().await;
    assert_open(&mut two, &[]).await;
    assert!(fleet.open(Kind::AgentAltered).await.is_empty());
    two.stop().await;

    // Somebody has put another table there than the one that the layer has.
    let tables = std::fs::read_dir(state.path().join("tables")).unwrap();
    let table = tables.map(|table| table.unwrap().path()).max().unwrap();
    let genuine = std::fs::read(&table).unwrap();
    let mut other = genuine.clone();
    *other.last_mut().unwrap() ^= 1;
    std::fs::write(&table, other).unwrap();
    let mut two = config(&fleet);
    two.ready().await;
    fleet.until("table_disagreements ", "", 1.0).await;

    let found = fleet.open(Kind::AgentAltered).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["severity"], "critical");
    assert_eq!(found[0]["nodes"], serde_json::json!(["node-1", "node-2"]));
    let lines = found[0]["lines"].to_string();
    assert!(
        lines.contains("node-1") && lines.contains("node-2"),
        "{lines}"
    );
    two.stop().await;
    std::fs::write(&table, genuine).unwrap();
    let mut two = config(&fleet);
    two.ready().await;
    wait::until_within(LIMIT, "the finding resolves", async || {
        fleet
            .open(Kind::AgentAltered)
            .await
            .is_empty()
            .then_some(())
    })
    .await;
    assert_open(&mut two, &[]).await;
}
