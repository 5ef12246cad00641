//! What lies below a directory, as text in which random keys and times have no part.

use std::fmt::Write as _;
use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use nodecert::bundle::{Leaf, parse_chain};
use nodecert::key::Key;

/// Lists path, type, mode and owner of everything below `root`, where links lead, and what files hold:
/// PEM by what it says, texts as they are.
pub(crate) fn of(root: &Path) -> String {
    let mut listing = String::new();
    walk(root, root, &users(root), &mut listing);
    listing
}

fn walk(root: &Path, at: &Path, users: &[(u32, String)], listing: &mut String) {
    let mut entries: Vec<_> =
        std::fs::read_dir(at).expect("directory").map(|e| e.expect("entry").path()).collect();
    entries.sort();
    // A time and an exit code, which the case itself holds.
    for path in entries.into_iter().filter(|path| !path.ends_with("run/nodecert/last-run")) {
        let meta = path.symlink_metadata().expect("metadata");
        let shown = generation(&path.strip_prefix(root).expect("below root").to_string_lossy());
        let owner = owner(&meta, users);
        let mode = meta.permissions().mode() & 0o7777;
        if meta.is_symlink() {
            let target = generation(&std::fs::read_link(&path).expect("link").to_string_lossy());
            let _ = writeln!(listing, "/{shown} -> {target}");
        } else if meta.is_dir() {
            let _ = writeln!(listing, "/{shown}/ {mode:04o} {owner}");
            walk(root, &path, users, listing);
        } else {
            let _ = writeln!(listing, "/{shown} {mode:04o} {owner}");
            content(&path, listing);
        }
    }
}

/// What the case itself brought along is not listed again.
fn content(path: &Path, listing: &mut String) {
    let text = std::fs::read_to_string(path).unwrap_or_else(|_| "<not text>\n".to_owned());
    let brought = ["/etc/nodecert/", "/etc/passwd", "/etc/group", "/etc/machine-id", "/run/nodecert/lock"];
    if brought.iter().any(|part| path.to_string_lossy().contains(part)) {
        return;
    }
    if text.contains("-----BEGIN ") {
        return pem(&text, listing);
    }
    for line in text.lines() {
        match line.split_once("-data: ") {
            Some((key, data)) => {
                let _ = writeln!(listing, "    {key}-data:");
                let data = BASE64.decode(data).expect("base64");
                pem(&String::from_utf8(data).expect("text"), listing);
            }
            None => drop(writeln!(listing, "    {line}")),
        }
    }
}

/// What PEM says.
fn pem(text: &str, listing: &mut String) {
    if text.contains("PRIVATE KEY-----") {
        let kind =
            Key::parse(text).map_or("damaged".to_owned(), |key| format!("{:?}", key.signer().algorithm()));
        let _ = writeln!(listing, "    <key {}>", kind.trim_start_matches("PKCS_").to_lowercase());
    }
    for der in parse_chain(text).unwrap_or_default() {
        let leaf = Leaf::parse(&der).expect("a certificate");
        let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(",");
        let san = list(
            &mut leaf
                .dns
                .iter()
                .cloned()
                .chain(leaf.ips.iter().map(ToString::to_string))
                .chain(leaf.uris.iter().cloned()),
        );
        let usages = list(&mut leaf.usages.iter().cloned());
        let _ = writeln!(listing, "    <cert {} | {san} | {usages} | by {}>", leaf.subject, leaf.issuer);
    }
}

fn generation(path: &str) -> String {
    let part = |part: &str| {
        let stamp = part.len() > 17
            && part.as_bytes()[8] == b'T'
            && part.as_bytes()[15] == b'Z'
            && part.as_bytes()[16] == b'-';
        if stamp { "<generation>".to_owned() } else { part.to_owned() }
    };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

fn users(root: &Path) -> Vec<(u32, String)> {
    let passwd = std::fs::read_to_string(root.join("etc/passwd")).unwrap_or_default();
    let user = |line: &str| {
        let mut fields = line.split(':');
        Some((fields.nth(2)?.parse().ok()?, line.split(':').next()?.to_owned()))
    };
    passwd.lines().filter_map(user).collect()
}

/// Without the rights of root no owner can be set, and none is compared.
fn owner(meta: &Metadata, users: &[(u32, String)]) -> String {
    let named = users.iter().find(|(uid, _)| *uid == meta.uid());
    match named {
        Some((_, name)) => name.clone(),
        None if meta.uid() == 0 => "root".to_owned(),
        None => format!("uid {}", meta.uid()),
    }
}
