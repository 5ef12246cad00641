//! The judge: one row a rejection, and the pair beside it that passes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType,
};

use super::*;
use crate::identity::{Identity, KeyKind, Usage};

/// 2027-01-15T08:00:00Z, so that no row depends on the day it runs.
const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;

/// A self-signed P-256 certificate for CN=node01, 2026 to 2046, signed with ECDSA and SHA-1.
const SHA1: &str = "-----BEGIN CERTIFICATE-----
MIIBcjCCARmgAwIBAgIUEBKZXqPOnI4F7KDIIDHVFVztVgYwCQYHKoZIzj0EATAR
MQ8wDQYDVQQDDAZub2RlMDEwHhcNMjYxMTIzMTQ1NzEwWhcNNDYxMTE4MTQ1NzEw
WjARMQ8wDQYDVQQDDAZub2RlMDEwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARW
XOctMfHOhL4lk5FL6xcfZkHb45ZJu8RNtuS6OjF6jVUOZlXixd65K64mAUt/FNxO
gV7DMkw/Ax4DsUgHTfYuo1AwTjAdBgNVHQ4EFgQUSQSiDwN5jby8O6dgb7WVjHva
eikwHwYDVR0jBBgwFoAUSQSiDwN5jby8O6dgb7WVjHvaeikwDAYDVR0TAQH/BAIw
ADAJBgcqhkjOPQQBA0gAMEUCIQDcrD3Aft32+3mc3p2WoJURfmO55FL7t9B4dJQe
XI71sQIgTCnEM0EPpw9L8WHci7yr4KnzMfXeRgNjLqrVF8Se4uk=
-----END CERTIFICATE-----
";

/// Its key, which is of no use anywhere else.
const SHA1_KEY: &str = "-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIBL+PghRLMGftS+ZJUJn5InYiNV+l9Qmdv8wNC5FDZlLoAoGCCqGSM49
AwEHoUQDQgAEVlznLTHxzoS+JZORS+sXH2ZB2+OWSbvETbbkujoxeo1VDmZV4sXe
uSuuJgFLfxTcToFewzJMPwMeA7FIB032Lg==
-----END EC PRIVATE KEY-----
";

fn at_second(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(second)
}

fn ca(until: u64) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "test CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = at_second(NOW - 100 * DAY).into();
    params.not_after = at_second(until).into();
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn wanted() -> Identity {
    Identity {
        common_name: "node01".to_owned(),
        organization: Some(["nodes".to_owned()].into()),
        dns: ["node01".to_owned()].into(),
        ips: ["10.0.0.11".parse().unwrap()].into(),
        uris: ["spiffe://example/node01".to_owned()].into(),
        usages: [Usage::Server, Usage::Client].into(),
        exact_usages: true,
        key: KeyKind::P256,
        ttl: None,
    }
}

/// What a good CA would sign for [`wanted`].
fn good() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "nodes");
    params.distinguished_name.push(DnType::CommonName, "node01");
    params.subject_alt_names = vec![
        SanType::DnsName("node01".try_into().unwrap()),
        SanType::DnsName("more.example.com".try_into().unwrap()),
        SanType::IpAddress("10.0.0.11".parse().unwrap()),
        SanType::URI("spiffe://example/node01".try_into().unwrap()),
    ];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = at_second(NOW - DAY).into();
    params.not_after = at_second(NOW + 30 * DAY).into();
    params
}

fn anchors(ca: &CertifiedIssuer<'static, KeyPair>) -> Anchors {
    Anchors::new(vec![ca.der().clone()]).unwrap()
}

fn pair(params: &CertificateParams, ca: &CertifiedIssuer<'static, KeyPair>, kind: KeyKind) -> Pair {
    let key = Arc::new(Key::generate(kind).unwrap());
    let leaf = params.signed_by(key.signer(), ca).unwrap().der().clone();
    Pair::new(key, vec![leaf]).unwrap()
}

fn judged(
    change: impl FnOnce(&mut CertificateParams),
    want: impl FnOnce(&mut Identity),
) -> Result<Bundle, Rejected> {
    let (mut params, mut identity, ca) = (good(), wanted(), ca(NOW + 100 * DAY));
    change(&mut params);
    want(&mut identity);
    let pair = pair(&params, &ca, KeyKind::P256);
    Bundle::judge(pair, &identity, &anchors(&ca), at_second(NOW)).map_err(|unfit| unfit.why)
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|&text| text.to_owned()).collect()
}

