//! Drift policies: what is refused and where, which policies speak of a container, and what they decide
//! together.

use proptest::prelude::*;

use super::*;
use crate::digest::Digest;
use crate::drift::class::judge;
use crate::drift::{Change, ChangeKind, Expired, Ruled};
use crate::layer::{Entry, Marker, Node};

const POLICY: &str = "\
apiVersion: holdfast.dev/v1alpha1
kind: DriftPolicy
metadata:
  name: shop
spec:
  match:
    images:
      - registry.example/shop/**
    namespaces: [shop, \"shop-*\"]
  volatile:
    - /srv/cache/**
  classes:
    configuration: info
    volatile: none
  rules:
    - name: plugins
      paths: [/opt/app/plugins/*]
      classes: [program, data]
      changes: [added]
      severity: none
      reason: the updater writes them
  exceptions:
    - name: hotfix
      image: sha256:IMAGE
      path: /usr/bin/tool
      content: sha256:CONTENT
      reason: patched until the next release
      expires: \"2027-01-31T00:00:00Z\"
";

fn text() -> String {
    let digest = |content: &[u8]| Digest::of(content).encoded();
    POLICY
        .replace("IMAGE", &digest(b"manifest"))
        .replace("CONTENT", &digest(b"fixed"))
}

fn load(text: &str) -> Result<DriftPolicies, DriftPolicyError> {
    DriftPolicies::load([("drift.yaml", text.as_bytes())])
}

#[test]
fn what_we_show_people_is_taken() {
    let page = include_str!("../../../../../docs/drift-policy.md");
    let (_, example) = page.split_once("```yaml\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    for text in [
        example,
        include_str!("../../../../../systemd/drift-policy.yaml"),
    ] {
        assert_eq!(load(text).map(|set| set.len()), Ok(1));
    }
}

/// The refusal after a replacement in the sound policy.
fn refusal(from: &str, to: &str) -> (u64, u64, Problem) {
    let text = text();
    assert!(text.contains(from), "{from}");
    let error = load(&text.replacen(from, to, 1)).unwrap_err();
    (error.line, error.column, error.problem)
}

fn word(found: &str) -> impl Fn(&Problem) -> bool {
    move |problem| matches!(problem, Problem::Word { found: said, .. } if said == found)
}

#[test]
fn a_sound_policy_is_taken_and_counted() {
    let set = load(&text()).unwrap();
    assert_eq!((set.len(), set.is_empty()), (1, false));
    assert!(is_drift_policy(text().as_bytes()));
    assert!(!is_drift_policy(b"kind: DriftPolicy"));
    assert!(!is_drift_policy(b"\xff"));
}

#[test]
fn an_unknown_field_is_refused_with_its_place_and_what_was_expected() {
    let spec = "match volatile classes rules exceptions";
    let classes = "device-node trust-anchor program bytecode-cache volatile configuration data";
    let rule = "name paths classes changes severity reason";
    let exception = "name image path content mode owner capability reason expires";
    for (from, to, (line, column), expected) in [
        ("  volatile:", "  volatil:", (10, 3), spec),
        ("    namespaces:", "    other:", (9, 5), "images namespaces"),
        (
            "    configuration: info",
            "    config: info",
            (13, 5),
            classes,
        ),
        ("      severity: none", "      level: none", (20, 7), rule),
        ("      expires:", "      expiry:", (28, 7), exception),
        (
            "  name: shop",
            "  title: shop",
            (4, 3),
            "name labels annotations",
        ),
    ] {
        let due = Problem::UnknownField {
            field: to.trim().split_once(':').unwrap().0.to_owned(),
            expected: expected.split(' ').collect(),
        };
        assert_eq!(refusal(from, to), (line, column, due), "{to}");
    }
}

#[test]
fn a_missing_field_is_refused_with_the_place_of_what_lacks_it() {
    for (from, field, line) in [
        ("      severity: none\n", "severity", 20),
        ("      classes: [program, data]\n", "classes", 20),
        (
            "      reason: patched until the next release\n",
            "reason",
            27,
        ),
        ("      expires: \"2027-01-31T00:00:00Z\"\n", "expires", 27),
    ] {
        let due = Problem::MissingField(field);
        assert_eq!(refusal(from, ""), (line, 7, due), "{from}");
    }
}

#[test]
fn a_value_that_cannot_be_meant_is_refused_with_its_place() {
    for (from, to, line, column, due) in [
        (
            "holdfast.dev/v1alpha1",
            "holdfast.dev/v1",
            1,
            13,
            Problem::ApiVersion("holdfast.dev/v1".into()),
        ),
        ("name: shop", "name: a/b", 4, 9, Problem::Name),
        (
            "name: hotfix",
            "name: plugins",
            23,
            13,
            Problem::DuplicateName("plugins".into()),
        ),
        (
            "registry.example/shop/**",
            "\"^r.+$\"",
            8,
            9,
            Problem::Glob(crate::trust::policy::GlobError::Character),
        ),
        (
            "/srv/cache/**",
            "srv/cache",
            11,
            7,
            Problem::Pattern(PatternError::Relative),
        ),
        (
            "/srv/cache/**",
            "/srv/../etc/x",
            11,
            7,
            Problem::Pattern(PatternError::Dots),
        ),
        (
            "/opt/app/plugins/*",
            "/opt/**.so",
            17,
            15,
            Problem::Pattern(PatternError::StarsInName),
        ),
        ("[/opt/app/plugins/*]", "[]", 17, 14, Problem::Empty),
        ("[shop, \"shop-*\"]", "[]", 9, 17, Problem::Empty),
        (
            "[shop, \"shop-*\"]",
            "[a/b]",
            9,
            18,
            Problem::Pattern(PatternError::Byte),
        ),
        (
            "reason: patched until the next release",
            "reason: \" \"",
            27,
            15,
            Problem::NoReason,
        ),
    ] {
        let to = if matches!(due, Problem::Pattern(PatternError::Byte)) {
            to.replace("a/b", "\"a\\\\x2fb\"")
        } else {
            to.to_owned()
        };
        assert_eq!(refusal(from, &to), (line, column, due), "{to}");
    }
}

#[test]
fn a_word_that_nobody_knows_is_refused_with_those_that_are_known() {
    for (from, to, line, column, found) in [
        ("configuration: info", "configuration: low", 13, 20, "low"),
        ("severity: none", "severity: None", 20, 17, "None"),
        ("[program, data]", "[program, datas]", 18, 26, "datas"),
        ("[added]", "[created]", 19, 17, "created"),
        // No rule allows a planted redirect, so no rule may say that it does.
        ("[added]", "[redirected]", 19, 17, "redirected"),
        ("image: sha256:", "image: sha512:", 24, 14, ""),
        ("content: sha256:", "content: removed-", 26, 16, ""),
        (
            "\"2027-01-31T00:00:00Z\"",
            "\"2027-01-31\"",
            28,
            16,
            "2027-01-31",
        ),
        ("\"2027-01-31T00:00:00Z\"", "never", 28, 16, "never"),
        (
            "      reason: patched",
            "      mode: \"755\"\n      reason: patched",
            27,
            13,
            "755",
        ),
        (
            "      reason: patched",
            "      owner: root\n      reason: patched",
            27,
            14,
            "root",
        ),
        (
            "      reason: patched",
            "      capability: cap_net_raw\n      reason: patched",
            27,
            19,
            "cap_net_raw",
        ),
    ] {
        let (at_line, at_column, problem) = refusal(from, to);
        assert_eq!((at_line, at_column), (line, column), "{to}: {problem}");
        let is_due = found.is_empty() || word(found)(&problem);
        assert!(
            is_due && matches!(problem, Problem::Word { .. }),
            "{to}: {problem}"
        );
        assert!(problem.to_string().contains("expected "), "{problem}");
    }
}

#[test]
fn a_policy_that_decides_nothing_and_another_kind_in_its_file_are_refused() {
    let text = text();
    let (head, _) = text.split_once("  volatile:").unwrap();
    let error = load(head).unwrap_err();
    assert_eq!((error.line, error.column), (6, 3));
    assert_eq!(error.problem, Problem::DecidesNothing);

    let other = text.replacen("kind: DriftPolicy", "kind: ClusterImagePolicy", 1);
    let error = load(&format!("{text}---\n{other}")).unwrap_err();
    assert_eq!((error.line, error.column), (31, 7), "{error}");
    assert_eq!(error.problem, Problem::Kind("ClusterImagePolicy".into()));

    let error = load(&format!("{text}---\n{text}")).unwrap_err();
    assert_eq!((error.line, error.column), (33, 9), "{error}");
    assert_eq!(error.problem, Problem::DuplicateName("shop".into()));
    let shown = "drift.yaml:33:9: the name \"shop\" stands twice";
    assert_eq!(error.to_string(), shown);
}

#[test]
fn sloppy_yaml_is_refused_with_its_place() {
    for (from, to, line) in [
        ("name: shop", "name: 1", 4),
        ("severity: none", "severity: [none]", 20),
        ("severity: none", "severity: none\n      severity: info", 21),
        ("  classes:\n", "  <<: {}\n  classes:\n", 12),
    ] {
        let (at_line, _, problem) = refusal(from, to);
        assert!(matches!(problem, Problem::Yaml(_)), "{to}: {problem:?}");
        assert_eq!(at_line, line, "{to}: {problem}");
    }
}

#[test]
fn lists_and_files_are_bounded() {
    let many = |line: &str, count| format!("{line}\n").repeat(count);
    let paths = format!("[{}]", "/a, ".repeat(101));
    let (_, _, problem) = refusal("[/opt/app/plugins/*]", &paths);
    assert_eq!(problem, Problem::TooManyEntries(100));
    let images = many("      - a", 101);
    let (_, _, problem) = refusal("      - registry.example/shop/**\n", &images);
    assert_eq!(problem, Problem::TooManyEntries(100));
    let rule = "    - {paths: [/a], classes: [data], severity: none}";
    let (_, _, problem) = refusal(
        "  exceptions:",
        &format!("{}  exceptions:", many(rule, 100)),
    );
    assert_eq!(problem, Problem::TooManyEntries(100));
    let (_, _, problem) = refusal("reason: the", &format!("reason: {}", "x".repeat(1 << 20)));
    assert_eq!(problem, Problem::TooLarge);
    let bomb =
        "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b]\n";
    assert!(matches!(
        load(bomb).unwrap_err().problem,
        Problem::MissingField(_) | Problem::Yaml(_)
    ));
}

#[test]
fn the_name_that_it_was_made_from_and_the_pod_namespace_select_policies() {
    let set = load(&text()).unwrap();
    let image = |reference: &str| ImageRef {
        reference: Some(reference.to_owned()),
        ..ImageRef::default()
    };
    for (reference, namespace, due) in [
        ("registry.example/shop/api:1", Some("shop"), true),
        ("registry.example/shop/api:1", Some("shop-test"), true),
        ("registry.example/shop/api:1", Some("shops"), false),
        ("registry.example/shop/api:1", None, false),
        ("registry.example/other/api:1", Some("shop"), false),
        ("sha256:0", Some("shop"), false),
    ] {
        let rules = set.rules_for(Some(&image(reference)), namespace);
        assert_eq!(
            rules != Rules::default(),
            due,
            "{reference} in {namespace:?}"
        );
    }
    assert_eq!(set.rules_for(None, Some("shop")), Rules::default());
    let everywhere = text()
        .replace("    namespaces: [shop, \"shop-*\"]\n", "")
        .replace("registry.example/shop/**", "\"**\"");
    let set = load(&everywhere).unwrap();
    assert_ne!(set.rules_for(None, None), Rules::default());
}

fn entry(node: Node, mode: u32) -> Entry {
    Entry {
        node,
        mode,
        uid: 0,
        gid: 0,
        xattrs: Vec::new(),
        hard_link: None,
    }
}

fn file(content: &[u8], mode: u32) -> Entry {
    let node = Node::File {
        size: u64::try_from(content.len()).unwrap(),
        digest: Digest::of(content),
        marker: Marker::of(content),
    };
    entry(node, mode)
}

fn change(path: &str, expected: Option<&Entry>, actual: Option<&Entry>) -> Change {
    let kind = crate::drift::compare::compare(path.as_bytes(), expected, actual).unwrap();
    judge(path.as_bytes(), kind, expected, actual, &[]).unwrap()
}

fn added(path: &str, actual: &Entry) -> Change {
    change(path, None, Some(actual))
}

/// The rules of some policies, each the tail of a `spec` for every image, for the image of digest `manifest`.
fn rules(specs: &[&str]) -> Rules {
    let mut text = String::new();
    for (number, spec) in specs.iter().enumerate() {
        let head = text_of_head(number);
        text = format!("{text}---\n{head}{spec}\n");
    }
    let set = load(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let image = ImageRef {
        manifest_digest: Some(Digest::of(b"manifest")),
        ..ImageRef::default()
    };
    set.rules_for(Some(&image), None)
}

fn text_of_head(number: usize) -> String {
    format!(
        "apiVersion: holdfast.dev/v1alpha1\nkind: DriftPolicy\nmetadata:\n  name: p{number}\n\
         spec:\n  match: {{images: [\"**\"]}}\n"
    )
}

fn at(time: &str) -> Timestamp {
    time.parse().unwrap()
}

/// The severity, and the rule that says so.
fn decide(rules: &Rules, change: &Change) -> (Option<Severity>, Option<String>) {
    let decision = rules.decide(change, at("2026-01-01T00:00:00Z"));
    (
        decision.severity,
        decision.ruled.and_then(|ruled| ruled.rule),
    )
}

fn said(severity: Option<Severity>, rule: &str) -> (Option<Severity>, Option<String>) {
    (severity, Some(rule.to_owned()))
}

#[test]
fn without_policies_everything_stays() {
    let program = added("usr/bin/x", &file(b"x", 0o755));
    let decision = Rules::default().decide(&program, Timestamp::UNIX_EPOCH);
    assert_eq!(decision.severity, Some(Severity::Warning));
    assert_eq!((decision.class, decision.ruled), (Class::Program, None));
}

#[test]
fn a_class_is_as_bad_as_the_policy_says() {
    let (config, data) = (
        added("etc/x", &file(b"x", 0o644)),
        added("opt/x", &file(b"x", 0o644)),
    );
    for (word, due) in [
        ("none", None),
        ("info", Some(Severity::Info)),
        ("critical", Some(Severity::Critical)),
    ] {
        let rules = rules(&[&format!("  classes: {{configuration: {word}}}")]);
        assert_eq!(decide(&rules, &config), said(due, "p0:configuration"));
        assert_eq!(decide(&rules, &data), (Some(Severity::Info), None));
    }
    // As bad as it is anyway: nothing was ruled.
    let same = rules(&["  classes: {configuration: warning}"]);
    assert_eq!(decide(&same, &config), (Some(Severity::Warning), None));
}

#[test]
fn a_rule_reaches_its_paths_its_classes_and_its_kinds_of_change() {
    let rules = rules(&[
        "  rules:\n    - {name: a, paths: [/opt/**], classes: [program], changes: [added], severity: none}",
    ]);
    let program = file(b"x", 0o755);
    assert_eq!(
        decide(&rules, &added("opt/x", &program)),
        said(None, "p0/a")
    );
    for other in [
        added("usr/x", &program),
        added("opt/x", &file(b"x", 0o644)),
        change("opt/x", Some(&file(b"y", 0o755)), Some(&program)),
    ] {
        assert_eq!(decide(&rules, &other), (Some(other.severity), None));
    }
}

#[test]
fn in_a_policy_the_first_rule_counts_and_of_policies_the_strictest() {
    let allow = "  rules:\n    - {name: a, paths: [/opt/x], classes: [data], severity: none}\n    \
                 - {name: b, paths: [/opt/**], classes: [data], severity: critical}";
    let strict = "  rules:\n    - {name: s, paths: [/opt/**], classes: [\"*\"], severity: warning}";
    let data = added("opt/x", &file(b"x", 0o644));
    assert_eq!(decide(&rules(&[allow]), &data), said(None, "p0/a"));
    let warning = Some(Severity::Warning);
    assert_eq!(
        decide(&rules(&[allow, strict]), &data),
        said(warning, "p1/s")
    );
    assert_eq!(
        decide(&rules(&[strict, allow]), &data),
        said(warning, "p0/s")
    );
}

#[test]
fn a_rule_outweighs_a_class_and_a_class_the_default() {
    let class = "  classes: {data: critical}";
    let other_class = "  classes: {data: none}";
    let rule = "  rules:\n    - {name: r, paths: [/opt/x], classes: [data], severity: none}";
    let data = added("opt/x", &file(b"x", 0o644));
    assert_eq!(decide(&rules(&[class, rule]), &data), said(None, "p1/r"));
    let strictest = said(Some(Severity::Critical), "p0:data");
    assert_eq!(decide(&rules(&[class, other_class]), &data), strictest);
    let both = said(Some(Severity::Critical), "p1:data");
    assert_eq!(decide(&rules(&[other_class, class]), &data), both);
}

#[test]
fn a_volatile_place_takes_data_and_configuration_and_nothing_that_runs() {
    let rules = rules(&["  volatile: [/srv/**]"]);
    let plain = file(b"x", 0o644);
    let decision = rules.decide(&added("srv/a.conf", &plain), Timestamp::UNIX_EPOCH);
    assert_eq!((decision.severity, decision.class), (None, Class::Volatile));
    assert_eq!(decision.ruled.unwrap().rule.as_deref(), Some("p0:volatile"));
    assert_eq!(decide(&rules, &added("srv/a", &plain)).0, None);
    for kept in [
        added("srv/a", &file(b"x", 0o755)),
        added("srv/a.py", &plain),
        added("srv/.ssh/authorized_keys", &plain),
        added("srv/a", &file(b"x", 0o4644)),
        added(
            "srv/a",
            &entry(Node::BlockDevice { major: 8, minor: 0 }, 0o600),
        ),
        added("opt/a", &plain),
    ] {
        assert_eq!(
            decide(&rules, &kept),
            (Some(kept.severity), None),
            "{kept:?}"
        );
    }
    assert!(rules.is_volatile(b"srv/x") && !rules.is_volatile(b"opt/x"));
}

#[test]
fn what_is_volatile_can_be_raised() {
    let log = Change {
        class: Class::Volatile,
        severity: Severity::Info,
        ..added("var/log/x.txt.d/y", &file(b"x", 0o755))
    };
    let strict = rules(&["  classes: {volatile: warning}"]);
    assert_eq!(
        decide(&strict, &log),
        said(Some(Severity::Warning), "p0:volatile")
    );
    assert!(strict.may_raise_volatile(b"tmp/x"));
    let rule =
        rules(&["  rules:\n    - {name: r, paths: [/tmp/**], classes: [\"*\"], severity: info}"]);
    assert!(rule.may_raise_volatile(b"tmp/x") && !rule.may_raise_volatile(b"run/x"));
    assert_eq!(decide(&rule, &log), (None, None));
    let lax = rules(&["  classes: {volatile: none}\n  volatile: [/srv/**]"]);
    assert!(!lax.may_raise_volatile(b"tmp/x"));
    let both = rules(&["  classes: {volatile: warning}\n  volatile: [/srv/**]"]);
    let data = added("srv/a", &file(b"x", 0o644));
    assert_eq!(
        decide(&both, &data),
        said(Some(Severity::Warning), "p0:volatile")
    );
}

const ALL: &str = "  volatile: [/**]\n  classes: {device-node: none, trust-anchor: none, program: none, \
    bytecode-cache: none, volatile: none, configuration: none, data: none}\n  rules:\n    \
    - {name: all, paths: [/**], classes: [\"*\"], severity: none}";

#[test]
fn no_rule_silences_what_gives_a_right() {
    let rules = rules(&[ALL]);
    let mut capable = file(b"x", 0o755);
    capable.xattrs = vec![(b"security.capability".to_vec(), vec![1])];
    let redirected = |path: &[u8]| {
        let actual = entry(Node::Directory { opaque: false }, 0o755);
        judge(path, ChangeKind::Redirected, None, Some(&actual), &[]).unwrap()
    };
    let passwd = change(
        "etc/passwd",
        Some(&file(b"a", 0o644)),
        Some(&file(b"b", 0o644)),
    );
    for kept in [
        added("usr/bin/x", &file(b"x", 0o4755)),
        added("tmp/x", &file(b"x", 0o2644)),
        change("usr/bin/x", Some(&file(b"x", 0o755)), Some(&capable)),
        redirected(b"opt"),
        redirected(b"tmp/x"),
        passwd.clone(),
        change("etc/shadow", Some(&file(b"a", 0o600)), None),
    ] {
        assert_eq!(
            decide(&rules, &kept),
            (Some(Severity::Critical), None),
            "{kept:?}"
        );
    }
    // What its entries say decides: an unprivileged one is like any other trust anchor.
    let harmless = Change {
        severity: Severity::Warning,
        ..passwd
    };
    assert_eq!(decide(&rules, &harmless), said(None, "p0/all"));
    assert_eq!(
        decide(&rules, &added("usr/bin/x", &file(b"x", 0o755))),
        said(None, "p0/all")
    );
}

/// An exception for the file of content `fixed` at `/usr/bin/tool`, with more fields.
fn excepted(path: &str, content: &str, more: &str) -> Rules {
    let (image, fixed) = (Digest::of(b"manifest"), Digest::of(b"fixed"));
    let content = content.replace("FIXED", &fixed.to_string());
    rules(&[&format!(
        "  exceptions:\n    - {{name: e, image: {image}, path: {path}, content: \"{content}\", {more}\
         reason: r, expires: \"2026-06-01T00:00:00Z\"}}"
    )])
}

fn onto_tool(actual: &Entry) -> Change {
    change("usr/bin/tool", Some(&file(b"old", 0o755)), Some(actual))
}

#[test]
fn an_exception_excuses_one_content_of_one_image_and_no_other() {
    let rules = excepted("/usr/bin/tool", "FIXED", "");
    let fixed = onto_tool(&file(b"fixed", 0o755));
    assert_eq!(decide(&rules, &fixed), said(None, "p0/e"));
    let critical = (Some(Severity::Critical), None);
    assert_eq!(decide(&rules, &onto_tool(&file(b"other", 0o755))), critical);
    let elsewhere = added("usr/bin/tool2", &file(b"fixed", 0o755));
    assert_eq!(decide(&rules, &elsewhere), (Some(Severity::Warning), None));
    let removed = change("usr/bin/tool", Some(&file(b"old", 0o755)), None);
    assert_eq!(decide(&rules, &removed), (Some(Severity::Warning), None));

    let set = load(&text().replace("    namespaces: [shop, \"shop-*\"]\n", "")).unwrap();
    let image = |digest: &[u8]| ImageRef {
        reference: Some("registry.example/shop/api:1".to_owned()),
        config_digest: Some(Digest::of(digest)),
        ..ImageRef::default()
    };
    let own = set.rules_for(Some(&image(b"manifest")), None);
    assert_eq!(decide(&own, &fixed), said(None, "shop/hotfix"));
    let other = set.rules_for(Some(&image(b"other image")), None);
    assert_eq!(decide(&other, &fixed), critical);
}

#[test]
fn an_exception_that_has_expired_lets_the_finding_come_back_and_is_named() {
    let rules = excepted("/usr/bin/tool", "FIXED", "");
    let fixed = onto_tool(&file(b"fixed", 0o755));
    let before = rules.decide(&fixed, at("2026-05-31T23:59:59Z"));
    assert_eq!(before.severity, None);
    let after = rules.decide(&fixed, at("2026-06-01T00:00:00Z"));
    assert_eq!(after.severity, Some(Severity::Critical));
    let expired = Expired {
        exception: "p0/e".to_owned(),
        at: at("2026-06-01T00:00:00Z"),
    };
    let due = Ruled {
        rule: None,
        default: Some(Severity::Critical),
        expired: Some(expired),
    };
    assert_eq!(after.ruled, Some(due));
    // It had nothing to do with another content.
    let other = rules.decide(
        &onto_tool(&file(b"other", 0o755)),
        at("2026-06-01T00:00:00Z"),
    );
    assert_eq!(other.ruled, None);
}

#[test]
fn an_exception_outweighs_every_rule() {
    let image = Digest::of(b"manifest");
    let exception = format!(
        "  exceptions:\n    - {{name: e, image: {image}, path: /opt/**, content: any, reason: r, \
         expires: \"2026-06-01T00:00:00Z\"}}"
    );
    let strict = "  rules:\n    - {name: s, paths: [/**], classes: [\"*\"], severity: critical}";
    let rules = rules(&[strict, &exception]);
    assert_eq!(
        decide(&rules, &added("opt/x", &file(b"x", 0o755))),
        said(None, "p1/e")
    );
    let critical = said(Some(Severity::Critical), "p0/s");
    assert_eq!(
        decide(&rules, &added("usr/x", &file(b"x", 0o755))),
        critical
    );
}

#[test]
fn mode_owner_and_a_link_target_are_held_to_what_is_written() {
    let owned = excepted("/usr/bin/tool", "FIXED", "mode: \"0755\", owner: \"0:0\", ");
    assert_eq!(decide(&owned, &onto_tool(&file(b"fixed", 0o755))).0, None);
    let foreign = Entry {
        uid: 1000,
        ..file(b"fixed", 0o755)
    };
    assert!(
        decide(&owned, &onto_tool(&file(b"fixed", 0o777)))
            .0
            .is_some()
    );
    assert!(decide(&owned, &onto_tool(&foreign)).0.is_some());
    let link = |target: &str| {
        let node = Node::Symlink {
            target: target.into(),
        };
        added("opt/link", &entry(node, 0o777))
    };
    let linked = excepted("/opt/*", "link:/opt/a", "");
    assert_eq!(decide(&linked, &link("/opt/a")).0, None);
    assert!(decide(&linked, &link("/opt/b")).0.is_some());
    let removed = excepted("/opt/**", "removed", "");
    let gone = change("opt/x", Some(&file(b"x", 0o644)), None);
    assert_eq!(decide(&removed, &gone).0, None);
    assert!(
        decide(&removed, &added("opt/x", &file(b"x", 0o644)))
            .0
            .is_some()
    );
}

#[test]
fn what_gives_a_right_is_excused_only_where_all_of_it_is_written() {
    let set_id = onto_tool(&file(b"fixed", 0o4755));
    let whole = "mode: \"4755\", owner: \"0:0\", ";
    let mut capable = file(b"fixed", 0o4755);
    capable.xattrs = vec![(b"security.capability".to_vec(), vec![1, 2])];
    let capable = onto_tool(&capable);
    let is_excused = |content: &str, more: &str, change: &Change| {
        decide(&excepted("/usr/bin/tool", content, more), change)
            .0
            .is_none()
    };
    assert!(is_excused("FIXED", whole, &set_id));
    // The same content without the bit is no reason to excuse the bit.
    for more in [
        "",
        "mode: \"4755\", ",
        "owner: \"0:0\", ",
        "mode: \"0755\", owner: \"0:0\", ",
    ] {
        assert!(!is_excused("FIXED", more, &set_id), "{more}");
    }
    assert!(!is_excused("any", whole, &set_id));
    assert!(!is_excused("FIXED", whole, &capable));
    let with = format!("{whole}capability: \"0102\", ");
    assert!(is_excused("FIXED", &with, &capable));
    assert!(!is_excused("FIXED", &with, &set_id));
    let other = format!("{whole}capability: \"0103\", ");
    assert!(!is_excused("FIXED", &other, &capable));
}

#[test]
fn a_critical_account_file_is_excused_by_its_content_and_a_redirect_by_nothing() {
    let passwd = change(
        "etc/passwd",
        Some(&file(b"a", 0o644)),
        Some(&file(b"fixed", 0o644)),
    );
    assert_eq!(decide(&excepted("/etc/*", "FIXED", ""), &passwd).0, None);
    assert!(decide(&excepted("/etc/*", "any", ""), &passwd).0.is_some());
    let shadow = change("etc/shadow", Some(&file(b"a", 0o600)), None);
    assert!(
        decide(&excepted("/etc/*", "removed", ""), &shadow)
            .0
            .is_some()
    );
    let actual = file(b"fixed", 0o755);
    let redirected = judge(b"opt/x", ChangeKind::Redirected, None, Some(&actual), &[]).unwrap();
    for content in ["FIXED", "any"] {
        let rules = excepted("/**", content, "mode: \"0755\", owner: \"0:0\", ");
        assert_eq!(
            decide(&rules, &redirected),
            (Some(Severity::Critical), None)
        );
    }
}

#[test]
fn a_policy_under_test_takes_the_place_of_the_one_of_its_name() {
    let set = |name: &str, word: &str| {
        let head = text_of_head(0).replace("p0", name);
        load(&format!("{head}  classes: {{data: {word}}}")).unwrap()
    };
    let present = set("a", "critical");
    let data = added("opt/x", &file(b"x", 0o644));
    let severity = |set: &DriftPolicies| decide(&set.rules_for(None, None), &data).0;
    assert_eq!(severity(&present.clone().with(&set("a", "none"))), None);
    let added = present.with(&set("b", "none"));
    assert_eq!(
        (added.len(), severity(&added)),
        (2, Some(Severity::Critical))
    );
}

#[test]
fn exceptions_that_expire_soon_are_counted() {
    let set = load(&text()).unwrap();
    let week = SignedDuration::from_hours(7 * 24);
    for (now, due) in [
        ("2027-01-01T00:00:00Z", 0),
        ("2027-01-24T00:00:00Z", 1),
        ("2027-01-30T23:59:59Z", 1),
        ("2027-01-31T00:00:00Z", 0),
    ] {
        assert_eq!(set.expiring(at(now), week), due, "{now}");
    }
}

#[test]
fn only_what_changes_what_is_seen_makes_a_scan_look_anew() {
    let exception = excepted("/usr/bin/tool", "FIXED", "");
    let other = excepted("/usr/bin/tool2", "FIXED", "");
    assert!(exception.sees_as_much_as(&other));
    assert!(rules(&["  classes: {data: none}"]).sees_as_much_as(&Rules::default()));
    let raised = rules(&["  classes: {volatile: info}"]);
    assert!(!raised.sees_as_much_as(&Rules::default()));
    let volatile = rules(&["  volatile: [/srv/**]"]);
    assert!(!volatile.sees_as_much_as(&exception) && !exception.sees_as_much_as(&volatile));
    assert!(volatile.sees_as_much_as(&volatile.clone()));
}

/// What the ready-made policy for these changes lets pass of them; `None` where it has no exception.
fn excused_by_snippet(changes: &[Change]) -> Option<Vec<bool>> {
    let expires = at("2026-06-01T00:00:00Z");
    let mut snippet = Snippet::new("web\n1", Digest::of(b"manifest"), "so \"be\" it\n", expires);
    for change in changes {
        assert_eq!(snippet.add(change), Ok(()), "{change:?}");
    }
    let text = snippet.finish()?;
    let set = load(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let image = ImageRef {
        manifest_digest: Some(Digest::of(b"manifest")),
        ..ImageRef::default()
    };
    let rules = set.rules_for(Some(&image), None);
    let all = changes.iter();
    Some(
        all.map(|change| decide(&rules, change).0.is_none())
            .collect(),
    )
}

#[test]
fn a_ready_made_exception_excuses_what_it_was_made_for() {
    let mut capable = file(b"x", 0o4755);
    capable.xattrs = vec![(b"security.capability".to_vec(), vec![1, 2])];
    let link = entry(
        Node::Symlink {
            target: b"/a\\\"\n\xff".to_vec(),
        },
        0o777,
    );
    let changes = [
        added("usr/bin/x*\n\"\\", &file(b"x", 0o755)),
        added("usr/bin/su", &capable),
        added("opt/link", &link),
        added("opt/pipe", &entry(Node::Fifo, 0o644)),
        change(
            "etc/passwd",
            Some(&file(b"a", 0o644)),
            Some(&file(b"b", 0o644)),
        ),
        change("opt/gone", Some(&file(b"a", 0o644)), None),
    ];
    assert_eq!(
        excused_by_snippet(&changes),
        Some(vec![true; changes.len()])
    );
    assert_eq!(excused_by_snippet(&[]), None);
}

#[test]
fn what_cannot_be_excused_has_no_ready_made_exception() {
    let mut snippet = Snippet::new("x", Digest::of(b"manifest"), "r", Timestamp::UNIX_EPOCH);
    let actual = file(b"x", 0o644);
    let redirected = judge(b"opt/x", ChangeKind::Redirected, None, Some(&actual), &[]).unwrap();
    assert_eq!(snippet.add(&redirected), Err(NoException::Redirected));
    let shadow = change("etc/shadow", Some(&file(b"a", 0o600)), None);
    assert_eq!(snippet.add(&shadow), Err(NoException::NoContent));
    assert_eq!(snippet.finish(), None);
}

proptest! {
    #[test]
    fn no_bytes_make_the_loader_panic_or_hang(cut in 0usize..900, noise: Vec<u8>) {
        let text = text();
        let cut = cut.min(text.len());
        let bytes = [&text.as_bytes()[..cut], &noise, &text.as_bytes()[cut..]].concat();
        if let Err(error) = DriftPolicies::load([("a", bytes.as_slice())]) {
            prop_assert!(error.line >= 1 && error.column >= 1);
            prop_assert!(!error.to_string().chars().any(char::is_control));
        }
    }
}
