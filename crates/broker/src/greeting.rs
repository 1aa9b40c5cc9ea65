//! The greeting: whether a node answers at all, and speaks AMQP, seen before lapin connects.
//!
//! lapin gives each attempt a thread and a socket of its own and no deadline, neither for the handshake of TLS nor for what
//! follows: attempts at a node that accepts and stays silent would pile up.
use std::io;
use std::time::Duration;

use futures_util::{AsyncReadExt, AsyncWriteExt};
use lapin::runtime::default_runtime;
use lapin::tcp::AMQPUriTcpExt;
use lapin::uri::AMQPUri;
use thiserror::Error;

use super::connect::{Tls, plain, secured};
use super::fault::Fault;
use super::tls;

/// How long a node may take to answer the protocol header, name lookup, TCP and TLS included. It is the first thing a node does.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long a node that broke a connection off is heard once more: its reason comes at once.
const HEARING: Duration = Duration::from_secs(2);
/// What a client says first.
const HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";
/// How many bytes of an answer that is not AMQP are told.
const TOLD_BYTES: usize = 60;

/// How a node does not answer like one that speaks AMQP 0-9-1.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GreetingError {
    /// It says nothing.
    #[error("the node did not answer within {secs} s", secs = DEADLINE.as_secs())]
    Silent,
    /// It closes the connection, and has said nothing.
    #[error("the node closed the connection before it answered")]
    Closed,
    /// It answers by TLS, and was not spoken to over TLS.
    #[error("the port speaks TLS, not plain AMQP: use amqps://")]
    SpeaksTls,
    /// It speaks AMQP of another version: the beginning of its answer.
    #[error(
        "the port speaks another version of AMQP than 0-9-1; it answered \"{}\"",
        .0.escape_ascii()
    )]
    OtherVersion(Vec<u8>),
    /// It speaks something else: the beginning of its answer.
    #[error("the port does not speak AMQP; it answered \"{}\"", .0.escape_ascii())]
    NotAmqp(Vec<u8>),
}

/// Why a greeting led to nothing.
enum Unanswered {
    /// The connection failed.
    Io(io::Error),
    /// The answer is a wrong one, or none.
    Wrong(GreetingError),
}

impl From<io::Error> for Unanswered {
    fn from(err: io::Error) -> Self {
        Self::Io(err)
    }
}

/// Greets a node: lapin's own way in, name lookup, TCP and TLS with the same trust and identity as the connection that follows,
/// but under a deadline; then the protocol header, which a node answers at once.
///
/// # Errors
/// What kept the node from answering, over TLS with what that means.
pub(super) async fn greet(uri: &AMQPUri, tls: Option<&Tls>) -> Result<(), Fault> {
    // Boxed: its way in is many kilobytes of future, and every caller would carry them.
    match tokio::time::timeout(DEADLINE, Box::pin(answered(uri, tls))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Unanswered::Io(err))) => Err(why(err, uri, tls).await),
        Ok(Err(Unanswered::Wrong(error))) => {
            let broken_off = tls.filter(|_| error == GreetingError::Closed);
            let meaning = broken_off.map(|tls| tls::broken_off(tls.peer));
            Err(Fault::Greeting(error).explained(meaning))
        }
        Err(_) => Err(Fault::Greeting(GreetingError::Silent)),
    }
}

/// Why a node did not answer. Over TLS a node that refuses the client's certificate says so and closes; what it had not read by
/// then, the protocol header, makes that a reset, which may overtake the reason. So it is heard once more, in silence.
async fn why(err: io::Error, uri: &AMQPUri, tls: Option<&Tls>) -> Fault {
    let told = |err: &io::Error| {
        let meaning = tls.and_then(|tls| tls::meaning(err, tls.peer));
        Fault::Lost(err.to_string()).explained(meaning)
    };
    if tls.is_some() && tls::is_broken_off(&err) {
        let heard = tokio::time::timeout(HEARING, Box::pin(heard(uri, tls))).await;
        if let Ok(Err(reason)) = heard
            && !tls::is_broken_off(&reason)
        {
            return told(&reason);
        }
    }
    told(&err)
}

