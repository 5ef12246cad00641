//! The verdicts: one row a reason, and beside each the last that has not come to it.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use rstest::rstest;

use super::*;
use crate::certificate::Settings;
use crate::key::Key;
use crate::setting::{Name, Scope};

/// 2027-01-15T08:00:00Z, so that no row depends on the day it runs.
const NOW: u64 = 1_800_000_000;
const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;
/// What the certificate of these rows lives from and until: thirty days, due after twenty.
const FROM: u64 = NOW - 10 * DAY;
const UNTIL: u64 = NOW + 20 * DAY;
const DUE: u64 = FROM + 20 * DAY;
/// Of a host whose place is 0.4: a period is 1,671,168 seconds, 102 times 2^14.
const TURN: u64 = 1_800_516_403;

/// A host that holds what it is to hold; a row changes one thing.
struct Setup {
    held: fn(Pair) -> Held,
    params: CertificateParams,
    certificate: Certificate,
    anchors: Option<Signer>,
    listed: bool,
    given_up: bool,
    cloned: bool,
    forced: bool,
    settles: Option<u64>,
    now: u64,
}

#[derive(PartialEq)]
enum Signer {
    Own,
    Stranger,
}

fn second(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(second)
}

fn setup() -> Setup {
    let settings: Settings = toml::from_str(
        r#"
        ca = "lab"
        common_name = "node01"
        organization = ["nodes"]
        dns = ["node01"]
        ips = ["10.0.0.11"]
        usages = ["server", "client"]
        renew_at = 0.6666666666666667
        directory = "/etc/web/pki"
        "#,
    )
    .unwrap();
    let certificate = settings.expand(&Name::new("web").unwrap(), 0..0, &Scope::default()).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "nodes");
    params.distinguished_name.push(DnType::CommonName, "node01");
    params.subject_alt_names = vec![
        SanType::DnsName("node01".try_into().unwrap()),
        SanType::DnsName("more.example.com".try_into().unwrap()),
        SanType::IpAddress("10.0.0.11".parse().unwrap()),
    ];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.serial_number = Some(SerialNumber::from(7u64));
    (params.not_before, params.not_after) = (second(FROM).into(), second(UNTIL).into());
    Setup {
        held: Held::Pair,
        params,
        certificate: Certificate { place_in_turn: None, ..certificate },
        anchors: Some(Signer::Own),
        listed: false,
        given_up: false,
        cloned: false,
        forced: false,
        settles: None,
        now: NOW,
    }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "test CA");
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = (second(FROM - DAY).into(), second(UNTIL + DAY).into());
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A list of the CA that names serial number 7, or 8.
fn list(ca: &CertifiedIssuer<'static, KeyPair>, serial: u64) -> String {
    let revoked = RevokedCertParams {
        serial_number: SerialNumber::from(serial),
        revocation_time: second(NOW - DAY).into(),
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: second(NOW - DAY).into(),
        next_update: second(NOW + DAY).into(),
        crl_number: SerialNumber::from(1u64),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(ca).unwrap().pem().unwrap()
}

impl Setup {
    fn decide(&self) -> Verdict {
        let (own, stranger) = (authority(), authority());
        let key = Arc::new(Key::generate(crate::identity::KeyKind::P256).unwrap());
        let leaf = self.params.signed_by(key.signer(), &own).unwrap().der().clone();
        let pair = Pair::new(key, vec![leaf]).unwrap();
        let signer = if self.anchors == Some(Signer::Stranger) { &stranger } else { &own };
        let anchors = Anchors::new(vec![signer.der().clone()]).unwrap();
        let print = if self.given_up { pair.leaf().fingerprint.to_string() } else { "another".to_owned() };
        let lists = list(&own, if self.listed { 7 } else { 8 });
        let known = Known {
            anchors: self.anchors.is_some().then_some(&anchors),
            crl: Some(&lists),
            given_up: Some(&print),
            cloned: self.cloned,
            forced: self.forced,
            settles: self.settles.map(second),
            now: second(self.now),
        };
        decide(&self.certificate, (self.held)(pair), &known)
    }
}

fn said(verdict: &Verdict) -> (&'static str, String) {
    (verdict.state(), verdict.reason().map(Reason::to_string).unwrap_or_default())
}

fn nothing(_: &mut Setup) {}

/// Beyond: the change, the state and words of the reason. This side of it: the change, and the state.
#[rstest]
#[case::absent(|s: &mut Setup| s.held = |_| Held::Absent, "missing", "absent", nothing, "valid")]
#[case::damaged(|s: &mut Setup| s.held = |_| Held::Damaged("cut".into()), "damaged", "cut", nothing, "valid")]
#[case::mixed(|s: &mut Setup| s.held = |_| Held::Mixed("not its key".into()), "mismatched", "not its key", nothing, "valid")]
#[case::cloned(|s: &mut Setup| s.cloned = true, "mismatched", "another machine", nothing, "valid")]
#[case::anchors(|s: &mut Setup| s.anchors = None, "untrusted", "not known yet", nothing, "valid")]
#[case::key_kind(|s: &mut Setup| s.certificate.identity.key = crate::identity::KeyKind::P384, "mismatched", "P384", nothing, "valid")]
#[case::usage(|s: &mut Setup| drop(s.params.extended_key_usages.pop()), "mismatched", "usage client",
    |s: &mut Setup| { s.params.extended_key_usages.pop(); s.certificate.identity.usages.remove(&crate::identity::Usage::Client); }, "valid")]
