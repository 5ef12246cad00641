//! Whose server it is: rustls verifiers for the three ways of trust, and what they found wrong.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::bundle::Bundle;
use crate::clock::{Clock, at, from_seconds};
use crate::trust::{Anchors, Pin, Tls};

/// The TLS side of a client: whom it trusts, whom it claims to be, and what time it is.
pub(crate) fn client_config(
    trust: Trust,
    identity: Option<&Bundle>,
    clock: &Clock,
) -> Result<ClientConfig, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(Verifier { trust, provider: provider.clone() });
    let builder = ClientConfig::builder_with_details(provider, Arc::new(clock.clone()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some(bundle) => {
            let pair = bundle.pair();
            let key =
                PrivateKeyDer::from_pem_slice(pair.key().pem().as_bytes()).map_err(|e| e.to_string())?;
            builder.with_client_auth_cert(pair.chain().to_vec(), key).map_err(|e| e.to_string())
        }
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        self.now().duration_since(SystemTime::UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

/// Whom to trust, with what that needs.
#[derive(Debug, Clone)]
pub(crate) enum Trust {
    /// A chain to one of these.
    Anchors(Anchors),
    /// A chain that holds one of these.
    Pins(Vec<Pin>),
    /// A chain to a root of the operating system.
    System(Arc<RootCertStore>),
    /// Whoever answers: only to fetch what is then held against a pin. Nothing secret is sent, and nothing
    /// that comes is believed.
    Anyone,
}

impl Trust {
    /// Joins the setting and what was read for it. The system's roots take 2 to 3 ms to load, so only
    /// where they are asked for.
    pub(crate) fn new(setting: &Tls, file: Option<Anchors>) -> Result<Self, String> {
        match (setting, file) {
            (Tls::Pins(pins), _) => Ok(Self::Pins(pins.clone())),
            (Tls::File(_), Some(anchors)) => Ok(Self::Anchors(anchors)),
            (Tls::FirstUse, _) => Err("first_use is not for this kind of CA".to_owned()),
            (Tls::File(path), None) => Err(format!("tls.file {} was not read", path.display())),
            (Tls::System, _) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    return Err("tls.system = true, but this system has no roots; install ca-certificates or use tls.file or tls.pins".to_owned());
                }
                Ok(Self::System(Arc::new(roots)))
            }
        }
    }
}

/// Why a server is not believed. It passes through rustls, hyper and reqwest as a source of their errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Distrust {
    /// A certificate that is not valid now: it has ended, or this host's clock is wrong.
    Time(String),
    /// Anything else.
    Other(String),
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(why) | Self::Other(why) => f.write_str(why),
        }
    }
}

impl Error for Distrust {}

impl Distrust {
    /// Finds it among the causes of an error.
    pub(crate) fn within<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        match fault(error)? {
            rustls::Error::InvalidCertificate(CertificateError::Other(other)) => other.0.downcast_ref(),
            _ => None,
        }
    }
}

