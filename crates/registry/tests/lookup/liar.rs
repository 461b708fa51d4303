//! A server on loopback whose answers a test chooses, and which notes what it was asked.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Response, StatusCode};
use holdfast_core::digest::Digest;
use holdfast_core::reference::Repository;
use holdfast_core::trust::Looked;
use holdfast_registry::{Access, Client, SignatureSource, Sources, Timing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::forge::Signed;
use crate::subject;

pub(crate) type Reply = Response<Body>;

/// One request as the server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

pub(crate) struct Liar {
    pub(crate) host: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    _serving: JoinSet<()>,
}

impl Liar {
    /// Answers each request with `reply`.
    pub(crate) async fn start(reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let (listener, host) = listen().await;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (notes, reply) = (Arc::clone(&asked), Arc::new(reply));
        let app = Router::new().fallback(move |request: Request| {
            let (notes, reply) = (Arc::clone(&notes), Arc::clone(&reply));
            async move {
                let asked = take(request).await;
                let answer = reply(&asked);
                notes.lock().unwrap().push(asked);
                answer
            }
        });
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            host,
            asked,
            _serving: serving,
        }
    }

    /// What it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn repository(&self) -> Repository {
        repository(&self.host)
    }
}

async fn take(request: Request) -> Asked {
    let (head, body) = request.into_parts();
    Asked {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers,
        body: axum::body::to_bytes(body, 1 << 20).await.unwrap().into(),
    }
}

/// A server that reads a request and then does `answer` with the connection.
pub(crate) async fn raw<F, A>(answer: A) -> (String, JoinSet<()>)
where
    A: Fn(TcpStream, Vec<u8>) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (listener, host) = listen().await;
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            // Who closes at once has asked for nothing.
            let length = stream.read(&mut head).await.unwrap_or_default();
            head.truncate(length);
            connections.spawn(answer(stream, head));
        }
    });
    (host, serving)
}

/// Answers with these bytes, whatever was asked, and closes.
pub(crate) async fn recorded(bytes: &'static [u8]) -> (String, JoinSet<()>) {
    raw(move |mut stream, _| async move {
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
    })
    .await
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    (listener, host)
}

pub(crate) fn repository(host: &str) -> Repository {
    format!("{host}/team/app").parse().unwrap()
}

/// Access to these hosts in plain HTTP, with a deadline that no honest answer comes near.
pub(crate) fn plain(hosts: &[&str]) -> Access {
    Access {
        insecure: hosts
            .iter()
            .map(|&host| host.to_owned())
            .collect::<BTreeSet<_>>(),
        ..Access::default()
    }
}

/// Looks for the subject's signatures at this host, in plain HTTP.
pub(crate) async fn look(host: &str) -> Looked {
    look_with(plain(&[host]), host).await
}

/// The same with a deadline that a server which never answers runs into.
pub(crate) async fn look_briefly(host: &str) -> Looked {
    let access = Access {
        timing: Timing {
            object: Duration::from_millis(300),
            ..Timing::default()
        },
        ..plain(&[host])
    };
    look_with(access, host).await
}

pub(crate) async fn look_with(access: Access, host: &str) -> Looked {
    let sources = Sources::new(Vec::new(), Some(Client::new(access).unwrap()));
    sources.signatures(&repository(host), subject()).await
}

pub(crate) fn status(code: u16) -> Reply {
    let mut reply = Reply::new(Body::empty());
    *reply.status_mut() = StatusCode::from_u16(code).unwrap();
    reply
}

pub(crate) fn with(mut reply: Reply, name: &'static str, value: &str) -> Reply {
    reply.headers_mut().append(name, value.parse().unwrap());
    reply
}

pub(crate) fn body(media_type: &str, bytes: &[u8]) -> Reply {
    with(
        Reply::new(Body::from(bytes.to_vec())),
        "content-type",
        media_type,
    )
}

/// What an honest registry that holds `signed` answers.
pub(crate) fn honest(signed: &Signed, asked: &Asked) -> Reply {
    let name = asked.path.rsplit('/').next().unwrap();
    if asked.path == format!("/v2/team/app/manifests/{}", signed.tag) {
        let digest = Digest::of(&signed.manifest).to_string();
        let reply = body(signed.media_type, &signed.manifest);
        return with(reply, "docker-content-digest", &digest);
    }
    signed
        .blobs
        .iter()
        .find(|(digest, _)| asked.path.contains("/blobs/") && digest.to_string() == name)
        .map_or_else(
            || status(404),
            |(_, bytes)| body("application/octet-stream", bytes),
        )
}