#[test]
fn a_certificate_as_wanted_passes_and_so_does_one_with_more_names() {
    assert!(judged(|_| {}, |_| {}).is_ok());
    assert!(
        judged(|_| {}, |identity| identity.organization = None).is_ok(),
        "what is not stated is not asked"
    );
}

#[test]
fn each_difference_is_rejected_by_its_own_name() {
    let name = |params: &mut CertificateParams, dn, value: &str| params.distinguished_name.push(dn, value);
    type Change = Box<dyn FnOnce(&mut CertificateParams)>;
    let rows: Vec<(Change, Rejected)> = vec![
        (Box::new(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), Rejected::CaCertificate),
        (Box::new(|p| p.not_after = at_second(NOW - 1).into()), Rejected::Expired(at_second(NOW - 1))),
        (
            Box::new(|p| p.not_before = at_second(NOW + 1).into()),
            Rejected::NotYetValid { from: at_second(NOW + 1), now: at_second(NOW) },
        ),
        (Box::new(|p| p.extended_key_usages.truncate(1)), Rejected::MissingUsage(strings(&["client"]))),
        (Box::new(|p| p.extended_key_usages.clear()), Rejected::MissingUsage(strings(&["client", "server"]))),
        (
            Box::new(|p| p.extended_key_usages.push(ExtendedKeyUsagePurpose::CodeSigning)),
            Rejected::ExtraUsage(strings(&["code signing"])),
        ),
        (
            Box::new(move |p| name(p, DnType::CommonName, "node02")),
            Rejected::CommonName { wanted: "node01".into(), found: "node02".into() },
        ),
        (
            Box::new(move |p| name(p, DnType::CustomDnType(vec![2, 5, 4, 3]), "root")),
            Rejected::CommonName { wanted: "node01".into(), found: "node01, root".into() },
        ),
        (
            Box::new(|p| assert!(p.distinguished_name.remove(DnType::OrganizationName))),
            Rejected::Organization { wanted: strings(&["nodes"]), found: Vec::new() },
        ),
        (
            Box::new(move |p| name(p, DnType::CustomDnType(vec![2, 5, 4, 10]), "system:masters")),
            Rejected::Organization {
                wanted: strings(&["nodes"]),
                found: strings(&["nodes", "system:masters"]),
            },
        ),
        (Box::new(|p| drop(p.subject_alt_names.remove(0))), Rejected::MissingDns(strings(&["node01"]))),
        (Box::new(|p| drop(p.subject_alt_names.remove(2))), Rejected::MissingIp(strings(&["10.0.0.11"]))),
        (
            Box::new(|p| drop(p.subject_alt_names.remove(3))),
            Rejected::MissingUri(strings(&["spiffe://example/node01"])),
        ),
    ];
    for (change, expected) in rows {
        assert_eq!(judged(change, |_| {}).unwrap_err(), expected);
    }
}

#[test]
fn a_stated_absence_is_exact_too() {
    let none = judged(|_| {}, |identity| identity.organization = Some(BTreeSet::new()));
    assert_eq!(none.unwrap_err(), Rejected::Organization { wanted: Vec::new(), found: strings(&["nodes"]) });
    let nameless = judged(|_| {}, |identity| identity.common_name.clear());
    assert_eq!(nameless.unwrap_err(), Rejected::CommonName { wanted: String::new(), found: "node01".into() });
}

#[test]
fn usages_that_were_not_stated_are_a_minimum() {
    let more = |params: &mut CertificateParams| {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::CodeSigning);
    };
    assert!(judged(more, |identity| identity.exact_usages = false).is_ok());
}

#[test]
fn another_key_or_kind_of_key_is_rejected() {
    let ca = ca(NOW + 100 * DAY);
    let other = pair(&good(), &ca, KeyKind::P384);
    let unfit = Bundle::judge(other, &wanted(), &anchors(&ca), at_second(NOW)).unwrap_err();
    assert_eq!(unfit.why, Rejected::KeyKind(KeyKind::P256));

    let leaf = good().signed_by(&KeyPair::generate().unwrap(), &ca).unwrap().der().clone();
    let ours = Arc::new(Key::generate(KeyKind::P256).unwrap());
    assert_eq!(Pair::new(ours, vec![leaf]).unwrap_err(), Rejected::KeyMismatch);
}

