//! The corpus: what a CA can do wrong, one row each, whatever protocol it speaks.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints, SanType, SerialNumber,
};
use time::{Date, Month, OffsetDateTime};

use crate::fake::bend::{Bend, Deed, Signing, Wire, der, stranger};
use crate::fake::ca_params;

/// How a run ends, by protocol: Vault, Puppet, cfssl.
pub(crate) type Codes = [i32; 3];
const REFUSED: Codes = [77; 3];
const TEMPORARY: Codes = [75; 3];
/// The answer is odd, and good.
const FINE: Codes = [0; 3];

/// One row.
pub(crate) struct Case {
    pub(crate) bend: Bend,
    pub(crate) codes: Codes,
    /// What the message names.
    pub(crate) says: &'static str,
    /// What it names where the CA is Puppet's, if that is another thing.
    pub(crate) puppet: &'static str,
}

const fn row(name: &'static str, codes: Codes, says: &'static str, deed: Deed) -> Case {
    Case { bend: Bend { name, deed }, codes, says, puppet: says }
}

/// The same for one that a Puppet CA makes something else of: one name is one certificate there.
#[allow(clippy::needless_pass_by_value, reason = "it is taken apart, at compile time")]
const fn but(puppet: &'static str, case: Case) -> Case {
    Case { puppet, ..case }
}

