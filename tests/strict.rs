//! Every YAML file that is rendered holds nothing that its reader does not know. etcd ignores an unknown key in
//! silence, kubelet and kube-proxy fall back to lenient decoding, and a typo then leaves a port open. The types here
//! are written from the readers' own: `k8s.io/kubelet/config/v1beta1`, `k8s.io/kube-proxy/config/v1alpha1`,
//! `client-go/tools/clientcmd/api/v1`, `k8s.io/apiserver/pkg/apis/apiserver/v1`, `k8s.io/api/core/v1`, etcd `embed/config.go`.

#![allow(
    dead_code,
    non_snake_case,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "fields are there to be known, by their readers' names; a test fails aloud"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use nodecert::config::{self, Text};
use nodecert::facts::{self, Host, Sources};
use nodecert::file::{Content, File};
use nodecert::node;
use serde::Deserialize;
use serde_json::Value;

/// What no example has: pods, data within kubeconfigs, tokens, encryption, an older kubelet.
const RARE: &str = r#"
[ca.k8s.local]
[kubernetes]
ca = "k8s"
embed = true
api_server = "https://api.example.com:6443"
service_cidr = "10.96.0.0/12"
cluster_cidr = "10.244.0.0/16"
etcd_servers = ["https://10.0.0.5:2379"]
[kube-apiserver]
format = "static-pod"
image = "registry.k8s.io/kube-apiserver:v1.34.0"
tokens.a = { generate = "cp1", kubeconfig = "/etc/kubernetes/a.conf" }
encryption = { generate = "cp1" }
[kube-controller-manager]
format = "static-pod"
image = "registry.k8s.io/kube-controller-manager:v1.34.0"
[kube-scheduler]
format = "static-pod"
image = "registry.k8s.io/kube-scheduler:v1.34.0"
[kubelet]
version = "1.26"
[kube-proxy]
[admin]
super_admin = true
"#;

#[test]
fn every_rendered_yaml_is_known_to_its_reader_to_the_last_key() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/examples");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let entries = entries.filter(|path| path.extension().is_some_and(|kind| kind == "toml"));
    let texts = entries.map(|path| std::fs::read_to_string(path).unwrap()).chain([RARE.to_owned()]);
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for text in texts {
        for (path, mapping) in rendered(&text) {
            let kind = decode(mapping).unwrap_or_else(|why| panic!("{path}: {why}"));
            *kinds.entry(kind).or_default() += 1;
        }
    }
    let all = [
        "Config",
        "EncryptionConfiguration",
        "KubeProxyConfiguration",
        "KubeletConfiguration",
        "Pod",
        "etcd",
    ];
    assert_eq!(kinds.keys().map(String::as_str).collect::<Vec<_>>(), all, "each was seen");
}

#[test]
fn a_key_that_no_reader_knows_is_found() {
    let (_, kubelet) = rendered(RARE).into_iter().find(|(path, _)| path.ends_with("config.yaml")).unwrap();
    let mut typo = kubelet;
    typo["authentication"]["x509"]["clientCaFile"] = "/x".into();
    assert!(decode(typo).unwrap_err().contains("clientCaFile"));
}

/// Flags of the current Kubernetes, of those that are ever rendered: kubernetes.io "Component tools", v1.34. Old guides
/// have others, such as `--etcd-ca-file` and `--kubelet-certfile`, and a program ends at a flag that it does not know.
const FLAGS: [(&str, &str); 5] = [
    (
        "kube-apiserver",
        "advertise-address secure-port service-cluster-ip-range tls-cert-file tls-private-key-file client-ca-file \
         etcd-servers etcd-cafile etcd-certfile etcd-keyfile kubelet-client-certificate kubelet-client-key \
         kubelet-certificate-authority kubelet-preferred-address-types proxy-client-cert-file proxy-client-key-file \
         requestheader-client-ca-file requestheader-allowed-names requestheader-username-headers \
         requestheader-group-headers requestheader-extra-headers-prefix service-account-issuer \
         service-account-key-file service-account-signing-key-file token-auth-file encryption-provider-config \
         authorization-mode enable-admission-plugins allow-privileged",
    ),
    (
        "kube-controller-manager",
        "kubeconfig authentication-kubeconfig authorization-kubeconfig client-ca-file root-ca-file \
         service-account-private-key-file use-service-account-credentials controllers service-cluster-ip-range \
         allocate-node-cidrs cluster-cidr bind-address leader-elect",
    ),
    (
        "kube-scheduler",
        "kubeconfig authentication-kubeconfig authorization-kubeconfig client-ca-file bind-address leader-elect",
    ),
    ("kubelet", "config kubeconfig hostname-override"),
    ("kube-proxy", "config"),
];

