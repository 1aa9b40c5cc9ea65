//! The real daemon as a process of its own: its environment, output, signals and HTTP surface.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{eventually, free_port, reaper, unique};

/// No local HTTP answer takes this long.
const HTTP_DEADLINE: Duration = Duration::from_secs(10);

/// The key that the test settings sign with; made up.
pub const SECRET_KEY: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";
/// The application that the test settings name.
pub const SDK_APP_ID: &str = "1400000000";
/// The administrator that the test settings name.
pub const IDENTIFIER: &str = "administrator";

/// Variables that measure or explain a run; everything else of the test's own environment stays outside.
const INHERITED: [&str; 2] = ["LLVM_PROFILE_FILE", "RUST_BACKTRACE"];

/// What to start, and with which environment; nothing else reaches the daemon.
#[derive(Clone, Debug)]
pub struct DaemonConfig {
    program: Option<PathBuf>,
    args: Vec<String>,
    env: BTreeMap<String, String>,
}

impl DaemonConfig {
    /// `convgroup-deleter run` with settings for a test: names of its own, short pauses, JSON logs.
    ///
    /// `amqp_url` may be a list separated by commas.
    pub fn new(amqp_url: &str, base_url: &str) -> Self {
        let listen = format!("127.0.0.1:{}", free_port());
        let settings = [
            ("CONVGROUP_AMQP__URL", amqp_url),
            ("CONVGROUP_AMQP__QUEUE", &unique("convgroup.delete")),
            ("CONVGROUP_AMQP__EXCHANGE", &unique("convgroup")),
            ("CONVGROUP_IM__BASE_URL", base_url),
            ("CONVGROUP_IM__SDK_APP_ID", SDK_APP_ID),
            ("CONVGROUP_IM__IDENTIFIER", IDENTIFIER),
            ("CONVGROUP_IM__SECRET_KEY", SECRET_KEY),
            ("CONVGROUP_RETRY__TIERS", "1s"),
            ("CONVGROUP_SUSPEND__PROBE_MIN", "200ms"),
            ("CONVGROUP_SUSPEND__PROBE_MAX", "1s"),
            ("CONVGROUP_HTTP__LISTEN", &listen),
            ("CONVGROUP_LOG__FORMAT", "json"),
            ("CONVGROUP_LOG__LEVEL", "debug"),
        ];
        let env = settings
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        Self {
            program: None,
            args: vec!["run".into()],
            env,
        }
    }

