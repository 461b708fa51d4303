//! Drift policies, by the running agent: what may change is no finding, what gives a right stays one, and who
//! is not meant is judged as before. What the commands say of them is in `told.rs`.

mod told;

use std::time::Duration;

use holdfast_core::digest::Digest;
use holdfast_core::finding::{Detail, Finding, Resolution, Transition};
use holdfast_tests::agent::Agent;
use holdfast_tests::containerd::Options;
use holdfast_tests::cri::{Cri, PodSpec};
use holdfast_tests::image::{Digests, Image, Layout};
use holdfast_tests::layer::Entry;
use holdfast_tests::{http, scenario, wait};

use crate::scene::{IMAGE, LIMIT, Scene, assert_open, look_again, metric, transitions};

/// Another image, which no policy here names.
const OTHER: &str = "other.invalid/scene:1";

const FIXED: &str = "#!/bin/sh\necho fixed\n";

fn image(name: &str) -> Image {
    Image::busybox([
        Entry::program("usr/bin/tool", "#!/bin/sh\necho tool\n"),
        Entry::directory("opt/plugins"),
        Entry::directory("srv/state"),
        Entry::file("etc/name", name),
    ])
}

/// A node with one container for each script and the same scripts in containers of the other image.
async fn scene(scripts: &[(&str, &str)]) -> (Scene, Digests) {
    let scene = Scene::start().await;
    let digests = scene.import(&image("scene"), IMAGE);
    scene.import(&image("other"), OTHER);
    for (id, script) in scripts {
        scene.run(id).exec(script);
        let control = format!("not-{id}");
        scene.containerd.ctr().run(OTHER, &control).exec(script);
    }
    (scene, digests)
}

/// A policy for the scene's image; the tail of its `spec`.
fn policy(spec: &str) -> String {
    format!(
        "apiVersion: holdfast.dev/v1alpha1\nkind: DriftPolicy\nmetadata:\n  name: scene\n\
         spec:\n  match:\n    images: [holdfast.invalid/**]\n{spec}"
    )
}

fn exception(image: Digest, expires: &str) -> String {
    let content = Digest::of(FIXED.as_bytes());
    format!(
        "  exceptions:\n    - name: fixed\n      image: {image}\n      path: /usr/bin/tool\n      \
         content: {content}\n      reason: until the next release\n      expires: \"{expires}\"\n"
    )
}

fn put(scene: &Scene, text: &str) {
    // As an administrator's editor and a ConfigMap do it: never half a file.
    let (new, file) = (
        scene.policies().join(".drift.yaml.new"),
        scene.policies().join("drift.yaml"),
    );
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, file).unwrap();
}

/// Why the place of a container is resolved last.
fn resolution(agent: &Agent, container: &str) -> Option<Resolution> {
    let of = |finding: &Finding| {
        finding
            .container
            .as_ref()
            .is_some_and(|it| it.id == container)
    };
    let documents = agent.documents();
    let mut own = documents.iter().filter(|finding| of(finding));
    own.rfind(|finding| finding.transition == Transition::Resolved)?
        .reason
}

const SCRIPTS: &[(&str, &str)] = &[
    ("plugin", "echo '#!/bin/sh' > /opt/plugins/new.sh"),
    ("config", "echo a > /etc/app.conf"),
    ("state", "echo a > /srv/state/a.json; echo b > /srv/state/b"),
    ("running", "echo '#!/bin/sh' > /srv/state/run.sh"),
    (
        "fixed",
        "printf '#!/bin/sh\\necho fixed\\n' > /usr/bin/tool",
    ),
    ("evil", "printf '#!/bin/sh\\necho evil\\n' > /usr/bin/tool"),
    (
        "set-id",
        "cp /bin/busybox /opt/plugins/su; chmod 4755 /opt/plugins/su",
    ),
];

/// What is found without a policy, in a container with this before its name.
fn unruled(prefix: &str) -> Vec<String> {
    [
        "added program /opt/plugins/new.sh warning {}plugin",
        "added configuration /etc/app.conf warning {}config",
        "added configuration /srv/state/a.json warning {}state",
        "added data /srv/state/b info {}state",
        "added program /srv/state/run.sh warning {}running",
        "modified program /usr/bin/tool critical {}fixed",
        "modified program /usr/bin/tool critical {}evil",
        "moved program /opt/plugins/su critical {}set-id",
    ]
    .map(|line| format!("file-drift {}", line.replace("{}", prefix)))
    .to_vec()
}

