//! Puppet's side of the fake: requests and certificates by certname, as puppetserver 8 keeps them. Its CA is
//! the one that its own server's certificate comes from.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rcgen::{
    CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, KeyIdMethod, RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, ParsedExtension, X509CertificationRequest};

use super::{Authority, DAY, Fake, Fault, Pki, Seen, State, bend, ca_params, key};

/// What it keeps by certname, PEM, and what it is told to be like.
pub(super) struct Shelf {
    requests: Mutex<BTreeMap<String, String>>,
    certificates: Mutex<BTreeMap<String, String>>,
    /// Serial numbers, big-endian.
    revoked: Mutex<Vec<Vec<u8>>>,
    /// The intermediate certificate that comes after the one of now.
    next: Authority,
    is_rotated: AtomicBool,
    waits_for_a_person: AtomicBool,
    renews: AtomicBool,
}

impl Shelf {
    pub(super) fn new(pki: &Pki) -> Self {
        Self {
            requests: Mutex::default(),
            certificates: Mutex::default(),
            revoked: Mutex::default(),
            next: Authority::signed_by(ca_params("tls next"), key(), &pki.root).unwrap(),
            is_rotated: AtomicBool::new(false),
            waits_for_a_person: AtomicBool::new(false),
            renews: AtomicBool::new(true),
        }
    }
}

impl Fake {
    /// From now on requests wait for a person (`autosign = false`).
    pub fn sign_nothing(&self) {
        self.state.puppet.waits_for_a_person.store(true, Ordering::SeqCst);
    }

    /// A person signs the request under a name.
    pub fn sign_request(&self, certname: &str) {
        let csr = self.state.puppet.requests.lock().unwrap().remove(certname).expect("a request");
        let signed = signed(&self.state, &csr, None);
        self.state.puppet.certificates.lock().unwrap().insert(certname.to_owned(), signed);
    }

    /// The request that waits under a name.
    pub fn request_of(&self, certname: &str) -> Option<String> {
        self.state.puppet.requests.lock().unwrap().get(certname).cloned()
    }

    /// From now on it renews nothing (`allow-auto-renewal: false`).
    pub fn renew_nothing(&self) {
        self.state.puppet.renews.store(false, Ordering::SeqCst);
    }

    /// Puts what it signed under a name, and had signed two years ago, back there; that is it.
    pub fn aged(&self, certname: &str, certificate: &str) -> String {
        let aged = again(&self.state, certificate, None, -730 * DAY);
        self.state.puppet.certificates.lock().unwrap().insert(certname.to_owned(), aged.clone());
        aged
    }

    /// `puppetserver ca revoke`: it is served all the same.
    pub fn revoke(&self, certname: &str) {
        let pem = self.state.puppet.certificates.lock().unwrap()[certname].clone();
        let der = rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
        self.state.puppet.revoked.lock().unwrap().push(parsed.raw_serial().to_vec());
    }

    /// `puppetserver ca clean`.
    pub fn clean(&self, certname: &str) {
        self.revoke(certname);
        self.free(certname);
    }

    /// `puppetserver ca clean`, without the revocation.
    pub fn free(&self, certname: &str) {
        self.state.puppet.requests.lock().unwrap().remove(certname);
        self.state.puppet.certificates.lock().unwrap().remove(certname);
    }
}

type Answer = (u16, String);

pub(super) fn route(state: &State, seen: &Seen, path: &str, peer: bool, fault: Option<&Fault>) -> Answer {
    let (kind, name) = path.split_once('/').unwrap_or((path, ""));
    let shelf = &state.puppet;
    let kept = |shelf: &Mutex<BTreeMap<String, String>>| match shelf.lock().unwrap().get(name) {
        Some(pem) => (200, pem.clone()),
        None => (404, format!("Could not find {kind} {name}")),
    };
    let (code, body) = match (seen.method.as_str(), kind, name) {
        ("GET", "certificate", "ca") => (200, bundle(state, fault)),
        ("GET", "certificate_revocation_list", "ca") => (200, lists(state, fault)),
        ("GET", "certificate", _) => kept(&shelf.certificates),
        ("GET", "certificate_request", _) => kept(&shelf.requests),
        ("PUT", "certificate_request", _) => submit(state, name, &seen.text, fault),
        ("POST", "certificate_renewal", "") => renew(state, peer, fault),
        _ => (404, "not found".to_owned()),
    };
    match fault {
        // Within the first block, wherever that ends: the half of two can be one whole.
        Some(Fault::TruncatedPem) => (code, body[..body.len() / 4].to_owned()),
        Some(Fault::NotPem) => (code, "certificate".to_owned()),
        _ => (code, body),
    }
}

/// The intermediate certificate that signs, then the root.
fn bundle(state: &State, fault: Option<&Fault>) -> String {
    match fault {
        Some(Fault::OtherCa) => state.other.chain().concat(),
        _ if state.puppet.is_rotated.load(Ordering::SeqCst) => {
            [state.puppet.next.pem(), state.tls.issuing.pem(), state.tls.root.pem()].concat()
        }
        _ => state.tls.chain().concat(),
    }
}

