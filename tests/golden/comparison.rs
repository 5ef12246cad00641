//! A listing beside the one that is expected.

use std::path::Path;

/// Whether this is what `path` lists; the error says what is not.
pub(crate) fn compare(path: &Path, name: &str, left: &str) -> Result<(), String> {
    if std::env::var_os("NODECERT_BLESS").is_some() {
        std::fs::write(path, left).expect("expected.txt");
    }
    let expected = std::fs::read_to_string(path).map_err(|e| format!("{name}: expected.txt: {e}"))?;
    if expected == left {
        Ok(())
    } else {
        Err(format!("{name} left something else:\n{}", difference(&expected, left)))
    }
}

pub(crate) fn difference(before: &str, after: &str) -> String {
    let gone = before
        .lines()
        .filter(|line| !after.lines().any(|other| other == *line))
        .map(|line| format!("- {line}"));
    let new = after
        .lines()
        .filter(|line| !before.lines().any(|other| other == *line))
        .map(|line| format!("+ {line}"));
    gone.chain(new).collect::<Vec<_>>().join("\n")
}
