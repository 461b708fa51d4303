//! What `check` and `diff` say of what is accepted, what `policy test` would change, and the exceptions of
//! `policy except`: by the commands, each on the same containers as the running agent.

use std::collections::BTreeMap;

use holdfast_tests::agent;
use holdfast_tests::program::Printed;
use serde_json::Value;
use tempfile::TempDir;

use super::{FAR, SCRIPTS, image, lines, policy, put, scene, spec, unruled};
use crate::scene::{IMAGE, Scene};

#[tokio::test]
async fn what_is_accepted_is_shown_with_its_rule_and_counted() {
    let (scene, digests) = scene(SCRIPTS).await;
    put(&scene, &spec(digests.manifest, FAR));

    let report: Value = serde_json::from_str(&scene.printed(&["-o", "json"]).output).unwrap();
    let mut accepted: BTreeMap<String, Vec<(String, u64)>> = BTreeMap::new();
    for status in report["containers"].as_array().unwrap() {
        let checks = status["checks"].as_array().unwrap().iter();
        let by = checks.filter_map(|check| check["accepted_by"].as_array());
        for by in by.flatten() {
            let rule = by["rule"].as_str().unwrap().to_owned();
            let id = status["container"]["id"].as_str().unwrap().to_owned();
            let count = by["changes"].as_u64().unwrap();
            accepted.entry(id).or_default().push((rule, count));
        }
    }
    let one = |rule: &str| vec![(rule.to_owned(), 1)];
    let due = BTreeMap::from([
        ("fixed".to_owned(), one("scene/fixed")),
        ("plugin".to_owned(), one("scene/plugins")),
    ]);
    assert_eq!(accepted, due);
    let table = scene.printed(&[]).output;
    assert!(
        table.contains("ACCEPTED  fixed\n    1 by scene/fixed\n"),
        "{table}"
    );
    assert!(table.contains("clean, 1 accepted"), "{table}");

    let policies = scene.policies().to_str().unwrap();
    let told = |id: &str, more: &[&str]| {
        let mut arguments = vec![id, "-o", "jsonl"];
        arguments.extend(more);
        let printed = on_node(&scene, &["diff"], &arguments);
        assert_eq!(printed.code, 0, "{printed:?}");
        let parse = |line: &str| serde_json::from_str::<Value>(line).unwrap();
        printed.output.lines().map(parse).collect::<Vec<_>>()
    };
    for (id, rule) in [("fixed", "scene/fixed"), ("state", "scene:volatile")] {
        let changes = told(id, &["--policy", policies]);
        assert!(!changes.is_empty());
        for change in changes {
            assert_eq!(change["severity"], Value::Null, "{change}");
            assert_eq!(change["policy"]["rule"], rule, "{change}");
        }
        // Without the policy it is what it is.
        assert!(told(id, &[]).iter().all(|it| it["severity"].is_string()));
    }
    let table = on_node(&scene, &["diff"], &["fixed", "--policy", policies]).output;
    assert!(table.contains("scene/fixed (was critical)"), "{table}");
}

/// A command that looks at this node.
fn on_node(scene: &Scene, command: &[&str], more: &[&str]) -> Printed {
    let socket = scene.containerd.socket();
    let mut all = command.to_vec();
    all.extend(["--containerd", socket.to_str().unwrap()]);
    all.extend(["--namespace", scene.containerd.namespace()]);
    all.extend(["--agent-state", "/var/tmp/holdfast-no-agent"]);
    all.extend(more);
    agent::run(&all)
}

/// A file with a policy that is not in force, to be tried.
struct Tried<'a> {
    scene: &'a Scene,
    folder: TempDir,
}

impl<'a> Tried<'a> {
    fn new(scene: &'a Scene) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { scene, folder }
    }

    fn test(&self, text: &str, more: &[&str]) -> Printed {
        let file = self.folder.path().join("tried.yaml");
        std::fs::write(&file, text).unwrap();
        self.test_at(file.to_str().unwrap(), more)
    }

    fn test_at(&self, path: &str, more: &[&str]) -> Printed {
        let present = self.scene.policies().to_str().unwrap();
        let mut arguments = vec!["--present", present, path];
        arguments.extend(more);
        on_node(self.scene, &["policy", "test"], &arguments)
    }
}

