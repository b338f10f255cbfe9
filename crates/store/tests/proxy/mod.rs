//! A TCP proxy before a server: it cuts, truncates and holds what goes through it at chosen bytes of a request or of its
//! answer, and makes headers unreadable, as a server would have it that does not know them.
//!
//! It knows no more of HTTP than that a request begins with its method where a client begins to send, and how long it is.
//! A request that is cut before its end never reaches the server: real ones refuse what is shorter than it says, but the
//! server of these tests would store it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const BUFFER_BYTES: usize = 256 << 10;

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Request,
    Answer,
}

/// What is done when the byte is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Both connections end there.
    Cut,
    /// Nothing more goes through until [`Proxy::release`], whether the client waits for it or not.
    Hold,
}

/// What is to go wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    /// In a request whose first line begins so…
    pub(crate) method: &'static str,
    /// …and has this in it.
    pub(crate) path: &'static str,
    pub(crate) side: Side,
    /// Bytes that still go through; a request that is longer and cut does not go through at all.
    pub(crate) at: usize,
    pub(crate) deed: Deed,
    /// In how many of them, one after the other.
    pub(crate) times: u32,
}

#[derive(Default)]
struct State {
    fault: Option<Fault>,
    /// Words that are made unreadable.
    hidden: Vec<&'static str>,
    heads: Vec<String>,
    hits: u32,
}

/// The proxy; it ends when this is dropped.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    released: watch::Sender<bool>,
    /// First lines of answers to requests that were held.
    late: watch::Receiver<Vec<String>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State::default()));
        let (released, is_released) = watch::channel(false);
        let (late_sender, late) = watch::channel(Vec::new());
        let late_sender = Arc::new(late_sender);
        let shared = state.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let connection = Connection {
                    state: shared.clone(),
                    released: is_released.clone(),
                    late: late_sender.clone(),
                    fault: None,
                    passed: 0,
                    length: 0,
                    withheld: Vec::new(),
                    is_held: false,
                };
                tokio::spawn(connection.run(client, server));
            }
        });
        Self {
            address,
            state,
            released,
            late,
            accepting,
        }
    }

    /// From now on this goes wrong, so many times.
    pub(crate) fn arm(&self, fault: Fault) {
        let mut state = self.lock();
        state.fault = Some(fault);
        state.hits = 0;
        drop(state);
        self.released.send_replace(false);
    }

    /// Nothing goes wrong any more; how often it did.
    pub(crate) fn disarm(&self) -> u32 {
        let mut state = self.lock();
        state.fault = None;
        state.hits
    }

    /// Lets through what is held.
    pub(crate) fn release(&self) {
        self.released.send_replace(true);
    }

    /// First lines of the answers to requests that were held, once there are so many.
    pub(crate) async fn late_answers(&self, count: usize) -> Vec<String> {
        let mut late = self.late.clone();
        let lines = late
            .wait_for(|lines| lines.len() >= count)
            .await
            .expect("the proxy lives");
        lines.clone()
    }

    /// Makes a header unreadable for the server.
    pub(crate) fn hide(&self, header: &'static str) {
        self.lock().hidden.push(header);
    }

    /// The requests so far, first line and headers, in lower case.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.lock().heads.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

struct Connection {
    state: Arc<Mutex<State>>,
    released: watch::Receiver<bool>,
    late: Arc<watch::Sender<Vec<String>>>,
    /// Of the request under way.
    fault: Option<Fault>,
    /// Bytes of the faulty side so far.
    passed: usize,
    /// Bytes of the request under way, and what came of one that is to be cut.
    length: usize,
    withheld: Vec<u8>,
    is_held: bool,
}

