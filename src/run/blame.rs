//! Failures as a person reads them: with the setting that may be wrong, and where in the configuration that stands.

use std::path::Path;

use super::failure::Failure;
use super::survey::Survey;
use crate::ca::Setting;
use crate::disk::DiskError;
use crate::report::Trouble;
use crate::setting::Name;

/// The keys on the way to a setting.
type Way<'a> = Vec<&'a str>;

/// What an error of a CA names, and where in the CA's table it can stand; the first that does is meant. `tls` and
/// `anchors` may stand for one another.
const WITHIN: [(Setting, &[&str]); 18] = [
    (Setting::Urls, &["vault", "urls"]),
    (Setting::Urls, &["puppet", "url"]),
    (Setting::Urls, &["cfssl", "urls"]),
    (Setting::Auth, &["vault", "auth"]),
    (Setting::Auth, &["puppet", "attributes"]),
    (Setting::Auth, &["cfssl", "key"]),
    (Setting::Mount, &["vault", "mount"]),
    (Setting::Role, &["vault", "role"]),
    (Setting::Role, &["cfssl", "profile"]),
    (Setting::Label, &["cfssl", "label"]),
    (Setting::Tls, &["tls"]),
    (Setting::Tls, &["anchors"]),
    (Setting::Anchors, &["anchors"]),
    (Setting::Anchors, &["tls"]),
    (Setting::TlsFile, &["tls", "file"]),
    (Setting::TlsFile, &["anchors", "file"]),
    (Setting::AnchorsFile, &["anchors", "file"]),
    (Setting::AnchorsFile, &["tls", "file"]),
];

/// The roles of a component's certificates, by the ends of their names.
const ROLES: [(&str, &str); 4] = [
    ("-peer", "peer_role"),
    ("-serving", "serving_role"),
    ("-healthcheck-client", "healthcheck_role"),
    ("", "role"),
];

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
            Failure::Rejected { ca, .. } => (ca, Setting::Role),
            Failure::Anchors { ca, .. } => (ca, Setting::Anchors),
            Failure::NoCaFile { ca, key, .. } | Failure::CaFile { ca, key, .. } => match *key {
                "tls.file" => (ca, Setting::TlsFile),
                _ => (ca, Setting::AnchorsFile),
            },
            Failure::Render(_) => return vec![[table, &["template"]].concat(), table.to_vec()],
            Failure::Keepsake(_) => return clients(table),
            Failure::Disk(error) => match **error {
                DiskError::Missing { .. } => return vec![[table, &["template"]].concat()],
                DiskError::Foreign { .. } | DiskError::Secret { .. } => return clients(table),
                _ => return Vec::new(),
            },
            _ => return Vec::new(),
        };
        let own = if setting == Setting::Role { self.roles(table) } else { Vec::new() };
        let within = WITHIN.iter().filter(|(name, _)| *name == setting);
        let within = within.map(|(_, keys)| [&["ca", ca.as_str()], *keys].concat());
        own.into_iter().chain(within).chain([vec!["ca", ca.as_str()]]).collect()
    }

    /// Where a certificate's role can stand besides the table of its CA.
    fn roles<'a>(&'a self, table: &[&'a str]) -> Vec<Way<'a>> {
        let ["certificate", name] = table else { return Vec::new() };
        let has = |names: &Vec<Name>| names.iter().any(|there| there.as_str() == *name);
        let component = self.node.components.iter().find(|(_, names)| has(names));
        let roles = ROLES.iter().filter(|(end, _)| name.ends_with(end)).map(|(_, role)| *role);
        let of_component = component.into_iter().flat_map(|(component, _)| {
            roles.clone().flat_map(move |role| {
                clients(&[component]).into_iter().map(move |way| [way, vec![role]].concat())
            })
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

/// The table of a component: that of a client of etcd stands one lower.
fn clients<'a>(table: &[&'a str]) -> Vec<Way<'a>> {
    vec![table.to_vec(), [&["etcd-client"], table].concat()]
}