#[test]
fn every_kind_of_key_is_known_again_in_its_certificate() {
    let ca = ca(NOW + 100 * DAY);
    for kind in [KeyKind::P256, KeyKind::P384, KeyKind::P521, KeyKind::Ed25519, KeyKind::Rsa2048] {
        let identity = Identity { key: kind, ..wanted() };
        let judged = Bundle::judge(pair(&good(), &ca, kind), &identity, &anchors(&ca), at_second(NOW));
        assert!(judged.is_ok(), "{kind:?}: {}", judged.unwrap_err().why);
    }
}

#[test]
fn an_anchor_of_another_name_or_one_that_ended_does_not_hold() {
    let (own, stranger) = (ca(NOW + 100 * DAY), ca(NOW + 100 * DAY));
    let judge = |anchors: &Anchors| {
        let pair = pair(&good(), &own, KeyKind::P256);
        Bundle::judge(pair, &wanted(), anchors, at_second(NOW)).map_err(|unfit| unfit.why)
    };
    assert!(judge(&anchors(&own)).is_ok());
    assert!(matches!(judge(&anchors(&stranger)), Err(Rejected::Untrusted(_))), "the same name, another key");
    assert!(matches!(judge(&Anchors::default()), Err(Rejected::Untrusted(_))));

    let ended = ca(NOW - DAY);
    let pair = pair(&good(), &ended, KeyKind::P256);
    let unfit = Bundle::judge(pair, &wanted(), &anchors(&ended), at_second(NOW)).unwrap_err();
    assert_eq!(unfit.why, Rejected::AnchorExpired { name: "CN=test CA".into(), when: at_second(NOW - DAY) });
}

#[test]
fn what_is_no_certificate_is_unreadable_and_roots_are_left_off() {
    let ca = ca(NOW + 100 * DAY);
    let key = || Arc::new(Key::generate(KeyKind::P256).unwrap());
    assert!(matches!(Pair::new(key(), Vec::new()), Err(Rejected::Unreadable(_))));
    assert!(matches!(Pair::new(key(), vec![vec![0x30, 0x03, 1, 1, 1].into()]), Err(Rejected::Unreadable(_))));
    assert!(matches!(Pair::parse(key(), "-----BEGIN CERTIFICATE-----\nMII\n"), Err(Rejected::Unreadable(_))));
    let own = key();
    let leaf = good().signed_by(own.signer(), &ca).unwrap().der().clone();
    let chain = vec![leaf.clone(); 17];
    assert!(
        matches!(Pair::new(own.clone(), chain), Err(Rejected::Unreadable(_))),
        "longer than any real chain"
    );
    assert_eq!(Pair::new(own, vec![leaf, ca.der().clone()]).unwrap().chain().len(), 1);
}

#[test]
fn a_hash_that_can_be_forged_is_rejected() {
    let pair = Pair::parse(Arc::new(Key::parse(SHA1_KEY).unwrap()), SHA1).unwrap();
    let unfit = Bundle::judge(pair, &wanted(), &anchors(&ca(NOW + 100 * DAY)), at_second(NOW)).unwrap_err();
    assert_eq!(unfit.why, Rejected::WeakSignature("SHA-1 with ECDSA".to_owned()));
}

#[test]
fn an_intermediate_bears_only_the_usages_that_it_lists() {
    let root = ca(NOW + 100 * DAY);
    let judge = |listed: &[ExtendedKeyUsagePurpose]| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "test intermediate");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.extended_key_usages = listed.to_vec();
        let below = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &root).unwrap();
        let key = Arc::new(Key::generate(KeyKind::P256).unwrap());
        let leaf = good().signed_by(key.signer(), &below).unwrap().der().clone();
        let pair = Pair::new(key, vec![leaf, below.der().clone()]).unwrap();
        Bundle::judge(pair, &wanted(), &anchors(&root), at_second(NOW)).map_err(|unfit| unfit.why)
    };
    let [server, client] = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    assert!(judge(&[]).is_ok(), "none listed serves any");
    assert!(judge(&[server.clone(), client.clone()]).is_ok());
    for one in [server, client] {
        assert!(matches!(judge(std::slice::from_ref(&one)), Err(Rejected::Untrusted(_))), "{one:?} alone");
    }
}
