//! A real kube-apiserver over a real etcd with mutual TLS, from the files of one run: what each identity may
//! do, and that wrong ones may not.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test starts processes, reads files and fails aloud"
)]

mod bed;

use serde_json::Value;

use bed::{Daemon, Ended, Etcd, EtcdRelease, Host, Kubernetes, Lan, eventually};

const URL: &str = "https://10.99.0.5:6443";
const SUPER_ADMIN: &str = "/etc/kubernetes/super-admin.conf";
const PKI: &str = "/etc/kubernetes/pki";

/// The whole host, and three identities as guides that are wrong have them.
const CONFIG: &str = r#"
[node]
hostname = "cp1"
domain = "example.com"
addresses = ["10.99.0.5"]

[ca.k8s.local]
[ca.kubelets.local]
[ca.etcd.local]
[ca.front-proxy.local]

[kubernetes]
ca = "k8s"
kubelet_ca = "kubelets"
etcd_ca = "etcd"
front_proxy_ca = "front-proxy"
api_server = "https://10.99.0.5:6443"
service_cidr = "10.96.0.0/12"
cluster_cidr = "10.244.0.0/16"
etcd_servers = ["https://10.99.0.5:2379"]

[etcd]
ca = "etcd"
cluster = { cp1 = "10.99.0.5" }

[kube-apiserver]
[kube-controller-manager]
[kube-scheduler]
[kube-apiserver.tokens.monitor]
groups = ["system:monitoring"]
generate = true
[kube-apiserver.encryption]
generate = true
[kube-proxy]
# The table of connections is the machine's, not the guest's.
settings = { conntrack = { maxPerCore = 0, min = 0, tcpEstablishedTimeout = "0s", tcpCloseWaitTimeout = "0s" } }
[admin]
super_admin = true
embed = true
[service-account]
generate = true

[kubelet]
version = "1.20"
cluster_dns = ["10.96.0.10"]
args = { node-ip = "10.99.0.5" }
# The guest has no systemd to ask for cgroups, and the machine's swap is not ours.
settings = { cgroupsPerQOS = false, enforceNodeAllocatable = [], failSwapOn = false }

[certificate.no-node]
ca = "k8s"
common_name = "kubelet"
organization = ["system:nodes"]
usages = ["client"]
directory = "/etc/wrong"

[certificate.no-group]
ca = "k8s"
common_name = "system:node:cp1"
organization = []
usages = ["client"]
directory = "/etc/wrong"

[certificate.no-scheduler]
ca = "k8s"
common_name = "kube-scheduler"
organization = ["system:kube-scheduler"]
usages = ["client"]
directory = "/etc/wrong"
"#;

#[test]
#[ignore = "needs servers: run tests/all"]
fn a_real_control_plane_knows_each_identity_and_no_other() {
    let lan = Lan::of(&["10.99.0.5"]);
    let host = Host::new();
    let release = EtcdRelease::v3_4();
    let etcd = Etcd { host: &host, netns: lan.host(0), release: &release };
    etcd.install();
    // The manifests stay when the same programs get their command lines by the environment instead.
    host.configure(&as_pods(CONFIG));
    host.nodecert("run").exits(0);
    host.configure(CONFIG);
    host.nodecert("run").exits(0);

    let member = etcd.start("/etc/etcd/etcd.yaml");
    let plane = Kubernetes::new(&host, lan.host(0));
    let mut apiserver = plane.start("kube-apiserver", "/etc/kubernetes/apiserver", "KUBE_API_ARGS");
    ready(&plane, &mut apiserver);

    administrators(&plane);
    components(&plane);
    let mut kubelet = plane.start_node();
    registered(&plane, &mut kubelet);
    static_pods(&plane);
    nodes(&plane);
    wrong_ones(&plane);
    proxied(&plane);
    tokens(&plane);
    encrypted(&plane, &etcd);
    proxying(&host);
    let daemons = leases(&plane);

    let of_node = [kubelet.log(), host.read("/containerd.log"), host.read("/kube-proxy.log")];
    let logs = [member.log(), apiserver.log()].into_iter().chain(of_node);
    let logs: Vec<_> = logs.chain(daemons.iter().map(Daemon::log)).collect();
    for line in logs.iter().flat_map(|log| log.lines()) {
        for bad in BAD {
            assert!(!line.contains(bad), "{line}");
        }
    }
    secrets_stay_secret(&host, &logs);
}