/// A revocation list of each of its certificates.
fn lists(state: &State, fault: Option<&Fault>) -> String {
    let now = OffsetDateTime::now_utc();
    let end = if fault == Some(&Fault::Expired) { now - DAY } else { now + 30 * DAY };
    let list = |issuer: &Authority| {
        let entry = |serial_number| RevokedCertParams {
            serial_number,
            revocation_time: now - DAY,
            reason_code: None,
            invalidity_date: None,
        };
        let revoked = state.puppet.revoked.lock().unwrap();
        let serials = revoked.iter().map(|serial| SerialNumber::from_slice(serial));
        let params = CertificateRevocationListParams {
            this_update: now - 2 * DAY,
            next_update: end,
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.chain([1_u64.into()]).map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(issuer).unwrap().pem().unwrap()
    };
    match fault {
        Some(Fault::OtherCa) => list(&state.other.issuing) + &list(&state.other.root),
        _ => list(&state.puppet.next) + &list(&state.tls.issuing) + &list(&state.tls.root),
    }
}

fn submit(state: &State, name: &str, csr: &str, fault: Option<&Fault>) -> Answer {
    let shelf = &state.puppet;
    let has =
        |what: &str| (400, format!("{name} already has a {what} certificate; ignoring certificate request"));
    if shelf.certificates.lock().unwrap().contains_key(name) {
        return has("signed");
    }
    if shelf.requests.lock().unwrap().contains_key(name) {
        return has("requested");
    }
    if fault == Some(&Fault::Forgotten) {
        return (200, String::new());
    }
    if asks_for_usages(csr) {
        return (400, "Found extensions that are not permitted: 2.5.29.37".to_owned());
    }
    let shelved = match shelf.waits_for_a_person.load(Ordering::SeqCst) {
        true => shelf.requests.lock().unwrap().insert(name.to_owned(), csr.to_owned()),
        false => shelf.certificates.lock().unwrap().insert(name.to_owned(), signed(state, csr, fault)),
    };
    assert!(shelved.is_none());
    (200, String::new())
}

fn asks_for_usages(csr: &str) -> bool {
    let der = CertificateSigningRequestDer::from_pem_slice(csr.as_bytes()).expect("a CSR");
    let (_, request) = X509CertificationRequest::from_der(&der).expect("a good CSR");
    let mut extensions = request.requested_extensions().into_iter().flatten();
    extensions.any(|extension| matches!(extension, ParsedExtension::ExtendedKeyUsage(_)))
}

/// Signs as puppetserver does: the common name alone, and as a SAN too; for servers and clients.
fn signed(state: &State, csr: &str, fault: Option<&Fault>) -> String {
    let der = CertificateSigningRequestDer::from_pem_slice(csr.as_bytes()).expect("a CSR");
    let mut request = CertificateSigningRequestParams::from_der(&der).expect("a good CSR");
    complete(state, &mut request.params);
    if let Some(Fault::Bent(bend)) = fault {
        return bend::signed(state, request, &state.tls, Vec::new(), Some(*bend)).concat();
    }
    let issuer = match fault {
        Some(Fault::OtherCa) => &state.other.issuing,
        Some(Fault::Rotated) => {
            state.puppet.is_rotated.store(true, Ordering::SeqCst);
            &state.puppet.next
        }
        _ => &state.tls.issuing,
    };
    let signed = match fault {
        Some(Fault::WrongKey) => request.params.signed_by(&key(), issuer),
        _ => request.signed_by(issuer),
    };
    let signed = signed.unwrap().pem();
    state.first.lock().unwrap().get_or_insert_with(|| signed.clone());
    signed
}

fn complete(state: &State, params: &mut CertificateParams) {
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - DAY, now + 1825 * DAY);
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let number = state.counter.fetch_add(1, Ordering::SeqCst);
    params.serial_number = Some(u64::try_from(1000 + number).unwrap().into());
    let Some(rcgen::DnValue::Utf8String(name)) = params.distinguished_name.get(&DnType::CommonName).cloned()
    else {
        return;
    };
    let san = SanType::DnsName(name.try_into().unwrap());
    if !params.subject_alt_names.contains(&san) {
        params.subject_alt_names.push(san);
    }
}

/// The one certificate there is, once more: which of several it is would stand in the client's certificate.
fn renew(state: &State, peer: bool, fault: Option<&Fault>) -> Answer {
    let shelf = &state.puppet;
    if !peer {
        return (403, "Forbidden request: /puppet-ca/v1/certificate_renewal (method :post).".to_owned());
    }
    if !shelf.renews.load(Ordering::SeqCst) {
        return (404, "Not Found".to_owned());
    }
    let Some((name, there)) =
        shelf.certificates.lock().unwrap().first_key_value().map(|(n, c)| (n.clone(), c.clone()))
    else {
        return (404, "Not Found".to_owned());
    };
    let renewed = again(state, &there, fault, time::Duration::hours(1));
    shelf.certificates.lock().unwrap().insert(name, renewed.clone());
    (200, renewed)
}

/// The same key and names under a new number, from so much later on.
fn again(state: &State, certificate: &str, fault: Option<&Fault>, later: time::Duration) -> String {
    let der = rustls_pki_types::CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
    let public = rcgen::SubjectPublicKeyInfo::from_der(parsed.public_key().raw).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let name = parsed.subject().iter_common_name().next().unwrap().as_str().unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    for dns in parsed.subject_alternative_name().unwrap().unwrap().value.general_names.iter() {
        if let x509_parser::prelude::GeneralName::DNSName(dns) = dns {
            params.subject_alt_names.push(SanType::DnsName((*dns).try_into().unwrap()));
        }
    }
    complete(state, &mut params);
    params.not_before += later;
    let issuer = if fault == Some(&Fault::OtherCa) { &state.other.issuing } else { &state.tls.issuing };
    match fault {
        Some(Fault::WrongKey) => params.signed_by(&key(), issuer),
        _ => params.signed_by(&public, issuer),
    }
    .unwrap()
    .pem()
}
