//! One alert of Alertmanager from one finding. Pure.
//!
//! Labels are the identity of an alert, so they are stable and bounded: never a path, digest, pod,
//! container id or time. The label `finding` keeps two findings of one workload apart; there are as many
//! values as findings. Facts that change are annotations.

use std::collections::BTreeMap;

use holdfast_core::finding::Kind;
use jiff::Timestamp;
use serde::Serialize;

use crate::config::{LabelName, LabelValue};
use crate::findings::{Brief, cut};
use crate::store::FindingView;

/// Opsgenie cuts at 130 characters, others later.
const MAX_SUMMARY: usize = 120;

/// Discord and Telegram cut at 4,096; the rest of an alert needs room too.
const MAX_DESCRIPTION: usize = 1000;

/// Alertmanager takes megabytes here, and passes them on to receivers that do not.
const MAX_ANNOTATION: usize = 4096;

/// An alert as Alertmanager's API v2 takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Alert {
    /// What it is.
    pub labels: BTreeMap<String, String>,
    /// What is known about it.
    pub annotations: BTreeMap<&'static str, String>,
    /// When the finding was opened.
    pub starts_at: Timestamp,
    /// When it was resolved; or until when it is believed without another sending.
    pub ends_at: Timestamp,
}

/// The alert about a finding. `until` is when it ends if nobody says that it is still open.
pub(super) fn alert(
    view: &FindingView,
    own: &BTreeMap<LabelName, LabelValue>,
    until: Timestamp,
) -> Alert {
    let finding = &view.finding;
    let brief = Brief::from_json(&view.brief);
    let ends_at = finding.resolved.map_or(until, time);
    Alert {
        labels: labels(view, &brief, own),
        annotations: annotations(view, &brief),
        // Alertmanager refuses an alert that ends before it starts, as after a clock was set back.
        starts_at: time(finding.opened).min(ends_at),
        ends_at,
    }
}

fn labels(
    view: &FindingView,
    brief: &Brief,
    own: &BTreeMap<LabelName, LabelValue>,
) -> BTreeMap<String, String> {
    let finding = &view.finding;
    let pod = brief.container.as_ref().and_then(|container| {
        let pod = container.pod.as_ref()?;
        Some((pod.namespace.as_str(), container.name.as_str()))
    });
    let reference = brief
        .image
        .as_ref()
        .and_then(|image| image.reference.as_deref());
    let is_about_node = finding.lead.container.is_empty();
    let all = [
        ("alertname", alert_name(&finding.kind).as_str()),
        ("severity", finding.severity.as_str()),
        ("kind", &finding.kind),
        ("product", "holdfast"),
        ("finding", &finding.fingerprint.to_string()),
        ("workload", &finding.workload),
        ("namespace", pod.map_or("", |(namespace, _)| namespace)),
        ("container", pod.map_or("", |(_, name)| name)),
        ("image", reference.map_or("", repository)),
        (
            "node",
            if is_about_node {
                &finding.lead.node
            } else {
                ""
            },
        ),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let own = own
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_str().to_owned()));
    // Alertmanager drops an empty label silently, and its fingerprint with it.
    own.chain(all)
        .filter(|(_, value)| !value.is_empty())
        .collect()
}

/// `file-drift` is `HoldfastFileDrift`.
fn alert_name(kind: &str) -> String {
    let words = kind.split('-').map(|word| {
        let mut letters = word.chars();
        let first = letters.next().map(|first| first.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    });
    std::iter::once("Holdfast".to_owned())
        .chain(words)
        .collect()
}

/// An image's name without tag and digest: those change with each deployment.
fn repository(reference: &str) -> &str {
    let name = reference
        .split_once('@')
        .map_or(reference, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

fn annotations(view: &FindingView, brief: &Brief) -> BTreeMap<&'static str, String> {
    let finding = &view.finding;
    let places = match finding.places_open {
        0 => "no place left".to_owned(),
        1 => "1 place".to_owned(),
        places => format!("{places} places"),
    };
    let digest = brief.image.as_ref().and_then(|image| {
        let digest = image.index_digest.or(image.manifest_digest)?;
        Some(digest.to_string())
    });
    let all = [
        ("summary", shorten(&view.title, MAX_SUMMARY)),
        (
            "description",
            shorten(&description(view, brief), MAX_DESCRIPTION),
        ),
        ("first_seen", time(finding.first_seen).to_string()),
        ("last_seen", time(finding.last_seen).to_string()),
        ("changes", brief.lines.join("\n")),
        ("places", places),
        ("nodes", view.nodes.join(", ")),
        ("image_digest", digest.unwrap_or_default()),
        ("next_steps", next_steps(&finding.kind).to_owned()),
    ];
    all.into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name, cut(&value, MAX_ANNOTATION).to_owned()))
        .collect()
}

