//! Each verdict and each refusal, with real keys; and that no change of a good signature passes. Long,
//! because every refusal has its own case.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::found::{MAX_REFUSALS, decode};
use super::*;
use crate::digest::Digest;
use crate::trust::classic::{
    self, LayerRefusal, MAX_SIGNATURES, ObjectRefusal, SIGNATURE_ANNOTATION,
};
use crate::trust::evidence::{Cause, Looked, Missed, SignatureObject};
use crate::trust::forge::{SigningKey, object, payload};
use crate::trust::payload::PayloadRefusal;

const NAMES: [&str; 1] = ["r.example/a:1"];

fn manifest() -> Digest {
    Digest::of(b"manifest")
}

fn alone() -> ImageDigests<'static> {
    ImageDigests {
        manifest: manifest(),
        index: None,
    }
}

/// One policy for everything, of one authority for each rule.
fn policy_text(name: &str, mode: &str, rules: &[String]) -> String {
    let authorities = rules.join("\n    - ");
    format!(
        "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {{name: {name}}}\nspec:\n  images: [{{glob: \"**\"}}]\n  mode: {mode}\n  authorities:\n    - {authorities}\n"
    )
}

fn by(key: &SigningKey) -> String {
    let data = key.public_pem().replace('\n', "\\n");
    format!("key: {{data: \"{data}\"}}")
}

fn pass() -> String {
    "static: {action: pass}".to_owned()
}

fn fail() -> String {
    "static: {action: fail, message: not here}".to_owned()
}

fn set(policies: &[String]) -> PolicySet {
    let named: Vec<(&str, &[u8])> = policies
        .iter()
        .map(|text| ("p.yaml", text.as_bytes()))
        .collect();
    PolicySet::load(named).unwrap()
}

fn one(rule: String) -> PolicySet {
    set(&[policy_text("p", "enforce", &[rule])])
}

fn found(entries: &[(Vec<u8>, String)]) -> Evidence {
    let mut evidence = Evidence::none();
    evidence.add(manifest(), Looked::found(object(entries)));
    evidence
}

fn nothing() -> Evidence {
    let mut evidence = Evidence::none();
    evidence.add(manifest(), Looked::nothing());
    evidence
}

fn missed(cause: Cause) -> Looked {
    Looked::could_not_look(Missed {
        cause,
        message: "r.example".to_owned(),
    })
}

fn verified(authorities: &[&str]) -> Verdict {
    Verdict::Verified {
        authorities: authorities.iter().map(|&name| name.to_owned()).collect(),
    }
}

/// The refusals of an untrusted verdict.
#[track_caller]
fn refusals(verdict: Verdict) -> Vec<Refusal> {
    let Verdict::Untrusted { refusals, .. } = verdict else {
        panic!("{verdict:?}");
    };
    refusals
        .into_iter()
        .map(|refused| refused.refusal)
        .collect()
}

fn check(policies: &PolicySet, evidence: &Evidence) -> Verdict {
    verify(&NAMES, alone(), policies, evidence)
}

#[test]
fn a_signature_by_the_policys_key_verifies() {
    let key = SigningKey::generate();
    let evidence = found(&[key.entry(manifest())]);
    assert_eq!(
        check(&one(by(&key)), &evidence),
        verified(&["p/authority-0"])
    );
}

#[test]
fn nothing_found_everywhere_is_unsigned() {
    let key = SigningKey::generate();
    for (mode, warn_only) in [("enforce", false), ("warn", true)] {
        let policies = set(&[policy_text("p", mode, &[by(&key)])]);
        assert_eq!(
            check(&policies, &nothing()),
            Verdict::Unsigned {
                policies: vec!["p".into()],
                warn_only
            }
        );
    }
    let empty = found(&[]);
    assert_eq!(
        check(&one(by(&key)), &empty).name(),
        crate::trust::VerdictName::Unsigned,
        "an object that lists no signature is none"
    );
}

