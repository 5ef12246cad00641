//! The one way from a network of the bed to a server on loopback. It counts who comes, and can be shut: then
//! the address refuses connections, as that of a server that is down.

use super::lan::Netns;
use nix::sched::{CloneFlags, setns};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// How long it takes at most to notice that it is to open, shut or end.
const STEP: Duration = Duration::from_millis(5);

pub(crate) struct Gate {
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// What is wanted, and what is.
    open: AtomicBool,
    listening: AtomicBool,
    ended: AtomicBool,
    asked: AtomicUsize,
}

impl Gate {
    /// Open from `address` in `netns` to `server` where the test itself is.
    pub(crate) fn new(netns: &Netns, address: SocketAddr, server: SocketAddr) -> Self {
        let state = Arc::new(State::default());
        let (sender, receiver) = channel::<TcpStream>();
        let (namespace, watched) = (netns.namespace(), state.clone());
        // A network namespace belongs to a thread, setns(2), and to the sockets that it makes.
        std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("a network namespace of the test");
            listen(address, &watched, &sender);
        });
        std::thread::spawn(move || receiver.into_iter().for_each(|guest| carry(guest, server)));
        let gate = Self { state };
        gate.open();
        gate
    }

    pub(crate) fn open(&self) {
        self.turn(true);
    }

    /// Who is inside stays; who comes is refused.
    pub(crate) fn shut(&self) {
        self.turn(false);
    }

    /// How many connections there have been.
    pub(crate) fn asked(&self) -> usize {
        self.state.asked.load(Ordering::SeqCst)
    }

    fn turn(&self, open: bool) {
        self.state.open.store(open, Ordering::SeqCst);
        while self.state.listening.load(Ordering::SeqCst) != open {
            std::thread::sleep(STEP);
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
    }
}

fn listen(address: SocketAddr, state: &State, accepted: &Sender<TcpStream>) {
    let mut listener = None;
    while !state.ended.load(Ordering::SeqCst) {
        if !state.open.load(Ordering::SeqCst) {
            listener = None;
        } else if listener.is_none() {
            let fresh = TcpListener::bind(address).unwrap();
            fresh.set_nonblocking(true).unwrap();
            listener = Some(fresh);
        }
        state.listening.store(listener.is_some(), Ordering::SeqCst);
        match listener.as_ref().map(TcpListener::accept) {
            Some(Ok((guest, _))) => {
                state.asked.fetch_add(1, Ordering::SeqCst);
                guest.set_nonblocking(false).unwrap();
                // Fails only when the test is over.
                let _ = accepted.send(guest);
            }
            _ => std::thread::sleep(STEP),
        }
    }
}

/// Both directions, each until its end.
fn carry(guest: TcpStream, server: SocketAddr) {
    // A server that is away shows as a connection that ends.
    let Ok(server) = TcpStream::connect(server) else { return };
    for (from, to) in [(guest.try_clone().unwrap(), server.try_clone().unwrap()), (server, guest)] {
        std::thread::spawn(move || pour(from, to));
    }
}

fn pour(mut from: TcpStream, mut to: TcpStream) {
    let mut block = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut block) {
        if to.write_all(&block[..length]).is_err() {
            break;
        }
    }
    // Either may have gone already.
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
