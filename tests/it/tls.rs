//! TLS to the broker: a private CA and client certificates; what is wrong is said clearly.
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::harness::{DaemonConfig, Node, PATIENCE, eventually, free_port};
use crate::world::{World, eventually_settled};

/// A CA and what it signed, as PEM files.
pub(crate) struct Authority {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "an authority");
        let key = KeyPair::generate().unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("ca.pem"),
            params.self_signed(&key).unwrap().pem(),
        )
        .unwrap();
        Self {
            dir,
            issuer: Issuer::new(params, key),
        }
    }

    fn sign(&self, file: &str, name: &str) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(&format!("{file}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// Speaks TLS before something that does not, under the name 127.0.0.1.
    pub(crate) async fn front(&self, upstream: SocketAddr) -> SocketAddr {
        self.sign("front", "127.0.0.1");
        let chain = CertificateDer::pem_file_iter(self.path("front.pem")).unwrap();
        let chain = chain.collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(self.path("front.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
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

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_ca_and_client_certificates_work_and_what_is_wrong_is_said() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    ours.sign("server", "localhost");
    ours.sign("client", "daemon");
    let node = Node::with_tls(&format!(
        "ssl_options.cacertfile = {}\nssl_options.certfile = {}\nssl_options.keyfile = {}\n\
         ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n",
        shown(&ours.path("ca.pem")),
        shown(&ours.path("server.pem")),
        shown(&ours.path("server.key")),
    ))
    .await;
    let secure = format!("amqps://guest:guest@localhost:{}/%2f", node.tls_port());
    let world = World::at(&node.url())
        .await
        .set("CONVGROUP_AMQP__URL", &secure)
        .set("CONVGROUP_AMQP__TLS__CA_FILE", shown(&ours.path("ca.pem")))
        .set(
            "CONVGROUP_AMQP__TLS__CERT_FILE",
            shown(&ours.path("client.pem")),
        )
        .set(
            "CONVGROUP_AMQP__TLS__KEY_FILE",
            shown(&ours.path("client.key")),
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
        shown(&theirs.path("ca.pem")),
    );
    let text = reason(&world).await;
    assert!(
        text.contains("set amqp.tls.ca_file to the CA's certificate"),
        "{text}"
    );

    let by_address = format!("amqps://guest:guest@127.0.0.1:{}/%2f", node.tls_port());
    let world = world
        .set("CONVGROUP_AMQP__TLS__CA_FILE", shown(&ours.path("ca.pem")))
        .set("CONVGROUP_AMQP__URL", by_address);
    let text = reason(&world).await;
    assert!(
        text.contains("certificate is for another host name"),
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

    let world = world.set(
        "CONVGROUP_AMQP__TLS__CERT_FILE",
        shown(&ours.path("client.pem")),
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
