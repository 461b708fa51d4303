//! The admin endpoint of a program: `/metrics`, `/livez`, `/readyz`, and what else is merged into it.
//!
//! It has no authentication, so it belongs on loopback; deciding that is the configuration's job.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::readiness::Readiness;
use crate::shutdown::Stop;

/// What Prometheus asks for first.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What everybody else reads (`curl`, `promtool check metrics`).
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Why the admin endpoint could not start.
#[derive(Debug, thiserror::Error)]
#[error("{address}: {source}")]
pub struct BindError {
    /// The address that was asked for.
    address: SocketAddr,
    source: std::io::Error,
}

/// A bound address, not served yet: whoever connects now waits instead of being refused.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
}

impl Admin {
    /// Binds the address; port 0 takes a free one.
    pub async fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let bound = async {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address })
        };
        bound.await.map_err(|source| BindError { address, source })
    }

    /// The address that was bound.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` turns true.
    pub async fn serve(self, router: Router, mut stop: Stop) -> std::io::Result<()> {
        let stopped = async move {
            // An error means that the sender is gone, which is a stop as well.
            let _gone = stop.wait_for(|stopped| *stopped).await.is_err();
        };
        axum::serve(self.listener, router)
            .with_graceful_shutdown(stopped)
            .await
    }
}

/// `/metrics`, `/livez` and `/readyz`; merge other routes into it.
pub fn router(registry: Registry, readiness: Readiness) -> Router {
    Router::new()
        .route("/metrics", get(metrics).with_state(Arc::new(registry)))
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz).with_state(readiness))
}

async fn readyz(State(readiness): State<Readiness>) -> Response {
    let reasons = readiness.reasons();
    if reasons.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response()
}

async fn metrics(State(registry): State<Arc<Registry>>, headers: HeaderMap) -> Response {
    let accepts_open_metrics = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("application/openmetrics-text"));
    let mut open_metrics = String::new();
    if text::encode(&mut open_metrics, &registry).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    if accepts_open_metrics {
        ([(header::CONTENT_TYPE, OPEN_METRICS)], open_metrics).into_response()
    } else {
        ([(header::CONTENT_TYPE, PLAIN)], plain(&open_metrics)).into_response()
    }
}

/// The older text format. It differs where it matters to its readers: a counter's name carries its
/// `_total` in HELP and TYPE too, there is no type `info`, no UNIT and no EOF.
fn plain(open_metrics: &str) -> String {
    let mut plain = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        if line.starts_with("# UNIT ") || line == "# EOF" {
            continue;
        }
        if let Some(about) = line.strip_prefix("# HELP ") {
            help = about.split_once(' ');
        } else if let Some((name, metric_type)) = line
            .strip_prefix("# TYPE ")
            .and_then(|about| about.split_once(' '))
        {
            let (suffix, metric_type) = match metric_type {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                same => ("", same),
            };
            if let Some((_, text)) = help.take() {
                let _infallible = writeln!(plain, "# HELP {name}{suffix} {text}");
            }
            let _infallible = writeln!(plain, "# TYPE {name}{suffix} {metric_type}");
        } else {
            plain.push_str(line);
            plain.push('\n');
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::metrics::info::Info;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;
    use crate::shutdown::Supervisor;

    fn registry() -> Registry {
        let mut registry = Registry::with_prefix("holdfast_test");
        let counter: Counter = Counter::default();
        counter.inc();
        registry.register("records", "Records seen", counter);
        registry.register("open", "Open now", Gauge::<i64>::default());
        registry.register("build", "Build", Info::new([("version", "1")]));
        registry
    }

    async fn request(address: SocketAddr, head: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("{head}\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn serving(readiness: Readiness) -> (SocketAddr, Supervisor) {
        let admin = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = admin.address();
        let mut supervisor = Supervisor::new();
        let stop = supervisor.stop();
        supervisor.spawn("admin", admin.serve(router(registry(), readiness), stop));
        (address, supervisor)
    }

    #[tokio::test]
    async fn readiness_is_503_with_the_reasons_until_every_condition_holds() {
        let readiness = Readiness::new(&["containerd", "spool"]);
        let (address, _supervisor) = serving(readiness.clone()).await;
        assert!(
            request(address, "GET /livez HTTP/1.1")
                .await
                .contains("200 OK")
        );

        let answer = request(address, "GET /readyz HTTP/1.1").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(
            answer.ends_with("containerd: not yet\nspool: not yet\n"),
            "{answer}"
        );

        readiness.set("containerd", Ok(()));
        readiness.set("spool", Ok(()));
        let answer = request(address, "GET /readyz HTTP/1.1").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }

    #[tokio::test]
    async fn metrics_are_in_the_format_that_the_client_accepts() {
        let (address, _supervisor) = serving(Readiness::new(&[])).await;

        let open_metrics = request(
            address,
            "GET /metrics HTTP/1.1\r\naccept: application/openmetrics-text;version=1.0.0",
        )
        .await;
        assert!(open_metrics.contains("content-type: application/openmetrics-text"));
        assert!(open_metrics.contains("# TYPE holdfast_test_records counter\n"));
        assert!(open_metrics.ends_with("# EOF\n"));

        let plain = request(address, "GET /metrics HTTP/1.1").await;
        assert!(plain.contains("content-type: text/plain; version=0.0.4"));
        assert!(!plain.contains("# EOF"));
    }

    #[test]
    fn the_older_format_names_counters_and_infos_in_full() {
        let mut open_metrics = String::new();
        text::encode(&mut open_metrics, &registry()).unwrap();
        assert_eq!(
            plain(&open_metrics),
            "# HELP holdfast_test_records_total Records seen.\n\
             # TYPE holdfast_test_records_total counter\n\
             holdfast_test_records_total 1\n\
             # HELP holdfast_test_open Open now.\n\
             # TYPE holdfast_test_open gauge\n\
             holdfast_test_open 0\n\
             # HELP holdfast_test_build_info Build.\n\
             # TYPE holdfast_test_build_info gauge\n\
             holdfast_test_build_info{version=\"1\"} 1\n"
        );
    }

    #[tokio::test]
    async fn an_address_in_use_is_refused_by_name() {
        let first = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let error = Admin::bind(first.address()).await.unwrap_err();
        assert!(error.to_string().starts_with(&first.address().to_string()));
    }
}
