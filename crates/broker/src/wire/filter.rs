//! The filter itself: frames in, frames out.
use super::header::{self, Content, TAIL_BYTES};
use super::{
    FRAME_BYTES_MAX, FRAME_BYTES_MIN, FRAME_EXTRA_BYTES, LAPINS_BYTES_MIN, WireError, method,
};

/// Bytes before a frame's payload: kind, channel, size.
const HEAD_BYTES: usize = 7;
/// The byte after a frame's payload.
const END: u8 = 0xCE;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
/// Memory that is kept from one frame to the next, in bytes.
const KEPT_BYTES: usize = 16 * 1024;

/// Replaces what would harm the client library in the bytes that a broker sends.
///
/// Incremental: [`feed`](Self::feed) takes bytes as they come, in pieces of any size, and appends what the client library may see.
/// Bodies and heartbeats pass as they come. Methods and content headers are held until they are whole, at most
/// [`FRAME_BYTES_MAX`] of them; of a larger content header only its beginning and its end are held.
///
/// What comes out is always made of frames that lapin can parse, none larger than agreed, with headers of bounded depth and number.
#[derive(Debug)]
pub(crate) struct Filter {
    mark: String,
    /// Frame bound as agreed with the broker so far, in bytes.
    agreed: u32,
    /// What the client library has to ask for in a new connection.
    must_ask: Option<u32>,
    state: State,
    /// The frame at hand, from its head on, as far as it is held.
    held: Vec<u8>,
    /// The last bytes of a content header that is too large to be held.
    tail: Vec<u8>,
}

#[derive(Debug)]
enum State {
    /// In a frame's head, or before it.
    Head,
    /// In a frame that passes: so many bytes are still to come, the end included.
    Passing { kind: u8, left: usize },
    /// In a frame that is held: so many bytes are still to come, the end included.
    Holding { left: usize },
    /// After an error.
    Failed(WireError),
}

impl Filter {
    /// The filter of a new connection. `mark` is the name of the header that says why a message can't be read: no publisher may
    /// be able to guess it. `frame_bytes_max` is what we ask the broker for.
    #[must_use]
    pub(crate) fn new(mark: &str, frame_bytes_max: u32) -> Self {
        Self {
            mark: mark.to_owned(),
            agreed: frame_bytes_max.clamp(FRAME_BYTES_MIN, FRAME_BYTES_MAX),
            must_ask: None,
            state: State::Head,
            held: Vec::new(),
            tail: Vec::new(),
        }
    }

