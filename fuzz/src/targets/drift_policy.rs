//! Drift policies: refused with a place and a plain sentence, or taken; and whatever is taken excuses nothing
//! that gives a right, unless it writes all of it down with a day on which that ends.

use holdfast_core::digest::Digest;
use holdfast_core::drift::class::judge;
use holdfast_core::drift::policy::{DriftPolicies, Rules};
use holdfast_core::drift::{Change, ChangeKind};
use holdfast_core::finding::{ImageRef, Severity};
use holdfast_core::layer::{Entry, Marker, Node};
use jiff::Timestamp;

use crate::{Target, as_it_is};

pub(super) const TARGET: Target = Target {
    name: "drift_policy",
    check,
    max_bytes: 2 << 10,
    seeds,
    words: &[
        "apiVersion: holdfast.dev/v1alpha1\n",
        "kind: DriftPolicy\n",
        "metadata:\n",
        "  name: ",
        "spec:\n",
        "  match:\n",
        "    images: [\"**\"]\n",
        "    namespaces: [a-*]\n",
        "  volatile: [/srv/**]\n",
        "  classes:\n",
        "    trust-anchor: none\n",
        "    volatile: critical\n",
        "  rules:\n",
        "    - paths: [/**]\n",
        "      classes: [\"*\"]\n",
        "      changes: [added]\n",
        "      severity: none\n",
        "  exceptions:\n",
        "    - image: sha256:",
        "      path: /usr/bin/*\n",
        "      content: any\n",
        "      content: removed\n",
        "      mode: \"4755\"\n",
        "      owner: \"0:0\"\n",
        "      capability: \"01\"\n",
        "      reason: r\n",
        "      expires: \"2099-01-01T00:00:00Z\"\n",
        "\\x2a",
        "\\u{202e}",
        "\n---\n",
    ],
    repair: as_it_is,
};

/// Longest refusal: the file's name, and two quotes of 200 characters with the words around them.
const REFUSAL_CHARS: usize = 800;

fn check(bytes: &[u8]) {
    let load = || DriftPolicies::load([("file", bytes)]);
    let set = match load() {
        Ok(set) => set,
        Err(error) => {
            assert_eq!(load().unwrap_err(), error);
            assert!(error.line >= 1 && error.column >= 1);
            let shown = error.to_string();
            assert!(shown.chars().count() <= REFUSAL_CHARS, "{shown}");
            assert!(!shown.chars().any(char::is_control), "{shown}");
            return;
        }
    };
    let image = ImageRef {
        reference: Some("registry.example/shop/api:1".to_owned()),
        manifest_digest: Some(Digest::of(b"manifest")),
        ..ImageRef::default()
    };
    let rules = set.rules_for(Some(&image), Some("shop"));
    check_decisions(&rules, bytes);
    // After the end of all days no exception holds.
    for change in &guarded() {
        let decision = rules.decide(change, Timestamp::MAX);
        assert_eq!(decision.severity, Some(Severity::Critical), "{change:?}");
    }
}

fn check_decisions(rules: &Rules, bytes: &[u8]) {
    let holds = |word: &[u8]| bytes.windows(word.len()).any(|window| window == word);
    let now = Timestamp::UNIX_EPOCH;
    for change in guarded().iter().chain(&ordinary()) {
        let decision = rules.decide(change, now);
        assert_eq!(decision, rules.decide(change, now));
        let names_rule = decision
            .ruled
            .as_ref()
            .is_some_and(|ruled| ruled.rule.is_some());
        let is_as_judged = decision.severity == Some(change.severity);
        assert!(names_rule || is_as_judged, "nobody said so: {decision:?}");
    }
    for change in &guarded() {
        let is_excused = rules.decide(change, now).severity.is_none();
        let is_written = holds(b"exceptions") && holds(b"sha256:") && holds(b"expires");
        let is_redirected = change.kind == ChangeKind::Redirected;
        assert!(!is_excused || (is_written && !is_redirected), "{change:?}");
    }
}

/// What gives a right.
fn guarded() -> [Change; 3] {
    let set_id = file(b"fixed", 0o4755);
    let plain = file(b"fixed", 0o644);
    [
        change(b"usr/bin/tool", ChangeKind::Added, &set_id),
        change(b"etc/passwd", ChangeKind::Modified, &plain),
        change(b"srv/x", ChangeKind::Redirected, &plain),
    ]
}

fn ordinary() -> [Change; 3] {
    [
        change(b"usr/bin/tool", ChangeKind::Added, &file(b"fixed", 0o755)),
        change(b"srv/a.conf", ChangeKind::Modified, &file(b"fixed", 0o644)),
        change(b"srv/\xff\n", ChangeKind::Added, &file(b"fixed", 0o644)),
    ]
}

fn change(path: &[u8], kind: ChangeKind, actual: &Entry) -> Change {
    judge(path, kind, None, Some(actual), &[]).unwrap()
}

fn file(content: &[u8], mode: u32) -> Entry {
    Entry {
        node: Node::File {
            size: u64::try_from(content.len()).unwrap(),
            digest: Digest::of(content),
            marker: Marker::of(content),
        },
        mode,
        uid: 0,
        gid: 0,
        xattrs: Vec::new(),
        hard_link: None,
    }
}

/// A policy with this tail of its `spec`.
fn policy(tail: &str) -> Vec<u8> {
    format!(
        "apiVersion: holdfast.dev/v1alpha1\nkind: DriftPolicy\nmetadata:\n  name: shop\nspec:\n  match:\n    \
         images: [registry.example/shop/**]\n    namespaces: [shop]\n{tail}"
    )
    .into_bytes()
}

fn seeds() -> Vec<Vec<u8>> {
    let (image, content) = (Digest::of(b"manifest"), Digest::of(b"fixed"));
    let exception = format!(
        "  exceptions:\n    - name: e\n      image: {image}\n      path: /usr/bin/tool\n      content: \
         {content}\n      mode: \"4755\"\n      owner: \"0:0\"\n      reason: r\n      expires: \
         \"2099-01-01T00:00:00Z\"\n"
    );
    let everything = "  volatile: [/**]\n  classes: {program: none, trust-anchor: none, data: none}\n  rules:\n    \
                      - {name: all, paths: [/**], classes: [\"*\"], severity: none}\n";
    let any = exception.replace(&content.to_string(), "any");
    vec![
        policy(everything),
        policy("  classes: {volatile: warning, configuration: critical}\n"),
        policy(
            "  rules:\n    - {paths: [\"/srv/\\\\xff*\"], classes: [data], changes: [added], severity: info}\n",
        ),
        policy(&exception),
        policy(&any),
        [policy(everything), b"---\n".to_vec(), policy(&exception)].concat(),
    ]
}
