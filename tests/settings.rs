//! What the tables of components say reaches the certificates and files that it is for, and nothing else does: the
//! identities of kubernetes.io "PKI certificates and requirements", names, roles, trust files, and what is refused.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails aloud")]

use std::collections::{BTreeMap, BTreeSet};

use nodecert::config::{self, Text};
use nodecert::facts::{self, Host, Sources};
use nodecert::file::{Content, File};
use nodecert::identity::Usage;
use nodecert::node::{self, Node};
use nodecert::setting::Name;

const NODE: &str = r#"
[node]
domain = "example.com"
addresses = ["10.0.0.5"]
[ca.k8s.local]
[ca.other.local]
"#;

const CONTROL_PLANE: &str = r#"
[kubernetes]
ca = "k8s"
api_server = "https://api.example.com:6443"
service_cidr = "10.96.0.0/12"
etcd_servers = ["https://10.0.0.5:2379"]
[kube-apiserver]
[kube-controller-manager]
[kube-scheduler]
[kubelet]
[kube-proxy]
"#;

/// The host with these tables; the error is every fault of them.
fn expanded(tables: &str) -> Result<Node, String> {
    within(NODE, tables)
}

fn within(node: &str, tables: &str) -> Result<Node, String> {
    let text = Text { path: "config.toml".into(), text: node.to_owned() + tables, private: true };
    let config = config::parse(vec![text]).map_err(|faults| faults.to_string())?;
    let host = Host { nodename: "CP1.kernel.example".to_owned(), ..Host::default() };
    let facts = facts::gather(&config.node, &host, &Sources::default()).unwrap();
    node::expand(&config, &facts, &BTreeSet::new()).map_err(|faults| faults.to_string())
}

fn node(tables: &str) -> Node {
    expanded(tables).unwrap_or_else(|faults| panic!("{tables}\n{faults}"))
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn texts(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|&text| text.to_owned()).collect()
}

/// Names and addresses of a certificate.
fn sans(node: &Node, certificate: &str) -> BTreeSet<String> {
    let identity = &node.certificates[&name(certificate)].identity;
    identity.dns.iter().cloned().chain(identity.ips.iter().map(ToString::to_string)).collect()
}

fn at<'a>(node: &'a Node, path: &str) -> &'a File {
    node.files.iter().find(|file| file.path.ends_with(path)).unwrap_or_else(|| panic!("no {path}"))
}

/// A component's command line.
fn line(node: &Node, path: &str) -> String {
    match &at(node, path).content {
        Content::Env(lines) => lines[0].1.clone(),
        content => panic!("{content:?}"),
    }
}

#[test]
fn each_identity_is_what_its_consumers_know_and_in_no_other_group() {
    let node = node(&(CONTROL_PLANE.to_owned() + "[admin]\n[etcd-client.flanneld]\nca = \"k8s\"\n"));
    let (server, client) = ([Usage::Server], [Usage::Client]);
    let wanted = [
        ("admin", "kubernetes-admin", Some("kubeadm:cluster-admins"), client),
        ("front-proxy-client", "front-proxy-client", None, client),
        ("kube-apiserver-etcd-client", "kube-apiserver-etcd-client", None, client),
        ("kube-apiserver-kubelet-client", "kube-apiserver-kubelet-client", None, client),
        ("kube-controller-manager", "system:kube-controller-manager", None, client),
        ("kube-proxy", "system:kube-proxy", None, client),
        ("kube-scheduler", "system:kube-scheduler", None, client),
        ("kubelet-client", "system:node:cp1.kernel.example", Some("system:nodes"), client),
        ("kubelet-serving", "system:node:cp1.kernel.example", Some("system:nodes"), server),
    ];
    for (certificate, common_name, group, usages) in wanted {
        let identity = &node.certificates[&name(certificate)].identity;
        let groups = group.into_iter().map(str::to_owned).collect();
        assert_eq!(identity.common_name, common_name);
        assert_eq!(identity.organization, Some(groups), "{certificate}");
        assert_eq!((&identity.usages, identity.exact_usages), (&usages.into(), true), "{certificate}");
    }
    // Organizations say nothing to those who look at these.
    let open = [
        ("flanneld-etcd-client", "flanneld-cp1", client),
        ("kube-apiserver-serving", "kube-apiserver", server),
    ];
    for (certificate, common_name, usages) in open {
        let identity = &node.certificates[&name(certificate)].identity;
        assert_eq!((identity.common_name.as_str(), &identity.usages), (common_name, &usages.into()));
    }
    assert_eq!(node.certificates.len(), wanted.len() + open.len(), "and no other, super-admin least of all");
}

