//! The OCI runtime spec and CRI's record of a container: secrets stay out, and no path leads out of the root.
//!
//! The reader is taken in as a file: to build the agent with coverage takes longer than everything else here.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{Target, as_it_is};

#[expect(
    dead_code,
    unreachable_pub,
    reason = "only what is tested here is used"
)]
#[path = "../../../agent/src/runtime/spec.rs"]
mod reader;

pub(super) const TARGET: Target = Target {
    name: "spec",
    check,
    max_bytes: 4 << 10,
    seeds,
    words: &[
        "\"root\":{\"path\":",
        "\"readonly\":true",
        "\"process\":{",
        "\"args\":[",
        "\"env\":[",
        "\"cwd\":",
        "\"user\":{\"uid\":",
        "\"mounts\":[{\"destination\":",
        "\"type\":",
        "\"source\":",
        "\"options\":[",
        "\"annotations\":{",
        "\"linux\":{",
        "\"uidMappings\":[{\"containerID\":0,\"hostID\":1,\"size\":2}]",
        "\"Metadata\":{\"ImageRef\":\"sha256:",
        "..",
    ],
    repair: as_it_is,
};

fn check(bytes: &[u8]) {
    if let Some(digest) = reader::cri_image_ref(bytes) {
        let text = String::from_utf8_lossy(bytes);
        assert!(text.contains('\\') || text.contains(&digest.to_string()));
    }
    let Some(spec) = reader::Spec::parse(bytes) else {
        assert_eq!(reader::Spec::parse(bytes), None);
        return;
    };
    assert_eq!(reader::Spec::parse(bytes).as_ref(), Some(&spec));
    let stubs = spec.stubs();
    assert_eq!(stubs.iter().collect::<BTreeSet<_>>().len(), stubs.len());
    for stub in stubs {
        let mut names = stub.split(|byte| *byte == b'/');
        assert!(names.all(|name| !matches!(name, b"" | b"." | b"..")));
    }
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else {
        return; // text that nobody reads may be broken
    };
    let written = value["process"]["env"].as_array();
    let written = written.into_iter().flatten().filter_map(Value::as_str);
    let names = written.map(|variable| variable.split('=').next().unwrap_or_default());
    assert!(names.eq(spec.process.env_names.iter().map(String::as_str)));
}

fn seeds() -> Vec<Vec<u8>> {
    let id = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let cri = format!(r#"{{"Version":"v1","Metadata":{{"ID":"x","ImageRef":"{id}"}}}}"#);
    let full = r#"{"ociVersion":"1.0.2","process":{"terminal":false,"args":["a"],"env":["TOKEN=secret","X"],"cwd":"/srv/./x/../y","user":{"uid":7,"gid":0},"capabilities":{"bounding":["CAP_KILL"]}},"root":{"path":"rootfs","readonly":true},"mounts":[{"destination":"/proc","type":"proc","source":"proc","options":["nosuid"]},{"destination":"/../etc/hosts","source":"/h"},{"destination":"/"}],"annotations":{"a":"b"},"linux":{"uidMappings":[{"containerID":0,"hostID":100000,"size":65536}],"maskedPaths":["/proc/kcore"],"namespaces":[]}}"#;
    [full, &cri, r#"{"mounts":7}"#, r#"{"process":{"env":null}}"#]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}
