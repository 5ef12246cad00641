//! Something random that is made once and then kept: a key that no one signs, a token, a key to encrypt with.
//! What was made with it is void without it, so it is never made anew by accident.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use zeroize::Zeroizing;

use crate::identity::KeyKind;
use crate::key::{self, Key, KeyError};
use crate::root::STATE;
use crate::setting::{Name, Secret, SecretSource};

/// Where they lie in our own state, by their names.
const KEPT: &str = "keepsakes";
/// Bytes; RFC 6750 section 5.2 wants tokens that cannot be guessed.
const TOKEN: usize = 16;
/// Bytes; of secretbox and of AES-256.
const CIPHER_KEY: usize = 32;

/// A secret that this host is to hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Keepsake {
    /// What reports call it.
    pub name: Name,
    /// What it is.
    pub form: Form,
    /// Where it lies, absolute; mode 0600.
    pub path: PathBuf,
    /// A file that is made from it: where that is there, so was the keepsake, and no other will do.
    pub trace: Option<PathBuf>,
    /// Where it comes from.
    pub origin: Origin,
    /// The setting by which the operator gives it.
    pub setting: String,
    /// The certificates of those who read it.
    pub users: Vec<Name>,
    /// Whether another one that lies there may be replaced, with a backup.
    pub replace: bool,
}

/// Where a secret that is a text lies: in our own state, and nowhere else.
pub fn place(name: &Name) -> PathBuf {
    [STATE, KEPT, name.as_str()].iter().collect()
}

impl Keepsake {
    /// Its file of state: for a text it is the only one, of a key pair a copy, should it get lost at its place.
    pub fn state(&self) -> String {
        let kind = if matches!(self.form, Form::Pair { .. }) { ".pem" } else { "" };
        format!("{KEPT}/{}{kind}", self.name)
    }

    /// Where it lies, and where its public half does.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let public = match &self.form {
            Form::Pair { public, .. } => Some(public.as_path()),
            Form::Token | Form::CipherKey => None,
        };
        std::iter::once(self.path.as_path()).chain(public)
    }
}

/// What a keepsake is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// A key pair.
    Pair {
        /// Where its public half lies, for all to read.
        public: PathBuf,
        /// The kind of key, should one be made.
        kind: KeyKind,
    },
    /// A bearer token: if made here, 32 hexadecimal digits.
    Token,
    /// 32 bytes to encrypt with, in base64.
    CipherKey,
}

/// Where a keepsake comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// This host makes it, once.
    Made,
    /// The operator gives it.
    Given(SecretSource),
    /// It was made on another host; why not here.
    Elsewhere(String),
}

/// What a keepsake holds.
#[derive(Debug, Clone)]
pub enum Value {
    /// A key pair.
    Pair(Arc<Key>),
    /// Anything else.
    Text(Secret),
}

impl Value {
    /// As it is written.
    pub fn text(&self) -> &str {
        match self {
            Self::Pair(key) => key.pem(),
            Self::Text(secret) => secret.expose(),
        }
    }

    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Pair(one), Self::Pair(other)) => one.public() == other.public(),
            (one, other) => one.text() == other.text(),
        }
    }
}

impl Form {
    /// What a text holds; `None` if that is nothing of this form.
    pub fn parse(&self, text: &str) -> Option<Value> {
        let secret = Secret::new(text);
        match self {
            Self::Pair { .. } => Key::parse(text).ok().map(|key| Value::Pair(Arc::new(key))),
            // What may stand in a header and, between commas, in a line of tokens.csv.
            Self::Token => {
                let plain = |c: char| c.is_ascii_graphic() && !",\"".contains(c);
                let whole = !secret.expose().is_empty() && secret.expose().chars().all(plain);
                whole.then_some(Value::Text(secret))
            }
            Self::CipherKey => {
                let bytes = Zeroizing::new(BASE64.decode(secret.expose()).unwrap_or_default());
                (bytes.len() == CIPHER_KEY).then_some(Value::Text(secret))
            }
        }
    }

