//! What the main loop relies on.

use holdfast_agent::report::{Bounds, Consumers, Ledger, LedgerError, RecordKind};
use holdfast_core::coverage::{CheckStatus, ContainerStatus, Outcome, SCHEMA};
use holdfast_core::finding::{Check, Resolution, Transition};
use holdfast_core::place::Look;
use holdfast_protocol::v1;
use tempfile::TempDir;

use crate::support::{
    BOTH, COLLECTOR, about, at, findings, key, look, named, open, open_as, opened, reports, told,
};

fn status(second: i64, outcome: Outcome) -> ContainerStatus {
    let about = about("c");
    ContainerStatus {
        schema: SCHEMA.into(),
        node: about.node,
        container: about.container,
        workload: about.workload,
        image: None,
        signature: None,
        checks: vec![CheckStatus {
            check: Check::Files,
            outcome,
            severity: None,
            basis: None,
            reason: None,
            accepted_by: Vec::new(),
            at: at(second),
        }],
        running: true,
        observed_at: at(second),
    }
}

#[tokio::test]
async fn a_transition_is_spooled_once_however_often_it_is_seen() {
    let directory = TempDir::new().unwrap();
    let open = open(directory.path());

    let first = open.look("c", &["a"]).await;
    let commits = open.ledger.stats().borrow().commits;
    let again = open.look("c", &["a"]).await;

    assert_eq!(told(&first), [opened("a")]);
    assert_eq!(told(&again), []);
    assert_eq!(findings(&open.waiting().await), first);
    assert_eq!(
        open.ledger.stats().borrow().commits,
        commits,
        "a look that changes nothing costs no fsync"
    );
}

#[tokio::test]
async fn what_was_open_before_a_restart_is_not_reported_again_and_resolves() {
    let directory = TempDir::new().unwrap();
    let before = open(directory.path());
    before.look("c", &["a", "b"]).await;
    before
        .ledger
        .remember(about("c"), b"{\"root\":7}".to_vec())
        .await
        .unwrap();
    let epoch = before.opened.epoch;
    assert!(before.opened.is_new);
    before.close();

    let after = open(directory.path());
    assert_eq!((after.opened.epoch, after.opened.is_new), (epoch, false));
    let known = after.ledger.known().await.unwrap();
    assert_eq!(known.len(), 1);
    assert_eq!(known[0].about, about("c"));
    assert_eq!(known[0].identity.as_deref(), Some(&b"{\"root\":7}"[..]));

    let found = after.look("c", &["b"]).await;

    assert_eq!(told(&found), [(Transition::Resolved, "a".into())]);
    let sequences: Vec<u64> = after.waiting().await.iter().map(|r| r.sequence).collect();
    assert_eq!(sequences, [1, 2, 3]);
}

#[tokio::test]
async fn a_container_that_ended_while_nobody_looked_is_resolved_and_forgotten() {
    let directory = TempDir::new().unwrap();
    let open = open(directory.path());
    open.look("stays", &["a"]).await;
    open.look("gone", &["b"]).await;

    let ended = open
        .ledger
        .end_absent(vec![key("stays")], at(1))
        .await
        .unwrap();

    assert_eq!(told(&ended), [(Transition::Resolved, "b".into())]);
    assert_eq!(ended[0].reason, Some(Resolution::ContainerEnded));
    let known = open.ledger.known().await.unwrap();
    assert_eq!(known.len(), 1);
    let last = open.waiting().await.pop().unwrap();
    assert_eq!(last.kind, RecordKind::Container);
    let status: ContainerStatus = serde_json::from_slice(&last.payload).unwrap();
    assert_eq!(
        (status.container.id.as_str(), status.running),
        ("gone", false)
    );
    assert_eq!(
        open.ledger.end_container(&key("gone"), at(2)).await,
        Ok(vec![])
    );
}

#[tokio::test]
async fn names_that_share_a_prefix_are_different_containers() {
    let directory = TempDir::new().unwrap();
    let open = open(directory.path());
    open.look("c", &["a"]).await;
    open.look("cc", &["a"]).await;

    open.ledger.end_container(&key("c"), at(1)).await.unwrap();

    assert_eq!(
        told(&open.look("cc", &[]).await),
        [(Transition::Resolved, "a".into())]
    );
}