#[test]
fn what_could_not_be_looked_at_is_an_error_and_never_unsigned_or_untrusted() {
    let (key, other) = (SigningKey::generate(), SigningKey::generate());
    let error = |evidence: &Evidence| {
        let Verdict::Error { reason, message } = check(&one(by(&key)), evidence) else {
            panic!("no error");
        };
        assert!(!message.is_empty());
        reason
    };
    let mut evidence = nothing();
    evidence.add(manifest(), missed(Cause::RateLimited));
    assert_eq!(error(&evidence), ErrorReason::Missed(Cause::RateLimited));
    let mut evidence = found(&[other.entry(manifest())]);
    evidence.add(manifest(), missed(Cause::Timeout));
    assert_eq!(error(&evidence), ErrorReason::Missed(Cause::Timeout));
    assert_eq!(error(&Evidence::none()), ErrorReason::NotLooked);
}

#[test]
fn what_is_found_verifies_even_when_another_place_failed() {
    let key = SigningKey::generate();
    let mut evidence = found(&[key.entry(manifest())]);
    evidence.add(manifest(), missed(Cause::Unreachable));
    assert_eq!(
        check(&one(by(&key)), &evidence),
        verified(&["p/authority-0"])
    );
}

#[test]
fn an_image_that_no_policy_names_is_uncovered() {
    let uncovered = |any_policy| Verdict::Uncovered { any_policy };
    let text = policy_text("p", "enforce", &[pass()]).replace("**", "other/**");
    assert_eq!(check(&set(&[text]), &Evidence::none()), uncovered(true));
    assert_eq!(check(&set(&[]), &Evidence::none()), uncovered(false));
}

#[test]
fn without_a_name_nobody_can_say_which_policy_counts() {
    let none: [&str; 0] = [];
    let verdict = verify(&none, alone(), &one(pass()), &nothing());
    assert!(matches!(
        verdict,
        Verdict::Error {
            reason: ErrorReason::NoName,
            ..
        }
    ));
    assert_eq!(
        verify(&none, alone(), &set(&[]), &nothing()),
        Verdict::Uncovered { any_policy: false }
    );
}

#[test]
fn a_static_rule_accepts_or_refuses_without_looking() {
    assert_eq!(
        check(&one(pass()), &Evidence::none()),
        Verdict::Accepted {
            rule: "p/authority-0".into()
        }
    );
    let verdict = check(&one(fail()), &Evidence::none());
    assert_eq!(
        refusals(verdict),
        [Refusal::Static {
            policy: "p".into(),
            message: Some("not here".into())
        }]
    );
}

#[test]
fn one_authority_of_a_policy_is_enough_and_a_signature_is_worth_more_than_a_pass() {
    let (key, other) = (SigningKey::generate(), SigningKey::generate());
    let evidence = found(&[key.entry(manifest())]);
    for (rules, due) in [
        (vec![by(&other), by(&key)], verified(&["p/authority-1"])),
        (vec![pass(), by(&key)], verified(&["p/authority-1"])),
        (vec![fail(), by(&key)], verified(&["p/authority-1"])),
        (
            vec![by(&other), pass()],
            Verdict::Accepted {
                rule: "p/authority-1".into(),
            },
        ),
    ] {
        let policies = set(&[policy_text("p", "enforce", &rules)]);
        assert_eq!(check(&policies, &evidence), due);
    }
}

#[test]
fn every_matching_policy_must_be_satisfied() {
    let (key, other) = (SigningKey::generate(), SigningKey::generate());
    let evidence = found(&[key.entry(manifest())]);
    let policy = |name: &str, rule: String| policy_text(name, "enforce", &[rule]);

    let both = set(&[policy("b", by(&key)), policy("a", by(&key))]);
    assert_eq!(
        check(&both, &evidence),
        verified(&["a/authority-0", "b/authority-0"])
    );
    let one_static = set(&[policy("a", by(&key)), policy("b", pass())]);
    assert_eq!(
        check(&one_static, &evidence),
        Verdict::Accepted {
            rule: "b/authority-0".into()
        }
    );
    let one_fails = set(&[policy("a", by(&key)), policy("b", by(&other))]);
    let Verdict::Untrusted {
        policies, refusals, ..
    } = check(&one_fails, &evidence)
    else {
        panic!();
    };
    assert_eq!(policies, ["b"]);
    assert_eq!(refusals[0].refusal, Refusal::Signer { policy: "b".into() });
    let pass_does_not_excuse = set(&[policy("a", pass()), policy("b", by(&key))]);
    assert!(matches!(
        check(&pass_does_not_excuse, &nothing()),
        Verdict::Unsigned { .. }
    ));
}