    /// A new one.
    pub fn make(&self) -> Result<Value, KeyError> {
        let text = match self {
            Self::Pair { kind, .. } => return Ok(Value::Pair(Arc::new(Key::generate(*kind)?))),
            Self::Token => {
                let digits = key::random(TOKEN)?.iter().map(|byte| format!("{byte:02x}")).collect();
                Zeroizing::new(digits)
            }
            Self::CipherKey => Zeroizing::new(BASE64.encode(&*key::random(CIPHER_KEY)?)),
        };
        Ok(Value::Text(Secret::new(&text)))
    }

    fn words(&self) -> &'static str {
        match self {
            Self::Pair { .. } => "private key: one PEM block, not encrypted",
            Self::Token => "token: one line without blanks, commas and quotes",
            Self::CipherKey => "key to encrypt with: 32 bytes in base64",
        }
    }
}

/// What there is of a keepsake.
#[derive(Clone, Copy, Default)]
pub struct There<'a> {
    /// At its path.
    pub placed: Option<&'a str>,
    /// In our own state, since it was made here.
    pub made: Option<&'a str>,
    /// From the operator.
    pub given: Option<&'a str>,
    /// Whether its trace is there.
    pub trace: bool,
}

/// What is to be done about a keepsake.
#[derive(Debug)]
pub enum Next {
    /// This is to lie at its path.
    Place(Value),
    /// There has never been one.
    Make,
}

/// Why a keepsake cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unkept {
    /// What lies at its path is nothing of its form.
    #[error("{} holds no {words}; put back the one that the other hosts of the control plane have", path.display())]
    Damaged {
        /// Its path.
        path: PathBuf,
        /// What it is to hold.
        words: &'static str,
    },
    /// What the operator gave is nothing of its form.
    #[error("what is given as {setting} is no {words}")]
    NotGiven {
        /// The setting.
        setting: String,
        /// What it is to be.
        words: &'static str,
    },
    /// Two of them, and either may be in use.
    #[error(
        "{} holds another one than {setting} gives; what was made with it would be void. Set replace = true if that is meant", path.display()
    )]
    Differs {
        /// Its path.
        path: PathBuf,
        /// The setting.
        setting: String,
    },
    /// It is gone, and what was made with it is not.
    #[error(
        "{} is not there, but {} is, which was made with it: put it back, or give it as {setting}. If nothing depends on it any more, remove {}", path.display(), trace.display(), trace.display()
    )]
    Lost {
        /// Its path.
        path: PathBuf,
        /// What is left.
        trace: PathBuf,
        /// The setting.
        setting: String,
    },
    /// No one here is to make it.
    #[error("{} is not there, and {why}. A copy of it will do, or {setting}", path.display())]
    Absent {
        /// Its path.
        path: PathBuf,
        /// Why it is not made.
        why: String,
        /// The setting.
        setting: String,
    },
}

impl Unkept {
    /// Of what lies at its path and cannot be read.
    pub fn damaged(keepsake: &Keepsake) -> Self {
        Self::Damaged { path: keepsake.path.clone(), words: keepsake.form.words() }
    }
}

