//! One HTTPS client for all who ask over the network: whom it trusts, and how much it bears.
//!
//! What is asked, how long, and what an answer means is its callers' business.

mod tls;

use std::time::Duration;

use reqwest::{Client, ClientBuilder, Proxy};

pub(crate) use tls::{Distrust, Trust, alert, client_config, lack};

use crate::setting::is_shown;

/// With the name: where the first name server is silent, the second is asked after five seconds, resolv.conf(5).
const CONNECT: Duration = Duration::from_secs(12);
/// Bytes. The largest honest answer is a chain of certificates: some ten thousand.
pub(crate) const MAX_BODY: usize = 1024 * 1024;
/// What is shown of a server's own words, in characters.
pub(crate) const MAX_SAID: usize = 300;

/// A client that speaks TLS and nothing else, and goes where it is sent and nowhere else.
pub(crate) fn client(tls: rustls::ClientConfig, proxy: Option<&str>) -> Result<Client, String> {
    let builder = builder(tls).https_only(true);
    let builder = match proxy {
        Some(url) => builder.proxy(Proxy::all(url).map_err(|e| format!("proxy: {e}"))?),
        None => builder,
    };
    build(builder)
}

/// The same for servers that may speak plain HTTP still.
pub(crate) fn lenient_client(tls: rustls::ClientConfig) -> Result<Client, String> {
    build(builder(tls))
}

fn builder(tls: rustls::ClientConfig) -> ClientBuilder {
    Client::builder()
        .tls_backend_preconfigured(tls)
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT)
        .pool_max_idle_per_host(1)
        .user_agent(concat!("nodecert/", env!("CARGO_PKG_VERSION")))
        .no_proxy()
}

fn build(builder: ClientBuilder) -> Result<Client, String> {
    builder.build().map_err(|e| format!("no HTTPS client: {}", root_cause(&e)))
}

/// Why an answer was not read to its end.
#[derive(Debug)]
pub(crate) enum Unread {
    TooLarge,
    Cut(reqwest::Error),
}

/// The body of an answer, if it is not larger than any honest one.
pub(crate) async fn bounded(mut response: reqwest::Response) -> Result<Vec<u8>, Unread> {
    if response.content_length().is_some_and(|length| length > MAX_BODY as u64) {
        return Err(Unread::TooLarge);
    }
    // Grown as it comes it would be there twice.
    let length = response.content_length().and_then(|length| usize::try_from(length).ok());
    let mut body = Vec::with_capacity(length.unwrap_or(0));
    while let Some(chunk) = response.chunk().await.map_err(Unread::Cut)? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(Unread::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Text of others, fit for a log: no control characters, one line, not long.
pub(crate) fn one_line(text: &str) -> String {
    let spaced: String = text.chars().map(|c| if is_shown(c) { c } else { ' ' }).collect();
    let words = spaced.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(MAX_SAID) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words,
    }
}

/// The innermost cause: "Connection refused" says more than "error sending request".
pub(crate) fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let what = match error {
        e if e.is_timeout() && e.is_connect() => {
            return "no connection: its name or its address does not answer".to_owned();
        }
        e if e.is_timeout() => "time-out: ",
        e if e.is_connect() => "cannot connect: ",
        _ => "connection broken: ",
    };
    format!("{what}{}", one_line(&cause.to_string()))
}