impl Connection {
    /// Ends with both sockets closed; an error of either ends it too.
    async fn run(mut self, mut client: TcpStream, server: SocketAddr) {
        let Ok(mut server) = TcpStream::connect(server).await else {
            return;
        };
        let (mut up, mut down) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
        let mut is_client_there = true;
        loop {
            // Reading into a buffer can be given up: nothing is lost.
            let is_on = tokio::select! {
                read = client.read(&mut up), if is_client_there => match read {
                    // The answer to what was held is waited for, although its client has gone.
                    Ok(0) | Err(_) if self.is_held => {
                        is_client_there = false;
                        true
                    }
                    Ok(0) | Err(_) => false,
                    Ok(n) => {
                        self.begin(&mut up[..n]);
                        self.pass(Side::Request, &up[..n], &mut server).await
                    }
                },
                read = server.read(&mut down) => match read {
                    Ok(0) | Err(_) => false,
                    Ok(n) => {
                        self.note_late(&down[..n]);
                        self.pass(Side::Answer, &down[..n], &mut client).await
                    }
                },
            };
            if !is_on {
                return;
            }
        }
    }

    /// Looks whether a request begins here.
    fn begin(&mut self, bytes: &mut [u8]) {
        let mut state = self.state.lock().expect("no panic");
        let hidden = state.hidden.clone();
        for word in hidden {
            hide(bytes, word);
        }
        let is_begin = ["GET ", "PUT ", "POST ", "HEAD ", "DELETE "]
            .iter()
            .any(|method| bytes.starts_with(method.as_bytes()));
        if !is_begin {
            return;
        }
        let end = bytes
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap_or(bytes.len());
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let line = head.lines().next().unwrap_or_default();
        let body = head
            .to_lowercase()
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        (self.fault, self.passed, self.length) = (None, 0, end + 4 + body.unwrap_or(0));
        self.withheld.clear();
        if let Some(fault) = state
            .fault
            .filter(|fault| line.starts_with(fault.method) && line.contains(fault.path))
        {
            self.fault = Some(fault);
            let left = Fault {
                times: fault.times - 1,
                ..fault
            };
            state.fault = Some(left).filter(|left| left.times > 0);
            state.hits += 1;
        }
        state.heads.push(head.to_lowercase());
    }

    fn note_late(&mut self, bytes: &[u8]) {
        if std::mem::take(&mut self.is_held) {
            let line = String::from_utf8_lossy(bytes)
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned();
            self.late.send_modify(|lines| lines.push(line));
        }
    }

    /// Passes bytes on, up to where the fault is; whether the connection goes on.
    async fn pass(&mut self, side: Side, bytes: &[u8], to: &mut TcpStream) -> bool {
        let mut rest = bytes;
        let is_cut_request = |fault: Fault| fault.side == Side::Request && fault.deed == Deed::Cut;
        if side == Side::Request && self.fault.is_some_and(is_cut_request) {
            return self.withhold(bytes, to).await;
        }
        if let Some(fault) = self.fault.filter(|fault| fault.side == side) {
            let before = fault.at.saturating_sub(self.passed).min(rest.len());
            self.passed += before;
            let (passing, stopped) = rest.split_at(before);
            if to.write_all(passing).await.is_err() {
                return false;
            }
            if stopped.is_empty() && self.passed < fault.at {
                return true;
            }
            rest = stopped;
            self.fault = None;
            match fault.deed {
                Deed::Cut => return false,
                Deed::Hold => {
                    self.is_held = side == Side::Request;
                    if self.released.wait_for(|is_released| *is_released).await.is_err() {
                        return false;
                    }
                }
            }
        }
        // A client that went while its request was held does not end it.
        to.write_all(rest).await.is_ok() || side == Side::Answer
    }
}

impl Connection {
    /// Keeps back a request that is to be cut, until it is clear whether it comes to an end.
    async fn withhold(&mut self, bytes: &[u8], to: &mut TcpStream) -> bool {
        self.withheld.extend_from_slice(bytes);
        let received = self.withheld.len();
        if self
            .fault
            .is_some_and(|fault| fault.at < self.length && received >= fault.at)
        {
            return false;
        }
        if received < self.length {
            return true;
        }
        self.fault = None;
        to.write_all(&self.withheld).await.is_ok()
    }
}

fn hide(bytes: &mut [u8], word: &str) {
    let wanted = format!("{word}:").to_lowercase();
    let found: Vec<usize> = bytes
        .windows(wanted.len())
        .enumerate()
        .filter(|(_, window)| window.eq_ignore_ascii_case(wanted.as_bytes()))
        .map(|(n, _)| n)
        .collect();
    for n in found {
        bytes[n..n + 2].copy_from_slice(b"no");
    }
}