/// What no log may say: of files that were not understood, and of certificates that were not accepted. The last
/// is our own, where a wrong client is turned away.
const BAD: [&str; 5] = [
    "rejected connection",
    "lenient decoding",
    "unknown flag",
    "process manifest",
    "remote error: tls: bad certificate",
];

/// The programs of the control plane, which can run as static pods.
const PODS: [&str; 3] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// The same host with static pods, of images that no registry has.
fn as_pods(config: &str) -> String {
    let pod = |config: String, program: &&str| {
        let table = format!("\n[{program}]\n");
        let lines = format!("format = \"static-pod\"\nimage = \"localhost/{program}:v1.20.2\"\n");
        config.replacen(&table, &(table.clone() + &lines), 1)
    };
    PODS.iter().fold(config.to_owned(), pod)
}

/// The kubelet has read each manifest to its last key: kube-apiserver's own check of it finds nothing strange, and
/// the kubelet's mirror of the pod has all of it. That it runs would take images and a guest that may make cgroups.
fn static_pods(plane: &Kubernetes<'_>) {
    for program in PODS {
        let check =
            format!("create --dry-run=client --validate -o json -f /etc/kubernetes/manifests/{program}.yaml");
        let written = json(&plane.kubectl(SUPER_ADMIN, &check));
        let query = format!("-n kube-system get pod {program}-cp1 -o json");
        eventually("a mirror of a static pod", || {
            let said = plane.kubectl(SUPER_ADMIN, &query);
            if said.status.success() { Ok(()) } else { Err(said.stderr) }
        });
        let mirror = json(&plane.kubectl(SUPER_ADMIN, &query));
        for part in ["/metadata/labels", "/metadata/namespace", "/spec"] {
            let (written, mirror) = (written.pointer(part).unwrap(), mirror.pointer(part).unwrap());
            assert!(holds(mirror, written), "{program}{part}: {written} became {mirror}");
        }
    }
}

fn json(said: &Ended) -> Value {
    serde_json::from_str(&said.stdout).unwrap_or_else(|why| panic!("{why}: {said:?}"))
}

/// Whether what is in `part` is in `whole` too.
fn holds(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(key, part)| whole.get(key).is_some_and(|whole| holds(whole, part)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(whole, part)| holds(whole, part))
        }
        _ => whole == part,
    }
}

/// The kubelet makes its own node; kube-apiserver reaches it as the client that it is given for that, once that is
/// bound, and no one else does.
fn registered(plane: &Kubernetes<'_>, kubelet: &mut Daemon) {
    eventually("a node that the kubelet has registered", || {
        kubelet.must_live();
        let query = "get node cp1 -o jsonpath={.status.addresses[?(@.type=='InternalIP')].address}";
        let said = plane.kubectl(SUPER_ADMIN, query);
        if said.stdout == "10.99.0.5" { Ok(()) } else { Err(said.stdout + &said.stderr + &kubelet.log()) }
    });
    let reached = || plane.kubectl(SUPER_ADMIN, "get --raw /api/v1/nodes/cp1/proxy/healthz");
    let said = reached();
    assert!(said.stderr.contains("Forbidden"), "{said:?}");
    let bind = "create clusterrolebinding kubelets --clusterrole=system:kubelet-api-admin --user=kube-apiserver-kubelet-client";
    let bound = plane.kubectl(SUPER_ADMIN, bind);
    assert!(bound.status.success(), "{bound:?}");
    eventually("kube-apiserver at the kubelet", || {
        let said = reached();
        if said.stdout.trim() == "ok" { Ok(()) } else { Err(said.stdout + &said.stderr) }
    });
    let kubelet = "https://10.99.0.5:10250/healthz";
    let trust = "/etc/kubernetes/pki/kubelet-ca.crt";
    for (pair, status) in
        [("apiserver-kubelet-client", "200"), ("scheduler", "403"), ("front-proxy-client", "401")]
    {
        assert_eq!(plane.get_from(kubelet, trust, &format!("{PKI}/{pair}"), &[]), status, "{pair}");
    }
}

