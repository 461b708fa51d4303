//! Blobs as files in a folder of ours: whole and checked, or not there.
//!
//! A file is written beside its place under a name that no reader looks for, and renamed once its digest
//! is right. What a crash left behind is removed at the next start.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use holdfast_core::reference::Repository;
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt as _;

use crate::client::Client;
use crate::error::FetchError;
use crate::flight::Flights;
use crate::stream::{Blob, BlobStream};

/// How names of files that are not whole begin.
const UNFINISHED: &str = ".unfinished-";

/// A folder of blobs.
#[derive(Debug)]
pub struct Downloads {
    client: Client,
    folder: PathBuf,
    flights: Flights<Result<PathBuf, FetchError>>,
}

impl Downloads {
    /// Blobs below `folder`, which is made, for us alone, and freed of what an earlier start left.
    pub fn open(client: Client, folder: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(UNFINISHED.as_bytes())
            {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self {
            client,
            folder,
            flights: Flights::default(),
        })
    }

    /// The file with a blob of `repository`, fetched now. Whoever asks for one that is being fetched
    /// waits for it.
    pub async fn fetch(&self, repository: &Repository, blob: Blob) -> Result<PathBuf, FetchError> {
        let key = blob.digest.encoded();
        let path = self.folder.join(&key);
        let fly = Box::pin(self.fetch_anywhere(repository, blob, path));
        self.flights.join(key, fly).await
    }

    async fn fetch_anywhere(
        &self,
        repository: &Repository,
        blob: Blob,
        path: PathBuf,
    ) -> Result<PathBuf, FetchError> {
        let mut offers = self.client.offers(repository, blob).await?;
        while let Some(stream) = offers.next().await {
            match self.keep(stream, &path).await {
                Ok(()) => return Ok(path),
                // Our own disk is as bad with the next host.
                Err(error @ FetchError::Disk(_)) => return Err(error),
                Err(error) => offers.refuse(error),
            }
        }
        Err(offers.into_error())
    }

    async fn keep(&self, mut stream: BlobStream, path: &Path) -> Result<(), FetchError> {
        let beside = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempfile_in(&self.folder)
            .map_err(|error| disk(&error))?;
        let file = beside.reopen().map_err(|error| disk(&error))?;
        let mut file = tokio::fs::File::from_std(file);
        while let Some(piece) = stream.piece().await? {
            file.write_all(&piece).await.map_err(|error| disk(&error))?;
        }
        file.flush().await.map_err(|error| disk(&error))?;
        file.sync_all().await.map_err(|error| disk(&error))?;
        let (folder, path) = (self.folder.clone(), path.to_owned());
        tokio::task::spawn_blocking(move || put(beside, &folder, &path))
            .await
            .map_err(|_stopped| FetchError::Disk(io::ErrorKind::Interrupted))?
            .map_err(|error| disk(&error))
    }
}

fn put(beside: NamedTempFile, folder: &Path, path: &Path) -> io::Result<()> {
    beside.persist(path).map_err(|error| error.error)?;
    // The rename itself is durable once the folder is.
    fs::File::open(folder)?.sync_all()
}

fn disk(error: &io::Error) -> FetchError {
    FetchError::Disk(error.kind())
}
