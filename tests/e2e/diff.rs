//! `diff`: every path that differs, of one container, whatever it is worth; and what it says when that is not so.

use holdfast_tests::agent;
use holdfast_tests::image::Image;
use holdfast_tests::layer::Entry;
use holdfast_tests::program::Printed;
use serde_json::Value;

use crate::scene::Scene;

/// Files that no finding would list all of.
const MANY: usize = 1_500;

fn diff(scene: &Scene, container: &str, more: &[&str]) -> Printed {
    let socket = scene.containerd.socket();
    let mut all = vec!["diff", container, "--containerd", socket.to_str().unwrap()];
    all.extend(["--namespace", scene.containerd.namespace()]);
    all.extend(["--agent-state", "/var/tmp/holdfast-no-agent"]);
    all.extend(more);
    agent::run(&all)
}

fn lines(printed: &Printed) -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).unwrap();
    printed.output.lines().map(parse).collect()
}

/// `PLACE CHANGE CLASS SEVERITY PATH`.
fn short(change: &Value) -> String {
    let word = |key: &str| change[key].as_str().unwrap_or("-").to_owned();
    ["place", "change", "class", "severity", "path"]
        .map(word)
        .join(" ")
}

#[tokio::test]
async fn it_shows_what_docker_diff_should_have_shown() {
    let scene = Scene::with(&Image::busybox([
        Entry::program("usr/bin/tool", "#!/bin/sh\n"),
        Entry::file("var/log/old", "old"),
    ]))
    .await;
    scene.run("one").exec(
        "cp /bin/busybox /usr/bin/tool; cp /bin/busybox /usr/bin/evil; rm /opt/app/data.txt
         rm /var/log/old; mkdir -p /tmp; echo x > /tmp/new; touch /opt/app/run.sh",
    );
    scene.run("clean");

    let printed = diff(&scene, "one", &["-o", "jsonl"]);
    assert_eq!(printed.code, 0, "{printed:?}");
    let changes = lines(&printed);
    let due = [
        "container removed data warning /opt/app/data.txt",
        "container added volatile - /tmp/new",
        "container moved program warning /usr/bin/evil",
        "container moved program critical /usr/bin/tool",
        "container removed volatile - /var/log/old",
    ];
    let shown: Vec<String> = changes.iter().map(short).collect();
    assert_eq!(shown, due);
    // In volatile places too, what is there is known by its content.
    assert!(changes[1]["actual"]["sha256"].is_string(), "{printed:?}");
    let json = diff(&scene, "one", &["-o", "json"]);
    assert_eq!(
        serde_json::from_str::<Vec<Value>>(&json.output).unwrap(),
        changes
    );
    let table = diff(&scene, "one", &[]);
    assert!(table.output.starts_with("CHANGE"), "{table:?}");
    assert_eq!(table.output.lines().count(), 1 + due.len(), "{table:?}");
    let clean = diff(&scene, "clean", &["-o", "jsonl"]);
    assert_eq!((clean.code, clean.output.as_str()), (0, ""));
}

#[tokio::test]
async fn it_lists_more_than_any_finding_would() {
    let scene = Scene::with(&Image::busybox([])).await;
    scene.run("one").exec(&format!(
        "mkdir /opt/data /var/cache/many
         for i in $(seq {MANY}); do echo $i > /opt/data/$i; echo $i > /var/cache/many/$i; done"
    ));

    let printed = diff(&scene, "one", &["-o", "jsonl"]);

    assert_eq!(printed.code, 0, "{}", printed.errors);
    let changes = lines(&printed);
    let below = |prefix: &str| {
        let path = |change: &&Value| change["path"].as_str().unwrap().starts_with(prefix);
        changes.iter().filter(path).count()
    };
    assert_eq!(below("/opt/data/"), MANY);
    assert_eq!(below("/var/cache/many/"), MANY);
    let table = diff(&scene, "one", &[]);
    assert_eq!(table.output.lines().count(), 1 + changes.len());
}

#[tokio::test]
async fn what_is_not_listed_is_counted_and_the_exit_code_says_so() {
    let scene = Scene::with(&Image::busybox([])).await;
    let container = scene.run("one");
    // A layer's compare keeps ten thousand; this is a file more, in the folder that it lies in.
    let folder = container.lower_of("/opt/app/run.sh");
    let folder = folder.parent().unwrap();
    for number in 0..10_001 {
        std::fs::write(folder.join(number.to_string()), "").unwrap();
    }

    let printed = diff(&scene, "one", &["-o", "jsonl"]);

    assert_eq!(printed.code, 3, "{}", printed.errors);
    assert!(
        printed.errors.contains("1 more not listed"),
        "{}",
        printed.errors
    );
    let changes = lines(&printed);
    assert_eq!(changes.len(), 10_000);
    assert!(changes.iter().all(|change| change["place"] == "layer"));
}

#[tokio::test]
async fn several_containers_are_named_before_anything_is_looked_at() {
    let scene = Scene::with(&Image::busybox([])).await;
    for id in ["alpha-1", "alpha-2", "alpha-22"] {
        scene.run(id);
    }
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();

    let ambiguous = diff(&scene, "alpha", &["--state", state]);

    assert_eq!(ambiguous.code, 2, "{ambiguous:?}");
    assert_eq!(ambiguous.output, "");
    let namespace = scene.containerd.namespace();
    for id in ["alpha-1", "alpha-2", "alpha-22"] {
        let name = format!("{namespace}/{id}");
        assert!(ambiguous.errors.contains(&name), "{ambiguous:?}");
    }
    let tables = std::fs::read_dir(folder.path().join("tables")).unwrap();
    assert_eq!(tables.count(), 0, "nothing was looked at");
    // The whole id means one, though another begins so.
    assert_eq!(diff(&scene, "alpha-2", &[]).code, 0);
    let none = diff(&scene, "beta", &[]);
    assert_eq!(none.code, 2, "{none:?}");
    assert!(none.errors.contains("no running container"), "{none:?}");
}