    /// Sets a variable of the daemon's environment.
    #[must_use]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "so that a call can give a text or a number as it is"
    )]
    pub fn set(mut self, key: &str, value: impl ToString) -> Self {
        self.env.insert(key.into(), value.to_string());
        self
    }

    /// Leaves a variable out.
    #[must_use]
    pub fn unset(mut self, key: &str) -> Self {
        self.env.remove(key);
        self
    }

    /// The arguments instead of `run`.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args = args.iter().map(ToString::to_string).collect();
        self
    }

    /// The program instead of the one Cargo built for this test; an example must say it, Cargo tells only tests.
    #[must_use]
    pub fn program(mut self, program: impl AsRef<Path>) -> Self {
        self.program = Some(program.as_ref().into());
        self
    }

    /// The value of a variable; panics when it is not set.
    pub fn get(&self, key: &str) -> &str {
        self.env
            .get(key)
            .unwrap_or_else(|| panic!("{key} is not set"))
    }

    /// The main queue's name.
    pub fn queue(&self) -> &str {
        self.get("CONVGROUP_AMQP__QUEUE")
    }

    /// The dead letters' queue.
    pub fn dead_queue(&self) -> String {
        format!("{}.dead", self.queue())
    }

    /// The exchange's name.
    pub fn exchange(&self) -> &str {
        self.get("CONVGROUP_AMQP__EXCHANGE")
    }

    /// Whether requests are answered.
    pub fn answers(&self) -> bool {
        self.env.contains_key("CONVGROUP_OUTCOMES__LEDGER")
    }

    /// The stream that keeps the answers.
    pub fn ledger(&self) -> &str {
        self.get("CONVGROUP_OUTCOMES__LEDGER")
    }

    /// The exchange to which answers are published.
    pub fn outcomes_exchange(&self) -> &str {
        self.get("CONVGROUP_OUTCOMES__EXCHANGE")
    }

    /// The same settings for a daemon that answers requests, with an exchange and a ledger of its own.
    #[must_use]
    pub fn answering(self) -> Self {
        let exchange = unique("convgroup.outcomes");
        self.set("CONVGROUP_OUTCOMES__ENABLED", true)
            .set("CONVGROUP_OUTCOMES__LEDGER", format!("{exchange}.ledger"))
            .set("CONVGROUP_OUTCOMES__EXCHANGE", exchange)
            .set("CONVGROUP_EVENTS__ALL_GROUPS", true)
    }

    /// The same settings for another replica, which listens elsewhere.
    #[must_use]
    pub fn replica(&self) -> Self {
        self.clone().set(
            "CONVGROUP_HTTP__LISTEN",
            format!("127.0.0.1:{}", free_port()),
        )
    }

    /// The settings as lines for a shell.
    pub fn exports(&self) -> String {
        let lines = self.env.iter().map(|(key, value)| {
            let quoted = convgroup_domain::quote::shell(value);
            format!("export {key}={quoted}\n")
        });
        lines.collect()
    }

    /// Gives the settings to a command that the caller starts itself; its own environment stays.
    pub fn apply(&self, mut command: Command) -> Command {
        command.envs(&self.env);
        command
    }

    /// Starts the program; it may not be listening yet, see [`Daemon::ready`].
    pub fn spawn(&self) -> Daemon {
        self.spawn_logging_to(Stdio::piped())
    }

    /// The same with another stderr; what goes there is not captured, unless it is a pipe to here.
    pub fn spawn_logging_to(&self, stderr: impl Into<Stdio>) -> Daemon {
        let program = self
            .program
            .clone()
            .unwrap_or_else(|| super::built("convgroup-deleter"));
        let inherited = INHERITED
            .into_iter()
            .filter_map(|key| Some((key, std::env::var_os(key)?)));
        let mut child = Command::new(&program)
            .args(&self.args)
            .env_clear()
            .envs(inherited)
            .envs(&self.env)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()));
        reaper::group(child.id());
        let captured = Arc::new(Mutex::new(Captured::default()));
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let mut readers = vec![capture(stdout, &captured, Stream::Stdout)];
        if let Some(stderr) = child.stderr.take() {
            readers.push(capture(stderr, &captured, Stream::Stderr));
        }
        let addr = self
            .env
            .get("CONVGROUP_HTTP__LISTEN")
            .and_then(|listen| listen.parse().ok());
        Daemon {
            child,
            addr,
            captured,
            readers,
        }
    }
}

/// A started daemon; dropped, it is killed.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    addr: Option<SocketAddr>,
    captured: Arc<Mutex<Captured>>,
    readers: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Captured {
    all: String,
    stdout: String,
    stderr: String,
}

#[derive(Clone, Copy)]
enum Stream {
    Stdout,
    Stderr,
}

/// Reads to the end in a thread of its own, so that a full pipe never stops the daemon.
fn capture(
    pipe: impl Read + Send + 'static,
    captured: &Arc<Mutex<Captured>>,
    stream: Stream,
) -> JoinHandle<()> {
    let captured = Arc::clone(captured);
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe
            .read_until(b'\n', &mut line)
            .is_ok_and(|count| count > 0)
        {
            let text = String::from_utf8_lossy(&line);
            let mut captured = lock(&captured);
            captured.all += &text;
            match stream {
                Stream::Stdout => captured.stdout += &text,
                Stream::Stderr => captured.stderr += &text,
            }
            drop(captured);
            line.clear();
        }
    })
}

