//! The names that Puppet gives to attributes and extensions of a request, as numbers.
//!
//! Source: Puppet's documentation, "CSR attributes and certificate extensions", and `lib/puppet/ssl/oids.rb`.

use crate::key::Oid;

/// PKCS #9, RFC 2985 sections 5.4.1 and 5.4.2.
const ATTRIBUTES: [(&str, &str); 2] =
    [("challengePassword", "1.2.840.113549.1.9.7"), ("unstructuredName", "1.2.840.113549.1.9.2")];

const EXTENSIONS: [(&str, &str); 29] = [
    ("pp_uuid", "1.3.6.1.4.1.34380.1.1.1"),
    ("pp_instance_id", "1.3.6.1.4.1.34380.1.1.2"),
    ("pp_image_name", "1.3.6.1.4.1.34380.1.1.3"),
    ("pp_preshared_key", "1.3.6.1.4.1.34380.1.1.4"),
    ("pp_cost_center", "1.3.6.1.4.1.34380.1.1.5"),
    ("pp_product", "1.3.6.1.4.1.34380.1.1.6"),
    ("pp_project", "1.3.6.1.4.1.34380.1.1.7"),
    ("pp_application", "1.3.6.1.4.1.34380.1.1.8"),
    ("pp_service", "1.3.6.1.4.1.34380.1.1.9"),
    ("pp_employee", "1.3.6.1.4.1.34380.1.1.10"),
    ("pp_created_by", "1.3.6.1.4.1.34380.1.1.11"),
    ("pp_environment", "1.3.6.1.4.1.34380.1.1.12"),
    ("pp_role", "1.3.6.1.4.1.34380.1.1.13"),
    ("pp_software_version", "1.3.6.1.4.1.34380.1.1.14"),
    ("pp_department", "1.3.6.1.4.1.34380.1.1.15"),
    ("pp_cluster", "1.3.6.1.4.1.34380.1.1.16"),
    ("pp_provisioner", "1.3.6.1.4.1.34380.1.1.17"),
    ("pp_region", "1.3.6.1.4.1.34380.1.1.18"),
    ("pp_datacenter", "1.3.6.1.4.1.34380.1.1.19"),
    ("pp_zone", "1.3.6.1.4.1.34380.1.1.20"),
    ("pp_network", "1.3.6.1.4.1.34380.1.1.21"),
    ("pp_securitypolicy", "1.3.6.1.4.1.34380.1.1.22"),
    ("pp_cloudplatform", "1.3.6.1.4.1.34380.1.1.23"),
    ("pp_apptier", "1.3.6.1.4.1.34380.1.1.24"),
    ("pp_hostname", "1.3.6.1.4.1.34380.1.1.25"),
    ("pp_owner", "1.3.6.1.4.1.34380.1.1.26"),
    ("pp_authorization", "1.3.6.1.4.1.34380.1.3.1"),
    ("pp_auth_role", "1.3.6.1.4.1.34380.1.3.13"),
    ("pp_cli_auth", "1.3.6.1.4.1.34380.1.3.39"),
];

pub(super) fn attribute(name: &str) -> Result<Oid, String> {
    match named(name, &ATTRIBUTES) {
        Some(oid) => Ok(oid),
        None => Err(format!(
            "has the unknown attribute {name:?}; write challengePassword, unstructuredName or a number such as \"1.3.6.1.4.1.34380.1.2.1\""
        )),
    }
}

pub(super) fn extension(name: &str) -> Result<Oid, String> {
    match named(name, &EXTENSIONS) {
        // id-ce, RFC 5280 section 4.2: names are the certificate's to say, and the CA refuses the rest.
        Some(Oid([2, 5, 29, ..])) => Err(format!(
            "has the extension {name:?}, which is X.509's own: names come from the certificate's table, and a Puppet CA refuses the others"
        )),
        Some(oid) => Ok(oid),
        None => Err(format!(
            "has the unknown extension {name:?}; write a name such as pp_role or a number such as \"1.3.6.1.4.1.34380.1.2.1\""
        )),
    }
}

fn named(name: &str, known: &[(&str, &str)]) -> Option<Oid> {
    let number = known.iter().find(|(there, _)| *there == name).map_or(name, |(_, number)| number);
    Oid::parse(number)
}
