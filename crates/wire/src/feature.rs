//! Feature bits (virtio 5.2.3 and 6).

use bitflags::bitflags;

bitflags! {
    /// The feature bits that a block device or its queues know. Bits of no name are kept as they came.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Features: u64 {
        /// `size_max` limits the bytes of one segment.
        const SIZE_MAX = 1 << 1;
        /// `seg_max` limits the segments of one request.
        const SEG_MAX = 1 << 2;
        /// Legacy-style disk geometry is given.
        const GEOMETRY = 1 << 4;
        /// The device is read-only.
        const RO = 1 << 5;
        /// `blk_size` is given.
        const BLK_SIZE = 1 << 6;
        /// FLUSH requests are understood.
        const FLUSH = 1 << 9;
        /// `topology` is given.
        const TOPOLOGY = 1 << 10;
        /// The cache mode is shown in `writeback`, and changed there.
        const CONFIG_WCE = 1 << 11;
        /// More than one request queue: `num_queues`.
        const MQ = 1 << 12;
        /// DISCARD requests are understood.
        const DISCARD = 1 << 13;
        /// WRITE_ZEROES requests are understood.
        const WRITE_ZEROES = 1 << 14;
        /// GET_LIFETIME requests are understood.
        const LIFETIME = 1 << 15;
        /// SECURE_ERASE requests are understood.
        const SECURE_ERASE = 1 << 16;
        /// Zone characteristics are given, and zone requests understood.
        const ZONED = 1 << 17;

        /// A descriptor may refer to a table of descriptors (2.7.5.3).
        const INDIRECT_DESC = 1 << 28;
        /// Notifications are suppressed by index (2.7.7, 2.7.10).
        const EVENT_IDX = 1 << 29;
        /// Not of virtio: the vhost-user protocol features are negotiated too.
        const VHOST_USER_PROTOCOL = 1 << 30;
        /// Not legacy.
        const VERSION_1 = 1 << 32;
        /// Addresses are translated for the device.
        const ACCESS_PLATFORM = 1 << 33;
        /// Packed virtqueues.
        const RING_PACKED = 1 << 34;
        /// Buffers are used in the order in which they were made available.
        const IN_ORDER = 1 << 35;
        /// Memory is ordered as the platform orders it for devices.
        const ORDER_PLATFORM = 1 << 36;
        /// Notifications carry data.
        const NOTIFICATION_DATA = 1 << 38;
        /// Notifications carry a value from the transport's configuration.
        const NOTIF_CONFIG_DATA = 1 << 39;
        /// Queues can be reset one at a time (2.6.1).
        const RING_RESET = 1 << 40;

        const _ = !0;
    }
}
