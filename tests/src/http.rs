//! Plain HTTP to what a test has started on loopback.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::Url;
use serde_json::Value;

/// Nothing on loopback takes longer; a test that waits does so in a loop of its own.
const LIMIT: Duration = Duration::from_secs(10);

/// A client with limits.
pub fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .timeout(LIMIT)
        .no_proxy()
        .build()
        .unwrap()
}

/// Status and body of `path`; `None` when nobody answers.
pub async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let response = client()
        .get(format!("http://{address}{path}"))
        .send()
        .await
        .ok()?;
    let status = response.status().as_u16();
    Some((status, response.text().await.ok()?))
}

/// The JSON document at `path`, which has to be there.
pub async fn json(address: SocketAddr, path: &str, query: &[(&str, &str)]) -> Value {
    let url = Url::parse_with_params(&format!("http://{address}{path}"), query).unwrap();
    let response = client().get(url.clone()).send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    assert!(status.is_success(), "{url}: {status}: {text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{url}: {error}: {text}"))
}
