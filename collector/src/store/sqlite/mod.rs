//! The store on `SQLite`: opening it, setting a damaged one aside, and the pools.
//!
//! WAL with `synchronous=FULL`: the collector confirms after a commit, and `NORMAL` may lose the last
//! commits when the power goes. A damaged file never stops the start: it is moved away, never deleted.

mod read;
mod rows;
mod write;

use std::fs::{OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_daemon::fail_point;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqlSafeStr as _};

pub use self::write::Tx;
use super::StoreError;

/// Readers beside the writer: API requests and receivers of alerts.
const READERS: u32 = 4;

/// A checkpoint or another process holds the lock for moments only.
const BUSY: Duration = Duration::from_secs(5);

/// Read and written by us alone.
const PRIVATE: u32 = 0o600;

/// Damaged files are kept up to this number; then a person must look.
const MAX_SET_ASIDE: u32 = 1000;

/// Primary results of `SQLite` that say "this file is not what it was".
const SQLITE_CORRUPT: i32 = 11;
const SQLITE_NOTADB: i32 = 26;

const MIGRATIONS: &[(i64, &str, &str)] =
    &[(1, "initial", include_str!("../migrations/0001_initial.sql"))];

/// The store for reading. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Store {
    readers: SqlitePool,
    path: PathBuf,
}

/// The one connection that writes.
#[derive(Debug)]
pub struct Writer {
    connection: Option<SqliteConnection>,
    path: PathBuf,
}

/// An opened store.
#[derive(Debug)]
pub struct Opened {
    /// For reading.
    pub store: Store,
    /// For writing.
    pub writer: Writer,
    /// Where a damaged store was moved to.
    pub set_aside: Option<PathBuf>,
}

impl Store {
    /// Opens the store at `path`; makes it when there is none, or when the one there is damaged.
    pub async fn open(path: &Path) -> Result<Opened, StoreError> {
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(|source| StoreError::File {
            path: folder.to_owned(),
            source,
        })?;
        let mut set_aside = None;
        let connection = if marker(path).exists() {
            set_aside = Some(move_away(path)?);
            connect(path).await?
        } else {
            match connect(path).await {
                Ok(connection) => connection,
                Err(StoreError::Damaged(error)) => {
                    tracing::error!(%error, "Store is damaged, a new one is made.");
                    set_aside = Some(move_away(path)?);
                    connect(path).await?
                }
                Err(error) => return Err(error),
            }
        };
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_lazy_with(options(path).read_only(true));
        Ok(Opened {
            store: Self {
                readers,
                path: path.to_owned(),
            },
            writer: Writer {
                connection: Some(connection),
                path: path.to_owned(),
            },
            set_aside,
        })
    }

    /// Ends the connections of readers.
    pub async fn close(&self) {
        self.readers.close().await;
    }

    /// Bytes on disk, of the database and its log.
    pub fn bytes(&self) -> u64 {
        [with_suffix(&self.path, ""), with_suffix(&self.path, "-wal")]
            .iter()
            .filter_map(|file| std::fs::metadata(file).ok())
            .map(|metadata| metadata.len())
            .sum()
    }
}

impl Writer {
    /// Begins a transaction. After an error the connection is made anew: a failed flush must not be
    /// tried again on the same file handle, where the second try succeeds without having written.
    pub async fn begin(&mut self) -> Result<Tx<'_>, StoreError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => options(&self.path).connect().await?,
        };
        let connection = self.connection.insert(connection);
        let tx = connection.begin_with("begin immediate").await?;
        Ok(Tx::new(tx))
    }

    /// Ends the connection in order: the log is written back into the database.
    pub async fn close(&mut self) -> Result<(), StoreError> {
        match self.connection.take() {
            Some(mut connection) => {
                // Readers may still be there, and the last one to go cannot write.
                sqlx::query("pragma wal_checkpoint(truncate)")
                    .execute(&mut connection)
                    .await
                    .map_err(judge)?;
                connection.close().await.map_err(judge)
            }
            None => Ok(()),
        }
    }

    /// Forgets the connection after an error. A damaged store is marked, so that the next start sets it
    /// aside even where a quick check would find nothing.
    pub fn on_error(&mut self, error: &StoreError) {
        self.connection = None;
        if matches!(error, StoreError::Damaged(_))
            && let Err(error) = std::fs::write(marker(&self.path), b"")
        {
            tracing::error!(%error, "Damaged store could not be marked.");
        }
    }
}

