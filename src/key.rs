//! Private keys and the requests made from them.
//!
//! A key is made on the host and leaves it never; a request (CSR, RFC 2986) carries its public half.

mod csr;

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{KeyPair, PublicKeyData, RsaKeySize};
use rustls_pki_types::PrivateKeyDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::Zeroizing;

use crate::identity::{Identity, KeyKind};

pub use csr::{Csr, Dialect, MAX_ORGANIZATIONS, Oid, alternative_names, purpose, subject};

/// What is wrong with a key or a request.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The text holds no private key that can be read.
    #[error(
        "no usable private key: expected one PEM block PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY, not encrypted"
    )]
    Unreadable,
    /// The library could not make a key.
    #[error("cannot make a {0:?} key")]
    Make(KeyKind, #[source] rcgen::Error),
    /// The names of an identity do not fit into a request.
    #[error("cannot make a request for {0:?}")]
    Request(String, #[source] rcgen::Error),
    /// The text holds no request that can be read.
    #[error("no usable certificate request")]
    BadRequest,
    /// The kernel gave no random bytes.
    #[error("the kernel gives no random bytes")]
    Entropy,
}

/// A private key. It cannot be cloned or shown; its memory is wiped when it is dropped.
pub struct Key {
    pair: Zeroizing<KeyPair>,
    pem: Zeroizing<String>,
}

impl Key {
    /// Makes a new key. RSA takes 50 to 700 ms, everything else microseconds.
    pub fn generate(kind: KeyKind) -> Result<Self, KeyError> {
        let made = match kind {
            KeyKind::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            KeyKind::P384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            KeyKind::P521 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512),
            KeyKind::Ed25519 => {
                let none = KeyError::Make(kind, rcgen::Error::KeyGenerationUnavailable);
                return Self::ed25519().ok_or(none);
            }
            KeyKind::Rsa2048 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048),
            KeyKind::Rsa3072 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_3072),
            KeyKind::Rsa4096 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_4096),
        };
        let pair = Zeroizing::new(made.map_err(|source| KeyError::Make(kind, source))?);
        let pem = private_pem(pair.serialized_der());
        Ok(Self { pair, pem })
    }

    /// rcgen would write the public half into the key too (RFC 8410 section 7, version 2), which OpenSSL 3.0
    /// cannot read.
    fn ed25519() -> Option<Self> {
        let made = aws_lc_rs::signature::Ed25519KeyPair::generate().ok()?;
        let der = made.to_pkcs8v1().ok()?;
        let pair = Zeroizing::new(KeyPair::try_from(der.as_ref()).ok()?);
        Some(Self { pair, pem: private_pem(der.as_ref()) })
    }

    /// Reads a key and keeps its text as it is: a SEC1 key written anew would be mislabelled.
    pub fn parse(pem: &str) -> Result<Self, KeyError> {
        let (wrap, der) = private_der(pem).ok_or(KeyError::Unreadable)?;
        let der = wrap(&der);
        // The kind that almost every key is; otherwise rcgen would try one kind after the other from the start.
        let pair = KeyPair::from_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256)
            .or_else(|_| KeyPair::try_from(&der))
            .map_err(|_| KeyError::Unreadable)?;
        let pair = Zeroizing::new(pair);
        Ok(Self { pair, pem: Zeroizing::new(pem.to_owned()) })
    }

    /// The private key as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The public half as SubjectPublicKeyInfo, RFC 5280 section 4.1.2.7.
    pub fn public(&self) -> Vec<u8> {
        self.pair.subject_public_key_info()
    }

    /// What signs with this key.
    pub fn signer(&self) -> &KeyPair {
        &self.pair
    }
}

