//! Files that are not as we left them: the ledger always opens, and never delivers what it did not write.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableTable, TableDefinition};
use rustix::fs::{CWD, Mode};
use tempfile::TempDir;

use crate::support::{
    Numbers, Open, at, copy, file, findings, key, named, open, opened, reports, told,
};

const FINDINGS: TableDefinition<'static, u64, &'static [u8]> =
    TableDefinition::new("spool-findings");
const PLACES: TableDefinition<'static, &'static [u8], &'static [u8]> =
    TableDefinition::new("places");

/// How the damaged file was left.
#[derive(Clone, Copy, Debug)]
enum Left {
    Closed,
    Killed,
}

/// What an agent left: its files, and the payloads by sequence.
struct Written {
    files: TempDir,
    bytes: Vec<u8>,
    payloads: BTreeMap<u64, Vec<u8>>,
}

/// 60 findings of 3 containers.
async fn written(left: Left) -> Written {
    let directory = TempDir::new().unwrap();
    let open = open(directory.path());
    for round in 0..20 {
        for id in ["a", "b", "c"] {
            let subjects: Vec<String> = (0..=round).map(|number| format!("s{number}")).collect();
            let subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
            open.look(id, &subjects).await;
        }
    }
    let payloads = open.waiting().await;
    let payloads = payloads
        .into_iter()
        .map(|record| (record.sequence, record.payload))
        .collect();
    let files = match left {
        Left::Closed => {
            open.close();
            directory
        }
        Left::Killed => open.crash(directory.path()),
    };
    Written {
        bytes: fs::read(file(files.path())).unwrap(),
        files,
        payloads,
    }
}

/// Opens a ledger with these bytes, checks what it delivers, and that it works.
async fn outcome(written: &Written, bytes: &[u8], case: &str) -> Open {
    let payloads = &written.payloads;
    let directory = copy(written.files.path());
    fs::write(file(directory.path()), bytes).unwrap();
    let open = open(directory.path());
    let delivered = open.waiting().await;
    for record in &delivered {
        assert_eq!(
            Some(&record.payload),
            payloads.get(&record.sequence),
            "{case}: delivered what was never written"
        );
    }
    let stats = open.ledger.stats().borrow().clone();
    if open.opened.is_new {
        assert_eq!(delivered, [], "{case}");
        assert!(stats.full_report_due, "{case}");
    } else {
        let missing = payloads.len() - delivered.len();
        assert_eq!(stats.damaged, u64::try_from(missing).unwrap(), "{case}");
    }
    assert_eq!(
        told(&open.look("new", &["x"]).await),
        [opened("x")],
        "{case}"
    );
    open
}

#[tokio::test]
async fn a_file_cut_anywhere_never_stops_the_start() {
    let written = written(Left::Closed).await;
    let bytes = &written.bytes;
    let mut numbers = Numbers::new(8);
    let length = u64::try_from(bytes.len()).unwrap();
    let mut cuts: Vec<u64> = (0..=64).chain(length - 16..=length).collect();
    cuts.extend((1..8).flat_map(|page| [page * 4096 - 1, page * 4096, page * 4096 + 1]));
    cuts.extend((0..60).map(|_| numbers.below(length)));
    for cut in cuts {
        let end = usize::try_from(cut).unwrap();
        let open = outcome(&written, &bytes[..end], &format!("cut at {cut}")).await;
        assert_eq!(open.opened.is_new, cut < length, "cut at {cut}");
    }
}

#[tokio::test]
async fn a_flipped_bit_costs_records_at_most_and_is_never_delivered() {
    for left in [Left::Closed, Left::Killed] {
        let written = written(left).await;
        let bytes = &written.bytes;
        let mut numbers = Numbers::new(9);
        for _ in 0..150 {
            let position = numbers.below(u64::try_from(bytes.len()).unwrap());
            let bit = numbers.below(8);
            let mut damaged = bytes.clone();
            damaged[usize::try_from(position).unwrap()] ^= 1 << bit;
            let case = format!("{left:?}, bit {bit} of byte {position}");
            outcome(&written, &damaged, &case).await;
        }
    }
}