const fn signed(name: &'static str, codes: Codes, says: &'static str, bend: fn(&mut Signing<'_>)) -> Case {
    row(name, codes, says, Deed::Signed(bend))
}

const fn pems(name: &'static str, codes: Codes, says: &'static str, bend: fn(&mut Vec<String>)) -> Case {
    row(name, codes, says, Deed::Pems(bend))
}

const fn body(name: &'static str, codes: Codes, says: &'static str, bend: fn(&str) -> Vec<u8>) -> Case {
    row(name, codes, says, Deed::Body(bend))
}

type Speak = fn(&mut Wire<'_>, u16, &str) -> io::Result<()>;

const fn spoken(name: &'static str, codes: Codes, says: &'static str, speak: Speak) -> Case {
    row(name, codes, says, Deed::Spoken(speak))
}

/// In the certificate.
pub(crate) const SIGNED: &[Case] = &[
    but("another key", signed("for another key", REFUSED, "public key", |s| s.key = Some(stranger()))),
    but("certname", signed("an earlier one again", REFUSED, "public key", |s| s.instead = s.first.clone())),
    but(
        "another key",
        signed("of another host", REFUSED, "public key", |s| {
            s.key = Some(stranger());
            s.params.distinguished_name.push(DnType::CommonName, "node02");
        }),
    ),
    but("another key", signed("the CA's own", REFUSED, "public key", |s| s.instead = Some(s.pki.root.pem()))),
    signed("a name left out", REFUSED, "10.0.0.11", |s| drop(s.params.subject_alt_names.pop())),
    signed("no name at all", REFUSED, "node01", |s| s.params.subject_alt_names.clear()),
    signed("another common name", REFUSED, "common name", |s| common_name(s, "node02")),
    signed("two common names", REFUSED, "common name", |s| another(s, 3, "node02")),
    signed("NUL in the common name", REFUSED, "common name", |s| common_name(s, "node01\0.example.com")),
    signed("a common name of 50 kB", REFUSED, "common name", |s| common_name(s, &"n".repeat(50_000))),
    signed("the organization left out", [77, 0, 77], "organization", |s| {
        let _ = s.params.distinguished_name.remove(DnType::OrganizationName);
    }),
    signed("one more organization", REFUSED, "system:masters", |s| another(s, 10, "system:masters")),
    signed("escapes in an organization", REFUSED, "organization", |s| {
        another(s, 10, "\u{1b}[2J\r\n\u{9b}0m");
    }),
    signed("NUL in one more name", REFUSED, "control character", |s| san(s, "node01\0.example.com")),
    signed("escapes in one more name", REFUSED, "control character", |s| san(s, "\u{1b}]0;x\u{7}")),
    signed("four thousand more names", REFUSED, "larger than any real chain", |s| {
        (0..4_000).for_each(|n| san(s, &format!("node{n}.example.com")));
    }),
    signed("names twice", REFUSED, "", |s| {
        extension(s, &[2, 5, 29, 17], &[0x30, 0x08, 0x82, 0x06, b'n', b'o', b'd', b'e', b'0', b'1'], false);
    }),
    signed("names that are none", REFUSED, "", |s| {
        s.params.subject_alt_names.clear();
        extension(s, &[2, 5, 29, 17], &[0xff; 40], false);
    }),
    signed("an address of five bytes", REFUSED, "10.0.0.11", |s| {
        s.params.subject_alt_names.clear();
        let names = [&[0x30, 0x0f, 0x82, 0x06][..], b"node01", &[0x87, 0x05, 10, 0, 0, 11, 0]].concat();
        extension(s, &[2, 5, 29, 17], &names, false);
    }),
    signed("expired", REFUSED, "expired", |s| dates(s, -2 * DAY, -DAY)),
    signed("not valid yet", TEMPORARY, "valid only from", |s| dates(s, DAY, 2 * DAY)),
    signed("ended before it began", REFUSED, "", |s| dates(s, -3_600, -7_200)),
    signed("due at once", REFUSED, "due at once", |s| dates(s, -10 * DAY, 30)),
    signed("valid from 1950", REFUSED, "", |s| s.params.not_before = year(1950)),
    signed("valid from 1975", REFUSED, "due at once", |s| s.params.not_before = year(1975)),
    signed("valid until 9999", FINE, "", |s| s.params.not_after = year(9999)),
    signed("valid from 1950 until 9999", REFUSED, "", |s| {
        (s.params.not_before, s.params.not_after) = (year(1950), year(9999));
    }),
    signed("no usages", REFUSED, "extended key usage", |s| usages(s, &[])),
    signed("for servers alone", REFUSED, "client", |s| usages(s, &[ExtendedKeyUsagePurpose::ServerAuth])),
    signed("for clients alone", REFUSED, "server", |s| usages(s, &[ExtendedKeyUsagePurpose::ClientAuth])),
    signed("for code too", REFUSED, "code signing", |s| more_usages(s, ExtendedKeyUsagePurpose::CodeSigning)),
    signed("for any usage too", REFUSED, "any", |s| more_usages(s, ExtendedKeyUsagePurpose::Any)),
    signed("CA:TRUE", REFUSED, "CA:TRUE", |s| s.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
    signed("constraints twice", REFUSED, "", |s| {
        s.params.is_ca = IsCa::ExplicitNoCa;
        extension(s, &[2, 5, 29, 19], &[0x30, 0x03, 0x01, 0x01, 0xff], true);
    }),
    signed("a critical extension that no one knows", REFUSED, "ritical", |s| {
        extension(s, &[1, 3, 6, 1, 4, 1, 99999, 1], &[0x05, 0x00], true);
    }),
    signed("a serial number of 1 MB", REFUSED, "1048576", |s| serial(s, 1 << 20)),
    signed("a serial number of 40 kB", REFUSED, "serial number", |s| serial(s, 40_000)),
    signed("a signature that is none", REFUSED, "not lead to", |s| {
        s.spoil = Some(|der| *der.last_mut().unwrap() ^= 1);
    }),
    but(
        "certificate",
        signed("bytes after its end", REFUSED, "bytes follow", |s| s.spoil = Some(|der| der.push(0))),
    ),
    but(
        "certificate",
        signed("cut short", REFUSED, "not X.509", |s| s.spoil = Some(|der| der.truncate(200))),
    ),
    // in who signed it
    but(
        "that signed the certificate",
        signed("of another CA", REFUSED, "trusted CA certificate", |s| s.issuer = Some(root("stranger"))),
    ),
    signed("of another CA with our CA's name", REFUSED, "not lead to", |s| {
        s.issuer = Some(root(&name_of(s)));
    }),
    signed("without its intermediate", [77, 0, 0], "not lead to", |s| s.above.clear()),
    signed("a chain of a hundred", REFUSED, "", |s| {
        let mut above = Vec::new();
        let mut top = root("top");
        for _ in 0..100 {
            let next = below(&top, |_| {});
            above.insert(0, next.pem());
            top = next;
        }
        (s.issuer, s.above) = (Some(top), above);
    }),
    but(
        "that signed the certificate",
        signed("a chain that turns in a circle", REFUSED, "not lead to", |s| {
            let (one, two) = (root("one"), root("two"));
            let crossed = [cross(&one, "one", &two), cross(&two, "two", &one)];
            (s.issuer, s.above) = (Some(one), crossed.to_vec());
        }),
    ),
    but(
        "that signed the certificate",
        signed("a thousand ways to go wrong", REFUSED, "not lead to", |s| {
            let same: Vec<_> = (0..14).map(|_| root("same")).collect();
            s.above = same.iter().skip(1).map(|ca| cross(ca, "same", &same[0])).collect();
            s.issuer = same.into_iter().next();
        }),
    ),
    signed("by a CA for other names", REFUSED, "", |s| {
        by_a_ca_below(s, |ca| {
            ca.name_constraints = Some(NameConstraints {
                permitted_subtrees: vec![GeneralSubtree::DnsName("example.org".to_owned())],
                excluded_subtrees: Vec::new(),
            });
        });
    }),
    signed("by a CA that must not have one below", REFUSED, "", |s| {
        let upper = below(&s.pki.issuing, |ca| ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
        let lower = below(&upper, |_| {});
        s.above.splice(0..0, [lower.pem(), upper.pem()]);
        s.issuer = Some(lower);
    }),
    signed("by a host", REFUSED, "", |s| by_a_ca_below(s, |ca| ca.is_ca = IsCa::ExplicitNoCa)),
    signed("by a CA that has ended", REFUSED, "", |s| {
        by_a_ca_below(s, |ca| (ca.not_before, ca.not_after) = (from_now(-3 * DAY), from_now(-DAY)));
    }),
    signed("by a CA that signs lists alone", REFUSED, "", |s| {
        by_a_ca_below(s, |ca| ca.key_usages = vec![KeyUsagePurpose::CrlSign]);
    }),
    signed("by a CA for clients", REFUSED, "", |s| {
        by_a_ca_below(s, |ca| ca.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    }),
    // in its PEM
    but("PEM", pems("cut in the middle", REFUSED, "damaged", |chain| chain[0].truncate(300))),
    pems("no PEM", REFUSED, "PEM", |chain| chain[0] = "certificate".to_owned()),
    pems("a key instead", REFUSED, "PEM", |chain| chain[0] = stranger().serialize_pem()),
    pems("a request's label", REFUSED, "PEM", |chain| {
        chain[0] = chain[0].replace(" CERTIFICATE-", " CERTIFICATE REQUEST-");
    }),
    pems("a letter that is none", REFUSED, "damaged", |chain| chain[0] = chain[0].replacen("MII", "M!I", 1)),
    pems("in lower case", REFUSED, "PEM", |chain| chain[0].make_ascii_lowercase()),
    pems("upside down", [77, 0, 0], "public key", |chain| chain.reverse()),
    pems("the leaf twice", FINE, "", |chain| chain.insert(1, chain[0].clone())),
    pems("DOS line ends", FINE, "", |chain| chain[0] = chain[0].replace('\n', "\r\n")),
    pems("text around", FINE, "", |chain| chain[0] = format!("Subject: node01\n\n{}\nend\n", chain[0])),
];

/// In the answer.
pub(crate) const SAID: &[Case] = &[
    body("a page to log in", REFUSED, "", |_| b"<html><b>Please log in</b>\x1b[5m</html>".to_vec()),
    body("nothing", REFUSED, "", |_| Vec::new()),
    body("null", REFUSED, "", |_| b"null".to_vec()),
    body("a list", REFUSED, "", |_| b"[{\"data\":{}}]".to_vec()),
    body("other kinds of value", REFUSED, "", |_| {
        br#"{"data":{"certificate":7},"result":{"certificate":[]},"success":"no"}"#.to_vec()
    }),
    body("400,000 brackets", REFUSED, "", |_| vec![b'['; 400_000]),
    body("400,000 objects", REFUSED, "", |_| b"{\"a\":".repeat(80_000)),
    body("not UTF-8", REFUSED, "", |_| {
        [&b"{\"data\":{\"certificate\":\""[..], &[0xff; 64], b"\"}}"].concat()
    }),
    body("UTF-16", REFUSED, "", |said| said.encode_utf16().flat_map(u16::to_le_bytes).collect()),
    body("half a surrogate", REFUSED, "", |_| {
        br#"{"data":{"certificate":"\ud800"},"result":{"certificate":"\ud800"}}"#.to_vec()
    }),
    body("zero bytes", REFUSED, "", |_| vec![0; 4096]),
    body("cut after a third", REFUSED, "", |said| said.as_bytes()[..said.len() / 3].to_vec()),
    body("itself twice", [77, 0, 77], "JSON", |said| said.repeat(2).into_bytes()),
    body("one key twice", REFUSED, "", |_| {
        br#"{"data":{"certificate":"a"},"data":{"certificate":"b"},"result":{"certificate":"a"},"result":{"certificate":"b"}}"#.to_vec()
    }),
    body("900 kB of blanks first", FINE, "", |said| [&[b'\n'; 900_000], said.as_bytes()].concat()),
    spoken("10 MB", REFUSED, "1048576", |wire, _, _| {
        wire.head(200, 10 << 20)?;
        (0..160).try_for_each(|_| wire.say([b' '; 0x10000]))
    }),
    spoken("a body of 1 TB, it says", REFUSED, "1048576", |wire, _, _| wire.head(200, 1 << 40)),
    spoken("chunks without end", REFUSED, "1048576", |wire, _, _| {
        wire.say(CHUNKED)?;
        (0..160).try_for_each(|_| wire.say([b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat()))
    }),
    spoken("small chunks without end", REFUSED, "1048576", |wire, _, _| {
        wire.say(CHUNKED)?;
        (0..50).try_for_each(|_| wire.say(b"20\r\n                                \r\n".repeat(1000)))
    }),
    spoken("a chunk larger than there are numbers", TEMPORARY, "", |wire, _, _| {
        wire.say([CHUNKED, b"fffffffffffffffffff\r\n"].concat())
    }),
    spoken("a chunk that is none", TEMPORARY, "", |wire, _, _| {
        wire.say([CHUNKED, b"zebra\r\n{}\r\n"].concat())
    }),
    spoken("a chunk with a 1 MB comment", TEMPORARY, "", |wire, _, _| {
        wire.say([CHUNKED, b"1;", &vec![b'x'; 1 << 20], b"\r\n \r\n0\r\n\r\n"].concat())
    }),
    spoken("10 MB in 10 kB of gzip", REFUSED, "", |wire, _, _| {
        let bomb = gzip_bomb();
        let head =
            format!("HTTP/1.1 200 X\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", bomb.len());
        wire.say([head.as_bytes(), &bomb].concat())
    }),
    spoken("less than it says", TEMPORARY, "connection broken", |wire, _, _| {
        wire.head(200, 5_000)?;
        wire.say("{\"data\":")?;
        wire.cut()
    }),
    spoken("two lengths", TEMPORARY, "", |wire, _, _| {
        wire.say("HTTP/1.1 200 X\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}")
    }),
    spoken("a length of -1", TEMPORARY, "", |wire, _, _| {
        wire.say("HTTP/1.1 200 X\r\nContent-Length: -1\r\n\r\n{}")
    }),
    spoken("a length that is no number", TEMPORARY, "", |wire, _, _| {
        wire.say("HTTP/1.1 200 X\r\nContent-Length: 99999999999999999999999\r\n\r\n{}")
    }),
    spoken("a thousand headers", TEMPORARY, "", |wire, _, _| {
        wire.say(format!("HTTP/1.1 200 X\r\n{}\r\n", "X-A: b\r\n".repeat(1000)))
    }),
    spoken("a header of 2 MB", TEMPORARY, "", |wire, _, _| {
        wire.say(format!("HTTP/1.1 200 X\r\nX-A: {}\r\n\r\n", "b".repeat(2 << 20)))
    }),
    spoken("headers without end", TEMPORARY, "", |wire, _, _| {
        wire.say("HTTP/1.1 200 X\r\n")?;
        (0..4_000).try_for_each(|n| wire.say(format!("X-{n}: {}\r\n", "b".repeat(1000))))
    }),
    spoken("a header with NUL", TEMPORARY, "", |wire, _, _| wire.say("HTTP/1.1 200 X\r\nX-A: \0\r\n\r\n")),
    spoken("the form of HTTP/1.0", FINE, "", |wire, code, said| {
        wire.say(format!("HTTP/1.0 {code} X\r\n\r\n{said}"))?;
        wire.close()
    }),
    spoken("the form of HTTP/0.9", TEMPORARY, "", |wire, _, said| wire.say(said)),
    spoken("HTTP/2", TEMPORARY, "", |wire, _, _| wire.say(b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64")),
    spoken("SMTP", TEMPORARY, "", |wire, _, _| wire.say("220 mail.example.com ESMTP\r\n")),
    spoken("to go on, for ever", TEMPORARY, "", |wire, _, _| {
        (0..300_000).try_for_each(|_| wire.say("HTTP/1.1 100 Continue\r\n\r\n".repeat(100)))
    }),
    spoken("a few hints first", FINE, "", |wire, code, said| {
        wire.say("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".repeat(5))?;
        wire.head(code, said.len())?;
        wire.say(said)
    }),
    spoken("another protocol", REFUSED, "101", |wire, _, _| {
        wire.say(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x1b[2J",
        )
    }),
    spoken("a letter a second", TEMPORARY, "no answer", |wire, _, _| drip(wire, b"HTTP/1.1 200 X\r\n")),
    spoken("a letter of the body a second", TEMPORARY, "no answer", |wire, _, said| {
        wire.head(200, said.len() + 1000)?;
        drip(wire, said.as_bytes())
    }),
    spoken("silence", TEMPORARY, "no answer", |_, _, _| Ok(())),
    spoken("silence after the head", TEMPORARY, "no answer", |wire, _, _| wire.head(200, 100)),
    spoken("the end, at once", TEMPORARY, "connection broken", |wire, _, _| wire.close()),
    spoken("a cut, at once", TEMPORARY, "connection broken", |wire, _, _| wire.cut()),
    spoken("a cut in the head", TEMPORARY, "connection broken", |wire, _, _| {
        wire.say("HTTP/1.1 200 X\r\nContent-")?;
        wire.cut()
    }),
    spoken("noise in TLS", TEMPORARY, "", |wire, _, _| wire.noise()),
    // In one piece with it, on a connection that stays open: it is dropped with the connection, on which nothing is
    // asked any more. What came after the next request would be the answer to that one, whatever it says.
    spoken("another answer behind the last", FINE, "", |wire, code, said| {
        let length = said.len();
        wire.say(format!(
            "HTTP/1.1 {code} X\r\nContent-Length: {length}\r\n\r\n{said}HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\n{{}}"
        ))
    }),
    spoken("a cookie and another kind", FINE, "", |wire, code, said| {
        wire.say(format!("HTTP/1.1 {code} X\r\nSet-Cookie: a=b\r\nContent-Type: image/gif\r\nContent-Length: {}\r\n\r\n{said}", said.len()))
    }),
    spoken("301 to another host", REFUSED, "redirect", |wire, _, _| redirect(wire, 301, &thief())),
    spoken("302 to another host", REFUSED, "redirect", |wire, _, _| redirect(wire, 302, &thief())),
    spoken("303 to another host", REFUSED, "redirect", |wire, _, _| redirect(wire, 303, &thief())),
    spoken("307 to another host", REFUSED, "redirect", |wire, _, _| redirect(wire, 307, &thief())),
    spoken("308 to another host", REFUSED, "redirect", |wire, _, _| redirect(wire, 308, &thief())),
    spoken("a redirect to a file", REFUSED, "redirect", |wire, _, _| {
        redirect(wire, 302, "file:///etc/shadow")
    }),
    spoken("a redirect to nowhere", REFUSED, "redirect", |wire, _, _| redirect(wire, 302, "https://[::")),
    spoken("a redirect that never ends", REFUSED, "redirect", |wire, _, _| redirect(wire, 307, "?again")),
    spoken("words with escapes", REFUSED, "400 first", |wire, _, _| {
        let words = r#"{"errors":["first\u001b[31m\r\nsecond\u0007\u009b2J\u202egpj.exe\u0000","\n\n"]}"#;
        wire.head(400, words.len())?;
        wire.say(words)
    }),
    spoken("words of 1 MB", REFUSED, "403 no", |wire, _, _| {
        wire.head(403, 1_000_000)?;
        wire.say("no! ".repeat(250_000))
    }),
    spoken("words that are no text", REFUSED, "400", |wire, _, _| {
        wire.head(400, 4_000)?;
        wire.say([0x9b; 4_000])
    }),
    spoken("an escape in the status line", TEMPORARY, "", |wire, _, _| {
        wire.say(b"HTTP/1.1 400 \x9b\x1b\r\nContent-Length: 2\r\n\r\n{}")
    }),
    spoken("401", REFUSED, "401", |wire, _, _| wire.head(401, 0)),
    spoken("403", REFUSED, "403", |wire, _, _| wire.head(403, 0)),
    spoken("404", REFUSED, "", |wire, _, _| wire.head(404, 0)),
    spoken("407", REFUSED, "407", |wire, _, _| wire.head(407, 0)),
    spoken("418", REFUSED, "418", |wire, _, _| wire.head(418, 0)),
    spoken("204", REFUSED, "", |wire, _, _| wire.say("HTTP/1.1 204 X\r\n\r\n")),
    spoken("408", TEMPORARY, "408", |wire, _, _| wire.head(408, 0)),
    spoken("429 until tomorrow", TEMPORARY, "429", |wire, _, _| again(wire, 429, "86400")),
    spoken("429 until 1970", TEMPORARY, "429", |wire, _, _| {
        again(wire, 429, "Thu, 01 Jan 1970 00:00:00 GMT")
    }),
    spoken("500", TEMPORARY, "500", |wire, _, _| wire.head(500, 0)),
    spoken("502", TEMPORARY, "502", |wire, _, _| wire.head(502, 0)),
    spoken("503 for longer than there is time", TEMPORARY, "503", |wire, _, _| {
        again(wire, 503, "18446744073709551615")
    }),
    spoken("503 until it was", TEMPORARY, "503", |wire, _, _| again(wire, 503, "-1")),
    spoken("599", TEMPORARY, "599", |wire, _, _| wire.head(599, 0)),
    spoken("999", TEMPORARY, "999", |wire, _, _| wire.head(999, 0)),
    spoken("a status of two digits", TEMPORARY, "", |wire, _, _| wire.say("HTTP/1.1 42 X\r\n\r\n")),
];

const DAY: i64 = 86_400;
const CHUNKED: &[u8] = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n";

fn from_now(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::now_utc() + time::Duration::seconds(seconds)
}

fn year(year: i32) -> OffsetDateTime {
    Date::from_calendar_date(year, Month::January, 2).unwrap().midnight().assume_utc()
}

fn dates(signing: &mut Signing<'_>, from: i64, until: i64) {
    (signing.params.not_before, signing.params.not_after) = (from_now(from), from_now(until));
}

fn common_name(signing: &mut Signing<'_>, name: &str) {
    signing.params.distinguished_name.push(DnType::CommonName, name);
}

/// One more attribute of id-at, which rcgen keeps apart from its own.
fn another(signing: &mut Signing<'_>, number: u64, value: &str) {
    signing.params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, number]), value);
}

fn san(signing: &mut Signing<'_>, name: &str) {
    signing.params.subject_alt_names.push(SanType::DnsName(name.try_into().unwrap()));
}

fn usages(signing: &mut Signing<'_>, usages: &[ExtendedKeyUsagePurpose]) {
    signing.params.extended_key_usages = usages.to_vec();
}

fn more_usages(signing: &mut Signing<'_>, usage: ExtendedKeyUsagePurpose) {
    signing.params.extended_key_usages.push(usage);
}

fn extension(signing: &mut Signing<'_>, oid: &[u64], content: &[u8], critical: bool) {
    let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
    extension.set_criticality(critical);
    signing.params.custom_extensions.push(extension);
}

fn serial(signing: &mut Signing<'_>, length: usize) {
    signing.params.serial_number = Some(SerialNumber::from_slice(&vec![0x11; length]));
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn root(name: &str) -> Authority {
    Authority::self_signed(ca_params(name), stranger()).unwrap()
}

fn name_of(signing: &Signing<'_>) -> String {
    let issuing = der(&signing.pki.issuing.pem());
    let (_, parsed) = x509_parser::parse_x509_certificate(&issuing).unwrap();
    parsed.subject().iter_common_name().next().unwrap().as_str().unwrap().to_owned()
}

fn below(above: &Authority, shape: impl FnOnce(&mut CertificateParams)) -> Authority {
    let mut params = ca_params("one below");
    shape(&mut params);
    Authority::signed_by(params, stranger(), above).unwrap()
}

fn by_a_ca_below(signing: &mut Signing<'_>, shape: impl FnOnce(&mut CertificateParams)) {
    let lower = below(&signing.pki.issuing, shape);
    signing.above.insert(0, lower.pem());
    signing.issuer = Some(lower);
}

/// A second certificate for a CA's name and key, by another CA.
fn cross(ca: &Authority, name: &str, by: &Authority) -> String {
    ca_params(name).signed_by(ca.key(), by).unwrap().pem()
}

fn redirect(wire: &mut Wire<'_>, code: u16, to: &str) -> io::Result<()> {
    wire.say(format!("HTTP/1.1 {code} X\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"))
}

fn again(wire: &mut Wire<'_>, code: u16, after: &str) -> io::Result<()> {
    wire.say(format!("HTTP/1.1 {code} X\r\nRetry-After: {after}\r\nContent-Length: 0\r\n\r\n"))
}

fn drip(wire: &mut Wire<'_>, bytes: &[u8]) -> io::Result<()> {
    for byte in bytes.iter().take(30) {
        wire.say([*byte])?;
        if !wire.wait(Duration::from_secs(1)) {
            break;
        }
    }
    Ok(())
}

/// Ten megabytes of zeros as ten thousand bytes: RFC 1951 stored nowhere, but by `gzip -9`'s own blocks.
fn gzip_bomb() -> Vec<u8> {
    use std::io::Write;
    use std::process::{Command, Stdio};
    static BOMB: OnceLock<Vec<u8>> = OnceLock::new();
    let make = || {
        let mut gzip =
            Command::new("gzip").arg("-9").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = gzip.stdin.take().unwrap();
        let writer = thread::spawn(move || input.write_all(&vec![0; 10 << 20]));
        let bomb = gzip.wait_with_output().unwrap().stdout;
        writer.join().unwrap().unwrap();
        assert!(bomb.len() < 20_000);
        bomb
    };
    BOMB.get_or_init(make).clone()
}

static VISITS: AtomicUsize = AtomicUsize::new(0);

/// Where no token is ever to go. It counts who comes.
fn thief() -> String {
    static THIEF: OnceLock<SocketAddr> = OnceLock::new();
    let address = THIEF.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.2:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || listener.incoming().for_each(|_| _ = VISITS.fetch_add(1, Ordering::SeqCst)));
        address
    });
    format!("https://{address}/v1/etcd/prod/pki/sign/member")
}

/// How many came to the thief.
pub(crate) fn visits() -> usize {
    VISITS.load(Ordering::SeqCst)
}
