//! AMQP frames written by hand: a publisher for messages that no client library would make, and a server that no client should
//! trust.
//!
//! Just enough of AMQP 0-9-1 to log in as guest and to publish with a confirm; header tables are bytes of the caller's.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

/// No answer of a healthy broker takes this long, however busy the machine.
const DEADLINE: Duration = Duration::from_secs(30);

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const FRAME_END: u8 = 0xCE;
const BASIC: u16 = 60;
/// Of a content header: headers and the delivery mode follow.
const HEADERS_AND_MODE: u16 = 0x2000 | 0x1000;
const PERSISTENT: u8 = 2;

/// A channel with confirms.
#[derive(Debug)]
pub struct RawPublisher {
    stream: TcpStream,
}

impl RawPublisher {
    /// Logs in and opens the channel; blocks for as long as that takes.
    pub fn connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        let mut raw = Self { stream };
        raw.stream.write_all(b"AMQP\x00\x00\x09\x01")?;
        raw.expect(10, 10)?;
        let login = [
            table(b""),
            short("PLAIN"),
            long(b"\0guest\0guest"),
            short("en_US"),
        ];
        raw.method(0, 10, 11, &login.concat())?;
        // What the broker wants (channels, frame size), but no heartbeats.
        let tune = raw.expect(10, 30)?;
        raw.method(0, 10, 31, &[&tune[..6], &[0, 0]].concat())?;
        raw.method(0, 10, 40, &[short("/"), short(""), vec![0]].concat())?;
        raw.expect(10, 41)?;
        raw.method(1, 20, 10, &short(""))?;
        raw.expect(20, 11)?;
        raw.method(1, 85, 10, &[0])?;
        raw.expect(85, 11)?;
        Ok(raw)
    }

    /// Publishes one persistent message and waits for its confirm. `headers` are the table's fields, without its length.
    pub fn publish(
        &mut self,
        exchange: &str,
        routing_key: impl AsRef<[u8]>,
        headers: &[u8],
        body: &[u8],
    ) -> io::Result<()> {
        let properties = [&table(headers)[..], &[PERSISTENT]].concat();
        self.publish_with(exchange, routing_key, HEADERS_AND_MODE, &properties, body)
    }

    /// The same with any properties: the flags that say which there are, and their bytes.
    pub fn publish_with(
        &mut self,
        exchange: &str,
        routing_key: impl AsRef<[u8]>,
        flags: u16,
        properties: &[u8],
        body: &[u8],
    ) -> io::Result<()> {
        let key = short_bytes(routing_key.as_ref());
        let to = [vec![0, 0], short(exchange), key, vec![0]];
        self.method(1, BASIC, 40, &to.concat())?;
        let header = [
            &BASIC.to_be_bytes()[..],
            &[0, 0],
            &(body.len() as u64).to_be_bytes(),
            &flags.to_be_bytes(),
            properties,
        ];
        self.frame(HEADER, 1, &header.concat())?;
        self.frame(BODY, 1, body)?;
        self.expect(BASIC, 80).map(drop)
    }

    fn method(
        &mut self,
        channel: u16,
        class: u16,
        method: u16,
        arguments: &[u8],
    ) -> io::Result<()> {
        self.stream
            .write_all(&method_frame(channel, class, method, arguments))
    }

    fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) -> io::Result<()> {
        self.stream.write_all(&frame_bytes(kind, channel, payload))
    }

    /// The arguments of the next method, which must be this one.
    fn expect(&mut self, class: u16, method: u16) -> io::Result<Vec<u8>> {
        let (head, mut payload) = read_frame(&mut self.stream)?;
        let wanted = [class.to_be_bytes(), method.to_be_bytes()].concat();
        if head[0] != METHOD || !payload.starts_with(&wanted) {
            let text = String::from_utf8_lossy(&payload).into_owned();
            return Err(io::Error::other(format!(
                "not the method {class}.{method}: {head:?} {text}"
            )));
        }
        Ok(payload.split_off(wanted.len()))
    }
}

/// What a server says that is no healthy broker.
#[derive(Clone, Debug)]
pub struct Hostile {
    /// The fields of its properties, in its first method.
    pub properties: Vec<u8>,
    /// The frame bound that it offers.
    pub frame_max: u32,
    /// The bytes that follow once the client has opened the vhost.
    pub then: Vec<u8>,
}

impl Hostile {
    /// Serves whoever connects, as far as the end of the handshake, on threads of its own that end with the process.
    pub fn serve(self) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, super::free_port()))?;
        let addr = listener.local_addr()?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let hostile = self.clone();
                // A client that leaves early is fine.
                thread::spawn(move || drop(hostile.talk(stream)));
            }
        });
        Ok(addr)
    }

    fn talk(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.read_exact(&mut [0; 8])?;
        let start = [
            vec![0, 9],
            table(&self.properties),
            long(b"PLAIN"),
            long(b"en_US"),
        ];
        stream.write_all(&method_frame(0, 10, 10, &start.concat()))?;
        read_frame(&mut stream)?;
        let tune = [&[0, 0][..], &self.frame_max.to_be_bytes(), &[0, 0]];
        stream.write_all(&method_frame(0, 10, 30, &tune.concat()))?;
        read_frame(&mut stream)?;
        read_frame(&mut stream)?;
        stream.write_all(&method_frame(0, 10, 41, &short("")))?;
        stream.write_all(&self.then)?;
        // Until the client has had enough.
        io::copy(&mut stream, &mut io::sink()).map(drop)
    }
}

/// A frame's head and its payload.
fn read_frame(stream: &mut TcpStream) -> io::Result<([u8; 7], Vec<u8>)> {
    let mut head = [0; 7];
    stream.read_exact(&mut head)?;
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
    let mut payload = vec![0; size + 1];
    stream.read_exact(&mut payload)?;
    payload.pop();
    Ok((head, payload))
}

fn method_frame(channel: u16, class: u16, method: u16, arguments: &[u8]) -> Vec<u8> {
    let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
    frame_bytes(METHOD, channel, &payload)
}

fn frame_bytes(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let frame = [
        &[kind][..],
        &channel.to_be_bytes(),
        &len(payload),
        payload,
        &[FRAME_END],
    ];
    frame.concat()
}

/// A table's field: a name and an array that holds an array that holds … so many levels deep.
pub fn nested_arrays(name: &str, levels: usize) -> Vec<u8> {
    const LEVEL_BYTES: usize = 5;
    let mut field = short(name);
    for level in 0..levels {
        let inside = (levels - level - 1) * LEVEL_BYTES;
        field.push(b'A');
        field.extend(
            u32::try_from(inside)
                .expect("it fits a frame")
                .to_be_bytes(),
        );
    }
    field
}

/// A table's field: these bytes as its name, and `true`.
pub fn named(name: &[u8]) -> Vec<u8> {
    [&short_bytes(name)[..], b"t\x01"].concat()
}

/// A table's field: a decimal number with this name.
pub fn decimal(name: &str) -> Vec<u8> {
    [short(name), vec![b'D', 2, 0, 0, 0, 1]].concat()
}

fn short(text: &str) -> Vec<u8> {
    short_bytes(text.as_bytes())
}

/// A short string, also of bytes that are none.
pub fn short_bytes(bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).expect("a short string has at most 255 bytes");
    [&[length][..], bytes].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&len(bytes)[..], bytes].concat()
}

/// A table of these fields.
pub fn table(fields: &[u8]) -> Vec<u8> {
    long(fields)
}

fn len(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len())
        .expect("it fits a frame")
        .to_be_bytes()
}
