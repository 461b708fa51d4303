//! Layers as streams and as files, from servers that break off, drip, lie about lengths and never end.
//!
//! Long because each way of lying is a server of its own.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;
use std::time::Duration;

use holdfast_core::digest::Digest;
use holdfast_core::reference::Repository;
use holdfast_registry::{Access, Blob, BlobReader, Client, Downloads, FetchError, Timing};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::liar::{Asked, Liar, Reply, body, plain, raw, repository, status, with};
use crate::write_hosts;

const OCTETS: &str = "application/octet-stream";

/// A blob of a few pieces.
fn content() -> Vec<u8> {
    (0..300_000_u32).flat_map(u32::to_le_bytes).collect()
}

fn blob(content: &[u8]) -> Blob {
    Blob {
        digest: Digest::of(content),
        size: u64::try_from(content.len()).unwrap(),
    }
}

/// The whole blob as the hosts give it.
async fn read(client: &Client, repository: &Repository, blob: Blob) -> Result<Vec<u8>, FetchError> {
    let mut offers = client.offers(repository, blob).await?;
    while let Some(mut stream) = offers.next().await {
        let mut whole = Vec::new();
        let ended = loop {
            match stream.piece().await {
                Ok(Some(piece)) => whole.extend_from_slice(&piece),
                Ok(None) => return Ok(whole),
                Err(error) => break error,
            }
        };
        // It stays ended.
        assert_eq!(stream.piece().await, Err(ended.clone()));
        offers.refuse(ended);
    }
    Err(offers.into_error())
}

async fn read_from(host: &str, blob: Blob) -> Result<Vec<u8>, FetchError> {
    let client = Client::new(plain(&[host])).unwrap();
    read(&client, &repository(host), blob).await
}

/// Access with times that a server which says nothing runs into.
fn impatient(host: &str, timing: Timing) -> Access {
    Access {
        timing,
        ..plain(&[host])
    }
}

/// The first byte that a request asks for.
fn range_of(head: &[u8]) -> Option<usize> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let (_, range) = head.split_once("range: bytes=")?;
    range.split_once('-')?.0.parse().ok()
}

async fn send(stream: &mut TcpStream, head: &str, body: &[u8]) {
    stream.write_all(head.as_bytes()).await.unwrap();
    // Who has seen enough hangs up.
    let _sent = stream.write_all(body).await;
}

/// A server that sends the first half, and `again` does what it likes with each request for the rest.
async fn breaking(
    again: impl Fn(usize) -> (String, Vec<u8>) + Clone + Send + 'static,
) -> (String, JoinSet<()>) {
    raw(move |mut stream, head| {
        let again = again.clone();
        async move {
            let content = content();
            let (head, body) = match range_of(&head) {
                Some(from) => again(from),
                None => (
                    format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
                        content.len()
                    ),
                    content.split_at(content.len() / 2).0.to_vec(),
                ),
            };
            send(&mut stream, &head, &body).await;
        }
    })
    .await
}

fn partial(from: usize, total: usize, body: &[u8]) -> (String, Vec<u8>) {
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\ncontent-length: {}\r\ncontent-range: bytes {from}-{}/{total}\r\n\r\n",
        total - from,
        total - 1
    );
    (head, body.to_vec())
}

#[tokio::test]
async fn a_blob_comes_whole_and_is_what_was_asked_for() {
    let registry = Liar::start(|_| body(OCTETS, &content())).await;
    let found = read_from(&registry.host, blob(&content())).await;
    assert_eq!(found.unwrap(), content());
    let empty = Liar::start(|_| body(OCTETS, b"")).await;
    assert_eq!(read_from(&empty.host, blob(b"")).await, Ok(vec![]));
}

#[tokio::test]
async fn a_stream_that_breaks_is_taken_up_where_it_broke() {
    let (host, _serving) = breaking(|from| {
        let content = content();
        partial(from, content.len(), &content[from..])
    })
    .await;
    assert_eq!(read_from(&host, blob(&content())).await.unwrap(), content());
}

#[tokio::test]
async fn a_server_that_begins_again_is_read_from_the_break_on() {
    let (host, _serving) = breaking(|_| {
        let content = content();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
            content.len()
        );
        (head, content)
    })
    .await;
    assert_eq!(read_from(&host, blob(&content())).await.unwrap(), content());
}

