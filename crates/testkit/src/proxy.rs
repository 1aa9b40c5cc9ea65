//! A TCP proxy that stands between two real processes and fails on demand.
//!
//! It forwards any protocol, and knows AMQP's frames well enough to act at a chosen one: see [`Rule`].

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

const CHUNK_BYTES: usize = 16 * 1024;
/// How many chunks may be under way in one direction while they are delayed.
const CHUNKS_DELAYED_MAX: usize = 1024;

/// Which way bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the upstream to the client.
    ToClient,
    /// From the client to the upstream.
    ToUpstream,
}

/// What the proxy does from now on, or at a [`Rule`]'s moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Drop all connections and close each new one at once.
    Cut,
    /// Forward nothing in either direction: a black hole that still accepts.
    Freeze,
    /// Forward nothing to the client, everything to the upstream.
    FreezeTowardsClient,
    /// Drop the connections that exist; new ones are fine.
    DropConnections,
}

/// The moment of a [`Rule`], counted over all connections from when the rule was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// When this many bytes have been forwarded, also in the middle of a frame.
    Bytes(u64),
    /// When this many AMQP frames (heartbeats included) have been forwarded.
    Frames(u64),
    /// Just before a method frame `(class, method)` would be forwarded: what [`Action::Cut`] drops, the other side never sees.
    Before((u16, u16)),
    /// Just after a method frame `(class, method)` was forwarded.
    After((u16, u16)),
}

/// "In this direction, at this moment, do that", once; for example lose the broker's confirm of a publish:
/// `Rule { direction: ToClient, when: When::Before(method::ACK), action: Cut }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Which way the counted bytes travel.
    pub direction: Direction,
    /// The moment.
    pub when: When,
    /// What is done then.
    pub action: Action,
}

/// AMQP 0-9-1 methods worth acting at, as `(class, method)`.
pub mod method {
    /// `basic.publish`
    pub const PUBLISH: (u16, u16) = (60, 40);
    /// `basic.deliver`
    pub const DELIVER: (u16, u16) = (60, 60);
    /// `basic.ack`: the client's settlement of a delivery, or the broker's confirm of a publish
    pub const ACK: (u16, u16) = (60, 80);
    /// `basic.nack`, likewise
    pub const NACK: (u16, u16) = (60, 120);
}

/// A running proxy; dropped, it drops its connections and stops listening.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    listener: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    control: watch::Sender<Control>,
    rules: Mutex<VecDeque<SetRule>>,
    fired: watch::Sender<u64>,
    acks: Mutex<Vec<std::time::Instant>>,
    live: AtomicU64,
    accepted: AtomicU64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Control {
    refuse: bool,
    hold_to_client: bool,
    hold_to_upstream: bool,
    delay: Duration,
    /// A connection ends when this is no longer what it was when the connection began.
    generation: u64,
}

#[derive(Debug)]
struct SetRule {
    rule: Rule,
    passed: u64,
}

