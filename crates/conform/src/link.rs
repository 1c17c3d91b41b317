//! A way to the device that can be made anew.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use core::error::Error;

use zvb_driver::{Dma, QueueLayout, Transport};
use zvb_wire::{DeviceStatus, Features};

use crate::raw::Area;

/// A [`Transport`] and its memory with their types forgotten: the checks are compiled once.
pub(crate) trait Link {
    /// Leaves the device as it is, and finds it anew.
    fn reconnect(&mut self) -> Result<(), String>;
    fn reset(&mut self) -> Result<(), String>;
    fn status(&mut self) -> Result<DeviceStatus, String>;
    fn set_status(&mut self, status: DeviceStatus) -> Result<(), String>;
    fn device_features(&mut self) -> Result<Features, String>;
    fn set_driver_features(&mut self, features: Features) -> Result<(), String>;
    fn config_generation(&mut self) -> Result<u32, String>;
    fn config_len(&mut self) -> Result<u32, String>;
    fn read_config(&mut self, offset: u32, into: &mut [u8]) -> Result<(), String>;
    fn write_config(&mut self, offset: u32, from: &[u8]) -> Result<(), String>;
    fn max_queues(&mut self) -> Result<u16, String>;
    fn max_queue_size(&mut self, index: u16) -> Result<u16, String>;
    fn set_up_queue(&mut self, index: u16, layout: &QueueLayout) -> Result<(), String>;
    /// False: this way to the device can not do that.
    fn reset_queue(&mut self, index: u16) -> Result<bool, String>;
    fn notify(&mut self, index: u16) -> Result<(), String>;
    fn wait(&mut self, index: u16, timeout_ms: u32) -> Result<(), String>;
    /// Shared memory, zeroed.
    fn area(&self, len: usize) -> Option<Area>;
}

/// What makes a way to the device.
pub(crate) type Connect<'a, T> = &'a mut dyn FnMut() -> Result<T, <T as Transport>::Error>;

/// The [`Link`] over a transport and an allocator.
pub(crate) struct Way<'a, T: Transport, D: Dma> {
    connect: Connect<'a, T>,
    dma: &'a D,
    transport: Option<T>,
}

impl<'a, T: Transport, D: Dma> Way<'a, T, D> {
    pub(crate) fn new(connect: Connect<'a, T>, dma: &'a D) -> Self {
        Self { connect, dma, transport: None }
    }

    fn on<R>(&mut self, act: impl FnOnce(&mut T) -> Result<R, T::Error>) -> Result<R, String> {
        match &mut self.transport {
            Some(transport) => act(transport).map_err(|error| told(&error)),
            None => Err("there is no way to the device".to_string()),
        }
    }
}

/// An error and its causes, in a line.
fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    // An error has few causes; one that is its own is no use.
    for _ in 0..8 {
        let Some(inner) = cause else { break };
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

impl<T: Transport, D: Dma + 'static> Link for Way<'_, T, D> {
    fn reconnect(&mut self) -> Result<(), String> {
        self.transport = None;
        let transport: Result<T, Box<dyn Error>> = (self.connect)().map_err(Into::into);
        self.transport = Some(transport.map_err(|error| told(&*error))?);
        Ok(())
    }

    fn reset(&mut self) -> Result<(), String> {
        self.on(T::reset)
    }

    fn status(&mut self) -> Result<DeviceStatus, String> {
        self.on(T::status)
    }

    fn set_status(&mut self, status: DeviceStatus) -> Result<(), String> {
        self.on(|t| t.set_status(status))
    }

    fn device_features(&mut self) -> Result<Features, String> {
        self.on(T::device_features)
    }

    fn set_driver_features(&mut self, features: Features) -> Result<(), String> {
        self.on(|t| t.set_driver_features(features))
    }

    fn config_generation(&mut self) -> Result<u32, String> {
        self.on(T::config_generation)
    }

    fn config_len(&mut self) -> Result<u32, String> {
        self.on(T::config_len)
    }

    fn read_config(&mut self, offset: u32, into: &mut [u8]) -> Result<(), String> {
        self.on(|t| t.read_config(offset, into))
    }

    fn write_config(&mut self, offset: u32, from: &[u8]) -> Result<(), String> {
        self.on(|t| t.write_config(offset, from))
    }

    fn max_queues(&mut self) -> Result<u16, String> {
        self.on(T::max_queues)
    }

    fn max_queue_size(&mut self, index: u16) -> Result<u16, String> {
        self.on(|t| t.max_queue_size(index))
    }

    fn set_up_queue(&mut self, index: u16, layout: &QueueLayout) -> Result<(), String> {
        self.on(|t| t.set_up_queue(index, layout))
    }

    fn reset_queue(&mut self, index: u16) -> Result<bool, String> {
        self.on(|t| t.reset_queue(index))
    }

    fn notify(&mut self, index: u16) -> Result<(), String> {
        self.on(|t| t.notify(index))
    }

    fn wait(&mut self, index: u16, timeout_ms: u32) -> Result<(), String> {
        self.on(|t| t.wait(index, Some(timeout_ms)))
    }

    fn area(&self, len: usize) -> Option<Area> {
        Area::new(self.dma, len)
    }
}