/// Connects and says nothing.
async fn heard(uri: &AMQPUri, tls: Option<&Tls>) -> io::Result<()> {
    let runtime = default_runtime().map_err(io::Error::other)?;
    let stream = plain(uri).connect_async(&runtime).await?;
    let mut stream = secured(stream, uri, tls).await?;
    stream.read(&mut [0]).await.map(drop)
}

async fn answered(uri: &AMQPUri, tls: Option<&Tls>) -> Result<(), Unanswered> {
    let runtime = default_runtime().map_err(io::Error::other)?;
    let stream = plain(uri).connect_async(&runtime).await?;
    let mut stream = secured(stream, uri, tls).await?;
    stream.write_all(HEADER).await?;
    stream.flush().await?;
    let (mut answer, mut length) = ([0; TOLD_BYTES], 0);
    loop {
        let read = stream.read(&mut answer[length..]).await?;
        length += read;
        match judge(&answer[..length], read == 0) {
            Answer::Amqp => return Ok(()),
            Answer::Incomplete => {}
            Answer::Wrong(error) => return Err(Unanswered::Wrong(error)),
        }
    }
}

/// What the bytes that have come back are.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// The beginning of what a node says that speaks AMQP.
    Amqp,
    /// Not enough yet to tell.
    Incomplete,
    /// Something else.
    Wrong(GreetingError),
}

/// Judges what has come back so far; `over`: no more will come.
fn judge(answer: &[u8], over: bool) -> Answer {
    let beginning = || answer[..answer.len().min(TOLD_BYTES)].to_vec();
    // The method Connection.Start: its frame's kind, the channel 0, four bytes of length, the numbers of class and method.
    let fits = |(at, &byte): (usize, &u8)| match at {
        0 => byte == 1,
        1 | 2 | 7 | 9 => byte == 0,
        8 | 10 => byte == 10,
        _ => true,
    };
    if answer.iter().enumerate().all(fits) {
        return match answer.len() {
            11.. => Answer::Amqp,
            0 if over => Answer::Wrong(GreetingError::Closed),
            _ if over => Answer::Wrong(GreetingError::NotAmqp(beginning())),
            _ => Answer::Incomplete,
        };
    }
    Answer::Wrong(match answer {
        [0x15 | 0x16, 3, ..] => GreetingError::SpeaksTls,
        [b'A', b'M', b'Q', b'P', ..] => GreetingError::OtherVersion(beginning()),
        _ => GreetingError::NotAmqp(beginning()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_to_the_greeting_are_judged() {
        let start = b"\x01\x00\x00\x00\x00\x01\xfe\x00\x0a\x00\x0a\x00\x09";
        assert_eq!(judge(start, false), Answer::Amqp);
        for (answer, over, problem) in [
            (&start[..10], false, None),
            (&[], false, None),
            (
                &[],
                true,
                Some("the node closed the connection before it answered"),
            ),
            (
                &start[..10],
                true,
                Some("does not speak AMQP; it answered \"\\x01"),
            ),
            (
                b"HTTP/1.1 400 Bad Request\r\n\xff\"",
                false,
                Some(
                    "does not speak AMQP; it answered \"HTTP/1.1 400 Bad Request\\r\\n\\xff\\\"\"",
                ),
            ),
            (
                b"SSH-2.0-",
                false,
                Some("does not speak AMQP; it answered \"SSH-2.0-\""),
            ),
            (
                b"\x15\x03\x03\x00\x02\x02\x0a",
                false,
                Some("speaks TLS, not plain AMQP: use amqps://"),
            ),
            (
                b"AMQP\x00\x01\x00\x00",
                true,
                Some(
                    "another version of AMQP than 0-9-1; it answered \"AMQP\\x00\\x01\\x00\\x00\"",
                ),
            ),
        ] {
            match (judge(answer, over), problem) {
                (Answer::Wrong(found), Some(problem)) => {
                    assert!(found.to_string().contains(problem), "{found}");
                }
                (found, None) => {
                    assert_eq!(found, Answer::Incomplete, "{}", answer.escape_ascii());
                }
                (found, Some(problem)) => panic!("{found:?} is not {problem}"),
            }
        }
    }

    #[test]
    fn a_long_answer_is_cut() {
        let Answer::Wrong(error) = judge(&[b'x'; 5000], false) else {
            panic!("that is no AMQP");
        };
        let told = error.to_string();
        assert!(told.len() < 2 * TOLD_BYTES, "{told}");
    }
}
