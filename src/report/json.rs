//! Reports as programs read them.

use serde_json::{Map, Value, json};

use super::{Action, CertificateLine, FileLine, Report, Trouble};
use crate::clock::at;
use crate::facts::Facts;

impl Report {
    /// `status --format json`, or with `acts` what `plan` and `run` answer.
    pub fn json(&self, facts: &Facts, acts: bool) -> Value {
        json!({
            "node": {
                "hostname": facts.hostname.value,
                "fqdn": facts.fqdn.value,
                "nodename": facts.nodename.value,
                "addresses": facts.addresses.iter().map(|address| address.ip).collect::<Vec<_>>(),
            },
            "certificates": self.certificates.iter().map(|line| line.json(acts)).collect::<Vec<_>>(),
            "files": self.files.iter().map(|line| line.json(acts)).collect::<Vec<_>>(),
            "owed": self.owed.iter().map(|line| json!({
                "hook": line.deed,
                "error": line.trouble.as_ref().map(|trouble| &trouble.message),
            })).collect::<Vec<_>>(),
            "notes": self.notes,
            "last_run": self.last_run.map(|last| json!({ "ended": at(last.ended), "exit": last.exit })),
            "decommissioned": self.decommissioned,
        })
    }
}

impl CertificateLine {
    fn json(&self, acts: bool) -> Value {
        let leaf = self.leaf.as_ref();
        let mut value = json!({
            "name": self.name,
            "ca": self.ca,
            "state": self.state,
            "reason": self.reason,
            "subject": leaf.map(|leaf| &leaf.subject),
            "issuer": leaf.map(|leaf| &leaf.issuer),
            "serial": leaf.map(|leaf| &leaf.serial),
            "dns": leaf.map(|leaf| leaf.dns.iter().collect::<Vec<_>>()).unwrap_or_default(),
            "ips": leaf.map(|leaf| leaf.ips.iter().collect::<Vec<_>>()).unwrap_or_default(),
            "uris": leaf.map(|leaf| leaf.uris.iter().collect::<Vec<_>>()).unwrap_or_default(),
            "usages": leaf.map(|leaf| leaf.usages.iter().collect::<Vec<_>>()).unwrap_or_default(),
            "not_before": leaf.map(|leaf| at(leaf.not_before)),
            "not_after": leaf.map(|leaf| at(leaf.not_after)),
            "renew_after": self.renew_after.map(at),
            "fingerprint": leaf.map(|leaf| leaf.fingerprint),
            "paths": self.paths.iter().map(|(usage, path)| ((*usage).to_owned(), json!(path))).collect::<Map<_, _>>(),
        });
        if acts {
            add_act(&mut value, self.action, self.changed, self.trouble.as_ref());
        }
        value
    }
}

impl FileLine {
    fn json(&self, acts: bool) -> Value {
        let mut value =
            json!({ "name": self.name, "path": self.path, "state": self.state(), "reason": self.reason });
        if acts {
            add_act(&mut value, self.action, self.changed, self.trouble.as_ref());
        }
        value
    }
}

fn add_act(value: &mut Value, action: Action, changed: bool, trouble: Option<&Trouble>) {
    value["action"] = json!(action.word());
    value["changed"] = json!(changed);
    value["error"] = json!(trouble.map(|trouble| &trouble.message));
    value["exit"] = json!(trouble.map_or(0, |trouble| trouble.exit.code()));
}
