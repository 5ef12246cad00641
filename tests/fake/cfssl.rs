//! cfssl's side of the fake: `info` and `authsign`.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::CertificateSigningRequestParams;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::bend::{Bend, signed};
use super::{Seen, State, complete};

/// The key of its profile.
pub const AUTH_KEY: &str = "00112233445566778899aabbccddeeff";

pub(super) fn route(state: &State, seen: &Seen, path: &str, bend: Option<Bend>) -> (u16, String) {
    match path {
        "info" => answer(&state.signing.issuing.pem()),
        "authsign" => authsign(state, &seen.body, bend),
        _ => refuse("not found"),
    }
}

fn answer(certificate: &str) -> (u16, String) {
    let result = json!({ "certificate": certificate });
    (200, json!({ "success": true, "result": result, "errors": [], "messages": [] }).to_string())
}

pub(super) fn refuse(why: &str) -> (u16, String) {
    let errors = json!([{ "code": 9300, "message": why }]);
    (400, json!({ "success": false, "result": null, "errors": errors, "messages": [] }).to_string())
}

fn authsign(state: &State, body: &Value, bend: Option<Bend>) -> (u16, String) {
    let field = |name: &str| BASE64.decode(body[name].as_str().unwrap_or_default()).unwrap_or_default();
    let (token, request) = (field("token"), field("request"));
    let key: Vec<u8> =
        (0..16).map(|at| u8::from_str_radix(&AUTH_KEY[2 * at..2 * at + 2], 16).unwrap()).collect();
    if hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &key), &request, &token).is_err() {
        return refuse("invalid token");
    }
    let request: Value = serde_json::from_slice(&request).unwrap_or_default();
    let csr = request["certificate_request"].as_str().unwrap_or_default();
    let der = CertificateSigningRequestDer::from_pem_slice(csr.as_bytes()).expect("a CSR");
    let mut request = CertificateSigningRequestParams::from_der(&der).expect("a good CSR");
    complete(state, &mut request.params, None);
    answer(&signed(state, request, &state.signing, Vec::new(), bend).concat())
}
