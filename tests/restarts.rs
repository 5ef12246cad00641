//! Who is restarted by what: each program of a Kubernetes host, by a change of what it reads at its start only, and by
//! nothing that it reads again. Sources: client-go `transport/cert_rotation.go`, `k8s.io/apiserver/pkg/server/dynamiccertificates`.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails aloud")]

use std::collections::{BTreeMap, BTreeSet};

use nodecert::config::{self, Text};
use nodecert::deed::{Deed, Event};
use nodecert::facts::{self, Host, Sources};
use nodecert::node::{self, Node};

const HOST: &str = r#"
[node]
hostname = "cp1"
addresses = ["10.0.0.5"]
[ca.k8s.local]
[kubernetes]
ca = "k8s"
api_server = "https://api.example.com:6443"
service_cidr = "10.96.0.0/12"
etcd_servers = ["https://10.0.0.5:2379"]
[kube-apiserver]
tokens.a = { generate = "cp1", kubeconfig = "/etc/kubernetes/a.conf" }
encryption = { generate = "cp1" }
[kube-controller-manager]
[kube-scheduler]
[kubelet]
[kube-proxy]
[admin]
"#;

fn node(text: &str) -> Node {
    let text = Text { path: "config.toml".into(), text: text.to_owned(), private: true };
    let config = config::parse(vec![text]).unwrap_or_else(|faults| panic!("{faults}"));
    let facts = facts::gather(&config.node, &Host::default(), &Sources::default()).unwrap();
    node::expand(&config, &facts, &BTreeSet::new()).unwrap_or_else(|faults| panic!("{faults}"))
}

/// The deeds of each file that has some, as reports say them.
fn by_files(node: &Node) -> BTreeMap<String, String> {
    let told = node.files.iter().filter(|file| !file.deeds.is_empty());
    told.map(|file| (file.path.display().to_string(), said(&file.deeds))).collect()
}

fn said(deeds: &[Deed]) -> String {
    deeds.iter().map(Deed::to_string).collect::<Vec<_>>().join(", ")
}

/// The certificates whose leaf or whose CA's certificates have a deed.
fn by_certificates(node: &Node, event: Event) -> BTreeMap<&str, String> {
    let deeds = |hooks: &[nodecert::deed::Hook]| {
        let on = hooks.iter().filter(|hook| hook.on.contains(&event));
        said(&on.map(|hook| hook.deed.clone()).collect::<Vec<_>>())
    };
    let all =
        node.certificates.values().map(|certificate| (certificate.name.as_str(), deeds(&certificate.hooks)));
    all.filter(|(_, deeds)| !deeds.is_empty()).collect()
}

