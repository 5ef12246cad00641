//! The test bed: real servers and real network namespaces for the tests that prove the main job.
//!
//! Nothing here is faked and nothing outlives its test: a process is killed by PID when its value is
//! dropped, and by the kernel when the thread that started it ends (`setpriv --pdeathsig`), so that a
//! killed test leaves no server behind; a namespace lives as long as the process that holds it.
//! Every address is loopback or lies in a namespace that the test made.

// Each test target includes the whole bed and uses its own part of it.
#![allow(dead_code, unused_imports)]
#![allow(clippy::print_stderr, reason = "figures of a test that passes")]

mod etcd;
mod fleet;
mod gate;
mod guest;
mod host;
mod kubernetes;
mod lan;
mod machine;
mod openbao;
mod process;
mod puppet;
mod x509;

pub(crate) use etcd::{Etcd, EtcdRelease, Member};
pub(crate) use fleet::{Fleet, Writer};
pub(crate) use gate::Gate;
pub(crate) use guest::{Debian, Guest};
pub(crate) use host::{Host, Outcome};
pub(crate) use kubernetes::Kubernetes;
pub(crate) use lan::{Lan, Netns};
pub(crate) use openbao::{Login, NAME, Openbao, Pki};
pub(crate) use process::{Daemon, Ended, ended, must};
pub(crate) use puppet::{
    Autosign, PASSWORD, PuppetConfig, PuppetRelease, Puppetserver, Renewal, fingerprint,
};
pub(crate) use x509::{Authority, Inspected, ServerCertificate, blocks, inspect};

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a server of the bed may take for anything; far above what it takes on two busy cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The path that `tests/all` exports in `variable`; fails the test, with the remedy, where it does not.
pub(crate) fn provided(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable).map(PathBuf::from);
    let path = path
        .unwrap_or_else(|| panic!("{variable} is not set: run `tests/all`, which installs and exports it"));
    assert!(path.exists(), "{variable}={} does not exist: run `tests/all` again", path.display());
    path
}

/// A loopback port that nothing listens on now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Asks `probe` again until it answers; fails with `what` and its last complaint after `PATIENCE`.
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        match probe() {
            Ok(answer) => return answer,
            Err(complaint) if began.elapsed() > PATIENCE => {
                panic!("{what}: not within {PATIENCE:?}: {complaint}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
