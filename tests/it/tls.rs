//! TLS to the broker: a private CA and client certificates; what is wrong is said clearly.
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::world::{World, eventually_settled};
use convgroup_testkit::{DaemonConfig, Node, PATIENCE, eventually, free_port, shared_node};

/// A CA and what it signed, as PEM files.
pub(crate) struct Authority {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        Self::named("an authority")
    }

    fn named(name: &str) -> Self {
        let params = Self::params(name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self::with(&certificate.pem(), Issuer::new(params, key))
    }

    /// One that this one has signed.
    fn below(&self, name: &str) -> Self {
        let params = Self::params(name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self::with(&certificate.pem(), Issuer::new(params, key))
    }

    fn with(certificate: &str, issuer: Issuer<'static, KeyPair>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), certificate).unwrap();
        Self { dir, issuer }
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    fn sign(&self, file: &str, name: &str) {
        self.sign_with(file, &leaf(&[name]));
    }

    fn sign_with(&self, file: &str, params: &CertificateParams) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(&format!("{file}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
    }

    /// What a server shows that this one has signed.
    fn server(&self, params: &CertificateParams) -> Shown {
        self.sign_with("server", params);
        Shown::at(&self.path("server.pem"), &self.path("server.key"))
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    fn pem(&self) -> String {
        std::fs::read_to_string(self.path("ca.pem")).unwrap()
    }

    /// Speaks TLS before something that does not, under the name 127.0.0.1.
    pub(crate) async fn front(&self, upstream: SocketAddr) -> SocketAddr {
        self.server(&leaf(&["127.0.0.1"])).before(upstream).await
    }
}

/// A server's certificate for these names.
fn leaf(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names.clone()).unwrap();
    let name = names.first().map_or("localhost", String::as_str);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// What a server shows: a chain, and the key of its first certificate.
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Shown {
    fn at(chain: &Path, key: &Path) -> Self {
        let chain = CertificateDer::pem_file_iter(chain).unwrap();
        Self {
            chain: chain.collect::<Result<_, _>>().unwrap(),
            key: PrivateKeyDer::from_pem_file(key).unwrap(),
        }
    }

    /// Speaks TLS before something that does not; does not care whether the certificate is any good.
    async fn before(&self, upstream: SocketAddr) -> SocketAddr {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = provider.key_provider.load_private_key(self.key.clone_key());
        let certified = CertifiedKey::new(self.chain.clone(), key.unwrap());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let mut client = acceptor.accept(client).await?;
                    let mut server = TcpStream::connect(upstream).await?;
                    tokio::io::copy_bidirectional(&mut client, &mut server).await
                });
            }
        });
        addr
    }
}

/// What `check` says of the broker and of the API, both behind TLS that shows the same.
async fn checked(world: &World, shown: &Shown, trusted: Option<&str>) -> [String; 2] {
    let stranger = Authority::named("a stranger");
    if let Some(trusted) = trusted {
        std::fs::write(stranger.path("trusted.pem"), trusted).unwrap();
    }
    let trusted = trusted.map(|_| stranger.path("trusted.pem"));
    let broker = shown.before(shared_node().await.addr()).await;
    let api = shown.before(world.sandbox.addr()).await;
    let mut check = world
        .tool_config(&["check"])
        .set(
            "CONVGROUP_AMQP__URL",
            format!("amqps://guest:guest@localhost:{}/%2f", broker.port()),
        )
        .set(
            "CONVGROUP_IM__BASE_URL",
            format!("https://localhost:{}", api.port()),
        )
        .set(
            "SSL_CERT_FILE",
            shown_path(trusted.as_ref().unwrap_or(&stranger.path("ca.pem"))),
        );
    if let Some(trusted) = trusted {
        check = check.set("CONVGROUP_AMQP__TLS__CA_FILE", shown_path(&trusted));
    }
    let (_, output) = check.spawn().finished(PATIENCE).await;
    lines(&output)
}

/// The lines of `check` about the broker and about the API.
fn lines(output: &str) -> [String; 2] {
    ["broker", "api"].map(|what| {
        let is_about = |line: &&str| line.get(6..).is_some_and(|it| it.starts_with(what));
        let line = output.lines().find(is_about);
        line.unwrap_or_else(|| panic!("no line about {what}\n{output}"))
            .to_owned()
    })
}

async fn reason(world: &World) -> String {
    let daemon = world.config.spawn();
    eventually(
        "the daemon says why it is not connected",
        PATIENCE,
        async || {
            let page = daemon
                .try_http("/readyz")
                .await
                .map_err(|err| err.to_string())?;
            if page.1.contains("connecting") {
                Ok(page.1)
            } else {
                Err(page.1)
            }
        },
    )
    .await
}