#[case::extra_usage(|s: &mut Setup| s.params.extended_key_usages.push(ExtendedKeyUsagePurpose::CodeSigning), "mismatched", "code signing",
    |s: &mut Setup| { s.params.extended_key_usages.push(ExtendedKeyUsagePurpose::CodeSigning); s.certificate.identity.exact_usages = false; }, "valid")]
#[case::organization(|s: &mut Setup| s.certificate.identity.organization = Some(["more".into(), "nodes".into()].into()), "mismatched", "organization",
    |s: &mut Setup| s.certificate.identity.organization = None, "valid")]
#[case::common_name(|s: &mut Setup| s.certificate.identity.common_name = "node02".into(), "mismatched", "common name is \"node01\"", nothing, "valid")]
#[case::dns(|s: &mut Setup| { s.certificate.identity.dns.insert("new".into()); }, "mismatched", "DNS name new",
    |s: &mut Setup| { s.certificate.identity.dns.insert("more.example.com".into()); }, "valid")]
#[case::address(|s: &mut Setup| { s.certificate.identity.ips.insert("10.0.0.12".parse().unwrap()); }, "mismatched", "address 10.0.0.12",
    |s: &mut Setup| s.certificate.identity.ips.clear(), "valid")]
#[case::settling(|s: &mut Setup| { s.certificate.identity.dns.insert("new".into()); s.settles = Some(NOW + 60); }, "mismatched", "waits until 2027-01-15T08:01:00Z",
    |s: &mut Setup| s.settles = Some(NOW + 60), "valid")]
#[case::untrusted(|s: &mut Setup| s.anchors = Some(Signer::Stranger), "untrusted", "does not lead to a trusted CA", nothing, "valid")]
#[case::listed_as_revoked(|s: &mut Setup| s.listed = true, "revoked", "revoked it", nothing, "valid")]
#[case::given_up(|s: &mut Setup| s.given_up = true, "revoked", "revoked it", nothing, "valid")]
#[case::expired(|s: &mut Setup| s.now = UNTIL, "expired", "it expired", |s: &mut Setup| s.now = UNTIL - 1, "due")]
#[case::not_yet_valid(|s: &mut Setup| s.now = FROM - 1, "not_yet_valid", "this host's clock says 2027-01-05T07:59:59Z", |s: &mut Setup| s.now = FROM, "valid")]
#[case::due(|s: &mut Setup| s.now = DUE, "due", "due since 2027-01-25T08:00:00Z", |s: &mut Setup| s.now = DUE - 1, "valid")]
#[case::its_turn(|s: &mut Setup| { s.certificate.place_in_turn = Some(0.4); s.now = TURN; }, "due", "due since",
    |s: &mut Setup| { s.certificate.place_in_turn = Some(0.4); s.now = TURN - 1; }, "valid")]
#[case::two_runs_left(|s: &mut Setup| { s.certificate.interval = Duration::from_secs(7 * DAY); s.now = UNTIL - 14 * DAY; }, "due", "due since",
    |s: &mut Setup| { s.certificate.interval = Duration::from_secs(7 * DAY); s.now = UNTIL - 14 * DAY - 1; }, "valid")]
#[case::forced(|s: &mut Setup| s.forced = true, "valid", "forced", nothing, "valid")]
fn each_reason_has_its_verdict_and_this_side_of_it_there_is_none(
    #[case] beyond: fn(&mut Setup),
    #[case] state: &str,
    #[case] words: &str,
    #[case] this_side: fn(&mut Setup),
    #[case] other: &str,
) {
    let (mut there, mut here) = (setup(), setup());
    beyond(&mut there);
    this_side(&mut here);
    let verdict = there.decide();
    let (found, why) = said(&verdict);
    assert!(found == state && why.contains(words), "{found}: {why}");
    let (found, why) = said(&here.decide());
    assert!(found == other && !why.contains(words), "{found}: {why}");
}

