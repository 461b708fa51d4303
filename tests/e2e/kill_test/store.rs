//! What the collector has stored, read from its database and not through it.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{ConnectOptions as _, Row as _};

use super::judge::Stored;

/// The subject of drift in a program is its path.
const HISTORY: &str = "select t.epoch, t.sequence, coalesce(f.kind, 'no finding') as kind, \
    t.container, coalesce(f.subject, hex(t.fingerprint)) as subject, t.transition, t.reason \
    from transitions t left join findings f on f.fingerprint = t.fingerprint order by t.id";

const FULL_REPORTS: &str = "select count(*) from epochs where full_report is not null";

/// Every transition, the oldest first.
pub(crate) async fn history(database: &Path) -> Vec<Stored> {
    let mut connection = connect(database).await;
    let rows = sqlx::query(HISTORY).fetch_all(&mut connection).await;
    rows.unwrap().iter().map(stored).collect()
}

/// Whether an agent has told everything once.
pub(crate) async fn has_full_report(database: &Path) -> bool {
    let mut connection = connect(database).await;
    let row = sqlx::query(FULL_REPORTS).fetch_one(&mut connection).await;
    row.unwrap().get::<i64, _>(0) > 0
}

async fn connect(database: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new()
        .filename(database)
        .read_only(true);
    options.connect().await.unwrap()
}

fn stored(row: &SqliteRow) -> Stored {
    Stored {
        epoch: row.get("epoch"),
        sequence: row.get("sequence"),
        kind: row.get("kind"),
        place: (row.get("container"), row.get("subject")),
        transition: row.get("transition"),
        reason: row.get("reason"),
    }
}