fn shown_path(path: &Path) -> String {
    path.display().to_string()
}

/// Client certificates that the broker refuses: each refusal has its own advice.
async fn certificates_that_the_broker_refuses_are_told(
    world: &World,
    ours: &Authority,
    theirs: &Authority,
) {
    theirs.sign("client", "daemon");
    let mut expired = leaf(&["daemon"]);
    expired.not_after = date_time_ymd(2001, 1, 1);
    ours.sign_with("expired", &expired);
    for (authority, name, word) in [
        (
            theirs,
            "client",
            "does not know the CA of the certificate in amqp.tls.cert_file",
        ),
        (
            ours,
            "expired",
            "the certificate in amqp.tls.cert_file is out of date",
        ),
    ] {
        let refused = world
            .tool_config(&["check"])
            .set(
                "CONVGROUP_AMQP__TLS__CERT_FILE",
                shown_path(&authority.path(&format!("{name}.pem"))),
            )
            .set(
                "CONVGROUP_AMQP__TLS__KEY_FILE",
                shown_path(&authority.path(&format!("{name}.key"))),
            );
        let (exit, output) = refused.spawn().finished(PATIENCE).await;
        assert_eq!(exit, 69, "{output}");
        assert!(output.contains(word), "{name}: {output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_ca_and_client_certificates_work_and_what_is_wrong_is_said() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    ours.sign("server", "localhost");
    ours.sign("client", "daemon");
    let node = Node::with_tls(&format!(
        "ssl_options.cacertfile = {}\nssl_options.certfile = {}\nssl_options.keyfile = {}\n\
         ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n",
        shown_path(&ours.path("ca.pem")),
        shown_path(&ours.path("server.pem")),
        shown_path(&ours.path("server.key")),
    ))
    .await;
    let secure = format!("amqps://guest:guest@localhost:{}/%2f", node.tls_port());
    let world = World::at(&node.url())
        .await
        .set("CONVGROUP_AMQP__URL", &secure)
        .set(
            "CONVGROUP_AMQP__TLS__CA_FILE",
            shown_path(&ours.path("ca.pem")),
        )
        .set(
            "CONVGROUP_AMQP__TLS__CERT_FILE",
            shown_path(&ours.path("client.pem")),
        )
        .set(
            "CONVGROUP_AMQP__TLS__KEY_FILE",
            shown_path(&ours.path("client.key")),
        );
    world.user("user15", &["a"]);
    {
        let daemon = world.daemon().await;
        world.publish("user15", &["a"]).await;
        eventually_settled(&daemon, "deleted", 1).await;
        world.nothing_is_left(&daemon).await;
    }

    let world = world.set(
        "CONVGROUP_AMQP__TLS__CA_FILE",
        shown_path(&theirs.path("ca.pem")),
    );
    let text = reason(&world).await;
    assert!(
        text.contains("that CA has a new key, or another one has the same name"),
        "{text}"
    );

    let by_address = format!("amqps://guest:guest@127.0.0.1:{}/%2f", node.tls_port());
    let world = world
        .set(
            "CONVGROUP_AMQP__TLS__CA_FILE",
            shown_path(&ours.path("ca.pem")),
        )
        .set("CONVGROUP_AMQP__URL", by_address);
    let text = reason(&world).await;
    assert!(
        text.contains("certificate is for another host name: it holds localhost, not 127.0.0.1"),
        "{text}"
    );

    let plain = format!("amqp://guest:guest@localhost:{}/%2f", node.tls_port());
    let world = world.set("CONVGROUP_AMQP__URL", plain);
    let text = reason(&world).await;
    assert!(text.contains("use amqps://"), "{text}");
    let crossed = secure.replace(&node.tls_port().to_string(), &node.port().to_string());
    let world = world.set("CONVGROUP_AMQP__URL", crossed);
    let text = reason(&world).await;
    assert!(text.contains("the port does not speak TLS"), "{text}");

    let mut world = world.set("CONVGROUP_AMQP__URL", secure);
    world.config = world
        .config
        .unset("CONVGROUP_AMQP__TLS__CERT_FILE")
        .unset("CONVGROUP_AMQP__TLS__KEY_FILE");
    let text = reason(&world).await;
    assert!(text.contains("wants a client certificate"), "{text}");

    certificates_that_the_broker_refuses_are_told(&world, &ours, &theirs).await;
    let world = world.set(
        "CONVGROUP_AMQP__TLS__CERT_FILE",
        shown_path(&ours.path("client.pem")),
    );
    let mut daemon = world.config.spawn();
    assert_eq!(daemon.wait_exit(PATIENCE).await, 78);
    assert!(
        daemon
            .output()
            .contains("amqp.tls.key_file (not set): is missing beside amqp.tls.cert_file"),
        "{}",
        daemon.output()
    );
}

/// How many threads the client library has in a process: one for each attempt that it is still at.
fn library_threads(pid: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    let names = tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.starts_with("lapin")).count()
}

/// A node that accepts and then says nothing, not even its part of the handshake: each attempt ends and leaves nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn attempts_at_a_silent_node_do_not_pile_up() {
    let silent = tokio::net::TcpListener::bind(("127.0.0.1", free_port()))
        .await
        .unwrap();
    let addr = silent.local_addr().unwrap();
    let mut daemon = DaemonConfig::new(
        &format!("amqps://guest:guest@{addr}/%2f"),
        "http://127.0.0.1:9",
    )
    .spawn();
    let mut held = Vec::new();
    for _ in 0..3 {
        let accepted = tokio::time::timeout(PATIENCE, silent.accept()).await;
        let (stream, _) = accepted.expect("the daemon tries again").unwrap();
        held.push(stream);
        assert_eq!(library_threads(daemon.pid()), 0, "an attempt has a thread");
    }
    let reason = daemon.eventually_status("/readyz", 503, PATIENCE).await;
    assert!(reason.contains("did not answer within 5 s"), "{reason}");
}