/// What the other side of TLS had against us, among the causes of an error.
pub(crate) fn alert(error: &(dyn Error + 'static)) -> Option<String> {
    match fault(error)? {
        rustls::Error::AlertReceived(alert) => Some(format!("{alert:?}")),
        _ => None,
    }
}

/// What a server lacks with which no TLS can be spoken that is safe today. RFC 8446 section 6.2, RFC 8996 (TLS
/// 1.0 and 1.1).
pub(crate) fn lack(error: &(dyn Error + 'static)) -> Option<&'static str> {
    use rustls::AlertDescription as Alert;
    match fault(error)? {
        rustls::Error::InvalidCertificate(_) => Some("it needs a certificate that can be read"),
        rustls::Error::PeerIncompatible(_)
        | rustls::Error::AlertReceived(
            Alert::ProtocolVersion | Alert::HandshakeFailure | Alert::InsufficientSecurity,
        ) => Some("it must speak TLS 1.2 or 1.3 with ECDHE and AES-GCM or ChaCha20-Poly1305"),
        _ => None,
    }
}

fn fault<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// An error and what it comes from. `io::Error` does not give what it wraps as its source.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&cause: &&'a (dyn Error + 'static)| {
        let wrapped = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        wrapped.map(|inner| inner as &(dyn Error + 'static)).or_else(|| cause.source())
    })
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let presented = Presented { leaf, intermediates, now };
        self.verify(&presented, name).map(|()| ServerCertVerified::assertion()).map_err(|why| {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl Verifier {
    fn verify(&self, presented: &Presented<'_>, name: &ServerName<'_>) -> Result<(), Distrust> {
        if matches!(self.trust, Trust::Anyone) {
            return Ok(());
        }
        let parsed = ParsedCertificate::try_from(presented.leaf).map_err(|e| presented.distrust(&e))?;
        match &self.trust {
            Trust::Anyone => {}
            Trust::System(roots) => self.chained(presented, &parsed, roots)?,
            Trust::Anchors(anchors) => {
                self.anchored(presented, &parsed, &anchors.certificates().iter().collect::<Vec<_>>())?;
            }
            Trust::Pins(pins) => self.pinned(presented, &parsed, pins)?,
        }
        verify_server_name(&parsed, name).map_err(|e| presented.distrust(&e))
    }

    /// A server seldom sends its root, so a pin may be any certificate that it does send. The pinned
    /// one is the anchor; if that is the leaf itself, there is no chain, and its dates are all there is.
    fn pinned(
        &self,
        presented: &Presented<'_>,
        parsed: &ParsedCertificate<'_>,
        pins: &[Pin],
    ) -> Result<(), Distrust> {
        let pinned: Vec<_> = presented.all().filter(|der| pins.contains(&Pin::of(der))).collect();
        if pinned.is_empty() {
            return Err(Distrust::Other(format!(
                "none of tls.pins is in the chain that it presents: {}; if one of these is right, pin it",
                presented.describe()
            )));
        }
        if pinned.contains(&presented.leaf) {
            return presented.time_fault(presented.leaf).map_or(Ok(()), |why| Err(Distrust::Time(why)));
        }
        self.anchored(presented, parsed, &pinned)
    }

    /// webpki takes an anchor whose time is over; here it counts only to tell why the chain fails.
    fn anchored(
        &self,
        presented: &Presented<'_>,
        parsed: &ParsedCertificate<'_>,
        anchors: &[&CertificateDer<'_>],
    ) -> Result<(), Distrust> {
        let live = anchors.iter().copied().filter(|der| presented.time_fault(der).is_none());
        let Err(why) = self.chained(presented, parsed, &store(live)) else { return Ok(()) };
        let over = anchors.iter().find_map(|der| presented.time_fault(der));
        match over {
            Some(over) if self.chained(presented, parsed, &store(anchors.iter().copied())).is_ok() => {
                Err(Distrust::Time(over))
            }
            _ => Err(why),
        }
    }

    fn chained(
        &self,
        presented: &Presented<'_>,
        parsed: &ParsedCertificate<'_>,
        roots: &RootCertStore,
    ) -> Result<(), Distrust> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let (above, now) = (presented.intermediates, presented.now);
        verify_server_cert_signed_by_trust_anchor(parsed, roots, above, now, algorithms)
            .map_err(|e| presented.distrust(&e))
    }
}

fn store<'a>(anchors: impl IntoIterator<Item = &'a CertificateDer<'a>>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(anchors.into_iter().cloned());
    roots
}

/// What a server showed, and when.
struct Presented<'a> {
    leaf: &'a CertificateDer<'a>,
    intermediates: &'a [CertificateDer<'a>],
    now: UnixTime,
}

impl<'a> Presented<'a> {
    fn all(&self) -> impl Iterator<Item = &'a CertificateDer<'a>> {
        std::iter::once(self.leaf).chain(self.intermediates)
    }

    fn describe(&self) -> String {
        let each = self.all().take(8).map(|der| format!("{:?} {}", subject(der), Pin::of(der)));
        each.collect::<Vec<_>>().join(", ")
    }

    /// Says it of a certificate that is not valid now.
    fn time_fault(&self, der: &[u8]) -> Option<String> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let (from, until) =
            (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        let now = i64::try_from(self.now.as_secs()).unwrap_or(i64::MAX);
        if (from..=until).contains(&now) {
            return None;
        }
        let (word, date) = if now < from { ("is valid only from", from) } else { ("expired", until) };
        Some(format!(
            "the certificate {:?} {word} {}, and this host's clock says {}; set the clock, or renew that certificate",
            parsed.subject().to_string(),
            moment(date),
            moment(now)
        ))
    }

    fn distrust(&self, error: &rustls::Error) -> Distrust {
        use CertificateError as E;
        let rustls::Error::InvalidCertificate(error) = error else {
            return Distrust::Other(error.to_string());
        };
        match error {
            E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. } => {
                let fault = self.all().find_map(|der| self.time_fault(der));
                Distrust::Time(fault.unwrap_or_else(|| rustls::Error::from(error.clone()).to_string()))
            }
            // A CA that was made anew under the old name gives a bad signature.
            E::UnknownIssuer | E::BadSignature => Distrust::Other(format!(
                "its certificate does not lead to a CA that `tls` of the configuration trusts; it presents {}; if one of these is right, pin it in tls.pins or put its CA into tls.file",
                self.describe()
            )),
            other => Distrust::Other(format!(
                "{}; it presents {}",
                rustls::Error::from(other.clone()),
                self.describe()
            )),
        }
    }
}

fn subject(der: &[u8]) -> String {
    X509Certificate::from_der(der).map(|(_, c)| c.subject().to_string()).unwrap_or_default()
}

fn moment(seconds: i64) -> String {
    at(from_seconds(seconds))
}
