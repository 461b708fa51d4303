//! Everything that can be killed: containerd, agent and collector, and how each is started again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_tests::agent::{Agent, SINK};
use holdfast_tests::collector::{self, Collector};
use holdfast_tests::containerd::Containerd;
use holdfast_tests::image::Layout;
use holdfast_tests::program::Program;
use holdfast_tests::{http, wait};
use serde_json::Value;
use tempfile::TempDir;

use super::chance::Chance;
use super::changes::{self, Changes};
use super::judge::{DRIFT, Place};
use super::store;

const NODE: &str = "node-1";

const CONTAINERS: usize = 3;

/// Tells a program of its fail points.
const VARIABLE: &str = "HOLDFAST_FAIL_POINT";

/// A kill comes at most this long after its turn.
const MOMENT_MILLIS: usize = 600;

/// From the last start to the last finding: the uplink's longest pause, and work.
const SETTLING: Duration = Duration::from_secs(90);

/// Between two changes while a fail point is waited for, in looks of [`wait`].
const LOOKS_A_CHANGE: usize = 10;

/// The parts and what was done to them.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) changes: Changes,
    pub(crate) chance: Chance,
    pub(crate) round: u64,
    /// How often what was ended, by its name.
    pub(crate) ended: BTreeMap<String, u32>,
    /// What the collector is always told.
    broken: Option<&'static str>,
    agent: Agent,
    collector: Collector,
    is_containerd_up: bool,
    containerd: Containerd,
    /// Certificates and the oracle's file.
    _folder: TempDir,
}

impl World {
    /// Starts everything; `broken` is a promise that the collector does not keep.
    pub(crate) async fn new(broken: Option<&'static str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let containerd = Containerd::start().await;
        let mut layout = Layout::new();
        let names: Vec<String> = (0..CONTAINERS).map(|n| format!("web-{n}")).collect();
        let image = changes::image();
        for name in &names {
            layout.add(&image, &reference(name));
        }
        let ctr = containerd.ctr();
        ctr.import(&layout);
        let running = names.iter().map(|name| ctr.run(&reference(name), name));
        let changes = Changes::new(folder.path(), running.collect());

        let pki = folder.path().join("pki");
        let address = own_address();
        certify(&pki, address);
        let mut collector = start_collector(&pki, address, broken).await;
        let at = collector.ingest().await.port();
        let at = SocketAddr::from((address, at));
        // Where it is found again after a kill.
        collector.configure(&collector_config(collector.folder(), &pki, at));
        let agent = Agent::with_fail_points(|folder| agent_config(folder, &pki, at, &containerd));
        let mut world = Self {
            changes,
            chance: Chance::new(0),
            round: 0,
            ended: BTreeMap::new(),
            broken,
            agent,
            collector,
            is_containerd_up: true,
            containerd,
            _folder: folder,
        };
        world.until_known().await;
        world
    }

    /// Kills the agent at some moment.
    pub(crate) async fn kill_agent(&mut self) {
        self.moment().await;
        self.agent.kill();
        self.count("agent");
    }

    /// Kills the collector at some moment.
    pub(crate) async fn kill_collector(&mut self) {
        self.moment().await;
        self.collector.kill();
        self.count("collector");
    }

    /// Kills containerd at some moment.
    pub(crate) async fn kill_containerd(&mut self) {
        self.moment().await;
        self.containerd.kill();
        self.is_containerd_up = false;
        self.count("containerd");
    }

    /// Starts what is dead.
    pub(crate) async fn revive(&mut self) {
        if !self.is_containerd_up {
            self.containerd.restart().await;
            self.is_containerd_up = true;
        }
        if !self.collector.is_running() {
            self.start_collector(None);
        }
        if !self.agent.is_running() {
            self.start_agent(None);
        }
    }

    /// Lets the agent end itself at a point, the given number of times that it comes there.
    pub(crate) async fn end_agent_at(&mut self, point: &str, time: usize) {
        self.revive().await;
        self.start_agent(Some(&format!("{point}:{time}")));
        self.until_ended(point, |world| &mut world.agent).await;
    }

