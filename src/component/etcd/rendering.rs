//! etcd's own configuration, as YAML or as variables.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::{Member, PASSAGE, Plain, Settings, State, YAML, loopback};
use crate::certificate;
use crate::component::{Surroundings, bracketed, path};
use crate::setting::{At, Fault};

impl Settings {
    pub(super) fn yaml(
        &self,
        member: &Member,
        around: Surroundings<'_>,
        pairs: [&certificate::Certificate; 2],
    ) -> Map<String, Value> {
        let [client, peer] = [Plain::Clients, Plain::Peers].map(|port| self.scheme(port));
        let host = bracketed(&member.host);
        let cluster = self
            .cluster
            .get_ref()
            .iter()
            .map(|(name, host)| format!("{name}={peer}://{}:2380", bracketed(host)));
        let state = match self.state.unwrap_or(self.found_state(around)) {
            State::New => "new",
            State::Existing => "existing",
        };
        let [server, peer_pair] = pairs.map(|pair| {
            json!({
                "cert-file": path(&pair.place.path(&pair.place.cert)),
                "key-file": path(&pair.place.path(&pair.place.key)),
                "client-cert-auth": true,
                "trusted-ca-file": pair.trust.as_deref().map(path),
            })
        });
        let rendered = json!({
            "name": member.name,
            "data-dir": path(&self.data_dir),
            "listen-client-urls": self.listen_clients(member.listen),
            "advertise-client-urls": format!("{client}://{host}:2379"),
            "listen-peer-urls": format!("{peer}://{}:2380", bracketed(&member.listen.to_string())),
            "initial-advertise-peer-urls": format!("{peer}://{host}:2380"),
            "initial-cluster": cluster.collect::<Vec<_>>().join(","),
            "initial-cluster-token": self.token,
            "initial-cluster-state": state,
            "client-transport-security": server,
            "peer-transport-security": peer_pair,
            // Restarts in turn take the cluster's lock through it; with a configuration file etcd 3.4 has it off.
            "enable-grpc-gateway": true,
            "logger": "zap",
        });
        match rendered {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }

    fn scheme(&self, port: Plain) -> &'static str {
        if self.plain.contains(&port) { "http" } else { "https" }
    }

    /// A port that speaks both gives gRPC clients without TLS to the server that wants it, or not, as it happens
    /// (etcd 3.4 and 3.5, `embed/serve.go`): each has one of its own.
    fn listen_clients(&self, listen: IpAddr) -> String {
        let hosts = [bracketed(&listen.to_string()), loopback(listen).to_owned()];
        let ports: &[_] = if self.plain.contains(&Plain::Clients) {
            &[("http", 2379), ("https", PASSAGE)]
        } else {
            &[("https", 2379)]
        };
        let urls = ports
            .iter()
            .flat_map(|(scheme, port)| hosts.iter().map(move |host| format!("{scheme}://{host}:{port}")));
        urls.collect::<Vec<_>>().join(",")
    }

    /// A member that has run belongs to a cluster that is there.
    fn found_state(&self, around: Surroundings<'_>) -> State {
        if around.present.contains(&self.probe()) { State::Existing } else { State::New }
    }

    /// The same settings as variables: `ETCD_` and the flag's name; the two TLS tables become prefixes.
    pub(super) fn env(&self, rendered: &Map<String, Value>) -> Result<Vec<(String, String)>, Vec<Fault>> {
        let mut lines = Vec::new();
        let mut faults = Vec::new();
        for (key, value) in rendered {
            let prefix = match key.as_str() {
                "client-transport-security" => "",
                "peer-transport-security" => "peer-",
                _ => key,
            };
            match value {
                Value::Object(table) => {
                    lines.extend(
                        table.iter().map(|(key, value)| (variable(&format!("{prefix}{key}")), plain(value))),
                    );
                }
                Value::Array(_) => {
                    let span = self.settings.as_ref().map(At::span).unwrap_or_default();
                    faults.push(Fault::at(
                        span,
                        format!("settings has a list at {key:?}, which format = \"env\" cannot hold"),
                    ));
                }
                _ => lines.push((variable(prefix), plain(value))),
            }
        }
        let mut seen = BTreeSet::new();
        let twice = lines.iter().filter(|(name, _)| !seen.insert(name.clone()));
        faults.extend(twice.map(|(name, _)| {
            let span = self.settings.as_ref().map(At::span).unwrap_or_default();
            Fault::at(span, format!("settings must not set {name}: nodecert sets it from the tables above"))
        }));
        if faults.is_empty() { Ok(lines) } else { Err(faults) }
    }
}

fn variable(flag: &str) -> String {
    format!("ETCD_{}", flag.replace('-', "_").to_ascii_uppercase())
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Debian's unit starts etcd from its environment; this makes it read the YAML instead.
pub(super) fn drop_in() -> String {
    format!("[Service]\nExecStart=\nExecStart=/usr/bin/etcd --config-file {YAML}\n")
}
