//! Metrics for Prometheus.

use std::fmt::Write as _;
use std::time::SystemTime;

use super::{Action, CertificateLine, Report};
use crate::clock::seconds;

/// Each with its labels.
type Values = Vec<(String, u64)>;

const OUT: &str = "decommissioned";

impl Report {
    /// In the text format, for node_exporter's textfile collector. Times are seconds since 1970.
    pub fn metrics(&self, now: SystemTime) -> String {
        let each = |value: &dyn Fn(&CertificateLine) -> Option<u64>| {
            let labelled = |line: &CertificateLine| {
                Some((format!("{{certificate=\"{}\",ca=\"{}\"}}", line.name, line.ca), value(line)?))
            };
            self.certificates.iter().filter_map(labelled).collect()
        };
        let one = |value: Option<u64>| value.into_iter().map(|value| (String::new(), value)).collect();
        let leaf = |line: &CertificateLine| line.leaf.as_ref().map(|leaf| seconds(leaf.not_after));
        let files = self.files.iter().filter(|line| line.action != Action::Keep).count();
        let last = self.last_run;
        let is_out = self.decommissioned.is_some();
        let metrics: [(&str, &str, Values); 9] = [
            ("certificate_not_after_seconds", "End of validity.", each(&leaf)),
            (
                "certificate_renew_after_seconds",
                "From when it is renewed.",
                each(&|line| line.renew_after.map(seconds)),
            ),
            (
                "certificate_usable",
                "Whether its consumer can use it.",
                each(&|line| Some(line.usable.into())),
            ),
            ("files_not_as_configured", "Files to be written or set right.", one(Some(files as u64))),
            (
                "hooks_owed",
                "Consumers that have not been told of a change.",
                one(Some(self.owed.len() as u64)),
            ),
            (
                "last_run_time_seconds",
                "When the last run since the boot ended.",
                one(last.map(|last| seconds(last.ended))),
            ),
            ("last_run_exit_code", "And with which exit code.", one(last.map(|last| last.exit.into()))),
            ("status_time_seconds", "When this was written.", one(Some(seconds(now)))),
            (OUT, "Whether this host was taken out of service.", one(Some(is_out.into()))),
        ];
        let mut text = String::new();
        // Of a host that is out of service nothing else is to be: no alert is to wait for it.
        for (name, help, values) in metrics.into_iter().filter(|(name, ..)| !is_out || *name == OUT) {
            let _ = writeln!(text, "# HELP nodecert_{name} {help}\n# TYPE nodecert_{name} gauge");
            for (labels, value) in values {
                let _ = writeln!(text, "nodecert_{name}{labels} {value}");
            }
        }
        text
    }
}