#[test]
fn a_member_of_etcd_has_every_name_it_is_dialled_at_and_every_address_it_comes_from() {
    let tables = "[etcd]\nca = \"k8s\"\ncluster = { cp1 = \"ETCD1.internal\" }\nextra_dns = [\"lb.{{ domain }}\"]\nextra_ips = [\"10.0.0.100\"]\n";
    let member = node(tables);
    for certificate in ["etcd-server", "etcd-peer"] {
        let wanted = ["localhost", "127.0.0.1", "::1", "cp1", "cp1.example.com", "10.0.0.5"];
        let added = ["etcd1.internal", "lb.example.com", "10.0.0.100"];
        assert_eq!(sans(&member, certificate), texts(&[&wanted[..], &added].concat()), "{certificate}");
    }
    let elsewhere = node("[etcd]\nca = \"k8s\"\ncluster = { cp1 = \"10.9.9.9\" }\n");
    assert!(sans(&elsewhere, "etcd-peer").contains("10.9.9.9"), "an address that is not among those found");
}

#[test]
fn kube_apiserver_and_kubelet_have_every_name_they_are_dialled_at() {
    let apiserver = "[kube-apiserver]\napi_server = \"https://10.0.0.200:6443\"\nadvertise_address = \"10.0.0.6\"\ncluster_domain = \"k8s.internal\"\nextra_dns = [\"lb.{{ domain }}\"]\nextra_ips = [\"10.0.0.100\"]\n";
    let kubelet = "[kubelet]\nextra_dns = [\"rack9\"]\nextra_ips = [\"10.0.1.5\"]\n";
    let tables = CONTROL_PLANE.replace("[kube-apiserver]\n", apiserver).replace("[kubelet]\n", kubelet);
    let tables = tables.replace("10.96.0.0/12", "fd00:10:96::/108,10.96.0.0/12");
    let node = node(&tables);
    let wanted = [
        &[
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.k8s.internal",
        ][..],
        &["localhost", "127.0.0.1", "::1", "cp1", "cp1.example.com", "cp1.kernel.example", "10.0.0.5"],
        &["10.96.0.1", "fd00:10:96::1", "10.0.0.200", "10.0.0.6", "lb.example.com", "10.0.0.100"],
    ];
    assert_eq!(sans(&node, "kube-apiserver-serving"), texts(&wanted.concat()));
    assert!(line(&node, "apiserver").contains("--advertise-address=10.0.0.6 "));
    let wanted = ["cp1", "cp1.example.com", "cp1.kernel.example", "rack9", "10.0.0.5", "10.0.1.5"];
    assert_eq!(sans(&node, "kubelet-serving"), texts(&wanted));
    for client in ["kubelet-client", "kube-scheduler", "kube-apiserver-etcd-client"] {
        assert_eq!(sans(&node, client), texts(&[]), "{client}");
    }
}