#[tokio::test]
async fn a_stream_is_taken_up_once_only() {
    let (host, _serving) = breaking(|from| {
        let content = content();
        let rest = &content[from..];
        partial(from, content.len(), &rest[..rest.len() / 2])
    })
    .await;
    let found = read_from(&host, blob(&content())).await;
    assert!(matches!(found, Err(FetchError::Connection(_))), "{found:?}");
}

#[tokio::test]
async fn a_rest_that_was_not_asked_for_is_refused() {
    let (host, _serving) = breaking(|from| {
        let content = content();
        partial(from - 1, content.len(), &content[from - 1..])
    })
    .await;
    let found = read_from(&host, blob(&content())).await;
    assert_eq!(found, Err(FetchError::WrongRange));

    let (host, _serving) = breaking(|from| {
        let content = content();
        partial(from, content.len(), &vec![0; content.len() - from])
    })
    .await;
    let found = read_from(&host, blob(&content())).await;
    assert!(matches!(found, Err(FetchError::WrongDigest { .. })));
}

#[tokio::test]
async fn other_bytes_are_never_a_whole_blob() {
    let mut altered = content();
    altered[77] ^= 1;
    let actual = Digest::of(&altered);
    let registry = Liar::start(move |_| body(OCTETS, &altered)).await;
    let due = blob(&content());
    assert_eq!(
        read_from(&registry.host, due).await,
        Err(FetchError::WrongDigest {
            due: due.digest,
            actual
        })
    );
}

#[tokio::test]
async fn a_length_that_is_not_the_manifests_is_refused_before_a_byte() {
    for length in [0, 99, 101, 1 << 20] {
        let registry = Liar::start(move |_| body(OCTETS, &vec![b' '; length])).await;
        let due = Blob {
            size: 100,
            ..blob(&[b' '; 100])
        };
        assert_eq!(
            read_from(&registry.host, due).await,
            Err(FetchError::WrongLength {
                due: 100,
                actual: u64::try_from(length).unwrap()
            })
        );
    }
}