/// It may list what it is to proxy, and no error says otherwise.
fn proxying(host: &Host) {
    eventually("a kube-proxy that knows the services", || {
        let said = host.read("/kube-proxy.log");
        let knows = said.contains("Caches are synced for service config");
        if knows && !said.contains("forbidden") { Ok(()) } else { Err(said) }
    });
}

/// A line of tokens.csv is a user in its groups, any other token no one.
fn tokens(plane: &Kubernetes<'_>) {
    let bound = plane.kubectl(
        SUPER_ADMIN,
        "create clusterrolebinding monitors --clusterrole=system:aggregate-to-view --group=system:monitoring",
    );
    assert!(bound.status.success(), "{bound:?}");
    let token = plane.host.read("/etc/kubernetes/tokens.csv").split(',').next().expect("a token").to_owned();
    let pods = format!("{URL}/api/v1/namespaces/default/pods");
    eventually("a token's user", || match plane.get_with_token(&pods, &token) {
        status if status == "200" => Ok(()),
        status => Err(status),
    });
    assert_eq!(plane.get_with_token(&pods, "0123456789abcdef0123456789abcdef"), "401");
}

/// What is a secret to Kubernetes lies in etcd as no text.
fn encrypted(plane: &Kubernetes<'_>, etcd: &Etcd<'_>) {
    let made = plane.kubectl(SUPER_ADMIN, "create secret generic hidden --from-literal=word=in-plain-sight");
    assert!(made.status.success(), "{made:?}");
    let mut command = etcd.etcdctl("--endpoints https://10.99.0.5:2379 --cacert /etc/etcd/pki/ca.crt --cert /etc/etcd/pki/server.crt --key /etc/etcd/pki/server.key get --print-value-only /registry/secrets/default/hidden");
    let lies = String::from_utf8_lossy(&command.output().expect("etcdctl").stdout).into_owned();
    assert!(lies.starts_with("k8s:enc:secretbox:v1:key1:") && !lies.contains("in-plain-sight"), "{lies}");
    let read = plane.kubectl(SUPER_ADMIN, "get secret hidden -o jsonpath={.data.word}");
    assert_eq!(read.stdout, "aW4tcGxhaW4tc2lnaHQ=", "{read:?}");
}

fn secrets_stay_secret(host: &Host, logs: &[String]) {
    for file in ["token-monitor", "encryption-key"] {
        let secret = host.read(&format!("/var/lib/nodecert/keepsakes/{file}"));
        assert!(logs.iter().all(|log| !log.contains(secret.trim())), "{file}");
    }
}

fn ready(plane: &Kubernetes<'_>, apiserver: &mut Daemon) {
    eventually("a kube-apiserver that is ready", || {
        apiserver.must_live();
        let said = plane.kubectl(SUPER_ADMIN, "get --raw /readyz");
        if said.stdout.trim() == "ok" { Ok(()) } else { Err(said.stdout + &said.stderr) }
    });
}

/// `system:masters` may do everything; the other group is bound first, and by it.
fn administrators(plane: &Kubernetes<'_>) {
    let admin = "/etc/kubernetes/admin.conf";
    may(plane, SUPER_ADMIN, "delete nodes", true);
    may(plane, admin, "delete nodes", false);
    let bind = "create clusterrolebinding admins --clusterrole=cluster-admin --group=kubeadm:cluster-admins";
    let bound = plane.kubectl(SUPER_ADMIN, bind);
    assert!(bound.status.success(), "{bound:?}");
    may(plane, admin, "delete nodes", true);
}

fn components(plane: &Kubernetes<'_>) {
    for (component, verb, allowed) in [
        ("scheduler", "create pods --subresource=binding", true),
        ("scheduler", "get secrets", false),
        ("controller-manager", "create serviceaccounts --subresource=token", true),
        ("controller-manager", "delete nodes", false),
        ("kube-proxy", "list services", true),
        ("kube-proxy", "list secrets", false),
        ("kubelet", "list secrets", false),
    ] {
        may(plane, &format!("/etc/kubernetes/{component}.conf"), verb, allowed);
    }
}