    /// Lets the collector end itself at a point.
    pub(crate) async fn end_collector_at(&mut self, point: &str, time: usize) {
        self.revive().await;
        self.start_collector(Some(&format!("{point}:{time}")));
        self.until_ended(point, |world| &mut world.collector).await;
    }

    /// The agent ends between the collector's confirmation of a finding and its own note of it, so that
    /// the finding is certainly sent twice.
    pub(crate) async fn repeat_a_finding(&mut self) {
        self.revive().await;
        self.kill_collector().await;
        let path = self
            .changes
            .add(self.round, &format!("repeated-{}", self.round));
        let agent = &self.agent;
        wait::until("the finding is in the spool", async || {
            let documents = agent.documents();
            let mut subjects = documents.iter().map(|document| document.subject.as_str());
            subjects.any(|subject| subject == path).then_some(())
        })
        .await;
        let point = "uplink-after-confirmation";
        self.start_agent(Some(point));
        self.start_collector(None);
        self.until_ended(point, |world| &mut world.agent).await;
    }

    /// Some changes.
    pub(crate) fn change(&mut self) {
        for _ in 0..=self.chance.below(3) {
            self.changes.make(self.round, &mut self.chance);
        }
    }

    /// Starts all, makes a last change in each container, and waits until those are known.
    pub(crate) async fn settle(&mut self) {
        self.revive().await;
        self.changes.finish(self.round);
        let last: BTreeSet<Place> = self.changes.last().collect();
        let collector = &mut self.collector;
        wait::until_within(SETTLING, "the last changes are known", async || {
            let open = open(collector).await;
            last.is_subset(&open).then_some(())
        })
        .await;
    }

    /// What the API says is open, with nothing more to come.
    pub(crate) async fn stop(&mut self) -> BTreeSet<Place> {
        assert!(self.agent.stop().await.success(), "the agent stops cleanly");
        let open = open(&mut self.collector).await;
        let status = self.collector.stop().await;
        assert!(status.success(), "the collector stops cleanly");
        open
    }

    /// The collector's database.
    pub(crate) fn database(&self) -> PathBuf {
        self.collector.folder().join("collector.db")
    }

    fn count(&mut self, what: &str) {
        *self.ended.entry(what.to_owned()).or_default() += 1;
    }