#[test]
fn a_policy_of_any_name_of_the_image_counts() {
    let key = SigningKey::generate();
    let text = policy_text("p", "enforce", &[by(&key)]).replace("**", "mirror.example/**");
    let names = ["r.example/a:1", "mirror.example/a:1"];
    let verdict = verify(&names, alone(), &set(&[text]), &nothing());
    assert!(matches!(verdict, Verdict::Unsigned { .. }));
}

#[test]
fn only_policies_that_warn_lower_the_severity() {
    let key = SigningKey::generate();
    let warn = policy_text("w", "warn", &[by(&key)]);
    let both = set(&[warn, policy_text("e", "enforce", &[by(&key)])]);
    assert_eq!(
        check(&both, &nothing()),
        Verdict::Unsigned {
            policies: vec!["e".into(), "w".into()],
            warn_only: false
        }
    );
}

#[test]
fn a_static_refusal_stands_whatever_could_not_be_looked_at() {
    let key = SigningKey::generate();
    let policies = set(&[
        policy_text("a", "enforce", &[fail()]),
        policy_text("b", "enforce", &[by(&key)]),
    ]);
    let mut evidence = Evidence::none();
    evidence.add(manifest(), missed(Cause::Denied));
    let Verdict::Untrusted {
        policies, refusals, ..
    } = check(&policies, &evidence)
    else {
        panic!();
    };
    assert_eq!(policies, ["a", "b"]);
    assert!(refusals.iter().any(|refused| matches!(
        refused.refusal,
        Refusal::Missed {
            cause: Cause::Denied,
            ..
        }
    )));
}

#[test]
fn each_broken_signature_has_its_own_refusal() {
    let (key, other) = (SigningKey::generate(), SigningKey::generate());
    let good = key.entry(manifest());
    let replay = key.entry(Digest::of(b"another image"));
    let tampered = {
        let text = String::from_utf8(good.0.clone()).unwrap();
        (text.replace("null", "{}").into_bytes(), good.1.clone())
    };
    let doubled = {
        let text = String::from_utf8(payload(Digest::of(b"another image"))).unwrap();
        let twice = format!("\"docker-manifest-digest\":\"{}\",", manifest());
        let (head, tail) = text.split_once("\"docker-manifest-digest\"").unwrap();
        let text = format!("{head}{twice}\"docker-manifest-digest\"{tail}");
        let signature = STANDARD.encode(key.sign(text.as_bytes()));
        (text.into_bytes(), signature)
    };
    let attestation = {
        let text = String::from_utf8(payload(manifest())).unwrap();
        let text = text.replace("cosign container image signature", "other");
        let signature = STANDARD.encode(key.sign(text.as_bytes()));
        (text.into_bytes(), signature)
    };
    let signer = || Refusal::Signer { policy: "p".into() };
    for (entry, due) in [
        (other.entry(manifest()), signer()),
        (tampered, signer()),
        (
            replay.clone(),
            Refusal::OtherSubject {
                signed: Digest::of(b"another image"),
            },
        ),
        (
            (good.0.clone(), "!!!!not base64====".to_owned()),
            Refusal::Encoding,
        ),
        ((good.0.clone(), String::new()), Refusal::Encoding),
        ((good.0.clone(), STANDARD.encode(b"x")), signer()),
        ((good.0.clone(), replay.1.clone()), signer()),
        (attestation, Refusal::Payload(PayloadRefusal::Type)),
    ] {
        assert_eq!(refusals(check(&one(by(&key)), &found(&[entry]))), [due]);
    }
    let doubled = refusals(check(&one(by(&key)), &found(&[doubled])));
    assert!(matches!(
        doubled[..],
        [Refusal::Payload(PayloadRefusal::Json(_))]
    ));
    // The right digest by the wrong key beside the wrong digest by the right key.
    let lateral = found(&[other.entry(manifest()), replay]);
    assert_eq!(refusals(check(&one(by(&key)), &lateral)).len(), 2);
}