#[tokio::test]
async fn a_burst_of_other_bytes_costs_records_at_most_and_is_never_delivered() {
    let written = written(Left::Closed).await;
    let bytes = &written.bytes;
    let mut numbers = Numbers::new(10);
    for _ in 0..60 {
        let length = usize::try_from(1 + numbers.below(4096)).unwrap();
        let start = numbers.below(u64::try_from(bytes.len() - length).unwrap());
        let start = usize::try_from(start).unwrap();
        let mut damaged = bytes.clone();
        for byte in &mut damaged[start..start + length] {
            *byte = u8::try_from(numbers.below(256)).unwrap();
        }
        outcome(&written, &damaged, &format!("{length} bytes at {start}")).await;
    }
}

/// Changes the last byte of a row behind our back, in pages that redb finds in order.
fn spoil(path: &Path, sequence: Option<u64>) {
    let database = Database::open(path).unwrap();
    let write = database.begin_write().unwrap();
    {
        let mut records = write.open_table(FINDINGS).unwrap();
        let mut places = write.open_table(PLACES).unwrap();
        let spoiled = |row: &[u8]| {
            let mut row = row.to_vec();
            *row.last_mut().unwrap() ^= 1;
            row
        };
        if let Some(sequence) = sequence {
            let row = spoiled(records.get(sequence).unwrap().unwrap().value());
            records.insert(sequence, row.as_slice()).unwrap();
        } else {
            let (key, row) = {
                let (key, row) = places.first().unwrap().unwrap();
                (key.value().to_vec(), spoiled(row.value()))
            };
            places.insert(key.as_slice(), row.as_slice()).unwrap();
        }
    }
    write.commit().unwrap();
}

#[tokio::test]
async fn a_record_that_fails_its_check_is_skipped_counted_and_removed() {
    let directory = TempDir::new().unwrap();
    let before = open(directory.path());
    before.look("c", &["a", "b", "c"]).await;
    let epoch = before.opened.epoch;
    before.close();
    spoil(&file(directory.path()), Some(2));

    let after = open(directory.path());
    assert_eq!(after.opened.epoch, epoch);
    assert_eq!(
        told(&findings(&after.waiting().await)),
        [opened("a"), opened("c")]
    );
    let stats = after.ledger.stats().borrow().clone();
    assert_eq!((stats.damaged, stats.dropped, stats.records), (1, 1, 2));
    assert!(stats.full_report_due, "the collector lacks a document");
}

#[tokio::test]
async fn a_place_that_fails_its_check_is_found_again_by_the_next_look() {
    let directory = TempDir::new().unwrap();
    let before = open(directory.path());
    before.look("c", &["a"]).await;
    before.close();
    spoil(&file(directory.path()), None);

    let after = open(directory.path());
    assert_eq!(told(&after.look("c", &["a"]).await), [opened("a")]);
    let stats = after.ledger.stats().borrow().clone();
    assert_eq!(stats.damaged_rows, 1);
    assert!(stats.full_report_due);
    after
        .ledger
        .full_report(vec![key("c")], at(1))
        .await
        .unwrap();
    let report = reports(&after.waiting().await).pop().unwrap();
    assert_eq!(named(&report), 1);
}

fn aside(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("ledger.redb.damaged-{number}"))
}

/// Opens over what stands in the file's place and expects it to be put aside whole.
async fn starts_beside(directory: &Path) -> PathBuf {
    let open = open(directory);
    let path = open.opened.set_aside.clone().unwrap();
    assert!(open.opened.is_new);
    assert_eq!(open.ledger.stats().borrow().files_set_aside, 1);
    assert_eq!(told(&open.look("c", &["a"]).await), [opened("a")]);
    open.close();
    path
}

#[tokio::test]
async fn an_empty_file_becomes_a_ledger() {
    let directory = TempDir::new().unwrap();
    fs::write(file(directory.path()), b"").unwrap();
    let open = open(directory.path());
    assert!(open.opened.is_new);
    assert_eq!(told(&open.look("c", &["a"]).await), [opened("a")]);
}