/// A server's certificate that is refused, and why.
struct Refused {
    what: &'static str,
    shown: Shown,
    /// The CA that is trusted, in PEM.
    trusted: Option<String>,
    /// What is said of the broker's.
    broker: &'static str,
    /// What is said of the API's.
    api: &'static str,
}

impl Refused {
    fn new(what: &'static str, shown: Shown, broker: &'static str) -> Self {
        Self {
            what,
            shown,
            trusted: None,
            broker,
            api: broker,
        }
    }

    fn though_trusted(self, pem: &str) -> Self {
        let trusted = Some(pem.to_owned());
        Self { trusted, ..self }
    }

    fn of_the_api(self, api: &'static str) -> Self {
        Self { api, ..self }
    }
}

/// Certificates that lead to nobody who is trusted, or are a CA's own.
fn untrusted() -> Vec<Refused> {
    let (ca, other) = (Authority::new(), Authority::named("another authority"));
    let between = ca.below("one between");
    let good = leaf(&["localhost"]);
    let own = Authority::named("localhost");
    let own_key = own.path("own.key");
    std::fs::write(&own_key, own.issuer.key().serialize_pem()).unwrap();
    let self_signed = || Shown::at(&own.path("ca.pem"), &own_key);
    vec![
        Refused::new(
            "unknown CA, none is set",
            ca.server(&good),
            "signed by no CA that this machine trusts: set amqp.tls.ca_file to the CA's certificate",
        )
        .of_the_api("set SSL_CERT_FILE to a file that holds it"),
        Refused::new(
            "unknown CA, another is set",
            ca.server(&good),
            "leads to no CA in amqp.tls.ca_file",
        )
        .though_trusted(&other.pem())
        .of_the_api("leads to no CA that this machine trusts"),
        Refused::new(
            "the CA between is missing",
            between.server(&good),
            "a CA between the two is missing, and the broker has to send its certificate too",
        )
        .though_trusted(&ca.pem())
        .of_the_api("a CA in between has to be sent by the server"),
        Refused::new(
            "self-signed CA, trusted",
            self_signed(),
            "is that of a CA (CA:TRUE)",
        )
        .though_trusted(&own.pem()),
        Refused::new(
            "self-signed CA, not trusted",
            self_signed(),
            "is that of a CA (CA:TRUE)",
        ),
    ]
}

