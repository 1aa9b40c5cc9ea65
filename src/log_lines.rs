//! The way of log lines to stderr: a bounded queue, and one thread that writes.
//!
//! A pipe that nobody reads makes a write wait for ever. So nobody but that thread writes: those who log put a line into the
//! queue and go on. Lines for which there is no room are dropped and counted, and the log says how many as soon as it is written
//! again. What a line looks like is decided in [`crate::telemetry`].
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntCounter;

/// Lines that wait, in bytes: as much again as a pipe holds by itself. Over a hundred lines, which is hours of a calm daemon at
/// level `info`. More would only put off the moment at which a reader that has died is noticed.
const WAITING_BYTES_MAX: usize = 64 * 1024;
/// Lines that wait: short ones cost more memory than their bytes.
const WAITING_LINES_MAX: usize = 1024;
/// After stderr said that a write would block: somebody who shares it has made it non-blocking.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// What the writer has to do next.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Line(Vec<u8>),
    /// So many lines were dropped here.
    Gap(u64),
}

#[derive(Debug, Default)]
struct Waiting {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Dropped since the last entry.
    dropped: u64,
    /// Full, and not half empty since: lines that come in now and then would make a gap of each other one.
    full: bool,
    /// The writer is at work on an entry.
    writing: bool,
}

impl Waiting {
    fn has_room(&self, line: &[u8]) -> bool {
        let share = if self.full { 2 } else { 1 };
        self.bytes + line.len() <= WAITING_BYTES_MAX / share
            && self.entries.len() < WAITING_LINES_MAX / share
    }

    /// Says whether there was room.
    fn push(&mut self, line: &[u8]) -> bool {
        self.full = !self.has_room(line);
        if self.full {
            self.dropped += 1;
            return false;
        }
        if self.dropped > 0 {
            let dropped = std::mem::take(&mut self.dropped);
            self.entries.push_back(Entry::Gap(dropped));
        }
        self.bytes += line.len();
        self.entries.push_back(Entry::Line(line.to_vec()));
        true
    }

    fn pop(&mut self) -> Option<Entry> {
        let Some(entry) = self.entries.pop_front() else {
            let dropped = std::mem::take(&mut self.dropped);
            return (dropped > 0).then_some(Entry::Gap(dropped));
        };
        if let Entry::Line(line) = &entry {
            self.bytes -= line.len();
        }
        Some(entry)
    }

    fn is_done(&self) -> bool {
        self.entries.is_empty() && self.dropped == 0 && !self.writing
    }
}

/// Lines on their way to stderr. Putting one in never waits for the writer.
#[derive(Debug)]
pub(crate) struct LogLines {
    waiting: Mutex<Waiting>,
    more: Condvar,
    done: Condvar,
    /// Lines that were dropped, or could not be written.
    dropped: IntCounter,
}

impl LogLines {
    /// An empty queue; `dropped` counts what is not written.
    pub(crate) fn new(dropped: IntCounter) -> Self {
        Self {
            waiting: Mutex::default(),
            more: Condvar::new(),
            done: Condvar::new(),
            dropped,
        }
    }

    /// Queues a whole line, its end included. Without room it is dropped.
    pub(crate) fn push(&self, line: &[u8]) {
        if self.lock().push(line) {
            self.more.notify_one();
        } else {
            self.dropped.inc();
        }
    }

    /// Waits until everything queued is written, for `patience` at most.
    pub(crate) fn flush(&self, patience: Duration) {
        let waiting = self.lock();
        let is_on = |waiting: &mut Waiting| !waiting.is_done();
        drop(self.done.wait_timeout_while(waiting, patience, is_on));
    }