/// `CONTAINER PATH CLASS SEVERITY → CLASS SEVERITY RULE`, sorted.
fn differences(report: &Value) -> Vec<String> {
    let word = |value: &Value| value.as_str().unwrap_or("none").to_owned();
    let of = |it: &Value| format!("{} {}", word(&it["class"]), word(&it["severity"]));
    let line = |it: &Value| {
        let (id, path, rule) = (
            word(&it["container"]),
            word(&it["path"]),
            word(&it["then"]["rule"]),
        );
        let (now, then) = (of(&it["now"]), of(&it["then"]));
        format!("{id} {path} {now} → {then} {rule}")
    };
    let all = report["differences"].as_array().unwrap();
    let mut lines: Vec<String> = all.iter().map(line).collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn a_test_says_what_a_policy_would_change_and_changes_nothing() {
    let (scene, digests) = scene(SCRIPTS).await;
    let tried = Tried::new(&scene);
    let printed = tried.test(&spec(digests.manifest, FAR), &["-o", "json"]);
    assert_eq!(printed.code, 1, "{printed:?}");
    let report: Value = serde_json::from_str(&printed.output).unwrap();
    assert_eq!(
        differences(&report),
        [
            "config /etc/app.conf configuration warning → configuration info scene:configuration",
            "fixed /usr/bin/tool program critical → program none scene/fixed",
            "plugin /opt/plugins/new.sh program warning → program none scene/plugins",
            "state /srv/state/a.json configuration warning → volatile none scene:volatile",
            "state /srv/state/b data info → volatile none scene:volatile",
        ]
    );
    let summary = &report["summary"];
    let counts = [
        "containers",
        "incomplete",
        "accepted",
        "new",
        "milder",
        "stricter",
    ];
    assert_eq!(
        counts.map(|count| summary[count].as_u64()),
        [14, 0, 4, 0, 1, 0].map(Some)
    );

    let table = tried.test(&spec(digests.manifest, FAR), &["--container", "fixed"]);
    assert_eq!(table.code, 1, "{table:?}");
    assert!(table.output.contains("none (scene/fixed)"), "{table:?}");
    assert!(
        table.output.contains("1 of 1 changes in 1 containers"),
        "{table:?}"
    );
}

#[tokio::test]
async fn a_test_of_what_is_in_force_changes_nothing_and_one_in_its_place_brings_all_back() {
    let (scene, digests) = scene(SCRIPTS).await;
    let tried = Tried::new(&scene);
    put(&scene, &spec(digests.manifest, FAR));
    assert_eq!(tried.test(&spec(digests.manifest, FAR), &[]).code, 0);
    let printed = |printed: &Printed| (printed.code, printed.output.lines().count());
    let stricter = tried.test(&policy("  classes: {volatile: none}\n"), &["-o", "jsonl"]);
    assert_eq!(printed(&stricter), (1, 5), "{stricter:?}");
    let none = tempfile::tempdir().unwrap();
    std::fs::write(none.path().join("pass.yaml"), crate::scene::PASS).unwrap();
    let instead = tried.test_at(none.path().to_str().unwrap(), &["-o", "jsonl"]);
    assert_eq!(printed(&instead), (1, 5), "{instead:?}");
}

#[tokio::test]
async fn a_test_that_could_not_be_made_says_why_by_its_exit_code() {
    let scene = Scene::start().await;
    scene.import(&image("scene"), IMAGE);
    scene.run("one");
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("good.yaml");
    std::fs::write(&good, policy("  volatile: [/srv/**]\n")).unwrap();
    let bad = folder.path().join("bad.yaml");
    std::fs::write(&bad, policy("  volatile: [srv]\n")).unwrap();
    let (good, bad) = (good.to_str().unwrap(), bad.to_str().unwrap());
    let present = ["--present", "/var/tmp/holdfast-no-policies"];
    let test = |more: &[&str]| {
        on_node(
            &scene,
            &["policy", "test"],
            &[present.as_slice(), more].concat(),
        )
    };

    let printed = test(&[good]);
    assert_eq!(printed.code, 0, "{printed:?}");
    let refused = test(&[bad]);
    assert_eq!(refused.code, 78, "{refused:?}");
    let said = "bad.yaml:8:14: path does not begin with \"/\"";
    assert!(refused.errors.contains(said), "{refused:?}");
    let pass = scene.policies().join("pass.yaml");
    let other_kind = test(&[pass.to_str().unwrap()]);
    assert_eq!(other_kind.code, 78, "{other_kind:?}");
    assert_eq!(test(&["/var/tmp/holdfast-no-file"]).code, 78);
    assert_eq!(test(&[good, "--container", "two"]).code, 2);
    let nowhere = agent::run(&[
        "policy",
        "test",
        good,
        "--containerd",
        "/var/tmp/holdfast-no.sock",
    ]);
    assert_eq!(nowhere.code, 4, "{nowhere:?}");
}

#[tokio::test]
async fn ready_made_exceptions_excuse_what_was_there_and_nothing_else() {
    let scripts = [SCRIPTS[0], SCRIPTS[6]];
    let (scene, _) = scene(&scripts).await;
    let present = ["--present", "/var/tmp/holdfast-no-policies"];
    let except = |id: &str, more: &[&str]| {
        let mut arguments = present.to_vec();
        arguments.extend([id, "--reason", "the vendor's \"updater\""]);
        arguments.extend(more);
        on_node(&scene, &["policy", "except"], &arguments)
    };

    for id in ["plugin", "set-id"] {
        let printed = except(id, &[]);
        assert_eq!(
            (printed.code, printed.errors.as_str()),
            (0, ""),
            "{printed:?}"
        );
        let file = scene.policies().join(format!("{id}.yaml"));
        std::fs::write(file, &printed.output).unwrap();
    }
    let controls: Vec<String> = unruled("not-")
        .into_iter()
        .filter(|line| line.contains("plugin"))
        .collect();
    scene.assert_checked(&lines(&controls));
    // The same content without its bit, and another file, were not excused.
    scene
        .containerd
        .ctr()
        .container("set-id")
        .exec("chmod 0755 /opt/plugins/su");
    scene
        .containerd
        .ctr()
        .container("plugin")
        .exec("echo '#!/bin/sh' > /opt/plugins/b.sh");
    let mut more = controls.clone();
    more.push("file-drift moved program /opt/plugins/su warning set-id".to_owned());
    more.push("file-drift added program /opt/plugins/b.sh warning plugin".to_owned());
    scene.assert_checked(&lines(&more));

    let nothing = except("plugin", &["--path", "/usr/**"]);
    assert_eq!(
        (nothing.code, nothing.output.as_str()),
        (0, ""),
        "{nothing:?}"
    );
    assert_eq!(except("plugin", &["--path", "usr"]).code, 2);
}