#[tokio::test]
async fn a_name_that_fits_no_key_is_refused() {
    let directory = TempDir::new().unwrap();
    let open = open(directory.path());
    let long = "x".repeat(70_000);
    let refused = open
        .ledger
        .record_look(about(&long), look(&["a"]), at(0))
        .await;
    assert!(matches!(refused, Err(LedgerError::NameTooLong(_))));
}

#[tokio::test]
async fn a_status_is_spooled_when_it_says_something_new_or_after_an_hour() {
    let directory = TempDir::new().unwrap();
    let open = open(directory.path());
    for (second, outcome) in [
        (0, Outcome::Clean),
        (10, Outcome::Clean),
        (20, Outcome::Findings),
        (30, Outcome::Findings),
        (3620, Outcome::Findings),
    ] {
        let status = status(second, outcome);
        open.ledger.record_status(status).await.unwrap();
    }
    let spooled: Vec<ContainerStatus> = open
        .waiting()
        .await
        .iter()
        .map(|record| serde_json::from_slice(&record.payload).unwrap())
        .collect();
    assert_eq!(
        spooled,
        [
            status(0, Outcome::Clean),
            status(20, Outcome::Findings),
            status(3620, Outcome::Findings)
        ]
    );
}

#[tokio::test]
async fn a_record_leaves_when_each_consumer_has_passed_it() {
    let directory = TempDir::new().unwrap();
    let open = open_as(directory.path(), Bounds::default(), BOTH);
    open.look("c", &["a", "b"]).await;
    let epoch = open.opened.epoch.unwrap();
    let stats = open.ledger.stats();

    open.confirm(2).await;
    assert_eq!(stats.borrow().records, 2, "the sink has written nothing");
    assert_eq!(open.waiting().await, []);
    open.ledger.sink_passed(epoch, 1).await.unwrap();
    assert_eq!(stats.borrow().records, 1);
    open.ledger.sink_passed(epoch, 2).await.unwrap();
    assert_eq!((stats.borrow().records, stats.borrow().bytes), (0, 0));
}

#[tokio::test]
async fn nothing_is_deleted_by_a_confirmation_of_another_epoch_or_of_what_never_was() {
    let directory = TempDir::new().unwrap();
    let open = open(directory.path());
    open.look("c", &["a"]).await;
    let epoch = open.opened.epoch.unwrap();

    assert_eq!(
        open.ledger.confirm(epoch ^ 1, 1).await,
        Err(LedgerError::OtherEpoch)
    );
    assert_eq!(open.waiting().await.len(), 1);

    open.confirm(u64::MAX).await;
    open.look("c", &["a", "b"]).await;
    assert_eq!(told(&findings(&open.waiting().await)), [opened("b")]);
}

#[tokio::test]
async fn without_consumers_places_live_and_nothing_waits() {
    let directory = TempDir::new().unwrap();
    let nobody = Consumers {
        collector: false,
        sink: false,
    };
    let open = open_as(directory.path(), Bounds::default(), nobody);
    assert_eq!(told(&open.look("c", &["a"]).await), [opened("a")]);
    assert_eq!(told(&open.look("c", &["a"]).await), []);
    assert_eq!(open.waiting().await, []);
    assert!(!open.ledger.stats().borrow().full_report_due);
}

#[tokio::test]
async fn a_new_ledger_owes_a_report_of_names() {
    let directory = TempDir::new().unwrap();
    let open = open(directory.path());
    assert!(open.ledger.stats().borrow().full_report_due);
    open.look("c", &["a", "b"]).await;
    open.look("c", &["b"]).await;

    open.ledger
        .full_report(vec![key("c"), key("quiet")], at(1))
        .await
        .unwrap();

    assert!(!open.ledger.stats().borrow().full_report_due);
    let waiting = open.waiting().await;
    assert_eq!(findings(&waiting).len(), 3, "no document twice");
    let report = reports(&waiting).pop().unwrap();
    assert_eq!(named(&report), 1);
    let names: Vec<_> = report
        .census
        .as_ref()
        .unwrap()
        .running
        .iter()
        .map(|c| c.id.as_str())
        .collect();
    assert_eq!(names, ["c", "quiet"]);
}

