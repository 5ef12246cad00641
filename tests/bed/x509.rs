//! Certificates as the test sees them: authorities made with rcgen, and everything else as `openssl`
//! reads it, so that no code of ours judges its own work.

use super::process::must;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// A certificate authority of the test's own.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, PEM.
pub(crate) struct ServerCertificate {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A leaf for `names` (host names or addresses), good for both ends of a connection.
    pub(crate) fn issue(&self, names: &[&str]) -> ServerCertificate {
        self.issue_from(names, SystemTime::now() - Duration::from_secs(60))
    }

    /// The same, valid from `not_before` on.
    pub(crate) fn issue_from(&self, names: &[&str], not_before: SystemTime) -> ServerCertificate {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = not_before.into();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        ServerCertificate { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

/// What `openssl x509` says of the first certificate of a file.
#[derive(Debug)]
pub(crate) struct Inspected {
    /// RFC 2253: `O=ops,CN=node01`.
    pub(crate) subject: String,
    pub(crate) dns: Vec<String>,
    pub(crate) ips: Vec<String>,
    /// `2026-11-23T12:21:46Z`
    pub(crate) not_before: String,
    pub(crate) not_after: String,
    /// SHA-256, lower-case hex without colons.
    pub(crate) fingerprint: String,
    /// As openssl names them: `TLS Web Server Authentication`.
    pub(crate) usages: Vec<String>,
}

/// Reads the leaf of a PEM file with `openssl`.
pub(crate) fn inspect(file: &Path) -> Inspected {
    let show = |options: &[&str]| {
        must(Command::new("openssl").args(["x509", "-noout", "-in"]).arg(file).args(options))
    };
    let names = listed(&show(&["-ext", "subjectAltName"]));
    let kind =
        |prefix: &str| names.iter().filter_map(|n| n.strip_prefix(prefix).map(str::to_owned)).collect();
    let dates = show(&["-startdate", "-enddate", "-dateopt", "iso_8601"]);
    Inspected {
        subject: value(&show(&["-subject", "-nameopt", "RFC2253"])),
        dns: kind("DNS:"),
        ips: kind("IP Address:"),
        not_before: value(dates.lines().next().unwrap()).replace(' ', "T"),
        not_after: value(dates.lines().nth(1).unwrap()).replace(' ', "T"),
        fingerprint: value(&show(&["-fingerprint", "-sha256"])).replace(':', "").to_lowercase(),
        usages: listed(&show(&["-ext", "extendedKeyUsage"])),
    }
}

/// The PEM blocks of a text, each as its bare base64, so that line breaks do not count.
pub(crate) fn blocks(pem: &str) -> Vec<String> {
    let bodies = pem.split("-----BEGIN CERTIFICATE-----").skip(1);
    bodies.map(|b| b.split("-----END").next().unwrap().split_whitespace().collect()).collect()
}

/// The entries of an extension: openssl prints a heading, then one comma-separated line.
fn listed(extension: &str) -> Vec<String> {
    extension.lines().nth(1).into_iter().flat_map(|l| l.split(", ")).map(|n| n.trim().to_owned()).collect()
}

/// What stands behind the first `=` of a line such as `subject=CN=x`.
fn value(line: &str) -> String {
    line.split_once('=').unwrap().1.trim().to_owned()
}