#[tokio::test]
async fn an_endless_body_ends_at_the_due_length() {
    let (host, _serving) = raw(|mut stream, _| async move {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
        let mut next = head.as_bytes();
        while stream.write_all(next).await.is_ok() {
            next = chunk.as_bytes();
        }
    })
    .await;
    let found = read_from(&host, blob(&[b' '; 100])).await;
    assert!(
        matches!(found, Err(FetchError::WrongLength { due: 100, .. })),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_body_that_ends_early_by_its_own_account_is_too_short() {
    let (host, _serving) = raw(|mut stream, _| async move {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        send(&mut stream, head, b"1\r\nx\r\n0\r\n\r\n").await;
    })
    .await;
    // Taken up once, it begins again, and is as short as before.
    let found = read_from(&host, blob(b"xyz")).await;
    assert_eq!(found, Err(FetchError::WrongLength { due: 3, actual: 1 }));
}

#[tokio::test]
async fn a_compressed_layer_is_not_opened() {
    let registry = Liar::start(|_| with(body(OCTETS, &[0; 100]), "content-encoding", "gzip")).await;
    let found = read_from(&registry.host, blob(&[0; 100])).await;
    assert_eq!(found, Err(FetchError::Encoded));
}

#[tokio::test]
async fn a_stream_that_stalls_is_given_up() {
    let (host, _serving) = raw(|mut stream, _| async move {
        send(
            &mut stream,
            "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n",
            b"x",
        )
        .await;
        std::future::pending::<()>().await;
    })
    .await;
    let timing = Timing {
        stall: Duration::from_millis(100),
        object: Duration::from_millis(500),
        ..Timing::default()
    };
    let client = Client::new(impatient(&host, timing)).unwrap();
    let found = read(&client, &repository(&host), blob(&[b'x'; 100])).await;
    assert_eq!(found, Err(FetchError::Timeout));
}

#[tokio::test]
async fn a_stream_that_drips_for_ever_ends_in_time() {
    let (host, _serving) = raw(|mut stream, _| async move {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
        let mut drip = tokio::time::interval(Duration::from_millis(5));
        let mut next = head.as_bytes();
        while stream.write_all(next).await.is_ok() {
            next = b"x";
            drip.tick().await;
        }
    })
    .await;
    let timing = Timing {
        grace: Duration::from_millis(300),
        slowest: u32::MAX,
        ..Timing::default()
    };
    let client = Client::new(impatient(&host, timing)).unwrap();
    let due = Blob {
        digest: Digest::of(b""),
        size: 1_000_000,
    };
    let found = read(&client, &repository(&host), due).await;
    assert_eq!(found, Err(FetchError::Timeout));
}

#[tokio::test]
async fn a_server_that_says_nothing_at_all_is_given_up() {
    let (host, _serving) = raw(|stream, _| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let timing = Timing {
        first_byte: Duration::from_millis(100),
        ..Timing::default()
    };
    let client = Client::new(impatient(&host, timing)).unwrap();
    let found = read(&client, &repository(&host), blob(b"x")).await;
    assert_eq!(found, Err(FetchError::Timeout));
}

/// Access to `origin` through `mirror`.
fn through(mirror: &Liar, origin: &Liar) -> (TempDir, Access) {
    let certs = TempDir::new().unwrap();
    let text = format!("[host.\"http://{}\"]\n", mirror.host);
    write_hosts(certs.path(), &origin.host, &text);
    let access = Access {
        hosts: vec![certs.path().to_owned()],
        ..plain(&[&mirror.host, &origin.host])
    };
    (certs, access)
}

fn file(path: &Path) -> Vec<u8> {
    let mut content = Vec::new();
    let mut file = File::open(path).unwrap();
    file.read_to_end(&mut content).unwrap();
    content
}

fn has_content(_: &Asked) -> Reply {
    body(OCTETS, &content())
}

#[tokio::test]
async fn what_a_mirror_has_altered_comes_from_the_registry() {
    let mirror = Liar::start(|_| body(OCTETS, &vec![0; content().len()])).await;
    let origin = Liar::start(has_content).await;
    let (_certs, access) = through(&mirror, &origin);
    let client = Client::new(access.clone()).unwrap();
    let found = read(&client, &origin.repository(), blob(&content())).await;
    assert_eq!(found.unwrap(), content());

    let folder = TempDir::new().unwrap();
    let downloads = Downloads::open(client, folder.path().to_owned()).unwrap();
    let path = downloads
        .fetch(&origin.repository(), blob(&content()))
        .await;
    assert_eq!(file(&path.unwrap()), content());
}

#[tokio::test]
async fn a_blob_that_no_host_has_is_not_found_and_one_that_fails_says_why() {
    let absent = Liar::start(|_| status(404)).await;
    assert_eq!(
        read_from(&absent.host, blob(b"x")).await,
        Err(FetchError::NotFound)
    );
    let mirror = Liar::start(|_| status(403)).await;
    let (_certs, access) = through(&mirror, &absent);
    let client = Client::new(access).unwrap();
    let found = read(&client, &absent.repository(), blob(b"x")).await;
    assert_eq!(
        found,
        Err(FetchError::Mirror {
            host: mirror.host.clone(),
            error: Box::new(FetchError::Forbidden)
        })
    );
}

#[tokio::test]
async fn a_reader_ends_only_when_the_digest_is_right() {
    let registry = Liar::start(has_content).await;
    let client = Client::new(plain(&[&registry.host])).unwrap();
    let open = async |digest| {
        let due = Blob {
            digest,
            ..blob(&content())
        };
        let mut offers = client.offers(&registry.repository(), due).await.unwrap();
        BlobReader::from(offers.next().await.unwrap())
    };
    let mut whole = Vec::new();
    let mut reader = open(Digest::of(&content())).await;
    reader.read_to_end(&mut whole).await.unwrap();
    assert_eq!(whole, content());

    let mut reader = open(Digest::of(b"other")).await;
    let error = reader.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Other);
    let cause = error
        .into_inner()
        .unwrap()
        .downcast::<FetchError>()
        .unwrap();
    assert!(matches!(*cause, FetchError::WrongDigest { .. }));
}

#[tokio::test]
async fn a_file_is_there_whole_or_not_at_all() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join(".unfinished-old"), "x").unwrap();
    let registry = Liar::start(has_content).await;
    let client = Client::new(plain(&[&registry.host])).unwrap();
    let downloads = Downloads::open(client, folder.path().to_owned()).unwrap();
    let files = || std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(files(), 0, "what a crash left");

    let other = Blob {
        digest: Digest::of(b"other"),
        ..blob(&content())
    };
    let failed = downloads.fetch(&registry.repository(), other).await;
    assert!(matches!(failed, Err(FetchError::WrongDigest { .. })));
    assert_eq!(files(), 0);

    let due = blob(&content());
    let path = downloads.fetch(&registry.repository(), due).await.unwrap();
    assert_eq!(path, folder.path().join(due.digest.encoded()));
    assert_eq!(file(&path), content());
    assert_eq!(files(), 1);
}
