//! Registers for tests: what is read and written is logged, access by access.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use zvb_driver::bus::{Platform, Registers};

/// Reads and writes, in order: `common r16 0x18 = 0x100`.
#[derive(Clone, Default)]
pub struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    /// What was logged since the last time.
    pub fn take(&self) -> Vec<String> {
        self.0.take()
    }
}

type Hook = Box<dyn FnMut(&mut BTreeMap<u32, u8>, u32, u32)>;

/// A block of registers: bytes that stand where they were written, unless `on_write` makes more of it.
#[derive(Clone)]
pub struct Block {
    pub name: &'static str,
    len: u32,
    log: Log,
    bytes: Rc<RefCell<BTreeMap<u32, u8>>>,
    on_write: Rc<RefCell<Hook>>,
    on_read: Rc<RefCell<Hook>>,
}

impl Block {
    pub fn new(name: &'static str, len: u32, log: &Log) -> Self {
        Self {
            name,
            len,
            log: log.clone(),
            bytes: Rc::default(),
            on_write: Rc::new(RefCell::new(Box::new(|_, _, _| {}))),
            on_read: Rc::new(RefCell::new(Box::new(|_, _, _| {}))),
        }
    }

    /// Called after each write with its place and value.
    pub fn on_write(&self, hook: impl FnMut(&mut BTreeMap<u32, u8>, u32, u32) + 'static) {
        *self.on_write.borrow_mut() = Box::new(hook);
    }

    /// Called after each read with its place and value.
    pub fn on_read(&self, hook: impl FnMut(&mut BTreeMap<u32, u8>, u32, u32) + 'static) {
        *self.on_read.borrow_mut() = Box::new(hook);
    }

    pub fn set(&self, offset: u32, bytes: &[u8]) {
        set(&mut self.bytes.borrow_mut(), offset, bytes);
    }

    fn read(&self, width: u32, offset: u32) -> u32 {
        assert!(
            offset.is_multiple_of(width) && offset + width <= self.len,
            "{} {offset:#x}",
            self.name
        );
        let value = get(&self.bytes.borrow(), offset, width);
        let line = format!("{} r{} {offset:#04x} = {value:#x}", self.name, 8 * width);
        self.log.0.borrow_mut().push(line);
        (self.on_read.borrow_mut())(&mut self.bytes.borrow_mut(), offset, value);
        value
    }

    fn write(&self, width: u32, offset: u32, value: u32) {
        assert!(
            offset.is_multiple_of(width) && offset + width <= self.len,
            "{} {offset:#x}",
            self.name
        );
        let line = format!("{} w{} {offset:#04x} = {value:#x}", self.name, 8 * width);
        self.log.0.borrow_mut().push(line);
        let mut bytes = self.bytes.borrow_mut();
        set(&mut bytes, offset, &value.to_le_bytes()[..width as usize]);
        (self.on_write.borrow_mut())(&mut bytes, offset, value);
    }
}

pub fn set(bytes: &mut BTreeMap<u32, u8>, offset: u32, from: &[u8]) {
    bytes.extend((offset..).zip(from.iter().copied()));
}

pub fn get(bytes: &BTreeMap<u32, u8>, offset: u32, width: u32) -> u32 {
    (offset..offset + width)
        .rev()
        .fold(0, |value, at| value << 8 | u32::from(bytes.get(&at).copied().unwrap_or(0)))
}

impl Registers for Block {
    fn len(&self) -> u32 {
        self.len
    }

    fn read8(&self, offset: u32) -> u8 {
        self.read(1, offset) as u8
    }

    fn read16(&self, offset: u32) -> u16 {
        self.read(2, offset) as u16
    }

    fn read32(&self, offset: u32) -> u32 {
        self.read(4, offset)
    }

    fn write8(&self, offset: u32, value: u8) {
        self.write(1, offset, value.into());
    }

    fn write16(&self, offset: u32, value: u16) {
        self.write(2, offset, value.into());
    }

    fn write32(&self, offset: u32, value: u32) {
        self.write(4, offset, value);
    }
}

/// A clock that moves a millisecond each time that it is looked at.
#[derive(Default)]
pub struct Clock {
    now: Cell<u64>,
    /// How often someone had nothing to do.
    pub idles: Cell<u32>,
}

impl Platform for Clock {
    fn now_ms(&self) -> u64 {
        self.now.set(self.now.get() + 1);
        self.now.get()
    }

    fn idle(&self, _signalled: &dyn Fn() -> bool) {
        self.idles.set(self.idles.get() + 1);
    }
}