/// Tells damage from other errors, by `SQLite`'s primary result code.
pub(super) fn judge(error: sqlx::Error) -> StoreError {
    let code = error
        .as_database_error()
        .and_then(|error| error.code()?.parse::<i32>().ok())
        .map(|extended| extended & 0xff);
    match code {
        Some(SQLITE_CORRUPT | SQLITE_NOTADB) => StoreError::Damaged(error),
        _ => StoreError::Database(error),
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY)
        .disable_statement_logging()
}

/// Nobody but us reads what nodes report. `SQLite` gives its log and its shared memory the same mode as the
/// database has; those that an earlier collector has left are set right too.
fn make_private(path: &Path) -> Result<(), StoreError> {
    let private = || {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(PRIVATE)
            .open(path)?;
        file.set_permissions(Permissions::from_mode(PRIVATE))?;
        for companion in ["-wal", "-shm"].map(|suffix| with_suffix(path, suffix)) {
            match std::fs::set_permissions(&companion, Permissions::from_mode(PRIVATE)) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                set => set?,
            }
        }
        Ok(())
    };
    private().map_err(|source| StoreError::File {
        path: path.to_owned(),
        source,
    })
}

/// Connects, checks and migrates.
async fn connect(path: &Path) -> Result<SqliteConnection, StoreError> {
    make_private(path)?;
    let mut connection = options(path).connect().await.map_err(judge)?;
    let verdict = sqlx::query("pragma quick_check(1)")
        .fetch_one(&mut connection)
        .await
        .map_err(judge)?;
    let verdict: String = verdict.try_get(0)?;
    if verdict != "ok" {
        return Err(StoreError::Damaged(sqlx::Error::Protocol(verdict)));
    }
    migrate(&mut connection).await?;
    if fail_point::is_on("skip-dedupe") {
        sqlx::query("drop index if exists transitions_once")
            .execute(&mut connection)
            .await?;
    }
    Ok(connection)
}

async fn migrate(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let migrations = MIGRATIONS
        .iter()
        .map(|(version, name, sql)| {
            let name = (*name).into();
            Migration::new(
                *version,
                name,
                MigrationType::Simple,
                sql.into_sql_str(),
                false,
            )
        })
        .collect();
    Migrator::with_migrations(migrations)
        .run(connection)
        .await
        .map_err(|error| match error {
            sqlx::migrate::MigrateError::VersionMissing(version) => StoreError::Newer(version),
            sqlx::migrate::MigrateError::Execute(error) => judge(error),
            error => StoreError::Migration(error),
        })
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A store that was found damaged while running has this file beside it.
fn marker(path: &Path) -> PathBuf {
    with_suffix(path, ".is-damaged")
}

/// Moves the database and its companions to the first free name.
fn move_away(path: &Path) -> Result<PathBuf, StoreError> {
    let file_error = |path: &Path, source| StoreError::File {
        path: path.to_owned(),
        source,
    };
    let free = (1..=MAX_SET_ASIDE)
        .map(|number| with_suffix(path, &format!(".damaged-{number}")))
        .find(|name| !name.exists())
        .ok_or_else(|| file_error(path, ErrorKind::AlreadyExists.into()))?;
    for suffix in ["-wal", "-shm", ""] {
        let from = with_suffix(path, suffix);
        if from.exists() {
            std::fs::rename(&from, with_suffix(&free, suffix))
                .map_err(|source| file_error(&from, source))?;
        }
    }
    let marker = marker(path);
    if marker.exists() {
        std::fs::remove_file(&marker).map_err(|source| file_error(&marker, source))?;
    }
    Ok(free)
}
