//! `nodecert trust URL`: looks at a CA's certificates without trusting them, so that a person can compare
//! them with what the CA's operator says. Nothing secret is sent, for no one knows yet who is there.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::{Value, json};

use super::text::parse_url;
use crate::bundle::{Leaf, parse_chain};
use crate::clock::at;
use crate::https::{bounded, client, root_cause};
use crate::trust::{Anchors, Pin};

/// A look is not worth a longer wait.
const PATIENCE: Duration = Duration::from_secs(15);

const PUPPET: &str = "/puppet-ca/v1/certificate/ca";

/// Why there was nothing to see.
#[derive(Debug, thiserror::Error)]
pub enum GlanceError {
    /// The address is not one of an HTTPS server.
    #[error(
        "{0:?} is not an HTTPS address; write https://HOST:PORT, or https://HOST:PORT/MOUNT for a Vault mount's CA too"
    )]
    Url(String),
    /// No answer, or none over TLS.
    #[error(
        "cannot look at {url}: {why}; does the server run, and is it the right port? Vault listens on 8200, Puppet on 8140, cfssl on 8888"
    )]
    Connect {
        /// Where.
        url: String,
        /// What happened.
        why: String,
    },
}

impl GlanceError {
    /// Whether it may be otherwise in a moment.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Connect { .. })
    }
}

/// What a server showed, not verified.
#[derive(Debug)]
pub struct Presented {
    url: String,
    server: Vec<CertificateDer<'static>>,
    published: Vec<CertificateDer<'static>>,
    is_puppet: bool,
}

/// Connects, and asks for nothing but the certificates of the mount that the path names, if it names one.
pub async fn presented(text: &str) -> Result<Presented, GlanceError> {
    let bad = || GlanceError::Url(text.to_owned());
    let url = parse_url(text)
        .ok()
        .filter(|url| url.scheme() == "https" && url.username().is_empty())
        .ok_or_else(bad)?;
    let mount = url.path().trim_matches('/').trim_start_matches("v1/").to_owned();
    let recorder =
        Arc::new(Recorder { seen: Mutex::default(), provider: Arc::new(aws_lc_rs::default_provider()) });
    let failed = |why: String| GlanceError::Connect { url: text.to_owned(), why };
    let config = ClientConfig::builder_with_provider(recorder.provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(recorder.clone())
        .with_no_client_auth();
    // Without a mount it may be a Puppet server; any other answers that there is nothing.
    let path = if mount.is_empty() { PUPPET.to_owned() } else { format!("/v1/{mount}/ca_chain") };
    let asked = url.join(&path).map_err(|_| bad())?;
    let answer = client(config, None).map_err(&failed)?.get(asked).timeout(PATIENCE).send().await;
    let server = recorder.seen.lock().map(|seen| seen.clone()).unwrap_or_default();
    let answer = match answer {
        Err(error) if server.is_empty() => return Err(failed(root_cause(&error))),
        answer => answer.ok().filter(|answer| answer.status().is_success()),
    };
    let text = match answer {
        Some(answer) => bounded(answer).await.unwrap_or_default(),
        None => Vec::new(),
    };
    let published = parse_chain(&String::from_utf8_lossy(&text)).unwrap_or_default();
    Ok(Presented { url: url.to_string(), server, published, is_puppet: mount.is_empty() })
}

impl Presented {
    /// Lines for the configuration, and what is to be compared before they are put there.
    pub fn lines(&self) -> String {
        let mut text = format!(
            "# {} showed these certificates. NOT VERIFIED: compare the fingerprints with\n# what the operator of the CA says before you use them.\n",
            self.url
        );
        text += &describe("the server presents", &self.server);
        if let Some(root) = self.published.last().filter(|_| self.is_puppet) {
            // It presents its leaf alone; its CA says both whom to talk to and what it signs with.
            text += &describe("its Puppet CA publishes", &self.published);
            return text + &format!("tls.pins = [\"{}\"]\n", Pin::of(root));
        }
        // A leaf is renewed; the topmost certificate that is presented stays longest.
        if let Some(top) = self.server.last() {
            if Anchors::new(vec![top.clone()]).is_err() {
                text += "#\n# It is the server's own, and gone with its renewal: tls.file with the CA that signed it stays right.\n";
            }
            text += &format!("tls.pins = [\"{}\"]\n", Pin::of(top));
        }
        if self.published.is_empty() && !self.is_puppet {
            text += "#\n# No CA certificates came from the mount that the address names: is its path right, and is the server unsealed?\n";
        }
        if let Some(top) = self.published.last() {
            text += &describe("the mount publishes", &self.published);
            text += &format!("anchors.pins = [\"{}\"]\n", Pin::of(top));
        }
        text
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let list = |chain: &[CertificateDer<'_>]| chain.iter().map(|der| entry(der)).collect::<Vec<_>>();
        json!({ "url": self.url, "server": list(&self.server), "mount": list(&self.published), "verified": false })
    }
}

fn entry(der: &[u8]) -> Value {
    let leaf = Leaf::parse(der).ok();
    json!({
        "subject": leaf.as_ref().map(|leaf| &leaf.subject),
        "not_after": leaf.as_ref().map(|leaf| at(leaf.not_after)),
        "fingerprint": Pin::of(der),
    })
}

fn describe(what: &str, chain: &[CertificateDer<'_>]) -> String {
    let line = |der: &CertificateDer<'_>| match Leaf::parse(der) {
        Ok(leaf) => format!("#   {}  {:?}, until {}\n", Pin::of(der), leaf.subject, at(leaf.not_after)),
        Err(_) => format!("#   {}  (not readable)\n", Pin::of(der)),
    };
    format!("#\n# {what}:\n{}", chain.iter().map(line).collect::<String>())
}

/// Believes everything and writes it down.
#[derive(Debug)]
struct Recorder {
    seen: Mutex<Vec<CertificateDer<'static>>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Ok(mut seen) = self.seen.lock() {
            *seen = std::iter::once(leaf).chain(intermediates).map(|der| der.clone().into_owned()).collect();
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_of_what_is_renewed_comes_with_a_warning() {
        let said = |ca: bool| {
            let mut params = rcgen::CertificateParams::new(vec!["vault".to_owned()]).expect("names");
            if ca {
                params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            }
            let made =
                params.self_signed(&rcgen::KeyPair::generate().expect("a key")).expect("a certificate");
            let server = vec![made.der().clone()];
            Presented { url: String::new(), server, published: Vec::new(), is_puppet: true }.lines()
        };
        let warning = "gone with its renewal";
        assert!(said(false).contains(warning) && !said(true).contains(warning), "{}", said(true));
    }
}
