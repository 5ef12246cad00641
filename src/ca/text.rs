//! What is read from texts around HTTP: URLs of the configuration, headers and servers' own words.

use std::time::{Duration, SystemTime};

use reqwest::Url;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use serde_json::Value;

use crate::https::{MAX_SAID, one_line};

/// Checks the URL of a server: HTTPS, a host, perhaps a path, and nothing that could leak.
pub(super) fn server_url(text: &str) -> Result<String, String> {
    if !text.is_ascii() {
        return Err("has a URL that is not ASCII; write a name in another script as punycode".to_owned());
    }
    // One with an @ may hold a password, and is not repeated.
    let url = parse_url(text).map_err(|e| match text.contains('@') {
        true => format!("has a faulty URL ({e}); write https://HOST:PORT"),
        false => format!("has {text:?} among its urls, which is no URL ({e}); write https://HOST:PORT"),
    })?;
    let wrong = |why: &str| Err(format!("has a faulty URL: {why}"));
    if !url.username().is_empty() || url.password().is_some() {
        return wrong("it holds a user or password, which would be shown in messages; use `auth`");
    }
    if url.scheme() != "https" {
        return Err(format!(
            "has the URL {text:?}, which is not https; a token sent in the clear is lost, on loopback too"
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return wrong("it holds a query or fragment; write https://HOST:PORT");
    }
    let path = url.path().trim_end_matches('/');
    if let Some(end) = ["/v1", "/ui"].iter().find(|end| path.ends_with(**end)) {
        return wrong(&format!("it ends in {end}; leave that out"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// Checks the URL of a proxy.
pub(super) fn proxy_url(text: &str) -> Result<String, String> {
    let plain = parse_url(text).ok().filter(|url| {
        url.scheme() == "http" && url.has_host() && url.username().is_empty() && url.password().is_none()
    });
    match plain {
        Some(url) => Ok(url.as_str().to_owned()),
        None => Err("has a faulty proxy; write http://HOST:PORT, without user or password".to_owned()),
    }
}

/// An address as it is meant: what an escape stands for in a host is not what one reads there.
pub(super) fn parse_url(text: &str) -> Result<Url, String> {
    match text.contains('%') {
        true => Err("it holds a %".to_owned()),
        false => Url::parse(text).map_err(|error| error.to_string()),
    }
}

/// RFC 9110 section 10.2.3: seconds, or a date.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some(http_date(text)?.duration_since(now).unwrap_or_default())
}

/// RFC 9110 section 6.6.1: the server's own time.
pub(super) fn date(headers: &HeaderMap) -> Option<SystemTime> {
    http_date(headers.get(DATE)?.to_str().ok()?.trim())
}

/// RFC 9110 section 5.6.7, the one form that is still sent: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(text: &str) -> Option<SystemTime> {
    let form = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    Some(time::PrimitiveDateTime::parse(text, form).ok()?.assume_utc().into())
}

/// A server's own words in one short line: the errors of a JSON answer, or else the text.
pub fn said(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(16 * MAX_SAID)]).into_owned();
    let errors = serde_json::from_slice::<Value>(body).ok().and_then(|json| {
        let errors = json.get("errors")?.as_array()?;
        Some(
            errors
                .iter()
                .filter_map(|error| error.get("message").unwrap_or(error).as_str())
                .collect::<Vec<_>>()
                .join("; "),
        )
    });
    one_line(&errors.unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_says_when_to_come_back_in_seconds_or_by_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, wait) in [
            ("120", Some(120)),
            ("0", Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
            ("99999999999999999999999", None),
        ] {
            let headers = [(RETRY_AFTER, reqwest::header::HeaderValue::from_static(text))];
            let found = retry_after(&headers.into_iter().collect(), now);
            assert_eq!(found, wait.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn what_a_server_says_is_one_short_line() {
        let json = br#"{"errors": ["1 error occurred:\n\t* permission denied\n\n", "and\u001b[31m more"]}"#;
        assert_eq!(said(json), "1 error occurred: * permission denied ; and [31m more");
        assert_eq!(said(b"<html>\r\n <b>x</b>\0</html>"), "<html> <b>x</b> </html>");
        assert_eq!(said(b""), "");
        assert_eq!(said(&[0xff; 100_000]).chars().count(), MAX_SAID + 1);
    }

    #[test]
    fn the_name_of_a_server_is_ascii() {
        assert!(server_url("https://vault.example.com:8200").is_ok());
        assert!(server_url("https://xn--bcher-kva.example").is_ok());
        assert!(server_url("https://b\u{fc}cher.example").unwrap_err().contains("ASCII"));
        for url in ["https://v%41ult.example:8200", "https://vault.example:8200/%2e"] {
            assert!(server_url(url).unwrap_err().contains("holds a %"), "{url}");
            assert!(proxy_url(&url.replace("https", "http")).is_err(), "{url}");
        }
    }
}
