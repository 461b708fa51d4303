//! Policy files as people write them: what is taken, and what is refused, with its place. Long, because
//! the tables of refusals and of names are the specification.

use proptest::prelude::*;

use super::*;
use crate::trust::forge::SigningKey;

/// A policy that is taken; tests break one thing in it.
fn policy() -> String {
    let pem = SigningKey::generate().public_pem();
    let data = pem.trim_end().replace('\n', "\n          ");
    format!(
        "apiVersion: policy.sigstore.dev/v1beta1
kind: ClusterImagePolicy
metadata:
  name: shop
spec:
  images:
    - glob: registry.example/shop/**
  authorities:
    - name: release
      key:
        hashAlgorithm: sha256
        data: |
          {data}
  mode: enforce
"
    )
}

fn load(text: &str) -> Result<PolicySet, PolicyError> {
    PolicySet::load([("shop.yaml", text.as_bytes())])
}

/// Line, column and problem of a policy in which `from` is replaced by `to`.
#[track_caller]
fn refusal(from: &str, to: &str) -> (u64, u64, Problem) {
    let text = policy();
    let changed = text.replacen(from, to, 1);
    assert_ne!(changed, text, "{from:?} is not in the policy");
    let error = load(&changed).unwrap_err();
    assert_eq!(error.file, "shop.yaml");
    (error.line, error.column, error.problem)
}

#[test]
fn a_policy_with_a_key_is_taken() {
    let set = load(&policy()).unwrap();
    let matching = set.matching(&["registry.example/shop/api:1"]);
    assert_eq!(matching.len(), 1);
    assert_eq!(matching[0].name(), "shop");
    assert_eq!(matching[0].mode, Mode::Enforce);
    assert_eq!(matching[0].authorities[0].name, "release");
    assert!(matches!(&matching[0].authorities[0].rule, Rule::Keys(keys) if keys.len() == 1));
}

#[test]
fn what_may_be_left_out_has_the_usual_default() {
    let text = policy()
        .replace("    - name: release\n      key:", "    - key:")
        .replace("        hashAlgorithm: sha256\n", "")
        .replace("  mode: enforce\n", "")
        .replace("v1beta1", "v1alpha1");
    let set = load(&text).unwrap();
    let policy = set.matching(&["registry.example/shop/api"])[0];
    assert_eq!(policy.mode, Mode::Enforce);
    assert_eq!(policy.authorities[0].name, "authority-0");
}

#[test]
fn labels_and_annotations_describe_and_are_taken() {
    let text = policy().replace(
        "  name: shop\n",
        "  name: shop\n  labels: {team: a}\n  annotations:\n    note: b\n",
    );
    assert!(load(&text).is_ok());
}

#[test]
fn several_documents_and_files_make_one_set() {
    let (one, two) = (policy(), policy().replace("name: shop", "name: two"));
    let three = policy().replace("name: shop", "name: three");
    let file = format!("---\n{one}---\n{two}---\n");
    let set = PolicySet::load([("a.yaml", file.as_bytes()), ("b.yaml", three.as_bytes())]).unwrap();
    assert_eq!(set.len(), 3);
    assert_eq!(set.matching(&["registry.example/shop/api"]).len(), 3);
    assert_eq!(set.matching(&["registry.example/other/api"]).len(), 0);
    assert!(PolicySet::load([]).unwrap().is_empty());
}

#[test]
fn a_name_stands_once_in_all_files() {
    let text = policy();
    let error =
        PolicySet::load([("a.yaml", text.as_bytes()), ("b.yaml", text.as_bytes())]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "b.yaml:4:9: the name \"shop\" stands twice"
    );
}

#[test]
fn static_answers_are_taken() {
    for (form, due) in [
        ("action: pass", "Pass"),
        ("action: fail", "Fail { message: None }"),
        (
            "{action: fail, message: use the mirror}",
            "Fail { message: Some(\"use the mirror\") }",
        ),
    ] {
        let text = policy();
        let (head, _) = text.split_once("      key:").unwrap();
        let form = if form.starts_with('{') {
            format!("{head}      static: {form}\n")
        } else {
            format!("{head}      static:\n        {form}\n")
        };
        let set = load(&form).unwrap();
        let rule = &set.matching(&["registry.example/shop/api"])[0].authorities[0].rule;
        assert_eq!(format!("{rule:?}"), due);
        assert!(!set.needs_signatures(&["registry.example/shop/api"]));
    }
}

#[test]
fn signatures_are_needed_where_a_matching_policy_has_a_key() {
    let set = load(&policy()).unwrap();
    assert!(set.needs_signatures(&["x", "registry.example/shop/api"]));
    assert!(!set.needs_signatures(&["registry.example/other"]));
    assert!(!set.needs_signatures::<&str>(&[]));
}

#[test]
fn fields_that_come_later_are_refused_where_they_stand() {
    let authority = ("      key:", "\n      key:", 10, 7);
    let key = ("        hashAlgorithm: sha256", "", 11, 9);
    let spec = ("  mode: enforce", "", 16, 3);
    for ((from, after, line, column), field, value) in [
        (authority, "keyless", "{}"),
        (authority, "ctlog", "{}"),
        (authority, "attestations", "[]"),
        (authority, "source", "[]"),
        (authority, "signatureFormat", "legacy"),
        (authority, "rfc3161timestamp", "{trustRootRef: x}"),
        (key, "secretRef", "{name: x}"),
        (key, "kms", "awskms://x"),
        (spec, "match", "[]"),
        (spec, "policy", "{type: cue}"),
    ] {
        let indent = " ".repeat(column - 1);
        let problem = refusal(from, &format!("{indent}{field}: {value}{after}"));
        let Problem::NotSupported { field: named, .. } = &problem.2 else {
            panic!("{field}: {problem:?}");
        };
        let column = u64::try_from(column).unwrap();
        assert_eq!(
            (named.as_str(), problem.0, problem.1),
            (field, line, column)
        );
    }
}

#[test]
fn fields_that_nobody_knows_are_refused_with_what_may_stand_there() {
    let (line, column, problem) = refusal("  mode:", "  mod:");
    assert_eq!((line, column), (16, 3));
    assert_eq!(
        problem.to_string(),
        "unknown field \"mod\"; expected images, authorities, mode"
    );
    for (from, to, line, column) in [
        ("kind: Cl", "extra: 1\nkind: Cl", 2, 1),
        ("  name: shop", "  name: shop\n  namespace: x", 5, 3),
        ("    - glob: registry", "    - regex: registry", 7, 7),
        ("      key:", "      keys: []\n      key:", 10, 7),
        (
            "        hashAlgorithm: sha256",
            "        hash: sha256",
            11,
            9,
        ),
    ] {
        let (at_line, at_column, problem) = refusal(from, to);
        assert!(
            matches!(problem, Problem::UnknownField { .. }),
            "{problem:?}"
        );
        assert_eq!((at_line, at_column), (line, column), "{to}");
    }
}

#[test]
fn values_that_cannot_be_evaluated_are_refused_where_they_stand() {
    for (from, to, line, column, due) in [
        (
            "v1beta1",
            "v1",
            1,
            13,
            Problem::ApiVersion("policy.sigstore.dev/v1".into()),
        ),
        (
            "ClusterImagePolicy",
            "TrustRoot",
            2,
            7,
            Problem::Kind("TrustRoot".into()),
        ),
        ("name: shop", "name: sh op", 4, 9, Problem::Name),
        ("name: shop", "name: \"\"", 4, 9, Problem::Name),
        ("name: shop", "name: \"a\\0b\"", 4, 9, Problem::Name),
        ("name: release", "name: a/b", 9, 13, Problem::Name),
        (
            "glob: registry.example/shop/**",
            "glob: \"^r[a-z]+$\"",
            7,
            13,
            Problem::Glob(GlobError::Character),
        ),
        (
            "glob: registry.example/shop/**",
            "glob: \"\"",
            7,
            13,
            Problem::Glob(GlobError::Empty),
        ),
        (
            "hashAlgorithm: sha256",
            "hashAlgorithm: sha512",
            11,
            24,
            Problem::HashAlgorithm("sha512".into()),
        ),
        (
            "mode: enforce",
            "mode: audit",
            16,
            9,
            Problem::Mode("audit".into()),
        ),
        (
            "-----BEGIN PUBLIC KEY-----",
            "-----BEGIN CERTIFICATE-----",
            13,
            11,
            Problem::Key(KeyError::Pem),
        ),
    ] {
        assert_eq!(refusal(from, to), (line, column, due), "{to}");
    }
}

#[test]
fn an_authority_has_exactly_one_rule() {
    let both = refusal("      key:", "      static: {action: pass}\n      key:");
    assert_eq!(both, (9, 13, Problem::OneRule));
    let text = policy();
    let (head, _) = text.split_once("      key:").unwrap();
    for (tail, line, column, due) in [
        ("", 9, 13, Problem::OneRule),
        (
            "      key:\n        hashAlgorithm: sha256\n",
            11,
            9,
            Problem::NoKeyData,
        ),
        (
            "      static:\n        action: maybe\n",
            11,
            17,
            Problem::Action("maybe".into()),
        ),
        (
            "      static:\n        action: pass\n        message: x\n",
            12,
            18,
            Problem::PassMessage,
        ),
        (
            "    - name: release\n      static: {action: pass}\n",
            9,
            13,
            Problem::OneRule,
        ),
        (
            "      static: {action: pass}\n    - name: release\n      static: {action: pass}\n",
            11,
            13,
            Problem::DuplicateName("release".into()),
        ),
    ] {
        let error = load(&format!("{head}{tail}")).unwrap_err();
        assert_eq!(
            (error.line, error.column, error.problem),
            (line, column, due),
            "{tail}"
        );
    }
}

#[test]
fn a_policy_that_names_no_image_or_nobody_is_refused() {
    let text = policy();
    let (head, _) = text.split_once("  authorities:").unwrap();
    for (text, line, column, due) in [
        (head.to_owned(), 7, 5, Problem::NoAuthorities),
        (
            format!("{head}  authorities: []\n"),
            8,
            16,
            Problem::NoAuthorities,
        ),
        (
            text.replace("\n    - glob: registry.example/shop/**", " []"),
            6,
            11,
            Problem::NoImages,
        ),
        (
            format!(
                "{}\n",
                head.replace(
                    "  images:\n    - glob: registry.example/shop/**\n",
                    "  mode: warn\n"
                )
            ),
            6,
            3,
            Problem::MissingField("images"),
        ),
        (String::new(), 1, 1, Problem::NoPolicy),
        (
            "# only a comment\n---\n".to_owned(),
            1,
            1,
            Problem::NoPolicy,
        ),
    ] {
        let error = load(&text).unwrap_err();
        assert_eq!(
            (error.line, error.column, error.problem),
            (line, column, due),
            "{text}"
        );
    }
}

#[test]
fn sloppy_yaml_is_refused_with_its_place() {
    for (from, to, line) in [
        ("  mode: enforce", "  mode: warn\n  mode: enforce", 17),
        ("name: shop", "name: 1", 4),
        ("name: shop", "name: true", 4),
        ("name: shop", "name: [shop]", 4),
        ("  mode: enforce", "  <<: {mode: warn}", 16),
        ("metadata:", "metadata: \"", 3),
        ("  mode: enforce", "\tmode: enforce", 16),
    ] {
        let (at_line, column, problem) = refusal(from, to);
        assert!(matches!(problem, Problem::Yaml(_)), "{to}: {problem:?}");
        assert!(column >= 1);
        assert_eq!(at_line, line, "{to}: {problem}");
    }
}

#[test]
fn a_file_that_would_exhaust_us_is_refused() {
    let large = vec![b'#'; MAX_FILE + 1];
    let error = PolicySet::load([("a", large.as_slice())]).unwrap_err();
    assert_eq!(error.problem, Problem::TooLarge);

    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let below = format!("*a{}, ", level - 1).repeat(9);
        bomb = format!("{bomb}a{level}: &a{level} [{below}]\n");
    }
    for text in [bomb, "[".repeat(20_000), "\u{0}".to_owned()] {
        let error = load(&text).unwrap_err();
        assert!(matches!(error.problem, Problem::Yaml(_)), "{error}");
    }
    let error = PolicySet::load([("a", b"\xff\xfe\x00".as_slice())]).unwrap_err();
    assert!(matches!(error.problem, Problem::Yaml(_)), "{error}");
}

#[test]
fn lists_are_bounded() {
    let globs = "    - glob: a\n".repeat(101);
    let (_, _, problem) = refusal("    - glob: registry.example/shop/**\n", &globs);
    assert_eq!(problem, Problem::TooManyEntries(100));
    let text = policy();
    let (head, _) = text.split_once("    - name: release").unwrap();
    let many = "    - static: {action: pass}\n".repeat(101);
    let error = load(&format!("{head}{many}")).unwrap_err();
    assert_eq!(error.problem, Problem::TooManyEntries(100));
}

/// Written from the behaviour of policy-controller: the name is qualified, the whole of it is matched,
/// and the text as written is a second chance.
#[test]
fn names_match_as_in_policy_controller() {
    let digest = format!("sha256:{}", "0".repeat(64));
    let pinned = format!("quay.example/a/b@{digest}");
    let tagged = format!("quay.example/a/b:v2@{digest}");
    for (name, glob, due) in [
        // Docker Hub's official images
        ("alpine", "index.docker.io/library/alpine:latest", true),
        ("alpine", "index.docker.io/library/alpine", false),
        ("alpine", "index.docker.io/library/alpine:*", true),
        ("alpine:3", "index.docker.io/library/alpine:3", true),
        ("alpine:3", "index.docker.io/library/alpine:latest", false),
        ("alpine", "index.docker.io/library/*", true),
        ("alpine", "index.docker.io/*", false),
        ("alpine", "index.docker.io/**", true),
        ("alpine", "docker.io/**", false),
        ("alpine", "*", true),
        ("alpine", "*/*", true),
        ("alpine", "alpine", true),
        ("alpine:3", "alpine", false),
        ("alpine:3", "alpine:*", true),
        ("alpine", "**", true),
        (
            "docker.io/library/alpine:3",
            "docker.io/library/alpine:3",
            true,
        ),
        (
            "docker.io/library/alpine:3",
            "index.docker.io/library/alpine:3",
            true,
        ),
        (
            "docker.io/alpine",
            "index.docker.io/library/alpine:latest",
            true,
        ),
        // Docker Hub's other images
        ("team/app", "index.docker.io/team/app:latest", true),
        ("team/app", "*/*", true),
        ("team/app", "*", false),
        ("team/app", "index.docker.io/library/*", false),
        ("team/app", "team/*", true),
        ("team/sub/app", "*/*", false),
        ("team/sub/app", "index.docker.io/*/*", false),
        ("team/sub/app", "index.docker.io/team/**", true),
        // other registries
        ("ghcr.example/a/b", "ghcr.example/a/b:latest", true),
        ("ghcr.example/a/b", "ghcr.example/a/b", true),
        ("ghcr.example/a/b:v1", "ghcr.example/a/b", false),
        ("ghcr.example/a/b:v1", "ghcr.example/a/b*", true),
        ("ghcr.example/a/b/c:v1", "ghcr.example/a/b*", false),
        ("ghcr.example/a/b/c:v1", "ghcr.example/a/b**", true),
        ("ghcr.example/a/b", "ghcr.example/*/*", true),
        ("ghcr.example/a", "ghcr.example/*/*", false),
        ("ghcr.example/a/b/c", "ghcr.example/*/*", false),
        ("ghcr.example/a/b", "*/**", true),
        ("ghcr.example/a/b", "*", false),
        ("ghcr.example/a/b", "*/*", false),
        ("ghcr.example/a/b", "*.example/**", true),
        ("ghcr-example/a/b", "ghcr.example/**", false),
        ("xghcr.example/a/b", "ghcr.example/**", false),
        ("ghcr.example/a/bx", "ghcr.example/a/b:*", false),
        ("ghcr.example.evil/a/b", "ghcr.example/**", false),
        ("evil.example/ghcr.example/a", "ghcr.example/**", false),
        ("ghcr.example:5000/a", "ghcr.example:5000/a:latest", true),
        ("ghcr.example:5000/a", "ghcr.example/a", false),
        ("localhost/a", "localhost/*", true),
        // digests displace tags
        (&pinned, "quay.example/a/b@sha256:*", true),
        (&pinned, "quay.example/a/b:*", false),
        (&tagged, "quay.example/a/b@*", true),
        (&tagged, "quay.example/a/b:v2@*", true),
        // what is no reference is matched as it is written
        (&digest, "**", true),
        (&digest, "sha256:*", true),
        (&digest, "index.docker.io/library/*", false),
        (&digest, "*", false),
        ("UPPER/Case", "**", true),
        ("UPPER/Case", "index.docker.io/**", false),
        ("a b", "**", true),
        ("", "**", true),
        ("", "*", false),
    ] {
        let glob = Glob::parse(glob).unwrap();
        assert_eq!(
            Name::new(name).matches(&glob),
            due,
            "{name:?} against {glob:?}"
        );
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_loader_panic_or_hang(cut in 0usize..600, noise: Vec<u8>) {
        let text = policy();
        let cut = cut.min(text.len());
        let bytes = [&text.as_bytes()[..cut], &noise, &text.as_bytes()[cut..]].concat();
        if let Err(error) = PolicySet::load([("a", bytes.as_slice())]) {
            prop_assert!(error.line >= 1 && error.column >= 1);
            prop_assert!(!error.to_string().chars().any(char::is_control));
        }
    }
}