#[tokio::test]
async fn a_long_report_comes_in_parts_and_the_last_one_counts_the_containers() {
    let directory = TempDir::new().unwrap();
    let open = open(directory.path());
    let many: Vec<String> = (0..9_000).map(|number| format!("p{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    open.look("a", &many).await;
    open.look("b", &many).await;
    open.look("c", &[]).await;

    open.ledger
        .full_report(vec![key("b"), key("c")], at(1))
        .await
        .unwrap();

    let parts = reports(&open.waiting().await);
    let seen: Vec<_> = parts
        .iter()
        .map(|part| (named(part), part.open.len(), part.census.is_some()))
        .collect();
    assert_eq!(seen, [(9_000, 1, false), (9_000, 2, true)]);
    let census = parts.last().unwrap().census.clone().unwrap();
    let ids = |ids: &[v1::ContainerId]| ids.iter().map(|id| id.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&census.running), ["b", "c"]);
    assert_eq!(ids(&census.known), ["a"]);
}

#[tokio::test]
async fn a_collector_that_lost_its_memory_gets_the_documents_again() {
    let directory = TempDir::new().unwrap();
    let open = open(directory.path());
    open.look("c", &["a"]).await;
    open.ledger
        .full_report(vec![key("c")], at(1))
        .await
        .unwrap();
    open.confirm(2).await;

    open.ledger.want_full_report().await.unwrap();
    assert!(open.ledger.stats().borrow().full_report_due);
    open.ledger
        .full_report(vec![key("c")], at(2))
        .await
        .unwrap();

    let again = open.waiting().await;
    assert_eq!(
        told(&findings(&again)),
        [(Transition::Updated, "a".to_owned())]
    );
    assert_eq!(reports(&again).len(), 1);
    // It asks until it has got it.
    open.ledger.want_full_report().await.unwrap();
    assert!(!open.ledger.stats().borrow().full_report_due);
}

#[tokio::test]
async fn a_collector_that_is_attached_later_gets_the_documents() {
    let directory = TempDir::new().unwrap();
    let sink_only = Consumers {
        collector: false,
        sink: true,
    };
    let before = open_as(directory.path(), Bounds::default(), sink_only);
    before.look("c", &["a"]).await;
    let epoch = before.opened.epoch.unwrap();
    before.ledger.sink_passed(epoch, 1).await.unwrap();
    before.close();

    let after = open_as(directory.path(), Bounds::default(), BOTH);
    assert!(after.ledger.stats().borrow().full_report_due);
    after
        .ledger
        .full_report(vec![key("c")], at(1))
        .await
        .unwrap();

    assert_eq!(
        told(&findings(&after.waiting().await)),
        [(Transition::Updated, "a".to_owned())]
    );
    let for_sink = after.ledger.next_findings(10, 1000).await.unwrap();
    assert_eq!(for_sink.records, [], "the sink has it already");
}

#[tokio::test]
async fn a_batch_keeps_its_limits_but_is_never_empty_while_something_waits() {
    let directory = TempDir::new().unwrap();
    let open = open(directory.path());
    open.look("c", &["a", "b", "c", "d"]).await;

    let two = open.ledger.next_batch(2, usize::MAX).await.unwrap();
    let one = open.ledger.next_batch(1000, 1).await.unwrap();

    assert_eq!(two.last_sequence(), Some(2));
    assert_eq!(one.last_sequence(), Some(1));
}

#[tokio::test]
async fn a_check_that_was_not_done_resolves_nothing_after_a_restart() {
    let directory = TempDir::new().unwrap();
    let before = open(directory.path());
    before.look("c", &["a"]).await;
    before.close();

    let after = open(directory.path());
    let unseen = Look {
        done: vec![Check::Identity],
        ..Look::default()
    };
    let found = after.ledger.record_look(about("c"), unseen, at(1)).await;
    assert_eq!(found, Ok(vec![]));
}

#[test]
fn a_second_agent_on_the_same_ledger_does_not_start() {
    let directory = TempDir::new().unwrap();
    let _first = open(directory.path());
    let second = Ledger::open(directory.path(), Bounds::default(), COLLECTOR);
    assert!(matches!(second, Err(LedgerError::Busy)));
}
