//! Loopback ports that are free and stay free, also between test processes that run at the same time.
//!
//! A [`Block`] is ten ports below the ephemeral range. Who listens on its last port owns it, so a claim ends with the
//! process that made it, whatever happens to that process.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

const FIRST: u16 = 20_000;
const END: u16 = 32_000;
const SIZE: u16 = 10;

/// Ten consecutive ports of 127.0.0.1, the last one held as the claim.
#[derive(Debug)]
pub(crate) struct Block {
    base: u16,
    _claim: TcpListener,
}

impl Block {
    /// Claims a block whose ports nobody listens on.
    pub(crate) fn claim() -> Self {
        let blocks = (END - FIRST) / SIZE;
        let start = rand::random_range(0..blocks);
        (0..blocks)
            .map(|step| FIRST + (start + step) % blocks * SIZE)
            .find_map(Self::claim_at)
            .expect("no ten free ports between 20000 and 32000: something on this machine holds them all")
    }

    fn claim_at(base: u16) -> Option<Self> {
        let claim = listen(base + SIZE - 1)?;
        (base..base + SIZE - 1)
            .all(|port| listen(port).is_some())
            .then_some(Self {
                base,
                _claim: claim,
            })
    }

    /// The port at `offset` (0 to 8) in the block.
    pub(crate) fn port(&self, offset: u16) -> u16 {
        assert!(offset < SIZE - 1, "the last port of a block is its claim");
        self.base + offset
    }
}

fn listen(port: u16) -> Option<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()
}

/// A free port that this process hands out once, and no other test process takes while this one lives.
pub fn free_port() -> u16 {
    static CLAIMED: Mutex<(Vec<Block>, u16)> = Mutex::new((Vec::new(), 0));
    let mut claimed = CLAIMED.lock().unwrap_or_else(PoisonError::into_inner);
    let (blocks, used) = &mut *claimed;
    if blocks.is_empty() || *used == SIZE - 1 {
        blocks.push(Block::claim());
        *used = 0;
    }
    let offset = *used;
    *used += 1;
    blocks
        .last()
        .expect("a block was claimed above")
        .port(offset)
}