    /// The next entry; waits for one.
    fn next(&self) -> Entry {
        let mut waiting = self.lock();
        waiting.writing = false;
        loop {
            if let Some(entry) = waiting.pop() {
                waiting.writing = true;
                return entry;
            }
            self.done.notify_all();
            waiting = self
                .more
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it is held. If something ever does, going on logging is the better half.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lines that are missing in the output, to be told before the next one.
#[derive(Debug, Default)]
pub(crate) struct Missing {
    /// How many.
    pub(crate) lines: u64,
    /// What stderr said, if it refused a write. Without it there was no room in the queue.
    pub(crate) refused: Option<io::Error>,
}

/// Writes what is queued, for as long as the process lives.
pub(crate) struct Writer<W, T> {
    lines: Arc<LogLines>,
    out: W,
    tell: T,
    missing: Missing,
    /// The output ends in the middle of a line.
    torn: bool,
}

impl<W: Write, T: Fn(&Missing) -> Vec<u8>> Writer<W, T> {
    /// Writes to `out`; `tell` makes the line about what is missing, or nothing if it is not to be logged.
    pub(crate) fn new(lines: Arc<LogLines>, out: W, tell: T) -> Self {
        Self {
            lines,
            out,
            tell,
            missing: Missing::default(),
            torn: false,
        }
    }

    /// Never ends. Must have a thread to itself: each write may wait for ever.
    pub(crate) fn run(mut self) {
        loop {
            let entry = self.lines.next();
            self.work_on(entry);
        }
    }

    fn work_on(&mut self, entry: Entry) {
        let written = match entry {
            Entry::Gap(lines) => {
                self.missing.lines += lines;
                self.tell_missing()
            }
            Entry::Line(line) => {
                let written = self.tell_missing().and_then(|()| self.write(&line));
                if written.is_err() {
                    self.missing.lines += 1;
                    self.lines.dropped.inc();
                }
                written
            }
        };
        if let Err(err) = written {
            self.missing.refused = Some(err);
        }
    }

    fn tell_missing(&mut self) -> io::Result<()> {
        if self.missing.lines > 0 {
            let line = (self.tell)(&self.missing);
            self.write(&line)?;
            self.missing = Missing::default();
        }
        Ok(())
    }

    /// Writes a line whole. One that breaks off (a disk can be full in the middle) is ended before the next begins.
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.torn {
            self.write_all(b"\n")?;
        }
        self.torn = false;
        self.write_all(line)
    }

    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        let mut rest = line;
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    rest = &rest[count..];
                    self.torn = !rest.is_empty();
                }
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) if err.kind() == ErrorKind::WouldBlock => std::thread::sleep(RETRY_PAUSE),
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn lines() -> Arc<LogLines> {
        let dropped = IntCounter::new("dropped", "dropped").unwrap();
        Arc::new(LogLines::new(dropped))
    }

    fn tell(missing: &Missing) -> Vec<u8> {
        let why = missing.refused.as_ref().map(io::Error::kind);
        format!("{} missing {why:?}\n", missing.lines).into_bytes()
    }

    /// Takes what the test allows, a piece each time, and keeps it.
    struct Slow {
        taken: Arc<Mutex<Vec<u8>>>,
        answers: Receiver<io::Result<usize>>,
    }

