//! Private, throw-away `RabbitMQ` nodes on free loopback ports.
//!
//! The node's own start script is run directly, with an environment made from nothing: no file outside the node's
//! directory is read or written, no system user is needed, and any number of nodes can live side by side. The wrappers
//! in `/usr/sbin` would switch user and read `/etc/rabbitmq`. Set `RABBITMQ_HOME_BIN` to the directory of another
//! version's scripts to test against that one.
//!
//! Everything a node starts is in one process group, led by its epmd, so that one signal ends it all.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::{OnceCell, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use super::ports::Block;
use super::{eventually, reaper};

const DEFAULT_BIN: &str = "/usr/lib/rabbitmq/bin";
const HOW_TO_GET_IT: &str =
    "run `make test`, which installs it, or `apt-get install rabbitmq-server`";
const COOKIE: &str = "CONVGROUPTESTCOOKIE";

/// A start is seconds of pure computing; a machine that builds and starts several nodes at once takes far longer.
/// A node that fails is noticed by its end, so a long patience costs nothing.
const READY_PATIENCE: Duration = Duration::from_secs(120);
/// Three nodes wait for each other, and share the processors with whatever else is being built.
const CLUSTER_PATIENCE: Duration = Duration::from_secs(150);
const GONE_PATIENCE: Duration = Duration::from_secs(30);
const CTL_PATIENCE: Duration = Duration::from_secs(60);
const LOOK_PAUSE: Duration = Duration::from_millis(20);
const LOG_TAIL_LINES: usize = 40;

/// Offsets in a node's block of ports.
const AMQP: u16 = 0;
const DIST: u16 = 1;
const EPMD: u16 = 2;
const MANAGEMENT: u16 = 3;
const PROMETHEUS: u16 = 4;
const CTL_FIRST: u16 = 5;
const CTL_LAST: u16 = 8;
/// As many `rabbitmqctl` at a time as there are ports for them.
const CTL_AT_ONCE: usize = (CTL_LAST - CTL_FIRST + 1) as usize;

/// One `RabbitMQ` node; dropped, it is killed and its directory removed.
#[derive(Debug)]
pub struct Node {
    // Dropped in this order: the VM dies first, then epmd and stray children, then the directory goes.
    vm: Mutex<Option<Child>>,
    family: Arc<Family>,
    dir: TempDir,
    ports: Block,
    plugins: Vec<String>,
    ctl: Semaphore,
}

impl Node {
    /// Starts a node without plugins and waits until it answers.
    pub async fn start() -> Self {
        Self::with_plugins(&[]).await
    }

    /// The same with plugins, for example `rabbitmq_prometheus`; they cost start time.
    pub async fn with_plugins(plugins: &[&str]) -> Self {
        let ports = Block::claim();
        let family = Arc::new(Family::start(ports.port(EPMD)).await);
        let node = Self::prepare(family, ports, plugins, "");
        node.boot();
        node.ready(READY_PATIENCE).await;
        node
    }

    /// A node without plugins, with these lines in its `rabbitmq.conf`.
    pub async fn with_conf(conf: &str) -> Self {
        let ports = Block::claim();
        let family = Arc::new(Family::start(ports.port(EPMD)).await);
        let node = Self::prepare(family, ports, &[], conf);
        node.boot();
        node.ready(READY_PATIENCE).await;
        node
    }

    /// A node that speaks TLS on a second port (see [`Node::tls_port`]); `conf` says `ssl_options.*`.
    pub async fn with_tls(conf: &str) -> Self {
        let ports = Block::claim();
        let family = Arc::new(Family::start(ports.port(EPMD)).await);
        let conf = format!(
            "listeners.ssl.1 = 127.0.0.1:{}\n{conf}",
            ports.port(MANAGEMENT)
        );
        let node = Self::prepare(family, ports, &[], &conf);
        node.boot();
        node.ready(READY_PATIENCE).await;
        node
    }

    /// Where a node made by [`Node::with_tls`] speaks TLS.
    pub fn tls_port(&self) -> u16 {
        self.ports.port(MANAGEMENT)
    }

