//! What survives a restart of the agent: the places of each container, who they are about, what
//! identified the container at first sight, and its last status. Tables of one redb transaction, which
//! the ledger (`report::ledger`) opens and commits; nothing here commits, opens a file or starts a
//! thread.
//!
//! Each row carries a CRC32 over its key and its content. redb checks its pages when it opens a file; we
//! check a row whenever we read it. A damaged row is dropped and counted, never an error: the next look
//! finds again what it said.

mod row;

use holdfast_core::coverage::{ContainerStatus, SCHEMA};
use holdfast_core::finding::{Finding, Fingerprint};
use holdfast_core::place::{self, About, Look, Place, Places};
use jiff::{SignedDuration, Timestamp};
use redb::{ReadableTable, TableDefinition, WriteTransaction};

pub use self::row::NameTooLong;
pub(crate) use self::row::{RowKey, key_of, seal, unseal};
use self::row::{Rows, fingerprint, insert, parse, read_bytes, read_json, remove};

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// `Place`, by container and fingerprint.
const PLACES: Definition = TableDefinition::new("places");
/// `About`, by container.
const CONTAINERS: Definition = TableDefinition::new("containers");
/// What identified a container at first sight, by container: bytes of the caller.
const IDENTITIES: Definition = TableDefinition::new("identities");
/// The latest `ContainerStatus`, by container.
const STATUSES: Definition = TableDefinition::new("statuses");

/// A status that says nothing new is reported again after this long, so that the collector can tell
/// "still so" from "nobody looks any more".
const STATUS_REPEATED_AFTER: SignedDuration = SignedDuration::from_hours(1);

/// A container that is known from before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Who its findings are about.
    pub about: About,
    /// What the ledger was given to remember it by.
    pub identity: Option<Vec<u8>>,
}

/// What the end of a container leaves to be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) findings: Vec<Finding>,
    pub(crate) status: ContainerStatus,
}

/// The tables, within one transaction.
#[derive(Debug)]
pub(crate) struct State<'t> {
    places: Rows<'t>,
    containers: Rows<'t>,
    identities: Rows<'t>,
    statuses: Rows<'t>,
    /// Whether anything was written, so whether a commit is worth its fsync.
    pub(crate) is_changed: bool,
    /// Rows that were dropped because their bytes were not what had been written.
    pub(crate) damaged: u64,
}

