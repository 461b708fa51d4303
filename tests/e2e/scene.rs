//! What the scenarios share: a private containerd with one image, a policy that lets every image pass, so
//! that findings about signatures do not stand in every list, `check` and the running agent on both.
//!
//! Every comparison is of the whole set of findings, and a running agent is compared only after it has
//! looked again at everything: one finding more than is due must have had its chance to come.

use std::path::Path;
use std::time::Duration;

use holdfast_core::digest::Digest;
use holdfast_core::finding::{Finding, Transition};
use holdfast_tests::agent::{self, Agent, SINK};
use holdfast_tests::container::Container;
use holdfast_tests::containerd::{Containerd, Options};
use holdfast_tests::image::{Digests, Image, Layout};
use holdfast_tests::program::Printed;
use holdfast_tests::{http, scenario, wait};
use tempfile::TempDir;

/// The image of a scene that has one.
pub(crate) const IMAGE: &str = "holdfast.invalid/scene:1";

/// A policy that lets every image pass.
pub(crate) const PASS: &str = "apiVersion: policy.sigstore.dev/v1beta1
kind: ClusterImagePolicy
metadata:
  name: pass
spec:
  images:
    - glob: \"**\"
  authorities:
    - static:
        action: pass
";

/// Long enough for an agent of a debug build that shares two cores with other tests.
pub(crate) const LIMIT: Duration = Duration::from_mins(2);

/// Looks at each container before a running agent counts as having said everything.
const LOOKS: f64 = 3.0;

/// A node under test.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) containerd: Containerd,
    policies: TempDir,
}

impl Scene {
    /// A node without images.
    pub(crate) async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// A node with these options.
    pub(crate) async fn start_with(options: Options) -> Self {
        let policies = tempfile::Builder::new()
            .prefix("holdfast-policies-")
            .tempdir_in("/var/tmp")
            .unwrap();
        std::fs::write(policies.path().join("pass.yaml"), PASS).unwrap();
        Self {
            containerd: Containerd::start_with(options).await,
            policies,
        }
    }

    /// A node with [`IMAGE`].
    pub(crate) async fn with(image: &Image) -> Self {
        let scene = Self::start().await;
        scene.import(image, IMAGE);
        scene
    }

    /// Imports an image under a name.
    pub(crate) fn import(&self, image: &Image, name: &str) -> Digests {
        let mut layout = Layout::new();
        let digests = layout.add(image, name);
        self.containerd.ctr().import(&layout);
        digests
    }

    /// Starts a container of [`IMAGE`].
    pub(crate) fn run(&self, id: &str) -> Container {
        self.containerd.ctr().run(IMAGE, id)
    }

    /// The folder of policies; a running agent reads it again and again.
    pub(crate) fn policies(&self) -> &Path {
        self.policies.path()
    }