    /// When a kill comes is a matter of chance.
    async fn moment(&mut self) {
        let millis = u64::try_from(self.chance.below(MOMENT_MILLIS)).unwrap();
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    fn start_agent(&mut self, point: Option<&str>) {
        self.agent.kill();
        self.agent.set_variables(&variables(point.unwrap_or("")));
        self.agent.start_again();
    }

    fn start_collector(&mut self, point: Option<&str>) {
        let points: Vec<&str> = self.broken.into_iter().chain(point).collect();
        self.collector.kill();
        self.collector.set_variables(&variables(&points.join(",")));
        self.collector.start_again();
    }

    /// Makes changes until a program has ended itself.
    async fn until_ended(&mut self, point: &str, program: impl Fn(&mut Self) -> &mut Program) {
        let mut looks = 0;
        let what = format!("{point} is reached");
        let status = wait::until(&what, async || {
            if looks % LOOKS_A_CHANGE == 0 {
                self.changes.make(self.round, &mut self.chance);
            }
            looks += 1;
            program(self).process().ended()
        })
        .await;
        assert_eq!(status.code(), None, "{point}: ended by itself: {status}");
        program(self).kill();
        self.count(point);
    }

    /// Waits until every container has been looked at and the collector has a new spool's full report: from
    /// now on nothing is told again by right.
    async fn until_known(&mut self) {
        self.agent.ready().await;
        let database = self.database();
        let collector = &mut self.collector;
        wait::until("the collector knows all containers", async || {
            let known = collector.list("containers", &[]).await;
            (known.len() == CONTAINERS).then_some(())
        })
        .await;
        wait::until("the first full report is stored", async || {
            store::has_full_report(&database).await.then_some(())
        })
        .await;
        // A heartbeat that was answered before that asks for another one, which the next does not.
        let heard = last_heard(collector).await;
        wait::until("the next heartbeat", async || {
            (last_heard(collector).await != heard).then_some(())
        })
        .await;
    }
}

async fn last_heard(collector: &mut Collector) -> Value {
    collector.list("nodes", &[]).await[0]["last_heard"].clone()
}

/// What the API says is open of what the oracle does.
async fn open(collector: &mut Collector) -> BTreeSet<Place> {
    let filter = [("state", "open"), ("kind", DRIFT)];
    let findings = collector.list("findings", &filter).await;
    let address = collector.http().await;
    let mut open = BTreeSet::new();
    for finding in findings {
        let fingerprint = text(&finding["fingerprint"]);
        let path = format!("/api/v1/findings/{fingerprint}");
        let whole = http::json(address, &path, &[]).await;
        let places = whole["places"].as_array().unwrap().iter();
        for place in places.filter(|place| place["state"] == "open") {
            open.insert((text(&place["container"]["id"]), text(&finding["subject"])));
        }
    }
    open
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn variables(points: &str) -> [(&'static str, &str); 1] {
    [(VARIABLE, points)]
}

/// Each container is a workload of its own: findings of one do not join another's.
fn reference(name: &str) -> String {
    format!("holdfast.invalid/{name}:1")
}

/// A loopback address that only this process uses, so that a port on it is still free after a kill.
fn own_address() -> Ipv4Addr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high.wrapping_add(64), middle, low)
}

fn certify(pki: &Path, address: Ipv4Addr) {
    let (pki, address) = (pki.to_str().unwrap(), address.to_string());
    for arguments in [
        &["ca", "init", pki, "--domain", "test.invalid"][..],
        &["ca", "node", pki, "--name", NODE],
        &["ca", "collector", pki, "--ip", &address],
    ] {
        let printed = collector::run(arguments);
        assert_eq!(printed.code, 0, "{printed:?}");
    }
}

async fn start_collector(pki: &Path, address: Ipv4Addr, broken: Option<&str>) -> Collector {
    let at = SocketAddr::from((address, 0));
    let mut collector = Collector::with_fail_points(|folder| collector_config(folder, pki, at));
    if let Some(broken) = broken {
        collector.set_variables(&variables(broken));
        collector.start_again();
    }
    collector.ready().await;
    collector
}

fn collector_config(folder: &Path, pki: &Path, at: SocketAddr) -> String {
    let (folder, pki) = (folder.display(), pki.display());
    format!(
        r#"
[grpc]
listen = "{at}"
[api]
listen = "127.0.0.1:0"
[tls]
certificate = "{pki}/collector.pem"
key = "{pki}/collector-key.pem"
client-ca = "{pki}/ca.pem"
[store]
path = "{folder}/collector.db"
"#
    )
}

fn agent_config(folder: &Path, pki: &Path, at: SocketAddr, containerd: &Containerd) -> String {
    let (folder, pki) = (folder.display(), pki.display());
    let (socket, namespace) = (containerd.socket(), containerd.namespace());
    let socket = socket.display();
    format!(
        r#"
node-name = "{NODE}"
[state]
directory = "{folder}/state"
[containerd]
sockets = ["{socket}"]
expected-namespaces = ["{namespace}"]
[scan]
upper-interval = "500ms"
list-interval = "2s"
[trust]
policy-directory = "{folder}/policy.d"
registry = false
[report]
file = "{folder}/{SINK}"
heartbeat = "2s"
[report.collector]
address = "{at}"
certificate = "{pki}/{NODE}.pem"
key = "{pki}/{NODE}-key.pem"
ca = "{pki}/ca.pem"
[admin]
listen = "127.0.0.1:0"
"#
    )
}