    /// Takes the next bytes of the broker, and appends what the client library may see to `out`.
    ///
    /// # Errors
    /// What no healthy broker sends. What was appended before is still good; the same error comes again from then on.
    pub(crate) fn feed(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> Result<(), WireError> {
        while !input.is_empty() {
            let step = match &self.state {
                State::Head => self.head(&mut input, out),
                &State::Passing { kind, left } => pass(kind, left, &mut input, out),
                &State::Holding { left } => self.hold(left, &mut input, out),
                State::Failed(error) => return Err(error.clone()),
            };
            match step {
                Ok(state) => self.state = state,
                Err(error) => {
                    self.state = State::Failed(error.clone());
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// What the client library has to ask for in a new connection, in bytes: it would not agree to as little as this broker offers.
    /// This connection then ends as if the broker had closed it.
    #[must_use]
    pub(crate) fn must_ask(&self) -> Option<u32> {
        self.must_ask
    }

    /// Bytes of memory that are held back now.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.held.capacity() + self.tail.capacity()
    }

    fn head(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<State, WireError> {
        self.take(HEAD_BYTES - self.held.len(), input);
        let &[kind, _, _, a, b, c, d] = self.held.as_slice() else {
            return Ok(State::Head);
        };
        let size = u32::from_be_bytes([a, b, c, d]);
        let left = size as usize + 1;
        let (bytes, max) = (u64::from(size) + FRAME_EXTRA_BYTES as u64, self.agreed);
        match kind {
            // RabbitMQ cuts bodies to what was agreed, and sends content headers of any size whole.
            METHOD | BODY | HEARTBEAT if bytes > u64::from(max) => {
                let kind = name(kind);
                Err(WireError::TooLarge { kind, bytes, max })
            }
            METHOD | HEADER => Ok(State::Holding { left }),
            BODY | HEARTBEAT => {
                out.append(&mut self.held);
                Ok(State::Passing { kind, left })
            }
            _ => Err(WireError::Kind(kind)),
        }
    }

    fn hold(
        &mut self,
        left: usize,
        input: &mut &[u8],
        out: &mut Vec<u8>,
    ) -> Result<State, WireError> {
        let before = input.len();
        let room = (HEAD_BYTES + FRAME_BYTES_MAX as usize).saturating_sub(self.held.len());
        self.take(room.min(left), input);
        let held = before - input.len();
        let beyond = split(input, left - held);
        self.keep_tail(beyond);
        let left = left - held - beyond.len();
        if left > 0 {
            return Ok(State::Holding { left });
        }
        self.finish_frame(out)?;
        self.held.clear();
        self.held.shrink_to(KEPT_BYTES);
        self.tail = Vec::new();
        Ok(State::Head)
    }

    /// Appends so many bytes of the input to what is held.
    fn take(&mut self, count: usize, input: &mut &[u8]) {
        self.held.extend_from_slice(split(input, count));
    }

    /// Appends to the tail, of which only the last bytes are kept.
    fn keep_tail(&mut self, bytes: &[u8]) {
        // One more than needed: the frame's end.
        const KEPT: usize = TAIL_BYTES + 1;
        if self.tail.is_empty() && !bytes.is_empty() {
            // It begins with the end of what is held.
            let from = self.held.len().saturating_sub(KEPT);
            self.tail.extend_from_slice(&self.held[from..]);
        }
        let bytes = &bytes[bytes.len().saturating_sub(KEPT)..];
        self.tail.extend_from_slice(bytes);
        if self.tail.len() > 2 * KEPT {
            self.tail.drain(..self.tail.len() - KEPT);
        }
    }

    /// Deals with the frame that is held, now that it is whole.
    fn finish_frame(&mut self, out: &mut Vec<u8>) -> Result<(), WireError> {
        let (kind, channel) = (self.held[0], [self.held[1], self.held[2]]);
        if kind == METHOD {
            return self.finish_method(channel, out);
        }
        let end = if self.tail.is_empty() {
            &mut self.held
        } else {
            &mut self.tail
        };
        ended(kind, end)?;
        end.pop();
        let size = [self.held[3], self.held[4], self.held[5], self.held[6]];
        let content = Content {
            head: &self.held[HEAD_BYTES..],
            tail: &self.tail[self.tail.len().saturating_sub(TAIL_BYTES)..],
            total: u32::from_be_bytes(size) as usize,
        };
        let instead = header::replacement(&content, &self.mark, self.agreed as usize)?;
        put(
            out,
            kind,
            channel,
            instead.as_deref().unwrap_or(content.head),
        );
        Ok(())
    }

    fn finish_method(&mut self, channel: [u8; 2], out: &mut Vec<u8>) -> Result<(), WireError> {
        ended(METHOD, &self.held)?;
        self.held.pop();
        let mut payload = self.held.split_off(HEAD_BYTES);
        let number = method::number(&payload);
        if method::mend(&mut payload).is_none() {
            let (class, method) = number.unwrap_or_default();
            return Err(WireError::Method(class, method));
        }
        if let (Some(method::TUNE), [.., a, b, c, d, _, _]) = (number, payload.as_slice()) {
            let offered = u32::from_be_bytes([*a, *b, *c, *d]);
            if offered != 0 {
                let asked = self.agreed;
                self.agreed = asked.min(offered.max(FRAME_BYTES_MIN));
                if self.agreed < asked.min(LAPINS_BYTES_MIN) {
                    self.must_ask = Some(self.agreed);
                    payload = method::close_for_smaller_frames();
                }
            }
        }
        put(out, METHOD, channel, &payload);
        Ok(())
    }
}

/// Passes bytes of a frame on as they are.
fn pass(kind: u8, left: usize, input: &mut &[u8], out: &mut Vec<u8>) -> Result<State, WireError> {
    let passed = split(input, left);
    if passed.len() == left {
        ended(kind, passed)?;
    }
    out.extend_from_slice(passed);
    Ok(match left - passed.len() {
        0 => State::Head,
        left => State::Passing { kind, left },
    })
}

/// Takes at most so many bytes off the front.
fn split<'a>(input: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, left) = input.split_at(count.min(input.len()));
    *input = left;
    taken
}

/// Whether a frame ends as frames do.
fn ended(kind: u8, bytes: &[u8]) -> Result<(), WireError> {
    if bytes.last() == Some(&END) {
        Ok(())
    } else {
        Err(WireError::End(name(kind)))
    }
}

/// Writes a frame.
fn put(out: &mut Vec<u8>, kind: u8, channel: [u8; 2], payload: &[u8]) {
    let size = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.push(kind);
    out.extend(channel);
    out.extend(size.to_be_bytes());
    out.extend_from_slice(payload);
    out.push(END);
}

fn name(kind: u8) -> &'static str {
    match kind {
        METHOD => "method",
        HEADER => "content header",
        BODY => "body",
        _ => "heartbeat",
    }
}
