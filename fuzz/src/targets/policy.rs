//! Trust policies: refused with a place and a plain sentence, or taken; and what is taken trusts nothing that
//! nobody has signed.

use holdfast_core::digest::Digest;
use holdfast_core::trust::{Evidence, ImageDigests, Looked, PolicySet, Verdict, verify};

use crate::{Target, as_it_is};

pub(super) const TARGET: Target = Target {
    name: "policy",
    check,
    max_bytes: 2 << 10,
    seeds,
    words: &[
        "apiVersion: policy.sigstore.dev/v1beta1\n",
        "kind: ClusterImagePolicy\n",
        "metadata:\n",
        "  name: ",
        "spec:\n",
        "  images:\n",
        "    - glob: ",
        "  authorities:\n",
        "    - name: ",
        "      key:\n",
        "        data: |\n",
        "        hashAlgorithm: sha256\n",
        "      static:\n",
        "        action: pass\n",
        "        action: fail\n",
        "        message: ",
        "      keyless:\n",
        "  mode: warn\n",
        "\n---\n",
        "&a ",
        "*a",
        "<<: ",
        "!!binary ",
        "-----BEGIN PUBLIC KEY-----",
        "-----END PUBLIC KEY-----",
        "\u{feff}",
        "? ",
        "%YAML 1.2\n",
    ],
    repair: as_it_is,
};

/// Longest refusal: the file's name, and two quotes of 200 characters with the words around them.
const REFUSAL_CHARS: usize = 800;

/// A P-256 key that nobody has the other half of.
pub(super) const KEY: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt
6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==
-----END PUBLIC KEY-----
";

const NAMES: [&str; 2] = ["registry.example/shop/api:1", "busybox"];

fn check(bytes: &[u8]) {
    let load = || PolicySet::load([("file", bytes)]);
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
    assert!(!set.is_empty());
    assert_eq!(load().unwrap().len(), set.len());
    check_verdicts(&set, bytes);
}

/// Without a signature nothing is verified, and accepted only where the file says so.
fn check_verdicts(set: &PolicySet, bytes: &[u8]) {
    let manifest = Digest::of(b"manifest");
    let image = ImageDigests {
        manifest,
        index: None,
    };
    let mut evidence = Evidence::none();
    assert!(!matches!(
        verify(&NAMES, image, set, &evidence),
        Verdict::Verified { .. }
    ));
    evidence.add(manifest, Looked::nothing());
    let verdict = verify(&NAMES, image, set, &evidence);
    assert!(!matches!(
        verdict,
        Verdict::Verified { .. } | Verdict::Error { .. }
    ));
    assert_eq!(verify(&NAMES, image, set, &evidence), verdict);
    if matches!(verdict, Verdict::Accepted { .. }) {
        assert!(bytes.windows(4).any(|word| word == b"pass"));
    }
}

/// A policy with this authority.
pub(super) fn policy(authority: &str) -> String {
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
{authority}
  mode: enforce
"
    )
}

/// The authority that has [`KEY`].
pub(super) fn keyed() -> String {
    let data = KEY.trim_end().replace('\n', "\n          ");
    format!("      key:\n        data: |\n          {data}\n")
}

fn seeds() -> Vec<Vec<u8>> {
    let with_key = policy(&keyed());
    let pass = policy("      static: {action: pass}");
    let fail = policy("      static: {action: fail, message: \"no\\e[2J\"}");
    let two = format!(
        "{with_key}---\n{}",
        pass.replace("name: shop", "name: other")
    );
    let bomb = "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: [*c,*c]\n";
    let keyless = policy("      keyless: {url: https://fulcio.example}");
    [&with_key, &pass, &fail, &two, bomb, &keyless]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}
