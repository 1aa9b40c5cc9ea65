//! What the sandbox has seen: counters, and single calls if asked for.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

use super::call::CallKind;

/// Counts of calls of the API since the start or the last reset. Deletions and lists are counted together where nothing else is said.
///
/// A request that is none (another path or method, a body above 64 KiB) is not counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// All calls, whatever became of them.
    pub calls: u64,
    /// Those that ask for a page of a list.
    pub lists: u64,
    /// Those for an admin's own account.
    pub probes: u64,
    /// Groups deleted, whether or not the answer said so.
    pub deleted: u64,
    /// Answers to deletions by their `ErrorCode`, injected ones included.
    pub by_code: BTreeMap<i64, u64>,
    /// Answers to lists, likewise.
    pub lists_by_code: BTreeMap<i64, u64>,
    /// Answers by their HTTP status; a call without an answer has none.
    pub by_http_status: BTreeMap<u16, u64>,
    /// Faults by their [label](super::Fault::label).
    pub by_fault: BTreeMap<String, u64>,
    /// The most calls that arrived within any sliding second.
    pub calls_per_second_max: usize,
}

/// One call, when it arrived and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallRecord {
    /// When it arrived, with its body.
    pub instant: Instant,
    /// Whether it was to delete or to list.
    pub kind: CallKind,
    /// Its user, if its body named one.
    pub user: Option<String>,
    /// Its first group, if it was to delete and its body named one.
    pub group: Option<String>,
    /// Its page, counted from 0, if it was to list and its body had a `StartIndex`: that, divided by the size of a page.
    pub page: Option<u64>,
    /// The `ErrorCode` it was answered with, if it was answered with any.
    pub code: Option<i64>,
    /// The [label](super::Fault::label) of the fault that struck it.
    pub fault: Option<String>,
    /// Whether it deleted the group.
    pub deleted: bool,
    /// Whether it was for an admin's own account.
    pub probe: bool,
}

impl Counters {
    pub(super) fn count(
        &mut self,
        record: &CallRecord,
        http_status: Option<u16>,
        calls_per_second: usize,
    ) {
        self.calls += 1;
        self.probes += u64::from(record.probe);
        self.deleted += u64::from(record.deleted);
        let by_code = match record.kind {
            CallKind::Delete => &mut self.by_code,
            CallKind::List => {
                self.lists += 1;
                &mut self.lists_by_code
            }
        };
        if let Some(code) = record.code {
            *by_code.entry(code).or_default() += 1;
        }
        if let Some(status) = http_status {
            *self.by_http_status.entry(status).or_default() += 1;
        }
        if let Some(fault) = &record.fault {
            *self.by_fault.entry(fault.clone()).or_default() += 1;
        }
        self.calls_per_second_max = self.calls_per_second_max.max(calls_per_second);
    }
}
