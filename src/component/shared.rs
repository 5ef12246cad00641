//! `[kubernetes]`: what the components of one cluster have in common, written once. A component takes
//! from it what its own table does not say, and is on this host only if that table is there, be it empty.

use toml::de::{DeTable, DeValue};

use crate::setting::{At, Fault, unknown};

/// The name of the table.
pub const TABLE: &str = "kubernetes";

/// What each component takes, and as which of its own keys.
const TAKEN: [(&str, &[(&str, &str)]); 7] = [
    (
        "kube-apiserver",
        &[
            ("ca", "ca"),
            ("etcd_ca", "etcd_ca"),
            ("front_proxy_ca", "front_proxy_ca"),
            ("kubelet_ca", "kubelet_ca"),
            ("api_server", "api_server"),
            ("service_cidr", "service_cidr"),
            ("cluster_domain", "cluster_domain"),
            ("etcd_servers", "etcd_servers"),
        ],
    ),
    (
        "kube-controller-manager",
        &[
            ("ca", "ca"),
            ("service_cidr", "service_cidr"),
            ("cluster_cidr", "cluster_cidr"),
            ("embed", "embed"),
        ],
    ),
    ("kube-scheduler", &[("ca", "ca"), ("embed", "embed")]),
    (
        "kubelet",
        &[
            ("ca", "ca"),
            ("kubelet_ca", "serving_ca"),
            ("api_server", "api_server"),
            ("cluster_dns", "cluster_dns"),
            ("version", "version"),
            ("embed", "embed"),
            ("cluster_domain", "cluster_domain"),
        ],
    ),
    (
        "kube-proxy",
        &[("ca", "ca"), ("api_server", "api_server"), ("cluster_cidr", "cluster_cidr"), ("embed", "embed")],
    ),
    ("admin", &[("ca", "ca"), ("embed", "embed")]),
    ("service-account", &[("etcd_servers", "etcd_servers")]),
];

/// Takes `[kubernetes]` out of the tables and hands it to those that are there.
pub fn share(tables: &mut DeTable<'_>) -> Vec<Fault> {
    let Some(shared) = tables.remove(TABLE) else { return Vec::new() };
    let span = shared.span();
    let DeValue::Table(shared) = shared.into_inner() else {
        return vec![Fault::at(span, format!("{TABLE} is a table: write [{TABLE}]"))];
    };
    for (component, taken) in TAKEN {
        let Some(DeValue::Table(own)) = tables.get_mut(component).map(At::get_mut) else { continue };
        for (key, own_key) in taken {
            if let Some((written, value)) = shared.get_key_value(*key).filter(|_| !own.contains_key(*own_key))
            {
                own.insert(At::new(written.span(), (*own_key).into()), value.clone());
            }
        }
    }
    let mut there: Vec<&str> = Vec::new();
    for (key, _) in TAKEN.iter().flat_map(|(_, taken)| taken.iter()) {
        if !there.contains(key) {
            there.push(key);
        }
    }
    let strange = shared.keys().filter(|key| !there.contains(&key.get_ref().as_ref()));
    strange.map(|key| unknown(key, &there)).collect()
}
