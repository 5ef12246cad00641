//! Users and groups, by the files of the root; on the live host also by what NSS knows.

use nix::unistd::{Group, User, geteuid};

use super::{Root, RootError};
use std::path::Path;
use std::sync::Arc;

/// The largest directory of users that is read from a file.
const MAX_NAMES: usize = 16 * 1024 * 1024;

/// User and group by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Ids {
    pub user: u32,
    pub group: u32,
}

/// Who is known below a root.
#[derive(Debug)]
pub enum Owners {
    /// Owners are set.
    Known(Names),
    /// Owners are left alone, and why.
    LeftAlone(String),
    /// The files that say so cannot be read: no owner is taken for another.
    Unread(Arc<RootError>),
}

/// The entries of passwd(5) and group(5).
#[derive(Debug)]
pub struct Names {
    users: Vec<(String, Ids)>,
    groups: Vec<(String, u32)>,
    live: bool,
    passwd: String,
}

impl Owners {
    pub(super) fn gather(root: &Root) -> Self {
        if !geteuid().is_root() {
            return Self::LeftAlone("not running as root".to_owned());
        }
        let passwd = root.shown(Path::new("/etc/passwd")).display().to_string();
        match (text(root, "/etc/passwd"), text(root, "/etc/group")) {
            (Err(error), _) | (_, Err(error)) => Self::Unread(Arc::new(error)),
            (Ok(None), _) if !root.is_live() => Self::LeftAlone(format!("{passwd} is not there")),
            (Ok(users), Ok(groups)) => Self::Known(Names {
                users: parse_users(&users.unwrap_or_default()),
                groups: parse_groups(&groups.unwrap_or_default()),
                live: root.is_live(),
                passwd,
            }),
        }
    }

    /// The numbers of a user and a group; the user defaults to root, the group to the user's own.
    /// `None`: they are to be left alone.
    pub fn ids(&self, user: Option<&str>, group: Option<&str>) -> Result<Option<Ids>, RootError> {
        let names = match self {
            Self::Known(names) => names,
            Self::LeftAlone(_) => return Ok(None),
            Self::Unread(error) => return Err(RootError::Owners(error.clone())),
        };
        let mut ids = user.map_or(Ok(Ids { user: 0, group: 0 }), |user| names.user(user))?;
        if let Some(group) = group {
            ids.group = names.group(group)?;
        }
        Ok(Some(ids))
    }
}

impl Names {
    /// The file first: it answers for nearly every service user, without loading NSS modules.
    fn user(&self, name: &str) -> Result<Ids, RootError> {
        let listed = self.users.iter().find(|(known, _)| known == name).map(|(_, ids)| *ids);
        let by_nss = || User::from_name(name).ok().flatten();
        listed
            .or_else(|| {
                self.live.then(by_nss)?.map(|user| Ids { user: user.uid.into(), group: user.gid.into() })
            })
            .ok_or_else(|| self.unknown("user", name))
    }

    fn group(&self, name: &str) -> Result<u32, RootError> {
        let listed = self.groups.iter().find(|(known, _)| known == name).map(|(_, gid)| *gid);
        let by_nss = || Group::from_name(name).ok().flatten();
        listed
            .or_else(|| self.live.then(by_nss)?.map(|group| group.gid.into()))
            .ok_or_else(|| self.unknown("group", name))
    }

    fn unknown(&self, what: &'static str, name: &str) -> RootError {
        let source_of_names = if self.live { "passwd and NSS".to_owned() } else { self.passwd.clone() };
        RootError::NoUser { what, name: name.to_owned(), source_of_names }
    }
}

fn text(root: &Root, path: &str) -> Result<Option<String>, RootError> {
    let read = root.read(Path::new(path), MAX_NAMES)?;
    Ok(read.map(|read| String::from_utf8_lossy(&read.content).into_owned()))
}

/// passwd(5): name, password, UID, GID, and what does not matter here.
fn parse_users(text: &str) -> Vec<(String, Ids)> {
    let entry = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let (user, group) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        Some((name, Ids { user, group }))
    };
    text.lines().filter_map(entry).collect()
}

/// group(5): name, password, GID, members.
fn parse_groups(text: &str) -> Vec<(String, u32)> {
    let entry = |line: &str| {
        let mut fields = line.split(':');
        Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
    };
    text.lines().filter_map(entry).collect()
}