fn lock(captured: &Mutex<Captured>) -> MutexGuard<'_, Captured> {
    captured.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Daemon {
    /// Sends a signal: "TERM", "INT", "HUP", …; panics when the process has ended.
    pub fn signal(&self, signal: &str) {
        assert!(
            reaper::signal(signal, self.child.id()),
            "SIG{signal}: no such process\n{}",
            self.output()
        );
    }

    /// SIGKILL, as a crash; see [`Daemon::wait_exit`].
    pub fn kill(&self) {
        self.signal("KILL");
    }

    /// SIGSTOP: the process stays, its connections stay open, nothing moves.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the child is ours").is_none()
    }

    /// The most memory that was resident at once so far, in bytes (`VmHWM`).
    pub fn peak_resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .expect("the process is there");
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))
            .expect("Linux says it");
        kib.trim().parse::<u64>().expect("a number") * 1024
    }

    /// Waits for the end and returns the exit code, or the negative number of the signal that killed the process.
    ///
    /// [`Daemon::output`] is complete when this returns.
    pub async fn wait_exit(&mut self, patience: Duration) -> i32 {
        let captured = Arc::clone(&self.captured);
        let status = eventually("the process ends", patience, async || {
            let status = self.child.try_wait().expect("the child is ours");
            status.ok_or_else(|| format!("still running\n{}", lock(&captured).all))
        })
        .await;
        for reader in self.readers.drain(..) {
            reader.join().expect("a reader of output does not panic");
        }
        status
            .code()
            .or_else(|| status.signal().map(|signal| -signal))
            .expect("an ended process has either")
    }

    /// Waits for the end, which must be with this code.
    pub async fn exits_with(&mut self, code: i32, patience: Duration) {
        assert_eq!(self.wait_exit(patience).await, code, "{}", self.output());
    }

    /// Waits for a program that ends by itself; its exit code and all it wrote.
    pub async fn finished(mut self, patience: Duration) -> (i32, String) {
        let code = self.wait_exit(patience).await;
        (code, self.output())
    }

    /// All whole lines written to stdout and stderr so far, as they came.
    pub fn output(&self) -> String {
        lock(&self.captured).all.clone()
    }

    /// What went to stdout so far.
    pub fn stdout(&self) -> String {
        lock(&self.captured).stdout.clone()
    }

    /// What went to stderr so far.
    pub fn stderr(&self) -> String {
        lock(&self.captured).stderr.clone()
    }

    /// Where the HTTP surface listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr.expect("CONVGROUP_HTTP__LISTEN is an address")
    }

    /// Waits until `/readyz` says 200; panics with the whole output when the process ends or the patience does.
    pub async fn ready(&mut self, patience: Duration) {
        self.eventually_status("/readyz", 200, patience).await;
    }

    /// Waits until `/readyz` is 503 for a reason with these words in it; the reason.
    pub async fn eventually_told(&self, words: &str) -> String {
        eventually(&format!("`{words}` is told"), super::PATIENCE, async || {
            let (status, reason) = self
                .try_http("/readyz")
                .await
                .map_err(|err| err.to_string())?;
            if status == 503 && reason.contains(words) {
                Ok(reason)
            } else {
                Err(reason)
            }
        })
        .await
    }

    /// Waits until a GET of `path` says `status`, and returns the body.
    pub async fn eventually_status(
        &mut self,
        path: &str,
        status: u16,
        patience: Duration,
    ) -> String {
        eventually(&format!("{path} says {status}"), patience, async || {
            assert!(self.is_running(), "the daemon has ended\n{}", self.output());
            match self.try_http(path).await {
                Ok((found, body)) if found == status => Ok(body),
                other => Err(format!("{other:?}\n{}", self.output())),
            }
        })
        .await
    }

    /// The status and body of a GET; panics when there is no answer.
    pub async fn http(&self, path: &str) -> (u16, String) {
        self.try_http(path)
            .await
            .unwrap_or_else(|error| panic!("GET {path}: {error}\n{}", self.output()))
    }

    /// The same, for a daemon that may not listen yet or any more.
    pub async fn try_http(&self, path: &str) -> std::io::Result<(u16, String)> {
        timeout(HTTP_DEADLINE, get(self.addr(), path)).await?
    }

    /// The metrics now; panics when there is no answer.
    pub async fn metrics(&self) -> Metrics {
        let (status, text) = self.http("/metrics").await;
        assert_eq!(status, 200, "{text}");
        Metrics::parse(&text)
    }

    /// Waits until the metrics fulfil a condition, and returns them; panics with the last whole text.
    pub async fn eventually_metrics(
        &self,
        what: &str,
        patience: Duration,
        condition: impl Fn(&Metrics) -> bool,
    ) -> Metrics {
        eventually(what, patience, async || {
            let (status, text) = self
                .try_http("/metrics")
                .await
                .map_err(|error| error.to_string())?;
            let metrics = Metrics::parse(&text);
            if status == 200 && condition(&metrics) {
                Ok(metrics)
            } else {
                Err(status.to_string() + &metrics.told())
            }
        })
        .await
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        reaper::signal_group("KILL", self.child.id());
        drop(self.child.wait());
        reaper::forget(self.child.id());
        if std::thread::panicking() {
            // The test harness shows it under the failed test's name.
            println!("--- output of the daemon\n{}", self.output());
        }
    }
}

