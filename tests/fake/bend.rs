//! What a hostile CA makes of an honest answer: of what it signs, of what it says, of how it says it.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use rcgen::{CertificateParams, CertificateSigningRequestParams, KeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::{Authority, Pki, State, Stream, key};

/// One way to be hostile, by name.
#[derive(Clone, Copy)]
pub struct Bend {
    pub name: &'static str,
    pub deed: Deed,
}

/// Where the honest answer is bent.
#[derive(Clone, Copy)]
pub enum Deed {
    /// In the certificate.
    Signed(fn(&mut Signing<'_>)),
    /// In the certificates as PEM, leaf first.
    Pems(fn(&mut Vec<String>)),
    /// In the body.
    Body(fn(&str) -> Vec<u8>),
    /// In the whole response: status and body are the honest ones.
    Spoken(fn(&mut Wire<'_>, u16, &str) -> io::Result<()>),
}

impl fmt::Debug for Bend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Bend {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// A certificate about to be signed.
pub struct Signing<'a> {
    pub params: CertificateParams,
    /// Whose certificate it is, instead of the request's.
    pub key: Option<KeyPair>,
    /// Who signs, instead of the CA.
    pub issuer: Option<Authority>,
    pub pki: &'a Pki,
    /// What stands above the leaf, where the protocol says it in the same answer.
    pub above: Vec<String>,
    /// What is done to the DER when it is signed.
    pub spoil: Option<fn(&mut Vec<u8>)>,
    /// What comes instead of the certificate.
    pub instead: Option<String>,
    /// The first certificate that this CA has signed.
    pub first: Option<String>,
}

/// Signs a request, bent where it is to be: certificates as PEM, leaf first.
pub(super) fn signed(
    state: &State,
    request: CertificateSigningRequestParams,
    pki: &Pki,
    above: Vec<String>,
    bend: Option<Bend>,
) -> Vec<String> {
    let first = state.first.lock().unwrap().clone();
    let (public, params) = (request.public_key, request.params);
    let mut signing =
        Signing { params, key: None, issuer: None, pki, above, spoil: None, instead: None, first };
    if let Some(Bend { deed: Deed::Signed(bend), .. }) = bend {
        bend(&mut signing);
    }
    let issuer = signing.issuer.as_ref().unwrap_or(&pki.issuing);
    let signed = match &signing.key {
        Some(key) => signing.params.signed_by(key, issuer),
        None => signing.params.signed_by(&public, issuer),
    };
    let mut der = signed.unwrap().der().to_vec();
    if let Some(spoil) = signing.spoil {
        spoil(&mut der);
    }
    let leaf = signing.instead.unwrap_or_else(|| pem("CERTIFICATE", &der));
    state.first.lock().unwrap().get_or_insert_with(|| leaf.clone());
    let mut chain: Vec<_> = std::iter::once(leaf).chain(signing.above).collect();
    if let Some(Bend { deed: Deed::Pems(bend), .. }) = bend {
        bend(&mut chain);
    }
    chain
}

/// One PEM block.
pub fn pem(label: &str, der: &[u8]) -> String {
    nodecert::key::pem_block(label, der)
}

/// The DER of a PEM block.
pub fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

/// A connection to do as one likes with. After a bent answer it is closed.
pub struct Wire<'a> {
    pub(super) stream: &'a mut Stream,
    pub(super) state: &'a State,
}

impl Wire<'_> {
    pub fn say(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.stream.flush()
    }

    /// An honest head of a response with a body of that length.
    pub fn head(&mut self, code: u16, length: usize) -> io::Result<()> {
        self.say(format!("HTTP/1.1 {code} X\r\nContent-Length: {length}\r\n\r\n"))
    }

    /// Without the farewell of TLS, and without that of TCP where anything is left unread.
    pub fn cut(&mut self) -> io::Result<()> {
        self.stream.sock.shutdown(std::net::Shutdown::Both)
    }

    /// With the farewell of TLS.
    pub fn close(&mut self) -> io::Result<()> {
        self.stream.conn.send_close_notify();
        self.stream.flush()?;
        self.cut()
    }

    /// Bytes that no key of this connection has made.
    pub fn noise(&mut self) -> io::Result<()> {
        self.stream.sock.write_all(&[&[0x17, 3, 3, 0, 200][..], &[0xaa; 200]].concat())
    }

    /// Waits; false when the test is over.
    pub fn wait(&self, time: Duration) -> bool {
        thread::sleep(time);
        !self.state.stop.load(Ordering::SeqCst)
    }

    /// Until the other side goes, or the test is over.
    pub fn linger(&mut self) {
        let _ = self.stream.sock.set_read_timeout(Some(Duration::from_millis(200)));
        for _ in 0..150 {
            match self.stream.read(&mut [0; 64]) {
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                _ => return,
            }
            if self.state.stop.load(Ordering::SeqCst) {
                return;
            }
        }
    }
}

/// Another key than the host's.
pub fn stranger() -> KeyPair {
    key()
}