#[test]
fn a_good_signature_counts_beside_broken_ones() {
    let (key, other) = (SigningKey::generate(), SigningKey::generate());
    let broken = (b"no payload".to_vec(), "?".to_owned());
    let wrapped = {
        let (payload, signature) = key.entry(manifest());
        let (head, tail) = signature.split_at(40);
        (payload, format!("{head}\n{tail}\n"))
    };
    let evidence = found(&[broken, other.entry(manifest()), wrapped]);
    assert_eq!(
        check(&one(by(&key)), &evidence),
        verified(&["p/authority-0"])
    );
}

#[test]
fn a_malformed_object_is_untrusted_and_not_an_error() {
    let key = SigningKey::generate();
    let with = |manifest_bytes: &[u8], payloads| {
        let mut evidence = Evidence::none();
        let object = SignatureObject {
            manifest: manifest_bytes.to_vec(),
            payloads,
        };
        evidence.add(manifest(), Looked::found(object));
        refusals(check(&one(by(&key)), &evidence))
    };
    let none = std::collections::BTreeMap::new;
    assert!(matches!(
        with(b"<html>", none())[..],
        [Refusal::Object(ObjectRefusal::Json(_))]
    ));
    let good = object(&[key.entry(manifest())]);
    let named = Digest::of(&payload(manifest()));
    assert_eq!(with(&good.manifest, none()), [Refusal::NoPayload(named)]);
    let other = [(named, b"other".to_vec())].into();
    assert_eq!(
        with(&good.manifest, other),
        [Refusal::OtherPayload {
            named,
            actual: Digest::of(b"other")
        }]
    );
    let text = String::from_utf8(good.manifest).unwrap();
    let unsigned = text.replace(SIGNATURE_ANNOTATION, "x");
    assert_eq!(
        with(unsigned.as_bytes(), good.payloads),
        [Refusal::Layer(LayerRefusal::NoSignature)]
    );
}

#[test]
fn signatures_beyond_the_limit_are_counted_and_not_looked_at() {
    let (key, other) = (SigningKey::generate(), SigningKey::generate());
    let mut entries = vec![other.entry(manifest()); MAX_SIGNATURES];
    entries.push(key.entry(manifest()));
    let verdict = check(&one(by(&key)), &found(&entries));
    let list = refusals(verdict);
    assert!(list.contains(&Refusal::Rest { rest: 1 }));
    assert_eq!(list.len(), MAX_REFUSALS + 1, "bounded");
    assert_eq!(list.last(), Some(&Refusal::More(1)));

    // Two objects of one subject share the limit.
    let mut evidence = found(&entries[..MAX_SIGNATURES]);
    evidence.add(
        manifest(),
        Looked::found(object(&entries[MAX_SIGNATURES..])),
    );
    let list = refusals(check(&one(by(&key)), &evidence));
    assert!(list.contains(&Refusal::Rest { rest: 1 }));
}

fn index_of(manifest: Digest) -> Vec<u8> {
    format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{manifest}"}}]}}"#).into_bytes()
}

/// The verdict when only the index with these bytes is signed.
fn with_signed_index(named: Digest, bytes: &[u8]) -> Verdict {
    let key = SigningKey::generate();
    let mut evidence = nothing();
    evidence.add(named, Looked::found(object(&[key.entry(named)])));
    let image = ImageDigests {
        manifest: manifest(),
        index: Some((named, bytes)),
    };
    verify(&NAMES, image, &one(by(&key)), &evidence)
}

#[test]
fn a_signed_index_vouches_for_the_manifest_that_it_lists() {
    let index = index_of(manifest());
    assert_eq!(
        with_signed_index(Digest::of(&index), &index),
        verified(&["p/authority-0"])
    );
}

#[test]
fn a_signed_index_that_does_not_list_the_manifest_vouches_for_nothing() {
    let other = index_of(Digest::of(b"other"));
    let verdict = with_signed_index(Digest::of(&other), &other);
    assert!(matches!(verdict, Verdict::Unsigned { .. }), "{verdict:?}");
    let broken = b"{}";
    let verdict = with_signed_index(Digest::of(broken), broken);
    assert!(matches!(verdict, Verdict::Unsigned { .. }), "{verdict:?}");
}

