//! Scans under drift policies: what another policy says of what was seen already, what is not hashed because a
//! policy calls its place volatile, and what may not hide there.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;

use holdfast_core::drift::policy::{DriftPolicies, Rules};

use super::container::{Container, shown};
use super::image::{EVIL, chmod};

/// Rules of one policy for every image; the tail of its `spec`.
fn rules(spec: &str) -> Arc<Rules> {
    let text = format!(
        "apiVersion: holdfast.dev/v1alpha1\nkind: DriftPolicy\nmetadata: {{name: p}}\n\
         spec:\n  match: {{images: [\"**\"]}}\n{spec}\n"
    );
    let set = DriftPolicies::load([("p", text.as_bytes())]).unwrap();
    Arc::new(set.rules_for(None, None))
}

const STATE: &str = "  volatile: [/opt/state/**, /opt/app/**]";

#[test]
fn another_policy_decides_about_what_was_seen_without_reading_it_again() {
    let mut container = Container::new();
    fs::write(container.upper("usr/bin/victim"), EVIL).unwrap();
    chmod(&container.upper("usr/bin/victim"), 0o755);
    container.scan();
    for (word, due) in [
        ("none", vec![]),
        ("info", vec!["info modified program /usr/bin/victim"]),
    ] {
        container.later(1);
        container.rule_by(&rules(&format!("  classes: {{program: {word}}}")));
        let outcome = container.scan();
        assert_eq!(shown(&outcome), due);
        assert_eq!(outcome.bytes_hashed, 0);
    }
    container.later(1);
    container.rule_by(&Arc::default());
    let due = ["critical modified program /usr/bin/victim"];
    assert_eq!(shown(&container.scan()), due);
}

#[test]
fn data_in_a_place_that_a_policy_calls_volatile_is_not_hashed_until_it_is_no_more() {
    let mut container = Container::new();
    fs::write(container.upper("opt/state/log"), [b'x'; 1000]).unwrap();
    fs::write(container.upper("opt/state/a.json"), [b'x'; 1000]).unwrap();
    container.rule_by(&rules(STATE));
    let outcome = container.scan();
    assert!(shown(&outcome).is_empty(), "{:?}", shown(&outcome));
    assert_eq!(outcome.bytes_hashed, 0);

    container.later(1);
    container.rule_by(&Arc::default());
    let outcome = container.scan();
    let lines = shown(&outcome);
    let log = "info added data /opt/state/log".to_owned();
    assert!(lines.contains(&log), "{lines:?}");
    assert_eq!(outcome.bytes_hashed, 2000);
}

#[test]
fn nothing_that_runs_or_gives_a_right_hides_in_a_volatile_place() {
    let mut container = Container::new();
    for name in ["run.sh", "elf", "bit", "right", ".bashrc"] {
        fs::write(container.upper(&format!("opt/state/{name}")), "text").unwrap();
    }
    fs::write(container.upper("opt/state/elf"), b"\x7fELF and more").unwrap();
    chmod(&container.upper("opt/state/bit"), 0o755);
    chmod(&container.upper("opt/state/right"), 0o4644);
    symlink("/usr/bin/victim", container.upper("opt/state/link")).unwrap();
    container.rule_by(&rules(STATE));
    assert_eq!(
        shown(&container.scan()),
        [
            "critical added data /opt/state/right",
            "critical added trust-anchor /opt/state/.bashrc",
            "warning added program /opt/state/bit",
            "warning added program /opt/state/elf",
            "warning added program /opt/state/link",
            "warning added program /opt/state/run.sh",
        ]
    );
}

#[test]
fn what_is_volatile_by_default_is_found_and_remembered_where_a_policy_raises_it() {
    let mut container = Container::new();
    fs::write(container.upper("tmp/x"), [b'x'; 1000]).unwrap();
    chmod(&container.upper("tmp"), 0o1777);
    container.scan();
    container.rule_by(&rules(
        "  rules: [{paths: [/tmp/x], classes: [volatile], severity: warning}]",
    ));
    for _ in 0..2 {
        container.later(1);
        assert_eq!(shown(&container.scan()), ["warning added volatile /tmp/x"]);
    }
}