    fn prepare(family: Arc<Family>, ports: Block, plugins: &[&str], conf: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("convgroup-rabbitmq-")
            .tempdir()
            .expect("a temporary directory");
        reaper::directory(dir.path());
        let node = Self {
            vm: Mutex::new(None),
            family,
            dir,
            ports,
            plugins: plugins.iter().map(ToString::to_string).collect(),
            ctl: Semaphore::new(CTL_AT_ONCE),
        };
        node.write_files(conf)
            .expect("the node's directory is ours to write");
        node
    }

    fn write_files(&self, conf: &str) -> anyhow::Result<()> {
        for dir in ["home", "log", "mnesia", "conf"] {
            fs::create_dir(self.path(dir))?;
        }
        let cookie = self.path("home/.erlang.cookie");
        fs::write(&cookie, COOKIE)?;
        fs::set_permissions(&cookie, fs::Permissions::from_mode(0o400))?;
        fs::write(self.path("env.conf"), "")?;
        fs::write(self.path("advanced.config"), "[].\n")?;
        fs::write(
            self.path("enabled_plugins"),
            format!("[{}].\n", self.plugins.join(",")),
        )?;
        let mut text = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\ndisk_free_limit.absolute = 50MB\n{conf}",
            self.port()
        );
        for (plugin, section, port) in [
            ("rabbitmq_management", "management", MANAGEMENT),
            ("rabbitmq_prometheus", "prometheus", PROMETHEUS),
        ] {
            if self.plugins.iter().any(|enabled| enabled == plugin) {
                let port = self.ports.port(port);
                writeln!(
                    text,
                    "{section}.tcp.ip = 127.0.0.1\n{section}.tcp.port = {port}"
                )?;
            }
        }
        fs::write(self.path("rabbitmq.conf"), text)?;
        Ok(())
    }

    /// Where clients connect: `amqp://guest:guest@127.0.0.1:PORT/%2f`.
    pub fn url(&self) -> String {
        self.url_of_vhost("%2f")
    }

    fn url_of_vhost(&self, vhost: &str) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/{vhost}", self.port())
    }

    /// The AMQP port.
    pub fn port(&self) -> u16 {
        self.ports.port(AMQP)
    }

    /// The AMQP address, for a proxy to stand in front of.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port()).into()
    }

    /// Where the management plugin listens, when it is enabled.
    pub fn management_port(&self) -> u16 {
        self.ports.port(MANAGEMENT)
    }

    /// Where the Prometheus plugin listens, when it is enabled.
    pub fn prometheus_port(&self) -> u16 {
        self.ports.port(PROMETHEUS)
    }

    /// The Erlang node name, as `rabbitmqctl` and cluster configuration know it.
    pub fn name(&self) -> String {
        format!("pb{}@localhost", self.port())
    }

    /// SIGKILL to the VM, as a crash; returns at once, see [`Node::gone`].
    pub fn kill(&self) {
        self.signal("KILL");
    }

    /// SIGTERM to the VM, a clean stop of a second or more; returns at once, see [`Node::gone`].
    pub fn stop(&self) {
        self.signal("TERM");
    }

    /// SIGSTOP to the VM: connections stay open and nothing answers, like a black hole.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// SIGCONT to the VM.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = fs::read_to_string(self.path("pid")).expect("a started node wrote its pid file");
        let pid = pid.trim().parse().expect("the pid file holds a number");
        assert!(
            reaper::signal(signal, pid),
            "{}: SIG{signal} found no process {pid}",
            self.name()
        );
    }

    /// Waits until the VM has ended after [`Node::kill`] or [`Node::stop`].
    pub async fn gone(&self) {
        let deadline = Instant::now() + GONE_PATIENCE;
        // The start script waits for the VM, so the script's end is the VM's end.
        while !self.has_ended() {
            assert!(
                Instant::now() < deadline,
                "{} still runs {GONE_PATIENCE:?} after the signal",
                self.name()
            );
            sleep(LOOK_PAUSE).await;
        }
    }

    /// Waits until the node has written down that this quorum queue of the default vhost lives here.
    ///
    /// `RabbitMQ` 3.10 writes that up to a second after it has answered the declare and confirmed messages. Killed
    /// before, it comes back with the queue there and empty: wait for this between a declare and a [`Node::kill`].
    pub async fn recorded(&self, queue: &str) {
        self.recorded_in("quorum", &format!("%2F_{queue}")).await;
    }

    /// Waits until the node has written down that what keeps its streams lives here.
    ///
    /// Killed before, it comes back with its streams there and none of them running: publishes to them are returned, for good.
    pub async fn streams_recorded(&self) {
        self.recorded_in("coordination", "rabbit_stream_coordinator")
            .await;
    }

    async fn recorded_in(&self, system: &str, name: &str) {
        let dir = self
            .path("mnesia")
            .join(self.name())
            .join(system)
            .join(self.name());
        let wanted = name.as_bytes();
        eventually(
            &format!("{} records {name}", self.name()),
            GONE_PATIENCE,
            async || {
                let recorded = fs::read(dir.join("names.dets"))
                    .map_err(|error| format!("{}: {error}", dir.display()))?;
                let found = recorded.windows(wanted.len()).any(|name| name == wanted);
                found
                    .then_some(())
                    .ok_or_else(|| String::from("not among the recorded names"))
            },
        )
        .await;
    }

    /// Starts the node again in the same directory on the same ports, once the old VM is gone, and waits until ready.
    pub async fn start_again(&self) {
        self.gone().await;
        self.boot();
        self.ready(CLUSTER_PATIENCE).await;
    }

    /// Runs `rabbitmqctl` against this node and returns its output; panics when it fails.
    pub async fn ctl(&self, args: &[&str]) -> String {
        let _turn = self
            .ctl
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let mut command = self.command("rabbitmqctl");
        command.args(["--node", &self.name(), "--quiet"]).args(args);
        let run = spawn_blocking(move || command.stdin(Stdio::null()).output());
        let what = format!("rabbitmqctl {}", args.join(" "));
        let Output {
            status,
            stdout,
            stderr,
        } = timeout(CTL_PATIENCE, run)
            .await
            .unwrap_or_else(|_| panic!("{what}: no answer within {CTL_PATIENCE:?}"))
            .expect("the blocking task does not panic")
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let stdout = String::from_utf8_lossy(&stdout).into_owned();
        assert!(
            status.success(),
            "{what}: {status}\n{stdout}{}",
            String::from_utf8_lossy(&stderr)
        );
        stdout
    }

    /// Raises or ends the memory alarm: while it lasts, publishers are blocked.
    pub async fn memory_alarm(&self, on: bool) {
        let watermark = if on { "0.00001" } else { "0.4" };
        self.ctl(&["set_vm_memory_high_watermark", watermark]).await;
    }

    /// The last lines of what the node wrote, for a failure's message.
    pub fn log_tail(&self) -> String {
        ["log/rabbit.log", "log/console"]
            .map(|file| {
                let text = fs::read(self.path(file)).unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                let lines: Vec<_> = text.lines().collect();
                let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n");
                format!("--- {file} of {}\n{tail}\n", self.name())
            })
            .concat()
    }

    fn boot(&self) {
        match fs::remove_file(self.path("pid")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                panic!("the old pid file stays: {error}")
            }
            _ => {}
        }
        let console = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("log/console"));
        let console = console.expect("the node's directory is ours to write");
        let child = self
            .command("rabbitmq-server")
            .stdin(Stdio::null())
            .stdout(
                console
                    .try_clone()
                    .expect("a second handle of an open file"),
            )
            .stderr(console)
            .spawn()
            .unwrap_or_else(|error| panic!("rabbitmq-server does not start: {error}"));
        *self.vm() = Some(child);
    }

    async fn ready(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let addr = self.addr();
        while !spawn_blocking(move || answers_amqp(addr))
            .await
            .expect("the look does not panic")
        {
            assert!(
                !self.has_ended(),
                "{} ended while it started\n{}",
                self.name(),
                self.log_tail()
            );
            assert!(
                Instant::now() < deadline,
                "{} not ready in {patience:?}\n{}",
                self.name(),
                self.log_tail()
            );
            sleep(LOOK_PAUSE).await;
        }
    }

    fn has_ended(&self) -> bool {
        let mut vm = self.vm();
        vm.as_mut()
            .is_none_or(|child| child.try_wait().expect("the child is ours").is_some())
    }

    fn vm(&self) -> MutexGuard<'_, Option<Child>> {
        self.vm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, script: &str) -> Command {
        let port = self.port();
        let mut command = Command::new(bin_dir().join(script));
        command
            .process_group(self.family.leader.cast_signed())
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", search_path())
            .env("LANG", "C.UTF-8")
            .env("HOME", self.path("home"))
            .env("RABBITMQ_NODENAME", self.name())
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", port.to_string())
            .env("RABBITMQ_DIST_PORT", self.ports.port(DIST).to_string())
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1}",
            )
            .env(
                "RABBITMQ_CTL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1}",
            )
            .env(
                "RABBITMQ_CTL_DIST_PORT_MIN",
                self.ports.port(CTL_FIRST).to_string(),
            )
            .env(
                "RABBITMQ_CTL_DIST_PORT_MAX",
                self.ports.port(CTL_LAST).to_string(),
            )
            .env("ERL_EPMD_PORT", self.family.epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_CRASH_DUMP", self.path("log/erl_crash.dump"))
            .env("RABBITMQ_MNESIA_BASE", self.path("mnesia"))
            .env("RABBITMQ_LOG_BASE", self.path("log"))
            .env("RABBITMQ_LOGS", self.path("log/rabbit.log"))
            .env("RABBITMQ_CONFIG_FILE", self.path("rabbitmq.conf"))
            .env("RABBITMQ_CONFIG_FILES", self.path("none"))
            .env(
                "RABBITMQ_ADVANCED_CONFIG_FILE",
                self.path("advanced.config"),
            )
            .env("RABBITMQ_GENERATED_CONFIG_DIR", self.path("conf"))
            .env("RABBITMQ_CONF_ENV_FILE", self.path("env.conf"))
            .env(
                "RABBITMQ_ENABLED_PLUGINS_FILE",
                self.path("enabled_plugins"),
            )
            .env("RABBITMQ_PID_FILE", self.path("pid"));
        command
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Ok(pid) = fs::read_to_string(self.path("pid"))
            .unwrap_or_default()
            .trim()
            .parse()
            && !self.has_ended()
        {
            reaper::signal("KILL", pid);
        }
        if let Some(mut child) = self.vm().take() {
            // The script would end with its VM; a VM too young for a pid file ends with its family.
            drop(child.kill());
            drop(child.wait());
        }
        if Arc::strong_count(&self.family) == 1 {
            self.family.kill();
        }
    }
}