/// A private key in PKCS #8 as one PEM block; a library that writes it leaves copies in freed memory.
fn private_pem(der: &[u8]) -> Zeroizing<String> {
    // Never moved: of 48 bytes a line of 64 and its end, and both marks.
    let mut pem = Zeroizing::new(String::with_capacity(64 + der.len().div_ceil(48) * 65));
    let mut line = Zeroizing::new([0; 64]);
    pem.push_str("-----BEGIN PRIVATE KEY-----\n");
    for part in der.chunks(48) {
        // 48 bytes are 64 letters, RFC 4648, so neither can fail.
        let length = BASE64.encode_slice(part, &mut *line).unwrap_or_default();
        pem.push_str(std::str::from_utf8(&line[..length]).unwrap_or_default());
        pem.push('\n');
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    pem
}

/// How bytes are told to be of one of the three formats of a private key.
type Wrap = for<'a> fn(&'a [u8]) -> PrivateKeyDer<'a>;

/// The labels of RFC 7468 section 10, RFC 5915 section 4 and, by custom, RFC 8017.
const LABELS: [(&str, Wrap); 3] = [
    ("PRIVATE KEY", |der| PrivateKeyDer::Pkcs8(der.into())),
    ("EC PRIVATE KEY", |der| PrivateKeyDer::Sec1(der.into())),
    ("RSA PRIVATE KEY", |der| PrivateKeyDer::Pkcs1(der.into())),
];

/// What a PEM block of a private key holds; a library that reads it leaves copies in freed memory.
fn private_der(pem: &str) -> Option<(Wrap, Zeroizing<Vec<u8>>)> {
    let (wrap, body) = LABELS.iter().find_map(|(label, wrap)| {
        let (_, rest) = pem.split_once(&format!("-----BEGIN {label}-----"))?;
        Some((*wrap, rest.split_once(&format!("-----END {label}-----"))?.0))
    })?;
    // Neither is ever moved: both have room for all of the text.
    let mut letters = Zeroizing::new(Vec::with_capacity(body.len()));
    letters.extend(body.bytes().filter(|byte| !byte.is_ascii_whitespace()));
    let mut der = Zeroizing::new(vec![0; letters.len()]);
    let length = BASE64.decode_slice(&*letters, &mut der).ok()?;
    der.truncate(length);
    Some((wrap, der))
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Random bytes.
pub fn random(number: usize) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let mut bytes = Zeroizing::new(vec![0; number]);
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| KeyError::Entropy)?;
    Ok(bytes)
}

/// A key and the request made with it, kept on disk before the request is sent, so that a retry is
/// the same request.
#[derive(Debug, Clone)]
pub struct Pending {
    /// The private key.
    pub key: Arc<Key>,
    /// The request.
    pub csr: Csr,
}

impl Pending {
    /// Makes the request for an identity with the given key.
    pub fn new(key: Arc<Key>, wanted: &Identity, dialect: &Dialect) -> Result<Self, KeyError> {
        let csr = Csr::new(&key, wanted, dialect)?;
        Ok(Self { key, csr })
    }

    /// Whether this request still asks for what is wanted now.
    pub fn asks_for(&self, wanted: &Identity, dialect: &Dialect) -> bool {
        self.csr.key_kind() == Some(wanted.key)
            && Csr::new(&self.key, wanted, dialect).is_ok_and(|fresh| fresh.is_same(&self.csr))
    }
}

/// The kind of a public key, if it is one that can be asked for.
pub fn kind_of(key: &SubjectPublicKeyInfo<'_>) -> Option<KeyKind> {
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => match rsa.key_size() {
            2041..=2048 => Some(KeyKind::Rsa2048),
            3065..=3072 => Some(KeyKind::Rsa3072),
            4089..=4096 => Some(KeyKind::Rsa4096),
            _ => None,
        },
        Ok(PublicKey::EC(point)) => match point.key_size() {
            256 => Some(KeyKind::P256),
            384 => Some(KeyKind::P384),
            // x509-parser reckons whole bytes: 66 of them hold 521 bits.
            521..=528 => Some(KeyKind::P521),
            _ => None,
        },
        _ if key.algorithm.algorithm == x509_parser::oid_registry::OID_SIG_ED25519 => Some(KeyKind::Ed25519),
        _ => None,
    }
}

/// One PEM block, RFC 7468: 64 characters a line, with a newline at the end.
pub fn pem_block(label: &str, der: &[u8]) -> String {
    let format = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(label, der), format)
}
