//! What settings are made of: names, templates, secrets and the faults found in them.
//!
//! Everything here is parsed once, where it stands in the text, so that what later rooms hold
//! cannot be wrong and a fault can say its file, line and column.

mod template;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use template::{SCOPE, Scope, Template};
pub(crate) use template::{environment, said_of_template};

/// A value and the bytes of the configuration it was read from.
pub use toml::Spanned as At;

/// The name of a certificate, CA or file: letters, digits, `.`, `_` and `-`, so that it can stand
/// in a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Name(String);

impl Name {
    /// Checks a name; the error says what is allowed.
    pub fn new(text: &str) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if text.is_empty() || text.len() > 100 || !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return Err(format!(
                "the name {text:?} must begin with a letter or digit and have at most 100 of them"
            ));
        }
        match text.chars().find(|&c| !plain(c)) {
            Some(c) => Err(format!("the name {text:?} holds {c:?}; use letters, digits, '.', '_' and '-'")),
            None => Ok(Self(text.to_owned())),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Name::new(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Bytes that must not be shown: redacted in debug output, wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a secret, without the white space that editors and `echo` leave at its end.
    pub fn new(text: &str) -> Self {
        Self(Zeroizing::new(text.trim().to_owned()))
    }

    /// The secret itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// It stands in the configuration itself, in a file that no one else can read.
    Literal(Secret),
    /// A file below the root.
    File(PathBuf),
    /// A credential that systemd passes, systemd.exec(5) `LoadCredential=`.
    Credential(String),
    /// An environment variable.
    Env(String),
    /// What a command prints, run without a shell.
    Command(Vec<String>),
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(_) => f.write_str("the configuration"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Credential(name) => write!(f, "credential {name}"),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Command(argv) => write!(f, "command {}", argv.first().map_or("", String::as_str)),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum SecretKey {
    File,
    Credential,
    Env,
    Command,
}

impl<'de> Deserialize<'de> for SecretSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOf;
        impl<'de> Visitor<'de> for OneOf {
            type Value = SecretSource;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a secret: { file }, { credential }, { env }, { command } or a string")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<SecretSource, E> {
                Ok(SecretSource::Literal(Secret::new(text)))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SecretSource, A::Error> {
                let source = match map.next_key()? {
                    Some(SecretKey::File) => SecretSource::File(map.next_value()?),
                    Some(SecretKey::Credential) => SecretSource::Credential(map.next_value()?),
                    Some(SecretKey::Env) => SecretSource::Env(map.next_value()?),
                    Some(SecretKey::Command) => SecretSource::Command(map.next_value()?),
                    None => {
                        return Err(de::Error::custom(
                            "a secret needs one of file, credential, env, command",
                        ));
                    }
                };
                match map.next_key::<SecretKey>()? {
                    Some(_) => Err(de::Error::custom("a secret has one source only")),
                    None => Ok(source),
                }
            }
        }
        deserializer.deserialize_any(OneOf)
    }
}

/// One thing that is wrong in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where it stands in the joined texts, if it stands anywhere.
    pub span: Option<Range<usize>>,
    /// What is wrong and what to do.
    pub message: String,
}

impl Fault {
    /// A fault at a place of the text. A span without length is a default's and is no place.
    pub fn at(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { span: (!span.is_empty()).then_some(span), message: message.into() }
    }
}

/// What serde says of a key that is not there, for tables that it does not read as one.
pub fn unknown(key: &At<impl AsRef<str>>, there: &[&str]) -> Fault {
    let there = there.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    Fault::at(key.span(), format!("unknown field `{}`, expected one of {there}", key.get_ref().as_ref()))
}

/// A file that must have a mode like "0600": an octal text, so that TOML's decimal cannot be meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(pub u32);

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o777 && mode & 0o400 != 0 => Ok(Self(mode)),
            _ => Err(de::Error::custom(format!(
                "{text:?} is not a file mode; write octal digits such as \"0640\""
            ))),
        }
    }
}

/// A length of time such as `90s`, `10m`, `24h` or `30d`; parts may follow one another: `1h30m`.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || format!("{text:?} is not a length of time; write for example 90s, 10m, 24h or 30d");
    let (mut seconds, mut digits) = (0u64, String::new());
    for c in text.trim().chars() {
        let unit = match c {
            '0'..='9' => {
                digits.push(c);
                continue;
            }
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return Err(wrong()),
        };
        let part = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(wrong)?;
        seconds = seconds.checked_add(part).filter(|&s| s <= 3_200_000_000).ok_or_else(wrong)?;
        digits.clear();
    }
    if seconds == 0 || !digits.is_empty() {
        return Err(wrong());
    }
    Ok(std::time::Duration::from_secs(seconds))
}

/// A [`std::time::Duration`] as the configuration writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub std::time::Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse_duration(&String::deserialize(deserializer)?).map(Span).map_err(de::Error::custom)
    }
}

/// Whether a character only stands where it is put: it is no control character, begins no line and does not turn
/// the order of what is shown (UAX #9, UAX #14).
pub fn is_shown(c: char) -> bool {
    let turns = matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !c.is_control() && !turns
}

/// The target of records that say what will be in the report: the journal gets them all the same, and who has run it
/// by hand is told once.
pub const RETOLD: &str = "nodecert::retold";

/// The target of records that say what was said before, likewise.
pub const REPEATED: &str = "nodecert::repeated";

/// An error and its causes, once, joined by colons.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text = text + ": " + &said;
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read_and_nonsense_is_not() {
        for (text, seconds) in [("90s", 90), ("1h30m", 5_400), ("30d", 2_592_000)] {
            assert_eq!(parse_duration(text).map(|time| time.as_secs()), Ok(seconds));
        }
        for text in ["", "0s", "10", "5w", "-1h", "1h5", "99999999999999999999d", "40000d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::new("hvs.s3cret\n");
        assert_eq!((secret.expose(), format!("{secret:?}").as_str()), ("hvs.s3cret", "Secret(..)"));
        let source = SecretSource::Literal(secret);
        assert!(!format!("{source:?} {source}").contains("s3cret"));
    }

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        for name in ["", "..", ".x", "a/b", "a b", "-x", "é"] {
            assert!(Name::new(name).is_err(), "{name}");
        }
        assert!(Name::new("etcd-server.1_b").is_ok());
    }
}