#[test]
fn of_several_reasons_the_first_in_the_order_is_given() {
    type Mend = fn(&mut Setup);
    let mends: [(&str, Mend); 10] = [
        ("absent", |s| s.held = |_| Held::Damaged("cut".into())),
        ("cut", |s| s.held = Held::Pair),
        ("another machine", |s| s.cloned = false),
        ("revoked", |s| s.given_up = false),
        ("P384", |s| s.certificate.identity.key = crate::identity::KeyKind::P256),
        ("organization", |s| s.certificate.identity.organization = None),
        ("DNS name new", |s| {
            s.certificate.identity.dns.remove("new");
        }),
        ("trusted CA", |s| s.anchors = Some(Signer::Own)),
        ("expired", |s| s.now = UNTIL - 1),
        ("due since", |s| s.now = NOW),
    ];
    let mut all = setup();
    (all.held, all.cloned, all.given_up, all.forced, all.now) = (|_| Held::Absent, true, true, true, UNTIL);
    all.anchors = Some(Signer::Stranger);
    all.certificate.identity.key = crate::identity::KeyKind::P384;
    all.certificate.identity.organization = Some(["more".into()].into());
    all.certificate.identity.dns.insert("new".into());
    for (words, mend) in mends {
        let (_, why) = said(&all.decide());
        assert!(why.contains(words), "{why}, not {words}");
        mend(&mut all);
    }
    assert_eq!(said(&all.decide()).1, "forced");
}

#[test]
fn what_lacks_a_name_alone_is_usable_and_can_still_be_shown_to_a_ca() {
    let verdict = |change: fn(&mut Setup)| {
        let mut setup = setup();
        setup.certificate.identity.dns.insert("new".into());
        change(&mut setup);
        let verdict = setup.decide();
        (verdict.is_usable(), verdict.credential().is_some(), verdict.is_to_get(true))
    };
    assert_eq!(verdict(|_| {}), (true, true, true));
    assert_eq!(verdict(|s| s.settles = Some(NOW + 1)), (true, true, false), "it waits");
    assert_eq!(verdict(|s| (s.settles, s.now) = (Some(UNTIL), DUE)), (true, true, true), "it is due anyway");
    assert_eq!(verdict(|s| (s.settles, s.forced) = (Some(UNTIL), true)), (true, true, true), "forced");
    assert_eq!(verdict(|s| s.certificate.identity.common_name = "other".into()), (false, true, true));
    let renamed = |s: &mut Setup| {
        s.certificate.identity.common_name = "other".into();
        s.settles = Some(NOW + 1);
    };
    assert_eq!(verdict(renamed), (false, true, true), "what cannot be used does not wait");
    assert_eq!(verdict(|s| s.now = UNTIL), (false, false, true), "it has ended");
    assert_eq!(verdict(|s| s.given_up = true), (false, false, true), "it is revoked");
    assert_eq!(verdict(|s| s.anchors = Some(Signer::Stranger)), (false, false, true));
}

#[test]
fn a_lifetime_that_is_nearly_two_runs_is_not_due_at_once_and_is_after_a_third() {
    let mut short = setup();
    short.certificate.interval = Duration::from_secs(HOUR);
    (short.params.not_before, short.params.not_after) =
        (second(NOW).into(), second(NOW + HOUR + HOUR / 2).into());
    for (now, state) in [(NOW, "valid"), (NOW + HOUR / 2 - 1, "valid"), (NOW + HOUR / 2, "due")] {
        short.now = now;
        assert_eq!(short.decide().state(), state);
    }
}

#[test]
fn a_fleet_that_was_issued_together_is_not_due_together_and_a_host_is_always_due_at_the_same_time() {
    let settings: Settings =
        toml::from_str("ca = \"lab\"\ncommon_name = \"etcd\"\ndirectory = \"/etc/web/pki\"\n").unwrap();
    let place = |nth: usize, name: &str| {
        let scope = Scope([("fqdn", format!("node{nth:02}.example.com").into())].into());
        settings.expand(&Name::new(name).unwrap(), 0..0, &scope).unwrap().place_in_turn.unwrap()
    };
    let mut fleet: Vec<_> = (0..50).map(|nth| place(nth, "web")).collect();
    assert_eq!(fleet, (0..50).map(|nth| place(nth, "web")).collect::<Vec<_>>());
    assert!(place(0, "web") != place(0, "other"), "nor are the certificates of a host");
    fleet.sort_by(f64::total_cmp);
    assert!((0.0..0.1).contains(&fleet[0]) && (0.9..=1.0).contains(&fleet[49]), "{fleet:?}");
    assert!(fleet.windows(2).all(|pair| pair[0] < pair[1] && pair[1] - pair[0] < 0.2), "{fleet:?}");
}
