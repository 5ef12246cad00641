//! Servers that are not the CA's, or speak as no CA should.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rcgen::{CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, SanType};
use tempfile::TempDir;
use time::OffsetDateTime;

use crate::fake::bend::stranger;
use crate::fake::{Fake, Showing, ca_params};

pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) code: i32,
    pub(crate) says: &'static str,
    /// What is wrong with the certificate that it shows.
    pub(crate) shape: fn(&mut Showing<'_>),
}

const DAY: time::Duration = time::Duration::days(1);

const fn server(name: &'static str, code: i32, says: &'static str, shape: fn(&mut Showing<'_>)) -> Server {
    Server { name, code, says, shape }
}

pub(crate) const SERVERS: &[Server] = &[
    server("expired", 75, "expired", |s| dates(&mut s.params, -2, -1)),
    server("not valid yet", 75, "valid only from", |s| dates(&mut s.params, 1, 2)),
    server("of another host", 77, "not valid for", |s| names(&mut s.params, &["vault.example.com"])),
    server("of another address", 77, "not valid for", |s| {
        s.params.subject_alt_names = vec![SanType::IpAddress("127.0.0.2".parse().unwrap())];
    }),
    server("with the address as a name", 77, "not valid for", |s| {
        s.params.subject_alt_names = vec![SanType::DnsName("127.0.0.1".try_into().unwrap())];
    }),
    server("without names", 77, "not valid for", |s| s.params.subject_alt_names.clear()),
    server("for clients", 77, "presents", |s| {
        s.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    }),
    server("of another CA", 77, "sha256:", |s| {
        let other = CertifiedIssuer::self_signed(ca_params("stranger"), stranger()).unwrap();
        s.above = vec![other.der().clone()];
        s.issuer = Some(other);
    }),
    server("of another CA with the name of ours", 77, "sha256:", |s| {
        s.issuer = Some(CertifiedIssuer::self_signed(ca_params("tls issuing"), stranger()).unwrap());
    }),
    server("of a CA that has ended", 75, "expired", |s| {
        let mut params = ca_params("ended");
        dates(&mut params, -3, -1);
        let ended = CertifiedIssuer::signed_by(params, stranger(), &s.tls.root).unwrap();
        s.above = vec![ended.der().clone()];
        s.issuer = Some(ended);
    }),
    server("with a critical extension that no one knows", 77, "ritical", |s| {
        let mut unknown = rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
        unknown.set_criticality(true);
        s.params.custom_extensions.push(unknown);
    }),
    server("with a CA certificate", 77, "presents", |s| {
        s.params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    }),
    server("with a hundred certificates", 77, "sha256:", |s| {
        let other = CertifiedIssuer::self_signed(ca_params("stranger"), stranger()).unwrap();
        s.above = vec![other.der().clone(); 100];
        s.issuer = Some(other);
    }),
    server("with an escape in its name", 77, "sha256:", |s| {
        s.params.distinguished_name.push(rcgen::DnType::CommonName, "\u{1b}[2J\r\n\u{202e}vault");
        let other = CertifiedIssuer::self_signed(ca_params("\u{1b}]0;x\u{7}"), stranger()).unwrap();
        s.above = vec![other.der().clone()];
        s.issuer = Some(other);
    }),
];

fn dates(params: &mut CertificateParams, from: i32, until: i32) {
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now + from * DAY, now + until * DAY);
}

fn names(params: &mut CertificateParams, names: &[&str]) {
    params.subject_alt_names = names.iter().map(|&name| SanType::DnsName(name.try_into().unwrap())).collect();
}

/// A server that ends with this.
pub(crate) struct OpenSsl {
    pub(crate) url: String,
    child: Child,
    _directory: TempDir,
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `openssl s_server` with the fake's own certificate: what rustls cannot speak, it can.
pub(crate) fn openssl(fake: &Fake, options: &[&str]) -> OpenSsl {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    let (certificate, key) = fake.server_pem();
    std::fs::write(at("server.pem"), certificate + &key).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let child = Command::new("openssl")
        .args(["s_server", "-quiet", "-www", "-accept", &format!("127.0.0.1:{port}"), "-cert"])
        .arg(at("server.pem"))
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .env_remove("LD_LIBRARY_PATH")
        .spawn()
        .expect("openssl");
    let server = OpenSsl { url: format!("https://127.0.0.1:{port}"), child, _directory: directory };
    for _ in 0..500 {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return server;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("openssl s_server {options:?} does not listen");
}

/// A server that says the same to everyone, whatever they say, and then nothing. Its URL.
pub(crate) fn says(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten().take(64) {
            thread::spawn(move || {
                let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
                let _ = stream.write_all(bytes);
                while stream.read(&mut [0; 4096]).is_ok_and(|length| length > 0) {}
            });
        }
    });
    format!("https://{address}")
}
