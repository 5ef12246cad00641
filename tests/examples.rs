//! Every example in `packaging/examples`: the host it describes is made below a root, with embedded CAs in
//! place of those that only the site has, and leaves there exactly what `tests/golden/examples` lists. With
//! `NODECERT_BLESS=1` the listings are written anew: read their diff before committing it.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod golden {
    pub(crate) mod comparison;
    pub(crate) mod listing;
}

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The host that each example is for.
const EXAMPLES: [(&str, &str, &str); 6] = [
    ("all-in-one.toml", "node01", "10.0.0.11"),
    ("control-plane.toml", "cp1", "10.0.0.5"),
    ("etcd.toml", "node02", "10.0.0.12"),
    ("many-authorities.toml", "node01", "10.0.0.11"),
    ("vault-etcd.toml", "node01", "10.0.0.11"),
    ("worker.toml", "worker01", "10.0.0.21"),
];

#[test]
fn every_example_makes_the_host_it_describes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/examples");
    let entries =
        std::fs::read_dir(&folder).expect("examples").map(|entry| entry.expect("entry").file_name());
    // tests/boot.rs boots a host with each of those for cloud-init. An embedded CA has no certnames:
    // tests/puppet.rs makes that one with a real puppetserver.
    let names = entries.map(|name| name.into_string().expect("a name"));
    let mut there: Vec<_> = names.filter(|name| name != "cloud-init").collect();
    let mut known: Vec<_> = EXAMPLES.map(|(file, ..)| file.to_owned()).into();
    known.push("puppet-etcd.toml".to_owned());
    there.sort();
    known.sort();
    assert_eq!(there, known, "an example that no test makes");
    let mut wrong = Vec::new();
    for (file, hostname, address) in EXAMPLES {
        let text = std::fs::read_to_string(folder.join(file)).expect("text");
        let root = root(&embedded(&text), hostname, address);
        let said = nodecert(root.path(), "plan --exit-code");
        assert_eq!(said.status.code(), Some(3), "{file}: {}", spoken(&said));
        let said = nodecert(root.path(), "run");
        assert_eq!(said.status.code(), Some(0), "{file}: {}", spoken(&said));
        wrong.extend(
            golden::comparison::compare(&listing(file), file, &golden::listing::of(root.path())).err(),
        );
        let again = nodecert(root.path(), "run");
        assert!(spoken(&again).contains("nothing to do"), "{file}: {}", spoken(&again));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// What it leaves on its host.
fn listing(example: &str) -> PathBuf {
    let name = example.replace(".toml", ".txt");
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/examples").join(name)
}

/// The example with every CA an embedded one, and nothing else changed.
fn embedded(text: &str) -> String {
    let mut table: toml::Table = text.parse().expect("TOML");
    let cas = table.get_mut("ca").and_then(toml::Value::as_table_mut).expect("CAs");
    for (_, ca) in cas.iter_mut() {
        *ca = toml::Value::Table("local = {}".parse().expect("a table"));
    }
    toml::to_string(&table).expect("TOML")
}

fn root(config: &str, hostname: &str, address: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a directory");
    let write = |path: &str, text: &str| {
        let path = below(root.path(), path);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("directories");
        std::fs::write(path, text).expect("file");
    };
    write("/etc/passwd", "root:x:0:0::/root:/bin/sh\netcd:x:113:121::/var/lib/etcd:/bin/false\n");
    write("/etc/group", "root:x:0:\netcd:x:121:\n");
    write("/etc/nodecert/config.toml", config);
    let node =
        format!("[node]\nhostname = \"{hostname}\"\ndomain = \"example.com\"\naddresses = [\"{address}\"]\n");
    write("/etc/nodecert/config.d/node.toml", &node);
    // Whatever the umask made of them.
    let modes = Command::new("chmod").args(["-R", "u=rwX,go=rX"]).arg(root.path()).status();
    assert!(modes.is_ok_and(|status| status.success()), "chmod");
    root
}

fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn nodecert(root: &Path, arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodecert"));
    command.arg("--root").arg(root).args(arguments.split_whitespace());
    command.env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM").output().expect("nodecert runs")
}

fn spoken(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said).into_owned()).concat()
}