/// The process group of one node or of one cluster; epmd, Erlang's port mapper, leads it.
#[derive(Debug)]
struct Family {
    leader: u32,
    epmd_port: u16,
    epmd: Mutex<Child>,
}

impl Family {
    /// Starts epmd in the foreground, so that it stays in the group; a VM would start one as a daemon outside of it.
    async fn start(epmd_port: u16) -> Self {
        let server = bin_dir().join("rabbitmq-server");
        assert!(
            server.exists(),
            "RabbitMQ is missing: no {}; {HOW_TO_GET_IT}",
            server.display()
        );
        let epmd = Command::new("epmd")
            .args(["-port", &epmd_port.to_string(), "-address", "127.0.0.1"])
            .env_clear()
            .env("PATH", search_path())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("RabbitMQ is missing: no epmd in PATH ({error}); {HOW_TO_GET_IT}")
            });
        reaper::group(epmd.id());
        let family = Self {
            leader: epmd.id(),
            epmd_port,
            epmd: Mutex::new(epmd),
        };
        let deadline = Instant::now() + READY_PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, epmd_port)).is_err() {
            assert!(
                Instant::now() < deadline,
                "epmd does not listen on port {epmd_port} after {READY_PATIENCE:?}"
            );
            sleep(LOOK_PAUSE).await;
        }
        family
    }

    /// Kills the whole group and waits until it is gone, so that nobody writes into a directory being removed.
    fn kill(&self) {
        reaper::signal_group("KILL", self.leader);
        drop(
            self.epmd
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .wait(),
        );
        let deadline = std::time::Instant::now() + GONE_PATIENCE;
        while reaper::signal_group("0", self.leader) && std::time::Instant::now() < deadline {
            std::thread::sleep(LOOK_PAUSE);
        }
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        self.kill();
        reaper::forget(self.leader);
    }
}

