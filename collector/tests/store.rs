//! A store that is damaged, foreign or too new.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs::Permissions;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;

use holdfast_collector::Collector;
use holdfast_collector::store::StoreError;
use support::{Running, Site, batch, beat, connect, finding, finding_record, full_record, submit};

/// A store with findings in it, closed in order.
async fn filled(site: &Site) {
    let running = site.start("").await;
    let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
    let findings: Vec<_> = (0..300)
        .map(|n| finding("n-1", "c", &n.to_string()))
        .collect();
    let mut records: Vec<_> = findings
        .iter()
        .zip(1..)
        .map(|(f, n)| finding_record(n, f))
        .collect();
    let open: Vec<_> = findings.iter().collect();
    records.push(full_record(301, &open, &["c"]));
    submit(&mut agent, batch(7, records)).await;
    running.stop().await;
}

const SET_ASIDE: &str = "holdfast_collector_store_set_aside_total";

/// Starts on what is there: it must start, have set the damaged store aside, and ask for everything.
async fn starts_anew(site: &Site) {
    let running = site.start("").await;
    assert_eq!(running.metric(SET_ASIDE).await, 1);
    assert_eq!(running.findings("state=all").await.len(), 0);
    let kept = site.store().with_file_name("collector.db.damaged-1");
    assert!(kept.exists(), "a damaged store is never deleted");
    takes_everything_again(site, &running).await;
    running.stop().await;

    let running = site.start("").await;
    assert_eq!(running.metric(SET_ASIDE).await, 0, "only once");
    assert_eq!(running.findings("state=all").await.len(), 1);
    running.stop().await;
}

async fn takes_everything_again(site: &Site, running: &Running) {
    let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
    assert!(agent.beat(beat(7)).await.unwrap().into_inner().full_report);
    let a = finding("n-1", "c", "a");
    assert_eq!(
        submit(&mut agent, batch(7, vec![finding_record(400, &a)])).await,
        400
    );
}

#[tokio::test]
async fn nobody_but_us_reads_the_store_whoever_has_made_it() {
    let site = Site::new();
    std::fs::create_dir_all(site.store().parent().unwrap()).unwrap();
    // As an earlier collector has left it, or a person.
    std::fs::write(site.store(), b"").unwrap();
    std::fs::set_permissions(site.store(), Permissions::from_mode(0o644)).unwrap();
    for _ in 0..2 {
        let running = site.start("").await;
        let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
        let record = finding_record(1, &finding("n-1", "c", "a"));
        submit(&mut agent, batch(7, vec![record])).await;
        for suffix in ["", "-wal", "-shm"] {
            let mut name = site.store().into_os_string();
            name.push(suffix);
            let mode = std::fs::metadata(&name).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name:?}");
        }
        running.stop().await;
        std::fs::remove_file(site.store()).unwrap();
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_is_set_aside() {
    let site = Site::new();
    std::fs::create_dir_all(site.store().parent().unwrap()).unwrap();
    std::fs::write(site.store(), vec![b'x'; 10_000]).unwrap();
    starts_anew(&site).await;
}

#[tokio::test]
async fn a_database_with_overwritten_pages_is_set_aside() {
    let site = Site::new();
    filled(&site).await;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .open(site.store())
        .unwrap();
    let length = file.metadata().unwrap().len();
    for page in 1..length / 4096 {
        file.seek(SeekFrom::Start(page * 4096)).unwrap();
        file.write_all(&[0xff; 64]).unwrap();
    }
    starts_anew(&site).await;
}

#[tokio::test]
async fn a_database_that_was_cut_short_is_set_aside() {
    let site = Site::new();
    filled(&site).await;
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(site.store())
        .unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    starts_anew(&site).await;
}

#[tokio::test]
async fn a_store_that_was_marked_while_running_is_set_aside() {
    let site = Site::new();
    filled(&site).await;
    std::fs::write(site.store().with_file_name("collector.db.is-damaged"), b"").unwrap();
    starts_anew(&site).await;
}

#[tokio::test]
async fn an_undamaged_store_is_opened_as_it_is() {
    let site = Site::new();
    filled(&site).await;
    let running = site.start("").await;
    assert_eq!(running.metric(SET_ASIDE).await, 0);
    assert_eq!(running.findings("state=open&limit=500").await.len(), 300);
    running.stop().await;
}

#[tokio::test]
async fn a_store_of_a_newer_collector_is_refused_and_left_alone() {
    let site = Site::new();
    filled(&site).await;
    let url = format!("sqlite://{}", site.store().display());
    let newer = sqlx::SqlitePool::connect(&url).await.unwrap();
    sqlx::query(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
         values (9999, 'later', true, x'00', 0)",
    )
    .execute(&newer)
    .await
    .unwrap();
    newer.close().await;

    let refused = Collector::start(site.config("")).await.unwrap_err();

    assert!(
        matches!(
            refused,
            holdfast_collector::StartError::Store(StoreError::Newer(9999))
        ),
        "{refused}"
    );
    assert!(
        !site
            .store()
            .with_file_name("collector.db.damaged-1")
            .exists()
    );
}