impl<'t> State<'t> {
    pub(crate) fn open(transaction: &'t WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            places: transaction.open_table(PLACES)?,
            containers: transaction.open_table(CONTAINERS)?,
            identities: transaction.open_table(IDENTITIES)?,
            statuses: transaction.open_table(STATUSES)?,
            is_changed: false,
            damaged: 0,
        })
    }

    /// Joins a look into the stored places. A look that changes nothing writes nothing.
    pub(crate) fn look(
        &mut self,
        row: &RowKey,
        about: &About,
        look: Look,
        now: Timestamp,
    ) -> Result<Vec<Finding>, redb::Error> {
        self.put_about(row, about)?;
        let before = self.places_of(row)?;
        let mut after = before.clone();
        let findings = place::advance(&mut after, about, look, now);
        self.put_places(row, &before, &after)?;
        Ok(findings)
    }

    /// Keeps what identified a container; kept until it ends.
    pub(crate) fn remember(
        &mut self,
        row: &RowKey,
        about: &About,
        identity: &[u8],
    ) -> Result<(), redb::Error> {
        self.put_about(row, about)?;
        if read_bytes(&self.identities, row.bytes())?.as_deref() != Some(identity) {
            insert(&mut self.identities, row.bytes(), identity)?;
            self.is_changed = true;
        }
        Ok(())
    }

    /// Keeps a status; true when it is worth a record.
    pub(crate) fn status(
        &mut self,
        row: &RowKey,
        status: &ContainerStatus,
    ) -> Result<bool, redb::Error> {
        let known: Option<ContainerStatus> = read_json(&self.statuses, row.bytes())?;
        if known.is_some_and(|known| is_repetition(&known, status)) {
            return Ok(false);
        }
        self.put_json(Which::Statuses, row, status)?;
        Ok(true)
    }

    /// Forgets a container and says what that resolves; `None` when it is not known.
    pub(crate) fn end(
        &mut self,
        row: &RowKey,
        now: Timestamp,
    ) -> Result<Option<Ended>, redb::Error> {
        let Some(about) = read_json::<About>(&self.containers, row.bytes())? else {
            let is_damaged = self.containers.get(row.bytes())?.is_some();
            if is_damaged {
                self.damaged += 1;
                self.forget(row)?;
            }
            return Ok(None);
        };
        let mut places = self.places_of(row)?;
        let findings = place::end(&mut places, &about, now);
        let last: Option<ContainerStatus> = read_json(&self.statuses, row.bytes())?;
        let status = ended_status(last, &about, now);
        self.forget(row)?;
        Ok(Some(Ended { findings, status }))
    }

    /// Every container that has not ended.
    pub(crate) fn known(&mut self) -> Result<Vec<Known>, redb::Error> {
        let mut known = Vec::new();
        let mut damaged = Vec::new();
        for row in self.containers.iter()? {
            let (key, row) = row?;
            match parse::<About>(key.value(), row.value()) {
                Some(about) => known.push(Known {
                    about,
                    identity: read_bytes(&self.identities, key.value())?,
                }),
                None => damaged.push(RowKey::of_bytes(key.value())),
            }
        }
        // Places without their container could never be resolved: all of it is looked at anew.
        for row in damaged {
            self.forget(&row)?;
            self.damaged += 1;
        }
        Ok(known)
    }

    /// The open places of one container.
    pub(crate) fn open_places(
        &mut self,
        row: &RowKey,
    ) -> Result<Vec<(Fingerprint, Place)>, redb::Error> {
        let places = self.places_of(row)?;
        Ok(places
            .into_iter()
            .filter(|(_, place)| place.resolved_at.is_none())
            .collect())
    }

    /// The last status of one container.
    pub(crate) fn last_status(&self, row: &RowKey) -> Result<Option<ContainerStatus>, redb::Error> {
        read_json(&self.statuses, row.bytes())
    }

    fn places_of(&mut self, row: &RowKey) -> Result<Places, redb::Error> {
        let [first, last] = row.places();
        let mut places = Places::new();
        let mut damaged = Vec::new();
        for stored in self
            .places
            .range::<&[u8]>(first.as_slice()..=last.as_slice())?
        {
            let (key, value) = stored?;
            match (fingerprint(key.value()), parse(key.value(), value.value())) {
                (Some(fingerprint), Some(place)) => {
                    places.insert(fingerprint, place);
                }
                _ => damaged.push(key.value().to_vec()),
            }
        }
        for key in damaged {
            remove(&mut self.places, &key)?;
            self.damaged += 1;
            self.is_changed = true;
        }
        Ok(places)
    }

    fn put_places(
        &mut self,
        row: &RowKey,
        before: &Places,
        after: &Places,
    ) -> Result<(), redb::Error> {
        for (fingerprint, place) in after {
            if before.get(fingerprint) != Some(place) {
                let content = serde_json::to_vec(place).map_err(unencodable)?;
                insert(&mut self.places, &row.place(*fingerprint), &content)?;
                self.is_changed = true;
            }
        }
        for fingerprint in before.keys().filter(|known| !after.contains_key(known)) {
            remove(&mut self.places, &row.place(*fingerprint))?;
            self.is_changed = true;
        }
        Ok(())
    }

    fn put_about(&mut self, row: &RowKey, about: &About) -> Result<(), redb::Error> {
        if read_json::<About>(&self.containers, row.bytes())?.as_ref() != Some(about) {
            self.put_json(Which::Containers, row, about)?;
        }
        Ok(())
    }

    fn put_json(
        &mut self,
        which: Which,
        row: &RowKey,
        value: &impl serde::Serialize,
    ) -> Result<(), redb::Error> {
        let content = serde_json::to_vec(value).map_err(unencodable)?;
        let table = match which {
            Which::Containers => &mut self.containers,
            Which::Statuses => &mut self.statuses,
        };
        insert(table, row.bytes(), &content)?;
        self.is_changed = true;
        Ok(())
    }

    fn forget(&mut self, row: &RowKey) -> Result<(), redb::Error> {
        let [first, last] = row.places();
        self.places
            .retain_in::<&[u8], _>(first.as_slice()..=last.as_slice(), |_, _| false)?;
        for table in [
            &mut self.containers,
            &mut self.identities,
            &mut self.statuses,
        ] {
            remove(table, row.bytes())?;
        }
        self.is_changed = true;
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
enum Which {
    Containers,
    Statuses,
}

/// Our own types have no map keys but text, so this does not happen; if it did, the look is not recorded.
fn unencodable(error: serde_json::Error) -> redb::Error {
    redb::Error::Io(error.into())
}

fn is_repetition(known: &ContainerStatus, status: &ContainerStatus) -> bool {
    let age = status.observed_at.duration_since(known.observed_at);
    age.abs() < STATUS_REPEATED_AFTER && timeless(known) == timeless(status)
}

/// A status without its times.
fn timeless(status: &ContainerStatus) -> ContainerStatus {
    let mut status = status.clone();
    status.observed_at = Timestamp::UNIX_EPOCH;
    for check in &mut status.checks {
        check.at = Timestamp::UNIX_EPOCH;
    }
    status
}

fn ended_status(last: Option<ContainerStatus>, about: &About, now: Timestamp) -> ContainerStatus {
    let last = last.unwrap_or_else(|| ContainerStatus {
        schema: SCHEMA.to_owned(),
        node: about.node.clone(),
        container: about.container.clone(),
        workload: about.workload.clone(),
        image: about.image.clone(),
        signature: None,
        checks: Vec::new(),
        running: false,
        observed_at: now,
    });
    ContainerStatus {
        running: false,
        observed_at: now,
        ..last
    }
}