/// Certificates of a CA that is trusted which are not as they have to be.
fn unfit() -> Vec<Refused> {
    let ca = Authority::new();
    let made = |change: fn(&mut CertificateParams)| {
        let mut params = leaf(&["localhost"]);
        change(&mut params);
        ca.server(&params)
    };
    let refused = |what, shown, broker| Refused::new(what, shown, broker).though_trusted(&ca.pem());
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
    let old_ca = std::fs::read_to_string(files.join("ca.pem")).unwrap();
    let old = |what, name, broker| {
        let shown = Shown::at(&files.join(name), &files.join("leaf.key"));
        Refused::new(what, shown, broker).though_trusted(&old_ca)
    };
    vec![
        refused(
            "a name in the subject only",
            ca.server(&leaf(&[])),
            "has no subjectAltName, and the name in its subject (CN) does not count: have one issued with DNS:localhost",
        ),
        refused(
            "other names",
            ca.server(&leaf(&["a.example", "*.b.example", "10.0.0.7"])),
            "it holds a.example, *.b.example, 10.0.0.7, not localhost; write one of those into amqp.url",
        )
        .of_the_api("write one of those into im.base_url"),
        refused(
            "expired",
            made(|params| params.not_after = date_time_ymd(2001, 2, 3)),
            "is valid until 2001-02-03T00:00:00Z only",
        ),
        refused(
            "not yet valid",
            made(|params| params.not_before = date_time_ymd(3001, 2, 3)),
            "is valid from 3001-02-03T00:00:00Z on",
        ),
        refused(
            "a client's",
            made(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
            "usage holds serverAuth",
        ),
        old("signed with SHA-1", "sha1.pem", "signed with SHA-256"),
        old("of version 1", "version1.pem", "is of X.509 version 1"),
    ]
}

/// Each certificate that is refused, shown by the broker and by the API: the advice is true for that one.
#[tokio::test(flavor = "multi_thread")]
async fn each_certificate_that_is_refused_has_its_own_advice() {
    let world = World::new().await;
    for case in untrusted().into_iter().chain(unfit()) {
        let says = checked(&world, &case.shown, case.trusted.as_deref()).await;
        let expected = [("the broker's", case.broker), ("the API's", case.api)];
        for (says, (whose, word)) in says.iter().zip(expected) {
            let what = case.what;
            assert!(says.starts_with("FAIL"), "{what}: {says}");
            assert!(
                says.contains(whose) && says.contains(word),
                "{what}: {says}"
            );
        }
    }
}

/// A certificate that is as it has to be, and one that is trusted by itself.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_are_trusted_work() {
    let (world, ca) = (World::new().await, Authority::new());
    let mut own = leaf(&["localhost"]);
    own.is_ca = IsCa::ExplicitNoCa;
    let key = KeyPair::generate().unwrap();
    let own = own.self_signed(&key).unwrap();
    let shown = Shown {
        chain: vec![own.der().clone()],
        key: PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
    };
    for (shown, trusted) in [
        (ca.server(&leaf(&["localhost"])), ca.pem()),
        (shown, own.pem()),
    ] {
        for says in checked(&world, &shown, Some(&trusted)).await {
            assert!(says.starts_with("ok"), "{says}");
        }
    }
}

/// A server that refuses the versions there are, by an alert: TLS 1.1 is all it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_old_versions_is_told_as_such() {
    const PROTOCOL_VERSION: &[u8] = &[0x15, 3, 2, 0, 2, 2, 70];
    let world = World::new().await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut client, _)) = listener.accept().await {
            client.write_all(PROTOCOL_VERSION).await.unwrap();
            held.push(client);
        }
    });
    let check = world
        .tool_config(&["check"])
        .set(
            "CONVGROUP_AMQP__URL",
            format!("amqps://guest:guest@{addr}/%2f"),
        )
        .set("CONVGROUP_IM__BASE_URL", format!("https://{addr}"));
    let (_, output) = check.spawn().finished(PATIENCE).await;
    let [broker, api] = lines(&output);
    assert!(
        broker.contains("allow tlsv1.2 or tlsv1.3 in its ssl_options.versions"),
        "{broker}"
    );
    assert!(api.contains("have it allow TLS 1.2 or 1.3"), "{api}");
}