/// NodeRestriction: its own node, and no other.
fn nodes(plane: &Kubernetes<'_>) {
    let kubelet = "/etc/kubernetes/kubelet.conf";
    plane.host.write("/node.json", r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"cp2"}}"#);
    let said = plane.kubectl(kubelet, "create -f /node.json");
    assert!(said.stderr.contains("is not allowed to modify node \"cp2\""), "{said:?}");
    let made = plane.kubectl(SUPER_ADMIN, "create -f /node.json");
    assert!(made.status.success(), "{made:?}");
    for (node, allowed) in [("cp1", true), ("cp2", false)] {
        let said = plane.kubectl(kubelet, &format!("annotate node {node} seen=yes"));
        assert_eq!(said.status.success(), allowed, "{node}: {said:?}");
    }
}

fn wrong_ones(plane: &Kubernetes<'_>) {
    let nodes = format!("{URL}/api/v1/nodes");
    assert_eq!(plane.get(&nodes, &format!("{PKI}/scheduler"), &[]), "200");
    assert_eq!(plane.get(&nodes, "/etc/wrong/no-scheduler", &[]), "403");
    let own = format!("{URL}/api/v1/nodes/cp1");
    assert_eq!(plane.get(&own, "/var/lib/kubelet/pki/kubelet-client", &[]), "200");
    assert_eq!(plane.get(&own, "/etc/wrong/no-node", &[]), "403");
    assert_eq!(plane.get(&own, "/etc/wrong/no-group", &[]), "403");
    // A server's certificate proves no client, and those of other CAs no one.
    assert_eq!(plane.get(&nodes, &format!("{PKI}/apiserver"), &[]), "401");
    assert_eq!(plane.get(&nodes, &format!("{PKI}/apiserver-etcd-client"), &[]), "401");
}

/// Only the front proxy speaks for others.
fn proxied(plane: &Kubernetes<'_>) {
    let headers = ["X-Remote-User: someone", "X-Remote-Group: system:masters"];
    let secrets = format!("{URL}/api/v1/secrets");
    assert_eq!(plane.get(&secrets, &format!("{PKI}/front-proxy-client"), &headers), "200");
    assert_eq!(plane.get(&secrets, &format!("{PKI}/scheduler"), &headers), "403");
}

/// Controller manager and scheduler are elected under the names of their kubeconfigs.
fn leases(plane: &Kubernetes<'_>) -> [Daemon; 2] {
    let mut daemons = [
        plane.start(
            "kube-controller-manager",
            "/etc/kubernetes/controller-manager",
            "KUBE_CONTROLLER_MANAGER_ARGS",
        ),
        plane.start("kube-scheduler", "/etc/kubernetes/scheduler", "KUBE_SCHEDULER_ARGS"),
    ];
    for lease in ["kube-controller-manager", "kube-scheduler"] {
        eventually(lease, || {
            daemons.iter_mut().for_each(Daemon::must_live);
            let query = format!("-n kube-system get lease {lease} -o jsonpath={{.spec.holderIdentity}}");
            let said = plane.kubectl(SUPER_ADMIN, &query);
            if said.status.success() && !said.stdout.is_empty() { Ok(()) } else { Err(said.stderr) }
        });
    }
    // Tokens are signed with sa.key: the controller manager makes one for each account, and it is a JWT.
    eventually("a service account", || {
        let said = plane.kubectl(SUPER_ADMIN, "-n default get serviceaccount default -o name");
        if said.status.success() { Ok(()) } else { Err(said.stderr) }
    });
    daemons
}

fn may(plane: &Kubernetes<'_>, kubeconfig: &str, what: &str, allowed: bool) {
    let said = plane.kubectl(kubeconfig, &format!("auth can-i {what}"));
    // "no" is followed by the authorizer's reason, where it gives one.
    let answer = said.stdout.split_whitespace().next();
    assert_eq!(answer, Some(if allowed { "yes" } else { "no" }), "{kubeconfig} {what}: {said:?}");
}
