//! Who is told when the configuration space changes.

use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Is told that the configuration space has changed, to pass it on to a driver: a configuration change
/// notification (virtio 2.3).
///
/// Called from any thread: must be quick and must not wait for anybody.
pub trait ConfigListener: Send + Sync {
    /// The configuration space has changed; what it is now can be read.
    fn config_changed(&self);
}

/// Those who listen, for as long as they live.
#[derive(Default)]
pub(crate) struct Listeners(Mutex<Vec<Weak<dyn ConfigListener>>>);

impl Listeners {
    pub(crate) fn add(&self, listener: Weak<dyn ConfigListener>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|listener| listener.strong_count() > 0);
        all.push(listener);
    }

    pub(crate) fn tell(&self) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let present: Vec<_> = all.iter().filter_map(Weak::upgrade).collect();
        drop(all);
        for listener in present {
            listener.config_changed();
        }
    }
}

impl std::fmt::Debug for Listeners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_tuple("Listeners").field(&all.len()).finish()
    }
}

/// So that an `Arc` of any listener will do.
pub(crate) fn weak<L: ConfigListener + 'static>(listener: &Arc<L>) -> Weak<dyn ConfigListener> {
    let weak: Weak<L> = Arc::downgrade(listener);
    weak
}
