//! Network namespaces joined by a bridge, so that members have addresses, and source addresses, of
//! their own. On loopback the kernel picks 127.0.0.1 as source whatever the member's address is, and a
//! peer certificate without the right SAN goes unnoticed.
//!
//! The namespaces have no name: each lives as long as a `cat` that waits on a pipe from the test, so
//! that not even a killed test leaves one behind.

use super::process::must;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A network namespace with loopback up.
pub(crate) struct Netns {
    holder: Child,
}

impl Netns {
    pub(crate) fn new() -> Self {
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo up && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare of util-linux");
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "up\n", "no network namespace: these tests run as root");
        Self { holder }
    }

    /// `program` inside the namespace; arguments are the caller's to append. It is exec'd, not forked.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid(), "--net", "--", program]);
        command
    }

    /// What setns(2) takes.
    pub(crate) fn namespace(&self) -> File {
        File::open(self.namespace_path()).unwrap()
    }

    pub(crate) fn namespace_path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.pid()).into()
    }

    fn pid(&self) -> String {
        self.holder.id().to_string()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Fails only when the holder has already gone.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Hosts on one bridge, 10.99.0.0/24, with no way out.
pub(crate) struct Lan {
    switch: Netns,
    hosts: Vec<Netns>,
}

impl Lan {
    /// One namespace an address, each address on its `eth0`.
    pub(crate) fn of(addresses: &[&str]) -> Self {
        let switch = Netns::new();
        must(switch.command("ip").args("link add br0 type bridge".split(' ')));
        must(switch.command("ip").args("link set br0 up".split(' ')));
        let hosts =
            addresses.iter().enumerate().map(|(port, address)| plug(&switch, port, address)).collect();
        Self { switch, hosts }
    }

    /// The namespace of the nth address.
    pub(crate) fn host(&self, nth: usize) -> &Netns {
        &self.hosts[nth]
    }
}

/// A new host with `address` on a veth whose other end is a port of the bridge.
fn plug(switch: &Netns, port: usize, address: &str) -> Netns {
    let host = Netns::new();
    let port = format!("port{port}");
    must(
        switch
            .command("ip")
            .args(["link", "add", &port, "type", "veth", "peer", "name", "eth0"])
            .args(["netns", &host.pid()]),
    );
    must(switch.command("ip").args(["link", "set", &port, "master", "br0", "up"]));
    must(host.command("ip").args(["address", "add", &format!("{address}/24"), "dev", "eth0"]));
    must(host.command("ip").args(["link", "set", "eth0", "up"]));
    host
}
