//! Failures as a person reads them: with the setting that may be wrong, and where in the configuration that stands.

use std::path::Path;

use super::failure::Failure;
use super::survey::Survey;
use crate::bundle::Rejected;
use crate::ca::Setting;
use crate::component::role_keys;
use crate::disk::DiskError;
use crate::report::Trouble;
use crate::root::RootError;
use crate::setting::Name;

/// The keys on the way to a setting.
type Way<'a> = Vec<&'a str>;

impl Survey {
    /// What became of something whose own table is `table`, as `["certificate", "web"]`.
    pub(super) fn trouble(&self, failure: &Failure, table: &[&str]) -> Trouble {
        let mut trouble = failure.trouble();
        match self.config.place(&self.ways(failure, table)) {
            Some(place) => trouble.message += &format!(" ({place})"),
            None if failure.is_foreign() => {
                trouble.message += &format!(" (in a table [{}])", table.join("."));
            }
            None => {}
        }
        trouble
    }

    /// The settings that it may be about, the likeliest first.
    fn ways<'a>(&'a self, failure: &'a Failure, table: &[&'a str]) -> Vec<Way<'a>> {
        let (ca, setting) = match failure {
            Failure::Ca(error) => match error.setting() {
                Some(about) => about,
                None => return Vec::new(),
            },
            Failure::Rejected { ca, why: Rejected::Untrusted(_), .. } => (ca, Setting::Anchors),
            Failure::Rejected { ca, .. } => (ca, Setting::Role),
            Failure::Anchors { ca, .. } => (ca, Setting::Anchors),
            Failure::NoCaFile { ca, key, .. } | Failure::CaFile { ca, key, .. } => match *key {
                "tls.file" => (ca, Setting::TlsFile),
                _ => (ca, Setting::AnchorsFile),
            },
            Failure::Render(_) => return vec![[table, &["template"]].concat(), table.to_vec()],
            Failure::Keepsake(_) => return vec![self.own(table)],
            Failure::Disk(error) => match **error {
                DiskError::Missing { .. } => return vec![[table, &["template"]].concat()],
                DiskError::Foreign { .. } | DiskError::Secret { .. } => return vec![self.own(table)],
                DiskError::Root(RootError::NoUser { what: "user", .. }) => {
                    return vec![[table, &["owner"]].concat()];
                }
                DiskError::Root(RootError::NoUser { .. }) => return vec![[table, &["group"]].concat()],
                _ => return Vec::new(),
            },
            _ => return Vec::new(),
        };
        let own = if setting == Setting::Role { self.roles(table) } else { Vec::new() };
        let settings = self.config.cas.get(ca);
        let within = settings.into_iter().flat_map(|settings| settings.ways(setting));
        let within = within.map(|keys| [&["ca", ca.as_str()], keys].concat());
        own.into_iter().chain(within).chain([vec!["ca", ca.as_str()]]).collect()
    }

    /// The keys on the way to a table, where it may be that of a component.
    fn own<'a>(&self, table: &[&'a str]) -> Way<'a> {
        match table {
            [component] => self.config.components.way(component),
            _ => table.to_vec(),
        }
    }

    /// Where a certificate's role can stand besides the table of its CA.
    fn roles<'a>(&'a self, table: &[&'a str]) -> Vec<Way<'a>> {
        let ["certificate", name] = table else { return Vec::new() };
        let has = |names: &Vec<Name>| names.iter().any(|there| there.as_str() == *name);
        let component = self.node.components.iter().find(|(_, names)| has(names));
        let of_component = component.into_iter().flat_map(|(component, _)| {
            role_keys(name).map(|role| [self.own(&[component]), vec![role]].concat())
        });
        [vec!["certificate", *name, "role"]].into_iter().chain(of_component).collect()
    }

    /// The table that says what lies at a path that is no certificate's.
    pub(super) fn table_of<'a>(&'a self, name: &'a Name, path: &Path) -> Way<'a> {
        match self.node.tables.get(path) {
            Some(component) => vec![component],
            None if self.config.files.contains_key(name) => vec!["file", name.as_str()],
            // What else lies beside a certificate, as its revocation list.
            None => vec!["certificate", name.as_str()],
        }
    }
}
