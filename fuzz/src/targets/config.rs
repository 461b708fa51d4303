//! An image's config: the diff IDs that are read are those that the JSON lists, and chain as they should.

use holdfast_core::digest::ChainId;
use holdfast_core::image::{Config, MAX_LAYERS};
use serde_json::Value;

use crate::{Target, as_it_is};

pub(super) const TARGET: Target = Target {
    name: "config",
    check,
    max_bytes: 4 << 10,
    seeds,
    words: &[
        "\"architecture\":",
        "\"os\":",
        "\"rootfs\":",
        "\"type\":\"layers\"",
        "\"diff_ids\":",
        "\"config\":",
        "\"Entrypoint\":",
        "\"Cmd\":",
        "\"Env\":",
        "\"User\":",
        "\"WorkingDir\":",
        "\"Labels\":",
        "sha256:",
        "null",
    ],
    repair: as_it_is,
};

fn check(bytes: &[u8]) {
    let config = match Config::parse(bytes) {
        Ok(config) => config,
        Err(error) => {
            assert!(!error.reason().is_empty());
            assert_eq!(Config::parse(bytes), Err(error));
            return;
        }
    };
    assert_eq!(Config::parse(bytes).as_ref(), Ok(&config));
    // Text that nobody reads may be broken, as in Go: then there is nothing to hold it against.
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    let listed = value["rootfs"]["diff_ids"].as_array();
    let listed = listed.map_or(&[][..], Vec::as_slice);
    assert!(listed.len() <= MAX_LAYERS);
    let read: Vec<String> = config.diff_ids.iter().map(ToString::to_string).collect();
    assert_eq!(listed, read);
    let chain = config.chain();
    assert_eq!(chain.len(), read.len());
    let first = config.diff_ids.first().copied().map(ChainId::bottom);
    assert_eq!(chain.first().copied(), first);
}

fn seeds() -> Vec<Vec<u8>> {
    let id = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let full = format!(
        r#"{{"architecture":"amd64","os":"linux","history":[{{"created_by":"x"}}],"rootfs":{{"type":"layers","diff_ids":["{id}","{id}"]}},"config":{{"Entrypoint":["/e"],"Cmd":["/bin/sh","-c"],"Env":["A=b"],"User":"0:0","WorkingDir":"/srv","Labels":{{"k":"v"}},"ExposedPorts":{{}}}}}}"#
    );
    let null = r#"{"rootfs":{"type":"layers","diff_ids":null},"config":null}"#;
    let other = full.replace("\"layers\"", "\"tree\"");
    [full.as_str(), null, &other]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}
