//! CAs against the fake: what a run meets on the wire, short of the run itself.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod fake;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use fake::{Fake, Fault, JWT, MOUNT, Proxy, ROLE, ROLE_ID, SECRET_ID, TOKEN};
use nodecert::bundle::{Bundle, Pair};
use nodecert::ca::{Backoff, Ca, CaError, Deadline, Issued, Lack, Material, Request, Settings, Table, local};
use nodecert::clock::Clock;
use nodecert::identity::{Identity, KeyKind, Usage};
use nodecert::key::{Key, Pending};
use nodecert::setting::{Name, Secret};
use nodecert::trust::{Anchors, Pin};

fn name() -> Name {
    Name::new("etcd").unwrap()
}

fn identity() -> Identity {
    Identity {
        common_name: "node01".into(),
        organization: Some(["etcd".to_owned()].into()),
        dns: ["node01".to_owned(), "node01.example.com".to_owned()].into(),
        ips: ["10.0.0.11".parse().unwrap()].into(),
        uris: BTreeSet::new(),
        usages: [Usage::Server, Usage::Client].into(),
        exact_usages: true,
        key: KeyKind::P256,
        ttl: Some(Duration::from_secs(86_400)),
    }
}

fn settings(text: &str) -> Result<Settings, Vec<String>> {
    let table: Table = toml::from_str(text).map_err(|e| vec![e.to_string()])?;
    table.settings(&name(), 0..1).map_err(|faults| faults.into_iter().map(|f| f.message).collect())
}

/// A configuration for these URLs, with a way of trust and a way to log in.
fn configured(urls: &[&str], tls: &str, auth: &str) -> Settings {
    let text = format!(
        "tls.{tls}\nanchors.published = true\n[vault]\nurls = {urls:?}\nmount = \"{MOUNT}\"\nrole = \"{ROLE}\"\nauth = [{auth}]\n"
    );
    settings(&text).expect("a good configuration")
}

const FILE: &str = "file = \"/ca.pem\"";
const GIVEN: &str = "{ token = \"x\" }";

fn approle(wrapped: bool) -> String {
    format!("{{ approle = {{ role_id = \"{ROLE_ID}\", secret_id = \"x\", wrapped = {wrapped} }} }}")
}

fn material(fake: &Fake, secrets: &[&str]) -> Material {
    Material {
        tls: Some(Anchors::parse(fake.tls_pem().as_bytes()).unwrap()),
        secrets: secrets.iter().map(|secret| Ok(Secret::new(secret))).collect(),
        ..Material::default()
    }
}

fn open(settings: &Settings, material: Material) -> Ca {
    opened_at(settings, material, &Clock::system(), Duration::from_secs(5))
}

fn opened_at(settings: &Settings, material: Material, clock: &Clock, patience: Duration) -> Ca {
    Ca::open(&name(), settings, material, clock, Deadline::after(patience)).expect("it opens")
}

fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

struct Asked {
    pending: Pending,
    identity: Identity,
}

impl Asked {
    fn new() -> Self {
        let (identity, key) = (identity(), Arc::new(Key::generate(KeyKind::P256).unwrap()));
        let pending = Pending::new(key, &identity, &nodecert::key::Dialect::default()).unwrap();
        Self { pending, identity }
    }

    async fn of(&self, ca: &Ca) -> Result<Issued, Arc<CaError>> {
        self.with_role(ca, None).await
    }

    async fn with_role(&self, ca: &Ca, role: Option<&str>) -> Result<Issued, Arc<CaError>> {
        let certificate = Name::new("etcd-server").unwrap();
        let request = Request {
            name: &certificate,
            csr: &self.pending.csr,
            identity: &self.identity,
            role,
            held: None,
        };
        ca.obtain(&request).await
    }

    fn judge(&self, issued: Issued, anchors: &str) -> Bundle {
        let pair = Pair::new(self.pending.key.clone(), issued.chain).unwrap();
        let anchors = Anchors::parse(anchors.as_bytes()).unwrap();
        Bundle::judge(pair, &self.identity, &anchors, SystemTime::now()).map_err(|unfit| unfit.why).unwrap()
    }
}

fn refused(result: Result<Issued, Arc<CaError>>) -> (bool, String) {
    let error = result.map(|_| ()).expect_err("it must fail");
    (error.is_temporary(), error.to_string())
}

