//! The parts of shared memory that this session is attached to, and when they grow.

use std::cell::{Cell, OnceCell};

use ledger::segment::Segment;

use crate::pg::shared_memory::{Directory, Epoch};
use crate::pg::xact;
use crate::settings;

thread_local! {
    /// Looked up once; `None` if the server has no room for it.
    static DIRECTORY: OnceCell<Option<&'static Directory>> = const { OnceCell::new() };
    static ATTACHMENT: Cell<Attachment> = const { Cell::new(Attachment { memory: None, calls: 0 }) };
    /// Whether accounts give way for want of room, as this session has noticed.
    static SHOULD_GROW: Cell<bool> = const { Cell::new(false) };
}

#[derive(Clone, Copy)]
struct Attachment {
    /// What this session has attached to, and the epoch in which that was all.
    memory: Option<(Epoch, Segment<'static>)>,
    /// How often [`attached_memory`] has not attached to all of it since.
    calls: u32,
}

/// Leads to shared memory; `None` if the server has no room for it.
pub fn directory() -> Option<&'static Directory> {
    DIRECTORY.with(|directory| *directory.get_or_init(Directory::find))
}

/// Shared memory as of now. A session attaches to each part of it once and stays attached; where it cannot, it tries again at the second
/// call, the fourth, the eighth and so on.
pub fn attached_memory() -> Option<(Epoch, Segment<'static>)> {
    let Attachment { memory, calls } = ATTACHMENT.get();
    if let Some((epoch, segment)) = memory {
        let now = directory()?.epoch();
        if now.has_parts_of(epoch) {
            return Some((now, segment));
        }
    }
    // Attaching runs a subtransaction, which a parallel query has no place for.
    if xact::is_parallel() {
        return None;
    }
    let calls = calls.saturating_add(1);
    let attached = if calls.is_power_of_two() { directory().and_then(Directory::attach) } else { None };
    // Another time it may be able to attach to the parts that came since.
    let calls = if attached.is_some() { 0 } else { calls };
    ATTACHMENT.set(Attachment { memory: attached.or(memory), calls });
    attached
}

/// Notes that an account has given way to another. If too many have, shared memory grows at the next [`grow_if_full`].
pub fn note_displaced(segment: Segment<'_>) {
    if directory().is_some_and(|directory| directory.note_displaced(segment.sets())) {
        SHOULD_GROW.set(true);
    }
}

/// Has shared memory grow if this session has found it full. The transaction has no stripe: it may take some milliseconds.
pub fn grow_if_full() {
    if SHOULD_GROW.get() && !xact::is_parallel() {
        SHOULD_GROW.set(false);
        if let Some(directory) = directory() {
            directory.grow(settings::shared_memory_size());
        }
    }
}