/// Three nodes that form one cluster, with `pause_minority`.
#[derive(Debug)]
pub struct Cluster {
    nodes: [Node; 3],
}

impl Cluster {
    /// Starts the three at the same time and waits until all are members.
    pub async fn start() -> Self {
        let blocks = [Block::claim(), Block::claim(), Block::claim()];
        let family = Arc::new(Family::start(blocks[0].port(EPMD)).await);
        let members = (1..).zip(&blocks).map(|(number, block)| {
            let port = block.port(AMQP);
            format!("cluster_formation.classic_config.nodes.{number} = pb{port}@localhost\n")
        });
        let conf = format!(
            "cluster_formation.peer_discovery_backend = classic_config\n\
             cluster_partition_handling = pause_minority\n{}",
            members.collect::<String>()
        );
        let nodes = blocks.map(|ports| Node::prepare(Arc::clone(&family), ports, &[], &conf));
        nodes.iter().for_each(Node::boot);
        for node in &nodes {
            node.ready(CLUSTER_PATIENCE).await;
        }
        nodes[0].ctl(&["await_online_nodes", "3"]).await;
        Self { nodes }
    }

    /// The three nodes.
    pub fn nodes(&self) -> &[Node; 3] {
        &self.nodes
    }

    /// The node numbered 0, 1 or 2.
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number]
    }

    /// All three addresses, as the daemon's `amqp.url` takes a list: separated by commas.
    pub fn urls(&self) -> String {
        self.nodes.each_ref().map(Node::url).join(",")
    }

    /// Major and minor version of the members.
    pub async fn version(&self) -> (u32, u32) {
        let text = self.nodes[0].ctl(&["version"]).await;
        let mut parts = text.trim().split('.').map(str::parse);
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
            _ => panic!("not a version: {text}"),
        }
    }

    /// The member that leads a quorum queue of the default vhost, asked of a member that runs.
    pub async fn leader_of(&self, queue: &str) -> &Node {
        let asked = self
            .nodes
            .iter()
            .find(|node| !node.has_ended())
            .expect("a node that runs");
        let table = asked
            .ctl(&[
                "list_queues",
                "--silent",
                "--no-table-headers",
                "name",
                "leader",
            ])
            .await;
        let leader = table
            .lines()
            .find_map(|line| line.split_once('\t').filter(|(name, _)| *name == queue))
            .map(|(_, leader)| leader.trim());
        self.nodes
            .iter()
            .find(|node| Some(node.name().as_str()) == leader)
            .unwrap_or_else(|| panic!("no leader of {queue} among the nodes:\n{table}"))
    }
}