#[test]
fn a_certificate_is_obtained_over_one_connection_and_one_login_and_the_token_is_given_back() {
    let fake = Fake::start();
    let ca = open(&configured(&[&fake.url], FILE, &approle(false)), material(&fake, &[SECRET_ID]));
    let (one, two) = (Asked::new(), Asked::new());
    block(async {
        let (first, second) = futures_util::future::join(one.of(&ca), two.of(&ca)).await;
        let bundle = one.judge(first.unwrap(), &fake.anchors_pem());
        assert_eq!(bundle.pair().chain().len(), 2, "leaf and intermediate, no root");
        two.judge(second.unwrap(), &fake.anchors_pem());
        assert_eq!(fake.tokens(), 1);
        ca.close().await;
    });
    let sign = format!("POST /v1/{MOUNT}/sign/{ROLE}");
    assert_eq!(
        fake.asked(),
        ["POST /v1/auth/approle/login", &sign, &sign, "POST /v1/auth/token/revoke-self"]
    );
    assert_eq!((fake.tokens(), fake.connections()), (0, 1));
    let body = &fake.seen()[1].body;
    assert_eq!((body["ttl"].as_str(), body["common_name"].as_str()), (Some("86400s"), Some("node01")));
}

#[test]
fn a_proxy_is_used_where_the_configuration_names_one() {
    let (fake, proxy) = (Fake::start(), Proxy::start());
    let text = format!(
        "tls.{FILE}\nanchors.published = true\nproxy = \"{}\"\n[vault]\nurls = [\"{}\"]\nmount = \"{MOUNT}\"\nrole = \"{ROLE}\"\nauth = [{GIVEN}]",
        proxy.url, fake.url
    );
    block(Asked::new().of(&open(&settings(&text).unwrap(), material(&fake, &[TOKEN])))).unwrap();
    assert_eq!(proxy.connects(), [fake.url.trim_start_matches("https://")]);
    block(Asked::new().of(&open(&configured(&[&fake.url], FILE, GIVEN), material(&fake, &[TOKEN])))).unwrap();
    assert_eq!((proxy.connects().len(), fake.connections()), (1, 2));
}

#[test]
fn a_given_token_is_not_revoked_and_the_namespace_goes_with_every_request() {
    let fake = Fake::start();
    let text = format!(
        "tls.{FILE}\nanchors.published = true\n[vault]\nurls = [\"{}/\"]\nmount = \"/{MOUNT}/\"\nnamespace = \"team-a\"\nauth = [{GIVEN}]",
        fake.url
    );
    let ca = open(&settings(&text).unwrap(), material(&fake, &[TOKEN]));
    block(async {
        Asked::new().with_role(&ca, Some(ROLE)).await.unwrap();
        ca.close().await;
    });
    assert_eq!(fake.asked(), [format!("POST /v1/{MOUNT}/sign/{ROLE}")]);
    assert!(fake.seen().iter().all(|seen| seen.namespace.as_deref() == Some("team-a")));
}

#[test]
fn verbatim_says_the_usages_and_needs_no_role() {
    let fake = Fake::start();
    let text = format!(
        "tls.{FILE}\nanchors.published = true\n[vault]\nurls = [\"{}\"]\nmount = \"{MOUNT}\"\nendpoint = \"sign-verbatim\"\nauth = [{GIVEN}]",
        fake.url
    );
    let (settings, asked) = (settings(&text).unwrap(), Asked::new());
    settings.admits(&asked.identity, None).unwrap();
    let ca = open(&settings, material(&fake, &[TOKEN]));
    let issued = block(asked.of(&ca)).unwrap();
    asked.judge(issued, &fake.anchors_pem());
    let body = fake.seen()[0].body.clone();
    assert_eq!(fake.seen()[0].path, format!("/v1/{MOUNT}/sign-verbatim"));
    assert_eq!(body["ext_key_usage"], serde_json::json!(["ServerAuth", "ClientAuth"]));
}

#[test]
fn what_is_down_sealed_or_standing_by_is_passed_over_and_what_answered_is_kept_to() {
    let (sealed, standby, good) = (Fake::start(), Fake::start(), Fake::start());
    sealed.misbehave("", Fault::Status(503, None, "Vault is sealed"), usize::MAX);
    standby.misbehave("", Fault::Redirect(good.url.clone()), usize::MAX);
    let urls = [closed_port(), sealed.url.clone(), standby.url.clone(), good.url.clone()];
    let urls: Vec<_> = urls.iter().map(String::as_str).collect();
    let all = [&sealed, &standby, &good].map(Fake::tls_pem).concat();
    let material =
        Material { tls: Some(Anchors::parse(all.as_bytes()).unwrap()), ..material(&good, &[SECRET_ID]) };
    let ca = open(&configured(&urls, FILE, &approle(false)), material);
    block(Asked::new().of(&ca)).unwrap();
    assert_eq!((sealed.asked().len(), standby.asked().len(), good.asked().len()), (1, 1, 2));
}