/// Whoever signs what a consumer shows, its trust file holds the CA of the other end.
#[test]
fn each_consumer_is_given_the_cas_of_whoever_it_meets() {
    let cas = ["kubelets", "etcd", "peers", "front"].map(|ca| format!("[ca.{ca}.local]\n")).concat();
    let tables = CONTROL_PLANE.replace(
        "ca = \"k8s\"\n",
        "ca = \"k8s\"\nkubelet_ca = \"kubelets\"\netcd_ca = \"etcd\"\nfront_proxy_ca = \"front\"\n",
    );
    let more = "[etcd]\nca = \"etcd\"\npeer_ca = \"peers\"\ncluster = { cp1 = \"10.0.0.5\" }\n[certificate.kube-apiserver-serving]\nca = \"other\"\n[certificate.kube-proxy]\ntrusts = [\"k8s\", \"other\"]\nfiles = { ca = \"both.crt\" }\n";
    let node = node(&(cas + &tables + more));
    let held: BTreeMap<_, _> = node
        .trusts
        .iter()
        .map(|trust| (trust.path.to_str().unwrap(), trust.cas.iter().map(Name::as_str).collect::<Vec<_>>()))
        .collect();
    let wanted = [
        ("/etc/etcd/pki/ca.crt", vec!["etcd"]),
        ("/etc/etcd/pki/peer-ca.crt", vec!["peers"]),
        ("/etc/kubernetes/pki/both.crt", vec!["k8s", "other"]),
        ("/etc/kubernetes/pki/ca.crt", vec!["k8s"]),
        ("/etc/kubernetes/pki/etcd/ca.crt", vec!["etcd"]),
        ("/etc/kubernetes/pki/front-proxy-ca.crt", vec!["front"]),
        ("/etc/kubernetes/pki/kubelet-ca.crt", vec!["kubelets"]),
    ];
    assert_eq!(held, wanted.into());
    let apiserver = line(&node, "apiserver");
    for flag in [
        "--client-ca-file=/etc/kubernetes/pki/ca.crt",
        "--etcd-cafile=/etc/kubernetes/pki/etcd/ca.crt",
        "--kubelet-certificate-authority=/etc/kubernetes/pki/kubelet-ca.crt",
        "--requestheader-client-ca-file=/etc/kubernetes/pki/front-proxy-ca.crt",
    ] {
        assert!(apiserver.contains(&format!("{flag} ")), "{flag}: {apiserver}");
    }
    let Content::Yaml(kubelet) = &at(&node, "kubelet/config.yaml").content else { panic!("no YAML") };
    assert_eq!(kubelet["authentication"]["x509"]["clientCAFile"], "/etc/kubernetes/pki/ca.crt");
}

#[test]
fn a_front_proxy_of_another_name_is_the_one_that_is_allowed() {
    let node = node(
        &(CONTROL_PLANE.to_owned() + "[certificate.front-proxy-client]\ncommon_name = \"aggregator\"\n"),
    );
    assert!(line(&node, "apiserver").contains("--requestheader-allowed-names=aggregator "));
}

/// A CA that gives organization and usages by role needs one for each.
#[test]
fn each_certificate_asks_for_a_role_of_its_own_or_the_one_that_is_said() {
    let vault = "[ca.v]\ntls.file = \"/ca.pem\"\nanchors.file = \"/ca.pem\"\nvault = { urls = [\"https://v:8200\"], mount = \"m\", auth = [{ token = { file = \"/t\" } }] }\n";
    let etcd = "[etcd]\nca = \"v\"\nhealthcheck = true\ncluster = { cp1 = \"10.0.0.5\" }\n";
    let roles = |tables: String| -> BTreeMap<String, String> {
        let node = node(&tables);
        let role =
            |certificate: &nodecert::certificate::Certificate| certificate.role.clone().unwrap_or_default();
        node.certificates.values().map(|it| (it.name.to_string(), role(it))).collect()
    };
    let table =
        |rows: &[(&str, &str)]| rows.iter().map(|&(it, role)| (it.to_owned(), role.to_owned())).collect();
    let plane = CONTROL_PLANE.replace("\"k8s\"", "\"v\"");
    let own = roles(format!("{vault}{plane}{etcd}"));
    assert!(own.len() == 12 && own.iter().all(|(certificate, role)| certificate == role), "{own:?}");
    let said = "role = \"member\"\npeer_role = \"peer\"\nhealthcheck_role = \"check\"\n";
    let said = roles(format!("{vault}{etcd}{said}"));
    let wanted = [("etcd-server", "member"), ("etcd-peer", "peer"), ("etcd-healthcheck-client", "check")];
    assert_eq!(said, table(&wanted));
    let kubelet = "[kubelet]\nca = \"v\"\napi_server = \"https://a\"\nrole = \"client\"\n";
    let of_one = [("kubelet-client", "client"), ("kubelet-serving", "client")];
    assert_eq!(roles(format!("{vault}{kubelet}")), table(&of_one));
    let more = "serving_role = \"server\"\n[certificate.kubelet-client]\nrole = \"mine\"\n";
    let of_two = [("kubelet-client", "mine"), ("kubelet-serving", "server")];
    assert_eq!(roles(format!("{vault}{kubelet}{more}")), table(&of_two));
}

