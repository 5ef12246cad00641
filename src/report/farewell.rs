//! What `revoke` and `decommission` say.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Exit, Trouble};

/// What was given up, and what is left to a person.
#[derive(Debug, Default)]
pub struct Farewell {
    /// What was done, a line each.
    pub done: Vec<String>,
    /// What was not, and why.
    pub failed: Vec<Trouble>,
    /// What no one but the operator can do.
    pub left: Vec<String>,
}

impl Farewell {
    /// The highest exit code of what failed.
    pub fn exit(&self) -> Exit {
        self.failed.iter().map(|trouble| trouble.exit).max().unwrap_or(Exit::Done)
    }

    /// A line each.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let failed: Vec<_> = self.failed.iter().map(|trouble| &trouble.message).collect();
        let parts = [
            ("done", self.done.iter().collect()),
            ("failed", failed),
            ("left", self.left.iter().collect::<Vec<_>>()),
        ];
        for (word, lines) in parts {
            for line in lines {
                let _ = writeln!(text, "{word:<9} {line}");
            }
        }
        text
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let failed: Vec<_> = self.failed.iter().map(|trouble| &trouble.message).collect();
        json!({ "done": self.done, "failed": failed, "left": self.left, "exit": self.exit().code() })
    }
}