/// The node that all tests of one process share; it can't be killed, frozen or starved, because others use it.
#[derive(Debug)]
pub struct SharedNode {
    node: Node,
}

/// The shared node, started by whoever asks first; the reaper ends it with the test process.
pub async fn shared_node() -> &'static SharedNode {
    static NODE: OnceCell<SharedNode> = OnceCell::const_new();
    NODE.get_or_init(async || SharedNode {
        node: Node::start().await,
    })
    .await
}

impl SharedNode {
    /// The default vhost; use names that are [`unique`](super::unique).
    pub fn url(&self) -> String {
        self.node.url()
    }

    /// The AMQP port.
    pub fn port(&self) -> u16 {
        self.node.port()
    }

    /// The AMQP address, for a proxy to stand in front of.
    pub fn addr(&self) -> SocketAddr {
        self.node.addr()
    }

    /// Makes a vhost of this name (letters, digits, `.`, `-`) and returns its address; about a second.
    pub async fn vhost(&self, name: &str) -> String {
        self.node.ctl(&["add_vhost", name]).await;
        self.node
            .ctl(&["set_permissions", "-p", name, "guest", ".*", ".*", ".*"])
            .await;
        self.node.url_of_vhost(name)
    }

    /// Runs `rabbitmqctl`; keep to what does not disturb the other tests.
    pub async fn ctl(&self, args: &[&str]) -> String {
        self.node.ctl(args).await
    }
}

fn bin_dir() -> PathBuf {
    std::env::var_os("RABBITMQ_HOME_BIN")
        .map_or_else(|| Path::new(DEFAULT_BIN).into(), PathBuf::from)
}

fn search_path() -> String {
    let own = std::env::var("PATH").unwrap_or_default();
    format!("{own}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

/// The listener opens last in a node's start, so a server that answers the protocol header is ready.
fn answers_amqp(addr: SocketAddr) -> bool {
    const PATIENCE: Duration = Duration::from_secs(2);
    let ask = || -> std::io::Result<u8> {
        let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"AMQP\x00\x00\x09\x01")?;
        let mut first = [0];
        stream.read_exact(&mut first)?;
        Ok(first[0])
    };
    ask().is_ok_and(|first| first == 1)
}
