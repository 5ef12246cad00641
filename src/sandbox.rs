//! What nodecert's own units may write: the drop-in for what a configuration writes elsewhere.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::node::Node;

/// `ReadWritePaths=` of `systemd/nodecert.service`, and the directories that it makes itself.
const SHIPPED: [&str; 9] = [
    "/etc/default",
    "/etc/etcd",
    "/etc/flanneld",
    "/etc/kubernetes",
    "/etc/systemd/system",
    "/var/lib/kubelet",
    "/var/lib/kube-proxy",
    "/var/lib/nodecert",
    "/run/nodecert",
];

/// What else a unit as it is keeps from being written, and the setting that lets it: systemd.exec(5).
const HIDDEN: [(&str, &str); 5] = [
    ("/home", "ProtectHome=read-only"),
    ("/root", "ProtectHome=read-only"),
    ("/run/user", "ProtectHome=read-only"),
    ("/tmp", "PrivateTmp=no"),
    ("/var/tmp", "PrivateTmp=no"),
];

/// What the units as they are do not let this host write, for an administrator's drop-in.
#[derive(Debug)]
pub struct Sandbox {
    directories: BTreeSet<PathBuf>,
}

impl Sandbox {
    /// Every directory that a run may write into, but for those that are shipped and what lies below another.
    pub fn of(node: &Node) -> Self {
        let all: BTreeSet<_> = node.directories().into_iter().map(Path::to_owned).collect();
        let shipped = |path: &Path| SHIPPED.iter().any(|shipped| path.starts_with(shipped));
        let below = |path: &Path| all.iter().any(|other| path != other && path.starts_with(other));
        let directories = all.iter().filter(|path| !shipped(path) && !below(path)).cloned().collect();
        Self { directories }
    }

    /// The drop-in, or the word that none is needed.
    pub fn text(&self) -> String {
        if self.directories.is_empty() {
            return "# nodecert.service and nodecert-renew.service may write all that this host needs as they are.\n"
                .to_owned();
        }
        let mut text = HEADING.to_owned();
        for setting in self.hidden() {
            let _ = writeln!(text, "{setting}");
        }
        for directory in &self.directories {
            let _ = writeln!(text, "ExecStartPre=-+/bin/mkdir -p -m 0755 {}", with_parents(directory));
            let _ = writeln!(text, "ReadWritePaths={}", word(&format!("-{}", directory.display())));
        }
        text
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        json!({ "read_write_paths": self.directories })
    }

    fn hidden(&self) -> BTreeSet<&'static str> {
        let below = |place: &str| self.directories.iter().any(|directory| directory.starts_with(place));
        HIDDEN.iter().filter(|(place, _)| below(place)).map(|(_, setting)| *setting).collect()
    }
}

const HEADING: &str = "\
# For nodecert.service and nodecert-renew.service: where this host's configuration writes beyond their own
# ReadWritePaths=. Commands of hooks run in the same sandbox: add what they write.
[Service]
# A directory that is not there when a unit starts would stay read-only, systemd.exec(5): it is made before, outside.
";

/// From the top down: mkdir(1) gives its mode to what is named, and the unit's own UMask= the rest.
fn with_parents(directory: &Path) -> String {
    let mut named: Vec<_> = directory.ancestors().map(|path| word(&path.display().to_string())).collect();
    named.pop();
    named.reverse();
    // Of a command line alone: systemd.service(5).
    named.join(" ").replace('$', "$$")
}

/// One word of a setting: specifiers of systemd.unit(5) and quoting of systemd.syntax(7).
fn word(text: &str) -> String {
    let text = text.replace('%', "%%");
    let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && !['"', '\'', '\\', ';'].contains(&c);
    if text.chars().all(is_plain) {
        return text;
    }
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(directories: &[&str]) -> Sandbox {
        Sandbox { directories: directories.iter().map(PathBuf::from).collect() }
    }

    #[test]
    fn each_directory_is_made_with_its_parents_before_it_is_let_in() {
        let text = of(&["/srv/web/pki"]).text();
        assert!(
            text.contains("\nExecStartPre=-+/bin/mkdir -p -m 0755 /srv /srv/web /srv/web/pki\n"),
            "{text}"
        );
        assert!(text.contains("\nReadWritePaths=-/srv/web/pki\n"), "{text}");
        assert!(!text.contains("ProtectHome") && !text.contains("PrivateTmp"), "{text}");
    }

    #[test]
    fn what_the_units_hide_is_opened_only_where_it_is_needed() {
        let text = of(&["/root/.kube", "/home/ops/.kube"]).text();
        assert_eq!(text.matches("ProtectHome=read-only\n").count(), 1, "{text}");
        assert!(!text.contains("PrivateTmp"), "{text}");
    }

    #[test]
    fn a_name_that_means_something_to_systemd_is_quoted() {
        for (path, written) in [("/a b", "\"/a b\""), ("/100%", "/100%%"), ("/a\"b\\c", "\"/a\\\"b\\\\c\"")] {
            assert_eq!(word(path), written);
        }
        assert_eq!(with_parents(Path::new("/a$b")), "/a$$b");
    }

    #[test]
    fn what_is_taken_for_shipped_stands_in_the_unit() {
        let unit = include_str!("../systemd/nodecert.service");
        let listed = unit.lines().filter_map(|line| line.strip_prefix("ReadWritePaths="));
        let listed: BTreeSet<_> =
            listed.flat_map(str::split_whitespace).map(|path| path.trim_matches('-')).collect();
        let made = BTreeSet::from(["/var/lib/nodecert", "/run/nodecert"]);
        assert_eq!(listed.union(&made).copied().collect::<BTreeSet<_>>(), BTreeSet::from(SHIPPED));
    }

    #[test]
    fn nothing_is_said_where_the_units_suffice() {
        assert_eq!(of(&[]).text().lines().filter(|line| !line.starts_with('#')).count(), 0);
    }
}