impl Proxy {
    /// Listens on a free loopback port and forwards to `upstream` (`host:port`), which need not be there yet.
    pub async fn start(upstream: impl ToString) -> Self {
        let upstream = upstream.to_string();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, super::free_port())).await;
        let listener = listener.expect("a port that was claimed is free");
        let addr = listener
            .local_addr()
            .expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            control: watch::Sender::new(Control::default()),
            rules: Mutex::default(),
            fired: watch::Sender::new(0),
            acks: Mutex::default(),
            live: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
        });
        let listener = tokio::spawn(accept(listener, upstream, Arc::clone(&shared)));
        Self {
            addr,
            shared,
            listener,
        }
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The default vhost of the broker behind.
    pub fn amqp_url(&self) -> String {
        format!("amqp://guest:guest@{}/%2f", self.addr)
    }

    /// The HTTP server behind.
    pub fn http_url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Drops all connections and closes each new one at once, until [`Proxy::restore`].
    pub fn cut(&self) {
        self.shared.act(Action::Cut);
    }

    /// Black hole: accepts, keeps everything open, forwards nothing, until [`Proxy::restore`].
    pub fn freeze(&self) {
        self.shared.act(Action::Freeze);
    }

    /// Holds back what goes to the client only.
    pub fn freeze_towards_client(&self) {
        self.shared.act(Action::FreezeTowardsClient);
    }

    /// Drops the connections that exist; new ones are fine.
    pub fn drop_connections(&self) {
        self.shared.act(Action::DropConnections);
    }

    /// Delays every byte by this much in each direction; the order and the throughput stay.
    pub fn delay(&self, delay: Duration) {
        self.shared
            .control
            .send_modify(|control| control.delay = delay);
    }

    /// Ends cut, freeze and delay; what was held back flows on.
    pub fn restore(&self) {
        self.shared.control.send_modify(|control| {
            *control = Control {
                generation: control.generation,
                ..Control::default()
            };
        });
    }

    /// Sets a rule; several are independent of each other, and each acts once.
    pub fn set_rule(&self, rule: Rule) {
        self.shared.rules().push_back(SetRule { rule, passed: 0 });
    }

    /// When each of the clients' `basic.ack` went through, in their order.
    pub fn acks(&self) -> Vec<std::time::Instant> {
        self.shared.acks().clone()
    }

    /// How many rules have acted so far.
    pub fn rules_fired(&self) -> u64 {
        *self.shared.fired.borrow()
    }

    /// Waits until this many rules have acted since the start.
    pub async fn fired(&self, count: u64, patience: Duration) {
        let mut fired = self.shared.fired.subscribe();
        let reached = tokio::time::timeout(patience, fired.wait_for(|fired| *fired >= count)).await;
        assert!(
            reached.is_ok(),
            "{} of {count} proxy rules acted within {patience:?}",
            self.rules_fired()
        );
    }

    /// How many connections are open now.
    pub fn connections(&self) -> u64 {
        self.shared.live.load(Ordering::SeqCst)
    }

    /// How many connections were accepted since the start, those closed at once included.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listener.abort();
        self.shared.act(Action::DropConnections);
    }
}

impl Shared {
    fn act(&self, action: Action) {
        self.control.send_modify(|control| match action {
            Action::Cut => {
                control.refuse = true;
                control.generation += 1;
            }
            Action::Freeze => {
                control.hold_to_client = true;
                control.hold_to_upstream = true;
            }
            Action::FreezeTowardsClient => control.hold_to_client = true,
            Action::DropConnections => control.generation += 1,
        });
    }

    fn rules(&self) -> MutexGuard<'_, VecDeque<SetRule>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn acks(&self) -> MutexGuard<'_, Vec<std::time::Instant>> {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes out the rules whose moment is `spot` and does what they say.
    fn fire(&self, direction: Direction, spot: Spot) {
        let mut due = Vec::new();
        self.rules().retain_mut(|set| {
            let is_due = set.rule.direction == direction && set.is_due(spot);
            if is_due {
                due.push(set.rule.action);
            }
            !is_due
        });
        for action in due {
            self.act(action);
            self.fired.send_modify(|fired| *fired += 1);
        }
    }

    /// How many bytes may pass in this direction before a rule that counts bytes is due.
    fn bytes_until_rule(&self, direction: Direction) -> u64 {
        let rules = self.rules();
        let counted = rules
            .iter()
            .filter(|set| set.rule.direction == direction)
            .filter_map(|set| match set.rule.when {
                When::Bytes(bytes) => Some(bytes.saturating_sub(set.passed)),
                _ => None,
            });
        counted.min().unwrap_or(u64::MAX)
    }
}

/// A point in the stream at which a rule may be due.
#[derive(Clone, Copy)]
enum Spot {
    Forwarded { bytes: u64 },
    FrameBegins { method: Method },
    FrameEnded { method: Method },
}

impl SetRule {
    fn is_due(&mut self, spot: Spot) -> bool {
        match (self.rule.when, spot) {
            (When::Bytes(limit), Spot::Forwarded { bytes }) => {
                self.passed += bytes;
                self.passed >= limit
            }
            (When::Frames(limit), Spot::FrameEnded { .. }) => {
                self.passed += 1;
                self.passed >= limit
            }
            (When::Before(wanted), Spot::FrameBegins { method })
            | (When::After(wanted), Spot::FrameEnded { method }) => method == Some(wanted),
            (When::Bytes(_) | When::Frames(_) | When::Before(_) | When::After(_), _) => false,
        }
    }
}

async fn accept(listener: TcpListener, upstream: String, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        let control = *shared.control.borrow();
        if control.refuse {
            continue;
        }
        tokio::spawn(connect(
            client,
            upstream.clone(),
            control.generation,
            Arc::clone(&shared),
        ));
    }
}