/// Decides. What lies at the path stays, wherever it came from, unless the operator says otherwise.
pub fn decide(keepsake: &Keepsake, there: There<'_>) -> Result<Next, Unkept> {
    let (path, setting) = (|| keepsake.path.clone(), || keepsake.setting.clone());
    let damaged = || Unkept::damaged(keepsake);
    let not_given = || Unkept::NotGiven { setting: setting(), words: keepsake.form.words() };
    let parse = |text: Option<&str>, unkept: &dyn Fn() -> Unkept| {
        text.map(|text| keepsake.form.parse(text).ok_or_else(unkept)).transpose()
    };
    let given = parse(there.given, &not_given)?;
    let placed = match parse(there.placed, &damaged) {
        Err(_) if given.is_some() && keepsake.replace => None,
        placed => placed?,
    };
    match (placed, given) {
        (Some(placed), Some(given)) if placed.is(&given) => Ok(Next::Place(placed)),
        (Some(_), Some(_)) if !keepsake.replace => Err(Unkept::Differs { path: path(), setting: setting() }),
        (_, Some(given)) => Ok(Next::Place(given)),
        (Some(placed), None) => Ok(Next::Place(placed)),
        (None, None) => match (parse(there.made, &damaged)?, &keepsake.origin, &keepsake.trace) {
            (Some(made), ..) => Ok(Next::Place(made)),
            (None, Origin::Made, Some(trace)) if there.trace => {
                Err(Unkept::Lost { path: path(), trace: trace.clone(), setting: setting() })
            }
            (None, Origin::Made, _) => Ok(Next::Make),
            (None, Origin::Elsewhere(why), _) => {
                Err(Unkept::Absent { path: path(), why: why.clone(), setting: setting() })
            }
            (None, Origin::Given(_), _) => Err(not_given()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keepsake(origin: Origin) -> Keepsake {
        Keepsake {
            name: Name::new("service-account-key").unwrap(),
            form: Form::Pair { public: "/etc/kubernetes/pki/sa.pub".into(), kind: KeyKind::P256 },
            path: "/etc/kubernetes/pki/sa.key".into(),
            trace: Some("/etc/kubernetes/pki/sa.pub".into()),
            origin,
            setting: "[service-account] key".to_owned(),
            users: Vec::new(),
            replace: false,
        }
    }

    fn key() -> String {
        Key::generate(KeyKind::P256).unwrap().pem().to_owned()
    }

    fn placed(next: Result<Next, Unkept>) -> String {
        match next.unwrap() {
            Next::Place(value) => value.text().to_owned(),
            Next::Make => "make".to_owned(),
        }
    }

    #[test]
    fn a_key_that_lies_there_stays_and_one_that_was_made_comes_back() {
        let (a, b) = (key(), key());
        let made = keepsake(Origin::Made);
        let there = |placed, made| There { placed, made, ..There::default() };
        assert_eq!(placed(decide(&made, there(None, None))), "make");
        assert_eq!(placed(decide(&made, there(Some(&a), Some(&b)))), a);
        assert_eq!(placed(decide(&made, there(None, Some(&b)))), b, "lost, and not made anew");
        let damaged = decide(&made, there(Some("rubbish"), Some(&b)));
        assert!(matches!(damaged, Err(Unkept::Damaged { .. })), "{damaged:?}");
    }

    #[test]
    fn a_host_that_is_not_to_make_it_waits_for_a_copy() {
        let a = key();
        let elsewhere = keepsake(Origin::Elsewhere("cp1 makes it".to_owned()));
        let there = |placed| There { placed, ..There::default() };
        let absent = decide(&elsewhere, there(None)).unwrap_err();
        assert!(absent.to_string().contains("cp1 makes it"), "{absent}");
        assert_eq!(placed(decide(&elsewhere, there(Some(&a)))), a);
    }

    #[test]
    fn another_key_than_the_one_given_is_replaced_with_consent_only() {
        let (a, b) = (key(), key());
        let mut given = keepsake(Origin::Given(SecretSource::Env("KEY".to_owned())));
        let there = |placed| There { placed, given: Some(&b), ..There::default() };
        assert_eq!(placed(decide(&given, there(None))), b);
        assert!(matches!(decide(&given, there(Some(&a))), Err(Unkept::Differs { .. })));
        given.replace = true;
        assert_eq!(placed(decide(&given, there(Some(&a)))), b);
    }

    #[test]
    fn one_that_left_a_trace_is_not_made_a_second_time() {
        let made = keepsake(Origin::Made);
        let lost = decide(&made, There { trace: true, ..There::default() }).unwrap_err();
        assert!(lost.to_string().contains("sa.pub is, which was made with it"), "{lost}");
        let a = key();
        let there = There { trace: true, made: Some(&a), ..There::default() };
        assert_eq!(placed(decide(&made, there)), a, "our own copy is as good");
    }

    #[test]
    fn each_form_reads_what_it_makes_and_nothing_else() {
        for form in [Form::Token, Form::CipherKey] {
            let (one, other) = (form.make().unwrap(), form.make().unwrap());
            assert_ne!(one.text(), other.text(), "{form:?}");
            assert!(form.parse(&format!("{}\n", one.text())).is_some_and(|read| read.is(&one)), "{form:?}");
        }
        for token in ["", " ", "a b", "a,b", "a\"b", "a\nb", "é"] {
            assert!(Form::Token.parse(token).is_none(), "{token:?}");
        }
        for short in ["", "c2hvcnQ=", "0123456789abcdef0123456789abcdef"] {
            assert!(Form::CipherKey.parse(short).is_none(), "{short:?}");
        }
        let shown = format!("{:?}", Form::Token.parse("s3cret"));
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