#[tokio::test]
async fn foreign_bytes_are_set_aside_unchanged() {
    let directory = TempDir::new().unwrap();
    let foreign = b"SQLite format 3\0 and more".repeat(500);
    fs::write(file(directory.path()), &foreign).unwrap();
    let path = starts_beside(directory.path()).await;
    assert_eq!(path, aside(directory.path(), 1));
    assert_eq!(fs::read(path).unwrap(), foreign);
}

#[tokio::test]
async fn a_directory_is_set_aside_with_what_it_holds() {
    let directory = TempDir::new().unwrap();
    fs::create_dir(file(directory.path())).unwrap();
    fs::write(file(directory.path()).join("precious"), b"x").unwrap();
    let path = starts_beside(directory.path()).await;
    assert!(path.join("precious").exists());
}

#[tokio::test]
async fn a_fifo_does_not_block_the_start() {
    let directory = TempDir::new().unwrap();
    rustix::fs::mkfifoat(CWD, file(directory.path()), Mode::RUSR).unwrap();
    starts_beside(directory.path()).await;
}

#[tokio::test]
async fn a_link_is_not_followed() {
    let directory = TempDir::new().unwrap();
    let target = directory.path().join("elsewhere");
    fs::write(&target, b"").unwrap();
    std::os::unix::fs::symlink(&target, file(directory.path())).unwrap();
    starts_beside(directory.path()).await;
    assert_eq!(fs::read(target).unwrap(), b"");
}

#[tokio::test]
async fn a_database_with_other_tables_is_set_aside() {
    let directory = TempDir::new().unwrap();
    let other = TableDefinition::<u64, u64>::new("meta");
    let database = Database::create(file(directory.path())).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(other).unwrap().insert(1, 2).unwrap();
    write.commit().unwrap();
    drop(database);
    starts_beside(directory.path()).await;
}

#[tokio::test]
async fn three_damaged_files_are_kept_the_newest_first() {
    let directory = TempDir::new().unwrap();
    for number in 0_u8..5 {
        fs::write(file(directory.path()), vec![number; 9000]).unwrap();
        starts_beside(directory.path()).await;
    }
    let first = |number| fs::read(aside(directory.path(), number)).map(|bytes| bytes[0]);
    let kept: Vec<u8> = (1..=3).map(|number| first(number).unwrap()).collect();
    assert_eq!(kept, [4, 3, 2]);
    assert!(!aside(directory.path(), 4).exists());
}

#[tokio::test]
async fn a_directory_among_the_damaged_files_is_kept_and_stops_nothing() {
    let directory = TempDir::new().unwrap();
    for number in 1..=3 {
        fs::create_dir(aside(directory.path(), number)).unwrap();
        fs::write(aside(directory.path(), number).join("precious"), b"x").unwrap();
    }
    fs::write(file(directory.path()), b"foreign").unwrap();
    starts_beside(directory.path()).await;
    let precious = |number| aside(directory.path(), number).join("precious").exists();
    assert_eq!((1..=4).filter(|number| precious(*number)).count(), 3);
}

#[tokio::test]
async fn a_witness_that_is_damaged_or_odd_is_no_reason_not_to_start() {
    let directory = TempDir::new().unwrap();
    let before = open(directory.path());
    before.look("c", &["a"]).await;
    let epoch = before.opened.epoch;
    before.close();
    let witness = directory.path().join("ledger.witness");

    fs::write(&witness, b"not what was written").unwrap();
    let damaged = open(directory.path());
    assert_eq!(damaged.opened.epoch, epoch);
    assert_eq!(damaged.ledger.stats().borrow().damaged, 0);
    damaged.close();

    fs::remove_file(&witness).unwrap();
    fs::create_dir(&witness).unwrap();
    let odd = open(directory.path());
    assert_eq!(odd.opened.epoch, epoch);
    assert_eq!(findings(&odd.waiting().await).len(), 1);
}
