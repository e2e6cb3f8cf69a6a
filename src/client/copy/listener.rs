//! What a command at a server says: a little, which is kept.

use std::cell::RefCell;
use std::rc::Rc;

use crate::limits::COPY_SAID_BYTES_MAX;
use crate::reactor::Chunk;
use crate::services::{Guest, Io, Service};

/// The near end of a command's standard streams. There is nothing to read for it.
#[derive(Debug)]
pub struct Listener {
    /// What it has said, as far as there is room.
    pub said: Rc<RefCell<Vec<u8>>>,
}

impl Guest for Listener {
    fn begin(&mut self, io: &mut Io<'_>) {
        io.eof();
    }
}

impl Service for Listener {
    fn on_data(&mut self, mut data: Chunk, extended: Option<u32>, io: &mut Io<'_>) {
        if extended.is_none() {
            let bytes = data.span.of(io.bytes(&mut data.lease)).unwrap_or_default();
            let mut said = self.said.borrow_mut();
            let room = COPY_SAID_BYTES_MAX.saturating_sub(said.len());
            said.extend(bytes.iter().take(room));
        }
        io.discard(data);
    }

    fn on_eof(&mut self, _io: &mut Io<'_>) {}

    fn on_ready(&mut self, _io: &mut Io<'_>) {}

    fn on_close(&mut self, _io: &mut Io<'_>) {}

    fn release(&mut self, _io: &mut Io<'_>) {}
}