#[test]
fn every_flag_is_one_of_the_current_kubernetes() {
    let current = RARE.replace("version = \"1.26\"", "format = \"drop-in\"");
    let plain = ["kube-apiserver", "kube-controller-manager", "kube-scheduler"]
        .map(|program| format!("format = \"static-pod\"\nimage = \"registry.k8s.io/{program}:v1.34.0\"\n"));
    let plain = plain.iter().fold(RARE.to_owned(), |text, lines| text.replace(lines, ""));
    let mut seen: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for text in [current, plain.replace("version = \"1.26\"", "")] {
        let (files, programs) = (files(&text), FLAGS.map(|(program, _)| program));
        for (program, words) in programs.map(|program| (program, words(&files, program))) {
            seen.entry(program).or_default().extend(words);
        }
    }
    for (program, flags) in FLAGS {
        let flags: BTreeSet<_> = flags.split_whitespace().map(str::to_owned).collect();
        let strange: Vec<_> = seen[program].difference(&flags).collect();
        assert!(strange.is_empty(), "{program} has no {strange:?}");
        assert_eq!(seen[program], flags, "{program}: all were seen");
    }
    let older = words(&files(RARE), "kubelet");
    assert!(older.contains(&"container-runtime".to_owned()), "gone since 1.27: {older:?}");
}

/// The names of the flags in a program's command line, wherever that stands.
fn words(files: &[File], program: &str) -> Vec<String> {
    let names = [format!("{program}-arguments"), format!("{program}-drop-in"), format!("{program}-manifest")];
    let file = files.iter().find(|file| names.iter().any(|name| file.name.as_str() == name));
    let line = match &file.unwrap_or_else(|| panic!("no command line of {program}")).content {
        Content::Env(lines) => lines[0].1.clone(),
        Content::Text(unit) => unit.clone(),
        Content::Yaml(pod) => pod["spec"]["containers"][0]["command"].to_string().replace("\",\"", " "),
        content => panic!("{content:?}"),
    };
    let flags = line.split_whitespace().filter_map(|word| word.strip_prefix("--")?.split('=').next());
    flags.map(str::to_owned).collect()
}

/// The YAML files of a host with this configuration.
fn rendered(text: &str) -> Vec<(String, Value)> {
    let yaml = |content: &Content| match content {
        Content::Yaml(mapping) => Some(Value::Object(mapping.clone())),
        Content::Filled(inner, _) => match &**inner {
            Content::Yaml(mapping) => Some(Value::Object(mapping.clone())),
            _ => None,
        },
        _ => None,
    };
    let files = files(text);
    files.iter().filter_map(|file| Some((file.path.display().to_string(), yaml(&file.content)?))).collect()
}

/// The files of a host with this configuration, on the host that is in all its lists.
fn files(text: &str) -> Vec<File> {
    let name = if text.contains("node02") { "node02" } else { "node01" };
    let node = format!(
        "[node]\nhostname = \"{name}\"\ndomain = \"example.com\"\naddresses = [\"10.0.0.{}\"]\n",
        if name == "node02" { 12 } else { 11 }
    );
    let text = Text { path: "config.toml".into(), text: text.to_owned() + &node, private: true };
    let config = config::parse(vec![text]).unwrap_or_else(|faults| panic!("{faults}"));
    let facts = facts::gather(&config.node, &Host::default(), &Sources::default()).unwrap();
    node::expand(&config, &facts, &BTreeSet::new()).unwrap_or_else(|faults| panic!("{faults}")).files
}

