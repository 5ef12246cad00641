//! What to do about a refusal of Vault's, which says what it lacks in words of its own, and the setting that may be wrong.

use super::{Call, TOKEN};
use crate::ca::Setting;

/// What to do next, where it is known, else nothing; and the key of the CA's table.
pub(super) fn of(status: u16, said: &str, call: &Call<'_>, mount: &str) -> (String, Setting) {
    if status == 403 && call.path.starts_with("/v1/auth/") && !call.headers.contains_key(TOKEN) {
        let advice = "nothing is mounted there, then: see `mount` of that way to log in, and `bao auth list`";
        return (advice.to_owned(), Setting::Auth);
    }
    if status == 403 && !call.headers.contains_key(TOKEN) {
        let advice = "without a token this means that nothing is mounted there; see `mount` and `namespace`";
        return (advice.to_owned(), Setting::Mount);
    }
    let said = said.to_ascii_lowercase();
    let known = ADVICE.iter().find(|(code, words, ..)| *code == status && said.contains(words));
    let path = call.path.trim_start_matches("/v1/");
    known.map_or((String::new(), Setting::Table), |(_, _, setting, advice)| {
        (advice.replace("PATH", path).replace("MOUNT", mount), *setting)
    })
}

/// Status, words in it (lower case), setting, advice. The first that fits is given.
const ADVICE: [(u16, &str, Setting, &str); 15] = [
    (400, "unknown role", Setting::Role, "set `role` to one of those that `bao list MOUNT/roles` shows"),
    (
        400,
        "common name",
        Setting::Role,
        "see allowed_domains, allow_subdomains, allow_bare_domains and allow_any_name of the role",
    ),
    (
        400,
        "ip subject alternative name",
        Setting::Role,
        "see allow_ip_sans and allowed_ip_sans_cidr of the role (`--addresses` of vault-setup)",
    ),
    (400, "uri subject alternative name", Setting::Role, "see allowed_uri_sans of the role"),
    (
        400,
        "subject alternate name",
        Setting::Role,
        "see allowed_domains, allow_subdomains and allow_any_name of the role",
    ),
    (400, "key type", Setting::Role, "see key_type of the role, or set `key` of the certificate"),
    (400, "keys of type", Setting::Role, "see key_type of the role, or set `key` of the certificate"),
    (400, "-bit key", Setting::Role, "see key_bits of the role, or set `key` of the certificate"),
    (
        400,
        "secret id",
        Setting::Auth,
        "role_id is wrong, or the secret_id is wrong, used up or expired, or wrapped without `wrapped = true`; make a new one with `bao write -f auth/approle/role/ROLE/secret-id` (where wrapped = true, with -wrap-ttl=1h)",
    ),
    (
        400,
        "beyond the expiration",
        Setting::Mount,
        "the CA certificate of MOUNT ends before that; renew it, or ask for a shorter `ttl`",
    ),
    (
        400,
        "login certificate",
        Setting::Auth,
        "see the trusted CA of that auth mount: it must be the one that signed this certificate",
    ),
    (401, "", Setting::Auth, "see `auth` of this CA"),
    (
        403,
        "1 error occurred",
        Setting::Role,
        "a policy of the token must allow `update` on PATH; are `mount` and the role in it right?",
    ),
    (
        403,
        "",
        Setting::Auth,
        "the token is wrong, expired or used up, or no policy of it allows PATH; see `auth` of this CA",
    ),
    (404, "", Setting::Mount, "nothing is mounted there; see `mount` and `namespace`"),
];