/// HTTP/1.0 by hand: the answer ends where the connection does, and the test shares no client with the daemon.
async fn get(addr: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(addr).await?;
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\nHost: {addr}\r\n\r\n").as_bytes())
        .await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let parsed = answer.split_once("\r\n\r\n").and_then(|(head, body)| {
        let status = head.split(' ').nth(1)?.get(..3)?.parse().ok()?;
        Some((status, body.to_owned()))
    });
    parsed.ok_or_else(|| std::io::Error::other(format!("not an HTTP answer: {answer:?}")))
}

/// A parsed Prometheus text exposition.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// The exposition as it came.
    pub text: String,
    samples: Vec<Sample>,
}

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// What a failed test shows of them: everything of ours that is not zero, but for the buckets.
    fn told(&self) -> String {
        let ours = |line: &&str| {
            line.starts_with("convgroup_") && !line.contains("_bucket{") && !line.ends_with(" 0")
        };
        let lines: Vec<&str> = self.text.lines().filter(ours).collect();
        format!("\n{}", lines.join("\n"))
    }

    /// Parses an exposition; panics on a line that is not one.
    pub fn parse(text: &str) -> Self {
        let lines = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines
            .map(|line| sample(line).unwrap_or_else(|| panic!("not a sample: {line}")))
            .collect();
        Self {
            text: text.into(),
            samples,
        }
    }

    /// The value of the one sample with this name and exactly these labels; panics when there is none.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels)
            .unwrap_or_else(|| panic!("no {name} {labels:?} in\n{}", self.text))
    }

    /// The same, for a sample that may not be there.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let sample = self
            .samples
            .iter()
            .find(|sample| sample.name == name && sample.labels == wanted);
        sample.map(|sample| sample.value)
    }

    /// The sum over all label values of a name; panics when there is no such name.
    pub fn sum(&self, name: &str) -> f64 {
        self.sum_where(name, &[])
    }

    /// The sum over the samples of a name that carry at least these labels; panics when there is no such name.
    pub fn sum_where(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let named: Vec<_> = self
            .samples
            .iter()
            .filter(|sample| sample.name == name)
            .collect();
        assert!(!named.is_empty(), "no {name} in\n{}", self.text);
        let fits = |sample: &&&Sample| {
            labels
                .iter()
                .all(|(key, value)| sample.labels.get(*key).is_some_and(|found| found == value))
        };
        named.iter().filter(fits).map(|sample| sample.value).sum()
    }
}

/// `name{label="value",…} number`, without a timestamp.
fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, rest)) = series.split_once('{') else {
        return Some(Sample {
            name: series.into(),
            labels: BTreeMap::new(),
            value,
        });
    };
    let mut labels = BTreeMap::new();
    let mut rest = rest;
    while rest != "}" {
        let (key, quoted) = rest.split_once("=\"")?;
        let (text, after) = unquote(quoted)?;
        labels.insert(key.to_owned(), text);
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    Some(Sample {
        name: name.into(),
        labels,
        value,
    })
}

/// The text up to the closing quote, its escapes resolved, and what follows the quote.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((text, &quoted[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => text.push('\n'),
                escaped => text.push(escaped),
            },
            plain => text.push(plain),
        }
    }
    None
}