/// A machine that trusts nobody: no package ca-certificates, as in a minimal container.
fn without_cas(config: DaemonConfig, empty: &Path) -> DaemonConfig {
    config
        .set("SSL_CERT_FILE", shown_path(&empty.join("nowhere.pem")))
        .set("SSL_CERT_DIR", shown_path(empty))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_cas_does_all_that_needs_none() {
    let (ca, empty) = (Authority::new(), tempfile::tempdir().unwrap());
    let mut world = World::new().await;
    world.user("user15", &["a"]);
    let broker = ca.front(shared_node().await.addr()).await;
    world.config = without_cas(world.config, empty.path())
        .set(
            "CONVGROUP_AMQP__URL",
            format!("amqps://guest:guest@{broker}/%2f"),
        )
        .set(
            "CONVGROUP_AMQP__TLS__CA_FILE",
            shown_path(&ca.path("ca.pem")),
        );
    // The broker over TLS, with its CA named; the API without TLS.
    let daemon = world.daemon().await;
    world.publish("user15", &["a"]).await;
    eventually_settled(&daemon, "deleted", 1).await;
    let ready = format!(
        "http://{}/readyz",
        world.config.get("CONVGROUP_HTTP__LISTEN")
    );
    for args in [
        &["check", "--ready", &ready][..],
        &["check"],
        &["publish", "--user", "user15", "b"],
        &["topology", "verify"],
        &["dlq", "ls"],
    ] {
        let (exit, output) = world.tool(args).await;
        assert_eq!(exit, 0, "{args:?}: {output}");
    }
    world.settled(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_cas_is_named_where_one_is_needed() {
    const CAUSE: &str = "install the package ca-certificates, or set SSL_CERT_FILE";
    let empty = tempfile::tempdir().unwrap();
    let mut world = World::new().await;
    world.config = without_cas(world.config, empty.path());
    let secure = world
        .config
        .clone()
        .set("CONVGROUP_IM__BASE_URL", "https://127.0.0.1:9");
    let mut daemon = secure.spawn();
    assert_eq!(daemon.wait_exit(PATIENCE).await, 78);
    let output = daemon.output();
    assert!(output.contains(CAUSE), "{output}");
    assert!(!output.contains("builder error"), "{output}");
    let (exit, output) = secure.args(&["check"]).spawn().finished(PATIENCE).await;
    assert_eq!(exit, 78, "{output}");
    assert!(lines(&output)[1].contains(CAUSE), "{output}");
    let (exit, output) = world
        .tool(&["check", "--ready", "https://127.0.0.1:9/readyz"])
        .await;
    assert_eq!(exit, 78, "{output}");
    assert!(output.contains(CAUSE), "{output}");
    // A wrong address is still the address's fault.
    let (exit, output) = world.tool(&["check", "--ready", "127.0.0.1:9"]).await;
    assert_eq!(exit, 64, "{output}");
    let world = world.set("CONVGROUP_AMQP__URL", "amqps://guest:guest@127.0.0.1:9/%2f");
    let (exit, output) = world.tool(&["check"]).await;
    assert_eq!(exit, 69, "{output}");
    let [broker, _] = lines(&output);
    assert!(
        broker.contains(CAUSE) && broker.contains("or set amqp.tls.ca_file"),
        "{broker}"
    );
}

/// One broken certificate among those of the machine spoils none of the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_with_a_broken_certificate_is_used() {
    let (ca, dir) = (Authority::new(), tempfile::tempdir().unwrap());
    let good = std::fs::read_to_string(ca.path("ca.pem")).unwrap();
    let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let worse = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
    let bundle = dir.path().join("bundle.pem");
    std::fs::write(&bundle, format!("{bad}{worse}{good}{worse}")).unwrap();
    let world = World::new().await;
    let shown = ca.server(&leaf(&["localhost"]));
    let broker = shown.before(shared_node().await.addr()).await;
    let api = shown.before(world.sandbox.addr()).await;
    let world = world
        .set("SSL_CERT_FILE", shown_path(&bundle))
        .set(
            "CONVGROUP_AMQP__URL",
            format!("amqps://guest:guest@localhost:{}/%2f", broker.port()),
        )
        .set(
            "CONVGROUP_IM__BASE_URL",
            format!("https://localhost:{}", api.port()),
        );
    let (exit, output) = world.tool(&["check"]).await;
    assert_eq!(exit, 0, "{output}");
}

/// Files that can't be used are named before anything is connected.
#[tokio::test(flavor = "multi_thread")]
async fn files_that_can_t_be_used_are_named_at_the_start() {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
    for (cert, key, problem) in [
        ("leaf.pem", "encrypted.key", "encrypted.key is encrypted"),
        (
            "leaf.pem",
            "encrypted-old.key",
            "encrypted-old.key is encrypted",
        ),
        (
            "leaf.pem",
            "pkcs1.key",
            "pkcs1.key does not belong to the first certificate",
        ),
        (
            "leaf.key",
            "leaf.key",
            "holds no PEM block `-----BEGIN CERTIFICATE-----`",
        ),
        (
            "leaf.pem",
            "leaf.pem",
            "holds no PEM block `PRIVATE KEY-----`",
        ),
    ] {
        let config = DaemonConfig::new("amqps://guest:guest@127.0.0.1:9/%2f", "http://127.0.0.1:9")
            .set(
                "CONVGROUP_AMQP__TLS__CERT_FILE",
                shown_path(&files.join(cert)),
            )
            .set(
                "CONVGROUP_AMQP__TLS__KEY_FILE",
                shown_path(&files.join(key)),
            );
        let mut daemon = config.spawn();
        assert_eq!(daemon.wait_exit(PATIENCE).await, 78, "{}", daemon.output());
        assert!(
            daemon.output().contains(problem),
            "{problem}: {}",
            daemon.output()
        );
    }
}