    impl Write for Slow {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            // Without an answer any more, everything is taken.
            let count = self.answers.recv().unwrap_or(Ok(usize::MAX))?;
            let count = count.min(text.len());
            self.taken.lock().unwrap().extend_from_slice(&text[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A writer at work, what it has written, and what its output answers to each write.
    fn at_work(lines: &Arc<LogLines>) -> (Arc<Mutex<Vec<u8>>>, Sender<io::Result<usize>>) {
        let (say, answers) = channel();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let out = Slow {
            taken: Arc::clone(&taken),
            answers,
        };
        let writer = Writer::new(Arc::clone(lines), out, tell);
        std::thread::spawn(|| writer.run());
        (taken, say)
    }

    fn text(taken: &Mutex<Vec<u8>>) -> String {
        String::from_utf8(taken.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn lines_keep_their_order_and_end_whole() {
        let lines = lines();
        let (taken, say) = at_work(&lines);
        for answer in [
            Ok(2),
            Err(ErrorKind::Interrupted.into()),
            Err(ErrorKind::WouldBlock.into()),
            Ok(1),
        ] {
            say.send(answer).unwrap();
        }
        drop(say);
        for line in ["first\n", "second\n", "third\n"] {
            lines.push(line.as_bytes());
        }
        lines.flush(PATIENCE);
        assert_eq!(text(&taken), "first\nsecond\nthird\n");
        assert_eq!(lines.dropped.get(), 0);
    }

    #[test]
    fn what_finds_no_room_is_counted_and_told_in_its_place() {
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let fit = (WAITING_BYTES_MAX / line.len()) as u64;
        let mut waiting = Waiting::default();
        for _ in 0..fit {
            assert!(waiting.push(&line));
        }
        for _ in 0..5 {
            assert!(!waiting.push(&line));
        }
        assert!(
            waiting.bytes <= WAITING_BYTES_MAX,
            "{} bytes",
            waiting.bytes
        );
        // Until half of it is gone all are dropped, so that the gaps are few.
        for _ in 0..fit / 2 {
            assert!(matches!(waiting.pop(), Some(Entry::Line(_))));
            assert!(!waiting.push(&line), "{} bytes wait", waiting.bytes);
        }
        assert!(matches!(waiting.pop(), Some(Entry::Line(_))));
        assert!(waiting.push(b"later\n"));
        let entries: Vec<_> = std::iter::from_fn(|| waiting.pop()).collect();
        let gap = Entry::Gap(5 + fit / 2);
        let at = entries.iter().position(|entry| *entry == gap);
        assert_eq!(at, Some(entries.len() - 2));
        assert_eq!(entries.last(), Some(&Entry::Line(b"later\n".to_vec())));
        assert_eq!(waiting.bytes, 0);
        assert!(waiting.is_done());
    }

    #[test]
    fn short_lines_are_bounded_by_their_number() {
        let mut waiting = Waiting::default();
        let taken = std::iter::repeat_n(b"\n", 2 * WAITING_LINES_MAX)
            .filter(|line| waiting.push(*line))
            .count();
        assert_eq!(taken, WAITING_LINES_MAX);
    }

    #[test]
    fn a_gap_at_the_end_is_told_when_the_output_moves_though_nothing_follows() {
        let lines = lines();
        let line = vec![b'x'; WAITING_BYTES_MAX / 2];
        let (taken, say) = at_work(&lines);
        for _ in 0..5 {
            lines.push(&line);
        }
        drop(say);
        lines.flush(PATIENCE);
        let text = text(&taken);
        let dropped = lines.dropped.get();
        assert!((2..=3).contains(&dropped), "{dropped} dropped");
        assert!(text.ends_with(&format!("x{dropped} missing None\n")));
    }

    #[test]
    fn a_refused_line_is_told_before_the_next_one_that_is_taken() {
        let lines = lines();
        let (taken, say) = at_work(&lines);
        // A disk that is full in the middle of a line; the second line, and what is told before it, find it full still.
        say.send(Ok(3)).unwrap();
        say.send(Err(ErrorKind::StorageFull.into())).unwrap();
        say.send(Err(ErrorKind::StorageFull.into())).unwrap();
        drop(say);
        for line in ["first\n", "second\n", "third\n"] {
            lines.push(line.as_bytes());
        }
        lines.flush(PATIENCE);
        assert_eq!(
            text(&taken),
            "fir\n2 missing Some(StorageFull)\nthird\n",
            "the torn line is ended, the others are whole"
        );
        assert_eq!(lines.dropped.get(), 2);
    }

    #[test]
    fn nobody_waits_for_an_output_that_does_not_move() {
        let lines = lines();
        let (_, _say) = at_work(&lines);
        for _ in 0..10 * WAITING_LINES_MAX {
            lines.push(b"line\n");
        }
        lines.flush(Duration::from_millis(10));
        assert!(lines.dropped.get() >= 8 * WAITING_LINES_MAX as u64);
    }
}