/// What, where, since when; in sentences.
fn description(view: &FindingView, brief: &Brief) -> String {
    let finding = &view.finding;
    let image = brief
        .image
        .as_ref()
        .and_then(|image| image.reference.as_deref());
    let image = image.map(|image| format!("Image {image}."));
    let more = match finding.places_open {
        0 | 1 => String::new(),
        places => format!(" and {} more places", places - 1),
    };
    let container = brief.container.as_ref().zip(view.nodes.first());
    let container =
        container.map(|(container, node)| format!("Container {} on {node}{more}.", container.name));
    let shown = u64::try_from(brief.lines.len()).unwrap_or(u64::MAX);
    let hidden = brief.lines_total.saturating_sub(shown);
    let hidden = (hidden > 0).then(|| format!("{hidden} more changes are not listed here."));
    let sentences = [
        Some(format!("{}.", view.title)),
        image,
        container,
        Some(format!("First seen {}.", time(finding.first_seen))),
        hidden,
    ];
    sentences
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" ")
}

/// What to do first, by kind. An unknown kind is one that a newer collector has stored.
fn next_steps(kind: &str) -> &'static str {
    let Some(kind) = Kind::ALL.iter().find(|known| known.as_str() == kind) else {
        return "";
    };
    match kind {
        Kind::FileDrift => {
            "1. Ask whether somebody changed the container by hand. 2. If not, keep the container \
             (pause it) and look at the listed files. 3. Recreate it from its image."
        }
        Kind::LayerTampered => {
            "1. Take the node out of scheduling: its image files are not those that were signed. \
             2. Keep the listed files. 3. Remove the image and pull it again."
        }
        Kind::LayerCorrupt => {
            "1. Look for disk errors on the node, and for when it last lost power. 2. Remove the \
             image and pull it again."
        }
        Kind::ContentAltered => {
            "1. Look for disk errors on the node. 2. Remove the image and pull it again."
        }
        Kind::MountDrift => {
            "1. Keep the container (pause it): what it runs is not what its image has. 2. Compare \
             `/proc/PID/mountinfo` with its spec, and ask who may mount on the node. 3. Recreate it."
        }
        Kind::SnapshotMismatch => {
            "1. Keep the container (pause it): its root is not the image that its record names. \
             2. Look at who can write the runtime's records on the node."
        }
        Kind::TagMoved => "1. Deploy by digest, or roll the workload out again.",
        Kind::ImageUntrusted => {
            "1. Ask who built and signed the image. 2. Roll back to a digest that is signed."
        }
        Kind::ImageUnsigned | Kind::ImageUncovered => {
            "1. Sign the image, or write a policy that names it."
        }
        Kind::Unverifiable => "1. Read the reason. 2. Run `holdfast-agent check` on the node.",
        Kind::UnmanagedContainer => {
            "1. Ask who started the container, and why outside of its manager."
        }
        Kind::CoverageGap => "1. Run `holdfast-agent check` on the node: nobody looked meanwhile.",
        Kind::AgentSilent => {
            "1. Is the node up? 2. `systemctl status holdfast-agent` on the node. 3. A node that \
             somebody silenced is not to be trusted."
        }
        Kind::AgentAltered => {
            "1. Take the nodes that it names for compromised until it is known why they differ. 2. \
             Compare the agent's binary and its state folder there with those of another node."
        }
    }
}

/// At most `limit` characters.
fn shorten(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let shown: String = text.chars().take(limit - 1).collect();
    shown + "…"
}