fn decode(mapping: Value) -> Result<String, String> {
    let kind = mapping["kind"].as_str().unwrap_or("etcd").to_owned();
    let version = mapping["apiVersion"].as_str().unwrap_or_default().to_owned();
    let decoded = match (kind.as_str(), version.as_str()) {
        ("Config", "v1") => serde_json::from_value::<Kubeconfig>(mapping).map(drop),
        ("KubeletConfiguration", "kubelet.config.k8s.io/v1beta1") => {
            serde_json::from_value::<KubeletConfiguration>(mapping).map(drop)
        }
        ("KubeProxyConfiguration", "kubeproxy.config.k8s.io/v1alpha1") => {
            serde_json::from_value::<KubeProxyConfiguration>(mapping).map(drop)
        }
        ("EncryptionConfiguration", "apiserver.config.k8s.io/v1") => {
            serde_json::from_value::<EncryptionConfiguration>(mapping).map(drop)
        }
        ("Pod", "v1") => serde_json::from_value::<Pod>(mapping).map(drop),
        ("etcd", "") => serde_json::from_value::<Etcd>(mapping).map(drop),
        _ => return Err(format!("no reader knows {version} {kind}")),
    };
    decoded.map(|()| kind).map_err(|why| why.to_string())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KubeletConfiguration {
    apiVersion: String,
    kind: String,
    authentication: Authentication,
    authorization: Authorization,
    tlsCertFile: String,
    tlsPrivateKeyFile: String,
    tlsMinVersion: String,
    rotateCertificates: bool,
    serverTLSBootstrap: bool,
    clusterDomain: String,
    clusterDNS: Vec<String>,
    cgroupDriver: String,
    containerRuntimeEndpoint: Option<String>,
    staticPodPath: String,
    readOnlyPort: i32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Authentication {
    anonymous: Enabled,
    webhook: Enabled,
    x509: X509,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Enabled {
    enabled: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct X509 {
    clientCAFile: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Authorization {
    mode: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KubeProxyConfiguration {
    apiVersion: String,
    kind: String,
    clientConnection: ClientConnection,
    hostnameOverride: String,
    clusterCIDR: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientConnection {
    kubeconfig: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Kubeconfig {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
    contexts: Vec<NamedContext>,
    current_context: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<String>,
    certificate_authority_data: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct User {
    client_certificate: Option<String>,
    client_certificate_data: Option<String>,
    client_key: Option<String>,
    client_key_data: Option<String>,
    token: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EncryptionConfiguration {
    apiVersion: String,
    kind: String,
    resources: Vec<Resources>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resources {
    resources: Vec<String>,
    providers: Vec<Provider>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
enum Provider {
    Secretbox(Keys),
    Aescbc(Keys),
    Identity {},
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Vec<CipherKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CipherKey {
    name: String,
    secret: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pod {
    apiVersion: String,
    kind: String,
    metadata: Metadata,
    spec: PodSpec,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    name: String,
    namespace: String,
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PodSpec {
    hostNetwork: bool,
    priorityClassName: String,
    securityContext: SecurityContext,
    containers: Vec<Container>,
    volumes: Vec<Volume>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SecurityContext {
    seccompProfile: SeccompProfile,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SeccompProfile {
    r#type: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Container {
    name: String,
    image: String,
    command: Vec<String>,
    livenessProbe: Probe,
    volumeMounts: Vec<VolumeMount>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Probe {
    httpGet: HttpGet,
    initialDelaySeconds: i32,
    timeoutSeconds: i32,
    failureThreshold: i32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpGet {
    host: String,
    path: String,
    port: u16,
    scheme: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VolumeMount {
    name: String,
    mountPath: String,
    readOnly: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Volume {
    name: String,
    hostPath: HostPath,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostPath {
    path: String,
    r#type: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Etcd {
    name: String,
    data_dir: String,
    listen_client_urls: String,
    advertise_client_urls: String,
    listen_peer_urls: String,
    initial_advertise_peer_urls: String,
    initial_cluster: String,
    initial_cluster_token: String,
    initial_cluster_state: String,
    client_transport_security: TransportSecurity,
    peer_transport_security: TransportSecurity,
    enable_grpc_gateway: bool,
    logger: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct TransportSecurity {
    cert_file: String,
    key_file: String,
    client_cert_auth: bool,
    trusted_ca_file: String,
}