fn spec(manifest: Digest, expires: &str) -> String {
    let rest = "  volatile: [/srv/state/**]\n  classes: {configuration: info}\n  rules:\n    \
                - {name: plugins, paths: [/opt/plugins/**], classes: [\"*\"], severity: none}\n";
    policy(&format!("{rest}{}", exception(manifest, expires)))
}

const FAR: &str = "2099-01-01T00:00:00Z";

/// What is found with [`spec`], besides the containers of the other image.
const RULED: [&str; 4] = [
    "file-drift added configuration /etc/app.conf info config",
    "file-drift added program /srv/state/run.sh warning running",
    "file-drift modified program /usr/bin/tool critical evil",
    "file-drift moved program /opt/plugins/su critical set-id",
];

fn due(own: &[String]) -> Vec<String> {
    [own, &unruled("not-")].concat()
}

fn lines(lines: &[String]) -> Vec<&str> {
    lines.iter().map(String::as_str).collect()
}

#[tokio::test]
async fn a_policy_decides_about_what_runs_already_and_about_its_image_alone() {
    let (scene, digests) = scene(SCRIPTS).await;
    let (before, ruled) = (due(&unruled("")), due(&RULED.map(str::to_owned)));
    let mut agent = scene.agent().await;
    assert_open(&mut agent, &lines(&before)).await;

    put(&scene, &spec(digests.manifest, FAR));
    assert_open(&mut agent, &lines(&ruled)).await;
    for accepted in ["plugin", "state", "fixed"] {
        let reason = resolution(&agent, accepted);
        assert_eq!(reason, Some(Resolution::Policy), "{accepted}");
    }
    let open = agent.open();
    let lowered = open.iter().find(|finding| {
        let container = finding.container.as_ref();
        container.is_some_and(|container| container.id == "config")
    });
    let Detail::FileDrift(drift) = &lowered.unwrap().detail else {
        panic!("{lowered:?}");
    };
    let said = serde_json::to_value(drift.changes[0].policy.as_ref().unwrap()).unwrap();
    let said_due = serde_json::json!({"rule": "scene:configuration", "default": "warning"});
    assert_eq!(said, said_due);
    let address = agent.http().await;
    let loaded = metric(address, "holdfast_agent_policies{", "kind=\"drift\"");
    assert_eq!(loaded.await, Some(1.0));
    scene.assert_checked(&lines(&ruled));

    // Other content comes to the path that is excused, and the excused one goes.
    let container = scene.containerd.ctr().container("fixed");
    container.exec("echo 'echo evil' >> /usr/bin/tool");
    let mut worse = ruled.clone();
    worse.push("file-drift modified program /usr/bin/tool critical fixed".to_owned());
    assert_open(&mut agent, &lines(&worse)).await;

    std::fs::remove_file(scene.policies().join("drift.yaml")).unwrap();
    assert_open(&mut agent, &lines(&before)).await;
}

