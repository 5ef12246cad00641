//! Something random that is made once and then kept: a key that no one signs and that every host of a
//! control plane has. What was signed with it is void without it, so it is never made anew by accident.

use std::path::PathBuf;
use std::sync::Arc;

use crate::identity::KeyKind;
use crate::key::Key;
use crate::setting::{Name, SecretSource};

/// A key pair that this host is to hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Keepsake {
    /// What reports call it.
    pub name: Name,
    /// Where the private key lies, absolute; mode 0600.
    pub path: PathBuf,
    /// Where its public half lies, for all to read.
    pub public: PathBuf,
    /// The kind of key, should one be made.
    pub kind: KeyKind,
    /// Where it comes from.
    pub origin: Origin,
    /// Whether another key that lies there may be replaced, with a backup.
    pub replace: bool,
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

/// What there is of a keepsake, as PEM.
#[derive(Clone, Copy)]
pub struct There<'a> {
    /// At its path.
    pub placed: Option<&'a str>,
    /// In our own state, since it was made here.
    pub made: Option<&'a str>,
    /// From the operator.
    pub given: Option<&'a str>,
}

/// What is to be done about a keepsake.
#[derive(Debug)]
pub enum Next {
    /// This key is to lie at its path.
    Place(Arc<Key>),
    /// There has never been one.
    Make,
}

/// Why a keepsake cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unkept {
    /// What lies at its path is no key.
    #[error(
        "{} holds no private key that can be read; put back the key that the other hosts of the control plane have", .0.display()
    )]
    Damaged(PathBuf),
    /// What the operator gave is no key.
    #[error("what is given for {} is no private key: one PEM block, not encrypted", .0.display())]
    NotGiven(PathBuf),
    /// Two keys, and either may be in use.
    #[error(
        "{} holds another key than the one given for it; what it has signed would be void. Set replace = true if that is meant", .0.display()
    )]
    Differs(PathBuf),
    /// No one here is to make it.
    #[error("{} is not there, and {why}: copy it from there, or give it as [service-account] key", path.display())]
    Absent {
        /// Its path.
        path: PathBuf,
        /// Why it is not made.
        why: String,
    },
}

/// Decides. What lies at the path stays, wherever it came from, unless the operator says otherwise.
pub fn decide(keepsake: &Keepsake, there: There<'_>) -> Result<Next, Unkept> {
    let path = || keepsake.path.clone();
    let parse = |text: Option<&str>, unkept: Unkept| match text.map(Key::parse) {
        Some(Ok(key)) => Ok(Some(Arc::new(key))),
        Some(Err(_)) => Err(unkept),
        None => Ok(None),
    };
    let given = parse(there.given, Unkept::NotGiven(path()))?;
    let placed = match parse(there.placed, Unkept::Damaged(path())) {
        Err(_) if given.is_some() && keepsake.replace => None,
        placed => placed?,
    };
    match (placed, given) {
        (Some(placed), Some(given)) if placed.public() == given.public() => Ok(Next::Place(placed)),
        (Some(_), Some(_)) if !keepsake.replace => Err(Unkept::Differs(path())),
        (_, Some(given)) => Ok(Next::Place(given)),
        (Some(placed), None) => Ok(Next::Place(placed)),
        (None, None) => match (parse(there.made, Unkept::Damaged(path()))?, &keepsake.origin) {
            (Some(made), _) => Ok(Next::Place(made)),
            (None, Origin::Made) => Ok(Next::Make),
            (None, Origin::Elsewhere(why)) => Err(Unkept::Absent { path: path(), why: why.clone() }),
            (None, Origin::Given(_)) => Err(Unkept::NotGiven(path())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keepsake(origin: Origin) -> Keepsake {
        Keepsake {
            name: Name::new("service-account-key").unwrap(),
            path: "/etc/kubernetes/pki/sa.key".into(),
            public: "/etc/kubernetes/pki/sa.pub".into(),
            kind: KeyKind::P256,
            origin,
            replace: false,
        }
    }

    fn key() -> String {
        Key::generate(KeyKind::P256).unwrap().pem().to_owned()
    }

    fn placed(next: Result<Next, Unkept>) -> String {
        match next.unwrap() {
            Next::Place(key) => key.pem().to_owned(),
            Next::Make => "make".to_owned(),
        }
    }

    #[test]
    fn a_key_that_lies_there_stays_and_one_that_was_made_comes_back() {
        let (a, b) = (key(), key());
        let made = keepsake(Origin::Made);
        let there = |placed, made| There { placed, made, given: None };
        assert_eq!(placed(decide(&made, there(None, None))), "make");
        assert_eq!(placed(decide(&made, there(Some(&a), Some(&b)))), a);
        assert_eq!(placed(decide(&made, there(None, Some(&b)))), b, "lost, and not made anew");
        let damaged = decide(&made, there(Some("rubbish"), Some(&b)));
        assert!(matches!(damaged, Err(Unkept::Damaged(_))), "{damaged:?}");
    }

    #[test]
    fn a_host_that_is_not_to_make_it_waits_for_a_copy() {
        let a = key();
        let elsewhere = keepsake(Origin::Elsewhere("cp1 makes it".to_owned()));
        let there = |placed| There { placed, made: None, given: None };
        let absent = decide(&elsewhere, there(None)).unwrap_err();
        assert!(absent.to_string().contains("cp1 makes it"), "{absent}");
        assert_eq!(placed(decide(&elsewhere, there(Some(&a)))), a);
    }

    #[test]
    fn another_key_than_the_one_given_is_replaced_with_consent_only() {
        let (a, b) = (key(), key());
        let mut given = keepsake(Origin::Given(SecretSource::Env("KEY".to_owned())));
        let there = |placed| There { placed, made: None, given: Some(b.as_str()) };
        assert_eq!(placed(decide(&given, there(None))), b);
        assert!(matches!(decide(&given, there(Some(&a))), Err(Unkept::Differs(_))));
        given.replace = true;
        assert_eq!(placed(decide(&given, there(Some(&a)))), b);
    }
}