/// A URL where nobody listens: the port was free a moment ago.
fn closed_port() -> String {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("https://127.0.0.1:{port}")
}

#[test]
fn a_ca_that_comes_back_before_the_deadline_is_asked_again() {
    let fake = Fake::start();
    fake.misbehave("/sign/", Fault::Status(503, None, "Vault is sealed"), 2);
    fake.misbehave("/login", Fault::HalfClosed, 1);
    let ca = open(&configured(&[&fake.url], FILE, &approle(false)), material(&fake, &[SECRET_ID]));
    block(Asked::new().of(&ca)).unwrap();
    assert_eq!(fake.asked().len(), 5);
}

#[test]
fn retry_after_is_honoured_and_what_does_not_fit_is_not_waited_for() {
    for code in [429, 503] {
        let fake = Fake::start();
        fake.misbehave("/sign/", Fault::Status(code, Some("1".into()), "slow down"), 1);
        let ca = open(&configured(&[&fake.url], FILE, GIVEN), material(&fake, &[TOKEN]));
        block(Asked::new().of(&ca)).unwrap();
        let seen = fake.seen();
        assert_eq!(seen.len(), 2);
        assert!(seen[1].at - seen[0].at >= Duration::from_secs(1), "{code}");
    }
    let fake = Fake::start();
    fake.misbehave("/sign/", Fault::Status(503, Some("3600".into()), "maintenance"), usize::MAX);
    let ca = open(&configured(&[&fake.url], FILE, GIVEN), material(&fake, &[TOKEN]));
    let begun = Instant::now();
    let (temporary, said) = refused(block(Asked::new().of(&ca)));
    assert!(temporary && said.contains("503 maintenance"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(2) && fake.asked().len() == 1);
}

#[test]
fn backoff_grows_honours_the_server_and_ends_at_the_deadline() {
    let (most, least) = (u64::MAX, 0);
    let seconds = Duration::from_secs_f64;
    let mut backoff = Backoff::default();
    let waits: Vec<_> =
        (0..40).map(|_| backoff.next(None, seconds(6000.0), most).unwrap().as_secs_f64()).collect();
    assert_eq!(waits[..8], [0.5, 1.0, 2.0, 4.0, 6.0, 6.0, 6.0, 6.0]);
    // A fifth of what was waited, and half a minute at most.
    let waited: f64 = waits[..12].iter().sum();
    assert!((waits[12] - waited / 5.0).abs() < 1e-6 && waits[39] == 30.0, "{waits:?}");
    for (after, left, entropy, wait) in [
        (None, 60.0, least, Some(0.0)),
        (None, 60.0, most, Some(0.5)),
        (None, 0.4, most, Some(0.1)),
        (None, 0.3, most, None),
        (None, 0.0, least, None),
        (Some(10.0), 60.0, least, Some(10.0)),
        (Some(10.0), 60.0, most, Some(10.5)),
        (Some(10.0), 10.5, most, Some(10.2)),
        (Some(10.0), 10.3, most, None),
        (Some(10.0), 5.0, least, None),
    ] {
        let next = Backoff::default().next(after.map(seconds), seconds(left), entropy);
        let near = |wait: Duration, meant: f64| (wait.as_secs_f64() - meant).abs() < 1e-6;
        assert!(
            match (next, wait) {
                (Some(next), Some(wait)) => near(next, wait),
                (next, wait) => next.is_none() && wait.is_none(),
            },
            "after {after:?}, left {left}: {next:?}, not {wait:?}"
        );
    }
}

#[test]
fn a_redirect_is_refused_and_the_token_goes_nowhere_else() {
    let (fake, elsewhere) = (Fake::start(), Fake::start());
    fake.misbehave("/sign/", Fault::Redirect(format!("{}/v1/x", elsewhere.url)), usize::MAX);
    let ca = open(&configured(&[&fake.url], FILE, GIVEN), material(&fake, &[TOKEN]));
    let (temporary, said) = refused(block(Asked::new().of(&ca)));
    assert!(!temporary && said.contains("redirect") && said.contains(&elsewhere.url), "{said}");
    assert!(!said.contains(TOKEN));
    assert_eq!((fake.asked().len(), elsewhere.connections()), (1, 0));
}

#[test]
fn refusals_are_final_and_say_what_to_do() {
    for (code, error, word) in [
        (400, "unknown role: member", "bao list etcd/prod/pki/roles"),
        (400, "common name node01 not allowed by this role", "allowed_domains"),
        (400, "role requires keys of type rsa", "key_type"),
        (401, "who", "auth"),
        (403, "permission denied", "expired"),
        (403, "1 error occurred:\n\t* permission denied\n\n", "on etcd/prod/pki/sign/member"),
        (404, "no handler", "`mount`"),
    ] {
        let fake = Fake::start();
        fake.misbehave("/sign/", Fault::Status(code, None, error), usize::MAX);
        let ca = open(&configured(&[&fake.url], FILE, GIVEN), material(&fake, &[TOKEN]));
        let (temporary, said) = refused(block(Asked::new().of(&ca)));
        assert!(!temporary && said.contains(word) && said.contains(&code.to_string()), "{said}");
        assert!(!said.contains('\n'), "{said}");
        assert_eq!(fake.asked().len(), 1);
    }
}

#[test]
fn bad_answers_are_named_and_not_asked_for_again() {
    for (fault, word) in [
        (Fault::Html200, "Please log in"),
        (Fault::Empty204, "no issuer"),
        (Fault::TruncatedPem, "damaged"),
        (Fault::NotPem, "no PEM"),
        (Fault::HugeBody, "1048576"),
        (Fault::EndlessBody, "1048576"),
    ] {
        let fake = Fake::start();
        fake.misbehave("/sign/", fault.clone(), usize::MAX);
        let ca = open(&configured(&[&fake.url], FILE, GIVEN), material(&fake, &[TOKEN]));
        let (temporary, said) = refused(block(Asked::new().of(&ca)));
        assert!(!temporary && said.contains(word), "{fault:?}: {said}");
        assert_eq!(fake.asked().len(), 1, "{fault:?}");
    }
}

#[test]
fn an_answer_of_another_shape_is_not_shown_for_it_may_hold_a_secret() {
    let fake = Fake::start();
    for path in ["/login", "wrapping/lookup", "wrapping/unwrap", "/sign/"] {
        fake.behave();
        fake.misbehave(path, Fault::Status(200, None, "s.hidden"), usize::MAX);
        let wrapping = fake.wrap("auth/approle/role/member/secret-id");
        let material = Material { keep: Box::new(|_| Ok(())), ..material(&fake, &[&wrapping]) };
        let ca = open(&configured(&[&fake.url], FILE, &approle(true)), material);
        let (temporary, said) = refused(block(Asked::new().of(&ca)));
        assert!(!temporary && said.contains("JSON") && !said.contains("s.hidden"), "{path}: {said}");
    }
}

#[test]
fn silence_is_waited_out_until_the_deadline_and_leaves_others_their_share() {
    let (silent, good) = (Fake::start(), Fake::start());
    for fault in [Fault::Hang, Fault::HalfClosed, Fault::Dropped] {
        silent.behave();
        silent.misbehave("/sign/", fault.clone(), usize::MAX);
        let settings = configured(&[&silent.url], FILE, GIVEN);
        let (begun, patience) = (Instant::now(), Duration::from_secs(1));
        let ca = opened_at(&settings, material(&silent, &[TOKEN]), &Clock::system(), patience);
        let (temporary, said) = refused(block(Asked::new().of(&ca)));
        assert!(temporary && said.contains(&silent.url), "{said}");
        assert!(begun.elapsed() < Duration::from_secs(3), "{fault:?}");
    }
    silent.behave();
    silent.misbehave("", Fault::Hang, usize::MAX);
    let both = [&silent, &good].map(Fake::tls_pem).concat();
    let material =
        Material { tls: Some(Anchors::parse(both.as_bytes()).unwrap()), ..material(&good, &[TOKEN]) };
    let settings = configured(&[&silent.url, &good.url], FILE, GIVEN);
    block(Asked::new().of(&opened_at(&settings, material, &Clock::system(), Duration::from_secs(2))))
        .unwrap();
}

#[test]
fn a_pin_is_any_certificate_that_the_server_sends() {
    let fake = Fake::start();
    let pinned = |pin: Pin| {
        let settings = configured(&[&fake.url], &format!("pins = [\"{pin}\"]"), GIVEN);
        block(Asked::new().of(&open(&settings, Material { tls: None, ..material(&fake, &[TOKEN]) })))
    };
    for der in fake.presented() {
        pinned(Pin::of(&der)).unwrap();
    }
    let (temporary, said) = refused(pinned(Pin::of(&fake.tls_root())));
    let shown = Pin::of(&fake.presented()[1]).to_string();
    assert!(!temporary && said.contains("tls.pins") && said.contains(&shown), "{said}");
}

#[test]
fn a_pin_does_not_excuse_a_wrong_name() {
    let fake = Fake::start_on("127.0.0.2");
    for der in fake.presented() {
        let settings = configured(&[&fake.url], &format!("pins = [\"{}\"]", Pin::of(&der)), GIVEN);
        let (temporary, said) = refused(block(Asked::new().of(&open(&settings, material(&fake, &[TOKEN])))));
        assert!(!temporary && said.contains("127.0.0.2") && said.contains("127.0.0.1"), "{said}");
    }
}

#[test]
fn a_server_of_another_ca_is_refused_at_once_with_what_it_presents() {
    let (fake, stranger) = (Fake::start(), Fake::start());
    let ca = open(&configured(&[&fake.url], FILE, GIVEN), material(&stranger, &[TOKEN]));
    let (temporary, said) = refused(block(Asked::new().of(&ca)));
    assert!(!temporary && said.contains("tls.file") && said.contains("sha256:"), "{said}");
    assert_eq!(fake.asked(), [""; 0]);
}

#[test]
fn a_tls_failure_that_time_explains_is_a_clock_fault() {
    let fake = Fake::start();
    let day = Duration::from_secs(86_400);
    let leaf = Pin::of(&fake.presented()[0]);
    let issuing = Pin::of(&fake.presented()[1]);
    let ways = [FILE.to_owned(), format!("pins = [\"{leaf}\"]"), format!("pins = [\"{issuing}\"]")];
    for tls in ways {
        let settings = configured(&[&fake.url], &tls, GIVEN);
        for (now, word) in [
            (SystemTime::UNIX_EPOCH + day, "valid only from"),
            (SystemTime::now() + 100 * day, "expired"),
            (SystemTime::now() + 5000 * day, "expired"),
        ] {
            let clock = Clock::new(move || now);
            let ca = opened_at(&settings, material(&fake, &[TOKEN]), &clock, Duration::from_millis(600));
            let error = block(Asked::new().of(&ca)).map(|_| ()).expect_err("the clock is wrong");
            assert!(matches!(*error, CaError::Clock { .. }) && error.is_temporary(), "{error}");
            let said = error.to_string();
            assert!(said.contains(word) && said.contains("clock"), "{said}");
        }
    }
}

#[test]
fn a_wrapped_secret_is_kept_before_it_is_used() {
    let fake = Fake::start();
    let wrapping = fake.wrap("auth/approle/role/member/secret-id");
    let kept = Rc::new(RefCell::new(Vec::new()));
    let log = kept.clone();
    let material = Material {
        keep: Box::new(move |secret| {
            log.borrow_mut().push(secret.expose().to_owned());
            Ok(())
        }),
        ..material(&fake, &[&wrapping])
    };
    let settings = configured(&[&fake.url], FILE, &approle(true));
    assert!(settings.wrapped().is_some());
    block(Asked::new().of(&open(&settings, material))).unwrap();
    let used = fake.seen()[2].body["secret_id"].as_str().unwrap().to_owned();
    assert_eq!(*kept.borrow(), std::slice::from_ref(&used));
    assert_eq!(
        fake.asked()[..3],
        ["POST /v1/sys/wrapping/lookup", "POST /v1/sys/wrapping/unwrap", "POST /v1/auth/approle/login"]
    );

    // The next run finds it stored and leaves the spent wrapping token alone.
    fake.forget();
    let again = Material { stored: Some(Secret::new(&used)), ..self::material(&fake, &[&wrapping]) };
    block(Asked::new().of(&open(&settings, again))).unwrap();
    assert_eq!(fake.asked()[0], "POST /v1/auth/approle/login");
    assert_eq!(fake.asked().len(), 2);
}

#[test]
fn what_cannot_be_kept_is_not_used() {
    let fake = Fake::start();
    let wrapping = fake.wrap("auth/approle/role/member/secret-id");
    let material = Material {
        keep: Box::new(|_| Err("No space left on device".to_owned())),
        ..material(&fake, &[&wrapping])
    };
    let ca = open(&configured(&[&fake.url], FILE, &approle(true)), material);
    let error = block(Asked::new().of(&ca)).map(|_| ()).expect_err("it cannot be kept");
    let said = error.to_string();
    assert!(
        error.is_fault() && said.contains("No space left") && said.contains("bao write -wrap-ttl"),
        "{said}"
    );
    assert!(!fake.asked().iter().any(|asked| asked.contains("login")));
}

#[test]
fn a_stored_secret_that_is_refused_gives_way_to_a_new_wrapping() {
    let fake = Fake::start();
    let wrapping = fake.wrap("auth/approle/role/member/secret-id");
    let material = Material {
        stored: Some(Secret::new("revoked")),
        keep: Box::new(|_| Ok(())),
        ..material(&fake, &[&wrapping])
    };
    block(Asked::new().of(&open(&configured(&[&fake.url], FILE, &approle(true)), material))).unwrap();
    assert_eq!(fake.asked().len(), 5);
}

#[test]
fn a_stored_secret_that_ends_after_its_wrapping_is_no_alarm() {
    let fake = Fake::start();
    let stored = Some(Secret::new("expired"));
    let material = Material { stored, ..material(&fake, &["opened-by-an-earlier-run"]) };
    let ca = open(&configured(&[&fake.url], FILE, &approle(true)), material);
    let (temporary, said) = refused(block(Asked::new().of(&ca)));
    assert!(!temporary && said.contains("used up or expired") && !said.contains("intercepted"), "{said}");
}

#[test]
fn a_wrapping_that_is_spent_or_was_made_elsewhere_is_refused_with_what_to_do() {
    let fake = Fake::start();
    let settings = configured(&[&fake.url], FILE, &approle(true));
    let keep = || -> nodecert::ca::Keep { Box::new(|_| panic!("nothing may be kept")) };
    let ca = open(&settings, Material { keep: keep(), ..material(&fake, &["used"]) });
    let (temporary, said) = refused(block(Asked::new().of(&ca)));
    assert!(!temporary && said.contains("intercepted") && said.contains("bao write -wrap-ttl"), "{said}");
    for path in ["cubbyhole/response", "auth/other/role/x/secret-id", "auth/approle/role/a/b/secret-id"] {
        fake.forget();
        let ca = open(&settings, Material { keep: keep(), ..material(&fake, &[&fake.wrap(path)]) });
        let (temporary, said) = refused(block(Asked::new().of(&ca)));
        assert!(!temporary && said.contains(path) && said.contains("not opened"), "{said}");
        assert_eq!(fake.asked(), ["POST /v1/sys/wrapping/lookup"]);
    }
}

#[test]
fn the_ladder_is_climbed_in_order_once_and_each_miss_has_its_reason() {
    let fake = Fake::start();
    let auth = format!(
        "{{ token = \"x\" }}, {{ cert = {{ certificate = \"etcd-server\" }} }}, {}, {{ jwt = {{ role = \"r\", jwt = \"x\" }} }}",
        approle(false)
    );
    let settings = configured(&[&fake.url], FILE, &auth);
    assert_eq!(settings.logs_in_with()[0].get_ref().as_str(), "etcd-server");
    let ca = open(&settings, material(&fake, &["stale", "wrong", JWT]));
    block(Asked::new().of(&ca)).unwrap();
    assert_eq!(
        fake.asked()[..3],
        ["GET /v1/auth/token/lookup-self", "POST /v1/auth/approle/login", "POST /v1/auth/jwt/login"]
    );
    assert_eq!(fake.seen()[2].body, serde_json::json!({ "role": "r", "jwt": JWT }));
    fake.forget();
    let ca = open(&settings, material(&fake, &["stale", "wrong", "bad"]));
    let said = block(async {
        let (one, two) = (Asked::new(), Asked::new());
        let (first, second) = (one.of(&ca).await, two.of(&ca).await);
        assert_eq!(refused(first.clone()), refused(second));
        refused(first)
    });
    assert!(!said.0, "{}", said.1);
    for word in ["token of", "not held", "AppRole", "JWT", "invalid role or secret ID"] {
        assert!(said.1.contains(word), "{word}: {}", said.1);
    }
    assert_eq!(fake.asked().len(), 3, "a failed login is not tried again");
}

#[test]
fn secrets_that_are_not_there_yet_are_a_temporary_failure() {
    let fake = Fake::start();
    let settings = configured(&[&fake.url], FILE, &approle(false));
    let absent = Err(Lack::absent("/var/lib/nodecert/secrets/etcd: No such file"));
    let ca = open(&settings, Material { secrets: vec![absent], ..material(&fake, &[]) });
    let (temporary, said) = refused(block(Asked::new().of(&ca)));
    assert!(temporary && said.contains("No such file"), "{said}");
}

#[test]
fn a_held_certificate_logs_in() {
    let fake = Fake::start();
    let asked = Asked::new();
    let first = open(&configured(&[&fake.url], FILE, GIVEN), material(&fake, &[TOKEN]));
    let bundle = asked.judge(block(asked.of(&first)).unwrap(), &fake.anchors_pem());
    let certificate = Name::new("etcd-server").unwrap();
    let auth = "{ cert = { certificate = \"etcd-server\", role = \"node\" } }";
    let material = Material { bundles: [(certificate, bundle)].into(), ..material(&fake, &[]) };
    fake.forget();
    block(Asked::new().of(&open(&configured(&[&fake.url], FILE, auth), material))).unwrap();
    assert_eq!(fake.asked()[0], "POST /v1/auth/cert/login");
    assert_eq!(fake.seen()[0].body["name"], "node");
}

#[test]
fn published_certificates_need_no_login_and_a_mount_without_issuer_is_named() {
    let fake = Fake::start();
    let settings = configured(&[&fake.url], FILE, &approle(false));
    let ca = open(&settings, material(&fake, &[SECRET_ID]));
    let published = block(ca.published()).unwrap();
    let anchors = Anchors::published(&published).unwrap();
    assert_eq!(anchors, Anchors::parse(fake.anchors_pem().as_bytes()).unwrap());
    assert!(fake.seen().iter().all(|seen| seen.token.is_none()));
    for (fault, word) in [(Fault::Html200, "PEM"), (Fault::Status(403, None, "permission denied"), "`mount`")]
    {
        fake.misbehave("ca_chain", fault, 1);
        let ca = open(&settings, material(&fake, &[]));
        let said = block(ca.published()).expect_err("a bad answer").to_string();
        assert!(said.contains(word), "{said}");
    }
    fake.misbehave("auth/approle/login", Fault::Status(403, None, "permission denied"), 1);
    let (_, said) = refused(block(Asked::new().of(&open(&settings, material(&fake, &[SECRET_ID])))));
    assert!(said.contains("`bao auth list`") && !said.contains("namespace"), "{said}");
    fake.lose_issuer();
    let error = block(open(&settings, material(&fake, &[])).published()).expect_err("no issuer");
    assert!(!error.is_temporary() && error.to_string().contains("no issuer"), "{error}");
}

#[test]
fn every_fault_of_a_table_comes_at_once() {
    let good =
        "tls.system = true\nanchors.published = true\n[vault]\nmount = \"pki\"\nauth = [{ token = \"x\" }]\n";
    for (text, words) in [
        ("", vec!["no kind"]),
        ("[vault]\n[local]\n", vec!["two kinds"]),
        ("[vault]\n", vec!["no tls", "no anchors", "no urls", "no mount", "no auth"]),
        (&format!("{good}urls = [\"http://127.0.0.1:8200\"]"), vec!["not https"]),
        (&format!("{good}urls = [\"https://u:p@127.0.0.1\"]"), vec!["user or password"]),
        (&format!("{good}urls = [\"https://127.0.0.1/v1/\"]"), vec!["/v1"]),
        (&format!("{good}urls = [\"https://127.0.0.1/ui\"]"), vec!["/ui; leave that out"]),
        (&format!("{good}urls = [\"127.0.0.1:8200\"]"), vec!["URL"]),
        (
            &format!("proxy = \"http://u:p@h\"\n{good}urls = [\"https://h\"]\nrole = \"a/b\""),
            vec!["proxy", "role"],
        ),
        (&format!("{}urls = [\"https://h\"]", good.replace("pki", "../sys")), vec!["mount"]),
        (
            &format!(
                "{}urls = [\"https://h\"]",
                good.replace("{ token = \"x\" }", "{ token = \"x\", jwt = { role = \"r\", jwt = \"x\" } }")
            ),
            vec!["exactly one"],
        ),
        ("[puppet]\n", vec!["no tls", "no anchors", "no url"]),
        ("tls.system = true\n[puppet]\nurl = \"https://h:8140\"", vec!["no anchors"]),
        ("tls.file = \"/a\"\n[puppet]\nurl = \"https://h\"\nfirst_use = true", vec!["first_use"]),
        (
            "tls.file = \"/a\"\n[puppet]\nurl = \"http://h\"\nattributes = { challenge = \"x\" }\nextensions = { pp_roll = \"x\", \"2.5.29.17\" = \"x\" }",
            vec!["not https", "challengePassword", "X.509", "pp_role"],
        ),
    ] {
        let faults = settings(text).expect_err(text);
        assert_eq!(faults.len(), words.len(), "{text}: {faults:?}");
        for (fault, word) in faults.iter().zip(words) {
            assert!(fault.starts_with("CA etcd ") && fault.contains(word), "{word}: {fault}");
            assert!(!fault.contains("u:p"), "{fault}");
        }
    }
    let faults = settings(&format!("{good}urls = [\"https://h\"]\nrolle = \"x\"")).expect_err("unknown key");
    assert!(faults[0].contains("rolle"), "{faults:?}");
}

#[test]
fn a_certificate_that_a_ca_can_never_give_is_refused_before_it_is_asked() {
    let mut wanted = identity();
    let sign = settings("tls.system = true\nanchors.published = true\n[vault]\nurls = [\"https://h\"]\nmount = \"pki\"\nauth = [{ token = \"x\" }]").unwrap();
    assert!(sign.admits(&wanted, None).unwrap_err().contains("role"));
    assert!(sign.admits(&wanted, Some("../x")).is_err());
    sign.admits(&wanted, Some("r")).unwrap();
    let local = settings("[local]").unwrap();
    local.admits(&wanted, None).unwrap();
    wanted.organization = Some(["a".to_owned(), "b".to_owned()].into());
    assert!(local.admits(&wanted, None).unwrap_err().contains("2 organizations"));
}

#[test]
fn the_local_ca_certifies_every_kind_of_key_and_survives_a_restart() {
    let clock = Clock::system();
    let settings = settings("[local]\nttl = \"10d\"").unwrap();
    let made = local::Authority::make(&name(), &local::Settings::default(), clock.now()).unwrap();
    for kind in [KeyKind::P256, KeyKind::P384, KeyKind::P521, KeyKind::Ed25519, KeyKind::Rsa2048] {
        let root = local::Authority::parse(made.key().pem(), &made.pem()).unwrap();
        let ca = open(&settings, Material { root: Some(root), ..Material::default() });
        let wanted = Identity { key: kind, ttl: None, ..identity() };
        let key = Arc::new(Key::generate(kind).unwrap());
        let asked =
            Asked { pending: Pending::new(key, &wanted, &ca.dialect().unwrap()).unwrap(), identity: wanted };
        let bundle = asked.judge(block(asked.of(&ca)).unwrap(), &made.pem());
        assert_eq!(bundle.leaf().lifetime(), Duration::from_secs(10 * 86_400 + 60), "{kind:?}");
        assert_eq!(bundle.leaf().issuer, "CN=nodecert etcd CA");
    }
}

#[test]
fn the_local_ca_signs_nothing_beyond_its_own_end_and_no_forged_request() {
    let now = SystemTime::now();
    let root = local::Authority::make(&name(), &local::Settings::default(), now).unwrap();
    let asked = Asked::new();
    let (years, late) = (Duration::from_secs(3_600 * 86_400), now + Duration::from_secs(3_600 * 86_400));
    let leaf = root.sign(&asked.pending.csr, &asked.identity, years, late).unwrap();
    let leaf = nodecert::bundle::Leaf::parse(&leaf).unwrap();
    let end = nodecert::bundle::Leaf::parse(root.certificate()).unwrap().not_after;
    assert_eq!(leaf.not_after, end);

    let mut der = asked.pending.csr.der().to_vec();
    let last = der.len() - 1;
    der[last] ^= 1;
    let forged = nodecert::key::Csr::parse(&nodecert::key::pem_block("CERTIFICATE REQUEST", &der)).unwrap();
    assert!(root.sign(&forged, &asked.identity, years, now).is_err());
}