#[test]
fn an_index_that_is_not_at_hand_cannot_be_decided() {
    let index = index_of(manifest());
    for bytes in [b"".as_slice(), &index_of(Digest::of(b"other"))] {
        let verdict = with_signed_index(Digest::of(&index), bytes);
        assert!(
            matches!(
                verdict,
                Verdict::Error {
                    reason: ErrorReason::NoIndex,
                    ..
                }
            ),
            "{verdict:?}"
        );
    }
}

#[test]
fn a_signature_of_the_index_may_lie_under_the_manifests_tag() {
    let key = SigningKey::generate();
    let index = index_of(manifest());
    let digest = Digest::of(&index);
    let mut evidence = found(&[key.entry(digest)]);
    evidence.add(digest, Looked::nothing());
    let image = ImageDigests {
        manifest: manifest(),
        index: Some((digest, &index)),
    };
    assert_eq!(
        verify(&NAMES, image, &one(by(&key)), &evidence),
        verified(&["p/authority-0"])
    );
}

proptest! {
    /// One flipped bit anywhere in the payload, the signature or the running manifest's digest.
    #[test]
    fn a_changed_payload_signature_or_manifest_never_verifies(
        part in 0u8..3,
        at: proptest::sample::Index,
        bit in 0u8..8,
    ) {
        let key = SigningKey::generate();
        let policies = one(by(&key));
        let payload = payload(manifest());
        let signature = key.sign(&payload);
        let flip = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            bytes
        };
        let (payload, signature, running) = match part {
            0 => (flip(&payload), signature, manifest()),
            1 => (payload, flip(&signature), manifest()),
            _ => {
                let raw: [u8; 32] = flip(manifest().as_bytes()).try_into().unwrap();
                (payload, signature, Digest::from_sha256(raw))
            }
        };
        let mut evidence = Evidence::none();
        let entry = (payload, STANDARD.encode(signature));
        evidence.add(running, Looked::found(object(&[entry])));
        let image = ImageDigests { manifest: running, index: None };
        let verdict = verify(&NAMES, image, &policies, &evidence);
        prop_assert!(matches!(verdict, Verdict::Untrusted { .. }), "{:?}", verdict);
    }

    /// Changes of the object's manifest: it may still verify only if payload and signature are the
    /// genuine ones, which a flip inside other fields leaves alone.
    #[test]
    fn a_changed_object_verifies_only_with_the_genuine_payload_and_signature(
        at: proptest::sample::Index,
        byte: u8,
    ) {
        let key = SigningKey::generate();
        let entry = key.entry(manifest());
        let mut object = object(std::slice::from_ref(&entry));
        let at = at.index(object.manifest.len());
        object.manifest[at] = byte;
        let is_intact = classic::layers(&object.manifest).is_ok_and(|layers| {
            layers.first.iter().flatten().any(|layer| {
                layer.payload == Digest::of(&entry.0)
                    && decode(&layer.signature) == decode(&entry.1)
            })
        });
        let mut evidence = Evidence::none();
        evidence.add(manifest(), Looked::found(object));
        let verdict = check(&one(by(&key)), &evidence);
        prop_assert_eq!(matches!(verdict, Verdict::Verified { .. }), is_intact);
    }

    #[test]
    fn no_evidence_makes_the_verifier_panic(manifest_bytes: Vec<u8>, payload: Vec<u8>, index: Vec<u8>) {
        let mut evidence = nothing();
        let payloads = [(Digest::of(&payload), payload)].into();
        evidence.add(manifest(), Looked::found(SignatureObject { manifest: manifest_bytes, payloads }));
        let image = ImageDigests { manifest: manifest(), index: Some((Digest::of(&index), &index)) };
        let verdict = verify(&NAMES, image, &one(by(&SigningKey::generate())), &evidence);
        let is_good = matches!(verdict, Verdict::Verified { .. } | Verdict::Accepted { .. });
        prop_assert!(!is_good);
    }
}