async fn connect(client: TcpStream, upstream: String, generation: u64, shared: Arc<Shared>) {
    shared.live.fetch_add(1, Ordering::SeqCst);
    let _live = Live(&shared);
    let mut control = shared.control.subscribe();
    let dropped = control.wait_for(|control| control.generation != generation);
    let forward = async {
        let Ok(upstream) = TcpStream::connect(upstream).await else {
            return;
        };
        // Small frames travel at once, as they would without a proxy.
        drop(client.set_nodelay(true));
        drop(upstream.set_nodelay(true));
        let (from_client, to_client) = client.into_split();
        let (from_upstream, to_upstream) = upstream.into_split();
        tokio::join!(
            pump(
                from_client,
                to_upstream,
                Direction::ToUpstream,
                &shared,
                generation
            ),
            pump(
                from_upstream,
                to_client,
                Direction::ToClient,
                &shared,
                generation
            ),
        );
    };
    tokio::select! {
        biased;
        _ = dropped => {}
        () = forward => {}
    }
}

/// Counts a connection for as long as it is there.
struct Live<'a>(&'a Shared);

impl Drop for Live<'_> {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Forwards one direction until its end, which it passes on as well.
async fn pump(
    mut from: OwnedReadHalf,
    to: OwnedWriteHalf,
    direction: Direction,
    shared: &Shared,
    generation: u64,
) {
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_DELAYED_MAX);
    let mut gate = Gate {
        control: shared.control.subscribe(),
        direction,
    };
    let read = async move {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            gate.open().await;
            let count = from.read(&mut buffer).await.unwrap_or(0);
            let due = Instant::now() + gate.control.borrow().delay;
            if count == 0 || sender.send((due, buffer[..count].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let gate = Gate {
        control: shared.control.subscribe(),
        direction,
    };
    let mut writer = Writer {
        to,
        gate,
        scan: Scan::new(direction),
        pending: Vec::new(),
        shared,
        generation,
    };
    let write = async move {
        let mut receiver = receiver;
        while let Some((due, chunk)) = receiver.recv().await {
            sleep_until(due).await;
            if writer.forward(&chunk).await.is_none() {
                return;
            }
        }
        writer.finish().await;
    };
    tokio::select! {
        // When the writing side is gone, there is nothing to read for.
        () = write => {}
        () = async { read.await; std::future::pending().await } => {}
    }
}

struct Gate {
    control: watch::Receiver<Control>,
    direction: Direction,
}

impl Gate {
    /// Waits while this direction is held back.
    async fn open(&mut self) {
        let direction = self.direction;
        let held = |control: &Control| match direction {
            Direction::ToClient => control.hold_to_client,
            Direction::ToUpstream => control.hold_to_upstream,
        };
        if self
            .control
            .wait_for(|control| !held(control))
            .await
            .is_err()
        {
            std::future::pending::<()>().await;
        }
    }
}

struct Writer<'a> {
    to: OwnedWriteHalf,
    gate: Gate,
    scan: Scan,
    /// The start of a frame that is not yet long enough to know its method.
    pending: Vec<u8>,
    shared: &'a Shared,
    generation: u64,
}

impl Writer<'_> {
    /// Forwards a chunk piece by piece, stopping where a rule is due; `None` when the connection is at its end.
    async fn forward(&mut self, chunk: &[u8]) -> Option<()> {
        let direction = self.gate.direction;
        self.pending.extend_from_slice(chunk);
        while let Some(Piece { len, begins, ended }) = self.scan.next(&self.pending) {
            let piece: Vec<u8> = self.pending.drain(..len).collect();
            if let Some(method) = begins {
                self.shared.fire(direction, Spot::FrameBegins { method });
            }
            let mut left = piece.as_slice();
            while !left.is_empty() {
                let limit =
                    usize::try_from(self.shared.bytes_until_rule(direction)).unwrap_or(usize::MAX);
                let (now, later) = left.split_at(left.len().min(limit.max(1)));
                self.write(now).await?;
                self.shared.fire(
                    direction,
                    Spot::Forwarded {
                        bytes: now.len() as u64,
                    },
                );
                left = later;
            }
            if let Some(method) = ended {
                if direction == Direction::ToUpstream && method == Some(method::ACK) {
                    self.shared.acks().push(std::time::Instant::now());
                }
                self.shared.fire(direction, Spot::FrameEnded { method });
            }
        }
        Some(())
    }

    /// The sender has closed: forwards what was held to find a frame's start, then closes likewise.
    async fn finish(mut self) {
        // A black hole does not tell that the other side has closed.
        let rest = std::mem::take(&mut self.pending);
        if self.write(&rest).await.is_some() {
            drop(self.to.shutdown().await);
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Option<()> {
        self.gate.open().await;
        // A rule may have dropped this connection a line ago; the task only hears of it at its next pause.
        if self.gate.control.borrow().generation != self.generation {
            return None;
        }
        self.to.write_all(bytes).await.ok()
    }
}

/// A frame's `(class, method)`, when it is a method frame.
type Method = Option<(u16, u16)>;

/// Where one direction of one connection stands among AMQP's frames.
///
/// What does not look like AMQP is forwarded in whole chunks, and no frame is ever reported for it.
enum Scan {
    /// The client's eight-byte protocol header comes next.
    ProtocolHeader,
    /// A frame's start comes next.
    FrameStart,
    /// Inside a frame, this many bytes to its end.
    FrameRest { left: usize, method: Method },
    /// Not AMQP.
    Opaque,
}

/// What can be forwarded next, and which frame edge is before and after it.
#[derive(Default)]
struct Piece {
    len: usize,
    begins: Option<Method>,
    ended: Option<Method>,
}

impl Scan {
    fn new(direction: Direction) -> Self {
        match direction {
            Direction::ToUpstream => Self::ProtocolHeader,
            Direction::ToClient => Self::FrameStart,
        }
    }

    /// The next piece of `bytes`, or `None` when there must be more bytes to know.
    fn next(&mut self, bytes: &[u8]) -> Option<Piece> {
        const PROTOCOL_HEADER_BYTES: usize = 8;
        let first = *bytes.first()?;
        match *self {
            Self::Opaque => Some(Piece {
                len: bytes.len(),
                ..Piece::default()
            }),
            Self::ProtocolHeader if first == b'A' => {
                (bytes.len() >= PROTOCOL_HEADER_BYTES).then(|| {
                    *self = Self::FrameStart;
                    Piece {
                        len: PROTOCOL_HEADER_BYTES,
                        ..Piece::default()
                    }
                })
            }
            // Method, header, body and heartbeat.
            Self::FrameStart if matches!(first, 1 | 2 | 3 | 8) => {
                let (frame, method) = frame(bytes)?;
                Some(self.inside(frame, bytes.len(), method, Some(method)))
            }
            Self::FrameRest { left, method } => Some(self.inside(left, bytes.len(), method, None)),
            Self::ProtocolHeader | Self::FrameStart => {
                *self = Self::Opaque;
                self.next(bytes)
            }
        }
    }

    fn inside(
        &mut self,
        left: usize,
        available: usize,
        method: Method,
        begins: Option<Method>,
    ) -> Piece {
        if available < left {
            *self = Self::FrameRest {
                left: left - available,
                method,
            };
            return Piece {
                len: available,
                begins,
                ended: None,
            };
        }
        *self = Self::FrameStart;
        Piece {
            len: left,
            begins,
            ended: Some(method),
        }
    }
}

/// The whole length of the frame that begins here, and its method.
fn frame(bytes: &[u8]) -> Option<(usize, Method)> {
    const METHOD_FRAME: u8 = 1;
    const HEADER_AND_END_BYTES: usize = 8;
    let size: [u8; 4] = bytes.get(3..7)?.try_into().ok()?;
    let method = if bytes[0] == METHOD_FRAME {
        let name = bytes.get(7..11)?;
        Some((
            u16::from_be_bytes([name[0], name[1]]),
            u16::from_be_bytes([name[2], name[3]]),
        ))
    } else {
        None
    };
    let size = usize::try_from(u32::from_be_bytes(size)).ok()?;
    Some((size + HEADER_AND_END_BYTES, method))
}