#[test]
fn without_rendering_there_are_certificates_and_no_files() {
    let etcd = "[etcd]\nca = \"k8s\"\ncluster = { cp1 = \"10.0.0.5\" }\n";
    let all = CONTROL_PLANE.to_owned() + etcd;
    let tables =
        ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "etcd"];
    let bare = tables.iter().fold(all.clone(), |text, table| {
        text.replace(&format!("[{table}]\n"), &format!("[{table}]\nrender = false\n"))
    });
    let (rendered, bare) = (node(&all), node(&bare));
    assert_eq!(bare.files, []);
    assert!(rendered.files.len() > 12 && bare.certificates == rendered.certificates);
}

/// `[kubernetes]` is the same as the long way to say it.
#[test]
fn what_is_shared_reaches_each_that_takes_it() {
    let shared = r#"
[ca.kubelets.local]
[ca.etcd.local]
[ca.front.local]
[kubernetes]
ca = "k8s"
etcd_ca = "etcd"
front_proxy_ca = "front"
kubelet_ca = "kubelets"
api_server = "https://api.example.com:6443"
service_cidr = "10.97.0.0/16"
cluster_cidr = "10.245.0.0/16"
cluster_domain = "k8s.internal"
cluster_dns = ["10.97.0.10"]
etcd_servers = ["https://10.0.0.5:2379", "https://10.0.0.6:2379"]
version = "1.26"
embed = true
[kube-apiserver]
[kube-controller-manager]
[kube-scheduler]
[kubelet]
[kube-proxy]
[admin]
[service-account]
generate = true
"#;
    let (cas, tables) = shared.split_once("[kubernetes]\n").unwrap();
    let (said, tables) = tables.split_once("[kube-apiserver]\n").unwrap();
    let said: BTreeMap<_, _> =
        said.lines().filter_map(|line| Some((line.split_once(" = ")?.0, line))).collect();
    let mut long = format!("{cas}[kube-apiserver]\n{tables}");
    for (table, keys) in [
        (
            "kube-apiserver",
            "ca etcd_ca front_proxy_ca kubelet_ca api_server service_cidr cluster_domain etcd_servers",
        ),
        ("kube-controller-manager", "ca service_cidr cluster_cidr embed"),
        ("kube-scheduler", "ca embed"),
        ("kubelet", "ca kubelet_ca api_server cluster_dns version embed cluster_domain"),
        ("kube-proxy", "ca api_server cluster_cidr embed"),
        ("admin", "ca embed"),
        ("service-account", "etcd_servers"),
    ] {
        let lines: Vec<_> = keys.split(' ').map(|key| said[key]).collect();
        let lines =
            lines.join("\n").replace(if table == "kubelet" { "kubelet_ca" } else { "\0" }, "serving_ca");
        long = long.replace(&format!("[{table}]\n"), &format!("[{table}]\n{lines}\n"));
    }
    let (short, long) = (node(shared), node(&long));
    assert_eq!(short.certificates, long.certificates);
    assert_eq!((short.files, short.keepsakes), (long.files, long.keepsakes));
}

