//! The documents that nodes send and files hold: what is taken is written again and means the same.

use holdfast_core::coverage::ContainerStatus;
use holdfast_core::finding::{Finding, Fingerprint};

use crate::Target;

pub(super) const TARGET: Target = Target {
    name: "finding",
    check,
    max_bytes: 4 << 10,
    seeds,
    words: &[
        "\"schema\":\"holdfast.finding/v1\"",
        "\"kind\":\"file-drift\"",
        "\"kind\":\"unverifiable\"",
        "\"detail\":{",
        "\"changes\":[",
        "\"changes_total\":",
        "\"container\":{",
        "\"pod\":{",
        "\"image\":{",
        "\"severity\":\"critical\"",
        "\"transition\":\"resolved\"",
        "\"basis\":\"local-blob\"",
        "\"first_seen\":",
        "2026-11-23T10:00:00.123Z",
        "-009999-01-01T00:00:00Z",
        "\\u202e",
        "null",
    ],
    repair,
};

fn check(bytes: &[u8]) {
    if let Ok(finding) = Finding::parse(bytes) {
        let due = Fingerprint::new(finding.kind(), &finding.workload, &finding.subject);
        assert_eq!(finding.fingerprint, due);
        let written = serde_json::to_vec(&finding).unwrap();
        assert_eq!(Finding::parse(&written).unwrap(), finding);
    }
    if let Ok(status) = serde_json::from_slice::<ContainerStatus>(bytes) {
        let written = serde_json::to_vec(&status).unwrap();
        assert_eq!(
            serde_json::from_slice::<ContainerStatus>(&written).unwrap(),
            status
        );
    }
}

/// Writes the fingerprint that kind, workload and subject give.
fn repair(bytes: &mut [u8]) {
    const KEY: &[u8] = b"\"fingerprint\":\"";
    let Ok(finding) = serde_json::from_slice::<Finding>(bytes) else {
        return;
    };
    let due = Fingerprint::new(finding.kind(), &finding.workload, &finding.subject).to_string();
    let found = bytes.windows(KEY.len()).position(|window| window == KEY);
    let start = found.map_or(bytes.len(), |at| at + KEY.len());
    if let Some(old) = bytes.get_mut(start..start + due.len()) {
        old.copy_from_slice(due.as_bytes());
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let head = r#"{"schema":"holdfast.finding/v1","fingerprint":"00000000000000000000000000000000","transition":"opened","reason":null,"severity":"warning","title":"t","node":"n","workload":"shop/api","actor":null,"first_seen":"2026-11-23T10:00:00.123Z","last_seen":"2026-11-23T10:00:00.123Z","observed_at":"2026-11-23T10:00:00.123Z","#;
    let about = r#""container":{"id":"1f0c","namespace":"k8s.io","name":"api","pod":{"name":"api-5d","namespace":"shop","uid":"u"}},"image":{"reference":"r/a:1","index_digest":null,"manifest_digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","config_digest":null},"#;
    let drift = r#""basis":"local-blob","subject":"/usr/bin/evil","kind":"file-drift","detail":{"changes":[{"path":"/usr/bin/evil","change":"added","class":"program","severity":"warning","expected":null,"actual":{"type":"file","size":9,"mode":"0755","uid":0,"gid":0}}],"changes_total":1}}"#;
    let unverifiable = r#""container":null,"image":null,"basis":null,"subject":"files","kind":"unverifiable","detail":{"check":"files","reason":"blob-missing","message":"m"}}"#;
    let status = r#"{"schema":"holdfast.container/v1","node":"n","container":{"id":"1f0c","namespace":"k8s.io","name":"api","pod":null},"workload":"shop/api","image":null,"signature":"verified","checks":[{"check":"files","outcome":"clean","severity":null,"basis":"local-blob","reason":null,"at":"2026-11-23T10:00:00Z"}],"running":true,"observed_at":"2026-11-23T10:00:00Z"}"#;
    let findings = [[head, about, drift].concat(), [head, unverifiable].concat()];
    let mut seeds = findings.map(String::into_bytes).to_vec();
    for seed in &mut seeds {
        repair(seed);
        Finding::parse(seed).unwrap();
    }
    serde_json::from_str::<ContainerStatus>(status).unwrap();
    seeds.push(status.as_bytes().to_vec());
    seeds
}