#[tokio::test]
async fn a_broken_policy_leaves_the_last_good_one_in_force() {
    let (scene, digests) = scene(SCRIPTS).await;
    let ruled = due(&RULED.map(str::to_owned));
    put(&scene, &spec(digests.manifest, FAR));
    let mut agent = scene.agent().await;
    assert_open(&mut agent, &lines(&ruled)).await;

    let broken = spec(digests.manifest, FAR).replace("  classes:", "  klasses:");
    put(&scene, &broken);
    let place = format!("{}/drift.yaml:9:3: ", scene.policies().display());
    let address = agent.http().await;
    wait::until("the refusal is said", async || {
        let output = agent.process().output();
        let is_logged = output.contains(&place) && output.contains("unknown field");
        let refused = metric(address, "holdfast_agent_policies_refused ", "").await;
        (is_logged && refused == Some(1.0)).then_some(())
    })
    .await;
    look_again(&mut agent).await;
    scenario::assert_exactly(&agent.open(), &lines(&ruled));
    assert_eq!(http::get(address, "/readyz").await.unwrap().0, 200);

    // Where a person looks, it is refused.
    let printed = scene.printed(&[]);
    assert_eq!((printed.code, printed.output.as_str()), (78, ""));
    assert!(printed.errors.contains(&place), "{printed:?}");
    let expected = "expected match, volatile, classes, rules, exceptions";
    assert!(printed.errors.contains(expected), "{printed:?}");
    let mut second = Agent::start(|folder| scene.config(folder));
    assert_eq!(second.process().exit_code().await, 78);

    put(&scene, &spec(digests.manifest, FAR));
    wait::until("it is accepted again", async || {
        let refused = metric(address, "holdfast_agent_policies_refused ", "").await;
        (refused == Some(0.0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_finding_comes_back_when_its_exception_has_expired() {
    let scripts = [SCRIPTS[4]];
    let (scene, digests) = scene(&scripts).await;
    let control = "file-drift modified program /usr/bin/tool critical not-fixed";
    let own = "file-drift modified program /usr/bin/tool critical fixed";
    let mut agent = scene.agent().await;
    assert_open(&mut agent, &[control, own]).await;

    // Long enough that the agent reads it before.
    let expires = jiff::Timestamp::now() + Duration::from_secs(30);
    put(
        &scene,
        &policy(&exception(digests.manifest, &expires.to_string())),
    );
    let due = [
        Transition::Opened,
        Transition::Resolved,
        Transition::Reopened,
    ];
    wait::until_within(LIMIT, "the finding comes back", async || {
        (transitions(&agent, own) == due).then_some(())
    })
    .await;
    assert_eq!(resolution(&agent, "fixed"), Some(Resolution::Policy));
    assert!(jiff::Timestamp::now() >= expires);
    let open = agent.open();
    let open = open.iter().find(|finding| {
        let container = finding.container.as_ref();
        container.is_some_and(|container| container.id == "fixed")
    });
    let Detail::FileDrift(drift) = &open.unwrap().detail else {
        panic!("{open:?}");
    };
    let said = drift.changes[0].policy.clone().unwrap().expired.unwrap();
    assert_eq!((said.exception.as_str(), said.at), ("scene/fixed", expires));
    assert_open(&mut agent, &[control, own]).await;
}

#[tokio::test]
async fn an_exception_that_expires_soon_is_counted_while_it_holds() {
    let (scene, digests) = scene(&[SCRIPTS[4]]).await;
    let expires = jiff::Timestamp::now() + Duration::from_hours(24);
    put(
        &scene,
        &policy(&exception(digests.manifest, &expires.to_string())),
    );
    let mut agent = scene.agent().await;
    let address = agent.http().await;
    wait::until("it is counted", async || {
        let count = metric(address, "holdfast_agent_exceptions_expiring ", "").await;
        (count == Some(1.0)).then_some(())
    })
    .await;
    let control = "file-drift modified program /usr/bin/tool critical not-fixed";
    assert_open(&mut agent, &[control]).await;
}

#[tokio::test]
async fn a_policy_for_a_pod_namespace_reaches_its_pods_alone() {
    let scene = Scene::start_with(Options {
        cri: true,
        ..Options::default()
    })
    .await;
    let mut layout = Layout::new();
    layout.add(&image("scene"), IMAGE);
    scene.containerd.ctr_in("k8s.io").import(&layout);
    let mut cri = Cri::connect(&scene.containerd.socket()).await;
    cri.known(IMAGE).await;
    let mut ids = Vec::new();
    for namespace in ["shop-test", "bank"] {
        let pod = cri.run_pod(&PodSpec::new(namespace, "api", &[])).await;
        let id = cri.run_container(&pod, "api", IMAGE).await;
        cri.exec(&id, "cp /bin/busybox /opt/plugins/new").await;
        ids.push(id);
    }
    let rule = "  rules:\n    - {paths: [/opt/**], classes: [program], severity: none}\n";
    let text = policy(rule).replace("match:\n", "match:\n    namespaces: [\"shop-*\"]\n");
    put(&scene, &text);

    let mut agent = scene.agent().await;
    let due = format!(
        "file-drift moved program /opt/plugins/new warning {}",
        ids[1]
    );
    assert_open(&mut agent, &[&due]).await;
}