fn time(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use holdfast_core::container::{ContainerRef, Pod};
    use holdfast_core::finding::{Fingerprint, ImageRef, Severity};

    use super::*;
    use crate::store::{FindingRow, PlaceKey};

    fn view(change: impl FnOnce(&mut FindingView, &mut Brief)) -> FindingView {
        let fingerprint = Fingerprint::from_bytes([1; 16]);
        let mut brief = Brief {
            container: Some(ContainerRef {
                id: "1f0c".into(),
                namespace: "k8s.io".into(),
                name: "api".into(),
                pod: Some(Pod {
                    name: "api-5d".into(),
                    namespace: "shop".into(),
                    uid: "u".into(),
                }),
            }),
            image: Some(ImageRef {
                reference: Some("registry:5000/shop/api:1.4@sha256:00".into()),
                ..ImageRef::default()
            }),
            lines: vec!["added program /usr/bin/evil".into()],
            lines_total: 1,
        };
        let mut view = FindingView {
            finding: FindingRow {
                id: 1,
                fingerprint,
                kind: "file-drift".into(),
                workload: "shop/api".into(),
                subject: "/usr/bin/evil".into(),
                severity: Severity::Warning,
                first_seen: 0,
                last_seen: 0,
                opened: 1000,
                resolved: None,
                reason: None,
                places_open: 1,
                lead: PlaceKey {
                    fingerprint,
                    node: "node-7".into(),
                    namespace: "k8s.io".into(),
                    container: "1f0c".into(),
                },
                members: vec![],
                news: 1,
                news_at: 0,
                change: 1,
            },
            title: "New program /usr/bin/evil in shop/api, not in the image".into(),
            brief: String::new(),
            nodes: vec!["node-7".into()],
        };
        change(&mut view, &mut brief);
        view.brief = brief.to_json();
        view
    }

    fn made(view: &FindingView) -> Alert {
        alert(view, &BTreeMap::new(), Timestamp::from_second(100).unwrap())
    }

    #[test]
    fn labels_say_what_and_where_and_nothing_that_changes() {
        let labels = made(&view(|_, _| ())).labels;
        let expected = [
            ("alertname", "HoldfastFileDrift"),
            ("container", "api"),
            ("finding", "01010101010101010101010101010101"),
            ("image", "registry:5000/shop/api"),
            ("kind", "file-drift"),
            ("namespace", "shop"),
            ("product", "holdfast"),
            ("severity", "warning"),
            ("workload", "shop/api"),
        ];
        let shown: Vec<_> = labels
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_container_without_a_pod_is_not_named_and_a_finding_about_a_node_names_it() {
        let podless = view(|_, brief| {
            brief.container.as_mut().unwrap().pod = None;
        });
        let labels = made(&podless).labels;
        assert!(!labels.contains_key("container") && !labels.contains_key("namespace"));

        let silent = made(&view(|view, brief| {
            view.finding.kind = "agent-silent".into();
            view.finding.lead.container.clear();
            *brief = Brief::default();
        }));
        assert_eq!(silent.labels["node"], "node-7");
        assert_eq!(silent.labels["alertname"], "HoldfastAgentSilent");
        assert!(!silent.labels.contains_key("image"));
    }

    #[test]
    fn texts_keep_the_limits_of_receivers() {
        let alert = made(&view(|view, brief| {
            view.title = "ä".repeat(512);
            brief.lines = vec!["ö".repeat(300); 10];
            brief.lines_total = 900;
        }));
        assert_eq!(alert.annotations["summary"].chars().count(), 120);
        assert!(alert.annotations["description"].chars().count() <= 1000);
        assert!(alert.annotations.values().all(|value| value.len() <= 4096));
    }

    #[test]
    fn an_open_finding_ends_later_and_a_resolved_one_when_it_was() {
        assert_eq!(made(&view(|_, _| ())).ends_at.as_second(), 100);
        let resolved = made(&view(|view, _| view.finding.resolved = Some(2000)));
        assert_eq!(resolved.ends_at.as_second(), 2);
        assert_eq!(resolved.starts_at.as_second(), 1);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_make_an_alert_that_is_refused() {
        let late = made(&view(|view, _| view.finding.opened = 200_000));
        assert!(late.starts_at <= late.ends_at);
    }

    #[test]
    fn a_repository_has_neither_tag_nor_digest() {
        assert_eq!(repository("r:5000/a/b"), "r:5000/a/b");
        assert_eq!(repository("r:5000/a/b:1"), "r:5000/a/b");
        assert_eq!(repository("a@sha256:00"), "a");
        assert_eq!(repository("a"), "a");
    }

    #[test]
    fn every_kind_has_a_name_and_a_next_step() {
        for kind in Kind::ALL {
            assert!(!next_steps(kind.as_str()).is_empty());
            assert!(
                alert_name(kind.as_str())
                    .chars()
                    .all(|c| c.is_ascii_alphabetic())
            );
        }
    }
}