fn table<'a, K: From<&'a str> + Ord>(rows: &[(&'a str, &str)]) -> BTreeMap<K, String> {
    rows.iter().map(|&(what, deeds)| (K::from(what), deeds.to_owned())).collect()
}

#[test]
fn what_is_read_at_the_start_only_restarts_its_unit() {
    let node = node(HOST);
    assert_eq!(
        by_files(&node),
        table(&[
            ("/etc/default/kubelet", "restart kubelet.service"),
            ("/etc/kubernetes/apiserver", "restart kube-apiserver.service"),
            ("/etc/kubernetes/controller-manager", "restart kube-controller-manager.service"),
            ("/etc/kubernetes/controller-manager.conf", "restart kube-controller-manager.service"),
            ("/etc/kubernetes/encryption.yaml", "restart kube-apiserver.service"),
            ("/etc/kubernetes/kube-proxy.conf", "restart kube-proxy.service"),
            ("/etc/kubernetes/kubelet.conf", "restart kubelet.service"),
            ("/etc/kubernetes/proxy", "restart kube-proxy.service"),
            ("/etc/kubernetes/scheduler", "restart kube-scheduler.service"),
            ("/etc/kubernetes/scheduler.conf", "restart kube-scheduler.service"),
            ("/etc/kubernetes/tokens.csv", "restart kube-apiserver.service"),
            ("/var/lib/kube-proxy/config.yaml", "restart kube-proxy.service"),
            ("/var/lib/kubelet/config.yaml", "restart kubelet.service"),
        ])
    );
    assert_eq!(
        by_certificates(&node, Event::Ca),
        table(&[
            ("kube-apiserver-etcd-client", "restart kube-apiserver.service"),
            ("kube-apiserver-kubelet-client", "restart kube-apiserver.service"),
            ("kube-controller-manager", "restart kube-controller-manager.service"),
            ("kube-proxy", "restart kube-proxy.service"),
            ("kube-scheduler", "restart kube-scheduler.service"),
            ("kubelet-client", "restart kubelet.service"),
        ])
    );
    assert_eq!(by_certificates(&node, Event::Leaf), BTreeMap::new(), "pairs are read again");
}

#[test]
fn an_older_kubelet_reads_its_serving_pair_once() {
    for (version, told) in [("1.30", vec![("kubelet-serving", "restart kubelet.service")]), ("1.31", vec![])]
    {
        let node = node(&HOST.replace("[kubelet]", &format!("[kubelet]\nversion = \"{version}\"")));
        assert_eq!(by_certificates(&node, Event::Leaf), table(&told), "{version}");
    }
}

#[test]
fn a_drop_in_is_read_by_systemd_first_and_a_manifest_by_the_kubelet() {
    let pods = HOST.replace("[kube-scheduler]", "[kube-scheduler]\nformat = \"static-pod\"\nimage = \"x:1\"");
    let node = node(&pods.replace("[kube-proxy]", "[kube-proxy]\nformat = \"drop-in\""));
    let told = by_files(&node);
    let drop_in = &told["/etc/systemd/system/kube-proxy.service.d/50-nodecert.conf"];
    assert_eq!(drop_in, "reload systemd's units, restart kube-proxy.service");
    assert!(!told.contains_key("/etc/kubernetes/manifests/kube-scheduler.yaml"), "{told:?}");
}

/// systemctl would fail for a unit that is not there, and nothing else restarts a pod.
#[test]
fn a_static_pod_restarts_no_unit() {
    let mut pods = HOST.to_owned();
    for program in ["kube-apiserver", "kube-controller-manager", "kube-scheduler"] {
        pods = pods.replace(
            &format!("[{program}]"),
            &format!("[{program}]\nformat = \"static-pod\"\nimage = \"x:1\""),
        );
    }
    let node = node(&pods);
    let told = [
        by_files(&node).into_values().collect::<Vec<_>>().join(" "),
        format!("{:?}", by_certificates(&node, Event::Ca)),
    ];
    for program in ["apiserver", "controller-manager", "scheduler"] {
        assert!(told.iter().all(|told| !told.contains(&format!("restart kube-{program}"))), "{told:?}");
    }
    assert!(told.iter().all(|told| told.contains("restart kubelet.service")), "{told:?}");
}

#[test]
fn one_key_of_its_table_keeps_a_server_from_being_restarted() {
    let restarts = |unit: &str| {
        let node =
            node(&HOST.replace("[kube-apiserver]", &format!("[kube-apiserver]\nrestart = \"{unit}\"")));
        let of_files = by_files(&node).into_values();
        let of_cas: Vec<_> = by_certificates(&node, Event::Ca).into_values().collect();
        of_files.chain(of_cas).filter(|deeds| deeds.contains("api")).collect::<Vec<_>>()
    };
    assert_eq!(restarts(""), [""; 0]);
    assert_eq!(restarts("api.service"), ["restart api.service"; 5]);
}

#[test]
fn an_operator_may_say_otherwise() {
    let node = node(&(HOST.to_owned() + "[certificate.kube-scheduler]\nhooks = []\n"));
    assert!(!by_certificates(&node, Event::Ca).contains_key("kube-scheduler"));
}