    /// Arguments of `check` that select this node and its policy.
    pub(crate) fn arguments<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let policies = self.policies.path().to_str().unwrap();
        let mut arguments = vec![
            "--namespace",
            self.containerd.namespace(),
            "--policy",
            policies,
            // Never the state of an agent that this machine happens to run.
            "--agent-state",
            "/var/tmp/holdfast-no-agent",
        ];
        arguments.extend(more);
        arguments
    }

    /// `check -o jsonl` with more arguments: exit code and findings.
    pub(crate) fn check(&self, more: &[&str]) -> (i32, Vec<Finding>) {
        agent::check(&self.containerd.socket(), &self.arguments(more))
    }

    /// `check` as it printed.
    pub(crate) fn printed(&self, more: &[&str]) -> Printed {
        let socket = self.containerd.socket();
        let mut arguments = vec!["check", "--containerd", socket.to_str().unwrap()];
        arguments.extend(self.arguments(more));
        agent::run(&arguments)
    }

    /// Fails unless `check` finds exactly what is due.
    #[track_caller]
    pub(crate) fn assert_checked(&self, due: &[&str]) {
        scenario::assert_exactly(&self.check(&[]).1, due);
    }

    /// A configuration that looks often, for an agent with this folder.
    pub(crate) fn config(&self, folder: &Path) -> String {
        format!(
            "[state]\ndirectory = \"{folder}/state\"\n\
             [containerd]\nsockets = [\"{socket}\"]\nexpected-namespaces = [\"{namespace}\", \"k8s.io\"]\n\
             [scan]\nupper-interval = \"200ms\"\nlower-interval = \"1s\"\nscrub-bytes-per-second = 0\nscrub-cpu-percent = 0\nlist-interval = \"2s\"\n\
             [trust]\npolicy-directory = \"{policies}\"\nregistry = false\n\
             [report]\nfile = \"{folder}/{SINK}\"\n\
             [admin]\nlisten = \"127.0.0.1:0\"\n",
            folder = folder.display(),
            socket = self.containerd.socket().display(),
            namespace = self.containerd.namespace(),
            policies = self.policies.path().display(),
        )
    }

    /// An agent that has looked at everything once.
    pub(crate) async fn agent(&self) -> Agent {
        let mut agent = Agent::start(|folder| self.config(folder));
        agent.ready().await;
        agent
    }

    /// Fails unless `check` and a running agent both find exactly what is due.
    pub(crate) async fn assert_found(&self, due: &[&str]) {
        self.assert_checked(due);
        let mut agent = self.agent().await;
        assert_open(&mut agent, due).await;
    }
}

/// Waits until exactly what is due is open, and until it still is after more looks at everything.
pub(crate) async fn assert_open(agent: &mut Agent, due: &[&str]) {
    let mut sorted: Vec<String> = due.iter().map(|line| (*line).to_owned()).collect();
    sorted.sort();
    let deadline = tokio::time::Instant::now() + LIMIT;
    // What is not due within the limit is shown as the difference.
    while open_lines(agent) != sorted && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    scenario::assert_exactly(&agent.open(), due);
    look_again(agent).await;
    scenario::assert_exactly(&agent.open(), due);
}

/// Waits until every container was looked at some more times.
pub(crate) async fn look_again(agent: &mut Agent) {
    let address = agent.http().await;
    let before = looks(address).await.unwrap();
    wait::until_within(LIMIT, "more looks", async || {
        let (done, containers) = looks(address).await?;
        (done >= before.0 + LOOKS * containers.max(1.0)).then_some(())
    })
    .await;
}

/// Looks done so far, and containers.
async fn looks(address: std::net::SocketAddr) -> Option<(f64, f64)> {
    let checks = metric(
        address,
        "holdfast_agent_checks_total{",
        "check=\"identity\"",
    );
    let containers = metric(address, "holdfast_agent_containers ", "");
    Some((checks.await?, containers.await?))
}

/// The sum over all lines of `/metrics` that begin with `start` and hold `with`.
pub(crate) async fn metric(address: std::net::SocketAddr, start: &str, with: &str) -> Option<f64> {
    let (_, text) = http::get(address, "/metrics").await?;
    let lines = text
        .lines()
        .filter(|line| line.starts_with(start) && line.contains(with));
    let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    Some(values.sum())
}

/// What is open, as sorted lines.
pub(crate) fn open_lines(agent: &Agent) -> Vec<String> {
    let mut lines: Vec<String> = agent.open().iter().flat_map(scenario::lines).collect();
    lines.sort();
    lines
}

/// The transitions of the documents that speak of `what` (a part of their line), oldest first.
pub(crate) fn transitions(agent: &Agent, what: &str) -> Vec<Transition> {
    agent
        .documents()
        .iter()
        .filter(|finding| {
            scenario::lines(finding)
                .iter()
                .any(|line| line.contains(what))
        })
        .map(|finding| finding.transition)
        .collect()
}

/// Flips one bit in the middle of a file.
pub(crate) fn flip_a_bit(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

/// The blob of a digest, for tests that alter it.
pub(crate) fn alter(scene: &Scene, digest: Digest, bytes: &[u8]) {
    let blob = scene.containerd.blob(digest);
    assert!(blob.exists(), "{} is not there", blob.display());
    std::fs::write(blob, bytes).unwrap();
}