#[test]
fn what_would_be_a_broken_cluster_is_a_fault_of_the_configuration() {
    let etcd = "[etcd]\nca = \"k8s\"\ncluster = { cp1 = \"10.0.0.5\" }\n";
    let kubelet = "[kubelet]\nca = \"k8s\"\napi_server = \"https://a\"\n";
    let apiserver = "[kube-apiserver]\nca = \"k8s\"\netcd_servers = [\"https://a:2379\"]\nservice_cidr = \"10.96.0.0/12\"\n";
    let own = |key: &str| format!("must not hold {key:?}: nodecert sets it from the tables above");
    for (tables, fault) in [
        (
            format!("{etcd}settings = {{ client-transport-security = {{}} }}\n"),
            own("client-transport-security"),
        ),
        (format!("{kubelet}settings = {{ authentication = {{}} }}\n"), own("authentication")),
        (format!("{kubelet}args = {{ hostname-override = \"x\" }}\n"), own("hostname-override")),
        (format!("{apiserver}args = {{ client-ca-file = \"/x\" }}\n"), own("client-ca-file")),
        (
            format!("{kubelet}args = {{ node-labels = \"a b\" }}\n"),
            "at which systemd would split it".to_owned(),
        ),
        (format!("{kubelet}format = \"static-pod\"\n"), "[kubelet] cannot run as a static pod".to_owned()),
        (format!("{kubelet}version = \"current\"\n"), "is not a version of Kubernetes".to_owned()),
        (format!("{kubelet}node_name = \"a_b\"\n"), "[kubelet] node_name".to_owned()),
        (
            format!("{apiserver}format = \"static-pod\"\n"),
            "needs image = \"registry.k8s.io/kube-apiserver".to_owned(),
        ),
        (apiserver.replace("\"https://a:2379\"", ""), "needs etcd_servers".to_owned()),
        (
            apiserver.replace("10.96.0.0/12", "10.96.0.0/12,10.97.0.0/16"),
            "one range, or one of IPv4".to_owned(),
        ),
        (apiserver.replace("10.96.0.0/12", "10.96.0.1/32"), "has no address for a service".to_owned()),
        (
            format!("{apiserver}tokens.a = {{ generate = true, groups = [\"a,b\"] }}\n"),
            "it is empty, or holds a comma".to_owned(),
        ),
        (
            format!("{apiserver}encryption = {{ generate = true, key = {{ file = \"/k\" }} }}\n"),
            "has both generate and key".to_owned(),
        ),
        ("[service-account]\ngenerate = \"10.0.0.5\"\n".to_owned(), "an address can move".to_owned()),
        (
            "[service-account]\ngenerate = true\nkind = \"ed25519\"\n".to_owned(),
            "RSA and ECDSA only".to_owned(),
        ),
    ] {
        let faults = expanded(&tables).expect_err(&tables);
        assert!(faults.contains(&fault), "{tables}{faults}");
    }
}

#[test]
fn an_address_of_ipv6_stands_in_brackets_where_a_url_holds_it() {
    let node = within(&NODE.replace("10.0.0.5", "fd00::5"), CONTROL_PLANE)
        .unwrap_or_else(|faults| panic!("{faults}"));
    let Content::Yaml(kubeconfig) = &at(&node, "scheduler.conf").content else { panic!("no YAML") };
    assert_eq!(kubeconfig["clusters"][0]["cluster"]["server"], "https://[fd00::5]:6443");
}

/// What only follows from a fault is none of its own.
#[test]
fn a_component_at_fault_is_the_only_one() {
    let vault = "[ca.v]\ntls.file = \"/ca.pem\"\nanchors.file = \"/ca.pem\"\nvault = { urls = [\"https://v:8200\"], mount = \"m\", auth = [{ cert = { certificate = \"etcd-server\" } }, { token = { file = \"/t\" } }] }\n";
    let etcd =
        |cluster: &str| format!("{vault}[etcd]\nca = \"v\"\ncluster = {{ {cluster} = \"10.0.0.5\" }}\n");
    let faults = expanded(&etcd("node01")).expect_err("not in its cluster");
    assert!(faults.contains("no entry for this host") && !faults.contains("logged in to"), "{faults}");
    assert!(
        expanded(&etcd("cp1").replace("etcd-server", "etcd-sever"))
            .is_err_and(|why| why.contains("logged in to"))
    );
}
